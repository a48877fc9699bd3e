//! Logs that give up their beginning while their nodes are down.
//!
//! Given up is what no machine of the partition will ask for: each has saved all of it, and more, so that the time of the partition, which
//! is the greatest stamp of its entries, stays in every log.

use clustor_shards::disk::FileKind;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId};
use rand::Rng;

use super::super::check::Violation;
use super::super::marks::GIVEN_UP;
use super::Run;
use super::disks::ROT;
use crate::disk::Crash;

/// How often all logs give up their beginning at once.
const EVERYWHERE_SHARE: f64 = 0.3;

impl Run {
    /// Up to where no machine of a partition needs an entry any more.
    fn needed_behind(&self, partition: PartitionId) -> LogIndex {
        let layout = self.world.layout().partition(partition);
        let voters = layout.into_iter().flat_map(|found| &found.voters);
        let unneeded = voters.map(|voter| {
            let host = self.world.host(*voter);
            host.map_or(LogIndex::ZERO, |host| host.unneeded(partition))
        });
        unneeded.min().unwrap_or_default()
    }

    /// A shard's log gives up the beginnings of its partitions, all that nobody needs or less, and its node goes down for it
    /// unless it is; or all shards' logs do.
    pub(super) fn give_up_beginnings(&mut self) -> Result<(), Violation> {
        let mut shards = self.world.layout().shards.clone();
        let shard = shards[self.floors.random_range(0..shards.len())];
        if !self.floors.random_bool(EVERYWHERE_SHARE) {
            shards = vec![shard];
        }
        for shard in shards {
            self.give_up_beginning(shard)?;
        }
        Ok(())
    }

    fn give_up_beginning(&mut self, shard: PeerId) -> Result<(), Violation> {
        let crash = [Crash::Kill, Crash::Power][self.floors.random_range(0..2)];
        let down_us = self.floors.random_range(1_000..=self.faults.down_us_max);
        if self.faults.fragile == Some(shard.node) {
            self.let_beginning_rot(shard, (crash, down_us));
            return Ok(());
        }
        // A disk that failed may keep nothing.
        if self.world.may_hold_damage(shard) {
            return Ok(());
        }
        let floors = self.draw_floors_of(shard);
        if floors.is_empty() {
            return Ok(());
        }
        self.take_down(shard.node, (crash, down_us));
        let bases = self.world.give_up(shard, &floors)?;
        for (base, (_, floor)) in bases.iter().zip(&floors) {
            if *base >= Some(*floor) {
                self.world.marks.reach(GIVEN_UP);
            }
        }
        Ok(())
    }

    /// A node goes down for a while, unless it is down.
    fn take_down(&mut self, node: NodeId, (crash, for_us): (Crash, u64)) {
        if self.world.node_runs(node) {
            self.world.crash(node, crash);
            let at = self.world.now_us() + for_us;
            self.world.boot_at(node, at);
        }
    }

    /// On the node whose disk may fail and does in no other way a block of the oldest segment rots, once others have given something up:
    /// maybe that.
    fn let_beginning_rot(&mut self, shard: PeerId, down: (Crash, u64)) {
        let other = self.faults.disk.is_some() || self.faults.harm.is_some();
        let early = self.world.marks.times(GIVEN_UP) == 0;
        if other || early || self.harmed.contains(&shard.node) {
            return;
        }
        self.take_down(shard.node, down);
        let disk = &mut self.world.host_mut(shard).disk;
        let mut files = disk.file_names().into_iter();
        let Some(file) = files.find(|file| file.kind == FileKind::Segment) else {
            return;
        };
        let blocks = disk.blocks_at_rest(file);
        if blocks.is_empty() {
            return;
        }
        let block = blocks[self.floors.random_range(0..blocks.len())];
        disk.plant_rot(file, block);
        self.harmed.push(shard.node);
        self.world.mark_lossy(shard);
        self.world.marks.reach(ROT);
        self.world
            .say(|| format!("rot in {file} block {block} of {shard:?}"));
    }

    fn draw_floors_of(&mut self, shard: PeerId) -> Vec<(PartitionId, LogIndex)> {
        let partitions = self.world.layout().partitions.iter();
        let here = partitions.filter(|partition| partition.voters.contains(&shard));
        let here: Vec<PartitionId> = here.map(|partition| partition.id).collect();
        let mut floors = Vec::new();
        for partition in here {
            let most = self.needed_behind(partition).get();
            let all = self.floors.random_bool(0.7);
            let some = self.floors.random_range(0..=most);
            let floor = LogIndex(if all { most } else { some });
            if floor > LogIndex::ZERO {
                floors.push((partition, floor));
            }
        }
        floors
    }
}
