//! Durability modes: a log says the same of its partition's mode on every replica, and a change of it stands alone.

use std::collections::BTreeMap;

use clustor_engine::raft::Transition;
use clustor_engine::shard_core::ShardCore;
use clustor_shards::log::inspect::{PairView, SlotView, inspect};
use clustor_shards::log::record::RecordKind;
use clustor_shards::log::recovery::RecoverError;
use clustor_shards::log::{LogIdentity, Mode};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use clustor_wire::message::Role;

use super::{Violation, must};
use crate::cluster::host::SimKey;
use crate::cluster::layout::CLUSTER;
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
}

impl Modes {
    /// Looks at a shard after a turn.
    pub(crate) fn after_turn(&mut self, me: PeerId, core: &ShardCore) -> Result<(), Violation> {
        for partition in core.partitions() {
            let status = partition.status();
            let Some(log) = core.log().partition(status.partition) else {
                continue;
            };
            if status.role == Role::Quarantined {
                continue;
            }
            let who = || format!("p{} on {}", status.partition.get(), name(me));
            let latest = partition.mode_change();
            if let Some((index, transition)) = latest
                && let Some(term) = log.term_at(index)
            {
                let place = (status.partition, index, term);
                let known = *self.changes.entry(place).or_insert(transition);
                must(known == transition, "a change of the mode is one", || {
                    format!("{}: {transition:?} at {index}, elsewhere {known:?}", who())
                })?;
            }
            if partition.is_in_fallback() {
                must(
                    partition.mode() == Mode::Strict,
                    "who has not applied its log is strict",
                    who,
                )?;
                continue;
            }
            let Some(term) = log.term_at(log.last) else {
                continue;
            };
            let end = (status.partition, log.last, term);
            let known = *self.latest.entry(end).or_insert(latest);
            must(known == latest, "the mode is what the log says", || {
                format!(
                    "{}: the log ends at {} of term {term}, latest change {latest:?}, elsewhere {known:?}",
                    who(),
                    log.last
                )
            })?;
        }
        Ok(())
    }

    /// Looks at a shard's files: nothing stands in a chain together with a change of the mode.
    pub(crate) fn fenced(&self, shard: PeerId, disk: &SimDisk) -> Result<(), Violation> {
        let mut copy = SimDisk::new(0);
        copy.restore(disk.image());
        let identity = LogIdentity {
            cluster: CLUSTER,
            node: shard.node,
            shard: shard.shard,
        };
        let mut broken = None;
        let looked = inspect(&mut copy, identity, &SimKey, |pair| {
            broken = broken.take().or_else(|| self.unfenced(&pair));
            Ok::<(), RecoverError>(())
        });
        let what = match looked {
            Ok(()) => broken,
            Err(error) => Some(error.to_string()),
        };
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
