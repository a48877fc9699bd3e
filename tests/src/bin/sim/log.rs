//! `sim log`: lives of one shard's log.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use clustor_sim::log_life::crash_points::{CrashPoints, Depth, every_crash_point};
use clustor_sim::log_life::life;
use clustor_sim::log_life::settle::Limits;

use crate::many::{self, Enough, Held};

/// Which lives.
#[derive(Args)]
pub struct Seeds {
    /// Run this seed alone and print what happened
    #[arg(long, conflicts_with_all = ["seeds", "seconds", "operations"])]
    seed: Option<u64>,
    /// Run this many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Start from a seed drawn from the clock instead
    #[arg(long, conflicts_with = "from")]
    fresh: bool,
    #[command(flatten)]
    enough: Enough,
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
    let count = match seeds.seeds {
        Some(count) => count,
        None if seeds.enough.is_bounded() => u64::MAX,
        None => 10_000,
    };
    let held = many::run(&seeds.enough, from, count, |seed| {
        let report = life::live(seed, false).map_err(|failure| failure.to_string())?;
        let mut totals = vec![
            ("crashes", report.crashes),
            ("boots", report.boots),
            ("opened", report.opened),
            ("decisions", report.decisions),
            ("disk_steps", report.steps),
            ("flushes_failed", report.flushes_failed),
            ("stuck", report.stuck),
            ("no_room", report.no_room),
            ("rolled_back", u64::from(report.rolled_back)),
            ("damaged", u64::from(report.damaged)),
            ("missing", report.missing),
            ("recycled", report.recycled),
            ("kept_for_later", report.kept_for_later),
            ("quarantined", u64::from(report.quarantined)),
        ];
        totals.extend(report.damages);
        Ok(Held {
            operations: report.appends,
            virtual_us: 0,
            totals,
            marks: None,
        })
    });
    ExitCode::from(u8::from(!held))
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
                totals.recycled += seen.recycled;
            }
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "points={} ends: every_sector={} every_block={} sampled={} crashes={} known={} recoveries={} recycled={}",
        totals.points,
        totals.whole,
        totals.by_block,
        totals.sampled,
        totals.crashes,
        totals.known,
        totals.recoveries,
        totals.recycled
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
