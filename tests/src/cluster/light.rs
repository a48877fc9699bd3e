//! Long lives with little to do: three nodes as they are shipped, a few partitions, a client now and then, and now and then a
//! fault.
//!
//! What takes minutes has no place in the few seconds of a busy life: partitions that go quiet as late as the shipped profile
//! says, and wake again; clocks that drifted for long; leases and backoffs between faults that are far apart. Time in which
//! nothing is due is not lived through: the next event is the next step.

use clustor_engine::profile::Profile;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::deferred::EFFECTS_STAY;
use super::layout::{Layout, small};
use super::network::NetworkOptions;
use super::swarm::{Faults, Load, Swarm, pick};

/// Nodes, of one shard each.
const NODES: u64 = 3;

/// How long clients come and faults strike, in microseconds.
const LIFE_US: (u64, u64) = (600_000_000, 1_800_000_000);

/// From one fault of a kind to the next, on average, in microseconds.
const FAULT_US: (u64, u64) = (60_000_000, 600_000_000);

impl Swarm {
    /// Draws a long life with little to do.
    #[must_use]
    pub fn draw_light(rng: &mut Xoshiro256PlusPlus) -> Self {
        let partitions = rng.random_range(1..=4);
        let mut profile = small(Profile::latency());
        profile.leases = rng.random_bool(0.5);
        Self {
            layout: Layout::plain(NODES, partitions, profile),
            network: NetworkOptions {
                delay_us: pick(rng, &[(20, 60), (50, 500), (200, 5_000)]),
                lost: pick(rng, &[0, 0, 1]),
                ..NetworkOptions::CALM
            },
            faults: draw_faults(rng),
            load: draw_load(rng),
            chaos_us: rng.random_range(LIFE_US.0..=LIFE_US.1),
            helical: false,
        }
    }
}

fn draw_faults(rng: &mut Xoshiro256PlusPlus) -> Faults {
    let mut every = || {
        let drawn = rng.random_range(FAULT_US.0..=FAULT_US.1);
        rng.random_bool(0.4).then_some(drawn)
    };
    Faults {
        kill: every(),
        power: every(),
        blackout: every(),
        stop: every(),
        down_us_max: 10_000_000,
        cut: every(),
        cut_us_max: 10_000_000,
        reset: every(),
        stall: every(),
        stall_us_max: 1_000_000,
        mode: every(),
        drift_ppm_max: pick(rng, &[0, 50, 500]),
        ..Faults::NONE
    }
}

fn draw_load(rng: &mut Xoshiro256PlusPlus) -> Load {
    Load {
        clients: rng.random_range(1..=3),
        think_us_max: pick(rng, &[5_000_000, 20_000_000, 60_000_000]),
        reads: 30,
        lease_reads: 30,
        local_reads: 10,
        keyed: 50,
        timers: pick(rng, &[0, 20]),
        deferred: 0,
        effects_stay: EFFECTS_STAY,
        payload_bytes_max: 200,
        strays: 0,
        recalls: 90,
        patience_us_max: 2_000_000,
    }
}
