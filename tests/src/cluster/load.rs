//! Clients: each does one operation at a time, finds the leader, and retries as the contract allows.

use std::collections::BTreeMap;

use clustor_engine::outcome::{IdempotencyKey, Outcome, ReadLevel, Refusal, RefusalClause};
use clustor_engine::request::{Reply, RequestBody, Wait};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::machine::History;
use super::swarm::Load;
use super::world::World;

/// Attempts at one operation.
const ATTEMPTS_MAX: u32 = 40;
/// From a refusal to the next attempt, in microseconds.
const PAUSE_US: (u64, u64) = (500, 30_000);

/// What a client is doing.
#[derive(Debug, Clone)]
struct Doing {
    partition: PartitionId,
    /// `None` for a read.
    op: Option<u64>,
    level: ReadLevel,
    key: Option<(IdempotencyKey, Option<LogIndex>)>,
    wait: Wait,
    /// Only in this term.
    only_in: Option<Term>,
    payload_bytes: usize,
    /// What its command says to the machine.
    text: Vec<u8>,
    attempts: u32,
    /// The attempt that waits for an answer.
    ticket: Option<u64>,
    /// Whom a refusal named as the leader.
    to: Option<NodeId>,
    /// Who was asked last.
    asked: Option<NodeId>,
}

#[derive(Debug)]
struct Client {
    doing: Option<Doing>,
    /// Wakes of earlier attempts count for nothing.
    epoch: u64,
}

/// All clients of a run.
#[derive(Debug)]
pub struct Clients {
    load: Load,
    clients: Vec<Client>,
    /// Whose ticket it is.
    tickets: BTreeMap<u64, usize>,
    /// The highest committed index a client was told, by partition.
    known: BTreeMap<PartitionId, LogIndex>,
    /// Who led last, as far as a client was told, by partition.
    leaders: BTreeMap<PartitionId, NodeId>,
    /// The term of the last acknowledgement, by partition.
    terms: BTreeMap<PartitionId, Term>,
    ops: u64,
    rng: Xoshiro256PlusPlus,
    /// No new operations are begun.
    pub resting: bool,
    /// Nothing is asked any more.
    pub silent: bool,
}

/// The wake token of a client: its number and epoch.
fn token(client: usize, epoch: u64) -> u64 {
    epoch << 16 | client as u64
}

impl Clients {
    /// Clients that begin at once.
    pub fn new(world: &mut World, load: Load, seed: u64) -> Self {
        let mut clients = Self {
            load,
            clients: Vec::new(),
            tickets: BTreeMap::new(),
            known: BTreeMap::new(),
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            ops: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            resting: false,
            silent: false,
        };
        for client in 0..usize::try_from(load.clients).unwrap_or(1) {
            clients.clients.push(Client {
                doing: None,
                epoch: 0,
            });
            clients.rest(world, client, load.think_us_max);
        }
        clients
    }

    /// Wakes a client later; earlier wakes of it count for nothing.
    fn rest(&mut self, world: &mut World, client: usize, us_max: u64) {
        let at = world.now_us() + self.rng.random_range(1..=us_max.max(1));
        self.clients[client].epoch += 1;
        world.wake_at(at, token(client, self.clients[client].epoch));
    }

    /// A wake with this token: is it a client's?
    pub fn on_wake(&mut self, world: &mut World, woken: u64) {
        let client = (woken & 0xffff) as usize;
        let current = self
            .clients
            .get(client)
            .is_some_and(|c| token(client, c.epoch) == woken);
        if !current || self.silent {
            return;
        }
        match self.clients[client].doing.take() {
            None if self.resting => {}
            None => self.begin(world, client),
            Some(mut doing) => {
                let waited = doing.ticket.take().is_some();
                if waited {
                    // Nobody answered in time. An append without a key is given up: a retry might execute twice.
                    doing.to = None;
                    self.leaders.remove(&doing.partition);
                    let hopeless = doing.op.is_some() && doing.key.is_none();
                    if hopeless || doing.attempts >= ATTEMPTS_MAX {
                        return self.finish(world, client);
                    }
                }
                self.attempt(world, client, doing);
            }
        }
    }

