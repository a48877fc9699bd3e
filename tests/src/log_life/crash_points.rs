//! Every crash point of a small workload, and everything that a crash may leave there.
//!
//! The workload runs once. After each of its micro-steps the process or the machine ends, in every way that
//! [`settle`](super::settle) goes through; from what is left the log recovers, and while it opens its new pair it
//! ends again, and again after that, as deep as is asked for. Whatever is left last must come back, and once more
//! after a power loss that takes everything no flush covered. A disk state that was gone through
//! already, with the same promises to keep, is not gone through again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use clustor_shards::disk::FlushKind;
use clustor_shards::log::format::{Encoding, HashSuite, LogFormat, Suite};
use clustor_shards::log::options::{LEDGER_SLOTS_MIN, SEGMENT_BLOCKS_MIN};
use clustor_shards::log::{LogOptions, Mode};
use clustor_shards::turn::{PeerId, PeerPast};
use clustor_wire::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term,
};

use super::history::Violation;
use super::settle::{Coverage, Limits, decisions};
use super::shard::{Boot, Shard};
use crate::disk::{Crash, Settled, SimDisk};

/// What the log does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Two partitions, group and strict appends, truncations, pairs that are rolled and emptied; sealed in all ways.
    Wide,
    /// One partition, few chains in flight, nothing sealed: a segment's block that holds little is zero but for two
    /// sectors, and zeros on zeros are no different torn. So little is open at any moment that every subset of it can
    /// be gone through.
    Small {
        /// Chains in flight at most, 1 to 8: with each, a block of the ledger more is open, of which all eight sectors tell.
        in_flight: usize,
    },
    /// The least that opens, speaks and is ended: so short that ends during the recovery that follows can be gone through
    /// at every step as well.
    Tiny,
}

impl Workload {
    /// Chains in flight at most, where it is one of which little is open.
    const fn in_flight(self) -> Option<usize> {
        match self {
            Self::Wide => None,
            Self::Small { in_flight } => Some(in_flight),
            Self::Tiny => Some(1),
        }
    }
}

/// How far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// What is ended.
    pub workload: Workload,
    /// What is gone through at the end of the workload.
    pub first: Limits,
    /// What is gone through at an end during an opening.
    pub later: Limits,
    /// Ends in a row during openings.
    pub again: u32,
    /// Micro-steps of an opening from one end to the next.
    pub again_every: u64,
}

/// What was gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrashPoints {
    /// Micro-steps of the workload after which it was ended.
    pub points: u64,
    /// Ends of the workload, by process or machine, of which every subset of sectors was gone through.
    pub whole: u64,
    /// Ends of which every combination of blocks was gone through.
    pub by_block: u64,
    /// Ends of which a sample was gone through.
    pub sampled: u64,
    /// Ends during the recoveries that follow.
    pub later: u64,
    /// Of them, those of which a sample was gone through.
    pub later_sampled: u64,
    /// How much the most that an end of the workload may leave is: subsets of sectors times states of names.
    pub most: u64,
    /// Crashes, the later ones included.
    pub crashes: u64,
    /// Crashes that left what another had left before.
    pub known: u64,
    /// Recoveries that were checked.
    pub recoveries: u64,
    /// Segments that became another pair's in the course of the workload.
    pub recycled: u64,
}

impl CrashPoints {
    /// Ends of the workload: after each micro-step by process and by machine.
    #[must_use]
    pub const fn ends(&self) -> u64 {
        self.whole + self.by_block + self.sampled
    }
}

/// A crash point at which a promise was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schedule {schedule}, end after step {point}: {what}\n{trace}")]
pub struct CrashPointFailure {
    /// Seed of the schedule.
    pub schedule: u64,
    /// After which micro-step of the workload.
    pub point: u64,
    /// What was broken.
    pub what: String,
    /// What happened.
    pub trace: String,
}

/// What one promise broken looks like on the way out.
struct Broken {
    what: String,
    trace: Vec<String>,
}

impl From<(Violation, &mut Shard)> for Broken {
    fn from((violation, shard): (Violation, &mut Shard)) -> Self {
        Self {
            what: violation.to_string(),
            trace: shard.trace.take().unwrap_or_default(),
        }
    }
}

