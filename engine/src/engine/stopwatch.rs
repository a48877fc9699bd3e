//! What a running shard times its machines by.

use std::time::Instant;

use crate::machine::Stopwatch;

/// The process's monotone clock: time in which the shard did not get its processor counts.
pub(super) struct ProcessStopwatch {
    started: Instant,
}

impl ProcessStopwatch {
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Stopwatch for ProcessStopwatch {
    fn read_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
