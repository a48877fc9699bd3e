//! A request on its way from a handle to its shard, and the ways in which it is answered.
//!
//! An answer is owed from the moment a [`Submission`] exists, and given exactly once: by the shard, by
//! whoever gives up on it, or by its drop.

use std::any::Any;

use clustor_shards::mesh::reply::ReplySender;
use clustor_shards::turn::Time;
use clustor_wire::ids::{LogIndex, PartitionId};
use clustor_wire::message::{
    IdempotencyKey, PartitionMembers, PartitionStatus, Refusal, RefusalClause,
};

use crate::outcome::Outcome;
use crate::request::{Reply, RequestBody};

/// What a read's closure found, or why it was not run.
pub(super) type Found = Result<Box<dyn Any + Send>, Refusal>;
/// A replica's status, or why there is none.
pub(super) type Status = Result<PartitionStatus, Refusal>;

/// Who belongs to a partition, or why nobody says.
pub(super) type Members = Result<PartitionMembers, Refusal>;

/// Where an answer goes.
pub(super) enum Answer {
    Append {
        to: ReplySender<Outcome>,
        key: Option<(IdempotencyKey, Option<LogIndex>)>,
    },
    Read(ReplySender<Found>),
    Status(ReplySender<Status>),
    Members(ReplySender<Members>),
    /// Whether it is obeyed; a stopping shard obeys nothing new.
    Profile(ReplySender<bool>),
}

impl Answer {
    /// Delivers the shard's answer.
    ///
    /// # Panics
    /// If it answers another kind of question: the shard mixed up its tickets.
    pub fn deliver(self, reply: Reply) {
        match (self, reply) {
            (Self::Append { to, .. }, Reply::Append { outcome, .. }) => answer(to, outcome),
            (Self::Read(to), Reply::Read { found, .. }) => answer(to, found),
            (Self::Status(to), Reply::Status { status, .. }) => answer(to, status),
            (Self::Members(to), Reply::Members { members, .. }) => answer(to, members),
            (Self::Profile(to), Reply::Profile { .. }) => answer(to, true),
            (_, reply) => panic!("a request was answered by another kind of reply: {reply:?}"),
        }
    }

    /// Nothing happened, and nothing will.
    pub fn refuse(self, refusal: Refusal) {
        match self {
            Self::Append { to, .. } => answer(to, Outcome::NotExecuted { refusal }),
            Self::Read(to) => answer(to, Err(refusal)),
            Self::Status(to) => answer(to, Err(refusal)),
            Self::Members(to) => answer(to, Err(refusal)),
            Self::Profile(to) => answer(to, false),
        }
    }

    /// Nobody waits for the shard any longer: an append may still happen, a question goes unanswered.
    pub fn give_up(self, why: String) {
        match self {
            Self::Append { to, key } => answer(to, unknown(why, key)),
            other => other.refuse(refusal(RefusalClause::Unavailable, why, 0)),
        }
    }
}

/// Sends an answer. One that nobody waits for any more is dropped: its future was.
fn answer<T>(to: ReplySender<T>, value: T) {
    drop(to.send(value));
}

/// The outcome of an append whose answer will not come.
pub(super) fn unknown(why: String, key: Option<(IdempotencyKey, Option<LogIndex>)>) -> Outcome {
    Outcome::Unknown {
        why,
        clause: None,
        key: key.map(|(key, _)| key),
        wal_committed: key.and_then(|(_, known)| known).unwrap_or_default(),
    }
}

/// A refusal by the facade itself, which knows neither leader nor watermark.
pub(super) fn refusal(clause: RefusalClause, message: String, retry_after_ms: u32) -> Refusal {
    Refusal {
        clause,
        message,
        retry_after_ms,
        leader: None,
        leader_at: None,
        wal_committed: None,
    }
}

/// The refusal of a shard that takes nothing any more.
pub(super) fn stopping() -> Refusal {
    refusal(
        RefusalClause::Stopping,
        "the engine is stopping".to_owned(),
        0,
    )
}

/// What was asked, with all that is needed to answer it.
pub(super) struct Asked {
    pub answer: Answer,
    /// Payload bytes taken from the shard's budget.
    pub bytes: u64,
    /// When its asker stops waiting.
    pub deadline: Option<Time>,
}

/// A request in the shard's queue.
pub(super) struct Submission {
    pub partition: PartitionId,
    /// `None` once the shard has taken it, and for one that only wakes it.
    content: Option<(RequestBody, Asked)>,
}

impl Submission {
    pub fn new(partition: PartitionId, body: RequestBody, asked: Asked) -> Self {
        Self {
            partition,
            content: Some((body, asked)),
        }
    }

    /// One that asks for nothing: it wakes the shard.
    pub fn nudge() -> Self {
        Self {
            partition: PartitionId::default(),
            content: None,
        }
    }

    /// Whether it asks for nothing.
    pub fn is_nudge(&self) -> bool {
        self.content.is_none()
    }

    /// Takes it out, for the one who will answer it.
    pub fn take(mut self) -> (RequestBody, Asked) {
        self.content
            .take()
            .expect("a submission is taken once: taking consumes it")
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        // Left in the queue of a shard that ended: no turn ever saw it.
        if let Some((_, asked)) = self.content.take() {
            asked.answer.refuse(stopping());
        }
    }
}
