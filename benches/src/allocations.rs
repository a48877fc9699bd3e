//! The allocator of this program counts: how often the heap is asked for memory, by any thread.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A point from which allocations are counted.
#[derive(Debug, Clone, Copy)]
pub struct Since(usize);

impl Since {
    /// From here on.
    pub fn now() -> Self {
        let stats = COUNTING.stats();
        Self(stats.allocations + stats.reallocations)
    }

    /// Allocations and reallocations since then.
    pub fn count(self) -> u64 {
        (Self::now().0 - self.0) as u64
    }
}

/// Bytes of the heap in use, by any thread.
pub fn live_bytes() -> u64 {
    let stats = COUNTING.stats();
    // What a reallocation adds or takes away is counted among these.
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated) as u64
}
