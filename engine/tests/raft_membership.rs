//! Changes of members, on one replica's side of them: what takes effect when, and what a leader refuses.

mod raft_support;

use clustor_engine::raft::configuration::{
    ADDRESS_BYTES_MAX, CONFIGURATION_BYTES_MAX, ConfigurationError, NOTES_MAX, Standing, Step,
    VOTERS_MAX,
};
use clustor_engine::raft::fitness::{
    CATCH_UP_ENTRIES, CATCH_UP_MS_MAX, JOINT_COMMITS, STRUCTURAL_LAG_MS,
};
use clustor_engine::raft::{Change, ChangeError, Configuration, MemberChange, Position};
use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{RaftBody, Role};
use raft_support::disk::MemoryDisk;
use raft_support::{Cluster, peer};

fn change(
    cluster: &mut Cluster,
    node: usize,
    change: &MemberChange,
) -> Result<Position, ChangeError> {
    cluster.turn(node, |replica, turn| replica.change_members(turn, change))
}

fn learn(cluster: &mut Cluster, node: usize, learner: usize) {
    let add = MemberChange::AddLearner {
        peer: peer(learner),
        address: format!("10.0.0.{learner}:7000"),
    };
    change(cluster, node, &add).expect("a learner is added");
    cluster.pass(60);
}

fn voters(add: &[usize], remove: &[usize]) -> MemberChange {
    MemberChange::Voters {
        add: add.iter().map(|node| peer(*node)).collect(),
        remove: remove.iter().map(|node| peer(*node)).collect(),
    }
}

/// Three of four vote, and 1 leads, with 1,601 entries of which its cache holds few.
fn long_logged() -> Cluster {
    let mut cluster = Cluster::with_spares_and_cache(4, 3, 16 << 10);
    cluster.elect(1);
    cluster.pass(60);
    for _ in 0..40 {
        cluster.write(1, &[&b"before"[..]; 40]);
    }
    cluster
}

/// Nodes 1 to `first` vote; the others hold an empty replica.
fn grown(nodes: usize, first: usize) -> Cluster {
    let mut cluster = Cluster::with_spares(nodes, first);
    cluster.elect(1);
    cluster.pass(60);
    cluster
}

#[test]
fn an_entrance_takes_effect_when_it_is_appended_and_is_undone_by_a_truncation() {
    let mut cluster = grown(4, 3);
    learn(&mut cluster, 1, 4);
    cluster.isolate(1);
    change(&mut cluster, 1, &voters(&[4], &[])).expect("begun");
    assert!(cluster.status(1).configuration.is_joint());
    cluster.elect(2);
    cluster.write(2, &[b"a"]);
    cluster.heal();
    cluster.pass(400);
    let status = cluster.status(1);
    assert!(!status.configuration.is_joint());
    assert_eq!(
        status.configuration.standing(peer(4)),
        Some(Standing::Learner)
    );
    assert_eq!(status.change, Change::None);
}

#[test]
fn an_exit_takes_effect_once_its_record_is_durable_and_not_before() {
    let mut cluster = grown(4, 3);
    learn(&mut cluster, 1, 4);
    // The leader's disk stops behind the exit: it is committed by others' disks only together with its own.
    change(&mut cluster, 1, &voters(&[4], &[])).expect("begun");
    let mut recorded = 0;
    for _ in 0..2_000 {
        cluster.now = cluster.now.plus_ms(1);
        cluster.carry();
        let before = cluster.status(1);
        for packet in cluster.take(|_| true) {
            cluster.deliver(packet);
        }
        let log = cluster.node(1).log.partition(raft_support::PARTITION);
        let on_record = log.and_then(|log| log.exit_committed);
        let after = cluster.status(1);
        if let Change::Finishing { exit, .. } = after.change {
            assert_eq!(on_record.map(|(_, index)| index), Some(exit));
            recorded += 1;
            break;
        }
        if on_record.is_some() {
            // Decided, and not durable yet: both halves still decide.
            assert!(before.configuration.is_joint());
        }
    }
    assert_eq!(recorded, 1, "{:#?}", cluster.status(1));
    cluster.pass(200);
    assert_eq!(cluster.status(1).change, Change::None);
    assert_eq!(cluster.status(4).configuration.first().len(), 4);
}

