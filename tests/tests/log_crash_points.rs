//! The log ended after every micro-step of a small workload, and again during the recovery that follows.

use clustor_sim::log_life::crash_points::every_crash_point;

/// Orders of micro-steps that are gone through; `CLUSTOR_SIM_SCHEDULES` asks for more.
const SCHEDULES: u64 = 1;

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
        let seen = every_crash_point(schedule, 5).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(seen.points > 100, "{seen:?}");
        assert!(seen.recoveries > 20 * seen.points, "{seen:?}");
    }
}
