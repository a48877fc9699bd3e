//! What carries a shard's connections: between the socket machines (`net`) and the sockets of the ring.
//!
//! Decides nothing about sessions: it moves bytes, and calls each machine when its socket has something for it. A
//! socket whose bytes the machine can't take yet is not read from until it can.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};

use clustor_wire::frame::Frame;
use clustor_wire::ids::ShardId;
use clustor_wire::message::GuestStatus;

use crate::mesh::SubmissionQueue;
use crate::net::{NetError, Notice, Preface, ShardNet, SocketId};
use crate::turn::{ClientEvent, ClientOp, PeerEvent, PeerId, PeerPast, Time};
use crate::uring::{RingError, ShardRing, SocketEvent};

/// Bytes given to a socket at once.
const TRANSMIT_BYTES: usize = 256 << 10;
/// Connections taken over in one round.
const ARRIVALS_AT_ONCE: usize = 64;
/// How long a stopping shard waits for its sockets to send their last bytes, in microseconds.
const GOODBYE_US_MAX: u64 = 1_000_000;

/// A connection on its way from the accepting thread to its shard.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) preface: Preface,
}

/// The connections of one shard.
pub(super) struct Carrier {
    shard: ShardId,
    net: ShardNet,
    arrived: Vec<Arrival>,
    events: Vec<SocketEvent>,
    /// Sockets that are not read from, or whose bytes were not all taken, until frames were taken.
    unread: BTreeSet<u64>,
    stopping_since: Option<Time>,
    now: Time,
}

impl Carrier {
    pub(super) fn new(
        shard: ShardId,
        net: ShardNet,
        ring: &mut ShardRing,
    ) -> Result<Self, RingError> {
        ring.open_sockets()?;
        Ok(Self {
            shard,
            net,
            arrived: Vec::new(),
            events: Vec::new(),
            unread: BTreeSet::new(),
            stopping_since: None,
            now: Time::default(),
        })
    }

