//! State-machine safety: every machine of a partition takes the same commands at the same indexes, in the same
//! order, and no operation twice.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, Term};

use super::consensus::Who;
use super::timers::Orders;
use super::{Violation, must};
use crate::cluster::machine::{Expiry, Taken};

/// What the machines of one partition agreed on.
#[derive(Debug, Default)]
pub struct Agreed {
    taken: Vec<Taken>,
    expired: Vec<Expiry>,
    ops: BTreeMap<u64, usize>,
    /// Operations all of whose attempts were refused: they must never be taken.
    never: BTreeSet<u64>,
    /// Operations all of whose attempts at a shard were refused: they must never be taken out of a term that it led.
    never_from: BTreeSet<(u64, PeerId)>,
    /// The only term out of which an operation may be taken; `None` where its attempts say different things.
    fences: BTreeMap<u64, Option<Term>>,
    /// How many commands were looked at for where they came from.
    traced: usize,
    /// Acknowledged at an index, seen in no machine yet.
    expected: BTreeMap<LogIndex, u64>,
    orders: Orders,
}

impl Agreed {
    /// The commands, in order.
    #[must_use]
    pub fn taken(&self) -> &[Taken] {
        &self.taken
    }

    /// The command at an index, and its place in the list.
    #[must_use]
    pub fn at(&self, index: LogIndex) -> Option<(usize, &Taken)> {
        let place = self
            .taken
            .binary_search_by_key(&index, |taken| taken.index)
            .ok()?;
        Some((place, &self.taken[place]))
    }

    /// Whether an operation was taken.
    #[must_use]
    pub fn has(&self, op: u64) -> bool {
        self.ops.contains_key(&op)
    }

    /// An operation is asked for, with this command.
    pub(crate) fn note_command(&mut self, op: u64, command: &[u8]) {
        self.orders.note(op, command);
    }

    /// The end of a run: timers expired as the commands say that were taken.
    pub(crate) fn judge_timers(&self) -> Result<(), Violation> {
        self.orders.judge(&self.taken, &self.expired)
    }

    /// Compares what a machine took from its `verified`th command on, and the one before that again: a machine that was made
    /// anew meanwhile may have got as far.
    pub(crate) fn compare(
        &mut self,
        who: Who,
        verified: usize,
        taken: &[Taken],
    ) -> Result<(), Violation> {
        for (place, item) in taken.iter().enumerate().skip(verified.saturating_sub(1)) {
            if let Some(known) = self.taken.get(place) {
                must(known == item, "machines take the same commands", || {
                    format!("{who}: command {place} is {item:?}, elsewhere {known:?}")
                })?;
            } else {
                self.extend(who, place, *item)?;
            }
        }
        Ok(())
    }

    /// Compares the timers that expired in a machine in the same way.
    pub(crate) fn compare_expired(
        &mut self,
        who: Who,
        verified: usize,
        expired: &[Expiry],
    ) -> Result<(), Violation> {
        for (place, expiry) in expired.iter().enumerate().skip(verified.saturating_sub(1)) {
            if let Some(known) = self.expired.get(place) {
                must(
                    known == expiry,
                    "timers expire at the same index everywhere",
                    || format!("{who}: timer {place} is {expiry:?}, elsewhere {known:?}"),
                )?;
                continue;
            }
            must(
                expiry.stamp >= expiry.timer.due,
                "a timer does not expire before it is due",
                || format!("{who}: {expiry:?}"),
            )?;
            let last = self.expired.last();
            must(
                last.is_none_or(|last| last.index <= expiry.index && last.stamp <= expiry.stamp),
                "time does not go back",
                || format!("{who}: {expiry:?} after {last:?}"),
            )?;
            self.expired.push(expiry.clone());
        }
        Ok(())
    }

