//! One shard's thread: building what runs on it, and the turn loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clustor_wire::ids::ShardId;

#[cfg(feature = "net")]
use super::carrier::{Arrival, Carrier};
use super::node::Shared;
use crate::buffer::{BlockPool, SizeClass};
use crate::disk::BootDisk;
use crate::mesh::{Doorbell, MeshPort, SubmissionQueue};
#[cfg(feature = "net")]
use crate::net::ShardNet;
use crate::sys::{self, EventFd};
use crate::turn::{Application, Inbox, Outbox, Time};
use crate::uring::{RingError, ShardRing, WriterChoice, WriterMode};

/// Requests that one turn takes; the rest stays in the queue for the next.
const TURN_REQUESTS_MAX: usize = 1_024;
/// How soon messages are offered again to a shard whose mesh ring was full.
const MESH_RETRY_US: u64 = 1_000;
/// The longest sleep: the file system is asked as often how full it is.
const SLEEP_US_MAX: u64 = 1_000_000;

/// What an application is built from, on its shard's thread, before the first turn.
pub struct Boot<'a> {
    /// Which shard this is.
    pub shard: ShardId,
    /// Its directory, to recover from: synchronous and read-only.
    pub disk: &'a mut dyn BootDisk,
    /// Its buffers. Where the mode is `FixedUring` they are registered with the ring.
    pub pool: BlockPool,
    /// How its writes will reach the files.
    pub mode: WriterMode,
    /// The time.
    pub now: Time,
    /// Where to put what is to be done on this thread as soon as anything may be written: when every shard of the node has
    /// been built, before the first turn.
    pub on_begin: &'a mut Option<OnBegin>,
    /// Where to put the shard's sockets, if it has peers or clients.
    #[cfg(feature = "net")]
    pub net: &'a mut Option<ShardNet>,
}

impl std::fmt::Debug for Boot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Boot")
            .field("shard", &self.shard)
            .field("mode", &self.mode)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// Builds an application on its shard's thread. It recovers the log there, and writes nothing.
