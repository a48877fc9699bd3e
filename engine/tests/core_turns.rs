//! `ShardCore` over an honest disk and an in-memory network: one node, then three.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use clustor_engine::machine::deferred::AckBox;
use clustor_engine::machine::{Applied, Batch, Effects, StateMachine, Stopwatch};
use clustor_engine::outcome::{IdempotencyKey, Leadership, Outcome, RefusalClause};
use clustor_engine::profile::{Profile, ProfileNews};
use clustor_engine::request::{Reply, Request, RequestBody, Wait};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::log::Mode;
use clustor_shards::turn::{
    Application, ClientEvent, ClientOp, ConnectionId, Inbox, Outbox, PeerEvent, PeerId, Time,
};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ClusterId, LogIndex, NodeId, PartitionId, ShardId};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, DurabilityMode,
};
use support::{MemoryDisk, TestKey};

#[derive(Default)]
struct Sum {
    total: u64,
}

impl StateMachine for Sum {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            assert_ne!(item.command, b"panic", "asked to");
            self.total += item.command.len() as u64;
            out.reply(item.index, &self.total.to_le_bytes());
        }
        Applied::Ack
    }
}

/// Machines take no time.
struct Still;

impl Stopwatch for Still {
    fn read_us(&self) -> u64 {
        0
    }
}

const P: PartitionId = PartitionId(1);

fn peer(node: u64) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId(0),
    }
}

struct Node {
    core: ShardCore,
    disk: MemoryDisk,
    inbox: Inbox<Request, CoreMesh>,
    replies: Vec<Reply>,
    answers: Vec<ClientOp>,
    due: Option<Time>,
    /// Its disk answers nothing.
    hangs: bool,
}

impl Node {
    fn boot(id: u64, voters: &[u64], disk: MemoryDisk, now: Time) -> Self {
        Self::boot_as(id, voters, disk, now, (0, None))
    }

    /// On a host that must stay silent, for a reason.
    fn boot_on(id: u64, voters: &[u64], disk: MemoryDisk, now: Time, silent: Option<&str>) -> Self {
        Self::boot_as(id, voters, disk, now, (0, silent))
    }

    /// Writing in this way.
    fn boot_writing(
        id: u64,
        voters: &[u64],
        disk: MemoryDisk,
        now: Time,
        io_writer_mode: u8,
    ) -> Self {
        Self::boot_as(id, voters, disk, now, (io_writer_mode, None))
    }

    fn boot_as(
        id: u64,
        voters: &[u64],
        mut disk: MemoryDisk,
        now: Time,
        (io_writer_mode, silent): (u8, Option<&str>),
    ) -> Self {
        let mut profile = Profile::throughput().with_segment_bytes(1 << 20);
        profile.entry_bytes_max = 64 << 10;
        profile.cache_bytes_max = 1 << 20;
        profile.node_inflight_bytes_max = 1 << 20;
        let config = CoreConfig {
            cluster: ClusterId(7),
            me: peer(id),
            partitions: vec![PartitionSpec {
                id: P,
                voters: voters.iter().map(|node| peer(*node)).collect(),
                factory: Box::new(|_| Box::new(Sum::default())),
            }],
            profile,
            io_writer_mode,
            shards: 1,
            // Another at each start: what is drawn and not on disk is drawn otherwise.
            seed: id * 31 + now.0,
            placement: None,
            control: Box::new(clustor_engine::gate::SelfGoverned),
            stopwatch: Box::new(Still),
            acks: AckBox::new(|| ()),
            silent: silent.map(str::to_owned),
        };
        let pool = config.profile.log_options(0).pool();
        let (core, _) = ShardCore::boot(config, pool, now, &mut disk, &TestKey(9)).expect("boots");
        Self {
            core,
            disk,
            inbox: Inbox::default(),
            replies: Vec::new(),
            answers: Vec::new(),
            due: Some(now),
            hangs: false,
        }
    }

