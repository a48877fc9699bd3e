//! Every crash point of a small workload: the process ends after each micro-step, in each way; then again after
//! each micro-step of the recovery's opening; then what is there must come back.

use clustor_shards::log::options::{LEDGER_SLOTS_MIN, SEGMENT_BLOCKS_MIN};
use clustor_shards::log::{LogOptions, Mode};
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};

use super::history::Violation;
use super::shard::{Boot, Shard};
use crate::disk::{Crash, Fate, SimDisk};

/// The ways to end.
const ENDS: [(Crash, Fate); 6] = [
    (Crash::Kill, Fate::Lost),
    (Crash::Kill, Fate::Torn),
    (Crash::Power, Fate::Lost),
    (Crash::Power, Fate::Landed),
    (Crash::Power, Fate::Torn),
    (Crash::Power, Fate::Random),
];
/// The ways to end a second time, during the opening.
const SECOND_ENDS: [(Crash, Fate); 3] = [
    (Crash::Kill, Fate::Torn),
    (Crash::Power, Fate::Lost),
    (Crash::Power, Fate::Random),
];

/// What was gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrashPoints {
    /// Micro-steps of the workload after which it was ended.
    pub points: u64,
    /// Recoveries that were checked.
    pub recoveries: u64,
}

/// A crash point at which a promise was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "schedule {schedule}, end after step {point} by {first:?}, then {second:?}: {violation}\n{trace}"
)]
pub struct CrashPointFailure {
    /// Seed of the schedule.
    pub schedule: u64,
    /// After which micro-step.
    pub point: u64,
    /// How.
    pub first: (Crash, Fate),
    /// After which micro-step of the opening, and how, if there was a second end.
    pub second: Option<(u64, Crash, Fate)>,
    /// What was broken.
    pub violation: Violation,
    /// What happened.
    pub trace: String,
}

/// Goes through all crash points of the workload under one order of micro-steps; `second_every`: after every
/// so many micro-steps of an opening it is ended a second time.
///
/// # Errors
/// The first [`CrashPointFailure`].
pub fn every_crash_point(
    schedule: u64,
    second_every: u64,
) -> Result<CrashPoints, Box<CrashPointFailure>> {
    let mut seen = CrashPoints::default();
    for point in 1.. {
        for first in ENDS {
            let mut shard = new_shard(schedule);
            let fail = |shard: &mut Shard, second, violation| {
                Box::new(CrashPointFailure {
                    schedule,
                    point,
                    first,
                    second,
                    violation,
                    trace: shard.trace.take().unwrap_or_default().join("\n"),
                })
            };
            let ended = workload(&mut shard, point).map_err(|v| fail(&mut shard, None, v))?;
            if !ended {
                return Ok(seen);
            }
            shard.crash(first.0, first.1);
            for step in (1..).step_by(second_every as usize) {
                let mut open = false;
                for (end, (crash, fate)) in SECOND_ENDS.into_iter().enumerate() {
                    let mut again = shard.fork(schedule + 31 * point + end as u64);
                    let second = Some((step, crash, fate));
                    open = end_during_opening(&mut again, step, crash, fate)
                        .map_err(|v| fail(&mut again, second, v))?;
                    come_back(&mut again).map_err(|v| fail(&mut again, second, v))?;
                    seen.recoveries += 2;
                }
                if open {
                    break;
                }
            }
        }
        seen.points += 1;
    }
    Ok(seen)
}

fn new_shard(schedule: u64) -> Shard {
    let mut options = LogOptions::for_segment_bytes(u64::from(SEGMENT_BLOCKS_MIN) * 4096);
    options.ledger_slots = LEDGER_SLOTS_MIN;
    options.nonce_range_blocks = 8;
    options.relocate_share = 1;
    let mut shard = Shard::new(SimDisk::new(schedule), options);
    shard.trace = Some(Vec::new());
    shard
}

/// Counts micro-steps down; `false` when the end has come.
struct Steps(u64);

impl Steps {
    /// Up to `count` micro-steps, fewer if nothing is in hand or the end comes.
    fn run(&mut self, shard: &mut Shard, count: u64) -> Result<bool, Violation> {
        for _ in 0..count {
            if !shard.step()? {
                break;
            }
            self.0 -= 1;
            if self.0 == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn run_until_open(&mut self, shard: &mut Shard) -> Result<bool, Violation> {
        while !shard.is_open() {
            if !self.run(shard, 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Two partitions, group and strict appends, votes, truncations, and more chains than a pair has slots.
/// `true` if it was stopped after `point` micro-steps, `false` if it ended before.
fn workload(shard: &mut Shard, point: u64) -> Result<bool, Violation> {
    let mut steps = Steps(point);
    let (a, b) = (PartitionId(1), PartitionId(2));
    let (one, two) = (Term(1), Term(2));
    shard.boot()?;
    if !steps.run_until_open(shard)? {
        return Ok(true);
    }
    shard.create(a);
    shard.create(b);
    shard.vote(a, one, Some(NodeId(2)));
    shard.append(a, one, 100, Mode::Group);
    shard.append(b, one, 5000, Mode::Group);
    shard.turn()?;
    shard.append(a, one, 300, Mode::Strict);
    shard.append(a, one, 40, Mode::Strict);
    shard.turn()?;
    if !steps.run(shard, 9)? {
        return Ok(true);
    }
    shard.truncate(a, two, LogIndex(2));
    shard.vote(a, two, None);
    shard.append(a, two, 60, Mode::Group);
    shard.configure(b, one);
    shard.turn()?;
    if !steps.run(shard, 4)? {
        return Ok(true);
    }
    for round in 0..6 {
        shard.append(a, two, 200 + round, Mode::Strict);
        shard.append(b, one, 90 + round, Mode::Group);
        if round == 3 {
            shard.truncate(b, two, LogIndex(3));
        }
        // Nothing of one partition is needed, and little of the other: the first pair is emptied, and goes.
        shard.set_floor(a, LogIndex(u64::MAX));
        shard.wait_ms(100);
        shard.turn()?;
        if !steps.run(shard, 6)? {
            return Ok(true);
        }
    }
    for _ in 0..6 {
        shard.set_floor(a, LogIndex(u64::MAX));
        shard.append(a, two, 50, Mode::Group);
        shard.wait_ms(100);
        shard.turn()?;
        if !steps.run(shard, 40)? {
            return Ok(true);
        }
    }
    Ok(!steps.run(shard, u64::MAX)?)
}

/// Recovers and ends again after `step` micro-steps; `true` if the log had opened before.
fn end_during_opening(
    shard: &mut Shard,
    step: u64,
    crash: Crash,
    fate: Fate,
) -> Result<bool, Violation> {
    recover(shard)?;
    let mut steps = Steps(step);
    let open = steps.run_until_open(shard)?;
    shard.crash(crash, fate);
    Ok(open)
}

/// Recovers, opens, reads everything back.
fn come_back(shard: &mut Shard) -> Result<(), Violation> {
    recover(shard)?;
    shard.settle()?;
    shard.check_closed()
}

fn recover(shard: &mut Shard) -> Result<(), Violation> {
    match shard.boot()? {
        Boot::Opening => Ok(()),
        Boot::Quarantined => Err(Violation::QuarantinedWithoutFault("at boot".into())),
    }
}
