//! Peer sessions: dialled, greeted, up, tended, down.
//!
//! Of two nodes the lower dials as soon as there is no session. The higher dials, too, after a while without one: the
//! lower may not know where it listens, or not get there. So two connections of a pair may meet. Both sides have to
//! keep the same one, though each sees only its own end, and nothing that a slow or former connection still brings
//! may end a session that is sound. What both rely on: a side dials only while it has no session, gives up a dial as
//! soon as a session is up, and sends no hello on a connection that it gave up.
//!
//! - Neither is up: the lower's dial has precedence from the moment when the acceptor's certificate is verified, thus
//!   before its hello can leave. So the lower refuses the higher's hello from then on, and gives its own dial up for
//!   it before; the higher always takes the lower's.
//! - One is up that was accepted: one accepted later displaces it, for its dialler believes in the last one only.
//! - One is up that was dialled from here: one that was accepted after it was up displaces it, if nothing has been
//!   heard on it for two signs of life. Whoever sent that hello has lost the session, and whoever sent it before the
//!   session was up has given that connection up.

use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{NodeId, ShardId};
use clustor_wire::message::PeerHello;

use super::connection::{Connection, Expected};
use super::error::NetError;
use super::identity::{Role as IdentityRole, SpiffeId};
use super::limits::NetLimits;
use super::notice::Notice;
use super::peer::{Dial, Peer, Session};
use super::preface::{Preface, SessionKind};
use super::shard_net::{Role, ShardNet, SocketId, unexpected};
use crate::turn::{PeerEvent, PeerId, Time};

