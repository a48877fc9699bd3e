//! The client as programs hold it: calls from any thread, one thread that carries them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clustor_shards::mesh::reply::{Lost, ReplyPool, ReplySender};
use clustor_shards::sys::boottime_us;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, ShardId, Term};
use clustor_wire::message::{
    DurabilityMode, IdempotencyKey, MembersVerb, PartitionMembers, ProfileReload, ReadLevel,
    RefusalClause, ShardStatus,
};

use super::config::{ClientConfig, ClientError};
use super::driver::{Driver, WAKE};
use super::machine::Machine;
use super::pending::{
    CallError, Known, MembersError, Pending, ReadAnswer, read_append, read_members, read_read,
    read_reload, read_status,
};
use super::question::{Answer, Keying, Question};
use crate::outcome::{AppendError, Appended};
use crate::partition::refusal;
use crate::security::Placement;

/// Reply cells kept for use again.
const CELLS_KEPT_MAX: usize = 1024;

/// A question on its way to the client's thread.
pub(super) struct Submission {
    pub question: Question,
    pub deadline: u64,
    pub to: ReplySender<Answer>,
}

/// What was submitted and not taken. Bounded by the questions under way.
#[derive(Default)]
struct Inbox {
    submissions: Vec<Submission>,
    /// Nobody takes anything any more.
    closed: bool,
}

/// What the callers and the thread share.
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    /// Questions taken and not answered.
    pub under_way: AtomicUsize,
    pub closed: AtomicBool,
    waker: mio::Waker,
}

impl Shared {
    /// Takes what has been submitted; `into` is empty and keeps its memory.
    pub fn take(&self, into: &mut Vec<Submission>) {
        core::mem::swap(&mut self.lock().submissions, into);
    }

    /// Drops what has been submitted, and refuses what comes later.
    pub fn close_inbox(&self) {
        let mut inbox = self.lock();
        inbox.closed = true;
        let left = core::mem::take(&mut inbox.submissions);
        drop(inbox);
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // A list of submissions is whole between any two statements.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the thread's poll is gone; its senders then answer by being dropped.
        let _ = self.waker.wake();
    }
}

/// The last client to go stops the thread, without waiting for it.
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    placement: Arc<Placement>,
    questions_max: usize,
    timeout_us: u64,
    pool: ReplyPool<Answer>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// How an append is sent, where [`Client::append`]'s ways don't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendWith {
    /// Its key.
    pub keying: Keying,
    /// Its time; `None`: the client's.
    pub timeout: Option<Duration>,
    /// It enters the log in this term or never; `None`: in whichever term it meets. Where another has begun it is
    /// refused by `TermChanged`, which names that one; with a key it is Unknown then if an earlier sending of it may have
    /// entered.
    pub only_in: Option<Term>,
}

impl AppendWith {
    /// Under this key, in the client's time, in whichever term it meets.
    #[must_use]
    pub const fn under(keying: Keying) -> Self {
        Self {
            keying,
            timeout: None,
            only_in: None,
        }
    }
}

