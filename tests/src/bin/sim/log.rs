//! `sim log`: lives of one shard's log.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use clustor_sim::log_life::crash_points::{CrashPoints, Depth, Workload, every_crash_point};
use clustor_sim::log_life::life;
use clustor_sim::log_life::settle::Limits;

use crate::many::{self, Enough, Held, OF_MANY, at_least_one};

/// Which lives.
#[derive(Args)]
pub struct Seeds {
    /// Run this seed alone and print what happened
    #[arg(long, conflicts_with_all = ["seeds", "from", "fresh", "crash_points"], conflicts_with_all = OF_MANY)]
    seed: Option<u64>,
    /// Run this many seeds
    #[arg(long, value_parser = at_least_one())]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Start from a seed drawn from the clock instead
    #[arg(long, conflicts_with = "from")]
    fresh: bool,
    #[command(flatten)]
    enough: Enough,
    /// Instead of lives, go through the crash points of a workload, under as many orders of its steps as
    /// `--seeds` says (1 unless given)
    #[arg(long, conflicts_with = "fresh", conflicts_with_all = OF_MANY)]
    crash_points: bool,
    /// A smaller workload, of which so little is open at any moment that every subset of it is gone through; fails
    /// where that is more than `--all-max`
    #[arg(long, requires = "crash_points")]
    small: bool,
    /// The smallest workload. Every end of it is gone through, and of each recovery that follows every end again: after
    /// every micro-step, by kill and by power loss, every block there, gone or torn; fails where that is more than
    /// `--all-max`
    #[arg(long, requires = "crash_points", conflicts_with = "small")]
    tiny: bool,
    /// Chains in flight at most, with `--small` (1 to 8): 2 leave 256 times as much, and take a quarter of an hour
    #[arg(long, default_value_t = 1, requires = "small", value_parser = in_flight)]
    in_flight: usize,
    /// At a crash point: go through all that may be left if that is at most this many things (256 unless given; with
    /// `--small` and `--tiny` 1,048,576)
    #[arg(long, requires = "crash_points")]
    all_max: Option<u64>,
    /// Ends in a row during the recovery that follows
    #[arg(long, default_value_t = 1, requires = "crash_points")]
    again: u32,
}

impl Seeds {
    fn all_max(&self) -> u64 {
        self.all_max.unwrap_or(if self.small || self.tiny {
            1 << 20
        } else {
            256
        })
    }

    fn depth(&self) -> Depth {
        let all = self.all_max();
        if self.tiny {
            // Few subsets of sectors are gone through as such.
            let blocks = Limits {
                sectors_max: 4,
                blocks_max: all,
                sample: 16,
            };
            return Depth {
                workload: Workload::Tiny,
                first: blocks,
                later: blocks,
                again: self.again,
                again_every: 1,
            };
        }
        Depth {
            workload: if self.small {
                Workload::Small {
                    in_flight: self.in_flight,
                }
            } else {
                Workload::Wide
            },
            first: Limits {
                sectors_max: all,
                blocks_max: all,
                sample: 16,
            },
            later: Limits {
                sectors_max: 8,
                blocks_max: 8,
                sample: 2,
            },
            again: self.again,
            again_every: 3,
        }
    }
}

fn in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(chains @ 1..=8) => Ok(chains),
        _ => Err("is outside 1 to 8".to_owned()),
    }
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
            ("heard", report.heard),
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
    let depth = seeds.depth();
    let mut totals = CrashPoints::default();
    for schedule in seeds.from..seeds.from.saturating_add(seeds.seeds.unwrap_or(1)) {
        match every_crash_point(schedule, depth) {
            Ok(seen) => {
                totals.points += seen.points;
                totals.whole += seen.whole;
                totals.by_block += seen.by_block;
                totals.sampled += seen.sampled;
                totals.later += seen.later;
                totals.later_sampled += seen.later_sampled;
                totals.most = totals.most.max(seen.most);
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
        "points={} ends={} every_sector={} every_block={} sampled={} later={} later_sampled={} most={} crashes={} known={} recoveries={} recycled={}",
        totals.points,
        totals.ends(),
        totals.whole,
        totals.by_block,
        totals.sampled,
        totals.later,
        totals.later_sampled,
        totals.most,
        totals.crashes,
        totals.known,
        totals.recoveries,
        totals.recycled
    );
    println!(
        "of {} ends of the workload, by kill and by power loss, {} were gone through whole (every subset of sectors, every state of \
         names; the most that one may leave is {}), {} by blocks, {} by a sample{}",
        totals.ends(),
        totals.whole,
        totals.most,
        totals.by_block,
        totals.sampled,
        match (seeds.again, totals.later_sampled) {
            (0, _) => String::new(),
            (_, 0) => format!(
                "; of all {} ends during the recoveries that follow, every combination of blocks there, gone and torn",
                totals.later
            ),
            _ => "; ends during the recovery that follows by a sample".to_owned(),
        }
    );
    if seeds.small && totals.whole < totals.ends() {
        eprintln!(
            "not all of the small workload was gone through whole: raise --all-max to {}",
            totals.most
        );
        return ExitCode::FAILURE;
    }
    if seeds.tiny && totals.sampled + totals.later_sampled > 0 {
        eprintln!("not all of the tiny workload was gone through: raise --all-max");
        return ExitCode::FAILURE;
    }
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
