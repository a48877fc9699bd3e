//! `clustor-bench device`: the raw limit, through a shard's own ring and its own chain, with nothing above.
//!
//! A pair of files is made as a shard makes it, zeroed whole, and chains are kept in flight on one thread that
//! does nothing else. What it shows is the floor under every append: the log can be as good as this, not better.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use clustor_shards::buffer::{BLOCK_BYTES, BlockPool, Blocks, SizeClass};
use clustor_shards::disk::{DiskEvent, DiskOp, DurableChain, FlushKind, PreparePair};
use clustor_shards::uring::{ChainSteps, ShardRing, WriterMode};
use clustor_wire::ids::{ChainNumber, PairNumber};

use crate::interrupt::Interrupt;
use crate::measured::Measured;
use crate::report::{Line, Machine, MeasuredAt, Report, Round, Workload};
use crate::setup::Setup;
use crate::{BenchError, Common};

const PAIR: PairNumber = PairNumber(1);
/// 64 MiB: walked through again and again, as recycled segments are.
const SEGMENT_BLOCKS: u32 = 16_384;
const LEDGER_BLOCKS: u32 = 4_096;
/// The deepest pipeline: the log keeps 8 in flight.
pub const DEPTH_MAX: u32 = 32;
/// The largest log write, in blocks: 4 MiB.
pub const BLOCKS_MAX: u32 = 1_024;
/// What is run before the clock starts.
const WARM_UP: Duration = Duration::from_millis(200);

/// Measures the device through a shard's own ring.
///
/// Three modes, each a prefix of what makes a batch durable: `write` (the log blocks), `write_flush` (and their
/// flush), `full_chain` (and the ledger's block and flush). One thread, one ring, `depth` chains in flight.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench device
  clustor-bench device --dir /var/lib/clustor --seconds 10 --json device.json
  clustor-bench device --depths 1,8 --blocks 16

Needs about 80 MiB in DIR, on a file system with direct I/O (not tmpfs).
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Chains in flight, a list: each is measured by itself (1 to 32).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,4,8",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    pub depths: Vec<u32>,
    /// Log blocks of 4 KiB in each chain (1 to 1024).
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(BLOCKS_MAX)))]
    pub blocks: u32,
    /// How writes are made durable.
    #[arg(long, value_name = "KIND", default_value = "fdatasync")]
    pub flush: FlushName,
}

/// The modes, cheapest first.
const MODES: [(&str, ChainSteps); 3] = [
    ("write", ChainSteps::Write),
    ("write_flush", ChainSteps::WriteFlush),
    ("full_chain", ChainSteps::Full),
];

/// Measures every mode at every depth.
///
/// # Errors
/// When the place is no good, the device fails, or a signal came before anything was measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let setup = Setup::begin(&options.common)?;
    let mut device = Device::open(setup.path(), options.blocks, &setup.interrupt)?;
    let mut report = Report::new(Machine::of(&setup.place, device.writer_mode()));
    for (mode, steps) in MODES {
        for &depth in &options.depths {
            let work = DeviceWork {
                steps,
                depth,
                blocks: options.blocks,
                flush: options.flush.kind(),
            };
            let line = Line {
                benchmark: "device",
                mode,
                suite: "none",
                flush: flush_name(options.flush.kind()),
                workload: Workload {
                    depth,
                    payload_bytes: options.blocks * BLOCK_BYTES as u32,
                },
                measured_at: MeasuredAt::Shard,
            };
            let mut rounds = Vec::new();
            for _ in 0..options.common.repeat {
                let measured = match device.measure(work, setup.time) {
                    Ok(measured) => measured,
                    Err(BenchError::Interrupted) => return report.interrupted(),
                    Err(error) => return Err(error),
                };
                // The full chain is what ratios are to: here, to itself.
                let own = (steps == ChainSteps::Full).then(|| (work, measured.clone()));
                rounds.push(Round {
                    chain_blocks: f64::from(options.blocks),
                    device: own,
                    ..Round::new(measured)
                });
            }
            report.add(line, rounds);
        }
    }
    Ok(report)
}

/// How writes are made durable, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlushName {
    /// A flush of the file follows each write.
    Fdatasync,
    /// Each write is durable when it completes.
    Dsync,
}

impl FlushName {
    /// As the log has it.
    pub const fn kind(self) -> FlushKind {
        match self {
            Self::Fdatasync => FlushKind::Fdatasync,
            Self::Dsync => FlushKind::Dsync,
        }
    }
}

/// The name of a kind of flush.
pub const fn flush_name(kind: FlushKind) -> &'static str {
    match kind {
        FlushKind::Fdatasync => "fdatasync",
        FlushKind::Dsync => "dsync",
    }
}

/// What the device is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceWork {
    /// How much of each chain.
    pub steps: ChainSteps,
    /// Chains in flight (1 to 32).
    pub depth: u32,
    /// Log blocks in each (1 to what the device was opened for).
    pub blocks: u32,
    /// How its writes are made durable.
    pub flush: FlushKind,
}

