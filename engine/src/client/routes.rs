//! Which replica of a partition to ask: the placement's, one at a time, the leader as soon as somebody names it, and that
//! also where the placement does not list it.

use std::collections::BTreeMap;

use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, ShardId};
use clustor_wire::message::{PartitionStatus, Role};

use crate::security::Placement;

/// Replicas of a partition that the placement does not list, at most; a later one takes the place of the first.
const UNLISTED_MAX: usize = 4;

/// A partition's replicas and what is known of it.
#[derive(Debug)]
struct Route {
    /// The placement's, then those that were named as leaders.
    replicas: Vec<PeerId>,
    /// How many are the placement's.
    listed: usize,
    /// How many others were named.
    named: usize,
    /// Position of the replica to ask next.
    guess: usize,
    /// Whether it answered as a leader does.
    confirmed: bool,
    /// The newest index known to be durable on a quorum.
    committed: Option<LogIndex>,
}

/// The routes of all partitions.
#[derive(Debug)]
pub(super) struct Routes(BTreeMap<PartitionId, Route>);

impl Routes {
    pub fn new(placement: &Placement) -> Self {
        let routes = placement.partitions().iter().map(|(id, replicas)| {
            let route = Route {
                replicas: replicas.clone(),
                listed: replicas.len(),
                named: 0,
                guess: 0,
                confirmed: false,
                committed: None,
            };
            (*id, route)
        });
        Self(routes.collect())
    }

    pub fn knows(&self, partition: PartitionId) -> bool {
        self.0.contains_key(&partition)
    }

    /// The replica to ask: the guess, or the first after it that is not down. `None` if all are.
    pub fn choose(
        &mut self,
        partition: PartitionId,
        is_down: impl Fn(PeerId) -> bool,
    ) -> Option<PeerId> {
        let route = self.route(partition);
        for step in 0..route.replicas.len() {
            let at = (route.guess + step) % route.replicas.len();
            if !is_down(route.replicas[at]) {
                if step > 0 {
                    route.guess = at;
                    route.confirmed = false;
                }
                return Some(route.replicas[at]);
            }
        }
        None
    }

    pub fn replicas(&self, partition: PartitionId) -> &[PeerId] {
        &self.0[&partition].replicas
    }

    /// Takes up a replica that was named as the leader.
    pub fn take_up(&mut self, partition: PartitionId, replica: PeerId) {
        let route = self.route(partition);
        if route.replicas.contains(&replica) {
            return;
        }
        let place = route.listed + route.named % UNLISTED_MAX;
        route.named += 1;
        if place < route.replicas.len() {
            route.replicas[place] = replica;
        } else {
            route.replicas.push(replica);
        }
    }

    /// `from` does not lead. Returns whether the guess is now the replica on the node it named, and on that shard if it
    /// named one.
    pub fn not_leader(
        &mut self,
        partition: PartitionId,
        from: PeerId,
        leader: Option<NodeId>,
        shard: Option<ShardId>,
    ) -> bool {
        let route = self.route(partition);
        let is_named = |at: &PeerId, node| at.node == node && shard.is_none_or(|s| s == at.shard);
        let named = leader
            .filter(|node| *node != from.node)
            .and_then(|node| route.replicas.iter().position(|at| is_named(at, node)));
        if let Some(at) = named {
            route.guess = at;
            route.confirmed = false;
            return true;
        }
        self.avoid(partition, from);
        false
    }

    /// Asks another replica than `from` next, if that is the one that would be asked.
    pub fn avoid(&mut self, partition: PartitionId, from: PeerId) {
        let route = self.route(partition);
        if route.replicas[route.guess] == from {
            route.guess = (route.guess + 1) % route.replicas.len();
            route.confirmed = false;
        }
    }

    /// `from` answered as a leader does, and `index` is durable on a quorum.
    pub fn confirm(&mut self, partition: PartitionId, from: PeerId, index: LogIndex) {
        self.learn(partition, index);
        let route = self.route(partition);
        if let Some(at) = route.replicas.iter().position(|at| *at == from) {
            route.guess = at;
            route.confirmed = true;
        }
    }

    /// `index` is durable on a quorum.
    pub fn learn(&mut self, partition: PartitionId, index: LogIndex) {
        let route = self.route(partition);
        route.committed = route.committed.max(Some(index));
    }

    pub fn committed(&self, partition: PartitionId) -> Option<LogIndex> {
        self.0[&partition].committed
    }

    /// The known index is too old to be of use.
    pub fn forget_committed(&mut self, partition: PartitionId) {
        self.route(partition).committed = None;
    }

    /// What a shard says of its replica. What answers have shown about the leader is better known than this.
    pub fn heard(&mut self, from: PeerId, status: &PartitionStatus) {
        let Some(route) = self.0.get_mut(&status.partition) else {
            return;
        };
        if status.wal_committed > LogIndex::ZERO {
            route.committed = route.committed.max(Some(status.wal_committed));
        }
        if route.confirmed {
            return;
        }
        let named = match status.role {
            Role::Leader => Some(from.node),
            _ => status.leader,
        };
        let at = named.and_then(|node| route.replicas.iter().position(|at| at.node == node));
        route.guess = at.unwrap_or(route.guess);
    }

    fn route(&mut self, partition: PartitionId) -> &mut Route {
        self.0
            .get_mut(&partition)
            .expect("a question for an unknown partition is refused at once")
    }
}
