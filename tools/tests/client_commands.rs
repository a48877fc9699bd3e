//! `clustor append`, `read`, `status` and `mode`, run as people run them, against three nodes that `clustor serve` runs.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::SystemTime;

use clustor_engine::client::{Client, ClientConfig};
use clustor_engine::security::{Placement, PlacementKey, TlsFiles, TlsIdentity};
use clustor_tools::kv::KvCommand;
use serde_json::Value;
use support::{clustor, free_ports, id};

const NODES: u16 = 3;
const TRUST_DOMAIN: &str = "test.example";

/// A cluster's directory and its nodes, which end with it.
struct Cluster {
    _home: tempfile::TempDir,
    dir: PathBuf,
    nodes: Vec<Child>,
}

impl Cluster {
    fn prepare() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = home.path().join("dev");
        let listen = format!("127.0.0.1:{}", free_ports(NODES));
        let made = clustor(&["certs", "cluster", "--listen", &listen, "--shards", "1"])
            .args(["--partitions", "2", "--trust-domain", TRUST_DOMAIN])
            .arg("--dir")
            .arg(&dir)
            .output()
            .expect("the clustor binary runs");
        assert!(made.status.success(), "{}", text(&made.stderr));
        Self {
            _home: home,
            dir,
            nodes: Vec::new(),
        }
    }

    /// Starts all nodes and waits until each says that it is ready.
    fn start(mut self) -> Self {
        for node in 1..=NODES {
            let child = clustor(&["serve", "--log-level", "error", "--config"])
                .arg(self.dir.join(format!("node-{node}.toml")))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("the clustor binary runs");
            self.nodes.push(child);
        }
        for node in &mut self.nodes {
            let mut line = String::new();
            let out = node.stdout.take().expect("piped");
            BufReader::new(out).read_line(&mut line).expect("a line");
            assert!(line.starts_with("ready"), "{line}");
        }
        self
    }

    fn ask(&self, what: &str, args: &[&str]) -> Output {
        ask(&self.dir, what, args)
    }

    /// A client with the certificate that commands have.
    fn client(&self) -> Client {
        let read = |name: &str| std::fs::read(self.dir.join(name)).expect("a file");
        let public = String::from_utf8(read("placement.pub")).expect("text");
        let public = PlacementKey::parse(&public).expect("a key");
        let placement = Placement::load(&read("placement.toml"), &public).expect("a placement");
        let identity = TlsFiles {
            ca: self.dir.join("ca.pem"),
            certificate: self.dir.join("client-dev.pem"),
            key: self.dir.join("client-dev.key"),
        };
        let identity = TlsIdentity::load(&identity, SystemTime::now()).expect("an identity");
        Client::connect(ClientConfig::new(placement, identity)).expect("a client")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // A node that has ended can't be killed; either way it is waited for.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn ask(dir: &Path, what: &str, args: &[&str]) -> Output {
    clustor(&[what, "--cluster"])
        .arg(dir)
        .args(args)
        .output()
        .expect("the clustor binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    let found = serde_json::from_slice(&output.stdout);
    found.unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

#[test]
fn what_is_appended_is_read_and_its_partition_is_shown_with_its_leader() {
    let cluster = Cluster::prepare().start();
    let first = cluster.ask("append", &["--json", "1", "colour", "green"]);
    assert_code(&first, 0);
    let first = json(&first);
    assert_eq!(first["outcome"], "applied");
    assert_eq!(first["former"], Value::Null);
    let second = json(&cluster.ask("append", &["--json", "1", "colour", "red"]));
    assert_eq!(second["former"], "green");
    assert!(id(&second["index"]) > id(&first["index"]));
    let read = json(&cluster.ask("read", &["--json", "1", "colour"]));
    assert_eq!(read["value"], "red");
    assert!(id(&read["index"]) >= id(&second["index"]));
    assert_eq!(
        cluster.ask("read", &["--raw", "1", "colour"]).stdout,
        b"red"
    );
    let deleted = json(&cluster.ask("append", &["--json", "1", "colour", "--delete"]));
    assert_eq!(deleted["former"], "red");
    assert_code(&cluster.ask("read", &["--raw", "1", "colour"]), 1);

    let status = cluster.ask("status", &["--json", "--partition", "1"]);
    assert_code(&status, 0);
    let status = json(&status);
    let replicas: Vec<&Value> = status["shards"]
        .as_array()
        .expect("shards")
        .iter()
        .map(|shard| &shard["partitions"][0])
        .collect();
    assert_eq!(replicas.len(), 3);
    let leads = |of: &&&Value| of["role"] == "leader";
    assert_eq!(replicas.iter().filter(leads).count(), 1);
    let leader = id(&replicas[0]["leader"]).expect("any node names it");
    assert!(replicas.iter().all(|of| id(&of["leader"]) == Some(leader)));
    // The latency profile has no leases, and the leader says so; nobody else has anything to say of one.
    for replica in &replicas {
        let why = if leads(&replica) { "leases_off" } else { "" };
        assert_eq!(replica["lease_held"], false);
        assert_eq!(replica["no_lease"], why);
    }
    let people = cluster.ask("status", &["--node", "2"]);
    assert!(
        text(&people.stdout).starts_with("node 2 shard 0: boot 1, "),
        "{people:?}"
    );
}

#[test]
fn an_operator_changes_the_mode_and_nobody_else_does() {
    let cluster = Cluster::prepare().start();
    let changed = cluster.ask("mode", &["--json", "--operator", "ops", "1", "strict"]);
    assert_code(&changed, 0);
    let changed = json(&changed);
    assert_eq!(changed["mode"], "strict");
    assert!(id(&changed["index"]) >= Some(1));
    let status = json(&cluster.ask("status", &["--json", "--partition", "1"]));
    for shard in status["shards"].as_array().expect("shards") {
        let replica = &shard["partitions"][0];
        assert_eq!(replica["mode"], "strict");
        assert_eq!(replica["held_back"], "");
    }
    // A slow machine's disk may forbid group mode; then the clause is named.
    let group = cluster.ask("mode", &["--operator", "ops", "1", "group"]);
    let said = text(&group.stdout) + &text(&group.stderr);
    let refused = said.contains("group mode is not allowed: ");
    assert_code(&group, i32::from(refused));
    assert!(
        refused || said.starts_with("group from here on: partition 1"),
        "{said}"
    );
    // A client's certificate under an operator's file name is still a client's.
    for end in ["pem", "key"] {
        let from = cluster.dir.join(format!("client-dev.{end}"));
        let to = cluster.dir.join(format!("operator-dev.{end}"));
        std::fs::copy(from, to).expect("copied");
    }
    let forbidden = cluster.ask("mode", &["--operator", "dev", "1", "strict"]);
    assert_code(&forbidden, 1);
    assert!(
        text(&forbidden.stderr).contains("only an operator's certificate"),
        "{forbidden:?}"
    );
}

#[test]
fn an_append_repeated_with_its_key_and_index_answers_with_the_first_index() {
    let cluster = Cluster::prepare().start();
    assert_code(&cluster.ask("append", &["1", "a", "0"]), 0);
    let repeat = [
        "--json",
        "1",
        "a",
        "1",
        "--index",
        "1",
        "--idempotency-key",
        "0123456789abcdef0123456789abcdef",
    ];
    let first = json(&cluster.ask("append", &repeat));
    let again = json(&cluster.ask("append", &repeat));
    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&Value::Bool(false), &Value::Bool(true))
    );
    assert_eq!(first["index"], again["index"]);
}

