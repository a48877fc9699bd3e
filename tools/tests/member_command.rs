//! `clustor member`, run as people run it: a partition loses a voter and gets it back, a node whose disk is gone is
//! replaced, one that nobody's placement lists joins, also while another is down, and moves, and what makes no sense is refused.

#[path = "support/members.rs"]
mod members;
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use members::{Cluster, PATIENCE, assert_code, text, voters};
use serde_json::Value;

#[test]
fn a_partition_shrinks_and_grows_and_a_node_whose_disk_is_gone_is_replaced() {
    let mut cluster = Cluster::start();
    cluster.append("a");
    assert_eq!(cluster.members(), voters(&[1, 2, 3, 4]));

    assert_code(&cluster.member("remove", &["1", "4"]), 0);
    assert_eq!(cluster.members(), voters(&[1, 2, 3]));
    // Once more changes nothing.
    assert_code(&cluster.member("remove", &["1", "4"]), 0);
    cluster.append("b");

    assert_code(&cluster.member("add", &["1", "4"]), 0);
    assert_eq!(cluster.members()[3], (4, "learner".to_owned()));
    assert_code(&cluster.member("promote", &["1", "4"]), 0);
    assert_eq!(cluster.members(), voters(&[1, 2, 3, 4]));

    assert_code(&cluster.member("transfer", &["1", "2"]), 0);

    // As an observer it gets the log, never votes, and is no learner that could be promoted.
    assert_code(&cluster.member("remove", &["1", "4"]), 0);
    assert_code(&cluster.member("observe", &["1", "4"]), 0);
    assert_eq!(cluster.members()[3], (4, "observer".to_owned()));
    assert_code(&cluster.member("observe", &["1", "4"]), 0);
    cluster.append("observed");
    cluster.wait_for_all_on(4);
    assert_eq!(cluster.members()[3], (4, "observer".to_owned()));
    assert_code(&cluster.member("remove", &["1", "4"]), 0);
    assert_eq!(cluster.members(), voters(&[1, 2, 3]));
    assert_code(&cluster.member("add", &["1", "4"]), 0);
    assert_code(&cluster.member("promote", &["1", "4"]), 0);
    assert_eq!(cluster.members(), voters(&[1, 2, 3, 4]));
    assert_code(&cluster.member("transfer", &["1", "2"]), 0);

    // The disk of 3 is gone. On an empty one it is not the voter that it was, and says so.
    cluster.kill(3);
    cluster.lose_disk(3);
    cluster.boot(3);
    let until = Instant::now() + PATIENCE;
    loop {
        let status = cluster.run(&["status"], &["--timeout-ms", "5000"]);
        if text(&status.stdout).contains("its disk is a new one") {
            break;
        }
        assert!(Instant::now() < until, "{status:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.append("while 3 is left out");
    cluster.kill(3);
    // The command waits for the node to come back.
    let mut replaced = cluster
        .command(
            &["member", "replace"],
            &["--operator", "ops", "--timeout-ms", "120000", "1", "3"],
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the clustor binary runs");
    let until = Instant::now() + PATIENCE;
    while !cluster.members().contains(&(3, "learner".to_owned())) {
        assert!(Instant::now() < until, "{:?}", cluster.members());
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.boot(3);
    let status = replaced.wait().expect("it ends");
    assert!(status.success(), "{status:?}");
    assert_eq!(cluster.members(), voters(&[1, 2, 3, 4]));

    // Of 1, 2 and 3, 1 goes: without 3 and what it has, nothing would be served.
    assert_code(&cluster.member("remove", &["1", "4"]), 0);
    cluster.kill(1);
    cluster.append("c");
    let read = cluster.run(&["read"], &["--timeout-ms", "60000", "1", "a"]);
    assert_code(&read, 0);
}

#[test]
fn a_node_that_the_others_never_heard_of_joins_by_one_command_and_may_move() {
    let mut cluster = Cluster::of(3);
    cluster.append("a");
    let known = cluster.clients.clone();
    cluster.prepare_4();
    cluster.boot(4);
    // Whoever asks need not know the node, either.
    let new = std::mem::replace(&mut cluster.clients, known);
    let address = cluster.address(4);
    assert_code(&cluster.member("add", &["1", "4"]), 1);
    assert_code(
        &cluster.member("add", &["1", "4", "--address", &address]),
        0,
    );
    assert_code(&cluster.member("promote", &["1", "4"]), 0);
    assert_eq!(cluster.members(), voters(&[1, 2, 3, 4]));
    // Nor does whoever writes while it leads: the others say where it listens.
    assert_code(&cluster.member("transfer", &["1", "4"]), 0);
    cluster.append("while 4 leads");
    assert_eq!(cluster.leader(), 4);
    cluster.clients = new;
    cluster.append("b");

    // Of 2, 3 and 4, two are left.
    assert_code(&cluster.member("remove", &["1", "1"]), 0);
    cluster.kill(1);
    cluster.kill(2);
    cluster.append("c");

    // After a restart 2 and 3 still know where 4 listens, without any placement that says so.
    cluster.kill(3);
    cluster.kill(4);
    for node in [2, 3, 4] {
        cluster.boot(node);
    }
    cluster.append("d");
    cluster.kill(2);
    cluster.append("e");
    cluster.boot(2);

    // 4 moves. 2 and 3 are a majority, and the command tells them where it is.
    cluster.kill(4);
    let moved = cluster.address(5);
    let config = std::fs::read_to_string(cluster.config(4)).expect("a config");
    let config = format!("{config}listen = \"{moved}\"\n");
    std::fs::write(cluster.config(4), config).expect("written");
    cluster.boot(4);
    assert_code(&cluster.member("address", &["1", "4", &moved]), 0);
    // The clients' placement names the former address.
    assert_code(&cluster.member("transfer", &["1", "4"]), 0);
    cluster.append("where 4 is");
    assert_eq!(cluster.leader(), 4);
    assert_code(&cluster.member("transfer", &["1", "3"]), 0);
    cluster.kill(2);
    cluster.append("f");
    let read = cluster.run(&["read"], &["--timeout-ms", "60000", "1", "a"]);
    assert_code(&read, 0);
}

#[test]
fn a_node_that_was_down_while_another_joined_and_led_learns_of_it_from_it() {
    let mut cluster = Cluster::of(3);
    cluster.append("a");
    cluster.kill(3);
    cluster.prepare_4();
    cluster.boot(4);
    let address = cluster.address(4);
    assert_code(
        &cluster.member("add", &["1", "4", "--address", &address]),
        0,
    );
    assert_code(&cluster.member("promote", &["1", "4"]), 0);
    assert_code(&cluster.member("transfer", &["1", "4"]), 0);
    cluster.append("while 3 is down");

    // Neither its placement nor its log names 4, which alone has something to tell it.
    cluster.boot(3);
    cluster.wait_for_all_on(3);
    assert_eq!(cluster.leader(), 4);
    assert_eq!(cluster.members(), voters(&[1, 2, 3, 4]));

    // Of four voters three are left, 3 among them.
    cluster.kill(1);
    cluster.append("with 3");
}

#[test]
fn a_leader_that_only_the_nodes_placements_list_is_named_with_its_address() {
    let mut cluster = Cluster::of(3);
    cluster.append("a");
    let known = cluster.clients.clone();
    cluster.prepare_4();
    for node in 1..=3 {
        cluster.kill(node);
        let config = std::fs::read_to_string(cluster.config(node)).expect("a config");
        let config = config.replace("\"placement.toml\"", "\"new/placement.toml\"");
        std::fs::write(cluster.config(node), config).expect("written");
    }
    for node in 1..=4 {
        cluster.boot(node);
    }
    assert_code(&cluster.member("add", &["1", "4"]), 0);
    assert_code(&cluster.member("promote", &["1", "4"]), 0);
    assert_code(&cluster.member("transfer", &["1", "4"]), 0);
    cluster.clients = known;
    cluster.append("b");
    assert_eq!(cluster.leader(), 4);
}

#[test]
fn a_leader_that_moved_reaches_a_lower_node_that_was_down_when_the_others_were_told() {
    let mut cluster = Cluster::of(3);
    cluster.append("a");
    cluster.kill(1);
    // 3 moves and 2 is told; then 3 leads, whose number is higher than that of 1.
    cluster.kill(3);
    let moved = cluster.address(4);
    let config = std::fs::read_to_string(cluster.config(3)).expect("a config");
    let config = format!("{config}listen = \"{moved}\"\n");
    std::fs::write(cluster.config(3), config).expect("written");
    let former = cluster.address(3);
    cluster.give_clients_a_placement(|old| {
        old.replace(&format!("\"{former}\""), &format!("\"{moved}\""))
    });
    cluster.boot(3);
    assert_code(&cluster.member("address", &["1", "3", &moved]), 0);
    assert_code(&cluster.member("transfer", &["1", "3"]), 0);
    // 1 knows the former address only: its placement's. With 3 it is a majority, if they find each other.
    cluster.boot(1);
    cluster.kill(2);
    cluster.append("b");
    let read = cluster.run(&["read"], &["--timeout-ms", "60000", "1", "a"]);
    assert_code(&read, 0);
    // It has learnt where 3 listens: it finds it as soon as both are back.
    cluster.kill(1);
    cluster.kill(3);
    cluster.boot(1);
    cluster.boot(3);
    cluster.append("c");
}

#[test]
fn one_command_tells_every_partition_where_a_node_listens() {
    let cluster = Cluster::with(3, 2, 3);
    let address = cluster.address(3);
    let told = cluster.member("address", &["--json", "all", "3", &address]);
    assert_code(&told, 0);
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(told["address"], address.as_str());
    let partitions = told["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), 3);
    let mut members = 0;
    for of in partitions {
        let partition = of["partition"].as_str().expect("a number");
        let shown = cluster.run(
            &["member", "show"],
            &["--json", "--timeout-ms", "60000", partition],
        );
        assert_code(&shown, 0);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let mut all = shown["members"].as_array().expect("members").iter();
        let Some(member) = all.find(|member| member["node"] == "3") else {
            assert_eq!(of["outcome"], "no-member");
            continue;
        };
        members += 1;
        assert_eq!(of["outcome"], "told");
        assert_eq!(member["address"], address.as_str());
    }
    assert!(members == 2, "{told}");
    let nowhere = cluster.member("address", &["all", "9", &address]);
    assert_code(&nowhere, 1);
    assert!(
        text(&nowhere.stdout).contains("node 9 is no member"),
        "{nowhere:?}"
    );
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let from = entry.expect("an entry").path();
        let to = to.join(from.file_name().expect("a name"));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copied");
        }
    }
    let rights = std::fs::metadata(from).expect("rights").permissions();
    std::fs::set_permissions(to, rights).expect("the same rights");
}

#[test]
fn a_disk_that_came_back_is_told_by_peers_that_ran_all_the_time() {
    let mut cluster = Cluster::of(3);
    cluster.append("a");
    cluster.kill(3);
    let image = cluster.dir.join("image");
    copy(&cluster.data(3), &image);
    cluster.boot(3);
    for key in 0..8 {
        cluster.append(&key.to_string());
    }
    // The others can do without it: they have to have heard of this life for it to be missed.
    cluster.wait_for_all_on(3);
    cluster.kill(3);
    cluster.lose_disk(3);
    copy(&image, &cluster.data(3));
    cluster.boot(3);
    let until = Instant::now() + PATIENCE;
    loop {
        let status = cluster.run(&["status"], &["--timeout-ms", "5000"]);
        if text(&status.stdout).contains("older image of itself") {
            break;
        }
        assert!(Instant::now() < until, "{status:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn changes_need_an_operator_and_members_a_replica() {
    let cluster = Cluster::start();
    let stranger = cluster.member("add", &["1", "9"]);
    assert_code(&stranger, 1);
    assert!(
        text(&stranger.stderr).contains("gives node 9 no replica")
            && text(&stranger.stderr).contains("--address"),
        "{stranger:?}"
    );
    let nothing = cluster.member("rollback", &["1"]);
    assert_code(&nothing, 1);
    assert!(
        text(&nothing.stderr).contains("nothing to roll back"),
        "{nothing:?}"
    );
    // A client's certificate under an operator's file name is still a client's.
    for end in ["pem", "key"] {
        let from = cluster.dir.join(format!("client-dev.{end}"));
        let to = cluster.dir.join(format!("operator-dev.{end}"));
        std::fs::copy(from, to).expect("copied");
    }
    let forbidden = cluster.run(&["member", "remove"], &["--operator", "dev", "1", "4"]);
    assert_code(&forbidden, 1);
    assert!(
        text(&forbidden.stderr).contains("only an operator's certificate"),
        "{forbidden:?}"
    );
    assert_eq!(cluster.members(), voters(&[1, 2, 3, 4]));
}
