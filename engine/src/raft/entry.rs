//! What an entry's body says, and its bytes.
//!
//! An entry lies in the log as one record frame (`clustor_shards::log::record`) of kind `Entry`; this is the
//! layout of that frame's body, little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | type: 0 empty, 1 command, 2 system |
//! | 1 | 1 | number of the system entry, 0 for other types |
//! | 2 | 1 | flags: bit 0, an idempotency key follows |
//! | 3 | 1 | reserved, 0 |
//! | 4 | 8 | the leader's stamp in milliseconds |
//! | 12 | 16 | idempotency key, if flagged |
//! | 28 | 8 | the `wal_committed` index that the client knew, if flagged |
//! | 12 or 36 | | payload |
//!
//! Stamps of one leader never go back; the time a machine sees is the greatest stamp up to and with its entry,
//! so it never goes back between leaders either.

use clustor_wire::ids::LogIndex;
use clustor_wire::message::IdempotencyKey;

/// Bytes before the payload of an entry without a key.
pub const ENTRY_HEAD_BYTES_MIN: usize = 12;
/// Bytes before the payload of an entry with a key.
pub const ENTRY_HEAD_BYTES_MAX: usize = 36;

const TYPE_EMPTY: u8 = 0;
const TYPE_COMMAND: u8 = 1;
const TYPE_SYSTEM: u8 = 2;
const FLAG_KEY: u8 = 1;

/// System entries, by their numbers in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SystemKind {
    /// Enters or leaves a joint configuration, forward.
    MembershipChange = 1,
    /// Leaves a joint configuration, back.
    MembershipRollback = 2,
    /// Changes the durability mode.
    DurabilityTransition = 3,
    /// Fences a former site.
    FenceCommit = 4,
    /// Activates a definition bundle.
    DefineActivate = 5,
    /// Timers of the machine are due at the entry's time.
    TimersDue = 6,
    /// Changes how many idempotency keys are remembered.
    KeysMax = 7,
}

impl SystemKind {
    /// The kind of this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::MembershipChange,
            2 => Self::MembershipRollback,
            3 => Self::DurabilityTransition,
            4 => Self::FenceCommit,
            5 => Self::DefineActivate,
            6 => Self::TimersDue,
            7 => Self::KeysMax,
            _ => return None,
        })
    }
}

/// What kind of entry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A new leader's first: commits what came before it, says nothing.
    Empty,
    /// For the state machine.
    Command,
    /// For the engine.
    System(SystemKind),
}

/// How many idempotency keys a partition remembers, at most: what a `KeysMax` entry says, from where it is applied on.
///
/// Its payload, 5 bytes: version (1); the number of keys (4), from 1 to [`KeysMax::MOST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeysMax(u32);

impl KeysMax {
    /// The most that may be remembered, and what holds where no entry says otherwise.
    pub const MOST: Self = Self(1_000_000);

    const VERSION: u8 = 1;

    /// This many, or the nearest that may be.
    #[must_use]
    pub fn new(keys: u64) -> Self {
        Self(u32::try_from(keys).map_or(Self::MOST.0, |keys| keys.clamp(1, Self::MOST.0)))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The entry's payload.
    #[must_use]
    pub fn encode(self) -> [u8; 5] {
        let mut payload = [Self::VERSION; 5];
        payload[1..].copy_from_slice(&self.0.to_le_bytes());
        payload
    }

    /// Reads an entry's payload; `None` if it is none that this build knows.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (&version, keys) = payload.split_first()?;
        let keys = u32::from_le_bytes(keys.try_into().ok()?);
        let known = version == Self::VERSION && (1..=Self::MOST.0).contains(&keys);
        known.then_some(Self(keys))
    }
}

/// A client's key and the `wal_committed` index it knew when it first sent the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryKey {
    /// By which retries are known to be the same.
    pub key: IdempotencyKey,
    /// Known to be committed when the key was first used.
    pub known: LogIndex,
}

