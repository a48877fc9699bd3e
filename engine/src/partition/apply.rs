//! Committed entries through the idempotency table and the machine.
//!
//! The table goes through every entry from the base of the log on; the machine gets those above the index it
//! opened at. A machine that fails is dropped, made anew and fed again from where it opens: the first time at once, after
//! [`FAILURES_MAX`] failures within [`FAILURE_WINDOW_MS`] with a pause. A panic in its code is a failure of this
//! partition alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clustor_shards::log::record::{RecordKind, records};
use clustor_shards::turn::Time;
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{Refusal, RefusalClause};

use super::busy::Busy;
use super::idempotency::KeyVerdict;
use super::pause::Pause;
use super::unread::{self, Order};
use super::{Answer, MachineSlot, Partition, PendingAppend, refusal};
use crate::lent::Lent;
use crate::machine::{Admit, Applied, Batch, Expired, Guarded, Item, Stamp, Stopwatch};
use crate::outcome::Outcome;
use crate::raft::EntryCache;
use crate::raft::entry::{EntryKey, EntryKind, SystemKind};
use crate::request::Wait;

/// Failures of a machine within [`FAILURE_WINDOW_MS`] after which it is left alone for [`FAILURE_PAUSE_MS`].
pub const FAILURES_MAX: usize = 3;
/// Window in which failures are counted, in milliseconds.
pub const FAILURE_WINDOW_MS: u64 = 60_000;
/// Pause after too many failures, in milliseconds.
pub const FAILURE_PAUSE_MS: u64 = 5_000;
/// Pause after the failures before, in milliseconds.
pub const RETRY_PAUSE_MS: u64 = 10;
/// When to ask again a leader that is not ready yet, in milliseconds.
const READY_RETRY_MS: u32 = 25;
/// Bytes of frames copied from the cache for one batch.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Why a machine does not run, and when it is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineTrouble {
    reason: String,
    retry_at: Option<Time>,
}

impl MachineTrouble {
    pub(super) fn not_opened() -> Self {
        Self {
            reason: "has not been opened".to_owned(),
            retry_at: None,
        }
    }
}

impl core::fmt::Display for MachineTrouble {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What applying needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyStep {
    /// Nothing: everything applicable is applied, or the machine rests.
    Done,
    /// The entries from this index on, from the log.
    Read(LogIndex),
    /// Another call: a batch was applied and there is more.
    More,
}

/// What the table says of one entry, kept until the machine has answered.
pub(super) struct Judged {
    index: LogIndex,
    term: Term,
    verdict: KeyVerdict,
}

/// Why the machine did not take all it was called with.
enum Stop {
    /// It can't go on.
    Failed(String),
    /// It wants to be called again, from this index on.
    Later { from: LogIndex, reason: String },
}

impl Partition {
    /// When the machine is to be made again, or called again.
    pub(crate) fn machine_deadline(&self) -> Option<Time> {
        match &self.machine {
            MachineSlot::Failed(trouble) => trouble.retry_at,
            MachineSlot::Running(_) => {
                let pause = self.busy.pause.as_ref().and_then(Pause::until);
                let stops = [pause, self.unread_deadline(), self.lost_deadline()];
                stops.into_iter().flatten().min()
            }
        }
    }

