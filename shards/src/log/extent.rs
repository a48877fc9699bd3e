//! An extent: the run of sealed blocks that one chain writes.
//!
//! Its payload, cut into blocks, is a header, the records one behind the other, and zero padding:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `EXT1` |
//! | 4 | 4 | blocks |
//! | 8 | 8 | chain |
//! | 16 | 4 | number of records |
//! | 20 | 4 | CRC32C of the record bytes |
//! | 24 | 8 | length of the record bytes |
//! | 32 | 32 | digest of the previous extent of the pair; zeros in the first |
//!
//! An extent's digest is SHA-256 over the tags of its blocks.

use clustor_wire::ids::ChainNumber;
use sha2::{Digest as _, Sha256};

use super::codec::{Reader, Truncated};
use super::format::Encoding;
use super::record;
use super::seal::{
    BlockPrefix, BlockUse, NotAuthentic, PAYLOAD_BYTES, SegmentCipher, sealed_payload, tag_of,
};
use super::slot::ExtentDigest;
use super::text;
use crate::buffer::Block;

/// Bytes of an extent's header.
pub const EXTENT_HEADER_BYTES: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"EXT1");

/// Blocks that an extent with `record_bytes` of records takes.
pub(super) fn extent_blocks(record_bytes: usize) -> u32 {
    (EXTENT_HEADER_BYTES + record_bytes).div_ceil(PAYLOAD_BYTES) as u32
}

/// An extent's header, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentHeader {
    /// Its chain.
    pub chain: ChainNumber,
    /// Its blocks.
    pub blocks: u32,
    /// Its records.
    pub records: u32,
    /// CRC32C of the record bytes.
    pub crc: u32,
    /// Length of the record bytes.
    pub bytes: u64,
    /// Digest of the extent before it in the pair.
    pub previous: ExtentDigest,
}

impl ExtentHeader {
    fn encode(&self) -> [u8; EXTENT_HEADER_BYTES] {
        let mut header = [0; EXTENT_HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&self.blocks.to_le_bytes());
        header[8..16].copy_from_slice(&self.chain.get().to_le_bytes());
        header[16..20].copy_from_slice(&self.records.to_le_bytes());
        header[20..24].copy_from_slice(&self.crc.to_le_bytes());
        header[24..32].copy_from_slice(&self.bytes.to_le_bytes());
        header[32..].copy_from_slice(&self.previous);
        header
    }

    /// Decodes the header at the start of an extent's first payload.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        Self::parse(payload).ok().flatten()
    }

    fn parse(payload: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut r = Reader(payload);
        if r.u32()? != MAGIC {
            return Ok(None);
        }
        let blocks = r.u32()?;
        Ok(Some(Self {
            blocks,
            chain: r.chain()?,
            records: r.u32()?,
            crc: r.u32()?,
            bytes: r.u64()?,
            previous: r.array()?,
        }))
    }
}

/// The digest of sealed blocks.
pub(super) fn digest_of(blocks: &[Block]) -> ExtentDigest {
    let mut digest = Sha256::new();
    for block in blocks {
        digest.update(tag_of(block));
    }
    digest.finalize().into()
}

/// Seals `records` (their bytes, and how many) into `blocks`, which must be exactly as many as they take.
pub(super) fn seal_extent(
    cipher: &SegmentCipher,
    first_block: u32,
    chain: ChainNumber,
    previous: ExtentDigest,
    records: (&[u8], u32),
    blocks: &mut [Block],
) -> ExtentDigest {
    let (bytes, count) = records;
    assert!(blocks.len() == extent_blocks(bytes.len()) as usize);
    let header = ExtentHeader {
        chain,
        blocks: blocks.len() as u32,
        records: count,
        crc: crc32c::crc32c(bytes),
        bytes: bytes.len() as u64,
        previous,
    }
    .encode();
    let mut first = [0; PAYLOAD_BYTES];
    let head = bytes.len().min(PAYLOAD_BYTES - EXTENT_HEADER_BYTES);
    first[..EXTENT_HEADER_BYTES].copy_from_slice(&header);
    first[EXTENT_HEADER_BYTES..EXTENT_HEADER_BYTES + head].copy_from_slice(&bytes[..head]);
    let payloads = core::iter::once(&first[..EXTENT_HEADER_BYTES + head])
        .chain(bytes[head..].chunks(PAYLOAD_BYTES));
    seal_payloads(
        cipher,
        first_block,
        chain,
        BlockUse::Extent,
        payloads,
        blocks,
    );
    digest_of(blocks)
}

