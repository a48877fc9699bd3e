//! How long a leader waits for an answer before it sends again: twice the smoothed round trip, at least 100 ms and at most a
//! second, doubled once.

mod raft_support;

use clustor_engine::raft::Timers;
use clustor_wire::message::RaftBody;
use raft_support::{Cluster, Packet};

const MIN_MS: u64 = 100;
const MAX_MS: u64 = 1_000;

fn led() -> Cluster {
    let timers = Timers::LOCAL;
    assert_eq!(u64::from(timers.rpc_ms_min), MIN_MS);
    assert_eq!(u64::from(timers.rpc_ms_max), MAX_MS);
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    cluster
}

fn is_append_to_3(packet: &Packet) -> bool {
    packet.to == 3 && matches!(packet.say.body(), Some(RaftBody::Append { .. }))
}

fn is_word_on_the_log_of_3(packet: &Packet) -> bool {
    packet.from == 3
        && matches!(
            packet.say.body(),
            Some(RaftBody::AppendAccepted { .. } | RaftBody::DurabilityAck { .. })
        )
}

/// An entry whose answer from 3 takes so long.
fn answered_after(cluster: &mut Cluster, ms: u64) {
    cluster.propose(1, b"x");
    cluster.run_but(is_word_on_the_log_of_3);
    cluster.pass_but(ms, is_word_on_the_log_of_3);
    cluster.run();
}

/// Milliseconds between the first times that an entry is sent to 3, where none of it arrives.
fn waits(cluster: &mut Cluster, times: usize) -> Vec<u64> {
    cluster.propose(1, b"x");
    assert_eq!(cluster.take(is_append_to_3).len(), 1);
    let waits = (0..times).map(|_| {
        for ms in 1..=3 * MAX_MS {
            cluster.pass_but(1, is_append_to_3);
            if !cluster.take(is_append_to_3).is_empty() {
                return ms;
            }
        }
        panic!("never sent again");
    });
    let waits = waits.collect();
    cluster.pass(3 * MAX_MS);
    waits
}

#[test]
fn a_short_round_trip_is_taken_for_50_ms_and_the_wait_is_doubled_once() {
    let mut cluster = led();
    assert_eq!(waits(&mut cluster, 4), [100, 200, 200, 200]);
    // Once it has answered, nothing is doubled any more.
    assert_eq!(waits(&mut cluster, 2), [100, 200]);
}

#[test]
fn the_wait_is_twice_the_round_trip_and_a_second_at_most() {
    let mut cluster = led();
    // Answers that come too late are none: each step stays below what is waited for.
    for (round_trip, twice) in [
        (90, 180),
        (130, 260),
        (190, 380),
        (280, 560),
        (420, 840),
        (630, MAX_MS),
        (950, MAX_MS),
    ] {
        // Each answer counts for an eighth.
        for _ in 0..50 {
            answered_after(&mut cluster, round_trip);
        }
        let waited = waits(&mut cluster, 2);
        assert!(waited[0].abs_diff(twice) <= 2, "{round_trip}: {waited:?}");
        assert!(waited[1].abs_diff(2 * waited[0]) <= 2, "{waited:?}");
    }
}
