//! A shard's sockets as one machine: its peers' sessions and its clients' connections.
//!
//! The carrier owns descriptors, moves bytes and brings the time; this room decides whom to dial and when, who may
//! speak, what is delivered, and what is closed. What it promises:
//!
//! - one session per shard pair, dialled by the lower node, or by the higher after `patience_ms` without one; both
//!   sides agree on which of two connections stays (see `sessions`);
//! - [`PeerEvent::Up`] comes after both hellos were exchanged and judged, the peer's hello follows as the session's
//!   first frame, and no frame of an earlier session comes after it;
//! - a shard that is neither placed nor named by [`ShardNet::place`] is let in as a guest if it dials: `guests_max` of them
//!   at a time, `guests_of_node_max` of one node, for `guest_ms_max` unless it is named by then;
//! - every refusal is told to the other side (goodbye) and here ([`Notice`]);
//! - a client that comes while all places are taken gets that of the one that is idle longest, if any is;
//! - a peer that falls silent is closed after `silence_ms_max`, a handshake after `handshake_ms_max`.
//!
//! The carrier's round, in any order and as often as it likes: [`ShardNet::on_time`] when [`ShardNet::next_deadline`]
//! has come; [`ShardNet::poll_dial`]; [`ShardNet::on_bytes`]; [`ShardNet::take_events`] before a turn,
//! [`ShardNet::send`] and [`ShardNet::client_op`] after it; then [`ShardNet::poll_writable`] with
//! [`ShardNet::transmit`], and [`ShardNet::poll_close`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::message::GuestStatus;

use super::connection::{Connection, Expected, RECEIVE_BYTES_MAX};
use super::error::NetError;
use super::identity::{Role as IdentityRole, TlsIdentity};
use super::limits::NetLimits;
use super::notice::Notice;
use super::peer::{Backoff, LocalShard, Peer};
use super::preface::{Preface, SessionKind};
use crate::turn::{ClientEvent, ClientOp, ConnectionId, PeerEvent, PeerId, PeerPast, Time};

/// Notices kept for the carrier to log; older ones make room.
const NOTICES_MAX: usize = 256;

/// A socket, numbered by the shard that owns it; never reused within a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The carrier connects.
    Dialling(PeerId),
    /// Dialled and connected; TLS or the hello is under way.
    Greeting(PeerId),
    /// Accepted for a peer; TLS or the hello is under way.
    Accepted,
    /// The session of this peer.
    Session(PeerId),
    /// A client whose certificate is not judged yet.
    Arriving,
    /// A client.
    Client,
    /// Over; its last bytes are on their way.
    Ended,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) role: Role,
    /// `None` while the carrier connects.
    pub(super) connection: Option<Connection>,
    /// The preface, until it was transmitted.
    pub(super) preface: Vec<u8>,
    pub(super) deadline: Option<Time>,
    pub(super) heard: Time,
    pub(super) said: Time,
    /// Requests of a client that are not answered.
    pub(super) asked: u64,
}

/// A shard's sockets.
pub struct ShardNet {
    pub(super) local: LocalShard,
    pub(super) identity: TlsIdentity,
    pub(super) limits: NetLimits,
    pub(super) backoff: Backoff,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    /// How far each shard had come when this one heard it last.
    pub(super) remembered: BTreeMap<PeerId, PeerPast>,
    pub(super) sockets: BTreeMap<SocketId, Socket>,
    pub(super) next_socket: u64,
    pub(super) clients: usize,
    pub(super) handshakes: usize,
    /// Guests that are here, that nothing named in time, and that found no place.
    pub(super) guests: GuestStatus,
    pub(super) timers: BTreeSet<(Time, SocketId)>,
    pub(super) writable: BTreeSet<SocketId>,
    /// Sockets whose frames wait for room among the events.
    pub(super) stalled: BTreeSet<SocketId>,
    pub(super) ending: BTreeSet<SocketId>,
    pub(super) peer_events: VecDeque<PeerEvent>,
    pub(super) client_events: VecDeque<ClientEvent>,
    pub(super) event_bytes: usize,
    pub(super) notices: VecDeque<Notice>,
    pub(super) stopping: bool,
}

