//! Frames for peers: nothing that replicas say is lost on its way out of the shard.

mod core_support;
#[path = "../../shards/tests/support/mod.rs"]
mod support;

use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::profile::Profile;
use clustor_engine::request::{Request, RequestBody, Wait};
use clustor_engine::shard_core::{CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::log::READS_IN_FLIGHT_MAX;
use clustor_shards::turn::{Application, Inbox, Outbox, PeerEvent, PeerId, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ChainNumber, Incarnation, LogIndex, PartitionId, Term};
use clustor_wire::message::{PeerBatch, PeerHello, RaftBody, RaftMessage, RefetchVerdict};
use core_support::peer;
use support::{MemoryDisk, TestKey};

/// Turns in which answers must have come; each takes a millisecond.
const TURNS: usize = 200;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
        Applied::Ack
    }
}

/// Shard 0 of node 1, the only voter of all its partitions.
struct Shard {
    core: ShardCore,
    disk: MemoryDisk,
    inbox: Inbox<Request, CoreMesh>,
    now: Time,
    partitions: u128,
}

impl Shard {
    fn boot(mut disk: MemoryDisk, now: Time, partitions: u128) -> Self {
        let specs = (1..=partitions)
            .map(|id| PartitionSpec {
                id: PartitionId(id),
                voters: vec![peer(1)],
                factory: Box::new(|_| Box::new(Nothing)),
            })
            .collect();
        let profile = Profile::throughput().with_segment_bytes(64 << 20);
        let config = core_support::config(profile, specs);
        let pool = config.profile.log_options(0).pool();
        let (core, _) = ShardCore::boot(config, pool, now, &mut disk, &TestKey(9)).expect("boots");
        let mut shard = Self {
            core,
            disk,
            inbox: Inbox::default(),
            now,
            partitions,
        };
        for _ in 0..50 {
            shard.turn();
        }
        shard
    }

    /// What leaves for peers.
    fn turn(&mut self) -> Vec<(PeerId, Frame)> {
        self.now = self.now.plus_ms(1);
        self.inbox.now = self.now;
        let mut outbox = Outbox::default();
        self.core.turn(&mut self.inbox, &mut outbox);
        for op in outbox.disk {
            self.inbox.disk.push(self.disk.carry(op));
        }
        outbox.peers
    }

    /// Each partition's log gets as many entries of so many bytes.
    fn fill(&mut self, entries: u64, bytes: usize) {
        for n in 0..entries {
            for id in 1..=self.partitions {
                self.inbox.requests.push(Request {
                    ticket: id as u64 * 100 + n,
                    partition: PartitionId(id),
                    body: RequestBody::Append {
                        payload: vec![7; bytes],
                        key: None,
                        wait: Wait::Applied,
                        only_in: None,
                    },
                });
                self.turn();
            }
        }
        for _ in 0..50 {
            self.turn();
        }
    }

    /// Node 2 has lost the entries 2 to `last` of every partition and asks for all of them at once: how many partitions
    /// give it theirs.
    fn refetched(&mut self, last: u64) -> usize {
        let hello = PeerHello {
            node: peer(2).node,
            shard: peer(2).shard,
            to_shard: peer(1).shard,
            boot: BootNumber(1),
            last_chain: ChainNumber(0),
            remembered_chain: ChainNumber(0),
            placement_digest: [0; 32],
            record_version: 1,
            record_codec: 1,
            incarnation: Incarnation(5),
            remembered_incarnation: Incarnation(0),
            remembered_boot: BootNumber(0),
        };
        let mut body = Vec::new();
        hello.encode(&mut body).expect("of fixed size");
        let kind = FrameKind::PeerHello;
        self.inbox.peers.push(PeerEvent::Up(peer(2)));
        self.inbox
            .peers
            .push(PeerEvent::Frame(peer(2), Frame { kind, body }));
        self.turn();
        let mut batch = PeerBatch {
            boot: BootNumber(1),
            ..PeerBatch::default()
        };
        for id in 1..=self.partitions {
            let partition = self.core.partition(PartitionId(id)).expect("here");
            assert!(partition.applied() >= LogIndex(last));
            batch.messages.push(RaftMessage {
                partition: PartitionId(id),
                term: partition.status().term,
                body: RaftBody::Refetch {
                    entry_term: Term(1),
                    first: LogIndex(2),
                    last: LogIndex(last),
                },
            });
        }
        let mut body = Vec::new();
        batch.encode(&mut body).expect("small");
        let kind = FrameKind::PeerBatch;
        self.inbox
            .peers
            .push(PeerEvent::Frame(peer(2), Frame { kind, body }));
        let given = |message: &RaftMessage| match message.body {
            RaftBody::Refetched { verdict, .. } => verdict == RefetchVerdict::Have,
            _ => false,
        };
        let mut found = 0;
        for _ in 0..TURNS {
            for (_, frame) in self.turn() {
                let batch = PeerBatch::decode(&frame.body).expect("a batch");
                found += batch.messages.iter().filter(|m| given(m)).count();
            }
        }
        found
    }
}

#[test]
fn answers_that_one_frame_does_not_hold_leave_in_several() {
    let mut shard = Shard::boot(MemoryDisk::default(), Time(1_000_000), 20);
    shard.fill(4, 60 << 10);
    assert_eq!(shard.refetched(5), 20);
}

#[test]
fn what_peers_want_waits_for_a_read_that_ends() {
    let partitions = 2 * READS_IN_FLIGHT_MAX + 1;
    let mut shard = Shard::boot(MemoryDisk::default(), Time(1_000_000), partitions as u128);
    shard.fill(1, 10);
    // After a restart nothing of it is in the cache.
    let mut shard = Shard::boot(shard.disk, shard.now, partitions as u128);
    assert_eq!(shard.refetched(2), partitions);
}
