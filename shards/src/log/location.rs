//! Where entries lie: for each partition, which extent holds which run.

use std::collections::BTreeMap;

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId, Term};

use super::item::Item;
use super::record::RecordKind;

/// An extent's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExtentPlace {
    pub pair: PairNumber,
    pub chain: ChainNumber,
    pub first_block: u32,
    pub blocks: u32,
}

/// A run of entries of one term in one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub term: Term,
    pub first: LogIndex,
    pub last: LogIndex,
    pub place: ExtentPlace,
}

/// The locations of a shard's entries, per partition ascending and disjoint. A later run replaces what it
/// overlaps.
#[derive(Debug, Default)]
pub(super) struct Locations {
    partitions: BTreeMap<PartitionId, Vec<Location>>,
}

impl Locations {
    /// Notes where an item's entries lie; forgets what a truncation removes.
    pub fn note(&mut self, item: &Item<'_>, place: ExtentPlace) {
        match item {
            Item::Run(run) => self.insert(
                run.partition,
                Location {
                    term: run.term,
                    first: run.first,
                    last: run.last(),
                    place,
                },
            ),
            Item::Small(record) => {
                let header = &record.header;
                match header.kind {
                    RecordKind::Configuration | RecordKind::RelocatedConfiguration
                        if header.index > LogIndex::ZERO =>
                    {
                        self.insert(
                            header.partition,
                            Location {
                                term: header.term,
                                first: header.index,
                                last: header.index,
                                place,
                            },
                        );
                    }
                    RecordKind::Floor => self.forget_until(header.partition, header.index),
                    RecordKind::Truncate => self.truncate(header.partition, header.index),
                    RecordKind::PartitionTombstone => {
                        self.partitions.remove(&header.partition);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Notes where a run lies. It replaces what it overlaps.
    pub fn insert(&mut self, partition: PartitionId, new: Location) {
        let list = self.partitions.entry(partition).or_default();
        if list.last().is_none_or(|newest| newest.last < new.first) {
            // Thousands of partitions may have one run each.
            if list.is_empty() {
                list.reserve_exact(1);
            }
            list.push(new);
            return;
        }
        let at = list.partition_point(|old| old.last < new.first);
        if list[at].first == new.first && list[at].last == new.last {
            list[at] = new;
            return;
        }
        let mut kept = Vec::with_capacity(list.len() + 2);
        for old in list.drain(..) {
            if old.last < new.first || old.first > new.last {
                kept.push(old);
                continue;
            }
            if old.first < new.first {
                kept.push(Location {
                    last: new.first.prev(),
                    ..old
                });
            }
            if old.last > new.last {
                kept.push(Location {
                    first: new.last.next(),
                    ..old
                });
            }
        }
        let at = kept.partition_point(|old| old.first < new.first);
        kept.insert(at, new);
        *list = kept;
    }

    /// Gives back the memory that `partition` does not need while nothing is written to it.
    pub fn rest(&mut self, partition: PartitionId) {
        if let Some(list) = self.partitions.get_mut(&partition) {
            list.shrink_to_fit();
        }
    }

    /// Puts the partitions as close together as they fit.
    pub fn pack(&mut self) {
        self.partitions = core::mem::take(&mut self.partitions).into_iter().collect();
    }

    /// Forgets everything of `partition` from `from` on.
    pub fn truncate(&mut self, partition: PartitionId, from: LogIndex) {
        if let Some(list) = self.partitions.get_mut(&partition) {
            let keep = list.partition_point(|location| location.first < from);
            list.truncate(keep);
            if let Some(newest) = list.last_mut() {
                newest.last = newest.last.min(from.prev());
            }
        }
    }

    /// Keeps of every run of `partition` the part that `standing` gives for its term: where the log holds entries of it.
    pub fn keep_standing(
        &mut self,
        partition: PartitionId,
        standing: impl Fn(Term) -> Option<(LogIndex, LogIndex)>,
    ) {
        if let Some(list) = self.partitions.get_mut(&partition) {
            list.retain_mut(|location| {
                let Some((first, last)) = standing(location.term) else {
                    return false;
                };
                location.first = location.first.max(first);
                location.last = location.last.min(last);
                location.first <= location.last
            });
        }
    }

    /// Forgets everything of `partition` up to `until`.
    pub fn forget_until(&mut self, partition: PartitionId, until: LogIndex) {
        if let Some(list) = self.partitions.get_mut(&partition) {
            let gone = list.partition_point(|location| location.last <= until);
            list.drain(..gone);
            if let Some(oldest) = list.first_mut() {
                oldest.first = oldest.first.max(until.next());
            }
        }
    }

    /// The partitions from `partition` on, ascending, each with its runs.
    pub fn from(&self, partition: PartitionId) -> impl Iterator<Item = (PartitionId, &[Location])> {
        self.partitions
            .range(partition..)
            .map(|(id, list)| (*id, list.as_slice()))
    }

    /// Where the entry at `index` lies.
    pub fn find(&self, partition: PartitionId, index: LogIndex) -> Option<Location> {
        let list = self.partitions.get(&partition)?;
        let after = list.partition_point(|location| location.first <= index);
        let location = list.get(after.checked_sub(1)?)?;
        (location.last >= index).then_some(*location)
    }

    /// The runs of one partition, ascending.
    pub fn of(&self, partition: PartitionId) -> &[Location] {
        self.partitions.get(&partition).map_or(&[], Vec::as_slice)
    }

    /// The runs that lie in one extent, by partition.
    pub fn in_extent(
        &self,
        pair: PairNumber,
        chain: ChainNumber,
    ) -> impl Iterator<Item = (PartitionId, Location)> {
        self.partitions.iter().flat_map(move |(partition, list)| {
            list.iter()
                .filter(move |location| {
                    (location.place.pair, location.place.chain) == (pair, chain)
                })
                .map(|location| (*partition, *location))
        })
    }
}
