//! What the tests of the harness share: calling it, and judging what comes out.
#![allow(dead_code, unreachable_pub)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_clustor-bench"))
}

/// A directory beside the binary: /tmp may be a file system in memory.
pub fn directory() -> tempfile::TempDir {
    let beside = Path::new(env!("CARGO_BIN_EXE_clustor-bench"))
        .parent()
        .expect("a binary lies in a directory");
    tempfile::tempdir_in(beside).expect("a directory can be made there")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Calls the harness with a line of arguments; what it printed, once it has ended well.
pub fn measured(arguments: &str, dir: &Path) -> String {
    let output = called(arguments, dir);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

pub fn called(arguments: &str, dir: &Path) -> Output {
    bench()
        .args(arguments.split_whitespace())
        .arg("--dir")
        .arg(dir)
        .current_dir(dir)
        .output()
        .expect("the harness runs")
}

pub fn json(path: &Path) -> Value {
    let saved = std::fs::read(path).expect("it is saved");
    serde_json::from_slice(&saved).expect("it is JSON")
}

/// Names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .expect("listed")
        .map(|entry| {
            let name = entry.expect("listed").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

pub fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or_else(|| panic!("{key}: {of}"))
}

/// The rows of a report. Each has every field, no number of it is negative but for differences, latencies are in order,
/// and as many rounds were measured as asked for.
pub fn rows(report: &Value, rounds: u64) -> &[Value] {
    assert_eq!(report["complete"], true);
    let rows = report["runs"].as_array().expect("a list");
    for row in rows {
        let fields = row.as_object().expect("an object");
        for field in FIELDS {
            assert!(fields.contains_key(*field), "{field}: {row}");
        }
        assert_eq!(row["rounds"], rounds, "{row}");
        for (field, value) in fields {
            let is_difference = field.starts_with("p999_over_quiet") || field == "wakes_over_shard";
            let below_zero = value.as_f64().is_some_and(|number| number < 0.0);
            assert!(is_difference || !below_zero, "{field} = {value}: {row}");
        }
        let latencies = ["p50_us", "p99_us", "p999_us", "max_us"].map(|key| number(row, key));
        assert!(latencies.is_sorted(), "{row}");
        let device = &row["device"];
        for field in ["depth", "blocks", "p50_us", "p99_us", "per_s", "mib_per_s"] {
            assert!(number(device, field) > 0.0, "{field}: {row}");
        }
    }
    rows
}

/// Every field of a row.
const FIELDS: &[&str] = &[
    "benchmark",
    "mode",
    "suite",
    "flush",
    "depth",
    "payload_bytes",
    "measured_at",
    "rounds",
    "operations",
    "p50_us",
    "p99_us",
    "p999_us",
    "max_us",
    "per_s",
    "mib_per_s",
    "chain_blocks",
    "operations_per_chain",
    "allocations_per_operation",
    "enters_per_operation",
    "instructions_per_operation",
    "rollovers",
    "reclaims",
    "p999_over_quiet_chains",
    "p999_over_quiet_flushes",
    "device",
    "ratio_to_device",
    "ratio_p99_to_device",
    "bandwidth_to_device",
    "suite_mib_per_s",
    "bandwidth_to_suite",
    "wake_p50_us",
    "wakes_over_shard",
    "rate_to_peer",
    "p99_to_peer",
];

/// How many latencies an .hgrm file says that it is of.
pub fn total_count(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).expect("read");
    assert!(text.contains("Percentile"), "{text}");
    let total = text
        .split("Total count")
        .nth(1)
        .expect("it says of how many");
    let digits = total.trim_start_matches([' ', '=']).split(']').next();
    let digits = digits.expect("a number").trim();
    digits.parse().unwrap_or_else(|_| panic!("{digits}"))
}

/// Each row's latencies are all in its .hgrm file, and the device's in the one beside it.
pub fn check_histograms(directory: &Path, rows: &[Value]) {
    let names = names(directory);
    let is_of_device = |name: &&String| name.ends_with(".device.hgrm");
    assert_eq!(
        names.iter().filter(is_of_device).count(),
        rows.len(),
        "{names:?}"
    );
    let own = names.iter().filter(|name| !is_of_device(name));
    let mut counts: Vec<u64> = own.map(|name| total_count(&directory.join(name))).collect();
    let mut expected: Vec<u64> = rows
        .iter()
        .map(|row| row["operations"].as_u64().expect("a number"))
        .collect();
    counts.sort_unstable();
    expected.sort_unstable();
    assert_eq!(counts, expected);
}

/// In every plot whose name begins so, and there are some, the device is named and its line is drawn in dashes.
pub fn check_device_lines(directory: &Path, kind: &str) {
    let names = names(directory);
    let of_kind: Vec<&String> = names.iter().filter(|name| name.starts_with(kind)).collect();
    assert!(!of_kind.is_empty(), "{kind}: {names:?}");
    for name in of_kind {
        let svg = std::fs::read_to_string(directory.join(name)).expect("read");
        assert!(svg.contains("<svg") && svg.contains("</svg>"), "{name}");
        assert!(svg.contains("device"), "{name}: it is not named");
        // Axes are black. Of a solid line there is one piece, of a dashed one many, three of them in the legend.
        let pieces = svg
            .lines()
            .filter(|line| line.contains("<polyline") && !line.contains("stroke=\"#000000\""));
        assert!(pieces.count() > 6, "{name}: its line is not drawn");
    }
}

/// Whether callgrind can be run. Where it can't, that is said; continuous integration installs it.
pub fn has_valgrind() -> bool {
    let found = Command::new("valgrind").arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!(
            "NOT RUN: valgrind is not installed here, and instructions can't be counted without it"
        );
    }
    found
}
