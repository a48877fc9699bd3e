//! Acknowledgements: what a replica says is durable is durable there, in that term, and as soon as it is.

mod raft_support;

use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{Heartbeat, RaftBody};
use raft_support::{Cluster, PARTITION, Packet, Say, append, is_durability_ack};

fn acknowledged(packets: &[Packet]) -> Option<LogIndex> {
    let of = |packet: &Packet| match packet.say.body() {
        Some(RaftBody::DurabilityAck {
            last_fsynced_index, ..
        }) => Some(*last_fsynced_index),
        _ => None,
    };
    packets.iter().filter_map(of).max()
}

#[test]
fn what_is_received_is_told_at_once_and_what_is_durable_only_when_it_is() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    cluster.node(2).stalled = true;
    cluster.node(3).stalled = true;
    let position = cluster.propose(1, b"a");
    cluster.run_but(is_durability_ack);
    assert!(cluster.take(is_durability_ack).is_empty());
    let leader = cluster.status(1);
    assert_eq!(leader.raft_commit, position.index, "a majority received it");
    assert_eq!(
        leader.wal_committed,
        position.index.prev(),
        "no ledger but the leader's covers it"
    );
    assert!(cluster.nodes[0].applied < position.index);

    cluster.node(2).stalled = false;
    cluster.run();
    assert_eq!(cluster.status(1).wal_committed, position.index);
    assert_eq!(
        cluster.status(3).applicable,
        position.index.prev(),
        "node 3 has not flushed it"
    );
}

#[test]
fn nothing_is_committed_before_the_leaders_own_chain_has_retired() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    cluster.node(1).stalled = true;
    let position = cluster.propose(1, b"a");
    cluster.run();
    let status = cluster.status(1);
    assert!(status.followers.iter().all(|f| f.durable == position.index));
    assert_eq!(status.wal_committed, position.index.prev());
    cluster.node(1).stalled = false;
    cluster.run();
    assert_eq!(cluster.status(1).wal_committed, position.index);
}

#[test]
fn a_lost_acknowledgement_is_given_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    let position = cluster.propose(1, b"a");
    cluster.run_but(is_durability_ack);
    assert_eq!(cluster.take(is_durability_ack).len(), 2);
    assert_eq!(cluster.status(1).wal_committed, position.index.prev());
    cluster.pass(60);
    assert_eq!(cluster.status(1).wal_committed, position.index);
}

#[test]
fn a_chain_that_retires_late_does_not_vouch_for_what_replaced_its_entries() {
    let mut cluster = Cluster::new(3);
    cluster.deliver(append(3, 2, 1, (0, 0), &[1, 1]));
    cluster.run();
    cluster.net.clear();
    // Entry 3 of term 1 is submitted, not carried; then the leader of term 2 replaces it.
    cluster.node(2).stalled = true;
    cluster.deliver(append(3, 2, 1, (1, 2), &[1]));
    cluster.deliver(append(1, 2, 2, (1, 2), &[2]));
    let late = cluster.node(2).submitted.remove(0);
    cluster.net.clear();
    let event = cluster.node(2).disk.carry(late);
    cluster.node(2).complete(event);
    cluster.turn(2, |_, _| {});
    assert_eq!(cluster.status(2).durable, LogIndex(2));
    for packet in cluster.take(is_durability_ack) {
        let Some(RaftBody::DurabilityAck {
            last_fsynced_index, ..
        }) = packet.say.body()
        else {
            continue;
        };
        assert!(*last_fsynced_index <= LogIndex(2), "{packet:?}");
    }
    cluster.node(2).stalled = false;
    cluster.run_but(is_durability_ack);
    let acks = cluster.take(is_durability_ack);
    assert!(acks.iter().any(|packet| matches!(
        packet.say.body(),
        Some(RaftBody::DurabilityAck { last_fsynced_index, .. }) if *last_fsynced_index == LogIndex(3)
    )));
}

#[test]
fn a_truncation_lowers_what_is_acknowledged_in_the_same_turn() {
    let mut cluster = Cluster::new(3);
    cluster.deliver(append(3, 2, 1, (0, 0), &[1, 1, 1]));
    cluster.run();
    assert_eq!(cluster.status(2).durable, LogIndex(3));
    // The term is durable already when the entry is replaced, so nothing but the truncation holds the answer back.
    cluster.deliver(append(1, 2, 2, (1, 1), &[]));
    cluster.run();
    cluster.net.clear();
    cluster.node(2).stalled = true;
    cluster.deliver(append(1, 2, 2, (1, 1), &[2, 2]));
    assert_eq!(cluster.status(2).durable, LogIndex(1));
    let sent = cluster.take(is_durability_ack);
    assert!(acknowledged(&sent) <= Some(LogIndex(1)), "{sent:?}");
    cluster.node(2).stalled = false;
    cluster.run_but(is_durability_ack);
    let sent = cluster.take(is_durability_ack);
    assert_eq!(acknowledged(&sent), Some(LogIndex(3)));
}

#[test]
fn nothing_is_acknowledged_in_a_term_that_is_not_durable() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let position = cluster.write(1, &[b"a"]);
    cluster.pass(60);
    let term = cluster.status(2).term.next().get();
    cluster.net.clear();
    cluster.node(2).stalled = true;
    let prev = (position.term.get(), position.index.get());
    cluster.deliver(append(3, 2, term, prev, &[]));
    cluster.deliver(Packet {
        from: 3,
        to: 2,
        say: Say::Heartbeat(Heartbeat {
            partition: PARTITION,
            term: Term(term),
            wal_committed: LogIndex::ZERO,
            round: 1,
        }),
    });
    assert_eq!(cluster.status(2).durable, position.index);
    assert!(cluster.net.is_empty(), "{:?}", cluster.net);
    cluster.node(2).stalled = false;
    cluster.run_but(|p| p.from == 2);
    let sent = cluster.take(|p| p.from == 2);
    assert_eq!(acknowledged(&sent), Some(position.index));
    assert!(
        sent.iter()
            .any(|p| matches!(p.say, Say::Ack(ack) if ack.term == Term(term)))
    );
}

#[test]
fn content_found_damaged_above_what_was_applied_is_durable_no_longer() {
    let mut cluster = Cluster::new(3);
    cluster.deliver(append(3, 2, 1, (0, 0), &[1, 1, 1]));
    cluster.run();
    cluster.net.clear();
    assert_eq!(cluster.status(2).durable, LogIndex(3));
    cluster.turn(2, |replica, _| replica.on_missing(LogIndex(2), LogIndex(2)));
    let status = cluster.status(2);
    assert_eq!(status.durable, LogIndex(1));
    assert_eq!(status.missing_first, Some(LogIndex(2)));
    cluster.deliver(append(3, 2, 1, (1, 3), &[]));
    let sent = cluster.take(|p| p.from == 2);
    assert_eq!(acknowledged(&sent), Some(LogIndex(1)));
}
