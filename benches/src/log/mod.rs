//! `clustor-bench log`: one shard's log, measured in the shard and through a handle.
//!
//! In the shard: the log's writer over a shard's ring ([`ShardBench`]). Through the handle: a whole engine of one
//! node, with each client a thread that waits for its answer. Rounds of the log and of the raw device take turns, and
//! the device is asked for chains of the size and depth that the log has just used: what is compared was
//! measured within a second or two on the same machine in the same mood.

mod rollover;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clustor_engine::profile::Profile;
use clustor_shards::disk::FlushKind;
use clustor_shards::log::{Mode, Suite};
use clustor_shards::uring::{ChainSteps, RigWork};

use crate::closed_loop::Span;
use crate::device::{BLOCKS_MAX, DEPTH_MAX, Device, FlushName, flush_name};
use crate::instructions;
use crate::measured::Measured;
use crate::progress::Progress;
use crate::report::{Line, Machine, MeasuredAt, Report, Round, Workload};
use crate::sealing;
use crate::setup::{OneNode, Setup};
use crate::shard::{Counts, ShardBench, ShardWork};
use crate::wake;
use crate::{BenchError, Common};

/// 256 MiB: a round stays within one segment, rolling is not what is measured here.
pub const SEGMENT_BYTES: u64 = 256 << 20;
/// How long a new engine is left alone, so that its spare segment is zeroed before anything is measured.
const ENGINE_SETTLES: Duration = Duration::from_millis(1_500);
/// The name of the profile that is taken where none is named.
const DEFAULT: &str = "default";
const WARM_UP: Duration = Duration::from_millis(200);

/// Measures one shard's log, strict and group.
///
/// Each combination is measured in rounds: in the shard, from append to retirement; the device with chains of the same
/// size and depth; through a handle from other threads, from the call to the answer at commit; the waking of a
/// thread. The table shows medians over the rounds, and ratios as medians of each round's own ratio.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench log --quick
  clustor-bench log --dir /var/lib/clustor --sizes 128,4096,65536 --clients 1,64,256 --json log.json --svg plots
  clustor-bench log --full --repeat 5 --hgrm histograms
  clustor-bench log --profile probed.toml --beside default --repeat 9 --at shard

Needs about 2 GiB in DIR, on a file system with direct I/O (not tmpfs). ^C shows what was measured so far.
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// A first impression in half a minute: one size, 1 and 64 clients, short rounds, in the shard alone.
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// The whole matrix: 64 B to 64 KiB, 1 to 256 clients, every suite, both kinds of flush.
    #[arg(long)]
    pub full: bool,
    /// Clients, each with one append under way, a list (1 to 256). [default: 1,64]
    #[arg(long, value_name = "LIST", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: Option<Vec<u32>>,
    /// Bytes of each entry, a list (1 to 65536). [default: 128,4096]
    #[arg(long, value_name = "LIST", value_delimiter = ',', alias = "payload-bytes",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub sizes: Option<Vec<u32>>,
    /// Modes, a list.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "strict,group"
    )]
    pub modes: Vec<ModeName>,
    /// Suites that seal, a list: chacha20-poly1305, aes-256-gcm (in builds with the feature aws-lc), none. [default: the
    /// profile's]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = suite)]
    pub suites: Option<Vec<Suite>>,
    /// How writes are made durable, a list. [default: the profile's]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub flush: Option<Vec<FlushName>>,
    /// Where to measure, a list. [default: shard,handle]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub at: Option<Vec<At>>,
    /// Measure over the ends of segments instead, of the profile's own size, and tell appends that met a rollover, or
    /// the zeroing of the next segment, from all others.
    #[arg(long, conflicts_with_all = ["quick", "full", "at", "instructions"])]
    pub rollover: bool,
    /// With --rollover: let go of each segment as soon as it is closed, and tell appends that met the removal of one too.
    #[arg(long, requires = "rollover")]
    pub reclaim: bool,
    /// Also count the instructions of an append, by callgrind on a disk in memory. Needs valgrind.
    #[arg(long)]
    pub instructions: bool,
    /// Tune by this profile instead of the shipped `latency` (for strict) and `throughput` (for group). Its mode
    /// does not count.
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// In each round, do the same in the shard under a shipped profile too, in turns who goes first, and show the rate and p99
    /// over its own (rate:peer, p99:peer): `default` for the one that --profile stands in for, or a name.
    #[arg(long, value_name = "NAME", requires = "profile", conflicts_with = "rollover", value_parser = shipped)]
    pub beside: Option<String>,
}

