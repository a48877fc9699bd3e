//! Replication: logs come to match, and nothing is committed that a quorum's ledgers do not cover.

mod raft_support;

use clustor_engine::raft::{Limits, NewEntry, ProposeError};
use clustor_shards::log::record::records;
use clustor_shards::turn::Time;
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{Heartbeat, HeartbeatAck, RaftBody, RaftMessage, Role};
use raft_support::{Cluster, PARTITION, Packet, Say, append};

fn is_append(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::Append { .. }))
}

fn is_rejection(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::AppendRejected { .. }))
}

#[test]
fn every_log_holds_the_bytes_that_the_leader_framed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let position = cluster.write(1, &[b"one", b"two"]);
    cluster.pass(60);
    for number in 1..=3 {
        assert_eq!(cluster.status(number).wal_committed, position.index);
        assert_eq!(cluster.nodes[number - 1].applied, position.index);
    }
    let mut of_node = Vec::new();
    for number in 1..=3 {
        let node = cluster.node(number);
        let mut ops = Vec::new();
        node.log
            .read(PARTITION, position.index, &mut ops)
            .expect("durable");
        let mut retirement = clustor_shards::log::Retirement::default();
        for op in ops {
            let event = node.disk.carry(op);
            node.log.on_event(Time(0), event, &mut retirement);
        }
        let frames = retirement.reads.remove(0).frames.expect("whole");
        let first = records(&frames).next().expect("one").expect("whole");
        of_node.push(first.frame.to_vec());
    }
    assert_eq!(of_node[0], of_node[1]);
    assert_eq!(of_node[0], of_node[2]);
}

#[test]
fn conflicting_tails_of_three_terms_come_to_match() {
    let mut cluster = Cluster::new(5);
    cluster.elect(1);
    cluster.write(1, &[b"common"]);
    // Three leaders in turn leave tails that reach nobody else.
    for leader in [1, 2, 3] {
        cluster.heal();
        cluster.elect(leader);
        cluster.run();
        cluster.isolate(leader);
        for _ in 0..3 {
            cluster.propose(leader, b"lost");
        }
        cluster.run();
        // Before the next election the former leader must be out of office, and still apart.
        cluster.pass_but(350, |p| {
            matches!(p.say.body(), Some(RaftBody::PreVote { .. }))
        });
        cluster.net.clear();
    }
    cluster.heal();
    cluster.elect(4);
    let position = cluster.write(4, &[b"kept"]);
    cluster.pass(500);
    let leader = cluster.leader().expect("somebody leads");
    let terms = cluster.terms(leader);
    for number in 1..=5 {
        assert_eq!(cluster.terms(number), terms, "node {number}");
        assert!(cluster.status(number).wal_committed >= position.index);
    }
}

#[test]
fn a_refusal_skips_a_whole_term_at_a_time() {
    let mut cluster = Cluster::new(3);
    // Node 2 gets a tail of 30 entries of three terms that nobody else has.
    cluster.deliver(append(3, 2, 1, (0, 0), &[1; 10]));
    cluster.deliver(append(3, 2, 2, (1, 10), &[2; 10]));
    cluster.deliver(append(3, 2, 3, (2, 20), &[3; 10]));
    cluster.run();
    cluster.net.clear();
    assert_eq!(cluster.status(2).last_index, LogIndex(30));
    // Node 1 leads term 5 with a log of 30 entries of term 4.
    cluster.deliver(append(3, 1, 4, (0, 0), &[4; 30]));
    cluster.run_but(|p| p.to == 2);
    cluster.net.clear();
    cluster.isolate(2);
    cluster.elect(1);
    cluster.heal();
    let mut refusals = 0;
    for _ in 0..200 {
        let packets = core::mem::take(&mut cluster.net);
        for packet in packets {
            refusals += usize::from(is_rejection(&packet) && packet.from == 2);
            cluster.deliver(packet);
        }
        cluster.carry();
        if cluster.net.is_empty() {
            cluster.pass_but(1, |p| is_rejection(p) || is_append(p));
        }
        if cluster.terms(2) == cluster.terms(1) {
            break;
        }
    }
    assert_eq!(cluster.terms(2), cluster.terms(1));
    assert!(
        (1..=3).contains(&refusals),
        "{refusals} refusals for three terms"
    );
}

