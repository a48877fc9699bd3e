//! What a control plane says of every partition of a shard: that all is well, but for a while at times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use clustor_engine::gate::{ControlFacts, ControlView};
use clustor_wire::ids::{LogIndex, PartitionId, Term};

/// What it may say, one after the other.
pub(crate) const SAYINGS: u8 = 4;

/// A shard's copy of its control plane; all copies of it are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    what: AtomicU8,
    /// How often it said that all is well.
    well: AtomicU64,
}

/// A time in which a control plane forbids linearizable reads, from when it begins to until it says that all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forbidden(u64);

impl Control {
    /// What it says from here on: 0 that all is well, 1 that it can't be relied on, 2 that a proof is waited for, 3 that an
    /// entry is durable that nobody has.
    pub(crate) fn say(&self, what: u8) {
        self.0.what.store(what, Ordering::Relaxed);
        if what == 0 {
            self.0.well.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The time in which it forbids linearizable reads, if it does: what it says besides that all is well forbids them.
    pub(crate) fn forbidden(&self) -> Option<Forbidden> {
        let forbids = self.0.what.load(Ordering::Relaxed) != 0;
        forbids.then(|| Forbidden(self.0.well.load(Ordering::Relaxed)))
    }
}

impl ControlView for Control {
    fn facts(&self, _: PartitionId) -> ControlFacts {
        let what = self.0.what.load(Ordering::Relaxed);
        ControlFacts {
            is_fresh: what != 1,
            strict_fallback: what == 2,
            proof: (what == 3).then_some((Term(u64::MAX), LogIndex(u64::MAX))),
        }
    }
}
