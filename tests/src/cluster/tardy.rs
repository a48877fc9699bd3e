//! What a seed draws from a fifth stream: messages that arrive after whole elections, leases and silences have passed.
//!
//! Single ones are kept, or all that one node says to another, as a connection does that hangs. Where nothing of this is drawn a
//! seed's run is what its other streams make it.

use std::collections::BTreeMap;

use clustor_wire::ids::NodeId;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::more;
use super::swarm::{Swarm, pick};

/// The share of the seeds in which messages are.
const SHARE: f64 = 0.04;
/// The least that one is kept for, in microseconds.
const KEPT_US_MIN: u64 = 300_000;
/// What a connection hangs for, at most: after that its sides would have given it up.
const HANGS_US_MAX: u64 = 5_000_000;
/// Of so many messages that are kept, about one is the first of a connection that hangs.
const HANGS_ONE_IN: u32 = 10;
/// Clients at most, and what they pause at least, in microseconds: time is to pass, more than work is to be done.
const CLIENTS_MAX: u64 = 4;
const THINK_US_MIN: u64 = 20_000;

/// How messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Of 10,000, how many.
    pub of_10_000: u32,
    /// For how long, in microseconds, at most.
    pub us_max: u64,
}

/// The stream of a generator that seeds draw this from.
pub(super) fn stream(of: &Xoshiro256PlusPlus) -> Xoshiro256PlusPlus {
    more::nth_stream(of, 11)
}

/// The stream that a run draws from which are kept.
pub(super) fn run_stream(of: &Xoshiro256PlusPlus) -> Xoshiro256PlusPlus {
    more::nth_stream(of, 8)
}

impl Swarm {
    /// Draws whether messages are kept.
    pub(super) fn draw_tardy(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let drawn = rng.random_bool(SHARE);
        let keeping = Keeping {
            of_10_000: pick(rng, &[3, 30, 200]),
            us_max: pick(rng, &[3_000_000, 10_000_000, 30_000_000]),
        };
        let faults = &mut self.faults;
        if !drawn || faults.again.is_some() || faults.sole.is_some() || faults.floor.is_some() {
            return;
        }
        faults.tardy = Some(keeping);
        self.load.clients = self.load.clients.min(CLIENTS_MAX);
        self.load.think_us_max = self.load.think_us_max.max(THINK_US_MIN);
        self.chaos_us = self.chaos_us.max(keeping.us_max + keeping.us_max / 3);
    }
}

/// Keeps messages.
#[derive(Debug)]
pub(super) struct Tardy {
    keeping: Keeping,
    rng: Xoshiro256PlusPlus,
    /// Until when a connection hangs in one direction.
    hangs: BTreeMap<(NodeId, NodeId), u64>,
}

impl Tardy {
    pub fn new(keeping: Keeping, rng: Xoshiro256PlusPlus) -> Self {
        Self {
            keeping,
            rng,
            hangs: BTreeMap::new(),
        }
    }

    /// Until when a message of this direction is kept, if it is.
    pub fn keep(&mut self, now_us: u64, direction: (NodeId, NodeId)) -> Option<u64> {
        let hangs = self.hangs.get(&direction).copied();
        if hangs.is_some_and(|until| until > now_us) {
            return hangs;
        }
        if self.rng.random_range(0..10_000) >= self.keeping.of_10_000 {
            return None;
        }
        let most_us = self.keeping.us_max;
        if self.rng.random_range(0..HANGS_ONE_IN) > 0 {
            return Some(now_us + self.rng.random_range(KEPT_US_MIN..=most_us));
        }
        let for_us = self
            .rng
            .random_range(KEPT_US_MIN..=most_us.min(HANGS_US_MAX));
        self.hangs.insert(direction, now_us + for_us);
        Some(now_us + for_us)
    }
}
