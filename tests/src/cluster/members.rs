//! Changes of members as a fault: which one, drawn from what the leader's configuration allows.

use clustor_engine::raft::configuration::Standing;
use clustor_engine::raft::{Configuration, MemberChange};
use clustor_engine::request::MembersRequest;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId};
use clustor_wire::message::Role;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::layout::PartitionLayout;
use super::world::World;

/// Who leads a partition in the greatest term, and its configuration.
pub(crate) fn leader(world: &World, id: PartitionId) -> Option<(PeerId, &Configuration)> {
    world
        .hosts()
        .filter_map(|host| Some((host.id, host.partition(id)?)))
        .filter(|(_, partition)| partition.status().role == Role::Leader)
        .max_by_key(|(_, partition)| partition.status().term)
        .map(|(shard, partition)| (shard, partition.configuration()))
}

fn pick(rng: &mut Xoshiro256PlusPlus, from: &[PeerId]) -> Option<PeerId> {
    (!from.is_empty()).then(|| from[rng.random_range(0..from.len())])
}

/// What is asked; `None` if what was drawn makes no sense here. Where one node's disk may fail, no voters depend on it.
pub(super) fn draw(
    rng: &mut Xoshiro256PlusPlus,
    partition: &PartitionLayout,
    configuration: &Configuration,
    fragile: Option<NodeId>,
) -> Option<MembersRequest> {
    let of = |standing| {
        let replicas = partition.replicas().into_iter();
        let of: Vec<PeerId> = replicas
            .filter(|peer| configuration.standing(*peer) == standing)
            .collect();
        of
    };
    let (strangers, learners) = (of(None), of(Some(Standing::Learner)));
    let voters = configuration.first();
    let change = match rng.random_range(0..12) {
        0..=3 => MemberChange::AddLearner {
            peer: pick(rng, &strangers)?,
            address: String::new(),
        },
        4..=6 => {
            let add = learners;
            let remove: Vec<PeerId> = if rng.random_bool(0.5) {
                pick(rng, voters).into_iter().collect()
            } else {
                Vec::new()
            };
            voters_change(voters, add, remove, fragile)?
        }
        7 | 8 => voters_change(voters, Vec::new(), vec![pick(rng, voters)?], fragile)?,
        9 => match rng.random_range(0..3) {
            0 => MemberChange::AddObserver {
                peer: pick(rng, &strangers)?,
                address: String::new(),
            },
            _ => {
                let mut silent = learners;
                silent.extend(of(Some(Standing::Observer)));
                MemberChange::RemoveSilent(pick(rng, &silent)?)
            }
        },
        10 => MemberChange::RollBack,
        _ => {
            let to = rng.random_bool(0.7).then(|| pick(rng, voters)).flatten();
            return Some(MembersRequest::Transfer(to));
        }
    };
    Some(MembersRequest::Change(change))
}

fn voters_change(
    voters: &[PeerId],
    add: Vec<PeerId>,
    remove: Vec<PeerId>,
    fragile: Option<NodeId>,
) -> Option<MemberChange> {
    let after = voters.iter().filter(|p| !remove.contains(p)).chain(&add);
    let after: Vec<NodeId> = after.map(|peer| peer.node).collect();
    let sound = fragile.is_none_or(|node| !after.contains(&node) || after.len() > 2);
    let changes = !add.is_empty() || !remove.is_empty();
    let possible = changes && !after.is_empty();
    (sound && possible).then_some(MemberChange::Voters { add, remove })
}
