//! The network between shards: sessions, and what may become of a frame on the way.
//!
//! A frame may be lost, late, repeated or overtaken, whatever session it is on; it is never delivered to a side
//! whose session ended since it was sent: a session is one connection, whose bytes end with it. The receiver has a rule for what is of an
//! earlier boot of the sender than its session all the same: such frames, where they are kept for long, are delivered in the
//! session that follows. Nodes can be cut off from each other, in one direction or both.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::turn::PeerId;
use clustor_wire::frame::Frame;
use clustor_wire::ids::NodeId;
use clustor_wire::message::{PeerBatch, RaftMessage};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::messages::{self, MessageKind};
use super::tardy::Tardy;

/// How the network behaves. Shares are per 1000 frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkOptions {
    /// How long a frame takes, in microseconds, drawn between the two.
    pub delay_us: (u64, u64),
    /// Frames lost.
    pub lost: u32,
    /// Frames delivered twice.
    pub repeated: u32,
    /// Frames that are late, and may be overtaken.
    pub late: u32,
    /// How late, in microseconds, at most.
    pub late_us_max: u64,
}

impl NetworkOptions {
    /// A network that does nothing wrong: every frame takes a millisecond.
    pub const CALM: Self = Self {
        delay_us: (1000, 1000),
        lost: 0,
        repeated: 0,
        late: 0,
        late_us_max: 0,
    };
}

/// What a rule does with a message it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// It is lost.
    Drop,
    /// It is kept until all that is held is released.
    Hold,
    /// It arrives, and a copy of it is kept until all that is copied is repeated: of consensus messages only.
    Copy,
}

/// What becomes of messages of one kind from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// From this node.
    pub from: NodeId,
    /// To this node.
    pub to: NodeId,
    /// Messages of this kind.
    pub kind: MessageKind,
    /// What becomes of them.
    pub action: RuleAction,
}

/// A frame on its way.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: PeerId,
    pub(crate) to: PeerId,
    pub(crate) session: u64,
    pub(crate) frame: Frame,
    /// It was kept for long.
    pub(crate) is_tardy: bool,
}

/// One side of a session.
#[derive(Debug, Clone, Copy, Default)]
struct Side {
    session: u64,
    up: bool,
    /// The last regular frame to this side arrives then: those behind it don't overtake it.
    last_at_us: u64,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    /// What a shard (first) knows of its session with another (second).
    sides: BTreeMap<(PeerId, PeerId), Side>,
    sessions: u64,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// How long a frame takes between two nodes at least, the lesser one first, in microseconds.
    distances_us: BTreeMap<(NodeId, NodeId), u64>,
    /// A node whose way out is slow: what leaves it arrives at multiples of so many microseconds.
    clogged: Option<(NodeId, u64)>,
    tardy: Option<Tardy>,
    rules: Vec<Rule>,
    held: Vec<Packet>,
    copied: Vec<(PeerId, PeerId, RaftMessage)>,
}

fn chance(rng: &mut Xoshiro256PlusPlus, per_mille: u32) -> bool {
    per_mille > 0 && rng.random_range(0..1000) < per_mille
}

impl Network {
    pub(crate) fn new(
        options: NetworkOptions,
        distances_us: BTreeMap<(NodeId, NodeId), u64>,
    ) -> Self {
        Self {
            options,
            distances_us,
            clogged: None,
            sides: BTreeMap::new(),
            sessions: 0,
            cut: BTreeSet::new(),
            tardy: None,
            rules: Vec::new(),
            held: Vec::new(),
            copied: Vec::new(),
        }
    }

    /// How it behaves from now on.
    pub fn set_options(&mut self, options: NetworkOptions) {
        self.options = options;
    }

    /// What keeps messages from now on.
    pub(super) fn set_tardy(&mut self, tardy: Option<Tardy>) {
        self.tardy = tardy;
    }

    // ---- sessions

    pub(crate) fn is_up(&self, me: PeerId, other: PeerId) -> bool {
        self.sides.get(&(me, other)).is_some_and(|side| side.up)
    }

    /// A session begins on both sides.
    pub(crate) fn establish(&mut self, a: PeerId, b: PeerId) {
        self.sessions += 1;
        let side = Side {
            session: self.sessions,
            up: true,
            last_at_us: 0,
        };
        self.sides.insert((a, b), side);
        self.sides.insert((b, a), side);
    }

    /// The session ends on one side; false if it had.
    pub(crate) fn end(&mut self, me: PeerId, other: PeerId) -> bool {
        match self.sides.get_mut(&(me, other)) {
            Some(side) => std::mem::take(&mut side.up),
            None => false,
        }
    }

    /// Whether this side is still in that session.
    pub(crate) fn is_in(&self, me: PeerId, other: PeerId, session: u64) -> bool {
        self.sides
            .get(&(me, other))
            .is_some_and(|side| side.up && side.session == session)
    }