    pub(super) fn open_machine(&mut self, now: Time) {
        let factory = &self.factory;
        let id = self.id;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut machine = Guarded::new(factory(id));
            machine.get_mut().open().map(|opened| (machine, opened))
        }));
        match opened {
            Ok(Ok((machine, opened))) if opened.applied <= self.replica.last_index() => {
                if let Err(error) = self.busy.effects.open(opened.timers) {
                    self.fail_machine(format!("opened with timers that can't be: {error}"), now);
                    return;
                }
                self.machine = MachineSlot::Running(machine);
                self.machine_from = opened.applied;
                self.start_over();
            }
            Ok(Ok((_, opened))) => self.fail_machine(
                format!(
                    "opened at index {}, the log ends at {}: they are not of one history",
                    opened.applied,
                    self.replica.last_index()
                ),
                now,
            ),
            Ok(Err(error)) => self.fail_machine(format!("can't open: {error}"), now),
            Err(panic) => {
                self.fail_machine(format!("panicked while opening: {}", said(&*panic)), now);
            }
        }
    }

    /// Applies again from the base of the log, entries the machine already has to the table only.
    fn start_over(&mut self) {
        self.pace.start_over(self.applied);
        self.applied = self.replica.base_index();
        self.stamp_ms = 0;
        self.table = Lent::default();
        self.busy.pause = None;
        self.busy.stuck = None;
    }

    fn fail_machine(&mut self, reason: String, now: Time) {
        self.busy
            .failures
            .retain(|then| now.since_us(*then) < FAILURE_WINDOW_MS * 1000);
        self.busy.failures.push(now);
        let pause = if self.busy.failures.len() >= FAILURES_MAX {
            FAILURE_PAUSE_MS
        } else {
            RETRY_PAUSE_MS
        };
        self.busy.failed_before = self.busy.failed_before.max(Some(self.applied));
        tracing::error!(partition = %self.id, reason, "the machine failed and will be made again");
        self.machine = MachineSlot::Failed(Box::new(MachineTrouble {
            reason,
            retry_at: Some(now.plus_ms(pause)),
        }));
        self.hand_over = true;
        // A leader is ready again once the machine made anew has all that is on its way: nobody waits for that any more, and who asks
        // again must not be told that it never happens.
        if self.replica.is_leader() {
            let on_its_way = Some(self.replica.last_index());
            self.busy.ready_at = self.busy.ready_at.max(on_its_way);
        }
        // Their items are applied again, and answered then, unless the machine made anew has them.
        let waiting = self.busy.deferrals.forget();
        for append in waiting.rev() {
            self.busy.appends.push_front(append);
        }
    }

    /// Asks the machine whether a command may enter the log.
    pub(crate) fn ask_machine(
        &mut self,
        now: Time,
        command: &[u8],
        key: Option<&EntryKey>,
    ) -> Result<(), Refusal> {
        let MachineSlot::Running(machine) = &self.machine else {
            return Ok(());
        };
        match catch_unwind(AssertUnwindSafe(|| machine.get().admit(command))) {
            Ok(Admit::Yes) => Ok(()),
            Ok(Admit::No(_)) if key.is_some_and(|key| self.may_be_known(key)) => Ok(()),
            Ok(Admit::No(reason)) if !self.is_ready() => Err(refusal(
                RefusalClause::Busy,
                format!(
                    "partition {}: the machine is not up to date yet, and by what it has it does not admit this: {reason}",
                    self.id
                ),
                READY_RETRY_MS,
            )),
            Ok(Admit::No(reason)) => Err(refusal(
                RefusalClause::Rejected,
                format!("partition {}: not admitted: {reason}", self.id),
                0,
            )),
            Err(panic) => {
                self.fail_machine(format!("panicked in admit: {}", said(&*panic)), now);
                self.start_over();
                self.admit()
            }
        }
    }

    /// Applies one batch of what may be applied, from the cache.
    pub(crate) fn apply(
        &mut self,
        now: Time,
        watch: &dyn Stopwatch,
        cache: &EntryCache,
        frames: &mut Vec<u8>,
        answers: &mut Vec<Answer>,
    ) -> ApplyStep {
        self.judge_late(now, answers);
        if !self.machine_may_run(now, answers) {
            return ApplyStep::Done;
        }
        let limit = self.replica.applicable();
        self.answer_committed(limit, answers);
        if let Some(step) = self.resume(now, watch, answers) {
            return step;
        }
        if self.applied >= limit {
            return ApplyStep::Done;
        }
        let waits = self.busy.apply_read.is_some() || self.busy.deferrals.is_full();
        if self.is_before_unread(now, answers) || waits {
            return ApplyStep::Done;
        }
        frames.clear();
        let from = self.applied.next();
        let to = limit.min(LogIndex(self.applied.get() + self.apply_entries_max as u64));
        let slot = self.replica.cache_slot();
        if cache.copy(slot, from, to, BATCH_BYTES_MAX, frames) == 0 {
            return ApplyStep::Read(from);
        }
        self.apply_frames(now, watch, frames, limit, answers);
        ApplyStep::More
    }

    /// Tells the replica whether the machine goes on: whether it runs, nothing it can't take comes next, and it has got as far
    /// as it was at its last failure, and past what it failed at.
    pub(crate) fn tell_lame(&mut self) {
        let runs = matches!(self.machine, MachineSlot::Running(_));
        if runs && self.busy.failed_before.is_some_and(|at| at <= self.applied) {
            self.busy.failed_before = None;
        }
        let goes_on = runs && self.busy.failed_before.is_none() && self.stuck().is_none();
        self.replica.set_lame(!goes_on);
    }

    fn machine_may_run(&mut self, now: Time, answers: &mut Vec<Answer>) -> bool {
        if let MachineSlot::Failed(trouble) = &self.machine {
            if trouble.retry_at.is_none_or(|at| at > now) {
                return false;
            }
            self.open_machine(now);
            if let MachineSlot::Failed(_) = &self.machine {
                self.give_up_appends("its machine failed before the append was applied", answers);
                return false;
            }
            // It is not fed these again: what it replied, and whether their effects are safe, went with the one before.
            let from = self.machine_from;
            let is_lost =
                |append: &PendingAppend| append.wait == Wait::Applied && append.index <= from;
            let why = "its machine failed after it had applied the append, and its reply is lost";
            self.give_up_those(why, is_lost, answers);
        }
        true
    }

    /// Applies verified frames that begin right behind what is applied; those above `limit` are left alone.
    pub(crate) fn apply_frames(
        &mut self,
        now: Time,
        watch: &dyn Stopwatch,
        frames: &[u8],
        limit: LogIndex,
        answers: &mut Vec<Answer>,
    ) {
        self.busy.stuck = None;
        let mut items: Vec<Item<'_>> = Vec::new();
        let mut judged: Vec<Judged> = Vec::new();
        let mut next = self.applied.next();
        for record in records(frames) {
            let Ok(record) = record else { break };
            let header = &record.header;
            if header.index != next || next > limit || judged.len() >= self.apply_entries_max {
                break;
            }
            if header.kind == RecordKind::Configuration {
                next = next.next();
                continue;
            }
            let (body, order) = match unread::read(record.body) {
                Ok(said) => said,
                Err(why) => {
                    self.stop_before(now, header.index, &why);
                    break;
                }
            };
            if body.kind == EntryKind::System(SystemKind::TimersDue)
                && header.index > self.machine_from
            {
                // What is due depends on everything before it: it has a turn of its own, behind that.
                if header.index == self.applied.next() {
                    self.stamp_ms = self.stamp_ms.max(body.stamp_ms);
                    self.expire(now, watch, header.index, header.term, answers);
                    return;
                }
                break;
            }
            next = next.next();
            self.stamp_ms = self.stamp_ms.max(body.stamp_ms);
            match order {
                Order::None => {}
                Order::Mode(transition) => {
                    self.replica.learn_transition(header.index, transition);
                    judged.push(Judged {
                        index: header.index,
                        term: header.term,
                        verdict: KeyVerdict::Execute,
                    });
                }
                Order::KeysMax(keys_max) => {
                    self.table.set_keys_max(keys_max);
                    self.keys_wish.learn(header.index, keys_max);
                }
            }
            if body.kind != EntryKind::Command {
                continue;
            }
            let verdict = body.key.map_or(KeyVerdict::Execute, |key| {
                self.table.judge(&key, header.term, header.index)
            });
            if verdict == KeyVerdict::Execute && header.index > self.machine_from {
                items.push(Item {
                    index: header.index,
                    term: header.term,
                    stamp: Stamp(self.stamp_ms.saturating_mul(1000)),
                    command: body.payload,
                });
            }
            judged.push(Judged {
                index: header.index,
                term: header.term,
                verdict,
            });
        }
        let reached = next.prev();
        self.run(now, watch, &items, judged, reached, answers);
    }

    pub(super) fn run(
        &mut self,
        now: Time,
        watch: &dyn Stopwatch,
        items: &[Item<'_>],
        mut judged: Vec<Judged>,
        reached: LogIndex,
        answers: &mut Vec<Answer>,
    ) {
        self.busy.effects.clear();
        match self.run_machine(watch, items) {
            Ok(()) => {
                self.busy.pause = None;
                self.took(now, reached, &judged, answers);
            }
            Err(Stop::Failed(failure)) => self.give_up_before_next(failure, now, answers),
            Err(Stop::Later { from, reason }) => {
                let taken = items.partition_point(|item| item.index < from);
                if let Err(failure) = self.begin_pause(now, taken > 0, reason) {
                    return self.give_up_before_next(failure, now, answers);
                }
                self.busy.effects.forget_from(from);
                let later = judged.partition_point(|entry| entry.index < from);
                let later = judged.split_off(later);
                self.took(now, from.prev(), &judged, answers);
                self.keep_rest(&items[taken..], later, reached);
            }
        }
    }

    /// Entries took effect, up to this one.
    fn took(&mut self, now: Time, reached: LogIndex, judged: &[Judged], answers: &mut Vec<Answer>) {
        self.applied = self.applied.max(reached);
        let Busy {
            deferrals, effects, ..
        } = &mut *self.busy;
        deferrals.begin(now, effects.take_deferred());
        self.answer_applied(judged, answers);
        self.tell_ready(answers);
    }

    /// The machine can't go on: it will be made again, and who waits for it learns that nobody knows.
    pub(super) fn give_up_machine(
        &mut self,
        failure: String,
        now: Time,
        answers: &mut Vec<Answer>,
    ) {
        self.fail_machine(failure, now);
        self.start_over();
        self.give_up_appends("its machine failed while it was applied", answers);
    }

    /// The same at what comes next: a machine made anew goes on once it has got past that.
    fn give_up_before_next(&mut self, failure: String, now: Time, answers: &mut Vec<Answer>) {
        self.busy.failed_before = Some(self.applied.next());
        self.give_up_machine(failure, now, answers);
    }

    /// Lets the timers that are due expire at the entry that says so, alone in its batch.
    fn expire(
        &mut self,
        now: Time,
        watch: &dyn Stopwatch,
        index: LogIndex,
        term: Term,
        answers: &mut Vec<Answer>,
    ) {
        self.busy.effects.clear();
        let failure = match self.run_expired(watch, index, term) {
            Ok(()) => {
                self.busy.pause = None;
                return self.took(now, index, &[], answers);
            }
            Err(Stop::Later { reason, .. }) => {
                self.busy.effects.forget_from(index);
                self.begin_pause(now, false, reason)
            }
            Err(Stop::Failed(failure)) => Err(failure),
        };
        if let Err(failure) = failure {
            self.give_up_before_next(failure, now, answers);
        }
    }

    /// Runs the machine over the timers that are due.
    fn run_expired(
        &mut self,
        watch: &dyn Stopwatch,
        index: LogIndex,
        term: Term,
    ) -> Result<(), Stop> {
        let stamp = Stamp(self.stamp_ms.saturating_mul(1000));
        let timers = self.busy.effects.take_due(index, stamp);
        if timers.is_empty() {
            return Ok(());
        }
        let MachineSlot::Running(machine) = &mut self.machine else {
            return Err(Stop::Failed("does not run".to_owned()));
        };
        let expired = Expired {
            index,
            term,
            stamp,
            timers: &timers,
        };
        let effects = &mut self.busy.effects;
        effects.settle_with(self.id, &self.acks);
        let began = watch.read_us();
        let answer = catch_unwind(AssertUnwindSafe(|| {
            machine.get_mut().expire(expired, effects)
        }));
        self.took_us(watch.read_us().saturating_sub(began), index);
        match stop_of(answer) {
            Err(Stop::Later { from, .. }) if from != index => Err(Stop::Failed(format!(
                "asked to retry from {from}, timers expired at {index}"
            ))),
            answer => answer,
        }
    }

    /// Runs the machine over all items.
    fn run_machine(&mut self, watch: &dyn Stopwatch, items: &[Item<'_>]) -> Result<(), Stop> {
        let Some(last) = items.last() else {
            return Ok(());
        };
        let MachineSlot::Running(machine) = &mut self.machine else {
            return Err(Stop::Failed("does not run".to_owned()));
        };
        let effects = &mut self.busy.effects;
        effects.settle_with(self.id, &self.acks);
        let batch = Batch::new(items);
        let began = watch.read_us();
        let answer = catch_unwind(AssertUnwindSafe(|| machine.get_mut().apply(batch, effects)));
        self.took_us(watch.read_us().saturating_sub(began), last.index);
        match stop_of(answer) {
            Err(Stop::Later { from, .. }) if items.iter().all(|item| item.index != from) => {
                Err(Stop::Failed(format!(
                    "asked to retry from {from}, which is not in its batch"
                )))
            }
            answer => answer,
        }
    }

    /// Appends that wait for no more than being committed.
    fn answer_committed(&mut self, limit: LogIndex, answers: &mut Vec<Answer>) {
        if self.busy.appends.is_empty() || limit <= self.busy.told_committed {
            return;
        }
        let term = self.replica.term();
        let Busy {
            appends,
            told_committed,
            ..
        } = &mut *self.busy;
        // In the order of the log: each is looked at once.
        let begin = appends.partition_point(|append| append.index <= *told_committed);
        let reached = appends.partition_point(|append| append.index <= limit);
        *told_committed = limit;
        let mut kept = begin;
        for at in begin..reached {
            let append = &appends[at];
            if append.wait == Wait::Committed {
                let outcome = Outcome::Applied {
                    term,
                    index: append.index,
                    reply: Vec::new(),
                    duplicate: false,
                };
                answers.push(Answer::Append(append.origin, outcome));
            } else {
                appends.swap(kept, at);
                kept += 1;
            }
        }
        appends.drain(kept..reached);
    }

    fn answer_applied(&mut self, judged: &[Judged], answers: &mut Vec<Answer>) {
        for entry in judged {
            while self
                .busy
                .appends
                .front()
                .is_some_and(|append| append.index <= entry.index)
            {
                let Some(append) = self.busy.appends.pop_front() else {
                    break;
                };
                // A leader's own entries are never replaced while it leads, and what it awaits is given up
                // with its leadership: what is awaited at an index is what is applied there.
                assert!(append.index == entry.index);
                let outcome = self.outcome(entry);
                let promised = match entry.verdict {
                    KeyVerdict::Duplicate { index, .. } => index,
                    KeyVerdict::Execute | KeyVerdict::Expired => entry.index,
                };
                answers.extend(self.busy.deferrals.park(promised, append, outcome));
            }
        }
    }

    fn outcome(&self, entry: &Judged) -> Outcome {
        match entry.verdict {
            KeyVerdict::Execute => Outcome::Applied {
                term: entry.term,
                index: entry.index,
                reply: self.busy.effects.reply_of(entry.index).to_vec(),
                duplicate: false,
            },
            KeyVerdict::Duplicate { term, index } => Outcome::Applied {
                term,
                index,
                reply: Vec::new(),
                duplicate: true,
            },
            KeyVerdict::Expired => Outcome::NotExecuted {
                refusal: refusal(
                    RefusalClause::KeyExpired,
                    format!(
                        "partition {}: the key's index is older than the keys remembered, or not below the entry's own",
                        self.id
                    ),
                    0,
                ),
            },
        }
    }
}

/// Whether the machine took all, by its answer or its panic.
fn stop_of(answer: Result<Applied, Box<dyn core::any::Any + Send>>) -> Result<(), Stop> {
    match answer {
        Ok(Applied::Ack) => Ok(()),
        Ok(Applied::Retryable { from, reason }) => Err(Stop::Later { from, reason }),
        Ok(Applied::Fatal(reason)) => Err(Stop::Failed(format!("failed: {reason}"))),
        Err(panic) => Err(Stop::Failed(format!("panicked: {}", said(&*panic)))),
    }
}

/// What a panic said, if it said anything.
fn said(panic: &(dyn core::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
