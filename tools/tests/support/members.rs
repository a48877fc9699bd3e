//! Real nodes whose members change, and the commands that change them: what the suites of `clustor member` share.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{clustor, free_ports, id};

pub const NODES: u16 = 4;
const TRUST_DOMAIN: &str = "test.example";
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A cluster's directory and its nodes, which end with it.
pub struct Cluster {
    _home: tempfile::TempDir,
    pub dir: PathBuf,
    /// The directory that commands are told of.
    pub clients: PathBuf,
    first_port: u16,
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// Four nodes that all vote in the one partition, and an operator's certificate.
    pub fn start() -> Self {
        Self::of(NODES)
    }

    /// So many nodes.
    pub fn of(count: u16) -> Self {
        Self::with(count, count, 1)
    }

    /// So many nodes, and so many partitions with so many replicas each.
    pub fn with(count: u16, replicas: u16, partitions: u16) -> Self {
        let mut cluster = Self::prepare(count, replicas, partitions);
        for node in 1..=count {
            cluster.boot(node);
        }
        cluster
    }

    /// So many nodes that vote in the one partition, with these knobs turned in the profile of each.
    pub fn tuned(count: u16, knobs: &[(&str, u64)]) -> Self {
        let mut cluster = Self::prepare(count, count, 1);
        let shown = clustor(&["profile", "show", "latency", "--toml"]).output();
        let mut profile = text(&shown.expect("the clustor binary runs").stdout);
        for (knob, value) in knobs {
            let as_shipped = profile
                .lines()
                .find(|line| line.starts_with(&format!("{knob} = ")));
            let as_shipped = as_shipped.expect("a knob").to_owned();
            profile = profile.replace(&as_shipped, &format!("{knob} = {value}"));
        }
        std::fs::write(cluster.dir.join("tuned.toml"), profile).expect("written");
        for node in 1..=count {
            let config = std::fs::read_to_string(cluster.config(node)).expect("a config");
            let tuned = config.replace("\"latency\"", "\"tuned.toml\"");
            assert_ne!(tuned, config);
            std::fs::write(cluster.config(node), tuned).expect("written");
            cluster.boot(node);
        }
        cluster
    }