impl ShardNet {
    /// A dial that is due, if any: connect, then call [`Self::on_dialled`], or [`Self::on_closed`] if that failed.
    pub fn poll_dial(&mut self, now: Time) -> Option<Dial> {
        let (peer, address) = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.next_dial.is_some_and(|at| at <= now))
            .find_map(|(id, peer)| Some((*id, peer.address()?)))?;
        let socket = self.add_socket(Role::Dialling(peer), None, now);
        let state = self.peers.get_mut(&peer).expect("just found");
        state.next_dial = None;
        state.dial = Some(socket);
        Some(Dial {
            socket,
            peer,
            address,
        })
    }

    /// A dial of [`Self::poll_dial`] is connected: the preface and the handshake are ready to be transmitted.
    pub fn on_dialled(&mut self, id: SocketId, now: Time) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let Role::Dialling(peer) = socket.role else {
            return;
        };
        match self.greet(peer) {
            Ok(connection) => {
                let preface = Preface::peer(self.local.cluster, peer.shard);
                let socket = self.sockets.get_mut(&id).expect("looked up above");
                socket.connection = Some(connection);
                socket.preface = preface.encode().to_vec();
                socket.role = Role::Greeting(peer);
                self.writable.insert(id);
            }
            Err(error) => self.refuse(id, error, now),
        }
    }

    fn greet(&self, peer: PeerId) -> Result<Connection, NetError> {
        let expected = SpiffeId::new(
            self.identity.id().trust_domain(),
            IdentityRole::Node(peer.node),
        )?;
        let mut connection = Connection::dial(
            &self.identity,
            SessionKind::Peer,
            Expected::Exactly(expected),
            self.limits.connection,
        )?;
        let hello = self.hello_frame(peer);
        connection
            .send(hello)
            .map_err(|(_, error)| error)
            .map(|()| connection)
    }

    fn hello_frame(&self, to: PeerId) -> Frame {
        let remembered = self.remembered.get(&to).copied().unwrap_or_default();
        let mut body = Vec::new();
        self.local
            .hello(to.shard, remembered)
            .encode(&mut body)
            .expect("a hello is of fixed size");
        Frame {
            kind: FrameKind::PeerHello,
            body,
        }
    }

    /// Queues a frame for a peer.
    ///
    /// # Errors
    /// The frame comes back with [`NetError::NoSession`], [`NetError::SendQueueFull`] or
    /// [`NetError::FrameTooLarge`].
    pub fn send(&mut self, to: PeerId, frame: Frame) -> Result<(), (Frame, NetError)> {
        let session = self.peers.get(&to).and_then(|peer| peer.session.as_ref());
        let Some(id) = session.map(|session| session.socket) else {
            let error = NetError::NoSession {
                node: to.node,
                shard: to.shard,
            };
            return Err((frame, error));
        };
        let socket = self.sockets.get_mut(&id).expect("a session has a socket");
        let connection = socket.connection.as_mut().expect("and a connection");
        connection.send(frame)?;
        self.writable.insert(id);
        Ok(())
    }

    /// Peers with a session, ascending.
    pub fn peers_up(&self) -> impl Iterator<Item = PeerId> + '_ {
        let up = |(id, peer): (&PeerId, &super::peer::Peer)| peer.session.as_ref().map(|_| *id);
        self.peers.iter().filter_map(up)
    }

    /// The first frame of a connection for a peer: its hello, or nothing.
    pub(super) fn on_greeting_frame(
        &mut self,
        id: SocketId,
        frame: Frame,
        now: Time,
    ) -> Result<(), NetError> {
        if frame.kind != FrameKind::PeerHello {
            return Err(unexpected(frame.kind, "before the hello"));
        }
        let (peer, hello) = self.judge_hello(id, &frame)?;
        if self.sockets[&id].role == Role::Accepted {
            if !self.has_precedence(id, peer, now) {
                return Err(NetError::Superseded);
            }
            self.has_room_for(peer)?;
            let answer = self.hello_frame(peer);
            let socket = self.sockets.get_mut(&id).expect("a frame came from it");
            let connection = socket.connection.as_mut().expect("a frame came from it");
            connection.send(answer).map_err(|(_, error)| error)?;
        }
        let earlier = self.peers.get(&peer).and_then(|peer| peer.session.as_ref());
        if let Some(earlier) = earlier.map(|session| session.socket) {
            self.refuse(earlier, NetError::Superseded, now);
        }
        self.session_begins(id, peer, hello, frame, now);
        Ok(())
    }

    /// Whether an accepted connection whose hello is judged becomes the session of its pair.
    fn has_precedence(&self, id: SocketId, peer: PeerId, now: Time) -> bool {
        let Some(state) = self.peers.get(&peer) else {
            return true;
        };
        let Some(session) = &state.session else {
            let dial = state
                .dial
                .and_then(|dial| self.sockets[&dial].connection.as_ref());
            let has_arrived = dial.and_then(Connection::peer).is_some();
            return !(state.dials_first && has_arrived);
        };
        if session.accepted {
            return id > session.socket;
        }
        let silent_us = 2 * self.limits.keepalive_ms * 1000;
        let heard = self.sockets[&session.socket].heard;
        id > session.last_before && now.since_us(heard) >= silent_us
    }

    /// Whether `peer` may have a session: it is placed or named, or a place for a guest of its node is free.
    fn has_room_for(&mut self, peer: PeerId) -> Result<(), NetError> {
        let PeerId { node, shard } = peer;
        let NetLimits {
            guests_max,
            guests_of_node_max,
            ..
        } = self.limits;
        if self.peers.contains_key(&peer) {
            return Ok(());
        }
        let refused = if self.guests.here as usize >= guests_max {
            let limit = guests_max;
            NetError::GuestsFull { node, shard, limit }
        } else if self.guests_of(node) >= guests_of_node_max {
            let limit = guests_of_node_max;
            NetError::GuestsOfNodeFull { node, shard, limit }
        } else {
            return Ok(());
        };
        self.guests.refused += 1;
        Err(refused)
    }

    /// How many shards of a node are guests here.
    fn guests_of(&self, node: NodeId) -> usize {
        let of = |shard| PeerId {
            node,
            shard: ShardId(shard),
        };
        let shards = self.peers.range(of(0)..=of(u16::MAX));
        let guests = shards.filter(|(_, peer)| peer.guest_until.is_some());
        guests.count()
    }

    fn judge_hello(&self, id: SocketId, frame: &Frame) -> Result<(PeerId, PeerHello), NetError> {
        let hello = PeerHello::decode(&frame.body).map_err(|error| NetError::Message {
            why: error.to_string(),
        })?;
        let socket = &self.sockets[&id];
        let certified = socket
            .connection
            .as_ref()
            .and_then(Connection::peer)
            .and_then(SpiffeId::node)
            .expect("frames are handed out for judged nodes only");
        self.local.judge(&hello, certified)?;
        let peer = PeerId {
            node: hello.node,
            shard: hello.shard,
        };
        match socket.role {
            Role::Greeting(expected) | Role::Session(expected) if expected != peer => {
                return Err(NetError::WrongShard {
                    what: "hello's sender",
                    found: peer.shard,
                    expected: expected.shard,
                });
            }
            _ => {}
        }
        if peer.node == self.local.node {
            return Err(NetError::Myself { node: peer.node });
        }
        Ok((peer, hello))
    }

    fn session_begins(
        &mut self,
        id: SocketId,
        peer: PeerId,
        hello: PeerHello,
        frame: Frame,
        now: Time,
    ) {
        let socket = self.sockets.get_mut(&id).expect("a frame came from it");
        let accepted = socket.role == Role::Accepted;
        if accepted {
            self.handshakes -= 1;
        }
        socket.role = Role::Session(peer);
        socket.heard = now;
        let guest_until = now.plus_ms(self.limits.guest_ms_max);
        let guests = &mut self.guests.here;
        let state = self.peers.entry(peer).or_insert_with(|| {
            *guests += 1;
            Peer::guest(guest_until)
        });
        let up = match state.guest_until {
            Some(_) => Notice::GuestUp(peer),
            None => Notice::PeerUp(peer),
        };
        let dial = state.dial.take();
        state.next_dial = None;
        state.last_trouble = None;
        state.session = Some(Session {
            socket: id,
            since: now,
            accepted,
            last_before: SocketId(self.next_socket - 1),
            hello,
        });
        if let Some(dial) = dial.filter(|dial| *dial != id) {
            self.refuse(dial, NetError::Superseded, now);
        }
        self.event_bytes += frame.body.len();
        self.peer_events.push_back(PeerEvent::Up(peer));
        self.peer_events.push_back(PeerEvent::Frame(peer, frame));
        self.notice(up);
        self.set_deadline(id, Some(now.plus_ms(self.limits.keepalive_ms)));
    }

    /// A frame within a session: a batch, or a hello. A hello is a sign of life; one that says something new
    /// (chains) is handed on.
    pub(super) fn on_session_frame(&mut self, peer: PeerId, frame: Frame) -> Result<(), NetError> {
        match frame.kind {
            FrameKind::PeerBatch => {}
            FrameKind::PeerHello => {
                let session = self.peers[&peer].session.as_ref();
                let id = session.expect("a session's frame").socket;
                let (_, hello) = self.judge_hello(id, &frame)?;
                let state = self.peers.get_mut(&peer).expect("a session's peer");
                let session = state.session.as_mut().expect("a session's frame");
                if hello.boot != session.hello.boot {
                    return Err(unexpected(frame.kind, "of another boot in a session"));
                }
                if hello == session.hello {
                    return Ok(());
                }
                session.hello = hello;
            }
            kind => return Err(unexpected(kind, "from a peer")),
        }
        self.event_bytes += frame.body.len();
        self.peer_events.push_back(PeerEvent::Frame(peer, frame));
        Ok(())
    }

    /// Closes a silent session, gives a quiet one a sign of life.
    pub(super) fn tend_session(&mut self, peer: PeerId, id: SocketId, now: Time) {
        let keepalive_us = self.limits.keepalive_ms * 1000;
        let socket = &self.sockets[&id];
        if now.since_us(socket.heard) >= self.limits.silence_ms_max * 1000 {
            let limit_ms = self.limits.silence_ms_max;
            self.refuse(id, NetError::Silent { limit_ms }, now);
            return;
        }
        let guest_until = self.peers[&peer].guest_until;
        if guest_until.is_some_and(|until| until <= now) {
            let unnamed = NetError::GuestUnnamed {
                node: peer.node,
                shard: peer.shard,
                limit_ms: self.limits.guest_ms_max,
            };
            self.guests.unnamed += 1;
            self.refuse(id, unnamed, now);
            return;
        }
        if now.since_us(socket.said) >= keepalive_us {
            let hello = self.hello_frame(peer);
            let socket = self.sockets.get_mut(&id).expect("looked at above");
            let connection = socket.connection.as_mut().expect("a session is connected");
            // A queue that is full has signs of life enough.
            if connection.send(hello).is_ok() {
                self.writable.insert(id);
            }
        }
        self.set_deadline(id, Some(now.plus_us(keepalive_us)));
    }

    pub(super) fn session_ended(&mut self, peer: PeerId, id: SocketId, error: NetError, now: Time) {
        let state = self.peers.get_mut(&peer).expect("a session's peer");
        let session = state.session.take().expect("a session that was up");
        assert!(session.socket == id, "one session per peer");
        let guest = state.guest_until.is_some();
        if now.since_us(session.since) >= self.limits.settled_ms_min * 1000 {
            state.failures = 0;
        }
        let dials_first = state.dials_first;
        self.peer_events.push_back(PeerEvent::Down(peer));
        self.notice(Notice::PeerDown(peer, error));
        if guest {
            self.guests.here -= 1;
            self.peers.remove(&peer);
            return;
        }
        self.redial(peer, now, (!dials_first).then_some(self.limits.patience_ms));
    }

    pub(super) fn dial_ended(&mut self, peer: PeerId, error: NetError, now: Time) {
        let state = self.peers.get_mut(&peer).expect("dialled peers are known");
        if state.session.is_some() {
            // Given up for the session.
            return;
        }
        state.dial = None;
        if state.last_trouble.as_ref() != Some(&error) {
            state.last_trouble = Some(error.clone());
            self.notice(Notice::DialFailed(peer, error));
        }
        self.redial(peer, now, None);
    }

    /// Files the next dial: after some patience, or as earlier ones failed.
    fn redial(&mut self, peer: PeerId, now: Time, patience_ms: Option<u64>) {
        let state = self.peers.get_mut(&peer).expect("only guests are removed");
        if self.stopping {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        if state.address().is_none() {
            return;
        }
        let wait_us = match patience_ms {
            Some(patience_ms) => self.backoff.upper_half_us(patience_ms),
            None => self.backoff.wait_us(state.failures),
        };
        state.next_dial = Some(now.plus_us(wait_us));
    }

    /// The shard a peer's preface must name to reach this one.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.local.shard
    }
}
