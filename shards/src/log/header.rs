//! Block 0 of both files of a pair: who wrote it, in which format, under which keys.
//!
//! Part of the opening chain's write, never written earlier. The two copies differ only in their magic and
//! MAC; each restores the other.

use clustor_wire::ids::{
    BootNumber, ChainNumber, ClusterId, DekEpoch, MacEpoch, NodeId, PairNumber, ShardId,
};
use hmac::Hmac;
use sha2::Sha256;

use super::codec::{Reader, Truncated, Writer};
use super::keys::{LogIdentity, SALT_BYTES};
use super::seal::{SUITE_CHACHA20_POLY1305, authenticate, plain_payload, verify};
use crate::buffer::{BLOCK_BYTES, Block};
use crate::disk::FileKind;

/// Version of the file formats that this code writes and the newest it reads.
pub const FORMAT_VERSION: u16 = 1;
/// Number of the binary encoding.
pub const ENCODING_BINARY: u8 = 1;
/// Number of the SHA-256 hash suite.
pub const HASH_SHA256: u8 = 1;

const MAGIC_SEGMENT: [u8; 8] = *b"CLUSTSEG";
const MAGIC_LEDGER: [u8; 8] = *b"CLUSTLDG";
/// Bytes of the fields; zeros follow up to the MAC.
const HEADER_FIELD_BYTES: usize = 128;

/// The header of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairHeader {
    /// Whose.
    pub identity: LogIdentity,
    /// The boot that wrote it.
    pub boot: BootNumber,
    /// Its number.
    pub pair: PairNumber,
    /// The opening chain.
    pub first_chain: ChainNumber,
    /// Epoch of the data key.
    pub dek_epoch: DekEpoch,
    /// Epoch of the integrity key.
    pub mac_epoch: MacEpoch,
    /// Size of the segment, in blocks.
    pub segment_blocks: u32,
    /// Size of the ledger, in blocks.
    pub ledger_blocks: u32,
    /// Length of the checkpoint in bytes.
    pub checkpoint_bytes: u32,
    /// Length of the checkpoint in blocks.
    pub checkpoint_blocks: u32,
    /// Salt of the segment's key.
    pub salt: [u8; SALT_BYTES],
}

/// Why block 0 is not a header this code can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Nothing that looks like a header of this kind of file.
    Bad,
    /// It looks like a header but is not authentic under our keys: damage, unless every header says so.
    Suspect(HeaderMismatch),
    /// It is authentic, and this build must not use it.
    Refused(HeaderMismatch),
}

/// What of a header does not fit this build or this shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderMismatch {
    /// Written by a newer build.
    Newer(u16),
    /// Written with another encoding, suite, hash or block size; the text names it.
    Settings(String),
    /// Another cluster's, node's or shard's.
    Foreign(LogIdentity),
    /// Everything fits but the MAC: another key, or damage.
    Mac,
}

impl PairHeader {
    /// Slots of the ledger begin at this block; the extents of the segment too.
    pub fn body_block(&self) -> u32 {
        1 + self.checkpoint_blocks
    }

    /// Number of slots in the ledger.
    pub fn slots(&self) -> u32 {
        self.ledger_blocks.saturating_sub(self.body_block())
    }

    pub(super) fn encode(&self, kind: FileKind, integrity: &Hmac<Sha256>, block: &mut Block) {
        let mut fields = Vec::with_capacity(HEADER_FIELD_BYTES);
        let mut w = Writer(&mut fields);
        w.bytes(match kind {
            FileKind::Segment => &MAGIC_SEGMENT,
            FileKind::Ledger => &MAGIC_LEDGER,
        });
        w.u16(FORMAT_VERSION);
        w.u8(ENCODING_BINARY);
        w.u8(SUITE_CHACHA20_POLY1305);
        w.u8(HASH_SHA256);
        w.u8(0);
        w.u16(self.identity.shard.get());
        w.u128(self.identity.cluster.get());
        w.u64(self.identity.node.get());
        w.u64(self.boot.get());
        w.u64(self.pair.get());
        w.u64(self.first_chain.get());
        w.u32(self.dek_epoch.get());
        w.u32(self.mac_epoch.get());
        w.u32(BLOCK_BYTES as u32);
        w.u32(self.segment_blocks);
        w.u32(self.ledger_blocks);
        w.u32(self.checkpoint_bytes);
        w.u32(self.checkpoint_blocks);
        w.u32(0);
        w.bytes(&self.salt);
        assert!(fields.len() == HEADER_FIELD_BYTES);
        authenticate(integrity, kind, self.pair, 0, &fields, block);
    }

