//! A machine that fails again and again is made anew after a moment, and from the third time within a minute on after five
//! seconds: whatever fails it. On a core in virtual time.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use clustor_engine::machine::deferred::{AckBox, AckHandle};
use clustor_engine::machine::{Applied, Batch, Effects, MachineError, Opened, StateMachine};
use clustor_engine::outcome::{Leadership, Outcome, RefusalClause};
use clustor_engine::profile::Profile;
use clustor_engine::request::{Reply, Request, RequestBody, Wait};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::turn::{Application, Inbox, Outbox, PeerId, Time};
use clustor_wire::ids::LogIndex;
use core_support::{P, peer};
use support::{MemoryDisk, TestKey};

const ME: PeerId = peer(1);
const ACK_MS_MAX: u64 = 250;
/// After a failure, and after the third within a minute.
const SOON_MS: u64 = 10;
const LATER_MS: u64 = 5_000;
const WINDOW_MS: u64 = 60_000;

/// How the machine fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fails {
    Fatal,
    Panic,
    /// It defers effects, whose handles are dropped.
    Dropped,
    /// And says that they failed.
    Failed,
    /// And leaves them alone.
    Late,
}

#[derive(Default)]
struct Shared {
    opened: AtomicU32,
    /// How often it still fails.
    failures: AtomicU32,
    handles: Mutex<Vec<AckHandle>>,
}

struct Frail(Fails, Arc<Shared>);

impl StateMachine for Frail {
    fn open(&mut self) -> Result<Opened, MachineError> {
        self.1.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Opened::at(LogIndex::ZERO))
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        let failures = &self.1.failures;
        let frail = batch.iter().find(|item| item.command == b"frail");
        let Some(frail) = frail.filter(|_| failures.load(Ordering::Relaxed) > 0) else {
            return Applied::Ack;
        };
        failures.fetch_sub(1, Ordering::Relaxed);
        match self.0 {
            Fails::Fatal => Applied::Fatal("asked to".to_owned()),
            Fails::Panic => panic!("asked to"),
            Fails::Dropped | Fails::Failed | Fails::Late => {
                let handle = out.defer(frail.index);
                self.1.handles.lock().expect("unshared").push(handle);
                Applied::Ack
            }
        }
    }
}

/// A sole voter.
struct Node {
    core: ShardCore,
    disk: MemoryDisk,
    inbox: Inbox<Request, CoreMesh>,
    replies: Vec<Reply>,
    acks: Arc<AckBox>,
    fails: Fails,
    shared: Arc<Shared>,
    now: Time,
}

impl Node {
    fn new(fails: Fails) -> Self {
        let shared = Arc::new(Shared::default());
        let (machine, acks) = (Arc::clone(&shared), AckBox::new(|| ()));
        let mut profile = Profile::latency().with_segment_bytes(4 << 20);
        profile.ack_ms_max = ACK_MS_MAX;
        let now = Time(1_000_000);
        let partitions = vec![PartitionSpec {
            id: P,
            voters: vec![ME],
            factory: Box::new(move |_| Box::new(Frail(fails, Arc::clone(&machine)))),
        }];
        let config = CoreConfig {
            acks: Arc::clone(&acks),
            ..core_support::config(profile, partitions)
        };
        let mut disk = MemoryDisk::default();
        let pool = config.profile.log_options(0).pool();
        let (core, _) = ShardCore::boot(config, pool, now, &mut disk, &TestKey(9)).expect("boots");
        let mut node = Self {
            core,
            disk,
            inbox: Inbox::default(),
            replies: Vec::new(),
            acks,
            fails,
            shared,
            now,
        };
        node.until("it serves", |node| node.is_ready());
        node
    }

    fn is_ready(&self) -> bool {
        let partition = self.core.partition(P).expect("there");
        matches!(partition.leadership(), Leadership::Ready { .. })
    }

    fn opened(&self) -> u32 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// A millisecond. What becomes of handles is decided at once, but where they are to be late.
    fn step(&mut self) {
        self.now = self.now.plus_ms(1);
        if self.fails != Fails::Late {
            for handle in self.shared.handles.lock().expect("unshared").drain(..) {
                if self.fails == Fails::Failed {
                    handle.failed("asked to");
                }
            }
        }
        for settled in self.acks.take() {
            self.inbox.requests.push(Request {
                ticket: 0,
                partition: settled.partition,
                body: RequestBody::Settled(settled),
            });
        }
        let mut outbox = Outbox::default();
        self.inbox.now = self.now;
        self.core.turn(&mut self.inbox, &mut outbox);
        for op in outbox.disk {
            self.inbox.disk.push(self.disk.carry(op));
        }
        self.replies.append(&mut outbox.replies);
    }

