//! Applying stops where it must and goes on where it can: at an entry that this build can't read, over a machine that
//! panics while appends wait for its effects, and with effects that take long. On a core in virtual time.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use clustor_engine::machine::deferred::{AckBox, AckHandle};
use clustor_engine::machine::{
    Admit, AnyMachine, Applied, Batch, Effects, MachineError, MachineFactory, Opened, StateMachine,
};
use clustor_engine::outcome::{Leadership, Outcome, RefusalClause};
use clustor_engine::profile::Profile;
use clustor_engine::request::{Reply, Request, RequestBody, Wait};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::log::{Mode, ShardLog};
use clustor_shards::turn::{Application, ClientEvent, ClientOp, ConnectionId, Inbox, Outbox, Time};
use clustor_wire::frame::{FRAME_BODY_BYTES_MAX, Frame, FrameKind};
use clustor_wire::ids::{LogIndex, PartitionId};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, IdempotencyKey,
};
use core_support::{P, peer};
use support::{MemoryDisk, TestKey};

const ACK_MS_MAX: u64 = 250;
/// More effects than are done within `ACK_MS_MAX`, at one a millisecond.
const EFFECTS: u64 = 2 * ACK_MS_MAX;
/// From a failure to the next try, at most, and what the effects take, several times over.
const PATIENCE_MS: u64 = 20_000;

type Handles = Arc<Mutex<VecDeque<AckHandle>>>;

fn profile() -> Profile {
    let mut profile = Profile::latency().with_segment_bytes(1 << 20);
    profile.ack_ms_max = ACK_MS_MAX;
    profile
}

/// Defers an effect of each item. What is applied is in it for good where it says so.
struct Slow {
    handles: Handles,
    stored: Option<Arc<Mutex<LogIndex>>>,
}

impl StateMachine for Slow {
    fn open(&mut self) -> Result<Opened, MachineError> {
        let stored = self.stored.as_ref();
        Ok(Opened::at(stored.map_or(LogIndex::ZERO, |stored| {
            *stored.lock().expect("unshared")
        })))
    }

    fn admit(&self, command: &[u8]) -> Admit {
        assert_ne!(command, b"panic", "asked to");
        Admit::Yes
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            out.reply(item.index, b"reply");
            let handle = out.defer(item.index);
            self.handles.lock().expect("unshared").push_back(handle);
            if let Some(stored) = &self.stored {
                *stored.lock().expect("unshared") = item.index;
            }
        }
        Applied::Ack
    }
}

/// A sole voter.
struct Node {
    core: ShardCore,
    disk: MemoryDisk,
    inbox: Inbox<Request, CoreMesh>,
    replies: Vec<Reply>,
    /// What was said to clients.
    said: Vec<ClientOp>,
    acks: Arc<AckBox>,
    now: Time,
    due: Option<Time>,
}

impl Node {
    fn boot(mut disk: MemoryDisk, now: Time, factory: MachineFactory) -> Self {
        let acks = AckBox::new(|| ());
        let partitions = vec![PartitionSpec {
            id: P,
            voters: vec![peer(1)],
            factory,
        }];
        let config = CoreConfig {
            acks: Arc::clone(&acks),
            ..core_support::config(profile(), partitions)
        };
        let pool = config.profile.log_options(0).pool();
        let (core, _) = ShardCore::boot(config, pool, now, &mut disk, &TestKey(9)).expect("boots");
        Self {
            core,
            disk,
            inbox: Inbox::default(),
            replies: Vec::new(),
            said: Vec::new(),
            acks,
            now,
            due: Some(now),
        }
    }

    fn slow(disk: MemoryDisk, now: Time, handles: &Handles) -> Self {
        let handles = Arc::clone(handles);
        let factory = move |_: PartitionId| {
            let handles = Arc::clone(&handles);
            let stored = None;
            Box::new(Slow { handles, stored }) as Box<dyn AnyMachine>
        };
        Self::boot(disk, now, Box::new(factory))
    }

    fn turn(&mut self) {
        let mut outbox = Outbox::default();
        self.inbox.now = self.now;
        self.core.turn(&mut self.inbox, &mut outbox);
        for op in outbox.disk {
            self.inbox.disk.push(self.disk.carry(op));
        }
        self.replies.append(&mut outbox.replies);
        self.said.append(&mut outbox.clients);
        self.due = outbox.deadline;
    }

