//! `clustor-bench log` as its users meet it: medians, files, plots, allocations, interruption.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use support::{bench, check_device_lines, check_histograms, directory, json, names, rows};

#[test]
fn every_combination_is_measured_beside_the_device_and_saved() {
    let dir = directory();
    let results = dir.path().join("results");
    std::fs::create_dir(&results).expect("made");
    let output = bench()
        .args([
            "log",
            "--seconds",
            "0.2",
            "--repeat",
            "2",
            "--clients",
            "1,16",
        ])
        .args(["--sizes", "100,3000", "--at", "shard", "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(results.join("log.json"))
        .arg("--hgrm")
        .arg(results.join("hgrm"))
        .arg("--svg")
        .arg(results.join("svg"))
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(names(dir.path()), ["results"], "what was made is removed");

    let report = json(&results.join("log.json"));
    assert_eq!(report["complete"], true);
    let runs = rows(&report, 2);
    assert_eq!(runs.len(), 8, "two modes, sizes and numbers of clients");
    for run in runs {
        let number = |key: &str| run[key].as_f64().unwrap_or_else(|| panic!("{key}: {run}"));
        assert!(0.0 < number("p50_us"));
        assert!(number("ratio_to_device") > 0.0);
        let device = &run["device"];
        assert!(
            device["depth"]
                .as_u64()
                .is_some_and(|depth| (1..=32).contains(&depth))
        );
        if run["mode"] == "strict" {
            assert!((number("operations_per_chain") - 1.0).abs() < 0.1, "{run}");
        }
        if run["mode"] == "strict" && run["depth"] == 1 {
            assert_eq!(device["depth"], 1, "chains of the depth that the log used");
            assert_eq!(device["blocks"], 1, "and of their size");
        }
    }

    check_histograms(&results.join("hgrm"), runs);
    let one = std::fs::read_to_string(results.join("hgrm").join(&names(&results.join("hgrm"))[0]))
        .expect("read");
    assert!(one.contains("Percentile") && one.contains("#[Max"), "{one}");
    for kind in ["rate-", "latency-", "bandwidth-", "percentiles-"] {
        check_device_lines(&results.join("svg"), kind);
    }
}

/// The log's own part of an append asks the heap for nothing once its buffers have grown; what is left is the list of
/// extents, which doubles now and then.
#[test]
fn appends_do_not_allocate_in_steady_state() {
    let dir = directory();
    let saved = dir.path().join("log.json");
    let output = bench()
        .args([
            "log",
            "--seconds",
            "0.3",
            "--repeat",
            "1",
            "--clients",
            "1,64,256",
        ])
        .args(["--sizes", "128,4096,65536", "--at", "shard", "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(&saved)
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let report = json(&saved);
    let runs = report["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 18, "two modes, sizes and numbers of clients");
    for run in runs {
        let operations = run["operations"].as_f64().expect("a number");
        let each = run["allocations_per_operation"].as_f64().expect("counted");
        // Of the longest few may be appended in the time; one allocation for each would still be told from none.
        assert!(
            each < 0.5 && each * operations < 16.0,
            "{} allocations in {operations} appends: {run}",
            each * operations
        );
    }
}

#[test]
fn a_signal_shows_what_was_measured_so_far() {
    let dir = directory();
    let saved = dir.path().join("log.json");
    let sizes: Vec<String> = (1..=60).map(|size| (size * 10).to_string()).collect();
    let mut child = bench()
        .args(["log", "--seconds", "0.2", "--repeat", "1", "--clients", "1"])
        .args(["--at", "shard", "--sizes", &sizes.join(","), "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(&saved)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the harness runs");
    // The third of its lines comes when two combinations are measured.
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let third = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("3/")));
    assert!(third.is_some(), "it says how far it is");
    // By its own number: nothing else is meant.
    let sent = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
    let status = child.wait().expect("waited for");
    assert_eq!(status.code(), Some(130));
    let report = json(&saved);
    assert_eq!(report["complete"], false);
    let runs = report["runs"].as_array().expect("a list").len();
    assert!((2..120).contains(&runs), "{runs}");
    assert_eq!(names(dir.path()), ["log.json"], "what was made is removed");
}

#[test]
fn a_profile_that_is_no_good_is_refused_with_its_line() {
    let dir = directory();
    let profile = dir.path().join("mine.toml");
    std::fs::write(&profile, "base = \"throughput\"\nbatch_bytes_max = 1\n").expect("written");
    let output = bench()
        .args(["log", "--quick", "--profile"])
        .arg(&profile)
        .arg("--dir")
        .arg(dir.path())
        .output()
        .expect("the harness runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("mine.toml:2") && said.contains("batch_bytes_max"),
        "{said}"
    );
}

#[test]
fn each_kind_of_flush_is_a_line_of_its_own_beside_the_same_kind_on_the_device() {
    let dir = directory();
    let results = dir.path().join("results");
    std::fs::create_dir(&results).expect("made");
    let output = bench()
        .args(["log", "--seconds", "0.2", "--repeat", "1", "--clients", "1"])
        .args(["--sizes", "128", "--modes", "strict", "--at", "shard"])
        .args(["--flush", "fdatasync,dsync", "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(results.join("log.json"))
        .arg("--hgrm")
        .arg(results.join("hgrm"))
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let report = json(&results.join("log.json"));
    let flushes: Vec<&str> = report["runs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|run| run["flush"].as_str().expect("a name"))
        .collect();
    assert_eq!(flushes, ["fdatasync", "dsync"]);
    let hgrm = names(&results.join("hgrm"));
    assert_eq!(
        hgrm.len(),
        4,
        "each line and the device beside it: {hgrm:?}"
    );
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("fdatasync") && table.contains("dsync"),
        "{table}"
    );
}

#[test]
fn a_profile_is_measured_beside_the_shipped_one_in_turns() {
    let dir = directory();
    let profile = dir.path().join("mine.toml");
    std::fs::write(
        &profile,
        "base = \"throughput\"\nbatch_bytes_max = 131072\n",
    )
    .expect("written");
    let saved = dir.path().join("log.json");
    let output = bench()
        .args([
            "log",
            "--seconds",
            "0.2",
            "--repeat",
            "2",
            "--clients",
            "16",
        ])
        .args(["--sizes", "128", "--at", "shard", "--beside", "default"])
        .arg("--profile")
        .arg(&profile)
        .arg("--dir")
        .arg(dir.path())
        .arg("--json")
        .arg(&saved)
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    for run in json(&saved)["runs"].as_array().expect("a list") {
        for key in ["rate_to_peer", "p99_to_peer"] {
            assert!(run[key].as_f64().is_some_and(|ratio| ratio > 0.0), "{run}");
        }
    }
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("rate:peer"), "{table}");

    let unknown = bench()
        .args(["log", "--quick", "--beside", "fastest", "--profile"])
        .arg(&profile)
        .output()
        .expect("the harness runs");
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        said.contains("default") && said.contains("latency"),
        "{said}"
    );
}
