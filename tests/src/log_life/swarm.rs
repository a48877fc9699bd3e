//! What a life may meet, drawn for each: so that no kind of fault hides another.

use clustor_shards::disk::FileKind;
use clustor_shards::log::format::{Encoding, HashSuite, LogFormat, Suite};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::disk::WriteFault;

pub(super) fn pick<T: Copy>(rng: &mut Xoshiro256PlusPlus, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

/// What a log's files are made of.
pub(super) fn format(rng: &mut Xoshiro256PlusPlus) -> LogFormat {
    let encodings = [Encoding::Binary, Encoding::Binary, Encoding::Json];
    let suites = Suite::ALL;
    let sealing = pick(rng, &suites);
    LogFormat {
        log_encoding: pick(rng, &encodings),
        ledger_encoding: pick(rng, &encodings),
        sealing: match sealing.check_available() {
            Ok(()) => sealing,
            Err(_) => Suite::default(),
        },
        merkle_leaves: rng.random(),
        hash: pick(rng, &[HashSuite::Sha256, HashSuite::Blake3]),
    }
}

/// A fault that damages something durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// Bits of a block turn over.
    Rot,
    /// A block that was written can't be read, ever.
    Unreadable,
    /// A slot that was never written can't be read, or something was written there by mistake.
    UntouchedSlot,
    /// A file loses its name.
    LostFile,
    /// A write is lost or lands elsewhere.
    Write(FileKind, WriteFault),
    /// A flush is reported that was none.
    LyingFlush(FileKind),
}

const DAMAGES: [Damage; 12] = [
    Damage::Rot,
    Damage::Unreadable,
    Damage::UntouchedSlot,
    Damage::LostFile,
    Damage::Write(FileKind::Segment, WriteFault::Lost),
    Damage::Write(FileKind::Ledger, WriteFault::Lost),
    Damage::Write(FileKind::Segment, WriteFault::Misdirected),
    Damage::Write(FileKind::Ledger, WriteFault::Misdirected),
    Damage::Write(FileKind::Segment, WriteFault::MisdirectedFile),
    Damage::Write(FileKind::Ledger, WriteFault::MisdirectedFile),
    Damage::LyingFlush(FileKind::Segment),
    Damage::LyingFlush(FileKind::Ledger),
];

/// What a life may meet.
#[derive(Debug, Clone)]
pub(super) struct Swarm {
    /// Chance of the process's end after a micro-step.
    pub crash_chance: f64,
    /// Chance of a failing write or flush per round.
    pub failure_chance: f64,
    /// Chance per round that an operation gets stuck.
    pub stuck_chance: f64,
    /// Chance per round that the disk is full, or fills up soon.
    pub full_chance: f64,
    /// Chance at a boot of a read that fails once or twice.
    pub flaky_chance: f64,
    /// Whether the disk comes back once as it was.
    pub rolls_back: bool,
    /// Kinds of damage that may happen.
    pub damages: Vec<Damage>,
    /// How often.
    pub damages_max: u32,
}

impl Swarm {
    pub fn draw(rng: &mut Xoshiro256PlusPlus) -> Self {
        let mut damages: Vec<Damage> = DAMAGES.into_iter().filter(|_| rng.random()).collect();
        if rng.random_bool(0.2) {
            damages = vec![pick(rng, &DAMAGES)];
        }
        Self {
            crash_chance: pick(rng, &[0.002, 0.01, 0.04]),
            failure_chance: pick(rng, &[0.0, 0.0, 0.005, 0.02]),
            stuck_chance: pick(rng, &[0.0, 0.0, 0.01]),
            full_chance: pick(rng, &[0.0, 0.01, 0.03]),
            flaky_chance: pick(rng, &[0.0, 0.2]),
            rolls_back: rng.random_bool(0.05),
            damages,
            damages_max: pick(rng, &[0, 0, 0, 1, 1, 1, 1, 1, 1, 4]),
        }
    }
}
