//! Lost content is fetched from whoever has it, counts when it is durable, and is dropped only if nobody ever had it.

mod raft_support;

use clustor_engine::raft::{TransferError, WantedEntries, WantedFor};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RefetchVerdict, Role};
use raft_support::{Cluster, Packet, Say, peer};

fn is_refetch(packet: &Packet) -> bool {
    matches!(
        packet.say.body(),
        Some(RaftBody::Refetch { .. } | RaftBody::Refetched { .. })
    )
}

/// Three nodes, led by node 1, with entries 2, 3 and 4 of one chain each, committed.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for payload in [b"a", b"b", b"c"] {
        cluster.write(1, &[payload]);
    }
    cluster.pass(60);
    cluster
}

/// Elects node 1, though whoever is whole would go first.
fn elect_damaged(cluster: &mut Cluster, mut keep: impl FnMut(&Packet) -> bool) {
    let competes =
        |p: &Packet| p.from != 1 && matches!(p.say.body(), Some(RaftBody::PreVote { .. }));
    cluster.elect_but(1, |p| competes(p) || keep(p));
    cluster.take(competes);
}

fn missing(cluster: &mut Cluster, number: usize) -> u64 {
    cluster
        .node(number)
        .log
        .partition(raft_support::PARTITION)
        .expect("there")
        .missing_count()
}

/// Restarted as it stands, it still has everything.
fn stays_whole(cluster: &mut Cluster, number: usize) {
    cluster.crash(number);
    cluster.restart(number);
    assert_eq!(missing(cluster, number), 0, "node {number}");
}

#[test]
fn a_follower_gets_lost_content_from_its_leader() {
    let mut cluster = cluster();
    cluster.lose(2, LogIndex(3));
    cluster.pass(1_500);
    let status = cluster.status(2);
    assert_eq!((status.missing, status.refetched), (0, 1));
    assert_eq!(status.durable, status.last_index);
    assert_eq!(cluster.nodes[1].applied, status.last_index);
    stays_whole(&mut cluster, 2);
}

#[test]
fn a_leader_gets_lost_content_from_its_followers() {
    let mut cluster = cluster();
    cluster.lose(1, LogIndex(3));
    elect_damaged(&mut cluster, |_| false);
    cluster.pass(400);
    let status = cluster.status(1);
    assert_eq!(status.role, Role::Leader, "it need not hand over");
    assert_eq!((status.missing, status.refetched), (0, 1));
    assert_eq!(status.wal_committed, status.last_index);
    stays_whole(&mut cluster, 1);
}

#[test]
fn content_behind_what_is_missing_is_given_all_the_same() {
    let mut cluster = cluster();
    for (number, index) in [(1, 4), (2, 2), (3, 4)] {
        cluster.lose(number, LogIndex(index));
    }
    // What 2 lacks it does not get: its questions stay on the way.
    let asks = |p: &Packet| p.from == 2 && matches!(p.say.body(), Some(RaftBody::Refetch { .. }));
    elect_damaged(&mut cluster, asks);
    cluster.pass_but(5_000, asks);
    assert_eq!(missing(&mut cluster, 2), 1);
    for number in [1, 3] {
        assert_eq!(missing(&mut cluster, number), 0, "node {number}");
    }
}

#[test]
fn fetched_content_counts_when_its_chain_has_retired() {
    let mut cluster = cluster();
    let index = LogIndex(3);
    cluster.lose(2, index);
    cluster.pass_but(1_200, |p| p.to == 2 && is_refetch(p));
    cluster.node(2).stalled = true;
    cluster.run();
    let status = cluster.status(2);
    assert_eq!(status.missing, 0, "taken");
    assert_eq!(status.durable, index.prev(), "and not durable yet");
    cluster.node(2).stalled = false;
    cluster.run();
    assert!(cluster.status(2).durable > index);
}