fn shipped(name: &str) -> Result<String, String> {
    if name == DEFAULT || Profile::shipped(name).is_some() {
        return Ok(name.to_owned());
    }
    let names = Profile::SHIPPED.join(", ");
    Err(format!("expected {DEFAULT} or one of {names}"))
}

/// The shipped profile of a mode.
fn default_of(mode: ModeName) -> Profile {
    match mode {
        ModeName::Strict => Profile::latency(),
        ModeName::Group => Profile::throughput(),
    }
}

pub(crate) fn suite(name: &str) -> Result<Suite, String> {
    let suite = Suite::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
        format!("expected one of {}", names.join(", "))
    })?;
    suite.check_available().map_err(|error| error.to_string())?;
    Ok(suite)
}

/// A mode, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    /// Each append in a chain of its own.
    Strict,
    /// Appends share chains.
    Group,
}

impl ModeName {
    /// As the log has it.
    pub const fn mode(self) -> Mode {
        match self {
            Self::Strict => Mode::Strict,
            Self::Group => Mode::Group,
        }
    }

    /// As the command line has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Group => "group",
        }
    }
}

/// Where the clock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum At {
    /// In the shard.
    Shard,
    /// At a handle on another thread.
    Handle,
}

/// What is measured: the options with their presets filled in.
#[derive(Debug)]
struct Plan {
    clients: Vec<u32>,
    sizes: Vec<u32>,
    modes: Vec<ModeName>,
    /// None: the profile's.
    suites: Vec<Option<Suite>>,
    /// None: the profile's.
    flushes: Vec<Option<FlushKind>>,
    at: Vec<At>,
    profile: Option<Profile>,
    beside: Option<String>,
    instructions: bool,
    repeat: usize,
    time: Duration,
}

impl Plan {
    fn of(options: &Options, time: Duration) -> Result<Self, BenchError> {
        let list = |given: &Option<Vec<u32>>, quick: &[u32], default: &[u32], full: &[u32]| {
            given.clone().unwrap_or_else(|| {
                if options.quick {
                    quick.to_vec()
                } else if options.full {
                    full.to_vec()
                } else {
                    default.to_vec()
                }
            })
        };
        let profile = options.profile.as_deref().map(read_profile).transpose()?;
        Ok(Self {
            clients: list(&options.clients, &[1, 64], &[1, 64], &[1, 4, 16, 64, 256]),
            sizes: list(
                &options.sizes,
                &[128],
                &[128, 4096],
                &[64, 128, 512, 1024, 4096, 16384, 65536],
            ),
            modes: options.modes.clone(),
            suites: match &options.suites {
                Some(suites) => suites.iter().copied().map(Some).collect(),
                None if options.full => Suite::ALL
                    .into_iter()
                    .filter(|suite| suite.check_available().is_ok())
                    .map(Some)
                    .collect(),
                None => vec![None],
            },
            flushes: match &options.flush {
                Some(flush) => flush.iter().map(|flush| Some(flush.kind())).collect(),
                None if options.full => {
                    vec![Some(FlushKind::Fdatasync), Some(FlushKind::Dsync)]
                }
                None => vec![None],
            },
            at: options.at.clone().unwrap_or_else(|| {
                if options.quick {
                    vec![At::Shard]
                } else {
                    vec![At::Shard, At::Handle]
                }
            }),
            profile,
            beside: options.beside.clone(),
            instructions: options.instructions,
            repeat: options.common.repeat,
            time,
        })
    }

    /// What the log of each line is tuned by: every mode under every suite and flush.
    fn variants(&self) -> Vec<(ModeName, Profile)> {
        let mut variants = Vec::new();
        for &mode in &self.modes {
            for &suite in &self.suites {
                for &flush in &self.flushes {
                    let mut profile = self.profile_for(mode);
                    profile.sealing = suite.unwrap_or(profile.sealing);
                    profile.flush = flush.unwrap_or(profile.flush);
                    variants.push((mode, profile));
                }
            }
        }
        variants
    }

