//! `clustor probe` and `clustor host` as their users meet them.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use clustor_engine::profile::Profile;
use serde_json::Value;

fn clustor(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clustor"))
        .args(args)
        .current_dir(dir)
        .output()
        .expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory beside the binary: /tmp may be a file system in memory.
fn directory() -> tempfile::TempDir {
    let beside = Path::new(env!("CARGO_BIN_EXE_clustor"))
        .parent()
        .expect("a binary lies in a directory");
    tempfile::tempdir_in(beside).expect("a directory can be made there")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("it is there");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .expect("it is there")
            .file_name()
            .to_string_lossy()
            .into_owned()
    };
    entries.map(name).collect()
}

#[test]
fn a_device_is_measured_and_the_proposed_profile_is_good() {
    let dir = directory();
    let output = clustor(
        &["probe", ".", "--cell-ms", "20", "--out", "mine.toml"],
        dir.path(),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for part in [
        "fdatasync alone: p50",
        "█",
        "1024 KiB",
        "blocks never written",
        "written to mine.toml",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Not a terminal: no colours, no progress.
    assert!(!said.contains('\x1b'), "{said}");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(names(dir.path()), ["mine.toml"]);
    let checked = clustor(&["profile", "check", "mine.toml"], dir.path());
    assert!(checked.status.success(), "{}", text(&checked.stdout));
    let proposed = std::fs::read_to_string(dir.path().join("mine.toml")).expect("there");
    assert!(
        proposed.contains("# fdatasync alone, 128 times"),
        "{proposed}"
    );
    let proposed = Profile::parse(&proposed, "mine.toml").expect("good");
    assert_eq!(proposed.mode, Profile::latency().mode);

    let again = clustor(&["probe", ".", "--out", "mine.toml"], dir.path());
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("--force"),
        "{}",
        text(&again.stderr)
    );
    let output = clustor(
        &[
            "probe",
            ".",
            "--cell-ms",
            "10",
            "--json",
            "--out",
            "mine.toml",
            "--force",
            "--base",
            "wan",
        ],
        dir.path(),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let measured = &told["measured"];
    let chains = measured["chains"].as_array().expect("a list");
    for flush in ["fdatasync", "dsync"] {
        let of_this = chains.iter().filter(|cell| cell["flush"] == flush);
        assert_eq!(of_this.count(), 20, "four depths, five sizes: {flush}");
    }
    for cell in chains {
        let chains = cell["latency"]["count"].as_u64().expect("a number");
        assert!(
            chains > 0 && cell["chains_per_s"].as_f64() > Some(0.0),
            "{cell}"
        );
    }
    assert_eq!(measured["flush"]["count"], 128);
    for of in [
        "flush",
        "write_fdatasync",
        "write_dsync",
        "write_fdatasync_fresh_blocks",
    ] {
        let of = &measured[of];
        let counts = of["histogram"].as_array().expect("steps").iter();
        let sum: u64 = counts.filter_map(|step| step["count"].as_u64()).sum();
        assert_eq!(Some(sum), of["count"].as_u64());
    }
}

#[test]
fn where_nothing_can_be_measured_it_is_said_why() {
    let dir = directory();
    let gone = clustor(&["probe", "gone"], dir.path());
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        text(&gone.stderr).contains("gone"),
        "{}",
        text(&gone.stderr)
    );
    let nowhere = clustor(&["probe", ".", "--out", "no/mine.toml"], dir.path());
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("no such directory"));
    if Path::new("/dev/shm").is_dir() {
        let memory = clustor(&["probe", "/dev/shm"], dir.path());
        assert_eq!(memory.status.code(), Some(1));
        assert!(text(&memory.stderr).contains("numbers would mean nothing"));
    }
}

#[test]
fn an_interrupt_ends_it_and_removes_what_was_made() {
    let dir = directory();
    let mut child = Command::new(env!("CARGO_BIN_EXE_clustor"))
        .args(["probe", ".", "--cell-ms", "60000"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let until = Instant::now() + Duration::from_secs(60);
    while names(dir.path()).is_empty() {
        assert!(
            Instant::now() < until,
            "it has made nothing within a minute"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn a_host_is_judged_and_an_override_that_has_expired_is_refused() {
    let dir = directory();
    let judged = clustor(&["host", "data", "--json"], dir.path());
    let told: Value = serde_json::from_slice(&judged.stdout).expect("one JSON object");
    assert_eq!(
        judged.status.success(),
        told["outcome"] == "allow",
        "{told}"
    );
    assert!(told["file_system"].is_string(), "{told}");
    let judged = clustor(&["host", "data"], dir.path());
    assert!(
        text(&judged.stdout).contains("outcome"),
        "{}",
        text(&judged.stdout)
    );
    assert!(names(dir.path()).is_empty(), "nothing is made");

    let expired = "[[allow]]\nclause = \"fuse\"\nuntil = 2020-01-01\nreason = \"old\"\n";
    std::fs::write(dir.path().join("host-override.toml"), expired).expect("written");
    let judged = clustor(&["host", "."], dir.path());
    assert_eq!(judged.status.code(), Some(3));
    let said = text(&judged.stderr);
    assert!(said.contains("fuse was allowed until 2020-01-01"), "{said}");
}