    /// Decodes and verifies block 0 of the file of `kind` named for `pair`. `integrity` gives the MAC key of an
    /// epoch. Identity and format are compared before the MAC, so that a directory of another node is told from
    /// a damaged one.
    pub(super) fn decode(
        kind: FileKind,
        pair: PairNumber,
        ours: &LogIdentity,
        integrity: impl Fn(MacEpoch) -> Hmac<Sha256>,
        block: &Block,
    ) -> Result<Self, HeaderError> {
        let mut r = Reader(plain_payload(block));
        let magic = match kind {
            FileKind::Segment => MAGIC_SEGMENT,
            FileKind::Ledger => MAGIC_LEDGER,
        };
        let bad = |_: Truncated| HeaderError::Bad;
        if r.array::<8>().map_err(bad)? != magic {
            return Err(HeaderError::Bad);
        }
        let version = r.u16().map_err(bad)?;
        let encoding = r.u8().map_err(bad)?;
        let suite = r.u8().map_err(bad)?;
        let hash = r.u8().map_err(bad)?;
        let _reserved = r.u8().map_err(bad)?;
        let shard = ShardId(r.u16().map_err(bad)?);
        let identity = LogIdentity {
            cluster: ClusterId(r.u128().map_err(bad)?),
            node: NodeId(r.u64().map_err(bad)?),
            shard,
        };
        let block_bytes;
        let boot = BootNumber(r.u64().map_err(bad)?);
        let header = Self {
            identity,
            boot,
            pair: r.pair().map_err(bad)?,
            first_chain: r.chain().map_err(bad)?,
            dek_epoch: DekEpoch(r.u32().map_err(bad)?),
            mac_epoch: MacEpoch(r.u32().map_err(bad)?),
            segment_blocks: {
                block_bytes = r.u32().map_err(bad)?;
                r.u32().map_err(bad)?
            },
            ledger_blocks: r.u32().map_err(bad)?,
            checkpoint_bytes: r.u32().map_err(bad)?,
            checkpoint_blocks: r.u32().map_err(bad)?,
            salt: {
                let _reserved = r.u32().map_err(bad)?;
                r.array().map_err(bad)?
            },
        };
        let mismatch = if version != FORMAT_VERSION {
            Some(HeaderMismatch::Newer(version))
        } else if header.identity != *ours {
            Some(HeaderMismatch::Foreign(header.identity))
        } else if (encoding, suite, hash) != (ENCODING_BINARY, SUITE_CHACHA20_POLY1305, HASH_SHA256)
            || block_bytes as usize != BLOCK_BYTES
        {
            Some(HeaderMismatch::Settings(format!(
                "encoding {encoding}, suite {suite}, hash {hash}, blocks of {block_bytes} bytes"
            )))
        } else {
            None
        };
        let authentic = header.pair == pair
            && verify(&integrity(header.mac_epoch), kind, pair, 0, block).is_ok();
        match (authentic, mismatch) {
            (true, None) => Ok(header),
            (true, Some(mismatch)) => Err(HeaderError::Refused(mismatch)),
            (false, None) => Err(HeaderError::Suspect(HeaderMismatch::Mac)),
            (false, Some(mismatch)) => Err(HeaderError::Suspect(mismatch)),
        }
    }
}
