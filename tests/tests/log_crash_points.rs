//! The log ended after every micro-step of a small workload, with everything that may be left there, and again
//! during the recovery that follows.

use clustor_sim::log_life::crash_points::{Depth, every_crash_point};
use clustor_sim::log_life::settle::Limits;

/// Orders of micro-steps that are gone through; `CLUSTOR_SIM_SCHEDULES` asks for more.
const SCHEDULES: u64 = 2;
/// A share of what `sim log --crash-points` goes through.
const DEPTH: Depth = Depth {
    first: Limits {
        all_max: 16,
        sample: 3,
    },
    later: Limits {
        all_max: 2,
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