#[test]
fn entries_of_former_terms_are_not_committed_by_counting() {
    // Figure 8 of "In Search of an Understandable Consensus Algorithm": an entry of term 2 that lies on a majority is
    // not safe until an entry of the leader's own term is.
    let mut cluster = Cluster::new(5);
    for number in [1, 2] {
        cluster.deliver(append(3, number, 1, (0, 0), &[1]));
        cluster.deliver(append(4, number, 2, (1, 1), &[2]));
    }
    for number in [3, 4, 5] {
        cluster.deliver(append(2, number, 1, (0, 0), &[1]));
    }
    cluster.deliver(append(1, 5, 3, (1, 1), &[3]));
    cluster.run();
    cluster.net.clear();
    cluster.isolate(5);
    cluster.isolate(4);
    cluster.now = cluster.now.plus_ms(400);
    // Node 1 is elected by 2 and 3 and sends them what they lack, but for its own empty entry.
    let mut started = false;
    for _ in 0..40 {
        cluster.now = cluster.now.plus_ms(160);
        cluster.time_out(1);
        cluster.run_but(|p| is_append(p) || is_rejection(p));
        if cluster.status(1).role == Role::Leader {
            started = true;
            break;
        }
        cluster.net.clear();
    }
    assert!(started);
    let term = cluster.status(1).term;
    cluster.net.clear();
    for number in [2, 3] {
        cluster.deliver(append(1, number, term.get(), (1, 1), &[2]));
    }
    cluster.run_but(is_append);
    let status = cluster.status(1);
    let durable = status
        .followers
        .iter()
        .filter(|f| f.durable >= LogIndex(2))
        .count();
    assert_eq!(durable, 2, "index 2 is durable on three of five");
    assert_eq!(status.wal_committed, LogIndex::ZERO);

    cluster.pass(300);
    let status = cluster.status(1);
    assert_eq!(
        status.wal_committed,
        LogIndex(3),
        "with its own entry everything is"
    );
}

#[test]
fn repeated_reordered_and_stale_messages_change_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    let mut seen = Vec::new();
    for round in 0..10u8 {
        cluster.propose(1, &[round]);
        seen.extend(cluster.net.iter().cloned());
        cluster.run_but(|p| {
            seen.push(p.clone());
            false
        });
    }
    cluster.pass(60);
    let before: Vec<_> = (1..=3).map(|n| cluster.status(n)).collect();
    let terms = cluster.terms(1);
    for packet in seen.iter().rev().chain(&seen) {
        cluster.deliver(packet.clone());
    }
    cluster.run();
    for (number, before) in (1..=3).zip(&before) {
        let after = cluster.status(number);
        assert_eq!(after.last_index, before.last_index);
        assert_eq!(after.wal_committed, before.wal_committed);
        assert_eq!(after.term, before.term);
        assert_eq!(cluster.terms(number), terms);
    }
}

#[test]
fn a_follower_far_behind_catches_up_from_disk_through_a_small_cache() {
    let mut cluster = Cluster::with(3, Limits::default(), 4096);
    cluster.elect(1);
    cluster.isolate(3);
    for round in 0..200u32 {
        cluster.write(1, &[&[round as u8; 100]]);
        if round % 20 == 0 {
            cluster.pass(10);
        }
    }
    cluster.heal();
    cluster.pass(1500);
    let leader = cluster.leader().expect("somebody leads");
    assert_eq!(cluster.terms(3), cluster.terms(leader));
    assert_eq!(
        cluster.nodes[2].applied,
        cluster.status(leader).wal_committed
    );
    assert!(
        cluster.node(leader).reads_for_peers > 0,
        "the cache holds a few dozen entries"
    );
}

/// Batches in flight to each follower while nothing is answered.
fn in_flight(limits: Limits, payload: &[u8]) -> usize {
    let mut cluster = Cluster::with(3, limits, 64 << 20);
    cluster.elect(1);
    cluster.pass(60);
    cluster.isolate(1);
    for _ in 0..40 {
        // Its own log goes on.
        cluster.propose(1, payload);
        cluster.run();
    }
    let batches: Vec<usize> = cluster
        .status(1)
        .followers
        .iter()
        .map(|f| f.inflight)
        .collect();
    assert_eq!(batches[0], batches[1]);
    batches[0]
}

#[test]
fn as_many_batches_are_in_flight_to_a_follower_as_it_may_have() {
    let limits = |inflight_batches_max, batch_bytes_max| Limits {
        inflight_batches_max,
        batch_bytes_max,
        uncommitted_bytes_max: 64 << 20,
        ..Limits::default()
    };
    assert_eq!(in_flight(limits(4, 300), &[7; 100]), 4);
    // However large they are.
    let large = vec![7; 100_000];
    assert_eq!(in_flight(limits(4, 100_000), &large), 4);
    assert_eq!(in_flight(limits(16, 100_000), &large), 16);
    // Entries longer than a batch go alone, and fewer of them: no more bytes than full batches would have.
    assert_eq!(in_flight(limits(16, 25_000), &large), 4);
}

