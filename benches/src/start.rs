//! `clustor-bench start`: how long a shard with a long log takes to speak again, and how fast its entries come back.
//!
//! Fills a log in group mode, ends the process's hold of it, and starts it again: from opening the ring to the
//! retirement of the boot's mark. Everything is read with direct I/O, so the kernel's cache has no part in it. Then every entry is
//! read back in order, several extents in flight, next to raw reads of the same segments, and all is scrubbed as `clustor scrub` does.

use std::path::Path;
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

use crate::BenchError;
use crate::interrupt::Interrupt;
use crate::place::Place;
use crate::shard::{BenchKey, IDENTITY, PARTITION};

const SEGMENT_BYTES: u64 = 256 << 20;
/// Blocks of one raw read: 1 MiB.
const RAW_BLOCKS: usize = 256;
/// Extents read back at once.
const READS: usize = 64;

/// Measures how long a start on a long log takes, how fast the log is read back, and how fast it is scrubbed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench start
  clustor-bench start --dir /var/lib/clustor --gib 16

Needs as much room in DIR as it writes, and half a GiB more.
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    /// Where to measure: a directory on the device in question. A new directory is made in it and removed at the end.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: std::path::PathBuf,
    /// Length of the log in GiB (1 to 64).
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub gib: u64,
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
    fn start(directory: &Path) -> Result<(Self, f64, f64), BenchError> {
        let begun = Instant::now();
        let mut ring = ShardRing::open(directory)?;
        let limits = LogOptions::for_segment_bytes(SEGMENT_BYTES);
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
    let mut part = ("", 0);
    let report = scrub_offline(&mut disk, IDENTITY, &BenchKey, threads, &mut |at| {
        bytes += at.done - if part.0 == at.what { part.1 } else { 0 };
        part = (at.what, at.done);
    })?;
    interrupt.check()?;
    match report.outcome() {
        Outcome::Healthy => Ok(bytes),
        other => Err(BenchError::Refused(format!(
            "the log is not whole: {other:?}"
        ))),
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
    let begun = Instant::now();
    let (mut log, ..) = Started::start(&directory)?;
    log.fill(options.gib << 30, options.payload_bytes, &interrupt)?;
    drop(log);
    let rate = |bytes: u64, begun: Instant| bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!(
        "filled {} GiB at {:.0} MB/s",
        options.gib,
        rate(options.gib << 30, begun)
    );
    let (mut log, recovered, open) = Started::start(&directory)?;
    println!(
        "start: ledgers read after {:.3} s, speaks after {open:.3} s",
        recovered
    );
    let begun = Instant::now();
    let bytes = log.read_back(&interrupt)?;
    println!(
        "entries read back, verified: {:.0} MB/s",
        rate(bytes, begun)
    );
    drop(log);
    let begun = Instant::now();
    let bytes = read_raw(&directory, &interrupt)?;
    println!(
        "segments read raw, 1 MiB at a time: {:.0} MB/s",
        rate(bytes, begun)
    );
    for threads in [1, 2, 3] {
        let begun = Instant::now();
        let bytes = scrub(&directory, threads, &interrupt)?;
        println!(
            "scrubbed offline, threads {threads}: {:.0} MB/s",
            rate(bytes, begun)
        );
    }
    Ok(())
}
