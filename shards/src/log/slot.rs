//! A ledger slot: what one chain's extent holds, and what was known to have retired when it was submitted.
//!
//! Payload of the block, little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `SLT1` |
//! | 4 | 1 | io_writer_mode |
//! | 5 | 1 | number of nonce records |
//! | 6 | 2 | length of the items |
//! | 8 | 8 | chain |
//! | 16 | 8 | retired: the last chain that had retired when this one was submitted |
//! | 24 | 4 | first block of the extent |
//! | 28 | 4 | blocks of the extent |
//! | 32 | 32 | digest of the extent |
//! | 64 | 72 | figures of the segment up to this chain: records (8), four-lane CRC32C of entries (16), of offsets (16), Merkle root or zeros (32) |
//! | 136 | 40 | where the scrub's sweep is, or zeros: pair (8), slot (4), slots of the last pair (4), last pair (8), chains done (8), milliseconds spent (8) |
//! | 176 | 24 each | nonce records |
//! | | .. | items; none in an opening slot, whose items stand in the checkpoint |
//! | .. | .. | filled with the byte 0xff to the end of the payload |
//!
//! The fill leaves no sector of a whole slot empty: in a ledger made of zeros, a slot with an empty sector is one whose
//! write was cut short, and its chain never retired.
//!
//! In a json ledger the payload is an object `{"slot":{...},"items":[...]}` and blanks to its end: the same fields by
//! these names, and the items as `text` has them.

use std::borrow::Cow;

use clustor_wire::ids::ChainNumber;
use serde::{Deserialize, Serialize};

use super::codec::{Reader, Truncated, Writer};
use super::format::Encoding;
use super::header::PairHeader;
use super::nonce::{NONCE_RECORD_BYTES, NonceRecords, OPENING_RECORDS_MAX, RANGES_PER_SLOT_MAX};
use super::scrub::{PLACE_BYTES, SweepPlace};
use super::seal::PAYLOAD_BYTES;
use super::text::{self, ItemsText};
use super::trailer::{FIGURES_BYTES, SegmentFigures};

/// Bytes of a slot's fields.
pub(super) const SLOT_FIELD_BYTES: usize = 64 + FIGURES_BYTES + PLACE_BYTES;
/// Bytes a slot has for items: what its fields and the nonce records of an ordinary chain leave.
pub const SLOT_ITEM_BYTES: usize =
    PAYLOAD_BYTES - SLOT_FIELD_BYTES - RANGES_PER_SLOT_MAX * NONCE_RECORD_BYTES;
const _: () = assert!(SLOT_FIELD_BYTES + OPENING_RECORDS_MAX * NONCE_RECORD_BYTES <= PAYLOAD_BYTES);
/// What lies between the items and the end of the payload.
const FILL: u8 = 0xff;
/// The same in text.
const FILL_TEXT: u8 = b' ';
/// Bytes a slot's text takes beside its items, at most.
const SLOT_TEXT_FIELD_BYTES: usize = 1024;
/// Bytes a slot in text has for items.
pub(super) const SLOT_TEXT_ITEM_BYTES: usize = PAYLOAD_BYTES - SLOT_TEXT_FIELD_BYTES;
const MAGIC: u32 = u32::from_le_bytes(*b"SLT1");

/// SHA-256 over the tags of an extent's blocks.
pub type ExtentDigest = [u8; 32];

/// A slot's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its chain.
    pub chain: ChainNumber,
    /// The last chain that had retired when this one was submitted.
    pub retired: ChainNumber,
    /// First block of the extent.
    pub first_block: u32,
    /// Blocks of the extent.
    pub blocks: u32,
    /// Digest of the extent.
    #[serde(with = "text::hex_digest")]
    pub digest: ExtentDigest,
    /// How the bytes were written: 0 FixedUring, 1 RegisteredUring, 2 Blocking.
    pub io_writer_mode: u8,
    /// Figures of the segment up to this chain.
    pub figures: SegmentFigures,
    /// Where the scrub's sweep was when the chain was submitted; `None` where none was under way.
    pub sweep: Option<SweepPlace>,
    /// What it says of nonces.
    pub nonces: NonceRecords,
}