/// Goes through all crash points of the workload under one order of micro-steps.
///
/// # Errors
/// The first [`CrashPointFailure`].
pub fn every_crash_point(
    schedule: u64,
    depth: Depth,
) -> Result<CrashPoints, Box<CrashPointFailure>> {
    let small = depth.workload.in_flight();
    let mut options = LogOptions::for_segment_bytes(u64::from(SEGMENT_BLOCKS_MIN) * 4096);
    options.ledger_slots = LEDGER_SLOTS_MIN;
    options.nonce_range_blocks = 8;
    options.relocate_share = 1;
    options.format = if small.is_some() {
        LogFormat {
            sealing: Suite::None,
            ..LogFormat::default()
        }
    } else {
        format_of(schedule)
    };
    options.entry_body_bytes_max = options
        .entry_body_bytes_max
        .min(options.segment_entry_bytes_max());
    // Every second schedule writes through; how many group chains are in flight together varies with all.
    if schedule.is_multiple_of(2) {
        options.flush = FlushKind::Dsync;
    }
    options.group_chains_max = [8, 1, 2][(schedule % 3) as usize];
    if let Some(in_flight) = small {
        // A segment that is another pair's again is not zero below its zeros.
        options.kept_segments_max = 0;
        options.chains_in_flight_max = in_flight;
        options.group_chains_max = options.group_chains_max.min(in_flight);
    }
    let mut shard = Shard::new(SimDisk::new(schedule), options);
    shard.trace = Some(Vec::new());
    let mut walk = Walk {
        depth,
        seed: schedule << 32,
        seen: CrashPoints::default(),
        states: BTreeSet::new(),
    };
    let mut steps = Steps(&mut walk);
    let went = match depth.workload {
        Workload::Wide => workload(&mut shard, &mut steps),
        Workload::Small { .. } => small_workload(&mut shard, &mut steps),
        Workload::Tiny => tiny_workload(&mut shard, &mut steps),
    };
    went.map_err(|mut broken| {
        let mut trace = shard.trace.take().unwrap_or_default();
        trace.append(&mut broken.trace);
        Box::new(CrashPointFailure {
            schedule,
            point: walk.seen.points,
            what: broken.what,
            trace: trace.join("\n"),
        })
    })?;
    walk.seen.recycled = shard.disk.counters().recycled;
    Ok(walk.seen)
}

/// Schedules take turns through what a log's files can be made of; the first is the default.
fn format_of(schedule: u64) -> LogFormat {
    let default = LogFormat::default();
    match schedule % 4 {
        2 => LogFormat {
            log_encoding: Encoding::Json,
            ledger_encoding: Encoding::Json,
            ..default
        },
        3 => LogFormat {
            sealing: Suite::None,
            merkle_leaves: true,
            ..default
        },
        0 if Suite::Aes256Gcm.check_available().is_ok() => LogFormat {
            sealing: Suite::Aes256Gcm,
            merkle_leaves: true,
            hash: HashSuite::Blake3,
            ..default
        },
        _ => default,
    }
}

/// The walk through everything that may be left.
struct Walk {
    depth: Depth,
    seed: u64,
    seen: CrashPoints,
    /// Disk states gone through, each with what had to come back and how many ends were still to come.
    states: BTreeSet<(u64, usize, usize, u32)>,
}

impl Walk {
    /// Ends `shard` where it stands, in every way; `again`: ends in a row still to come.
    fn end_here(&mut self, shard: &Shard, limits: Limits, again: u32) -> Result<(), Broken> {
        for crash in [Crash::Kill, Crash::Power] {
            let unsettled = shard.disk.unsettled(crash);
            self.seed += 1;
            let (all, coverage) = decisions(&unsettled, limits, self.seed);
            if again == self.depth.again {
                self.seen.most = self.seen.most.max(unsettled.count());
                match coverage {
                    Coverage::Sectors => self.seen.whole += 1,
                    Coverage::Blocks => self.seen.by_block += 1,
                    Coverage::Sample => self.seen.sampled += 1,
                }
            } else {
                self.seen.later += 1;
                self.seen.later_sampled += u64::from(coverage == Coverage::Sample);
            }
            for settled in all {
                self.seen.crashes += 1;
                self.seed += 1;
                let mut left = shard.crashed(crash, &settled, self.seed);
                let history = (left.history.spoken_until(), left.history.len());
                let state = (left.disk.fingerprint(), history.0, history.1, again);
                if !self.states.insert(state) {
                    self.seen.known += 1;
                    continue;
                }
                left.note(|| format!("end: {crash:?}, {settled:?} of {unsettled:?}"));
                let went = catch_unwind(AssertUnwindSafe(|| self.come_back(&mut left, again)));
                went.unwrap_or_else(|panic| Err(panicked(panic.as_ref(), &mut left)))?;
            }
        }
        Ok(())
    }

