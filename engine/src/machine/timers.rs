//! Named timers: replicated state, the same on every replica at equal indexes.
//!
//! A machine sets and cancels them while it applies, so which are set follows from the log. When the first one is due, by the
//! time as the leader stamps it into entries, the leader appends an entry that says so, and at that entry's index every
//! replica takes those that are due out of the table. Between such entries none expires, however late it is.

use std::collections::{BTreeMap, BTreeSet};

use clustor_wire::ids::LogIndex;

use super::Stamp;

/// Bytes of a timer's name, at most; at least 1.
pub const TIMER_NAME_BYTES_MAX: usize = 64;
/// Timers set in one partition at a time, at most.
pub const TIMERS_MAX: usize = 65_536;
/// Timers that expire at one index, at most; the others that are due follow at the next. The same on all replicas, hence
/// no setting.
pub const TIMERS_DUE_MAX: usize = 512;

/// A timer that is set, or was when it came due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timer {
    /// When it is due.
    pub due: Stamp,
    /// Its name, unique in its partition.
    pub name: Vec<u8>,
}

/// Why a timer was not set. The same on every replica: a machine may act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimerError {
    /// Its name has no bytes, or too many.
    #[error("a timer's name of {0} bytes: it has 1 to {TIMER_NAME_BYTES_MAX}")]
    Name(usize),
    /// So many are set already.
    #[error("{TIMERS_MAX} timers are set already; cancel some, or let one stand for many")]
    Full,
}

/// The timers of a partition.
#[derive(Debug, Default)]
pub struct Timers {
    by_name: BTreeMap<Vec<u8>, Stamp>,
    by_due: BTreeSet<Timer>,
    /// What changed in the batch under way, and what was there before: (index, name, due).
    undo: Vec<(LogIndex, Vec<u8>, Option<Stamp>)>,
}

impl Timers {
    /// None is set.
    pub(super) const NONE: Self = Self {
        by_name: BTreeMap::new(),
        by_due: BTreeSet::new(),
        undo: Vec::new(),
    };

    /// How many are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// When the timer of this name is due, if it is set.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<Stamp> {
        self.by_name.get(name).copied()
    }

    /// All that are set, by the time at which they are due.
    pub fn iter(&self) -> impl Iterator<Item = &Timer> {
        self.by_due.iter()
    }

    /// When the first one is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Stamp> {
        self.by_due.first().map(|timer| timer.due)
    }

    /// Whether something changed at an index above this one in the batch under way.
    pub(super) fn changed_above(&self, index: LogIndex) -> bool {
        self.undo.last().is_some_and(|(last, ..)| *last > index)
    }

    /// Sets a timer, or moves it.
    pub(super) fn set(
        &mut self,
        index: LogIndex,
        name: &[u8],
        due: Stamp,
    ) -> Result<(), TimerError> {
        check_name(name)?;
        let before = self.get(name);
        if before.is_none() && self.len() >= TIMERS_MAX {
            return Err(TimerError::Full);
        }
        self.undo.push((index, name.to_vec(), before));
        self.put(name.to_vec(), Some(due));
        Ok(())
    }

    /// Cancels a timer; whether it was set.
    pub(super) fn cancel(&mut self, index: LogIndex, name: &[u8]) -> bool {
        let before = self.get(name);
        if before.is_some() {
            self.undo.push((index, name.to_vec(), before));
            self.put(name.to_vec(), None);
        }
        before.is_some()
    }

    /// Takes out what is due at `time`, at `index`: at most [`TIMERS_DUE_MAX`].
    pub(super) fn take_due(&mut self, index: LogIndex, time: Stamp) -> Vec<Timer> {
        let due: Vec<Timer> = self
            .by_due
            .iter()
            .take_while(|timer| timer.due <= time)
            .take(TIMERS_DUE_MAX)
            .cloned()
            .collect();
        for timer in &due {
            self.cancel(index, &timer.name);
        }
        due
    }

    /// Takes back what happened at `from` and behind it.
    pub(super) fn undo_from(&mut self, from: LogIndex) {
        while let Some((_, name, before)) = self.undo.pop_if(|(index, ..)| *index >= from) {
            self.put(name, before);
        }
    }

    /// What happened stands.
    pub(super) fn settle(&mut self) {
        self.undo.clear();
    }

    /// Exactly these are set.
    pub(super) fn replace(&mut self, timers: Vec<Timer>) -> Result<(), TimerError> {
        *self = Self::default();
        for timer in timers {
            self.set(LogIndex::ZERO, &timer.name, timer.due)?;
        }
        self.settle();
        Ok(())
    }

    fn put(&mut self, name: Vec<u8>, due: Option<Stamp>) {
        let before = match due {
            Some(due) => self.by_name.insert(name.clone(), due),
            None => self.by_name.remove(&name),
        };
        if let Some(before) = before {
            let timer = Timer { due: before, name };
            self.by_due.remove(&timer);
            if let Some(due) = due {
                self.by_due.insert(Timer { due, ..timer });
            }
        } else if let Some(due) = due {
            self.by_due.insert(Timer { due, name });
        }
    }
}

fn check_name(name: &[u8]) -> Result<(), TimerError> {
    if name.is_empty() || name.len() > TIMER_NAME_BYTES_MAX {
        return Err(TimerError::Name(name.len()));
    }
    Ok(())
}
