//! What `clustor-bench consensus` counts of this engine's core: from an entry's proposal to its commit nothing is allocated.

use std::process::Command;

/// Allocations of three replicas while 4,096 entries, or more, go from their proposal to their commit.
fn allocations(batch: u32, bytes: u32) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_clustor-bench"))
        .args(["count-consensus", "--who", "clustor"])
        .args(["--batch", &batch.to_string(), "--size", &bytes.to_string()])
        .output()
        .expect("the harness runs");
    let (out, err) = (&output.stdout, &output.stderr);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(err));
    let told = String::from_utf8_lossy(out);
    told.trim().parse().expect("a number")
}

#[test]
fn entries_do_not_allocate_on_their_way_to_commit_once_the_cache_is_full() {
    // 16 MiB of cache: as many entries as before the count fill it.
    for batch in [1, 16, 256] {
        assert_eq!(allocations(batch, 4_096), 0, "{batch} at a time");
    }
}

#[test]
fn while_the_cache_still_fills_only_its_lists_double() {
    for batch in [1, 16, 256] {
        let allocations = allocations(batch, 128);
        // Of what lies where, by age and by partition, once or so on each replica.
        assert!(allocations <= 6, "{batch} at a time: {allocations}");
    }
}
