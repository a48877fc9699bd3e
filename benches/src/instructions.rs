//! Instructions per append, counted by callgrind on a disk in memory.
//!
//! The program runs itself under valgrind: a log whose chains complete at once takes a fixed number of appends, and only
//! what happens between the first and the last is counted. The number does not depend on the machine's mood, so two
//! builds can be compared by it. Valgrind shows programs a processor without SHA and AVX-512 instructions: digests and
//! MACs take their portable way there, and cost more than they do outside.

use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use clustor_engine::profile::Profile;
use clustor_shards::buffer::Blocks;
use clustor_shards::disk::{BootDisk, DiskError, DiskEvent, DiskOp, FileId, FoundPair};
use clustor_shards::log::record::{RecordKind, decode_record, encode_record};
use clustor_shards::log::{Mode, Retirement, ShardLog, Suite};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex};

use crate::BenchError;
use crate::log::{ModeName, SEGMENT_BYTES, suite};
use crate::shard::{BenchKey, IDENTITY, PARTITION, TERM};

/// Chains that are counted, and as many before them.
const CHAINS: u32 = 200;

/// What is counted: one call of this program under callgrind.
#[derive(Debug, Clone, Copy, Args)]
pub struct Options {
    /// The mode.
    #[arg(long)]
    pub mode: ModeName,
    /// The suite.
    #[arg(long, value_parser = suite)]
    pub suite: Suite,
    /// Bytes of each entry.
    #[arg(long)]
    pub size: u32,
    /// Appends in each chain.
    #[arg(long)]
    pub per_chain: u32,
}

/// A disk on which everything has happened as soon as it is asked for.
#[derive(Debug, Default)]
pub struct Memory {
    /// What happened and was not told yet.
    pub events: Vec<DiskEvent>,
}

impl BootDisk for Memory {
    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError> {
        Ok(Vec::new())
    }

    fn read(&mut self, file: FileId, _: u32, _: &mut Blocks) -> Result<(), DiskError> {
        Err(DiskError::Io(format!("{file}: nothing is kept")))
    }

    fn is_written(&mut self, _: FileId) -> bool {
        false
    }

    fn keep(&mut self, _: u32, _: u32) -> Result<(), DiskError> {
        Ok(())
    }
}

impl Memory {
    /// Has an operation happen.
    pub fn carry_out(&mut self, op: DiskOp) {
        match op {
            DiskOp::Chain(chain) => self.events.push(DiskEvent::Chain {
                chain: chain.chain,
                log: chain.log,
                ledger: chain.ledger,
                outcome: Ok(()),
            }),
            DiskOp::Prepare(order) => self.events.push(DiskEvent::Prepared {
                pair: order.pair,
                salt: [7; 32],
                segment_blocks_ready: order.segment_blocks,
                recycled: false,
            }),
            _ => {}
        }
    }
}

/// A log over memory.
struct InMemory {
    disk: Memory,
    log: ShardLog,
    next: LogIndex,
    ops: Vec<DiskOp>,
    retirement: Retirement,
    frame: Vec<u8>,
}

impl InMemory {
    fn turn(&mut self) {
        self.log.poll(Time(0), &mut self.ops);
        for op in self.ops.drain(..) {
            self.disk.carry_out(op);
        }
        for event in self.disk.events.drain(..) {
            self.log.on_event(Time(0), event, &mut self.retirement);
        }
        self.retirement.durable.clear();
        self.retirement.hard_states.clear();
    }

    fn chain(&mut self, mode: Mode, body: &[u8], appends: u32) {
        for _ in 0..appends {
            self.frame.clear();
            let kind = RecordKind::Entry;
            encode_record(&mut self.frame, kind, PARTITION, TERM, self.next, body);
            let record = decode_record(&self.frame).expect("a frame just made decodes");
            self.log.append(&record, mode);
            self.next = self.next.next();
        }
        while !self.log.is_settled() {
            self.turn();
        }
    }
}

/// What is counted. Never inlined: callgrind finds it by its name.
#[inline(never)]
fn steady(log: &mut InMemory, mode: Mode, body: &[u8], per_chain: u32) {
    for _ in 0..CHAINS {
        log.chain(mode, body, per_chain);
    }
}

/// The work that callgrind watches.
///
/// # Errors
/// When the log does not open.
pub fn run_inner(options: &Options) -> Result<(), BenchError> {
    let mut disk = Memory::default();
    let mut profile = Profile::latency().with_segment_bytes(SEGMENT_BYTES);
    profile.sealing = options.suite;
    let limits = profile.log_options(0);
    let recovered = ShardLog::recover(&mut disk, IDENTITY, limits, &BenchKey, limits.pool())?;
    let mut log = InMemory {
        disk,
        log: recovered.log,
        next: LogIndex(1),
        ops: Vec::new(),
        retirement: Retirement::default(),
        frame: Vec::new(),
    };
    log.log
        .create_partition(PARTITION, Incarnation(1), b"bench");
    while !log.log.is_open() || !log.log.is_settled() {
        log.turn();
    }
    let body = vec![0x5a; options.size as usize];
    let mode = options.mode.mode();
    for _ in 0..CHAINS {
        log.chain(mode, &body, options.per_chain);
    }
    steady(&mut log, mode, &body, options.per_chain);
    Ok(())
}

/// Counts the instructions of one append.
///
/// # Errors
/// When valgrind is not there, or does not count.
pub fn per_append(options: Options, scratch: &Path) -> Result<f64, BenchError> {
    let (size, per_chain) = (options.size.to_string(), options.per_chain.to_string());
    let arguments = [
        "count-instructions",
        "--mode",
        options.mode.name(),
        "--size",
        &size,
        "--suite",
        options.suite.name(),
        "--per-chain",
        &per_chain,
    ];
    let total = under_callgrind("*instructions*steady*", &arguments, scratch)?;
    Ok(total / f64::from(CHAINS) / f64::from(options.per_chain))
}

/// Runs this program with these arguments under callgrind, and counts the instructions within functions whose names fit
/// the pattern.
///
/// # Errors
/// When valgrind is not there, or counts nothing.
pub fn under_callgrind(
    functions: &str,
    arguments: &[&str],
    scratch: &Path,
) -> Result<f64, BenchError> {
    let wrong = |what: String| BenchError::Place(format!("counting instructions: {what}"));
    let program = std::env::current_exe().map_err(|error| wrong(error.to_string()))?;
    let counts = scratch.join("callgrind.out");
    let status = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={functions}"))
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| wrong(format!("valgrind: {error}; it has to be installed")))?;
    if !status.success() {
        return Err(wrong(format!("valgrind ended with {status}")));
    }
    let text = std::fs::read_to_string(&counts).map_err(|error| wrong(error.to_string()))?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("summary: ")
                .or(line.strip_prefix("totals: "))
        })
        .and_then(|number| number.trim().parse::<f64>().ok())
        .filter(|total| *total > 0.0)
        .ok_or_else(|| wrong("callgrind's file has no total".to_owned()))
}
