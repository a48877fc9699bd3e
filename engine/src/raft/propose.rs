//! Proposing: an entry is framed here, once, and the same bytes go into the own log, the cache, over the wire and into
//! every other log.

use std::collections::VecDeque;

use clustor_shards::log::Mode;
use clustor_shards::log::record::{RecordKind, encode_record_parts};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, Term};

use super::durability::Transition;
use super::entry::{EntryBody, EntryKey, EntryKind, KeysMax, SystemKind};
use super::output::RecordToPersist;
use super::replica::{Replica, RoleState, Turn};
use super::replication::Leading;
use crate::lent::Bare;

/// A command to append.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// What the machine gets.
    pub payload: &'a [u8],
    /// The client's idempotency key, with the `wal_committed` index it knew.
    pub key: Option<EntryKey>,
    /// The time in milliseconds as the partition counts it. Raised to the last stamp where it lies before.
    pub stamp_ms: u64,
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Its term.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
}

/// Why a command was not appended. It left no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead.
    #[error("this replica does not lead the partition; ask the leader, if it is known: {leader:?}")]
    NotLeader {
        /// Who does, if known.
        leader: Option<PeerId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being handed over to {to:?}; ask there in a moment")]
    HandingOver {
        /// To whom.
        to: PeerId,
    },
    /// The payload is longer than the limit.
    #[error("payload of {bytes} bytes exceeds {bytes_max}; split it")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Too many bytes are proposed and not yet committed.
    #[error("{bytes_max} bytes wait to be committed; retry when some are")]
    Full {
        /// The limit.
        bytes_max: u64,
    },
    /// An entry's content is missing, and nothing behind it can be committed.
    #[error("the content of entry {index} is missing here; nothing behind it can be committed")]
    MissingContent {
        /// The first such entry.
        index: LogIndex,
    },
}

/// Bytes proposed and not yet committed, marked once a turn.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    pub(super) bytes: u64,
    unmarked: u64,
    marks: VecDeque<(LogIndex, u64)>,
}

impl Bare for Uncommitted {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.bytes == 0 && self.unmarked == 0 && self.marks.is_empty()
    }
}

impl Uncommitted {
    const NONE: Self = Self {
        bytes: 0,
        unmarked: 0,
        marks: VecDeque::new(),
    };

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.unmarked += bytes as u64;
    }

    pub(super) fn mark(&mut self, last: LogIndex) {
        if self.unmarked > 0 {
            self.marks.push_back((last, self.unmarked));
            self.unmarked = 0;
        }
    }

    pub(super) fn committed(&mut self, index: LogIndex) {
        while let Some((last, bytes)) = self.marks.front()
            && *last <= index
        {
            self.bytes -= bytes;
            self.marks.pop_front();
        }
    }
}

impl Replica {
    /// Appends a command: frames it once, for the own log, the cache, the wire and every other log.
    ///
    /// # Errors
    /// [`ProposeError`]; then nothing happened.
    pub fn propose(
        &mut self,
        turn: &mut Turn<'_>,
        entry: &NewEntry<'_>,
    ) -> Result<Position, ProposeError> {
        let leading = self.accepting()?;
        let (bytes, bytes_max) = (entry.payload.len(), self.limits.payload_bytes_max);
        if bytes > bytes_max {
            return Err(ProposeError::TooLarge { bytes, bytes_max });
        }
        let waiting = leading.uncommitted.bytes;
        let bytes_max = self.limits.uncommitted_bytes_max;
        if waiting > 0 && waiting + bytes as u64 > bytes_max {
            return Err(ProposeError::Full { bytes_max });
        }
        self.check_content()?;
        Ok(self.append_own(
            turn,
            EntryKind::Command,
            entry.stamp_ms,
            entry.key,
            entry.payload,
        ))
    }