#[test]
fn a_lost_batch_is_sent_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    let position = cluster.propose(1, b"a");
    cluster.take(is_append);
    cluster.pass(90);
    assert_eq!(cluster.status(2).last_index, position.index.prev());
    cluster.pass(60);
    assert_eq!(cluster.status(2).last_index, position.index);
    assert_eq!(cluster.status(1).wal_committed, position.index);
}

#[test]
fn of_a_damaged_append_nothing_is_used() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    let before = cluster.status(2);
    cluster.propose(1, b"first");
    cluster.propose(1, b"second");
    let appends = cluster.take(|p| is_append(p) && p.to == 2);
    for packet in &appends {
        let mut packet = packet.clone();
        if let Say::Message(message) = &mut packet.say
            && let RaftBody::Append { frames, .. } = &mut message.body
        {
            let last = frames.len() - 1;
            frames[last] ^= 1;
        }
        cluster.deliver(packet);
    }
    let after = cluster.status(2);
    assert_eq!(after.last_index, before.last_index);
    assert_eq!(
        after.frames_refused,
        before.frames_refused + appends.len() as u64
    );

    // Frames of another place in the log, or of another count than said, are refused as well.
    let term = after.term.get();
    let last = (after.last_term.get(), after.last_index.get());
    let mut elsewhere = append(1, 2, term, last, &[term]);
    if let Say::Message(message) = &mut elsewhere.say
        && let RaftBody::Append { count, .. } = &mut message.body
    {
        *count = 2;
    }
    cluster.deliver(elsewhere);
    cluster.deliver(append(1, 2, term, last, &[term, term - 1]));
    cluster.deliver(append(1, 2, term, last, &[term + 1]));
    assert_eq!(cluster.status(2).last_index, before.last_index);
}

#[test]
fn a_follower_that_lost_its_unflushed_tail_gets_it_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    cluster.node(3).stalled = true;
    let position = cluster.write(1, &[b"a", b"b", b"c"]);
    assert_eq!(cluster.status(3).last_index, position.index);
    cluster.crash(3);
    cluster.restart(3);
    assert!(cluster.status(3).last_index >= LogIndex(1));
    cluster.pass(300);
    assert_eq!(cluster.terms(3), cluster.terms(1));
    assert_eq!(cluster.nodes[2].applied, position.index);
}

#[test]
fn an_acknowledged_entry_survives_the_leaders_death() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let position = cluster.write(1, &[b"kept"]);
    assert_eq!(cluster.status(1).wal_committed, position.index);
    cluster.crash(1);
    cluster.pass(2000);
    let leader = cluster.leader().expect("a new leader");
    assert!(cluster.status(leader).wal_committed > position.index);
    assert_eq!(
        cluster.history[&position.index],
        (position.term, b"kept".to_vec())
    );
    cluster.restart(1);
    cluster.pass(1000);
    assert_eq!(cluster.terms(1), cluster.terms(leader));
}

#[test]
fn proposals_are_bounded_and_refused_with_their_limit() {
    let limits = Limits {
        payload_bytes_max: 1000,
        uncommitted_bytes_max: 2000,
        ..Limits::default()
    };
    let mut cluster = Cluster::with(3, limits, 1 << 20);
    cluster.elect(1);
    cluster.pass(60);
    cluster.node(2).stalled = true;
    cluster.node(3).stalled = true;
    let mut refused = None;
    let payload = [0; 900];
    for _ in 0..4 {
        let entry = NewEntry {
            payload: &payload,
            key: None,
            stamp_ms: 0,
        };
        refused = refused.or(cluster.turn(1, |r, t| r.propose(t, &entry)).err());
    }
    assert_eq!(refused, Some(ProposeError::Full { bytes_max: 2000 }));
    let entry = NewEntry {
        payload: &[0; 1001],
        key: None,
        stamp_ms: 0,
    };
    let refused = cluster.turn(1, |r, t| r.propose(t, &entry)).err();
    assert_eq!(
        refused,
        Some(ProposeError::TooLarge {
            bytes: 1001,
            bytes_max: 1000
        })
    );
    cluster.node(2).stalled = false;
    cluster.run();
    cluster.propose(1, &payload);

    let refused = cluster.turn(2, |r, t| {
        let entry = NewEntry {
            payload: b"a",
            key: None,
            stamp_ms: 0,
        };
        r.propose(t, &entry)
    });
    let leader = Some(raft_support::peer(1));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader }));
}

