//! `clustor member` where something is in the way: what is begun and not over, who votes while nobody leads, a replacement that
//! is interrupted and goes on, and what is said of a change that makes no sense.

#[path = "support/members.rs"]
mod members;
mod support;

use std::process::{Output, Stdio};
use std::time::Instant;

use members::{Cluster, PATIENCE, assert_code, text, voters};
use serde_json::Value;
use support::id;

/// A leader that nobody answers leads on for so long, and a transfer waits for so long.
const PATIENT: [(&str, u64); 2] = [("election_ms_min", 5_000), ("election_ms_max", 10_000)];

fn json(output: &Output) -> Value {
    let found = serde_json::from_slice(&output.stdout);
    found.unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn named(node: u16) -> String {
    node.to_string()
}

/// The leader and the two others of three nodes.
fn roles(cluster: &Cluster) -> (u16, u16, u16) {
    let leader = u16::try_from(cluster.leader()).expect("a node");
    let mut others = (1..=3).filter(|node| *node != leader);
    let [one, other] = [(); 2].map(|()| others.next().expect("three nodes"));
    (leader, one, other)
}

/// Waits until what `member show` says is as it should be.
fn wait_for(cluster: &Cluster, is: impl Fn(&Value) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let shown = cluster.show();
        if is(&shown) {
            return;
        }
        assert!(Instant::now() < until, "{shown}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn answers(shown: &Value, node: u16) -> bool {
    let members = shown["members"].as_array().expect("members");
    let of = members.iter().find(|m| m["node"] == named(node));
    of.expect("a member")["answers"] == true
}

#[test]
fn a_change_whose_leader_is_lost_is_unknown_and_who_votes_is_told_without_a_leader() {
    let mut cluster = Cluster::tuned(3, &PATIENT);
    cluster.append("a");
    let (leader, frozen, gone) = roles(&cluster);
    cluster.kill(gone);
    wait_for(&cluster, |shown| !answers(shown, gone));
    // The leader does not know it yet, and begins what it can't end.
    cluster.signal(frozen, "-STOP");
    let mut removing = cluster.command(
        &["member", "remove"],
        &[
            "--operator",
            "ops",
            "--json",
            "--timeout-ms",
            "20000",
            "1",
            &named(gone),
        ],
    );
    let removing = removing
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the clustor binary runs");
    // Who asks may have waited for the frozen node first: the leader has turned back by then, or leads no more.
    wait_for(&cluster, |shown| {
        ["joint", "joint-back"]
            .iter()
            .any(|is| shown["change"] == *is)
    });
    cluster.kill(leader);
    let removed = removing.wait_with_output().expect("it ends");
    assert_code(&removed, 4);
    let said = json(&removed);
    assert_eq!(said["outcome"], "unknown");
    assert_eq!(said["partition"], "1");
    assert!(said["why"].as_str().expect("text").contains("begun"));

    // Nobody leads. The one that is left says what it knows, and that it does not lead.
    cluster.signal(frozen, "-CONT");
    let show = |more: &[&str]| {
        let mut args = more.to_vec();
        args.extend_from_slice(&["--timeout-ms", "3000", "1"]);
        cluster.run(&["member", "show"], &args)
    };
    // It takes an election timeout until it knows that the leader is gone.
    let until = Instant::now() + PATIENCE;
    let shown = loop {
        let shown = show(&["--json"]);
        if shown.status.success() {
            break json(&shown);
        }
        assert!(Instant::now() < until, "{shown:?}");
    };
    assert_eq!(shown["leads"], false);
    assert_eq!(id(&shown["node"]), Some(u64::from(frozen)));
    assert_eq!(shown["members"].as_array().expect("members").len(), 3);
    let people = show(&[]);
    assert_code(&people, 0);
    let told = format!("as node {frozen} knows");
    assert!(text(&people.stdout).contains(&told), "{people:?}");
}

#[test]
fn a_transfer_that_its_leader_gave_up_is_asked_for_again() {
    let mut cluster = Cluster::tuned(3, &PATIENT);
    cluster.append("a");
    let (_, to, _) = roles(&cluster);
    // The leader takes it for one that answers, and tells it to lead while it is gone.
    cluster.kill(to);
    let transferring = cluster
        .command(
            &["member", "transfer"],
            &[
                "--operator",
                "ops",
                "--timeout-ms",
                "60000",
                "1",
                &named(to),
            ],
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the clustor binary runs");
    // Nothing is appended meanwhile; and then it is given up.
    let until = Instant::now() + PATIENCE;
    let taken = || cluster.run(&["append"], &["--timeout-ms", "500", "1", "b", "x"]);
    while taken().status.success() {
        assert!(Instant::now() < until, "it is handed over");
    }
    cluster.append("c");
    cluster.boot(to);
    assert_code(&transferring.wait_with_output().expect("it ends"), 0);
    assert_eq!(cluster.leader(), u64::from(to));
}

#[test]
fn a_replaced_node_is_what_it_was_and_an_interrupted_replacement_goes_on() {
    let mut cluster = Cluster::start();
    cluster.append("a");
    let observer = || (4, "observer".to_owned());

    assert_code(&cluster.member("remove", &["1", "4"]), 0);
    let stranger = cluster.member("replace", &["--json", "1", "4"]);
    assert_code(&stranger, 1);
    assert!(text(&stranger.stderr).contains("no member"), "{stranger:?}");
    assert_eq!(json(&stranger)["outcome"], "not changed");
    assert_eq!(cluster.members(), voters(&[1, 2, 3]));

    assert_code(&cluster.member("observe", &["1", "4"]), 0);
    cluster.kill(4);
    cluster.lose_disk(4);
    assert_code(&cluster.member("replace", &["1", "4"]), 0);
    assert_eq!(cluster.members()[3], observer());

    // The disk of 3 is gone, and it does not come back in time.
    cluster.kill(3);
    cluster.lose_disk(3);
    let args = ["--operator", "ops", "--timeout-ms", "8000", "1", "3"];
    let interrupted = cluster.run(&["member", "replace"], &args);
    assert_code(&interrupted, 4);
    assert!(
        text(&interrupted.stderr).contains("--as voter"),
        "{interrupted:?}"
    );
    let learner = (3, "learner".to_owned());
    assert_eq!(cluster.members()[2], learner);
    // What a learner was by itself it stays.
    assert_code(&cluster.member("replace", &["1", "3"]), 0);
    assert_eq!(cluster.members()[2], learner);
    cluster.boot(3);
    assert_code(&cluster.member("replace", &["--as", "voter", "1", "3"]), 0);
    let mut all = voters(&[1, 2, 3]);
    all.push(observer());
    assert_eq!(cluster.members(), all);
    // It stands on the disk that the others know.
    let again = cluster.member("replace", &["1", "3"]);
    assert_code(&again, 0);
    let told = text(&again.stderr);
    assert!(told.contains("nothing to replace"), "{told}");
    assert!(!told.contains("removed"), "{told}");
    assert_eq!(cluster.members(), all);
}

/// What node 3 is in a partition.
fn standing(cluster: &Cluster, partition: &str) -> Option<String> {
    let mut members = cluster.members_of(partition).into_iter();
    let of_3 = members.find(|(node, _)| *node == 3);
    of_3.map(|(_, standing)| standing)
}

#[test]
fn one_command_replaces_a_node_in_all_of_its_partitions() {
    let mut cluster = Cluster::with(4, 4, 4);
    cluster.append("a");
    // In one it observes, of one it is no member.
    for partition in ["2", "3"] {
        assert_code(&cluster.member("remove", &[partition, "3"]), 0);
    }
    assert_code(&cluster.member("observe", &["2", "3"]), 0);
    let before = ["1", "2", "3", "4"].map(|partition| standing(&cluster, partition));
    cluster.kill(3);
    cluster.lose_disk(3);
    let mut replacing = cluster.command(
        &["member", "replace"],
        &[
            "--operator",
            "ops",
            "--json",
            "--timeout-ms",
            "120000",
            "all",
            "3",
        ],
    );
    let replacing = replacing
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the clustor binary runs");
    // It is let in everywhere before anything waits for it.
    let until = Instant::now() + PATIENCE;
    for partition in ["1", "4"] {
        while standing(&cluster, partition).as_deref() != Some("learner") {
            assert!(
                Instant::now() < until,
                "{:?}",
                standing(&cluster, partition)
            );
        }
    }
    cluster.boot(3);
    let replaced = replacing.wait_with_output().expect("it ends");
    assert_code(&replaced, 0);
    let said = json(&replaced);
    let outcomes = said["partitions"].as_array().expect("partitions").iter();
    let outcomes: Vec<_> = outcomes.map(|of| of["outcome"].clone()).collect();
    assert_eq!(outcomes, ["replaced", "replaced", "no-member", "replaced"]);
    let after = ["1", "2", "3", "4"].map(|partition| standing(&cluster, partition));
    assert_eq!(after, before);
}

#[test]
fn what_makes_no_sense_says_what_would_and_programs_are_told_as_well() {
    let cluster = Cluster::start();
    for verb in ["transfer", "promote", "remove"] {
        let stranger = cluster.member(verb, &["--json", "1", "9"]);
        assert_code(&stranger, 1);
        let told = text(&stranger.stderr);
        assert!(told.contains("`clustor member add`"), "{told}");
        assert!(!told.contains("--address"), "{told}");
        let said = json(&stranger);
        assert_eq!(said["outcome"], "not changed");
        assert!(said["why"].as_str().expect("text").contains("no member"));
    }
    let voter = cluster.member("observe", &["--json", "1", "4"]);
    assert_code(&voter, 1);
    assert_eq!(json(&voter)["clause"], "Unsupported");
    assert!(
        text(&voter.stderr).contains("`clustor member remove`"),
        "{voter:?}"
    );
    assert_code(&cluster.member("remove", &["1", "4"]), 0);
    assert_code(&cluster.member("observe", &["1", "4"]), 0);
    let observer = cluster.member("add", &["1", "4"]);
    assert_code(&observer, 1);
    assert!(
        text(&observer.stderr).contains("`clustor member remove`"),
        "{observer:?}"
    );
}