    fn turn(&mut self, now: Time) -> Vec<(PeerId, clustor_wire::frame::Frame)> {
        let mut outbox = Outbox::default();
        self.inbox.now = now;
        self.core.turn(&mut self.inbox, &mut outbox);
        for op in outbox.disk.into_iter().filter(|_| !self.hangs) {
            self.inbox.disk.push(self.disk.carry(op));
        }
        self.replies.append(&mut outbox.replies);
        self.answers.append(&mut outbox.clients);
        self.due = outbox.deadline;
        outbox.peers
    }

    fn append(&mut self, ticket: u64, payload: &[u8], key: Option<u128>) {
        self.inbox.requests.push(Request {
            ticket,
            partition: P,
            body: RequestBody::Append {
                payload: payload.to_vec(),
                key: key.map(|key| (IdempotencyKey(key), Some(LogIndex(0)))),
                wait: Wait::Applied,
                only_in: None,
            },
        });
    }

    fn outcome(&mut self, ticket: u64) -> Option<Outcome> {
        let at = self
            .replies
            .iter()
            .position(|reply| reply.ticket() == Some(ticket))?;
        match self.replies.remove(at) {
            Reply::Append { outcome, .. } => Some(outcome),
            other => panic!("not an append's reply: {other:?}"),
        }
    }
}

struct Net {
    nodes: BTreeMap<u64, Node>,
    /// The boots of both ends of what was said last from one node to another.
    sessions: BTreeMap<(u64, u64), [Option<BootNumber>; 2]>,
    now: Time,
}

impl Net {
    fn new(ids: &[u64]) -> Self {
        let now = Time(1_000_000);
        let nodes = ids
            .iter()
            .map(|id| (*id, Node::boot(*id, ids, MemoryDisk::default(), now)))
            .collect();
        Self {
            nodes,
            sessions: BTreeMap::new(),
            now,
        }
    }

    /// Lets virtual time run; frames arrive in the next round, one millisecond later.
    fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now.plus_ms(1);
            let mut sent = Vec::new();
            for (id, node) in &mut self.nodes {
                let due = node.due.is_some_and(|due| due <= self.now);
                if due || !node.inbox.is_empty() {
                    sent.extend(node.turn(self.now).into_iter().map(|(to, f)| (*id, to, f)));
                }
            }
            for (from, to, frame) in sent {
                self.greet(from, to.node.get());
                if let Some(node) = self.nodes.get_mut(&to.node.get()) {
                    node.inbox.peers.push(PeerEvent::Frame(peer(from), frame));
                }
            }
        }
    }

    /// A session begins before anything is said in it.
    fn greet(&mut self, from: u64, to: u64) {
        let Some(hello) = self.nodes.get(&from).map(|node| node.core.hello(peer(to))) else {
            return;
        };
        let boots = [from, to].map(|node| self.nodes.get(&node).map(|n| n.core.boot_number()));
        if self.sessions.insert((from, to), boots) == Some(boots) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&to) {
            let peers = &mut node.inbox.peers;
            peers.push(PeerEvent::Up(peer(from)));
            peers.push(PeerEvent::Frame(peer(from), hello));
        }
    }

    fn leader(&self) -> Option<u64> {
        self.nodes
            .iter()
            .find(|(_, node)| {
                let partition = node.core.partition(P).expect("there");
                matches!(partition.leadership(), Leadership::Ready { .. })
            })
            .map(|(id, _)| *id)
    }
}

fn total(outcome: Option<Outcome>) -> u64 {
    match outcome {
        Some(Outcome::Applied { reply, .. }) => {
            u64::from_le_bytes(reply.try_into().expect("eight bytes"))
        }
        other => panic!("not applied: {other:?}"),
    }
}

#[test]
fn a_sole_voter_leads_applies_and_survives_a_restart() {
    let mut net = Net::new(&[1]);
    net.run_ms(50);
    assert_eq!(net.leader(), Some(1));
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(1, b"abc", None);
    node.append(2, b"de", None);
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    assert_eq!(total(node.outcome(1)), 3);
    assert_eq!(total(node.outcome(2)), 5);
    let disk = node.disk.clone();
    net.nodes.insert(1, Node::boot(1, &[1], disk, net.now));
    net.run_ms(500);
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(3, b"f", None);
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    assert_eq!(total(node.outcome(3)), 6);
}

