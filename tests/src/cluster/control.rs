//! What a control plane says of every partition of a shard: that all is well, but for a while at times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use clustor_engine::gate::{ControlFacts, ControlView};
use clustor_wire::ids::{LogIndex, PartitionId, Term};

/// What it may say, one after the other.
pub(crate) const SAYINGS: u8 = 4;

/// A shard's copy of its control plane; all copies of it are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control(Arc<AtomicU8>);

impl Control {
    /// What it says from here on: 0 that all is well, 1 that it can't be relied on, 2 that a proof is waited for, 3 that an
    /// entry is durable that nobody has.
    pub(crate) fn say(&self, what: u8) {
        self.0.store(what, Ordering::Relaxed);
    }
}

impl ControlView for Control {
    fn facts(&self, _: PartitionId) -> ControlFacts {
        let what = self.0.load(Ordering::Relaxed);
        ControlFacts {
            is_fresh: what != 1,
            strict_fallback: what == 2,
            proof: (what == 3).then_some((Term(u64::MAX), LogIndex(u64::MAX))),
        }
    }
}
