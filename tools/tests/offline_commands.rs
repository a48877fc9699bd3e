//! `clustor inspect` and `clustor scrub` on what a node wrote: beside it while it runs, after a kill, and where files are damaged or
//! can't be read.

#[path = "support/lone.rs"]
mod lone;

use std::path::Path;

use lone::{Dir, Running, ask, clustor, lone_cluster, text};

/// A cluster of one node that was killed after an append.
fn left_by_a_node() -> Dir {
    let dir = lone_cluster();
    let node = Running::start(&dir.path);
    let done = ask(&dir.path, "append", &["1", "key", "value"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    node.kill();
    dir
}

#[test]
fn inspect_shows_what_a_node_wrote_and_leaves_it_as_it_was() {
    let dir = left_by_a_node();
    let data = dir.path.join("data-1");
    let shown = clustor().arg("inspect").arg(&data).output().expect("runs");
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    assert!(shown.contains("Entry partition 1 term 1 index"), "{shown}");
    assert!(!shown.contains("BAD"), "{shown}");
    let lines = clustor()
        .args(["inspect", "--json", "--records"])
        .arg(&data)
        .output()
        .expect("runs");
    let lines = text(&lines.stdout);
    let all = || {
        let lines = lines.lines();
        lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
    };
    let record = all().find(|line| line["structure"] == "boot_record");
    let record = &record.expect("the start left one")["boot_record"];
    assert_eq!(record["version"], 1, "{record}");
    assert_eq!(record["partitions"][0]["partition"], "1", "{record}");
    let pairs: Vec<serde_json::Value> = all().filter(|line| line["structure"] == "pair").collect();
    let chains: usize = pairs
        .iter()
        .map(|pair| pair["chains"].as_array().expect("a list").len())
        .sum();
    assert!(chains >= 3, "opening, mark, and something behind: {chains}");
    let newest = pairs.iter().find(|pair| pair["role"] == "newest");
    let newest = newest.expect("one was written last");
    assert_eq!(newest["header_whole"]["segment"], true, "{newest}");
    assert_eq!(newest["checkpoint_whole"]["ledger"], true, "{newest}");
    assert_eq!(newest["chains"][0]["judgement"], "proven", "{newest}");
    let filtered = clustor()
        .args([
            "inspect",
            "--records",
            "--partition",
            "1",
            "--from",
            "2",
            "--to",
            "2",
        ])
        .arg(&data)
        .output()
        .expect("runs");
    let filtered = text(&filtered.stdout);
    assert!(
        filtered.contains("partition 1 term 1 index 2"),
        "{filtered}"
    );
    assert!(!filtered.contains("record Entry partition 2"), "{filtered}");
    assert!(!filtered.contains("index 1 body"), "{filtered}");
    let _again = Running::start(&dir.path);
    let none = clustor()
        .args(["inspect", "/nowhere"])
        .output()
        .expect("runs");
    assert_eq!(none.status.code(), Some(3));
}

/// Flips a bit of the last block of this file that was ever written to.
fn damage_last_block(file: &Path) {
    let mut bytes = std::fs::read(file).expect("readable");
    let last = bytes
        .chunks(4096)
        .rposition(|block| block.iter().any(|byte| *byte != 0))
        .expect("written");
    bytes[last * 4096 + 1000] ^= 4;
    std::fs::write(file, bytes).expect("writable");
}

#[test]
fn scrub_refuses_a_running_node_and_ends_with_the_worst_outcome() {
    let dir = lone_cluster();
    let node = Running::start(&dir.path);
    let done = ask(&dir.path, "append", &["1", "key", "value"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let data = dir.path.join("data-1");
    let scrub = |arguments: &[&str]| {
        let mut command = clustor();
        command.arg("scrub").arg(&data).args(arguments);
        command.output().expect("runs")
    };
    let refused = scrub(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("in use by a running node"));
    node.kill();
    // A killed process's ring may outlive it for a moment, and with it the shard's lock: that is waited for.
    let healthy = scrub(&["--json"]);
    assert_eq!(healthy.status.code(), Some(0), "{}", text(&healthy.stderr));
    let report: serde_json::Value =
        serde_json::from_slice(&healthy.stdout).expect("one JSON object");
    assert_eq!(report["outcome"], "healthy");
    let pairs = report["shards"][0]["pairs"].as_array().expect("a list");
    let newest = pairs
        .iter()
        .find(|pair| pair["role"] == "newest")
        .expect("one was written last");
    assert!(newest["chains"].as_u64() >= Some(3), "{newest}");
    let pair = newest["pair"].as_str().expect("a number");
    let wal = data.join("shard-0/wal");
    damage_last_block(&wal.join(format!("durability-{pair}.log")));
    let shown = scrub(&[]);
    assert_eq!(shown.status.code(), Some(10), "{}", text(&shown.stdout));
    assert!(text(&shown.stdout).contains("the ledger slot is bad"));
    damage_last_block(&wal.join(format!("segment-{pair}.log")));
    let shown = scrub(&["--shard", "0", "--threads", "1"]);
    assert_eq!(shown.status.code(), Some(12), "{}", text(&shown.stdout));
    // The first damage undone: what the rotten extent held is known again.
    damage_last_block(&wal.join(format!("durability-{pair}.log")));
    let shown = scrub(&[]);
    assert_eq!(shown.status.code(), Some(11), "{}", text(&shown.stdout));
    assert!(text(&shown.stdout).contains("not authentic"));
    let key = dir.path.join("other-kek");
    std::fs::write(&key, format!("{}\n", "a".repeat(64))).expect("writable");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, permissions).expect("its mode is set");
    let wrong = scrub(&["--key", key.to_str().expect("text")]);
    assert_eq!(wrong.status.code(), Some(3), "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("not authentic under this key"));
}

#[test]
fn a_directory_that_cant_be_read_is_told_from_one_that_is_no_nodes() {
    let dir = lone_cluster();
    for command in ["scrub", "inspect"] {
        let exit_of = |path: &Path| {
            let output = clustor().arg(command).arg(path).output().expect("runs");
            output.status.code()
        };
        let unreadable = dir.path.join(format!("{command}-unreadable"));
        std::fs::create_dir_all(unreadable.join("identity")).expect("made");
        assert_eq!(exit_of(&unreadable), Some(1), "{command}");
        let empty = dir.path.join(format!("{command}-empty"));
        std::fs::create_dir(&empty).expect("made");
        assert_eq!(exit_of(&empty), Some(3), "{command}");
    }
}

#[test]
fn scrub_judges_every_shard_though_some_are_refused_or_unreadable_and_says_how_far_it_is() {
    let dir = left_by_a_node();
    let data = dir.path.join("data-1");
    let scrub = |arguments: &[&str]| {
        let mut command = clustor();
        command.arg("scrub").arg(&data).args(arguments);
        command.output().expect("runs")
    };
    // A killed process's ring may outlive it for a moment, and with it the shard's lock: that is waited for.
    let healthy = scrub(&["--progress-every", "0"]);
    assert_eq!(healthy.status.code(), Some(0), "{}", text(&healthy.stderr));
    let said = text(&healthy.stderr);
    for part in [" of ", "ledger: 100% of ", "extents: 100% of "] {
        assert!(said.contains("shard 0, pair "), "{said}");
        assert!(said.contains(part), "{said}");
    }
    // Another shard's files, and beside them a shard with a file that can't be opened.
    let (foreign, unreadable) = (data.join("shard-1/wal"), data.join("shard-2/wal"));
    std::fs::create_dir_all(&foreign).expect("made");
    for entry in std::fs::read_dir(data.join("shard-0/wal")).expect("listed") {
        let entry = entry.expect("listed");
        std::fs::copy(entry.path(), foreign.join(entry.file_name())).expect("copied");
    }
    let outcomes = || {
        let output = scrub(&["--json"]);
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("one JSON object");
        let shards = report["shards"].as_array().expect("a list");
        let outcomes = shards.iter().map(|shard| shard["outcome"].clone());
        let outcomes: Vec<_> = outcomes.collect();
        assert!(text(&output.stderr).contains(": shard "));
        (output.status.code(), outcomes, report["outcome"].clone())
    };
    let (code, shards, worst) = outcomes();
    assert_eq!((code, worst), (Some(3), "refused".into()));
    assert_eq!(shards, ["healthy", "refused"]);
    let shown = scrub(&[]);
    assert!(text(&shown.stdout).contains("shard 1: refused: pair"));
    assert!(text(&shown.stdout).contains("written last"));
    std::fs::create_dir_all(&unreadable).expect("made");
    std::os::unix::fs::symlink("nowhere", unreadable.join("segment-1.log")).expect("made");
    let (code, shards, worst) = outcomes();
    assert_eq!((code, worst), (Some(1), "unreadable".into()));
    assert_eq!(shards, ["healthy", "refused", "unreadable"]);
    assert_eq!(scrub(&["--shard", "0"]).status.code(), Some(0));
}

#[test]
fn a_start_says_in_its_log_what_it_found_damaged() {
    let dir = left_by_a_node();
    let wal = dir.path.join("data-1/shard-0/wal");
    let (slots, extents) = (wal.join("durability-1.log"), wal.join("segment-1.log"));
    let said_by_a_start = || {
        let node = Running::start_with(&dir.path, "warn");
        text(&node.killed())
    };
    damage_last_block(&slots);
    damage_last_block(&extents);
    let said = said_by_a_start();
    let quarantined = said.lines().find(|line| line.contains("ERROR"));
    let quarantined = quarantined.is_some_and(|line| line.contains("stay silent"));
    assert!(quarantined, "{said}");
    // What the slot said is known by the extent.
    damage_last_block(&extents);
    let said = said_by_a_start();
    let told = said.lines().find(|line| line.contains("WARN"));
    let told = told.is_some_and(|line| line.contains("a ledger slot was bad"));
    assert!(told && !said.contains("ERROR"), "{said}");
}