/// A client of a cluster: cheap to clone, for any thread.
///
/// Every call returns at once with a [`Pending`] answer: await it with any executor, wait for it on the thread, or
/// look at it now and then; one thread can have thousands under way. When the last clone is dropped, what is under
/// way is answered and the client's thread ends.
#[derive(Clone)]
pub struct Client(Arc<Owner>);

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Client")
            .field("under_way", &self.0.shared.under_way)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client and starts its thread. No node is dialled before it is needed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let ClientConfig {
            placement,
            identity,
            settings,
        } = config;
        let certificate = identity.id().trust_domain();
        if certificate != placement.trust_domain() {
            return Err(ClientError::WrongTrustDomain {
                certificate: certificate.to_owned(),
                placement: placement.trust_domain().to_owned(),
            });
        }
        let system = |what| move |why| ClientError::System { what, why };
        let poll = mio::Poll::new().map_err(system("epoll"))?;
        let waker = mio::Waker::new(poll.registry(), WAKE).map_err(system("eventfd"))?;
        let seed = getrandom::u64().map_err(ClientError::Seed)?;
        let placement = Arc::new(placement);
        let shared = Arc::new(Shared {
            inbox: Mutex::new(Inbox::default()),
            under_way: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            waker,
        });
        let machine = Machine::new(&placement, settings, seed);
        let driver = Driver::new(
            poll,
            machine,
            settings,
            identity,
            Arc::clone(&placement),
            Arc::clone(&shared),
        );
        let thread = std::thread::Builder::new()
            .name("clustor-client".to_owned())
            .spawn(move || driver.run())
            .map_err(system("thread"))?;
        Ok(Self(Arc::new(Owner {
            shared,
            thread: Mutex::new(Some(thread)),
            placement,
            questions_max: settings.questions_max,
            timeout_us: settings.timeout_us,
            pool: ReplyPool::new(CELLS_KEPT_MAX.min(settings.questions_max)),
        })))
    }

    /// The placement it routes by.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.0.placement
    }

    /// A key that nobody has used: 128 random bits.
    ///
    /// # Panics
    /// If the system has no randomness.
    #[must_use]
    pub fn draw_key() -> IdempotencyKey {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system gave randomness at start");
        IdempotencyKey(u128::from_le_bytes(bytes))
    }

    /// Appends a command under a new key: it is retried until the client's timeout and executes at most once.
    pub fn append(
        &self,
        partition: impl Into<PartitionId>,
        payload: impl Into<Vec<u8>>,
    ) -> Pending<Result<Appended, AppendError>> {
        let with = AppendWith::under(Keying::New(Self::draw_key()));
        self.append_with(partition, payload, with)
    }

    /// Appends under a key of the caller's. With an index it retries an append whose outcome is unknown and which
    /// carried this index; without one the key must never have been sent before.
    pub fn append_keyed(
        &self,
        partition: impl Into<PartitionId>,
        payload: impl Into<Vec<u8>>,
        key: IdempotencyKey,
        index: Option<LogIndex>,
    ) -> Pending<Result<Appended, AppendError>> {
        let keying = index.map_or(Keying::New(key), |index| Keying::Retry(key, index));
        self.append_with(partition, payload, AppendWith::under(keying))
    }

    /// Appends in this term or never, under a key of its own: what a leader decided under its term can't slip in behind a
    /// later leader's decisions.
    pub fn append_if(
        &self,
        term: Term,
        partition: impl Into<PartitionId>,
        payload: impl Into<Vec<u8>>,
    ) -> Pending<Result<Appended, AppendError>> {
        let with = AppendWith {
            only_in: Some(term),
            ..AppendWith::under(Keying::New(Self::draw_key()))
        };
        self.append_with(partition, payload, with)
    }

    /// Appends as told.
    pub fn append_with(
        &self,
        partition: impl Into<PartitionId>,
        payload: impl Into<Vec<u8>>,
        with: AppendWith,
    ) -> Pending<Result<Appended, AppendError>> {
        let index = match with.keying {
            Keying::Retry(_, index) => Some(index),
            Keying::None | Keying::New(_) => None,
        };
        let known = Known {
            key: with.keying.key(),
            index,
        };
        let question = Question::Append {
            partition: partition.into(),
            keying: with.keying,
            payload: payload.into(),
            only_in: with.only_in,
        };
        self.submit(question, with.timeout, known, read_append)
    }

    /// Asks the partition's machine, linearizably. `timeout` `None`: the client's.
    pub fn read(
        &self,
        partition: impl Into<PartitionId>,
        query: impl Into<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Pending<Result<ReadAnswer, CallError>> {
        self.read_at(ReadLevel::Linearizable, partition, query, timeout)
    }

    /// Asks the partition's machine, relying on what `level` says. At [`ReadLevel::Local`] the first replica that can be
    /// asked answers, leader or not. `timeout` `None`: the client's.
    pub fn read_at(
        &self,
        level: ReadLevel,
        partition: impl Into<PartitionId>,
        query: impl Into<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Pending<Result<ReadAnswer, CallError>> {
        let question = Question::Read {
            partition: partition.into(),
            level,
            query: query.into(),
        };
        self.submit(question, timeout, UNKEYED, read_read)
    }

    /// Asks for a durability mode of a partition, with an operator's certificate; the answer is the entry that changes
    /// it, applied. To ask twice does no harm. `timeout` `None`: the client's.
    pub fn set_mode(
        &self,
        partition: impl Into<PartitionId>,
        mode: DurabilityMode,
        timeout: Option<Duration>,
    ) -> Pending<Result<Appended, AppendError>> {
        let question = Question::Mode {
            partition: partition.into(),
            mode,
        };
        self.submit(question, timeout, UNKEYED, read_append)
    }

    /// Asks a partition's leader who belongs to it, or for a change of that, with an operator's certificate unless it is
    /// only to show. The answer comes when the change has begun; [`MembersVerb::Show`] says when it is over. To ask
    /// twice does no harm. Where nobody leads in time, [`MembersVerb::Show`] is answered with what the replica knows that is
    /// newest of those that answer, by term and then by the end of its log: its role says that it does not lead. `address` is where the member that is added, or moved, listens for its peers; empty if the
    /// placement of the others says. `timeout` `None`: the client's.
    pub fn members(
        &self,
        partition: impl Into<PartitionId>,
        verb: MembersVerb,
        peer: PeerId,
        address: &str,
        timeout: Option<Duration>,
    ) -> Pending<Result<PartitionMembers, MembersError>> {
        let question = Question::Members {
            partition: partition.into(),
            verb,
            peer,
            address: address.to_owned(),
        };
        self.submit(question, timeout, UNKEYED, read_members)
    }

    /// Asks one shard how it, and its replica of one partition or all, stand. `timeout` `None`: the client's.
    pub fn status(
        &self,
        at: PeerId,
        partition: Option<PartitionId>,
        timeout: Option<Duration>,
    ) -> Pending<Result<ShardStatus, CallError>> {
        let question = Question::Status { at, partition };
        self.submit(question, timeout, UNKEYED, read_status)
    }

    /// Has a node read its profile anew, with an operator's certificate, and says how that went: what was turned, or why nothing
    /// was. Asked once; where no answer comes, the node may have read it all the same, and to ask again does no harm.
    /// `timeout` `None`: the client's.
    pub fn reload_profile(
        &self,
        node: NodeId,
        timeout: Option<Duration>,
    ) -> Pending<Result<ProfileReload, CallError>> {
        let at = PeerId {
            node,
            shard: ShardId(0),
        };
        self.submit(Question::Reload { at }, timeout, UNKEYED, read_reload)
    }

    /// Asks every shard of every node how it stands, all at once, ascending.
    pub fn status_all(
        &self,
        timeout: Option<Duration>,
    ) -> Vec<(PeerId, Pending<Result<ShardStatus, CallError>>)> {
        let mut asked = Vec::new();
        for (node, placed) in self.0.placement.nodes() {
            for shard in 0..placed.shards {
                let at = PeerId {
                    node: *node,
                    shard: ShardId(shard),
                };
                asked.push((at, self.status(at, None, timeout)));
            }
        }
        asked
    }

    fn submit<T>(
        &self,
        question: Question,
        timeout: Option<Duration>,
        known: Known,
        read: fn(Result<Answer, Lost>, Known) -> T,
    ) -> Pending<T> {
        let shared = &self.0.shared;
        let before = shared.under_way.fetch_add(1, Ordering::AcqRel);
        let full = before >= self.0.questions_max;
        let mut inbox = shared.lock();
        if full || inbox.closed || shared.closed.load(Ordering::Acquire) {
            drop(inbox);
            shared.under_way.fetch_sub(1, Ordering::AcqRel);
            let refused = if full {
                let message = format!("client: {before} questions are under way, the limit");
                refusal(RefusalClause::Busy, message, 10)
            } else {
                let message = "client: it was closed".to_owned();
                refusal(RefusalClause::Closed, message, 0)
            };
            return Pending::answered(question.refused(refused), known, read);
        }
        let timeout_us = timeout.map_or(self.0.timeout_us, |timeout| {
            u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)
        });
        let (to, reply) = self.0.pool.pair();
        // The thread takes the whole list at once: whoever made it more than empty has woken it.
        let first = inbox.submissions.is_empty();
        inbox.submissions.push(Submission {
            question,
            deadline: boottime_us().saturating_add(timeout_us),
            to,
        });
        drop(inbox);
        if first {
            shared.wake();
        }
        Pending::under_way(reply, known, read)
    }

    /// Answers what is under way (unknown, where it may still happen), ends the client's thread and waits for that.
    /// Calls of other clones are refused from then on.
    pub fn close(self) {
        self.0.shared.closed.store(true, Ordering::Release);
        self.0.shared.wake();
        let thread = self
            .0
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the thread was reported by its hook; its senders have answered by being dropped.
            let _ = thread.join();
        }
    }
}

const UNKEYED: Known = Known {
    key: None,
    index: None,
};
