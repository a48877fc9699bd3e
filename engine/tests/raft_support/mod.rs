//! Replicas over real logs, an honest disk in memory, and a network whose packets a test may look at, hold back,
//! repeat and drop. Every turn is checked: one leader per term, one entry per applied index, watermarks that only rise.
#![allow(dead_code, unreachable_pub)]

pub mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clustor_engine::raft::{
    AuthenticatedPeer, Configuration, EntryCache, Leadership, LeadershipChange, Limits, NewEntry,
    Output, Position, ReadFailed, ReadReady, RecordToPersist, Replica, ReplicaConfig, Restored,
    Status, Timers, Turn, WantedEntries, entry::EntryBody,
};
use clustor_shards::buffer::{BlockPool, SizeClass};
use clustor_shards::disk::{DiskEvent, DiskOp};
use clustor_shards::log::record::{Record, RecordKind, records};
use clustor_shards::log::{
    HardState, Kek, KeyError, KeyProvider, LogIdentity, LogOptions, Mode, ReadRefusal, Retirement,
    ShardLog,
};
use clustor_shards::turn::{PeerEvent, PeerId, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{ClusterId, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term};
use clustor_wire::message::{Heartbeat, HeartbeatAck, PeerBatch, RaftBody, RaftMessage, Role};
use disk::MemoryDisk;

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

struct TestKey;

impl KeyProvider for TestKey {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(Kek::new([9; 32].into()))
    }
}

enum Reading {
    ForPeer(WantedEntries),
    ToApply,
}

