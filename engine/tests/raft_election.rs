//! Elections: who may lead, who may be disturbed, what must be durable before it is said.

mod raft_support;

use clustor_engine::raft::Leadership;
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RaftMessage, Role};
use raft_support::{Cluster, PARTITION, Packet, Say};

fn is_vote(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::Vote { .. }))
}

fn is_vote_response(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::VoteResponse { .. }))
}

fn vote_request(from: usize, to: usize, term: Term, transfer: bool) -> Packet {
    Packet {
        from,
        to,
        say: Say::Message(RaftMessage {
            partition: PARTITION,
            term,
            body: RaftBody::Vote {
                last_index: LogIndex(1000),
                last_term: term.prev(),
                transfer,
            },
        }),
    }
}

#[test]
fn a_sole_voter_leads_without_waiting_for_a_timeout() {
    let mut cluster = Cluster::new(1);
    cluster.pass(1);
    assert_eq!(cluster.status(1).role, Role::Leader);
    let position = cluster.write(1, &[b"a", b"b"]);
    assert_eq!(cluster.status(1).wal_committed, position.index);
    assert_eq!(cluster.nodes[0].applied, position.index);
}

#[test]
fn three_nodes_elect_one_leader_and_all_follow_it() {
    let mut cluster = Cluster::new(3);
    cluster.pass(1000);
    let leader = cluster.leader().expect("somebody leads");
    let term = cluster.status(leader).term;
    for number in 1..=3 {
        let status = cluster.status(number);
        assert_eq!(status.term, term);
        assert_eq!(status.leader, Some(raft_support::peer(leader)));
        assert_eq!(
            status.wal_committed,
            LogIndex(1),
            "the empty entry is committed"
        );
    }
}

#[test]
fn own_candidacy_is_durable_before_votes_are_asked_for() {
    let mut cluster = Cluster::new(3);
    let candidate = cluster.first_due();
    cluster.node(candidate).stalled = true;
    cluster.time_out(candidate);
    cluster.run_but(is_vote);
    assert_eq!(cluster.status(candidate).role, Role::Candidate);
    assert!(!cluster.status(candidate).hard_state_durable);
    assert!(cluster.take(is_vote).is_empty(), "nothing was asked yet");

    cluster.node(candidate).stalled = false;
    cluster.run_but(is_vote);
    assert!(cluster.status(candidate).hard_state_durable);
    assert_eq!(cluster.take(is_vote).len(), 2);
}

#[test]
fn vote_is_durable_before_it_is_sent() {
    let mut cluster = Cluster::new(3);
    let candidate = cluster.first_due();
    let voter = candidate % 3 + 1;
    cluster.time_out(candidate);
    cluster.run_but(is_vote);
    cluster.node(voter).stalled = true;
    for packet in cluster.take(|p| is_vote(p) && p.to == voter) {
        cluster.deliver(packet);
    }
    cluster.run_but(|p| is_vote(p) || is_vote_response(p));
    assert_eq!(
        cluster.status(voter).vote,
        Some(raft_support::peer(candidate).node)
    );
    assert!(cluster.take(is_vote_response).is_empty());

    cluster.node(voter).stalled = false;
    cluster.run_but(|p| is_vote(p) || is_vote_response(p));
    assert_eq!(cluster.take(is_vote_response).len(), 1);
}

#[test]
fn a_vote_survives_a_restart_and_is_not_given_twice() {
    let mut cluster = Cluster::new(3);
    let candidate = cluster.first_due();
    let voter = candidate % 3 + 1;
    let other = voter % 3 + 1;
    cluster.time_out(candidate);
    cluster.run_but(|p| p.to == other);
    let term = cluster.status(voter).term;
    let vote = Some(raft_support::peer(candidate).node);
    assert_eq!(cluster.status(voter).vote, vote);
    cluster.crash(voter);
    cluster.crash(candidate);
    cluster.restart(voter);
    cluster.now = cluster.now.plus_ms(150);
    cluster.net.clear();
    cluster.deliver(vote_request(other, voter, term, false));
    cluster.run_but(is_vote_response);
    let answers = cluster.take(is_vote_response);
    assert_eq!(answers.len(), 1);
    assert_eq!(
        answers[0].say.body(),
        Some(&RaftBody::VoteResponse { granted: false })
    );
    assert_eq!(cluster.status(voter).vote, vote);
}

#[test]
fn a_split_vote_is_settled_by_another_election() {
    let mut cluster = Cluster::new(4);
    // 1 and 2 win their pre-votes together, then each gets one vote besides its own.
    let due = (1..=2)
        .filter_map(|n| cluster.node(n).replica.next_deadline())
        .max()
        .expect("deadlines");
    cluster.now = due;
    for number in 1..=2 {
        cluster.turn(number, |_, _| {});
    }
    cluster.run_but(is_vote);
    assert_eq!(cluster.status(1).role, Role::Candidate);
    assert_eq!(cluster.status(2).role, Role::Candidate);
    for packet in cluster.take(is_vote) {
        if (packet.from, packet.to) != (1, 4) && (packet.from, packet.to) != (2, 3) {
            cluster.deliver(packet);
        }
    }
    cluster.run();
    assert_eq!(cluster.leader(), None, "two votes of four are no majority");
    cluster.pass(5000);
    let leader = cluster.leader().expect("settled");
    assert!(cluster.status(leader).term > Term(1));
}

