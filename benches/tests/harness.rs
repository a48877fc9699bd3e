//! The other measurements of `clustor-bench` as their users meet them: small calls, whose results are whole and add up.
//! Nothing here depends on how fast the machine is.

mod support;

use support::{
    bench, called, check_device_lines, check_histograms, directory, has_valgrind, json, measured,
    names, number, rows, text,
};

#[test]
fn a_handle_is_measured_beside_the_shard_the_device_and_the_waking_of_a_thread() {
    let dir = directory();
    let table = measured(
        "log --seconds 0.2 --repeat 2 --clients 1,4 --sizes 128 --at handle --json log.json \
         --hgrm hgrm --svg svg",
        dir.path(),
    );
    assert!(table.contains("a handle adds"), "{table}");
    let report = json(&dir.path().join("log.json"));
    let rows = rows(&report, 2);
    assert_eq!(rows.len(), 4, "two modes, two numbers of clients");
    for row in rows {
        assert_eq!(row["measured_at"], "handle");
        assert_eq!(row["payload_bytes"], 128);
        assert!(row["operations"].as_u64() > Some(0), "{row}");
        for key in ["wake_p50_us", "ratio_to_device", "per_s"] {
            assert!(number(row, key) > 0.0, "{key}: {row}");
        }
        number(row, "allocations_per_operation");
        // A difference, and of many clients on few processors it may be below zero.
        number(row, "wakes_over_shard");
    }
    check_histograms(&dir.path().join("hgrm"), rows);
    for kind in ["latency-", "percentiles-"] {
        check_device_lines(&dir.path().join("svg"), kind);
    }
}

#[test]
fn appends_over_rollovers_and_reclaims_are_told_apart_and_add_up() {
    let dir = directory();
    let profile = "segment_bytes = 1_048_576\nentry_bytes_max = 100_000\n";
    std::fs::write(dir.path().join("small.toml"), profile).expect("written");
    let table = measured(
        "log --rollover --reclaim --profile small.toml --modes strict --seconds 1 --repeat \
         1 --clients 1 --sizes 4000 --json log.json --hgrm hgrm --svg svg",
        dir.path(),
    );
    for column in ["+chains", "+flushes", "Rollovers:", "Reclaims:"] {
        assert!(table.contains(column), "{column}: {table}");
    }
    let report = json(&dir.path().join("log.json"));
    let rows = rows(&report, 1);
    let modes: Vec<&str> = rows.iter().filter_map(|row| row["mode"].as_str()).collect();
    assert_eq!(
        modes,
        [
            "all",
            "quiet",
            "zeroing",
            "rollover",
            "reclaim",
            "quiet+reclaim"
        ]
    );
    let operations = |at: usize| rows[at]["operations"].as_u64().expect("a number");
    assert_eq!(operations(0), (1..=4).map(operations).sum::<u64>());
    assert_eq!(operations(5), operations(1) + operations(4));
    for row in rows {
        assert_eq!(row["rollovers"], rows[0]["rollovers"], "one call: {row}");
        assert_eq!(row["reclaims"], rows[0]["reclaims"], "one call: {row}");
        let is_compared = row["mode"] == "all" || row["mode"] == "quiet+reclaim";
        assert_eq!(
            row["p999_over_quiet_chains"].is_number(),
            is_compared,
            "{row}"
        );
    }
    // A segment holds 255 blocks beside its header.
    let blocks = operations(0) as f64 * number(&rows[0], "chain_blocks");
    let (rollovers, reclaims) = (number(&rows[0], "rollovers"), number(&rows[0], "reclaims"));
    assert!(rollovers >= (blocks / 255.0).floor() - 1.0, "{}", rows[0]);
    assert!(reclaims <= rollovers + 1.0, "{}", rows[0]);
    check_device_lines(&dir.path().join("svg"), "percentiles-strict-all-");
    let all = "strict-all-chacha20-poly1305-fdatasync-shard-1x4000.hgrm";
    assert_eq!(
        support::total_count(&dir.path().join("hgrm").join(all)),
        operations(0)
    );
}

#[test]
fn instructions_are_counted_and_without_valgrind_it_is_said_that_they_cannot_be() {
    let dir = directory();
    let arguments = "log --instructions --seconds 0.1 --repeat 1 --clients 1 --modes strict --sizes \
         64,4096 --at shard --json log.json";
    let output = bench()
        .args(arguments.split_whitespace())
        .args(["--dir", "."])
        .current_dir(dir.path())
        .env("PATH", "")
        .output()
        .expect("the harness runs");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("valgrind") && said.contains("installed"),
        "{said}"
    );
    if !has_valgrind() {
        return;
    }
    let table = measured(arguments, dir.path());
    assert!(table.contains("instr/op"), "{table}");
    let report = json(&dir.path().join("log.json"));
    let rows = rows(&report, 1);
    let counts: Vec<f64> = rows
        .iter()
        .map(|row| number(row, "instructions_per_operation"))
        .collect();
    // Sealing and hashing four kilobytes more is more work, whatever the machine.
    assert_eq!(counts.len(), 2);
    assert!(counts[0] > 1_000.0 && counts[1] > counts[0], "{counts:?}");
}

