//! `sim log`: lives of one shard's log.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use clustor_sim::log_life::crash_points::{CrashPoints, Depth, every_crash_point};
use clustor_sim::log_life::life::{self, LifeReport};
use clustor_sim::log_life::settle::Limits;

/// Which lives.
#[derive(Args)]
pub struct Seeds {
    /// Run this seed alone and print what happened
    #[arg(long, conflicts_with_all = ["seeds", "seconds"])]
    seed: Option<u64>,
    /// Run this many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// Stop after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Start from a seed drawn from the clock instead
    #[arg(long, conflicts_with = "from")]
    fresh: bool,
    /// Stop at this many failures
    #[arg(long, default_value_t = 1)]
    failures_max: u64,
    /// Instead of lives, go through the crash points of a small workload, under as many orders of its steps as
    /// `--seeds` says (1 unless given)
    #[arg(long)]
    crash_points: bool,
    /// At a crash point: go through all that may be left if that is at most this many things
    #[arg(long, default_value_t = 256, requires = "crash_points")]
    all_max: u64,
    /// Ends in a row during the recovery that follows
    #[arg(long, default_value_t = 1, requires = "crash_points")]
    again: u32,
}

/// Lives them.
pub fn run(seeds: &Seeds) -> ExitCode {
    if let Some(seed) = seeds.seed {
        return replay(seed);
    }
    if seeds.crash_points {
        return crash_points(seeds);
    }
    let from = if seeds.fresh {
        drawn_from_the_clock()
    } else {
        seeds.from
    };
    let count = match (seeds.seeds, seeds.seconds) {
        (Some(count), _) => count,
        (None, Some(_)) => u64::MAX,
        (None, None) => 10_000,
    };
    println!("seeds from {from}");
    let deadline = seeds
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut totals = LifeReport::default();
    let (mut lives, mut quarantined, mut failed) = (0u64, 0u64, 0u64);
    for seed in from..from.saturating_add(count) {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        lives += 1;
        match life::live(seed, false) {
            Ok(report) => {
                totals.boots += report.boots;
                totals.opened += report.opened;
                totals.crashes += report.crashes;
                totals.stuck += report.stuck;
                totals.damaged += report.damaged;
                totals.decisions += report.decisions;
                totals.steps += report.steps;
                totals.flushes_failed += report.flushes_failed;
                totals.missing += report.missing;
                quarantined += u64::from(report.quarantined);
            }
            Err(failure) => {
                eprintln!("{failure}");
                failed += 1;
                if failed >= seeds.failures_max {
                    break;
                }
            }
        }
    }
    println!(
        "lives={lives} failed={failed} crashes={} boots={} opened={} decisions={} disk_steps={} \
         flushes_failed={} stuck={} damaged={} missing={} quarantined={quarantined}",
        totals.crashes,
        totals.boots,
        totals.opened,
        totals.decisions,
        totals.steps,
        totals.flushes_failed,
        totals.stuck,
        totals.damaged,
        totals.missing
    );
    ExitCode::from(u8::from(failed > 0))
}

fn drawn_from_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| since.as_micros() as u64)
}

fn crash_points(seeds: &Seeds) -> ExitCode {
    let depth = Depth {
        first: Limits {
            all_max: seeds.all_max,
            sample: 16,
        },
        later: Limits {
            all_max: 8,
            sample: 2,
        },
        again: seeds.again,
        again_every: 3,
    };
    let mut totals = CrashPoints::default();
    for schedule in seeds.from..seeds.from.saturating_add(seeds.seeds.unwrap_or(1)) {
        match every_crash_point(schedule, depth) {
            Ok(seen) => {
                totals.points += seen.points;
                totals.whole += seen.whole;
                totals.by_block += seen.by_block;
                totals.sampled += seen.sampled;
                totals.crashes += seen.crashes;
                totals.known += seen.known;
                totals.recoveries += seen.recoveries;
            }
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "points={} ends: every_sector={} every_block={} sampled={} crashes={} known={} recoveries={}",
        totals.points,
        totals.whole,
        totals.by_block,
        totals.sampled,
        totals.crashes,
        totals.known,
        totals.recoveries
    );
    ExitCode::SUCCESS
}

fn replay(seed: u64) -> ExitCode {
    match life::live(seed, true) {
        Ok(report) => {
            report.trace.iter().for_each(|line| println!("{line}"));
            println!(
                "held: boots={} quarantined={} missing={}",
                report.boots, report.quarantined, report.missing
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            failure.trace.iter().for_each(|line| println!("{line}"));
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
