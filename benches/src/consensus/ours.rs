//! Three of this engine's replicas, each over its own log on a disk in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use clustor_engine::raft::entry::EntryBody;
use clustor_engine::raft::{
    AuthenticatedPeer, Configuration, EntryCache, NewEntry, Output, RecordToPersist, Replica,
    ReplicaConfig, Restored, Timers, Turn,
};
use clustor_shards::disk::DiskOp;
use clustor_shards::log::record::parse_record;
use clustor_shards::log::{HardState, LogIdentity, LogOptions, Mode, Retirement, ShardLog, Suite};
use clustor_shards::turn::{PeerEvent, PeerId, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{ClusterId, Incarnation, LogIndex, NodeId, PartitionId, ShardId};
use clustor_wire::message::{Heartbeat, HeartbeatAck, RaftBody, RaftMessage};

use super::{Cluster, NODES, counted};
use crate::BenchError;
use crate::instructions::Memory;
use crate::shard::BenchKey;

const PARTITION: PartitionId = PartitionId(1);
/// Enough for what is under way.
const CACHE_BYTES: usize = 16 << 20;
/// Far longer than an election takes.
const ELECTION_TURNS_MAX: u32 = 10_000;

enum Say {
    Message(RaftMessage),
    Heartbeat(Heartbeat),
    Ack(HeartbeatAck),
}

struct Node {
    me: PeerId,
    replica: Replica,
    /// Nobody's disk is formatted anew.
    heard: BTreeMap<PeerId, Incarnation>,
    cache: EntryCache,
    log: ShardLog,
    disk: Memory,
    ops: Vec<DiskOp>,
    retirement: Retirement,
    out: Output,
    inbox: Vec<(usize, Say)>,
    /// Buffers of frames that go back to their senders, as they do once the wire has them.
    used: Vec<(usize, Vec<u8>)>,
    applied: LogIndex,
}

pub(super) struct Ours {
    now: Time,
    nodes: Vec<Node>,
    from: Vec<AuthenticatedPeer>,
    leader: usize,
    payload: Vec<u8>,
}

fn peer(node: usize) -> PeerId {
    PeerId {
        node: NodeId(node as u64 + 1),
        shard: ShardId(0),
    }
}

/// The sender that a connection vouches for.
fn vouched(node: usize) -> AuthenticatedPeer {
    let frame = Frame {
        kind: FrameKind::PeerBatch,
        body: Vec::new(),
    };
    AuthenticatedPeer::of(&PeerEvent::Frame(peer(node), frame)).expect("a frame has a sender")
}

impl Node {
    fn boot(node: usize, voters: &Configuration, now: Time) -> Result<Self, BenchError> {
        let mut disk = Memory::default();
        let identity = LogIdentity {
            cluster: ClusterId(1),
            node: peer(node).node,
            shard: ShardId(0),
        };
        let mut options = LogOptions::for_segment_bytes(64 << 20);
        options.format.sealing = Suite::None;
        let mut log =
            ShardLog::recover(&mut disk, identity, options, &BenchKey, options.pool())?.log;
        log.create_partition(PARTITION, Incarnation(node as u64 + 1), &voters.encode());
        let created = log.partition(PARTITION).expect("made above");
        let restored = Restored::from_log(created).expect("its configuration is read");
        let config = ReplicaConfig {
            partition: PARTITION,
            me: peer(node),
            incarnation: Incarnation::ZERO,
            voters: voters.clone(),
            seed: node as u64 + 1,
            timers: Arc::new(Timers::LOCAL),
            limits: Arc::default(),
            leaf: None,
            mode: Mode::Group,
        };
        let mut cache = EntryCache::new(CACHE_BYTES);
        let replica = Replica::new(config, restored, now, &mut cache);
        Ok(Self {
            me: peer(node),
            replica,
            heard: BTreeMap::new(),
            cache,
            log,
            disk,
            ops: Vec::new(),
            retirement: Retirement::default(),
            out: Output::default(),
            inbox: Vec::new(),
            used: Vec::new(),
            applied: LogIndex::ZERO,
        })
    }

    /// One turn; what arrived is in the inbox, and in the log's retirement.
    fn turn(&mut self, now: Time, from: &[AuthenticatedPeer], proposals: &[&[u8]]) {
        self.out.clear();
        let mut turn = Turn {
            now,
            me: self.me,
            segment_seq: self.log.current_pair(),
            io_writer_mode: 0,
            clock_alarm: false,
            cache: &mut self.cache,
            heard: &self.heard,
            out: &mut self.out,
        };
        let (replica, retirement) = (&mut self.replica, &mut self.retirement);
        for proof in retirement.durable.drain(..) {
            replica.on_local_durable(proof);
        }
        for proof in retirement.hard_states.drain(..) {
            replica.on_hard_state_durable(&mut turn, proof);
        }
        for (node, say) in self.inbox.drain(..) {
            let sender = from[node];
            match say {
                Say::Heartbeat(heartbeat) => {
                    replica.on_heartbeat(&mut turn, sender, &heartbeat, None)
                }
                Say::Ack(ack) => replica.on_heartbeat_ack(&mut turn, sender, &ack, true),
                Say::Message(message) => {
                    replica.step(&mut turn, sender, &message);
                    if let RaftBody::Append { frames, .. } = message.body {
                        self.used.push((node, frames));
                    }
                }
            }
        }
        if replica.next_deadline().is_some_and(|at| at <= now) {
            replica.tick(&mut turn);
        }
        for &payload in proposals {
            let entry = NewEntry {
                payload,
                key: None,
                stamp_ms: 1,
            };
            replica.propose(&mut turn, &entry).expect("it leads");
        }
        replica.finish_turn(&mut turn);
        while self.applied < self.replica.applicable() {
            self.applied = self.applied.next();
            let frame = self.replica.cached(&self.cache, self.applied);
            let record = parse_record(frame.expect("a cache of all that is under way"));
            // A leader's first entry is empty; a configuration is no command.
            let _ = EntryBody::decode(record.expect("a frame of the replica's").body);
        }
    }

    /// Hands the records to the log, which has them durable at once.
    fn persist(&mut self, now: Time) {
        for record in &self.out.records {
            if let Some(entry) = record.entry(&self.out.frames) {
                self.log.append(&entry, Mode::Group);
                continue;
            }
            match record {
                RecordToPersist::HardState {
                    partition,
                    term,
                    vote,
                } => {
                    let (term, vote) = (*term, *vote);
                    self.log.hard_state(*partition, HardState { term, vote });
                }
                other => unreachable!("nothing is lost or taken back: {other:?}"),
            }
        }
        while !self.log.is_settled() {
            self.log.poll(now, &mut self.ops);
            for op in self.ops.drain(..) {
                self.disk.carry_out(op);
            }
            for event in self.disk.events.drain(..) {
                self.log.on_event(now, event, &mut self.retirement);
            }
        }
    }

    fn has_news(&self) -> bool {
        !self.inbox.is_empty()
            || !self.retirement.durable.is_empty()
            || !self.retirement.hard_states.is_empty()
    }
}

impl Ours {
    /// A cluster with a leader.
    pub(super) fn begin(payload: usize) -> Result<Self, BenchError> {
        let now = Time(1_000_000);
        let voters = Configuration::simple((0..NODES).map(peer).collect()).expect("three voters");
        let nodes = (0..NODES).map(|node| Node::boot(node, &voters, now));
        let mut this = Self {
            now,
            nodes: nodes.collect::<Result<_, _>>()?,
            from: (0..NODES).map(vouched).collect(),
            leader: NODES,
            payload: vec![0x5a; payload],
        };
        for node in 0..NODES {
            this.nodes[node].persist(now);
        }
        for _ in 0..ELECTION_TURNS_MAX {
            this.now = this.now.plus_ms(1);
            for node in 0..NODES {
                this.take_turn(node, 0, false);
            }
            this.settle(false);
            let leads = |node: &Node| node.replica.is_leader() && node.applied >= LogIndex(1);
            if let Some(leader) = this.nodes.iter().position(leads) {
                this.leader = leader;
                return Ok(this);
            }
        }
        Err(BenchError::Refused("nobody is elected".to_owned()))
    }

    fn take_turn(&mut self, node: usize, proposals: usize, counts: bool) {
        let payloads = [self.payload.as_slice()];
        let (now, from) = (self.now, self.from.as_slice());
        let proposals = &payloads.repeat(proposals);
        let this = &mut self.nodes[node];
        if counts {
            counted(|| this.turn(now, from, proposals));
        } else {
            this.turn(now, from, proposals);
        }
        this.persist(now);
        let mut used = core::mem::take(&mut this.used);
        for (sender, frames) in used.drain(..) {
            self.nodes[sender].out.give_back(frames);
        }
        let this = &mut self.nodes[node];
        this.used = used;
        let mut out = core::mem::take(&mut this.out);
        let mut post = |to: PeerId, say: Say| {
            let to = to.node.get() as usize - 1;
            self.nodes[to].inbox.push((node, say));
        };
        for (to, heartbeat) in out.heartbeats.drain(..) {
            post(to, Say::Heartbeat(heartbeat));
        }
        for (to, ack) in out.heartbeat_acks.drain(..) {
            post(to, Say::Ack(ack));
        }
        for (to, message) in out.messages.drain(..) {
            post(to, Say::Message(message));
        }
        self.nodes[node].out = out;
    }

    fn settle(&mut self, counts: bool) {
        while self.nodes.iter().any(Node::has_news) {
            for node in 0..NODES {
                if self.nodes[node].has_news() {
                    self.take_turn(node, 0, counts);
                }
            }
        }
    }
}

impl Cluster for Ours {
    fn batch(&mut self, entries: usize, counts: bool) -> u64 {
        let before = self.nodes[self.leader].applied;
        self.take_turn(self.leader, entries, counts);
        self.settle(counts);
        self.nodes[self.leader].applied.get() - before.get()
    }
}