pub type Build<A, E> = Box<dyn FnOnce(Boot<'_>) -> Result<A, E> + Send>;
/// What is done once, when anything may be written.
pub type OnBegin = Box<dyn FnOnce()>;
/// Takes replies on the shard's thread, and must not block.
pub type Deliver<P> = Box<dyn FnMut(P) + Send>;

/// What one shard of a node is to be.
pub struct ShardPlan<A: Application, E> {
    /// Its directory, `<data>/shard-<n>`: made if absent.
    pub directory: PathBuf,
    /// How it is to write.
    pub writer: WriterChoice,
    /// The sizes of its buffer pool.
    pub pool: Vec<SizeClass>,
    /// Builds what runs on it.
    pub build: Build<A, E>,
    /// Takes its replies.
    pub deliver: Deliver<A::Reply>,
}

impl<A: Application, E> std::fmt::Debug for ShardPlan<A, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardPlan")
            .field("directory", &self.directory)
            .field("writer", &self.writer)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// What a shard's thread is given besides its plan.
pub(super) struct Ends<A: Application> {
    pub(super) shard: ShardId,
    pub(super) event: Arc<EventFd>,
    pub(super) doorbell: Doorbell,
    pub(super) requests: SubmissionQueue<A::Request>,
    pub(super) port: MeshPort<A::Mesh>,
    #[cfg(feature = "net")]
    pub(super) arrivals: SubmissionQueue<Arrival>,
    pub(super) shared: Arc<Shared>,
}

/// Why a shard did not begin.
pub(super) enum BootError<E> {
    Ring(RingError),
    Build(E),
}

/// A shard between its boot and its end.
pub(super) struct Shard<A: Application> {
    id: ShardId,
    app: A,
    ring: ShardRing,
    requests: SubmissionQueue<A::Request>,
    port: MeshPort<A::Mesh>,
    #[cfg(feature = "net")]
    arrivals: SubmissionQueue<Arrival>,
    #[cfg(feature = "net")]
    carrier: Option<Carrier>,
    deliver: Deliver<A::Reply>,
    shared: Arc<Shared>,
    inbox: Inbox<A::Request, A::Mesh>,
    outbox: Outbox<A::Reply, A::Mesh>,
    /// What is done when writing begins.
    on_begin: Option<OnBegin>,
    /// Whether no turn was taken yet.
    fresh: bool,
    /// Whether the last turn was told to stop.
    stopping: bool,
    /// Whether the application has said that nothing of it is in flight.
    settled: bool,
}

impl<A: Application> Shard<A> {
    /// Opens the ring and builds the application. Nothing is written before [`Self::begin`].
    pub(super) fn boot<E>(
        plan: ShardPlan<A, E>,
        ends: Ends<A>,
    ) -> Result<(Self, Doorbell), BootError<E>> {
        let mut ring =
            ShardRing::open_reading(&plan.directory, plan.writer).map_err(BootError::Ring)?;
        ring.listen(&ends.event).map_err(BootError::Ring)?;
        let mut pool = BlockPool::new(&plan.pool);
        let mode = ring.register_pool(&mut pool);
        let mut on_begin = None;
        #[cfg(feature = "net")]
        let mut net = None;
        let app = (plan.build)(Boot {
            shard: ends.shard,
            disk: &mut ring,
            pool,
            mode,
            now: Time(sys::boottime_us()),
            on_begin: &mut on_begin,
            #[cfg(feature = "net")]
            net: &mut net,
        })
        .map_err(BootError::Build)?;
        #[cfg(feature = "net")]
        let carrier = net
            .map(|net| Carrier::new(ends.shard, net, &mut ring))
            .transpose()
            .map_err(BootError::Ring)?;
        let shard = Self {
            id: ends.shard,
            app,
            ring,
            requests: ends.requests,
            port: ends.port,
            #[cfg(feature = "net")]
            arrivals: ends.arrivals,
            #[cfg(feature = "net")]
            carrier,
            deliver: plan.deliver,
            shared: ends.shared,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            on_begin,
            fresh: true,
            stopping: false,
            settled: false,
        };
        Ok((shard, ends.doorbell))
    }

    /// Every shard of the node is here: from now on the shard may write.
    pub(super) fn begin(&mut self) -> Result<(), RingError> {
        self.ring.begin_writing()?;
        if let Some(on_begin) = self.on_begin.take() {
            on_begin();
        }
        Ok(())
    }

    /// Takes turns until the node stops.
    pub(super) fn run(mut self, mut doorbell: Doorbell) -> Result<(), RingError> {
        loop {
            self.collect()?;
            if self.is_due() {
                self.take_turn()?;
            }
            #[cfg(feature = "net")]
            self.tend_sockets()?;
            self.ring.enter()?;
            if self.is_finished() {
                break;
            }
            if self.has_more() {
                continue;
            }
            let parking = doorbell.announce();
            if !self.has_more() {
                self.ring.sleep(self.longest_sleep())?;
            }
            drop(parking);
        }
        tracing::debug!(shard = %self.id, "stopped");
        Ok(())
    }

    /// Puts everything that has arrived into the inbox, the time last.
    fn collect(&mut self) -> Result<(), RingError> {
        self.ring.drain(&mut self.inbox.disk)?;
        self.requests
            .drain_into(&mut self.inbox.requests, TURN_REQUESTS_MAX);
        self.port.drain(&mut self.inbox.mesh);
        self.inbox.stopping = self.shared.is_stopping();
        #[cfg(feature = "net")]
        if let Some(carrier) = &mut self.carrier {
            let lists = (&mut self.inbox.peers, &mut self.inbox.clients);
            let now = Time(sys::boottime_us());
            carrier.collect(&mut self.ring, &mut self.arrivals, lists, now)?;
            self.inbox.guests = carrier.guests();
        }
        let (now_us, wall_us) = sys::both_clocks_us();
        self.inbox.now = Time(now_us);
        self.inbox.wall_us = wall_us;
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.fresh
            || !self.inbox.is_empty()
            || self.inbox.stopping != self.stopping
            || self.outbox.deadline.is_some_and(|at| at <= self.inbox.now)
            || !self.outbox.mesh.is_empty()
    }

    /// One turn, and everything it decided: submissions first, so that the devices work while waiters are woken.
    fn take_turn(&mut self) -> Result<(), RingError> {
        self.send_mesh();
        self.outbox.deadline = None;
        self.app.turn(&mut self.inbox, &mut self.outbox);
        assert!(
            self.inbox.is_empty(),
            "shard {}: a turn takes its whole inbox",
            self.id
        );
        self.fresh = false;
        self.stopping = self.inbox.stopping;
        for op in self.outbox.disk.drain(..) {
            self.ring.start(op)?;
        }
        #[cfg(feature = "net")]
        if let Some(carrier) = &mut self.carrier {
            let now = self.inbox.now;
            carrier.place(&mut self.outbox.addresses, now);
            carrier.remember(&mut self.outbox.remembered);
            carrier.send(&mut self.outbox.peers, &mut self.outbox.clients, now);
            carrier.flush(&mut self.ring, now)?;
        }
        self.ring.enter()?;
        for reply in self.outbox.replies.drain(..) {
            (self.deliver)(reply);
        }
        self.send_mesh();
        self.port.flush();
        if self.outbox.stopped && !self.settled {
            self.settled = true;
            // What was accepted before is still answered; the senders of what comes later get it back.
            self.requests.close();
            self.shared.settled();
        }
        Ok(())
    }

    /// Offers every message for another shard to its ring, in order for each; what does not fit stays.
    fn send_mesh(&mut self) {
        if self.outbox.mesh.is_empty() {
            return;
        }
        let mut full: Vec<ShardId> = Vec::new();
        let mut left = Vec::new();
        for (to, message) in self.outbox.mesh.drain(..) {
            if full.contains(&to) {
                left.push((to, message));
            } else if let Err(message) = self.port.send(to, message)
                && !self.port.is_gone(to)
            {
                full.push(to);
                left.push((to, message));
            }
        }
        self.outbox.mesh = left;
    }

    /// Whether the shard may end: every shard of the node has settled, and everything accepted is answered. Or
    /// the time for that is over.
    fn is_finished(&self) -> bool {
        self.shared.is_abandoned()
            || (self.settled
                && self.shared.all_settled()
                && self.requests.is_settled()
                && self.ring.unsettled() == 0
                && self.are_sockets_closed())
    }

    #[cfg(feature = "net")]
    fn are_sockets_closed(&self) -> bool {
        self.carrier
            .as_ref()
            .is_none_or(|carrier| carrier.is_settled(&self.ring))
    }

    #[cfg(not(feature = "net"))]
    const fn are_sockets_closed(&self) -> bool {
        true
    }

    /// Pushes what sockets want; when every shard has settled, says goodbye on all of them.
    #[cfg(feature = "net")]
    fn tend_sockets(&mut self) -> Result<(), RingError> {
        let Some(carrier) = &mut self.carrier else {
            return Ok(());
        };
        let now = self.inbox.now;
        if self.settled && self.shared.all_settled() {
            carrier.stop(now);
        }
        carrier.flush(&mut self.ring, now)
    }

    /// Whether sockets or arriving connections have something for the loop.
    #[cfg(feature = "net")]
    fn has_news(&self) -> bool {
        self.carrier
            .as_ref()
            .is_some_and(|carrier| carrier.has_events() || !self.arrivals.is_empty())
    }

    #[cfg(not(feature = "net"))]
    const fn has_news(&self) -> bool {
        false
    }

    /// When the application or the sockets want to be called even if nothing arrives.
    fn deadline(&self) -> Option<Time> {
        let of_turn = self.outbox.deadline;
        #[cfg(feature = "net")]
        let of_turn = [
            of_turn,
            self.carrier.as_ref().and_then(Carrier::next_deadline),
            self.ring.sockets_due_us().map(Time),
        ]
        .into_iter()
        .flatten()
        .min();
        of_turn
    }

    /// Whether a turn is due at once.
    fn has_more(&mut self) -> bool {
        self.ring.has_completions()
            || !self.requests.is_empty()
            || !self.port.is_empty()
            || self.has_news()
            || self.shared.is_stopping() != self.stopping
            || self.shared.is_abandoned()
            || (self.settled && self.is_finished())
            || self.deadline().is_some_and(|at| at.0 <= sys::boottime_us())
    }

    /// How long the loop may sleep if nothing arrives.
    fn longest_sleep(&self) -> Duration {
        let now = sys::boottime_us();
        let retry = (!self.outbox.mesh.is_empty()).then_some(now + MESH_RETRY_US);
        let wake_at_us = [self.deadline().map(|at| at.0), retry]
            .into_iter()
            .flatten()
            .min();
        let longest =
            wake_at_us.map_or(SLEEP_US_MAX, |at| at.saturating_sub(now).min(SLEEP_US_MAX));
        Duration::from_micros(longest)
    }
}
