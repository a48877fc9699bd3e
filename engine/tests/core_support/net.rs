//! Cores on honest disks, and a network in memory between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::outcome::{IdempotencyKey, Leadership, Outcome};
use clustor_engine::profile::Profile;
use clustor_engine::request::{Reply, Request, RequestBody, Wait};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::disk::DiskOp;
use clustor_shards::turn::{Application, ClientOp, Inbox, Outbox, PeerEvent, PeerId, Time};
use clustor_wire::frame::Frame;
use clustor_wire::ids::{BootNumber, LogIndex};
use clustor_wire::message::DurabilityMode;

use super::{P, peer};
use crate::support::{MemoryDisk, TestKey};

#[derive(Default)]
pub struct Sum {
    pub total: u64,
    /// It bears what others panic at.
    pub robust: Arc<AtomicBool>,
}

impl StateMachine for Sum {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let robust = self.robust.load(Ordering::Relaxed);
            assert!(robust || item.command != b"panic", "asked to");
            self.total += item.command.len() as u64;
            out.reply(item.index, &self.total.to_le_bytes());
        }
        Applied::Ack
    }
}

pub struct Node {
    pub core: ShardCore,
    pub disk: MemoryDisk,
    pub inbox: Inbox<Request, CoreMesh>,
    pub replies: Vec<Reply>,
    pub answers: Vec<ClientOp>,
    pub due: Option<Time>,
    /// Its machine bears what others panic at.
    pub robust: Arc<AtomicBool>,
    /// Its disk answers nothing.
    pub hangs: bool,
    /// How long its disk takes for each operation, in milliseconds; they end in order.
    pub slow_ms: u64,
    slow: VecDeque<(Time, DiskOp)>,
}

impl Node {
    pub fn boot(id: u64, voters: &[u64], disk: MemoryDisk, now: Time) -> Self {
        Self::boot_as(id, voters, disk, now, (0, None))
    }

    /// On a host that must stay silent, for a reason.
    pub fn boot_on(
        id: u64,
        voters: &[u64],
        disk: MemoryDisk,
        now: Time,
        silent: Option<&str>,
    ) -> Self {
        Self::boot_as(id, voters, disk, now, (0, silent))
    }

    /// Writing in this way.
    pub fn boot_writing(
        id: u64,
        voters: &[u64],
        disk: MemoryDisk,
        now: Time,
        io_writer_mode: u8,
    ) -> Self {
        Self::boot_as(id, voters, disk, now, (io_writer_mode, None))
    }

    pub fn boot_as(
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
        let robust = Arc::new(AtomicBool::new(false));
        let bears = Arc::clone(&robust);
        let partitions = vec![PartitionSpec {
            id: P,
            voters: voters.iter().map(|node| peer(*node)).collect(),
            factory: Box::new(move |_| {
                let robust = Arc::clone(&bears);
                Box::new(Sum { total: 0, robust })
            }),
        }];
        let config = CoreConfig {
            me: peer(id),
            io_writer_mode,
            // Another at each start: what is drawn and not on disk is drawn otherwise.
            seed: id * 31 + now.0,
            silent: silent.map(str::to_owned),
            ..super::config(profile, partitions)
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
            robust,
            hangs: false,
            slow_ms: 0,
            slow: VecDeque::new(),
        }
    }

    pub fn turn(&mut self, now: Time) -> Vec<(PeerId, Frame)> {
        let mut outbox = Outbox::default();
        self.inbox.now = now;
        self.core.turn(&mut self.inbox, &mut outbox);
        for op in outbox.disk.into_iter().filter(|_| !self.hangs) {
            if self.slow_ms == 0 && self.slow.is_empty() {
                self.inbox.disk.push(self.disk.carry(op));
            } else {
                self.slow.push_back((now.plus_ms(self.slow_ms), op));
            }
        }
        self.replies.append(&mut outbox.replies);
        self.answers.append(&mut outbox.clients);
        self.due = outbox.deadline;
        outbox.peers
    }

    /// What its disk has done by now.
    fn end_slow(&mut self, now: Time) {
        while let Some((_, op)) = self.slow.pop_front_if(|(at, _)| *at <= now) {
            self.inbox.disk.push(self.disk.carry(op));
        }
    }

    pub fn append(&mut self, ticket: u64, payload: &[u8], key: Option<u128>) {
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

    pub fn outcome(&mut self, ticket: u64) -> Option<Outcome> {
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

pub struct Net {
    pub nodes: BTreeMap<u64, Node>,
    /// The boots of both ends of what was said last from one node to another.
    pub sessions: BTreeMap<(u64, u64), [Option<BootNumber>; 2]>,
    pub now: Time,
}

impl Net {
    pub fn new(ids: &[u64]) -> Self {
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
    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now.plus_ms(1);
            let mut sent = Vec::new();
            for (id, node) in &mut self.nodes {
                node.end_slow(self.now);
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
    pub fn greet(&mut self, from: u64, to: u64) {
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

    pub fn leader(&self) -> Option<u64> {
        self.nodes
            .iter()
            .find(|(_, node)| {
                let partition = node.core.partition(P).expect("there");
                matches!(partition.leadership(), Leadership::Ready { .. })
            })
            .map(|(id, _)| *id)
    }

    pub fn ready_leader(&self) -> u64 {
        let ready = |node: &&u64| {
            let partition = self.nodes[node].core.partition(P).expect("here");
            matches!(partition.leadership(), Leadership::Ready { .. })
        };
        *self.nodes.keys().find(ready).expect("a leader is ready")
    }

    pub fn mode_on(&self, node: u64) -> (DurabilityMode, DurabilityMode, String) {
        let partition = self.nodes[&node].core.partition(P).expect("here");
        let status = partition.status();
        (status.mode, status.wanted_mode, status.held_back)
    }
}

pub fn total(outcome: Option<Outcome>) -> u64 {
    match outcome {
        Some(Outcome::Applied { reply, .. }) => {
            u64::from_le_bytes(reply.try_into().expect("eight bytes"))
        }
        other => panic!("not applied: {other:?}"),
    }
}
