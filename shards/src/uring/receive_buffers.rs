//! The buffers that receives share: the kernel takes one when bytes are there, not while a socket is silent.
//!
//! A ring of provided buffers (io_uring_register_buf_ring(3)): this side offers buffers by moving the tail, the
//! kernel says in a completion which one it filled. Bounded: with every buffer taken a receive ends with ENOBUFS
//! and is armed again when one came back.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::error::RingError;
use super::ring::Ring;
use crate::buffer::{BLOCK_BYTES, Block};

/// Buffers of one shard; a power of two, and their entries fit into one block.
const BUFFERS: u16 = 64;
/// Blocks in each buffer: 64 KiB, what a connection takes at a time.
const BUFFER_BLOCKS: usize = 16;
const BUFFER_BYTES: usize = BUFFER_BLOCKS * BLOCK_BYTES;
/// The group's number: a ring has one.
pub(super) const GROUP: u16 = 0;

const _: () = assert!(BUFFERS.is_power_of_two());
const _: () = assert!(BUFFERS as usize * size_of::<BufRingEntry>() <= BLOCK_BYTES);

pub(super) struct ReceiveBuffers {
    /// The entries, shared with the kernel; aligned to a page as it asks.
    entries: Box<[Block]>,
    memory: Box<[Block]>,
    tail: u16,
    /// Buffers that the kernel may fill.
    offered: u16,
}

impl ReceiveBuffers {
    /// Makes the buffers and registers them.
    pub(super) fn new(ring: &Ring) -> Result<Self, RingError> {
        let mut this = Self {
            entries: vec![Block::ZERO; 1].into_boxed_slice(),
            memory: vec![Block::ZERO; usize::from(BUFFERS) * BUFFER_BLOCKS].into_boxed_slice(),
            tail: 0,
            offered: 0,
        };
        let address = this.entries.as_mut_ptr() as u64;
        // The entries live as long as this value, which `ShardRing` drops after the ring, or never.
        ring.register_receive_buffers(address, BUFFERS, GROUP)
            .map_err(|source: io::Error| RingError::Register {
                what: "its receive buffers",
                source,
            })?;
        for buffer in 0..BUFFERS {
            this.offer(buffer);
        }
        Ok(this)
    }

    /// Whether a receive would find a buffer.
    pub(super) const fn has_room(&self) -> bool {
        self.offered > 0
    }

    /// The kernel filled one.
    pub(super) fn taken(&mut self) {
        self.offered = self
            .offered
            .checked_sub(1)
            .expect("only offered buffers are filled");
    }

    /// The bytes of a buffer that the kernel has filled and that was not offered again.
    pub(super) fn bytes(&mut self, buffer: u16, from: usize, to: usize) -> &mut [u8] {
        assert!(
            from <= to && to <= BUFFER_BYTES,
            "a receive stays within its buffer"
        );
        let first = usize::from(buffer) * BUFFER_BLOCKS;
        let start = self.memory[first..first + BUFFER_BLOCKS]
            .as_mut_ptr()
            .cast::<u8>();
        // SAFETY: `start` begins BUFFER_BLOCKS whole blocks of initialised memory borrowed from `self`, checked by
        // the slicing above; `from..to` lies within them. The kernel does not write a buffer that is not offered.
        unsafe { std::slice::from_raw_parts_mut(start.add(from), to - from) }
    }

    /// Gives a buffer to the kernel.
    pub(super) fn offer(&mut self, buffer: u16) {
        assert!(buffer < BUFFERS, "there is no buffer {buffer}");
        assert!(self.offered < BUFFERS, "a buffer is offered once");
        let address = self.memory[usize::from(buffer) * BUFFER_BLOCKS..].as_mut_ptr() as u64;
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        let place = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: `place` is below BUFFERS, whose entries fit into the block (asserted above). The kernel reads an
        // entry only once the tail has passed it, and this one lies at the tail. The tail itself shares the first
        // entry's last two bytes, which none of the three setters touches.
        let entry = unsafe { &mut *base.add(place) };
        entry.set_addr(address);
        entry.set_len(u32::try_from(BUFFER_BYTES).expect("64 KiB"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the first of the initialised entries, as `tail` asks; the field is two aligned bytes that
        // the kernel reads atomically and this thread alone writes.
        unsafe {
            let tail = BufRingEntry::tail(base).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
        self.offered += 1;
    }
}
