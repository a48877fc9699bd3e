//! Dialling, greeting, losing and filling connections.
//!
//! A dialler's TLS 1.3 handshake ends before the node has judged its certificate. So a link asks for the status of
//! its shard first, and sends nothing else before that is answered: a refused certificate then can't leave an
//! append in doubt, and the answer says who leads and up to where is durable.

use std::collections::BTreeMap;

use clustor_shards::turn::PeerId;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{PartitionId, ShardId};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, Refusal,
};

use super::super::link::State;
use super::super::loss::Loss;
use super::super::question::Question;
use super::super::timers::Timer;
use super::asked::Place;
use super::{Effect, Machine};
use crate::partition::refusal;
use crate::security::Placement;

/// The id of the request that greets; attempts are numbered from 1.
const GREETING_ID: u64 = 0;
/// The greeting asks for all partitions of the shard up to so many, else for one.
const GREETED_PARTITIONS_MAX: usize = 1024;

/// What to ask each shard first: all its partitions, or one of them.
pub(super) fn greetings(placement: &Placement) -> BTreeMap<PeerId, Option<PartitionId>> {
    let shards = placement.nodes().iter().flat_map(|(node, placed)| {
        (0..placed.shards).map(|shard| PeerId {
            node: *node,
            shard: ShardId(shard),
        })
    });
    shards
        .map(|at| {
            let held = placement.partitions_on(at);
            let many = held.len() > GREETED_PARTITIONS_MAX;
            (at, held.first().copied().filter(|_| many))
        })
        .collect()
}

impl Machine {
    pub(super) fn dial(&mut self, now: u64, to: PeerId) {
        let until = now.saturating_add(self.settings.dial_us_max);
        let link = self.links.get_mut(&to).expect("a link that has a queue");
        let address = self.addresses.of(to, link.failures);
        link.state = State::Dialling {
            until,
            greeted: false,
        };
        self.timers.set(until, Timer::Dial(to));
        let address = address.expect("only what is placed or was told of has a link");
        self.effects.push_back(Effect::Dial { to, address });
    }

    /// `from` does not lead. Returns whether it named another one that can be asked at once.
    pub(super) fn redirected(
        &mut self,
        partition: PartitionId,
        from: PeerId,
        refused: &Refusal,
    ) -> bool {
        let at = refused.leader_at.as_ref();
        if let (Some(node), Some(at)) = (refused.leader, at) {
            let leader = PeerId {
                node,
                shard: at.shard,
            };
            if self.addresses.tell(leader, &at.address)
                && let Some(link) = self.links.get_mut(&leader)
            {
                // What failed before failed elsewhere.
                link.failures = 0;
                if matches!(link.state, State::Down { .. }) {
                    link.state = State::Idle;
                }
            }
            if self.addresses.is_told(leader) {
                self.greetings.entry(leader).or_insert(Some(partition));
            }
            if self.greetings.contains_key(&leader) {
                self.routes.take_up(partition, leader);
            }
        }
        let shard = at.map(|at| at.shard);
        self.routes
            .not_leader(partition, from, refused.leader, shard)
    }

    /// The connection to this shard stands: its TLS handshake is done and the certificate is the node's.
    pub fn connected(&mut self, now: u64, to: PeerId) {
        let Some(link) = self.links.get_mut(&to) else {
            return;
        };
        let State::Dialling { until, .. } = link.state else {
            return;
        };
        link.state = State::Dialling {
            until,
            greeted: true,
        };
        link.heard_us = now;
        let greeting = ClientRequest {
            id: GREETING_ID,
            body: ClientRequestBody::Status {
                partition: self.greetings[&to],
            },
        };
        let mut body = Vec::new();
        greeting.encode(&mut body).expect("a greeting is short");
        let frame = Frame {
            kind: FrameKind::ClientRequest,
            body,
        };
        self.effects.push_back(Effect::Send { to, frame });
    }

    /// The connection to this shard, or the dial, ended.
    pub fn disconnected(&mut self, now: u64, from: PeerId, loss: &Loss) {
        let Some(link) = self.links.get_mut(&from) else {
            return;
        };
        if let State::Dialling { until, .. } = link.state {
            self.timers.clear(until, Timer::Dial(from));
        }
        let failures = link.failures.min(20);
        link.failures += 1;
        let span = (self.settings.redial_us_min << failures).min(self.settings.redial_us_max);
        let queue = core::mem::take(&mut link.queue);
        let in_flight = core::mem::take(&mut link.in_flight);
        link.in_flight_bytes = 0;
        let until = now + span / 2 + self.draw(span);
        self.links.get_mut(&from).expect("looked up before").state = State::Down { until };
        let why = refusal(
            loss.clause,
            format!("node {}, shard {}: {}", from.node, from.shard, loss.why),
            0,
        );
        for (id, request) in in_flight {
            let late = request.sent_us.saturating_add(self.settings.attempt_us);
            self.timers.clear(late, Timer::Attempt(from, id));
            let Some(asked) = self.asked.get_mut(&request.ticket) else {
                continue;
            };
            asked.open -= u32::from(request.may_execute);
            let current = asked.place == Place::Sent(id);
            let may_have = request.may_execute;
            self.lost(now, from, request.ticket, current, may_have, why.clone());
        }
        for ticket in queue {
            let Some(asked) = self.asked.get_mut(&ticket) else {
                continue;
            };
            if asked.place != Place::Queued(from) {
                continue;
            }
            asked.place = Place::Waiting;
            asked.last = Some(why.clone());
            match asked.question {
                Question::Status { .. } | Question::Reload { .. } => {
                    self.refuse_for_good(ticket, why.clone())
                }
                Question::Append { .. }
                | Question::Read { .. }
                | Question::Mode { .. }
                | Question::Members { .. } => {
                    self.route(now, ticket);
                }
            }
        }
    }

