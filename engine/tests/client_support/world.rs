//! The client's machine, and a world that answers it by a script.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use clustor_engine::client::{Answer, ClientSettings, Effect, Keying, Loss, Machine, Question};
use clustor_engine::outcome::{IdempotencyKey, Outcome};
use clustor_shards::turn::PeerId;
use clustor_wire::frame::Frame;
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{ClientRequestBody, ClientResponseBody, RefusalClause};

use super::{P, bare_status, placement, request, response};

pub const SECOND: u64 = 1_000_000;
pub const KEY: IdempotencyKey = IdempotencyKey(0xfeed);

/// The machine, and all that it did.
pub struct World {
    pub machine: Machine,
    pub now: u64,
    pub sent: VecDeque<(PeerId, Frame)>,
    pub dialled: Vec<PeerId>,
    /// Where.
    pub at: Vec<SocketAddr>,
    pub closed: Vec<PeerId>,
    pub answers: BTreeMap<u64, Answer>,
    /// Nodes that don't accept connections.
    pub dead: Vec<PeerId>,
}

fn unreached(why: &str) -> Loss {
    Loss {
        clause: RefusalClause::Unreached,
        why: why.to_owned(),
    }
}

impl World {
    pub fn new(settings: ClientSettings) -> Self {
        let addresses: Vec<_> = (1..=3)
            .map(|port| format!("127.0.0.1:{port}").parse().unwrap())
            .collect();
        Self {
            machine: Machine::new(&placement(&addresses), settings, 42),
            now: SECOND,
            sent: VecDeque::new(),
            dialled: Vec::new(),
            at: Vec::new(),
            closed: Vec::new(),
            answers: BTreeMap::new(),
            dead: Vec::new(),
        }
    }

    /// Carries out what the machine wants. Dials succeed at once, and greetings are answered.
    pub fn settle(&mut self) {
        while let Some(effect) = self.machine.poll() {
            match effect {
                Effect::Dial { to, address } => {
                    self.dialled.push(to);
                    self.at.push(address);
                    if self.dead.contains(&to) {
                        self.machine
                            .disconnected(self.now, to, &unreached("connection refused"));
                    } else {
                        self.machine.connected(self.now, to);
                    }
                }
                Effect::Send { to, frame } if request(&frame).id == 0 => {
                    let status = response(0, bare_status(to));
                    self.machine.frame(self.now, to, &status);
                }
                Effect::Send { to, frame } => self.sent.push_back((to, frame)),
                Effect::Close { to, .. } => self.closed.push(to),
                Effect::Answer { ticket, answer } => {
                    let before = self.answers.insert(ticket, answer);
                    assert_eq!(before, None, "question {ticket} has one answer");
                }
            }
        }
    }

    pub fn ask(&mut self, question: Question, timeout: u64) -> u64 {
        let deadline = self.now + timeout;
        let ticket = self.machine.submit(self.now, question, deadline);
        self.settle();
        ticket
    }

    pub fn append(&mut self, keying: Keying) -> u64 {
        let question = Question::Append {
            partition: P,
            keying,
            payload: b"+3".to_vec(),
            only_in: None,
        };
        self.ask(question, 10 * SECOND)
    }

    /// An append that has all the time.
    pub fn append_patiently(&mut self) -> u64 {
        let question = Question::Append {
            partition: P,
            keying: Keying::New(KEY),
            payload: b"+3".to_vec(),
            only_in: None,
        };
        self.ask(question, 1_000 * SECOND)
    }

    /// The next request that was sent, waiting for it if need be.
    pub fn next(&mut self) -> (PeerId, u64, ClientRequestBody) {
        while self.sent.is_empty() {
            self.advance();
        }
        let (to, frame) = self.sent.pop_front().unwrap();
        let request = request(&frame);
        (to, request.id, request.body)
    }

    pub fn advance(&mut self) {
        self.now = self
            .machine
            .next_deadline()
            .expect("something is due")
            .max(self.now);
        self.machine.tick(self.now);
        self.settle();
    }

    pub fn reply(&mut self, from: PeerId, id: u64, body: ClientResponseBody) {
        self.now += 100;
        self.machine.frame(self.now, from, &response(id, body));
        self.settle();
    }

    pub fn lose(&mut self, from: PeerId) {
        self.machine
            .disconnected(self.now, from, &unreached("reset"));
        self.settle();
    }

    pub fn outcome(&self, ticket: u64) -> Option<&Outcome> {
        match self.answers.get(&ticket)? {
            Answer::Append(outcome) => Some(outcome),
            other => panic!("an append's answer, got {other:?}"),
        }
    }
}

pub fn key_of(body: &ClientRequestBody) -> Option<(IdempotencyKey, Option<LogIndex>)> {
    match body {
        ClientRequestBody::Append { key, payload, .. } => {
            assert_eq!(payload, b"+3");
            *key
        }
        other => panic!("an append, got {other:?}"),
    }
}

pub fn world() -> World {
    World::new(ClientSettings::default())
}
