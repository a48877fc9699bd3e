//! What a killed node costs its partitions, in virtual time, with the timers of the latency profile: how long they are without a
//! leader, and how many terms that takes.

use std::collections::BTreeMap;

use clustor_engine::outcome::Leadership;
use clustor_engine::profile::Profile;
use clustor_sim::cluster::layout::{Layout, small};
use clustor_sim::cluster::network::NetworkOptions;
use clustor_sim::cluster::world::World;
use clustor_sim::disk::{Crash, Fate};
use clustor_wire::ids::{NodeId, PartitionId};

const NODES: u64 = 3;
const PARTITIONS: u128 = 16;
/// Nodes killed in each of the two ways partitions may stand.
const FAILOVERS: usize = 30;
/// A partition is without a leader that serves for less than this, in the median.
const MEDIAN_US_MAX: u64 = 600_000;
/// And for no longer than this ever: three elections that fail one after the other are a storm.
const EVER_US_MAX: u64 = 3_000_000;
/// Terms that a partition goes through on the way to its next leader, in the median and ever.
const TERMS_MEDIAN_MAX: u64 = 3;
const TERMS_EVER_MAX: u64 = 6;
/// Longer than anything here takes.
const PATIENCE_US: u64 = 20_000_000;
/// Between two failovers: long enough for partitions to go quiet where they may.
const PAUSE_US: u64 = 4_000_000;

/// Who leads each partition and serves, and in which term.
type Leaders = BTreeMap<PartitionId, (NodeId, u64)>;

fn leaders(world: &World) -> Leaders {
    let mut leaders = Leaders::new();
    let layout = world.layout();
    for shard in &layout.shards {
        let host = world.host(*shard).expect("a shard of the layout");
        for partition in &layout.partitions {
            if let Some(replica) = host.partition(partition.id)
                && let Leadership::Ready { .. } = replica.leadership()
            {
                let term = replica.glance().term.get();
                let newest = leaders.entry(partition.id).or_insert((shard.node, term));
                if term > newest.1 {
                    *newest = (shard.node, term);
                }
            }
        }
    }
    leaders
}

/// Goes on until `done`, or for so long.
fn run(world: &mut World, us: u64, mut done: impl FnMut(&World) -> bool) -> bool {
    let until = world.now_us() + us;
    while world.next_at_us().is_some_and(|at| at <= until) {
        world.step().unwrap_or_else(|broken| panic!("{broken}"));
        if done(world) {
            return true;
        }
    }
    world.pass_to_us(until);
    false
}

fn cluster(profile: Profile, seed: u64) -> World {
    let layout = Layout::plain(NODES, PARTITIONS, small(profile));
    let mut world = World::new(layout, NetworkOptions::CALM, seed);
    for node in world.layout().nodes() {
        world.boot_at(node, 0);
    }
    let all = |world: &World| leaders(world).len() == PARTITIONS as usize;
    assert!(run(&mut world, PATIENCE_US, all), "nobody leads");
    world
}

/// What a failover cost a partition.
struct Cost {
    us: u64,
    terms: u64,
}

/// Kills who leads most; what it cost each partition that it led.
fn fail_over(world: &mut World, crash: Crash) -> Vec<Cost> {
    let before = leaders(world);
    assert_eq!(before.len(), PARTITIONS as usize, "somebody leads each");
    let led = |node: &NodeId| before.values().filter(|(leader, _)| leader == node).count();
    let nodes = world.layout().nodes();
    let victim = nodes.into_iter().max_by_key(led).expect("nodes");
    let began = world.now_us();
    world.crash_with(victim, crash, Fate::Random);
    let mut costs = BTreeMap::new();
    let wanted = led(&victim);
    let moved = run(world, PATIENCE_US, |world| {
        for (partition, (leader, term)) in leaders(world) {
            let (former, old) = before[&partition];
            if former == victim && leader != victim {
                costs.entry(partition).or_insert_with(|| Cost {
                    us: world.now_us() - began,
                    terms: term - old,
                });
            }
        }
        costs.len() == wanted
    });
    assert!(moved, "{} of {wanted} partitions moved", costs.len());
    world.boot_at(victim, 0);
    run(world, PAUSE_US, |_| false);
    // Whoever comes back takes nothing away again, and nobody else was disturbed.
    let after = leaders(world);
    for (partition, (former, old)) in &before {
        let (leader, term) = after[partition];
        assert!(
            *former != victim || leader != victim,
            "{partition} went back"
        );
        assert!(
            *former == victim || (leader, term) == (*former, *old),
            "{partition} was disturbed: {former} led term {old}, {leader} leads {term}"
        );
    }
    costs.into_values().collect()
}

fn median(of: impl Iterator<Item = u64>) -> u64 {
    let mut all: Vec<u64> = of.collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn failovers(quiet: bool) {
    let mut profile = Profile::latency();
    if !quiet {
        profile.quiet_after_ms = 0;
    }
    let mut costs = Vec::new();
    let mut world = cluster(profile, 1);
    for number in 0..FAILOVERS {
        let crash = [Crash::Kill, Crash::Power][number % 2];
        costs.extend(fail_over(&mut world, crash));
    }
    let us = median(costs.iter().map(|cost| cost.us));
    let terms = median(costs.iter().map(|cost| cost.terms));
    let longest = costs.iter().map(|cost| cost.us).max().unwrap_or(0);
    let most = costs.iter().map(|cost| cost.terms).max().unwrap_or(0);
    println!(
        "quiet: {quiet}, {} partitions moved: median {us} us and {terms} terms, longest {longest} us, most {most} terms",
        costs.len()
    );
    assert!(costs.len() > FAILOVERS * PARTITIONS as usize / 4);
    assert!(us < MEDIAN_US_MAX, "the median is {us} us");
    assert!(longest < EVER_US_MAX, "one took {longest} us");
    assert!(terms <= TERMS_MEDIAN_MAX, "the median is {terms} terms");
    assert!(most <= TERMS_EVER_MAX, "one took {most} terms");
}

#[test]
fn partitions_of_a_killed_leader_are_led_elsewhere_within_600_ms_and_few_terms() {
    failovers(false);
}

#[test]
fn quiet_partitions_of_a_killed_leader_are_led_elsewhere_within_600_ms_and_few_terms() {
    failovers(true);
}
