//! A shard whose disk fails leaves what it leads to others: to all of them, as many at once as a shard has elections under way.
//! On cores in virtual time.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use clustor_engine::request::{Request, RequestBody, Wait};
use clustor_shards::turn::PeerEvent;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::{PeerBatch, Role};
use core_support::idle::{Net, Node};
use core_support::peer;

/// More than two shards may have elections under way for.
const PARTITIONS: usize = 600;
/// What docs/operations.md says of a shard.
const CAMPAIGNS_MAX: usize = 128;

/// Node 1 leads everything, and nothing happens.
fn gathered() -> Net {
    let mut net = Net::new(PARTITIONS);
    net.gather(PARTITIONS);
    net.come_to_rest();
    net
}

/// Whatever node 1 writes from here on fails, and it writes.
fn fail_first(net: &mut Net) {
    let first = net.nodes.get_mut(&1).expect("there");
    first.fails = true;
    first.inbox.requests.push(Request {
        ticket: 1,
        partition: PartitionId(1),
        body: RequestBody::Append {
            payload: b"a".to_vec(),
            key: None,
            wait: Wait::Applied,
            only_in: None,
        },
    });
}

fn campaigns(node: &Node) -> usize {
    let partitions = node.core.partitions();
    let roles = partitions.map(|partition| partition.status().role);
    let campaigns = |role: &Role| matches!(role, Role::Candidate | Role::PreCandidate);
    roles.filter(campaigns).count()
}

/// Lets time run until others lead everything; how many elections a shard had under way at most.
fn until_taken_over(net: &mut Net) -> usize {
    let mut most = 0;
    // A follower misses its leader no sooner than this.
    let soon_ms = clustor_engine::profile::Profile::latency().election_ms_min;
    for _ in 0..soon_ms {
        net.run_ms(1);
        most = net
            .nodes
            .values()
            .map(campaigns)
            .chain([most])
            .max()
            .expect("nodes");
        if net.nodes[&2].leads() + net.nodes[&3].leads() == PARTITIONS {
            return most;
        }
    }
    let led: Vec<usize> = net.nodes.values().map(Node::leads).collect();
    panic!("not before somebody could have missed it: {led:?}");
}

#[test]
fn what_a_failed_disk_led_goes_to_all_the_others_and_no_shard_has_more_elections_than_it_may() {
    let mut net = gathered();
    fail_first(&mut net);
    let most = until_taken_over(&mut net);
    assert!(most <= CAMPAIGNS_MAX, "{most} at once");
    for id in [2, 3] {
        let led = net.nodes[&id].leads();
        assert!(led > PARTITIONS / 3, "node {id} took over {led}");
    }
}

#[test]
fn what_a_failed_disk_led_goes_to_nobody_whose_own_is_slow() {
    let mut net = gathered();
    let slow = PeerBatch {
        boot: net.nodes[&3].core.boot_number(),
        slow_device: true,
        ..PeerBatch::default()
    };
    let mut body = Vec::new();
    slow.encode(&mut body).expect("a batch");
    let frame = Frame {
        kind: FrameKind::PeerBatch,
        body,
    };
    let first = net.nodes.get_mut(&1).expect("there");
    first.inbox.peers.push(PeerEvent::Frame(peer(3), frame));
    fail_first(&mut net);
    let most = until_taken_over(&mut net);
    assert!(most <= CAMPAIGNS_MAX, "{most} at once");
    assert_eq!(net.nodes[&2].leads(), PARTITIONS);
}
