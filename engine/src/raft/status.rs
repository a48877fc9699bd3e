//! How a replica stands, for people, tests and the simulator's checkers.

use clustor_shards::log::Mode;
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use clustor_wire::message::{RefetchVerdict, Role};

use super::cache::CacheSlot;
use super::configuration::Configuration;
use super::durability::Transition;
use super::membership::Change;
use super::replica::{Replica, RoleState};
use super::settings::Timers;

/// A snapshot of a replica's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The partition.
    pub partition: PartitionId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its vote in that term.
    pub vote: Option<NodeId>,
    /// Whether term and vote are durable.
    pub hard_state_durable: bool,
    /// The leader of that term, if known.
    pub leader: Option<PeerId>,
    /// Index before the first entry of the log.
    pub base: LogIndex,
    /// Last index of the log.
    pub last_index: LogIndex,
    /// Term there.
    pub last_term: Term,
    /// Durable here up to this index.
    pub durable: LogIndex,
    /// Known to match the log of this term's leader up to this index; 0 if nothing is known.
    pub matched: LogIndex,
    /// Durable on a quorum up to this index, as far as this replica knows.
    pub wal_committed: LogIndex,
    /// Received by a majority up to this index; a hint that may go back.
    pub raft_commit: LogIndex,
    /// May be applied up to this index.
    pub applicable: LogIndex,
    /// Entries whose content is missing here.
    pub missing: u64,
    /// The first of them above what may be applied; commit, apply and reads stop before it.
    pub missing_first: Option<LogIndex>,
    /// The search for lost content, while a question is open.
    pub refetch: Option<RefetchStatus>,
    /// Entries fetched from others since it was made.
    pub refetched: u64,
    /// A leader's empty entry; `None` for others.
    pub term_start: Option<LogIndex>,
    /// Whether leadership is being handed over.
    pub transferring: bool,
    /// Messages whose frames failed a check and were dropped whole.
    pub frames_refused: u64,
    /// Who belongs to the partition.
    pub configuration: Configuration,
    /// How far a change of voters is.
    pub change: Change,
    /// A leader's view of those who get its log; empty for others.
    pub followers: Vec<FollowerStatus>,
}

/// How far a replica is, as far as that is said without asking anybody or making anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// The partition.
    pub partition: PartitionId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Last index of the log.
    pub last_index: LogIndex,
    /// Durable here up to this index.
    pub durable: LogIndex,
    /// Durable on a quorum up to this index, as far as this replica knows.
    pub wal_committed: LogIndex,
    /// Entries whose content is missing here.
    pub missing: u64,
    /// Its next election timeout is drawn up to here, in milliseconds.
    pub election_window_ms: u32,
    /// The latest term whose election was given more time because the path to the leader was slow; 0 for none.
    pub widened_for: Term,
}

/// What is known of an entry whose content is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefetchStatus {
    /// The entry.
    pub index: LogIndex,
    /// Who is asked, and what each answered, if anything yet.
    pub said: Vec<(PeerId, Option<RefetchVerdict>)>,
}

/// A leader's view of one follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerStatus {
    /// The follower.
    pub peer: PeerId,
    /// Highest index known to match.
    pub matched: LogIndex,
    /// Highest index it acknowledged as durable.
    pub durable: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// When it was last heard, in this leader's term.
    pub heard: Time,
    /// Batches in flight.
    pub inflight: usize,
    /// Needs entries that only a snapshot still holds.
    pub needs_snapshot: bool,
}