#[test]
fn an_address_travels_with_the_configuration_and_stays_with_the_voter() {
    let mut cluster = grown(4, 3);
    learn(&mut cluster, 1, 4);
    change(&mut cluster, 1, &voters(&[4], &[2])).expect("begun");
    cluster.pass(200);
    for node in [1, 3, 4] {
        let configuration = cluster.status(node).configuration;
        assert_eq!(configuration.notes()[0].address, "10.0.0.4:7000");
        assert_eq!(configuration.standing(peer(4)), Some(Standing::Voter));
        assert_eq!(configuration.standing(peer(2)), None);
    }
}

#[test]
fn who_left_is_named_until_the_next_change_of_voters() {
    let mut cluster = grown(5, 3);
    let named = |cluster: &mut Cluster| {
        let replica = &cluster.node(3).replica;
        let mut named: Vec<_> = replica.named(peer(3)).collect();
        named.sort();
        named.dedup();
        named
    };
    learn(&mut cluster, 1, 4);
    assert_eq!(named(&mut cluster), [1, 2, 4].map(peer));
    change(&mut cluster, 1, &voters(&[4], &[2])).expect("begun");
    cluster.pass(200);
    assert_eq!(cluster.status(3).change, Change::None);
    assert_eq!(named(&mut cluster), [1, 2, 4].map(peer));
    learn(&mut cluster, 1, 5);
    change(&mut cluster, 1, &voters(&[5], &[])).expect("begun");
    cluster.pass(200);
    assert_eq!(cluster.status(3).change, Change::None);
    assert_eq!(named(&mut cluster), [1, 4, 5].map(peer));
}

#[test]
fn a_member_that_moved_is_noted_and_may_be_forgotten_again() {
    let mut cluster = grown(4, 3);
    learn(&mut cluster, 1, 4);
    let moved = |node, address: &str| MemberChange::Address {
        peer: peer(node),
        address: address.to_owned(),
    };
    let address = |cluster: &Cluster, node| {
        let configuration = cluster.status(3).configuration;
        configuration.address_of(peer(node)).map(str::to_owned)
    };
    for (node, to) in [(2, "10.0.0.9:1"), (4, "10.0.0.9:2")] {
        change(&mut cluster, 1, &moved(node, to)).expect("noted");
        cluster.pass(200);
        assert_eq!(address(&cluster, node), Some(to.to_owned()));
    }
    let standing = |cluster: &Cluster, node| cluster.status(3).configuration.standing(peer(node));
    assert_eq!(standing(&cluster, 2), Some(Standing::Voter));
    assert_eq!(standing(&cluster, 4), Some(Standing::Learner));
    // By the placement again.
    change(&mut cluster, 1, &moved(2, "")).expect("noted");
    cluster.pass(200);
    assert_eq!(address(&cluster, 2), None);
    assert!(matches!(
        change(&mut cluster, 1, &moved(7, "10.0.0.9:3")),
        Err(ChangeError::Configuration(ConfigurationError::Stranger(_)))
    ));
}

#[test]
fn a_leader_refuses_what_makes_no_sense() {
    let mut cluster = grown(4, 3);
    let refused = |cluster: &mut Cluster, node, asked: &MemberChange| {
        change(cluster, node, asked).expect_err("refused")
    };
    assert!(matches!(
        refused(&mut cluster, 2, &voters(&[], &[1])),
        ChangeError::NotLeader { leader } if leader == Some(peer(1))
    ));
    assert!(matches!(
        refused(&mut cluster, 1, &voters(&[4], &[])),
        ChangeError::NotA {
            wanted: "learner",
            ..
        }
    ));
    assert!(matches!(
        refused(&mut cluster, 1, &voters(&[], &[4])),
        ChangeError::NotA {
            wanted: "voter",
            ..
        }
    ));
    assert!(matches!(
        refused(&mut cluster, 1, &voters(&[], &[1, 2, 3])),
        ChangeError::Configuration(ConfigurationError::Count(0))
    ));
    assert_eq!(
        refused(&mut cluster, 1, &MemberChange::RollBack),
        ChangeError::NothingToRollBack
    );
    let twice = MemberChange::AddLearner {
        peer: peer(2),
        address: String::new(),
    };
    assert!(matches!(
        refused(&mut cluster, 1, &twice),
        ChangeError::Configuration(ConfigurationError::Twice(_))
    ));
    let long = MemberChange::AddLearner {
        peer: peer(4),
        address: "x".repeat(ADDRESS_BYTES_MAX + 1),
    };
    assert!(matches!(
        refused(&mut cluster, 1, &long),
        ChangeError::Configuration(ConfigurationError::Address(_))
    ));
    assert_eq!(cluster.status(1).last_index, LogIndex(1));
}

