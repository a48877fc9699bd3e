//! What only a partition has in which something happens.

use std::collections::{BTreeMap, VecDeque};

use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;

use super::deferral::Deferrals;
use super::pause::Pause;
use super::reads::PendingRead;
use super::{Partition, PendingAppend};
use crate::lent::Bare;
use crate::machine::Effects;
use crate::raft::{EntryCache, ReadReady};

/// Who waits, and what the machine is in the middle of.
pub(super) struct Busy {
    pub appends: VecDeque<PendingAppend>,
    pub reads_by_token: BTreeMap<u64, PendingRead>,
    /// Confirmed, waiting for the machine to get there.
    pub reads_confirmed: Vec<(ReadReady, PendingRead)>,
    pub deferrals: Deferrals,
    pub effects: Effects,
    /// The machine asked to be called again later.
    pub pause: Option<Pause>,
    /// When the machine failed lately.
    pub failures: Vec<Time>,
    /// The entry by which timers expire, until it is applied.
    pub expiring: Option<LogIndex>,
    /// Such an entry could not be appended: not again before this moment.
    pub expire_not_before: Option<Time>,
}

impl Busy {
    const NONE: Self = Self {
        appends: VecDeque::new(),
        reads_by_token: BTreeMap::new(),
        reads_confirmed: Vec::new(),
        deferrals: Deferrals::NONE,
        effects: Effects::NONE,
        pause: None,
        failures: Vec::new(),
        expiring: None,
        expire_not_before: None,
    };
}

impl Bare for Busy {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.appends.is_empty()
            && self.reads_by_token.is_empty()
            && self.reads_confirmed.is_empty()
            && self.deferrals.is_empty()
            && self.effects.is_unused()
            && self.pause.is_none()
            && self.failures.is_empty()
    }
}

impl Partition {
    /// It is quiet: what it takes again when it wakes is given back.
    pub(crate) fn rest(&mut self, cache: &mut EntryCache) {
        self.busy.give_back();
        self.table.give_back();
        self.pace.rest();
        self.replica.rest();
        // Nothing is sent from the cache before something is appended: who gets the log has all of it.
        if self.applied >= self.replica.last_index() {
            cache.forget(self.replica.cache_slot());
        }
    }
}
