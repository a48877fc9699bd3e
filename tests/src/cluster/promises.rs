//! What a seed draws from a third stream: faults that follow each other so closely that a promise made before the first is still
//! due after the second.
//!
//! A voter that heard a leader refuses votes for a while, by its clock and from memory: that is what leases stand on. Two faults of
//! its clock within that time, or a restart of the only voter that is left, hardly ever come together by chance.
//!
//! Where nothing of this is drawn a seed's run is what its other streams make it.

use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::layout::PartitionLayout;
use super::more;
use super::swarm::{Swarm, pick};

/// The shares of the seeds that are meant for each of the two. Some of them have too few voters for it, or a disk that may fail: about
/// one in eight is left.
const AGAIN_SHARE: f64 = 0.15;
const SOLE_SHARE: f64 = 0.25;
/// Clients of such a run, at least: a lease that two hold at a time is seen by who writes here and reads there meanwhile.
const CLIENTS_MIN: u64 = 12;
/// What they pause at most, and when they give up, in microseconds: who waits for a leader that is cut off asks no other.
const THINK_US_MAX: u64 = 2_000;
const PATIENCE_US: u64 = 100_000;
/// How long faults are on, at least, in microseconds.
const CHAOS_US_MIN: u64 = 5_000_000;

/// The third stream of a generator, apart from those that a run draws from.
pub(super) fn stream(of: &Xoshiro256PlusPlus) -> Xoshiro256PlusPlus {
    more::nth_stream(of, 3)
}

impl Swarm {
    /// Draws the faults that break promises, if the seed is one of theirs.
    pub(super) fn draw_promises(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let sole = rng.random_bool(SOLE_SHARE);
        let again = rng.random_bool(AGAIN_SHARE);
        let again_us = rng.random_range(100_000..=400_000);
        let sole_us = rng.random_range(80_000..=250_000);
        let several = |partition: &PartitionLayout| partition.voters.len() > 2;
        // Nodes far apart have no leases.
        let near = self.layout.distances_us.is_empty();
        if again && near && self.layout.partitions.iter().any(several) {
            self.faults.again = Some(again_us);
            self.read_at_leases(rng);
        }
        // Where a disk may fail, no partition is left to one voter.
        let mut first = self.layout.partitions.iter().take(2);
        if sole && near && self.faults.fragile.is_none() && first.any(several) {
            self.faults.sole = Some(sole_us);
            self.read_at_leases(rng);
            // Nor does it apply all it has anew, after its restart, for longer than that.
            let nodes = self.layout.nodes().into_iter();
            self.layout.on_disk = nodes.map(|node| (node, 1)).collect();
        }
    }

    /// Leases are on, and most of what is asked are reads that rely on them. The commits that a change of voters waits for come
    /// soon all the same.
    fn read_at_leases(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let layout = &mut self.layout;
        let profiles = layout.profiles.values_mut();
        for profile in profiles.chain([&mut layout.profile]) {
            profile.leases = true;
        }
        layout.partitions.truncate(2);
        // Whoever is elected, writes and reads is not to wait for networks, disks and machines for longer than a lease lasts.
        layout.disk.timing.write_us = (10, 100);
        layout.disk.timing.flush_us = (40, 1_000);
        self.network.delay_us = pick(rng, &[(20, 60), (50, 500)]);
        layout.timings.clear();
        layout.costs.clear();
        let load = &mut self.load;
        load.clients = load.clients.max(CLIENTS_MIN);
        load.think_us_max = load.think_us_max.min(THINK_US_MAX);
        load.reads = pick(rng, &[50, 70]);
        load.lease_reads = 95;
        load.local_reads = 0;
        load.recalls = pick(rng, &[20, 50]);
        load.patience_us_max = PATIENCE_US;
        load.payload_bytes_max = load.payload_bytes_max.min(200);
        self.chaos_us = self.chaos_us.max(CHAOS_US_MIN);
    }
}
