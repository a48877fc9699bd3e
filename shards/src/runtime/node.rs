//! Starting the shards of a node, and stopping them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
#[cfg(feature = "net")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clustor_wire::ids::ShardId;

#[cfg(feature = "net")]
use super::carrier::Arrival;
#[cfg(feature = "net")]
use super::control::{self, Control, Listening};
use super::error::{StartError, StopError};
use super::fatal;
use super::gate::Gate;
use super::shard::{BootError, Ends, Shard, ShardPlan};
use crate::mesh::{Bell, Doorbell, SubmissionQueue, Submitter, Wake, full_mesh};
use crate::sys::{self, EventFd};
use crate::turn::Application;
use crate::uring;

/// Accepted connections that may wait for each shard.
#[cfg(feature = "net")]
const ARRIVALS_MAX: usize = 256;
/// How long a shard may take to leave after it was told to abandon its work.
const ABANDON_SECONDS_MAX: u64 = 5;

/// Numbers that all shards of a node share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Requests that may wait for each shard; more are given back to their sender.
    pub requests_max: usize,
    /// Messages that may be under way from any shard to any other.
    pub mesh_messages_max: usize,
    /// The processor each shard is pinned to; with fewer than there are shards, or none, the rest is not pinned.
    pub cpus: Vec<usize>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            requests_max: 4_096,
            mesh_messages_max: 1_024,
            cpus: Vec::new(),
        }
    }
}

/// What the threads of a node tell each other about stopping.
pub(super) struct Shared {
    stopping: AtomicBool,
    abandoned: AtomicBool,
    /// Shards that have not settled.
    unsettled: AtomicUsize,
    /// Where shards that were built wait for the others.
    gate: Gate,
    bells: Vec<Bell>,
    /// The accepting thread's, once there is one.
    #[cfg(feature = "net")]
    control: OnceLock<Bell>,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn all_settled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) == 0
    }

    /// One more shard has settled; each says it once.
    pub(super) fn settled(&self) {
        let before = self.unsettled.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "each shard settles once");
        if before == 1 {
            self.ring_all();
        }
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.gate.shut();
        self.ring_all();
    }

    fn abandon(&self) {
        self.stopping.store(true, Ordering::Release);
        self.abandoned.store(true, Ordering::Release);
        self.gate.shut();
        self.ring_all();
    }

    fn ring_all(&self) {
        for bell in &self.bells {
            bell.ring();
        }
        #[cfg(feature = "net")]
        if let Some(bell) = self.control.get() {
            bell.ring();
        }
    }
}

struct Waker(Arc<EventFd>);

impl Wake for Waker {
    fn wake(&self) {
        self.0.signal();
    }
}

/// Asks a node to stop, from any thread: that of a signal handler's loop for instance.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

impl std::fmt::Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stopper(..)")
    }
}

impl Stopper {
    /// From its next turn on every shard refuses new work and settles what is in flight. Returns at once;
    /// [`Node::shutdown`] waits for it.
    pub fn stop(&self) {
        self.0.stop();
    }
}

/// A running node. Dropping it asks it to stop and does not wait.
pub struct Node<R> {
    submitters: Vec<Submitter<R>>,
    shared: Arc<Shared>,
    threads: Vec<Option<JoinHandle<()>>>,
    #[cfg(feature = "net")]
    mailboxes: Vec<Submitter<Arrival>>,
    #[cfg(feature = "net")]
    control: Option<control::Thread>,
    ended: Receiver<ShardId>,
}

impl<R> std::fmt::Debug for Node<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("shards", &self.submitters.len())
            .finish_non_exhaustive()
    }
}

