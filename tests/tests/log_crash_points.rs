//! The log ended after every micro-step of a small workload, with everything that may be left there, and again
//! during the recovery that follows.

use clustor_sim::log_life::crash_points::{Depth, Workload, every_crash_point};
use clustor_sim::log_life::settle::Limits;

/// Orders of micro-steps that are gone through; `CLUSTOR_SIM_SCHEDULES` asks for more.
const SCHEDULES: u64 = 2;
/// A share of what `sim log --crash-points` goes through.
const DEPTH: Depth = Depth {
    workload: Workload::Wide,
    first: Limits {
        sectors_max: 16,
        blocks_max: 16,
        sample: 3,
    },
    later: Limits {
        sectors_max: 2,
        blocks_max: 2,
        sample: 1,
    },
    again: 1,
    again_every: 20,
};

fn schedules() -> u64 {
    std::env::var("CLUSTOR_SIM_SCHEDULES")
        .ok()
        .map_or(SCHEDULES, |text| {
            text.parse().expect("a number of schedules")
        })
}

#[test]
fn what_was_spoken_for_survives_an_end_after_any_micro_step() {
    for schedule in 1..=schedules() {
        let seen = every_crash_point(schedule, DEPTH).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(seen.points > 60, "{seen:?}");
        assert!(seen.recycled > 0, "{seen:?}");
        // In a chain that writes through, every moment has a write that is not done.
        assert!(seen.whole + seen.by_block > seen.points, "{seen:?}");
        assert!(seen.recoveries > 10 * seen.points, "{seen:?}");
    }
}

/// A share of what `sim log --crash-points --small` goes through, whose ends are all gone through whole with a greater limit.
#[test]
fn most_ends_of_a_small_workload_are_gone_through_sector_by_sector() {
    let depth = Depth {
        workload: Workload::Small { in_flight: 1 },
        first: Limits {
            sectors_max: 64,
            blocks_max: 1024,
            sample: 0,
        },
        again: 0,
        ..DEPTH
    };
    for schedule in 1..=2 {
        let seen = every_crash_point(schedule, depth).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(
            seen.ends(),
            2 * seen.points,
            "by kill and by power: {seen:?}"
        );
        assert_eq!(seen.sampled, 0, "{seen:?}");
        assert!(seen.whole > seen.by_block, "{seen:?}");
        assert!(seen.most <= 16_384, "few enough to go through: {seen:?}");
    }
}

/// A share of what `sim log --crash-points --tiny` goes through.
#[test]
fn an_end_during_the_recovery_after_any_end_loses_nothing() {
    let limits = Limits {
        sectors_max: 1,
        blocks_max: 4,
        sample: 0,
    };
    let depth = Depth {
        workload: Workload::Tiny,
        first: limits,
        later: limits,
        again: 1,
        again_every: 7,
    };
    let seen = every_crash_point(1, depth).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(seen.later > 2 * seen.ends(), "{seen:?}");
    assert!(seen.recoveries > seen.later, "{seen:?}");
}
