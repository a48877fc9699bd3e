//! The client's thread: carries the machine's effects out on sockets, and brings it time and frames.
//!
//! A round takes everything that was submitted and arrived, lets the machine decide, and writes each connection
//! once: the more is under way, the more frames share a write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clustor_shards::mesh::reply::ReplySender;
use clustor_shards::net::{
    ConnectionLimits, Expected, Preface, RECEIVE_BYTES_MAX, Role, SpiffeId, TlsIdentity,
};
use clustor_shards::sys::boottime_us;
use clustor_shards::turn::PeerId;
use clustor_wire::frame::{FRAME_HEADER_BYTES, Frame};
use mio::{Events, Interest, Poll, Token};

use super::handle::{Shared, Submission};
use super::loss::Loss;
use super::machine::{Effect, Machine};
use super::question::Answer;
use super::settings::ClientSettings;
use super::socket::{Seen, Socket};
use crate::security::Placement;

/// The token of the waker; sockets are numbered from 1 and never reuse a number.
pub(super) const WAKE: Token = Token(0);
/// Events taken in one round.
const EVENTS_MAX: usize = 256;
/// What a message may take around its payload, in bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 512;

/// The thread's state.
pub(super) struct Driver {
    poll: Poll,
    machine: Machine,
    limits: ConnectionLimits,
    identity: TlsIdentity,
    placement: Arc<Placement>,
    shared: Arc<Shared>,
    sockets: BTreeMap<usize, Socket>,
    by_shard: BTreeMap<PeerId, usize>,
    next_token: usize,
    /// Sockets with something to write.
    to_write: BTreeSet<usize>,
    /// Sockets that had more to read than one round takes.
    to_read: BTreeSet<usize>,
    askers: BTreeMap<u64, ReplySender<Answer>>,
    submissions: Vec<Submission>,
    frames: Vec<Frame>,
    buffer: Vec<u8>,
}

impl Driver {
    pub fn new(
        poll: Poll,
        machine: Machine,
        settings: ClientSettings,
        identity: TlsIdentity,
        placement: Arc<Placement>,
        shared: Arc<Shared>,
    ) -> Self {
        let frames = settings.link_requests_max + 1;
        Self {
            poll,
            machine,
            limits: ConnectionLimits {
                send_frames_max: frames,
                send_bytes_max: settings.link_bytes_max
                    + frames * (FRAME_HEADER_BYTES + MESSAGE_OVERHEAD_BYTES),
                ..ConnectionLimits::default()
            },
            identity,
            placement,
            shared,
            sockets: BTreeMap::new(),
            by_shard: BTreeMap::new(),
            next_token: 1,
            to_write: BTreeSet::new(),
            to_read: BTreeSet::new(),
            askers: BTreeMap::new(),
            submissions: Vec::new(),
            frames: Vec::new(),
            buffer: vec![0; RECEIVE_BYTES_MAX],
        }
    }

