//! `clustor-bench start`: how long a shard with a long log takes to speak again, and how fast its entries come back.
//!
//! Fills a log in group mode, ends the process's hold of it, and starts it again: from opening the ring to the
//! retirement of the boot's mark. Everything is read with direct I/O, so the kernel's cache has no part in it. Then every entry is
//! read back in order, several extents in flight, next to raw reads of the same segments and to what the suite does on one
//! core, and all is scrubbed as `clustor scrub` does. How fast that is, is held against the least of the device, the
//! suite and 1 GB/s in the same round.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use clustor_shards::buffer::{BLOCK_BYTES, Blocks};
use clustor_shards::disk::{BootDisk, DiskEvent, DiskOp, FileId};
use clustor_shards::host::{OfflineDisk, scrub_offline};
use clustor_shards::log::audit::Outcome;
use clustor_shards::log::record::{RecordKind, decode_record, encode_record, verified_records};
use clustor_shards::log::{LogOptions, Mode, ReadRefusal, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_shards::uring::ShardRing;
use clustor_wire::ids::{Incarnation, LogIndex, Term};
use serde::Serialize;

use crate::BenchError;
use crate::interrupt::Interrupt;
use crate::measured::median;
use crate::place::Place;
use crate::report::{Machine, save_json};
use crate::sealing;
use crate::shard::{BenchKey, IDENTITY, PARTITION};

/// Segments are a quarter of the log, between these.
const SEGMENT_BYTES_MIN: u64 = 16 << 20;
const SEGMENT_BYTES_MAX: u64 = 256 << 20;
/// Nothing has to be faster than this, in bytes a second.
const ENOUGH: f64 = 1e9;
/// Threads that scrub.
const THREADS: [usize; 3] = [1, 2, 4];
/// Blocks of one raw read: 1 MiB.
const RAW_BLOCKS: usize = 256;
/// Extents read back at once.
const READS: usize = 64;

/// Measures how long a start on a long log takes, how fast the log is read back, and how fast it is scrubbed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench start
  clustor-bench start --dir /var/lib/clustor --gib 16
  clustor-bench start --mib 512 --repeat 5 --json start.json

Needs as much room in DIR as it writes, and half a GiB more.
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    /// Where to measure: a directory on the device in question. A new directory is made in it and removed at the end.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Length of the log in GiB (1 to 64).
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub gib: u64,
    /// Length of the log in MiB instead (16 to 65536).
    #[arg(long, value_name = "N", conflicts_with = "gib", value_parser = clap::value_parser!(u64).range(16..=65_536))]
    pub mib: Option<u64>,
    /// Rounds on the same log: a start, reading back, raw reads, scrubs. Medians are shown.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = crate::count)]
    pub repeat: usize,
    /// Also write the results to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Bytes of each entry (64 to 65536).
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(64..=65536))]
    pub payload_bytes: u64,
}

struct Started {
    ring: ShardRing,
    log: ShardLog,
    ops: Vec<DiskOp>,
    events: Vec<DiskEvent>,
    retirement: Retirement,
}

impl Started {
    fn start(directory: &Path, limits: LogOptions) -> Result<(Self, f64, f64), BenchError> {
        let begun = Instant::now();
        let mut ring = ShardRing::open(directory)?;
        let mut pool = limits.pool();
        let mode = ring.register_pool(&mut pool);
        let options = LogOptions {
            io_writer_mode: mode as u8,
            ..limits
        };
        let recovery = ShardLog::recover(&mut ring, IDENTITY, options, &BenchKey, pool)?;
        let recovered = begun.elapsed().as_secs_f64();
        let mut this = Self {
            ring,
            log: recovery.log,
            ops: Vec::new(),
            events: Vec::new(),
            retirement: Retirement::default(),
        };
        while !this.log.is_open() {
            this.turn()?;
        }
        Ok((this, recovered, begun.elapsed().as_secs_f64()))
    }

