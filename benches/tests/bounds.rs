//! `clustor-bench bounds` as its users meet it: its table, its JSON and its exit code agree, whatever this machine is like.

mod support;

use support::{called, directory, json, number, text};

#[test]
fn table_json_and_exit_code_say_the_same() {
    let dir = directory();
    let output = called(
        "bounds --only strict-p50,allocations --seconds 0.1 --repeat 3 --json bounds.json",
        dir.path(),
    );
    let table = text(&output.stdout);
    let report = json(&dir.path().join("bounds.json"));
    assert!(report["machine"]["kernel"].is_string(), "{report}");
    let bounds = report["bounds"].as_array().expect("a list");
    let names: Vec<&str> = bounds
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["strict-p50", "allocations"]);
    let mut all_held = true;
    for bound in bounds {
        let measured = bound["measured"].as_array().expect("a list");
        assert_eq!(measured.len(), 3, "{bound}");
        let values: Vec<f64> = measured
            .iter()
            .filter_map(serde_json::Value::as_f64)
            .collect();
        let median = number(bound, "median");
        assert!(values.contains(&median), "{bound}");
        assert!(number(bound, "min") <= median && median <= number(bound, "max"));
        let limit = number(bound, "limit");
        let held = match bound["relation"].as_str() {
            Some("<=") => median <= limit,
            Some("<") => median < limit,
            other => panic!("{other:?}"),
        };
        assert_eq!(bound["held"], held, "{bound}");
        all_held &= held;
        let name = bound["name"].as_str().expect("a name");
        let row = table.lines().find(|line| line.starts_with(name));
        let row = row.unwrap_or_else(|| panic!("{table}"));
        assert!(row.contains(&format!("{median:.3}")), "{row}");
        assert_eq!(row.ends_with("NOT HELD"), !held, "{row}");
    }
    assert_eq!(output.status.code(), Some(i32::from(!all_held)), "{table}");
    assert!(
        text(&output.stderr).contains("measurement 1 of 1, run 3 of 3"),
        "one call for both bounds"
    );
}

#[test]
fn what_was_not_measured_counts_as_not_held_and_says_why() {
    let dir = directory();
    let output = called(
        "bounds --only rollover --seconds 0.05 --repeat 1 --json bounds.json",
        dir.path(),
    );
    let report = json(&dir.path().join("bounds.json"));
    let bound = &report["bounds"][0];
    assert_eq!(
        bound["median"],
        serde_json::Value::Null,
        "no segment ends so soon: {bound}"
    );
    assert_eq!(bound["held"], false);
    assert!(
        bound["why"].as_str().is_some_and(|why| !why.is_empty()),
        "{bound}"
    );
    assert!(text(&output.stdout).contains("NOT MEASURED"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn bounds_are_listed_and_a_name_that_is_none_is_refused() {
    let dir = directory();
    let output = called("bounds --list", dir.path());
    assert!(output.status.success());
    assert!(
        text(&output.stdout).contains("strict-p50   <= 1.1"),
        "{}",
        text(&output.stdout)
    );
    let wrong = called("bounds --only speed", dir.path());
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("expected one of strict-p50"));
}
