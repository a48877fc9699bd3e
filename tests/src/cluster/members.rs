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
        .filter(|(_, partition)| partition.glance().role == Role::Leader)
        .max_by_key(|(_, partition)| partition.glance().term)
        .map(|(shard, partition)| (shard, partition.configuration()))
}

fn pick(rng: &mut Xoshiro256PlusPlus, from: &[PeerId]) -> Option<PeerId> {
    (!from.is_empty()).then(|| from[rng.random_range(0..from.len())])
}

/// What is asked; `None` if what was drawn makes no sense here. Where one node's disk may fail, no voters depend on it; who
/// only replaces it does nothing else meanwhile.
pub(super) fn draw(
    rng: &mut Xoshiro256PlusPlus,
    world: &World,
    partition: &PartitionLayout,
    configuration: &Configuration,
    fragile: Option<NodeId>,
    only_replaces: bool,
) -> Option<MembersRequest> {
    if only_replaces {
        return replace(world, partition, configuration, fragile).map(MembersRequest::Change);
    }
    if rng.random_bool(0.5)
        && let Some(change) = replace(world, partition, configuration, fragile)
    {
        return Some(MembersRequest::Change(change));
    }
    let of = |standing| {
        let replicas = partition.replicas().into_iter();
        let of: Vec<PeerId> = replicas
            .filter(|peer| configuration.standing(*peer) == standing)
            .collect();
        of
    };
    let (strangers, learners) = (of(None), of(Some(Standing::Learner)));
    let voters = configuration.first();
    // Needed for those whom placements do not name, allowed for all.
    let needed = rng.random_bool(0.3);
    let address = |peer: PeerId| {
        if needed || !world.is_placed(peer.node) {
            world.address(peer.node)
        } else {
            String::new()
        }
    };
    let change = match rng.random_range(0..12) {
        0..=3 => {
            let peer = pick(rng, &strangers)?;
            let address = address(peer);
            MemberChange::AddLearner { peer, address }
        }
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
            0 => {
                let peer = pick(rng, &strangers)?;
                let address = address(peer);
                MemberChange::AddObserver { peer, address }
            }
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

/// The next step to give the place of a voter whose disk is gone to the replica on its new one: out, in as a learner, promoted.
fn replace(
    world: &World,
    partition: &PartitionLayout,
    configuration: &Configuration,
    fragile: Option<NodeId>,
) -> Option<MemberChange> {
    let peer = *partition.voters.iter().find(|v| Some(v.node) == fragile)?;
    let host = world.host(peer)?;
    let voters = configuration.first();
    match configuration.standing(peer) {
        Some(Standing::Voter) => {
            let named = configuration.incarnation_of(peer);
            let other = host.is_left_out(partition.id) || host.is_other_than(partition.id, named);
            other.then(|| voters_change(voters, Vec::new(), vec![peer], fragile))?
        }
        Some(Standing::Learner) => voters_change(voters, vec![peer], Vec::new(), fragile),
        Some(Standing::Observer) => None,
        None => Some(MemberChange::AddLearner {
            peer,
            address: String::new(),
        }),
    }
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
