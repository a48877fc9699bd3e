//! A rig to measure a device with: one zeroed pair on a ring of its own, and chains kept in flight on it.
//!
//! The chains are those of a shard, carried by a shard's ring, with nothing above: what the rig shows is the floor under
//! every append. Blocks are walked through again and again, as those of recycled segments are.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use clustor_wire::ids::{ChainNumber, PairNumber};

use super::{ChainSteps, RingError, ShardRing, WriterMode};
use crate::buffer::{BlockPool, Blocks, SizeClass};
use crate::disk::{DiskError, DiskEvent, DiskOp, DurableChain, FlushKind, PreparePair};

const PAIR: PairNumber = PairNumber(1);
/// What blocks are filled with.
const FILLER: u8 = 0x5a;

/// How a rig is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RigOptions {
    /// Blocks of the segment.
    pub segment_blocks: u32,
    /// Blocks of the ledger.
    pub ledger_blocks: u32,
    /// The longest chain in log blocks.
    pub blocks_max: u32,
    /// Chains in flight at most.
    pub depth_max: u32,
}

/// What chains are kept in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RigWork {
    /// How much of each chain.
    pub steps: ChainSteps,
    /// Log blocks of each.
    pub blocks: u32,
    /// How many at a time.
    pub depth: u32,
    /// How its writes are made durable.
    pub flush: FlushKind,
}

/// Why nothing more is measured.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The ring failed or could not be made.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The device failed.
    #[error("the device: {0}")]
    Disk(#[from] DiskError),
    /// Whoever measures said so.
    #[error("interrupted")]
    Interrupted,
}

/// A ring with one zeroed pair to write to.
pub struct Rig {
    ring: ShardRing,
    pool: BlockPool,
    options: RigOptions,
    /// The next block of the segment; wraps around.
    next_block: u32,
    /// Chains started so far.
    chains: u64,
    events: Vec<DiskEvent>,
}

impl core::fmt::Debug for Rig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Rig")
            .field("options", &self.options)
            .field("chains", &self.chains)
            .finish_non_exhaustive()
    }
}

impl Rig {
    /// Opens a ring in `directory` and makes the pair, zeroed whole. `go_on` is asked now and then.
    ///
    /// # Errors
    /// [`RigError`]: the ring or the pair can't be made, or `go_on` said no.
    pub fn open(
        directory: &Path,
        options: RigOptions,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<Self, RigError> {
        let mut ring = ShardRing::open(directory)?;
        let runs = options.depth_max as usize;
        let mut classes = vec![SizeClass {
            blocks: 1,
            runs: 2 * runs,
        }];
        if options.blocks_max > 1 {
            classes.push(SizeClass {
                blocks: options.blocks_max as usize,
                runs,
            });
        }
        let mut pool = BlockPool::new(&classes);
        ring.register_pool(&mut pool);
        let mut rig = Self {
            ring,
            pool,
            options,
            next_block: 0,
            chains: 0,
            events: Vec::new(),
        };
        rig.ring.start(DiskOp::Prepare(PreparePair {
            pair: PAIR,
            segment_blocks: options.segment_blocks,
            ledger_blocks: options.ledger_blocks,
        }))?;
        loop {
            if !go_on() {
                return Err(RigError::Interrupted);
            }
            rig.ring.wait()?;
            rig.ring.drain(&mut rig.events)?;
            let mut ready = false;
            for event in rig.events.drain(..) {
                match event {
                    DiskEvent::Progress {
                        segment_blocks_ready,
                        ..
                    }
                    | DiskEvent::Prepared {
                        segment_blocks_ready,
                        ..
                    } if segment_blocks_ready == options.segment_blocks => ready = true,
                    DiskEvent::PrepareFailed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
            if ready {
                return Ok(rig);
            }
        }
    }

    /// How writes reach the files.
    #[must_use]
    pub fn writer_mode(&self) -> WriterMode {
        self.ring.writer_mode()
    }

    /// Keeps chains in flight for `time`, tells each one's latency from its submission to its event, and returns how long
    /// all of them took. `go_on` is asked after each wait.
    ///
    /// # Errors
    /// [`RigError`]: a chain failed, or `go_on` said no.
    ///
    /// # Panics
    /// If the work exceeds what the rig was made for.
    pub fn keep(
        &mut self,
        work: RigWork,
        time: Duration,
        mut go_on: impl FnMut() -> bool,
        mut each: impl FnMut(Duration),
    ) -> Result<Duration, RigError> {
        assert!((1..=self.options.depth_max).contains(&work.depth));
        assert!((1..=self.options.blocks_max).contains(&work.blocks));
        let mut started = BTreeMap::new();
        let begun = Instant::now();
        loop {
            let open = begun.elapsed() < time;
            while open && started.len() < work.depth as usize {
                started.insert(self.chains, Instant::now());
                self.start(work)?;
            }
            if started.is_empty() {
                return Ok(begun.elapsed());
            }
            if !go_on() {
                return Err(RigError::Interrupted);
            }
            self.ring.wait()?;
            self.ring.drain(&mut self.events)?;
            let now = Instant::now();
            for event in self.events.drain(..) {
                let DiskEvent::Chain {
                    chain,
                    log,
                    ledger,
                    outcome,
                } = event
                else {
                    continue;
                };
                outcome?;
                self.pool.put(log);
                self.pool.put(ledger);
                if let Some(at) = started.remove(&chain.get()) {
                    each(now - at);
                }
            }
        }
    }

    fn start(&mut self, work: RigWork) -> Result<(), RigError> {
        if self.next_block + work.blocks > self.options.segment_blocks {
            self.next_block = 0;
        }
        let log = self.take(work.blocks);
        let ledger = self.take(1);
        let slot = self.chains % u64::from(self.options.ledger_blocks);
        let chain = DurableChain {
            chain: ChainNumber(self.chains),
            pair: PAIR,
            log_block: self.next_block,
            log,
            ledger_block: u32::try_from(slot).expect("below the ledger's blocks"),
            ledger,
            flush: work.flush,
        };
        self.next_block += work.blocks;
        self.chains += 1;
        self.ring.start_chain(chain, work.steps)?;
        Ok(())
    }

    /// A run that is filled, since some devices store zeroes for nothing, and unlike the last that was written: each block
    /// begins with the number of its chain. All else was filled when the run was first taken: filling it each time would
    /// keep the processor busier than the device.
    fn take(&mut self, blocks: u32) -> Blocks {
        let mut run = self.pool.take(blocks as usize);
        for block in run.as_mut_slice() {
            let (mark, rest) = block.0.split_at_mut(8);
            mark.copy_from_slice(&self.chains.to_le_bytes());
            if rest[0] != FILLER {
                rest.fill(FILLER);
            }
        }
        run
    }
}