    /// Recovers, ends again on the way, opens, reads everything back; and does so once more after a power loss.
    fn come_back(&mut self, shard: &mut Shard, again: u32) -> Result<(), Broken> {
        self.recover(shard)?;
        let mut step = 0u64;
        while again > 0 && !shard.is_open() {
            match shard.step() {
                Ok(true) => step += 1,
                Ok(false) => break, // `settle` says what is wrong with that.
                Err(violation) => return Err((violation, shard).into()),
            }
            if step.is_multiple_of(self.depth.again_every) {
                self.end_here(shard, self.depth.later, again - 1)
                    .map_err(|broken| behind(shard, broken))?;
            }
        }
        let settled = shard.settle().and_then(|()| shard.check_closed());
        settled.map_err(|v| Broken::from((v, &mut *shard)))?;
        let unsettled = shard.disk.unsettled(Crash::Power);
        let nothing = Settled {
            blocks: vec![0; unsettled.blocks.len()],
            names: vec![0; unsettled.names.len()],
        };
        self.seed += 1; // Salts come from it: none may come twice.
        let mut last = shard.crashed(Crash::Power, &nothing, self.seed);
        self.seen.crashes += 1;
        let once_more = self.recover(&mut last).and_then(|()| {
            last.settle()
                .map_err(|violation| (violation, &mut last).into())
        });
        once_more.map_err(|broken| behind(shard, broken))
    }

    fn recover(&mut self, shard: &mut Shard) -> Result<(), Broken> {
        self.seen.recoveries += 1;
        let booted = shard.boot().and_then(|boot| match boot {
            Boot::Opening => Ok(()),
            Boot::Quarantined => Err(Violation::QuarantinedWithoutFault("at boot".into())),
        });
        booted.map_err(|violation| (violation, shard).into())
    }
}

/// What happened to `shard` stands before what happened to the one that was left of it.
fn behind(shard: &mut Shard, mut broken: Broken) -> Broken {
    let mut trace = shard.trace.take().unwrap_or_default();
    trace.append(&mut broken.trace);
    Broken { trace, ..broken }
}

fn panicked(panic: &(dyn std::any::Any + Send), shard: &mut Shard) -> Broken {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    Broken {
        what: format!("panic: {}", said.unwrap_or("of another kind")),
        trace: shard.trace.take().unwrap_or_default(),
    }
}

/// Micro-steps of the workload, each of them an end.
struct Steps<'a>(&'a mut Walk);

impl Steps<'_> {
    /// Up to `count` micro-steps, fewer if nothing is in hand.
    fn run(&mut self, shard: &mut Shard, count: u64) -> Result<(), Broken> {
        for _ in 0..count {
            let more = shard.step().map_err(|v| Broken::from((v, &mut *shard)))?;
            if !more {
                break;
            }
            self.0.seen.points += 1;
            let depth = self.0.depth;
            self.0.end_here(shard, depth.first, depth.again)?;
        }
        Ok(())
    }

    fn turn(&mut self, shard: &mut Shard) -> Result<(), Broken> {
        shard.turn().map_err(|v| Broken::from((v, shard)))
    }
}

