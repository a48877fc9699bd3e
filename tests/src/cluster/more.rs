//! What a seed draws from a second stream: other shapes, disks of different speed, and more kinds of faults.
//!
//! Where nothing of this is drawn a seed's run is what its first stream makes it, whatever is drawn here one day.

use clustor_shards::disk::FileKind;
use clustor_shards::log::OnAuthenticationFailure;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::layout::Layout;
use super::swarm::{Swarm, add_spares, pick};
use crate::disk::{StuckKind, Timing, WriteFault};

/// Harm to the one disk that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// A write is lost or lands elsewhere, and is reported as done. Once.
    Write(FileKind, WriteFault),
    /// A flush is reported that was none. Once.
    LyingFlush(FileKind),
    /// A block that was written can't be read any more, while the node goes on. Once.
    Unreadable,
    /// The same of a slot that was never written.
    UnreadableSlot,
    /// Bits of a block turn over while the node goes on. Once.
    Rot,
    /// A file loses its name while the node is down. Once.
    LostName,
    /// An operation never ends.
    Stuck(StuckKind),
}

const HARMS: [Harm; 16] = [
    Harm::Write(FileKind::Segment, WriteFault::Lost),
    Harm::Write(FileKind::Ledger, WriteFault::Lost),
    Harm::Write(FileKind::Segment, WriteFault::Misdirected),
    Harm::Write(FileKind::Ledger, WriteFault::Misdirected),
    Harm::Write(FileKind::Segment, WriteFault::MisdirectedFile),
    Harm::Write(FileKind::Ledger, WriteFault::MisdirectedFile),
    Harm::LyingFlush(FileKind::Segment),
    Harm::LyingFlush(FileKind::Ledger),
    Harm::Unreadable,
    Harm::UnreadableSlot,
    Harm::Rot,
    Harm::LostName,
    Harm::Stuck(StuckKind::Chain),
    Harm::Stuck(StuckKind::Prepare),
    Harm::Stuck(StuckKind::Trailer),
    Harm::Stuck(StuckKind::Read),
];

/// The second stream of a generator.
pub(super) fn stream(of: &Xoshiro256PlusPlus) -> Xoshiro256PlusPlus {
    let mut more = of.clone();
    more.long_jump();
    more
}

/// The stream of a generator that lies so many jumps behind its own.
pub(super) fn nth_stream(of: &Xoshiro256PlusPlus, jumps: u32) -> Xoshiro256PlusPlus {
    (0..jumps).fold(of.clone(), |before, _| stream(&before))
}

/// A cluster of another shape than most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Its first nodes.
    pub nodes: Option<u64>,
    /// Shards of each node.
    pub shards: Option<u16>,
}

impl Shape {
    pub fn draw(rng: &mut Xoshiro256PlusPlus) -> Self {
        Self {
            nodes: rng.random_bool(0.08).then(|| pick(rng, &[4, 6, 7, 7])),
            shards: rng.random_bool(0.08).then(|| pick(rng, &[3, 4])),
        }
    }
}

impl Swarm {
    /// Draws the rest from the second stream.
    pub(super) fn draw_more(&mut self, rng: &mut Xoshiro256PlusPlus) {
        draw_speeds(rng, &mut self.layout);
        if !self.layout.timings.is_empty() && self.load.clients > 8 {
            self.load.payload_bytes_max = self.load.payload_bytes_max.min(200);
        }
        if rng.random_bool(0.15) {
            self.draw_slowness(rng);
        }
        if rng.random_bool(0.15) {
            self.faults.flap = Some(rng.random_range(200_000..=2_000_000));
        }
        self.draw_harm(rng);
        if rng.random_bool(0.12) {
            self.draw_replacement(rng);
        }
        if rng.random_bool(0.08) {
            self.faults.control = Some(rng.random_range(50_000..=2_000_000));
        }
        if rng.random_bool(0.06) {
            self.load.strays = pick(rng, &[1, 20, 200]);
        }
        // What many write that is large takes a slow disk longer than a run lives.
        let few = self.load.clients <= 8 && self.layout.timings.is_empty();
        if rng.random_bool(0.1) && few {
            // Some are larger than an entry may be.
            self.load.payload_bytes_max = self.layout.profile.entry_bytes_max as usize + 1_000;
        }
        if rng.random_bool(0.05) {
            let nodes = self.layout.nodes();
            self.layout.blocking = Some(pick(rng, &nodes));
        }
        self.draw_second(rng);
        self.draw_wide(rng);
        if rng.random_bool(0.1) {
            self.faults.intrude = Some(rng.random_range(50_000..=1_000_000));
        }
        if !self.layout.unlisted.is_empty() && rng.random_bool(0.5) {
            self.layout.visit_us = pick(rng, &[100_000, 1_000_000]);
        }
        self.load.recalls = pick(rng, &[50, 90, 98]);
    }

