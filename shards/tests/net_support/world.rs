//! Shards' sockets joined by wires in memory: time, chunking and losses are the test's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use clustor_shards::net::{
    Dial, LocalShard, NetLimits, Notice, Preface, ShardNet, SocketId, TlsIdentity,
};
use clustor_shards::turn::{ClientEvent, PeerEvent, PeerId, Time};
use clustor_wire::ids::{BootNumber, ChainNumber, ClusterId, Incarnation, NodeId, ShardId};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::Ca;

/// What one wire holds before its sender must wait, as a socket's buffer.
const WIRE_BYTES_MAX: usize = 64 * 1024;

pub const CLUSTER: ClusterId = ClusterId(0xc0ffee);

pub fn local(node: u64) -> LocalShard {
    LocalShard {
        cluster: CLUSTER,
        node: NodeId(node),
        shard: ShardId(0),
        incarnation: Incarnation(100 * node),
        boot: BootNumber(1),
        last_chain: ChainNumber(10 * node),
        placement_digest: [7; 32],
        record_version: 1,
        record_codec: 1,
    }
}

pub fn peer(node: u64) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId(0),
    }
}

pub fn address(node: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node as u16))
}

/// The net of one shard whose peers are `others`.
pub fn net_of(local: LocalShard, identity: TlsIdentity, others: &[u64], now: Time) -> ShardNet {
    net_with(local, identity, others, NetLimits::default(), now)
}

pub fn net_with(
    local: LocalShard,
    identity: TlsIdentity,
    others: &[u64],
    limits: NetLimits,
    now: Time,
) -> ShardNet {
    let seed = local.node.get();
    let peers: Vec<_> = others.iter().map(|n| (peer(*n), address(*n))).collect();
    ShardNet::new(local, identity, &peers, limits, seed, now).expect("a net")
}

/// Nets that all are peers.
pub fn world_of(locals: Vec<LocalShard>, ca: &Ca, seed: u64) -> World {
    let nodes: Vec<u64> = locals.iter().map(|l| l.node.get()).collect();
    let nets = locals
        .into_iter()
        .map(|local| {
            let me = local.node.get();
            let others: Vec<u64> = nodes.iter().copied().filter(|n| *n != me).collect();
            let identity = ca.node(me);
            (me, net_of(local, identity, &others, Time(1)))
        })
        .collect();
    World::new(nets, seed)
}

/// One direction of one connection.
#[derive(Default)]
struct Wire {
    bytes: VecDeque<u8>,
    closed: bool,
}

/// What becomes of a dial that does not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    Refused,
    Swallowed,
}

struct Link {
    ends: [(usize, SocketId); 2],
    /// `wires[i]` leads to `ends[i]`.
    wires: [Wire; 2],
    cut: bool,
    gone: [bool; 2],
}

pub struct World {
    pub nets: Vec<ShardNet>,
    pub peer_events: Vec<Vec<PeerEvent>>,
    pub client_events: Vec<Vec<ClientEvent>>,
    pub notices: Vec<Vec<Notice>>,
    pub now: Time,
    pub rng: Xoshiro256PlusPlus,
    pub dials: Vec<(Time, usize, Dial)>,
    /// Whether dials reach anybody.
    pub reachable: bool,
    /// Who does not get through to whom: the dial fails, or, where it is swallowed, never ends.
    pub blocked: BTreeMap<(usize, usize), Blocked>,
    /// How likely a wire is to bring nothing in a step.
    pub lag: f64,
    /// Whether events are taken in each step.
    pub taking: bool,
    by_address: BTreeMap<SocketAddr, usize>,
    links: Vec<Link>,
    /// Sockets with bytes to send.
    ready: BTreeSet<(usize, SocketId)>,
}

impl World {
    pub fn new(nets: Vec<(u64, ShardNet)>, seed: u64) -> Self {
        let by_address = nets
            .iter()
            .enumerate()
            .map(|(at, (node, _))| (address(*node), at))
            .collect();
        let count = nets.len();
        let lists = || (0..count).map(|_| Vec::new());
        Self {
            nets: nets.into_iter().map(|(_, net)| net).collect(),
            peer_events: lists().collect(),
            client_events: (0..count).map(|_| Vec::new()).collect(),
            notices: (0..count).map(|_| Vec::new()).collect(),
            now: Time(1),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            dials: Vec::new(),
            reachable: true,
            blocked: BTreeMap::new(),
            lag: 0.0,
            taking: true,
            by_address,
            links: Vec::new(),
            ready: BTreeSet::new(),
        }
    }

    /// One round of every carrier, then `ms` pass.
    pub fn step(&mut self, ms: u64) {
        for at in 0..self.nets.len() {
            self.nets[at].on_time(self.now);
            self.dial(at);
            self.send(at);
        }
        for link in 0..self.links.len() {
            for end in 0..2 {
                if self.lag == 0.0 || !self.rng.random_bool(self.lag) {
                    self.arrive(link, end);
                }
            }
        }
        for at in 0..self.nets.len() {
            if self.taking {
                let net = &mut self.nets[at];
                let (peers, clients) = (&mut self.peer_events[at], &mut self.client_events[at]);
                net.take_events(peers, clients, self.now);
            }
            while let Some(notice) = self.nets[at].poll_notice() {
                self.notices[at].push(notice);
            }
            self.send(at);
            self.close(at);
        }
        self.now = self.now.plus_ms(ms);
    }