/// Two partitions, group and strict appends, votes, truncations, and more chains than a pair has slots.
fn workload(shard: &mut Shard, steps: &mut Steps<'_>) -> Result<(), Broken> {
    let (a, b) = (PartitionId(1), PartitionId(2));
    let (one, two) = (Term(1), Term(2));
    shard.boot().map_err(|v| Broken::from((v, &mut *shard)))?;
    while !shard.is_open() {
        steps.run(shard, 1)?;
    }
    shard.create(a);
    shard.create(b);
    shard.vote(a, one, Some(NodeId(2)));
    shard.append(a, one, 100, Mode::Group);
    shard.append(b, one, 5000, Mode::Group);
    steps.turn(shard)?;
    hear(shard, 5);
    shard.append(a, one, 300, Mode::Strict);
    shard.append(a, one, 40, Mode::Strict);
    steps.turn(shard)?;
    steps.run(shard, 9)?;
    shard.truncate(a, two, LogIndex(2));
    shard.vote(a, two, None);
    shard.append(a, two, 60, Mode::Group);
    hear(shard, 8);
    shard.configure(b, one);
    steps.turn(shard)?;
    steps.run(shard, 4)?;
    for round in 0..6 {
        shard.append(a, two, 200 + round, Mode::Strict);
        shard.append(b, one, 90 + round, Mode::Group);
        if round == 3 {
            shard.truncate(b, two, LogIndex(3));
        }
        // Nothing of one partition is needed, and little of the other: the first pair is emptied, and goes.
        shard.set_floor(a, LogIndex(u64::MAX));
        shard.wait_ms(100);
        steps.turn(shard)?;
        steps.run(shard, 6)?;
    }
    for _ in 0..6 {
        shard.set_floor(a, LogIndex(u64::MAX));
        shard.append(a, two, 50, Mode::Group);
        shard.wait_ms(100);
        steps.turn(shard)?;
        steps.run(shard, 40)?;
    }
    steps.run(shard, u64::MAX)
}

/// One of each kind of change, and more of them at the end than a pair has slots.
fn small_workload(shard: &mut Shard, steps: &mut Steps<'_>) -> Result<(), Broken> {
    let a = PartitionId(1);
    let (one, two) = (Term(1), Term(2));
    shard.boot().map_err(|v| Broken::from((v, &mut *shard)))?;
    while !shard.is_open() {
        steps.run(shard, 1)?;
    }
    shard.create(a);
    shard.vote(a, one, Some(NodeId(2)));
    shard.append(a, one, 20, Mode::Group);
    steps.turn(shard)?;
    steps.run(shard, 3)?;
    shard.append(a, one, 30, Mode::Strict);
    steps.turn(shard)?;
    steps.run(shard, 9)?;
    shard.append(a, one, 30, Mode::Strict);
    shard.truncate(a, two, LogIndex(2));
    shard.append(a, two, 10, Mode::Group);
    steps.turn(shard)?;
    steps.run(shard, u64::MAX)?;
    for round in 0..14 {
        shard.append(a, two, 10 + round, Mode::Strict);
        shard.set_floor(a, LogIndex(u64::MAX));
        shard.wait_ms(100);
        steps.turn(shard)?;
        steps.run(shard, 5)?;
    }
    steps.run(shard, u64::MAX)
}

/// A vote, a peer, an entry, and another in its place.
fn tiny_workload(shard: &mut Shard, steps: &mut Steps<'_>) -> Result<(), Broken> {
    let a = PartitionId(1);
    let (one, two) = (Term(1), Term(2));
    shard.boot().map_err(|v| Broken::from((v, &mut *shard)))?;
    while !shard.is_open() {
        steps.run(shard, 1)?;
    }
    shard.create(a);
    shard.vote(a, one, Some(NodeId(2)));
    hear(shard, 5);
    shard.append(a, one, 20, Mode::Strict);
    steps.turn(shard)?;
    steps.run(shard, u64::MAX)?;
    shard.truncate(a, two, LogIndex(1));
    shard.append(a, two, 10, Mode::Strict);
    steps.turn(shard)?;
    steps.run(shard, u64::MAX)
}

/// A peer is heard.
fn hear(shard: &mut Shard, chain: u64) {
    let peer = PeerId {
        node: NodeId(4),
        shard: ShardId(0),
    };
    let past = PeerPast {
        incarnation: Incarnation(1),
        boot: BootNumber(1),
        chain: ChainNumber(chain),
    };
    shard.hear(peer, past);
}
