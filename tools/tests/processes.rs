//! Nodes and the demo as processes: killed again and again, started twice, forbidden io_uring, interrupted.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

const TRUST_DOMAIN: &str = "dev.test";

fn clustor() -> Command {
    Command::new(env!("CARGO_BIN_EXE_clustor"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Dir {
    home: tempfile::TempDir,
    path: PathBuf,
}

impl Dir {
    fn home(&self) -> &Path {
        self.home.path()
    }
}

/// The directory, and all that is in it.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A cluster of one node, which is its own quorum.
fn lone_cluster() -> Dir {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("dev");
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let made = clustor()
        .args([
            "certs",
            "cluster",
            "--trust-domain",
            TRUST_DOMAIN,
            "--nodes",
            "1",
            "--replicas",
            "1",
            "--shards",
            "1",
        ])
        .args([
            "--partitions",
            "2",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--dir",
        ])
        .arg(&path)
        .output()
        .expect("runs");
    assert!(made.status.success(), "{}", text(&made.stderr));
    Dir { home, path }
}

fn serve(dir: &Path) -> Command {
    serve_with(dir, "error")
}

fn serve_with(dir: &Path, log_level: &str) -> Command {
    let mut command = clustor();
    command
        .args(["serve", "--log-level", log_level, "--config"])
        .arg(dir.join("node-1.toml"));
    command
}

struct Running(Child);

impl Running {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, "error")
    }

    fn start_with(dir: &Path, log_level: &str) -> Self {
        let mut child = serve_with(dir, log_level)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let mut node = Self(child);
        if !line.starts_with("ready") {
            let mut said = String::new();
            let mut err = node.0.stderr.take().expect("piped");
            err.read_to_string(&mut said).expect("text");
            panic!("it did not become ready: {said}");
        }
        node
    }

    fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended can't be killed; either way it is waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(dir: &Path, what: &str, args: &[&str]) -> Output {
    clustor()
        .args([what, "--cluster"])
        .arg(dir)
        .args(args)
        .output()
        .expect("runs")
}

/// Enough locked memory for a shard's ring, not for the thread that accepts. Kibibytes.
const MEMLOCK_LIMIT: &str = "ulimit -l 256; exec \"$0\" \"$@\"";
/// The user that owns nothing. Root, who runs tests in CI, may lock what it likes.
const NOBODY: u32 = 65534;

#[test]
fn a_node_that_may_lock_too_little_says_so_and_is_not_ready() {
    let cluster = lone_cluster();
    let own = std::fs::metadata(&cluster.path).expect("it is there").uid();
    let mut command = Command::new("sh");
    if own == 0 {
        for entry in walk(&cluster.path) {
            std::os::unix::fs::chown(entry, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        std::os::unix::fs::chown(cluster.home(), Some(NOBODY), Some(NOBODY)).expect("root may");
        command.uid(NOBODY).gid(NOBODY);
    }
    let served = serve(&cluster.path);
    let output = command
        .args(["-c", MEMLOCK_LIMIT])
        .arg(served.get_program())
        .args(served.get_args())
        .output()
        .expect("the shell runs");
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert_eq!(text(&output.stdout), "", "it is not ready");
    assert!(said.contains("ulimit -l"), "the remedy: {said}");
    assert!(said.contains("512 KiB"), "how much: {said}");
}

#[test]
fn a_log_level_that_is_none_is_refused() {
    let cluster = lone_cluster();
    let output = serve_with(&cluster.path, "loud").output().expect("runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("warn"), "what there is: {said}");
}

#[test]
fn what_was_acknowledged_survives_a_kill_in_a_loop() {
    let dir = lone_cluster();
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..5 {
        let node = Running::start(&dir.path);
        for (key, value) in &acknowledged {
            let read = ask(&dir.path, "read", &["1", key, "--raw"]);
            assert_eq!(text(&read.stdout).trim_end(), value, "round {round}");
        }
        for number in 0..3 {
            let (key, value) = (format!("key-{number}"), format!("{round}-{number}"));
            let done = ask(&dir.path, "append", &["1", &key, &value]);
            assert!(done.status.success(), "{}", text(&done.stderr));
            acknowledged.insert(key, value);
        }
        node.kill();
    }
}

#[test]
fn a_second_start_on_a_directory_in_use_is_refused() {
    let dir = lone_cluster();
    let node = Running::start(&dir.path);
    // The port is in use as well, or is not: either way the directory is what stands in the way.
    let config = std::fs::read_to_string(dir.path.join("node-1.toml")).expect("there");
    for listen in ["", "listen = \"127.0.0.1:0\"\n"] {
        std::fs::write(dir.path.join("node-1.toml"), format!("{listen}{config}")).expect("written");
        let second = serve(&dir.path).output().expect("runs");
        assert_eq!(second.status.code(), Some(1));
        let said = text(&second.stderr);
        assert!(said.contains("data-1: in use by another process"), "{said}");
        let pid = format!("(process id {})", node.0.id());
        assert!(
            !said.contains("process id") || said.contains(&pid),
            "{said}"
        );
    }
    drop(node);
}

#[test]
fn a_port_in_use_is_refused_before_anything_is_written() {
    let dir = lone_cluster();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let config = std::fs::read_to_string(dir.path.join("node-1.toml")).expect("there");
    std::fs::write(
        dir.path.join("node-1.toml"),
        format!("listen = \"{address}\"\n{config}"),
    )
    .expect("written");
    let refused = serve(&dir.path).output().expect("runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains(&address.to_string()),
        "{}",
        text(&refused.stderr)
    );
    assert!(!dir.path.join("data-1").exists());
}

#[test]
fn damaged_certificates_keys_and_placements_are_refused_before_anything_is_written() {
    for (file, damage) in [
        (
            "node-1.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
        ("node-1.key", "no key\n"),
        ("placement.toml", "nodes = 1\n"),
        ("ca.pem", ""),
    ] {
        let dir = lone_cluster();
        std::fs::write(dir.path.join(file), damage).expect("written");
        let refused = serve(&dir.path).output().expect("runs");
        assert_eq!(
            refused.status.code(),
            Some(3),
            "{file}: {}",
            text(&refused.stderr)
        );
        assert!(
            text(&refused.stderr).contains(file),
            "{}",
            text(&refused.stderr)
        );
        assert!(!dir.path.join("data-1").exists(), "{file}");
    }
}

/// A filter under which `io_uring_setup` (number 425 on every architecture) fails as where it is forbidden.
fn without_io_uring() -> BpfProgram {
    let arch = std::env::consts::ARCH
        .try_into()
        .expect("a known architecture");
    let rules = [(425, Vec::new())].into_iter().collect();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(1), arch)
        .and_then(TryInto::try_into)
        .expect("a sound filter")
}

#[test]
fn where_io_uring_is_forbidden_the_error_says_so_and_how_to_allow_it() {
    let dir = lone_cluster();
    let path = dir.path.clone();
    // The filter holds for the thread that asks for it, and for the processes that it starts.
    let refused = std::thread::spawn(move || {
        seccompiler::apply_filter(&without_io_uring()).expect("the filter is taken");
        serve(&path).output().expect("runs")
    })
    .join()
    .expect("no panic");
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("io_uring is forbidden"), "{said}");
    assert!(said.contains("kernel.io_uring_disabled"), "{said}");
}

#[test]
fn a_stopped_node_ends_in_order_and_starts_again() {
    let dir = lone_cluster();
    for round in 0..2 {
        let mut node = Running::start_with(&dir.path, "info");
        let done = ask(&dir.path, "append", &["1", "key", &format!("{round}")]);
        assert!(done.status.success(), "{}", text(&done.stderr));
        clustor_shards::sys::terminate(node.0.id()).expect("it runs");
        let status = node.0.wait().expect("it ends");
        assert!(status.success(), "{status}");
        let mut said = String::new();
        let mut err = node.0.stderr.take().expect("piped");
        err.read_to_string(&mut said).expect("text");
        let recovered = said.lines().find(|line| line.contains("recovered"));
        let recovered = recovered.unwrap_or_else(|| panic!("{said}"));
        assert!(recovered.contains("incidents=0"), "{recovered}");
        assert!(recovered.len() < 250, "a line for people: {recovered}");
        assert!(said.contains("stopped"), "{said}");
        assert!(!said.contains('\u{1b}'), "no colours in a file: {said}");
    }
    let _node = Running::start(&dir.path);
    let read = ask(&dir.path, "read", &["1", "key", "--raw"]);
    assert_eq!(text(&read.stdout).trim_end(), "1");
}

#[test]
fn a_short_demo_loses_nothing_and_says_so_in_its_last_line() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let result = home.path().join("result.json");
    let demo = clustor()
        .args([
            "demo",
            "--seconds",
            "4",
            "--clients",
            "8",
            "--partitions",
            "4",
            "--json",
        ])
        .arg(&result)
        .env("TMPDIR", home.path())
        .output()
        .expect("runs");
    assert!(
        demo.status.success(),
        "{}{}",
        text(&demo.stdout),
        text(&demo.stderr)
    );
    let out = text(&demo.stdout);
    let last = out.lines().last().expect("a line");
    assert!(last.starts_with("acked="), "{last}");
    assert!(last.contains(" lost=0 duplicated=0 "), "{last}");
    let saved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&result).expect("written")).expect("JSON");
    assert_eq!(saved["unproven"], 0);
    assert!(saved["acked"].as_u64().expect("a number") > 0);
    let left: Vec<_> = std::fs::read_dir(home.path())
        .expect("there")
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "only the result is left: {left:?}");
}

