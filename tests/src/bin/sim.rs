//! `sim`: runs simulations from seeds, and replays one.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Parser, Subcommand};
use clustor_sim::log_life::life::{self, LifeReport};

#[derive(Parser)]
#[command(
    version,
    about = "Runs Clustor's simulations from seeds, and replays one"
)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Lives of one shard's log: crashes, power losses, failed flushes, damage.
    ///
    /// Examples:
    ///   sim log --seed 42            replay one life and print what happened
    ///   sim log --seeds 100000       live that many lives, from seed 1 on
    ///   sim log --seconds 60         as many as go into a minute
    ///   sim log --fresh --seconds 60 the same, from a seed that nobody has lived yet
    #[command(verbatim_doc_comment)]
    Log(Seeds),
}

#[derive(Args)]
struct Seeds {
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

fn main() -> ExitCode {
    // A life that panics is reported with its seed; the hook would only print it twice.
    std::panic::set_hook(Box::new(|_| {}));
    match Cli::parse().what {
        What::Log(seeds) => log(&seeds),
    }
}

fn log(seeds: &Seeds) -> ExitCode {
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
