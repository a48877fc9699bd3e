//! `sim log`: lives of one shard's log.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use clustor_sim::log_life::life::{self, LifeReport};

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
}

/// Lives them.
pub fn run(seeds: &Seeds) -> ExitCode {
    if let Some(seed) = seeds.seed {
        return replay(seed);
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
        "lives={lives} failed={failed} boots={} opened={} decisions={} disk_steps={} \
         flushes_failed={} missing={} quarantined={quarantined}",
        totals.boots,
        totals.opened,
        totals.decisions,
        totals.steps,
        totals.flushes_failed,
        totals.missing
    );
    ExitCode::from(u8::from(failed > 0))
}

fn drawn_from_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| since.as_micros() as u64)
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
