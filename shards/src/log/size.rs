//! How large a pair must be: one rule for how large it is made, and for whether it is large enough to be opened.
//!
//! The profile states the usual size. A pair is larger where its checkpoint, what a boot writes again, or the entry that waits
//! to be written first asks for more: an entry may come from a node with greater segments, or from the time before they
//! were made smaller.

use clustor_wire::ids::PairNumber;

use super::extent::extent_blocks;
use super::options::{LEDGER_SLOTS_MIN, LogOptions, SEGMENT_BLOCKS_MAX};
use super::pair::blocks_of;
use crate::disk::{DiskError, PreparePair};

/// A segment is made at least so many times as large as its checkpoint.
const CHECKPOINT_SHARE: u64 = 8;
/// Behind the opening come the mark, of one block, and where what waits has no nonces reserved yet an empty extent that
/// reserves them; the last block is the trailer's.
const EMPTY_EXTENTS: u64 = 2;
const TRAILER_BLOCKS: u64 = 1;

/// What the next pair must have room for, in blocks.
#[derive(Debug, Clone, Copy)]
pub struct PairNeed {
    /// Header and checkpoint, in either file.
    body: u64,
    /// What a boot writes again.
    rewrite: u64,
    /// The extent that waits to be written first.
    first: u64,
}

impl PairNeed {
    /// `rewrite_bytes` and `first_bytes` are those of records at rest.
    #[must_use]
    pub fn of(checkpoint: &[u8], rewrite_bytes: usize, first_bytes: Option<usize>) -> Self {
        Self {
            body: 1 + u64::from(blocks_of(checkpoint.len())),
            rewrite: extent_blocks(rewrite_bytes).into(),
            first: first_bytes.map_or(0, |bytes| extent_blocks(bytes).into()),
        }
    }

    /// Blocks of the segment that the opening takes.
    #[must_use]
    pub const fn opening_blocks(self) -> u64 {
        self.body + self.rewrite
    }

    /// The smallest segment that will do: the opening fills less than half of it, and what waits has room behind.
    fn segment_blocks_min(self) -> u64 {
        let opening = self.opening_blocks();
        let behind = opening.max(EMPTY_EXTENTS + self.first);
        opening + behind + TRAILER_BLOCKS
    }

    fn ledger_blocks_min(self) -> u64 {
        self.body + u64::from(LEDGER_SLOTS_MIN)
    }

    /// Whether a pair of such files has room for it.
    #[must_use]
    pub fn fits(self, segment_blocks: u32, ledger_blocks: u32) -> bool {
        u64::from(segment_blocks) >= self.segment_blocks_min()
            && u64::from(ledger_blocks) >= self.ledger_blocks_min()
    }

    /// What to ask for: the profile's size, eight times the checkpoint as far as there are such segments, or the least
    /// that will do, whichever is most.
    ///
    /// # Errors
    /// [`DiskError::TooLarge`], if no pair may be large enough.
    pub fn pair(self, pair: PairNumber, options: &LogOptions) -> Result<PreparePair, DiskError> {
        let blocks_max = u64::from(SEGMENT_BLOCKS_MAX);
        let roomy = (self.body * CHECKPOINT_SHARE).min(blocks_max);
        let least = self.segment_blocks_min();
        let segment_blocks = roomy.max(least).max(options.segment_blocks.into());
        let ledger_blocks = 2 * self.body + u64::from(options.ledger_slots);
        match (u32::try_from(segment_blocks), u32::try_from(ledger_blocks)) {
            (Ok(segment_blocks), Ok(ledger_blocks)) if least <= blocks_max => Ok(PreparePair {
                pair,
                segment_blocks,
                ledger_blocks,
            }),
            _ => Err(DiskError::TooLarge {
                blocks: least,
                blocks_max,
            }),
        }
    }
}
