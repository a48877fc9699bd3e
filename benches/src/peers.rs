//! `clustor-bench peers log`: the same work through this log and through others, in turns, on the same device.
//!
//! The peer is `raft-engine`, the log of TiKV: every write synced, each client a thread that appends one entry to a raft
//! group of its own, as TiKV's do; it merges what waits into one write and one fdatasync by a queue of its own. It is
//! measured twice: as it comes, and with its files filled beforehand (`prefill_for_recycle`), which spares it the
//! journal commits of fresh blocks, as this log's zeroed segments do. It seals nothing, so neither does its CPU work
//! compare; and LZ4 compression is off, because entries here say nothing about anyone's.

use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};
use clustor_engine::profile::Profile;
use clustor_shards::disk::FlushKind;
use clustor_shards::log::Mode;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use raft_proto::eraftpb::Entry;

use crate::closed_loop::{Span, closed_loop};
use crate::device::{BLOCKS_MAX, Device};
use crate::interrupt::Interrupt;
use crate::log::{SEGMENT_BYTES, device_work};
use crate::measured::Measured;
use crate::progress::Progress;
use crate::report::{Line, Machine, MeasuredAt, Report, Round, Workload};
use crate::sealing;
use crate::setup::{OneNode, Setup};
use crate::shard::{ShardBench, ShardWork};
use crate::{BenchError, Common};

/// Files that are filled beforehand: half as much again is made of them.
const PREFILL_MIB: u64 = 256;
const WARM_UP: std::time::Duration = std::time::Duration::from_millis(200);

/// What is compared.
#[derive(Debug, Subcommand)]
pub enum Peers {
    /// One shard's log against the log of TiKV, raft-engine.
    Log(Options),
}

/// Measures group-fsync against raft-engine with synced writes.
///
/// Each round runs this log in the shard, this log through a handle, raft-engine as it comes, raft-engine with prefilled
/// files, and the device. Columns `rate:peer` and `p99:peer` are to the better of the two raft-engines of the same round.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench peers log
  clustor-bench peers log --sizes 128,1024,4096 --clients 64 --repeat 5 --json peers.json --svg plots

Needs about 4 GiB in DIR, on a file system with direct I/O (not tmpfs). ^C shows what was measured so far.
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Clients, a list (1 to 256).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: Vec<u32>,
    /// Bytes of each entry, a list (1 to 65536).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128,1024,4096",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub sizes: Vec<u32>,
}

/// The lines of one combination.
const LINES: [(&str, &str, MeasuredAt); 4] = [
    ("clustor", "chacha20-poly1305", MeasuredAt::Shard),
    ("clustor", "chacha20-poly1305", MeasuredAt::Handle),
    ("raft-engine", "none", MeasuredAt::Caller),
    ("re-prefilled", "none", MeasuredAt::Caller),
];

/// Measures every combination.
///
/// # Errors
/// When the place is no good, a log fails, or a signal came before anything was measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let setup = Setup::begin(&options.common)?;
    let mut device = Device::open(setup.path(), BLOCKS_MAX, &setup.interrupt)?;
    let mut report = Report::new(Machine::of(&setup.place, device.writer_mode()));
    let mut progress = Progress::new(options.sizes.len() * options.clients.len());
    for &payload_bytes in &options.sizes {
        for &clients in &options.clients {
            progress.step(&format!("{payload_bytes} bytes, {clients} clients"));
            let workload = Workload {
                depth: clients,
                payload_bytes,
            };
            let mut rounds: [Vec<Round>; 4] = Default::default();
            let outcome = measure(
                &setup,
                workload,
                options.common.repeat,
                &mut device,
                &mut rounds,
            );
            for ((mode, suite, measured_at), rounds) in LINES.into_iter().zip(rounds) {
                let line = Line {
                    benchmark: "peers",
                    mode,
                    suite,
                    flush: "fdatasync",
                    workload,
                    measured_at,
                };
                report.add(line, rounds);
            }
            match outcome {
                Err(BenchError::Interrupted) => return report.interrupted(),
                other => other?,
            }
        }
    }
    Ok(report)
}

