//! Helical damage: every replica loses another third of what its log holds, and all of them restart.
//!
//! Each entry is whole somewhere, and no replica is whole. Nobody is told, and no operator comes: whoever lacks content has to find
//! out and to ask those that have it, and must not take it for a torn tail (Alagappan et al., "Protocol-Aware Recovery for
//! Consensus-Based Storage", FAST '18).

use std::collections::BTreeSet;

use clustor_shards::disk::{FileId, FileKind};
use clustor_shards::log::OnAuthenticationFailure;
use clustor_shards::log::inspect::{ChainView, Judgement, PairView, SlotView};
use clustor_shards::log::record::RecordKind;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId};
use clustor_wire::message::Role;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::check::{Violation, must, provable};
use super::messages::name;
use super::swarm::{Faults, Swarm};
use super::world::World;
use crate::disk::SimDisk;

/// Enough for some hundred extents on each disk.
const CHAOS_US_MAX: u64 = 3_000_000;
const CLIENTS_MAX: u64 = 16;
/// Of so many extents each replica loses one.
const SHARE: u64 = 3;

/// An entry.
type Entry = (PartitionId, LogIndex);

/// An extent with entries, and where it lies.
struct Extent {
    file: FileId,
    first_block: u32,
    blocks: u32,
    entries: Vec<Entry>,
}

impl Swarm {
    /// Draws a cluster to which nothing happens but damage: three voters or more in each partition.
    #[must_use]
    pub fn draw_helical(rng: &mut Xoshiro256PlusPlus) -> Self {
        loop {
            let mut swarm = Self::draw(rng);
            let layout = &mut swarm.layout;
            let redundant = layout.partitions.iter().all(|p| p.voters.len() > 2);
            if redundant && swarm.faults.members.is_none() {
                swarm.faults = Faults::NONE;
                // Whoever is quarantined for what it lost gets nothing back before an operator comes.
                layout.profile.on_authentication_failure = OnAuthenticationFailure::default();
                swarm.helical = true;
                swarm.chaos_us = swarm.chaos_us.min(CHAOS_US_MAX);
                swarm.load.clients = swarm.load.clients.min(CLIENTS_MAX);
                return swarm;
            }
        }
    }
}

/// Lets another third rot on each shard. Its node is down. Returns how many extents rot.
pub(super) fn let_thirds_rot(world: &mut World) -> Result<u64, Violation> {
    let mut lost = BTreeSet::new();
    let mut rotten = 0;
    for (turn, shard) in (0..).zip(world.layout().shards.clone()) {
        let Some(host) = world.host(shard) else {
            continue;
        };
        let extents = extents(shard, &host.disk)?;
        let of_the_turn = |extent: &Extent| {
            let (partition, index) = extent.entries[0];
            (partition.get() as u64 + index.get()) % SHARE == turn % SHARE
        };
        let mut mine = BTreeSet::new();
        for extent in extents.into_iter().filter(of_the_turn) {
            // What is lost elsewhere must stand here, or it is lost everywhere.
            if extent.entries.iter().any(|entry| lost.contains(entry)) {
                continue;
            }
            let disk = &mut world.host_mut(shard).disk;
            for block in extent.first_block..extent.first_block + extent.blocks {
                disk.plant_rot(extent.file, block);
            }
            mine.extend(extent.entries);
            rotten += 1;
        }
        world.say(|| format!("{} entries on {} rot", mine.len(), name(shard)));
        world.mark_lossy(shard);
        lost.extend(mine);
    }
    Ok(rotten)
}

/// The extents of entries on a disk, but for those of openings.
fn extents(shard: PeerId, disk: &SimDisk) -> Result<Vec<Extent>, Violation> {
    let mut found = Vec::new();
    provable::each_pair(shard, disk, |pair| found.extend(extents_of(pair)))?;
    Ok(found)
}

fn extents_of(pair: &PairView) -> Vec<Extent> {
    let file = FileId {
        kind: FileKind::Segment,
        pair: pair.pair,
    };
    let chains = pair.chains.iter().skip(1);
    let proven = chains.filter(|chain| chain.judgement == Judgement::Proven);
    proven.filter_map(|chain| extent_of(file, chain)).collect()
}

fn extent_of(file: FileId, chain: &ChainView) -> Option<Extent> {
    let SlotView::Good(slot, items) = &chain.slot else {
        return None;
    };
    let runs = items
        .iter()
        .filter(|item| item.at.kind == RecordKind::Entry);
    let entries: Vec<Entry> = runs
        .flat_map(|run| {
            let first = run.at.index.get();
            let indexes = first..first + u64::from(run.count);
            indexes.map(|index| (run.at.partition, LogIndex(index)))
        })
        .collect();
    (!entries.is_empty()).then_some(Extent {
        file,
        first_block: chain.first_block,
        blocks: slot.blocks,
        entries,
    })
}

/// Every replica of every partition is whole, and none of them was left out.
pub(super) fn is_whole(world: &World) -> Result<(), Violation> {
    for partition in &world.layout().partitions {
        for replica in partition.replicas() {
            let host = world.host(replica);
            let status = host.and_then(|host| host.partition(partition.id));
            let status = status.map(clustor_engine::partition::Partition::status);
            must(
                status
                    .as_ref()
                    .is_some_and(|status| status.missing == 0 && status.role != Role::Quarantined),
                "damage in different places heals by itself",
                || format!("p{} on {}: {status:?}", partition.id.get(), name(replica)),
            )?;
        }
    }
    Ok(())
}