    fn finish(&mut self, world: &mut World, client: usize) {
        self.clients[client].doing = None;
        self.rest(world, client, self.load.think_us_max);
    }

    fn begin(&mut self, world: &mut World, client: usize) {
        let partitions = &world.layout().partitions;
        let partition = partitions[self.rng.random_range(0..partitions.len())].id;
        let is_read = self.rng.random_range(0..100) < self.load.reads;
        let op = (!is_read).then(|| {
            self.ops += 1;
            self.ops
        });
        let keyed = self.rng.random_range(0..100) < self.load.keyed;
        let key = op.filter(|_| keyed).map(|op| {
            // What it knows is old, or nothing.
            let known = self.known.get(&partition).copied();
            let known = known.filter(|_| self.rng.random_bool(0.8));
            (IdempotencyKey(u128::from(op) << 32 | 77), known)
        });
        let level = self.draw_level();
        let wait = if key.is_none() && self.rng.random_bool(0.2) {
            Wait::Committed
        } else {
            Wait::Applied
        };
        // A fence is the term of the last acknowledgement, which may be over.
        let term = self.terms.get(&partition).copied();
        let only_in = term.filter(|_| op.is_some() && self.rng.random_bool(0.2));
        let text = self.draw_text(world, op);
        let doing = Doing {
            text,
            partition,
            op,
            level,
            key,
            wait,
            only_in,
            payload_bytes: self
                .rng
                .random_range(8..=self.load.payload_bytes_max.max(8)),
            attempts: 0,
            ticket: None,
            to: None,
            asked: None,
        };
        self.attempt(world, client, doing);
    }

    /// Effects that are deferred, a timer that is set or cancelled, or nothing.
    fn draw_text(&mut self, world: &World, op: Option<u64>) -> Vec<u8> {
        if let (Some(guest), Some(op)) = (&world.layout().guest, op) {
            return guest.command(op, &mut self.rng);
        }
        if self.load.deferred > 0 && self.rng.random_range(0..100) < self.load.deferred {
            return format!("defer {}", self.rng.random_range(1..=3)).into_bytes();
        }
        if self.load.timers == 0 || self.rng.random_range(0..100) >= self.load.timers {
            return Vec::new();
        }
        let name = self.rng.random_range(0..6);
        let text = match self.rng.random_range(0..4) {
            0 => format!("cancel {name}"),
            1 => format!("timer {name} {}", self.rng.random_range(0..5)),
            _ => format!("timer {name} {}", self.rng.random_range(0..1_500)),
        };
        text.into_bytes()
    }

    fn draw_level(&mut self) -> ReadLevel {
        let Load {
            lease_reads,
            local_reads,
            ..
        } = self.load;
        if lease_reads + local_reads == 0 {
            return ReadLevel::Linearizable;
        }
        match self.rng.random_range(0..100) {
            drawn if drawn < lease_reads => ReadLevel::Lease,
            drawn if drawn < lease_reads + local_reads => ReadLevel::Local,
            _ => ReadLevel::Linearizable,
        }
    }

    fn attempt(&mut self, world: &mut World, client: usize, mut doing: Doing) {
        let Some(to) = self.choose(world, &doing) else {
            return self.finish(world, client);
        };
        doing.attempts += 1;
        doing.asked = Some(to.node);
        let ticket = match doing.op {
            None => {
                let body = RequestBody::Read {
                    level: doing.level,
                    read: History::reader(),
                };
                world.read(to, doing.partition, body)
            }
            Some(op) => {
                let mut payload = op.to_le_bytes().to_vec();
                payload.extend_from_slice(&doing.text);
                if world.layout().guest.is_none() {
                    let bytes = doing.payload_bytes.max(payload.len());
                    payload.resize(bytes, b' ');
                }
                let body = RequestBody::Append {
                    payload,
                    key: doing.key,
                    wait: doing.wait,
                    only_in: doing.only_in,
                };
                world.append(to, doing.partition, op, body)
            }
        };
        doing.ticket = Some(ticket);
        self.tickets.insert(ticket, client);
        self.clients[client].doing = Some(doing);
        self.rest(world, client, self.load.patience_us_max);
    }

