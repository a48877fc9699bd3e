//! Durability modes: a log says the same of its partition's mode on every replica, a change of it stands alone, and no leader that
//! writes by calls that block goes over to group mode.

use std::collections::BTreeMap;

use clustor_engine::raft::Transition;
use clustor_engine::shard_core::ShardCore;
use clustor_shards::log::Mode;
use clustor_shards::log::inspect::{PairView, SlotView};
use clustor_shards::log::record::RecordKind;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use clustor_wire::message::Role;

use super::consensus::Who;
use super::provable::each_pair;
use super::{Violation, must};
use crate::cluster::messages::name;
use crate::disk::SimDisk;

/// An entry: what stands before it is decided by it (log matching).
type Place = (PartitionId, LogIndex, Term);

/// What was seen of the modes of all partitions.
#[derive(Debug, Default)]
pub struct Modes {
    /// The changes, wherever they were seen.
    changes: BTreeMap<Place, Transition>,
    /// The latest change in a log that ends with an entry.
    latest: BTreeMap<Place, Option<(LogIndex, Transition)>>,
    /// What each replica showed last: that was compared.
    shown: BTreeMap<(PartitionId, PeerId), Shown>,
}

/// What a replica shows: where its log ends, and the latest change in it with its entry's term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    end: Place,
    latest: Option<(LogIndex, Transition)>,
    changed_in: Option<Term>,
}

impl Modes {
    /// Looks at a shard after a turn, which writes by calls that block or does not.
    pub(crate) fn after_turn(
        &mut self,
        me: PeerId,
        blocks: bool,
        core: &ShardCore,
    ) -> Result<(), Violation> {
        for partition in core.partitions() {
            let glance = partition.glance();
            let Some(log) = core.log().partition(glance.partition) else {
                continue;
            };
            if glance.role == Role::Quarantined {
                continue;
            }
            let who = Who(glance.partition, me);
            let latest = partition.mode_change();
            let changed_in = latest.and_then(|(index, _)| log.term_at(index));
            if let (Some((index, transition)), Some(term)) = (latest, changed_in) {
                self.one_change(who, (glance.partition, index, term), transition)?;
                // What is of the term that it leads in is its own.
                let own = glance.role == Role::Leader && glance.term == term;
                must(
                    !(blocks && own && transition.mode == Mode::Group),
                    "who writes by calls that block is in no group mode",
                    || format!("{who}: {transition:?} at {index} of term {term}"),
                )?;
            }
            if partition.is_in_fallback() {
                must(
                    partition.mode() == Mode::Strict,
                    "who has not applied its log is strict",
                    || who.to_string(),
                )?;
                continue;
            }
            let Some(term) = log.term_at(log.last) else {
                continue;
            };
            let shown = Shown {
                end: (glance.partition, log.last, term),
                latest,
                changed_in,
            };
            if self.shown.insert((glance.partition, me), shown) == Some(shown) {
                continue;
            }
            let known = *self.latest.entry(shown.end).or_insert(latest);
            must(known == latest, "the mode is what the log says", || {
                format!(
                    "{who}: the log ends at {} of term {term}, latest change {latest:?}, elsewhere {known:?}",
                    log.last
                )
            })?;
        }
        Ok(())
    }

    fn one_change(
        &mut self,
        who: Who,
        place: Place,
        transition: Transition,
    ) -> Result<(), Violation> {
        let known = *self.changes.entry(place).or_insert(transition);
        must(known == transition, "a change of the mode is one", || {
            format!("{who}: {transition:?} at {}, elsewhere {known:?}", place.1)
        })
    }

    /// Looks at a shard's files: nothing stands in a chain together with a change of the mode.
    pub(crate) fn fenced(&self, shard: PeerId, disk: &SimDisk) -> Result<(), Violation> {
        let mut what = None;
        each_pair(shard, disk, |pair| {
            what = what.take().or_else(|| self.unfenced(pair));
        })?;
        must(
            what.is_none(),
            "a change of the mode has its own chain",
            || format!("{}: {}", name(shard), what.unwrap_or_default()),
        )
    }

    fn unfenced(&self, pair: &PairView) -> Option<String> {
        // A boot's opening writes the records of many chains again, in one.
        for chain in pair.chains.iter().skip(1) {
            let SlotView::Good(_, items) = &chain.slot else {
                continue;
            };
            let entries = items
                .iter()
                .filter(|item| item.at.kind == RecordKind::Entry);
            let alone = items.len() == 1 && items[0].count == 1;
            for item in entries.filter(|_| !alone) {
                let first = (item.at.partition, item.at.index, item.at.term);
                let end = LogIndex(item.at.index.get() + u64::from(item.count));
                let change = self
                    .changes
                    .range(first..(item.at.partition, end, Term::ZERO))
                    .find(|((_, _, term), _)| *term == item.at.term);
                if let Some(((partition, index, _), _)) = change {
                    return Some(format!(
                        "chain {} of pair {} holds the change at index {index} of partition {partition} among {items:?}",
                        chain.chain, pair.pair
                    ));
                }
            }
        }
        None
    }
}
