//! Nodes and the demo as processes: killed again and again, started twice, forbidden io_uring, interrupted.

#[path = "support/lone.rs"]
mod lone;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lone::{Running, ask, clustor, lone_cluster, serve, serve_with, text, walk};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

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
fn the_version_names_protocol_and_formats() {
    let said = text(&clustor().arg("--version").output().expect("runs").stdout);
    for part in [
        "clustor 0.",
        "wire protocol 1",
        "log files 5",
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