    /// The voter that is believed to lead, or any.
    fn choose(&mut self, world: &World, doing: &Doing) -> Option<PeerId> {
        if self.load.strays > 0 && self.rng.random_range(0..1000) < self.load.strays {
            let shards = &world.layout().shards;
            return Some(shards[self.rng.random_range(0..shards.len())]);
        }
        let voters = world.layout().partition(doing.partition)?.replicas();
        let recalls = self.load.recalls;
        let recalled = doing.to.is_none()
            && self.leaders.contains_key(&doing.partition)
            && recalls > 0
            && self.rng.random_range(0..100) < recalls;
        let recalled = recalled.then(|| self.leaders[&doing.partition]);
        let hinted = doing
            .to
            .or(recalled)
            .and_then(|node| voters.iter().find(|voter| voter.node == node));
        Some(*hinted.unwrap_or(&voters[self.rng.random_range(0..voters.len())]))
    }

    /// An answer, which was found to hold.
    pub fn on_reply(&mut self, world: &mut World, reply: &Reply) {
        let Some(client) = reply
            .ticket()
            .and_then(|ticket| self.tickets.remove(&ticket))
        else {
            return;
        };
        let waits = self.clients[client].doing.as_ref().and_then(|d| d.ticket);
        if waits != reply.ticket() {
            return;
        }
        let Some(mut doing) = self.clients[client].doing.take() else {
            return;
        };
        doing.ticket = None;
        self.learn_leader(&doing, reply);
        match reply {
            Reply::Append {
                outcome:
                    Outcome::Applied {
                        term,
                        index,
                        duplicate,
                        ..
                    },
                ..
            } => {
                if !duplicate {
                    self.terms.insert(doing.partition, *term);
                }
                self.learn(doing.partition, index.prev());
                self.finish(world, client);
            }
            Reply::Append {
                outcome: Outcome::Unknown { .. },
                ..
            } if doing.key.is_none() => self.finish(world, client),
            Reply::Append {
                outcome: Outcome::NotExecuted { refusal },
                ..
            }
            | Reply::Read {
                found: Err(refusal),
                ..
            } => self.refused(world, client, doing, refusal),
            Reply::Append { .. } => self.again(world, client, doing),
            _ => self.finish(world, client),
        }
    }

    /// Who served leads, unless anybody may; who does not lead may say who does.
    fn learn_leader(&mut self, doing: &Doing, reply: &Reply) {
        let leader = match reply {
            Reply::Append {
                outcome: Outcome::Applied { .. },
                ..
            } => doing.asked,
            Reply::Read { found: Ok(_), .. } if doing.level != ReadLevel::Local => doing.asked,
            Reply::Append {
                outcome: Outcome::NotExecuted { refusal },
                ..
            }
            | Reply::Read {
                found: Err(refusal),
                ..
            } if refusal.clause == RefusalClause::NotLeader => refusal.leader,
            _ => return,
        };
        match leader {
            Some(leader) => self.leaders.insert(doing.partition, leader),
            None => self.leaders.remove(&doing.partition),
        };
    }

    fn learn(&mut self, partition: PartitionId, index: LogIndex) {
        let known = self.known.entry(partition).or_default();
        *known = (*known).max(index);
    }

    fn refused(&mut self, world: &mut World, client: usize, mut doing: Doing, refusal: &Refusal) {
        match (refusal.clause, refusal.wal_committed, &mut doing.key) {
            (RefusalClause::IndexNeeded, Some(index), Some((_, known))) => {
                *known = Some(index);
                self.learn(doing.partition, index);
            }
            (
                RefusalClause::KeyExpired
                | RefusalClause::TooLarge
                | RefusalClause::TermChanged
                | RefusalClause::Rejected,
                ..,
            ) => {
                return self.finish(world, client);
            }
            _ => doing.to = refusal.leader,
        }
        self.again(world, client, doing);
    }

    fn again(&mut self, world: &mut World, client: usize, doing: Doing) {
        if doing.attempts >= ATTEMPTS_MAX {
            return self.finish(world, client);
        }
        self.clients[client].doing = Some(doing);
        let pause = self.rng.random_range(PAUSE_US.0..=PAUSE_US.1);
        self.rest(world, client, pause);
    }
}
