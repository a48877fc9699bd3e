//! The scrub of a running log: rot is to be found while other replicas still have what it took.
//!
//! One read at a time, in turns in which nothing waits for the disk. A *sweep* reads every byte of the log that counts:
//! headers, both copies of each checkpoint, trailers, ledger slots, and the extents they speak of, spread evenly over half of
//! [`ScrubRates::round_ms`]; the next begins when that time is over, so no byte goes without a look for a whole round of the time
//! in which processes run. A *sample* looks at some chains of each pair, drawn by a generator seeded with the boot's number.
//!
//! What fails [`READ_TRIES`](super::read::READ_TRIES) times is damage. Entries that lay in a rotten extent become missing, exactly as when a read
//! of them fails; everything else that a shard needs it has in memory, so other damage is counted and reported, and a
//! restart gets it from its second copy; it writes again only headers and trailers, and slots of the newest chains. Until a sweep has read a pair's header, the pair is not sampled.
//!
//! Every ledger slot states where the sweep is, and a start goes on from there: however often a node restarts, a sweep
//! comes to its end. The figures of a pair are compared where one process has read all of it.
//!
//! - `place`: where a sweep is, over restarts
//! - `plan`: what is read next, and when
//! - `verify`: what was read, and what follows from it

mod place;
mod plan;
mod verify;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId, Term};

use super::audit::{Damaged, Recount};
use super::header::PairHeader;
use super::options::OptionsError;
use super::slot::ExtentDigest;
use super::trailer::SegmentFigures;
use crate::disk::{FileId, FileKind};
use crate::turn::Time;

pub(super) use place::PLACE_BYTES;
pub use place::{STATED_PER_SWEEP, SweepPlace};

/// How fast a running log is scrubbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubRates {
    /// Every byte is looked at at least once in this time, in milliseconds in which a process runs on the log.
    pub round_ms: u64,
    /// How often a sample is drawn, in milliseconds.
    pub sample_every_ms: u64,
    /// The part of each pair's chains that a sample looks at, in percent; 0 draws none.
    pub sample_percent: u32,
}

impl ScrubRates {
    /// Every byte in 7 days, 1% of each segment every 6 hours.
    pub const DEFAULT: Self = Self {
        round_ms: 7 * 24 * 3_600_000,
        sample_every_ms: 6 * 3_600_000,
        sample_percent: 1,
    };
    /// The shortest round and time between samples: for tests and simulations.
    pub const MS_MIN: u64 = 10;
    /// The longest: a year.
    pub const MS_MAX: u64 = 365 * 24 * 3_600_000;

    /// Checks each number against its limits.
    ///
    /// # Errors
    /// The first that is outside, with its limits.
    pub fn check(&self) -> Result<(), OptionsError> {
        let numbers = [
            ("scrub_round_ms", self.round_ms, Self::MS_MIN, Self::MS_MAX),
            (
                "scrub_sample_every_ms",
                self.sample_every_ms,
                Self::MS_MIN,
                Self::MS_MAX,
            ),
            ("scrub_sample_percent", self.sample_percent.into(), 0, 100),
        ];
        for (name, value, min, max) in numbers {
            if !(min..=max).contains(&value) {
                return Err(OptionsError::Limit {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// A sweep is paced to end within half a round: between two looks at a byte lie at most two sweeps.
    const fn sweep_us(self) -> u64 {
        self.round_ms * 500
    }
}

/// How far the scrub of a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubStatus {
    /// Sweeps that were finished since the start.
    pub sweeps: u64,
    /// Bytes verified in the present sweep since the start.
    pub sweep_bytes: u64,
    /// How much of the present sweep is done, in thousandths.
    pub sweep_permille: u32,
    /// Bytes verified since the start, samples included.
    pub bytes: u64,
    /// Milliseconds since the last sweep ended; `None` before the first has.
    pub finished_ms_ago: Option<u64>,
    /// Milliseconds, of those in which a process ran on the log, within which every byte was verified or written; `None` before a
    /// sweep has ended since the start. The sweep may have begun in an earlier process: the time between processes is not in it, nor
    /// what an earlier one had not stated yet when it ended, up to one part of a sweep in [`STATED_PER_SWEEP`].
    pub oldest_unverified_ms: Option<u64>,
    /// Damaged places that were found since the start.
    pub damaged_places: u64,
    /// Entries that became missing by it.
    pub lost_entries: u64,
}

/// Damage that the scrub found just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubFinding {
    /// In which pair.
    pub pair: PairNumber,
    /// At which chain; the pair's first for headers and checkpoints.
    pub chain: ChainNumber,
    /// What.
    pub damaged: Damaged,
    /// The entries that are missing from now on.
    pub lost: Vec<LostRun>,
}

/// Entries whose content is missing from now on; the log has recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRun {
    /// Whose.
    pub partition: PartitionId,
    /// Of which term.
    pub term: Term,
    /// The first.
    pub first: LogIndex,
    /// The last.
    pub last: LogIndex,
}

impl core::fmt::Display for ScrubFinding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (pair, chain, damaged) = (self.pair, self.chain, self.damaged);
        write!(f, "pair {pair}, chain {chain}: {damaged}")?;
        for lost in &self.lost {
            write!(
                f,
                "; missing from now on: partition {} index {} to {}",
                lost.partition, lost.first, lost.last
            )?;
        }
        Ok(())
    }
}