/// How many keys a node remembers here: the fewest that a profile may ask for.
const KEYS_MAX: usize = 1024;

#[test]
fn an_append_whose_key_is_forgotten_is_not_to_be_repeated_but_read() {
    let cluster = Cluster::prepare();
    let shown = clustor(&["profile", "show", "latency", "--toml"]).output();
    let shown = text(&shown.expect("the clustor binary runs").stdout);
    let fewer = shown.lines().map(|line| match line.split_once(" = ") {
        Some(("idempotency_keys_max", _)) => format!("idempotency_keys_max = {KEYS_MAX}\n"),
        _ => format!("{line}\n"),
    });
    let fewer: String = fewer.collect();
    assert_ne!(fewer, shown);
    std::fs::write(cluster.dir.join("few-keys.toml"), fewer).expect("written");
    for node in 1..=NODES {
        let config = cluster.dir.join(format!("node-{node}.toml"));
        let as_it_was = std::fs::read_to_string(&config).expect("a config");
        let with = as_it_was.replace("\"latency\"", "\"few-keys.toml\"");
        assert_ne!(with, as_it_was);
        std::fs::write(&config, with).expect("written");
    }
    let cluster = cluster.start();
    assert_code(&cluster.ask("append", &["1", "a", "0"]), 0);
    let key = "0123456789abcdef0123456789abcdef";
    let repeat = |more: &[&str]| {
        let mut args = vec!["--timeout-ms", "60000", "--idempotency-key", key];
        args.extend_from_slice(more);
        cluster.ask("append", &args)
    };
    assert_code(&repeat(&["--index", "1", "1", "a", "1"]), 0);
    let client = cluster.client();
    let others: Vec<_> = (0..2 * KEYS_MAX)
        .map(|n| {
            let (key, value) = (n.to_string(), b"x");
            let put = KvCommand::Put {
                key: key.as_bytes(),
                value,
            };
            client.append(1, put.encode())
        })
        .collect();
    for other in others {
        other.wait().expect("appended");
    }

    let forgotten = repeat(&["--json", "--index", "1", "1", "a", "1"]);
    assert_code(&forgotten, 4);
    let said = json(&forgotten);
    assert_eq!(said["outcome"], "unknown");
    assert_eq!(said["clause"], "KeyExpired");
    let told = text(&forgotten.stderr);
    for told in [told.as_str(), said["what_to_do"].as_str().expect("text")] {
        assert!(told.contains("clustor read"), "{told}");
        assert!(!told.contains("repeat it with"), "{told}");
    }
}

