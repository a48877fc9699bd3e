//! A write and then a read, tried until a partition serves them.

use clustor_engine::outcome::{Outcome, ReadLevel, RefusalClause};
use clustor_engine::request::{Reply, RequestBody, Wait};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::NodeId;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::super::layout::PartitionLayout;
use super::super::machine::History;
use super::super::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Write,
    Read,
    Done,
}

/// A write and then a read in one partition, tried until they succeed.
pub(super) struct Probe {
    pub(super) partition: PartitionLayout,
    pub(super) replicas: Vec<PeerId>,
    op: u64,
    pub(super) stage: Stage,
    ticket: Option<u64>,
    /// Tries before it that may still be served: on a slow disk they wait behind each other for longer than a try is given.
    earlier: Vec<u64>,
    next_us: u64,
    at: usize,
}

/// What a probe needs of a reply.
pub(super) struct Heard {
    ticket: u64,
    served: bool,
    leader: Option<NodeId>,
}

impl Heard {
    pub(super) fn of(_: PeerId, reply: &Reply) -> Option<Self> {
        let ticket = reply.ticket()?;
        let (served, refusal) = match reply {
            Reply::Append {
                outcome: Outcome::Applied { .. },
                ..
            }
            | Reply::Read { found: Ok(_), .. } => (true, None),
            Reply::Append {
                outcome: Outcome::NotExecuted { refusal },
                ..
            }
            | Reply::Read {
                found: Err(refusal),
                ..
            } => (false, Some(refusal)),
            _ => (false, None),
        };
        let leader = refusal
            .filter(|refusal| refusal.clause == RefusalClause::NotLeader)
            .and_then(|refusal| refusal.leader);
        Some(Self {
            ticket,
            served,
            leader,
        })
    }
}

impl Probe {
    /// The probe of a partition, first tried at `now_us` with operation `op`.
    pub(super) fn new(partition: &PartitionLayout, op: u64, now_us: u64) -> Self {
        Self {
            replicas: partition.replicas(),
            partition: partition.clone(),
            op,
            stage: Stage::Write,
            ticket: None,
            earlier: Vec::new(),
            next_us: now_us,
            at: 0,
        }
    }

    pub(super) fn ask(&mut self, world: &mut World, rng: &mut Xoshiro256PlusPlus) {
        if self.stage == Stage::Done || world.now_us() < self.next_us {
            return;
        }
        // Many partitions that share a slow disk are given the time that they need.
        let partitions = world.layout().partitions.len() as u64;
        self.next_us = world.now_us() + (50_000 * partitions).max(300_000);
        let to = self.replicas[self.at % self.replicas.len()];
        self.at += 1;
        let ticket = match self.stage {
            Stage::Write => {
                // Each try is an operation of its own: an append without a key is never retried.
                self.op += 1 << 10;
                let mut payload = self.op.to_le_bytes().to_vec();
                if let Some(guest) = &world.layout().guest {
                    payload.extend(guest.command(self.op, rng));
                }
                let body = RequestBody::Append {
                    payload,
                    key: None,
                    wait: Wait::Applied,
                    only_in: None,
                };
                world.append(to, self.partition.id, self.op, body)
            }
            _ => world.read(
                to,
                self.partition.id,
                RequestBody::Read {
                    level: ReadLevel::Linearizable,
                    read: History::reader(),
                },
            ),
        };
        self.earlier.extend(self.ticket.replace(ticket));
    }

    pub(super) fn hear(&mut self, heard: &Heard, now_us: u64) {
        let was_earlier = heard.served && self.earlier.contains(&heard.ticket);
        if self.ticket != Some(heard.ticket) && !was_earlier {
            return;
        }
        self.ticket = None;
        self.next_us = now_us + 10_000;
        if heard.served {
            self.earlier.clear();
            self.stage = match self.stage {
                Stage::Write => Stage::Read,
                _ => Stage::Done,
            };
            // The same shard serves the read.
            self.at += self.replicas.len() - 1;
        } else if let Some(leader) = heard.leader {
            let place = self.replicas.iter().position(|v| v.node == leader);
            self.at = place.unwrap_or(self.at);
        }
    }
}