#[test]
fn a_node_that_comes_back_from_a_partition_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(3);
    cluster.pass(3000);
    let term = cluster.status(1).term;
    assert_eq!(cluster.status(3).term, term, "a pre-vote changes no term");
    cluster.heal();
    cluster.pass(1000);
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(cluster.status(1).term, term);
    assert_eq!(cluster.status(3).leader, Some(raft_support::peer(1)));
}

#[test]
fn who_hears_a_live_leader_ignores_requests_for_votes() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(200);
    let before = cluster.status(2);
    for to in [1, 2] {
        cluster.deliver(vote_request(3, to, before.term.next(), false));
    }
    assert!(cluster.take(is_vote_response).is_empty());
    assert_eq!(cluster.status(2).term, before.term);
    assert_eq!(cluster.leader(), Some(1));

    // Asked for by the leader, the request passes.
    cluster.deliver(vote_request(3, 2, before.term.next(), true));
    assert_eq!(cluster.status(2).term, before.term.next());
}

#[test]
fn what_was_promised_to_a_leader_outlives_the_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(200);
    let later = Term(cluster.status(2).term.get() + 8);
    cluster.isolate(1);
    // A late answer to a question of its own: there is a newer term, and whoever leads has no more to say in it.
    cluster.deliver(Packet {
        from: 3,
        to: 2,
        say: Say::Message(RaftMessage {
            partition: PARTITION,
            term: later,
            body: RaftBody::PreVoteResponse {
                granted: false,
                high_rtt: false,
            },
        }),
    });
    assert_eq!(cluster.status(2).term, later);
    assert_eq!(cluster.status(2).leader, None);
    for term in [later, later.next()] {
        cluster.deliver(vote_request(3, 2, term, false));
        assert_eq!(cluster.status(2).vote, None, "the leader may hold a lease");
    }
    cluster.now = cluster.now.plus_ms(150);
    cluster.deliver(vote_request(3, 2, later, false));
    assert_eq!(cluster.status(2).vote, Some(raft_support::peer(3).node));
}

#[test]
fn a_restarted_voter_is_silent_for_a_minimum_election_timeout() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(2);
    cluster.isolate(1);
    cluster.restart(2);
    let term = cluster.status(2).term;
    for transfer in [false, true] {
        cluster.deliver(vote_request(3, 2, term.next(), transfer));
    }
    cluster.deliver(Packet {
        from: 3,
        to: 2,
        say: Say::Message(RaftMessage {
            partition: PARTITION,
            term: term.next(),
            body: RaftBody::PreVote {
                last_index: LogIndex(1000),
                last_term: term,
            },
        }),
    });
    cluster.run_but(|p| p.from == 2);
    assert!(
        cluster.take(|p| p.from == 2).is_empty(),
        "it answers nothing"
    );
    assert_eq!(cluster.status(2).term, term);

    cluster.now = cluster.now.plus_ms(150);
    cluster.deliver(vote_request(3, 2, term.next(), false));
    cluster.run_but(is_vote_response);
    assert_eq!(cluster.take(is_vote_response).len(), 1);
    assert_eq!(cluster.status(2).vote, Some(raft_support::peer(3).node));
}

#[test]
fn a_leader_that_hears_no_quorum_steps_down_and_says_so() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(100);
    cluster.isolate(1);
    cluster.node(1).leadership.clear();
    cluster.pass(240);
    assert_eq!(cluster.status(1).role, Role::Leader);
    cluster.pass(120);
    assert_ne!(cluster.status(1).role, Role::Leader);
    assert!(
        cluster
            .node(1)
            .leadership
            .iter()
            .any(|change| change.change == Leadership::Lost)
    );
}

#[test]
fn an_answer_of_a_greater_term_deposes_a_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let term = cluster.status(1).term;
    cluster.deliver(vote_request(3, 2, term.next(), true));
    assert_eq!(cluster.status(2).term, term.next());
    cluster.pass(100);
    assert!(
        cluster.status(1).term > term,
        "node 2 answered a heartbeat with its term"
    );
}

#[test]
fn failed_elections_widen_the_window_up_to_two_seconds() {
    let mut cluster = Cluster::new(3);
    for number in 1..=3 {
        cluster.isolate(number);
    }
    let mut waits = Vec::new();
    for _ in 0..12 {
        cluster.time_out(1);
        let due = cluster.node(1).replica.next_deadline().expect("a deadline");
        waits.push(due.since_us(cluster.now) / 1000);
    }
    assert!((150..=300).contains(&waits[0]), "{waits:?}");
    for (failures, wait) in waits.iter().enumerate() {
        let window = (0..failures).fold(300u64, |w, _| (w + w / 2).min(2000));
        assert!((window / 2..=window).contains(wait), "{waits:?}");
    }
    assert!(*waits.last().expect("some") >= 1000);
}

