//! ReadIndex: linearizable reads without a log entry.
//!
//! Reads that arrive while a round of heartbeats is under way wait for the next one: a round confirms leadership
//! only for reads that were there when it began. One confirming round is open at a time, so under load a round
//! serves all that arrived during the one before it; a periodic heartbeat begins a round too, and an answer to a
//! later round confirms an earlier one. Nothing is confirmed before the leader has committed in its own term: until
//! then it can't know what its predecessors committed.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{Heartbeat, HeartbeatAck, ReadLevel};

use super::durable::AuthenticatedPeer;
use super::frames;
use super::output::{Output, ReadFailed, ReadReady};
use super::progress::Rest;
use super::quorum;
use super::replica::{Replica, RoleState, Turn};
use crate::lent::Bare;

/// Why a linearizable read was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica does not lead.
    #[error("this replica does not lead the partition; ask the leader, if it is known: {leader:?}")]
    NotLeader {
        /// Who does, if known.
        leader: Option<PeerId>,
    },
    /// Too many reads wait already.
    #[error("{waiting_max} reads wait to be confirmed; retry when some are")]
    Full {
        /// The limit.
        waiting_max: usize,
    },
    /// An entry's content is missing: what follows it can't be applied, nor read.
    #[error("the content of entry {index} is missing here; nothing behind it can be read")]
    MissingContent {
        /// The first such entry.
        index: LogIndex,
    },
}

/// Reads on their way.
#[derive(Debug)]
pub(super) struct Reads {
    /// Arrived since the open round began.
    waiting: Vec<u64>,
    /// Served by the open round.
    confirming: Vec<u64>,
    /// The open round; counts only while `confirming` is not empty.
    round: u64,
    /// What must be applied before they are answered.
    index: LogIndex,
}

impl Reads {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.confirming.is_empty()
    }
}

impl Reads {
    const NONE: Self = Self {
        waiting: Vec::new(),
        confirming: Vec::new(),
        round: 0,
        index: LogIndex::ZERO,
    };
}

impl Bare for Reads {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.is_empty()
    }
}

impl Replica {
    /// A linearizable read, known by `token`. It comes back in `Output::reads_ready` or `Output::reads_failed`.
    ///
    /// # Errors
    /// [`ReadError`]; then the token does not come back.
    pub fn read_index(&mut self, token: u64) -> Result<(), ReadError> {
        self.check_read()?;
        let waiting_max = self.limits.reads_waiting_max;
        let RoleState::Leader(leading) = &mut self.role else {
            return Ok(());
        };
        let reads = &mut *leading.reads;
        if reads.waiting.len() + reads.confirming.len() >= waiting_max {
            return Err(ReadError::Full { waiting_max });
        }
        reads.waiting.push(token);
        Ok(())
    }

    /// Whether this replica leads, and nothing stands before what would be read.
    pub(super) fn check_read(&self) -> Result<(), ReadError> {
        if !self.is_leader() {
            let leader = self.leader;
            return Err(ReadError::NotLeader { leader });
        }
        match self.log.missing_from(self.applicable.next()) {
            Some(index) => Err(ReadError::MissingContent { index }),
            None => Ok(()),
        }
    }

    /// A follower's answer to a round. Only answers of this term count; one of a greater term deposes. Leases take it for a
    /// promise only if its sender trusts its clock.
    pub fn on_heartbeat_ack(
        &mut self,
        turn: &mut Turn<'_>,
        from: AuthenticatedPeer,
        ack: &HeartbeatAck,
        trusts_clock: bool,
    ) {
        let peer = from.id();
        let is_for_here = ack.partition == self.partition && frames::is_possible_term(ack.term);
        if !is_for_here || !self.heeds_answers_of(peer, ack.term) {
            return;
        }
        if ack.term > self.term {
            self.become_follower(turn, ack.term, None);
            return;
        }
        if ack.term < self.term {
            return;
        }
        let begun = match &self.role {
            RoleState::Leader(leading) => leading.round,
            _ => return,
        };
        if let Some(progress) = self.follower(turn, peer)
            && ack.round <= begun
        {
            progress.round = progress.round.max(ack.round);
            if trusts_clock {
                progress.lease_round = progress.lease_round.max(ack.round);
            }
        }
    }

    /// Answers what is confirmed, begins a round where one is due.
    pub(super) fn finish_reads(&mut self, turn: &mut Turn<'_>) {
        self.answer_confirmed(turn.out);
        let lease = self.timers.allow_leases() && !turn.clock_alarm;
        let lease_round = if lease { self.lease_round() } else { 0 };
        let beat_ms = self.beat_ms();
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let in_term = self.committed >= leading.term_start;
        let reads = &mut *leading.reads;
        let open = in_term && reads.confirming.is_empty() && !reads.waiting.is_empty();
        if !open && turn.now < leading.heartbeat_due {
            return;
        }
        leading.round += 1;
        if lease {
            let lease_ms = self.timers.lease.lease_ms;
            leading
                .lease
                .begin(leading.round, lease_round, turn.now, lease_ms);
        }
        if open {
            core::mem::swap(&mut reads.waiting, &mut reads.confirming);
            reads.round = leading.round;
            reads.index = self.committed.max(self.raft_commit);
        }
        leading.heartbeat_due = next_beat(turn.now, beat_ms);
        for progress in &mut leading.progress {
            progress.rest = Rest::Awake;
            let heartbeat = Heartbeat {
                partition: self.partition,
                term: self.term,
                wal_committed: self.committed.min(progress.matched()),
                round: leading.round,
            };
            turn.out.heartbeats.push((progress.peer(), heartbeat));
        }
        // A sole voter is its own majority.
        self.answer_confirmed(turn.out);
    }

    /// The latest round that a majority of every half has answered.
    pub(super) fn confirmed_round(&self) -> u64 {
        let RoleState::Leader(leading) = &self.role else {
            return 0;
        };
        quorum::reached(&self.configuration, |voter| {
            if voter == self.me {
                return leading.round;
            }
            leading.of(voter).map_or(0, |progress| progress.round)
        })
    }

    fn answer_confirmed(&mut self, out: &mut Output) {
        let waits = matches!(&self.role, RoleState::Leader(leading) if !leading.reads.confirming.is_empty());
        if !waits {
            return;
        }
        let confirmed = self.confirmed_round();
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let reads = &mut *leading.reads;
        if confirmed < reads.round {
            return;
        }
        for token in reads.confirming.drain(..) {
            out.reads_ready.push(ReadReady {
                partition: self.partition,
                token,
                level: ReadLevel::Linearizable,
                term: self.term,
                index: reads.index,
            });
        }
    }

    /// Leadership is lost: no round will confirm what waits.
    pub(super) fn fail_reads(&mut self, out: &mut Output) {
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let reads = &mut *leading.reads;
        for token in reads.confirming.drain(..).chain(reads.waiting.drain(..)) {
            out.reads_failed.push(ReadFailed {
                partition: self.partition,
                token,
                leader: None,
            });
        }
    }
}

/// The next multiple of the interval: all leaders of a shard beat together, so their heartbeats share frames.
fn next_beat(now: Time, heartbeat_ms: u32) -> Time {
    let interval = u64::from(heartbeat_ms) * 1000;
    Time((now.0 / interval + 1) * interval)
}
