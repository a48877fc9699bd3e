//! `clustor-bench log`: one shard's log, measured in the shard and through a handle.
//!
//! In the shard: the log's writer over a shard's ring, on one thread that does nothing else; the clock runs from the
//! append to the retirement of its chain, sealing and checksums included. Through the handle: a whole engine of one
//! node, with each client a thread that waits for its answer. Ratios are to the device's full chain at depth 1, measured
//! in the same run.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use clustor_engine::engine::{AppendOptions, Engine};
use clustor_engine::profile::Profile;
use clustor_engine::shard_core::log_pool;
use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::disk::{DiskEvent, DiskOp};
use clustor_shards::log::record::{RecordKind, decode_record, encode_record};
use clustor_shards::log::{
    Kek, KeyError, KeyProvider, LogIdentity, LogOptions, Mode, Retirement, ShardLog,
};
use clustor_shards::turn::Time;
use clustor_shards::uring::{ChainSteps, ShardRing};
use clustor_wire::ids::{ClusterId, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term};

use crate::device::Device;
use crate::interrupt::Interrupt;
use crate::nothing::Nothing;
use crate::place::Place;
use crate::report::{Machine, Measured, MeasuredAt, Report, Run, Workload};
use crate::{BenchError, Common};

const PARTITION: PartitionId = PartitionId(1);
const TERM: Term = Term(1);
/// 256 MiB: a run stays within one segment, rolling is not what is measured here.
const SEGMENT_BYTES: u64 = 256 << 20;
/// What is run before the clock starts.
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures one shard's log, strict and group.
///
/// Each mode is measured in the shard, from append to retirement, and again through a handle from other threads, from
/// the call to the answer at commit.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench log
  clustor-bench log --dir /var/lib/clustor --seconds 10 --json log.json
  clustor-bench log --clients 1,64 --payload-bytes 1024

Needs about 1.5 GiB in DIR, on a file system with direct I/O (not tmpfs).
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Clients, each with one append under way, a list: each is measured by itself (1 to 256).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: Vec<u32>,
    /// Bytes of each entry (1 to 65536).
    #[arg(long, value_name = "N", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub payload_bytes: u32,
}

const MODES: [(&str, Mode); 2] = [("strict", Mode::Strict), ("group", Mode::Group)];

/// Measures every mode with every number of clients, in the shard and through the handle.
///
/// # Errors
/// When the place is no good, the device or the log fails, or a signal came.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let interrupt = Interrupt::listen()?;
    let place = Place::new(&options.common.dir)?;
    let time = Duration::from_secs(options.common.seconds);
    let workload = |clients| Workload {
        depth: clients,
        blocks: 1,
        payload_bytes: options.payload_bytes,
        seconds: options.common.seconds,
    };
    let (machine, device) = {
        let mut device = Device::open(place.path(), 1, 1, &interrupt)?;
        let measured = device.measure(ChainSteps::Full, 1, time)?;
        (Machine::of(&place, device.writer_mode()), measured)
    };
    let device_p50 = device.quantile_us(0.5);
    let mut runs = vec![Run::new(
        "device",
        "full_chain",
        Workload {
            payload_bytes: BLOCK_BYTES as u32,
            ..workload(1)
        },
        MeasuredAt::Shard,
        &device,
        Some(device_p50),
    )];
    let mut shard = ShardBench::open(&place.path().join("shard"), &interrupt)?;
    for (name, mode) in MODES {
        for &clients in &options.clients {
            shard.keep(mode, clients, options.payload_bytes, WARM_UP)?;
            let measured = shard.keep(mode, clients, options.payload_bytes, time)?;
            runs.push(Run::new(
                "log",
                name,
                workload(clients),
                MeasuredAt::Shard,
                &measured,
                Some(device_p50),
            ));
        }
    }
    drop(shard);
    for (name, mode) in MODES {
        let directory = place.path().join(name);
        for &clients in &options.clients {
            interrupt.check()?;
            let measured = through_handle(&directory, mode, clients, options.payload_bytes, time)?;
            runs.push(Run::new(
                "log",
                name,
                workload(clients),
                MeasuredAt::Handle,
                &measured,
                Some(device_p50),
            ));
        }
    }
    Ok(Report { machine, runs })
}

struct BenchKey;

impl KeyProvider for BenchKey {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(Kek::new([7; 32].into()))
    }
}

/// A log on a shard's ring, driven by hand.
struct ShardBench<'a> {
    ring: ShardRing,
    log: ShardLog,
    next: LogIndex,
    ops: Vec<DiskOp>,
    events: Vec<DiskEvent>,
    retirement: Retirement,
    interrupt: &'a Interrupt,
}