/// An entry's body, decoded; the payload is borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryBody<'a> {
    /// Its kind.
    pub kind: EntryKind,
    /// The leader's stamp, in milliseconds; see the module's text.
    pub stamp_ms: u64,
    /// The idempotency key, if the client gave one.
    pub key: Option<EntryKey>,
    /// What the machine, or the engine, gets.
    pub payload: &'a [u8],
}

/// The bytes before the payload.
#[derive(Debug, Clone, Copy)]
pub struct EntryHead {
    bytes: [u8; ENTRY_HEAD_BYTES_MAX],
    len: usize,
}

impl EntryHead {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Why bytes are not an entry's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes end before the payload can begin.
    #[error("entry body of {have} bytes, at least {need} needed")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The type, or the system entry's number, is not known.
    #[error("entry type {kind} number {number} is not known to this build")]
    Kind {
        /// The type byte.
        kind: u8,
        /// The system number.
        number: u8,
    },
    /// Flags or reserved bytes are not as they must be.
    #[error("entry flags or reserved bytes are not known to this build")]
    Fields,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl<'a> EntryBody<'a> {
    /// The bytes that stand before the payload. The body is these and the payload.
    #[must_use]
    pub fn head(&self) -> EntryHead {
        let mut bytes = [0; ENTRY_HEAD_BYTES_MAX];
        (bytes[0], bytes[1]) = match self.kind {
            EntryKind::Empty => (TYPE_EMPTY, 0),
            EntryKind::Command => (TYPE_COMMAND, 0),
            EntryKind::System(kind) => (TYPE_SYSTEM, kind as u8),
        };
        bytes[4..12].copy_from_slice(&self.stamp_ms.to_le_bytes());
        let mut len = ENTRY_HEAD_BYTES_MIN;
        if let Some(key) = self.key {
            bytes[2] = FLAG_KEY;
            bytes[12..28].copy_from_slice(&key.key.0.to_le_bytes());
            bytes[28..36].copy_from_slice(&key.known.get().to_le_bytes());
            len = ENTRY_HEAD_BYTES_MAX;
        }
        EntryHead { bytes, len }
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`EntryError`]; the caller has verified the frame's checksum, so an error means another version.
    pub fn decode(body: &'a [u8]) -> Result<Self, EntryError> {
        let short = |need| EntryError::Short {
            have: body.len(),
            need,
        };
        if body.len() < ENTRY_HEAD_BYTES_MIN {
            return Err(short(ENTRY_HEAD_BYTES_MIN));
        }
        let unknown = EntryError::Kind {
            kind: body[0],
            number: body[1],
        };
        let kind = match (body[0], body[1]) {
            (TYPE_EMPTY, 0) => EntryKind::Empty,
            (TYPE_COMMAND, 0) => EntryKind::Command,
            (TYPE_SYSTEM, number) => EntryKind::System(SystemKind::from_u8(number).ok_or(unknown)?),
            _ => return Err(unknown),
        };
        if body[2] & !FLAG_KEY != 0 || body[3] != 0 {
            return Err(EntryError::Fields);
        }
        let stamp_ms = u64::from_le_bytes(array(body, 4));
        let (key, head) = if body[2] & FLAG_KEY == 0 {
            (None, ENTRY_HEAD_BYTES_MIN)
        } else if body.len() < ENTRY_HEAD_BYTES_MAX {
            return Err(short(ENTRY_HEAD_BYTES_MAX));
        } else {
            let key = EntryKey {
                key: IdempotencyKey(u128::from_le_bytes(array(body, 12))),
                known: LogIndex(u64::from_le_bytes(array(body, 28))),
            };
            (Some(key), ENTRY_HEAD_BYTES_MAX)
        };
        Ok(Self {
            kind,
            stamp_ms,
            key,
            payload: &body[head..],
        })
    }
}