    /// A millisecond, in which it has up to `turns_max` turns where it asks for them or something has come. How many it had.
    fn step_within(&mut self, turns_max: usize) -> usize {
        self.now = self.now.plus_ms(1);
        for settled in self.acks.take() {
            self.inbox.requests.push(Request {
                ticket: 0,
                partition: settled.partition,
                body: RequestBody::Settled(settled),
            });
        }
        for turns in 0..turns_max {
            if self.due.is_none_or(|due| self.now < due) && self.inbox.is_empty() {
                return turns;
            }
            self.turn();
        }
        turns_max
    }

    fn step(&mut self) {
        self.step_within(20);
    }

    fn append(&mut self, ticket: u64, payload: &[u8]) {
        self.inbox.requests.push(Request {
            ticket,
            partition: P,
            body: RequestBody::Append {
                payload: payload.to_vec(),
                key: None,
                wait: Wait::Applied,
                only_in: None,
            },
        });
    }

    fn outcome(&self, ticket: u64) -> Option<&Outcome> {
        self.replies.iter().find_map(|reply| match reply {
            Reply::Append {
                ticket: of,
                outcome,
            } if *of == ticket => Some(outcome),
            _ => None,
        })
    }

    fn is_applied(&self, ticket: u64) -> bool {
        matches!(self.outcome(ticket), Some(Outcome::Applied { .. }))
    }

    fn is_ready(&self) -> bool {
        let leadership = self.core.partition(P).expect("there").leadership();
        matches!(leadership, Leadership::Ready { .. })
    }

    /// Milliseconds, each with `work`, until something holds.
    fn until(&mut self, what: &str, mut work: impl FnMut(), holds: impl Fn(&Self) -> bool) {
        for _ in 0..PATIENCE_MS {
            if holds(self) {
                return;
            }
            work();
            self.step();
        }
        let status = self.core.partition(P).expect("there").status();
        panic!("never: {what}: {status:?}");
    }

    fn until_ready(&mut self) {
        self.until("it serves", || (), Self::is_ready);
    }
}

/// The disk of a node that led, with an entry behind its last that a newer build wrote.
fn with_entry_of_a_newer_build(body: &[u8]) -> (MemoryDisk, LogIndex) {
    let mut node = Node::slow(MemoryDisk::default(), Time(1_000_000), &Handles::default());
    node.until_ready();
    let status = node.core.partition(P).expect("there").status();
    let mut disk = node.disk.clone();
    let options = profile().log_options(0);
    let pool = options.pool();
    let recovered = ShardLog::recover(&mut disk, support::identity(), options, &TestKey(9), pool);
    let mut log = recovered.expect("recovers").log;
    support::settle(&mut log, &mut disk);
    let newer = status.last_index.next();
    support::append(
        &mut log,
        1,
        status.term.get(),
        newer.get(),
        body,
        Mode::Strict,
    );
    support::settle(&mut log, &mut disk);
    (disk, newer)
}

#[test]
fn applying_stops_before_an_entry_of_a_newer_build_and_costs_nothing_while_it_waits() {
    const HEAD: [u8; 9] = [0; 9];
    let newer_number = [&[2, 99, 0][..], &HEAD].concat();
    let newer_mode = [&[2, 3, 0][..], &HEAD, &[77, 1, 1, 1]].concat();
    let newer_keys = [&[2, 7, 0][..], &HEAD, &[77, 1, 0, 0, 0]].concat();
    for (body, what) in [
        (newer_number, "number 99"),
        (newer_mode, "version 77"),
        (newer_keys, "version 77"),
    ] {
        let (disk, newer) = with_entry_of_a_newer_build(&body);
        let mut node = Node::slow(disk, Time(5_000_000), &Handles::default());
        let is_stuck = |node: &Node| {
            let status = node.core.partition(P).expect("there").status();
            status.trouble.contains(&format!("entry {newer}"))
                && status.trouble.contains(what)
                && status.applied == newer.prev()
        };
        node.until("it says what it waits for", || (), is_stuck);
        (0..100).for_each(|_| node.step());
        let before = node.disk.reads.len();
        let turns: usize = (0..1_000).map(|_| node.step_within(100)).sum();
        let reads = node.disk.reads.len() - before;
        assert!(reads < 100, "{reads} reads in 1,000 ms");
        assert!(turns < 1_000, "{turns} turns in 1,000 ms");
        assert!(is_stuck(&node));
        node.append(1, b"a");
        node.until("an answer", || (), |node| node.outcome(1).is_some());
        let outcome = node.outcome(1);
        assert!(
            matches!(outcome, Some(Outcome::NotExecuted { refusal }) if refusal.clause == RefusalClause::MissingContent),
            "{outcome:?}"
        );
    }
}

