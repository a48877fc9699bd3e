//! What is done to disks: the one that may fail, in every way that a disk can, and any that is slow for a while.
//!
//! What may take away bytes that a replica vouched for happens on one node's disk, once in a run, or on two where every
//! partition has five voters or more: of every partition the others hold what a quorum vouched for. The disk's own log must
//! still tell what it lost, or fall silent: of two such faults in one chain neither can be asked of it (specification, section
//! 11).

use clustor_shards::disk::{FileId, FileKind};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId};
use rand::Rng;

use super::super::marks::Marks;
use super::super::more::Harm;
use super::Run;
use super::faults::{Fault, token_of};
use crate::disk::{Crash, FlushFault, SimDiskCounters, StuckKind, WriteFault};

const ROT_AT_REST: &str = "harm.rot-at-rest";
pub(super) const ROT: &str = "harm.rot";
const UNREADABLE: &str = "harm.unreadable";
const UNREADABLE_SLOT: &str = "harm.unreadable-slot";
const LOST_NAME: &str = "harm.lost-name";
/// Two disks lost something.
const BOTH: &str = "harm.both";

/// What a disk counted, by mark.
type Count = (&'static str, fn(&SimDiskCounters) -> u64);

const COUNTED: [Count; 14] = [
    ("harm.failed-flush", |c| c.flushes_failed),
    ("harm.failed-write", |c| c.writes_failed),
    ("harm.lost-extent", |c| c.segment_faults.lost.into()),
    ("harm.lost-slot", |c| c.ledger_faults.lost.into()),
    ("harm.misdirected-extent", |c| {
        c.segment_faults.misdirected.into()
    }),
    ("harm.misdirected-slot", |c| {
        c.ledger_faults.misdirected.into()
    }),
    ("harm.misfiled-extent", |c| {
        c.segment_faults.misdirected_file.into()
    }),
    ("harm.misfiled-slot", |c| {
        c.ledger_faults.misdirected_file.into()
    }),
    ("harm.unflushed-extent", |c| c.segment_faults.lied.into()),
    ("harm.unflushed-slot", |c| c.ledger_faults.lied.into()),
    ("harm.stuck-chain", |c| c.stuck[StuckKind::Chain as usize]),
    ("harm.stuck-prepare", |c| {
        c.stuck[StuckKind::Prepare as usize]
    }),
    ("harm.stuck-read", |c| c.stuck[StuckKind::Read as usize]),
    ("harm.stuck-trailer", |c| {
        c.stuck[StuckKind::Trailer as usize]
    }),
];

/// The marks of what disks did wrong.
pub(in crate::cluster) fn harm_marks() -> impl Iterator<Item = &'static str> {
    let planted = [
        ROT_AT_REST,
        ROT,
        UNREADABLE,
        UNREADABLE_SLOT,
        LOST_NAME,
        BOTH,
    ];
    COUNTED.iter().map(|(mark, _)| *mark).chain(planted)
}

impl Run {
    /// What the disks counted.
    pub(super) fn count_harm(&self, marks: &mut Marks) {
        for host in self.world.hosts() {
            let counters = host.disk.counters();
            for (mark, count) in COUNTED {
                marks.reach_times(mark, count(&counters));
            }
        }
    }

    /// Whether something is committed in every partition.
    pub(super) fn has_begun(&self) -> bool {
        let consensus = self.world.consensus();
        let mut partitions = self.world.layout().partitions.iter();
        partitions.all(|partition| consensus.committed(partition.id) > LogIndex::ZERO)
    }

    /// The next flush or write of the fragile node fails.
    pub(super) fn fail_disk(&mut self) {
        // The first start takes everybody, and a disk that fails before leaves nobody to go on.
        let Some(node) = self.faults.fragile.filter(|_| self.has_begun()) else {
            return;
        };
        self.world.mark_damaged(node);
        let shards = self.world.layout().shards.clone();
        let kind = if self.rng.random_bool(0.5) {
            FileKind::Segment
        } else {
            FileKind::Ledger
        };
        if self.faults.rot {
            return self.let_rot(node);
        }
        let how = self.rng.random_range(0..5);
        for shard in shards.into_iter().filter(|shard| shard.node == node) {
            let disk = &mut self.world.host_mut(shard).disk;
            match how {
                0 => disk.fail_next_flush(kind),
                1 => disk.fault_next_write(kind, WriteFault::Error),
                2 => disk.stick_next(StuckKind::Chain),
                3 => disk.stick_next(StuckKind::Read),
                _ => disk.fault_next_write(kind, WriteFault::Short),
            }
            self.world
                .say(|| format!("the disk of {shard:?} will fail: {kind:?} {how}"));
        }
    }

    /// One block of a node that is down turns over bits. Once in a run: two such places in one chain, in both files,
    /// may look like a torn tail.
    fn let_rot(&mut self, node: NodeId) {
        self.world.crash(node, Crash::Power);
        self.start_later(node);
        let shards = self.world.layout().shards.clone();
        let shards: Vec<PeerId> = shards.into_iter().filter(|s| s.node == node).collect();
        let shard = shards[self.rng.random_range(0..shards.len())];
        let disk = &mut self.world.host_mut(shard).disk;
        let mut places = Vec::new();
        for file in disk.file_names() {
            places.extend(
                disk.blocks_at_rest(file)
                    .into_iter()
                    .map(|block| (file, block)),
            );
        }
        self.faults.disk = None;
        if places.is_empty() {
            return;
        }
        let (file, block) = places[self.rng.random_range(0..places.len())];
        disk.plant_rot(file, block);
        self.world.mark_lossy(shard);
        self.world.marks.reach(ROT_AT_REST);
        self.world
            .say(|| format!("rot in {file} block {block} of {shard:?}"));
    }