#[test]
fn a_crash_before_the_copy_is_durable_leaves_it_lost_and_known() {
    let mut cluster = cluster();
    let index = LogIndex(3);
    cluster.lose(2, index);
    cluster.pass_but(1_500, |p| p.to == 2 && is_refetch(p));
    cluster.node(2).stalled = true;
    cluster.run();
    assert_eq!(cluster.status(2).missing, 0, "taken");
    cluster.isolate(2);
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(missing(&mut cluster, 2), 1);
    cluster.heal();
    cluster.pass(1_500);
    stays_whole(&mut cluster, 2);
}

#[test]
fn damage_in_different_places_on_every_replica_heals_by_itself() {
    let mut cluster = cluster();
    for (number, index) in [(1, 2), (2, 3), (3, 4)] {
        cluster.lose(number, LogIndex(index));
    }
    cluster.pass(5_000);
    let leader = cluster.leader().expect("a leader");
    let position = cluster.write(leader, &[b"d"]);
    cluster.pass(100);
    for number in 1..=3 {
        let status = cluster.status(number);
        assert_eq!(status.missing, 0, "node {number}");
        assert_eq!(status.durable, position.index, "node {number}");
        assert_eq!(cluster.nodes[number - 1].applied, position.index);
        stays_whole(&mut cluster, number);
    }
}

#[test]
fn an_entry_lost_everywhere_is_waited_for_and_said() {
    let mut cluster = cluster();
    let index = LogIndex(3);
    for number in 1..=3 {
        cluster.lose(number, index);
    }
    cluster.pass(2_000);
    let leader = cluster.leader().expect("a leader");
    let status = cluster.status(leader);
    assert_eq!(status.missing, 1);
    let search = status.refetch.expect("it asks");
    assert_eq!(search.index, index);
    assert_eq!(search.said.len(), 2);
    assert!(
        search
            .said
            .iter()
            .all(|(_, verdict)| *verdict == Some(RefetchVerdict::Missing))
    );
    assert!(status.wal_committed < index);
}

/// Node 1 alone holds an entry that it never replicated, and lost its content.
fn alone_with_a_lost_entry() -> (Cluster, LogIndex) {
    let mut cluster = cluster();
    cluster.isolate(1);
    let index = cluster.write(1, &[b"alone"]).index;
    cluster.lose(1, index);
    (cluster, index)
}

#[test]
fn what_nobody_else_ever_had_is_dropped_by_a_leader_that_steps_down() {
    let (mut cluster, index) = alone_with_a_lost_entry();
    cluster.heal();
    // Nobody else has a longer log: node 1 is elected, asks, and steps down.
    let term = cluster.status(1).term;
    elect_damaged(&mut cluster, |p| p.from != 1 && is_refetch(p));
    cluster.run();
    let status = cluster.status(1);
    assert!(status.term > term);
    assert_eq!(status.last_index, index.prev());
    assert_eq!(status.missing, 0);
    cluster.pass(1_000);
    let leader = cluster.leader().expect("a leader");
    let position = cluster.write(leader, &[b"after"]);
    cluster.pass(100);
    for number in 1..=3 {
        assert_eq!(cluster.status(number).missing, 0);
        assert_eq!(cluster.nodes[number - 1].applied, position.index);
        assert!(cluster.terms(number)[index.get() as usize - 1] >= term.get());
    }
}

#[test]
fn one_never_of_two_drops_nothing() {
    let (mut cluster, index) = alone_with_a_lost_entry();
    cluster.heal();
    // Of node 3 nothing is heard about it.
    elect_damaged(&mut cluster, |p| p.from == 3 && is_refetch(p));
    cluster.pass_but(600, |p| p.from == 3 && is_refetch(p));
    let status = cluster.status(1);
    assert!(status.last_index >= index);
    assert_eq!(status.missing, 1);
}

