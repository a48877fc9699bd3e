//! How a partition's appends are made durable: what was asked for, and what the gate allows.
//!
//! The leader moves the partition to the mode that was asked for last where [`group_fsync`] allows it, and to strict where
//! it does not; each move is a `DurabilityTransition` in the log. A replica is strict, whatever its log says, until it
//! has applied what it found at its start.

use clustor_shards::log::Mode;
use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{DurabilityMode, Refusal, RefusalClause};

use super::{Origin, Partition, refusal};
use crate::gate::group::IO_WRITER_BLOCKING;
use crate::gate::{GroupClause, GroupFacts, group_fsync};
use crate::outcome::Leadership;
use crate::raft::{Cause, Position, Transition, Turn};
use crate::request::Wait;

/// When a mode that the gate forbids may be asked for again, in milliseconds, where nobody knows better.
const CONFLICT_RETRY_MS: u32 = 1_000;

/// What the shard knows that bears on the mode of its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardFacts {
    /// Chains that took too long lately.
    pub slow_chains: usize,
    /// Whether the shard's log is quarantined.
    pub quarantined: bool,
}

/// The durability of one partition, as its replica here sees it.
#[derive(Debug)]
pub(super) struct Durability {
    /// The last index the log held at its start.
    recovered: LogIndex,
    /// What holds the leader in strict mode although group was asked for.
    held_back: Option<GroupClause>,
}

impl Durability {
    pub(super) fn new(recovered: LogIndex) -> Self {
        Self {
            recovered,
            held_back: None,
        }
    }

    /// The last index the log held at its start.
    pub(super) const fn recovered(&self) -> LogIndex {
        self.recovered
    }
}

/// A mode as messages have it.
pub(crate) const fn on_wire(mode: Mode) -> DurabilityMode {
    match mode {
        Mode::Strict => DurabilityMode::Strict,
        Mode::Group => DurabilityMode::Group,
    }
}

/// A mode as the log has it.
pub(crate) const fn in_log(mode: DurabilityMode) -> Mode {
    match mode {
        DurabilityMode::Strict => Mode::Strict,
        DurabilityMode::Group => Mode::Group,
    }
}

