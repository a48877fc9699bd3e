//! What a pair's files are made of: encodings, sealing suite, hash. Names for people, numbers for headers.

use super::aead;
use super::record::RECORD_OVERHEAD_BYTES_MAX;
use super::text;

/// How fixed structures are laid down: packed, or as text that people can read.
///
/// Records in memory and between nodes are binary either way; the text of a record says the same fields, checksum
/// and leaf included, and turns back into exactly the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Encoding {
    /// Little-endian fields of fixed width.
    #[default]
    Binary = 1,
    /// JSON (RFC 8259) with every 64-bit integer as a decimal string.
    Json = 2,
}

impl Encoding {
    /// Its name in profiles and environment variables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Json => "json",
        }
    }

    /// The encoding of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Binary, Self::Json]
            .into_iter()
            .find(|encoding| encoding.name() == name)
    }

    /// The encoding of this number, if there is one.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Binary),
            2 => Some(Self::Json),
            _ => None,
        }
    }
}

impl core::fmt::Display for Encoding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// How the blocks of a segment are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Suite {
    /// Not at all: blocks lie in clear under a checksum that keeps old blocks of a recycled file, and chance,
    /// from passing for this pair's. Nothing keeps a person from it.
    None = 0,
    /// ChaCha20-Poly1305 (RFC 8439).
    #[default]
    ChaCha20Poly1305 = 1,
    /// AES-256-GCM (NIST SP 800-38D). Needs a build with the feature `aws-lc`.
    Aes256Gcm = 2,
}

impl Suite {
    /// Every suite, by number.
    pub const ALL: [Self; 3] = [Self::None, Self::ChaCha20Poly1305, Self::Aes256Gcm];

    /// Its name in profiles.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }

    /// The suite of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// The suite of this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| *suite as u8 == number)
    }

    /// Whether this build can seal and open with it.
    ///
    /// # Errors
    /// [`SuiteUnavailable`], which says what to do.
    pub const fn check_available(self) -> Result<(), SuiteUnavailable> {
        if matches!(self, Self::Aes256Gcm) && !aead::HAS_AES {
            return Err(SuiteUnavailable(self));
        }
        Ok(())
    }
}

impl core::fmt::Display for Suite {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// A suite that this build has no code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "sealing = \"{0}\" needs a build with the feature `aws-lc`; build with it, or seal with \"chacha20-poly1305\""
)]
pub struct SuiteUnavailable(pub Suite);

/// The hash of Merkle leaves and roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum HashSuite {
    /// SHA-256 (FIPS 180-4).
    #[default]
    Sha256 = 1,
    /// BLAKE3 with its default output of 32 bytes.
    Blake3 = 2,
}

impl HashSuite {
    /// Its name in profiles.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    /// The hash of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Blake3]
            .into_iter()
            .find(|hash| hash.name() == name)
    }

    /// The hash of this number, if there is one.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Sha256),
            2 => Some(Self::Blake3),
            _ => None,
        }
    }
}

impl core::fmt::Display for HashSuite {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a pair's files are made of. Stands in the header of every pair, so that each pair is read by what it says
/// itself. The encodings are the directory's: one written with others is refused. The rest may change at any
/// opening of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogFormat {
    /// Of the records in the segment.
    pub log_encoding: Encoding,
    /// Of checkpoints, in both files, and of the ledger's slots.
    pub ledger_encoding: Encoding,
    /// Of the segment's blocks.
    pub sealing: Suite,
    /// Whether records that are framed here carry a Merkle leaf, and pairs have a root.
    pub merkle_leaves: bool,
    /// Of leaves and root.
    pub hash: HashSuite,
}

impl LogFormat {
    /// The hash of the leaf that a record framed here carries, if it carries one.
    #[must_use]
    pub const fn leaf(&self) -> Option<HashSuite> {
        if self.merkle_leaves {
            Some(self.hash)
        } else {
            None
        }
    }

    /// Bytes that a record framed here with a body of this many bytes takes at rest, at most.
    #[must_use]
    pub fn stored_bytes_max(&self, body_bytes: usize) -> usize {
        match self.log_encoding {
            Encoding::Binary => RECORD_OVERHEAD_BYTES_MAX + body_bytes,
            Encoding::Json => text::record_text_bytes_max(body_bytes),
        }
    }

    /// The longest body of which [`Self::stored_bytes_max`] is at most `stored_bytes`.
    #[must_use]
    pub fn body_bytes_within(&self, stored_bytes: usize) -> usize {
        match self.log_encoding {
            Encoding::Binary => stored_bytes.saturating_sub(RECORD_OVERHEAD_BYTES_MAX),
            Encoding::Json => stored_bytes.saturating_sub(text::RECORD_TEXT_OVERHEAD_MAX) / 4 * 3,
        }
    }

    /// Whether files of these two formats may lie in one directory.
    #[must_use]
    pub fn has_encodings_of(&self, other: &Self) -> bool {
        self.log_encoding == other.log_encoding && self.ledger_encoding == other.ledger_encoding
    }
}
