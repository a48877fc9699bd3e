//! What a seed draws from a fourth stream: logs that give up their beginning.
//!
//! Whoever has no part in what was given up must not need it: every machine is on disk, nobody joins, and no disk comes back empty or as it was.
//! No append has a key, and nobody asks for another durability mode: what entries said of these would go with them, as no snapshot
//! keeps it.
//!
//! Where nothing of this is drawn a seed's run is what its other streams make it.

use clustor_shards::log::Mode;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::more;
use super::swarm::{Swarm, pick};

/// The share of the seeds whose logs do.
const SHARE: f64 = 0.04;
/// Of these, the share in which a disk loses content that the others may have given up.
const ROT_SHARE: f64 = 0.7;
/// How long faults are on, at least, in microseconds.
const CHAOS_US_MIN: u64 = 4_000_000;

/// The fourth stream of a generator, apart from those that a run draws from.
pub(super) fn stream(of: &Xoshiro256PlusPlus) -> Xoshiro256PlusPlus {
    more::nth_stream(of, 9)
}

/// The stream that a run draws from when and what is given up.
pub(super) fn run_stream(of: &Xoshiro256PlusPlus) -> Xoshiro256PlusPlus {
    more::nth_stream(of, 6)
}

impl Swarm {
    /// Draws whether logs give up their beginning.
    pub(super) fn draw_floors(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let drawn = rng.random_bool(SHARE);
        let floor_us = rng.random_range(100_000..=800_000);
        let every = pick(rng, &[1, 2, 8]);
        let rots = rng.random_bool(ROT_SHARE);
        let faults = &mut self.faults;
        if !drawn || faults.again.is_some() || faults.sole.is_some() {
            return;
        }
        faults.floor = Some(floor_us);
        faults.members = None;
        faults.replaces = false;
        faults.moves = None;
        faults.empty = None;
        faults.image = None;
        faults.mode = None;
        let layout = &mut self.layout;
        for profile in layout.profiles.values_mut().chain([&mut layout.profile]) {
            profile.mode = Mode::Strict;
        }
        self.load.keyed = 0;
        self.chaos_us = self.chaos_us.max(CHAOS_US_MIN);
        let nodes = self.layout.nodes();
        let redundant = self.layout.partitions.iter().all(|p| p.voters.len() > 2);
        if redundant && rots {
            faults.fragile.get_or_insert_with(|| pick(rng, &nodes));
            faults.disk = None;
            faults.rot = false;
            faults.harm = None;
            faults.second = None;
        }
        self.layout.on_disk = nodes.into_iter().map(|node| (node, every)).collect();
    }
}