impl Partition {
    /// How its next entry is made durable here.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.replica.mode()
    }

    /// The latest entry in its log that changes the mode, as far as the replica here has seen that.
    #[must_use]
    pub fn mode_change(&self) -> Option<(LogIndex, Transition)> {
        self.replica.transition_entry()
    }

    /// Whether it is strict, whatever its log says, because it has not applied what it found at its start.
    #[must_use]
    pub fn is_in_fallback(&self) -> bool {
        self.replica.is_in_fallback()
    }

    /// Two group batches in a row went too late.
    pub(crate) fn on_overrun(&mut self, now: Time) {
        if self.replica.is_leader() && self.replica.mode() == Mode::Group {
            self.busy.guard.downgrade(now);
        }
    }

    /// Whether it leads and has applied everything that earlier terms left.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.leadership, Leadership::Ready { .. })
    }

    fn facts(&self, turn: &Turn<'_>, shard: ShardFacts) -> GroupFacts {
        let own = (turn.io_writer_mode == IO_WRITER_BLOCKING).then_some(turn.me.node);
        let peer = self.replica.voter_writing(IO_WRITER_BLOCKING);
        GroupFacts {
            strict_fallback: !self.is_ready() || self.replica.is_in_fallback(),
            backoff_over: self.busy.guard.is_over(turn.now),
            blocking_voter: own.or(peer.map(|peer| peer.node)),
            slow_chains: shard.slow_chains,
            quarantined: shard.quarantined || self.stuck().is_some(),
            ..GroupFacts::default()
        }
    }

    /// Ends the fallback of a start, and moves a partition that is led here to the mode that is asked for and allowed.
    pub(crate) fn tend_mode(&mut self, turn: &mut Turn<'_>, shard: ShardFacts) {
        if self.replica.is_in_fallback()
            && self.applied >= self.durability.recovered.min(self.replica.last_index())
        {
            self.replica.set_fallback(false);
        }
        if !self.replica.is_leader() {
            self.durability.held_back = None;
            return;
        }
        let Transition { mode, wanted, .. } = self.replica.transition();
        let verdict = group_fsync(&self.facts(turn, shard));
        self.durability.held_back = verdict.err().filter(|_| wanted == Mode::Group);
        let target = match verdict {
            Ok(()) => wanted,
            Err(_) => Mode::Strict,
        };
        if target == mode || !self.is_ready() || self.replica.is_changing_mode() {
            return;
        }
        let transition = Transition {
            mode: target,
            wanted,
            cause: Cause::Guard,
        };
        let stamp = self.stamp(turn.now);
        if self
            .replica
            .propose_transition(turn, transition, stamp)
            .is_ok()
        {
            self.report(transition);
        }
    }

    /// When what holds it in strict mode is over, if time alone ends that: a downgrade, or slow chains, of which fewer count at
    /// `slow_until`.
    pub(crate) fn mode_deadline(&self, now: Time, slow_until: Option<Time>) -> Option<Time> {
        match self.durability.held_back? {
            GroupClause::Backoff => self.busy.guard.until(now),
            GroupClause::DeviceLatency(_) => slow_until.filter(|until| *until > now),
            _ => None,
        }
    }

    fn report(&self, transition: Transition) {
        let partition = self.id;
        match (transition.mode, self.durability.held_back) {
            (Mode::Strict, Some(clause)) => {
                tracing::warn!(%partition, %clause, "group mode is not allowed: strict until it is");
            }
            (mode, _) => tracing::info!(%partition, ?mode, "the durability mode changes"),
        }
    }

    /// Somebody asks for a mode. Where it is refused nothing happened.
    pub(crate) fn ask_mode(
        &mut self,
        turn: &mut Turn<'_>,
        shard: ShardFacts,
        wanted: Mode,
        origin: Origin,
    ) -> Result<Position, Refusal> {
        if !self.replica.is_leader() {
            return Err(self.not_leader(self.replica.leader()));
        }
        self.admit()?;
        if wanted == Mode::Group
            && let Err(clause) = group_fsync(&self.facts(turn, shard))
        {
            let rest_us = self.busy.guard.until(turn.now);
            let rest_us = rest_us.map_or(0, |until| until.since_us(turn.now));
            let retry_ms = u32::try_from(rest_us / 1000).unwrap_or(u32::MAX);
            return Err(refusal(
                RefusalClause::ModeConflict,
                format!("partition {}: group mode is not allowed: {clause}", self.id),
                retry_ms.max(CONFLICT_RETRY_MS),
            ));
        }
        let transition = Transition {
            mode: wanted,
            wanted,
            cause: Cause::Asked,
        };
        let stamp = self.stamp(turn.now);
        let position = self
            .replica
            .propose_transition(turn, transition, stamp)
            .map_err(|error| self.propose_refusal(&error))?;
        self.durability.held_back = None;
        self.report(transition);
        self.await_append(position.index, origin, None, Wait::Applied);
        Ok(position)
    }

    /// The mode in force here, the mode that was asked for, and what stands between the two, by name, if anything does: a quiet
    /// partition was looked at last when that still stood there.
    pub(super) fn durability_status(&self) -> (DurabilityMode, DurabilityMode, String) {
        let (mode, wanted) = (self.replica.mode(), self.replica.transition().wanted);
        let clause = if self.replica.is_in_fallback() && wanted == Mode::Group {
            Some(GroupClause::StrictFallback)
        } else {
            self.durability.held_back
        };
        let held_back = clause.filter(|_| mode != wanted);
        let held_back = held_back.map_or_else(String::new, |clause| clause.to_string());
        (on_wire(mode), on_wire(wanted), held_back)
    }
}
