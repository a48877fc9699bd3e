//! The clock alarm: whether the clock that turns are given can be trusted.
//!
//! Leases rely on CLOCK_BOOTTIME to run evenly. Nothing within one machine can prove that, but CLOCK_REALTIME is another
//! reading of time: where the two move apart by more than leases allow for, one of them jumped or runs wrong, and nobody
//! knows which. Whoever watches clocks better may raise the alarm too.

use clustor_shards::turn::Time;

use crate::raft::LeaseBounds;

/// An alarm ends when the clocks have kept together for this long, in milliseconds.
const CALM_MS: u64 = 10_000;
/// How long the two readings are compared with the same earlier ones, in milliseconds.
const ANCHOR_MS: u64 = 1_000;

/// Besides the skew of leases, the clocks may move apart by this part of the time that passes: wall clocks are slewed.
const SLEW_SHARE: u64 = 1_000;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Reading {
    boot_us: u64,
    wall_us: u64,
}

/// Compares the clock of turns with the wall clock.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    anchor: Option<Reading>,
    until: Option<Time>,
    /// Alarms raised since the shard's start.
    pub raised: u64,
}

impl ClockWatch {
    /// Looks at both clocks. Whether they moved apart since they were last compared: then there is an alarm.
    pub fn look(&mut self, now: Time, wall_us: Option<u64>, bounds: &LeaseBounds) -> bool {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            tracing::info!("the clocks keep together again");
        }
        let Some(wall_us) = wall_us else {
            return false;
        };
        let reading = Reading {
            boot_us: now.0,
            wall_us,
        };
        let Some(anchor) = self.anchor else {
            self.anchor = Some(reading);
            return false;
        };
        let passed_us = now.0.saturating_sub(anchor.boot_us);
        let wall_passed_us = i128::from(wall_us) - i128::from(anchor.wall_us);
        let apart_us = (wall_passed_us - i128::from(passed_us)).unsigned_abs();
        let skew_us = u64::from(bounds.skew_ms) * 1000;
        let diverged = apart_us > u128::from(skew_us + passed_us / SLEW_SHARE);
        if diverged || passed_us >= ANCHOR_MS * 1000 {
            self.anchor = Some(reading);
        }
        if !diverged {
            return false;
        }
        tracing::warn!(
            apart_us,
            passed_us,
            "the boot-time clock and the wall clock move apart"
        );
        self.raise(now);
        true
    }

    /// An alarm, or the end of one that is raised is put off.
    pub fn raise(&mut self, now: Time) {
        self.raised += u64::from(self.until.is_none());
        self.until = Some(now.plus_ms(CALM_MS));
    }

    /// Whether there is an alarm.
    pub fn is_raised(&self) -> bool {
        self.until.is_some()
    }
}
