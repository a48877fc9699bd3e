//! A handle to one partition, for any thread and any async runtime or none.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use clustor_shards::log::Mode;
use clustor_shards::mesh::reply::{ReplyPool, pair};
use clustor_shards::mesh::watch::Watch;
use clustor_shards::mesh::{Rejected, Submitter};
use clustor_shards::sys::boottime_us;
use clustor_shards::turn::Time;
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use clustor_wire::message::{IdempotencyKey, PartitionStatus, ReadLevel, Refusal, RefusalClause};

use super::budget::Budget;
use super::leaders::Leaders;
use super::pending::{AppendFuture, MembersFuture, Ran, ReadError, ReadFuture, StatusFuture};
use super::submission::{Answer, Asked, Submission, refusal, stopping};
use crate::machine::{Guarded, StateMachine};
use crate::outcome::{AppendError, Appended, Leadership, Outcome};
use crate::request::{MembersRequest, ReadFn, RequestBody, Wait};

/// When a refused request may be tried again, in milliseconds: a few chains of a slow disk.
const BUSY_RETRY_MS: u32 = 10;

/// The way to one shard, shared by all handles to its partitions.
pub(super) struct Port {
    pub submitter: Submitter<Submission>,
    pub budget: Arc<Budget>,
    pub outcomes: ReplyPool<Outcome>,
    pub entry_bytes_max: u64,
}

/// How an append is made; the default is that of [`PartitionHandle::append`].
#[derive(Debug, Clone, Copy, Default)]
pub struct AppendOptions {
    key: Option<(IdempotencyKey, Option<LogIndex>)>,
    wait: Wait,
    only_in: Option<Term>,
    timeout: Option<Duration>,
}

impl AppendOptions {
    /// No key, answered when applied, however long that takes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Under this key, so that retries execute once. `known` is the partition's `wal_committed` as the caller
    /// knew it when it first sent the command ([`PartitionHandle::status`]); a retry repeats both. Without it
    /// the answer is a refusal that carries one.
    #[must_use]
    pub fn key(mut self, key: IdempotencyKey, known: Option<LogIndex>) -> Self {
        self.key = Some((key, known));
        self
    }

    /// Answered as soon as it is durable on a quorum, before it is applied; the reply is empty. Not with a
    /// key.
    #[must_use]
    pub fn at_commit(mut self) -> Self {
        self.wait = Wait::Committed;
        self
    }

    /// Only under this term: if the partition is led in another one when the shard takes it, it is refused
    /// (`TermChanged`, or `NotLeader`) and never enters the log. So a former leader's command can't follow a new
    /// leader's; the term is that of [`Leadership::Ready`].
    #[must_use]
    pub fn if_term(mut self, term: Term) -> Self {
        self.only_in = Some(term);
        self
    }

    /// Waits no longer than this for the outcome, queue, disk, quorum and machine together. Then it is
    /// Unknown, unless the command had not left the queue: that is NotExecuted. A future learns it from
    /// the shard, between turns, so a machine that blocks its shard delays that; a blocking call does not
    /// wait for the shard.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// A payload that was not taken, and why. Nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not taken: {}", crate::outcome::describe(.refusal))]
pub struct Refused {
    /// The payload, as it was handed in.
    pub payload: Vec<u8>,
    /// Why, and what to do.
    pub refusal: Refusal,
}

/// A handle to the partition whose machine is an `M`. Cheap to clone; outlives its engine, and then refuses.
///
/// Appends of one handle enter the log in the order of the calls: the request is sent by the call, not by
/// the first poll of its future. Dropping a future does not take its request back.
pub struct PartitionHandle<M> {
    partition: PartitionId,
    port: Arc<Port>,
    leaders: Arc<Leaders>,
    machine: PhantomData<fn(M)>,
}

impl<M> Clone for PartitionHandle<M> {
    fn clone(&self) -> Self {
        Self {
            partition: self.partition,
            port: Arc::clone(&self.port),
            leaders: Arc::clone(&self.leaders),
            machine: PhantomData,
        }
    }
}

impl<M> core::fmt::Debug for PartitionHandle<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("PartitionHandle")
            .field(&self.partition)
            .finish()
    }
}

impl<M: StateMachine> PartitionHandle<M> {
    pub(super) fn new(partition: PartitionId, port: Arc<Port>, leaders: Arc<Leaders>) -> Self {
        Self {
            partition,
            port,
            leaders,
            machine: PhantomData,
        }
    }

    /// Which partition.
    #[must_use]
    pub const fn id(&self) -> PartitionId {
        self.partition
    }