#[test]
fn what_was_committed_is_kept_whoever_says_that_it_never_had_it() {
    let mut cluster = cluster();
    let index = LogIndex(3);
    let last = cluster.status(1).last_index;
    cluster.turn(1, |replica, _| replica.on_missing(index, index));
    let asked = cluster.take(is_refetch);
    assert_eq!(asked.len(), 2);
    // Their disks were emptied, and nobody noticed.
    for question in asked {
        let Say::Message(mut message) = question.say else {
            panic!("a message");
        };
        message.body = RaftBody::Refetched {
            entry_term: Term(1),
            first: index,
            verdict: RefetchVerdict::Never,
            frames: Vec::new(),
        };
        cluster.deliver(Packet {
            from: question.to,
            to: 1,
            say: Say::Message(message),
        });
    }
    let status = cluster.status(1);
    assert_eq!(status.refetch.expect("it asks").said.len(), 2);
    assert_eq!((status.role, status.last_index), (Role::Leader, last));
    assert_eq!(status.missing, 1);
}

#[test]
fn answers_of_another_term_or_to_another_question_change_nothing() {
    let mut cluster = cluster();
    let index = LogIndex(3);
    cluster.lose(2, index);
    cluster.pass_but(1_200, |p| p.to == 2 && is_refetch(p));
    let answers = cluster.take(|p| p.to == 2 && is_refetch(p));
    let answer = answers
        .iter()
        .find(|p| {
            matches!(
                p.say.body(),
                Some(RaftBody::Refetched {
                    verdict: RefetchVerdict::Have,
                    ..
                })
            )
        })
        .expect("an answer")
        .clone();
    let change = |edit: &dyn Fn(&mut clustor_wire::message::RaftMessage)| {
        let mut packet = answer.clone();
        let Say::Message(message) = &mut packet.say else {
            panic!("a message");
        };
        edit(message);
        packet
    };
    let wrong = [
        change(&|m| m.term = Term(m.term.get() - 1)),
        change(&|m| {
            let RaftBody::Refetched { first, .. } = &mut m.body else {
                return;
            };
            *first = first.next();
        }),
        change(&|m| {
            let RaftBody::Refetched { frames, .. } = &mut m.body else {
                return;
            };
            let middle = frames.len() / 2;
            frames[middle] ^= 1;
        }),
    ];
    for packet in wrong {
        cluster.deliver(packet);
        assert_eq!(cluster.status(2).missing, 1);
    }
    cluster.deliver(answer);
    assert_eq!(cluster.status(2).missing, 0);
}

#[test]
fn a_leader_that_can_fetch_does_not_move() {
    let mut cluster = cluster();
    cluster.lose(1, LogIndex(3));
    elect_damaged(&mut cluster, |_| false);
    cluster.pass(2_000);
    assert_eq!(cluster.leader(), Some(1));
    let asked = cluster.turn(1, |replica, turn| replica.transfer_leadership(turn, None));
    assert!(
        asked == Ok(peer(2)) || asked == Ok(peer(3)) || asked == Err(TransferError::NobodyAnswers)
    );
}

#[test]
fn a_quarantined_replica_says_nothing_of_what_it_was_asked_for_before() {
    let mut cluster = cluster();
    cluster.lose(2, LogIndex(3));
    let wanted = WantedEntries {
        partition: raft_support::PARTITION,
        peer: peer(1),
        term: cluster.status(2).term,
        from: LogIndex(3),
        to: LogIndex(3),
        bytes_max: 1 << 20,
        purpose: WantedFor::Refetch,
    };
    let answers =
        |p: &Packet| p.from == 2 && matches!(p.say.body(), Some(RaftBody::Refetched { .. }));
    cluster.turn(2, |replica, turn| replica.entries_unreadable(turn, &wanted));
    assert_eq!(cluster.take(answers).len(), 1);
    cluster.turn(2, |replica, turn| {
        replica.quarantine(turn);
        replica.entries_unreadable(turn, &wanted);
    });
    assert_eq!(cluster.take(answers).len(), 0);
}
