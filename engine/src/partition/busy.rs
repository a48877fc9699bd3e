//! What only a partition has in which something happens.

use std::collections::{BTreeMap, VecDeque};

use clustor_shards::alike::Alike;
use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;

use super::deferral::Deferrals;
use super::lost::Lost;
use super::pause::Pause;
use super::reads::PendingRead;
use super::unread::Unread;
use super::{Partition, PendingAppend};
use crate::gate::Guard;
use crate::lent::Bare;
use crate::machine::Effects;
use crate::raft::{Configuration, EntryCache, ReadReady};

/// Who waits, and what the machine is in the middle of.
pub(crate) struct Busy {
    pub(super) appends: VecDeque<PendingAppend>,
    pub(super) reads_by_token: BTreeMap<u64, PendingRead>,
    /// Confirmed, waiting for the machine to get there.
    pub(super) reads_confirmed: Vec<(ReadReady, PendingRead)>,
    /// Bytes of the queries of both.
    pub(super) read_bytes: u64,
    /// Up to here, whoever waits for no more than being committed was answered.
    pub(super) told_committed: LogIndex,
    pub(super) deferrals: Deferrals,
    pub(super) effects: Effects,
    /// The machine asked to be called again later.
    pub(super) pause: Option<Pause>,
    /// When the machine failed lately.
    pub(super) failures: Vec<Time>,
    /// How far it has to get to have gone on after its last failure.
    pub(super) failed_before: Option<LogIndex>,
    /// The entry by which timers expire, until it is applied.
    pub(super) expiring: Option<LogIndex>,
    /// Such an entry could not be appended: not again before this moment.
    pub(super) expire_not_before: Option<Time>,
    /// The empty entry of the term this replica leads, until it is applied.
    pub(super) ready_at: Option<LogIndex>,
    /// A read of the log for applying is outstanding, with this token.
    pub apply_read: Option<u64>,
    /// Why entries can't be applied, if their content can't be had.
    pub(super) stuck: Option<Lost>,
    /// An entry that this build can't read: applying stops before it.
    pub(super) unread: Option<Box<Unread>>,
    /// Of a partition in group mode.
    pub(super) guard: Guard,
    /// The deadline under which the shard filed it.
    pub filed_deadline: Option<Time>,
    /// What the shard's sum of bytes in flight holds of this partition.
    pub counted_bytes: u64,
    /// What the shard's sum of bytes of waiting queries holds of it.
    pub counted_read_bytes: u64,
}

impl Busy {
    const NONE: Self = Self {
        appends: VecDeque::new(),
        reads_by_token: BTreeMap::new(),
        reads_confirmed: Vec::new(),
        read_bytes: 0,
        told_committed: LogIndex::ZERO,
        deferrals: Deferrals::NONE,
        effects: Effects::NONE,
        pause: None,
        failures: Vec::new(),
        failed_before: None,
        expiring: None,
        expire_not_before: None,
        ready_at: None,
        apply_read: None,
        stuck: None,
        unread: None,
        guard: Guard::NONE,
        filed_deadline: None,
        counted_bytes: 0,
        counted_read_bytes: 0,
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
            && self.failed_before.is_none()
            && self.ready_at.is_none()
            && self.apply_read.is_none()
            && self.stuck.is_none()
            && self.unread.is_none()
            && self.guard == Guard::NONE
            && self.filed_deadline.is_none()
            && self.counted_bytes == 0
            && self.counted_read_bytes == 0
    }
}

impl Partition {
    /// It is quiet: what it takes again when it wakes is given back.
    pub(crate) fn rest(&mut self, cache: &mut EntryCache, known: &mut Alike<Configuration>) {
        self.busy.give_back();
        self.table.give_back();
        self.pace.rest();
        self.replica.rest(known);
        // Nothing is sent from the cache before something is appended: who gets the log has all of it.
        if self.applied >= self.replica.last_index() {
            cache.forget(self.replica.cache_slot());
        }
    }
}