/// The rounds of one combination. Everything is made anew for it.
fn measure(
    setup: &Setup,
    workload: Workload,
    repeat: usize,
    device: &mut Device<'_>,
    rounds: &mut [Vec<Round>; 4],
) -> Result<(), BenchError> {
    let directory = setup.path().join("peers");
    let mut profile = Profile::throughput().with_segment_bytes(SEGMENT_BYTES);
    profile.flush = FlushKind::Fdatasync;
    let suite = profile.sealing;
    let engine = OneNode::start(&directory.join("engine"), profile.clone())?;
    let mut shard = ShardBench::open(&directory.join("shard"), profile, &setup.interrupt)?;
    let plain = Peer::open(&directory.join("plain"), false)?;
    let prefilled = Peer::open(&directory.join("prefilled"), true)?;
    let work = ShardWork {
        mode: Mode::Group,
        clients: workload.depth,
        payload_bytes: workload.payload_bytes,
    };
    let span = Span {
        warm_up: WARM_UP.min(setup.time),
        time: setup.time,
    };
    for _ in 0..repeat {
        let (in_shard, counts) = shard.measure(work, setup.time)?;
        let peers = [
            plain.measure(workload, span, &setup.interrupt)?,
            prefilled.measure(workload, span, &setup.interrupt)?,
        ];
        let (at_handle, _) = engine.measure(
            workload.depth,
            workload.payload_bytes,
            span,
            &setup.interrupt,
        )?;
        let beside = device_work(counts, FlushKind::Fdatasync);
        let device = (beside, device.measure(beside, setup.time)?);
        let better = peers
            .iter()
            .max_by(|a, b| a.per_second().total_cmp(&b.per_second()))
            .cloned();
        let operations = in_shard.operations() as f64;
        rounds[0].push(Round {
            chain_blocks: counts.blocks_per_chain(),
            operations_per_chain: operations / counts.chains.max(1) as f64,
            allocations: Some(counts.allocations),
            enters: Some(counts.enters),
            device: Some(device.clone()),
            suite_mib_per_s: sealing::mib_per_s(suite),
            peer: better.clone(),
            ..Round::new(in_shard)
        });
        rounds[1].push(Round {
            device: Some(device.clone()),
            peer: better,
            ..Round::new(at_handle)
        });
        for (peer, rounds) in peers.into_iter().zip(&mut rounds[2..]) {
            rounds.push(Round {
                device: Some(device.clone()),
                ..Round::new(peer)
            });
        }
    }
    engine.stop()?;
    drop((shard, plain, prefilled));
    std::fs::remove_dir_all(&directory).map_err(|source| BenchError::Output {
        path: directory,
        source,
    })
}

/// The peer's log.
struct Peer {
    engine: Arc<Engine>,
    /// Raft groups used so far: each round begins new ones.
    groups: std::cell::Cell<u64>,
}

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

fn wrong(error: &raft_engine::Error) -> BenchError {
    BenchError::Refused(format!("raft-engine: {error}"))
}

impl Peer {
    fn open(directory: &Path, prefill: bool) -> Result<Self, BenchError> {
        let config = Config {
            dir: directory.display().to_string(),
            batch_compression_threshold: ReadableSize(0),
            prefill_for_recycle: prefill,
            prefill_limit: prefill.then(|| ReadableSize::mb(PREFILL_MIB)),
            ..Config::default()
        };
        let engine = Engine::open(config).map_err(|error| wrong(&error))?;
        Ok(Self {
            engine: Arc::new(engine),
            groups: std::cell::Cell::new(1),
        })
    }

    fn measure(
        &self,
        workload: Workload,
        span: Span,
        interrupt: &Interrupt,
    ) -> Result<Measured, BenchError> {
        let first = self.groups.get();
        let after = first + u64::from(workload.depth);
        self.groups.set(after);
        let clients = (first..after)
            .map(|group| self.client(group, workload.payload_bytes))
            .collect();
        let (measured, _) = closed_loop(clients, span, interrupt)?;
        // What is behind is let go of, and its files with it.
        for group in first..after {
            self.engine.compact_to(group, u64::MAX);
        }
        self.engine
            .purge_expired_files()
            .map_err(|error| wrong(&error))?;
        Ok(measured)
    }

    /// One client: an entry in a batch of its own, written and synced.
    fn client(
        &self,
        group: u64,
        payload_bytes: u32,
    ) -> impl FnMut() -> Result<bool, BenchError> + Send + use<> {
        let engine = Arc::clone(&self.engine);
        let mut batch = LogBatch::with_capacity(1);
        let mut entry = Entry {
            term: 1,
            data: vec![0x5a; payload_bytes as usize].into(),
            ..Entry::default()
        };
        move || {
            entry.index += 1;
            batch
                .add_entries::<Entries>(group, std::slice::from_ref(&entry))
                .and_then(|()| engine.write(&mut batch, true))
                .map_err(|error| wrong(&error))?;
            Ok(true)
        }
    }
}