    fn extend(&mut self, who: Who, place: usize, item: Taken) -> Result<(), Violation> {
        let after = self.taken.last().map_or(LogIndex::ZERO, |last| last.index);
        must(
            item.index > after,
            "machines take commands in index order",
            || format!("{who}: {item:?} comes after index {after}"),
        )?;
        let time = self.taken.last().map_or(0, |last| last.stamp.0);
        must(item.stamp.0 >= time, "time does not go back", || {
            format!("{who}: {item:?} comes after time {time}")
        })?;
        let before = self.ops.insert(item.op, place);
        must(
            before.is_none(),
            "an operation executes at most once",
            || {
                format!(
                    "{who}: operation {} at index {}, and before at {:?}",
                    item.op,
                    item.index,
                    before.and_then(|place| self.taken.get(place))
                )
            },
        )?;
        must(
            !self.never.contains(&item.op),
            "what was refused never happens",
            || {
                format!(
                    "{who}: operation {} at index {} was refused",
                    item.op, item.index
                )
            },
        )?;
        let fence = self.fences.get(&item.op).copied().flatten();
        must(
            fence.is_none_or(|term| term == item.term),
            "an append for a term enters the log in it alone",
            || format!("{who}: {item:?} is for term {fence:?}"),
        )?;
        if let Some(op) = self.expected.remove(&item.index) {
            must(op == item.op, "what is acknowledged stays", || {
                format!(
                    "{who}: index {} was acknowledged for operation {op}, taken is {item:?}",
                    item.index
                )
            })?;
        }
        self.taken.push(item);
        Ok(())
    }

    /// An operation was acknowledged at an index that no machine has taken yet.
    pub(crate) fn expect(&mut self, index: LogIndex, op: u64) -> Result<(), Violation> {
        let last = self.taken.last().map_or(LogIndex::ZERO, |last| last.index);
        let gone = index <= last && self.at(index).is_none_or(|(_, taken)| taken.op != op);
        must(!gone, "what is acknowledged stays", || {
            format!("index {index} was acknowledged for operation {op}, the machines have another")
        })?;
        if index > last {
            self.expected.insert(index, op);
        }
        Ok(())
    }

    /// All attempts of an operation were refused.
    pub(crate) fn refuse(&mut self, op: u64) -> Result<(), Violation> {
        self.never.insert(op);
        must(!self.has(op), "what was refused never happens", || {
            format!("operation {op} was refused and has been executed")
        })
    }

    /// All attempts of an operation at `from`, which led these terms, were refused: only a leader's own clients bring something
    /// into the log of its term.
    pub(crate) fn refuse_from(
        &mut self,
        op: u64,
        from: PeerId,
        leaders: &BTreeMap<Term, PeerId>,
    ) -> Result<(), Violation> {
        self.never_from.insert((op, from));
        let taken = self.ops.get(&op).and_then(|place| self.taken.get(*place));
        taken.map_or(Ok(()), |taken| self.judge_origin(taken, leaders))
    }

    /// Looks at what was taken since the last time for where it came from.
    pub(crate) fn trace_origins(
        &mut self,
        leaders: &BTreeMap<Term, PeerId>,
    ) -> Result<(), Violation> {
        let new = &self.taken[self.traced..];
        new.iter()
            .try_for_each(|taken| self.judge_origin(taken, leaders))?;
        self.traced = self.taken.len();
        Ok(())
    }

    fn judge_origin(
        &self,
        taken: &Taken,
        leaders: &BTreeMap<Term, PeerId>,
    ) -> Result<(), Violation> {
        let leader = leaders.get(&taken.term);
        let refused = leader.filter(|leader| self.never_from.contains(&(taken.op, **leader)));
        must(refused.is_none(), "what was refused never happens", || {
            format!("{taken:?} is of the term of {leader:?}, which refused it")
        })
    }

    /// An operation is tried, maybe again, at `to`, and is to enter the log in this term alone, if any.
    pub(crate) fn retry(&mut self, op: u64, to: PeerId, only_in: Option<Term>) {
        self.never.remove(&op);
        self.never_from.remove(&(op, to));
        let fence = self.fences.entry(op).or_insert(only_in);
        if *fence != only_in {
            *fence = None;
        }
    }

    /// The end of a run: everything acknowledged was taken.
    pub(crate) fn settle(&self) -> Result<(), Violation> {
        must(
            self.expected.is_empty(),
            "what is acknowledged stays",
            || {
                format!(
                    "acknowledged and in no machine at the end: {:?}",
                    self.expected
                )
            },
        )
    }
}
