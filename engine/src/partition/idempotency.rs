//! Which idempotency keys were executed: replicated state, the same on every replica at equal indexes.
//!
//! It is changed at apply and only there, so it follows from the log alone. Memory is bounded: the keys that
//! were executed longest ago, by log position, are forgotten first. A forgotten key can't be told from a new one, so a
//! key whose client knew only of a log older than the forgotten ones is refused: nothing executes twice.
//!
//! How many are remembered decides what executes, hence it is replicated state too: a leader that is ready and whose
//! profile asks for another number than the log says appends a [`KeysMax`] entry, in force from where it is applied on.
//! A lower number is reached gradually, with each key that is remembered after it.

use std::collections::{BTreeMap, VecDeque};

use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::IdempotencyKey;

use super::Partition;
use crate::lent::Bare;
use crate::profile::Profile;
use crate::raft::Turn;
use crate::raft::entry::{EntryKey, KeysMax};

/// Memory one key takes, counted for the bound: key, position and their places in two collections.
pub const KEY_BYTES: u64 = 128;
/// Keys forgotten for one that is remembered, at most: what a lower bound costs is spread over the entries behind it.
pub const FORGOTTEN_MAX: usize = 64;

/// What to do with a keyed entry at its turn to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVerdict {
    /// Not seen before: execute it.
    Execute,
    /// Executed before, there.
    Duplicate {
        /// Term of the first entry.
        term: Term,
        /// Its index.
        index: LogIndex,
    },
    /// It can't be known whether it was executed: execute nothing.
    Expired,
}

/// The keys executed, within bounds.
#[derive(Debug)]
pub struct IdempotencyTable {
    keys_max: KeysMax,
    first: BTreeMap<IdempotencyKey, (Term, LogIndex)>,
    by_age: VecDeque<IdempotencyKey>,
    /// The highest index whose key was forgotten.
    floor: LogIndex,
}

impl Default for IdempotencyTable {
    fn default() -> Self {
        Self::NONE
    }
}

impl Bare for IdempotencyTable {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.is_empty() && self.keys_max == KeysMax::MOST && self.floor == LogIndex::ZERO
    }
}

impl IdempotencyTable {
    /// An empty table, as it is at the beginning of every log.
    const NONE: Self = Self {
        keys_max: KeysMax::MOST,
        first: BTreeMap::new(),
        by_age: VecDeque::new(),
        floor: LogIndex::ZERO,
    };

    /// An entry is applied that changes how many keys are remembered.
    pub fn set_keys_max(&mut self, keys_max: KeysMax) {
        self.keys_max = keys_max;
    }

    /// How many keys are remembered, at most, as the log says.
    #[must_use]
    pub const fn keys_max(&self) -> KeysMax {
        self.keys_max
    }

    /// Judges the keyed entry at (`term`, `index`) and, if it executes, remembers it.
    pub fn judge(&mut self, key: &EntryKey, term: Term, index: LogIndex) -> KeyVerdict {
        if let Some((term, index)) = self.first.get(&key.key) {
            return KeyVerdict::Duplicate {
                term: *term,
                index: *index,
            };
        }
        if self.may_have_forgotten(key) || key.known >= index {
            return KeyVerdict::Expired;
        }
        self.make_room();
        self.first.insert(key.key, (term, index));
        self.by_age.push_back(key.key);
        KeyVerdict::Execute
    }

    /// Forgets the oldest keys until one more fits, or until as many are forgotten as may be at once.
    fn make_room(&mut self) {
        let fit = self.keys_max.get() as usize;
        for _ in 0..FORGOTTEN_MAX {
            if self.by_age.len() < fit {
                return;
            }
            if let Some(oldest) = self.by_age.pop_front()
                && let Some((_, index)) = self.first.remove(&oldest)
            {
                self.floor = index;
            }
        }
    }

    /// Whether the key was executed, as far as the table remembers.
    #[must_use]
    pub fn knows(&self, key: &IdempotencyKey) -> bool {
        self.first.contains_key(key)
    }

    /// Whether the key may be one that was executed and has been forgotten since, by what its client knew of the log.
    #[must_use]
    pub fn may_have_forgotten(&self, key: &EntryKey) -> bool {
        key.known < self.floor
    }

    /// Forgets everything: the log is gone through again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keys remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

/// How many keys this replica would have remembered, and what the log makes of it.
#[derive(Debug)]
pub(super) struct KeysMaxWish {
    /// What the profile asks for.
    wanted: KeysMax,
    /// What the latest of the entries that were applied here says, in whatever life of the machine.
    said: KeysMax,
    /// Where that entry stands.
    said_at: LogIndex,
    /// The entry by which this leader changes it.
    asked_at: Option<LogIndex>,
}

/// The number of keys that both bounds of a profile allow.
fn wanted_by(profile: &Profile) -> KeysMax {
    let fit = profile.idempotency_bytes_max / KEY_BYTES;
    KeysMax::new(profile.idempotency_keys_max.min(fit))
}

impl KeysMaxWish {
    pub fn new(profile: &Profile) -> Self {
        Self {
            wanted: wanted_by(profile),
            said: KeysMax::MOST,
            said_at: LogIndex::ZERO,
            asked_at: None,
        }
    }

    /// Obeys the profile from here on.
    pub fn retune(&mut self, profile: &Profile) {
        self.wanted = wanted_by(profile);
    }

    /// Leadership begins or ends: what was asked for before may never come.
    pub fn forget(&mut self) {
        self.asked_at = None;
    }

    /// An entry is applied that says so.
    pub fn learn(&mut self, index: LogIndex, keys_max: KeysMax) {
        if index >= self.said_at {
            (self.said, self.said_at) = (keys_max, index);
        }
        self.asked_at = self.asked_at.filter(|asked| *asked > index);
    }
}

impl Partition {
    /// How many idempotency keys it remembers, at most, as the log says up to the applied index.
    #[must_use]
    pub fn keys_max(&self) -> KeysMax {
        self.table.keys_max()
    }

    /// Appends the number of keys that this leader's profile asks for, if the log says another.
    pub(crate) fn tend_keys_max(&mut self, turn: &mut Turn<'_>) {
        let wish = &self.keys_wish;
        if wish.wanted == wish.said || wish.asked_at.is_some() || !self.is_ready() {
            return;
        }
        let (wanted, said) = (wish.wanted.get(), wish.said.get());
        let (keys_max, stamp_ms) = (wish.wanted, self.stamp(turn.now));
        // Where it is refused it is asked for again when something else happens here.
        if let Ok(position) = self.replica.propose_keys_max(turn, keys_max, stamp_ms) {
            self.keys_wish.asked_at = Some(position.index);
            tracing::info!(partition = %self.id, before = said, after = wanted, "how many idempotency keys are remembered changes");
        }
    }
}