#[test]
fn a_key_executes_once_and_answers_with_its_first_index() {
    let mut net = Net::new(&[1]);
    net.run_ms(50);
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(1, b"abc", Some(5));
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    let first = node.outcome(1).expect("answered");
    node.append(2, b"abc", Some(5));
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    let (
        Outcome::Applied { index: first, .. },
        Some(Outcome::Applied {
            index, duplicate, ..
        }),
    ) = (first, node.outcome(2))
    else {
        panic!("both are applied");
    };
    assert!(duplicate && index == first);
    node.append(3, b"", None);
    net.run_ms(20);
    assert_eq!(total(net.nodes.get_mut(&1).expect("there").outcome(3)), 3);
}

#[test]
fn a_panic_in_the_machine_is_that_partitions_affair_and_the_machine_is_made_again() {
    let mut net = Net::new(&[1]);
    net.run_ms(50);
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(1, b"panic", None);
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    assert!(matches!(node.outcome(1), Some(Outcome::Unknown { .. })));
    node.append(2, b"x", None);
    net.run_ms(5);
    let node = net.nodes.get_mut(&1).expect("there");
    let Some(Outcome::NotExecuted { refusal }) = node.outcome(2) else {
        panic!("refused while the machine fails");
    };
    assert_eq!(refusal.clause, RefusalClause::MachineFailed);
}

#[test]
fn three_nodes_elect_replicate_and_fail_over_without_losing_what_was_acknowledged() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(1500);
    let leader = net.leader().expect("a leader");
    for ticket in 0..100 {
        net.nodes.get_mut(&leader).expect("there").append(
            ticket,
            b"x",
            Some(u128::from(ticket) + 1),
        );
        net.run_ms(2);
    }
    net.run_ms(50);
    let node = net.nodes.get_mut(&leader).expect("there");
    assert_eq!(total(node.outcome(99)), 100);
    let disk = node.disk.clone();
    net.nodes.remove(&leader);
    net.run_ms(2500);
    let next = net.leader().expect("another leader");
    assert_ne!(next, leader);
    net.nodes
        .get_mut(&next)
        .expect("there")
        .append(7, b"x", None);
    net.run_ms(30);
    let node = net.nodes.get_mut(&next).expect("there");
    assert_eq!(total(node.outcome(7)), 101);
    net.nodes
        .insert(leader, Node::boot(leader, &[1, 2, 3], disk, net.now));
    net.run_ms(1500);
    let applied: Vec<LogIndex> = net
        .nodes
        .values()
        .map(|node| node.core.partition(P).expect("there").applied())
        .collect();
    assert!(
        applied.iter().all(|index| *index == applied[0]),
        "{applied:?}"
    );
}

#[test]
fn a_new_profile_is_obeyed_from_the_next_batch_on_and_a_refused_one_is_in_the_status() {
    let mut node = Node::boot(1, &[1], MemoryDisk::default(), Time(0));
    let mut now = Time(0);
    let mut settle = |node: &mut Node| {
        for _ in 0..20 {
            now = now.plus_ms(50);
            node.turn(now);
        }
    };
    settle(&mut node);
    let tell = |node: &mut Node, ticket: u64, news: ProfileNews| {
        node.inbox.requests.push(Request {
            ticket,
            partition: PartitionId::default(),
            body: RequestBody::Profile(news),
        });
    };
    tell(
        &mut node,
        1,
        ProfileNews::Refused("mine.toml:3: no".to_owned()),
    );
    settle(&mut node);
    assert!(matches!(
        node.replies.pop(),
        Some(Reply::Profile { ticket: 1 })
    ));
    let trouble = node.core.status(None).trouble;
    assert!(trouble.contains("mine.toml:3: no"), "{trouble}");

    let before = *node.core.log().options();
    let mut profile = Profile::latency();
    profile.batch_bytes_max = 8_192;
    profile.chains_in_flight_max = 2;
    // An append before and one behind it, in the same turn: both are executed.
    node.append(2, b"one", None);
    tell(&mut node, 3, ProfileNews::Obey(Box::new(profile)));
    node.append(4, b"three", None);
    settle(&mut node);
    let after = *node.core.log().options();
    assert_eq!(
        (after.batch_bytes_max, after.chains_in_flight_max),
        (8_192, 2)
    );
    assert_eq!(after.segment_blocks, before.segment_blocks);
    assert_eq!(after.entry_body_bytes_max, before.entry_body_bytes_max);
    for ticket in [2, 4] {
        let outcome = node.outcome(ticket).expect("answered");
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }
    assert_eq!(node.core.status(None).trouble, "");
}