fn is_heartbeat(packet: &Packet) -> bool {
    matches!(packet.say, Say::Heartbeat(..))
}

fn is_pre_vote_response(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::PreVoteResponse { .. }))
}

/// Whether an answer to a pre-vote tells of a slow path after so many late heartbeats in a row.
fn tells_after_late_heartbeats(late: usize) -> bool {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(200);
    for _ in 0..late {
        // Each comes 205 ms after the one before: 50 are usual, and 150 more are too many.
        cluster.pass_but(5, is_heartbeat);
        cluster.now = cluster.now.plus_ms(200);
        cluster.take(is_heartbeat);
        cluster.turn(1, |_, _| {});
        cluster.run();
    }
    told_to_2(&mut cluster)
}

/// Whether 3 tells 2 of a slow path to their leader, which is gone.
fn told_to_2(cluster: &mut Cluster) -> bool {
    cluster.isolate(1);
    cluster.now = cluster.now.plus_ms(151);
    cluster.time_out(2);
    cluster.run_but(is_pre_vote_response);
    let answers = cluster.take(is_pre_vote_response);
    let answer = answers.iter().find(|packet| packet.to == 2);
    match answer.and_then(|packet| packet.say.body()) {
        Some(RaftBody::PreVoteResponse { high_rtt, .. }) => *high_rtt,
        _ => panic!("3 answers: {answers:?}"),
    }
}

#[test]
fn three_late_heartbeats_in_a_row_are_told_to_whoever_asks() {
    assert!(!tells_after_late_heartbeats(0));
    assert!(!tells_after_late_heartbeats(2));
    assert!(tells_after_late_heartbeats(3));
}

/// A path that brings nothing for so long, and then everything at once: as often as three heartbeats in a row are needed.
fn tells_after_bursts(heartbeats: u64) -> bool {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(200);
    for _ in 0..3 {
        for _ in 0..heartbeats {
            cluster.now = cluster.now.plus_ms(50);
            cluster.turn(1, |_, _| {});
        }
        let came = cluster.take(is_heartbeat);
        let (mine, others): (Vec<_>, Vec<_>) = came.into_iter().partition(|p| p.to == 3);
        assert_eq!(mine.len() as u64, heartbeats);
        // Whoever asks later hears the last of them alone: it is no longer its turn to tell.
        let last = others.into_iter().next_back().expect("one to 2");
        mine.into_iter()
            .chain([last])
            .for_each(|p| cluster.deliver(p));
        cluster.run();
    }
    told_to_2(&mut cluster)
}

#[test]
fn a_path_that_brings_heartbeats_in_bursts_is_slow() {
    // 250 ms lie between bursts of five: 50 are usual, and 150 more are too many.
    assert!(tells_after_bursts(5));
    assert!(!tells_after_bursts(3));
}

#[test]
fn a_slow_path_widens_the_window_once_a_term_however_many_tell_of_it() {
    let mut cluster = Cluster::new(5);
    for number in 3..=5 {
        cluster.isolate(number);
    }
    let tell = |cluster: &mut Cluster, from| {
        let term = cluster.status(1).term;
        cluster.deliver(Packet {
            from,
            to: 1,
            say: Say::Message(RaftMessage {
                partition: PARTITION,
                term,
                body: RaftBody::PreVoteResponse {
                    granted: false,
                    high_rtt: true,
                },
            }),
        });
    };
    let mut waits = Vec::new();
    for _ in 0..3 {
        cluster.time_out(1);
        let due = cluster.node(1).replica.next_deadline().expect("a deadline");
        waits.push(due.since_us(cluster.now) / 1000);
        for _ in 0..2 {
            tell(&mut cluster, 2);
        }
        assert_eq!(cluster.status(1).role, Role::PreCandidate);
        cluster.take(|_| true);
    }
    // Once for the failed election, and in the first round once for the slow path.
    for (wait, window) in waits.iter().zip([300, 675, 1012]) {
        assert!((window / 2..=window).contains(wait), "{waits:?}");
    }
    let window = |cluster: &mut Cluster| cluster.node(1).replica.glance().election_window_ms;
    assert_eq!(window(&mut cluster), 1012);
    // A leader that is heard takes it all back.
    cluster.heal();
    cluster.elect(2);
    cluster.run();
    assert_eq!(window(&mut cluster), 300);
}

#[test]
fn a_candidate_with_an_older_log_is_refused() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(3);
    cluster.write(1, &[b"a"]);
    cluster.heal();
    cluster.isolate(1);
    cluster.now = cluster.now.plus_ms(400);
    cluster.time_out(3);
    cluster.run();
    assert_ne!(cluster.status(3).role, Role::Leader);
    cluster.pass(3000);
    assert_eq!(
        cluster.leader(),
        Some(2),
        "only node 2 has what was committed"
    );
}