impl<'a> ShardBench<'a> {
    fn open(directory: &Path, interrupt: &'a Interrupt) -> Result<Self, BenchError> {
        let mut ring = ShardRing::open(directory)?;
        let mut pool = log_pool();
        let mode = ring.register_pool(&mut pool);
        let base = LogOptions::for_segment_bytes(SEGMENT_BYTES);
        let options = LogOptions {
            ledger_slots: base.segment_blocks,
            io_writer_mode: mode as u8,
            ..base
        };
        let identity = LogIdentity {
            cluster: ClusterId(1),
            node: NodeId(1),
            shard: ShardId(0),
        };
        let log = ShardLog::recover(&mut ring, identity, options, &BenchKey, pool)?.log;
        let mut bench = Self {
            ring,
            log,
            next: LogIndex(1),
            ops: Vec::new(),
            events: Vec::new(),
            retirement: Retirement::default(),
            interrupt,
        };
        bench
            .log
            .create_partition(PARTITION, Incarnation(1), b"bench");
        // The spare is zeroed too before anything is measured.
        while !bench.log.is_open() || !bench.log.is_settled() || bench.ring.is_busy() {
            bench.turn(true)?;
        }
        Ok(bench)
    }

    fn turn(&mut self, wait: bool) -> Result<(), BenchError> {
        self.interrupt.check()?;
        self.log.poll(Time(0), &mut self.ops);
        for op in self.ops.drain(..) {
            self.ring.start(op)?;
        }
        if wait {
            self.ring.wait()?;
        } else {
            self.ring.enter()?;
        }
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

    /// Keeps `clients` appends under way for `time`, and measures each from its append to its retirement.
    fn keep(
        &mut self,
        mode: Mode,
        clients: u32,
        payload_bytes: u32,
        time: Duration,
    ) -> Result<Measured, BenchError> {
        let mut measured = Measured::new();
        let mut under_way: VecDeque<(LogIndex, Instant)> = VecDeque::new();
        let body = vec![0x5a; payload_bytes as usize];
        let mut frame = Vec::new();
        let begun = Instant::now();
        loop {
            let open = begun.elapsed() < time;
            while open && under_way.len() < clients as usize {
                frame.clear();
                under_way.push_back((self.next, Instant::now()));
                encode_record(
                    &mut frame,
                    RecordKind::Entry,
                    PARTITION,
                    TERM,
                    self.next,
                    &body,
                );
                let record = decode_record(&frame).expect("a frame just made decodes");
                self.log.append(&record, mode);
                self.next = self.next.next();
            }
            if under_way.is_empty() {
                break;
            }
            self.turn(true)?;
            let durable = self
                .log
                .durable(PARTITION)
                .map_or(LogIndex::ZERO, |proof| proof.index());
            let now = Instant::now();
            while let Some((index, at)) = under_way.front()
                && *index <= durable
            {
                measured.record(now - *at);
                under_way.pop_front();
            }
        }
        measured.took(begun.elapsed());
        Ok(measured)
    }
}

fn through_handle(
    directory: &Path,
    mode: Mode,
    clients: u32,
    payload_bytes: u32,
    time: Duration,
) -> Result<Measured, BenchError> {
    let profile = match mode {
        Mode::Strict => Profile::latency(),
        Mode::Group => Profile::throughput(),
    };
    let engine = Engine::builder(directory)
        .profile(profile)
        .partition(1, |_| Nothing)
        .start()?;
    let handle = engine.partition::<Nothing>(1)?;
    let begun = Instant::now() + WARM_UP;
    let until = begun + time;
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                let mut latencies = Vec::new();
                let body = vec![0x5a; payload_bytes as usize];
                loop {
                    let at = Instant::now();
                    if at >= until {
                        return Ok(latencies);
                    }
                    handle
                        .append_with(body.clone(), AppendOptions::new().at_commit())
                        .wait()
                        .map_err(|error| BenchError::Refused(error.to_string()))?;
                    if at >= begun {
                        latencies.push(at.elapsed());
                    }
                }
            })
        })
        .collect();
    let mut measured = Measured::new();
    for thread in threads {
        let latencies: Result<Vec<Duration>, BenchError> =
            thread.join().expect("a client does not panic");
        for latency in latencies? {
            measured.record(latency);
        }
    }
    measured.took(begun.elapsed());
    engine.shutdown(Duration::from_secs(10))?;
    Ok(measured)
}
