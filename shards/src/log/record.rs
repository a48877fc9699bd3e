//! The record frame: one entry or one small fact about a partition, as it lies in the log, in a ledger slot,
//! in a checkpoint and on the wire.
//!
//! An entry is framed once, by the leader that accepts it; the same bytes go into every log. The CRC32C
//! covers header and body and travels with them from the leader's memory to every disk and back. A frame may carry a
//! Merkle leaf behind its body, if the node that framed it keeps leaves; everybody takes frames with and without,
//! of either hash.
//!
//! Layout, little-endian ([`RECORD_HEADER_BYTES`] bytes, then the body, then the leaf):
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | frame version, 2 |
//! | 1 | 1 | kind |
//! | 2 | 1 | codec of the body, 1 = binary |
//! | 3 | 1 | flags: bit 0, a Merkle leaf of 32 bytes follows the body; bit 1, its hash is BLAKE3, else SHA-256 |
//! | 4 | 4 | body length |
//! | 8 | 16 | partition |
//! | 24 | 8 | term |
//! | 32 | 8 | index |
//! | 40 | 4 | reserved, 0 |
//! | 44 | 4 | CRC32C over bytes 0..44 and the body |
//!
//! The leaf is [`leaf_hash`] over bytes 0..44, the body and the checksum.

use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::codec::NUMBER_MAX;
use super::format::HashSuite;
use super::merkle::{MERKLE_BYTES, MerkleHash, leaf_hash};

/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 48;
/// The version of the record frame that this code writes and reads.
pub const RECORD_VERSION: u8 = 2;
/// The codec number of binary bodies.
pub const CODEC_BINARY: u8 = 1;
/// The greatest body any profile allows: 4 MiB.
pub const RECORD_BODY_BYTES_MAX: usize = 4 << 20;

/// Bytes of a frame beside its body, at most.
pub const RECORD_OVERHEAD_BYTES_MAX: usize = RECORD_HEADER_BYTES + MERKLE_BYTES;

const FLAG_LEAF: u8 = 1;
const FLAG_BLAKE3: u8 = 2;
const CRC_OFFSET: usize = 44;
const _: () = assert!(CRC_OFFSET + 4 == RECORD_HEADER_BYTES);

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// An entry of the partition's log, at (term, index).
    Entry = 1,
    /// The replica's term and vote; the body is the vote.
    HardState = 2,
    /// Everything of the partition from `index` on is gone; `term` is the term in which this was decided.
    Truncate = 3,
    /// A configuration; an entry of the log like any other, at (term, index). At index 0, the one the
    /// partition was created with.
    Configuration = 4,
    /// The first exit from a joint configuration, at (term, index), was committed.
    ExitCommitted = 5,
    /// A snapshot covers the log up to (term, index).
    SnapshotMark = 6,
    /// The partition is gone from this shard. It is read and kept; nothing writes it, because no partition is deleted.
    PartitionTombstone = 7,
    /// Entries from `index` on, of `term`, whose content is lost here; the body is their count.
    Missing = 8,
    /// A copy of an entry that lay elsewhere, or was fetched again; the body is the entry's.
    Relocated = 9,
    /// The highest retired chains heard of from peers.
    PeerChains = 10,
    /// Everything of the partition up to (term, index) is not needed any more: its log begins behind it.
    Floor = 11,
    /// A copy of a configuration that lay elsewhere; the body is the configuration's.
    RelocatedConfiguration = 12,
}

impl RecordKind {
    /// The kind of this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Entry,
            2 => Self::HardState,
            3 => Self::Truncate,
            4 => Self::Configuration,
            5 => Self::ExitCommitted,
            6 => Self::SnapshotMark,
            7 => Self::PartitionTombstone,
            8 => Self::Missing,
            9 => Self::Relocated,
            10 => Self::PeerChains,
            11 => Self::Floor,
            12 => Self::RelocatedConfiguration,
            _ => return None,
        })
    }

    /// Its name in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "Entry",
            Self::HardState => "HardState",
            Self::Truncate => "Truncate",
            Self::Configuration => "Configuration",
            Self::ExitCommitted => "ExitCommitted",
            Self::SnapshotMark => "SnapshotMark",
            Self::PartitionTombstone => "PartitionTombstone",
            Self::Missing => "Missing",
            Self::Relocated => "Relocated",
            Self::PeerChains => "PeerChains",
            Self::Floor => "Floor",
            Self::RelocatedConfiguration => "RelocatedConfiguration",
        }
    }

    /// The kind of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        (1..=u8::MAX)
            .map_while(Self::from_u8)
            .find(|kind| kind.name() == name)
    }

    /// What a copy is of: the kind of the entry or configuration that the record holds, if it holds one.
    #[must_use]
    pub const fn content(self) -> Option<Self> {
        match self {
            Self::Entry | Self::Relocated => Some(Self::Entry),
            Self::Configuration | Self::RelocatedConfiguration => Some(Self::Configuration),
            _ => None,
        }
    }
}

