//! The bounded pool of 4096-aligned blocks.
//!
//! Owns every buffer that goes to or comes from a disk. A [`Blocks`] is one contiguous, aligned run of
//! whole blocks; it is moved, never shared: a planner takes it from the [`BlockPool`], fills it, hands it
//! to the disk inside an operation, gets it back inside the completion and returns it to the pool. The
//! pool is sized when it is made and its memory may be registered with the ring, each run as one buffer.
//! A run larger than the pool's greatest size, or taken when the pool is empty, comes from the heap and
//! goes back there: slower, never wrong. Alignment comes from the type, so no `unsafe` is needed.

/// Bytes in one block: the unit of every write to a log or ledger file.
pub const BLOCK_BYTES: usize = 4096;

/// One block, aligned as O_DIRECT wants it.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES);
const _: () = assert!(align_of::<Block>() == BLOCK_BYTES);

impl Block {
    /// A block of zeros.
    pub const ZERO: Block = Block([0; BLOCK_BYTES]);
}

impl core::fmt::Debug for Block {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Block(..)")
    }
}

/// A contiguous run of whole blocks. `len` of the `capacity` blocks are in use.
#[derive(Debug)]
pub struct Blocks {
    blocks: Box<[Block]>,
    len: usize,
    slot: Option<u16>,
}

impl Blocks {
    /// A run of `len` zeroed blocks from the heap, of no pool.
    #[must_use]
    pub fn from_heap(len: usize) -> Self {
        Self {
            blocks: vec![Block::ZERO; len].into_boxed_slice(),
            len,
            slot: None,
        }
    }

    /// Blocks in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no block is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Blocks that fit without another allocation.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.blocks.len()
    }

    /// The pool's number for this run, by which a ring that registered the pool knows it; `None` for heap runs.
    #[must_use]
    pub fn slot(&self) -> Option<u16> {
        self.slot
    }

    /// The blocks in use.
    #[must_use]
    pub fn as_slice(&self) -> &[Block] {
        &self.blocks[..self.len]
    }

    /// The blocks in use, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [Block] {
        &mut self.blocks[..self.len]
    }

    /// Bytes in use.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.len * BLOCK_BYTES
    }
}

/// How many runs of which size a pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeClass {
    /// Blocks in each run.
    pub blocks: usize,
    /// Runs of this size.
    pub runs: usize,
}

/// The bounded pool. Owned by one shard; not shared.
#[derive(Debug)]
pub struct BlockPool {
    classes: Vec<Class>,
}

#[derive(Debug)]
struct Class {
    blocks: usize,
    free: Vec<Blocks>,
}

impl BlockPool {
    /// A pool of the given classes, in any order.
    ///
    /// # Panics
    /// If the classes hold more than 65,536 runs together (a slot number has 16 bits).
    #[must_use]
    pub fn new(classes: &[SizeClass]) -> Self {
        let runs: usize = classes.iter().map(|c| c.runs).sum();
        assert!(
            runs <= usize::from(u16::MAX) + 1,
            "a pool holds at most 65,536 runs, {runs} asked for"
        );
        let mut sorted = classes.to_vec();
        sorted.sort_by_key(|c| c.blocks);
        let mut slot = 0u16;
        let classes = sorted
            .into_iter()
            .map(|class| Class {
                blocks: class.blocks,
                free: (0..class.runs)
                    .map(|_| {
                        let run = Blocks {
                            blocks: vec![Block::ZERO; class.blocks].into_boxed_slice(),
                            len: 0,
                            slot: Some(slot),
                        };
                        slot = slot.wrapping_add(1);
                        run
                    })
                    .collect(),
            })
            .collect();
        Self { classes }
    }

    /// A run of `len` blocks: the smallest free one that holds them, else one from the heap. Its bytes are
    /// whatever they were last: the taker fills every block.
    pub fn take(&mut self, len: usize) -> Blocks {
        for class in &mut self.classes {
            if class.blocks >= len
                && let Some(mut run) = class.free.pop()
            {
                run.len = len;
                return run;
            }
        }
        Blocks::from_heap(len)
    }

    /// Gives a run back. Heap runs are freed.
    pub fn put(&mut self, mut run: Blocks) {
        if run.slot.is_none() {
            return;
        }
        run.len = 0;
        let size = run.capacity();
        if let Some(class) = self.classes.iter_mut().find(|c| c.blocks == size) {
            class.free.push(run);
        }
    }

    /// Every free run with its slot number, as `(slot, address, bytes)`: what a ring registers before the
    /// first run is taken.
    pub fn regions(&mut self) -> Vec<(u16, *mut u8, usize)> {
        self.classes
            .iter_mut()
            .flat_map(|class| class.free.iter_mut())
            .filter_map(|run| {
                let bytes = run.blocks.len() * BLOCK_BYTES;
                run.slot
                    .map(|slot| (slot, run.blocks.as_mut_ptr().cast::<u8>(), bytes))
            })
            .collect()
    }
}
