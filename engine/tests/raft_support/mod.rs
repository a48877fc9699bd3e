//! Replicas over real logs, an honest disk in memory, and a network whose packets a test may look at, hold back,
//! repeat and drop. Every turn is checked: one leader per term, one entry per applied index, watermarks that only rise.
#![allow(dead_code, unreachable_pub)]

#[path = "../../../shards/tests/support/memory_disk.rs"]
pub mod disk;
pub mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clustor_engine::raft::{
    Configuration, Leadership, LeadershipChange, Limits, NewEntry, Position, Replica,
    ReplicaConfig, Status, Timers, Turn,
};
use clustor_shards::log::Mode;
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term};
use clustor_wire::message::{Heartbeat, HeartbeatAck, RaftBody, RaftMessage, Role};
use disk::MemoryDisk;
pub use node::Node;

pub const PARTITION: PartitionId = PartitionId(1);

pub fn peer(node: usize) -> PeerId {
    PeerId {
        node: NodeId(node as u64),
        shard: ShardId(0),
    }
}

/// What one packet carries.
#[derive(Debug, Clone)]
pub enum Say {
    Message(RaftMessage),
    Heartbeat(Heartbeat),
    Ack(HeartbeatAck),
}

impl Say {
    pub fn body(&self) -> Option<&RaftBody> {
        match self {
            Say::Message(message) => Some(&message.body),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Packet {
    pub from: usize,
    pub to: usize,
    pub say: Say,
}

/// The cluster; nodes are numbered from 1.
pub struct Cluster {
    pub now: Time,
    pub nodes: Vec<Node>,
    /// Sent and not yet delivered.
    pub net: Vec<Packet>,
    /// Directions in which nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    /// All nodes.
    voters: usize,
    /// Those that vote at first.
    first: usize,
    limits: Limits,
    cache_bytes: usize,
    leaders: BTreeMap<Term, usize>,
    /// What was applied at each index, by whoever came first.
    pub history: BTreeMap<LogIndex, (Term, Vec<u8>)>,
}

impl Cluster {
    pub fn new(voters: usize) -> Self {
        Self::with(voters, Limits::default(), 1 << 20)
    }

    /// Nodes of which only the first ones vote; the others hold an empty replica.
    pub fn with_spares(nodes: usize, first: usize) -> Self {
        Self::build(nodes, first, Limits::default(), 1 << 20)
    }

    /// The same, with a cache of so many bytes on each.
    pub fn with_spares_and_cache(nodes: usize, first: usize, cache_bytes: usize) -> Self {
        Self::build(nodes, first, Limits::default(), cache_bytes)
    }

    pub fn with(voters: usize, limits: Limits, cache_bytes: usize) -> Self {
        Self::build(voters, voters, limits, cache_bytes)
    }

    fn build(voters: usize, first: usize, limits: Limits, cache_bytes: usize) -> Self {
        let mut cluster = Self {
            // Not 0, and no multiple of a heartbeat.
            now: Time(1_000_500),
            nodes: Vec::new(),
            net: Vec::new(),
            cut: BTreeSet::new(),
            voters,
            first,
            limits,
            cache_bytes,
            leaders: BTreeMap::new(),
            history: BTreeMap::new(),
        };
        for number in 1..=voters {
            let node = cluster.boot(number, MemoryDisk::default());
            cluster.nodes.push(node);
        }
        cluster.run();
        cluster
    }

    pub fn configuration(&self) -> Configuration {
        Configuration::simple((1..=self.first).map(peer).collect()).expect("voters")
    }

    fn boot(&self, number: usize, disk: MemoryDisk) -> Node {
        self.boot_behind(number, disk, LogIndex::ZERO)
    }

    fn boot_behind(&self, number: usize, disk: MemoryDisk, base: LogIndex) -> Node {
        let config = ReplicaConfig {
            partition: PARTITION,
            incarnation: Incarnation::ZERO,
            me: peer(number),
            voters: self.configuration(),
            seed: number as u64,
            timers: Arc::new(Timers::LOCAL),
            limits: Arc::new(self.limits),
            leaf: None,
            mode: Mode::Group,
        };
        Node::boot(number, config, (disk, self.cache_bytes), base, self.now)
    }

    pub fn node(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    pub fn status(&self, number: usize) -> Status {
        self.nodes[number - 1].replica.status()
    }

    /// Kills a node: what was submitted and not carried never happened, what was under way to it is lost.
    pub fn crash(&mut self, number: usize) {
        let node = self.node(number);
        node.up = false;
        node.submitted.clear();
        node.completed.clear();
        node.inbox.clear();
        self.net.retain(|packet| packet.to != number);
    }

    /// Starts a killed node again, from its disk.
    pub fn restart(&mut self, number: usize) {
        self.restart_behind(number, LogIndex::ZERO);
    }

    /// The same, as if its log had let go of everything up to `base`.
    pub fn restart_behind(&mut self, number: usize, base: LogIndex) {
        let disk = core::mem::take(&mut self.node(number).disk);
        let node = self.boot_behind(number, disk, base);
        *self.node(number) = node;
        for other in 1..=self.voters {
            if other != number && self.node(other).up {
                self.node(other).replica.peer_up(peer(number));
                self.turn(other, |_, _| {});
            }
        }
        self.run();
    }

    pub fn isolate(&mut self, number: usize) {
        for other in 1..=self.voters {
            self.cut.insert((number, other));
            self.cut.insert((other, number));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// One turn of one node; `act` is what its clients want.
    pub fn turn<T>(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Replica, &mut Turn<'_>) -> T,
    ) -> T {
        let before = self.status(number);
        let now = self.now;
        let result = self.node(number).turn(now, act);
        self.collect(number);
        self.check(number, &before);
        result
    }

    fn collect(&mut self, number: usize) {
        let node = &mut self.nodes[number - 1];
        let out = &mut node.out;
        let mut sent: Vec<(PeerId, Say)> = Vec::new();
        sent.extend(
            out.heartbeats
                .drain(..)
                .map(|(to, h)| (to, Say::Heartbeat(h))),
        );
        sent.extend(
            out.heartbeat_acks
                .drain(..)
                .map(|(to, a)| (to, Say::Ack(a))),
        );
        sent.extend(out.messages.drain(..).map(|(to, m)| (to, Say::Message(m))));
        for (to, say) in sent {
            let to = to.node.get() as usize;
            assert_ne!(to, number, "nobody writes to itself");
            if !self.cut.contains(&(number, to)) {
                self.net.push(Packet {
                    from: number,
                    to,
                    say,
                });
            }
        }
        for (index, term, payload) in node.apply(self.now) {
            let told = self
                .history
                .entry(index)
                .or_insert_with(|| (term, payload.clone()));
            assert_eq!(
                told,
                &(term, payload),
                "one entry at index {index} everywhere"
            );
        }
    }

    fn check(&mut self, number: usize, before: &Status) {
        let after = self.status(number);
        assert!(after.term >= before.term);
        assert!(after.wal_committed >= before.wal_committed);
        assert!(after.applicable >= before.applicable);
        assert!(
            after.applicable <= after.durable.max(after.base),
            "applied only what is durable"
        );
        if after.role == Role::Leader {
            let leader = *self.leaders.entry(after.term).or_insert(number);
            assert_eq!(leader, number, "one leader in term {}", after.term);
        }
    }

    /// Hands a packet over, through the wire's own encoding, and lets its receiver take a turn.
    pub fn deliver(&mut self, packet: Packet) {
        let to = packet.to;
        if self.node(to).up && !self.cut.contains(&(packet.from, to)) {
            self.node(to).inbox.push(packet);
            self.turn(to, |_, _| {});
        }
    }

    /// Takes packets of a kind off the network.
    pub fn take(&mut self, mut of: impl FnMut(&Packet) -> bool) -> Vec<Packet> {
        let (taken, rest) = core::mem::take(&mut self.net)
            .into_iter()
            .partition(|packet| of(packet));
        self.net = rest;
        taken
    }

    /// Carries what was submitted to disks that are not stalled. Returns whether anything was.
    pub fn carry(&mut self) -> bool {
        let mut any = false;
        for number in 1..=self.voters {
            let node = self.node(number);
            if node.up && !node.stalled && !node.submitted.is_empty() {
                any = true;
                let ops = core::mem::take(&mut node.submitted);
                for op in ops {
                    let event = node.disk.carry(op);
                    node.completed.push(event);
                }
                self.turn(number, |_, _| {});
            }
        }
        any
    }

    /// Carries, delivers and takes turns until all is quiet, with `keep` deciding which packets stay where they are.
    pub fn run_but(&mut self, mut keep: impl FnMut(&Packet) -> bool) {
        for _ in 0..10_000 {
            let carried = self.carry();
            let packets = self.take(|packet| !keep(packet));
            if packets.is_empty() && !carried {
                return;
            }
            let mut touched = BTreeSet::new();
            for packet in packets {
                let (from, to) = (packet.from, packet.to);
                if self.node(to).up && !self.cut.contains(&(from, to)) {
                    self.node(to).inbox.push(packet);
                    touched.insert(to);
                }
            }
            for number in touched {
                self.turn(number, |_, _| {});
            }
        }
        panic!("the cluster never comes to rest");
    }

    pub fn run(&mut self) {
        self.run_but(|_| false);
    }

    /// Lets time pass, a millisecond at a time, and everything happen meanwhile.
    pub fn pass_but(&mut self, ms: u64, mut keep: impl FnMut(&Packet) -> bool) {
        for _ in 0..ms {
            self.now = self.now.plus_ms(1);
            for number in 1..=self.voters {
                let now = self.now;
                let node = self.node(number);
                if node.up && node.replica.next_deadline().is_some_and(|at| at <= now) {
                    self.turn(number, |_, _| {});
                }
            }
            self.run_but(&mut keep);
        }
    }

    pub fn pass(&mut self, ms: u64) {
        self.pass_but(ms, |_| false);
    }

    /// The node whose deadline comes first.
    pub fn first_due(&self) -> usize {
        let due = |node: &&Node| node.replica.next_deadline();
        self.nodes
            .iter()
            .filter(|node| node.up && due(node).is_some())
            .min_by_key(due)
            .expect("a deadline")
            .number
    }

    /// Jumps to when `number`'s next deadline is due and lets it act, without anybody hearing of it yet.
    pub fn time_out(&mut self, number: usize) {
        let due = self
            .node(number)
            .replica
            .next_deadline()
            .expect("a deadline");
        self.now = self.now.max(due);
        self.turn(number, |_, _| {});
    }

    /// Makes `number` the leader of a quiet cluster.
    pub fn elect(&mut self, number: usize) {
        self.elect_but(number, |_| false);
    }

    /// The same, with `keep` deciding which packets stay where they are.
    pub fn elect_but(&mut self, number: usize, mut keep: impl FnMut(&Packet) -> bool) {
        for _ in 0..50 {
            if self.status(number).role == Role::Leader {
                return;
            }
            // Whoever leads falls silent for longer than stickiness lasts.
            self.now = self.now.plus_ms(151);
            self.time_out(number);
            self.run_but(&mut keep);
        }
        panic!("node {number} is never elected");
    }

    /// The leader of the greatest term among nodes that are up.
    pub fn leader(&self) -> Option<usize> {
        self.nodes
            .iter()
            .filter(|node| node.up && node.replica.is_leader())
            .max_by_key(|node| node.replica.term())
            .map(|node| node.number)
    }

    pub fn propose(&mut self, number: usize, payload: &[u8]) -> Position {
        let entry = NewEntry {
            payload,
            key: None,
            stamp_ms: 1,
        };
        self.turn(number, |replica, turn| replica.propose(turn, &entry))
            .expect("a leader takes it")
    }

    /// Proposes in one turn per entry and lets everything happen.
    pub fn write(&mut self, number: usize, payloads: &[&[u8]]) -> Position {
        let mut last = None;
        for payload in payloads {
            last = Some(self.propose(number, payload));
        }
        self.run();
        last.expect("something to write")
    }

    /// Restarts a node so that the content of exactly the entry at `index` is lost on its disk, and it knows.
    /// Nobody is heard meanwhile.
    pub fn lose(&mut self, number: usize, index: LogIndex) {
        let cut = self.cut.clone();
        self.isolate(number);
        self.crash(number);
        let whole = self.node(number).disk.clone();
        let segments = self.node(number).disk.segments();
        let blocks = segments.map(|blocks| blocks.len()).max().unwrap_or(0);
        for block in 0..blocks.min(64) {
            let mut damaged = whole.clone();
            for segment in damaged.segments() {
                segment[block].0[100] ^= 1;
            }
            self.node(number).disk = damaged;
            self.restart(number);
            self.read_all(number);
            let log = self.node(number).log.partition(PARTITION).expect("there");
            if log.missing_count() == 1 && log.is_missing(index) {
                self.cut = cut;
                return;
            }
            self.crash(number);
        }
        panic!("no block of node {number} holds entry {index} alone");
    }

    /// Reads a node's whole log, so that it knows what is damaged.
    fn read_all(&mut self, number: usize) {
        let node = self.node(number);
        let log = node.log.partition(PARTITION).expect("there");
        let mut next = log.base.next();
        let last = log.last;
        while next <= last {
            let _ = node.log.read(PARTITION, next, &mut node.submitted);
            next = next.next();
        }
        for _ in 0..4 {
            let node = self.node(number);
            for op in core::mem::take(&mut node.submitted) {
                let event = node.disk.carry(op);
                node.completed.push(event);
            }
            self.turn(number, |_, _| {});
        }
        self.net.clear();
    }

    /// The terms of a node's log, from index 1 on.
    pub fn terms(&self, number: usize) -> Vec<u64> {
        let log = self.nodes[number - 1]
            .log
            .partition(PARTITION)
            .expect("there");
        (1..=log.last.get())
            .map(|index| log.term_at(LogIndex(index)).expect("in the log").get())
            .collect()
    }
}

pub fn elected(change: &LeadershipChange) -> bool {
    matches!(change.change, Leadership::Elected { .. })
}

pub fn is_durability_ack(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::DurabilityAck { .. }))
}

/// An append of entries of the given terms behind (`prev_term`, `prev_index`), as the leader `from` would send it.
pub fn append(from: usize, to: usize, term: u64, prev: (u64, u64), terms: &[u64]) -> Packet {
    use clustor_engine::raft::entry::{EntryBody, EntryKind};
    use clustor_shards::log::record::{RecordKind, encode_record_parts};
    let mut frames = Vec::new();
    for (at, entry_term) in terms.iter().enumerate() {
        let body = EntryBody {
            kind: EntryKind::Command,
            stamp_ms: 0,
            key: None,
            payload: b"x",
        };
        encode_record_parts(
            &mut frames,
            None,
            RecordKind::Entry,
            PARTITION,
            Term(*entry_term),
            LogIndex(prev.1 + 1 + at as u64),
            &[body.head().as_slice(), body.payload],
        );
    }
    Packet {
        from,
        to,
        say: Say::Message(RaftMessage {
            partition: PARTITION,
            term: Term(term),
            body: RaftBody::Append {
                prev_index: LogIndex(prev.1),
                prev_term: Term(prev.0),
                wal_committed: LogIndex::ZERO,
                raft_commit: LogIndex::ZERO,
                count: terms.len() as u32,
                frames,
            },
        }),
    }
}
