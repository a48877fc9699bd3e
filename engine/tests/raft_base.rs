//! A leader whose log begins behind a base: what lies up to it can't be sent, and only a follower that ends below it is left
//! waiting for a snapshot. Who let go of an entry says so when it is asked for what it said.

mod raft_support;

use clustor_engine::raft::FollowerStatus;
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RaftMessage, RefetchVerdict, Role};
use raft_support::{Cluster, PARTITION, Packet, Say, peer};

/// Up to where the leader's log is gone.
const BASE: LogIndex = LogIndex(5);

/// Node 1 leads, behind a base; `behind` fell out before.
fn led_behind_a_base(behind: Option<usize>) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a", b"b"]);
    if let Some(behind) = behind {
        cluster.crash(behind);
    }
    cluster.write(1, &[b"c", b"d", b"e", b"f"]);
    cluster.crash(1);
    cluster.restart_behind(1, BASE);
    cluster.pass(500);
    cluster.elect(1);
    assert_eq!(cluster.status(1).base, BASE);
    cluster
}

fn follower(cluster: &Cluster, number: usize) -> FollowerStatus {
    let followers = cluster.status(1).followers;
    let found = followers.into_iter().find(|f| f.peer == peer(number));
    found.expect("a follower")
}

/// What 3 would have said of this term's log when it held `hint` entries, in time or late.
fn rejection(cluster: &Cluster, hint: u64) -> Packet {
    let status = cluster.status(1);
    Packet {
        from: 3,
        to: 1,
        say: Say::Message(RaftMessage {
            partition: PARTITION,
            term: status.term,
            body: RaftBody::AppendRejected {
                prev_index: status.last_index,
                hint_index: LogIndex(hint),
                hint_term: Term(1),
            },
        }),
    }
}

#[test]
fn a_late_rejection_that_names_a_place_below_the_base_stops_nobody() {
    let mut cluster = led_behind_a_base(None);
    cluster.write(1, &[b"g"]);
    let last = cluster.status(1).last_index;
    assert_eq!(follower(&cluster, 3).durable, last);
    let late = rejection(&cluster, 2);
    cluster.deliver(late);
    assert!(!follower(&cluster, 3).needs_snapshot);
    cluster.run();
    let position = cluster.write(1, &[b"h"]);
    cluster.pass(60);
    assert_eq!(cluster.status(3).applicable, position.index);
    // It counts: without the other one as well.
    cluster.crash(2);
    let position = cluster.write(1, &[b"i"]);
    assert_eq!(cluster.status(1).wal_committed, position.index);
}

#[test]
fn a_follower_that_ends_below_the_base_gets_nothing_and_the_others_go_on() {
    let mut cluster = led_behind_a_base(Some(3));
    cluster.restart(3);
    cluster.pass(2_000);
    let leader = cluster.leader().expect("somebody leads");
    assert_eq!(leader, 1);
    let position = cluster.write(1, &[b"g"]);
    cluster.pass(60);
    assert_eq!(cluster.status(2).applicable, position.index);
    assert_eq!(cluster.status(1).wal_committed, position.index);
    assert!(follower(&cluster, 3).needs_snapshot);
    assert!(cluster.status(3).last_index < BASE);
}

#[test]
fn a_follower_that_was_not_heard_in_time_is_not_taken_for_one_that_ends_below_the_base() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.write(1, &[b"a", b"b"]);
    cluster.write(1, &[b"c", b"d", b"e", b"f"]);
    cluster.crash(1);
    cluster.restart_behind(1, BASE);
    let is_told = |p: &Packet| p.from == 3 && p.to == 1;
    cluster.pass_but(500, is_told);
    cluster.elect_but(1, is_told);
    cluster.pass_but(2_000, is_told);
    cluster.take(is_told);
    assert_eq!(follower(&cluster, 3).durable, LogIndex(0));
    assert!(!follower(&cluster, 3).needs_snapshot);
    cluster.pass(2_000);
    let position = cluster.write(1, &[b"g"]);
    assert_eq!(follower(&cluster, 3).durable, position.index);
}

#[test]
fn what_a_majority_let_go_of_is_waited_for_and_not_taken_for_what_never_was() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for payload in [b"a", b"b", b"c"] {
        cluster.write(1, &[payload]);
    }
    cluster.pass(60);
    let last = cluster.status(1).last_index;
    let lost = LogIndex(3);
    for number in [2, 3] {
        cluster.crash(number);
        cluster.restart_behind(number, last);
    }
    cluster.lose(1, lost);
    // The others would go first, for they are whole; and take over, for 1 can't commit.
    let competes = |p: &Packet| {
        let body = p.say.body();
        p.from != 1 && matches!(body, Some(RaftBody::PreVote { .. }))
            || matches!(body, Some(RaftBody::TimeoutNow))
    };
    cluster.elect_but(1, competes);
    cluster.pass_but(3_000, competes);
    let status = cluster.status(1);
    assert_eq!((status.role, status.missing), (Role::Leader, 1));
    assert_eq!(status.wal_committed, LogIndex(0));
    assert!(status.last_index > last, "it took nothing back");
    let said = status.refetch.expect("it asks").said;
    assert_eq!(said.len(), 2, "{said:?}");
    for (_, verdict) in said {
        assert_eq!(verdict, Some(RefetchVerdict::Compacted));
    }
    // Neither does it as a follower.
    cluster.take(competes);
    cluster.pass(3_000);
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
    let status = cluster.status(1);
    assert_eq!((status.missing, status.missing_first), (1, Some(lost)));
    assert!(status.last_index > last);
}
