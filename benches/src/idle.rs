//! `clustor-bench idle`: what partitions cost in which nothing happens.
//!
//! Two clusters of three nodes in this process, over loopback TLS: one with a single partition, one with many, of which
//! one is asked. Nothing is compared with numbers from elsewhere: what many cost is the difference between the two, and
//! the latency of the one among many is measured in turns with that of the one alone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use clustor_engine::profile::Profile;
use serde::Serialize;

use crate::BenchError;
use crate::allocations;
use crate::cluster::{Cluster, NODES};
use crate::device::Device;
use crate::interrupt::Interrupt;
use crate::place::Place;
use crate::report::{Machine, save_json};

/// How long all partitions may take to have a leader, and to go quiet, beside some time for each.
const WAIT: Duration = Duration::from_secs(30);
/// A partition goes quiet after this long, in milliseconds.
const QUIET_AFTER_MS: u64 = 2_000;
/// Clock ticks in a second, as /proc counts processor time (USER_HZ; 100 on every Linux of today).
const TICKS: f64 = 100.0;

/// Measures what idle partitions cost: processor, memory, and the latency of one that is not idle among them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench idle
  clustor-bench idle --partitions 1000 --seconds 2 --json idle.json

Needs about 1.5 GiB in DIR, on a file system with direct I/O (not tmpfs).
Exit codes: 0 measured, 1 refused or failed, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    /// Where to measure: a directory on the device in question.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Partitions, each on all three nodes (2 to 60000).
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(2..=60_000))]
    partitions: u32,
    /// How long each measurement takes.
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = crate::seconds)]
    seconds: f64,
    /// Rounds of latencies, alone and among many in turns.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = crate::count)]
    repeat: usize,
    /// Also write the results to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    machine: Machine,
    /// On each of the nodes.
    partitions: u32,
    /// From the start of the first node on, for the first time ever.
    leaders_after_s: f64,
    /// Of a node with one partition, in percent of a core.
    core_percent_of_one: f64,
    /// Of a node with all of them.
    core_percent: f64,
    /// Of the heap, for each replica beyond the first, with its handle and its part of the placement.
    bytes_per_replica: f64,
    p50_us_alone: f64,
    p50_us_among: f64,
    /// The median of the rounds' own.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    rounds: usize,
}

impl Found {
    fn print(&self) {
        let row = |what: &str, value: String| println!("{what:<44} {value:>12}");
        row(
            "partitions, on each of three nodes",
            self.partitions.to_string(),
        );
        row(
            "all have leaders after, s",
            format!("{:.1}", self.leaders_after_s),
        );
        row(
            "a node's share of a core, idle, %",
            format!("{:.2}", self.core_percent),
        );
        row(
            "the same with one partition, %",
            format!("{:.2}", self.core_percent_of_one),
        );
        row(
            "bytes of the heap per idle replica",
            format!("{:.0}", self.bytes_per_replica),
        );
        row(
            "an active one alone, p50 us",
            format!("{:.0}", self.p50_us_alone),
        );
        row(
            "an active one among them, p50 us",
            format!("{:.0}", self.p50_us_among),
        );
        row("ratio", format!("{:.3}", self.ratio));
        row(
            "least and greatest ratio of a round",
            format!("{:.3} {:.3}", self.ratio_min, self.ratio_max),
        );
    }
}

/// Processor time of this process so far.
fn processor() -> Result<Duration, BenchError> {
    let path = "/proc/self/stat";
    let text = std::fs::read_to_string(path).map_err(|source| BenchError::Output {
        path: path.into(),
        source,
    })?;
    // Behind the name, which may hold spaces: user and system time are the 12th and 13th.
    let behind = text.rsplit(')').next().unwrap_or("");
    let ticks = behind.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks / TICKS))
}

/// The part of a core that this process takes over `time`.
fn share(time: Duration, interrupt: &Interrupt) -> Result<f64, BenchError> {
    let (begun, before) = (Instant::now(), processor()?);
    while begun.elapsed() < time {
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
    let spent = processor()?.saturating_sub(before);
    Ok(spent.as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// Waits until the process takes hardly any time, or as long as may be.
fn wait_for_quiet(partitions: u32, interrupt: &Interrupt) -> Result<(), BenchError> {
    let until = Instant::now() + WAIT + Duration::from_millis(10 * u64::from(partitions));
    let mut before = f64::INFINITY;
    loop {
        let now = share(Duration::from_secs(3), interrupt)?;
        if now > before * 0.8 && now < 0.5 || Instant::now() > until {
            return Ok(());
        }
        before = now;
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Starts both clusters, measures, and prints.
///
/// # Errors
/// When the place is no good, a node fails, or a signal came.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let interrupt = Interrupt::listen()?;
    let place = Place::new(&options.dir)?;
    let time = Duration::from_secs_f64(options.seconds);
    let mut profile = Profile::latency();
    profile.quiet_after_ms = QUIET_AFTER_MS;
    let nodes = NODES as f64;
    let many = options.partitions;
    let patience = WAIT + Duration::from_millis(10 * u64::from(many));

    let writer_mode = Device::open(place.path(), 1, &interrupt)?.writer_mode();
    let bytes_of_nothing = allocations::live_bytes();
    let alone = Cluster::start(&place.path().join("one"), 1, &profile, patience, &interrupt)?;
    wait_for_quiet(1, &interrupt)?;
    let share_of_one = share(time, &interrupt)?;
    let bytes_with_one = allocations::live_bytes();
    let bytes_of_one = bytes_with_one.saturating_sub(bytes_of_nothing);
    let begun = Instant::now();
    let among = Cluster::start(
        &place.path().join("many"),
        many,
        &profile,
        patience,
        &interrupt,
    )?;
    let leaders_after_s = begun.elapsed().as_secs_f64();
    wait_for_quiet(many, &interrupt)?;
    let share_of_both = share(time, &interrupt)?;
    let bytes_of_many = allocations::live_bytes().saturating_sub(bytes_with_one);
    let (mut of_one, mut of_many) = (Vec::new(), Vec::new());
    for round in 0..options.repeat {
        // Who is measured first in a round has no advantage over all of them.
        for is_one in [round % 2 == 0, round % 2 != 0] {
            let (cluster, times) = if is_one {
                (&alone, &mut of_one)
            } else {
                (&among, &mut of_many)
            };
            times.push(cluster.lone_latency_us(time / 4, &interrupt)?);
        }
    }
    let mut ratios: Vec<f64> = of_one.iter().zip(&of_many).map(|(a, b)| b / a).collect();
    let ratio = median(&mut ratios);
    let found = Found {
        machine: Machine::of(&place, writer_mode),
        partitions: many,
        leaders_after_s,
        core_percent_of_one: 100.0 * share_of_one / nodes,
        core_percent: 100.0 * (share_of_both - share_of_one).max(0.0) / nodes,
        bytes_per_replica: bytes_of_many.saturating_sub(bytes_of_one) as f64
            / f64::from(many - 1)
            / nodes,
        p50_us_alone: median(&mut of_one),
        p50_us_among: median(&mut of_many),
        ratio,
        ratio_min: ratios[0],
        ratio_max: ratios[ratios.len() - 1],
        rounds: ratios.len(),
    };
    found.print();
    if let Some(path) = &options.json {
        save_json(path, &found)?;
    }
    among.stop()?;
    alone.stop()
}
