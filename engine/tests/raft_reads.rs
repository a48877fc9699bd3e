//! Linearizable reads, hand-over of leadership, and replicas whose content is damaged.

mod raft_support;

use clustor_engine::raft::{ProposeError, ReadError, TransferError};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId};
use clustor_wire::message::{RaftBody, RaftMessage, Role};
use raft_support::{Cluster, PARTITION, Packet, Say, elected, peer};

fn is_ack(packet: &Packet) -> bool {
    matches!(packet.say, Say::Ack(_))
}

fn is_durability_ack(packet: &Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::DurabilityAck { .. }))
}

fn read(cluster: &mut Cluster, number: usize, token: u64) -> Result<(), ReadError> {
    cluster.turn(number, |replica, _| replica.read_index(token))
}

fn tokens(cluster: &mut Cluster, number: usize) -> Vec<u64> {
    let ready = &mut cluster.node(number).ready;
    ready.drain(..).map(|r| r.token).collect()
}

#[test]
fn a_read_sees_everything_committed_before_it() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let position = cluster.write(1, &[b"a"]);
    read(&mut cluster, 1, 7).expect("a leader takes it");
    assert!(cluster.node(1).ready.is_empty(), "not confirmed yet");
    cluster.run();
    let ready = cluster.node(1).ready.remove(0);
    assert_eq!(ready.token, 7);
    assert_eq!(ready.partition, PARTITION);
    assert!(ready.index >= position.index);
    assert_eq!(ready.term, position.term);
}

#[test]
fn a_sole_voter_confirms_its_reads_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.pass(1);
    let position = cluster.write(1, &[b"a"]);
    read(&mut cluster, 1, 1).expect("a leader takes it");
    assert_eq!(cluster.node(1).ready[0].index, position.index);
}

#[test]
fn a_read_waits_until_the_leader_has_committed_in_its_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a"]);
    cluster.pass(60);
    // A new leader that has not heard of any ledger in its term.
    cluster.isolate(1);
    cluster.now = cluster.now.plus_ms(310);
    for _ in 0..20 {
        cluster.time_out(2);
        cluster.run_but(is_durability_ack);
        if cluster.status(2).role == Role::Leader {
            break;
        }
        cluster.now = cluster.now.plus_ms(160);
    }
    assert_eq!(cluster.status(2).role, Role::Leader);
    let start = cluster.status(2).term_start.expect("a leader's");
    read(&mut cluster, 2, 1).expect("a leader takes it");
    cluster.pass_but(120, is_durability_ack);
    assert!(cluster.status(2).wal_committed < start);
    assert!(
        cluster.node(2).ready.is_empty(),
        "its predecessor may have committed more"
    );
    cluster.pass(60);
    let ready = cluster.node(2).ready.remove(0);
    assert!(ready.index >= start);
}

#[test]
fn only_rounds_begun_after_a_read_arrived_count_for_it() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a"]);
    cluster.pass(120);
    // Answers to a periodic round are under way when the read arrives.
    for _ in 0..60 {
        cluster.pass_but(1, is_ack);
        if cluster.net.iter().filter(|p| is_ack(p)).count() == 2 {
            break;
        }
    }
    let old = cluster.take(is_ack);
    assert_eq!(old.len(), 2);
    read(&mut cluster, 1, 1).expect("a leader takes it");
    for packet in old {
        cluster.deliver(packet);
    }
    assert!(
        cluster.node(1).ready.is_empty(),
        "a round begun before says nothing about now"
    );
    cluster.run_but(is_ack);
    let new = cluster.take(is_ack);
    cluster.deliver(new[0].clone());
    assert_eq!(tokens(&mut cluster, 1), [1]);
}

#[test]
fn answers_of_former_terms_confirm_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a"]);
    read(&mut cluster, 1, 1).expect("a leader takes it");
    cluster.run_but(is_ack);
    let answers = cluster.take(is_ack);
    assert!(!answers.is_empty());
    for packet in answers {
        let mut stale = packet.clone();
        if let Say::Ack(ack) = &mut stale.say {
            ack.term = ack.term.prev();
        }
        cluster.deliver(stale);
        assert!(cluster.node(1).ready.is_empty());
    }
}

#[test]
fn reads_that_arrive_during_a_round_share_the_next_one() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a"]);
    let is_heartbeat = |p: &Packet| matches!(p.say, Say::Heartbeat(_));
    read(&mut cluster, 1, 1).expect("taken");
    assert_eq!(cluster.net.iter().filter(|p| is_heartbeat(p)).count(), 2);
    for token in 2..=9 {
        read(&mut cluster, 1, token).expect("taken");
    }
    assert_eq!(
        cluster.net.iter().filter(|p| is_heartbeat(p)).count(),
        2,
        "one round is open"
    );
    cluster.run_but(is_ack);
    for packet in cluster.take(is_ack) {
        cluster.deliver(packet);
    }
    assert_eq!(tokens(&mut cluster, 1), [1]);
    cluster.run();
    assert_eq!(tokens(&mut cluster, 1), (2..=9).collect::<Vec<_>>());
}

