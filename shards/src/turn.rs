//! A shard takes turns: what comes in, what goes out, and the trait between the two.
//!
//! [`Application::turn`] is a pure state transition: the same inbox gives the same outbox, bit for bit. The
//! runtime carries turns out on real hardware, the simulator on virtual time. Everything here is a value;
//! nothing here acts.

use std::net::SocketAddr;

use clustor_wire::frame::Frame;
use clustor_wire::ids::{BootNumber, ChainNumber, Incarnation, NodeId, ShardId};
use clustor_wire::message::GuestStatus;
use serde::{Deserialize, Serialize};

use crate::disk::{DiskEvent, DiskOp};

/// A moment on the shard's monotone clock, in microseconds since an arbitrary start.
///
/// In production CLOCK_BOOTTIME, sampled after the last item of the inbox; in simulation virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// This moment and `us` microseconds.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// This moment and `ms` milliseconds.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        self.plus_us(ms.saturating_mul(1000))
    }

    /// Microseconds since `earlier`, 0 if that lies ahead.
    #[must_use]
    pub const fn since_us(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A shard of another node: the other end of a peer connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// The node, as its certificate says.
    pub node: NodeId,
    /// The shard within it.
    pub shard: ShardId,
}

/// How far a shard had come when it was last heard: what its peers remember of it, and hold against it should it come
/// back behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerPast {
    /// Which formatting of its disk; 0 for a shard that was never heard.
    pub incarnation: Incarnation,
    /// Its boot.
    pub boot: BootNumber,
    /// The highest chain of it that had retired.
    pub chain: ChainNumber,
}

impl PeerPast {
    /// Takes later news: another incarnation begins anew, within one neither number goes back. Returns whether anything
    /// changed.
    pub fn advance(&mut self, news: Self) -> bool {
        let before = *self;
        if self.incarnation == news.incarnation {
            self.boot = self.boot.max(news.boot);
            self.chain = self.chain.max(news.chain);
        } else {
            *self = news;
        }
        *self != before
    }
}

/// A client's connection, numbered by the shard that serves it; never reused within a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Guests of one shard at a time, at most: peers that are let in though neither the placement nor a configuration here names
/// them, as they may be members by entries of the log that are still to come.
pub const GUESTS_MAX: usize = 8;
/// Of these, shards of one node, at most: no node takes all the places. One with more shards gets further ones in as soon as those
/// that are here have been named.
pub const GUESTS_OF_NODE_MAX: usize = 2;
const _: () = assert!(GUESTS_OF_NODE_MAX < GUESTS_MAX);
/// How long a session with a guest lasts, in milliseconds, if nothing names it meanwhile.
pub const GUEST_MS_MAX: u64 = 60_000;

/// What happened on a connection to a peer shard.
#[derive(Debug)]
pub enum PeerEvent {
    /// An authenticated session began. Frames of earlier sessions are never delivered after it.
    Up(PeerId),
    /// A frame arrived on the present session.
    Frame(PeerId, Frame),
    /// The session ended; what was sent and not yet answered may or may not have arrived.
    Down(PeerId),
}

/// What happened on a client's connection.
#[derive(Debug)]
pub enum ClientEvent {
    /// A client connected and was authenticated under this name.
    Opened(ConnectionId, String),
    /// A frame arrived.
    Frame(ConnectionId, Frame),
    /// It is gone.
    Closed(ConnectionId),
}

/// What a turn asks of a client's connection.
#[derive(Debug)]
pub enum ClientOp {
    /// Send a frame.
    Send(ConnectionId, Frame),
    /// Close it after what was sent before has left.
    Close(ConnectionId),
    /// Close it at once, with a goodbye that says why: what it sent can't be read.
    Refuse(ConnectionId, String),
}

/// Everything that arrived since the last turn. Reused: the turn drains the lists.
#[derive(Debug)]
pub struct Inbox<R, M> {
    /// The time, sampled after everything below was collected.
    pub now: Time,
    /// The wall clock at that moment (CLOCK_REALTIME), in microseconds since 1970: only to be compared with `now`. `None`
    /// where the two could not be read together.
    pub wall_us: Option<u64>,
    /// Completions of the disk, errors first.
    pub disk: Vec<DiskEvent>,
    /// Events on peer connections, in order for each peer.
    pub peers: Vec<PeerEvent>,
    /// Events on client connections, in order for each.
    pub clients: Vec<ClientEvent>,
    /// Requests from handles, in order for each handle.
    pub requests: Vec<R>,
    /// Messages from other shards of this node.
    pub mesh: Vec<(ShardId, M)>,
    /// The shard's guests.
    pub guests: GuestStatus,
    /// Whether the node was asked to stop: refuse new work, settle what is in flight.
    pub stopping: bool,
}

impl<R, M> Default for Inbox<R, M> {
    fn default() -> Self {
        Self {
            now: Time::default(),
            wall_us: None,
            disk: Vec::new(),
            peers: Vec::new(),
            clients: Vec::new(),
            requests: Vec::new(),
            mesh: Vec::new(),
            guests: GuestStatus::default(),
            stopping: false,
        }
    }
}

impl<R, M> Inbox<R, M> {
    /// Whether nothing arrived (time may have passed all the same).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.disk.is_empty()
            && self.peers.is_empty()
            && self.clients.is_empty()
            && self.requests.is_empty()
            && self.mesh.is_empty()
    }
}

/// Everything a turn decided. Reused: the carrier drains the lists, in the order of the fields.
#[derive(Debug)]
pub struct Outbox<P, M> {
    /// Operations for the disk, in order.
    pub disk: Vec<DiskOp>,
    /// Frames for peers: at most one per peer and turn. Dropped where no session is up.
    pub peers: Vec<(PeerId, Frame)>,
    /// Where peers listen, besides where the placement says, of those of whom there is news: members of a partition here,
    /// that are peers, and no guests, from then on. The newest word on each takes the place of the one before; there may be
    /// no address in it.
    pub addresses: Vec<(PeerId, Vec<SocketAddr>)>,
    /// What is remembered of peers, where it changed: the next hello to each says so.
    pub remembered: Vec<(PeerId, PeerPast)>,
    /// Operations on client connections, in order for each.
    pub clients: Vec<ClientOp>,
    /// Answers to requests from handles.
    pub replies: Vec<P>,
    /// Messages for other shards of this node. What a full ring returned comes first next time.
    pub mesh: Vec<(ShardId, M)>,
    /// When the next turn is due even if nothing arrives; `None` for never.
    pub deadline: Option<Time>,
    /// Set by a stopping application when nothing of it is in flight any more.
    pub stopped: bool,
}

impl<P, M> Default for Outbox<P, M> {
    fn default() -> Self {
        Self {
            disk: Vec::new(),
            peers: Vec::new(),
            addresses: Vec::new(),
            remembered: Vec::new(),
            clients: Vec::new(),
            replies: Vec::new(),
            mesh: Vec::new(),
            deadline: None,
            stopped: false,
        }
    }
}

/// What runs on a shard. Implemented by the engine's `ShardCore`; carried by the runtime and the simulator.
pub trait Application {
    /// What handles ask.
    type Request;
    /// What they are answered.
    type Reply;
    /// What shards of a node say to each other.
    type Mesh;

    /// Takes everything in `inbox`, leaves everything decided in `outbox`.
    fn turn(
        &mut self,
        inbox: &mut Inbox<Self::Request, Self::Mesh>,
        outbox: &mut Outbox<Self::Reply, Self::Mesh>,
    );
}
