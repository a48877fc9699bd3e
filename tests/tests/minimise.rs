//! Runs are made simpler, and those that fail are minimised.

use clustor_sim::cluster::minimise::minimise;
use clustor_sim::cluster::run::{Kind, STEPS_MAX, draw, run_simpler};
use clustor_sim::cluster::simpler::Simpler;
use clustor_sim::cluster::swarm::Swarm;
use clustor_sim::cluster::trace::Trace;

/// A seed that draws many kinds of fault and several partitions.
fn rich() -> (u64, Swarm) {
    let drawn = (1..).map(|seed| (seed, draw(Kind::Busy, seed, &[]).0));
    let mut rich = drawn.filter(|(_, swarm)| {
        let faults = &swarm.faults;
        let kinds = [faults.kill, faults.power, faults.cut, faults.stall];
        kinds.iter().all(Option::is_some)
            && swarm.layout.partitions.len() > 2
            && swarm.load.clients > 8
    });
    rich.next().expect("one of all seeds")
}

#[test]
fn what_a_failure_needs_is_left_and_nothing_else() {
    let (seed, swarm) = rich();
    let mut tried = 0;
    let fails = |ways: &[Simpler]| {
        tried += 1;
        let (now, _) = draw(Kind::Busy, seed, ways);
        let needed = now.faults.kill.is_some()
            && now.layout.partitions.len() > 1
            && now.load.clients > 2
            && now.network.delay_us == swarm.network.delay_us;
        // By these draws only: another run of the same kind holds.
        let drawn = ways
            .iter()
            .any(|way| matches!(way, Simpler::Draws(which) if which % 3 == 2));
        (needed && drawn).then_some(100 - ways.len() as u64)
    };
    let mut last = 0;
    let least = minimise(&swarm, 1000, fails, |found| last = found.step);
    assert_eq!(least.step, last);
    assert!(tried > 40, "{tried}");
    let (left, _) = draw(Kind::Busy, seed, &least.simpler);
    assert_eq!(left.layout.partitions.len(), 2);
    assert!((3..6).contains(&left.load.clients), "{}", left.load.clients);
    assert!(left.faults.kill.is_some());
    let faults = &left.faults;
    let others = [
        faults.power,
        faults.blackout,
        faults.stop,
        faults.cut,
        faults.reset,
        faults.stall,
        faults.full,
        faults.sabotage,
        faults.mode,
        faults.disk,
        faults.retune,
        faults.members,
        faults.moves,
        faults.clock,
    ];
    assert!(others.iter().all(Option::is_none), "{faults:?}");
    assert_eq!(left.network.lost, 0);
    assert_eq!(left.network.delay_us, swarm.network.delay_us);
}

#[test]
fn each_way_has_a_name_that_gives_it_back() {
    let (_, swarm) = rich();
    let all = Simpler::all(&swarm);
    assert!(all.len() > 40, "{}", all.len());
    for way in all.into_iter().chain([Simpler::Draws(7)]) {
        assert_eq!(way.to_string().parse(), Ok(way));
    }
    let error = "kil".parse::<Simpler>().expect_err("no such way");
    assert!(error.contains("`kil` is none of kill, power"), "{error}");
}

#[test]
fn simpler_runs_hold_too_and_are_the_same_each_time() {
    let mut simpler_runs = 0;
    for seed in 1..=60 {
        let (swarm, _) = draw(Kind::Busy, seed, &[]);
        let all = Simpler::all(&swarm);
        let way = all[seed as usize % all.len()];
        let ways = [way, Simpler::HalfTheTime, Simpler::Draws(seed % 2)];
        let run = || {
            run_simpler(Kind::Busy, seed, &ways, STEPS_MAX, Trace::Off)
                .unwrap_or_else(|failure| panic!("{failure}"))
        };
        let report = run();
        assert_eq!(report, run());
        let (now, _) = draw(Kind::Busy, seed, &ways[..1]);
        simpler_runs += u64::from(format!("{now:?}") != format!("{swarm:?}"));
    }
    assert!(simpler_runs > 15, "{simpler_runs}");
}