/// One node with one replica.
pub struct Node {
    number: usize,
    pub disk: MemoryDisk,
    pub log: ShardLog,
    pub replica: Replica,
    cache: EntryCache,
    heard: BTreeMap<PeerId, Incarnation>,
    out: Output,
    /// Submitted and not yet carried.
    pub submitted: Vec<DiskOp>,
    completed: Vec<DiskEvent>,
    inbox: Vec<Packet>,
    reading: BTreeMap<u64, Reading>,
    applying: bool,
    from_disk: Vec<u8>,
    pub applied: LogIndex,
    pub ready: Vec<ReadReady>,
    pub failed: Vec<ReadFailed>,
    pub leadership: Vec<LeadershipChange>,
    /// Entries read from disk for a follower.
    pub reads_for_peers: usize,
    /// While set, nothing that is submitted is carried.
    pub stalled: bool,
    /// How it says that its log writes.
    pub io_writer_mode: u8,
    pub up: bool,
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

fn recover(number: usize, disk: &mut MemoryDisk) -> ShardLog {
    let identity = LogIdentity {
        cluster: ClusterId(7),
        node: NodeId(number as u64),
        shard: ShardId(0),
    };
    let pool = BlockPool::new(&[SizeClass {
        blocks: 4,
        runs: 16,
    }]);
    let options = LogOptions::for_segment_bytes(1 << 20);
    ShardLog::recover(disk, identity, options, &TestKey, pool)
        .expect("recovers")
        .log
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

    fn boot(&self, number: usize, mut disk: MemoryDisk) -> Node {
        let mut log = recover(number, &mut disk);
        let voters = self.configuration();
        if log.partition(PARTITION).is_none() {
            log.create_partition(PARTITION, Incarnation(number as u64), &voters.encode());
        }
        let restored = log.partition(PARTITION).expect("it is there");
        let restored = Restored::from_log(restored).expect("its configuration is read");
        let config = ReplicaConfig {
            partition: PARTITION,
            incarnation: Incarnation::ZERO,
            me: peer(number),
            voters,
            seed: number as u64,
            timers: Arc::new(Timers::LOCAL),
            limits: Arc::new(self.limits),
            leaf: None,
            mode: Mode::Group,
        };
        let mut cache = EntryCache::new(self.cache_bytes);
        let replica = Replica::new(config, restored, self.now, &mut cache);
        let mut node = Node {
            number,
            io_writer_mode: 0,
            disk,
            log,
            replica,
            cache,
            heard: BTreeMap::new(),
            out: Output::default(),
            submitted: Vec::new(),
            completed: Vec::new(),
            inbox: Vec::new(),
            reading: BTreeMap::new(),
            applying: false,
            from_disk: Vec::new(),
            applied: LogIndex::ZERO,
            ready: Vec::new(),
            failed: Vec::new(),
            leadership: Vec::new(),
            reads_for_peers: 0,
            stalled: false,
            up: true,
        };
        node.log.poll(self.now, &mut node.submitted);
        node
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
        let disk = core::mem::take(&mut self.node(number).disk);
        let node = self.boot(number, disk);
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
            after.applicable <= after.durable,
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

impl Node {
    /// An event that the next turn will find.
    pub fn complete(&mut self, event: DiskEvent) {
        self.completed.push(event);
    }

    fn turn<T>(&mut self, now: Time, act: impl FnOnce(&mut Replica, &mut Turn<'_>) -> T) -> T {
        assert!(self.up);
        let mut retirement = Retirement::default();
        for event in self.completed.drain(..) {
            self.log.on_event(now, event, &mut retirement);
        }
        self.out.clear();
        let mut turn = Turn {
            me: peer(self.number),
            now,
            segment_seq: self.log.current_pair(),
            io_writer_mode: self.io_writer_mode,
            cache: &mut self.cache,
            heard: &self.heard,
            out: &mut self.out,
            clock_alarm: false,
        };
        for proof in retirement.durable {
            self.replica.on_local_durable(proof);
        }
        for proof in retirement.exits {
            self.replica.on_exit_durable(proof);
        }
        for proof in retirement.hard_states {
            self.replica.on_hard_state_durable(&mut turn, proof);
        }
        let mut applied_from_disk = None;
        for outcome in retirement.reads {
            let lost = self
                .log
                .partition(PARTITION)
                .is_some_and(|log| log.is_missing(outcome.first));
            if lost {
                self.replica.on_missing(outcome.first, outcome.last);
            }
            match self.reading.remove(&outcome.token) {
                Some(Reading::ForPeer(wanted)) => match outcome.frames {
                    Some(frames) => self.replica.entries_read(&mut turn, &wanted, frames),
                    None => self.replica.entries_unreadable(&mut turn, &wanted),
                },
                Some(Reading::ToApply) => applied_from_disk = Some(outcome.frames),
                None => {}
            }
        }
        for packet in self.inbox.drain(..) {
            step(&mut self.replica, &mut turn, packet);
        }
        if self.replica.next_deadline().is_some_and(|at| at <= now) {
            self.replica.tick(&mut turn);
        }
        let result = act(&mut self.replica, &mut turn);
        self.replica.finish_turn(&mut turn);
        if let Some(frames) = applied_from_disk {
            self.applying = false;
            if let Some(frames) = frames {
                self.warm(&frames);
            }
        }
        self.persist();
        self.log.poll(now, &mut self.submitted);
        for wanted in self.out.wanted.drain(..) {
            self.reads_for_peers += 1;
            let token = self
                .log
                .read(PARTITION, wanted.from, &mut self.submitted)
                .expect("what is durable can be read");
            self.reading.insert(token, Reading::ForPeer(wanted));
        }
        self.ready.append(&mut self.out.reads_ready);
        self.failed.append(&mut self.out.reads_failed);
        self.leadership.append(&mut self.out.leadership);
        result
    }

    fn persist(&mut self) {
        for record in &self.out.records {
            if let Some(entry) = record.entry(&self.out.frames) {
                self.log.admit(entry.body.len()).expect("room in the log");
                match record {
                    RecordToPersist::Relocated { .. } => self.log.relocate(&entry),
                    _ => self.log.append(&entry, Mode::Group),
                }
                continue;
            }
            match record {
                RecordToPersist::HardState {
                    partition,
                    term,
                    vote,
                } => self.log.hard_state(
                    *partition,
                    HardState {
                        term: *term,
                        vote: *vote,
                    },
                ),
                RecordToPersist::ExitCommitted {
                    partition,
                    term,
                    index,
                } => self.log.exit_committed(*partition, *term, *index),
                RecordToPersist::Founding {
                    partition,
                    configuration,
                } => self.log.name_voters(*partition, configuration),
                RecordToPersist::Truncate {
                    partition,
                    term,
                    from,
                } => self.log.truncate(*partition, *term, *from),
                RecordToPersist::Entry { .. } | RecordToPersist::Relocated { .. } => {
                    unreachable!("taken above")
                }
            }
        }
    }

    /// Frames read from disk, kept for applying.
    fn warm(&mut self, frames: &[u8]) {
        self.from_disk = frames.to_vec();
    }

    /// Applies what may be applied and is at hand; asks the log for the rest.
    fn apply(&mut self, _now: Time) -> Vec<(LogIndex, Term, Vec<u8>)> {
        let mut applied = Vec::new();
        let disk = core::mem::take(&mut self.from_disk);
        for record in records(&disk) {
            let record = record.expect("what the log read is whole");
            if record.header.index == self.applied.next()
                && record.header.index <= self.replica.applicable()
            {
                self.applied = record.header.index;
                applied.push((self.applied, record.header.term, payload(&record)));
            }
        }
        while self.applied < self.replica.applicable() {
            let next = self.applied.next();
            let Some(frame) = self.replica.cached(&self.cache, next) else {
                if !self.applying {
                    self.applying = true;
                    match self.log.read(PARTITION, next, &mut self.submitted) {
                        Ok(token) => {
                            self.reading.insert(token, Reading::ToApply);
                        }
                        Err(ReadRefusal::Missing) => self.applying = false,
                        Err(refused) => panic!("what is durable can be read: {refused}"),
                    }
                }
                break;
            };
            let record = records(frame).next().expect("a frame").expect("whole");
            assert_eq!(record.header.index, next);
            applied.push((next, record.header.term, payload(&record)));
            self.applied = next;
        }
        applied
    }
}

/// What an entry says; a configuration says itself.
fn payload(record: &Record<'_>) -> Vec<u8> {
    match record.header.kind {
        RecordKind::Configuration => record.body.to_vec(),
        _ => {
            let body = EntryBody::decode(record.body).expect("a body");
            body.payload.to_vec()
        }
    }
}

fn step(replica: &mut Replica, turn: &mut Turn<'_>, packet: Packet) {
    let mut batch = PeerBatch::default();
    match packet.say {
        Say::Message(message) => batch.messages.push(message),
        Say::Heartbeat(heartbeat) => batch.heartbeats.push(heartbeat),
        Say::Ack(ack) => batch.heartbeat_acks.push(ack),
    }
    let mut body = Vec::new();
    batch.encode(&mut body).expect("encodes");
    let event = PeerEvent::Frame(
        peer(packet.from),
        Frame {
            kind: FrameKind::PeerBatch,
            body,
        },
    );
    let from = AuthenticatedPeer::of(&event).expect("a frame has a sender");
    let PeerEvent::Frame(_, frame) = event else {
        unreachable!("made above");
    };
    let batch = PeerBatch::decode(&frame.body).expect("decodes");
    for heartbeat in &batch.heartbeats {
        replica.on_heartbeat(turn, from, heartbeat, 0);
    }
    for ack in &batch.heartbeat_acks {
        replica.on_heartbeat_ack(turn, from, ack, true);
    }
    for message in &batch.messages {
        replica.step(turn, from, message);
    }
}

pub fn elected(change: &LeadershipChange) -> bool {
    matches!(change.change, Leadership::Elected { .. })
}
