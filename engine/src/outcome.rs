//! What becomes of an append: exactly three outcomes, one of them always delivered.
//!
//! Also here: the refusal with its remedy, and how a replica stands towards its partition's leadership.
//! The machine's opinion of a command is never an outcome of the engine; it is the `reply` inside
//! [`Outcome::Applied`].

use clustor_wire::ids::{LogIndex, Term};
pub use clustor_wire::message::{IdempotencyKey, LeaderAt, ReadLevel, Refusal, RefusalClause};

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable on a quorum and in the machine (or, asked for so, committed and on its way there).
    Applied {
        /// Term of its entry.
        term: Term,
        /// Index of its entry: the first one, for a key seen before.
        index: LogIndex,
        /// What the machine answered. Empty for an append that is answered at commit, and for a duplicate: what was
        /// answered the first time is not kept, read what came of it.
        reply: Vec<u8>,
        /// Whether its key was seen before, so that nothing happened again.
        duplicate: bool,
    },
    /// Nothing happened of this sending, and nothing ever will. Of earlier sendings under the same key, by a handle, it says nothing.
    NotExecuted {
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// It may have happened, or still happen. Retry with exactly this key and this index, unless [`Self::Unknown::clause`]
    /// says that this leads nowhere.
    Unknown {
        /// Why nobody knows.
        why: String,
        /// By which clause its last sending was refused, where one was and an earlier one may have executed.
        /// [`RefusalClause::KeyExpired`] and [`RefusalClause::TermChanged`] meet every further one as well: only a read finds
        /// out what came of it ([`is_past_repeating`]).
        clause: Option<RefusalClause>,
        /// The append's key, if it had one. Without one a retry may execute twice.
        key: Option<IdempotencyKey>,
        /// The index to retry with: the one the append carried. For an append without a key, what is known to
        /// be durable on a quorum; 0 if nothing is.
        wal_committed: LogIndex,
    },
}

impl Outcome {
    /// The outcome as a `Result`, for `?`.
    ///
    /// # Errors
    /// [`AppendError`], where it is not [`Outcome::Applied`].
    pub fn into_result(self) -> Result<Appended, AppendError> {
        match self {
            Self::Applied {
                term,
                index,
                reply,
                duplicate,
            } => Ok(Appended {
                term,
                index,
                reply,
                duplicate,
            }),
            Self::NotExecuted { refusal } => Err(AppendError::NotExecuted { refusal }),
            Self::Unknown {
                why,
                clause,
                key,
                wal_committed,
            } => Err(AppendError::Unknown {
                why,
                clause,
                key,
                wal_committed,
            }),
        }
    }
}

/// An append that was executed; the fields are those of [`Outcome::Applied`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Term of its entry.
    pub term: Term,
    /// Index of its entry: the first one, for a key seen before.
    pub index: LogIndex,
    /// What the machine answered; empty as [`Outcome::Applied`] says.
    pub reply: Vec<u8>,
    /// Whether its key was seen before, so that nothing happened again.
    pub duplicate: bool,
}

/// An append that was not executed, or of which nobody knows; the other two outcomes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing happened of this sending, and nothing ever will. Of earlier sendings under the same key, by a handle, it says nothing.
    #[error("not executed: {}", describe(.refusal))]
    NotExecuted {
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// It may have happened, or still happen. Retry with exactly this key and this index, unless `clause` says that this leads
    /// nowhere ([`is_past_repeating`]).
    #[error("outcome unknown: {why}; it may still happen: {}", retry_advice(.key.is_some(), *.clause))]
    Unknown {
        /// Why nobody knows.
        why: String,
        /// By which clause its last sending was refused, as [`Outcome::Unknown`] has it.
        clause: Option<RefusalClause>,
        /// The append's key, if it had one.
        key: Option<IdempotencyKey>,
        /// The index to retry with.
        wal_committed: LogIndex,
    },
}

/// A refusal in one line: the clause's sentence, its remedy, the leader and the time to wait, where known.
#[must_use]
pub fn describe(refusal: &Refusal) -> String {
    let mut line = format!("{} ({})", refusal.message, remedy(refusal.clause));
    if let Some(leader) = refusal.leader {
        line.push_str(&format!("; leader: node {leader}"));
        if let Some(at) = refusal
            .leader_at
            .as_ref()
            .filter(|at| !at.address.is_empty())
        {
            line.push_str(&format!(" at {}", at.address));
        }
    }
    if refusal.retry_after_ms > 0 {
        line.push_str(&format!("; retry in {} ms", refusal.retry_after_ms));
    }
    line
}

