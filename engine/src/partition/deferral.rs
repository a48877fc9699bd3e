//! Items whose side effects are not safe yet, and the appends that wait for that.

use std::collections::BTreeMap;

use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;

use super::{Answer, Partition, PendingAppend};
use crate::machine::deferred::{DEFERRED_MAX, Settled};
use crate::outcome::Outcome;

/// A handle that is out.
#[derive(Debug)]
struct Out {
    index: LogIndex,
    given_at: Time,
}

/// An item with handles out.
#[derive(Default)]
struct Parked {
    handles: usize,
    /// The appends that wait for it, with their outcomes: the item's own, and those of its duplicates.
    appends: Vec<(PendingAppend, Outcome)>,
}

/// The handles that are out and the items they are for.
pub(super) struct Deferrals {
    out: BTreeMap<u64, Out>,
    parked: BTreeMap<LogIndex, Parked>,
    /// Appends parked, in all.
    waiting: usize,
    /// When the one that was out longest, or one of a former life of the machine, was settled last: the patience with the next begins
    /// anew, since whoever works them off one after the other could not have begun with it before.
    progress_at: Option<Time>,
}

impl Deferrals {
    /// None is out.
    pub const NONE: Self = Self {
        out: BTreeMap::new(),
        parked: BTreeMap::new(),
        waiting: 0,
        progress_at: None,
    };

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Appends that wait for effects.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether nothing more is applied until some are settled.
    pub fn is_full(&self) -> bool {
        self.out.len() >= DEFERRED_MAX
    }

    /// Handles were given out for items that took effect.
    pub fn begin(&mut self, given_at: Time, deferred: Vec<(u64, LogIndex)>) {
        for (number, index) in deferred {
            self.out.insert(number, Out { index, given_at });
            self.parked.entry(index).or_default().handles += 1;
        }
    }

    /// Keeps an answer that promises what the item at `promised` came to, if that has handles out; else gives it back.
    pub fn park(
        &mut self,
        promised: LogIndex,
        append: PendingAppend,
        outcome: Outcome,
    ) -> Option<Answer> {
        match self.parked.get_mut(&promised) {
            Some(parked) => {
                parked.appends.push((append, outcome));
                self.waiting += 1;
                None
            }
            None => Some(Answer::Append(append.origin, outcome)),
        }
    }

    /// The handle that is out longest, by its index, and since when it is waited for. They were given out in the order of their
    /// numbers.
    fn oldest(&self) -> Option<(LogIndex, Time)> {
        let out = self.out.values().next()?;
        let since = self
            .progress_at
            .map_or(out.given_at, |at| at.max(out.given_at));
        Some((out.index, since))
    }

    /// A handle says what became of its effect. Returns the item's index; `None` if it is of a life of the machine that is
    /// over.
    fn take(&mut self, now: Time, number: u64) -> Option<LogIndex> {
        let oldest = self.out.keys().next()?;
        if number <= *oldest {
            self.progress_at = Some(now);
        }
        self.out.remove(&number).map(|out| out.index)
    }

    /// A handle is done. Returns the answers that waited for it alone.
    fn done(&mut self, index: LogIndex) -> impl Iterator<Item = Answer> + use<> {
        let mut answered = Vec::new();
        if let Some(parked) = self.parked.get_mut(&index) {
            parked.handles -= 1;
            if parked.handles == 0 {
                answered = core::mem::take(&mut parked.appends);
                self.parked.remove(&index);
            }
        }
        self.waiting -= answered.len();
        answered
            .into_iter()
            .map(|(append, outcome)| Answer::Append(append.origin, outcome))
    }

    /// The machine is gone, and what handles say of it counts no longer. Returns the appends that waited, in the order of
    /// their own entries.
    pub fn forget(&mut self) -> impl DoubleEndedIterator<Item = PendingAppend> + use<> {
        self.out.clear();
        let mut waited: Vec<PendingAppend> = self.take_appends().collect();
        self.parked.clear();
        waited.sort_unstable_by_key(|append| append.index);
        waited.into_iter()
    }

    /// The appends that wait, given up; the handles stay out.
    pub fn take_appends(&mut self) -> impl Iterator<Item = PendingAppend> {
        self.waiting = 0;
        let parked = self.parked.values_mut();
        let appends = parked.flat_map(|parked| parked.appends.drain(..));
        appends.map(|(append, _)| append)
    }
}

impl Partition {
    /// When the handle that is out longest is late.
    pub(crate) fn ack_deadline(&self) -> Option<Time> {
        let (_, since) = self.busy.deferrals.oldest()?;
        Some(since.plus_ms(self.patience_ms))
    }

    /// A handle says what became of its effect.
    pub(crate) fn settle(&mut self, now: Time, settled: Settled, answers: &mut Vec<Answer>) {
        let Some(index) = self.busy.deferrals.take(now, settled.number) else {
            return;
        };
        match settled.result {
            Ok(()) => answers.extend(self.busy.deferrals.done(index)),
            Err(reason) => {
                let failure = format!("deferred an effect of index {index}: {reason}");
                self.give_up_machine(failure, now, answers);
            }
        }
    }

    /// A handle that is late counts as failed.
    pub(super) fn judge_late(&mut self, now: Time, answers: &mut Vec<Answer>) {
        if let Some((index, since)) = self.busy.deferrals.oldest()
            && since.plus_ms(self.patience_ms) <= now
        {
            let patience_ms = self.patience_ms;
            let failure = format!(
                "deferred an effect of index {index} that is not settled after ack_ms_max = {patience_ms} ms"
            );
            self.give_up_machine(failure, now, answers);
        }
    }
}
