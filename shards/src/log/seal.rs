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

use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use clustor_wire::ids::{ChainNumber, DekEpoch, PairNumber, ShardId};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroize as _;

use super::header::FORMAT_VERSION;
use super::keys::MAC_BYTES;
use crate::buffer::{BLOCK_BYTES, Block};
use crate::disk::FileKind;

/// Bytes of payload in one block of either file.
pub const PAYLOAD_BYTES: usize = 4064;
/// Bytes of the prefix in a sealed block.
pub const PREFIX_BYTES: usize = 16;
/// Bytes of an AEAD tag.
pub const TAG_BYTES: usize = 16;
/// Number of the ChaCha20-Poly1305 suite (RFC 8439).
pub const SUITE_CHACHA20_POLY1305: u8 = 1;

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

/// Seals and opens the blocks of one pair's segment.
pub(super) struct SegmentCipher {
    aead: ChaCha20Poly1305,
    pair: PairNumber,
    aad: [u8; 16],
}

impl SegmentCipher {
    pub fn new(
        aead: ChaCha20Poly1305,
        pair: PairNumber,
        shard: ShardId,
        dek_epoch: DekEpoch,
    ) -> Self {
        let mut aad = [0; 16];
        aad[0] = SUITE_CHACHA20_POLY1305;
        aad[1] = FORMAT_VERSION as u8;
        aad[2..4].copy_from_slice(&shard.get().to_be_bytes());
        aad[4..8].copy_from_slice(&dek_epoch.get().to_be_bytes());
        aad[8..].copy_from_slice(&pair.get().to_be_bytes());
        Self { aead, pair, aad }
    }

    fn nonce(&self, block_number: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.pair.get().to_be_bytes());
        nonce[8..].copy_from_slice(&block_number.to_be_bytes());
        nonce.into()
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
        let tag = self
            .aead
            .encrypt_inout_detached(&self.nonce(block_number), &self.aad, sealed.into())
            .expect("4080 bytes are far below the cipher's limit");
        tag_place.copy_from_slice(&tag);
        tag.into()
    }

    /// Opens `block` in place. On failure the block is zeroed: nothing unverified stays readable.
    pub fn open(&self, block_number: u32, block: &mut Block) -> Result<BlockPrefix, NotAuthentic> {
        let (sealed, tag) = block.0.split_at_mut(SEALED_BYTES);
        let tag: [u8; TAG_BYTES] = tag.try_into().map_err(|_| NotAuthentic)?;
        let opened = self.aead.decrypt_inout_detached(
            &self.nonce(block_number),
            &self.aad,
            (&mut *sealed).into(),
            &Tag::from(tag),
        );
        if opened.is_err() {
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