/// A record's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it says.
    pub kind: RecordKind,
    /// Whose.
    pub partition: PartitionId,
    /// At which term.
    pub term: Term,
    /// At which index.
    pub index: LogIndex,
    /// Bytes of the body.
    pub body_len: u32,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("record ends early: {have} of {need} bytes")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes the record needs.
        need: usize,
    },
    /// The version is not one this code reads.
    #[error(
        "record frame of version {0}, this build reads version {RECORD_VERSION}; use a build that reads it"
    )]
    Version(u8),
    /// The kind is not known.
    #[error("record kind {0} is not known")]
    Kind(u8),
    /// Codec, flags or reserved bytes are not as they must be.
    #[error("record codec, flags or reserved bytes are not known")]
    Fields,
    /// The body is longer than any may be.
    #[error("record body of {0} bytes exceeds {RECORD_BODY_BYTES_MAX}")]
    BodyTooLong(u32),
    /// The checksum does not fit the bytes.
    #[error("record checksum is {found:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// What stands in the frame.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The Merkle leaf does not fit the bytes.
    #[error("the record's Merkle leaf does not fit its bytes")]
    Leaf,
}

/// A record, borrowed from the bytes it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The decoded header.
    pub header: RecordHeader,
    /// The body.
    pub body: &'a [u8],
    /// Header, body and leaf: the bytes that travel.
    pub frame: &'a [u8],
    /// The Merkle leaf, if the frame carries one. [`decode_record`] has not compared it; [`Self::check_leaf`] does.
    pub leaf: Option<(HashSuite, &'a MerkleHash)>,
}

impl Record<'_> {
    /// Checks the Merkle leaf, if there is one, against header, body and checksum.
    ///
    /// # Errors
    /// [`RecordError::Leaf`].
    pub fn check_leaf(&self) -> Result<(), RecordError> {
        match self.leaf {
            Some((hash, leaf)) if self.compute_leaf(hash) != *leaf => Err(RecordError::Leaf),
            _ => Ok(()),
        }
    }

    /// The checksum that its frame carries.
    #[must_use]
    pub fn crc(&self) -> u32 {
        u32::from_le_bytes(array(self.frame, CRC_OFFSET))
    }

    /// Its place in a pair's Merkle tree: the leaf it carries if that is of this hash, else one computed from its
    /// bytes.
    #[must_use]
    pub fn leaf(&self, hash: HashSuite) -> MerkleHash {
        match self.leaf {
            Some((its, leaf)) if its == hash => *leaf,
            _ => self.compute_leaf(hash),
        }
    }

    fn compute_leaf(&self, hash: HashSuite) -> MerkleHash {
        let (before, crc) = self.frame[..RECORD_HEADER_BYTES].split_at(CRC_OFFSET);
        leaf_hash(hash, &[before, self.body, crc])
    }
}

/// Appends one framed record without a Merkle leaf to `out` and returns the length of its frame.
///
/// # Panics
/// If the body exceeds [`RECORD_BODY_BYTES_MAX`]: callers refuse such bodies with their limit before.
pub fn encode_record(
    out: &mut Vec<u8>,
    kind: RecordKind,
    partition: PartitionId,
    term: Term,
    index: LogIndex,
    body: &[u8],
) -> usize {
    encode_record_parts(out, None, kind, partition, term, index, &[body])
}

