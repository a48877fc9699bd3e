//! The guide's node of a cluster: the example that shows it runs on what `clustor certs cluster` writes, and needs no
//! crate of Clustor's but the engine.

mod support;

// Its `main` is not called here.
#[allow(dead_code, unreachable_pub)]
#[path = "../../engine/examples/cluster_node.rs"]
mod example;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clustor_engine::engine::Engine;
use clustor_engine::ids::PartitionId;
use clustor_engine::outcome::Leadership;
use support::{clustor, free_ports};

const STOP_WAIT: Duration = Duration::from_secs(20);

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The code between this heading of the guide and the next.
fn shown_under(heading: &str) -> Vec<String> {
    let guide = read("docs/embedding.md");
    let section = guide
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    let mut in_code = false;
    let mut code = Vec::new();
    for line in section {
        if line.starts_with("```") {
            in_code = line == "```rust";
        } else if in_code && !line.trim().is_empty() {
            code.push(line.trim().to_owned());
        }
    }
    code
}

#[test]
fn what_the_guide_shows_of_a_cluster_stands_in_the_example() {
    let example = read("engine/examples/cluster_node.rs");
    let lines: Vec<&str> = example.lines().map(str::trim).collect();
    let shown = shown_under("## A node of a cluster");
    assert!(shown.len() > 10, "the guide shows {shown:?}");
    for line in shown {
        assert!(lines.contains(&line.as_str()), "not in the example: {line}");
    }
}

#[test]
fn examples_need_no_crate_of_clustors_but_the_engine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/examples");
    let mut examples = 0;
    for entry in std::fs::read_dir(root).expect("examples") {
        let path = entry.expect("listed").path();
        let text = std::fs::read_to_string(&path).expect("text");
        for other in ["clustor_wire", "clustor_shards"] {
            assert!(!text.contains(other), "{} names {other}", path.display());
        }
        examples += 1;
    }
    assert!(examples >= 3, "{examples} examples");
}

#[test]
fn an_embedded_cluster_serves_a_client_while_a_node_is_away_and_when_it_is_back() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let dir = home.path().join("dev");
    let listen = format!("127.0.0.1:{}", free_ports(3));
    let made = clustor(&[
        "certs",
        "cluster",
        "--shards",
        "1",
        "--partitions",
        "2",
        "--listen",
        &listen,
        "--dir",
    ])
    .arg(&dir)
    .output()
    .expect("runs");
    assert!(made.status.success(), "{made:?}");
    let start = |number| example::start(&dir, number).expect("it starts");
    let mut nodes: BTreeMap<u64, Engine> = (1..=3).map(|number| (number, start(number))).collect();
    let client = example::connect(&dir).expect("a client");
    assert_eq!(example::add(&client, "5").expect("added"), "5");
    let leads = |engine: &Engine| {
        let handle = engine.partition::<example::Counter>(PartitionId(1));
        let mut leadership = handle.expect("a replica").leadership();
        matches!(leadership.latest(), Leadership::Ready { .. })
    };
    let (leader, _) = nodes
        .iter()
        .find(|(_, engine)| leads(engine))
        .expect("a leader");
    let leader = *leader;
    let stopped = nodes.remove(&leader).expect("it runs").shutdown(STOP_WAIT);
    stopped.expect("in order");
    assert_eq!(example::add(&client, "6").expect("added"), "11");
    nodes.insert(leader, start(leader));
    assert_eq!(example::add(&client, "7").expect("added"), "18");
    client.close();
    for (_, engine) in nodes {
        engine.shutdown(STOP_WAIT).expect("in order");
    }
}