#[test]
fn a_leader_refuses_changes_before_it_has_committed_in_its_term() {
    let mut cluster = grown(4, 3);
    // 2 is elected, and its first entry reaches nobody.
    cluster.now = cluster.now.plus_ms(400);
    cluster.time_out(2);
    cluster.run_but(|packet| {
        packet.from == 2 && matches!(packet.say.body(), Some(RaftBody::Append { .. }))
    });
    assert_eq!(cluster.status(2).role, Role::Leader);
    assert!(matches!(
        change(&mut cluster, 2, &voters(&[], &[3])),
        Err(ChangeError::UnderWay { .. })
    ));
}

#[test]
fn a_learner_gets_the_log_from_its_beginning_and_is_promoted_when_it_has_it() {
    let mut cluster = long_logged();
    let add = MemberChange::AddLearner {
        peer: peer(4),
        address: String::new(),
    };
    change(&mut cluster, 1, &add).expect("added");
    assert!(matches!(
        change(&mut cluster, 1, &voters(&[4], &[])),
        Err(ChangeError::UnderWay { .. })
    ));
    cluster.run_but(|packet| packet.to == 4);
    assert!(matches!(
        change(&mut cluster, 1, &voters(&[4], &[])),
        Err(ChangeError::Lags { behind: 1602, .. })
    ));
    cluster.pass(1_000);
    change(&mut cluster, 1, &voters(&[4], &[])).expect("it has caught up");
    cluster.pass(200);
    assert_eq!(cluster.status(4).applicable, cluster.status(1).applicable);
    assert_eq!(cluster.status(4).configuration.first().len(), 4);
}

#[test]
fn a_learner_that_is_a_few_bytes_behind_has_caught_up_however_many_entries_those_are() {
    let mut cluster = grown(4, 3);
    learn(&mut cluster, 1, 4);
    let but_4 = |packet: &raft_support::Packet| {
        packet.to == 4 && matches!(packet.say.body(), Some(RaftBody::Append { .. }))
    };
    let behind = |cluster: &Cluster| {
        let status = cluster.status(1);
        let of = status.followers.iter().find(|f| f.peer == peer(4));
        status.last_index.get() - of.expect("a follower").durable.get()
    };
    for _ in 0..2 * CATCH_UP_ENTRIES {
        cluster.propose(1, b"few bytes");
        cluster.run_but(but_4);
    }
    cluster.pass_but(60, but_4);
    assert_eq!(behind(&cluster), 2 * CATCH_UP_ENTRIES);
    change(&mut cluster, 1, &voters(&[4], &[])).expect("they are less than 4 MiB");
}

#[test]
fn a_learner_that_takes_in_too_little_for_too_long_is_not_waited_for() {
    let mut cluster = long_logged();
    let add = MemberChange::AddLearner {
        peer: peer(4),
        address: String::new(),
    };
    change(&mut cluster, 1, &add).expect("added");
    // It answers, and gets no entry.
    let no_entries = |packet: &raft_support::Packet| {
        packet.to == 4 && matches!(packet.say.body(), Some(RaftBody::Append { .. }))
    };
    let asked = voters(&[4], &[]);
    cluster.pass_but(1_000, no_entries);
    assert!(matches!(
        change(&mut cluster, 1, &asked),
        Err(ChangeError::Lags { .. })
    ));
    let until = cluster.now.plus_ms(CATCH_UP_MS_MAX);
    while cluster.now < until {
        cluster.now = cluster.now.plus_ms(20);
        cluster.pass_but(1, no_entries);
    }
    assert!(matches!(
        change(&mut cluster, 1, &asked),
        Err(ChangeError::NeverCatchesUp { .. })
    ));
    cluster.pass(1_000);
    change(&mut cluster, 1, &asked).expect("it has caught up after all");
}

