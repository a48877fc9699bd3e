//! Damage on every replica at once, with real processes and files: of each node's log another third of the entries is rotten.
//! Each entry is whole on two of three nodes, so that nothing is lost, and nobody is asked to do anything.

mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{clustor, free_ports, id};

const NODES: u16 = 3;
const APPENDS: u64 = 60;
const BLOCK: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(90);

struct Cluster {
    _home: tempfile::TempDir,
    dir: PathBuf,
    nodes: Vec<Child>,
}

impl Cluster {
    fn make() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = home.path().join("dev");
        let listen = format!("127.0.0.1:{}", free_ports(NODES));
        let made = clustor(&["certs", "cluster", "--listen", &listen, "--shards", "1"])
            .args([
                "--partitions",
                "1",
                "--trust-domain",
                "test.example",
                "--dir",
            ])
            .arg(&dir)
            .output()
            .expect("the clustor binary runs");
        assert!(made.status.success(), "{made:?}");
        Self {
            _home: home,
            dir,
            nodes: Vec::new(),
        }
    }

    fn boot(&mut self, nodes: impl IntoIterator<Item = u16>) {
        for node in nodes {
            let mut child = clustor(&["serve", "--log-level", "error", "--config"])
                .arg(self.dir.join(format!("node-{node}.toml")))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("the clustor binary runs");
            let mut line = String::new();
            let out = child.stdout.take().expect("piped");
            BufReader::new(out).read_line(&mut line).expect("a line");
            assert!(line.starts_with("ready"), "{line}");
            self.nodes.push(child);
        }
    }

    fn kill(&mut self) {
        for mut child in self.nodes.drain(..) {
            // One that has ended can't be killed; either way it is waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn run(&self, what: &str, args: &[&str]) -> Output {
        let mut command = clustor(&[what, "--cluster"]);
        command.arg(&self.dir).args(["--timeout-ms", "60000"]);
        command
            .args(args)
            .output()
            .expect("the clustor binary runs")
    }

    fn inspect(&self, node: u16) -> Vec<Value> {
        let data = self.dir.join(format!("data-{node}"));
        let shown = clustor(&["inspect", "--json"]).arg(data).output();
        let shown = shown.expect("the clustor binary runs");
        let lines = String::from_utf8_lossy(&shown.stdout).into_owned();
        let lines = lines.lines().map(serde_json::from_str);
        lines.map(|line| line.expect("JSON")).collect()
    }

    /// Chains of a node's log whose extent is rotten, by what stands on its disk.
    fn rotten(&self, node: u16) -> u64 {
        let pairs = self.inspect(node);
        let chains = pairs.iter().filter_map(|pair| pair["chains"].as_array());
        let rotten = chains.flatten().filter(|c| c["judgement"] == "rot");
        rotten.count() as u64
    }

    /// Turns over bytes in each extent of a node's log that holds one entry alone, and one of the third. Returns how many.
    fn let_rot(&self, node: u16, third: u16) -> u64 {
        let data = self.dir.join(format!("data-{node}"));
        let mut rotten = 0;
        for pair in self.inspect(node) {
            let Some(chains) = pair["chains"].as_array() else {
                continue;
            };
            let number = pair["pair"].as_str().expect("a number");
            let segment = data.join(format!("shard-0/wal/segment-{number}.log"));
            let segment = std::fs::File::options().write(true).open(segment);
            let segment = segment.expect("the segment");
            for chain in chains {
                let items = chain["items"].as_array().into_iter().flatten();
                let runs: Vec<&Value> = items.filter(|item| item["kind"] == "Entry").collect();
                let [run] = runs[..] else {
                    continue;
                };
                let index: u64 = run["index"]
                    .as_str()
                    .expect("a number")
                    .parse()
                    .expect("one");
                if run["count"] != 1 || index % 3 != u64::from(third) % 3 {
                    continue;
                }
                let block = chain["first_block"].as_u64().expect("a block");
                segment
                    .write_all_at(&[0xa5; 64], block * BLOCK + 100)
                    .expect("written");
                rotten += 1;
            }
        }
        rotten
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What stands under a key, wherever it does.
fn numbers(value: &Value, key: &str, into: &mut Vec<u64>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                into.extend(value.as_u64().filter(|_| name == key));
                numbers(value, key, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| numbers(value, key, into)),
        _ => {}
    }
}

#[test]
fn a_different_third_of_every_log_may_rot() {
    let mut cluster = Cluster::make();
    cluster.boot(1..=NODES);
    for n in 0..APPENDS {
        let (key, value) = (format!("k{n}"), format!("v{n}"));
        let done = cluster.run("append", &["1", &key, &value]);
        assert!(done.status.success(), "{done:?}");
    }
    cluster.kill();
    for node in 1..=NODES {
        let rotten = cluster.let_rot(node, node);
        assert!(rotten >= APPENDS / 4, "{rotten} entries of {node} rot");
        assert_eq!(cluster.rotten(node), rotten);
    }
    cluster.boot(1..=NODES);
    for n in 0..APPENDS {
        let found = cluster.run("read", &["--json", "1", &format!("k{n}")]);
        assert!(found.status.success(), "{found:?}");
        let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
        assert_eq!(found["value"], format!("v{n}"));
    }
    // Every replica gets whole by itself: nothing is lost and nothing is complained about.
    let until = Instant::now() + PATIENCE;
    loop {
        let status = cluster.run("status", &["--json"]);
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        let (mut missing, mut applied) = (Vec::new(), Vec::new());
        for line in said.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            numbers(&line, "missing", &mut missing);
            numbers(&line, "applied", &mut applied);
        }
        let whole = missing == [0; NODES as usize];
        if whole && applied.iter().all(|index| *index > APPENDS) {
            break;
        }
        assert!(Instant::now() < until, "{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let done = cluster.run("append", &["1", "k0", "after"]);
    assert!(done.status.success(), "{done:?}");
}

/// What the replicas say of what they miss: the object under `missing_asked`, and the trouble, by node.
fn asked(cluster: &Cluster) -> Vec<(u64, Value, String)> {
    let mut command = clustor(&["status", "--json", "--timeout-ms", "5000", "--cluster"]);
    let status = command.arg(&cluster.dir).output();
    let status = status.expect("the clustor binary runs");
    let said: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let shards = said["shards"].as_array().into_iter().flatten();
    let mut asked = Vec::new();
    for shard in shards {
        for partition in shard["partitions"].as_array().into_iter().flatten() {
            let node = id(&shard["node"]).expect("a node");
            let trouble = partition["trouble"].as_str().expect("a text").to_owned();
            asked.push((node, partition["missing_asked"].clone(), trouble));
        }
    }
    asked
}

/// Waits until a status names the node that lost the same and the one that does not run.
fn wait_until_told(cluster: &Cluster) {
    let until = Instant::now() + PATIENCE;
    loop {
        let all = asked(cluster);
        let answers = |asked: &Value| -> Vec<(u64, Value)> {
            let nodes = asked["nodes"].as_array().into_iter().flatten();
            nodes
                .map(|it| (id(&it["node"]).expect("a node"), it["answer"].clone()))
                .collect()
        };
        // The leader asks everybody.
        let is_told = all.iter().any(|(node, asked, trouble)| {
            let other = 3 - node;
            answers(asked) == [(other, "missing".into()), (3, "unreachable".into())]
                && id(&asked["index"]).is_some_and(|index| index % 3 == 0)
                && trouble.contains(&format!(
                    "node {other} lost it too, node 3 is not reachable"
                ))
        });
        if is_told {
            break;
        }
        assert!(Instant::now() < until, "{all:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a node's files say of whom it asks what it is missing.
fn files_name_the_others(cluster: &Cluster, node: u16) -> bool {
    let told = cluster.inspect(node);
    let missing = told.iter().find(|of| of["structure"] == "missing");
    let partitions = missing.and_then(|missing| missing["partitions"].as_array());
    let ours = partitions.and_then(|all| all.iter().find(|one| one["partition"] == "1"));
    let asked = ours.and_then(|ours| ours["missing_asked"].as_array());
    let nodes = asked.into_iter().flatten().map(|peer| &peer["node"]);
    let nodes: Vec<&Value> = nodes.collect();
    nodes == [&(3 - node).to_string(), "3"]
}

#[test]
fn status_says_whom_missing_content_waits_for() {
    let mut cluster = Cluster::make();
    cluster.boot(1..=NODES);
    for n in 0..9 {
        let done = cluster.run("append", &["1", &format!("k{n}"), "v"]);
        assert!(done.status.success(), "{done:?}");
    }
    cluster.kill();
    // Two lost the same, and the third does not run.
    for node in [1, 2] {
        assert!(cluster.let_rot(node, 0) > 0);
    }
    cluster.boot([1, 2]);
    wait_until_told(&cluster);
    // The files say so too, whichever of them does: what a start found stands behind the checkpoint.
    cluster.kill();
    for node in [1, 2] {
        assert!(
            files_name_the_others(&cluster, node),
            "{:?}",
            cluster.inspect(node)
        );
    }
    cluster.boot([1, 2]);
    wait_until_told(&cluster);
    let until = Instant::now() + PATIENCE;
    cluster.boot([3]);
    loop {
        let all = asked(&cluster);
        if all.len() == 3
            && all
                .iter()
                .all(|(_, asked, trouble)| asked.is_null() && trouble.is_empty())
        {
            break;
        }
        assert!(Instant::now() < until, "{all:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A node's role in the partition, and its trouble there.
fn standing(cluster: &Cluster, node: u64) -> (Value, String) {
    let status = cluster.run("status", &["--json"]);
    let said: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let shards = said["shards"].as_array().into_iter().flatten();
    let mut of_node = shards.filter(|shard| id(&shard["node"]) == Some(node));
    let partition = of_node.next().map(|shard| &shard["partitions"][0]);
    let partition = partition.cloned().unwrap_or_default();
    let trouble = partition["trouble"].as_str().unwrap_or_default().to_owned();
    (partition["role"].clone(), trouble)
}

#[test]
fn whoever_is_to_suspect_tampering_is_silent_over_restarts_and_asks_for_nothing() {
    let mut cluster = Cluster::make();
    let profile = "on_authentication_failure = \"quarantine\"\n";
    std::fs::write(cluster.dir.join("suspicious.toml"), profile).expect("written");
    let config = cluster.dir.join("node-2.toml");
    let text = std::fs::read_to_string(&config).expect("there");
    let text = text.replace("profile = \"latency\"", "profile = \"suspicious.toml\"");
    std::fs::write(&config, text).expect("written");
    cluster.boot(1..=NODES);
    for n in 0..9 {
        let done = cluster.run("append", &["1", &format!("k{n}"), "v"]);
        assert!(done.status.success(), "{done:?}");
    }
    cluster.kill();
    assert!(cluster.let_rot(2, 0) > 0);
    for start in 0..2 {
        cluster.boot(1..=NODES);
        let until = Instant::now() + PATIENCE;
        loop {
            let (role, trouble) = standing(&cluster, 2);
            if role == "quarantined" && trouble.contains("asks for nothing") {
                break;
            }
            assert!(Instant::now() < until, "start {start}: {role} {trouble}");
            std::thread::sleep(Duration::from_millis(100));
        }
        // The others go on without it.
        let done = cluster.run("append", &["1", &format!("start{start}"), "v"]);
        assert!(done.status.success(), "{done:?}");
        cluster.kill();
    }
}
