//! The trailer of a segment: what was in it when it was closed, in its last block.
//!
//! A pair is closed by the opening of the next one, whose checkpoint states the trailer. The trailer's own block is
//! written once that opening and its mark have retired, so a torn one is restored from the checkpoint at a later start.
//! Its figures run along in the ledger's slots: the slot of the last certain chain holds them, and no extent need be read
//! to close a pair that a crash left.
//!
//! Payload of the block, little-endian, authenticated like a header (`seal`):
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `TRL1` |
//! | 4 | 4 | flags: bit 0, a Merkle root follows |
//! | 8 | 8 | pair |
//! | 16 | 8, 4 | first position: first chain, first block of its extent |
//! | 28 | 8, 4 | last position: last certain chain, the block behind its extent |
//! | 40 | 8 | records |
//! | 48 | 16 | four-lane CRC32C of the entries |
//! | 64 | 16 | four-lane CRC32C of the offsets |
//! | 80 | 32 | Merkle root (`merkle`), or zeros |

use clustor_wire::ids::{ChainNumber, PairNumber};
use hmac::Hmac;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::codec::{Reader, Truncated, Writer};
use super::merkle::MerkleHash;
use super::seal::{authenticate, is_untouched, plain_payload, verify};
use crate::buffer::Block;
use crate::disk::FileKind;

const MAGIC: u32 = u32::from_le_bytes(*b"TRL1");
const FLAG_ROOT: u32 = 1;
/// Bytes of a trailer's fields, in its block and in a checkpoint.
pub(super) const TRAILER_BYTES: usize = 112;
/// Bytes of the figures that run along in the slots.
pub(super) const FIGURES_BYTES: usize = 72;

const LANES: usize = 4;
const WORD: usize = 4;
/// Bytes of a row: a word of each lane.
const ROW: usize = LANES * WORD;
/// Rows that are dealt at once, so that each lane gets as much as a register holds.
const DEALT: usize = 4;
/// Bytes of each lane that are gathered before the checksum runs over them.
const GATHERED: usize = 256 * WORD;

/// CRC32C in four lanes: the 32-bit words of what is fed are dealt to them in turn, so that four checksums run
/// side by side. What does not fill a row of four words is padded with zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FourLaneCrc(pub [u32; LANES]);

impl FourLaneCrc {
    /// Feeds `bytes`, padded with zeros to whole rows of 16 bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut lanes = [[0u8; GATHERED]; LANES];
        for chunk in bytes.chunks(LANES * GATHERED) {
            let (whole, rest) = chunk.as_chunks::<{ ROW * DEALT }>();
            for (at, rows) in whole.iter().enumerate() {
                deal(rows, at, &mut lanes);
            }
            if !rest.is_empty() {
                let mut rows = [0; ROW * DEALT];
                rows[..rest.len()].copy_from_slice(rest);
                deal(&rows, whole.len(), &mut lanes);
            }
            let filled = chunk.len().div_ceil(ROW) * WORD;
            for (crc, lane) in self.0.iter_mut().zip(&lanes) {
                *crc = crc32c::crc32c_append(*crc, &lane[..filled]);
            }
        }
    }

    /// The checksum of what made this one and, behind it, what made `next`, which was fed as `bytes` bytes: as if both had been
    /// fed to one.
    #[must_use]
    pub fn followed_by(self, next: Self, bytes: usize) -> Self {
        let rows = bytes.div_ceil(LANES * WORD);
        let shift = lane_shift(rows as u64 * WORD as u64);
        let mut lanes = self.0;
        for (lane, next) in lanes.iter_mut().zip(next.0) {
            *lane = times(shift, *lane) ^ next;
        }
        Self(lanes)
    }

    /// The lanes, packed little-endian into 128 bits.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LANES * WORD] {
        let mut bytes = [0; LANES * WORD];
        for (place, lane) in bytes.chunks_mut(WORD).zip(self.0) {
            place.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self([r.u32()?, r.u32()?, r.u32()?, r.u32()?]))
    }
}

/// Deals the words of some rows to their lanes, `at` as many rows in.
fn deal(rows: &[u8; ROW * DEALT], at: usize, lanes: &mut [[u8; GATHERED]; LANES]) {
    let (words, _) = rows.as_chunks::<WORD>();
    for (lane, gathered) in lanes.iter_mut().enumerate() {
        let dealt: [[u8; WORD]; DEALT] = core::array::from_fn(|row| words[row * LANES + lane]);
        let (places, _) = gathered.as_chunks_mut::<{ WORD * DEALT }>();
        places[at].copy_from_slice(dealt.as_flattened());
    }
}

/// CRC32C's polynomial, its bits reversed as those of every remainder here: x^0 is the highest (RFC 3720, B.4).
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^(2^n) modulo the polynomial.
const SQUARES: [u32; 40] = {
    let mut squares = [1 << 30; 40];
    let mut n = 1;
    while n < squares.len() {
        squares[n] = times(squares[n - 1], squares[n - 1]);
        n += 1;
    }
    squares
};

/// The product of two remainders.
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ if b & 1 == 1 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
}

/// What a checksum is multiplied by when `bytes` bytes are behind what made it: x^(8 bytes).
fn lane_shift(bytes: u64) -> u32 {
    let mut shift = 1 << 31;
    let mut bits = bytes;
    for square in &SQUARES[3..] {
        if bits & 1 == 1 {
            shift = times(*square, shift);
        }
        bits >>= 1;
    }
    assert!(bits == 0, "an extent is no longer than its segment");
    shift
}