#[test]
fn a_joint_configuration_is_left_once_both_halves_have_committed_enough_in_it() {
    let mut cluster = grown(4, 3);
    learn(&mut cluster, 1, 4);
    let entered = change(&mut cluster, 1, &voters(&[4], &[])).expect("begun");
    let mut exit = None;
    for _ in 0..2_000 {
        cluster.now = cluster.now.plus_ms(1);
        cluster.run_but(|_| false);
        if let Change::Finishing { exit: at, .. } = cluster.status(1).change {
            exit = Some(at);
        }
        if cluster.status(1).change == Change::None {
            break;
        }
    }
    let exit = exit.or_else(|| {
        let log = cluster.node(1).log.partition(raft_support::PARTITION)?;
        log.exit_committed.map(|(_, index)| index)
    });
    let behind = LogIndex(entered.index.get() + JOINT_COMMITS + 1);
    assert_eq!(exit, Some(behind));
}

fn is_append(packet: &raft_support::Packet) -> bool {
    matches!(packet.say.body(), Some(RaftBody::Append { .. }))
}

/// Four vote and a fifth is to, which falls silent as soon as the change is begun. A commit takes half a second, so that enough
/// are made only after the newcomer has lagged for long. The others could stand a loss without it. Returns since when it is silent.
fn joint_with_a_silent_newcomer(cluster: &mut Cluster) -> Time {
    learn(cluster, 1, 5);
    let entered = change(cluster, 1, &voters(&[5], &[])).expect("begun");
    cluster.isolate(5);
    let since = cluster.now;
    let enough = entered.index.get() + JOINT_COMMITS;
    while cluster.status(1).wal_committed.get() < enough {
        let change = cluster.status(1).change;
        assert!(
            matches!(change, Change::Joint { exit: None, .. }),
            "{change:?}"
        );
        for append in cluster.take(is_append) {
            cluster.deliver(append);
        }
        for _ in 0..25 {
            cluster.now = cluster.now.plus_ms(19);
            cluster.pass_but(1, is_append);
        }
        assert!(cluster.now < since.plus_ms(CATCH_UP_MS_MAX / 2));
    }
    assert!(cluster.now >= since.plus_ms(STRUCTURAL_LAG_MS));
    since
}

#[test]
fn a_new_voter_that_has_lagged_for_long_holds_the_way_out_up() {
    let mut cluster = grown(5, 4);
    joint_with_a_silent_newcomer(&mut cluster);
    cluster.pass(1_000);
    let held = cluster.status(1).change;
    assert!(matches!(held, Change::Joint { exit: None, .. }), "{held:?}");
    cluster.heal();
    cluster.pass(1_000);
    let status = cluster.status(1);
    assert_eq!(status.change, Change::None);
    assert_eq!(status.configuration.first().len(), 5);
}

#[test]
fn a_change_whose_new_voter_does_not_come_back_is_taken_back_after_two_minutes() {
    let mut cluster = grown(5, 4);
    let since = joint_with_a_silent_newcomer(&mut cluster);
    let until = since.plus_ms(CATCH_UP_MS_MAX);
    while cluster.now < until {
        let change = cluster.status(1).change;
        assert!(
            matches!(change, Change::Joint { exit: None, .. }),
            "{change:?}"
        );
        cluster.now = cluster.now.plus_ms(19);
        cluster.pass(1);
    }
    cluster.pass(1_000);
    let status = cluster.status(1);
    assert_eq!(status.change, Change::None);
    assert_eq!(status.configuration.first().len(), 4);
    let standing = status.configuration.standing(peer(5));
    assert_eq!(standing, Some(Standing::Learner));
}

#[test]
fn a_new_voter_that_is_far_behind_holds_the_way_out_up_at_once() {
    // What the cache holds no more counts as more than any number of bytes.
    let mut cluster = Cluster::with_spares_and_cache(5, 4, 16 << 10);
    cluster.elect(1);
    cluster.pass(60);
    learn(&mut cluster, 1, 5);
    change(&mut cluster, 1, &voters(&[5], &[])).expect("begun");
    for _ in 0..=CATCH_UP_ENTRIES {
        cluster.propose(1, b"not for everybody");
    }
    cluster.pass_but(200, is_append);
    cluster.pass_but(1_000, |packet| packet.to == 5 && is_append(packet));
    let status = cluster.status(1);
    assert_eq!(status.wal_committed, status.last_index);
    let held = status.change;
    assert!(matches!(held, Change::Joint { exit: None, .. }), "{held:?}");
    cluster.pass(1_000);
    assert_eq!(cluster.status(1).change, Change::None);
    assert_eq!(cluster.status(5).configuration.first().len(), 5);
}