    fn turn(&mut self) -> Result<(), BenchError> {
        self.log.poll(Time(0), &mut self.ops);
        for op in self.ops.drain(..) {
            self.ring.start(op)?;
        }
        self.ring.wait()?;
        self.ring.drain(&mut self.events)?;
        for event in self.events.drain(..) {
            self.log.on_event(Time(0), event, &mut self.retirement);
        }
        self.retirement.durable.clear();
        self.retirement.hard_states.clear();
        match self.log.failure() {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }

    fn fill(
        &mut self,
        bytes: u64,
        payload_bytes: u64,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        self.log
            .create_partition(PARTITION, Incarnation(1), b"bench");
        let body = vec![0x5a; payload_bytes as usize];
        let mut frame = Vec::new();
        for index in 1..=bytes / payload_bytes {
            frame.clear();
            let (kind, term) = (RecordKind::Entry, Term(1));
            encode_record(&mut frame, kind, PARTITION, term, LogIndex(index), &body);
            while self.log.admit(body.len()).is_err() {
                interrupt.check()?;
                self.turn()?;
            }
            let record = decode_record(&frame).expect("a frame just made decodes");
            self.log.append(&record, Mode::Group);
        }
        while !self.log.is_settled() || self.ring.is_busy() {
            interrupt.check()?;
            self.turn()?;
        }
        Ok(())
    }

    /// Reads every entry back in order; the bytes of their frames.
    fn read_back(&mut self, interrupt: &Interrupt) -> Result<u64, BenchError> {
        let last = self
            .log
            .partition(PARTITION)
            .map_or(LogIndex::ZERO, |log| log.last);
        let mut next = LogIndex(1);
        let (mut bytes, mut under_way) = (0, 0);
        while next <= last || under_way > 0 {
            interrupt.check()?;
            while next <= last && under_way < READS {
                match self.log.read_run(PARTITION, next, &mut self.ops) {
                    Ok((_, run_last)) => {
                        next = run_last.next();
                        under_way += 1;
                    }
                    Err(ReadRefusal::Busy) => break,
                    Err(refusal) => return Err(BenchError::Refused(refusal.to_string())),
                }
            }
            self.turn()?;
            for read in self.retirement.reads.drain(..) {
                under_way -= 1;
                let frames = read
                    .frames
                    .ok_or_else(|| BenchError::Refused(format!("{} is missing", read.first)))?;
                // The log has verified them.
                let expected = read.last.get() - read.first.get() + 1;
                assert_eq!(verified_records(&frames).count() as u64, expected);
                bytes += frames.len() as u64;
            }
        }
        Ok(bytes)
    }
}

/// Reads whole segments as they lie, 1 MiB after the other.
fn read_raw(directory: &Path, interrupt: &Interrupt) -> Result<u64, BenchError> {
    let mut ring = ShardRing::open(directory)?;
    let mut into = Blocks::from_heap(RAW_BLOCKS);
    let mut bytes = 0;
    for found in ring.pairs()? {
        let blocks = found.segment_bytes.unwrap_or(0) / BLOCK_BYTES as u64;
        for block in (0..blocks as u32).step_by(RAW_BLOCKS) {
            interrupt.check()?;
            ring.read(FileId::segment(found.pair), block, &mut into)?;
            bytes += into.byte_len() as u64;
        }
    }
    Ok(bytes)
}

/// Verifies every byte as `clustor scrub` does, on `threads` threads; the bytes that were read.
fn scrub(directory: &Path, threads: usize, interrupt: &Interrupt) -> Result<u64, BenchError> {
    let directory = &directory.join("wal");
    let mut disk = OfflineDisk::open(directory).map_err(|source| BenchError::Output {
        path: directory.to_owned(),
        source,
    })?;
    let mut bytes = 0;
    let mut before = None;
    let report = scrub_offline(&mut disk, IDENTITY, &BenchKey, threads, &mut |at| {
        let part = (at.pair, at.what);
        let counted = before.filter(|(of, _)| *of == part);
        bytes += at.done - counted.map_or(0, |(_, done)| done);
        before = Some((part, at.done));
    })?;
    interrupt.check()?;
    match report.outcome() {
        Outcome::Healthy => Ok(bytes),
        other => Err(BenchError::Refused(format!(
            "the log is not whole: {other:?}"
        ))),
    }
}

/// What was found. Rates are in megabytes (10^6 bytes) a second; numbers are medians over the rounds, ratios medians of each
/// round's own.
#[derive(Debug, Serialize)]
struct Found {
    machine: Machine,
    rounds: usize,
    /// Payload in the log.
    log_bytes: u64,
    payload_bytes: u64,
    entries: u64,
    segment_bytes: u64,
    fill_mb_per_s: f64,
    /// From opening the ring: until the ledgers were read, and until the boot's mark had retired.
    ledgers_read_after_s: f64,
    speaks_after_s: f64,
    /// The same segments as they lie, a mebibyte after the other.
    device_mb_per_s: f64,
    /// What the suite does on one core; none if nothing is sealed.
    suite_mb_per_s: Option<f64>,
    /// The least of the device, the suite and 1 GB/s.
    bound_mb_per_s: f64,
    read_back_mb_per_s: f64,
    read_back_to_bound: f64,
    scrubs: Vec<Scrubbed>,
}

#[derive(Debug, Serialize)]
struct Scrubbed {
    threads: usize,
    mb_per_s: f64,
    to_bound: f64,
}

/// One round; rates in bytes a second.
struct Round {
    recovered: f64,
    open: f64,
    read_back: f64,
    raw: f64,
    suite: Option<f64>,
    scrubs: [f64; THREADS.len()],
}

impl Round {
    fn measure(
        directory: &Path,
        limits: LogOptions,
        entries: u64,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let (mut log, recovered, open) = Started::start(directory, limits)?;
        let last = log.log.partition(PARTITION).map_or(0, |log| log.last.get());
        if last != entries {
            return Err(BenchError::Refused(format!(
                "{entries} entries were written, {last} came back"
            )));
        }
        let read_back = rate(|| log.read_back(interrupt))?;
        drop(log);
        let raw = rate(|| read_raw(directory, interrupt))?;
        let suite = sealing::mib_per_s(limits.format.sealing).map(|mib| mib * f64::from(1 << 20));
        let mut scrubs = [0.0; THREADS.len()];
        for (threads, of) in THREADS.into_iter().zip(&mut scrubs) {
            *of = rate(|| scrub(directory, threads, interrupt))?;
        }
        Ok(Self {
            recovered,
            open,
            read_back,
            raw,
            suite,
            scrubs,
        })
    }

