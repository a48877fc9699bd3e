//! Random lives of a shard's log. A failure names its seed and the command that replays it.

use std::collections::BTreeMap;

use clustor_sim::log_life::life::live;

/// Lives that are lived; `CLUSTOR_SIM_SEEDS` asks for more.
const LIVES: u64 = 1_000;

/// Lives that found something once: a scrub that took a file half removed for damage; a copy whose end was cut off while it
/// was on its way, and whose rest was then found nowhere.
const KEPT: [u64; 4] = [
    1_795_757_241_175_676,
    1_795_758_433_332_583,
    1_795_772_886_709_899,
    1_795_804_530_249_480,
];

fn lives() -> u64 {
    std::env::var("CLUSTOR_SIM_SEEDS")
        .ok()
        .map_or(LIVES, |text| text.parse().expect("a number of seeds"))
}

#[test]
fn nothing_spoken_for_is_lost_in_random_lives() {
    let (mut opened, mut damaged, mut quarantined, mut failed, mut missing) = (0, 0, 0, 0, 0);
    let (mut recycled, mut kept_for_later, mut heard) = (0, 0, 0);
    let (mut rolled_back, mut stuck, mut no_room) = (0, 0, 0);
    let mut damages = BTreeMap::new();
    for seed in 1..=lives() {
        let report = live(seed, false).unwrap_or_else(|failure| panic!("{failure}"));
        opened += report.opened;
        damaged += u64::from(report.damaged > 0);
        quarantined += u64::from(report.quarantined);
        failed += report.flushes_failed;
        missing += report.missing;
        recycled += report.recycled;
        heard += report.heard;
        kept_for_later += report.kept_for_later;
        rolled_back += u64::from(report.rolled_back);
        stuck += u64::from(report.stuck > 0);
        no_room += u64::from(report.no_room > 0);
        for (kind, count) in report.damages {
            *damages.entry(kind).or_insert(0) += count;
        }
    }
    // The lives must be worth living: they come to work, meet every kind of trouble, and rarely end silent.
    assert!(opened > 2 * lives());
    assert!(damaged > lives() / 5);
    assert!(failed > lives() / 20);
    assert!(missing > 0);
    assert!(recycled > lives() / 2, "{recycled}");
    assert!(kept_for_later > lives() / 10, "{kept_for_later}");
    assert!(heard > lives(), "{heard}");
    assert!(rolled_back > lives() / 50, "{rolled_back}");
    assert!(stuck > lives() / 25, "{stuck}");
    assert!(no_room > lives() / 10, "{no_room}");
    assert_eq!(damages.len(), 12);
    for (kind, count) in damages {
        assert!(count > lives() / 100, "{kind}: {count}");
    }
    assert!(quarantined < damaged / 10, "{quarantined} of {damaged}");
}

#[test]
fn nothing_spoken_for_is_lost_in_the_lives_that_found_something() {
    for seed in KEPT {
        live(seed, false).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in [3, 5] {
        let once = live(seed, true).expect("holds");
        assert_eq!(once, live(seed, true).expect("holds"));
        assert!(!once.trace.is_empty());
    }
}
