//! What is due when.

use std::collections::BTreeSet;

use clustor_shards::turn::PeerId;

/// What comes due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A question's time is over.
    Deadline(u64),
    /// A question is asked again.
    Again(u64),
    /// A sending has been unanswered for long.
    Attempt(PeerId, u64),
    /// A dial has taken long.
    Dial(PeerId),
}

/// Timers in order. Bounded by the questions and the shards: each has a fixed number at most.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(u64, Timer)>);

impl Timers {
    pub fn set(&mut self, at: u64, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub fn clear(&mut self, at: u64, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub fn next(&self) -> Option<u64> {
        self.0.first().map(|(at, _)| *at)
    }

    pub fn due(&mut self, now: u64) -> Option<Timer> {
        let (at, timer) = *self.0.first()?;
        if at > now {
            return None;
        }
        self.0.pop_first();
        Some(timer)
    }
}
