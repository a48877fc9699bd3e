//! The options that a log runs under, drawn for each life, and in some lives anew for its boots.

use clustor_shards::disk::FlushKind;
use clustor_shards::log::LogOptions;
use clustor_shards::log::options::{LEDGER_SLOTS_MIN, SEGMENT_BLOCKS_MIN};
use clustor_shards::log::scrub::ScrubRates;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::swarm::{self, pick};

/// Most lives are scrubbed at a pace that they see something of.
fn rates(seed: u64) -> ScrubRates {
    let round_ms = [400, 4_000, 40_000, ScrubRates::DEFAULT.round_ms];
    ScrubRates {
        round_ms: round_ms[(seed % 4) as usize],
        sample_every_ms: 700,
        sample_percent: 20,
    }
}

/// Options to begin with.
pub(super) fn draw(rng: &mut Xoshiro256PlusPlus, seed: u64) -> LogOptions {
    let segment_blocks = pick(rng, &[SEGMENT_BLOCKS_MIN, 40, 64, 96]);
    draw_for(segment_blocks, rng, seed)
}

fn draw_for(segment_blocks: u32, rng: &mut Xoshiro256PlusPlus, seed: u64) -> LogOptions {
    let mut options = LogOptions::for_segment_bytes(u64::from(segment_blocks) * 4096);
    options.ledger_slots = pick(rng, &[LEDGER_SLOTS_MIN, 12, 24]);
    options.relocate_share = pick(rng, &[1, 2, 8]);
    options.relocate_turn_bytes_max = pick(rng, &[1, 1_000, 64 << 10]);
    options = options.with_format(swarm::format(rng));
    options.nonce_range_blocks = pick(rng, &[2, 3, 8, 1024]);
    options.chains_in_flight_max = rng.random_range(1..=options.chains_in_flight_max);
    options.kept_segments_max = [2, 0, 1, 8][(seed / 4 % 4) as usize];
    options.scrub = rates(seed);
    options.stuck_io_ms = pick(rng, &[100, 3_000, 20_000, 3_600_000]);
    options.group_chains_max = pick(rng, &[1, 2, 8]);
    options.flush = pick(rng, &[FlushKind::Fdatasync, FlushKind::Dsync]);
    options
}

/// What changes in a life whose profile does: drawn apart from all else.
pub(super) struct Profiles {
    rng: Xoshiro256PlusPlus,
    change_chance: f64,
    foreign_chance: f64,
}

impl Profiles {
    /// A third of the lives has some.
    pub fn of(seed: u64) -> Option<Self> {
        (seed / 9).is_multiple_of(3).then(|| {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed.rotate_left(32));
            Self {
                change_chance: pick(&mut rng, &[0.0, 0.5, 1.0]),
                foreign_chance: pick(&mut rng, &[0.0, 0.0, 0.01, 0.05]),
                rng,
            }
        })
    }

    /// Partitions there are at least: so many that the checkpoint weighs something, in some.
    pub fn partitions(&mut self) -> u128 {
        pick(&mut self.rng, &[1, 1, 30, 60])
    }

    /// Everything may change between two boots but the encodings, which a start refuses.
    pub fn change(&mut self, options: &mut LogOptions, seed: u64) {
        if !self.rng.random_bool(self.change_chance) {
            return;
        }
        let segment_blocks = pick(&mut self.rng, &[SEGMENT_BLOCKS_MIN, 40, 64, 96, 256]);
        let drawn = draw_for(segment_blocks, &mut self.rng, seed);
        let mut format = drawn.format;
        format.log_encoding = options.format.log_encoding;
        format.ledger_encoding = options.format.ledger_encoding;
        *options = drawn.with_format(format);
    }

    /// The length of an entry that a leader with greater segments took, if one comes now.
    pub fn foreign_bytes(&mut self) -> Option<usize> {
        let comes = self.rng.random_bool(self.foreign_chance);
        comes.then(|| self.rng.random_range(14_000..300_000))
    }
}