/// Starts a node: one thread for each plan, shard 0 first. Returns when every shard has built its application and may
/// write. None may before all are built: where one is refused, what is in the directories stays as it was.
///
/// # Errors
/// The first failure of any shard; the others are stopped before it is returned.
pub fn start<A, E>(
    options: &NodeOptions,
    plans: Vec<ShardPlan<A, E>>,
) -> Result<Node<A::Request>, StartError<E>>
where
    A: Application + 'static,
    A::Request: Send + 'static,
    A::Reply: 'static,
    A::Mesh: Send + 'static,
    E: Send + 'static,
{
    fatal::note_places();
    let count = plans.len();
    if count == 0 || count > usize::from(u16::MAX) {
        return Err(StartError::Plan(format!(
            "a node has 1 to 65,535 shards, not {count}"
        )));
    }
    // The executor below would panic where io_uring is forbidden; this says how to allow it.
    uring::check_available().map_err(|source| StartError::Ring {
        shard: ShardId(0),
        source,
    })?;
    let events = (0..count)
        .map(|_| EventFd::new().map(Arc::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| StartError::Plan(format!("an event descriptor: {error}")))?;
    let doorbells: Vec<Doorbell> = events
        .iter()
        .map(|event| Doorbell::new(Waker(Arc::clone(event))))
        .collect();
    let bells: Vec<Bell> = doorbells.iter().map(Doorbell::bell).collect();
    let ports = full_mesh(&bells, options.mesh_messages_max);
    let shared = Arc::new(Shared {
        stopping: AtomicBool::new(false),
        abandoned: AtomicBool::new(false),
        unsettled: AtomicUsize::new(count),
        gate: Gate::default(),
        bells,
        #[cfg(feature = "net")]
        control: OnceLock::new(),
    });
    let (ended_sender, ended) = channel();
    let (ready_sender, ready) = channel();
    let mut node = Node {
        submitters: Vec::with_capacity(count),
        shared: Arc::clone(&shared),
        threads: Vec::with_capacity(count),
        #[cfg(feature = "net")]
        mailboxes: Vec::with_capacity(count),
        #[cfg(feature = "net")]
        control: None,
        ended,
    };
    let shards = plans.into_iter().zip(events).zip(doorbells).zip(ports);
    for (index, (((plan, event), doorbell), port)) in shards.enumerate() {
        let shard = ShardId(u16::try_from(index).expect("checked above"));
        let requests = SubmissionQueue::new(options.requests_max, &doorbell);
        node.submitters.push(requests.submitter());
        #[cfg(feature = "net")]
        let arrivals = SubmissionQueue::new(ARRIVALS_MAX, &doorbell);
        #[cfg(feature = "net")]
        node.mailboxes.push(arrivals.submitter());
        let ends = Ends {
            shard,
            event,
            doorbell,
            requests,
            port,
            #[cfg(feature = "net")]
            arrivals,
            shared: Arc::clone(&shared),
        };
        let said = Said {
            ready: ready_sender.clone(),
            ended: ended_sender.clone(),
        };
        match spawn(plan, ends, options.cpus.get(index).copied(), said) {
            Ok(thread) => node.threads.push(Some(thread)),
            Err(error) => {
                node.abandon();
                return Err(error);
            }
        }
    }
    drop(ready_sender);
    node.wait_for_all(&ready)?;
    shared.gate.open();
    node.wait_for_all(&ready)?;
    Ok(node)
}

/// Starts a node that others can reach: as [`start`], and then the accepting thread that accepts connections.
///
/// # Errors
/// As for [`start`], and if that thread can't be made.
#[cfg(feature = "net")]
pub fn serve<A, E>(
    options: &NodeOptions,
    plans: Vec<ShardPlan<A, E>>,
    listening: Listening,
) -> Result<Node<A::Request>, StartError<E>>
where
    A: Application + 'static,
    A::Request: Send + 'static,
    A::Reply: 'static,
    A::Mesh: Send + 'static,
    E: Send + 'static,
{
    let mut node = start(options, plans)?;
    match node.listen(listening) {
        Ok(()) => Ok(node),
        Err(error) => {
            node.abandon();
            Err(error)
        }
    }
}

/// What a shard's thread says to the node's: `ready` when it is built, and again when it has begun.
struct Said<E> {
    ready: Sender<Result<(), StartError<E>>>,
    ended: Sender<ShardId>,
}

fn spawn<A, E>(
    plan: ShardPlan<A, E>,
    ends: Ends<A>,
    cpu: Option<usize>,
    said: Said<E>,
) -> Result<JoinHandle<()>, StartError<E>>
where
    A: Application + 'static,
    A::Request: Send + 'static,
    A::Reply: 'static,
    A::Mesh: Send + 'static,
    E: Send + 'static,
{
    let shard = ends.shard;
    std::thread::Builder::new()
        .name(format!("shard-{shard}"))
        .spawn(move || {
            let Said { ready, ended } = said;
            let life = catch_unwind(AssertUnwindSafe(|| live(plan, ends, cpu, ready)));
            if let Err(payload) = life {
                fatal::panicked(shard, payload.as_ref());
            }
            // Nobody listens if the node was dropped.
            let _ = ended.send(shard);
        })
        .map_err(|source| StartError::Thread { shard, source })
}

/// A shard's life, from boot to stop.
fn live<A, E>(
    plan: ShardPlan<A, E>,
    ends: Ends<A>,
    cpu: Option<usize>,
    ready: Sender<Result<(), StartError<E>>>,
) where
    A: Application + 'static,
    E: Send + 'static,
{
    let shard = ends.shard;
    if let Some(cpu) = cpu
        && let Err(source) = sys::pin_current_thread(cpu)
    {
        let error = StartError::Processor { shard, cpu, source };
        drop(ready.send(Err(error)));
        return;
    }
    let shared = Arc::clone(&ends.shared);
    // If nobody listens to what is said the node was given up, and says so through gate and flag as well.
    let (mut booted, doorbell) = match Shard::boot(plan, ends) {
        Ok(booted) => booted,
        Err(error) => {
            let error = match error {
                BootError::Ring(source) => StartError::Ring { shard, source },
                BootError::Build(source) => StartError::Build { shard, source },
            };
            drop(ready.send(Err(error)));
            return;
        }
    };
    drop(ready.send(Ok(())));
    if !shared.gate.wait() {
        return;
    }
    if let Err(source) = booted.begin() {
        drop(ready.send(Err(StartError::Ring { shard, source })));
        return;
    }
    drop(ready.send(Ok(())));
    drop(ready);
    if let Err(error) = booted.run(doorbell) {
        fatal::ring_failed(shard, &error);
    }
}

impl<R> Node<R> {
    /// How many data shards it has.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.submitters.len()
    }

    /// A way to ask a shard, for any thread to hold and clone.
    ///
    /// # Panics
    /// If the node has no such shard.
    #[must_use]
    pub fn submitter(&self, shard: ShardId) -> Submitter<R> {
        self.submitters
            .get(usize::from(shard.get()))
            .unwrap_or_else(|| panic!("no shard {shard} in a node of {}", self.submitters.len()))
            .clone()
    }

    /// Something that asks it to stop.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// Asks it to stop and waits until every shard has settled and its thread is gone. When `time` is over, what is
    /// still in flight is abandoned, as a crash would.
    ///
    /// # Errors
    /// When the time was not enough.
    pub fn shutdown(mut self, time: Duration) -> Result<(), StopError> {
        self.shared.stop();
        let mut left: Vec<u16> = self.running();
        self.wait(Instant::now().checked_add(time), &mut left);
        if left.is_empty() {
            self.join();
            return Ok(());
        }
        let late = left.clone();
        self.shared.abandon();
        let patience = Duration::from_secs(ABANDON_SECONDS_MAX);
        self.wait(Instant::now().checked_add(patience), &mut left);
        if left.is_empty() {
            self.join();
            return Err(StopError::Deadline(late));
        }
        Err(StopError::Stuck(left))
    }

    /// Waits until every shard has said once more that it is ready; gives the node up if one has failed.
    fn wait_for_all<E>(
        &mut self,
        ready: &Receiver<Result<(), StartError<E>>>,
    ) -> Result<(), StartError<E>> {
        for _ in 0..self.submitters.len() {
            let said = ready.recv();
            if !matches!(said, Ok(Ok(()))) {
                self.abandon();
                return Err(match said {
                    Ok(Err(error)) => error,
                    _ => StartError::Plan("a shard ended early".to_owned()),
                });
            }
        }
        Ok(())
    }

    #[cfg(feature = "net")]
    fn listen<E>(&mut self, listening: Listening) -> Result<(), StartError<E>> {
        let event = EventFd::new()
            .map(Arc::new)
            .map_err(|error| StartError::Control(format!("an event descriptor: {error}")))?;
        let doorbell = Doorbell::new(Waker(Arc::clone(&event)));
        let bell = self.shared.control.get_or_init(|| doorbell.bell());
        // A stop that came before the bell was there.
        bell.ring();
        self.control = Some(control::spawn(Control {
            listening,
            mailboxes: self.mailboxes.clone(),
            shared: Arc::clone(&self.shared),
            event,
            doorbell,
        })?);
        Ok(())
    }

    fn running(&self) -> Vec<u16> {
        (0u16..)
            .zip(&self.threads)
            .filter_map(|(shard, thread)| thread.as_ref().map(|_| shard))
            .collect()
    }

    /// Takes the shards that end until `until` out of `left`.
    /// Until all of them have ended, or that time has come; without one, as long as it takes.
    fn wait(&self, until: Option<Instant>, left: &mut Vec<u16>) {
        while !left.is_empty() {
            let patience = until.map_or(Duration::MAX, |at| {
                at.saturating_duration_since(Instant::now())
            });
            match self.ended.recv_timeout(patience) {
                Ok(shard) => left.retain(|other| *other != shard.get()),
                Err(RecvTimeoutError::Timeout) => return,
                // Every thread is gone, those that never lived included.
                Err(RecvTimeoutError::Disconnected) => left.clear(),
            }
        }
    }

    fn join(&mut self) {
        self.join_control();
        for thread in self.threads.iter_mut().filter_map(Option::take) {
            // A shard that panicked has ended the process.
            drop(thread.join());
        }
    }

    fn join_control(&mut self) {
        #[cfg(feature = "net")]
        if let Some(Err(error)) = self.control.take().map(control::Thread::join) {
            tracing::error!(%error, "the accepting thread ended with an error");
        }
    }

    /// Gives up a node that did not start.
    fn abandon(&mut self) {
        self.shared.abandon();
        self.join();
    }
}

impl<R> Drop for Node<R> {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
