//! How long the machine takes over its batches, and how many entries may wait for it where that is too long.
//!
//! The budget of a batch is `apply_budget_us` of the profile, kept where it is kept by 99 of 100 batches. Of the last
//! [`WINDOW_BATCHES`] a histogram is held in two halves, of which the older makes room for the next. While the replica leads and
//! is ready, every [`STRETCH_BATCHES`] a verdict is given: a *breach* where more than one of a hundred took longer both in the
//! window and in the stretch, so that one bad while long ago, or one bad moment just now, says nothing (two windows, Site
//! Reliability Workbook, chapter 5). [`BREACHES_MAX`] in a row halve what may wait for the machine, from `apply_backlog_max`
//! down to [`BACKLOG_ENTRIES_MIN`]; as many stretches in a row without one give a half back.
//!
//! All of it is the replica's own and ends with its leadership or its process: nothing here is replicated or decides what is
//! applied. A partition that goes quiet keeps what was measured last, and not how. An entry that is applied again for a machine made anew is measured and not judged: such batches are as long as can be.

use clustor_wire::ids::LogIndex;
use clustor_wire::message::{Refusal, RefusalClause};

use super::{Partition, refusal};
use crate::profile::Profile;

/// Batches of which the 99th percentile is held, at most; at least half of them once there were as many.
pub const WINDOW_BATCHES: u16 = 10_000;
/// Batches between two verdicts.
pub const STRETCH_BATCHES: u8 = 100;
/// Breaches in a row that halve what may wait, and stretches in a row without one that give a half back.
pub const BREACHES_MAX: u8 = 5;
/// Entries that may always wait for the machine.
pub const BACKLOG_ENTRIES_MIN: u64 = 16;

/// A retry makes sense after a batch, and no later than this, in milliseconds.
const RETRY_MS_MAX: u64 = 1_000;
/// The first bucket ends here, in microseconds; from there on four buckets double what they hold.
const FIRST_US: u64 = 1 << FIRST_BITS;
const FIRST_BITS: u32 = 4;
/// The last bucket begins at 14.7 s and has no end.
const BUCKETS: usize = 81;

const _: () = assert!((WINDOW_BATCHES / 2).is_multiple_of(STRETCH_BATCHES as u16));

/// Half of the window.
struct Half {
    batches: u16,
    /// How many of them took longer than the budget.
    over: u16,
    buckets: [u16; BUCKETS],
}

impl Half {
    const EMPTY: Self = Self {
        batches: 0,
        over: 0,
        buckets: [0; BUCKETS],
    };
}

/// What was measured.
struct Measured {
    now: Half,
    before: Half,
    stretch_batches: u8,
    stretch_over: u8,
    /// Stretches in a row that were breaches, or were not.
    breaches_in_row: u8,
    kept_in_row: u8,
    /// How often what may wait was halved and not given back.
    halvings: u8,
    /// Entries up to here are applied again.
    again: LogIndex,
}

/// The machine's pace.
pub(super) struct Pace {
    budget_us: u32,
    backlog_max: u32,
    breaches: u32,
    /// What was measured before it went quiet; 0 for nothing.
    before_us: u32,
    /// Made for the first batch, and given back when nothing happens.
    measured: Option<Box<Measured>>,
}

/// What a verdict changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Half as much may wait.
    Cut,
    /// A half was given back.
    GivenBack,
}