#[test]
fn an_append_for_another_term_than_the_present_is_refused_with_the_present_one() {
    let cluster = Cluster::prepare().start();
    let first = json(&cluster.ask("append", &["--json", "1", "colour", "red"]));
    let term = id(&first["term"]).expect("a term");
    let now = term.to_string();
    let fenced = cluster.ask(
        "append",
        &["--json", "1", "colour", "blue", "--if-term", &now],
    );
    // A slow machine may have had an election meanwhile.
    let refused = fenced.status.code() == Some(1);
    assert!(
        refused && json(&fenced)["clause"] == "TermChanged" || json(&fenced)["term"] == now,
        "{fenced:?}"
    );
    let later = (term + 1_000).to_string();
    let refused = cluster.ask(
        "append",
        &["--json", "1", "colour", "green", "--if-term", &later],
    );
    assert_code(&refused, 1);
    let refused = json(&refused);
    assert_eq!(refused["outcome"], "not executed");
    assert_eq!(refused["clause"], "TermChanged");
    let why = refused["why"].as_str().expect("text");
    let names = format!("the append is for term {later}, this is term ");
    assert!(why.contains(&names), "{why}");
}

#[test]
fn nobody_there_is_told_in_time_with_an_exit_code_that_says_whether_it_may_have_happened() {
    let cluster = Cluster::prepare();
    let new = cluster.ask("append", &["--json", "--timeout-ms", "300", "1", "a", "b"]);
    assert_code(&new, 1);
    assert_eq!(json(&new)["outcome"], "not executed");
    assert!(
        text(&new.stderr).contains("connecting to 127.0.0.1"),
        "{new:?}"
    );
    let key = "0123456789abcdef0123456789abcdef";
    let repeat = [
        "--timeout-ms",
        "300",
        "1",
        "a",
        "b",
        "--index",
        "7",
        "--idempotency-key",
        key,
    ];
    let repeated = cluster.ask("append", &repeat);
    assert_code(&repeated, 4);
    assert!(
        text(&repeated.stderr).contains(&format!("--idempotency-key {key} --index 7")),
        "{repeated:?}"
    );
    assert_code(&cluster.ask("read", &["--timeout-ms", "300", "1", "a"]), 1);
    let status = cluster.ask("status", &["--json", "--timeout-ms", "300"]);
    assert_code(&status, 1);
    assert!(json(&status)["shards"][2]["unreachable"].is_string());
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_asked() {
    let cluster = Cluster::prepare();
    assert_code(&cluster.ask("append", &["9", "a", "b"]), 1);
    assert_code(&cluster.ask("append", &["1", "a"]), 2);
    assert_code(&cluster.ask("append", &["1", "a", "b", "--delete"]), 2);
    assert_code(
        &cluster.ask(
            "append",
            &["1", "a", "b", "--idempotency-key", "xyz", "--index", "1"],
        ),
        2,
    );
    assert_code(&cluster.ask("status", &["--node", "9"]), 1);
    assert_code(&cluster.ask("read", &["--client", "nobody", "1", "a"]), 3);
    let elsewhere = ask(Path::new("/nonexistent"), "status", &[]);
    assert_code(&elsewhere, 3);
    assert!(
        text(&elsewhere.stderr).contains("/nonexistent"),
        "{elsewhere:?}"
    );
}