    /// Takes what happened to the sockets, and leaves what it meant in the inbox's lists.
    pub(super) fn collect(
        &mut self,
        ring: &mut ShardRing,
        arrivals: &mut SubmissionQueue<Arrival>,
        (peers, clients): (&mut Vec<PeerEvent>, &mut Vec<ClientEvent>),
        now: Time,
    ) -> Result<(), RingError> {
        self.now = now;
        ring.tend_sockets(now.0)?;
        self.adopt(ring, arrivals)?;
        ring.take_socket_events(&mut self.events);
        let mut events = core::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                SocketEvent::Connected(key) => {
                    self.net.on_dialled(SocketId(key), now);
                    self.read_on(ring, key)?;
                }
                SocketEvent::Received(key) => self.take_bytes(ring, key)?,
                SocketEvent::Sent(key) => self.transmit(ring, key)?,
                SocketEvent::Closed(key, why) => {
                    self.unread.remove(&key);
                    self.net.on_closed(SocketId(key), &why, now);
                }
            }
        }
        self.events = events;
        if self.net.next_deadline().is_some_and(|at| at <= now) {
            self.net.on_time(now);
        }
        self.net.take_events(peers, clients, now);
        if !self.unread.is_empty() {
            for key in core::mem::take(&mut self.unread) {
                self.take_bytes(ring, key)?;
            }
            self.net.take_events(peers, clients, now);
        }
        Ok(())
    }

    fn adopt(
        &mut self,
        ring: &mut ShardRing,
        arrivals: &mut SubmissionQueue<Arrival>,
    ) -> Result<(), RingError> {
        arrivals.drain_into(&mut self.arrived, ARRIVALS_AT_ONCE);
        for arrival in core::mem::take(&mut self.arrived) {
            match self.net.on_accepted(&arrival.preface, self.now) {
                Ok(id) => {
                    ring.adopt_socket(id.0, arrival.stream);
                    ring.receive_socket(id.0)?;
                }
                Err(error @ NetError::TooMany { .. }) => {
                    tracing::warn!(shard = %self.shard, %error, "a connection is refused");
                }
                Err(error) => {
                    tracing::info!(shard = %self.shard, %error, "a connection is refused");
                }
            }
        }
        Ok(())
    }

    fn take_bytes(&mut self, ring: &mut ShardRing, key: u64) -> Result<(), RingError> {
        if let Some(bytes) = ring.received(key) {
            let there = bytes.len();
            let taken = self.net.on_bytes(SocketId(key), bytes, self.now);
            ring.consume(key, taken);
            if taken < there {
                self.unread.insert(key);
                return Ok(());
            }
        }
        self.read_on(ring, key)
    }

    fn read_on(&mut self, ring: &mut ShardRing, key: u64) -> Result<(), RingError> {
        if self.net.wants_read(SocketId(key)) {
            ring.receive_socket(key)?;
        } else if self.net.is_open(SocketId(key)) {
            self.unread.insert(key);
        }
        Ok(())
    }

    fn transmit(&mut self, ring: &mut ShardRing, key: u64) -> Result<(), RingError> {
        if ring.is_sending(key) {
            return Ok(());
        }
        let mut buffer = ring.take_send_buffer();
        let given = self
            .net
            .transmit(SocketId(key), &mut buffer, TRANSMIT_BYTES, self.now);
        if given > 0 {
            ring.send_socket(key, buffer)
        } else {
            ring.put_send_buffer(buffer);
            Ok(())
        }
    }

    /// Takes where peers listen.
    pub(super) fn place(&mut self, addresses: &mut Vec<(PeerId, Vec<SocketAddr>)>, now: Time) {
        for (peer, addresses) in addresses.drain(..) {
            self.net.place(peer, &addresses, now);
        }
    }

    /// Takes what the next hellos are to say.
    pub(super) fn remember(&mut self, remembered: &mut Vec<(PeerId, PeerPast)>) {
        for (peer, past) in remembered.drain(..) {
            self.net.remember(peer, past);
        }
    }

    /// Queues what a turn decided.
    pub(super) fn send(
        &mut self,
        peers: &mut Vec<(PeerId, Frame)>,
        clients: &mut Vec<ClientOp>,
        now: Time,
    ) {
        self.now = now;
        for (peer, frame) in peers.drain(..) {
            // A frame for a peer without a session, or with a full queue, is lost, as the network may lose it.
            if let Err((_, error)) = self.net.send(peer, frame) {
                tracing::trace!(?peer, %error, "a frame is dropped");
            }
        }
        for op in clients.drain(..) {
            self.net.client_op(op, now);
        }
    }

    /// Dials what is due, hands over what waits to be sent, closes what is over.
    pub(super) fn flush(&mut self, ring: &mut ShardRing, now: Time) -> Result<(), RingError> {
        self.now = now;
        while let Some(dial) = self.net.poll_dial(now) {
            ring.connect_socket(dial.socket.0, dial.address)?;
        }
        while let Some(id) = self.net.poll_writable() {
            self.transmit(ring, id.0)?;
        }
        while let Some(id) = self.net.poll_close(now) {
            self.unread.remove(&id.0);
            ring.close_socket(id.0, now.0)?;
        }
        while let Some(notice) = self.net.poll_notice() {
            log(self.shard, &notice);
        }
        // Buffers that came back since the round began feed receives that found none.
        ring.tend_sockets(now.0)
    }

    /// Says goodbye to everyone, once.
    pub(super) fn stop(&mut self, now: Time) {
        if self.stopping_since.is_none() {
            self.stopping_since = Some(now);
            self.net.stop(now);
        }
    }

    /// Whether the last bytes have left after a stop, or took too long.
    pub(super) fn is_settled(&self, ring: &ShardRing) -> bool {
        self.stopping_since.is_some_and(|since| {
            self.now.since_us(since) > GOODBYE_US_MAX
                || self.net.open_sockets() == 0 && !ring.are_sockets_busy()
        })
    }

    pub(super) fn guests(&self) -> GuestStatus {
        self.net.guests()
    }

    pub(super) fn has_events(&self) -> bool {
        self.net.has_events()
    }

    /// When the carrier wants to be called even if nothing arrives.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let goodbye = self
            .stopping_since
            .map(|since| since.plus_us(GOODBYE_US_MAX + 1));
        [self.net.next_deadline(), goodbye]
            .into_iter()
            .flatten()
            .min()
    }
}

fn log(shard: ShardId, notice: &Notice) {
    match notice {
        Notice::PeerUp(peer) => {
            tracing::info!(%shard, node = %peer.node, peer_shard = %peer.shard, "peer is connected")
        }
        Notice::GuestUp(peer) => {
            tracing::info!(%shard, node = %peer.node, peer_shard = %peer.shard, "a guest is connected: a node that no placement or configuration here names");
        }
        Notice::PeerDown(peer, why) => {
            tracing::info!(%shard, node = %peer.node, peer_shard = %peer.shard, %why, "peer is gone");
        }
        Notice::DialFailed(peer, why) => {
            tracing::warn!(%shard, node = %peer.node, peer_shard = %peer.shard, %why, "peer can't be reached");
        }
        Notice::PeerRefused(who, why) => {
            let who = who.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%shard, who, %why, "a peer is refused");
        }
        Notice::ClientClosed(who, why) => {
            let who = who.as_ref().map(ToString::to_string).unwrap_or_default();
            match why {
                NetError::Closed | NetError::Stopping => {}
                why if why.is_refusal() => {
                    tracing::warn!(%shard, who, %why, "a client is refused");
                    return;
                }
                _ => {}
            }
            tracing::debug!(%shard, who, %why, "a client is gone");
        }
    }
}