    /// Appends a command. The future's result is the first of the three outcomes, or the error that holds
    /// the other two. A full queue is a refusal, at once; there is no waiting for room.
    pub fn append(&self, payload: impl Into<Vec<u8>>) -> AppendFuture {
        self.append_with(payload, AppendOptions::new())
    }

    /// [`Self::append`], waiting on this thread.
    ///
    /// # Errors
    /// The other two outcomes, [`AppendError`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn append_blocking(&self, payload: impl Into<Vec<u8>>) -> Result<Appended, AppendError> {
        self.append(payload).wait()
    }

    /// Appends a command under an idempotency key; see [`AppendOptions::key`].
    pub fn append_keyed(
        &self,
        key: IdempotencyKey,
        known: Option<LogIndex>,
        payload: impl Into<Vec<u8>>,
    ) -> AppendFuture {
        self.append_with(payload, AppendOptions::new().key(key, known))
    }

    /// Appends a command only under this term; see [`AppendOptions::if_term`].
    pub fn append_if(&self, term: Term, payload: impl Into<Vec<u8>>) -> AppendFuture {
        self.append_with(payload, AppendOptions::new().if_term(term))
    }

    /// Appends a command as the options say. Its blocking twin is [`AppendFuture::wait`].
    pub fn append_with(&self, payload: impl Into<Vec<u8>>, options: AppendOptions) -> AppendFuture {
        match self.try_append(payload, options) {
            Ok(future) => future,
            Err(refused) => AppendFuture::refused(refused.refusal),
        }
    }

    /// As [`Self::append_with`], but a command that the shard's queue does not take comes back with the
    /// reason.
    ///
    /// # Errors
    /// [`Refused`]: the payload is over the limit, the queue is full, or the engine is stopping.
    pub fn try_append(
        &self,
        payload: impl Into<Vec<u8>>,
        options: AppendOptions,
    ) -> Result<AppendFuture, Refused> {
        let payload = payload.into();
        let bytes = payload.len() as u64;
        if let Err(refusal) = self
            .check_size(bytes)
            .and_then(|()| self.take_budget(bytes))
        {
            return Err(Refused { payload, refusal });
        }
        let (to, reply) = self.port.outcomes.pair();
        let key = options.key;
        let body = RequestBody::Append {
            payload,
            key,
            wait: options.wait,
            only_in: options.only_in,
        };
        let deadline = deadline(options.timeout);
        match self.submit(body, Answer::Append { to, key }, bytes, deadline) {
            Ok(()) => Ok(AppendFuture::under_way(reply, key, deadline)),
            Err(returned) => match *returned {
                (RequestBody::Append { payload, .. }, refusal) => Err(Refused { payload, refusal }),
                _ => unreachable!("a submission comes back as it was submitted"),
            },
        }
    }

    /// Runs `read` on the shard against the machine, linearizably: it sees everything that was acknowledged
    /// before the call. It blocks the shard while it runs.
    pub fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> ReadFuture<R> {
        self.ask_read(ReadLevel::Linearizable, read, None)
    }

    /// [`Self::read`], relying on what `level` says: [`ReadLevel::Lease`] spares the question to a majority while the leader
    /// holds a lease; [`ReadLevel::Local`] is answered by this replica, leader or not, from whatever it has applied.
    pub fn read_at<R: Send + 'static>(
        &self,
        level: ReadLevel,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> ReadFuture<R> {
        self.ask_read(level, read, None)
    }

    /// [`Self::read`], waiting no longer than `timeout`.
    pub fn read_within<R: Send + 'static>(
        &self,
        timeout: Duration,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> ReadFuture<R> {
        self.ask_read(ReadLevel::Linearizable, read, Some(timeout))
    }

    /// [`Self::read`], waiting on this thread.
    ///
    /// # Errors
    /// [`ReadError`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn read_blocking<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        self.read(read).wait()
    }

    /// Asks for a durability mode, for the whole partition, from the entry on that says so. The future's result is
    /// that entry, once it is applied. Group mode is refused with the clause that forbids it where it is not allowed;
    /// the leader may hold the partition in strict mode later all the same, see the partition's status.
    pub fn set_mode(&self, mode: Mode) -> AppendFuture {
        let (to, reply) = self.port.outcomes.pair();
        let answer = Answer::Append { to, key: None };
        match self.ask(RequestBody::Mode(mode), answer, None) {
            Ok(()) => AppendFuture::under_way(reply, None, None),
            Err(refusal) => AppendFuture::refused(refusal),
        }
    }

    /// [`Self::set_mode`], waiting on this thread.
    ///
    /// # Errors
    /// The other two outcomes, [`AppendError`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn set_mode_blocking(&self, mode: Mode) -> Result<Appended, AppendError> {
        self.set_mode(mode).wait()
    }

    /// How this node's replica stands. Its `trouble` is its shard's where it has none of its own: a disk that fills up or
    /// failed, a quarantine.
    pub fn status(&self) -> StatusFuture {
        let (to, reply) = pair();
        match self.ask(RequestBody::Status, Answer::Status(to), None) {
            Ok(()) => StatusFuture::under_way(reply),
            Err(refusal) => StatusFuture::refused(refusal),
        }
    }

    /// [`Self::status`], waiting on this thread.
    ///
    /// # Errors
    /// [`ReadError::Refused`].
    ///
    /// # Panics
    /// On a shard's thread, where it would wait for itself.
    pub fn status_blocking(&self) -> Result<PartitionStatus, ReadError> {
        self.status().wait()
    }

    /// Who belongs to the partition, as this node's replica knows; or a change of that, where it leads. The answer comes
    /// when the change has begun; [`MembersRequest::Show`] says when it is over.
    pub fn members(&self, request: MembersRequest) -> MembersFuture {
        let (to, reply) = pair();
        match self.ask(RequestBody::Members(request), Answer::Members(to), None) {
            Ok(()) => MembersFuture::under_way(reply),
            Err(refusal) => MembersFuture::refused(refusal),
        }
    }

    /// How this node's replica stands towards leadership: a watch that begins with the latest value. A slow
    /// watcher misses steps, never the last one, and holds up nobody.
    #[must_use]
    pub fn leadership(&self) -> Watch<Leadership> {
        self.leaders.watch()
    }

    fn ask_read<R: Send + 'static>(
        &self,
        level: ReadLevel,
        read: impl FnOnce(&M) -> R + Send + 'static,
        timeout: Option<Duration>,
    ) -> ReadFuture<R> {
        let (to, reply) = pair();
        let read = Guarded::new(read);
        let read: ReadFn = Box::new(move |machine: &dyn Any| -> Box<dyn Any + Send> {
            let machine = machine
                .downcast_ref::<M>()
                .expect("the handle's type was compared with the partition's when it was made");
            let ran: Ran<R> = catch_unwind(AssertUnwindSafe(|| read.into_inner()(machine)))
                .map_err(|panic| panic_message(&*panic));
            Box::new(Guarded::new(ran))
        });
        let deadline = deadline(timeout);
        match self.ask(
            RequestBody::Read { level, read },
            Answer::Read(to),
            deadline,
        ) {
            Ok(()) => ReadFuture::under_way(reply, deadline),
            Err(refusal) => ReadFuture::refused(refusal),
        }
    }

    fn ask(
        &self,
        body: RequestBody,
        answer: Answer,
        deadline: Option<Time>,
    ) -> Result<(), Refusal> {
        self.take_budget(0)?;
        self.submit(body, answer, 0, deadline)
            .map_err(|returned| returned.1)
    }

    fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        let limit = self.port.entry_bytes_max;
        if bytes > limit {
            return Err(refusal(
                RefusalClause::TooLarge,
                format!(
                    "partition {}: a payload of {bytes} bytes exceeds entry_bytes_max = {limit}",
                    self.partition
                ),
                0,
            ));
        }
        Ok(())
    }

    fn take_budget(&self, bytes: u64) -> Result<(), Refusal> {
        if self.port.submitter.is_closed() {
            return Err(stopping());
        }
        self.port.budget.take(bytes).map_err(|why| {
            refusal(
                RefusalClause::Busy,
                format!("partition {}: {why}", self.partition),
                BUSY_RETRY_MS,
            )
        })
    }

    /// Submits what the budget was taken for. What is not accepted comes back, its budget given back.
    fn submit(
        &self,
        body: RequestBody,
        answer: Answer,
        bytes: u64,
        deadline: Option<Time>,
    ) -> Result<(), Box<(RequestBody, Refusal)>> {
        let asked = Asked {
            answer,
            bytes,
            deadline,
        };
        let Err(rejected) =
            self.port
                .submitter
                .try_submit(Submission::new(self.partition, body, asked))
        else {
            return Ok(());
        };
        self.port.budget.give_back(bytes);
        let refusal = match &rejected {
            Rejected::Full(_) => refusal(
                RefusalClause::Busy,
                format!("partition {}: the shard's queue is full", self.partition),
                BUSY_RETRY_MS,
            ),
            Rejected::Closed(_) => stopping(),
        };
        // The answer's cell goes with it: its other end is dropped by the caller.
        let (body, _) = rejected.into_inner().take();
        Err(Box::new((body, refusal)))
    }
}

fn deadline(timeout: Option<Duration>) -> Option<Time> {
    timeout.map(|timeout| {
        let us = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        Time(boottime_us()).plus_us(us)
    })
}

/// What a panic said.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