#[test]
fn on_a_host_that_can_keep_no_acknowledgement_a_replica_is_silent_and_says_why() {
    let mut node = Node::boot_on(
        1,
        &[1],
        MemoryDisk::default(),
        Time(0),
        Some("fuse: nobody knows"),
    );
    let mut now = Time(0);
    node.append(1, b"x", None);
    for _ in 0..40 {
        now = now.plus_ms(100);
        assert!(node.turn(now).is_empty(), "it says nothing to anyone");
    }
    match node.outcome(1).expect("answered") {
        Outcome::NotExecuted { refusal } => {
            assert_eq!(refusal.clause, RefusalClause::Unavailable);
            assert!(
                refusal.message.contains("fuse: nobody knows"),
                "{}",
                refusal.message
            );
        }
        other => panic!("{other:?}"),
    }
    let status = node.core.status(None);
    assert!(
        status.trouble.contains("fuse: nobody knows"),
        "{}",
        status.trouble
    );
    assert_eq!(
        status.partitions[0].role,
        clustor_wire::message::Role::Quarantined
    );
}

fn ask_mode(node: &mut Node, ticket: u64, mode: Mode) {
    node.inbox.requests.push(Request {
        ticket,
        partition: P,
        body: RequestBody::Mode(mode),
    });
}

impl Net {
    fn ready_leader(&self) -> u64 {
        let ready = |node: &&u64| {
            let partition = self.nodes[node].core.partition(P).expect("here");
            matches!(partition.leadership(), Leadership::Ready { .. })
        };
        *self.nodes.keys().find(ready).expect("a leader is ready")
    }

    fn mode_on(&self, node: u64) -> (DurabilityMode, DurabilityMode, String) {
        let partition = self.nodes[&node].core.partition(P).expect("here");
        let status = partition.status();
        (status.mode, status.wanted_mode, status.held_back)
    }
}

#[test]
fn a_change_of_the_mode_is_an_entry_and_in_force_on_every_replica() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    let node = net.nodes.get_mut(&leader).expect("here");
    for ticket in 1..=20 {
        node.append(ticket, b"grouped", None);
    }
    ask_mode(node, 50, Mode::Strict);
    for ticket in 21..=24 {
        node.append(ticket, b"alone", None);
    }
    let before = node.core.log().retired_chain();
    net.run_ms(200);
    let node = net.nodes.get_mut(&leader).expect("here");
    let chains = node.core.log().retired_chain().get() - before.get();
    assert_eq!(
        chains,
        1 + 1 + 4,
        "what was grouped, the change, each alone"
    );
    for ticket in (1..=24).chain([50]) {
        let outcome = node.outcome(ticket).expect("answered");
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }
    for id in [1, 2, 3] {
        let strict = DurabilityMode::Strict;
        assert_eq!(
            net.mode_on(id),
            (strict, strict, String::new()),
            "node {id}"
        );
    }
}