/// The bucket of a time.
fn bucket(us: u64) -> usize {
    if us < FIRST_US {
        return 0;
    }
    let octave = us.ilog2();
    let quarter = us >> (octave - 2) & 3;
    let at = 1 + u64::from(octave - FIRST_BITS) * 4 + quarter;
    usize::try_from(at).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// What the times of a bucket are less than, in microseconds.
const fn end_us(bucket: usize) -> u64 {
    if bucket == 0 {
        return FIRST_US;
    }
    let (octave, quarter) = ((bucket as u64 - 1) / 4, (bucket as u64 - 1) % 4);
    (5 + quarter) << (octave + FIRST_BITS as u64 - 2)
}

const fn is_over(over: u32, batches: u32) -> bool {
    over * 100 > batches
}

impl Measured {
    fn new() -> Self {
        Self {
            now: Half::EMPTY,
            before: Half::EMPTY,
            stretch_batches: 0,
            stretch_over: 0,
            breaches_in_row: 0,
            kept_in_row: 0,
            halvings: 0,
            again: LogIndex::ZERO,
        }
    }

    fn batches(&self) -> u32 {
        u32::from(self.now.batches) + u32::from(self.before.batches)
    }

    fn is_over(&self) -> bool {
        let over = u32::from(self.now.over) + u32::from(self.before.over);
        is_over(over, self.batches())
    }

    fn note(&mut self, us: u64, over: bool) {
        if self.now.batches == WINDOW_BATCHES / 2 {
            self.before = core::mem::replace(&mut self.now, Half::EMPTY);
        }
        self.now.batches += 1;
        self.now.over += u16::from(over);
        self.now.buckets[bucket(us)] += 1;
    }

    /// The stretch's verdict, if it ends with this batch: whether it was a breach.
    fn judge(&mut self, over: bool) -> Option<bool> {
        self.stretch_batches += 1;
        self.stretch_over += u8::from(over);
        if self.stretch_batches < STRETCH_BATCHES {
            return None;
        }
        let stretch = is_over(self.stretch_over.into(), self.stretch_batches.into());
        (self.stretch_batches, self.stretch_over) = (0, 0);
        Some(stretch && self.is_over())
    }

    /// The end of the bucket in which the 99th percentile is (nearest rank), in microseconds.
    fn p99_us(&self) -> u64 {
        let rank = (self.batches() * 99).div_ceil(100);
        let mut seen = 0;
        let both = self.now.buckets.iter().zip(&self.before.buckets);
        for (at, (now, before)) in both.enumerate() {
            seen += u32::from(*now) + u32::from(*before);
            if seen >= rank {
                return end_us(at);
            }
        }
        end_us(BUCKETS - 1)
    }
}

impl Pace {
    pub fn new(profile: &Profile) -> Self {
        Self {
            budget_us: u32::try_from(profile.apply_budget_us).unwrap_or(u32::MAX),
            backlog_max: u32::try_from(profile.apply_backlog_max).unwrap_or(u32::MAX),
            breaches: 0,
            before_us: 0,
            measured: None,
        }
    }

    /// Obeys the profile from here on. Under another budget everything begins anew.
    pub fn retune(&mut self, profile: &Profile) {
        let new = Self::new(profile);
        if new.budget_us == self.budget_us {
            self.backlog_max = new.backlog_max;
        } else {
            *self = new;
        }
    }

    /// A batch took so long. `judged`: it counts for or against the machine.
    fn note(&mut self, us: u64, reached: LogIndex, judged: bool) -> Option<Change> {
        let over = us > u64::from(self.budget_us);
        let measured = self
            .measured
            .get_or_insert_with(|| Box::new(Measured::new()));
        measured.note(us, over);
        if !judged || reached <= measured.again {
            return None;
        }
        let breach = measured.judge(over)?;
        let (row, other) = if breach {
            self.breaches = self.breaches.saturating_add(1);
            (&mut measured.breaches_in_row, &mut measured.kept_in_row)
        } else {
            (&mut measured.kept_in_row, &mut measured.breaches_in_row)
        };
        *other = 0;
        *row += 1;
        if *row < BREACHES_MAX {
            return None;
        }
        *row = 0;
        if breach { self.cut() } else { self.give_back() }
    }

    fn cut(&mut self) -> Option<Change> {
        let least = self.backlog().is_some_and(|b| b <= BACKLOG_ENTRIES_MIN);
        let measured = self.measured.as_mut().filter(|_| !least)?;
        measured.halvings += 1;
        Some(Change::Cut)
    }

    fn give_back(&mut self) -> Option<Change> {
        let measured = self.measured.as_mut().filter(|m| m.halvings > 0)?;
        measured.halvings -= 1;
        Some(Change::GivenBack)
    }

    /// Everything up to here is applied again, for a machine made anew.
    pub fn start_over(&mut self, applied: LogIndex) {
        if applied > LogIndex::ZERO {
            let measured = self
                .measured
                .get_or_insert_with(|| Box::new(Measured::new()));
            measured.again = measured.again.max(applied);
        }
    }

    /// Nothing happens in its partition: memory is given back, unless something is held against the machine.
    pub fn rest(&mut self) {
        let p99_us = self.p99_us().unwrap_or(0);
        if self
            .measured
            .take_if(|measured| measured.halvings == 0)
            .is_some()
        {
            self.before_us = u32::try_from(p99_us).unwrap_or(u32::MAX);
        }
    }

    /// It leads no longer: what it held against the machine as a leader is forgotten.
    pub fn on_deposed(&mut self) {
        if let Some(measured) = &mut self.measured {
            (measured.stretch_batches, measured.stretch_over) = (0, 0);
            (measured.breaches_in_row, measured.kept_in_row) = (0, 0);
            measured.halvings = 0;
        }
    }

    /// The 99th percentile of what batches took, in microseconds, rounded up by less than a quarter; on the right side of the
    /// budget. `None` before the first.
    pub fn p99_us(&self) -> Option<u64> {
        let measured = self.measured.as_ref().filter(|m| m.batches() > 0);
        let Some(measured) = measured else {
            return (self.before_us > 0).then_some(self.before_us.into());
        };
        let p99_us = measured.p99_us();
        let within = p99_us.min(self.budget_us.into());
        Some(if measured.is_over() { p99_us } else { within })
    }

    /// Breaches since the start, or since the budget was another.
    pub fn breaches(&self) -> u64 {
        self.breaches.into()
    }

    /// How many entries may wait for the machine, where that is limited.
    pub fn backlog(&self) -> Option<u64> {
        let halvings = self.measured.as_ref()?.halvings;
        let left = u64::from(self.backlog_max) >> halvings;
        (halvings > 0).then_some(left.max(BACKLOG_ENTRIES_MIN))
    }
}

impl Partition {
    /// The machine was called for what ends at this index, and took so long.
    pub(super) fn took_us(&mut self, us: u64, reached: LogIndex) {
        let judged = self.is_ready();
        let Some(change) = self.pace.note(us, reached, judged) else {
            return;
        };
        let partition = self.id;
        let (p99_us, backlog) = (self.pace.p99_us(), self.pace.backlog());
        match change {
            Change::Cut => tracing::warn!(
                %partition,
                p99_us,
                budget_us = self.pace.budget_us,
                breaches = self.pace.breaches(),
                backlog,
                "the machine takes too long over its batches: fewer entries may wait for it"
            ),
            Change::GivenBack => tracing::info!(
                %partition,
                p99_us,
                backlog,
                "the machine keeps its budget again: more entries may wait for it"
            ),
        }
    }

    /// Whether an append may enter the log: it may wait as others do, and the machine is not too far behind.
    pub(crate) fn admit_append(&self) -> Result<(), Refusal> {
        self.admit()?;
        let waiting = self.replica.last_index().get();
        let waiting = waiting.saturating_sub(self.applied.get());
        if self.pace.backlog().is_none_or(|backlog| waiting < backlog) {
            return Ok(());
        }
        let p99_ms = self.pace.p99_us().unwrap_or(0).div_ceil(1000);
        let retry_ms = u32::try_from(p99_ms.clamp(1, RETRY_MS_MAX)).unwrap_or(1);
        let why = self.why_narrowed();
        Err(refusal(
            RefusalClause::ApplyBudget,
            format!("partition {}: {waiting} entries wait: {why}", self.id),
            retry_ms,
        ))
    }

    /// Why fewer entries may wait than usual; empty if as many may.
    pub(super) fn why_narrowed(&self) -> String {
        let (Some(backlog), Some(p99_us)) = (self.pace.backlog(), self.pace.p99_us()) else {
            return String::new();
        };
        format!(
            "at most {backlog} may wait for the machine, whose batches take up to {p99_us} us (99th percentile; \
             apply_budget_us = {})",
            self.pace.budget_us
        )
    }
}
