//! `clustor profile` as its users meet it: shown, checked, compared, and reloaded by a running node.

#[path = "support/lone.rs"]
mod lone;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use lone::{Dir, Running, clustor, lone_cluster, text};
use serde_json::Value;

fn profile(args: &[&str], dir: &Path) -> Output {
    clustor()
        .arg("profile")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn shipped_profiles_are_listed_and_shown() {
    let home = tempfile::tempdir().expect("a directory");
    let listed = profile(&["list"], home.path());
    assert!(listed.status.success());
    let said = text(&listed.stdout);
    for name in ["latency", "throughput", "wan", "zfs", "segment_bytes"] {
        assert!(said.contains(name), "{said}");
    }
    let listed = json(&profile(&["list", "--json"], home.path()));
    assert_eq!(listed["profiles"].as_array().map(Vec::len), Some(4));

    let shown = json(&profile(&["show", "wan", "--json"], home.path()));
    let knobs = shown["knobs"].as_array().expect("a list");
    let mode = knobs.iter().find(|knob| knob["key"] == "mode");
    assert_eq!(mode.expect("there")["value"], "group");

    let unknown = profile(&["show", "fast"], home.path());
    assert_eq!(unknown.status.code(), Some(3));
    let said = text(&unknown.stderr);
    assert!(said.contains("latency, throughput, wan, zfs"), "{said}");
}

#[test]
fn a_shown_file_is_good_and_a_wrong_one_is_told_by_line() {
    let home = tempfile::tempdir().expect("a directory");
    let shown = profile(&["show", "throughput", "--toml"], home.path());
    let mine = home.path().join("mine.toml");
    std::fs::write(&mine, &shown.stdout).expect("written");
    let checked = profile(&["check", "mine.toml"], home.path());
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert_eq!(text(&checked.stdout), "mine.toml: good: as throughput\n");

    std::fs::write(&mine, "mode = \"fast\"\n\nheartbeat_ms = 5_000\n").expect("written");
    let checked = profile(&["check", "mine.toml"], home.path());
    assert_eq!(checked.status.code(), Some(3));
    assert_eq!(
        text(&checked.stdout),
        "mine.toml:1: mode = \"fast\" is not \"strict\" or \"group\"\n\
         mine.toml:3: heartbeat_ms = 5_000 is not a number from 10 to 1_000\n"
    );
    let checked = json(&profile(&["check", "--json", "mine.toml"], home.path()));
    let wrong = &checked["wrong"][1];
    assert_eq!(
        (
            &wrong["line"],
            &wrong["key"],
            &wrong["value"],
            &wrong["limit"]["max"]
        ),
        (
            &3.into(),
            &"heartbeat_ms".into(),
            &"5_000".into(),
            &1000.into()
        )
    );
    // A file that is not there does not hide what is wrong with the next.
    let gone = profile(&["check", "gone.toml", "mine.toml"], home.path());
    assert_eq!(gone.status.code(), Some(3));
    let said = text(&gone.stdout);
    assert!(
        said.starts_with("gone.toml: ") && said.contains("mine.toml:3:"),
        "{said}"
    );
}

#[test]
fn profiles_are_compared_knob_by_knob() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("mine.toml"), "chains_in_flight_max = 2\n").expect("written");
    let output = profile(&["diff", "latency", "mine.toml"], home.path());
    assert!(output.status.success());
    let said = text(&output.stdout);
    assert!(said.starts_with("chains_in_flight_max"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let same = profile(&["diff", "wan", "wan"], home.path());
    assert_eq!(text(&same.stdout), "wan and wan stand the same\n");
    let differences = json(&profile(
        &["diff", "latency", "mine.toml", "--json"],
        home.path(),
    ));
    assert_eq!(differences["differences"][0]["b"], 2);
}

/// A node of its own cluster, under `mine.toml` beside its config.
struct Node {
    dir: Dir,
    running: Running,
}

impl Node {
    fn start(profile: &str) -> Self {
        let dir = lone_cluster();
        std::fs::write(dir.path.join("mine.toml"), profile).expect("written");
        let config = dir.path.join("node-1.toml");
        let said = std::fs::read_to_string(&config).expect("there");
        let said = said.replace("profile = \"latency\"", "profile = \"mine.toml\"");
        assert!(said.contains("mine.toml"), "{said}");
        std::fs::write(&config, said).expect("written");
        let running = Running::start(&dir.path);
        Self { dir, running }
    }

    fn write(&self, profile: &str) {
        // As editors do: another file is renamed over it.
        let path = self.dir.home().join("dev/mine.toml.new");
        std::fs::write(&path, profile).expect("written");
        std::fs::rename(path, self.dir.home().join("dev/mine.toml")).expect("renamed");
    }

    fn reload(&self) -> Output {
        profile(
            &["reload", "--config", "dev/node-1.toml", "--json"],
            self.dir.home(),
        )
    }

    /// Asks over the network, under this certificate.
    fn ask(&self, operator: &str, node: &str) -> Output {
        let asked = ["reload", "--cluster", "dev", "--operator", operator, node];
        profile(&[&asked[..], &["--json"]].concat(), self.dir.home())
    }

    fn state(&self) -> Value {
        let path = self.dir.home().join("dev/data-1/profile-state.json");
        serde_json::from_slice(&std::fs::read(path).expect("there")).expect("JSON")
    }

    fn trouble(&self) -> String {
        let output = clustor()
            .args(["status", "--json", "--cluster", "dev"])
            .current_dir(self.dir.home())
            .output()
            .expect("runs");
        json(&output)["shards"][0]["trouble"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_running_node_reloads_its_file_on_command_and_by_itself() {
    let node = Node::start("heartbeat_ms = 40\n");
    node.write("heartbeat_ms = 30\nsegment_blocks_per_slot = 2\n");
    let output = node.reload();
    assert!(output.status.success(), "{}", text(&output.stderr));
    // By itself it may have read the file before the command came: then there was nothing left to turn.
    let state = json(&output);
    assert_eq!(state["obeyed"], true);
    assert_eq!(state["at_restart"][0]["key"], "segment_blocks_per_slot");

    // Not acceptable: the command says so by line and tells the node nothing; the node sees it by itself, keeps what it
    // has, and says so in its status.
    node.write("heartbeat_ms = 30\nchains_in_flight_max = 9\n");
    let output = node.reload();
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(
        said.contains("mine.toml:2: chains_in_flight_max = 9"),
        "{said}"
    );
    eventually("the node has seen the bad file", || {
        node.state()["obeyed"] == false
    });
    let wrong = node.state()["wrong"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        wrong.contains("mine.toml:2: chains_in_flight_max = 9"),
        "{wrong}"
    );
    let trouble = node.trouble();
    assert!(trouble.contains("mine.toml:2"), "{trouble}");

    // Good by itself, and not with what waits for the next start: both lines are named.
    node.write("queue_bytes_max = 100_000\nentry_bytes_max = 65_536\n");
    eventually("the node has seen that file", || {
        let wrong = node.state()["wrong"][0]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        wrong.contains("mine.toml:2: entry_bytes_max") && wrong.contains("line 1: queue_bytes_max")
    });

    node.write("heartbeat_ms = 25\n");
    eventually("the node obeys the good file", || {
        node.state()["obeyed"] == true
    });
    eventually("its status says nothing more", || node.trouble().is_empty());
}

#[test]
fn an_operator_has_a_node_reload_over_the_network_and_is_told_how_it_went() {
    let node = Node::start("heartbeat_ms = 40\n");
    node.write("heartbeat_ms = 30\nsegment_blocks_per_slot = 2\n");
    let output = node.ask("ops", "1");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = json(&output);
    assert_eq!(
        (&told["node"], &told["obeyed"]),
        (&"1".into(), &true.into())
    );
    assert_eq!(told["at_restart"][0]["key"], "segment_blocks_per_slot");
    assert_eq!(told["profile"].as_str(), node.state()["profile"].as_str());
    assert!(node.state()["readings"].as_u64() >= told["readings"].as_u64());

    // Not acceptable: told by file, line, value and limit; nothing has changed.
    node.write("heartbeat_ms = 30\nchains_in_flight_max = 9\n");
    let output = node.ask("ops", "1");
    assert_eq!(output.status.code(), Some(1));
    let told = json(&output);
    assert_eq!(told["obeyed"], false);
    let wrong = told["wrong"][0].as_str().unwrap_or_default();
    let line = "mine.toml:2: chains_in_flight_max = 9 is not";
    assert!(wrong.contains(line), "{wrong}");
    assert!(
        text(&output.stderr).contains(line),
        "{}",
        text(&output.stderr)
    );
    assert!(node.trouble().contains("mine.toml:2"));

    node.write("heartbeat_ms = 25\n");
    assert_eq!(json(&node.ask("ops", "1"))["obeyed"], true);
    assert_eq!(node.trouble(), "");
    let again = profile(
        &["reload", "--cluster", "dev", "--operator", "ops", "1"],
        node.dir.home(),
    );
    let said = text(&again.stdout);
    assert!(said.contains("node 1 already obeys it"), "{said}");
}

#[test]
fn a_reload_over_the_network_takes_an_operator_and_a_node_that_is_there() {
    let node = Node::start("heartbeat_ms = 40\n");
    let unknown = node.ask("ops", "7");
    assert_eq!(unknown.status.code(), Some(1));
    let said = text(&unknown.stderr);
    assert!(said.contains("names no shard 0 of node 7"), "{said}");
    // A client's certificate under an operator's file name is still a client's.
    let dev = node.dir.home().join("dev");
    for end in ["pem", "key"] {
        let from = dev.join(format!("client-dev.{end}"));
        std::fs::copy(from, dev.join(format!("operator-nobody.{end}"))).expect("copied");
    }
    let forbidden = node.ask("nobody", "1");
    assert_eq!(forbidden.status.code(), Some(1));
    let said = text(&forbidden.stderr);
    assert!(said.contains("only an operator's certificate"), "{said}");
    assert_eq!(node.state()["readings"], 0);
    let usage = profile(&["reload", "--cluster", "dev"], node.dir.home());
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_reload_where_no_node_runs_says_so() {
    let mut node = Node::start("heartbeat_ms = 40\n");
    node.running.0.kill().expect("it runs");
    node.running.0.wait().expect("it ends");
    let output = node.reload();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("no node runs here"),
        "{}",
        text(&output.stderr)
    );
}
