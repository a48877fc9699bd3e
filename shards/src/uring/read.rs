//! Reads of whole blocks, completed over short counts; what lies beyond the end of the file is zero.

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::ring::{Mark, Ring};
use crate::buffer::{BLOCK_BYTES, Block, Blocks};
use crate::disk::{DiskError, FileId};

/// Bytes in one read submission; more is read in turn.
const READ_BYTES_MAX: usize = 1 << 30;

/// One read, until all its blocks are there.
pub(super) struct Reading {
    pub(super) file: FileId,
    pub(super) block: u32,
    pub(super) into: Blocks,
    /// Bytes that are there.
    done: usize,
}

impl Reading {
    pub(super) const fn new(file: FileId, block: u32, into: Blocks) -> Self {
        Self {
            file,
            block,
            into,
            done: 0,
        }
    }

    /// The next submission, for the file at `place` of the ring's table.
    pub(super) fn entry(&mut self, ring: &Ring, place: u32, mark: Mark) -> Entry {
        let slot = ring.fixed_slot(&self.into);
        let bytes = (self.into.byte_len() - self.done).min(READ_BYTES_MAX);
        let count = u32::try_from(bytes).expect("a read is at most 1 GiB");
        let from = u64::from(self.block) * BLOCK_BYTES as u64 + self.done as u64;
        let address = self
            .into
            .as_mut_slice()
            .as_mut_ptr()
            .cast::<u8>()
            .wrapping_add(self.done);
        let entry = match slot {
            Some(slot) => opcode::ReadFixed::new(types::Fixed(place), address, count, slot)
                .offset(from)
                .build(),
            None => opcode::Read::new(types::Fixed(place), address, count)
                .offset(from)
                .build(),
        };
        entry.user_data(mark.pack())
    }

    /// Takes a completion: whether the read ended, and how.
    pub(super) fn completed(&mut self, result: i32) -> Option<Result<(), DiskError>> {
        if result < 0 {
            return Some(Err(DiskError::of("reading", self.file, -result)));
        }
        let count = result.unsigned_abs() as usize;
        self.done += count;
        assert!(
            self.done <= self.into.byte_len(),
            "a read stays within its run"
        );
        if self.done == self.into.byte_len() {
            return Some(Ok(()));
        }
        // Direct reads come back short of a whole block only at the end of the file.
        if count == 0 || !self.done.is_multiple_of(BLOCK_BYTES) {
            let whole = self.done / BLOCK_BYTES;
            let blocks = self.into.as_mut_slice();
            if let Some(partial) = blocks.get_mut(whole) {
                partial.0[self.done % BLOCK_BYTES..].fill(0);
            }
            for block in blocks.iter_mut().skip(whole + 1) {
                *block = Block::ZERO;
            }
            return Some(Ok(()));
        }
        None
    }
}