#[test]
fn who_could_not_stand_what_the_present_voters_can_does_not_take_over() {
    let mut cluster = grown(5, 5);
    cluster.crash(5);
    cluster.pass(400);
    let refused = change(&mut cluster, 1, &voters(&[], &[4])).expect_err("refused");
    let without_4 = ChangeError::WouldNotSurvive {
        voters: 4,
        spare: 0,
        unfit: peer(5),
    };
    assert_eq!(refused, without_4);
    assert!(refused.to_string().contains("one more loss"), "{refused}");
    change(&mut cluster, 1, &voters(&[], &[5])).expect("who is lost may go");
}

#[test]
fn how_a_learner_writes_counts_once_it_votes() {
    const BLOCKING: u8 = 2;
    let mut cluster = grown(4, 3);
    cluster.node(4).io_writer_mode = BLOCKING;
    learn(&mut cluster, 1, 4);
    cluster.write(1, &[b"told to the learner too"]);
    cluster.pass(200);
    assert_eq!(cluster.node(1).replica.voter_writing(BLOCKING), None);
    change(&mut cluster, 1, &voters(&[4], &[])).expect("it has caught up");
    cluster.pass(200);
    let voter = cluster.node(1).replica.voter_writing(BLOCKING);
    assert_eq!(voter, Some(peer(4)));
}

#[test]
fn who_left_goes_on_voting_until_the_change_is_over() {
    let mut cluster = grown(5, 3);
    learn(&mut cluster, 1, 4);
    learn(&mut cluster, 1, 5);
    let entered = change(&mut cluster, 1, &voters(&[4, 5], &[2, 3])).expect("begun");
    let exit = LogIndex(entered.index.get() + JOINT_COMMITS + 1);
    // 1 acts on the exit; 4 and 5 never hear that it is committed.
    for _ in 0..2_000 {
        cluster.now = cluster.now.plus_ms(1);
        cluster.run_but(|packet| {
            packet.from == 1
                && packet.to > 3
                && match packet.say.body() {
                    Some(RaftBody::Append { wal_committed, .. }) => *wal_committed >= exit,
                    _ => matches!(packet.say, raft_support::Say::Heartbeat(_)),
                }
        });
        if matches!(cluster.status(1).change, Change::Finishing { .. }) {
            break;
        }
    }
    assert!(matches!(
        cluster.status(1).change,
        Change::Finishing {
            stated: Some(_),
            ..
        } | Change::Finishing { stated: None, .. }
    ));
    cluster.net.clear();
    cluster.crash(1);
    assert!(cluster.status(4).configuration.is_joint());
    // The new half needs a majority of the old one, and gets it.
    cluster.pass(3_000);
    let leader = cluster.leader().expect("a leader");
    cluster.pass(300);
    assert_eq!(cluster.status(leader).change, Change::None);
    assert_eq!(cluster.status(4).configuration.first().len(), 3);
}

#[test]
fn a_sole_voter_heeds_nobody_that_claims_to_lead() {
    let mut cluster = grown(2, 2);
    cluster.write(1, &[b"a"]);
    change(&mut cluster, 1, &voters(&[], &[1])).expect("begun");
    cluster.pass(2_000);
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.status(1).role, Role::Follower);
    assert_eq!(cluster.status(1).configuration.first(), [peer(2)]);
    let term = cluster.status(2).term;
    cluster.pass(2_000);
    assert_eq!(cluster.status(2).term, term);
    // Who was removed forgets who led.
    assert_eq!(cluster.status(1).leader, None);
}