/// Seals one payload into each block.
pub(super) fn seal_payloads<'a>(
    cipher: &SegmentCipher,
    first_block: u32,
    chain: ChainNumber,
    usage: BlockUse,
    payloads: impl Iterator<Item = &'a [u8]>,
    blocks: &mut [Block],
) {
    let mut filled = 0;
    for (ordinal, (payload, block)) in (0u32..).zip(payloads.zip(blocks.iter_mut())) {
        let prefix = BlockPrefix {
            chain,
            ordinal,
            usage,
        };
        cipher.seal(first_block + ordinal, prefix, payload, block);
        filled += 1;
    }
    assert!(filled == blocks.len());
}

/// Opens `blocks` in place and hands out their payloads; all must be authentic and belong to `chain` in order.
pub(super) fn open_payloads(
    cipher: &SegmentCipher,
    first_block: u32,
    chain: ChainNumber,
    usage: BlockUse,
    blocks: &mut [Block],
    mut take: impl FnMut(&[u8]),
) -> Result<(), NotAuthentic> {
    for (ordinal, block) in (0u32..).zip(blocks.iter_mut()) {
        let expected = BlockPrefix {
            chain,
            ordinal,
            usage,
        };
        if cipher.open(first_block + ordinal, block)? != expected {
            return Err(NotAuthentic);
        }
        take(sealed_payload(block));
    }
    Ok(())
}

/// An extent that was opened and found whole.
#[derive(Debug)]
pub(super) struct OpenExtent {
    pub header: ExtentHeader,
    records: Vec<u8>,
}

impl OpenExtent {
    /// The frames of its records, whatever they were stored as.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The same, without a copy.
    pub fn into_records(self) -> Vec<u8> {
        self.records
    }
}

/// Opens the extent of `chain` in place. Everything must fit: tags, order of blocks, header, CRC, and every record's
/// own CRC and leaf. The records come in `room`, whatever was in it.
pub(super) fn open_extent(
    cipher: &SegmentCipher,
    first_block: u32,
    chain: ChainNumber,
    blocks: &mut [Block],
    room: Vec<u8>,
) -> Result<OpenExtent, NotAuthentic> {
    let (mut header, mut records) = (None, room);
    records.clear();
    records.reserve(blocks.len() * PAYLOAD_BYTES);
    let (from, len) = (first_block, blocks.len());
    open_payloads(cipher, from, chain, BlockUse::Extent, blocks, |payload| {
        let is_first = header.is_none();
        let head = if is_first { EXTENT_HEADER_BYTES } else { 0 };
        header.get_or_insert_with(|| ExtentHeader::decode(payload));
        records.extend_from_slice(&payload[head..]);
    })?;
    let header: ExtentHeader = header.flatten().ok_or(NotAuthentic)?;
    let fits = header.chain == chain
        && header.blocks as usize == len
        && header.bytes <= records.len() as u64;
    if !fits {
        return Err(NotAuthentic);
    }
    records.truncate(header.bytes as usize);
    if crc32c::crc32c(&records) != header.crc {
        return Err(NotAuthentic);
    }
    if cipher.log_encoding == Encoding::Json {
        records = text::to_frames(&records).ok_or(NotAuthentic)?;
    }
    let mut found = record::records(&records);
    if !found.all(|record| record.is_ok_and(|record| record.check_leaf().is_ok())) {
        return Err(NotAuthentic);
    }
    Ok(OpenExtent { header, records })
}
