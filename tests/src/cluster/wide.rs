//! Nodes far apart, and ways out of a node that are slow.
//!
//! The first have the timers of the profile that is shipped for them and links of such a length, for as long as a run lasts. A
//! slow way brings nothing for longer than a profile calls a slow path, and then everything at once: the followers behind it
//! tell whoever wants to be elected.

use clustor_engine::profile::Profile;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::layout::Layout;
use super::swarm::{Swarm, pick};

/// From one node to another, in microseconds: there and back in well under the least timeout of [`Profile::wan`].
const DISTANCE_US: (u64, u64) = (5_000, 80_000);

/// A client that gives up sooner than this hardly hears of anything, in microseconds.
const PATIENCE_US_MIN: u64 = 500_000;

/// Election timeouts of nodes far apart, from and to, in milliseconds.
const ELECTION_MS: [(u64, u64); 3] = [(300, 600), (300, 600), (500, 1_000)];

/// Those of nodes in one place.
const ELECTION_MS_NEAR: [(u64, u64); 2] = [(150, 300), (200, 500)];

impl Swarm {
    /// Draws distances, and ways that are slow at times.
    pub(super) fn draw_wide(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let wide = rng.random_bool(0.1);
        if wide {
            spread(rng, &mut self.layout);
            self.load.patience_us_max = self.load.patience_us_max.max(PATIENCE_US_MIN);
        }
        if rng.random_bool(if wide { 0.4 } else { 0.12 }) {
            self.faults.clog = Some(rng.random_range(300_000..=2_000_000));
        }
    }
}

/// Nodes stand far from each other, and run with the timers for it.
fn spread(rng: &mut Xoshiro256PlusPlus, layout: &mut Layout) {
    let nodes = layout.nodes();
    for (at, a) in nodes.iter().enumerate() {
        for b in &nodes[at + 1..] {
            let distance_us = rng.random_range(DISTANCE_US.0..=DISTANCE_US.1);
            layout.distances_us.insert((*a, *b), distance_us);
        }
    }
    let (least, most) = pick(rng, &ELECTION_MS);
    let profiles = layout.profiles.values_mut();
    for profile in profiles.chain([&mut layout.profile]) {
        take_timers(profile, &Profile::wan());
        (profile.election_ms_min, profile.election_ms_max) = (least, most);
    }
}

/// Nodes stand in one place, and run with the timers for that.
pub(super) fn gather(swarm: &mut Swarm) {
    let layout = &mut swarm.layout;
    if std::mem::take(&mut layout.distances_us).is_empty() {
        return;
    }
    let profiles = layout.profiles.values_mut();
    for profile in profiles.chain([&mut layout.profile]) {
        take_timers(profile, &Profile::latency());
    }
}

/// What a profile sets for the way between nodes.
fn take_timers(profile: &mut Profile, of: &Profile) {
    profile.election_ms_min = of.election_ms_min;
    profile.election_ms_max = of.election_ms_max;
    profile.heartbeat_ms = of.heartbeat_ms;
    profile.high_rtt_ms = of.high_rtt_ms;
    profile.append_batches_in_flight_max = of.append_batches_in_flight_max;
    profile.batch_ms_max = of.batch_ms_max;
    profile.ack_ms_max = of.ack_ms_max;
    profile.leases = of.leases;
}

/// Election timeouts that a running cluster may be told of, from and to, in milliseconds.
pub(super) fn other_election_ms(rng: &mut Xoshiro256PlusPlus, layout: &Layout) -> (u64, u64) {
    if layout.distances_us.is_empty() {
        pick(rng, &ELECTION_MS_NEAR)
    } else {
        pick(rng, &ELECTION_MS)
    }
}
