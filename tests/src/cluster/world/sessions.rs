//! Sessions between shards, and what is sent in them.

use core::net::SocketAddr;

use clustor_shards::turn::{GUESTS_MAX, GUESTS_OF_NODE_MAX, PeerEvent, PeerId};
use clustor_wire::frame::Frame;
use clustor_wire::ids::NodeId;
use clustor_wire::message::{PeerBatch, RaftBody, RaftMessage};
use rand::Rng;

use super::super::check::consensus::VoteSent;
use super::super::check::{Violation, must};
use super::super::host::Host;
use super::super::marks::{GUEST_LEFT, GUEST_NAMED, TARDY, TARDY_BOOT};
use super::super::messages;
use super::super::messages::name;
use super::super::network::Packet;
use super::lives::NOTICE_KILL_US;
use super::{Event, World};

/// From a lost peer, or a healed cut, to the next session, in microseconds.
const CONNECT_US: (u64, u64) = (1_000, 30_000);

/// From a dial that was refused to the next, in microseconds.
const REFUSED_US: u64 = 1_000_000;

impl World {
    /// Files new sessions with everybody that this shard has none with.
    pub fn connect_all(&mut self, shard: PeerId) {
        let others: Vec<PeerId> = self.hosts.keys().copied().collect();
        for other in others {
            if other.node != shard.node {
                let at = self.now_us + self.rng.random_range(CONNECT_US.0..=CONNECT_US.1);
                self.queue.push(at, Event::Connect(shard, other));
            }
        }
    }

    /// Configurations tell a shard where peers listen.
    pub(super) fn tell_of(&mut self, shard: PeerId, said: Vec<(PeerId, Vec<SocketAddr>)>) {
        for (other, addresses) in said {
            let met = self.addresses.meet(&self.layout, shard, other);
            self.addresses.tell(shard, other, addresses);
            let meets = self.addresses.meet(&self.layout, shard, other);
            if meets && !met && self.hosts.contains_key(&other) && other.node != shard.node {
                let at = self.now_us + self.rng.random_range(CONNECT_US.0..=CONNECT_US.1);
                self.queue.push(at, Event::Connect(shard, other));
            }
        }
    }

    /// Where a node listens, as a configuration would say it.
    #[must_use]
    pub fn address(&self, node: NodeId) -> String {
        self.addresses.of(node).to_string()
    }

    /// Whether placements name a node, and its address.
    #[must_use]
    pub fn is_placed(&self, node: NodeId) -> bool {
        !self.layout.unlisted.contains(&node) && !self.addresses.moved(node)
    }

    /// Every node gets a placement that lists all nodes where they are.
    pub fn write_placements(&mut self) {
        self.note(|| "all have a new placement".to_owned());
        self.addresses.write_placements();
        for shard in self.layout.shards.clone() {
            self.connect_all(shard);
        }
    }

    /// A node that is down comes up elsewhere.
    pub fn relocate(&mut self, node: NodeId) {
        self.addresses.leave(node);
        let address = self.address(node);
        self.note(|| format!("node {node} listens at {address}"));
    }

    /// A session ends, and both sides notice; another follows.
    pub fn reset_session(&mut self, a: PeerId, b: PeerId) {
        for (me, other) in [(a, b), (b, a)] {
            let session = self.network.session(me, other);
            let at = self.now_us + self.rng.random_range(NOTICE_KILL_US.0..=NOTICE_KILL_US.1);
            self.queue.push(at, Event::Notice(me, other, session));
        }
        let at = self.now_us + self.rng.random_range(CONNECT_US.0..=CONNECT_US.1);
        self.queue.push(at, Event::Connect(a, b));
    }

    /// The link between two nodes goes down or comes up, in one direction or both; sessions may end with it, and follow it up.
    pub fn turn_link(&mut self, link: (NodeId, NodeId), both: bool, down: bool, resets: bool) {
        let (a, b) = link;
        if down {
            self.network.cut(a, b);
            if both {
                self.network.cut(b, a);
            }
        } else {
            self.network.heal_one(a, b);
            self.network.heal_one(b, a);
        }
        for one in self.shards_of(a) {
            for other in self.shards_of(b) {
                if down && resets {
                    self.reset_session(one, other);
                } else if !down {
                    let at = self.now_us + self.rng.random_range(CONNECT_US.0..=CONNECT_US.1);
                    self.queue.push(at, Event::Connect(one, other));
                }
            }
        }
    }