/// What to do about a refusal by this clause.
#[must_use]
pub const fn remedy(clause: RefusalClause) -> &'static str {
    match clause {
        RefusalClause::NotLeader => "send it to the leader",
        RefusalClause::NotHere => "ask a node that the placement names for this partition",
        RefusalClause::TooLarge => "split the payload, or raise entry_bytes_max in the profile",
        RefusalClause::Busy => "retry after a pause, with fewer appends in flight",
        RefusalClause::KeyExpired => {
            "find out by a read whether the command took effect, then use a new key"
        }
        RefusalClause::IndexNeeded => "send it again with the wal_committed index given here",
        RefusalClause::Stopping => "send it to another node, or again after the restart",
        RefusalClause::Unavailable => "see the partition's status for the trouble and its repair",
        RefusalClause::DiskFull => "make room on the disk; reads are still served",
        RefusalClause::Unsupported => "use what the machine and this build offer",
        RefusalClause::MachineFailed => {
            "retry after the machine was rebuilt; its status says why it failed"
        }
        RefusalClause::ModeConflict => {
            "see the clause in docs/operations.md, and ask again when it holds no longer"
        }
        RefusalClause::ReadGate => {
            "see the clause in docs/operations.md, Leases, or read what a replica has (local)"
        }
        RefusalClause::Forbidden => {
            "ask with an operator's certificate (clustor certs client --operator)"
        }
        RefusalClause::Rejected => {
            "the machine says why; change the command, or what it depends on"
        }
        RefusalClause::TermChanged => {
            "see who leads, and what was decided since, before trying again"
        }
        RefusalClause::ApplyBudget => {
            "retry after a pause, with fewer appends in flight; make the machine faster, or raise apply_budget_us in the profile"
        }
        RefusalClause::MissingContent => "wait for the repair, or see the partition's status",
        RefusalClause::NotPlaced => {
            "name one that the placement has, or give the client the placement that lists it"
        }
        RefusalClause::TooLong => "split it: no profile raises this limit",
        RefusalClause::Unreached => {
            "see that the node runs, that the client's placement has its address, and that nothing blocks the way"
        }
        RefusalClause::Untrusted => {
            "use certificate, CA and placement of one cluster (clustor certs)"
        }
        RefusalClause::TurnedAway => "the node says why; set that right, or ask another node",
        RefusalClause::Unanswered => {
            "give it more time, and see with clustor status whether most of the partition's nodes run"
        }
        RefusalClause::Incompatible => "run one release at the client and on all nodes",
        RefusalClause::Closed => "make another client",
    }
}

/// Whether an append of unknown outcome that was refused by this clause is refused by it each time that it is repeated: a read has
/// to find out whether an earlier sending took effect, and what is appended after that needs a new key.
#[must_use]
pub const fn is_past_repeating(clause: Option<RefusalClause>) -> bool {
    matches!(
        clause,
        Some(RefusalClause::KeyExpired | RefusalClause::TermChanged)
    )
}

const fn retry_advice(keyed: bool, clause: Option<RefusalClause>) -> &'static str {
    if is_past_repeating(clause) {
        remedy(RefusalClause::KeyExpired)
    } else if keyed {
        "retry with the same key and index"
    } else {
        "without a key a retry may execute twice"
    }
}

/// How this node's replica stands towards the leadership of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Leadership {
    /// It follows, or waits for a leader.
    #[default]
    Follower,
    /// It leads, and what it needs to judge by is not all applied yet: entries of earlier terms, or whatever a machine that
    /// failed and was made anew had before.
    Elected {
        /// Its term.
        term: Term,
    },
    /// It leads, and everything earlier is applied.
    Ready {
        /// Its term.
        term: Term,
    },
    /// It leads, takes nothing new and hands over. A hand-over that nobody takes ends in `Ready` again.
    Draining,
    /// It will not lead again in this life: its disk failed, it is quarantined, or the node stopped.
    Lost,
}
