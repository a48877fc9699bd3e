//! Rot on a disk of a running cluster: the scrub finds it, and the replica gets the content back from the others, without a
//! restart and without anybody asking. On cores in virtual time.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::sync::Arc;

use clustor_engine::profile::{Profile, ProfileNews};
use clustor_engine::request::{Request, RequestBody};
use clustor_shards::disk::FileId;
use clustor_shards::log::LogIdentity;
use clustor_wire::ids::{NodeId, PartitionId};
use clustor_wire::message::{PartitionStatus, ScrubStatus};
use core_support::net::{Net, Node, total};
use core_support::{P, peer};

const APPENDS: u64 = 24;
/// Entries of which a segment holds some, and a cache not all.
const PAYLOAD_BYTES: usize = 60 << 10;
/// Every byte is looked at within an hour; then some.
const PATIENCE_MS: u64 = 2 * 3_600_000;

/// Three nodes with closed segments, whose scrub takes as little time as it may.
fn written() -> Net {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(1_500);
    for node in net.nodes.values_mut() {
        let mut profile = Profile::throughput();
        profile.entry_bytes_max = 64 << 10;
        profile.node_inflight_bytes_max = 1 << 20;
        profile.scrub_round_hours = 1;
        node.inbox.requests.push(Request {
            ticket: 0,
            partition: PartitionId::default(),
            body: RequestBody::Profile(ProfileNews::Obey(Box::new(profile))),
        });
    }
    net.run_ms(10);
    let leader = net.ready_leader();
    for ticket in 1..=APPENDS {
        let node = net.nodes.get_mut(&leader).expect("there");
        node.append(ticket, &[ticket as u8; PAYLOAD_BYTES], None);
        net.run_ms(20);
    }
    net.run_ms(1_000);
    let node = net.nodes.get_mut(&leader).expect("there");
    let appended = PAYLOAD_BYTES as u64 * APPENDS;
    assert_eq!(total(node.outcome(APPENDS)), appended);
    net
}

fn status(node: &Node) -> PartitionStatus {
    node.core.partition(P).expect("there").status()
}

fn scrub(node: &Node) -> ScrubStatus {
    node.core.status(None).scrub
}

/// Bytes in the midst of an extent of the first segment, which is closed, are others from here on.
fn let_rot(node: &mut Node) {
    let current = node.core.log().current_pair();
    let pairs = node.disk.files.keys().map(|file| file.pair);
    let first = pairs.min().expect("a pair");
    assert!(first < current, "segment {first} is closed");
    let segment = node.disk.file(FileId::segment(first));
    let block = segment.len() / 2;
    segment[block].0[100..164].fill(0xa5);
}

/// Lets time run, from one moment in which anything is due to the next, until something holds; what holds is looked at in each.
fn until(net: &mut Net, what: &str, mut holds: impl FnMut(&Net) -> bool) {
    let end = net.now.plus_ms(PATIENCE_MS);
    while net.now < end {
        if holds(net) {
            return;
        }
        let nodes = net.nodes.values();
        if nodes.clone().all(|node| node.inbox.is_empty()) {
            let due = nodes.filter_map(|node| node.due).min().unwrap_or(end);
            net.now = net.now.max(due);
        }
        net.run_ms(1);
    }
    panic!("never: {what}");
}

#[test]
fn lost_entries_are_told_of_once_however_many_ask_for_them() {
    let voters = [1, 2, 3, 4, 5];
    let mut net = Net::new(&voters);
    net.run_ms(1_500);
    let leader = net.ready_leader();
    let away: Vec<u64> = voters
        .into_iter()
        .filter(|id| *id != leader)
        .take(2)
        .collect();
    let mut disks = Vec::new();
    for id in &away {
        disks.push((*id, net.nodes.remove(id).expect("there").disk));
    }
    for ticket in 1..=2 * APPENDS {
        let node = net.nodes.get_mut(&leader).expect("there");
        node.append(ticket, &[ticket as u8; PAYLOAD_BYTES], None);
        net.run_ms(20);
    }
    net.run_ms(100);
    assert_eq!(net.ready_leader(), leader);
    let_rot(net.nodes.get_mut(&leader).expect("there"));
    let log = tempfile::NamedTempFile::new().expect("a file");
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Arc::new(log.reopen().expect("the file")))
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        for (id, disk) in disks {
            let again = Node::boot(id, &voters, disk, net.now);
            net.nodes.insert(id, again);
        }
        net.run_ms(3_000);
    });
    let said = std::fs::read_to_string(log.path()).expect("text");
    let lines = said
        .lines()
        .filter(|line| line.contains("can't be read any more"));
    let mut told: Vec<&str> = lines.collect();
    assert!(!told.is_empty(), "both ask for what rotted: {said}");
    let all = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), all, "{said}");
}

#[test]
fn what_rots_in_a_running_cluster_the_scrub_finds_and_the_others_give_back() {
    for of_leader in [false, true] {
        let mut net = written();
        let leader = net.ready_leader();
        let id = if of_leader { leader } else { leader % 3 + 1 };
        let rotten = net.nodes.get_mut(&id).expect("there");
        let_rot(rotten);
        let before = scrub(rotten);
        assert_eq!((before.damaged_places, before.lost_entries), (0, 0));
        assert_eq!(status(rotten).missing, 0);

        let mut missing_most = 0;
        until(&mut net, "the scrub finds it", |net| {
            missing_most = missing_most.max(status(&net.nodes[&id]).missing);
            scrub(&net.nodes[&id]).lost_entries > 0
        });
        let found = scrub(&net.nodes[&id]);
        assert_eq!(found.damaged_places, 1);
        until(&mut net, "the content is back", |net| {
            let missing = status(&net.nodes[&id]).missing;
            missing_most = missing_most.max(missing);
            missing == 0
        });
        assert_eq!(missing_most, found.lost_entries, "it said what was missing");
        for (other, node) in &net.nodes {
            let (status, scrub) = (status(node), scrub(node));
            assert_eq!(status.trouble, "", "node {other}");
            assert_eq!(scrub.lost_entries > 0, *other == id, "node {other}");
        }
        // It is written again, and serves.
        net.run_ms(3_000);
        let leads = net.ready_leader();
        let node = net.nodes.get_mut(&leads).expect("there");
        node.append(100, b"after", None);
        net.run_ms(100);
        let node = net.nodes.get_mut(&leads).expect("there");
        let all = PAYLOAD_BYTES as u64 * APPENDS + 5;
        assert_eq!(total(node.outcome(100)), all);

        // What is on the disk says the same to those who read it while nobody runs.
        let mut disk = net.nodes[&id].disk.clone();
        let identity = LogIdentity {
            node: NodeId(id),
            ..support::identity()
        };
        let report = support::audit_of(&mut disk, identity).expect("it can be read");
        assert_eq!(report.missing, [], "{:?}", report.findings);
        assert_eq!(report.quarantine, None);
        // And so does a start.
        net.nodes
            .insert(id, Node::boot(id, &[1, 2, 3], disk, net.now));
        assert_eq!(status(&net.nodes[&id]).missing, 0, "node {}", peer(id).node);
        net.run_ms(5_000);
        let applied: Vec<_> = net.nodes.values().map(|n| status(n).applied).collect();
        assert!(applied.iter().all(|at| *at == applied[0]), "{applied:?}");
    }
}
