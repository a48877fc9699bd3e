//! What partitions cost in which nothing happens: how often a shard's turns look at a partition follows from those to which
//! something happens, and not from how many there are.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::collections::BTreeMap;

use clustor_engine::request::{Request, RequestBody, Wait};
use clustor_wire::ids::PartitionId;
use core_support::idle::Net;

/// Partitions of the smaller shards and of the greater ones.
const FEW: usize = 100;
const MANY: usize = 10_000;

/// Rounds of appends, and from one to the next, in milliseconds: shorter than a partition takes to go quiet.
const ROUNDS: u64 = 100;
const ROUND_MS: u64 = 20;

/// What looks at partitions came to on each node, while so many were appended to.
type Visits = BTreeMap<u64, u64>;

fn visits(net: &Net) -> Visits {
    let nodes = net.nodes.iter();
    nodes.map(|(id, node)| (*id, node.core.visits())).collect()
}

fn since(net: &Net, before: &Visits) -> Visits {
    let now = visits(net).into_iter();
    now.map(|(id, visits)| (id, visits - before[&id])).collect()
}

/// Three nodes that are at rest; node 1 leads everything.
fn at_rest(partitions: usize) -> Net {
    let mut net = Net::new(partitions);
    net.run_ms(3_000);
    net.gather(partitions);
    net.come_to_rest();
    net
}

/// An append to each of the first partitions, round by round.
fn append_to(net: &mut Net, active: u64) -> Visits {
    let before = visits(net);
    for round in 0..ROUNDS {
        let leader = net.nodes.get_mut(&1).expect("there");
        leader.inbox.requests.extend((1..=active).map(|id| Request {
            ticket: round,
            partition: PartitionId(id.into()),
            body: RequestBody::Append {
                payload: b"x".to_vec(),
                key: None,
                wait: Wait::Applied,
                only_in: None,
            },
        }));
        net.run_ms(ROUND_MS);
    }
    let visits = since(net, &before);
    net.come_to_rest();
    visits
}

#[test]
fn work_follows_from_the_partitions_to_which_something_happens_and_not_from_how_many_there_are() {
    let (mut few, mut many) = (at_rest(FEW), at_rest(MANY));
    for net in [&mut few, &mut many] {
        let before = visits(net);
        net.run_ms(5_000);
        let idle = since(net, &before);
        assert!(
            idle.values().all(|visits| *visits == 0),
            "at rest: {idle:?}"
        );
    }
    let mut of_each = Vec::new();
    for active in [4, 16, 64] {
        let (with_few, with_many) = (append_to(&mut few, active), append_to(&mut many, active));
        for (node, visits) in &with_few {
            let beside = with_many[node];
            assert!(
                visits.abs_diff(beside) * 20 <= *visits,
                "node {node}, {active} active: {visits} looks at partitions among {FEW}, {beside} among {MANY}"
            );
            of_each.push((*node, visits / active));
        }
    }
    // As much for each of 64 as for each of 4, or less where they share a message.
    for node in 1..=3 {
        let of_node = of_each.iter().filter(|(id, _)| *id == node);
        let each: Vec<u64> = of_node.map(|(_, visits)| *visits).collect();
        assert!(each[0] > ROUNDS, "node {node}: {each:?}");
        assert!(
            each.iter()
                .all(|visits| visits.abs_diff(each[0]) * 4 <= each[0]),
            "node {node}, looks for each active partition: {each:?}"
        );
    }
}