/// As [`encode_record`], with a Merkle leaf of this hash, if one is asked for, and the body given in parts that are
/// laid one behind the other.
///
/// # Panics
/// If the parts together exceed [`RECORD_BODY_BYTES_MAX`].
pub fn encode_record_parts(
    out: &mut Vec<u8>,
    leaf: Option<HashSuite>,
    kind: RecordKind,
    partition: PartitionId,
    term: Term,
    index: LogIndex,
    parts: &[&[u8]],
) -> usize {
    let body_len: usize = parts.iter().map(|part| part.len()).sum();
    assert!(body_len <= RECORD_BODY_BYTES_MAX);
    let start = out.len();
    write_frame_head(out, leaf, kind, partition, term, index, body_len);
    let mut crc = crc32c::crc32c(&out[start..]);
    for part in parts {
        crc = crc32c::crc32c_append(crc, part);
    }
    out.extend_from_slice(&crc.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    if let Some(hash) = leaf {
        let frame = &out[start..];
        let (before, crc) = frame[..RECORD_HEADER_BYTES].split_at(CRC_OFFSET);
        let leaf = leaf_hash(hash, &[before, &frame[RECORD_HEADER_BYTES..], crc]);
        out.extend_from_slice(&leaf);
    }
    out.len() - start
}

/// Appends a frame's header but its checksum.
pub(super) fn write_frame_head(
    out: &mut Vec<u8>,
    leaf: Option<HashSuite>,
    kind: RecordKind,
    partition: PartitionId,
    term: Term,
    index: LogIndex,
    body_len: usize,
) {
    let flags = match leaf {
        None => 0,
        Some(HashSuite::Sha256) => FLAG_LEAF,
        Some(HashSuite::Blake3) => FLAG_LEAF | FLAG_BLAKE3,
    };
    out.extend_from_slice(&[RECORD_VERSION, kind as u8, CODEC_BINARY, flags]);
    out.extend_from_slice(&(body_len as u32).to_le_bytes());
    out.extend_from_slice(&partition.get().to_le_bytes());
    out.extend_from_slice(&term.get().to_le_bytes());
    out.extend_from_slice(&index.get().to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Decodes the record at the start of `bytes` and verifies its checksum; not its leaf, for which there is
/// [`Record::check_leaf`]. What follows it is ignored.
///
/// # Errors
/// [`RecordError`]; nothing of a record that fails is handed out.
pub fn decode_record(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let record = parse_record(bytes)?;
    let found = record.crc();
    let computed = crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_OFFSET]), record.body);
    if found != computed {
        return Err(RecordError::Checksum { found, computed });
    }
    Ok(record)
}

/// As [`decode_record`], for a frame that this process made or verified a moment ago: its checksum is not
/// computed again.
///
/// # Errors
/// [`RecordError`], where the bytes are no frame.
pub fn parse_record(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let short = |need| RecordError::Short {
        have: bytes.len(),
        need,
    };
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(short(RECORD_HEADER_BYTES));
    }
    if bytes[0] != RECORD_VERSION {
        return Err(RecordError::Version(bytes[0]));
    }
    let kind = RecordKind::from_u8(bytes[1]).ok_or(RecordError::Kind(bytes[1]))?;
    let hash = match bytes[3] {
        0 => None,
        FLAG_LEAF => Some(HashSuite::Sha256),
        flags if flags == FLAG_LEAF | FLAG_BLAKE3 => Some(HashSuite::Blake3),
        _ => return Err(RecordError::Fields),
    };
    if bytes[2] != CODEC_BINARY || bytes[40..44] != [0; 4] {
        return Err(RecordError::Fields);
    }
    let (term, index) = (
        Term(u64::from_le_bytes(array(bytes, 24))),
        LogIndex(u64::from_le_bytes(array(bytes, 32))),
    );
    if term.get() > NUMBER_MAX || index.get() > NUMBER_MAX {
        return Err(RecordError::Fields);
    }
    let body_len = u32::from_le_bytes(array(bytes, 4));
    if body_len as usize > RECORD_BODY_BYTES_MAX {
        return Err(RecordError::BodyTooLong(body_len));
    }
    let body_end = RECORD_HEADER_BYTES + body_len as usize;
    let need = body_end + hash.map_or(0, |_| MERKLE_BYTES);
    let frame = bytes.get(..need).ok_or(short(need))?;
    let leaf = frame[body_end..].first_chunk();
    Ok(Record {
        header: RecordHeader {
            kind,
            partition: PartitionId(u128::from_le_bytes(array(bytes, 8))),
            term,
            index,
            body_len,
        },
        body: &frame[RECORD_HEADER_BYTES..body_end],
        frame,
        leaf: hash.zip(leaf),
    })
}

/// The records laid one behind the other in `bytes`, each verified; ends after the first error.
pub fn records(bytes: &[u8]) -> Records<'_> {
    Records { rest: bytes }
}

/// As [`records`], of bytes that were verified a moment ago: no checksum is computed again. Ends at what is no frame.
pub fn verified_records(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let record = parse_record(rest).ok()?;
        rest = &rest[record.frame.len()..];
        Some(record)
    })
}

/// Iterator of [`records`].
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let decoded = decode_record(self.rest);
        self.rest = match &decoded {
            Ok(record) => &self.rest[record.frame.len()..],
            Err(_) => &[],
        };
        Some(decoded)
    }
}