impl ShardNet {
    /// A shard's sockets, none open yet; dials are due at once.
    ///
    /// `peers` are the shards that share a partition with this one, with the addresses of their nodes. `seed` feeds
    /// the jitter between dials.
    ///
    /// # Errors
    /// [`NetError::WrongIdentity`] if the certificate is not that of `local.node`.
    pub fn new(
        local: LocalShard,
        identity: TlsIdentity,
        peers: &[(PeerId, SocketAddr)],
        limits: NetLimits,
        seed: u64,
        now: Time,
    ) -> Result<Self, NetError> {
        if identity.id().role() != &IdentityRole::Node(local.node) {
            return Err(NetError::WrongIdentity {
                expected: format!("node {}", local.node),
                found: identity.id().clone(),
            });
        }
        let mut backoff = Backoff::new(seed, limits.backoff_ms_min, limits.backoff_ms_max);
        let peers = peers
            .iter()
            .map(|(id, address)| {
                assert!(id.node != local.node, "a shard is no peer of its own node");
                let dials_first = local.node < id.node;
                let mut peer = Peer::new(Some(*address), dials_first);
                peer.next_dial = Some(if dials_first {
                    now
                } else {
                    now.plus_us(backoff.upper_half_us(limits.patience_ms))
                });
                (*id, peer)
            })
            .collect();
        Ok(Self {
            local,
            identity,
            limits,
            backoff,
            peers,
            remembered: BTreeMap::new(),
            sockets: BTreeMap::new(),
            next_socket: 1,
            clients: 0,
            handshakes: 0,
            guests: GuestStatus::default(),
            timers: BTreeSet::new(),
            writable: BTreeSet::new(),
            stalled: BTreeSet::new(),
            ending: BTreeSet::new(),
            peer_events: VecDeque::new(),
            client_events: VecDeque::new(),
            event_bytes: 0,
            notices: VecDeque::new(),
            stopping: false,
        })
    }

    /// Where `peer` listens besides where the placement says, if anywhere: it is a peer from here on, no guest any more, and
    /// dialled there first. What was said before of it is forgotten. A session that is up stays.
    pub fn place(&mut self, peer: PeerId, addresses: &[SocketAddr], now: Time) {
        if peer.node == self.local.node {
            return;
        }
        let dials_first = self.local.node < peer.node;
        let known = self.peers.entry(peer);
        let known = known.or_insert_with(|| Peer::new(None, dials_first));
        if known.guest_until.take().is_some() {
            self.guests.here -= 1;
        }
        known.dials_first = dials_first;
        let news = known.note(addresses);
        let idle = known.session.is_none() && known.dial.is_none();
        if !news || !idle || self.stopping {
            return;
        }
        known.next_dial = match (known.address(), known.next_dial) {
            (None, _) => None,
            (Some(_), _) if dials_first => Some(now),
            (Some(_), Some(at)) => Some(at),
            (Some(_), None) => {
                let wait_us = self.backoff.upper_half_us(self.limits.patience_ms);
                Some(now.plus_us(wait_us))
            }
        };
    }

    /// How far `peer` had come when this shard heard it last; the next hello to it says so.
    pub fn remember(&mut self, peer: PeerId, past: PeerPast) {
        self.remembered.insert(peer, past);
    }

    /// A connection was accepted and its preface read: all further bytes of it belong to the socket returned.
    ///
    /// # Errors
    /// [`NetError::WrongCluster`], [`NetError::WrongShard`], [`NetError::TooMany`], [`NetError::Stopping`]: close
    /// the descriptor.
    pub fn on_accepted(&mut self, preface: &Preface, now: Time) -> Result<SocketId, NetError> {
        if self.stopping {
            return Err(NetError::Stopping);
        }
        match preface.cluster {
            Some(found) if found != self.local.cluster => {
                return Err(NetError::wrong_cluster(found, self.local.cluster));
            }
            Some(_) | None => {}
        }
        match preface.shard {
            Some(found) if found != self.local.shard => {
                return Err(NetError::WrongShard {
                    what: "preface",
                    found,
                    expected: self.local.shard,
                });
            }
            Some(_) | None => {}
        }
        if preface.kind == SessionKind::Client && self.clients >= self.limits.clients_max {
            self.displace_idle_client(now);
        }
        let (count, limit, what) = match preface.kind {
            SessionKind::Peer => (
                self.handshakes,
                self.limits.handshakes_max,
                "peer handshakes at a time",
            ),
            SessionKind::Client => (self.clients, self.limits.clients_max, "client connections"),
        };
        if count >= limit {
            return Err(NetError::TooMany { what, limit });
        }
        let (expected, role) = match preface.kind {
            SessionKind::Peer => (Expected::AnyNode, Role::Accepted),
            SessionKind::Client => (Expected::Anyone, Role::Arriving),
        };
        let connection = Connection::accept(
            &self.identity,
            preface.kind,
            expected,
            self.limits.connection,
        )?;
        match preface.kind {
            SessionKind::Peer => self.handshakes += 1,
            SessionKind::Client => self.clients += 1,
        }
        Ok(self.add_socket(role, Some(connection), now))
    }

