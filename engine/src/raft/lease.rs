//! Leases: linearizable reads for which nobody is asked, as long as clocks run evenly.
//!
//! Who hears a heartbeat refuses votes, its own among them, for the least election timeout that the leader states with it
//! (`bounds`), by its own clock, and a leader has leases only where these are shorter than that. So for a lease from the moment a round of heartbeats was *sent* (what was
//! heard was heard later), nobody else is elected if a majority has answered that round or a later one: Ongaro,
//! "Consensus: Bridging Theory and Practice", 6.4.1. What could undo that promise:
//!
//! - A voter restarts and forgets it: it stays silent for as long as any lease may last.
//! - A voter's clock jumps, or runs fast: its clock alarm makes it silent again, and its answers tell that they are none to
//!   rely on.
//! - The leader's clock runs slow: its own alarm ends its leases.
//! - The leader itself asks for an election that passes stickiness: it has no lease for the rest of its term.
//!
//! A lease is never extended by what an answer could mean, only by the latest round that it names.

use std::collections::VecDeque;

use clustor_shards::turn::Time;
use clustor_wire::message::ReadLevel;

use super::bounds;
use super::output::ReadReady;
use super::quorum;
use super::read_index::ReadError;
use super::replica::{Replica, RoleState, Turn};
use super::settings::Timers;
use crate::lent::Bare;

/// A lease, and what has to be added to it for a voter's promise, last at most this long together, in milliseconds: so
/// long does a replica stay silent that may have forgotten one.
pub const LEASE_SPAN_MS_MAX: u32 = 150;
/// A voter whose clock can't be trusted stays silent this many times as long: its clock may run fast.
const ALARM_SILENCE: u32 = 2;
/// Rounds of which the moment of sending is kept; those begun beyond extend no lease.
const ROUNDS_MAX: usize = 32;

/// Bounds of a leader's leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseBounds {
    /// Whether there are any.
    pub on: bool,
    /// How long a lease lasts from the sending of the heartbeat that earned it, in milliseconds.
    pub lease_ms: u32,
    /// What is added for the way to the voters, in milliseconds.
    pub rtt_ms: u32,
    /// What clocks may run apart within a lease, in milliseconds.
    pub skew_ms: u32,
    /// Entries that a majority has received and that are not known to be durable there, at most.
    pub gap_max: u64,
}

impl LeaseBounds {
    /// No leases.
    pub const OFF: Self = Self {
        on: false,
        lease_ms: 80,
        rtt_ms: 10,
        skew_ms: 5,
        gap_max: 1024,
    };

    /// For how long voters have to keep their promise, in milliseconds.
    #[must_use]
    pub const fn span_ms(&self) -> u32 {
        self.lease_ms
            .saturating_add(self.rtt_ms)
            .saturating_add(self.skew_ms)
    }
}

impl Timers {
    /// Whether leases are on and safe under these timers: lease + way + skew + heartbeat < least election timeout, which
    /// others heed; and lease + way + skew no longer than [`LEASE_SPAN_MS_MAX`].
    #[must_use]
    pub const fn allow_leases(&self) -> bool {
        let span_ms = self.lease.span_ms();
        self.lease.on
            && bounds::is_possible(&self.bounds())
            && span_ms <= LEASE_SPAN_MS_MAX
            && span_ms.saturating_add(self.heartbeat_ms) < self.election_ms_min
    }

    /// For how long a replica that was just started stays silent, in milliseconds.
    pub(super) fn silence_ms(&self) -> u64 {
        u64::from(self.election_ms_min.max(LEASE_SPAN_MS_MAX))
    }
}

/// Why a replica holds no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseClause {
    /// It does not lead.
    NotLeading,
    /// The profile has none, or its timers allow none.
    Off,
    /// Somebody was asked to campaign in its place: none for the rest of the term.
    HandedOver,
    /// More entries were received by a majority, and are not known to be durable there, than `lease_gap_max`.
    Gap,
    /// Nothing of its term is committed yet.
    TermUncommitted,
    /// Its clock can't be trusted.
    ClockAlarm,
    /// No majority has answered a heartbeat with clocks that it trusts since leases were lost last.
    Unconfirmed,
    /// The partition is quiet: there are no heartbeats to earn one by.
    Quiet,
    /// The last one ended, and no majority has answered a later heartbeat.
    RanOut,
}

impl LeaseClause {
    /// Its name, as the status shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotLeading => "not_leading",
            Self::Off => "leases_off",
            Self::HandedOver => "handed_over",
            Self::Gap => "gap",
            Self::TermUncommitted => "term_uncommitted",
            Self::ClockAlarm => "clock_alarm",
            Self::Unconfirmed => "unconfirmed",
            Self::Quiet => "quiet",
            Self::RanOut => "ran_out",
        }
    }
}

/// What a leader's lease follows from.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Rounds that may earn it, with the moment of their sending, ascending.
    sent: VecDeque<(u64, Time)>,
    /// Somebody was asked to campaign in this leader's place.
    handed_over: bool,
}

impl Bare for Lease {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.sent.is_empty() && !self.handed_over
    }
}

impl Lease {
    const NONE: Self = Self {
        sent: VecDeque::new(),
        handed_over: false,
    };

