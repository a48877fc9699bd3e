//! A leader's view of one follower: what it has, what is under way to it, when to repeat.
//!
//! Two states. *Probing*: the leader does not know where the logs agree; one batch at a time. *Streaming*: it
//! does; up to four batches are in flight. An answer that does not come within
//! clamp(2 x smoothed round trip, 100, 1000) ms (doubled once it was missed) sends the leader back to probing,
//! as does a refusal. A follower that owes the acknowledgement of what it has received is asked with an empty batch each
//! greatest RPC timeout: its last one may be lost. What a follower acknowledged as durable never goes back; what it
//! merely received may, when it restarts.

use std::collections::VecDeque;

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, PartitionId};

use super::durable::{Acknowledged, PeerDurable};
use super::settings::{Limits, Timers};
use crate::lent::{Bare, Lent};

/// Assumed before the first answer: half of what makes the least timeout for a local network.
const ROUND_TRIP_US_INITIAL: u64 = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Probing,
    Streaming,
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    last: LogIndex,
    bytes: usize,
    sent: Time,
}

/// What is under way to a follower, and how far behind it is: nothing of that while all are quiet.
#[derive(Debug)]
pub(super) struct Way {
    batches: VecDeque<Batch>,
    bytes: usize,
    missed: bool,
    reading: bool,
    read_due: Time,
    /// Since when it owes an acknowledgement of what it has received, with nothing under way to it.
    owes_since: Option<Time>,
    /// Since when it has not caught up, or is silent.
    pub(super) behind_since: Option<Time>,
    /// Since when it answers and has not caught up.
    pub(super) slow_since: Option<Time>,
    /// It is structurally far behind, in bytes.
    pub(super) is_far: bool,
    /// When it declined to lead; forgotten while all are quiet.
    pub(super) declined: Option<Time>,
}

impl Way {
    const NONE: Self = Self {
        batches: VecDeque::new(),
        bytes: 0,
        missed: false,
        reading: false,
        read_due: Time(0),
        owes_since: None,
        behind_since: None,
        slow_since: None,
        is_far: false,
        declined: None,
    };
}

impl Bare for Way {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.batches.is_empty()
            && !self.missed
            && !self.reading
            && self.owes_since.is_none()
            && self.behind_since.is_none()
            && self.slow_since.is_none()
            && !self.is_far
    }
}

/// How far a follower is from being quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Something that wakes it was sent last.
    Awake,
    /// It was asked in the leader's latest round, and has not answered that.
    Asked,
    /// It has.
    Quiet,
}

/// A leader's view of one follower.
#[derive(Debug)]
pub(super) struct Progress {
    peer: PeerId,
    matched: LogIndex,
    next: LogIndex,
    durable: Acknowledged,
    /// How its log writes, as it said last; 0 before it said anything.
    io_writer_mode: u8,
    flow: Flow,
    pub(super) way: Lent<Way>,
    round_trip_us: u64,
    needs_snapshot: bool,
    /// When anything of the present term was last heard from it.
    pub(super) heard: Time,
    /// Whether it is quiet, as far as it said.
    pub(super) rest: Rest,
    /// The latest heartbeat round it answered.
    pub(super) round: u64,
    /// The same, of the answers whose sender trusted its clock.
    pub(super) lease_round: u64,
    /// It is no member any more. If it becomes one again, nothing of what it said counts: its disk may be another.
    pub(super) left: bool,
}

impl Progress {
    pub(super) fn new(peer: PeerId, next: LogIndex, now: Time) -> Self {
        Self {
            peer,
            matched: LogIndex::ZERO,
            next,
            durable: Acknowledged::default(),
            io_writer_mode: 0,
            flow: Flow::Probing,
            way: Lent::default(),
            round_trip_us: ROUND_TRIP_US_INITIAL,
            needs_snapshot: false,
            heard: now,
            rest: Rest::Awake,
            round: 0,
            lease_round: 0,
            left: false,
        }
    }

    /// The leader looked whether it answers, and has caught up.
    pub(super) fn seen(&mut self, answers: bool, caught_up: bool, far: bool, now: Time) {
        let since = |is: bool, before: Option<Time>| is.then(|| before.unwrap_or(now));
        self.way.behind_since = since(!answers || !caught_up, self.way.behind_since);
        self.way.slow_since = since(answers && !caught_up, self.way.slow_since);
        self.way.is_far = far;
    }

    pub(super) const fn peer(&self) -> PeerId {
        self.peer
    }

    pub(super) const fn matched(&self) -> LogIndex {
        self.matched
    }

    pub(super) const fn next(&self) -> LogIndex {
        self.next
    }

    pub(super) const fn durable(&self) -> Acknowledged {
        self.durable
    }

    pub(super) const fn durable_index(&self) -> LogIndex {
        self.durable.index()
    }

    pub(super) fn inflight(&self) -> usize {
        self.way.batches.len()
    }

    /// Whether it holds everything up to `last`, durably, and nothing is under way to it.
    pub(super) fn is_settled(&self, last: LogIndex) -> bool {
        self.matched == last
            && self.durable_index() == last
            && self.way.batches.is_empty()
            && !self.is_probing()
            && !self.way.reading
            && !self.left
    }

    /// Gives back the memory of what is under way while nothing is.
    pub(super) fn rest(&mut self) {
        self.way.give_back();
    }

    pub(super) const fn needs_snapshot(&self) -> bool {
        self.needs_snapshot
    }

    /// Whether entries may be asked of the log for it.
    pub(super) fn may_read(&self, now: Time) -> bool {
        !self.way.reading && now >= self.way.read_due
    }

    /// Entries from the next on were asked of the log.
    pub(super) fn reading(&mut self) {
        self.way.reading = true;
    }

