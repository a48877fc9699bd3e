//! Three nodes in memory whose partitions do nothing by themselves and go quiet.

use std::collections::BTreeMap;

use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::outcome::Leadership;
use clustor_engine::profile::Profile;
use clustor_engine::request::{MembersRequest, Request, RequestBody};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::disk::{DiskError, DiskEvent};
use clustor_shards::turn::{Application, Inbox, Outbox, PeerEvent, PeerId, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::PeerBatch;

use super::peer;
use crate::support::{MemoryDisk, TestKey};

/// A machine without state: what is counted is the engine's.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
        Applied::Ack
    }
}

pub struct Node {
    pub core: ShardCore,
    disk: MemoryDisk,
    pub inbox: Inbox<Request, CoreMesh>,
    due: Option<Time>,
    /// What its disk writes from here on fails.
    pub fails: bool,
}

impl Node {
    fn boot(id: u64, partitions: usize, now: Time) -> Self {
        let mut profile = Profile::latency().with_segment_bytes(16 << 20);
        profile.cache_bytes_max = 1 << 20;
        let specs = (1..=partitions).map(|number| PartitionSpec {
            id: PartitionId(number as u128),
            voters: (1..=3).map(peer).collect(),
            factory: Box::new(|_| Box::new(Nothing)),
        });
        let config = CoreConfig {
            me: peer(id),
            seed: id * 31,
            ..super::config(profile, specs.collect())
        };
        let mut disk = MemoryDisk::default();
        let pool = config.profile.log_options(0).pool();
        let (core, _) = ShardCore::boot(config, pool, now, &mut disk, &TestKey(9)).expect("boots");
        Self {
            core,
            disk,
            inbox: Inbox::default(),
            due: Some(now),
            fails: false,
        }
    }

    fn turn(&mut self, now: Time) -> Vec<(PeerId, Frame)> {
        let mut outbox = Outbox::default();
        self.inbox.now = now;
        self.core.turn(&mut self.inbox, &mut outbox);
        for op in outbox.disk {
            let mut event = self.disk.carry(op);
            if let DiskEvent::Chain { outcome, .. } = &mut event
                && self.fails
            {
                *outcome = Err(DiskError::Cancelled);
            }
            self.inbox.disk.push(event);
        }
        self.due = outbox.deadline;
        outbox.peers
    }

    /// How many partitions it leads.
    pub fn leads(&self) -> usize {
        let ready = |at: Leadership| matches!(at, Leadership::Ready { .. });
        let partitions = self.core.partitions();
        partitions.filter(|p| ready(p.leadership())).count()
    }
}

/// Three nodes whose frames take a millisecond.
pub struct Net {
    pub nodes: BTreeMap<u64, Node>,
    now: Time,
}

impl Net {
    pub fn new(partitions: usize) -> Self {
        let now = Time(1_000_000);
        let boot = |id| (id, Node::boot(id, partitions, now));
        let mut nodes: BTreeMap<u64, Node> = (1..=3).map(boot).collect();
        for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            let hello = nodes[&from].core.hello(peer(to));
            let peers = &mut nodes.get_mut(&to).expect("there").inbox.peers;
            peers.push(PeerEvent::Up(peer(from)));
            peers.push(PeerEvent::Frame(peer(from), hello));
        }
        Self { nodes, now }
    }

    /// Lets virtual time run. Returns how often anything was said about a single partition.
    pub fn run_ms(&mut self, ms: u64) -> usize {
        let mut said = 0;
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
                if frame.kind == FrameKind::PeerBatch {
                    let batch = PeerBatch::decode(&frame.body).expect("of this build");
                    said += batch.heartbeats.len() + batch.messages.len();
                }
                let node = self.nodes.get_mut(&to.node.get()).expect("there");
                node.inbox.peers.push(PeerEvent::Frame(peer(from), frame));
            }
        }
        said
    }

    /// Lets time run until nobody has said anything about a single partition for a second, and three more.
    ///
    /// # Panics
    /// If that takes more than a minute.
    pub fn come_to_rest(&mut self) {
        let mut seconds = 0..60;
        assert!(seconds.any(|_| self.run_ms(1_000) == 0), "never quiet");
        // What a burst grew is given back when nothing has happened for a while.
        self.run_ms(3_000);
    }

    /// Node 1 leads everything, as soon as it can.
    pub fn gather(&mut self, partitions: usize) {
        for _ in 0..100 {
            if self.nodes[&1].leads() == partitions {
                return;
            }
            for id in [2, 3] {
                let node = self.nodes.get_mut(&id).expect("there");
                let led: Vec<PartitionId> = (1..=partitions)
                    .map(|number| PartitionId(number as u128))
                    .filter(|id| {
                        let partition = node.core.partition(*id).expect("there");
                        matches!(partition.leadership(), Leadership::Ready { .. })
                    })
                    .collect();
                node.inbox
                    .requests
                    .extend(led.into_iter().map(|partition| Request {
                        ticket: 1,
                        partition,
                        body: RequestBody::Members(MembersRequest::Transfer(Some(peer(1)))),
                    }));
            }
            self.run_ms(500);
        }
        panic!("node 1 leads {}", self.nodes[&1].leads());
    }
}