    /// Everything held by rules is delivered now, where its session still stands.
    pub fn release_held(&mut self) {
        for packet in self.network.release() {
            self.queue.push(self.now_us, Event::Frame(packet));
        }
    }

    /// A message reaches `to` as from `from`, which never sent it, on the session that they have.
    pub(crate) fn say_as(&mut self, from: PeerId, to: PeerId, message: RaftMessage) {
        let Some(core) = self.hosts.get(&from).and_then(|host| host.core.as_ref()) else {
            return;
        };
        let batch = PeerBatch {
            boot: core.log().boot(),
            retired_chain: core.log().retired_chain(),
            messages: vec![message],
            ..PeerBatch::default()
        };
        let packet = Packet {
            from,
            to,
            session: self.network.session(from, to),
            frame: messages::frame(&batch),
            is_tardy: false,
        };
        self.queue.push(self.now_us, Event::Frame(packet));
    }

    pub(super) fn drop_session(&mut self, me: PeerId, other: PeerId) {
        if self.network.end(me, other) {
            self.note(|| format!("down {} with {}", name(me), name(other)));
            let host = self.host_mut(me);
            if host.runs() {
                host.inbox.peers.push(PeerEvent::Down(other));
                self.wake_host(me);
            }
        }
    }

    pub(super) fn connect(&mut self, a: PeerId, b: PeerId) {
        let runs = |shard| self.hosts.get(&shard).is_some_and(Host::runs);
        let cut = self.network.is_cut(a.node, b.node) || self.network.is_cut(b.node, a.node);
        let whole = self.network.is_up(a, b)
            && self.network.is_up(b, a)
            && self.network.session(a, b) == self.network.session(b, a);
        let meet = self.addresses.meet(&self.layout, a, b);
        if !runs(a) || !runs(b) || cut || whole || !meet {
            return;
        }
        let visit = self.visit(a, b);
        let is_full = |(host, visitor): (PeerId, PeerId)| {
            let here = self.visitors(host);
            let of_node = here.clone().filter(|other| other.node == visitor.node);
            of_node.count() >= GUESTS_OF_NODE_MAX || here.count() >= GUESTS_MAX
        };
        if visit.is_some_and(is_full) {
            // Refused, and dialled again.
            let at = self.now_us + REFUSED_US;
            self.queue.push(at, Event::Connect(a, b));
            return;
        }
        self.drop_session(a, b);
        self.drop_session(b, a);
        self.network.establish(a, b);
        self.note(|| format!("up {} with {}", name(a), name(b)));
        if let Some((host, visitor)) = visit {
            let session = self.network.session(host, visitor);
            let at = self.now_us + self.layout.visit_us;
            self.queue.push(at, Event::Leave(host, visitor, session));
        }
        for (me, other) in [(a, b), (b, a)] {
            let Some(hello) = self.hello(other, me) else {
                continue;
            };
            let peers = &mut self.host_mut(me).inbox.peers;
            peers.push(PeerEvent::Up(other));
            peers.push(PeerEvent::Frame(other, hello));
            self.wake_host(me);
        }
    }

    /// Which of two shards is only a visitor of which, if one is: the host and the visitor.
    fn visit(&self, a: PeerId, b: PeerId) -> Option<(PeerId, PeerId)> {
        let mut pairs = [(a, b), (b, a)].into_iter();
        pairs.find(|(host, visitor)| !self.addresses.knows(&self.layout, *host, *visitor))
    }

    fn visitors(&self, host: PeerId) -> impl Iterator<Item = &PeerId> + Clone {
        let visits = move |other: &&PeerId| {
            self.network.is_up(host, **other) && !self.addresses.knows(&self.layout, host, **other)
        };
        self.hosts.keys().filter(visits)
    }

    /// The time of a visitor is over. If nothing has named it it goes, and comes again.
    pub(super) fn end_visit(&mut self, host: PeerId, visitor: PeerId, session: u64) {
        let named = self.addresses.knows(&self.layout, host, visitor);
        if !self.network.is_in(host, visitor, session) {
            return;
        }
        if named {
            self.marks.reach(GUEST_NAMED);
            return;
        }
        self.marks.reach(GUEST_LEFT);
        self.drop_session(host, visitor);
        let at = self.now_us + self.rng.random_range(NOTICE_KILL_US.0..=NOTICE_KILL_US.1);
        self.queue.push(at, Event::Notice(visitor, host, session));
        let at = at + self.rng.random_range(CONNECT_US.0..=CONNECT_US.1);
        self.queue.push(at, Event::Connect(visitor, host));
    }