/// A ring with one zeroed pair to write to.
pub struct Device<'a> {
    ring: ShardRing,
    pool: BlockPool,
    blocks_max: u32,
    /// The next block of the segment; wraps around.
    next_block: u32,
    /// Chains started so far.
    chains: u64,
    events: Vec<DiskEvent>,
    interrupt: &'a Interrupt,
}

impl<'a> Device<'a> {
    /// Opens a ring in `directory` and makes the pair, for chains of up to `blocks_max` blocks.
    ///
    /// # Errors
    /// When the ring or the pair can't be made.
    pub fn open(
        directory: &Path,
        blocks_max: u32,
        interrupt: &'a Interrupt,
    ) -> Result<Self, BenchError> {
        let mut ring = ShardRing::open(&directory.join("device"))?;
        let runs = DEPTH_MAX as usize;
        let mut classes = vec![SizeClass {
            blocks: 1,
            runs: 2 * runs,
        }];
        if blocks_max > 1 {
            classes.push(SizeClass {
                blocks: blocks_max as usize,
                runs,
            });
        }
        let mut pool = BlockPool::new(&classes);
        ring.register_pool(&mut pool);
        let mut device = Self {
            ring,
            pool,
            blocks_max,
            next_block: 0,
            chains: 0,
            events: Vec::new(),
            interrupt,
        };
        device.prepare()?;
        Ok(device)
    }

    /// How writes reach the files.
    pub fn writer_mode(&self) -> &'static str {
        match self.ring.writer_mode() {
            WriterMode::FixedUring => "FixedUring",
            WriterMode::RegisteredUring => "RegisteredUring",
            WriterMode::Blocking => "Blocking",
        }
    }

    fn prepare(&mut self) -> Result<(), BenchError> {
        self.ring.start(DiskOp::Prepare(PreparePair {
            pair: PAIR,
            segment_blocks: SEGMENT_BLOCKS,
            ledger_blocks: LEDGER_BLOCKS,
        }))?;
        loop {
            self.interrupt.check()?;
            self.ring.wait()?;
            self.ring.drain(&mut self.events)?;
            for event in self.events.drain(..) {
                match event {
                    DiskEvent::Progress {
                        segment_blocks_ready,
                        ..
                    } if segment_blocks_ready == SEGMENT_BLOCKS => return Ok(()),
                    DiskEvent::PrepareFailed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
        }
    }

    /// Keeps chains in flight for `time`, and measures each from its submission to its event.
    ///
    /// # Errors
    /// When a chain fails or a signal came.
    ///
    /// # Panics
    /// If the work exceeds what the device was opened for.
    pub fn measure(&mut self, work: DeviceWork, time: Duration) -> Result<Measured, BenchError> {
        assert!((1..=DEPTH_MAX).contains(&work.depth));
        assert!((1..=self.blocks_max).contains(&work.blocks));
        self.keep(work, WARM_UP.min(time))?;
        self.keep(work, time)
    }

    fn keep(&mut self, work: DeviceWork, time: Duration) -> Result<Measured, BenchError> {
        let mut measured = Measured::new();
        let mut started = BTreeMap::new();
        let begun = Instant::now();
        loop {
            let open = begun.elapsed() < time;
            while open && started.len() < work.depth as usize {
                started.insert(self.chains, Instant::now());
                self.start(work)?;
            }
            if started.is_empty() {
                break;
            }
            self.interrupt.check()?;
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
                    measured.record(now - at);
                }
            }
        }
        measured.took(begun.elapsed());
        Ok(measured)
    }

    fn start(&mut self, work: DeviceWork) -> Result<(), BenchError> {
        if self.next_block + work.blocks > SEGMENT_BLOCKS {
            self.next_block = 0;
        }
        let log = self.take(work.blocks);
        let ledger = self.take(1);
        let chain = DurableChain {
            chain: ChainNumber(self.chains),
            pair: PAIR,
            log_block: self.next_block,
            log,
            ledger_block: u32::try_from(self.chains % u64::from(LEDGER_BLOCKS))
                .expect("below the ledger's size"),
            ledger,
            flush: work.flush,
        };
        self.next_block += work.blocks;
        self.chains += 1;
        self.ring.start_chain(chain, work.steps)?;
        Ok(())
    }

    /// A filled run: not all zero, which some devices store for nothing.
    fn take(&mut self, blocks: u32) -> Blocks {
        let mut run = self.pool.take(blocks as usize);
        let mark = self.chains.to_le_bytes();
        for block in run.as_mut_slice() {
            for (bytes, filler) in block.0.chunks_exact_mut(8).zip(1u8..=255) {
                bytes.copy_from_slice(&mark);
                bytes[7] = filler;
            }
        }
        run
    }
}
