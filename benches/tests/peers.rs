//! `clustor-bench peers log` and the peers of `consensus`, in builds that have them.
#![cfg(feature = "peers")]

mod support;

use support::{
    check_device_lines, check_histograms, directory, has_valgrind, json, measured, names, number,
    rows,
};

#[test]
fn the_same_work_goes_through_this_log_and_through_raft_engine() {
    let dir = directory();
    let table = measured(
        "peers log --seconds 0.2 --repeat 2 --clients 4 --sizes 128 --json peers.json \
         --hgrm hgrm --svg svg",
        dir.path(),
    );
    assert!(
        table.contains("rate:peer") && table.contains("raft-engine"),
        "{table}"
    );
    let report = json(&dir.path().join("peers.json"));
    let rows = rows(&report, 2);
    let who: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| {
            let word = |key: &str| row[key].as_str().expect("a word");
            (word("mode"), word("measured_at"))
        })
        .collect();
    assert_eq!(
        who,
        [
            ("clustor", "shard"),
            ("clustor", "handle"),
            ("raft-engine", "caller"),
            ("re-prefilled", "caller")
        ]
    );
    for row in rows {
        assert!(row["operations"].as_u64() > Some(0), "{row}");
        assert_eq!(
            (&row["depth"], &row["payload_bytes"]),
            (&4.into(), &128.into())
        );
        for key in ["rate_to_peer", "p99_to_peer"] {
            let is_own = row["mode"] == "clustor";
            assert_eq!(
                row[key].as_f64().is_some_and(|ratio| ratio > 0.0),
                is_own,
                "{row}"
            );
        }
    }
    check_histograms(&dir.path().join("hgrm"), rows);
    check_device_lines(&dir.path().join("svg"), "percentiles-");
    assert_eq!(
        names(dir.path()),
        ["hgrm", "peers.json", "svg"],
        "what was made is removed"
    );
}

#[test]
fn other_cores_are_counted_on_the_same_work() {
    if !has_valgrind() {
        return;
    }
    let dir = directory();
    let table = measured("consensus --batches 1,16,256 --json core.json", dir.path());
    assert!(table.contains("raft-rs"), "{table}");
    let rows = json(&dir.path().join("core.json"));
    let rows = rows.as_array().expect("a list");
    let who: Vec<&str> = rows.iter().filter_map(|row| row["who"].as_str()).collect();
    assert_eq!(who, ["clustor", "raft-rs", "openraft"].repeat(3));
    for rows in rows.chunks(3) {
        let own = number(&rows[0], "instructions_per_entry");
        for row in &rows[1..] {
            let ratio = own / number(row, "instructions_per_entry");
            assert!(
                (number(row, "instructions_to_peer") - ratio).abs() < 0.01,
                "{row}"
            );
            // Counts hardly vary: this is no matter of the machine.
            assert!(ratio < 1.0, "{row}");
        }
    }
}