/// Figures of a segment up to some chain; each slot holds those up to its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentFigures {
    /// Records in all extents.
    #[serde(with = "super::text::decimal")]
    pub records: u64,
    /// Over the record bytes of each extent, each padded to whole rows.
    pub entries: FourLaneCrc,
    /// Over four words for each extent: its first block, its blocks, its record bytes, its records.
    pub offsets: FourLaneCrc,
    /// Root of the pair's Merkle tree, where the pair keeps leaves.
    #[serde(with = "super::text::hex_digest_or_null")]
    pub merkle_root: Option<MerkleHash>,
}

impl SegmentFigures {
    /// Takes the next extent: where it lies, and its records. The root is the caller's affair.
    pub(super) fn add_extent(&mut self, place: (u32, u32), records: &[u8], count: u32) {
        self.entries.update(records);
        self.add_place(place, records.len() as u32, count);
    }

    /// As [`Self::add_extent`], where the records were seen before: their checksum, their bytes, how many there are.
    pub(super) fn add_seen(
        &mut self,
        place: (u32, u32),
        (entries, bytes): (FourLaneCrc, u32),
        count: u32,
    ) {
        self.entries = self.entries.followed_by(entries, bytes as usize);
        self.add_place(place, bytes, count);
    }

    fn add_place(&mut self, place: (u32, u32), bytes: u32, count: u32) {
        self.records += u64::from(count);
        let (first_block, blocks) = place;
        let mut row = [0; LANES * WORD];
        let words = [first_block, blocks, bytes, count];
        for (place, word) in row.chunks_mut(WORD).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.offsets.update(&row);
    }

    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.records);
        w.bytes(&self.entries.to_bytes());
        w.bytes(&self.offsets.to_bytes());
        w.bytes(&self.merkle_root.unwrap_or_default());
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            records: r.u64()?,
            entries: FourLaneCrc::decode(r)?,
            offsets: FourLaneCrc::decode(r)?,
            merkle_root: Some(r.array()?).filter(|root| *root != MerkleHash::default()),
        })
    }
}

/// The trailer of a closed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// Of which pair.
    pub pair: PairNumber,
    /// The first chain and the first block of its extent.
    pub first: (ChainNumber, u32),
    /// The last certain chain and the block behind its extent.
    pub last: (ChainNumber, u32),
    /// What lies between.
    pub figures: SegmentFigures,
}

impl Trailer {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u32(MAGIC);
        w.u32(if self.figures.merkle_root.is_some() {
            FLAG_ROOT
        } else {
            0
        });
        w.u64(self.pair.get());
        for (chain, block) in [self.first, self.last] {
            w.u64(chain.get());
            w.u32(block);
        }
        self.figures.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Option<Self>, Truncated> {
        let (magic, flags) = (r.u32()?, r.u32()?);
        let pair = r.pair()?;
        let first = (r.chain()?, r.u32()?);
        let last = (r.chain()?, r.u32()?);
        let figures = SegmentFigures::decode(r)?;
        let flags_known = if figures.merkle_root.is_some() {
            FLAG_ROOT
        } else {
            0
        };
        let known = magic == MAGIC && flags == flags_known;
        Ok(known.then_some(Self {
            pair,
            first,
            last,
            figures,
        }))
    }

    /// Fills the block of number `block` with this trailer.
    pub(super) fn write(&self, integrity: &Hmac<Sha256>, number: u32, block: &mut Block) {
        let mut payload = Vec::with_capacity(TRAILER_BYTES);
        self.encode(&mut Writer(&mut payload));
        assert!(payload.len() == TRAILER_BYTES);
        authenticate(
            integrity,
            FileKind::Segment,
            self.pair,
            number,
            &payload,
            block,
        );
    }

    /// Reads the block of number `number` of `pair`'s segment.
    pub(super) fn read(
        integrity: &Hmac<Sha256>,
        pair: PairNumber,
        number: u32,
        block: &Block,
    ) -> FoundTrailer {
        if is_untouched(block) {
            return FoundTrailer::Untouched;
        }
        if verify(integrity, FileKind::Segment, pair, number, block).is_err() {
            return FoundTrailer::Bad;
        }
        match Self::decode(&mut Reader(plain_payload(block))) {
            Ok(Some(trailer)) if trailer.pair == pair => FoundTrailer::Whole(trailer),
            _ => FoundTrailer::Bad,
        }
    }
}

/// A segment's last block, as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundTrailer {
    /// Never written.
    Untouched,
    /// Authentic.
    Whole(Trailer),
    /// Written, and not authentic; or what a recycled segment held before.
    Bad,
    /// It can't be read.
    Unreadable,
}

/// What a trailer's block amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrailerState {
    /// It says what the checkpoint states.
    Whole,
    /// It is to be written, or to be written again: a crash cut it off.
    Torn,
    /// It had been written and flushed, and is bad: to be restored from the checkpoint, and an incident.
    Rotten,
    /// No checkpoint states one: the pair is not closed, or was closed without.
    None,
}

/// Judges a trailer as found against what the newest checkpoint states of it, if it does, and whether that
/// knew it to be durable.
#[must_use]
pub fn judge(found: &FoundTrailer, stated: Option<&Trailer>, was_durable: bool) -> TrailerState {
    match (found, stated) {
        (FoundTrailer::Whole(trailer), Some(stated)) if trailer == stated => TrailerState::Whole,
        (_, Some(_)) if was_durable => TrailerState::Rotten,
        (_, Some(_)) => TrailerState::Torn,
        (FoundTrailer::Whole(_), None) => TrailerState::Whole,
        (_, None) => TrailerState::None,
    }
}
