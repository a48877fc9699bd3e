//! Whether what was asked for by number is there at all, and what there is where it is not.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::log::inspect::{PairView, SlotView};
use clustor_shards::log::record::RecordHeader;
use clustor_wire::ids::{ChainNumber, LogIndex, PartitionId};

use super::InspectArgs;
use crate::exit::{CommandError, Exit};

/// Partitions named at most.
const LISTED_MAX: usize = 8;

/// What was seen of the numbers that can be asked for, over all shards that were looked at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pairs: BTreeSet<u64>,
    /// First and last of each pair.
    chains: Vec<(ChainNumber, ChainNumber)>,
    /// First and last index of each partition; none of its own where it holds no entry.
    partitions: BTreeMap<PartitionId, Option<(LogIndex, LogIndex)>>,
}

impl Seen {
    /// There is such a pair.
    pub fn note_pair(&mut self, pair: u64) {
        self.pairs.insert(pair);
    }

    /// What a pair holds.
    pub fn note(&mut self, pair: &PairView) {
        if let (Some(first), Some(last)) = (pair.chains.first(), pair.chains.last()) {
            self.chains.push((first.chain, last.chain));
        }
        if let Some(checkpoint) = &pair.checkpoint {
            for (id, log) in &checkpoint.fold.partitions {
                self.note_entries(*id, log.base.next(), log.last);
            }
        }
        for chain in &pair.chains {
            let SlotView::Good(_, items) = &chain.slot else {
                continue;
            };
            for item in items {
                self.note_records(&item.at, item.count);
            }
            let extent = chain.extent.iter();
            for record in extent.flat_map(|extent| &extent.records) {
                self.note_records(&record.header, 1);
            }
        }
    }

    /// Records of entries, or one of something else.
    fn note_records(&mut self, at: &RecordHeader, count: u32) {
        let is_entry = at.kind.content().is_some() && at.index > LogIndex::ZERO;
        let count = if is_entry { u64::from(count) } else { 0 };
        let behind = at.index.get().saturating_add(count);
        let (first, last) = match count {
            0 => (at.index.next(), at.index),
            _ => (at.index, LogIndex(behind - 1)),
        };
        self.note_entries(at.partition, first, last);
    }

    fn note_entries(&mut self, id: PartitionId, first: LogIndex, last: LogIndex) {
        let known = self.partitions.entry(id).or_default();
        if first > last {
            return;
        }
        *known = Some(match *known {
            None => (first, last),
            Some((least, most)) => (least.min(first), most.max(last)),
        });
    }

    /// An error that says what there is, where something was asked for by its number and is not there.
    pub fn verdict(&self, args: &InspectArgs) -> Result<(), CommandError> {
        let missed = self.missed(args);
        missed.map_or(Ok(()), |what| {
            Err(CommandError::failed(format!(
                "{}: {what}",
                args.data.display()
            )))
        })
    }

    fn missed(&self, args: &InspectArgs) -> Option<String> {
        if let Some(pair) = args.pair.filter(|pair| !self.pairs.contains(pair)) {
            let there = one_or_range(self.pairs.first().zip(self.pairs.last()));
            return Some(format!("no pair {pair} here; there is {there}"));
        }
        if let Some((first, last)) = args.chains
            && !self.chains.iter().any(|(a, b)| *a <= last && *b >= first)
        {
            let least = self.chains.iter().map(|(first, _)| first).min();
            let most = self.chains.iter().map(|(_, last)| last).max();
            let there = one_or_range(least.zip(most));
            return Some(format!("no such chain here; there is {there}"));
        }
        let id = PartitionId(args.partition?);
        let Some(entries) = self.partitions.get(&id) else {
            // What is the shard's own is recorded under 0, without entries.
            let own =
                |(id, entries): &(&PartitionId, &Option<_>)| id.get() == 0 && entries.is_none();
            let ids = self
                .partitions
                .iter()
                .filter(|at| !own(at))
                .map(|(id, _)| id.to_string());
            let ids: Vec<String> = ids.collect();
            let more = ids.len().saturating_sub(LISTED_MAX);
            let there = match more {
                _ if ids.is_empty() => "none".to_owned(),
                0 => ids.join(", "),
                _ => format!("{} and {more} more", ids[..LISTED_MAX].join(", ")),
            };
            return Some(format!("nothing of partition {id} here; there is {there}"));
        };
        let is_wanted = |(first, last): &(LogIndex, LogIndex)| {
            args.from.is_none_or(|from| last.get() >= from)
                && args.to.is_none_or(|to| first.get() <= to)
        };
        let is_ranged = args.from.is_some() || args.to.is_some();
        if !is_ranged || entries.as_ref().is_some_and(is_wanted) {
            return None;
        }
        let there = one_or_range(entries.as_ref().map(|(first, last)| (first, last)));
        Some(format!(
            "no such entry of partition {id} here; there is {there}"
        ))
    }
}

/// A range that can hold nothing.
pub(super) fn check_range(args: &InspectArgs) -> Result<(), CommandError> {
    match (args.from, args.to) {
        (Some(from), Some(to)) if from > to => Err(CommandError {
            exit: Exit::Usage,
            message: format!("--from {from} --to {to}: the first index is above the last"),
        }),
        _ => Ok(()),
    }
}

/// Numbers from the least to the greatest, in words.
fn one_or_range<N: PartialEq + core::fmt::Display>(range: Option<(&N, &N)>) -> String {
    match range {
        None => "none".to_owned(),
        Some((first, last)) if first == last => format!("{first}"),
        Some((first, last)) => format!("{first} to {last}"),
    }
}