#[test]
fn reads_fail_when_leadership_is_lost() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a"]);
    cluster.isolate(1);
    read(&mut cluster, 1, 1).expect("it does not know yet");
    read(&mut cluster, 1, 2).expect("it does not know yet");
    cluster.pass(400);
    let failed: Vec<u64> = cluster.node(1).failed.iter().map(|f| f.token).collect();
    assert_eq!(failed, [1, 2]);
    assert!(cluster.node(1).ready.is_empty());
    assert_eq!(
        read(&mut cluster, 1, 3),
        Err(ReadError::NotLeader { leader: None })
    );
    cluster.heal();
    cluster.pass(1000);
    let leader = cluster.leader().expect("a leader");
    let follower = leader % 3 + 1;
    let leader = Some(peer(leader));
    assert_eq!(
        read(&mut cluster, follower, 4),
        Err(ReadError::NotLeader { leader })
    );
}

#[test]
fn a_read_waits_for_what_a_majority_has_received() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a"]);
    cluster.node(2).stalled = true;
    cluster.node(3).stalled = true;
    let position = cluster.propose(1, b"b");
    cluster.run();
    assert!(cluster.status(1).wal_committed < position.index);
    read(&mut cluster, 1, 1).expect("taken");
    cluster.run();
    let ready = cluster.node(1).ready.remove(0);
    assert_eq!(ready.index, position.index, "previews may have shown it");
}

#[test]
fn a_leader_hands_over_to_a_voter_that_has_everything() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(3);
    cluster.write(1, &[b"a"]);
    cluster.heal();
    let term = cluster.status(1).term;
    let to = cluster
        .turn(1, |replica, turn| replica.transfer_leadership(turn, None))
        .expect("somebody answers");
    assert_eq!(to, peer(2), "node 3 lags");
    let refused = cluster.turn(1, |replica, turn| {
        let entry = clustor_engine::raft::NewEntry {
            payload: b"b",
            key: None,
            stamp_ms: 0,
        };
        replica.propose(turn, &entry)
    });
    assert_eq!(refused, Err(ProposeError::HandingOver { to }));
    let before = cluster.now;
    cluster.run();
    assert_eq!(cluster.now, before, "no timeout had to pass");
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.status(2).term, term.next());
    assert!(cluster.node(2).leadership.iter().any(elected));
}

#[test]
fn a_hand_over_that_fails_is_given_up_after_an_election_timeout() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    let is_timeout_now = |p: &Packet| matches!(p.say.body(), Some(RaftBody::TimeoutNow));
    cluster
        .turn(1, |replica, turn| replica.transfer_leadership(turn, None))
        .expect("somebody answers");
    assert_eq!(cluster.take(is_timeout_now).len(), 1);
    cluster.pass(200);
    assert!(cluster.status(1).transferring);
    cluster.pass(150);
    assert!(!cluster.status(1).transferring);
    cluster.write(1, &[b"a"]);

    let stranger = Some(peer(9));
    let nobody = cluster.turn(1, |replica, turn| {
        replica.transfer_leadership(turn, stranger)
    });
    assert_eq!(nobody, Err(TransferError::NoVoter { peer: peer(9) }));
    let alone = cluster.turn(2, |replica, turn| {
        replica.transfer_leadership(turn, stranger)
    });
    assert_eq!(alone, Err(TransferError::NotLeader));
    let mut sole = Cluster::new(1);
    sole.pass(1);
    let alone = sole.turn(1, |replica, turn| replica.transfer_leadership(turn, None));
    assert_eq!(alone, Err(TransferError::NobodyAnswers));
}

/// To whom node 1 leaves leadership when it can't append any more.
fn heirs(cluster: &mut Cluster, is_fast: impl Fn(PeerId) -> bool) -> Vec<usize> {
    cluster.turn(1, |replica, turn| replica.bequeath(turn, is_fast));
    let told = cluster.take(|p| matches!(p.say.body(), Some(RaftBody::TimeoutNow)));
    told.iter().map(|packet| packet.to).collect()
}

#[test]
fn leadership_is_left_to_nobody_who_declined_or_is_slow() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a"]);
    cluster.pass(60);
    for fast in [2, 3] {
        let left_to = heirs(&mut cluster, |voter| voter == peer(fast));
        assert_eq!(left_to, [fast]);
    }
    // Somebody is better than nobody.
    assert_eq!(heirs(&mut cluster, |_| false).len(), 1);

    for declines in [2, 3] {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
        cluster.write(1, &[b"a"]);
        cluster.pass(60);
        cluster.node(declines).replica.set_lame(true);
        let wanted = Some(peer(declines));
        cluster
            .turn(1, |replica, turn| replica.transfer_leadership(turn, wanted))
            .expect("it answers");
        cluster.run();
        assert_eq!(cluster.leader(), Some(1), "it declined");
        let other = 5 - declines;
        assert_eq!(heirs(&mut cluster, |_| true), [other]);
        // Also where its device is the faster one.
        assert_eq!(heirs(&mut cluster, |voter| voter != peer(other)), [other]);
    }
}

