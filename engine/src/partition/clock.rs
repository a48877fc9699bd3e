//! The partition's time, and the timers that are due by it.
//!
//! Time is what leaders stamp into entries. A leader goes on from the greatest stamp of those before it, at the pace of its own
//! clock; while nobody leads, no time passes. When the first timer is due the leader appends an entry that says so,
//! one at a time, and the timers expire where it stands.

use clustor_shards::turn::Time;

use super::{MachineSlot, Partition};
use crate::machine::Timers;
use crate::raft::Turn;

/// From an entry for timers that could not be appended to the next attempt, in milliseconds.
const EXPIRE_RETRY_MS: u64 = 50;

impl Partition {
    /// The time as this partition counts it, for an entry accepted now by this leader, in milliseconds. Goes on from
    /// everything seen so far: after a restart that is more and more until all of the log is applied.
    pub(crate) fn stamp(&mut self, now: Time) -> u64 {
        let seen = self.stamp_ms.max(self.replica.stamp_ms());
        let (then, stamp) = *self.clock.get_or_insert((now, seen));
        let time = stamp.saturating_add(now.since_us(then) / 1000);
        if time < seen {
            self.clock = Some((now, seen));
        }
        time.max(seen)
    }

    /// The machine's timers.
    #[must_use]
    pub fn timers(&self) -> &Timers {
        self.busy.effects.timers()
    }

    /// Whether this replica is the one that lets timers expire.
    fn keeps_time(&self) -> bool {
        self.replica.is_leader()
            && self.busy.ready_at.is_none()
            && !self.stopping
            && !self.replica.is_handing_over()
            && matches!(self.machine, MachineSlot::Running(_))
            && self.busy.expiring.is_none_or(|index| index <= self.applied)
    }

    /// When the first timer is due, if this replica is the one that lets it expire.
    pub(crate) fn timer_deadline(&mut self, now: Time) -> Option<Time> {
        let due = self.timers().next_due()?;
        if !self.keeps_time() {
            return None;
        }
        let left_ms = due.0.div_ceil(1000).saturating_sub(self.stamp(now));
        let at = now.plus_ms(left_ms);
        Some(
            self.busy
                .expire_not_before
                .map_or(at, |not_before| at.max(not_before)),
        )
    }

    /// Appends the entry at which timers expire, if any is due.
    pub(crate) fn tend_timers(&mut self, turn: &mut Turn<'_>, admitted: bool) {
        if self.timer_deadline(turn.now).is_none_or(|at| at > turn.now) {
            return;
        }
        let stamp_ms = self.stamp(turn.now);
        let proposed = admitted.then(|| self.replica.propose_timers_due(turn, stamp_ms));
        match proposed {
            Some(Ok(position)) => {
                self.busy.expiring = Some(position.index);
                self.busy.expire_not_before = None;
            }
            _ => self.busy.expire_not_before = Some(turn.now.plus_ms(EXPIRE_RETRY_MS)),
        }
    }
}