    fn profile_for(&self, mode: ModeName) -> Profile {
        let mut profile = self.profile.clone().unwrap_or_else(|| default_of(mode));
        profile.mode = mode.mode();
        profile
    }

    /// The profile that each round is done under too.
    fn beside(&self, mode: ModeName) -> Option<Profile> {
        let name = self.beside.as_deref()?;
        let mut profile = Profile::shipped(name).unwrap_or_else(|| default_of(mode));
        profile.mode = mode.mode();
        Some(profile.with_segment_bytes(SEGMENT_BYTES))
    }

    fn cases(&self) -> usize {
        self.variants().len() * self.sizes.len() * self.clients.len()
    }
}

fn read_profile(path: &std::path::Path) -> Result<Profile, BenchError> {
    let text = std::fs::read_to_string(path).map_err(|source| BenchError::Output {
        path: path.to_owned(),
        source,
    })?;
    Ok(Profile::parse(&text, &path.display().to_string())?)
}

/// Measures every combination.
///
/// # Errors
/// When the place is no good, the device or the log fails, or a signal came before anything was measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let setup = Setup::begin(&options.common)?;
    let plan = Plan::of(options, setup.time)?;
    let mut device = Device::open(setup.path(), BLOCKS_MAX, &setup.interrupt)?;
    let mut report = Report::new(Machine::of(&setup.place, device.writer_mode()));
    let mut progress = Progress::new(plan.cases());
    for variant in plan.variants() {
        let bench = (&mut device, &mut report, &mut progress);
        let measured = if options.rollover {
            rollover::measure_variant(&setup, &plan, variant, options.reclaim, bench)
        } else {
            measure_variant(&setup, &plan, variant, bench)
        };
        match measured {
            Err(BenchError::Interrupted) => return report.interrupted(),
            other => other?,
        }
    }
    Ok(report)
}

/// What every variant is measured with.
type Bench<'a, 'b> = (&'a mut Device<'b>, &'a mut Report, &'a mut Progress);

fn measure_variant(
    setup: &Setup,
    plan: &Plan,
    (mode, profile): (ModeName, Profile),
    (device, report, progress): Bench<'_, '_>,
) -> Result<(), BenchError> {
    let profile = profile.with_segment_bytes(SEGMENT_BYTES);
    let suite = profile.sealing.name();
    let flush = flush_name(profile.flush);
    let directory = setup
        .path()
        .join(format!("{}-{suite}-{flush}", mode.name()));
    let mut shards = vec![ShardBench::open(
        &directory,
        profile.clone(),
        &setup.interrupt,
    )?];
    if let Some(beside) = plan.beside(mode) {
        let directory = directory.join("beside");
        shards.push(ShardBench::open(&directory, beside, &setup.interrupt)?);
    }
    for &payload_bytes in &plan.sizes {
        let engine = if plan.at.contains(&At::Handle) {
            let engine = OneNode::start(&directory.join("engine"), profile.clone())?;
            std::thread::sleep(ENGINE_SETTLES);
            Some(engine)
        } else {
            None
        };
        for &clients in &plan.clients {
            progress.step(&format!(
                "{}, {suite}, {flush}, {payload_bytes} bytes, {clients} clients",
                mode.name()
            ));
            let case = Case {
                mode,
                suite: profile.sealing,
                flush: profile.flush,
                clients,
                payload_bytes,
            };
            case.measure(setup, plan, (&mut shards, engine.as_ref(), device), report)?;
        }
        if let Some(engine) = engine {
            engine.stop()?;
            let path = directory.join("engine");
            std::fs::remove_dir_all(&path).map_err(|source| BenchError::Output { path, source })?;
        }
    }
    Ok(())
}

/// The shard that is measured, the one beside it if there is one, and whether that goes first.
type InTurns<'a, 'b> = (&'a mut [ShardBench<'b>], bool);

/// The same work in each shard: what came of it in the first, and in the other.
fn take_turns(
    (shards, beside_first): InTurns<'_, '_>,
    work: ShardWork,
    time: Duration,
) -> Result<((Measured, Counts), Option<Measured>), BenchError> {
    let (shard, beside) = shards.split_first_mut().expect("one is measured");
    let mut beside = beside.first_mut();
    let mut peer = None;
    if let Some(beside) = beside.as_mut().filter(|_| beside_first) {
        peer = Some(beside.measure(work, time)?.0);
    }
    let measured = shard.measure(work, time)?;
    if let Some(beside) = beside.filter(|_| !beside_first) {
        peer = Some(beside.measure(work, time)?.0);
    }
    Ok((measured, peer))
}