    pub(super) fn add_socket(
        &mut self,
        role: Role,
        connection: Option<Connection>,
        now: Time,
    ) -> SocketId {
        let id = SocketId(self.next_socket);
        self.next_socket += 1;
        self.sockets.insert(
            id,
            Socket {
                role,
                connection,
                preface: Vec::new(),
                deadline: None,
                heard: now,
                said: now,
                asked: 0,
            },
        );
        self.set_deadline(id, Some(now.plus_ms(self.limits.handshake_ms_max)));
        id
    }

    /// Bytes arrived; they are decrypted in place and garbage afterwards. Returns how many were taken, from the
    /// front. Fewer than given means that events must be taken first: keep the rest, read no more, and offer it
    /// again once [`Self::wants_read`] says so. Bytes of a socket that is over are taken and dropped.
    pub fn on_bytes(&mut self, id: SocketId, bytes: &mut [u8], now: Time) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            let Some(socket) = self.sockets.get_mut(&id) else {
                return bytes.len();
            };
            let Some(connection) = socket.connection.as_mut() else {
                return bytes.len();
            };
            if socket.role == Role::Ended {
                return bytes.len();
            }
            let end = bytes.len().min(taken + RECEIVE_BYTES_MAX);
            match connection.receive(&mut bytes[taken..end]) {
                Ok(0) => return taken,
                Ok(some) => {
                    socket.heard = now;
                    taken += some;
                }
                // Told by `deliver`, which looks at how the connection ended.
                Err(_) => taken = bytes.len(),
            }
            self.deliver(id, now);
        }
        taken
    }

    /// How many guests there are and were.
    #[must_use]
    pub const fn guests(&self) -> GuestStatus {
        self.guests
    }

    /// Whether this socket is one of the shard's, over or not.
    #[must_use]
    pub fn is_open(&self, id: SocketId) -> bool {
        self.sockets.contains_key(&id)
    }

    /// Whether the carrier should read from this socket.
    #[must_use]
    pub fn wants_read(&self, id: SocketId) -> bool {
        self.sockets
            .get(&id)
            .is_some_and(|socket| match (&socket.connection, socket.role) {
                // What an ended socket still receives is dropped, but an end of stream is worth seeing.
                (Some(_), Role::Ended) => true,
                (Some(connection), _) => connection.wants_read(),
                (None, _) => false,
            })
    }

    /// The end of the stream, an error on it, or a dial that failed: the carrier has closed the descriptor, the
    /// socket is forgotten.
    pub fn on_closed(&mut self, id: SocketId, why: &str, now: Time) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let error = match socket.connection.as_mut() {
            Some(connection) => connection.lost(why),
            None => NetError::Lost {
                why: why.to_owned(),
            },
        };
        self.end_socket(id, error, now);
        self.forget(id);
    }

    /// Hands on what a connection has, as far as events have room, and notices its end.
    pub(super) fn deliver(&mut self, id: SocketId, now: Time) {
        loop {
            let Some(socket) = self.sockets.get_mut(&id) else {
                return;
            };
            let Some(connection) = socket.connection.as_mut() else {
                return;
            };
            if socket.role == Role::Ended {
                break;
            }
            if socket.role == Role::Arriving
                && let Some(peer) = connection.peer()
            {
                let opened = ClientEvent::Opened(ConnectionId(id.0), peer.to_string());
                socket.role = Role::Client;
                self.client_events.push_back(opened);
                self.set_deadline(id, None);
                continue;
            }
            if self.event_bytes >= self.limits.event_bytes_max {
                self.stalled.insert(id);
                break;
            }
            match connection.next_frame() {
                Some(frame) => self.on_frame(id, frame, now),
                None => {
                    if let Some(error) = connection.ended().cloned() {
                        self.end_socket(id, error, now);
                    }
                    break;
                }
            }
        }
        self.writable.insert(id);
    }

    fn on_frame(&mut self, id: SocketId, frame: Frame, now: Time) {
        let role = self.sockets[&id].role;
        let result = match role {
            Role::Greeting(_) | Role::Accepted => self.on_greeting_frame(id, frame, now),
            Role::Session(peer) => self.on_session_frame(peer, frame),
            Role::Client if frame.kind == FrameKind::ClientRequest => {
                let socket = self.sockets.get_mut(&id).expect("a frame came from it");
                socket.asked += 1;
                self.event_bytes += frame.body.len();
                self.client_events
                    .push_back(ClientEvent::Frame(ConnectionId(id.0), frame));
                Ok(())
            }
            Role::Client => Err(unexpected(frame.kind, "from a client")),
            Role::Dialling(_) | Role::Arriving | Role::Ended => {
                unreachable!("no frames are fetched in this role")
            }
        };
        if let Err(error) = result {
            self.refuse(id, error, now);
        }
    }

    /// Ends a socket for a reason of ours; the other side is told.
    pub(super) fn refuse(&mut self, id: SocketId, error: NetError, now: Time) {
        let socket = self.sockets.get_mut(&id).expect("a socket that is ours");
        if let Some(connection) = socket.connection.as_mut() {
            connection.end(error.clone());
        }
        self.end_socket(id, error, now);
    }

    /// A socket is over: events, notices and the next dial follow; its last bytes may still be transmitted.
    pub(super) fn end_socket(&mut self, id: SocketId, error: NetError, now: Time) {
        let socket = self.sockets.get_mut(&id).expect("a socket that is ours");
        let role = core::mem::replace(&mut socket.role, Role::Ended);
        let who = socket.connection.as_ref().and_then(|c| c.peer().cloned());
        self.stalled.remove(&id);
        match role {
            Role::Dialling(peer) | Role::Greeting(peer) => self.dial_ended(peer, error, now),
            Role::Accepted => {
                self.handshakes -= 1;
                self.notice(Notice::PeerRefused(who, error));
            }
            Role::Session(peer) => self.session_ended(peer, id, error, now),
            Role::Arriving => {
                self.clients -= 1;
                self.notice(Notice::ClientClosed(who, error));
            }
            Role::Client => {
                self.clients -= 1;
                self.client_events
                    .push_back(ClientEvent::Closed(ConnectionId(id.0)));
                self.notice(Notice::ClientClosed(who, error));
            }
            Role::Ended => return,
        }
        self.set_deadline(id, Some(now.plus_ms(self.limits.drain_ms_max)));
        self.ending.insert(id);
        self.writable.insert(id);
    }

    /// Does what one turn asked for on a client's connection. A client that does not read its answers, so that
    /// its queue is full, is closed.
    pub fn client_op(&mut self, op: ClientOp, now: Time) {
        let (ClientOp::Send(connection, _)
        | ClientOp::Close(connection)
        | ClientOp::Refuse(connection, _)) = &op;
        let id = SocketId(connection.0);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if socket.role != Role::Client {
            return;
        }
        let connection = socket.connection.as_mut().expect("a client is connected");
        match op {
            ClientOp::Send(_, frame) => match connection.send(frame) {
                Ok(()) => {
                    socket.asked = socket.asked.saturating_sub(1);
                    self.writable.insert(id);
                }
                Err((_, error)) => self.refuse(id, error, now),
            },
            ClientOp::Close(_) => {
                connection.close();
                self.end_socket(id, NetError::Closed, now);
            }
            ClientOp::Refuse(_, why) => self.refuse(id, NetError::Message { why }, now),
        }
    }

    /// Moves everything that happened to the inbox's lists.
    pub fn take_events(
        &mut self,
        peers: &mut Vec<PeerEvent>,
        clients: &mut Vec<ClientEvent>,
        now: Time,
    ) {
        peers.extend(self.peer_events.drain(..));
        clients.extend(self.client_events.drain(..));
        self.event_bytes = 0;
        for id in core::mem::take(&mut self.stalled) {
            self.deliver(id, now);
        }
    }

    /// Whether [`Self::take_events`] has something to give.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.peer_events.is_empty() || !self.client_events.is_empty()
    }

    /// The next socket that has bytes to send; call [`Self::transmit`] for it. A socket whose earlier bytes are still
    /// being sent is to be transmitted when those have left: it isn't named again for the same bytes.
    pub fn poll_writable(&mut self) -> Option<SocketId> {
        while let Some(id) = self.writable.pop_first() {
            let wants = self.sockets.get_mut(&id).is_some_and(|socket| {
                socket
                    .connection
                    .as_mut()
                    .is_some_and(|c| !socket.preface.is_empty() || c.wants_write())
            });
            if wants {
                return Some(id);
            }
        }
        None
    }

    /// Appends to `out` the bytes that this socket has to send, about `bytes_max` at most; returns how many. Call it
    /// again when those have left: 0 means that there are no more.
    pub fn transmit(
        &mut self,
        id: SocketId,
        out: &mut Vec<u8>,
        bytes_max: usize,
        now: Time,
    ) -> usize {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return 0;
        };
        let Some(connection) = socket.connection.as_mut() else {
            return 0;
        };
        let before = out.len();
        out.append(&mut socket.preface);
        let result = connection.transmit(out, bytes_max);
        let given = out.len() - before;
        if given > 0 {
            socket.said = now;
        }
        if let Err(error) = result {
            self.end_socket(id, error, now);
        }
        given
    }

    /// The next socket to close, which is then forgotten: everything it had to send was transmitted, or took too
    /// long. The carrier closes the descriptor after the bytes it was given have left, or by the deadline that it
    /// sets itself; a dial that is still connecting is abandoned.
    pub fn poll_close(&mut self, now: Time) -> Option<SocketId> {
        let id = self.ending.iter().copied().find(|id| {
            let socket = self.sockets.get_mut(id).expect("ending sockets are known");
            let late = socket.deadline.is_some_and(|deadline| deadline <= now);
            let sent = match socket.connection.as_mut() {
                Some(connection) => socket.preface.is_empty() && connection.is_finished(),
                None => true,
            };
            late || sent
        })?;
        self.forget(id);
        Some(id)
    }

    fn forget(&mut self, id: SocketId) {
        self.set_deadline(id, None);
        self.sockets.remove(&id);
        self.ending.remove(&id);
        self.writable.remove(&id);
        self.stalled.remove(&id);
    }

    /// When [`Self::on_time`] is due; `None` for never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let dial = self.peers.values().filter_map(|peer| peer.next_dial).min();
        match (timer, dial) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Does what is due: handshakes that took too long, silent peers, signs of life. Dials that are due are given
    /// by [`Self::poll_dial`], sockets that took too long to drain by [`Self::poll_close`].
    pub fn on_time(&mut self, now: Time) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            let role = self.sockets[&id].role;
            match role {
                Role::Dialling(_) | Role::Greeting(_) | Role::Accepted | Role::Arriving => {
                    let limit_ms = self.limits.handshake_ms_max;
                    self.refuse(id, NetError::HandshakeTimeout { limit_ms }, now);
                }
                Role::Session(peer) => self.tend_session(peer, id, now),
                // `poll_close` closes it, deadline or not: the timer has done its work.
                Role::Ended => {
                    self.timers.remove(&(at, id));
                }
                Role::Client => self.set_deadline(id, None),
            }
        }
    }

    pub(super) fn set_deadline(&mut self, id: SocketId, deadline: Option<Time>) {
        let socket = self.sockets.get_mut(&id).expect("a socket that is ours");
        if let Some(old) = core::mem::replace(&mut socket.deadline, deadline) {
            self.timers.remove(&(old, id));
        }
        if let Some(new) = deadline {
            self.timers.insert((new, id));
        }
    }

    /// The next notice for the log.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }

    /// Ends everything: what was queued for clients still leaves, peers are told, nothing is dialled or accepted.
    pub fn stop(&mut self, now: Time) {
        self.stopping = true;
        for id in self.sockets.keys().copied().collect::<Vec<_>>() {
            let socket = self.sockets.get_mut(&id).expect("just listed");
            match (socket.role, socket.connection.as_mut()) {
                (Role::Ended, _) => {}
                (Role::Client, Some(connection)) => {
                    connection.close();
                    self.end_socket(id, NetError::Stopping, now);
                }
                _ => self.refuse(id, NetError::Stopping, now),
            }
        }
        for peer in self.peers.values_mut() {
            peer.next_dial = None;
        }
    }

    /// Sockets that the carrier still has open for this shard.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.sockets.len()
    }
}

impl core::fmt::Debug for ShardNet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ShardNet")
            .field("local", &self.local)
            .field("peers", &self.peers)
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

pub(super) const fn unexpected(kind: FrameKind, when: &'static str) -> NetError {
    let kind = match kind {
        FrameKind::PeerHello => "PeerHello",
        FrameKind::PeerBatch => "PeerBatch",
        FrameKind::ClientRequest => "ClientRequest",
        FrameKind::ClientResponse => "ClientResponse",
        FrameKind::Goodbye => "Goodbye",
    };
    NetError::Unexpected { kind, when }
}
