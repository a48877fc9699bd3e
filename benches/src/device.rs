//! `clustor-bench device`: the raw limit, through a shard's own ring and its own chain, with nothing above.
//!
//! A pair of files is made as a shard makes it, zeroed whole, and chains are kept in flight on one thread that
//! does nothing else. What it shows is the floor under every append: the log can be as good as this, not better.

use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::disk::FlushKind;
use clustor_shards::uring::{ChainSteps, Rig, RigOptions, RigWork};

use crate::interrupt::Interrupt;
use crate::measured::Measured;
use crate::report::{Line, Machine, MeasuredAt, Report, Round, Workload};
use crate::setup::Setup;
use crate::{BenchError, Common};

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
            let work = RigWork {
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

/// A rig whose work a signal ends.
pub struct Device<'a> {
    rig: Rig,
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
        let options = RigOptions {
            segment_blocks: SEGMENT_BLOCKS,
            ledger_blocks: LEDGER_BLOCKS,
            blocks_max,
            depth_max: DEPTH_MAX,
        };
        let go_on = || interrupt.check().is_ok();
        let rig = Rig::open(&directory.join("device"), options, go_on)?;
        Ok(Self { rig, interrupt })
    }

    /// How writes reach the files.
    pub fn writer_mode(&self) -> &'static str {
        self.rig.writer_mode().name()
    }

    /// Keeps chains in flight for `time`, and measures each from its submission to its event.
    ///
    /// # Errors
    /// When a chain fails or a signal came.
    ///
    /// # Panics
    /// If the work exceeds what the device was opened for.
    pub fn measure(&mut self, work: RigWork, time: Duration) -> Result<Measured, BenchError> {
        let go_on = || self.interrupt.check().is_ok();
        self.rig.keep(work, WARM_UP.min(time), go_on, |_| {})?;
        let mut measured = Measured::new();
        let each = |latency| measured.record(latency);
        let took = self.rig.keep(work, time, go_on, each)?;
        measured.took(took);
        Ok(measured)
    }
}