#[test]
fn a_late_timeout_now_moves_nobody_in_a_later_term() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    cluster
        .turn(1, |replica, turn| replica.transfer_leadership(turn, None))
        .expect("somebody answers");
    let late = cluster.take(|p| matches!(p.say.body(), Some(RaftBody::TimeoutNow)));
    let to = late[0].to;
    let other = 5 - to;
    cluster.isolate(1);
    cluster.elect(other);
    cluster.heal();
    cluster.pass(200);
    let term = cluster.status(other).term;
    cluster.deliver(late[0].clone());
    cluster.run();
    assert_eq!(cluster.status(to).term, term);
    assert_eq!(cluster.leader(), Some(other));
}

#[test]
fn only_the_leader_can_ask_for_a_campaign() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    let term = cluster.status(2).term;
    cluster.deliver(Packet {
        from: 3,
        to: 2,
        say: Say::Message(RaftMessage {
            partition: PARTITION,
            term,
            body: RaftBody::TimeoutNow,
        }),
    });
    cluster.run();
    assert_eq!(cluster.status(2).term, term);
    assert_eq!(cluster.leader(), Some(1));
}

/// The search for lost content, kept off the network.
fn is_refetch(packet: &Packet) -> bool {
    matches!(
        packet.say.body(),
        Some(RaftBody::Refetch { .. } | RaftBody::Refetched { .. })
    )
}

#[test]
fn a_sole_voter_with_damage_leads_and_applies_up_to_it() {
    let mut cluster = Cluster::new(1);
    cluster.pass(1);
    for payload in [b"a", b"b", b"c"] {
        cluster.write(1, &[payload]);
    }
    let index = LogIndex(3);
    cluster.lose(1, index);
    cluster.pass(10);
    let status = cluster.status(1);
    assert_eq!(
        status.role,
        Role::Leader,
        "who has damage votes and leads all the same"
    );
    assert_eq!(status.missing, 1);
    assert_eq!(cluster.nodes[0].applied, index.prev());
}

#[test]
fn missing_content_is_neither_sent_nor_counted_as_durable() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for payload in [b"a", b"b", b"c"] {
        cluster.write(1, &[payload]);
    }
    let index = LogIndex(3);
    cluster.lose(1, index);
    cluster.pass_but(2000, is_refetch);
    let status = cluster.status(1);
    assert_ne!(status.role, Role::Leader, "one without damage went first");
    assert_eq!(status.durable, index.prev());
    assert_eq!(cluster.nodes[0].applied, index.prev());
    let leader = cluster.leader().expect("a leader");
    let position = cluster.propose(leader, b"d");
    cluster.run_but(is_refetch);
    assert_eq!(
        cluster.status(leader).wal_committed,
        position.index,
        "two of three suffice"
    );
    let follower = cluster.status(leader).followers;
    let damaged = follower.iter().find(|f| f.peer == peer(1)).expect("there");
    assert_eq!(damaged.matched, position.index, "its log is known to match");
    assert_eq!(damaged.durable, index.prev());
}

#[test]
fn a_leader_with_damage_commits_nothing_behind_it_and_hands_over() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for payload in [b"a", b"b", b"c"] {
        cluster.write(1, &[payload]);
    }
    let index = LogIndex(3);
    cluster.lose(1, index);
    cluster.isolate(2);
    cluster.elect_but(1, is_refetch);
    cluster.pass_but(30, is_refetch);
    let status = cluster.status(1);
    let start = status.term_start.expect("it leads");
    assert!(
        status.followers.iter().any(|f| f.durable == start),
        "node 3 has it all"
    );
    assert!(status.wal_committed < index);
    cluster.pass_but(1000, is_refetch);
    assert_eq!(cluster.leader(), Some(3));
    cluster.heal();
    cluster.pass(500);
    assert!(cluster.status(3).wal_committed > start);
}

#[test]
fn other_partitions_and_strangers_are_not_listened_to() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.pass(60);
    let before = cluster.status(2);
    cluster.propose(1, b"a");
    for packet in cluster.take(|_| true) {
        let mut other = packet.clone();
        match &mut other.say {
            Say::Message(message) => message.partition = PartitionId(99),
            Say::Heartbeat(heartbeat) => heartbeat.partition = PartitionId(99),
            Say::Ack(ack) => ack.partition = PartitionId(99),
        }
        cluster.deliver(other);
        let stranger = Packet { from: 9, ..packet };
        cluster.deliver(stranger);
    }
    assert_eq!(cluster.status(2), before);
}