#[test]
fn the_mode_that_was_asked_for_survives_a_restart_and_counts_for_the_next_leader() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    ask_mode(net.nodes.get_mut(&leader).expect("here"), 1, Mode::Strict);
    net.run_ms(200);
    for id in [1, 2, 3] {
        let node = net.nodes.remove(&id).expect("here");
        let again = Node::boot(id, &[1, 2, 3], node.disk, net.now);
        net.nodes.insert(id, again);
        // What its log says is not known before it is applied: strict until then, whatever the profile says.
        assert_eq!(net.mode_on(id).0, DurabilityMode::Strict);
    }
    net.run_ms(3_000);
    for id in [1, 2, 3] {
        assert_eq!(net.mode_on(id).1, DurabilityMode::Strict, "node {id}");
    }
}

#[test]
fn a_voter_that_blocks_keeps_the_partition_strict_and_status_says_so() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    let other = 1 + leader % 3;
    let node = net.nodes.remove(&other).expect("here");
    let again = Node::boot_writing(other, &[1, 2, 3], node.disk, net.now, 2);
    net.nodes.insert(other, again);
    net.run_ms(1_000);
    let leader = net.ready_leader();
    let node = net.nodes.get_mut(&leader).expect("here");
    for ticket in 1..=3 {
        node.append(ticket, b"more", None);
    }
    net.run_ms(500);
    let strict = DurabilityMode::Strict;
    let held_back = format!("blocking_voter (node {other})");
    assert_eq!(
        net.mode_on(leader),
        (strict, DurabilityMode::Group, held_back.clone())
    );
    let node = net.nodes.get_mut(&leader).expect("here");
    ask_mode(node, 9, Mode::Group);
    net.run_ms(100);
    let node = net.nodes.get_mut(&leader).expect("here");
    match node.outcome(9).expect("answered") {
        Outcome::NotExecuted { refusal } => {
            assert_eq!(refusal.clause, RefusalClause::ModeConflict);
            assert!(refusal.message.contains(&held_back), "{}", refusal.message);
        }
        other => panic!("not refused: {other:?}"),
    }
    // It writes as it should again: the partition goes back to what was asked for.
    let node = net.nodes.remove(&other).expect("here");
    let again = Node::boot(other, &[1, 2, 3], node.disk, net.now);
    net.nodes.insert(other, again);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    net.nodes
        .get_mut(&leader)
        .expect("here")
        .append(20, b"x", None);
    net.run_ms(500);
    let group = DurabilityMode::Group;
    assert_eq!(net.mode_on(leader), (group, group, String::new()));
}