    /// A round begins; `confirmed` is the latest that a majority has answered.
    pub(super) fn begin(&mut self, round: u64, confirmed: u64, now: Time, lease_ms: u32) {
        while self.sent.get(1).is_some_and(|(next, _)| *next <= confirmed) {
            self.sent.pop_front();
        }
        while let Some((_, sent)) = self.sent.front()
            && sent.plus_ms(u64::from(lease_ms)) <= now
        {
            self.sent.pop_front();
        }
        if self.sent.len() < ROUNDS_MAX {
            self.sent.push_back((round, now));
        }
    }

    /// When the latest round was sent that is not later than the confirmed one.
    fn sent_at(&self, confirmed: u64) -> Option<Time> {
        let rounds = self.sent.iter().rev();
        let mut earlier = rounds.skip_while(|(round, _)| *round > confirmed);
        earlier.next().map(|(_, sent)| *sent)
    }

    /// TimeoutNow leaves: a campaign that passes stickiness may begin at any time in the rest of this term.
    pub(super) fn hand_over(&mut self) {
        self.handed_over = true;
        self.sent.clear();
    }

    pub(super) fn lose(&mut self) {
        self.sent.clear();
    }
}

impl Replica {
    /// Until when this replica, as things stand, may take it that nobody else leads; `None` for not at all.
    #[must_use]
    pub fn lease_until(&self) -> Option<Time> {
        self.lease_term().ok()
    }

    /// Until when, or what forbids it.
    fn lease_term(&self) -> Result<Time, LeaseClause> {
        let RoleState::Leader(leading) = &self.role else {
            return Err(LeaseClause::NotLeading);
        };
        if !self.timers.allow_leases() {
            return Err(LeaseClause::Off);
        }
        if leading.lease.handed_over {
            return Err(LeaseClause::HandedOver);
        }
        if self.is_gap_wide() {
            return Err(LeaseClause::Gap);
        }
        if self.committed < leading.term_start {
            return Err(LeaseClause::TermUncommitted);
        }
        let sent = leading.lease.sent_at(self.lease_round());
        let sent = sent.ok_or(LeaseClause::Unconfirmed)?;
        Ok(sent.plus_ms(u64::from(self.timers.lease.lease_ms)))
    }

    /// Whether this replica holds a lease at this moment.
    ///
    /// # Errors
    /// The first clause that forbids it.
    pub fn holds_lease(&self, now: Time, clock_alarm: bool) -> Result<(), LeaseClause> {
        let until = self.lease_term();
        let quiet = matches!(&self.role, RoleState::Leader(leading) if leading.quiet);
        match until {
            Ok(_) if clock_alarm => Err(LeaseClause::ClockAlarm),
            Ok(until) if now < until => Ok(()),
            Ok(_) | Err(LeaseClause::Unconfirmed) if quiet => Err(LeaseClause::Quiet),
            Ok(_) => Err(LeaseClause::RanOut),
            Err(LeaseClause::Unconfirmed) if clock_alarm => Err(LeaseClause::ClockAlarm),
            Err(clause) => Err(clause),
        }
    }

    /// Whether too much was received by a majority that is not known to be durable there.
    fn is_gap_wide(&self) -> bool {
        let gap = self.raft_commit.get().saturating_sub(self.committed.get());
        gap > self.timers.lease.gap_max
    }

    /// The latest round that a majority of every half has answered with clocks that it trusts.
    pub(super) fn lease_round(&self) -> u64 {
        let RoleState::Leader(leading) = &self.role else {
            return 0;
        };
        quorum::reached(&self.configuration, |voter| {
            if voter == self.me {
                return u64::MAX;
            }
            leading.of(voter).map_or(0, |progress| progress.lease_round)
        })
    }

    /// A read that relies on the lease, known by `token`: `None` if there is none, and the read has to be asked for with
    /// [`Self::read_index`].
    ///
    /// # Errors
    /// [`ReadError`], as [`Self::read_index`].
    pub fn lease_read(
        &mut self,
        turn: &Turn<'_>,
        token: u64,
    ) -> Result<Option<ReadReady>, ReadError> {
        self.check_read()?;
        if let RoleState::Leader(leading) = &mut self.role
            && !leading.quiet
        {
            leading.busy = Some(turn.now);
        }
        if turn.clock_alarm || self.is_gap_wide() {
            self.lose_lease();
        }
        if self.lease_until().is_none_or(|until| turn.now >= until) {
            return Ok(None);
        }
        Ok(Some(ReadReady {
            partition: self.partition,
            token,
            level: ReadLevel::Lease,
            term: self.term,
            index: self.committed.max(self.raft_commit),
        }))
    }

    /// What was heard so far earns no lease any more: only rounds that begin from here on do.
    pub fn lose_lease(&mut self) {
        if let RoleState::Leader(leading) = &mut self.role {
            leading.lease.lose();
        }
    }

    /// The clock may have jumped, or runs wrong. A lease is lost, and so is the measure of what this replica promised to
    /// others: it stays silent as if it had just been started, and longer.
    pub fn on_clock_alarm(&mut self, now: Time) {
        self.lose_lease();
        let silence_ms = self.timers.silence_ms() * u64::from(ALARM_SILENCE);
        self.silent_until = self.silent_until.max(now.plus_ms(silence_ms));
        self.election_due = self.election_due.max(self.silent_until);
    }
}
