//! What an idle partition takes of the heap: counted, on a leader and on a follower, between a shard with many and one
//! with twice as many.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::alloc::System;

use core_support::idle::{Net, Node};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What an idle partition may take, its machine aside.
const BYTES_MAX: usize = 2048;
/// Partitions of the smaller shard; the greater has twice as many.
const FEW: usize = 1000;

/// Bytes of the heap in use.
fn live() -> usize {
    let stats = COUNTING.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// What the core of a node holds of the heap.
fn weigh(net: &mut Net, node: u64) -> usize {
    let Node { core, .. } = net.nodes.remove(&node).expect("weighed once");
    let before = live();
    drop(core);
    before - live()
}

/// Of the leader of so many idle partitions, and of a follower.
fn weights(partitions: usize) -> (usize, usize) {
    let mut net = Net::new(partitions);
    net.run_ms(3_000);
    net.gather(partitions);
    net.come_to_rest();
    (weigh(&mut net, 1), weigh(&mut net, 2))
}

#[test]
fn an_idle_partition_takes_less_than_two_kibibytes_leading_and_following() {
    let (leading, following) = weights(FEW);
    let (leading_twice, following_twice) = weights(2 * FEW);
    let of_leader = (leading_twice - leading) / FEW;
    let of_follower = (following_twice - following) / FEW;
    assert!(
        of_leader < BYTES_MAX && of_follower < BYTES_MAX,
        "an idle partition takes {of_leader} bytes of a leader, {of_follower} of a follower; {BYTES_MAX} are allowed"
    );
}