    /// Appends a change of the mode, in force behind it.
    ///
    /// # Errors
    /// [`ProposeError`]; then nothing happened.
    pub fn propose_transition(
        &mut self,
        turn: &mut Turn<'_>,
        transition: Transition,
        stamp_ms: u64,
    ) -> Result<Position, ProposeError> {
        self.accepting()?;
        self.check_content()?;
        let kind = EntryKind::System(SystemKind::DurabilityTransition);
        let position = self.append_own(turn, kind, stamp_ms, None, &transition.encode());
        self.modes.note(position.index, transition);
        Ok(position)
    }

    /// Appends the entry that lets the machine's timers expire.
    ///
    /// # Errors
    /// [`ProposeError`]; then nothing happened.
    pub fn propose_timers_due(
        &mut self,
        turn: &mut Turn<'_>,
        stamp_ms: u64,
    ) -> Result<Position, ProposeError> {
        self.accepting()?;
        self.check_content()?;
        let kind = EntryKind::System(SystemKind::TimersDue);
        Ok(self.append_own(turn, kind, stamp_ms, None, &[]))
    }

    /// Appends a change of how many idempotency keys are remembered, from where it is applied on.
    ///
    /// # Errors
    /// [`ProposeError`]; then nothing happened.
    pub fn propose_keys_max(
        &mut self,
        turn: &mut Turn<'_>,
        keys_max: KeysMax,
        stamp_ms: u64,
    ) -> Result<Position, ProposeError> {
        self.accepting()?;
        self.check_content()?;
        let kind = EntryKind::System(SystemKind::KeysMax);
        Ok(self.append_own(turn, kind, stamp_ms, None, &keys_max.encode()))
    }

    /// What it leads with, unless it doesn't lead or is about to stop.
    fn accepting(&self) -> Result<&Leading, ProposeError> {
        let RoleState::Leader(leading) = &self.role else {
            let leader = self.leader;
            return Err(ProposeError::NotLeader { leader });
        };
        match &leading.transfer {
            Some(transfer) => Err(ProposeError::HandingOver { to: transfer.to }),
            None => Ok(leading),
        }
    }

    /// Nothing is appended while it can't apply what it has.
    fn check_content(&self) -> Result<(), ProposeError> {
        match self.log.missing_from(self.applicable.next()) {
            Some(index) => Err(ProposeError::MissingContent { index }),
            None => Ok(()),
        }
    }

    pub(super) fn append_own(
        &mut self,
        turn: &mut Turn<'_>,
        kind: EntryKind,
        stamp_ms: u64,
        key: Option<EntryKey>,
        payload: &[u8],
    ) -> Position {
        self.stamp_ms = self.stamp_ms.max(stamp_ms);
        let body = EntryBody {
            kind,
            stamp_ms: self.stamp_ms,
            key,
            payload,
        };
        let mode = match kind {
            EntryKind::System(SystemKind::DurabilityTransition) => Mode::Strict,
            _ => self.modes.mode(),
        };
        let head = body.head();
        let parts = [head.as_slice(), payload];
        self.append_record(turn, RecordKind::Entry, mode, &parts)
    }

    /// Frames what takes the next place in the log.
    pub(super) fn append_record(
        &mut self,
        turn: &mut Turn<'_>,
        kind: RecordKind,
        mode: Mode,
        parts: &[&[u8]],
    ) -> Position {
        let index = self.log.push(self.term);
        let start = turn.out.frames.len();
        let bytes = encode_record_parts(
            &mut turn.out.frames,
            self.leaf,
            kind,
            self.partition,
            self.term,
            index,
            parts,
        );
        let frame = start..start + bytes;
        turn.cache
            .push(self.slot, index, &turn.out.frames[frame.clone()]);
        turn.out.records.push(RecordToPersist::Entry {
            partition: self.partition,
            term: self.term,
            index,
            frame,
            mode,
        });
        self.matched = index;
        if let RoleState::Leader(leading) = &mut self.role {
            leading.uncommitted.add(bytes);
        }
        Position {
            term: self.term,
            index,
        }
    }
}