    /// Milliseconds until something holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> u64 {
        for ms in 0..20_000 {
            if holds(self) {
                return ms;
            }
            self.step();
        }
        panic!("{:?}: never: {what}", self.fails);
    }

    fn run_ms(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    fn append(&mut self, payload: &[u8]) {
        self.inbox.requests.push(Request {
            ticket: 1,
            partition: P,
            body: RequestBody::Append {
                payload: payload.to_vec(),
                key: None,
                wait: Wait::Applied,
                only_in: None,
            },
        });
    }

    fn outcome(&mut self) -> Outcome {
        let is_answer = |reply: &Reply| matches!(reply, Reply::Append { .. });
        self.until("an answer", |node| node.replies.iter().any(is_answer));
        self.replies.retain(is_answer);
        match self.replies.remove(0) {
            Reply::Append { outcome, .. } => outcome,
            other => panic!("not an append's: {other:?}"),
        }
    }

    /// Has it fail once; how many milliseconds it is left alone.
    fn fail(&mut self) -> u64 {
        self.shared.failures.store(1, Ordering::Relaxed);
        let before = self.opened();
        self.append(b"frail");
        self.until("it has failed", |node| node.has_failed());
        let alone = self.until("it is made anew", |node| node.opened() > before);
        assert_eq!(self.opened(), before + 1);
        alone
    }

    fn has_failed(&self) -> bool {
        !self.trouble().is_empty()
    }

    fn trouble(&self) -> String {
        self.core.partition(P).expect("there").status().trouble
    }
}

const KINDS: [Fails; 5] = [
    Fails::Fatal,
    Fails::Panic,
    Fails::Dropped,
    Fails::Failed,
    Fails::Late,
];

#[test]
fn the_third_failure_within_a_minute_and_those_after_it_leave_a_machine_alone_for_five_seconds() {
    for fails in KINDS {
        let mut node = Node::new(fails);
        assert_eq!([node.fail(), node.fail()], [SOON_MS; 2], "{fails:?}");
        node.run_ms(WINDOW_MS / 2);
        assert_eq!([node.fail(), node.fail()], [LATER_MS; 2], "{fails:?}");
    }
}

#[test]
fn failures_that_are_a_minute_old_count_no_longer() {
    for fails in KINDS {
        let mut node = Node::new(fails);
        assert_eq!([node.fail(), node.fail()], [SOON_MS; 2], "{fails:?}");
        node.run_ms(WINDOW_MS);
        assert_eq!([node.fail(), node.fail()], [SOON_MS; 2], "{fails:?}");
        assert_eq!(node.fail(), LATER_MS, "{fails:?}");
    }
}

#[test]
fn a_machine_that_is_left_alone_takes_nothing_and_says_why() {
    for fails in KINDS {
        let mut node = Node::new(fails);
        node.fail();
        node.fail();
        node.shared.failures.store(1, Ordering::Relaxed);
        node.append(b"frail");
        node.until("it has failed", Node::has_failed);
        assert!(!node.trouble().is_empty());
        node.replies.clear();
        node.append(b"another");
        let outcome = node.outcome();
        assert!(
            matches!(&outcome, Outcome::NotExecuted { refusal } if refusal.clause == RefusalClause::MachineFailed),
            "{outcome:?}"
        );
        node.until("it is made anew", |node| !node.has_failed());
        node.replies.clear();
        node.append(b"another");
        let outcome = node.outcome();
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }
}

#[test]
fn whoever_still_works_off_what_a_former_life_deferred_is_not_late() {
    let mut node = Node::new(Fails::Late);
    let before = node.opened();
    node.shared.failures.store(2, Ordering::Relaxed);
    node.append(b"frail");
    node.until("it has failed", |node| node.has_failed());
    let is_deferred_again = |node: &Node| node.shared.handles.lock().expect("unshared").len() == 2;
    node.until("it defers again", is_deferred_again);
    assert_eq!(node.opened(), before + 1);

    let oldest = |node: &Node| node.shared.handles.lock().expect("unshared").remove(0);
    node.run_ms(ACK_MS_MAX * 4 / 5);
    oldest(&node).done();
    node.run_ms(ACK_MS_MAX * 4 / 5);
    assert_eq!((node.opened(), node.trouble()), (before + 1, String::new()));
    oldest(&node).done();
    node.run_ms(2 * ACK_MS_MAX);
    assert_eq!((node.opened(), node.trouble()), (before + 1, String::new()));
}