    pub(crate) fn session(&self, me: PeerId, other: PeerId) -> u64 {
        self.sides.get(&(me, other)).map_or(0, |side| side.session)
    }

    // ---- cuts and rules

    /// Nothing gets from `from` to `to` any more.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// All cuts are healed.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// One cut is healed.
    pub fn heal_one(&mut self, from: NodeId, to: NodeId) {
        self.cut.remove(&(from, to));
    }

    /// Whether nothing gets from `from` to `to`.
    #[must_use]
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Whatever leaves a node arrives at multiples of so many microseconds from now on, or nothing does so any more.
    pub fn clog(&mut self, clogged: Option<(NodeId, u64)>) {
        self.clogged = clogged;
    }

    /// Adds a rule; the first that fits a message decides.
    pub fn add_rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Puts other rules in the place of those there are, and returns these; what they hold stays held.
    pub fn replace_rules(&mut self, rules: Vec<Rule>) -> Vec<Rule> {
        std::mem::replace(&mut self.rules, rules)
    }

    /// What rules have held so far, to be delivered now; returns nothing twice.
    pub(crate) fn release(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.held)
    }

    /// What rules have copied so far, by sender and receiver; returns nothing twice.
    pub(crate) fn take_copied(&mut self) -> Vec<(PeerId, PeerId, RaftMessage)> {
        std::mem::take(&mut self.copied)
    }

    // ---- frames

    /// What becomes of a frame: the moments at which it arrives, with what is left of it.
    pub(crate) fn send(
        &mut self,
        now_us: u64,
        from: PeerId,
        to: PeerId,
        frame: Frame,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Vec<(u64, Packet)> {
        let Some(session) = self.sides.get(&(from, to)).filter(|side| side.up) else {
            return Vec::new();
        };
        let session = session.session;
        let Some(frame) = self.obey_rules(from, to, session, frame) else {
            return Vec::new();
        };
        if self.is_cut(from.node, to.node) || chance(rng, self.options.lost) {
            return Vec::new();
        }
        let mut packet = Packet {
            from,
            to,
            session,
            frame,
            is_tardy: false,
        };
        let mut arrivals = Vec::new();
        if chance(rng, self.options.repeated) {
            let delay_us = self.draw_delay(rng) + self.draw_lateness(rng);
            let at = self.arrival(now_us + delay_us, from.node, to.node);
            arrivals.push((at, packet.clone()));
        }
        let mut at = self.arrival(now_us + self.draw_delay(rng), from.node, to.node);
        if chance(rng, self.options.late) {
            at += self.draw_lateness(rng);
        } else if let Some(side) = self.sides.get_mut(&(to, from)) {
            at = at.max(side.last_at_us);
            side.last_at_us = at;
        }
        let direction = (from.node, to.node);
        let tardy = self.tardy.as_mut();
        if let Some(until) = tardy.and_then(|tardy| tardy.keep(now_us, direction)) {
            packet.is_tardy = true;
            at = at.max(until);
        }
        arrivals.push((at, packet));
        arrivals
    }

    /// When a frame arrives that would arrive then if its way were short and free.
    fn arrival(&self, at_us: u64, from: NodeId, to: NodeId) -> u64 {
        let link = (from.min(to), from.max(to));
        let at_us = at_us + self.distances_us.get(&link).copied().unwrap_or(0);
        match self.clogged {
            Some((node, every_us)) if node == from => at_us.next_multiple_of(every_us),
            _ => at_us,
        }
    }

    fn draw_delay(&self, rng: &mut Xoshiro256PlusPlus) -> u64 {
        let (least, most) = self.options.delay_us;
        rng.random_range(least..=most.max(least))
    }

    fn draw_lateness(&self, rng: &mut Xoshiro256PlusPlus) -> u64 {
        rng.random_range(0..=self.options.late_us_max)
    }

    fn obey_rules(
        &mut self,
        from: PeerId,
        to: PeerId,
        session: u64,
        frame: Frame,
    ) -> Option<Frame> {
        let fits = |rule: &Rule| rule.from == from.node && rule.to == to.node;
        if !self.rules.iter().any(fits) {
            return Some(frame);
        }
        let Ok(mut batch) = PeerBatch::decode(&frame.body) else {
            return Some(frame);
        };
        for rule in self.rules.iter().copied().filter(fits) {
            if rule.action == RuleAction::Copy {
                let copied = batch.messages.iter();
                let copied = copied.filter(|m| MessageKind::of(m) == rule.kind);
                self.copied.extend(copied.map(|m| (from, to, m.clone())));
            } else if let Some(taken) = messages::take_out(&mut batch, rule.kind)
                && rule.action == RuleAction::Hold
            {
                self.held.push(Packet {
                    from,
                    to,
                    session,
                    frame: messages::frame(&taken),
                    is_tardy: false,
                });
            }
        }
        (!messages::is_empty(&batch)).then(|| messages::frame(&batch))
    }
}
