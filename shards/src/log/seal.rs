//! One block at a time: sealed in the segment, authenticated in the ledger.
//!
//! | file | bytes 0..4064 | 4064..4080 | 4080..4096 |
//! | --- | --- | --- | --- |
//! | segment | sealed: prefix (16) and payload (4064), together 4080 bytes | | AEAD tag |
//! | ledger, and block 0 of both | payload (4064), in clear | HMAC-SHA256 (32) | |
//!
//! Both carry the same [`PAYLOAD_BYTES`] of payload, so a checkpoint's blocks are the same bytes in both files.
//! The nonce of a sealed block is pair (64 bit) and block number (32 bit), big-endian; its additional data are
//! suite, format version, shard, data-key epoch and pair. The MAC covers file kind, pair, block number, payload.
//!
//! Under the suite `none` the 4080 bytes lie in clear, and the tag is four CRC32C, each over the pair's salt, the
//! additional data, the lane's number, the block number and one quarter of the block.

use clustor_wire::ids::{ChainNumber, PairNumber};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroize as _;

use super::aead::{Aead, NONCE_BYTES};
use super::format::{Encoding, HashSuite};
use super::header::{FORMAT_VERSION, PairHeader};
use super::keys::{MAC_BYTES, SALT_BYTES};
use crate::buffer::{BLOCK_BYTES, Block};
use crate::disk::FileKind;

/// Bytes of payload in one block of either file.
pub const PAYLOAD_BYTES: usize = 4064;
/// Bytes of the prefix in a sealed block.
pub const PREFIX_BYTES: usize = 16;
pub use super::aead::TAG_BYTES;

const SEALED_BYTES: usize = PREFIX_BYTES + PAYLOAD_BYTES;
const _: () = assert!(SEALED_BYTES + TAG_BYTES == BLOCK_BYTES);
const _: () = assert!(PAYLOAD_BYTES + MAC_BYTES == BLOCK_BYTES);

/// What a sealed block belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum BlockUse {
    /// An extent's record stream.
    Extent = 1,
    /// The pair's checkpoint.
    Checkpoint = 2,
}

/// The first 16 sealed bytes of a segment block: by them the walk finds its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockPrefix {
    pub chain: ChainNumber,
    pub ordinal: u32,
    pub usage: BlockUse,
}

/// A block is not what its file, place and key say it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAuthentic;

/// Bytes of the additional data of every block.
const AAD_BYTES: usize = 16;
/// Lanes of the checksum that stands for a tag under the suite `none`.
const LANES: usize = TAG_BYTES / 4;
const LANE_BYTES: usize = SEALED_BYTES / LANES;
const _: () = assert!(LANES * LANE_BYTES == SEALED_BYTES);

/// What makes the tags of a pair's blocks.
pub(super) enum Sealer {
    /// A cipher.
    Aead(Aead),
    /// The suite `none`.
    Clear,
}

enum Tags {
    Aead(Aead),
    /// CRC32C of salt, additional data and number of each lane.
    Checksum([u32; LANES]),
}

/// Seals and opens the blocks of one pair's segment.
pub(super) struct SegmentCipher {
    /// Of the records in the blocks.
    pub log_encoding: Encoding,
    /// The hash of the pair's Merkle tree, if it has one.
    pub leaf: Option<HashSuite>,
    tags: Tags,
    pair: PairNumber,
    aad: [u8; AAD_BYTES],
}

impl SegmentCipher {
    pub fn new(sealer: Sealer, header: &PairHeader) -> Self {
        let mut aad = [0; AAD_BYTES];
        aad[0] = header.format.sealing as u8;
        aad[1] = FORMAT_VERSION as u8;
        aad[2..4].copy_from_slice(&header.identity.shard.get().to_be_bytes());
        aad[4..8].copy_from_slice(&header.dek_epoch.get().to_be_bytes());
        aad[8..].copy_from_slice(&header.pair.get().to_be_bytes());
        let tags = match sealer {
            Sealer::Aead(aead) => Tags::Aead(aead),
            Sealer::Clear => Tags::Checksum(lane_seeds(&header.salt, &aad)),
        };
        Self {
            log_encoding: header.format.log_encoding,
            leaf: header.format.leaf(),
            tags,
            pair: header.pair,
            aad,
        }
    }