    fn shards_of(&self, node: NodeId) -> Vec<PeerId> {
        let shards = self.world.layout().shards.iter();
        shards.filter(|shard| shard.node == node).copied().collect()
    }

    /// Whether a write or flush of a node's disks went wrong and was reported as done.
    fn lied(&self, node: NodeId) -> bool {
        self.shards_of(node).iter().any(|shard| {
            let host = self.world.host(*shard);
            host.is_some_and(|host| host.disk.counters().silent_faults > 0)
        })
    }

    /// Harm of the kind that was drawn is done to one shard of the fragile node, or planted there; then to one of the second.
    pub(super) fn harm_disk(&mut self) {
        let Some((harm, _)) = self.faults.harm.filter(|_| self.has_begun()) else {
            return;
        };
        let nodes = [self.faults.fragile, self.faults.second];
        let nodes: Vec<NodeId> = nodes.into_iter().flatten().collect();
        let harmed = |node: &NodeId| self.harmed.contains(node) || self.lied(*node);
        // What strikes silently is seen when it has struck; the rest is noted.
        let Some(node) = nodes.iter().copied().find(|node| !harmed(node)) else {
            if nodes.len() > 1 {
                self.world.marks.reach(BOTH);
            }
            self.faults.harm = None;
            return;
        };
        let shards = self.shards_of(node);
        let shard = shards[self.more.random_range(0..shards.len())];
        self.world.mark_damaged(node);
        let disk = &mut self.world.host_mut(shard).disk;
        match harm {
            // One waits to strike.
            Harm::Write(..) | Harm::LyingFlush(_) | Harm::Stuck(_) if disk.has_planted_fault() => {}
            Harm::Write(kind, fault) => disk.fault_next_write(kind, fault),
            Harm::LyingFlush(kind) => disk.fault_next_flush(kind, FlushFault::Lie),
            Harm::Stuck(kind) => disk.stick_next(kind),
            Harm::Unreadable | Harm::UnreadableSlot | Harm::Rot => self.harm_block(shard, harm),
            Harm::LostName => self.lose_name(shard),
        }
        self.world.say(|| format!("{harm:?} on {shard:?}"));
    }

    /// A block of a shard rots, or can't be read any more; the shard may run.
    fn harm_block(&mut self, shard: PeerId, harm: Harm) {
        let disk = &mut self.world.host_mut(shard).disk;
        let mut places = Vec::new();
        for mut file in disk.file_names() {
            let blocks: Vec<u32> = if harm == Harm::UnreadableSlot {
                file = FileId::ledger(file.pair);
                disk.untouched_blocks(file)
            } else {
                disk.blocks_at_rest(file)
            };
            places.extend(blocks.into_iter().map(|block| (file, block)));
        }
        if places.is_empty() {
            return;
        }
        let (file, block) = places[self.more.random_range(0..places.len())];
        let mark = match harm {
            Harm::Rot => {
                disk.plant_rot(file, block);
                ROT
            }
            _ => {
                disk.make_unreadable(file, block, None);
                match harm {
                    Harm::UnreadableSlot => UNREADABLE_SLOT,
                    _ => UNREADABLE,
                }
            }
        };
        self.harmed.push(shard.node);
        self.world.mark_lossy(shard);
        self.world.marks.reach(mark);
        self.world.say(|| format!("{file} block {block}"));
    }

    /// The node loses its power, and its directory one of the names.
    fn lose_name(&mut self, shard: PeerId) {
        self.world.crash(shard.node, Crash::Power);
        self.start_later(shard.node);
        let disk = &mut self.world.host_mut(shard).disk;
        let files = disk.file_names();
        if files.is_empty() {
            return;
        }
        let file = files[self.more.random_range(0..files.len())];
        disk.lose_file(file);
        self.harmed.push(shard.node);
        self.world.mark_lossy(shard);
        self.world.marks.reach(LOST_NAME);
        self.world.say(|| format!("{file} is gone"));
    }

    /// The disks of a node are slow for a while.
    pub(super) fn slow_disks(&mut self) {
        let nodes = self.world.layout().nodes();
        let node = nodes[self.more.random_range(0..nodes.len())];
        if self.slowed.is_some() {
            return;
        }
        let us = self.more.random_range(500..=self.faults.slow_io_us_max);
        for shard in self.shards_of(node) {
            self.world.slow_disk(shard, us);
        }
        self.slowed = Some(node);
        let least = self.faults.slow_us_max / 4;
        let for_us = self.more.random_range(least..=self.faults.slow_us_max);
        let at = self.world.now_us() + for_us;
        self.world.wake_at(at, token_of(Fault::Hurry));
    }

    /// They are as fast as before.
    pub(super) fn hurry_disks(&mut self) {
        if let Some(node) = self.slowed.take() {
            self.world.hurry_disks(node);
        }
    }
}
