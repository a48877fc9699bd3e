//! What a node says of itself as it starts and runs: what it waits for, at once; when it is ready; which shard obeys a profile.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use support::{clustor, free_ports, make_lone};

/// A node that was started, and what it logs.
struct Started {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Started {
    fn new(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the clustor binary runs");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, log }
    }

    fn serve(dir: &Path, log_level: &str) -> Self {
        let mut command = clustor(&["serve", "--log-level", log_level, "--config"]);
        Self::new(command.arg(dir.join("dev/node-1.toml")))
    }

    fn first_line(&mut self) -> String {
        let mut line = String::new();
        let out = self.child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        line
    }

    /// The next line of the log that has this in it; empty if the node ends first.
    fn logs(&mut self, what: &str) -> String {
        let mut line = String::new();
        while self.log.read_line(&mut line).expect("text") > 0 {
            if line.contains(what) {
                return line;
            }
            line.clear();
        }
        String::new()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // One that has ended already can't be killed; that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_start_says_at_once_which_directory_or_port_it_waits_for() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let port = free_ports(1);
    make_lone(&home.path().join("dev"), port);
    let mut first = Started::serve(home.path(), "error");
    let ready = first.first_line();
    assert!(
        ready.ends_with(&format!("{port}, 1 shard, 1 partition\n")),
        "{ready}"
    );

    let mut second = Started::serve(home.path(), "warn");
    let said = second.logs("waiting for the directory");
    assert!(said.contains("data-1"), "{said}");
    assert!(said.contains(&first.child.id().to_string()), "{said}");
    assert_eq!(
        second.child.try_wait().expect("its state"),
        None,
        "it waits"
    );

    let other = tempfile::tempdir().expect("a temporary directory");
    make_lone(&other.path().join("dev"), port);
    let mut third = Started::serve(other.path(), "warn");
    let said = third.logs("waiting for the port");
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
    assert_eq!(third.child.try_wait().expect("its state"), None, "it waits");
}

#[test]
fn each_shard_that_obeys_a_changed_profile_is_named() {
    let home = tempfile::tempdir().expect("a temporary directory");
    make_lone(&home.path().join("dev"), free_ports(1));
    let profile = home.path().join("dev/mine.toml");
    std::fs::write(&profile, "heartbeat_ms = 20\n").expect("written");
    let config = home.path().join("dev/node-1.toml");
    let text = std::fs::read_to_string(&config).expect("text");
    let text = text.replace("profile = \"latency\"", "profile = \"mine.toml\"");
    std::fs::write(&config, text).expect("written");
    let mut node = Started::serve(home.path(), "info");
    assert!(node.first_line().starts_with("ready"));
    std::fs::write(&profile, "heartbeat_ms = 30\n").expect("written");
    let said = node.logs("profile reloaded");
    assert!(said.contains("shard=0 key=\"heartbeat_ms\""), "{said}");
}

#[test]
fn a_device_is_not_measured_beside_a_node_that_runs_there() {
    // On a disk: a file system in memory is refused anyway.
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    make_lone(&home.path().join("dev"), free_ports(1));
    let mut node = Started::serve(home.path(), "error");
    assert!(node.first_line().starts_with("ready"));
    let data = home.path().join("dev/data-1");
    let probe = || {
        let mut command = clustor(&["probe", "--cell-ms", "10"]);
        command
            .arg(&data)
            .output()
            .expect("the clustor binary runs")
    };
    let refused = probe();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("a node runs here"), "{said}");
    // The kernel keeps a killed node's ring for a moment, and its locks with it.
    drop(node);
    let ends = std::iter::repeat_with(probe).take(200);
    let done = ends
        .inspect(|_| std::thread::sleep(Duration::from_millis(20)))
        .find(|done| !String::from_utf8_lossy(&done.stderr).contains("a node runs here"))
        .expect("it is gone");
    assert!(done.status.success(), "{done:?}");
}