#[test]
fn long_tails_of_deposed_leaders_give_way_to_what_was_committed() {
    let mut cluster = Cluster::new(5);
    cluster.elect(1);
    cluster.write(1, &[b"common"]);
    // Two leaders in turn are cut off with tails longer than what is committed meanwhile, at the same indexes.
    for (former, next) in [(1, 2), (2, 3)] {
        cluster.isolate(former);
        for _ in 0..20 {
            cluster.propose(former, b"lost");
        }
        cluster.run();
        cluster.elect(next);
        cluster.write(next, &[b"kept", b"kept", b"kept"]);
    }
    let kept = cluster.status(3).last_index;
    assert!(cluster.status(1).last_index > kept);
    assert!(cluster.status(2).last_index > kept);
    cluster.heal();
    cluster.elect(4);
    cluster.pass(1000);
    let leader = cluster.leader().expect("somebody leads");
    for number in 1..=5 {
        assert_eq!(
            cluster.terms(number),
            cluster.terms(leader),
            "node {number}"
        );
        assert_eq!(
            cluster.nodes[number - 1].applied,
            cluster.status(leader).wal_committed
        );
    }
}

#[test]
fn a_refusal_names_the_last_entry_that_can_be_common() {
    let mut cluster = Cluster::new(3);
    cluster.deliver(append(3, 2, 2, (0, 0), &[1, 1, 2, 2, 2]));
    cluster.run();
    let cases = [
        // The leader's (term, index) before its entries; what the follower answers.
        ((3, 9), (5, 2)),
        ((3, 4), (4, 2)),
        ((1, 4), (2, 1)),
        ((1, 9), (2, 1)),
    ];
    for (prev, (hint_index, hint_term)) in cases {
        cluster.net.clear();
        cluster.deliver(append(1, 2, 5, prev, &[5]));
        cluster.run_but(is_rejection);
        let refusals = cluster.take(is_rejection);
        assert_eq!(refusals.len(), 1, "{prev:?}");
        assert_eq!(
            refusals[0].say.body(),
            Some(&RaftBody::AppendRejected {
                prev_index: LogIndex(prev.1),
                hint_index: LogIndex(hint_index),
                hint_term: Term(hint_term),
            })
        );
        assert_eq!(
            cluster.status(2).last_index,
            LogIndex(5),
            "nothing was taken"
        );
    }
}

#[test]
fn a_term_or_an_index_that_nothing_can_follow_is_refused() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"one"]);
    let term = cluster.status(1).term;
    let last = LogIndex(u64::MAX);
    let message = |term: u64, body: RaftBody| {
        Say::Message(RaftMessage {
            partition: PARTITION,
            term: Term(term),
            body,
        })
    };
    let append = |prev_index| RaftBody::Append {
        prev_index,
        prev_term: term,
        wal_committed: LogIndex::ZERO,
        raft_commit: LogIndex::ZERO,
        count: 0,
        frames: Vec::new(),
    };
    for far in [u64::MAX, u64::MAX - 1, 1 << 62] {
        for to in [2, 3] {
            let says = [
                message(far, append(LogIndex::ZERO)),
                message(far, RaftBody::VoteResponse { granted: false }),
                message(term.get(), append(last)),
                Say::Heartbeat(Heartbeat {
                    partition: PARTITION,
                    term: Term(far),
                    wal_committed: LogIndex::ZERO,
                    round: 1,
                }),
            ];
            for say in says {
                cluster.deliver(Packet { from: 1, to, say });
            }
        }
        let hint = RaftBody::AppendRejected {
            prev_index: last,
            hint_index: last,
            hint_term: term,
        };
        let ack = Say::Ack(HeartbeatAck {
            partition: PARTITION,
            term: Term(far),
            round: 1,
        });
        for say in [message(far, hint.clone()), message(term.get(), hint), ack] {
            cluster.deliver(Packet {
                from: 2,
                to: 1,
                say,
            });
        }
    }
    cluster.run();
    for number in 1..=3 {
        assert_eq!(cluster.status(number).term, term);
    }
    cluster.write(1, &[b"two"]);
    cluster.isolate(1);
    cluster.pass(3000);
    assert!(cluster.status(2).term > term);
}
