//! `clustor-bench device` as its users meet it: the table, the JSON, the refusals, the clean-up.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::{bench, directory, text};

fn measure(dir: &Path, json: &Path) -> Output {
    bench()
        .args(["device", "--seconds", "0.3", "--depths", "1,8", "--dir"])
        .arg(dir)
        .arg("--json")
        .arg(json)
        .output()
        .expect("the harness runs")
}

#[test]
fn every_mode_is_measured_at_every_depth_and_saved() {
    let dir = directory();
    let json = dir.path().join("device.json");
    let output = measure(dir.path(), &json);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let saved = std::fs::read(&json).expect("it is saved");
    let report: serde_json::Value = serde_json::from_slice(&saved).expect("it is JSON");
    assert_eq!(report["machine"]["writer_mode"], "FixedUring");
    let runs = report["runs"].as_array().expect("a list");
    let found: Vec<(String, u64)> = runs
        .iter()
        .map(|run| {
            let mode = run["mode"].as_str().expect("a mode").to_owned();
            (mode, run["depth"].as_u64().expect("a depth"))
        })
        .collect();
    let expected: Vec<(String, u64)> = ["write", "write_flush", "full_chain"]
        .into_iter()
        .flat_map(|mode| [(mode.to_owned(), 1), (mode.to_owned(), 8)])
        .collect();
    assert_eq!(found, expected);
    for run in runs {
        assert_eq!(run["measured_at"], "shard");
        let p50 = run["p50_us"].as_f64().expect("a number");
        let p99 = run["p99_us"].as_f64().expect("a number");
        assert!(0.0 < p50 && p50 <= p99, "{run}");
        assert!(run["per_s"].as_f64().expect("a number") > 0.0, "{run}");
        let full = run["mode"] == "full_chain";
        assert_eq!(
            run["ratio_to_device"].as_f64(),
            full.then_some(1.0),
            "{run}"
        );
    }
    let table = text(&output.stdout);
    assert_eq!(
        table
            .lines()
            .filter(|line| line.starts_with("device "))
            .count(),
        6,
        "{table}"
    );
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("listed")
        .map(|entry| entry.expect("listed").file_name())
        .collect();
    assert_eq!(left, ["device.json"], "what was made is removed");
}

#[test]
fn a_file_system_in_memory_is_refused() {
    let memory = Path::new("/dev/shm");
    assert!(memory.is_dir(), "Linux has a tmpfs at /dev/shm");
    let output = bench()
        .args(["device", "--dir", "/dev/shm"])
        .output()
        .expect("the harness runs");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("tmpfs") && said.contains("--dir"),
        "why and what to do: {said}"
    );
}

#[test]
fn a_missing_directory_and_bad_numbers_are_refused() {
    let output = bench()
        .args(["device", "--dir", "/no/such/directory"])
        .output()
        .expect("the harness runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/directory"));
    for arguments in [["--depths", "0"], ["--depths", "33"], ["--blocks", "2000"]] {
        let output = bench()
            .arg("device")
            .args(arguments)
            .output()
            .expect("the harness runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_signal_ends_the_measurement_and_removes_what_was_made() {
    let dir = directory();
    let mut child = bench()
        .args(["device", "--seconds", "60", "--dir"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("the harness runs");
    let begun = std::time::Instant::now();
    while std::fs::read_dir(dir.path()).expect("listed").count() == 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it makes a directory"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    // By its own number: nothing else is meant.
    let sent = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
    let status = child.wait().expect("waited for");
    assert_eq!(status.code(), Some(130));
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
}
