//! `clustor member`, run as people run it: a partition loses a voter and gets it back, a node whose disk is gone is
//! replaced, one that nobody's placement lists joins, also while another is down, and moves, and what makes no sense is refused.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{clustor, free_ports, id};

const NODES: u16 = 4;
const TRUST_DOMAIN: &str = "test.example";
const PATIENCE: Duration = Duration::from_secs(60);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A cluster's directory and its nodes, which end with it.
struct Cluster {
    _home: tempfile::TempDir,
    dir: PathBuf,
    /// The directory that commands are told of.
    clients: PathBuf,
    first_port: u16,
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// Four nodes that all vote in the one partition, and an operator's certificate.
    fn start() -> Self {
        Self::of(NODES)
    }

    /// So many nodes.
    fn of(count: u16) -> Self {
        Self::with(count, count, 1)
    }

    /// So many nodes, and so many partitions with so many replicas each.
    fn with(count: u16, replicas: u16, partitions: u16) -> Self {
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
        let mut cluster = Self {
            _home: home,
            clients: dir.clone(),
            dir,
            first_port,
            nodes: (0..NODES).map(|_| None).collect(),
        };
        for node in 1..=count {
            cluster.boot(node);
        }
        cluster
    }

    fn config(&self, node: u16) -> PathBuf {
        self.dir.join(format!("node-{node}.toml"))
    }

    /// Starts a node and waits until it says that it is ready.
    fn boot(&mut self, node: u16) {
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

    fn kill(&mut self, node: u16) {
        if let Some(mut child) = self.nodes[usize::from(node) - 1].take() {
            child.kill().expect("it runs");
            child.wait().expect("it is waited for");
        }
    }

    /// Removes a node's files, as a lost disk would.
    fn lose_disk(&self, node: u16) {
        std::fs::remove_dir_all(self.data(node)).expect("its files");
    }

    /// A node's data directory.
    fn data(&self, node: u16) -> PathBuf {
        let config = std::fs::read_to_string(self.config(node)).expect("its config");
        let data = config
            .lines()
            .find_map(|line| line.strip_prefix("data_dir = "))
            .expect("a data directory");
        self.dir.join(data.trim_matches('"'))
    }

    fn command(&self, what: &[&str], args: &[&str]) -> Command {
        let mut command = clustor(what);
        command.arg("--cluster").arg(&self.clients).args(args);
        command
    }

    fn run(&self, what: &[&str], args: &[&str]) -> Output {
        let mut command = self.command(what, args);
        command.output().expect("the clustor binary runs")
    }

    fn member(&self, verb: &str, args: &[&str]) -> Output {
        let mut all = vec!["--operator", "ops", "--timeout-ms", "60000"];
        all.extend_from_slice(args);
        self.run(&["member", verb], &all)
    }

    /// Who leads the partition, as the leader itself says.
    fn leader(&self) -> u64 {
        id(&self.show()["leader"]).expect("a node")
    }

    /// What the leader says of the partition's members.
    fn show(&self) -> Value {
        let shown = self.run(
            &["member", "show"],
            &["--json", "--timeout-ms", "60000", "1"],
        );
        assert_code(&shown, 0);
        serde_json::from_slice(&shown.stdout).expect("JSON")
    }

    /// Waits until the leader has heard that a node has everything.
    fn wait_for_all_on(&self, node: u16) {
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
    fn members(&self) -> Vec<(u64, String)> {
        let shown = self.show();
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
    fn prepare_4(&mut self) {
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
    fn give_clients_a_placement(&mut self, change: impl FnOnce(&str) -> String) {
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
    fn address(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.first_port + node - 1)
    }

    fn append(&self, key: &str) {
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
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

fn voters(nodes: &[u64]) -> Vec<(u64, String)> {
    nodes.iter().map(|n| (*n, "voter".to_owned())).collect()
}

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