#[test]
fn an_interrupted_demo_removes_what_it_made() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut demo = clustor()
        .args([
            "demo",
            "--seconds",
            "60",
            "--clients",
            "4",
            "--partitions",
            "2",
        ])
        .env("TMPDIR", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let mut out = BufReader::new(demo.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("acks/s") {
        line.clear();
        assert_ne!(
            out.read_line(&mut line).expect("a line"),
            0,
            "it ended early"
        );
    }
    clustor_shards::sys::terminate(demo.id()).expect("it runs");
    let begun = Instant::now();
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert!(!demo.wait().expect("it ends").success());
    assert!(begun.elapsed() < Duration::from_secs(40));
    assert_eq!(std::fs::read_dir(home.path()).expect("there").count(), 0);
}

#[test]
fn inspect_shows_what_a_node_wrote_and_leaves_it_as_it_was() {
    let dir = lone_cluster();
    let node = Running::start(&dir.path);
    let done = ask(&dir.path, "append", &["1", "key", "value"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    node.kill();
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
    // A killed process's ring may outlive it for a moment, and with it the shard's lock.
    let begun = Instant::now();
    let healthy = loop {
        let output = scrub(&["--json"]);
        if output.status.code() != Some(1) || begun.elapsed() > Duration::from_secs(20) {
            break output;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
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
    let dir = lone_cluster();
    let node = Running::start(&dir.path);
    let done = ask(&dir.path, "append", &["1", "key", "value"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    node.kill();
    let data = dir.path.join("data-1");
    let scrub = |arguments: &[&str]| {
        let mut command = clustor();
        command.arg("scrub").arg(&data).args(arguments);
        command.output().expect("runs")
    };
    // A killed process's ring may outlive it for a moment, and with it the shard's lock.
    let begun = Instant::now();
    let healthy = loop {
        let output = scrub(&["--progress-every", "0"]);
        if output.status.code() != Some(1) || begun.elapsed() > Duration::from_secs(20) {
            break output;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
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
fn the_version_names_protocol_and_formats() {
    let said = text(&clustor().arg("--version").output().expect("runs").stdout);
    for part in [
        "clustor 0.",
        "wire protocol 1",
        "log files 4",
        "record frames 2",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// A filter under which files are refused direct I/O, as by a file system that has none: `openat` with `O_DIRECT` fails with
/// EINVAL, open(2).
fn without_direct_io() -> BpfProgram {
    let arch = std::env::consts::ARCH
        .try_into()
        .expect("a known architecture");
    let direct = libc::O_DIRECT as u64;
    let asks_for_it = SeccompCondition::new(
        2,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(direct),
        direct,
    )
    .and_then(|condition| SeccompRule::new(vec![condition]))
    .expect("a sound rule");
    let rules = [(libc::SYS_openat, vec![asks_for_it])]
        .into_iter()
        .collect();
    let refusal = SeccompAction::Errno(libc::EINVAL as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)
        .and_then(TryInto::try_into)
        .expect("a sound filter")
}

#[test]
fn where_direct_io_is_refused_a_thread_writes_and_says_so_and_nothing_is_lost() {
    let dir = lone_cluster();
    let data = dir.path.join("data-1");
    let path = dir.path.clone();
    let mut node = std::thread::spawn(move || {
        seccompiler::apply_filter(&without_direct_io()).expect("the filter is taken");
        Running::start_with(&path, "warn")
    })
    .join()
    .expect("no panic");
    let done = ask(&dir.path, "append", &["1", "key", "value"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let status = ask(&dir.path, "status", &["--json"]);
    let told = text(&status.stdout);
    assert!(told.contains("\"io_writer_mode\":\"blocking\""), "{told}");
    // Group mode is not for such a writer, and the clause says why.
    let refused = ask(&dir.path, "mode", &["--operator", "ops", "1", "group"]);
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(said.contains("blocking_voter"), "{said}");
    node.0.kill().expect("it runs");
    node.0.wait().expect("it ends");
    let mut said = String::new();
    let mut err = node.0.stderr.take().expect("piped");
    err.read_to_string(&mut said).expect("text");
    assert!(
        said.contains("refuses direct I/O") && said.contains("Blocking"),
        "{said}"
    );
    let left = std::fs::read_dir(data.join("shard-0/wal"))
        .expect("there")
        .flatten();
    let names: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().contains("probe")),
        "{names:?}"
    );

    // Where it is not refused, the next start reads what the thread wrote.
    let _node = Running::start(&dir.path);
    let read = ask(&dir.path, "read", &["1", "key", "--raw"]);
    assert_eq!(text(&read.stdout).trim_end(), "value");
}

#[test]
fn a_ring_that_is_asked_for_by_name_does_not_give_way_where_direct_io_is_refused() {
    let dir = lone_cluster();
    let config = dir.path.join("node-1.toml");
    std::fs::write(dir.path.join("ring.toml"), "io_writer = \"registered\"\n").expect("written");
    let made = std::fs::read_to_string(&config).expect("there");
    let kept = made.lines().filter(|line| !line.starts_with("profile ="));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    std::fs::write(&config, format!("profile = \"ring.toml\"\n{kept}")).expect("written");
    let path = dir.path.clone();
    let refused = std::thread::spawn(move || {
        seccompiler::apply_filter(&without_direct_io()).expect("the filter is taken");
        serve(&path).output().expect("runs")
    })
    .join()
    .expect("no panic");
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("refuses direct I/O (O_DIRECT)"), "{said}");
}
