//! Who leads where machines can't apply: somebody who can, or always the same. On cores in virtual time.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::sync::atomic::Ordering;

use clustor_engine::profile::Profile;
use clustor_shards::log::{LogIdentity, Mode, ShardLog};
use clustor_wire::ids::{NodeId, Term};
use clustor_wire::message::Role;
use core_support::net::{Net, Node};
use core_support::{P, peer};
use support::{MemoryDisk, TestKey};

/// Long enough for failures and hand-overs to have come several times over.
const WHILE_MS: u64 = 30_000;

fn leader(net: &Net) -> Option<u64> {
    let leads = |node: &Node| node.core.partition(P).expect("there").status().role == Role::Leader;
    let found = net.nodes.iter().find(|(_, node)| leads(node));
    found.map(|(id, _)| *id)
}

fn term(net: &Net) -> Term {
    let of = |node: &Node| node.core.partition(P).expect("there").status().term;
    net.nodes.values().map(of).max().expect("nodes")
}

fn until_ready(net: &mut Net) -> u64 {
    while net.leader().is_none() {
        net.run_ms(10);
    }
    net.ready_leader()
}

/// A command at which machines panic that are not robust.
fn append_poison(net: &mut Net) {
    let leader = until_ready(net);
    let node = net.nodes.get_mut(&leader).expect("there");
    node.append(1, b"panic", None);
    // Each of them has failed, and failed again.
    net.run_ms(8_000);
}

fn stays(net: &mut Net) {
    let (before, leads) = (term(net), leader(net));
    assert!(leads.is_some(), "somebody leads");
    net.run_ms(WHILE_MS);
    assert_eq!((term(net), leader(net)), (before, leads));
}

#[test]
fn where_every_machine_fails_leadership_stays_where_it_is() {
    let mut net = Net::new(&[1, 2, 3]);
    append_poison(&mut net);
    stays(&mut net);
}

#[test]
fn whose_machine_goes_on_leads_and_without_it_leadership_stays() {
    let mut net = Net::new(&[1, 2, 3]);
    for able in [3, 2, 1] {
        let mut net = Net::new(&[1, 2, 3]);
        net.nodes[&able].robust.store(true, Ordering::Relaxed);
        append_poison(&mut net);
        assert_eq!(leader(&net), Some(able));
        stays(&mut net);
        let node = net.nodes.get_mut(&able).expect("there");
        node.append(2, b"ab", None);
        net.run_ms(100);
        let outcome = net.nodes.get_mut(&able).and_then(|node| node.outcome(2));
        assert_eq!(core_support::net::total(outcome), 7);
    }
    net.nodes[&3].robust.store(true, Ordering::Relaxed);
    append_poison(&mut net);
    net.nodes.remove(&3);
    net.run_ms(5_000);
    stays(&mut net);
    // One of them is repaired, and takes over.
    let leads = leader(&net).expect("somebody leads");
    let repaired = 3 - leads;
    net.nodes[&repaired].robust.store(true, Ordering::Relaxed);
    net.run_ms(WHILE_MS);
    assert_eq!(leader(&net), Some(repaired));
}

#[test]
fn where_nobody_can_read_an_entry_leadership_stays_where_it_is() {
    let mut net = Net::new(&[1, 2, 3]);
    until_ready(&mut net);
    net.run_ms(1_000);
    let now = net.now.plus_ms(1_000);
    let newer_number = [&[2, 99, 0][..], &[0; 9]].concat();
    let mut again = Net::new(&[]);
    again.now = now;
    for (id, node) in net.nodes {
        let status = node.core.partition(P).expect("there").status();
        let mut disk: MemoryDisk = node.disk;
        let options = Profile::throughput()
            .with_segment_bytes(1 << 20)
            .log_options(0);
        let pool = options.pool();
        let identity = LogIdentity {
            node: NodeId(id),
            ..support::identity()
        };
        let recovered = ShardLog::recover(&mut disk, identity, options, &TestKey(9), pool);
        let mut log = recovered.expect("recovers").log;
        support::settle(&mut log, &mut disk);
        let (term, newer) = (status.term.get(), status.last_index.next().get());
        support::append(&mut log, 1, term, newer, &newer_number, Mode::Strict);
        support::settle(&mut log, &mut disk);
        let node = Node::boot(id, &[1, 2, 3], disk, now);
        again.nodes.insert(id, node);
    }
    again.run_ms(5_000);
    for (id, node) in &again.nodes {
        let status = node.core.partition(P).expect("there").status();
        assert!(
            status.trouble.contains("newer build"),
            "{}: {status:?}",
            peer(*id).node
        );
    }
    stays(&mut again);
}

#[test]
fn a_leader_that_was_elected_a_moment_ago_is_not_asked_to_move() {
    let mut net = Net::new(&[1, 2, 3]);
    let leads = until_ready(&mut net);
    for (id, node) in &net.nodes {
        node.robust.store(*id != leads, Ordering::Relaxed);
    }
    net.nodes
        .get_mut(&leads)
        .expect("there")
        .append(1, b"panic", None);
    net.run_ms(400);
    let status = net.nodes[&leads].core.partition(P).expect("there").status();
    assert!(!status.trouble.is_empty(), "its machine has failed");
    assert_eq!(leader(&net), Some(leads));
    net.run_ms(1_000);
    let next = leader(&net).expect("somebody leads");
    assert_ne!(next, leads);
}