    fn nonce(&self, block_number: u32) -> [u8; NONCE_BYTES] {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..8].copy_from_slice(&self.pair.get().to_be_bytes());
        nonce[8..].copy_from_slice(&block_number.to_be_bytes());
        nonce
    }

    /// Fills `block` with prefix, `payload` (at most [`PAYLOAD_BYTES`]) and zero padding, and seals it.
    pub fn seal(
        &self,
        block_number: u32,
        prefix: BlockPrefix,
        payload: &[u8],
        block: &mut Block,
    ) -> [u8; TAG_BYTES] {
        let (sealed, tag_place) = block.0.split_at_mut(SEALED_BYTES);
        sealed[..8].copy_from_slice(&prefix.chain.get().to_le_bytes());
        sealed[8..12].copy_from_slice(&prefix.ordinal.to_le_bytes());
        sealed[12..16].copy_from_slice(&(prefix.usage as u32).to_le_bytes());
        let (filled, padding) = sealed[PREFIX_BYTES..].split_at_mut(payload.len());
        filled.copy_from_slice(payload);
        padding.fill(0);
        let tag = match &self.tags {
            Tags::Aead(aead) => aead.seal(&self.nonce(block_number), &self.aad, sealed),
            Tags::Checksum(seeds) => checksum(seeds, block_number, sealed),
        };
        tag_place.copy_from_slice(&tag);
        tag
    }

    /// Opens `block` in place. On failure the block is zeroed: nothing unverified stays readable.
    pub fn open(&self, block_number: u32, block: &mut Block) -> Result<BlockPrefix, NotAuthentic> {
        let (sealed, tag) = block.0.split_at_mut(SEALED_BYTES);
        let tag: [u8; TAG_BYTES] = tag.try_into().map_err(|_| NotAuthentic)?;
        let is_authentic = match &self.tags {
            Tags::Aead(aead) => aead
                .open(&self.nonce(block_number), &self.aad, sealed, &tag)
                .is_ok(),
            Tags::Checksum(seeds) => checksum(seeds, block_number, sealed) == tag,
        };
        if !is_authentic {
            block.0.zeroize();
            return Err(NotAuthentic);
        }
        let field = |at: usize| {
            u32::from_le_bytes([sealed[at], sealed[at + 1], sealed[at + 2], sealed[at + 3]])
        };
        let usage = match field(12) {
            1 => BlockUse::Extent,
            2 => BlockUse::Checkpoint,
            _ => return Err(NotAuthentic),
        };
        Ok(BlockPrefix {
            chain: ChainNumber(u64::from(field(0)) | u64::from(field(4)) << 32),
            ordinal: field(8),
            usage,
        })
    }
}

fn lane_seeds(salt: &[u8; SALT_BYTES], aad: &[u8; AAD_BYTES]) -> [u32; LANES] {
    let shared = crc32c::crc32c_append(crc32c::crc32c(salt), aad);
    core::array::from_fn(|lane| crc32c::crc32c_append(shared, &[lane as u8]))
}

fn checksum(seeds: &[u32; LANES], block_number: u32, content: &[u8]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    let quarters = content.chunks_exact(LANE_BYTES);
    for ((place, seed), quarter) in tag.chunks_exact_mut(4).zip(seeds).zip(quarters) {
        let seed = crc32c::crc32c_append(*seed, &block_number.to_be_bytes());
        place.copy_from_slice(&crc32c::crc32c_append(seed, quarter).to_le_bytes());
    }
    tag
}

/// The payload of an opened segment block.
pub(super) fn sealed_payload(block: &Block) -> &[u8] {
    &block.0[PREFIX_BYTES..SEALED_BYTES]
}

/// The tag of a sealed segment block.
pub(super) fn tag_of(block: &Block) -> &[u8] {
    &block.0[SEALED_BYTES..]
}

/// The payload of an authenticated block.
pub(super) fn plain_payload(block: &Block) -> &[u8] {
    &block.0[..PAYLOAD_BYTES]
}

/// Whether nothing was ever written there.
pub(super) fn is_untouched(block: &Block) -> bool {
    block.0 == Block::ZERO.0
}

fn mac_of(
    keyed: &Hmac<Sha256>,
    kind: FileKind,
    pair: PairNumber,
    block_number: u32,
    payload: &[u8],
) -> Hmac<Sha256> {
    let mut mac = keyed.clone();
    mac.update(match kind {
        FileKind::Segment => b"seg",
        FileKind::Ledger => b"led",
    });
    mac.update(&pair.get().to_le_bytes());
    mac.update(&block_number.to_le_bytes());
    mac.update(payload);
    mac
}

/// Fills `block` with `payload` (at most [`PAYLOAD_BYTES`]), zero padding and the MAC.
pub(super) fn authenticate(
    keyed: &Hmac<Sha256>,
    kind: FileKind,
    pair: PairNumber,
    block_number: u32,
    payload: &[u8],
    block: &mut Block,
) {
    let (place, mac_place) = block.0.split_at_mut(PAYLOAD_BYTES);
    let (filled, padding) = place.split_at_mut(payload.len());
    filled.copy_from_slice(payload);
    padding.fill(0);
    let mac = mac_of(keyed, kind, pair, block_number, place).finalize();
    mac_place.copy_from_slice(&mac.into_bytes());
}

/// Verifies the MAC of `block`, in constant time.
pub(super) fn verify(
    keyed: &Hmac<Sha256>,
    kind: FileKind,
    pair: PairNumber,
    block_number: u32,
    block: &Block,
) -> Result<(), NotAuthentic> {
    let (payload, mac) = block.0.split_at(PAYLOAD_BYTES);
    mac_of(keyed, kind, pair, block_number, payload)
        .verify_slice(mac)
        .map_err(|_| NotAuthentic)
}