    /// Runs until the client is closed.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            self.take_submissions();
            self.settle();
            if self.shared.closed.load(Ordering::Acquire) {
                self.answer_all();
                return;
            }
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "client: waiting for sockets failed: the client ends");
                self.answer_all();
                return;
            }
            let mut ready = core::mem::take(&mut self.to_read);
            for event in &events {
                let Token(token) = event.token();
                if event.is_writable() {
                    self.to_write.insert(token);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    ready.insert(token);
                }
            }
            for token in ready {
                self.read(token);
            }
            self.machine.tick(boottime_us());
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.to_read.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.machine.next_deadline()?;
        Some(Duration::from_micros(next.saturating_sub(boottime_us())))
    }

    fn take_submissions(&mut self) {
        self.shared.take(&mut self.submissions);
        let now = boottime_us();
        let mut submissions = core::mem::take(&mut self.submissions);
        for Submission {
            question,
            deadline,
            to,
        } in submissions.drain(..)
        {
            let ticket = self.machine.submit(now, question, deadline);
            self.askers.insert(ticket, to);
        }
        self.submissions = submissions;
    }

    fn answer(&self, to: ReplySender<Answer>, answer: Answer) {
        self.shared.under_way.fetch_sub(1, Ordering::AcqRel);
        // An answer that nobody waits for any more is dropped: its asker left.
        drop(to.send(answer));
    }

    /// Carries out effects and writes until there is nothing of either. Bounded: a failed write ends a connection,
    /// and the machine waits before it dials again.
    fn settle(&mut self) {
        loop {
            while let Some(effect) = self.machine.poll() {
                self.carry_out(effect);
            }
            let Some(token) = self.to_write.pop_first() else {
                return;
            };
            if let Some(socket) = self.sockets.get_mut(&token)
                && let Err(loss) = socket.write()
            {
                self.lose(token, &loss);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { ticket, answer } => {
                let asker = self
                    .askers
                    .remove(&ticket)
                    .expect("each ticket has an asker");
                self.answer(asker, answer);
            }
            Effect::Send { to, frame } => {
                let Some(token) = self.by_shard.get(&to).copied() else {
                    return;
                };
                let socket = self.sockets.get_mut(&token).expect("listed together");
                match socket.queue(frame) {
                    Ok(()) => {
                        self.to_write.insert(token);
                    }
                    Err(error) => self.lose(token, &error.into()),
                }
            }
            Effect::Close { to, why } => {
                tracing::debug!(node = %to.node, shard = %to.shard, why, "client: connection closed");
                self.close(to);
            }
            Effect::Dial { to, address } => {
                if let Err(loss) = self.dial(to, address) {
                    self.machine.disconnected(boottime_us(), to, &loss);
                }
            }
        }
    }

    fn dial(&mut self, to: PeerId, address: SocketAddr) -> Result<(), Loss> {
        let preface = Preface::client(Some(self.placement.cluster()), Some(to.shard));
        let node = SpiffeId::new(self.placement.trust_domain(), Role::Node(to.node))?;
        let expected = Expected::Exactly(node);
        let mut socket = Socket::dial(to, address, preface, &self.identity, expected, self.limits)?;
        let token = self.next_token;
        self.next_token += 1;
        self.poll
            .registry()
            .register(
                &mut socket.stream,
                Token(token),
                Interest::READABLE | Interest::WRITABLE,
            )
            .map_err(|error| Loss::unreached(format!("epoll: {error}")))?;
        self.by_shard.insert(to, token);
        self.sockets.insert(token, socket);
        Ok(())
    }

    fn read(&mut self, token: usize) {
        let Some(socket) = self.sockets.get_mut(&token) else {
            return;
        };
        let at = socket.at;
        let result = socket.read(&mut self.buffer, &mut self.frames);
        let now = boottime_us();
        if !socket.reported && socket.is_verified() {
            socket.reported = true;
            self.machine.connected(now, at);
        }
        // The handshake's own bytes go out as soon as they are there.
        self.to_write.insert(token);
        for frame in self.frames.drain(..) {
            self.machine.frame(now, at, &frame);
        }
        match result {
            Ok(Seen::All) => {}
            Ok(Seen::More) => {
                self.to_read.insert(token);
            }
            Err(loss) => {
                // The alert or goodbye that says why.
                let _ = self.sockets.get_mut(&token).map(Socket::write);
                self.lose(token, &loss);
            }
        }
    }

    /// A connection ended by itself.
    fn lose(&mut self, token: usize, loss: &Loss) {
        let Some(at) = self.sockets.get(&token).map(|socket| socket.at) else {
            return;
        };
        // Effects for the old connection must not meet a new one; the machine has sent all it will on this one.
        self.remove(token);
        tracing::debug!(node = %at.node, shard = %at.shard, why = loss.why, "client: connection lost");
        self.machine.disconnected(boottime_us(), at, loss);
    }

    fn close(&mut self, to: PeerId) {
        let Some(token) = self.by_shard.get(&to).copied() else {
            return;
        };
        if let Some(socket) = self.sockets.get_mut(&token) {
            // Best effort, as the connection is given up.
            let _ = socket.farewell();
        }
        self.remove(token);
    }

    fn remove(&mut self, token: usize) {
        if let Some(mut socket) = self.sockets.remove(&token) {
            // Closing the descriptor takes it out of the poll as well.
            let _ = self.poll.registry().deregister(&mut socket.stream);
            self.by_shard.remove(&socket.at);
        }
        self.to_write.remove(&token);
        self.to_read.remove(&token);
    }

    /// Answers everything and closes every connection.
    fn answer_all(&mut self) {
        self.machine.stop();
        while let Some(effect) = self.machine.poll() {
            if let Effect::Answer { .. } = effect {
                self.carry_out(effect);
            }
        }
        let shards: Vec<PeerId> = self.by_shard.keys().copied().collect();
        for at in shards {
            self.close(at);
        }
    }
}

/// Also where its thread panics.
impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Whoever came after the last round is answered by its sender being dropped here, whoever comes later is refused.
        self.shared.close_inbox();
    }
}