    /// A frame came from this shard.
    pub fn frame(&mut self, now: u64, from: PeerId, frame: &Frame) {
        let response = match frame.kind {
            FrameKind::ClientResponse => {
                ClientResponse::decode(&frame.body).map_err(|error| error.to_string())
            }
            other => Err(format!("a {other:?} frame came, answers were expected")),
        };
        let result = response.and_then(|response| self.response(now, from, response));
        if let Err(why) = result {
            self.give_up(now, from, Loss::incompatible(why));
        }
    }

    fn response(&mut self, now: u64, from: PeerId, response: ClientResponse) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&from) else {
            return Ok(());
        };
        link.heard_us = now;
        match link.state {
            State::Up => {}
            State::Dialling {
                greeted: true,
                until,
            } => {
                if response.id != GREETING_ID {
                    return Err("the greeting was not answered first".to_owned());
                }
                self.timers.clear(until, Timer::Dial(from));
                link.state = State::Up;
                link.failures = 0;
                self.greeted(from, &response.body)?;
                self.fill(now, from);
                return Ok(());
            }
            // Of a connection that was given up.
            State::Idle | State::Dialling { .. } | State::Down { .. } => return Ok(()),
        }
        let Some(request) = link.settled(response.id) else {
            return Err(format!("an answer to nothing came: {}", response.id));
        };
        let late = request.sent_us.saturating_add(self.settings.attempt_us);
        self.timers.clear(late, Timer::Attempt(from, response.id));
        if !self.settle(now, from, response.id, request, response.body) {
            return Err("an answer to another question came".to_owned());
        }
        self.fill(now, from);
        Ok(())
    }

    fn greeted(&mut self, from: PeerId, body: &ClientResponseBody) -> Result<(), String> {
        let ClientResponseBody::Status(status) = body else {
            return Ok(());
        };
        if status.node != from.node || status.shard != from.shard {
            return Err(format!(
                "shard {} of node {} answered: check the addresses in the placement",
                status.shard, status.node
            ));
        }
        for partition in &status.partitions {
            self.routes.heard(from, partition);
        }
        Ok(())
    }

    /// Sends what waits for room on a link.
    fn fill(&mut self, now: u64, to: PeerId) {
        loop {
            let Some(link) = self.links.get_mut(&to).filter(|l| l.state == State::Up) else {
                return;
            };
            let Some(ticket) = link.queue.front().copied() else {
                return;
            };
            let waits = self
                .asked
                .get(&ticket)
                .filter(|asked| asked.place == Place::Queued(to));
            if let Some(asked) = waits {
                if !link.has_room(asked.question.bytes(), &self.settings) {
                    return;
                }
                link.queue.pop_front();
                self.send(now, ticket, to);
            } else {
                link.queue.pop_front();
            }
        }
    }

    fn give_up(&mut self, now: u64, from: PeerId, loss: Loss) {
        self.effects.push_back(Effect::Close {
            to: from,
            why: loss.why.clone(),
        });
        self.disconnected(now, from, &loss);
    }

    pub(super) fn dial_is_late(&mut self, now: u64, to: PeerId) {
        let is_dialling = |link: &&super::Link| matches!(link.state, State::Dialling { .. });
        if self.links.get(&to).filter(is_dialling).is_some() {
            let limit_ms = self.settings.dial_us_max / 1000;
            self.give_up(
                now,
                to,
                Loss::unreached(format!("no answer within {limit_ms} ms of dialling")),
            );
        }
    }

    pub(super) fn attempt_is_late(&mut self, now: u64, from: PeerId, id: u64) {
        let Some(link) = self.links.get(&from) else {
            return;
        };
        let Some(request) = link.in_flight.get(&id).copied() else {
            return;
        };
        if link.heard_us <= request.sent_us {
            let limit_ms = self.settings.attempt_us / 1000;
            let why = format!("nothing was heard for {limit_ms} ms");
            self.give_up(now, from, Loss::unreached(why));
            return;
        }
        self.ask_elsewhere(now, from, request.ticket, id);
    }
}