/// One read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Block 0.
    Header(FileKind),
    /// Blocks of a copy of the checkpoint.
    Checkpoint {
        kind: FileKind,
        block: u32,
        count: u32,
    },
    /// Ledger slots.
    Slots { first: u32, count: u32 },
    /// The trailer of a closed segment, in this block.
    Trailer { block: u32 },
    /// An extent, where its slot, or failing that the index of entries, says it is.
    Extent(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    chain: ChainNumber,
    first_block: u32,
    blocks: u32,
    /// `None` where the slot is bad.
    digest: Option<ExtentDigest>,
    /// The same.
    figures: Option<SegmentFigures>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    pair: PairNumber,
    look: Look,
    /// Part of a sample, not of the sweep.
    sampled: bool,
    /// Tries that failed.
    failed: u32,
}

impl Step {
    /// Chains of the sweep that are done when it, and what follows from it, is done.
    fn chains(&self) -> u64 {
        match self.look {
            _ if self.sampled => 0,
            Look::Header(_) | Look::Checkpoint { .. } | Look::Trailer { .. } => 0,
            Look::Slots { count, .. } => count.into(),
            Look::Extent(_) => 1,
        }
    }

    /// The file, the first block and how many.
    fn range(&self, header: Option<&PairHeader>) -> (FileId, u32, u32) {
        let file = |kind| FileId {
            pair: self.pair,
            kind,
        };
        match self.look {
            Look::Header(kind) => (file(kind), 0, 1),
            Look::Checkpoint { kind, block, count } => (file(kind), block, count),
            Look::Slots { first, count } => {
                let body = header.map_or(0, PairHeader::body_block);
                (file(FileKind::Ledger), body + first, count)
            }
            Look::Trailer { block } => (file(FileKind::Segment), block, 1),
            Look::Extent(place) => (file(FileKind::Segment), place.first_block, place.blocks),
        }
    }
}

/// One pass over everything.
struct Sweep {
    /// When it began, or was taken up by this process.
    begun: Time,
    /// For how long it had run before that, in microseconds.
    carried_us: u64,
    /// Pairs whose slots are still to come, the next one last.
    pairs: Vec<PairNumber>,
    /// The newest pair it began with, and that pair's slots at the time: what is written later is the next sweep's.
    last: PairNumber,
    last_slots: u32,
    /// Where it is taken up: the pair, and its first slot that is still to be looked at.
    taken_up: Option<(PairNumber, u32)>,
    /// Nothing of it was looked at by this process yet.
    is_new_here: bool,
    /// The pair in work, and its next slot.
    current: Option<(PairNumber, u32)>,
    /// The figures of that pair, formed anew, for as long as its extents come in order and are whole.
    recount: Option<Recount>,
    /// Chains that were looked at.
    done: u64,
    /// Chains of the pairs that come after the one in work.
    later: u64,
    /// Chains still to come, as of the last step.
    ahead: u64,
    bytes: u64,
}

impl Sweep {
    /// For how long it has run.
    const fn spent_us(&self, now: Time) -> u64 {
        now.since_us(self.begun).saturating_add(self.carried_us)
    }

    /// The first slot of the pair that it has to look at.
    fn first_slot_of(&self, pair: PairNumber) -> u32 {
        let taken_up = self.taken_up.filter(|(at, _)| *at == pair);
        taken_up.map_or(0, |(_, slot)| slot)
    }
}

/// The scrub of one log.
#[derive(Default)]
pub(super) struct Scrub {
    headers: BTreeMap<PairNumber, PairHeader>,
    steps: VecDeque<Step>,
    in_flight: Option<(u64, Step)>,
    sweep: Option<Sweep>,
    /// When the next step of the sweep, or the next sweep, is due.
    sweep_due: Option<Time>,
    sample_due: Option<Time>,
    samples: u64,
    /// The time of the last poll.
    now: Time,
    /// No look before then: the last could not be taken.
    pause_until: Time,
    /// Where the sweep is, as of the last step.
    place: Option<SweepPlace>,
    /// What the last chain stated of it, and when.
    stated: Option<SweepPlace>,
    stated_at: Time,
    sweeps: u64,
    /// Of the last sweep that ended: when it did, and how long it had run, in microseconds.
    last_sweep: Option<(Time, u64)>,
    bytes: u64,
    damaged: BTreeSet<(FileId, u32)>,
    lost_entries: u64,
}

/// Damaged places remembered, so that none is reported twice; beyond them every sweep reports anew.
const DAMAGED_PLACES_MAX: usize = 4096;
/// Ledger slots, or blocks of a checkpoint, looked at in one read.
const BLOCKS_AT_ONCE: u32 = 16;
/// The longest that a start waits before it scrubs, in microseconds: it has other things to do first.
const START_PAUSE_US: u64 = 60_000_000;
/// Chains in one sample of a pair at most.
const SAMPLE_CHAINS_MAX: u64 = 1024;
