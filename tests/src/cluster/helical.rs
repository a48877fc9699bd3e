//! Helical damage: of each entry every replica but one loses its copy, another one each time, and all of them restart.
//!
//! Each entry is whole somewhere, and no replica is whole. What was under way and never committed may be lost by all who had it. Nobody is told, and no operator comes: whoever lacks content has to find
//! out and to ask those that have it, and must not take it for a torn tail (Alagappan et al., "Protocol-Aware Recovery for
//! Consensus-Based Storage", FAST '18).

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::disk::{FileId, FileKind};
use clustor_shards::log::OnAuthenticationFailure;
use clustor_shards::log::inspect::{ChainView, Judgement, PairView, SlotView};
use clustor_shards::log::record::RecordKind;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, Term};
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
/// So many entries in a row are to stand on the same shard.
const RUN: u64 = 8;

/// An entry: the same index may have been written in more than one term.
type Entry = (PartitionId, LogIndex, Term);

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

/// What stands on which shards.
type Standing = BTreeMap<Entry, BTreeSet<PeerId>>;

/// Lets so much rot that each entry stands on one shard, another one for each run of them; where a chain holds it together with
/// one that stands nowhere else, on more. What so few hold that it was never committed may be lost altogether: a majority of
/// others can say so. All nodes are down. Returns how many extents rot.
pub(super) fn let_all_but_one_rot(world: &mut World) -> Result<u64, Violation> {
    let mut standing = Standing::new();
    let mut all = Vec::new();
    for shard in world.layout().shards.clone() {
        let Some(host) = world.host(shard) else {
            continue;
        };
        let (open, extents) = extents(shard, &host.disk)?;
        let found = extents.iter().flat_map(|extent| &extent.entries);
        for entry in found.chain(&open) {
            standing.entry(*entry).or_default().insert(shard);
        }
        // What an opening holds stays.
        let may_go = |extent: &Extent| !extent.entries.iter().any(|entry| open.contains(entry));
        all.extend(extents.into_iter().filter(may_go).map(|e| (shard, e)));
    }
    let spent: BTreeSet<Entry> = standing
        .iter()
        .filter(|(entry, on)| is_spent(world, entry, on.len()))
        .map(|(entry, _)| *entry)
        .collect();
    let first = standing.clone();
    let keeps = |shard: PeerId, entry: &Entry| {
        let on = &first[entry];
        let run = (entry.0.get() as u64 + entry.1.get() / RUN) % on.len() as u64;
        on.iter().nth(run as usize) == Some(&shard)
    };
    // First on those that are to keep nothing of it.
    all.sort_by_key(|(shard, extent)| extent.entries.iter().any(|entry| keeps(*shard, entry)));
    let (mut rotten, mut entries) = (0, 0);
    for (shard, extent) in all {
        let elsewhere = |entry: &Entry| spent.contains(entry) || standing[entry].len() > 1;
        let gone = |entry: &Entry| !standing[entry].contains(&shard);
        if !extent.entries.iter().all(|e| elsewhere(e) || gone(e)) {
            continue;
        }
        let disk = &mut world.host_mut(shard).disk;
        for block in extent.first_block..extent.first_block + extent.blocks {
            disk.plant_rot(extent.file, block);
        }
        for entry in &extent.entries {
            standing.entry(*entry).or_default().remove(&shard);
        }
        rotten += 1;
        entries += extent.entries.len();
        world.mark_lossy(shard);
    }
    let once = standing.values().filter(|on| on.len() == 1).count();
    world.say(|| {
        let of = standing.len();
        format!("{entries} entries rot in {rotten} extents; of {of}, {once} stand on one shard")
    });
    Ok(rotten)
}

/// Whether an entry that stands on so many shards may be lost: it is committed nowhere, and a majority of voters never had it.
fn is_spent(world: &World, entry: &Entry, on: usize) -> bool {
    let (id, index, _) = *entry;
    let voters = world.layout().partition(id).map_or(0, |p| p.voters.len());
    let others = voters.saturating_sub(on);
    index > world.consensus().committed(id) && others > voters / 2
}

/// What the openings on a disk hold, and the other extents of entries.
fn extents(shard: PeerId, disk: &SimDisk) -> Result<(BTreeSet<Entry>, Vec<Extent>), Violation> {
    let (mut open, mut found) = (BTreeSet::new(), Vec::new());
    provable::each_pair(shard, disk, |pair| {
        let mut all = extents_of(pair).peekable();
        let opening = all.next_if(|extent| extent.first_block == pair.chains[0].first_block);
        open.extend(opening.into_iter().flat_map(|extent| extent.entries));
        found.extend(all);
    })?;
    Ok((open, found))
}

fn extents_of(pair: &PairView) -> impl Iterator<Item = Extent> {
    let file = FileId {
        kind: FileKind::Segment,
        pair: pair.pair,
    };
    let chains = pair.chains.iter();
    let proven = chains.filter(|chain| chain.judgement == Judgement::Proven);
    proven.filter_map(move |chain| extent_of(file, chain))
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
            indexes.map(|index| (run.at.partition, LogIndex(index), run.at.term))
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
