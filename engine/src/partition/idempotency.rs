//! Which idempotency keys were executed: replicated state, the same on every replica at equal indexes.
//!
//! It is changed at apply and only there, so it follows from the log alone. Memory is bounded: the keys that
//! were executed longest ago, by log position, are forgotten first. A forgotten key can't be told from a new one, so a
//! key whose client knew only of a log older than the forgotten ones is refused: nothing executes twice.

use std::collections::{BTreeMap, VecDeque};

use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::IdempotencyKey;

use crate::raft::entry::EntryKey;

/// Memory one key takes, counted for the bound: key, position and their places in two collections.
pub const KEY_BYTES: u64 = 128;

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
    keys_max: usize,
    first: BTreeMap<IdempotencyKey, (Term, LogIndex)>,
    by_age: VecDeque<IdempotencyKey>,
    /// The highest index whose key was forgotten.
    floor: LogIndex,
}

impl IdempotencyTable {
    /// An empty table of at most `keys_max` keys and `bytes_max` bytes; at least one key.
    #[must_use]
    pub fn new(keys_max: u64, bytes_max: u64) -> Self {
        let keys_max = keys_max.min(bytes_max / KEY_BYTES).max(1);
        Self {
            keys_max: usize::try_from(keys_max).unwrap_or(usize::MAX),
            first: BTreeMap::new(),
            by_age: VecDeque::new(),
            floor: LogIndex::ZERO,
        }
    }

    /// Judges the keyed entry at (`term`, `index`) and, if it executes, remembers it.
    pub fn judge(&mut self, key: &EntryKey, term: Term, index: LogIndex) -> KeyVerdict {
        if let Some((term, index)) = self.first.get(&key.key) {
            return KeyVerdict::Duplicate {
                term: *term,
                index: *index,
            };
        }
        if key.known < self.floor || key.known >= index {
            return KeyVerdict::Expired;
        }
        if self.by_age.len() == self.keys_max
            && let Some(oldest) = self.by_age.pop_front()
            && let Some((_, index)) = self.first.remove(&oldest)
        {
            self.floor = index;
        }
        self.first.insert(key.key, (term, index));
        self.by_age.push_back(key.key);
        KeyVerdict::Execute
    }

    /// Whether the key was executed, as far as the table remembers.
    #[must_use]
    pub fn knows(&self, key: &IdempotencyKey) -> bool {
        self.first.contains_key(key)
    }

    /// Forgets everything: the log is gone through again.
    pub fn clear(&mut self) {
        self.first.clear();
        self.by_age.clear();
        self.floor = LogIndex::ZERO;
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