    fn prepare(count: u16, replicas: u16, partitions: u16) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = home.path().join("dev");
        let first_port = free_ports(NODES + 1);
        let listen = format!("127.0.0.1:{first_port}");
        let [number, replicas, partitions] =
            [count, replicas, partitions].map(|number| number.to_string());
        let made = clustor(&["certs", "cluster", "--listen", &listen, "--shards", "1"])
            .args(["--nodes", &number, "--replicas", &replicas])
            .args(["--partitions", &partitions])
            .args(["--trust-domain", TRUST_DOMAIN, "--dir"])
            .arg(&dir)
            .output()
            .expect("the clustor binary runs");
        assert!(made.status.success(), "{}", text(&made.stderr));
        Self {
            _home: home,
            clients: dir.clone(),
            dir,
            first_port,
            nodes: (0..NODES).map(|_| None).collect(),
        }
    }

    pub fn config(&self, node: u16) -> PathBuf {
        self.dir.join(format!("node-{node}.toml"))
    }

    /// Starts a node and waits until it says that it is ready.
    pub fn boot(&mut self, node: u16) {
        let mut child = clustor(&["serve", "--log-level", "error", "--config"])
            .arg(self.config(node))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the clustor binary runs");
        let out = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready"), "{line}");
        self.nodes[usize::from(node) - 1] = Some(child);
    }

    pub fn kill(&mut self, node: u16) {
        if let Some(mut child) = self.nodes[usize::from(node) - 1].take() {
            child.kill().expect("it runs");
            child.wait().expect("it is waited for");
        }
    }

    /// Freezes a node's process ("-STOP"), or lets it go on ("-CONT").
    pub fn signal(&self, node: u16, signal: &str) {
        let child = self.nodes[usize::from(node) - 1].as_ref();
        let id = child.expect("it runs").id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Removes a node's files, as a lost disk would.
    pub fn lose_disk(&self, node: u16) {
        std::fs::remove_dir_all(self.data(node)).expect("its files");
    }

    /// A node's data directory.
    pub fn data(&self, node: u16) -> PathBuf {
        let config = std::fs::read_to_string(self.config(node)).expect("its config");
        let data = config
            .lines()
            .find_map(|line| line.strip_prefix("data_dir = "))
            .expect("a data directory");
        self.dir.join(data.trim_matches('"'))
    }

    pub fn command(&self, what: &[&str], args: &[&str]) -> Command {
        let mut command = clustor(what);
        command.arg("--cluster").arg(&self.clients).args(args);
        command
    }

    pub fn run(&self, what: &[&str], args: &[&str]) -> Output {
        let mut command = self.command(what, args);
        command.output().expect("the clustor binary runs")
    }

    pub fn member(&self, verb: &str, args: &[&str]) -> Output {
        let mut all = vec!["--operator", "ops", "--timeout-ms", "60000"];
        all.extend_from_slice(args);
        self.run(&["member", verb], &all)
    }

    /// Who leads the partition, as the leader itself says.
    pub fn leader(&self) -> u64 {
        id(&self.show()["leader"]).expect("a node")
    }

    /// What the leader says of the partition's members.
    pub fn show(&self) -> Value {
        self.show_of("1")
    }

    /// The same of any partition.
    pub fn show_of(&self, partition: &str) -> Value {
        let shown = self.run(
            &["member", "show"],
            &["--json", "--timeout-ms", "60000", partition],
        );
        assert_code(&shown, 0);
        serde_json::from_slice(&shown.stdout).expect("JSON")
    }

    /// Waits until the leader has heard that a node has everything.
    pub fn wait_for_all_on(&self, node: u16) {
        let until = Instant::now() + PATIENCE;
        loop {
            let shown = self.show();
            let members = shown["members"].as_array().expect("members").iter();
            let mut of_node = members.filter(|member| id(&member["node"]) == Some(u64::from(node)));
            let durable = of_node.next().and_then(|member| id(&member["durable"]));
            if durable >= id(&shown["last_index"]) {
                return;
            }
            assert!(Instant::now() < until, "{shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Who belongs to the partition: node and standing.
    pub fn members(&self) -> Vec<(u64, String)> {
        self.members_of("1")
    }

    /// The same of any partition.
    pub fn members_of(&self, partition: &str) -> Vec<(u64, String)> {
        let shown = self.show_of(partition);
        let members = shown["members"].as_array().expect("members").iter();
        members
            .filter(|member| member["standing"] != "leaving")
            .map(|member| {
                let standing = member["standing"].as_str().expect("a word").to_owned();
                (id(&member["node"]).expect("a node"), standing)
            })
            .collect()
    }

    /// What a fourth node needs that the first three do not know of: its certificate, its config, and a placement that lists it,
    /// in a directory that is the clients' from then on.
    pub fn prepare_4(&mut self) {
        let made = clustor(&["certs", "node", "--id", "4", "--trust-domain", TRUST_DOMAIN])
            .arg("--dir")
            .arg(&self.dir)
            .output()
            .expect("the clustor binary runs");
        assert!(made.status.success(), "{}", text(&made.stderr));
        let address = self.address(4);
        self.give_clients_a_placement(|old| {
            let replicas = r#"replicas = ["1/0", "2/0", "3/0"]"#;
            let listed = old.replace(replicas, r#"replicas = ["1/0", "2/0", "3/0", "4/0"]"#);
            let node = format!("[[node]]\nid = 4\naddress = \"{address}\"\nshards = 1\n\n");
            listed.replacen("[[partition]]", &format!("{node}[[partition]]"), 1)
        });
        let config = std::fs::read_to_string(self.config(3)).expect("a config");
        let config = config
            .replace("node = 3", "node = 4")
            .replace("data-3", "data-4")
            .replace("node-3", "node-4")
            .replace("\"placement.toml\"", "\"new/placement.toml\"");
        std::fs::write(self.config(4), config).expect("written");
    }

    /// Makes a directory with another placement, which is the clients' from then on.
    pub fn give_clients_a_placement(&mut self, change: impl FnOnce(&str) -> String) {
        let new = self.dir.join("new");
        std::fs::create_dir(&new).expect("a directory");
        for file in std::fs::read_dir(&self.dir).expect("the files") {
            let from = file.expect("a file").path();
            let name = from.file_name().expect("a name").to_owned();
            if from.is_file() && name != "placement.toml" {
                std::fs::copy(&from, new.join(name)).expect("copied");
            }
        }
        let old = std::fs::read_to_string(self.dir.join("placement.toml")).expect("a placement");
        let (old, _) = old.split_once("# signature").expect("a signature");
        let listed = change(old);
        assert_ne!(listed, old);
        let by_hand = new.join("placement.txt");
        std::fs::write(&by_hand, listed).expect("written");
        let made = clustor(&[
            "certs",
            "placement",
            "--trust-domain",
            TRUST_DOMAIN,
            "--sign",
        ])
        .arg(&by_hand)
        .arg("--dir")
        .arg(&new)
        .output()
        .expect("the clustor binary runs");
        assert!(made.status.success(), "{}", text(&made.stderr));
        self.clients = new;
    }

    /// Where the node of this number listens, or one more would.
    pub fn address(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.first_port + node - 1)
    }

    pub fn append(&self, key: &str) {
        let done = self.run(&["append"], &["--timeout-ms", "60000", "1", key, "x"]);
        assert_code(&done, 0);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            // A node that has ended can't be killed; either way it is waited for.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

#[track_caller]
pub fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

pub fn voters(nodes: &[u64]) -> Vec<(u64, String)> {
    nodes.iter().map(|n| (*n, "voter".to_owned())).collect()
}
