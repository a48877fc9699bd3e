//! An answer under way: a plain future, with a blocking twin and a look without waiting.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use clustor_shards::mesh::reply::{Lost, Reply};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{
    IdempotencyKey, PartitionMembers, ProfileReload, ReadLevel, Refusal, RefusalClause, ShardStatus,
};

use super::question::Answer;
use crate::outcome::{AppendError, Appended, Outcome, describe};
use crate::partition::refusal;

/// What a partition's machine answered to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAnswer {
    /// What it relied on: a lease that was not held is [`ReadLevel::Linearizable`].
    pub level: ReadLevel,
    /// The term in which leadership was confirmed; at [`ReadLevel::Local`] the replica's own.
    pub term: Term,
    /// The machine had applied up to here.
    pub index: LogIndex,
    /// What it answered.
    pub reply: Vec<u8>,
}

/// Why a read or a status was not answered. Nothing was changed by asking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not answered: {}", describe(.0))]
pub struct CallError(pub Refusal);

/// Why a question about the members of a partition, or a change of them, was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", if *.may_have_begun { "unknown, the change may have begun" } else { "not answered" }, describe(.refusal))]
pub struct MembersError {
    /// Why, and what to do.
    pub refusal: Refusal,
    /// Whether a sending was lost that may have begun the change: then the last refusal is not the whole truth. Never for
    /// [`MembersVerb::Show`](clustor_wire::message::MembersVerb::Show).
    pub may_have_begun: bool,
}

/// What is known of a question without its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub key: Option<IdempotencyKey>,
    pub index: Option<LogIndex>,
}

/// An answer under way. The question was sent when this was made; dropping it takes nothing back.
#[must_use = "the answer comes through this; dropping it takes nothing back"]
pub struct Pending<T> {
    source: Source,
    known: Known,
    read: fn(Result<Answer, Lost>, Known) -> T,
}

enum Source {
    Reply(Reply<Answer>),
    Known(Option<Answer>),
}

impl<T> Pending<T> {
    pub(super) const fn under_way(
        reply: Reply<Answer>,
        known: Known,
        read: fn(Result<Answer, Lost>, Known) -> T,
    ) -> Self {
        Self {
            source: Source::Reply(reply),
            known,
            read,
        }
    }

    pub(super) const fn answered(
        answer: Answer,
        known: Known,
        read: fn(Result<Answer, Lost>, Known) -> T,
    ) -> Self {
        Self {
            source: Source::Known(Some(answer)),
            known,
            read,
        }
    }

    /// Waits on this thread; no executor needed. It ends at the call's deadline at the latest.
    pub fn wait(self) -> T {
        let answer = match self.source {
            Source::Reply(reply) => reply.wait(),
            Source::Known(answer) => Ok(answer.expect("not taken before")),
        };
        (self.read)(answer, self.known)
    }

    /// The answer, if it is there.
    ///
    /// # Panics
    /// If it was taken before.
    pub fn try_take(&mut self) -> Option<T> {
        let answer = match &mut self.source {
            Source::Reply(reply) => reply.try_take()?,
            Source::Known(answer) => Ok(answer.take().expect("the answer was taken before")),
        };
        Some((self.read)(answer, self.known))
    }
}

impl<T> core::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Pending")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let answer = match &mut self.source {
            Source::Reply(reply) => ready!(Pin::new(reply).poll(context)),
            Source::Known(answer) => Ok(answer
                .take()
                .expect("a future is not polled again after it was ready")),
        };
        Poll::Ready((self.read)(answer, self.known))
    }
}

pub(super) fn read_append(
    answer: Result<Answer, Lost>,
    known: Known,
) -> Result<Appended, AppendError> {
    match answer {
        Ok(Answer::Append(outcome)) => outcome,
        Ok(other) => unreachable!("an append is answered as one: {other:?}"),
        Err(_) => Outcome::Unknown {
            why: "the client's thread ended".to_owned(),
            clause: None,
            key: known.key,
            wal_committed: known.index.unwrap_or_default(),
        },
    }
    .into_result()
}

pub(super) fn read_read(answer: Result<Answer, Lost>, _: Known) -> Result<ReadAnswer, CallError> {
    match answer {
        Ok(Answer::Read(found)) => found.map_err(CallError),
        Ok(other) => unreachable!("a read is answered as one: {other:?}"),
        Err(_) => Err(ended()),
    }
}

pub(super) fn read_status(
    answer: Result<Answer, Lost>,
    _: Known,
) -> Result<ShardStatus, CallError> {
    match answer {
        Ok(Answer::Status(status)) => status.map_err(CallError),
        Ok(other) => unreachable!("a status is answered as one: {other:?}"),
        Err(_) => Err(ended()),
    }
}

pub(super) fn read_members(
    answer: Result<Answer, Lost>,
    _: Known,
) -> Result<PartitionMembers, MembersError> {
    match answer {
        Ok(Answer::Members(members)) => members,
        Ok(other) => unreachable!("members are answered as such: {other:?}"),
        // It may have been sent before.
        Err(_) => Err(MembersError {
            refusal: ended().0,
            may_have_begun: true,
        }),
    }
}

pub(super) fn read_reload(
    answer: Result<Answer, Lost>,
    _: Known,
) -> Result<ProfileReload, CallError> {
    match answer {
        Ok(Answer::Reload(reload)) => reload.map_err(CallError),
        Ok(other) => unreachable!("a reload is answered as one: {other:?}"),
        Err(_) => Err(ended()),
    }
}

fn ended() -> CallError {
    let why = "the client's thread ended".to_owned();
    CallError(refusal(RefusalClause::Closed, why, 0))
}
