//! One node: a replica over its log, and what a shard would do for it in a turn.

use std::collections::BTreeMap;

use clustor_engine::raft::{
    AuthenticatedPeer, EntryCache, LeadershipChange, Output, ReadFailed, ReadReady,
    RecordToPersist, Replica, ReplicaConfig, Restored, Turn, WantedEntries, entry::EntryBody,
};
use clustor_shards::buffer::{BlockPool, SizeClass};
use clustor_shards::disk::{DiskEvent, DiskOp};
use clustor_shards::log::record::{Record, RecordKind, records};
use clustor_shards::log::{
    HardState, Kek, KeyError, KeyProvider, LogIdentity, LogOptions, Mode, ReadRefusal, Retirement,
    ShardLog, TermRun,
};
use clustor_shards::turn::{PeerEvent, PeerId, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{ClusterId, Incarnation, LogIndex, NodeId, ShardId, Term};
use clustor_wire::message::PeerBatch;

use super::disk::MemoryDisk;
use super::{PARTITION, Packet, Say, peer};

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
    pub(super) number: usize,
    pub disk: MemoryDisk,
    pub log: ShardLog,
    pub replica: Replica,
    cache: EntryCache,
    heard: BTreeMap<PeerId, Incarnation>,
    pub(super) out: Output,
    /// Submitted and not yet carried.
    pub submitted: Vec<DiskOp>,
    pub(super) completed: Vec<DiskEvent>,
    pub(super) inbox: Vec<Packet>,
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

/// Has a log begin behind `base`.
fn raise(restored: &mut Restored, base: LogIndex) {
    let Some(run) = restored.runs.iter().rfind(|run| run.first <= base) else {
        return;
    };
    assert!(base > restored.base && base <= restored.last);
    let covering = TermRun {
        term: run.term,
        first: base.next(),
    };
    (restored.base, restored.base_term) = (base, run.term);
    restored.runs.retain(|run| run.first > base);
    let begins = restored
        .runs
        .first()
        .map_or(restored.last.next(), |run| run.first);
    if covering.first < begins {
        restored.runs.insert(0, covering);
    }
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

impl Node {
    /// Starts from its disk; a disk on which nothing is gets the first configuration. The cache has so many bytes. What lies up
    /// to `base` the replica does not know of.
    pub(super) fn boot(
        number: usize,
        config: ReplicaConfig,
        (mut disk, cache_bytes): (MemoryDisk, usize),
        base: LogIndex,
        now: Time,
    ) -> Self {
        let mut log = recover(number, &mut disk);
        if log.partition(PARTITION).is_none() {
            log.create_partition(
                PARTITION,
                Incarnation(number as u64),
                &config.voters.encode(),
            );
        }
        let restored = log.partition(PARTITION).expect("it is there");
        let mut restored = Restored::from_log(restored).expect("its configuration is read");
        raise(&mut restored, base);
        let mut cache = EntryCache::new(cache_bytes);
        let replica = Replica::new(config, restored, now, &mut cache);
        let mut node = Self {
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
        node.log.poll(now, &mut node.submitted);
        node
    }

    /// An event that the next turn will find.
    pub fn complete(&mut self, event: DiskEvent) {
        self.completed.push(event);
    }

    pub(super) fn turn<T>(
        &mut self,
        now: Time,
        act: impl FnOnce(&mut Replica, &mut Turn<'_>) -> T,
    ) -> T {
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
        // Until the opening has retired nothing is carried to the replica.
        let heard = if self.log.is_open() {
            self.inbox.len()
        } else {
            0
        };
        for packet in self.inbox.drain(..heard) {
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
    pub(super) fn apply(&mut self, _now: Time) -> Vec<(LogIndex, Term, Vec<u8>)> {
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

/// The sender of a batch, as the runtime vouches for it, and the batch.
pub fn received(from: usize, batch: &PeerBatch) -> (AuthenticatedPeer, PeerBatch) {
    let mut body = Vec::new();
    batch.encode(&mut body).expect("encodes");
    let event = PeerEvent::Frame(
        peer(from),
        Frame {
            kind: FrameKind::PeerBatch,
            body,
        },
    );
    let from = AuthenticatedPeer::of(&event).expect("a frame has a sender");
    let PeerEvent::Frame(_, frame) = event else {
        unreachable!("made above");
    };
    (from, PeerBatch::decode(&frame.body).expect("decodes"))
}

fn step(replica: &mut Replica, turn: &mut Turn<'_>, packet: Packet) {
    let mut batch = PeerBatch::default();
    match packet.say {
        Say::Message(message) => batch.messages.push(message),
        Say::Heartbeat(heartbeat) => batch.heartbeats.push(heartbeat),
        Say::Ack(ack) => batch.heartbeat_acks.push(ack),
    }
    let (from, batch) = received(packet.from, &batch);
    for heartbeat in &batch.heartbeats {
        replica.on_heartbeat(turn, from, heartbeat, batch.bounds);
    }
    for ack in &batch.heartbeat_acks {
        replica.on_heartbeat_ack(turn, from, ack, true);
    }
    for message in &batch.messages {
        replica.step(turn, from, message);
    }
}
