//! What is measured: the flush, two ways to be durable, two kinds of blocks, the chain at depths and sizes, bandwidth.
//!
//! What is compared is measured in alternation, so that a device that slows down slows both down: chains of all kinds, sizes and
//! depths in each of several turns.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use clustor_shards::buffer::{BLOCK_BYTES, BlockPool, Blocks, SizeClass};
use clustor_shards::disk::FlushKind;
use clustor_shards::uring::{ChainSteps, Rig, RigError, RigOptions, RigWork};
use hdrhistogram::Histogram;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};

use super::Go;

/// Flushes measured alone, and pairs of what is compared.
pub const FLUSHES: u32 = 128;
/// Chains in flight.
pub const DEPTHS: [u32; 4] = [1, 2, 4, 8];
/// Log blocks in a chain: 4 KiB to 1 MiB.
pub const CHAIN_BLOCKS: [u32; 5] = [1, 4, 16, 64, 256];
/// Kinds of chains: both are made as a shard makes them.
pub const KINDS: [FlushKind; 2] = [FlushKind::Fdatasync, FlushKind::Dsync];
/// A cell's time is divided among so many turns, in each of which every cell has its part.
pub const TURNS: u32 = 5;
/// 64 MiB.
const SEGMENT_BLOCKS: u32 = 16_384;
const LEDGER_BLOCKS: u32 = 4_096;
/// A megabyte at a time.
const SEQUENTIAL_BLOCKS: usize = 256;
const SEQUENTIAL_WRITES: u32 = 64;
/// What all of it takes on the device at most, in bytes.
pub const SPACE_BYTES: u64 = 192 << 20;
/// The longest latency that is told apart: one minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Latencies in nanoseconds.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// One more, of a nanosecond to a minute; what lies outside counts as the nearest.
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(ns.max(1));
    }

    /// A quantile, in microseconds.
    pub fn us(&self, quantile: f64) -> f64 {
        (self.0.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0
    }

    /// How many lie between two latencies in nanoseconds, the second excluded. What the histogram can't tell apart
    /// counts as the longest of it, so that each is counted between one pair only.
    pub fn between(&self, from_ns: u64, to_ns: u64) -> u64 {
        self.0
            .iter_recorded()
            .filter(|step| (from_ns..to_ns).contains(&step.value_iterated_to()))
            .map(|step| step.count_at_value())
            .sum()
    }

    /// The shortest and the longest, in nanoseconds.
    pub fn range_ns(&self) -> (u64, u64) {
        (self.0.min(), self.0.max())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

/// A chain of one kind at a depth and size.
#[derive(Debug, Clone)]
pub struct Cell {
    /// How its writes are made durable.
    pub flush: FlushKind,
    /// Chains in flight.
    pub depth: u32,
    /// Log blocks in each.
    pub blocks: u32,
    /// From submission to completion.
    pub latencies: Latencies,
    /// Chains in a second, turn by turn.
    pub rates: Vec<f64>,
}

impl Cell {
    /// Chains in a second: the median of the turns.
    pub fn per_second(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    }

    /// Log bytes in a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.per_second() * f64::from(self.blocks) * BLOCK_BYTES as f64
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Measurements {
    /// A flush alone, behind a write of one block.
    pub flush: Latencies,
    /// Write, then flush, into blocks that were written before.
    pub write_flush: Latencies,
    /// One write that is durable when it completes, into the same.
    pub write_through: Latencies,
    /// Write, then flush, into blocks that are allocated and were never written.
    pub write_flush_fresh: Latencies,
    /// The chain of a shard: log write, flush, ledger write, flush; or both writes durable as they complete. By size, depth and kind.
    pub chains: Vec<Cell>,
    /// Megabyte by megabyte, each flushed, in bytes a second.
    pub sequential: f64,
    /// Whether the ring writes with registered buffers.
    pub writer: &'static str,
}

/// Why nothing more is measured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// ^C or SIGTERM.
    #[error("interrupted; what was made is removed")]
    Interrupted,
    /// The device or the file system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was done.
        what: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// The ring.
    #[error(transparent)]
    Rig(RigError),
}

impl From<RigError> for ProbeError {
    fn from(error: RigError) -> Self {
        match error {
            RigError::Interrupted => Self::Interrupted,
            other => Self::Rig(other),
        }
    }
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> ProbeError {
    move |error| ProbeError::Io { what, error }
}

/// Measures everything, each chain for `time`, in a directory of its own.
pub fn measure(
    directory: &Path,
    time: Duration,
    go: &mut dyn Go,
) -> Result<Measurements, ProbeError> {
    let mut pool = BlockPool::new(&[SizeClass {
        blocks: SEQUENTIAL_BLOCKS,
        runs: 1,
    }]);
    let mut buffer = pool.take(SEQUENTIAL_BLOCKS);
    for (block, mark) in buffer.as_mut_slice().iter_mut().zip(1u8..=255) {
        block.0.fill(mark);
    }
    let written = Plain::open(&directory.join("written"))?;
    go.step("writing blocks once")?;
    for at in 0..SEQUENTIAL_WRITES / 2 {
        written.write(&buffer, SEQUENTIAL_BLOCKS, at)?;
        go.check()?;
    }
    written.flush()?;

    go.step("the flush alone")?;
    let mut flush = Latencies::default();
    for at in 0..FLUSHES {
        written.write(&buffer, 1, at)?;
        let begun = Instant::now();
        written.flush()?;
        flush.record(begun.elapsed());
        go.check()?;
    }

    go.step("write and flush against one durable write, written blocks against fresh ones")?;
    let fresh = Plain::open(&directory.join("fresh"))?;
    fresh.allocate(u64::from(FLUSHES) * BLOCK_BYTES as u64)?;
    let (mut write_flush, mut write_through, mut write_flush_fresh) = (
        Latencies::default(),
        Latencies::default(),
        Latencies::default(),
    );
    for at in 0..FLUSHES {
        let begun = Instant::now();
        written.write(&buffer, 1, 2 * at)?;
        written.flush()?;
        write_flush.record(begun.elapsed());
        let begun = Instant::now();
        written.write_through(&buffer, 2 * at + 1)?;
        write_through.record(begun.elapsed());
        let begun = Instant::now();
        fresh.write(&buffer, 1, at)?;
        fresh.flush()?;
        write_flush_fresh.record(begun.elapsed());
        go.check()?;
    }

    go.step("sequential bandwidth")?;
    let begun = Instant::now();
    for at in 0..SEQUENTIAL_WRITES {
        written.write(&buffer, SEQUENTIAL_BLOCKS, at % (SEQUENTIAL_WRITES / 2))?;
        written.flush()?;
        go.check()?;
    }
    let bytes = f64::from(SEQUENTIAL_WRITES) * (SEQUENTIAL_BLOCKS * BLOCK_BYTES) as f64;
    let sequential = bytes / begun.elapsed().as_secs_f64();
    drop((written, fresh));

    let (chains, writer) = measure_chains(directory, time, go)?;
    Ok(Measurements {
        flush,
        write_flush,
        write_through,
        write_flush_fresh,
        chains,
        sequential,
        writer,
    })
}

fn measure_chains(
    directory: &Path,
    time: Duration,
    go: &mut dyn Go,
) -> Result<(Vec<Cell>, &'static str), ProbeError> {
    go.step("making a pair of files")?;
    let options = RigOptions {
        segment_blocks: SEGMENT_BLOCKS,
        ledger_blocks: LEDGER_BLOCKS,
        blocks_max: CHAIN_BLOCKS[CHAIN_BLOCKS.len() - 1],
        depth_max: DEPTHS[DEPTHS.len() - 1],
    };
    let mut rig = Rig::open(&directory.join("rig"), options, || go.check().is_ok())?;
    let writer = rig.writer_mode().name();
    let mut cells = Vec::new();
    for blocks in CHAIN_BLOCKS {
        for depth in DEPTHS {
            cells.extend(KINDS.map(|flush| Cell {
                flush,
                depth,
                blocks,
                latencies: Latencies::default(),
                rates: Vec::new(),
            }));
        }
    }
    for turn in 0..TURNS {
        for cell in &mut cells {
            let Cell { blocks, depth, .. } = *cell;
            go.step(&format!("chains of {} KiB, {depth} in flight", blocks * 4))?;
            let work = RigWork {
                steps: ChainSteps::Full,
                blocks,
                depth,
                flush: cell.flush,
            };
            if turn == 0 {
                // The first few warm it up.
                rig.keep(work, time / 8, || go.check().is_ok(), |_| {})?;
            }
            let before = cell.latencies.count();
            let took = rig.keep(
                work,
                time / TURNS,
                || go.check().is_ok(),
                |latency| cell.latencies.record(latency),
            )?;
            let chains = cell.latencies.count() - before;
            cell.rates.push(chains as f64 / took.as_secs_f64());
        }
    }
    Ok((cells, writer))
}

/// A file written past the page cache.
struct Plain(File);

impl Plain {
    fn open(path: &Path) -> Result<Self, ProbeError> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map(Self)
            .map_err(io("making a file with direct I/O"))
    }

    fn allocate(&self, bytes: u64) -> Result<(), ProbeError> {
        fallocate(&self.0, FallocateFlags::empty(), 0, bytes)
            .map_err(|error| io("allocating blocks")(error.into()))?;
        self.0.sync_all().map_err(io("flushing a new file"))
    }

    /// Writes `blocks` of the buffer as the `at`th run of that many.
    fn write(&self, buffer: &Blocks, blocks: usize, at: u32) -> Result<(), ProbeError> {
        self.write_with(buffer, blocks, at, ReadWriteFlags::empty())
    }

    fn write_through(&self, buffer: &Blocks, at: u32) -> Result<(), ProbeError> {
        self.write_with(buffer, 1, at, ReadWriteFlags::DSYNC)
    }

    fn write_with(
        &self,
        buffer: &Blocks,
        blocks: usize,
        at: u32,
        flags: ReadWriteFlags,
    ) -> Result<(), ProbeError> {
        let slices: Vec<IoSlice<'_>> = buffer.as_slice()[..blocks]
            .iter()
            .map(|block| IoSlice::new(&block.0))
            .collect();
        let bytes = blocks * BLOCK_BYTES;
        let done = pwritev2(&self.0, &slices, u64::from(at) * bytes as u64, flags)
            .map_err(|error| io("writing")(error.into()))?;
        if done == bytes {
            Ok(())
        } else {
            Err(io("writing")(std::io::ErrorKind::WriteZero.into()))
        }
    }

    fn flush(&self) -> Result<(), ProbeError> {
        self.0.sync_data().map_err(io("flushing"))
    }
}