    /// A disk is slow for some seconds, or for so long that nothing else would outlast it.
    fn draw_slowness(&mut self, rng: &mut Xoshiro256PlusPlus) {
        self.faults.slow = Some(rng.random_range(200_000..=2_000_000));
        self.faults.slow_io_us_max = pick(rng, &[2_000, 20_000, 100_000]);
        self.faults.slow_us_max = pick(rng, &[1_000_000, 5_000_000, 5_000_000, 60_000_000]);
        self.layout.profile.slow_chain_ms = pick(rng, &[2, 10, 50]);
        if self.faults.slow_us_max > 5_000_000 && self.load.clients <= 8 {
            self.chaos_us = rng.random_range(10_000_000..=60_000_000);
            self.load.clients = self.load.clients.min(3);
            self.load.think_us_max = 200_000;
        }
    }

    /// One kind of harm, where the others have what this disk loses, and nothing else takes it from there.
    fn draw_harm(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let (drawn, harm) = (rng.random_bool(0.5), pick(rng, &HARMS));
        let every = rng.random_range(30_000..=600_000);
        let nodes = self.layout.nodes();
        let node = pick(rng, &nodes);
        let quarantines = rng.random_bool(0.3);
        let mut partitions = self.layout.partitions.iter();
        let redundant = partitions.all(|p| p.voters.len() > 2);
        if !drawn || !redundant || self.faults.rot || self.faults.moves.is_some() {
            return;
        }
        self.faults.fragile.get_or_insert(node);
        self.faults.harm = Some((harm, every));
        if quarantines {
            self.layout.profile.on_authentication_failure = OnAuthenticationFailure::Quarantine;
        }
        if matches!(harm, Harm::Stuck(_)) {
            self.layout.profile.stuck_io_ms = pick(rng, &[1_000, 1_500]);
        }
    }

    /// Two disks of five or more may lose what others hold. Voters stay: among fewer the two would be a quorum.
    fn draw_second(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let nodes = self.layout.nodes();
        let node = pick(rng, &nodes);
        let mut partitions = self.layout.partitions.iter();
        let many = partitions.all(|p| p.voters.len() > 4);
        let faults = &mut self.faults;
        let alone = faults.members.is_none() && faults.image.is_none() && faults.empty.is_none();
        if many && alone && faults.harm.is_some() && faults.fragile != Some(node) {
            faults.second = Some(node);
        }
    }

    /// A disk is replaced by an empty one, and whoever sees to the members has the time to make a voter of it.
    fn draw_replacement(&mut self, rng: &mut Xoshiro256PlusPlus) {
        let nodes = self.layout.nodes();
        let node = pick(rng, &nodes);
        let mut partitions = self.layout.partitions.iter();
        let redundant = partitions.all(|p| p.voters.len() > 2);
        let faults = &mut self.faults;
        if !redundant || faults.image.is_some() || faults.harm.is_some() || faults.moves.is_some() {
            return;
        }
        faults.fragile.get_or_insert(node);
        faults.empty = Some(rng.random_range(50_000..=1_000_000));
        if faults.members.is_none() {
            add_spares(rng, &mut self.layout);
        }
        self.faults.members = Some(rng.random_range(30_000..=200_000));
        self.faults.replaces = true;
        self.chaos_us = self.chaos_us.max(12_000_000);
        // Voters change twice for it, each time after 64 commits.
        self.layout.partitions.truncate(2);
        self.load.clients = self.load.clients.max(8);
        self.load.think_us_max = self.load.think_us_max.min(5_000);
        self.load.reads = self.load.reads.min(20);
        self.load.patience_us_max = 2_000_000;
    }
}

/// Disks of different speed, or one that is slow among fast ones.
fn draw_speeds(rng: &mut Xoshiro256PlusPlus, layout: &mut Layout) {
    let timing = |write, flush| Timing {
        write_us: (10, write),
        flush_us: (40, flush),
        read_us: (20, write * 2),
        ..Timing::default()
    };
    let differ = rng.random_bool(0.1);
    if differ {
        for node in layout.nodes() {
            let (write, flush) = pick(rng, &[(40, 120), (100, 1_000), (500, 20_000)]);
            layout.timings.insert(node, timing(write, flush));
        }
    } else if rng.random_bool(0.1) {
        let nodes = layout.nodes();
        let node = pick(rng, &nodes);
        let us = pick(rng, &[2_000, 8_000, 20_000]);
        layout.timings.insert(
            node,
            Timing {
                write_us: (us, us),
                flush_us: (us, us),
                read_us: (us / 4, us),
                ..Timing::default()
            },
        );
        layout.profile.slow_chain_ms = pick(rng, &[5, 20, 50]);
    }
}
