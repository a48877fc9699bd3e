//! Nodes that move to another address, and what an operator does about it: the others are told, partition by partition.
//!
//! Until they are, those who dial the node don't find it, but it finds them. Who was down while a node joined does not know
//! it: it takes it in as a visitor, and learns from the log who that is. Two that moved at once find each other neither way, if
//! nobody can tell them: they need a placement that says where everybody is.

use std::collections::BTreeMap;

use clustor_engine::raft::{Configuration, MemberChange};
use clustor_engine::request::{MembersRequest, RequestBody};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{Incarnation, NodeId, PartitionId};
use rand::Rng;

use super::super::layout::Layout;
use super::super::marks::{JOINED, MOVED, Marks, PLACED, REPLACED, UNHEEDED};
use super::super::members;
use super::Run;
use crate::disk::Crash;

/// Between two rounds of an operator's, in microseconds.
const ROUND_US: u64 = 500_000;
/// How long after the last fault an operator waits before everybody gets a new placement, and another is asked to lead, in microseconds.
const PATIENCE_US: u64 = 15_000_000;

/// Who moves, and what was seen of members.
#[derive(Debug, Default)]
pub(super) struct Moves {
    moving: Option<NodeId>,
    /// Voters and the incarnations that they were named by.
    voters: BTreeMap<(PartitionId, PeerId), Incarnation>,
    /// No earlier than then the operator looks again.
    next_round_us: u64,
    placed: bool,
    pub marks: Marks,
}

impl Moves {
    /// Looks at the configuration of a partition.
    pub fn look(&mut self, id: PartitionId, configuration: &Configuration, layout: &Layout) {
        for voter in configuration.first() {
            let named = configuration.incarnation_of(*voter);
            match self.voters.insert((id, *voter), named) {
                None if layout.unlisted.contains(&voter.node) => self.marks.reach(JOINED),
                Some(before) if before != named && before != Incarnation::ZERO => {
                    self.marks.reach(REPLACED);
                }
                _ => {}
            }
        }
    }
}

impl Run {
    /// A node goes elsewhere, or the others are told where one is that went.
    pub(super) fn go_elsewhere(&mut self) {
        if self.moves.moving.is_some() {
            return self.tell_others();
        }
        let nodes = self.world.layout().nodes();
        let node = nodes[self.rng.random_range(0..nodes.len())];
        if self.world.node_runs(node) {
            self.moves.moving = Some(node);
            self.world.crash(node, Crash::Kill);
            self.world.relocate(node);
            let at = self.world.now_us() + self.rng.random_range(1_000..=100_000);
            self.world.boot_at(node, at);
        }
    }

    /// Tells each partition that does not know it yet where the node that moved listens.
    fn tell_others(&mut self) {
        let Some(node) = self.moves.moving else {
            return;
        };
        let mut untold = 0;
        for partition in self.world.layout().partitions.clone() {
            let Some(peer) = partition.replicas().into_iter().find(|r| r.node == node) else {
                continue;
            };
            let Some((leader, configuration)) = members::leader(&self.world, partition.id) else {
                untold += 1;
                continue;
            };
            let address = self.world.address(node);
            let said = configuration.address_of(peer).unwrap_or_default();
            let found = said == address || said.is_empty() && self.world.is_placed(node);
            if configuration.standing(peer).is_some() && !found {
                untold += 1;
                let change = MembersRequest::Change(MemberChange::Address { peer, address });
                self.world
                    .read(leader, partition.id, RequestBody::Members(change));
            }
        }
        if untold == 0 {
            self.moves.moving = None;
            self.moves.marks.reach(MOVED);
        }
    }

    /// What an operator does once there are no more faults, so that everybody finds and heeds everybody.
    pub(super) fn find_each_other(&mut self, calm_since_us: u64) {
        let now_us = self.world.now_us();
        if now_us < self.moves.next_round_us {
            return;
        }
        self.moves.next_round_us = now_us + ROUND_US;
        let is_patient = now_us < calm_since_us + PATIENCE_US;
        if !self.world.layout().unlisted.is_empty() || self.faults.moves.is_some() {
            self.tell_others();
            if !is_patient && !self.moves.placed {
                self.moves.placed = true;
                self.moves.marks.reach(PLACED);
                self.world.write_placements();
            }
        }
        if !is_patient {
            self.let_others_lead();
        }
    }

    /// Whoever was down while a voter got another disk knows it by the former one, and does not heed it as a leader: somebody
    /// leads whom it knows, until it has learnt better.
    fn let_others_lead(&mut self) {
        for partition in self.world.layout().partitions.clone() {
            let Some((leader, configuration)) = members::leader(&self.world, partition.id) else {
                continue;
            };
            let configuration = configuration.clone();
            let unheeding = configuration.members(leader).find_map(|member| {
                let theirs = self.world.host(member)?.partition(partition.id)?;
                let knows = |voter: PeerId| {
                    let known = theirs.configuration().incarnation_of(voter);
                    known == Incarnation::ZERO || known == configuration.incarnation_of(voter)
                };
                let mut others = configuration.first().iter().copied();
                let next = others.find(|voter| *voter != leader && knows(*voter))?;
                (!knows(leader)).then_some(next)
            });
            if unheeding.is_some() {
                self.moves.marks.reach(UNHEEDED);
                let change = MembersRequest::Transfer(unheeding);
                self.world
                    .read(leader, partition.id, RequestBody::Members(change));
            }
        }
    }

    /// A last look at everybody's members.
    pub(super) fn look_at_members(&mut self) {
        for partition in &self.world.layout().partitions {
            if let Some((_, configuration)) = members::leader(&self.world, partition.id) {
                self.moves
                    .look(partition.id, configuration, self.world.layout());
            }
        }
    }
}