    pub fn run(&mut self, steps: usize, ms: u64) {
        for _ in 0..steps {
            self.step(ms);
        }
    }

    fn dial(&mut self, at: usize) {
        while let Some(dial) = self.nets[at].poll_dial(self.now) {
            self.dials.push((self.now, at, dial));
            let Some(&to) = self
                .by_address
                .get(&dial.address)
                .filter(|_| self.reachable)
            else {
                self.nets[at].on_closed(dial.socket, "connection refused", self.now);
                continue;
            };
            match self.blocked.get(&(at, to)) {
                Some(Blocked::Refused) => {
                    self.nets[at].on_closed(dial.socket, "connection refused", self.now);
                    continue;
                }
                Some(Blocked::Swallowed) => continue,
                None => {}
            }
            let preface = Preface::peer(CLUSTER, dial.peer.shard);
            match self.nets[to].on_accepted(&preface, self.now) {
                Ok(accepted) => {
                    self.nets[at].on_dialled(dial.socket, self.now);
                    self.links.push(Link {
                        ends: [(at, dial.socket), (to, accepted)],
                        wires: Default::default(),
                        cut: false,
                        gone: [false; 2],
                    });
                }
                Err(error) => {
                    let why = error.to_string();
                    self.nets[at].on_closed(dial.socket, &why, self.now);
                }
            }
        }
    }

    fn find(&mut self, at: usize, socket: SocketId) -> Option<(&mut Link, usize)> {
        self.links.iter_mut().find_map(|link| {
            let end = link.ends.iter().position(|end| *end == (at, socket))?;
            Some((link, end))
        })
    }

    fn send(&mut self, at: usize) {
        while let Some(socket) = self.nets[at].poll_writable() {
            self.ready.insert((at, socket));
        }
        let ready: Vec<_> = self
            .ready
            .iter()
            .filter(|(of, _)| *of == at)
            .copied()
            .collect();
        for (at, socket) in ready {
            let mut bytes = Vec::new();
            let room = self.find(at, socket).map_or(usize::MAX, |(link, end)| {
                WIRE_BYTES_MAX.saturating_sub(link.wires[1 - end].bytes.len())
            });
            while bytes.len() < room {
                if self.nets[at].transmit(socket, &mut bytes, 16 * 1024, self.now) == 0 {
                    self.ready.remove(&(at, socket));
                    break;
                }
            }
            if let Some((link, end)) = self.find(at, socket) {
                link.wires[1 - end].bytes.extend(bytes);
            }
        }
    }

    fn arrive(&mut self, link: usize, end: usize) {
        let (at, socket) = self.links[link].ends[end];
        if self.links[link].gone[end] {
            return;
        }
        if self.links[link].cut {
            self.links[link].gone[end] = true;
            self.nets[at].on_closed(socket, "connection reset", self.now);
            return;
        }
        let wire = &mut self.links[link].wires[end];
        // The preface, which `dial` handed over, is not for the machine.
        if end == 1 && wire.bytes.len() >= 32 && wire.bytes.range(..4).eq(b"CLST") {
            wire.bytes.drain(..32);
        }
        let most = wire.bytes.len();
        let len = if self.rng.random_bool(0.5) {
            most
        } else {
            self.rng.random_range(0..=most)
        };
        let mut bytes: Vec<u8> = wire.bytes.range(..len).copied().collect();
        if !self.nets[at].wants_read(socket) {
            return;
        }
        let taken = self.nets[at].on_bytes(socket, &mut bytes, self.now);
        let wire = &mut self.links[link].wires[end];
        wire.bytes.drain(..taken);
        if wire.bytes.is_empty() && wire.closed {
            self.links[link].gone[end] = true;
            self.nets[at].on_closed(socket, "end of stream", self.now);
        }
    }

    fn close(&mut self, at: usize) {
        while let Some(socket) = self.nets[at].poll_close(self.now) {
            if let Some((link, end)) = self.find(at, socket) {
                link.gone[end] = true;
                link.wires[1 - end].closed = true;
            }
        }
    }

    /// Every connection that stands is reset.
    pub fn cut_all(&mut self) {
        for link in &mut self.links {
            link.cut = true;
        }
    }

    /// Nothing passes any more, and nobody is told.
    pub fn freeze_all(&mut self) {
        self.links.clear();
    }

    /// What happened to peers of `at`, without frames.
    pub fn story(&self, at: usize) -> Vec<String> {
        self.peer_events[at]
            .iter()
            .filter(|event| !matches!(event, PeerEvent::Frame(..)))
            .map(|event| match event {
                PeerEvent::Up(peer) => format!("up {}", peer.node),
                PeerEvent::Down(peer) => format!("down {}", peer.node),
                PeerEvent::Frame(..) => unreachable!(),
            })
            .collect()
    }

    /// The texts of the errors in the notices of `at`.
    pub fn troubles(&self, at: usize) -> Vec<String> {
        self.notices[at]
            .iter()
            .filter_map(|notice| match notice {
                Notice::PeerUp(_) | Notice::GuestUp(_) => None,
                Notice::PeerDown(_, error)
                | Notice::DialFailed(_, error)
                | Notice::PeerRefused(_, error)
                | Notice::ClientClosed(_, error) => Some(error.to_string()),
            })
            .collect()
    }
}
