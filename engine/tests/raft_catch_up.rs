//! How many bytes behind a learner may be that is to vote, and a new voter when its joint configuration is left: both sides of
//! each bound, to the byte.

mod raft_support;

use std::sync::Arc;

use clustor_engine::raft::fitness::{
    CATCH_UP_BYTES, CATCH_UP_ENTRIES, JOINT_COMMITS, STRUCTURAL_LAG_BYTES,
};
use clustor_engine::raft::{Change, ChangeError, Limits, MemberChange, Timers};
use clustor_wire::message::RaftBody;
use raft_support::{Cluster, Packet, peer};

/// The cache of each node, in bytes: it holds everything.
const CACHE_BYTES: usize = 4 << 20;

/// A leader, three other voters, and a learner that has everything.
fn with_a_learner() -> Cluster {
    let mut cluster = Cluster::with_spares_and_cache(5, 4, CACHE_BYTES);
    cluster.elect(1);
    cluster.pass(60);
    let add = MemberChange::AddLearner {
        peer: peer(5),
        address: String::new(),
    };
    change(&mut cluster, &add).expect("a learner is added");
    cluster.pass(60);
    cluster
}

fn change(cluster: &mut Cluster, change: &MemberChange) -> Result<(), ChangeError> {
    cluster.turn(1, |replica, turn| {
        replica.change_members(turn, change).map(drop)
    })
}

fn promote(cluster: &mut Cluster) -> Result<(), ChangeError> {
    let promote = MemberChange::Voters {
        add: vec![peer(5)],
        remove: Vec::new(),
    };
    change(cluster, &promote)
}

fn is_append(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::Append { .. }))
}

/// Appends for 5 stay where they are.
fn for_5(packet: &Packet) -> bool {
    packet.to == 5 && is_append(packet)
}

/// More entries than one that has caught up may lack, which 5 does not get; and what they come to, in bytes of frames. It is
/// seen to lack them before the first of them is committed.
fn leave_5_behind(cluster: &mut Cluster) -> usize {
    for _ in 0..=CATCH_UP_ENTRIES {
        cluster.propose(1, b"not for everybody");
    }
    cluster.pass_but(200, is_append);
    cluster.pass_but(200, for_5);
    bytes_behind_5(cluster)
}

fn bytes_behind_5(cluster: &mut Cluster) -> usize {
    let status = cluster.status(1);
    assert_eq!(status.wal_committed, status.last_index);
    let follower = status.followers.iter().find(|f| f.peer == peer(5));
    let held = follower.expect("a follower").durable;
    assert!(status.last_index.get() - held.get() > CATCH_UP_ENTRIES);
    let bytes = cluster.turn(1, |replica, turn| {
        let slot = replica.cache_slot();
        turn.cache
            .bytes(slot, held.next(), status.last_index, usize::MAX)
    });
    bytes.expect("the cache holds all of them")
}

fn limit(cluster: &mut Cluster, catch_up: usize, structural_lag: usize) {
    let limits = Limits {
        catch_up_bytes_max: catch_up,
        structural_lag_bytes_max: structural_lag,
        ..Limits::default()
    };
    let now = cluster.now;
    let replica = &mut cluster.node(1).replica;
    replica.retune(now, Arc::new(Timers::LOCAL), Arc::new(limits));
}

#[test]
fn unless_said_otherwise_4_mib_are_caught_up_and_64_mib_are_far_behind() {
    let limits = Limits::default();
    assert_eq!(limits.catch_up_bytes_max, 4 << 20);
    assert_eq!(limits.structural_lag_bytes_max, 64 << 20);
    assert_eq!(CATCH_UP_BYTES, 4 << 20);
    assert_eq!(STRUCTURAL_LAG_BYTES, 64 << 20);
}

#[test]
fn a_learner_may_vote_that_lacks_as_many_bytes_as_it_may_and_not_one_more() {
    let mut cluster = with_a_learner();
    let bytes = leave_5_behind(&mut cluster);
    limit(&mut cluster, bytes - 1, bytes);
    let refused = promote(&mut cluster);
    assert!(
        matches!(refused, Err(ChangeError::Lags { .. })),
        "{refused:?}"
    );
    limit(&mut cluster, bytes, bytes);
    promote(&mut cluster).expect("it has caught up");
}

#[test]
fn a_joint_configuration_is_left_with_a_new_voter_as_many_bytes_behind_as_it_may_be_and_not_one_more()
 {
    let mut cluster = with_a_learner();
    promote(&mut cluster).expect("it has everything");
    limit(&mut cluster, 0, 0);
    leave_5_behind(&mut cluster);
    // All that has to be committed in it is, and nothing more is appended.
    cluster.pass_but(1_000, for_5);
    let bytes = bytes_behind_5(&mut cluster);
    assert!(cluster.status(1).wal_committed.get() > JOINT_COMMITS);
    limit(&mut cluster, 0, bytes - 1);
    cluster.pass_but(1_000, for_5);
    let held = cluster.status(1).change;
    assert!(matches!(held, Change::Joint { exit: None, .. }), "{held:?}");
    limit(&mut cluster, 0, bytes);
    cluster.pass_but(200, for_5);
    let status = cluster.status(1);
    assert_eq!(status.change, Change::None, "{status:?}");
    assert_eq!(status.configuration.first().len(), 5);
}