    /// The log answered; whether its answer still fits what is to be sent next.
    pub(super) fn stop_reading(&mut self, from: LogIndex) -> bool {
        let fits = self.way.reading && self.flow == Flow::Streaming && self.next == from;
        self.way.reading = false;
        fits
    }

    /// The log could not read: not again before the greatest RPC timeout.
    pub(super) fn read_failed(&mut self, now: Time, timers: &Timers) {
        self.way.read_due = now.plus_ms(u64::from(timers.rpc_ms_max));
    }

    /// Whether it waits for a first answer: then a batch goes even if there is no entry to send.
    pub(super) fn is_probing(&self) -> bool {
        self.flow == Flow::Probing
    }

    /// Whether another batch may go now.
    pub(super) fn may_send(&self, limits: &Limits) -> bool {
        match self.flow {
            _ if self.needs_snapshot => false,
            Flow::Probing => self.way.batches.is_empty(),
            Flow::Streaming => {
                let bytes_max = limits.inflight_batches_max * limits.batch_bytes_max;
                self.way.batches.len() < limits.inflight_batches_max
                    && (self.way.batches.is_empty() || self.way.bytes < bytes_max)
            }
        }
    }

    /// A batch that ends with `last` was sent.
    pub(super) fn sent(&mut self, last: LogIndex, bytes: usize, now: Time) {
        self.rest = Rest::Awake;
        self.way.batches.push_back(Batch {
            last,
            bytes,
            sent: now,
        });
        self.way.bytes += bytes;
        if self.flow == Flow::Streaming {
            self.next = last.next();
        }
    }

    /// It matches up to `matched`.
    pub(super) fn accepted(&mut self, matched: LogIndex, now: Time) {
        while let Some(batch) = self.way.batches.front().copied()
            && batch.last <= matched
        {
            let round_trip = now.since_us(batch.sent);
            self.round_trip_us = (self.round_trip_us * 7 + round_trip) / 8;
            self.way.bytes -= batch.bytes;
            self.way.missed = false;
            self.way.batches.pop_front();
        }
        self.matched = self.matched.max(matched);
        self.needs_snapshot = false;
        if self.flow == Flow::Probing {
            self.flow = Flow::Streaming;
            self.next = self.matched.next();
            self.forget_batches();
        }
        self.next = self.next.max(self.matched.next());
    }

    /// How its log writes, as it said last.
    pub(super) const fn io_writer_mode(&self) -> u8 {
        self.io_writer_mode
    }

    /// Its ledger covers the log up to there.
    pub(super) fn acknowledged(&mut self, partition: PartitionId, durable: &PeerDurable) {
        self.io_writer_mode = durable.io_writer_mode();
        self.durable.raise(self.peer, partition, durable);
        // It has what it is probed behind.
        if durable.index() >= self.next.prev() {
            self.needs_snapshot = false;
        }
        self.matched = self.matched.max(durable.index());
        self.next = self.next.max(self.matched.next());
    }

    /// It has nothing behind `at` in common with this log: try there, unless it ends below the log's base.
    pub(super) fn rejected(&mut self, at: LogIndex, below_base: bool) {
        // A late one may be of the time before it had what is known to be on its disk.
        self.needs_snapshot = below_base && self.durable_index() < at;
        let at = at.max(self.durable_index());
        self.matched = self.matched.min(at);
        self.probe(at.next());
    }

    /// Begin again from what it is known to have.
    pub(super) fn probe_again(&mut self) {
        self.rest = Rest::Awake;
        self.probe(self.matched.next());
    }

    /// Nothing can be sent from before `first` on: where it would be, it is probed there instead.
    pub(super) fn probe_from(&mut self, first: LogIndex) {
        if self.next < first {
            self.probe(first);
        }
    }

    fn probe(&mut self, next: LogIndex) {
        self.flow = Flow::Probing;
        self.next = next;
        self.way.reading = false;
        self.forget_batches();
    }

    fn forget_batches(&mut self) {
        self.way.batches.clear();
        self.way.bytes = 0;
    }

    /// When the oldest batch in flight is to be given up; `None` if nothing is in flight.
    pub(super) fn repeat_at(&self, timers: &Timers) -> Option<Time> {
        let batch = self.way.batches.front()?;
        let min = u64::from(timers.rpc_ms_min) * 1000;
        let max = u64::from(timers.rpc_ms_max) * 1000;
        let once = (2 * self.round_trip_us).clamp(min, max);
        Some(
            batch
                .sent
                .plus_us(if self.way.missed { 2 * once } else { once }),
        )
    }

    /// Whether it is to be asked, with an empty batch, what is durable there: nothing is under way to it, and for the
    /// greatest RPC timeout, since then or since it was asked last, it has not acknowledged what it has received.
    pub(super) fn is_overdue(&mut self, now: Time, timers: &Timers) -> bool {
        let owes = self.flow == Flow::Streaming
            && self.way.batches.is_empty()
            && self.durable_index() < self.matched
            && !self.left;
        if owes != self.way.owes_since.is_some() {
            self.way.owes_since = owes.then_some(now);
        }
        let patience_ms = u64::from(timers.rpc_ms_max);
        let since = self.way.owes_since;
        let overdue = since.is_some_and(|since| now >= since.plus_ms(patience_ms));
        if overdue {
            // Its answer may say no more than the last one did: a disk that hangs acknowledges nothing.
            self.way.owes_since = Some(now);
        }
        overdue
    }

    /// Gives up waiting for what is in flight, if it is time.
    pub(super) fn expire(&mut self, now: Time, timers: &Timers) -> bool {
        let due = self.repeat_at(timers).is_some_and(|at| at <= now);
        if due {
            self.probe_again();
            self.way.missed = true;
        }
        due
    }
}
