//! The futures that handles give out, each with a blocking twin.
//!
//! Plain futures: they need no executor of their own, are woken by the shard, and may be dropped at any
//! time. The request was sent when the future was made; dropping it takes nothing back.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use clustor_shards::mesh::reply::{Lost, Reply, WaitError};
use clustor_shards::sys::boottime_us;
use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{
    IdempotencyKey, PartitionMembers, PartitionStatus, Refusal, RefusalClause,
};

use super::served::on_shard;
use super::submission::{Found, refusal, unknown};
use crate::machine::Guarded;
use crate::outcome::{AppendError, Appended, Outcome, describe};

/// How long after its deadline a blocking call waits for the shard to say so. A shard that a machine blocks
/// says nothing.
const GRACE: Duration = Duration::from_millis(50);

/// An answer under way, or known at once.
enum Source<T> {
    Reply(Reply<T>, Option<Time>),
    Known(Option<T>),
}

/// There is no answer, and this is why.
struct NoAnswer(String);

impl From<Lost> for NoAnswer {
    fn from(lost: Lost) -> Self {
        Self(lost.to_string())
    }
}

impl<T> Source<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T, NoAnswer>> {
        match self {
            Self::Reply(reply, _) => Pin::new(reply).poll(context).map_err(NoAnswer::from),
            Self::Known(answer) => Poll::Ready(Ok(answer
                .take()
                .expect("a future is not polled again after it was ready"))),
        }
    }

    fn wait(self) -> Result<T, NoAnswer> {
        let (mut reply, deadline) = match self {
            Self::Reply(reply, deadline) => (reply, deadline),
            Self::Known(answer) => return Ok(answer.expect("taken once, here")),
        };
        assert!(
            !on_shard(),
            "a blocking call on a shard's thread would wait for itself: use the future, or call from another thread"
        );
        let Some(deadline) = deadline else {
            return Ok(reply.wait()?);
        };
        let left = Duration::from_micros(deadline.since_us(Time(boottime_us())));
        reply
            .wait_timeout(left.saturating_add(GRACE))
            .map_err(|error| match error {
                WaitError::Lost(lost) => lost.into(),
                WaitError::TimedOut => {
                    NoAnswer("the timeout ran out while the shard was blocked".to_owned())
                }
            })
    }
}

/// An append under way.
#[must_use = "the outcome comes through this; dropping it does not take the append back"]
pub struct AppendFuture {
    source: Source<Outcome>,
    key: Option<(IdempotencyKey, Option<LogIndex>)>,
}

impl AppendFuture {
    pub(super) fn under_way(
        reply: Reply<Outcome>,
        key: Option<(IdempotencyKey, Option<LogIndex>)>,
        deadline: Option<Time>,
    ) -> Self {
        Self {
            source: Source::Reply(reply, deadline),
            key,
        }
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self {
            source: Source::Known(Some(Outcome::NotExecuted { refusal })),
            key: None,
        }
    }

    /// Waits for the outcome on this thread; no executor needed.
    ///
    /// # Errors
    /// The other two outcomes, [`AppendError`].
    ///
    /// # Panics
    /// On a shard's thread (inside a machine or a read's closure), where it would wait for itself.
    pub fn wait(self) -> Result<Appended, AppendError> {
        let key = self.key;
        outcome(self.source.wait(), key)
    }
}

impl core::fmt::Debug for AppendFuture {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AppendFuture")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

fn outcome(
    answer: Result<Outcome, NoAnswer>,
    key: Option<(IdempotencyKey, Option<LogIndex>)>,
) -> Result<Appended, AppendError> {
    answer
        .unwrap_or_else(|NoAnswer(why)| unknown(why, key))
        .into_result()
}

impl Future for AppendFuture {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.source.poll(context));
        Poll::Ready(outcome(answer, self.key))
    }
}

/// Why a question was not answered. Nothing was changed by asking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It was refused, or its time ran out.
    #[error("not read: {}", describe(.0))]
    Refused(Refusal),
    /// The closure panicked; the shard and the machine go on.
    #[error("the read's closure panicked: {0}")]
    Panicked(String),
}

/// What a closure's run gave: its result, or the message of its panic.
pub(super) type Ran<R> = Result<R, String>;

/// A read under way.
#[must_use = "what was read comes through this"]
pub struct ReadFuture<R> {
    source: Source<Found>,
    result: PhantomData<fn() -> R>,
}

impl<R: 'static> ReadFuture<R> {
    pub(super) fn under_way(reply: Reply<Found>, deadline: Option<Time>) -> Self {
        Self::new(Source::Reply(reply, deadline))
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self::new(Source::Known(Some(Err(refusal))))
    }

    fn new(source: Source<Found>) -> Self {
        Self {
            source,
            result: PhantomData,
        }
    }

    /// Waits for the result on this thread; no executor needed.
    ///
    /// # Errors
    /// [`ReadError`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn wait(self) -> Result<R, ReadError> {
        found(self.source.wait())
    }
}

impl<R> core::fmt::Debug for ReadFuture<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ReadFuture(..)")
    }
}

fn found<R: 'static>(answer: Result<Found, NoAnswer>) -> Result<R, ReadError> {
    let found: Box<dyn Any + Send> = flatten(answer)?;
    let ran = found
        .downcast::<Guarded<Ran<R>>>()
        .expect("the shard returns what the closure of this future made");
    ran.into_inner().map_err(ReadError::Panicked)
}

fn flatten<T>(answer: Result<Result<T, Refusal>, NoAnswer>) -> Result<T, ReadError> {
    answer
        .unwrap_or_else(|NoAnswer(why)| Err(refusal(RefusalClause::Unavailable, why, 0)))
        .map_err(ReadError::Refused)
}

impl<R: 'static> Future for ReadFuture<R> {
    type Output = Result<R, ReadError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(found(ready!(self.source.poll(context))))
    }
}

/// A question for a replica's status under way.
pub type StatusFuture = AskFuture<PartitionStatus>;

/// A question about a partition's members under way.
pub type MembersFuture = AskFuture<PartitionMembers>;

/// A question to this node's replica under way.
#[must_use = "the answer comes through this"]
pub struct AskFuture<T> {
    source: Source<Result<T, Refusal>>,
}

impl<T> AskFuture<T> {
    pub(super) fn under_way(reply: Reply<Result<T, Refusal>>) -> Self {
        Self {
            source: Source::Reply(reply, None),
        }
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self {
            source: Source::Known(Some(Err(refusal))),
        }
    }

    /// Waits for the answer on this thread; no executor needed.
    ///
    /// # Errors
    /// [`ReadError::Refused`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn wait(self) -> Result<T, ReadError> {
        flatten(self.source.wait())
    }
}

impl<T> core::fmt::Debug for AskFuture<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("AskFuture(..)")
    }
}

impl<T: Unpin> Future for AskFuture<T> {
    type Output = Result<T, ReadError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(flatten(ready!(self.source.poll(context))))
    }
}