#[test]
fn an_append_whose_reply_is_lost_with_the_machine_is_answered_unknown() {
    let (handles, stored) = (Handles::default(), Arc::default());
    let machine = Arc::clone(&handles);
    let factory = move |_: PartitionId| {
        let (handles, stored) = (Arc::clone(&machine), Some(Arc::clone(&stored)));
        Box::new(Slow { handles, stored }) as Box<dyn AnyMachine>
    };
    let mut node = Node::boot(MemoryDisk::default(), Time(1_000_000), Box::new(factory));
    node.until_ready();
    node.append(1, b"a");
    let is_out = |_: &Node| !handles.lock().expect("unshared").is_empty();
    node.until("its effect is under way", || (), is_out);
    assert!(node.outcome(1).is_none());
    node.append(2, b"panic");
    node.until("an answer", || (), |node| node.outcome(1).is_some());
    let outcome = node.outcome(1);
    assert!(
        matches!(outcome, Some(Outcome::Unknown { .. })),
        "{outcome:?}"
    );
}

#[test]
fn a_machine_whose_effects_take_long_together_comes_back_after_a_restart() {
    let handles = Handles::default();
    // One effect a millisecond.
    let work = || {
        if let Some(handle) = handles.lock().expect("unshared").pop_front() {
            handle.done();
        }
    };
    let mut node = Node::slow(MemoryDisk::default(), Time(1_000_000), &handles);
    node.until_ready();
    for n in 1..=EFFECTS {
        node.append(n, b"a");
        node.until("it is applied", work, |node| node.is_applied(n));
    }
    let (disk, now) = (node.disk.clone(), node.now);
    drop(node);
    handles.lock().expect("unshared").clear();
    let mut node = Node::slow(disk, now.plus_ms(100), &handles);
    node.until("it serves", work, Node::is_ready);
    node.append(1, b"b");
    node.until("it is applied", work, |node| node.outcome(1).is_some());
    assert!(node.is_applied(1), "{:?}", node.outcome(1));
}

#[test]
fn an_effect_is_late_however_many_behind_it_are_done() {
    let handles = Handles::default();
    let mut node = Node::slow(MemoryDisk::default(), Time(1_000_000), &handles);
    node.until_ready();
    node.append(1, b"left alone");
    let is_out = |_: &Node| !handles.lock().expect("unshared").is_empty();
    node.until("its effect is under way", || (), is_out);
    let _first = handles.lock().expect("unshared").pop_front();
    for n in 0..ACK_MS_MAX + 10 {
        node.append(2 + n, b"done at once");
        if let Some(handle) = handles.lock().expect("unshared").pop_front() {
            handle.done();
        }
        node.step();
    }
    let outcome = node.outcome(1);
    assert!(
        matches!(outcome, Some(Outcome::Unknown { .. })),
        "{outcome:?}"
    );
}

/// Says more than a frame holds.
struct Talkative;

impl StateMachine for Talkative {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            out.reply(item.index, &vec![7; FRAME_BODY_BYTES_MAX]);
        }
        Applied::Ack
    }
}

#[test]
fn an_append_whose_reply_is_too_long_to_be_sent_was_executed_and_is_said_to_be() {
    const CONNECTION: ConnectionId = ConnectionId(5);
    let factory = |_: PartitionId| Box::new(Talkative) as Box<dyn AnyMachine>;
    let now = Time(1_000_000);
    let mut node = Node::boot(MemoryDisk::default(), now, Box::new(factory));
    node.until_ready();
    let name = "spiffe://test.clustor/client/a".to_owned();
    let opened = ClientEvent::Opened(CONNECTION, name);
    node.inbox.clients.push(opened);
    for id in [1, 2] {
        let request = ClientRequest {
            id,
            body: ClientRequestBody::Append {
                partition: P,
                payload: b"line".to_vec(),
                key: Some((IdempotencyKey(7), Some(LogIndex(1)))),
                only_in: None,
            },
        };
        let mut body = Vec::new();
        request.encode(&mut body).expect("a request");
        let kind = FrameKind::ClientRequest;
        let frame = ClientEvent::Frame(CONNECTION, Frame { kind, body });
        node.inbox.clients.push(frame);
        node.until("an answer", || (), |node| !node.said.is_empty());
        let Some(ClientOp::Send(CONNECTION, frame)) = node.said.pop() else {
            panic!("no answer to {id}");
        };
        let response = ClientResponse::decode(&frame.body).expect("a response");
        match response.body {
            ClientResponseBody::Unknown { why, .. } if id == 1 => {
                assert!(why.contains("it was executed, at index 2"), "{why}");
            }
            ClientResponseBody::Applied {
                duplicate: true,
                index: LogIndex(2),
                reply,
                ..
            } if id == 2 => assert!(reply.is_empty()),
            other => panic!("{id}: {other:?}"),
        }
    }
}
