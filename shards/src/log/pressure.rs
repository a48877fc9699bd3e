//! What a log does on a file system that fills up.
//!
//! Reads always go on. From a first threshold on less may wait for the disk, so that what was accepted before the disk is
//! full is written in time; from a second one on appends of clients are refused while there still is room for what keeps a
//! replica alive: votes, configurations, what a leader has accepted already, the next start's opening. Both are in percent
//! of the file system, so that they hold for whatever else lies on it.

use super::options::LogOptions;

/// Percent used from which on half as much may wait, unless a profile says otherwise.
pub const DISK_SOFT_PERCENT: u8 = 80;
/// Percent used from which on appends are refused, unless a profile says otherwise.
pub const DISK_HARD_PERCENT: u8 = 90;

/// How a file system's filling weighs on its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below both thresholds.
    None,
    /// From `disk_soft_percent` on: half as much may wait.
    Soft,
    /// From `disk_hard_percent` on: appends of clients are refused, reads go on.
    Hard,
}

impl Pressure {
    /// What `percent` used means under these options.
    #[must_use]
    pub const fn of(percent: u8, options: &LogOptions) -> Self {
        if percent >= options.disk_hard_percent {
            Self::Hard
        } else if percent >= options.disk_soft_percent {
            Self::Soft
        } else {
            Self::None
        }
    }
}