/// A slot in text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotText {
    slot: Slot,
    items: ItemsText,
}

impl Slot {
    pub(super) fn encode(&self, encoding: Encoding, items: &[u8], payload: &mut Vec<u8>) {
        match encoding {
            Encoding::Binary => self.encode_binary(items, payload),
            Encoding::Json => self.encode_text(items, payload),
        }
    }

    fn encode_text(&self, items: &[u8], payload: &mut Vec<u8>) {
        let start = payload.len();
        let slot = SlotText {
            slot: *self,
            items: ItemsText(items.to_vec()),
        };
        serde_json::to_writer(&mut *payload, &slot).expect("items of a batch have a text");
        assert!(payload.len() - start <= PAYLOAD_BYTES);
        payload.resize(start + PAYLOAD_BYTES, FILL_TEXT);
    }

    fn encode_binary(&self, items: &[u8], payload: &mut Vec<u8>) {
        assert!(items.len() <= SLOT_ITEM_BYTES);
        assert!(self.nonces.count() <= OPENING_RECORDS_MAX);
        let start = payload.len();
        let mut w = Writer(payload);
        w.u32(MAGIC);
        w.u8(self.io_writer_mode);
        w.u8(self.nonces.count() as u8);
        w.u16(items.len() as u16);
        w.u64(self.chain.get());
        w.u64(self.retired.get());
        w.u32(self.first_block);
        w.u32(self.blocks);
        w.bytes(&self.digest);
        self.figures.encode(&mut w);
        SweepPlace::encode(self.sweep.as_ref(), &mut w);
        assert!(w.0.len() - start == SLOT_FIELD_BYTES);
        self.nonces.encode(&mut w);
        payload.extend_from_slice(items);
        payload.resize(start + PAYLOAD_BYTES, FILL);
    }

    /// Whether its extent lies in the segment, behind the checkpoint and before the trailer, what it says had
    /// retired came before it, and it states a Merkle root if the pair has one.
    pub(super) fn lies_in(&self, header: &PairHeader) -> bool {
        let end = self.first_block.checked_add(self.blocks);
        self.blocks > 0
            && self.first_block >= header.body_block()
            && end.is_some_and(|end| end < header.segment_blocks)
            && self.retired < self.chain
            && self.figures.merkle_root.is_some() == header.format.merkle_leaves
    }

    /// Decodes an authenticated payload into the fields and the items' bytes.
    pub(super) fn decode(payload: &[u8]) -> Option<(Self, Cow<'_, [u8]>)> {
        if payload.first() == Some(&text::OBJECT_BEGIN) {
            let slot: SlotText = serde_json::from_slice(payload).ok()?;
            return Some((slot.slot, Cow::Owned(slot.items.0)));
        }
        let (slot, items) = Self::parse(payload).ok().flatten()?;
        Some((slot, Cow::Borrowed(items)))
    }

    fn parse(payload: &[u8]) -> Result<Option<(Self, &[u8])>, Truncated> {
        let mut r = Reader(payload);
        if r.u32()? != MAGIC {
            return Ok(None);
        }
        let io_writer_mode = r.u8()?;
        let nonce_count = r.u8()?;
        let item_bytes = usize::from(r.u16()?);
        let mut slot = Self {
            chain: r.chain()?,
            retired: r.chain()?,
            first_block: r.u32()?,
            blocks: r.u32()?,
            digest: r.array()?,
            figures: SegmentFigures::decode(&mut r)?,
            sweep: SweepPlace::decode(&mut r)?,
            io_writer_mode,
            nonces: NonceRecords::default(),
        };
        let Some(nonces) = NonceRecords::decode(&mut r, nonce_count)? else {
            return Ok(None);
        };
        slot.nonces = nonces;
        Ok(Some((slot, r.bytes(item_bytes)?)))
    }
}
