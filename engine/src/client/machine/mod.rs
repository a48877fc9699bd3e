//! The client without I/O: questions, frames, connections' ends and time in, [`Effect`]s out.
//!
//! - `asked`: one question under way, and what its sendings have shown
//! - `answers`: what an answer, a refusal or a loss does to a question
//! - `links`: dialling, greeting, losing and filling connections

mod answers;
mod asked;
mod links;

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use clustor_shards::turn::PeerId;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::message::{Refusal, RefusalClause};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use self::asked::{Asked, Place};
use super::addresses::Addresses;
use super::link::{InFlight, Link, State};
use super::question::{Answer, PAYLOAD_BYTES_MAX, Question};
use super::routes::Routes;
use super::settings::ClientSettings;
use super::timers::{Timer, Timers};
use crate::partition::refusal;
use crate::security::Placement;

/// What the carrier is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Open a connection to this shard, and report [`Machine::connected`] or [`Machine::disconnected`].
    Dial {
        /// Which shard. Whoever answers must have its node's certificate.
        to: PeerId,
        /// Where its node listens, as the placement or another node says.
        address: SocketAddr,
    },
    /// Send a frame on the connection to this shard. There is one.
    Send {
        /// Which shard.
        to: PeerId,
        /// The frame.
        frame: Frame,
    },
    /// Close the connection to this shard; its end need not be reported.
    Close {
        /// Which shard.
        to: PeerId,
        /// Why.
        why: String,
    },
    /// A question's one answer.
    Answer {
        /// The question's ticket.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
}

/// The client as a machine. See [the room](super).
///
/// Time is in microseconds of one monotone clock and never goes back.
#[derive(Debug)]
pub struct Machine {
    settings: ClientSettings,
    random: SplitMix64,
    routes: Routes,
    addresses: Addresses,
    links: BTreeMap<PeerId, Link>,
    /// What a link asks first, to learn that the node accepts it.
    greetings: BTreeMap<PeerId, Option<clustor_wire::ids::PartitionId>>,
    asked: BTreeMap<u64, Asked>,
    timers: Timers,
    effects: VecDeque<Effect>,
    next_ticket: u64,
    next_attempt: u64,
}

impl Machine {
    /// A client of the cluster that this placement describes. Nothing is dialled before something is asked.
    #[must_use]
    pub fn new(placement: &Placement, settings: ClientSettings, seed: u64) -> Self {
        Self {
            settings,
            random: SplitMix64::seed_from_u64(seed),
            routes: Routes::new(placement),
            addresses: Addresses::new(placement),
            links: BTreeMap::new(),
            greetings: links::greetings(placement),
            asked: BTreeMap::new(),
            timers: Timers::default(),
            effects: VecDeque::new(),
            next_ticket: 1,
            next_attempt: 1,
        }
    }