/// One combination.
#[derive(Debug, Clone, Copy)]
struct Case {
    mode: ModeName,
    suite: Suite,
    flush: FlushKind,
    clients: u32,
    payload_bytes: u32,
}

impl Case {
    /// Its rounds, each of everything, in turns.
    fn measure(
        self,
        setup: &Setup,
        plan: &Plan,
        (shards, engine, device): (&mut [ShardBench<'_>], Option<&OneNode>, &mut Device<'_>),
        report: &mut Report,
    ) -> Result<(), BenchError> {
        let work = ShardWork {
            mode: self.mode.mode(),
            clients: self.clients,
            payload_bytes: self.payload_bytes,
        };
        let mut in_shard = Vec::new();
        let mut at_handle = Vec::new();
        let mut outcome = Ok(());
        let mut beside_first = false;
        for _ in 0..plan.repeat {
            let in_turns = (&mut *shards, beside_first);
            let round = self.round(setup, plan, work, (in_turns, engine, &mut *device));
            // Whoever went second goes first in the next round.
            beside_first = !beside_first;
            match round {
                Ok((shard, handle)) => {
                    in_shard.push(shard);
                    at_handle.extend(handle);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if let (true, Some(round)) = (plan.instructions, in_shard.last_mut()) {
            let options = instructions::Options {
                mode: self.mode,
                suite: self.suite,
                size: self.payload_bytes,
                per_chain: round.operations_per_chain.round().max(1.0) as u32,
            };
            round.instructions = Some(instructions::per_append(options, setup.path())?);
        }
        if plan.at.contains(&At::Shard) {
            report.add(self.line(MeasuredAt::Shard), in_shard);
        }
        report.add(self.line(MeasuredAt::Handle), at_handle);
        outcome
    }

    fn round(
        self,
        setup: &Setup,
        plan: &Plan,
        work: ShardWork,
        (in_turns, engine, device): (InTurns<'_, '_>, Option<&OneNode>, &mut Device<'_>),
    ) -> Result<(Round, Option<Round>), BenchError> {
        let ((measured, counts), peer) = take_turns(in_turns, work, plan.time)?;
        let beside = device_work(counts, self.flush);
        let device = device.measure(beside, plan.time)?;
        let operations = measured.operations();
        let in_shard = Round {
            chain_blocks: counts.blocks_per_chain(),
            operations_per_chain: operations as f64 / counts.chains.max(1) as f64,
            allocations: Some(counts.allocations),
            enters: Some(counts.enters),
            device: Some((beside, device.clone())),
            suite_mib_per_s: sealing::mib_per_s(self.suite),
            peer,
            ..Round::new(measured)
        };
        let Some(engine) = engine else {
            return Ok((in_shard, None));
        };
        let span = Span {
            warm_up: WARM_UP.min(plan.time),
            time: plan.time,
        };
        let (measured, allocations) =
            engine.measure(self.clients, self.payload_bytes, span, &setup.interrupt)?;
        let at_handle = Round {
            device: Some((beside, device)),
            allocations: Some(allocations),
            wake: Some(wake::measure()),
            in_shard_p50_us: Some(in_shard.measured.quantile_us(0.5)),
            ..Round::new(measured)
        };
        Ok((in_shard, Some(at_handle)))
    }

    fn line(self, measured_at: MeasuredAt) -> Line {
        Line {
            benchmark: "log",
            mode: self.mode.name(),
            suite: self.suite.name(),
            flush: flush_name(self.flush),
            workload: Workload {
                depth: self.clients,
                payload_bytes: self.payload_bytes,
            },
            measured_at,
        }
    }
}

/// What the device is asked for beside a round of the log: full chains of the size and depth that the log used.
pub fn device_work(counts: Counts, flush: FlushKind) -> RigWork {
    let whole = |value: f64, max: u32| (value.round() as u32).clamp(1, max);
    RigWork {
        steps: ChainSteps::Full,
        depth: whole(counts.depth(), DEPTH_MAX),
        blocks: whole(counts.blocks_per_chain(), BLOCKS_MAX),
        flush,
    }
}