#[test]
fn configurations_with_everything_in_them_fit_and_survive_their_bytes() {
    let half = |from: u64| (from..from + VOTERS_MAX as u64).map(|n| peer(n as usize));
    let mut configuration = Configuration::simple(half(1).collect()).expect("voters");
    for node in 0..NOTES_MAX {
        let standing = if node < 2 {
            Standing::Observer
        } else {
            Standing::Learner
        };
        configuration = configuration
            .with_member(peer(100 + node), standing, &"a".repeat(ADDRESS_BYTES_MAX))
            .expect("room");
    }
    assert!(matches!(
        configuration.with_member(peer(200), Standing::Learner, ""),
        Err(ConfigurationError::Notes(_))
    ));
    let add: Vec<_> = (102..109).map(peer).collect();
    let remove: Vec<_> = (1..8).map(peer).collect();
    let joint = configuration.entering(&add, &remove).expect("nine again");
    assert_eq!(joint.step(), Step::Enters);
    let bytes = joint.encode();
    assert_eq!(bytes.len(), CONFIGURATION_BYTES_MAX);
    assert_eq!(Configuration::decode(&bytes), Ok(joint.clone()));
    for cut in 1..bytes.len() {
        if let Ok(read) = Configuration::decode(&bytes[..cut]) {
            assert!(read.encode().len() == cut, "what is read is what is there");
        }
    }
    let back = joint.leaving(true).expect("the first half");
    assert_eq!(back.first(), configuration.first());
    assert_eq!(back.notes(), configuration.notes());
    let forward = joint.leaving(false).expect("the second half");
    assert_eq!(forward.standing(peer(1)), None);
    assert_eq!(forward.standing(peer(105)), Some(Standing::Voter));
    assert_eq!(forward.restated().step(), Step::States);
}

#[test]
fn who_asks_for_the_way_back_again_hears_where_the_change_ends() {
    let mut cluster = grown(4, 3);
    learn(&mut cluster, 1, 4);
    change(&mut cluster, 1, &voters(&[4], &[])).expect("begun");
    let back = change(&mut cluster, 1, &MemberChange::RollBack).expect("taken back");
    let again = change(&mut cluster, 1, &MemberChange::RollBack).expect_err("once");
    let left = ChangeError::LeftAlready {
        index: back.index,
        back: true,
    };
    assert_eq!(again, left);
    assert!(
        again
            .to_string()
            .contains(&format!("at entry {}", back.index))
    );
}

#[test]
fn an_empty_disk_under_an_old_number_vouches_for_nothing() {
    let mut cluster = grown(4, 4);
    cluster.write(1, &[b"a", b"b", b"c"]);
    let durable = |cluster: &Cluster| {
        let status = cluster.status(1);
        let of = status.followers.iter().find(|f| f.peer == peer(4));
        of.map(|follower| follower.durable)
    };
    assert_eq!(durable(&cluster), Some(LogIndex(4)));
    cluster.crash(4);
    change(&mut cluster, 1, &voters(&[], &[4])).expect("begun");
    cluster.pass(200);
    assert_eq!(cluster.status(1).change, Change::None);
    // Added again at once, while the leader still tells those who left that it is over.
    let add = MemberChange::AddLearner {
        peer: peer(4),
        address: String::new(),
    };
    change(&mut cluster, 1, &add).expect("added");
    assert_eq!(durable(&cluster), Some(LogIndex(0)));
    cluster.node(4).disk = MemoryDisk::default();
    cluster.restart(4);
    cluster.pass(1_000);
    assert_eq!(cluster.status(4).applicable, cluster.status(1).applicable);
    change(&mut cluster, 1, &voters(&[4], &[])).expect("it has caught up");
    cluster.pass(200);
    assert_eq!(cluster.status(4).configuration.first().len(), 4);
}

#[test]
fn voters_that_the_placement_names_leave_room_for_notes_of_others() {
    let mut configuration = Configuration::simple(vec![peer(1)]).expect("one voter");
    for node in 2..=9 {
        let with = configuration.with_member(peer(node), Standing::Learner, "");
        let with = with.expect("room for a learner");
        let joint = with.entering(&[peer(node)], &[]).expect("joint");
        let back = joint.leaving(true).expect("the way back");
        assert_eq!(back.standing(peer(node)), Some(Standing::Learner));
        configuration = joint.leaving(false).expect("the way forward").restated();
        assert_eq!(configuration.standing(peer(node)), Some(Standing::Voter));
        assert!(configuration.notes().is_empty());
    }
    for node in 10..=11 {
        let with = configuration.with_member(peer(node), Standing::Observer, "");
        configuration = with.expect("room for an observer");
    }
    let with = configuration.with_member(peer(12), Standing::Learner, "");
    let bytes = with.expect("room for a learner").encode();
    assert_eq!(
        Configuration::decode(&bytes).expect("reads").encode(),
        bytes
    );
}