    fn bound(&self) -> f64 {
        self.raw.min(self.suite.unwrap_or(ENOUGH)).min(ENOUGH)
    }
}

/// Bytes a second of what says how many it went through.
fn rate(work: impl FnOnce() -> Result<u64, BenchError>) -> Result<f64, BenchError> {
    let begun = Instant::now();
    let bytes = work()?;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

/// As many digits as are measured.
fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

impl Found {
    fn of(machine: Machine, log: (u64, u64, u64), fill: f64, rounds: &[Round]) -> Self {
        let over = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value).collect());
        let mb = |value: &dyn Fn(&Round) -> f64| rounded(over(value) / 1e6, 1);
        let ratio =
            |value: &dyn Fn(&Round) -> f64| rounded(over(&|round| value(round) / round.bound()), 3);
        let (log_bytes, payload_bytes, segment_bytes) = log;
        let is_sealed = rounds.iter().all(|round| round.suite.is_some());
        Self {
            machine,
            rounds: rounds.len(),
            log_bytes,
            payload_bytes,
            entries: log_bytes / payload_bytes,
            segment_bytes,
            fill_mb_per_s: rounded(fill / 1e6, 1),
            ledgers_read_after_s: rounded(over(&|round| round.recovered), 4),
            speaks_after_s: rounded(over(&|round| round.open), 4),
            device_mb_per_s: mb(&|round| round.raw),
            suite_mb_per_s: is_sealed.then(|| mb(&|round| round.suite.unwrap_or(0.0))),
            bound_mb_per_s: mb(&Round::bound),
            read_back_mb_per_s: mb(&|round| round.read_back),
            read_back_to_bound: ratio(&|round| round.read_back),
            scrubs: (0..THREADS.len())
                .map(|at| Scrubbed {
                    threads: THREADS[at],
                    mb_per_s: mb(&|round| round.scrubs[at]),
                    to_bound: ratio(&|round| round.scrubs[at]),
                })
                .collect(),
        }
    }

    fn print(&self) {
        let row = |what: &str, value: String| println!("{what:<44} {value:>12}");
        let mb = |value: f64| format!("{value:.0} MB/s");
        let row_of = |what: &str, rate: f64, ratio: f64| {
            println!("{what:<44} {:>12} {ratio:>8.2}", mb(rate));
        };
        row(
            "filled",
            format!("{} MiB", (self.entries * self.payload_bytes) >> 20),
        );
        row("at", mb(self.fill_mb_per_s));
        row(
            "ledgers read after",
            format!("{:.3} s", self.ledgers_read_after_s),
        );
        row("speaks after", format!("{:.3} s", self.speaks_after_s));
        row(
            "segments read raw, 1 MiB at a time",
            mb(self.device_mb_per_s),
        );
        row(
            "the suite on one core",
            self.suite_mb_per_s.map_or_else(|| "-".to_owned(), mb),
        );
        println!(
            "{:<44} {:>12} {:>8}",
            "the least of these and 1000 MB/s",
            mb(self.bound_mb_per_s),
            ":least"
        );
        row_of(
            "entries read back, verified",
            self.read_back_mb_per_s,
            self.read_back_to_bound,
        );
        for scrub in &self.scrubs {
            row_of(
                &format!("scrubbed offline, threads {}", scrub.threads),
                scrub.mb_per_s,
                scrub.to_bound,
            );
        }
    }
}

/// Fills, starts, reads back, and prints.
///
/// # Errors
/// When the place is no good, the device or the log fails, or a signal came.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let interrupt = Interrupt::listen()?;
    let place = Place::new(&options.dir)?;
    let directory = place.path().join("shard");
    let bytes = options.mib.unwrap_or(options.gib << 10) << 20;
    let segment_bytes = (bytes / 4).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    let limits = LogOptions::for_segment_bytes(segment_bytes);
    let (mut log, ..) = Started::start(&directory, limits)?;
    let fill = rate(|| {
        log.fill(bytes, options.payload_bytes, &interrupt)?;
        Ok(bytes)
    })?;
    let machine = Machine::of(&place, log.ring.writer_mode().name());
    drop(log);
    let entries = bytes / options.payload_bytes;
    let rounds = (0..options.repeat)
        .map(|_| Round::measure(&directory, limits, entries, &interrupt))
        .collect::<Result<Vec<_>, _>>()?;
    let log = (bytes, options.payload_bytes, segment_bytes);
    let found = Found::of(machine, log, fill, &rounds);
    found.print();
    options
        .json
        .as_deref()
        .map_or(Ok(()), |path| save_json(path, &found))
}