#[test]
fn a_start_is_measured_against_the_least_of_device_suite_and_a_gigabyte() {
    let dir = directory();
    let table = measured(
        "start --mib 16 --payload-bytes 65536 --repeat 1 --json one.json",
        dir.path(),
    );
    for line in [
        "speaks after",
        "entries read back",
        "scrubbed offline, threads 4",
        ":least",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    let one = json(&dir.path().join("one.json"));
    assert_eq!((&one["entries"], &one["rounds"]), (&256.into(), &1.into()));
    assert_eq!(one["log_bytes"], 16 << 20);
    assert!(one["machine"]["writer_mode"].is_string());
    let bound = number(&one, "bound_mb_per_s");
    let least = number(&one, "device_mb_per_s").min(number(&one, "suite_mb_per_s"));
    assert_eq!(bound, least.min(1_000.0), "{one}");
    let scrubs = one["scrubs"].as_array().expect("a list");
    let threads: Vec<u64> = scrubs
        .iter()
        .filter_map(|of| of["threads"].as_u64())
        .collect();
    assert_eq!(threads, [1, 2, 4]);
    let rates = scrubs
        .iter()
        .map(|of| (number(of, "mb_per_s"), number(of, "to_bound")));
    let read_back = (
        number(&one, "read_back_mb_per_s"),
        number(&one, "read_back_to_bound"),
    );
    for (rate, ratio) in rates.chain([read_back]) {
        assert!(
            rate > 0.0 && (ratio - rate / bound).abs() < 0.01 * ratio + 0.01,
            "{one}"
        );
    }
    let (read, open) = (
        number(&one, "ledgers_read_after_s"),
        number(&one, "speaks_after_s"),
    );
    assert!(0.0 < read && read <= open, "{one}");

    measured("start --mib 17 --repeat 2 --json two.json", dir.path());
    let two = json(&dir.path().join("two.json"));
    assert_eq!(
        (&two["entries"], &two["rounds"]),
        (&(17 * 256).into(), &2.into())
    );
    assert_eq!(
        names(dir.path()),
        ["one.json", "two.json"],
        "what was made is removed"
    );

    let refused = called("start --mib 16 --gib 1", dir.path());
    assert_eq!(refused.status.code(), Some(2), "one or the other");
}

#[test]
fn the_consensus_core_is_counted_entry_by_entry() {
    if !has_valgrind() {
        return;
    }
    let dir = directory();
    let table = measured(
        "consensus --batches 1,16 --size 64 --json core.json",
        dir.path(),
    );
    assert!(
        table.contains("instr/entry") && table.contains("clustor"),
        "{table}"
    );
    let rows = json(&dir.path().join("core.json"));
    let own: Vec<&serde_json::Value> = rows
        .as_array()
        .expect("a list")
        .iter()
        .filter(|row| row["who"] == "clustor")
        .collect();
    assert_eq!(own.len(), 2);
    for (row, batch) in own.iter().zip([1, 16]) {
        assert_eq!(
            (&row["batch"], &row["payload_bytes"]),
            (&batch.into(), &64.into())
        );
        assert!(number(row, "allocations_per_entry") >= 0.0, "{row}");
    }
    let each = own.iter().map(|row| number(row, "instructions_per_entry"));
    let each: Vec<f64> = each.collect();
    assert!(
        0.0 < each[1] && each[1] < each[0],
        "sixteen share messages: {each:?}"
    );
}

#[test]
fn idle_partitions_are_measured_beside_one_alone() {
    let dir = directory();
    let table = measured(
        "idle --partitions 8 --seconds 0.5 --repeat 1 --json idle.json",
        dir.path(),
    );
    for line in [
        "all have leaders after",
        "bytes of the heap per idle replica",
        "ratio",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    let found = json(&dir.path().join("idle.json"));
    assert_eq!(
        (&found["partitions"], &found["rounds"]),
        (&8.into(), &1.into())
    );
    for key in ["leaders_after_s", "p50_us_alone", "p50_us_among", "ratio"] {
        assert!(number(&found, key) > 0.0, "{key}: {found}");
    }
    for key in ["core_percent", "core_percent_of_one", "bytes_per_replica"] {
        assert!(number(&found, key) >= 0.0, "{key}: {found}");
    }
    // Of one round its own ratio is all there is.
    let ratio = number(&found, "p50_us_among") / number(&found, "p50_us_alone");
    for key in ["ratio", "ratio_min", "ratio_max"] {
        assert!(
            (number(&found, key) - ratio).abs() < 0.001,
            "{key}: {found}"
        );
    }
    assert_eq!(names(dir.path()), ["idle.json"], "what was made is removed");
}
