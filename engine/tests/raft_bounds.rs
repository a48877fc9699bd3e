//! By which bounds elections of a partition go: its leader's.

mod raft_support;

use std::sync::Arc;

use clustor_engine::profile::{Allowed, Profile};
use clustor_engine::raft::bounds::ELECTION_MS_MAX;
use clustor_engine::raft::{Limits, Timers};
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{ElectionBounds, Heartbeat, PeerBatch, RaftBody};
use raft_support::node::received;
use raft_support::{Cluster, PARTITION, Packet, Say};

const SLOW: ElectionBounds = ElectionBounds {
    election_ms_min: 1_500,
    election_ms_max: 3_000,
    heartbeat_ms: 400,
};

fn led() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    cluster
}

/// Node 2 hears a heartbeat of node 1 that states these bounds.
fn state(cluster: &mut Cluster, bounds: ElectionBounds) {
    let heartbeat = Heartbeat {
        partition: PARTITION,
        term: cluster.status(1).term,
        wal_committed: LogIndex::ZERO,
        round: 1,
    };
    let batch = PeerBatch {
        heartbeats: vec![heartbeat],
        bounds: Some(bounds),
        ..PeerBatch::default()
    };
    let (from, batch) = received(1, &batch);
    cluster.turn(2, |replica, turn| {
        replica.on_heartbeat(turn, from, &batch.heartbeats[0], batch.bounds);
    });
}

fn retune(cluster: &mut Cluster, number: usize, bounds: ElectionBounds) {
    let timers = Timers {
        election_ms_min: bounds.election_ms_min,
        election_ms_max: bounds.election_ms_max,
        election_backoff_ms_max: bounds.election_ms_max,
        heartbeat_ms: bounds.heartbeat_ms,
        ..Timers::LOCAL
    };
    cluster.turn(number, |replica, turn| {
        replica.retune(turn.now, Arc::new(timers), Arc::new(Limits::default()));
    });
}

fn is_beat_to_2(packet: &Packet) -> bool {
    packet.to == 2 && matches!(packet.say, Say::Heartbeat(_))
}

#[test]
fn a_follower_waits_for_as_long_as_its_leader_states() {
    let mut cluster = led();
    state(&mut cluster, SLOW);
    let now = cluster.now;
    let replica = &cluster.node(2).replica;
    assert_eq!(replica.bounds(), SLOW);
    let due = replica.next_deadline().expect("it waits for its leader");
    let wait_us = due.since_us(now);
    assert!((1_500_000..=3_000_000).contains(&wait_us), "{wait_us}");
}

#[test]
fn bounds_that_no_profile_may_set_are_not_heeded() {
    let wrong = [
        ElectionBounds {
            heartbeat_ms: 0,
            ..SLOW
        },
        ElectionBounds {
            heartbeat_ms: 1_500,
            ..SLOW
        },
        ElectionBounds {
            election_ms_min: 3_001,
            ..SLOW
        },
        ElectionBounds {
            election_ms_max: ELECTION_MS_MAX + 1,
            ..SLOW
        },
    ];
    let mut cluster = led();
    for bounds in wrong {
        state(&mut cluster, bounds);
        assert_eq!(cluster.node(2).replica.bounds(), Timers::LOCAL.bounds());
    }
}

#[test]
fn the_longest_timeout_that_is_heeded_is_the_longest_that_a_profile_may_set() {
    let knob = Profile::knob("election_ms_max").expect("it is one");
    let Allowed::Number { max, .. } = knob.allowed else {
        panic!("it is a number");
    };
    assert_eq!(max, u64::from(ELECTION_MS_MAX));
}

#[test]
fn who_follows_goes_on_with_its_leaders_bounds_when_its_own_are_turned() {
    let mut cluster = led();
    state(&mut cluster, SLOW);
    retune(&mut cluster, 2, Timers::LOCAL.bounds());
    assert_eq!(cluster.node(2).replica.bounds(), SLOW);
}

#[test]
fn a_leader_keeps_its_pace_until_a_majority_has_answered_under_its_new_bounds() {
    let mut cluster = led();
    retune(&mut cluster, 1, SLOW);
    let is_lost = |packet: &Packet| {
        let asks = matches!(packet.say.body(), Some(RaftBody::PreVote { .. }));
        asks || matches!(packet.say, Say::Heartbeat(_))
    };
    assert_eq!(cluster.take(is_lost).len(), 2, "at once, to both");
    cluster.pass_but(200, is_lost);
    let beats = cluster.take(is_lost);
    let beats = beats.iter().filter(|packet| is_beat_to_2(packet));
    assert_eq!(beats.count(), 4, "every 50 ms, as before");
    // The followers of this cluster are told of no bounds: whether they wait for so long is not what this is about.
    let asks = |packet: &Packet| matches!(packet.say.body(), Some(RaftBody::PreVote { .. }));
    // One is answered, and the next was due by then.
    cluster.pass_but(100, asks);
    let mut beats = 0;
    cluster.pass_but(2_000, |packet| {
        beats += u32::from(is_beat_to_2(packet));
        asks(packet)
    });
    assert_eq!(beats, 5, "every 400 ms");
}