#[test]
fn only_an_operators_connection_may_change_the_mode() {
    let mut net = Net::new(&[1]);
    net.run_ms(1_000);
    let ask = ClientRequest {
        id: 7,
        body: ClientRequestBody::Mode {
            partition: P,
            mode: DurabilityMode::Strict,
        },
    };
    let mut body = Vec::new();
    ask.encode(&mut body).expect("short");
    let frame = || Frame {
        kind: FrameKind::ClientRequest,
        body: body.clone(),
    };
    let node = net.nodes.get_mut(&1).expect("here");
    let (client, operator) = (ConnectionId(1), ConnectionId(2));
    for (connection, name) in [(client, "client/ops"), (operator, "operator/ops")] {
        let name = format!("spiffe://example/{name}");
        node.inbox
            .clients
            .push(ClientEvent::Opened(connection, name));
        node.inbox
            .clients
            .push(ClientEvent::Frame(connection, frame()));
    }
    net.run_ms(100);
    let node = net.nodes.get_mut(&1).expect("here");
    let answers: Vec<(ConnectionId, ClientResponseBody)> = node
        .answers
        .drain(..)
        .map(|op| match op {
            ClientOp::Send(to, frame) => {
                let answer = ClientResponse::decode(&frame.body).expect("decodes");
                (to, answer.body)
            }
            ClientOp::Close(to) => panic!("{to:?} was closed"),
        })
        .collect();
    assert_eq!(answers.len(), 2);
    for (to, answer) in answers {
        match answer {
            ClientResponseBody::NotExecuted(refused) => {
                assert_eq!((to, refused.clause), (client, RefusalClause::Forbidden));
            }
            ClientResponseBody::Applied { .. } => assert_eq!(to, operator),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(net.mode_on(1).0, DurabilityMode::Strict);
}

#[test]
fn what_waits_to_be_committed_is_bounded_for_the_node() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    net.nodes.retain(|id, _| *id == leader);
    let node = net.nodes.get_mut(&leader).expect("here");
    let payload = vec![7; 60 << 10];
    for ticket in 1..=20 {
        node.append(ticket, &payload, None);
    }
    net.run_ms(5);
    let node = net.nodes.get_mut(&leader).expect("here");
    let fit = (1 << 20) / (60 << 10);
    for ticket in 1..=20 {
        match node.outcome(ticket) {
            None => assert!(ticket <= fit, "append {ticket} was taken"),
            Some(Outcome::NotExecuted { refusal }) => {
                assert!(ticket > fit, "append {ticket} was refused: {refusal:?}");
                assert_eq!(refusal.clause, RefusalClause::Busy);
                assert!(
                    refusal.message.contains("the node's limit"),
                    "{}",
                    refusal.message
                );
            }
            Some(other) => panic!("nothing can be committed: {other:?}"),
        }
    }
}

#[test]
fn a_disk_that_hangs_costs_a_node_its_leadership_and_its_status_says_so() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(1500);
    let leader = net.leader().expect("a leader");
    let bound_ms = Profile::throughput().stuck_io_ms;
    let node = net.nodes.get_mut(&leader).expect("there");
    node.hangs = true;
    node.append(1, b"x", None);
    net.run_ms(bound_ms / 2);
    let node = net.nodes.get_mut(&leader).expect("there");
    assert!(node.outcome(1).is_none(), "it may still happen");
    let before = node.core.log().failure();
    assert!(before.is_none());
    net.run_ms(bound_ms / 2 + 10_000);
    let node = net.nodes.get_mut(&leader).expect("there");
    assert!(matches!(node.outcome(1), Some(Outcome::Unknown { .. })));
    node.inbox.requests.push(Request {
        ticket: 2,
        partition: P,
        body: RequestBody::Status,
    });
    net.run_ms(5);
    let node = net.nodes.get_mut(&leader).expect("there");
    let told = node.replies.iter().find_map(|reply| match reply {
        Reply::Status { ticket: 2, status } => status.as_ref().ok(),
        _ => None,
    });
    let trouble = &told.expect("answered").trouble;
    assert!(
        trouble.contains("has not ended within 30000 ms") && trouble.contains("restart"),
        "{trouble}"
    );
    let next = net.leader().expect("another leader");
    assert_ne!(next, leader);
    net.nodes
        .get_mut(&next)
        .expect("there")
        .append(3, b"yz", None);
    net.run_ms(50);
    let node = net.nodes.get_mut(&next).expect("there");
    assert!(matches!(node.outcome(3), Some(Outcome::Applied { .. })));
}

#[test]
fn at_a_first_start_nobody_is_named_whose_creation_a_power_loss_takes_back() {
    for ms in 1..10 {
        let mut net = Net::new(&[1, 2, 3]);
        net.run_ms(ms);
        let node = net.nodes.get_mut(&3).expect("there");
        node.hangs = true;
        net.run_ms(1_000);
        // What it had not begun to write is gone.
        let disk = net.nodes[&3].disk.clone();
        net.nodes
            .insert(3, Node::boot(3, &[1, 2, 3], disk, net.now));
        // Its sessions ended with it, also where its disk does not know that there was a boot.
        net.sessions.clear();
        net.run_ms(3_000);
        assert!(net.leader().is_some(), "{ms} ms: nobody leads");
        let third = net.nodes[&3].core.partition(P).expect("there").status();
        assert_eq!(third.trouble, "", "{ms} ms");
        assert!(third.applied > LogIndex::ZERO, "{ms} ms: it is left out");
    }
}