    /// Takes a question that is to be answered by `deadline`, and returns its ticket. It is answered at once with a
    /// refusal where too many are under way, the placement names no such partition or shard, or it is too long.
    pub fn submit(&mut self, now: u64, question: Question, deadline: u64) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Err(refused) = self.admit(&question) {
            let answer = question.refused(refused);
            self.effects.push_back(Effect::Answer { ticket, answer });
            return ticket;
        }
        self.asked.insert(ticket, Asked::new(question, deadline));
        self.timers.set(deadline, Timer::Deadline(ticket));
        self.route(now, ticket);
        ticket
    }

    fn admit(&self, question: &Question) -> Result<(), Refusal> {
        if self.asked.len() >= self.settings.questions_max {
            let message = format!(
                "client: {} questions are under way, the limit",
                self.asked.len()
            );
            return Err(refusal(RefusalClause::Busy, message, 10));
        }
        let bytes = question.bytes();
        if bytes > PAYLOAD_BYTES_MAX {
            let message = format!(
                "client: a payload of {bytes} bytes, the limit is {PAYLOAD_BYTES_MAX} bytes"
            );
            return Err(refusal(RefusalClause::TooLong, message, 0));
        }
        if let Some(partition) = question.partition()
            && !self.routes.knows(partition)
        {
            let message = format!("client: the placement names no partition {partition}");
            return Err(refusal(RefusalClause::NotPlaced, message, 0));
        }
        if let Question::Status { at, .. } | Question::Reload { at } = question
            && !self.greetings.contains_key(at)
        {
            let message = format!(
                "client: the placement names no shard {} of node {}",
                at.shard, at.node
            );
            return Err(refusal(RefusalClause::NotPlaced, message, 0));
        }
        Ok(())
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Questions under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.asked.len()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: u64) {
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Deadline(ticket) => {
                    self.expire(ticket, RefusalClause::Unanswered, "its time is over");
                }
                Timer::Again(ticket) => self.route(now, ticket),
                Timer::Attempt(peer, id) => self.attempt_is_late(now, peer, id),
                Timer::Dial(peer) => self.dial_is_late(now, peer),
            }
        }
    }

    /// Answers everything that is under way: the client ends.
    pub fn stop(&mut self) {
        let tickets: Vec<u64> = self.asked.keys().copied().collect();
        for ticket in tickets {
            self.expire(ticket, RefusalClause::Closed, "the client was closed");
        }
    }

    /// Sends a question to where its answer may be, or lets it wait.
    fn route(&mut self, now: u64, ticket: u64) {
        let Some(asked) = self.asked.get_mut(&ticket) else {
            return;
        };
        if let Place::Paused { until } = asked.place {
            self.timers.clear(until, Timer::Again(ticket));
        }
        asked.place = Place::Waiting;
        let links = &self.links;
        let is_down = |at: PeerId| links.get(&at).is_some_and(|link| link.is_down(now));
        let target = match &asked.question {
            Question::Status { at, .. } | Question::Reload { at } => {
                Some(*at).filter(|at| !is_down(*at))
            }
            Question::Append { partition, .. }
            | Question::Read { partition, .. }
            | Question::Mode { partition, .. }
            | Question::Members { partition, .. } => self.routes.choose(*partition, is_down),
        };
        match target {
            Some(target) => self.send_or_queue(now, ticket, target),
            None => self.wait_for_redial(now, ticket),
        }
    }

    /// All connections that could serve are down: waits until the first may be dialled.
    fn wait_for_redial(&mut self, now: u64, ticket: u64) {
        let asked = &self.asked[&ticket];
        let pinned;
        let candidates: &[PeerId] = match &asked.question {
            Question::Status { at, .. } | Question::Reload { at } => {
                pinned = [*at];
                &pinned
            }
            Question::Append { partition, .. }
            | Question::Read { partition, .. }
            | Question::Mode { partition, .. }
            | Question::Members { partition, .. } => self.routes.replicas(*partition),
        };
        let first = candidates
            .iter()
            .filter_map(|at| match self.links.get(at)?.state {
                State::Down { until } => Some(until),
                State::Idle | State::Dialling { .. } | State::Up => None,
            })
            .min();
        self.pause_until(ticket, first.unwrap_or(now).max(now + 1));
    }

    fn send_or_queue(&mut self, now: u64, ticket: u64, target: PeerId) {
        let asked = self.asked.get_mut(&ticket).expect("routed while under way");
        let link = self.links.entry(target).or_default();
        let bytes = asked.question.bytes();
        if link.state == State::Up && link.queue.is_empty() && link.has_room(bytes, &self.settings)
        {
            self.send(now, ticket, target);
            return;
        }
        asked.place = Place::Queued(target);
        link.queue.push_back(ticket);
        if matches!(link.state, State::Idle | State::Down { .. }) {
            self.dial(now, target);
        }
    }

    /// Sends a question on a link that is up and has room.
    fn send(&mut self, now: u64, ticket: u64, target: PeerId) {
        let asked = self.asked.get_mut(&ticket).expect("sent while under way");
        if let Some(partition) = asked.question.partition() {
            asked.fix_index(self.routes.committed(partition));
        }
        let id = self.next_attempt;
        let body = match asked.question.encode(id, asked.index) {
            Ok(body) => body,
            Err(error) => {
                let refused = refusal(RefusalClause::TooLong, error.to_string(), 0);
                self.refuse_for_good(ticket, refused);
                return;
            }
        };
        self.next_attempt += 1;
        let request = InFlight {
            ticket,
            sent_us: now,
            bytes: asked.question.bytes(),
            may_execute: asked.question.may_execute(asked.index),
        };
        asked.sent(id, &request);
        let link = self.links.get_mut(&target).expect("a link that is up");
        link.sent(id, request);
        let late = now.saturating_add(self.settings.attempt_us);
        self.timers.set(late, Timer::Attempt(target, id));
        let frame = Frame {
            kind: FrameKind::ClientRequest,
            body,
        };
        self.effects.push_back(Effect::Send { to: target, frame });
    }

    /// Waits before asking again: longer each time, half of it by chance, and no less than what was asked for.
    fn pause(&mut self, now: u64, ticket: u64, wanted_ms: u32) {
        let Some(asked) = self.asked.get_mut(&ticket) else {
            return;
        };
        asked.hints_followed = 0;
        let pauses = asked.pauses.min(20);
        asked.pauses += 1;
        let span = (self.settings.pause_us_min << pauses).min(self.settings.pause_us_max);
        let wanted = (u64::from(wanted_ms) * 1000).min(self.settings.pause_us_max);
        let until = now + span.max(wanted) / 2 + self.draw(span.max(wanted));
        self.pause_until(ticket, until);
    }

    fn pause_until(&mut self, ticket: u64, until: u64) {
        let asked = self.asked.get_mut(&ticket).expect("paused while under way");
        asked.place = Place::Paused { until };
        self.timers.set(until, Timer::Again(ticket));
    }

    /// A number below `span`, or 0.
    fn draw(&mut self, span: u64) -> u64 {
        ((u128::from(self.random.next_u64()) * u128::from(span)) >> 64) as u64
    }
}
