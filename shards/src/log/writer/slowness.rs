//! Whether the device is slow at present, judged by how long chains take.

use crate::turn::Time;

/// So many chains in a row that take longer than the bound make a device slow.
const SLOW_IN_A_ROW: u8 = 3;
/// So does a mean over about this many milliseconds that is above it.
const MEAN_OVER_MS: u64 = 500;
/// It is slow no longer after so many in a row that take less than [`FIT_PERCENT`] of the bound.
const FIT_IN_A_ROW: u8 = 5;
/// Percent of the bound.
const FIT_PERCENT: u64 = 80;

/// What was seen of chains.
#[derive(Debug, Default)]
pub(super) struct Slowness {
    is_slow: bool,
    /// Chains in a row that took longer than the bound.
    over: u8,
    /// Chains in a row that took clearly less.
    under: u8,
    mean_us: u64,
    /// When the last chain retired.
    last: Time,
}

impl Slowness {
    /// Whether the device is slow.
    pub(super) const fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// A chain took so long, and should have taken `bound_us` at most.
    pub(super) fn measure(&mut self, now: Time, took_us: u64, bound_us: u64) {
        // Each counts for the time that it took, half of the window at most: one alone that is a little late is no mean. What
        // came before counts for less as time passes, and time in which nothing was asked of the device for nothing.
        let window_us = MEAN_OVER_MS * 1000;
        let since_us = now.since_us(self.last).min(window_us);
        let share_us = since_us.min(took_us).min(window_us / 2);
        self.last = now;
        let kept = u128::from(self.mean_us) * u128::from(window_us - since_us);
        let mean = (kept + u128::from(took_us) * u128::from(share_us)) / u128::from(window_us);
        self.mean_us = u64::try_from(mean).unwrap_or(u64::MAX);
        let in_a_row =
            |so_far: u8, another: bool| if another { so_far.saturating_add(1) } else { 0 };
        self.over = in_a_row(self.over, took_us > bound_us);
        self.under = in_a_row(self.under, took_us < bound_us * FIT_PERCENT / 100);
        if self.over >= SLOW_IN_A_ROW || self.mean_us > bound_us {
            self.is_slow = true;
        }
        if self.under >= FIT_IN_A_ROW {
            self.is_slow = false;
            self.mean_us = took_us;
        }
    }
}
