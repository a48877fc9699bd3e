//! The guard of a partition in group mode: who can't keep the promise of a bounded wait is strict for a while, each time
//! for longer.

use clustor_shards::turn::Time;

/// How long the first downgrade lasts, in milliseconds; each further one twice as long.
pub const BACKOFF_MS_MIN: u64 = 60_000;
/// How long a downgrade lasts at most, in milliseconds. A partition that has kept its promise for as long begins
/// anew.
pub const BACKOFF_MS_MAX: u64 = 900_000;

/// Downgrades of one partition, and the end of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guard {
    downgrades: u32,
    until: Option<Time>,
}

impl Guard {
    /// None was downgraded yet.
    pub(crate) const NONE: Self = Self {
        downgrades: 0,
        until: None,
    };

    /// The partition did not keep its promise: it is strict from now on, for 60 s x 2^(downgrades before), 15 minutes
    /// at most. While one is sat out nothing changes.
    pub fn downgrade(&mut self, now: Time) {
        if !self.is_over(now) {
            return;
        }
        if let Some(until) = self.until
            && now.since_us(until) >= BACKOFF_MS_MAX * 1000
        {
            self.downgrades = 0;
        }
        let factor = 1 << self.downgrades.min(16);
        self.until = Some(now.plus_ms((BACKOFF_MS_MIN * factor).min(BACKOFF_MS_MAX)));
        self.downgrades = self.downgrades.saturating_add(1);
    }

    /// Whether no downgrade is being sat out.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// When the present downgrade ends, if one is being sat out.
    #[must_use]
    pub fn until(&self, now: Time) -> Option<Time> {
        self.until.filter(|until| *until > now)
    }

    /// Downgrades since the partition last kept its promise for 15 minutes.
    #[must_use]
    pub const fn downgrades(&self) -> u32 {
        self.downgrades
    }
}