    /// What a shard says first in a session: it is never lost, or there is no session.
    fn hello(&self, from: PeerId, to: PeerId) -> Option<Frame> {
        Some(self.hosts.get(&from)?.core.as_ref()?.hello(to))
    }

    /// Whether a frame is of a boot of its sender before the one that is in session with `to`.
    fn is_of_earlier_boot(&self, from: PeerId, to: PeerId, frame: &Frame) -> bool {
        let core = self.hosts.get(&from).and_then(|host| host.core.as_ref());
        let batch = PeerBatch::decode(&frame.body);
        let same = self.network.session(from, to) == self.network.session(to, from);
        let up = same && self.network.is_up(from, to) && self.network.is_up(to, from);
        up && core
            .zip(batch.ok())
            .is_some_and(|(core, batch)| batch.boot != core.log().boot())
    }

    pub(super) fn deliver(&mut self, packet: Packet) {
        let Packet {
            from,
            to,
            session,
            frame,
            is_tardy,
        } = packet;
        let runs = self.hosts.get(&to).is_some_and(Host::runs);
        let is_old = is_tardy && self.is_of_earlier_boot(from, to, &frame);
        let is_in = self.network.is_in(to, from, session);
        if !runs || !(is_in || is_old) || self.network.is_cut(from.node, to.node) {
            return;
        }
        if is_tardy {
            self.marks.reach(if is_old { TARDY_BOOT } else { TARDY });
        }
        self.note(|| {
            let what = messages::describe(&frame);
            format!("recv {} from {}: {what}", name(to), name(from))
        });
        self.host_mut(to)
            .inbox
            .peers
            .push(PeerEvent::Frame(from, frame));
        self.wake_host(to);
    }

    pub(super) fn send(&mut self, from: PeerId, to: PeerId, frame: Frame) -> Result<(), Violation> {
        let batch = PeerBatch::decode(&frame.body)
            .map_err(|error| Violation::new("what is sent can be read", error.to_string()))?;
        self.marks.on_sent(&batch);
        if let Some(sent) = &mut self.sent {
            for (kind, count) in messages::count(&batch) {
                *sent.entry((from.node, to.node, kind)).or_default() += count;
            }
        }
        must(
            !self.went_back.contains(&(from, to)) || !self.network.is_up(from, to),
            "a disk that came back as an older image of itself says nothing",
            || {
                format!(
                    "{} says to {}: {}",
                    name(from),
                    name(to),
                    messages::describe(&frame)
                )
            },
        )?;
        self.judge_voter(from, &batch)?;
        let mut votes = self.consensus.on_sent(from, &batch)?;
        for message in &batch.messages {
            if message.body == (RaftBody::VoteResponse { granted: true }) {
                let (partition, term) = (message.partition, message.term);
                self.consensus.votes_for(partition, term, from, to.node)?;
                votes.push(VoteSent {
                    partition,
                    term,
                    to: to.node,
                });
            }
        }
        for vote in votes {
            self.prove_vote(from, vote)?;
        }
        let arrivals = self
            .network
            .send(self.now_us, from, to, frame, &mut self.rng);
        for (at_us, packet) in arrivals {
            self.queue.push(at_us, Event::Frame(packet));
        }
        Ok(())
    }

    /// Nobody votes or campaigns in the place of a voter that is on another disk.
    fn judge_voter(&self, from: PeerId, batch: &PeerBatch) -> Result<(), Violation> {
        let core = self.hosts.get(&from).and_then(|host| host.core.as_ref());
        let Some(core) = core else {
            return Ok(());
        };
        for message in &batch.messages {
            let votes = matches!(
                message.body,
                RaftBody::Vote { .. } | RaftBody::VoteResponse { granted: true }
            );
            let partition = core.partition(message.partition).filter(|_| votes);
            let meant = partition.is_none_or(|partition| {
                let configuration = partition.configuration();
                !configuration.contains(from)
                    || configuration.incarnation_of(from) == core.incarnation()
            });
            must(
                meant,
                "a voter is on the disk that its configuration names",
                || {
                    format!(
                        "{} says {:?} as {}",
                        name(from),
                        message,
                        core.incarnation()
                    )
                },
            )?;
        }
        Ok(())
    }
}
