//! The accepting thread: accepts connections, reads the preface of each, and hands it to its shard.
//!
//! It reads exactly the preface and nothing of what follows, so that the shard begins with the first byte of TLS.
//! Bounded: so many connections may be without a preface at a time, each for so long; while all places are taken
//! nothing is accepted and the kernel's backlog holds the rest.

use std::cell::Cell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvError, Sender};
use std::time::Duration;

use clustor_wire::ids::ShardId;
use futures_lite::AsyncReadExt;
use glommio::net::{TcpListener as Listener, TcpStream as Stream};
use glommio::timer::{Timer, timeout};
use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};

use super::carrier::Arrival;
use super::error::StartError;
use super::node::Shared;
use super::sleep::Sleeper;
use crate::mesh::{Doorbell, Submitter};
use crate::net::{PREFACE_BYTES, Preface};
use crate::sys::{self, EventFd};

/// Memory for glommio's own buffered reads, three times this is locked. Eight bytes are read with it.
const EXECUTOR_MEMORY_BYTES: usize = 64 * 1024;
/// Submissions of glommio's own rings.
const EXECUTOR_RING_DEPTH: usize = 32;
/// How long to wait after an accept that failed, for want of descriptors for instance.
const ACCEPT_RETRY_MS: u64 = 100;
/// How often a full house looks for a free place.
const FULL_RETRY_MS: u64 = 5;

/// Where a node listens, and how it treats those who have not said what they want.
#[derive(Debug)]
pub struct Listening {
    /// A bound listener. Bind it with the standard library: a port that is in use is then refused.
    pub listener: TcpListener,
    /// The processor of the accepting thread; `None` leaves it unpinned.
    pub cpu: Option<usize>,
    /// How long a connection may take to send its preface, in milliseconds.
    pub preface_ms_max: u64,
    /// Connections that may be without a preface at a time.
    pub half_open_max: usize,
}

impl Listening {
    /// The usual bounds: 2 s for the preface, 256 connections without one.
    #[must_use]
    pub const fn new(listener: TcpListener, cpu: Option<usize>) -> Self {
        Self {
            listener,
            cpu,
            preface_ms_max: 2_000,
            half_open_max: 256,
        }
    }
}

/// What the thread is given.
pub(super) struct Control {
    pub(super) listening: Listening,
    pub(super) mailboxes: Vec<Submitter<Arrival>>,
    pub(super) shared: Arc<Shared>,
    pub(super) event: Arc<EventFd>,
    pub(super) doorbell: Doorbell,
}

/// The running thread.
pub(super) type Thread = ExecutorJoinHandle<()>;

/// Starts the thread, and waits until it accepts or says why it can't.
pub(super) fn spawn<E>(control: Control) -> Result<Thread, StartError<E>> {
    let (begun, begins) = mpsc::channel();
    let thread = LocalExecutorBuilder::new(
        control
            .listening
            .cpu
            .map_or(Placement::Unbound, Placement::Fixed),
    )
    .name("accept")
    .io_memory(EXECUTOR_MEMORY_BYTES)
    .ring_depth(EXECUTOR_RING_DEPTH)
    .spawn(move || control.run(begun))
    .map_err(|error| StartError::Control(error.to_string()))?;
    let why = match begins.recv() {
        Ok(Ok(())) => return Ok(thread),
        Ok(Err(error)) => error,
        // Its executor could not be made: the thread has ended.
        Err(RecvError) => thread
            .join()
            .map_or_else(|error| error.to_string(), |()| "it ended".to_owned()),
    };
    Err(StartError::Control(why))
}

impl Control {
    async fn run(self, begun: Sender<Result<(), String>>) {
        let Self {
            listening,
            mailboxes,
            shared,
            event,
            mut doorbell,
        } = self;
        let mut sleeper = match Sleeper::new(&event) {
            Ok(sleeper) => sleeper,
            Err(error) => {
                // Nobody but the starting thread listens, and it does.
                drop(begun.send(Err(format!("it has no descriptor left: {error}"))));
                return;
            }
        };
        drop(begun.send(Ok(())));
        let door = Rc::new(Door {
            half_open: Cell::new(0),
            next_shard: Cell::new(0),
            mailboxes,
            preface: Duration::from_millis(listening.preface_ms_max),
        });
        let accepting = glommio::spawn_local(accept(listening, Rc::clone(&door)));
        while !shared.is_stopping() {
            let parking = doorbell.announce();
            if !shared.is_stopping() {
                sleeper.sleep(door.half_open.get() > 0, None).await;
            }
            drop(parking);
        }
        accepting.cancel().await;
        sleeper.end(&event).await;
    }
}

struct Door {
    half_open: Cell<usize>,
    /// Where the next client goes that does not mind.
    next_shard: Cell<usize>,
    mailboxes: Vec<Submitter<Arrival>>,
    preface: Duration,
}

async fn accept(listening: Listening, door: Rc<Door>) {
    let listener: Listener = sys::adopt(listening.listener.into());
    loop {
        if door.half_open.get() >= listening.half_open_max {
            Timer::new(Duration::from_millis(FULL_RETRY_MS)).await;
            continue;
        }
        match listener.accept().await {
            Ok(stream) => {
                door.half_open.set(door.half_open.get() + 1);
                let door = Rc::clone(&door);
                glommio::spawn_local(async move {
                    door.admit(stream).await;
                    door.half_open.set(door.half_open.get() - 1);
                })
                .detach();
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                Timer::new(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

impl Door {
    async fn admit(&self, mut stream: Stream) {
        let read = timeout(self.preface, async {
            let mut bytes = [0; PREFACE_BYTES];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, GlommioError<()>>(bytes)
        })
        .await;
        let from = || stream.peer_addr().ok().map(tracing::field::display);
        let preface = match read {
            Ok(bytes) => match Preface::decode(&bytes) {
                Ok(preface) => preface,
                Err(error) => {
                    tracing::warn!(from = from(), %error, "a connection was refused");
                    return;
                }
            },
            Err(error) => {
                tracing::debug!(from = from(), %error, "a connection sent no preface");
                return;
            }
        };
        let shard = preface.shard.map_or_else(
            || {
                let next = self.next_shard.get();
                self.next_shard.set((next + 1) % self.mailboxes.len());
                next
            },
            |shard| usize::from(ShardId::get(shard)),
        );
        let Some(mailbox) = self.mailboxes.get(shard) else {
            tracing::warn!(
                shard,
                shards = self.mailboxes.len(),
                "a connection asks for a shard that is not here"
            );
            return;
        };
        // The executor closes its own descriptor of the connection a little later; the shard's stays.
        let handed = sys::duplicate(&stream).and_then(|fd| {
            let stream = std::net::TcpStream::from(fd);
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        match handed {
            Ok(stream) => {
                if mailbox.try_submit(Arrival { stream, preface }).is_err() {
                    tracing::warn!(
                        shard,
                        "a connection was dropped: the shard is behind or stopping"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "handing a connection over failed"),
        }
    }
}