impl Replica {
    /// How far this replica is.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            partition: self.partition,
            role: self.role(),
            term: self.term,
            last_index: self.log.last(),
            durable: self.durable.index(),
            wal_committed: self.committed,
            missing: self.log.missing_count(),
            election_window_ms: self.window_ms,
            widened_for: self.widened_for,
        }
    }

    /// The entry whose content is asked for, while such a question is open.
    #[must_use]
    pub fn refetching(&self) -> Option<RefetchStatus> {
        let open = self.refetching.open();
        open.map(|(index, said)| RefetchStatus {
            index,
            said: said.to_vec(),
        })
    }

    /// How this replica stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let leading = match &self.role {
            RoleState::Leader(leading) => Some(leading),
            _ => None,
        };
        Status {
            partition: self.partition,
            role: self.role(),
            term: self.term,
            vote: self.vote,
            hard_state_durable: self.hard_state_durable,
            leader: self.leader,
            base: self.log.base(),
            last_index: self.log.last(),
            last_term: self.log.last_term(),
            durable: self.durable.index(),
            matched: self.matched,
            wal_committed: self.committed,
            raft_commit: self.raft_commit,
            applicable: self.applicable,
            missing: self.log.missing_count(),
            missing_first: self.log.missing_from(self.applicable.next()),
            refetch: self.refetching(),
            refetched: self.refetched.into(),
            term_start: leading.map(|leading| leading.term_start),
            transferring: leading.is_some_and(|leading| leading.transfer.is_some()),
            frames_refused: self.frames_refused.into(),
            configuration: Configuration::clone(&self.configuration),
            change: self.change_under_way(),
            followers: leading.map_or_else(Vec::new, |leading| {
                leading
                    .progress
                    .iter()
                    .map(|p| FollowerStatus {
                        peer: p.peer(),
                        matched: p.matched(),
                        durable: p.durable_index(),
                        next: p.next(),
                        heard: p.heard,
                        inflight: p.inflight(),
                        needs_snapshot: p.needs_snapshot(),
                    })
                    .collect()
            }),
        }
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.role {
            RoleState::Follower => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
            RoleState::Quarantined => Role::Quarantined,
        }
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, RoleState::Leader(_))
    }

    /// How its next entry is made durable here.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.modes.mode()
    }

    /// The latest change of the mode in its log, as far as it has seen that.
    #[must_use]
    pub fn transition(&self) -> Transition {
        self.modes.latest()
    }

    /// The latest entry in its log that changes the mode, as far as it has seen that.
    #[must_use]
    pub fn transition_entry(&self) -> Option<(LogIndex, Transition)> {
        self.modes.latest_entry()
    }

    /// Whether a change of the mode waits to be applied.
    #[must_use]
    pub fn is_changing_mode(&self) -> bool {
        self.modes.is_changing()
    }

    /// Whether it is strict, whatever its log says, because it has not seen all of it.
    #[must_use]
    pub fn is_in_fallback(&self) -> bool {
        self.modes.is_fallback()
    }

    /// Makes it strict, whatever its log says, or no longer.
    pub fn set_fallback(&mut self, fallback: bool) {
        self.modes.set_fallback(fallback);
    }

    /// A change of the mode is applied.
    pub fn learn_transition(&mut self, index: LogIndex, transition: Transition) {
        self.modes.learn(index, transition);
    }

    /// For a leader: a voter that said last that it writes in this way.
    #[must_use]
    pub fn voter_writing(&self, io_writer_mode: u8) -> Option<PeerId> {
        let RoleState::Leader(leading) = &self.role else {
            return None;
        };
        leading
            .progress
            .iter()
            .find(|p| p.io_writer_mode() == io_writer_mode && self.configuration.contains(p.peer()))
            .map(|p| p.peer())
    }

    /// The leader of its term, if it knows one.
    #[must_use]
    pub const fn leader(&self) -> Option<PeerId> {
        self.leader
    }

    /// The last index of its log.
    #[must_use]
    pub const fn last_index(&self) -> LogIndex {
        self.log.last()
    }

    /// The index before the first entry of its log.
    #[must_use]
    pub const fn base_index(&self) -> LogIndex {
        self.log.base()
    }

    /// The greatest stamp among the entries it has seen since it was made, in milliseconds.
    #[must_use]
    pub const fn stamp_ms(&self) -> u64 {
        self.stamp_ms
    }

    /// Bytes it has proposed as a leader and not yet seen committed.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> u64 {
        match &self.role {
            RoleState::Leader(leading) => leading.uncommitted.bytes,
            _ => 0,
        }
    }

    /// Its place in the shard's cache.
    #[must_use]
    pub const fn cache_slot(&self) -> CacheSlot {
        self.slot
    }

    /// Its node and shard.
    #[must_use]
    pub const fn me(&self) -> PeerId {
        self.me
    }

    /// Its bounds of time.
    #[must_use]
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Whether its log holds, or held, the entry of this term at this index.
    #[must_use]
    pub fn holds(&self, term: Term, index: LogIndex) -> bool {
        index < self.log.base() || self.log.term_at(index) == Some(term)
    }

    /// Its term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The partition.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Durable on a quorum up to this index, as far as it knows. Monotone.
    #[must_use]
    pub const fn wal_committed(&self) -> LogIndex {
        self.committed
    }

    /// It may apply its log up to this index. Monotone.
    #[must_use]
    pub const fn applicable(&self) -> LogIndex {
        self.applicable
    }

    /// The frame of entry `index`, if the cache holds it; otherwise it must be read from the log.
    #[must_use]
    pub fn cached<'a>(
        &self,
        cache: &'a super::cache::EntryCache,
        index: LogIndex,
    ) -> Option<&'a [u8]> {
        cache.frame(self.slot, index)
    }
}
