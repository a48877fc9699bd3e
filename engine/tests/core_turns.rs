//! `ShardCore` over an honest disk and an in-memory network: one node, then three.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use std::sync::Arc;

use clustor_engine::outcome::{Outcome, RefusalClause};
use clustor_engine::profile::{Profile, ProfileNews};
use clustor_engine::request::{MembersRequest, Reply, Request, RequestBody};
use clustor_shards::disk::DiskEvent;
use clustor_shards::turn::{Application, Outbox, PeerEvent, PeerPast, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{ChainNumber, LogIndex, PartitionId};
use clustor_wire::message::{GuestStatus, PeerBatch};
use core_support::net::{Net, Node, total};
use core_support::{P, peer};
use support::MemoryDisk;

#[test]
fn a_sole_voter_leads_applies_and_survives_a_restart() {
    let mut net = Net::new(&[1]);
    net.run_ms(50);
    assert_eq!(net.leader(), Some(1));
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(1, b"abc", None);
    node.append(2, b"de", None);
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    assert_eq!(total(node.outcome(1)), 3);
    assert_eq!(total(node.outcome(2)), 5);
    let disk = node.disk.clone();
    net.nodes.insert(1, Node::boot(1, &[1], disk, net.now));
    net.run_ms(500);
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(3, b"f", None);
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    assert_eq!(total(node.outcome(3)), 6);
}

#[test]
fn a_key_executes_once_and_answers_with_its_first_index() {
    let mut net = Net::new(&[1]);
    net.run_ms(50);
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(1, b"abc", Some(5));
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    let first = node.outcome(1).expect("answered");
    node.append(2, b"abc", Some(5));
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    let (
        Outcome::Applied { index: first, .. },
        Some(Outcome::Applied {
            index, duplicate, ..
        }),
    ) = (first, node.outcome(2))
    else {
        panic!("both are applied");
    };
    assert!(duplicate && index == first);
    node.append(3, b"", None);
    net.run_ms(20);
    assert_eq!(total(net.nodes.get_mut(&1).expect("there").outcome(3)), 3);
}

#[test]
fn a_panic_in_the_machine_is_that_partitions_affair_and_the_machine_is_made_again() {
    let mut net = Net::new(&[1]);
    net.run_ms(50);
    let node = net.nodes.get_mut(&1).expect("there");
    node.append(1, b"panic", None);
    net.run_ms(20);
    let node = net.nodes.get_mut(&1).expect("there");
    assert!(matches!(node.outcome(1), Some(Outcome::Unknown { .. })));
    node.append(2, b"x", None);
    net.run_ms(5);
    let node = net.nodes.get_mut(&1).expect("there");
    let Some(Outcome::NotExecuted { refusal }) = node.outcome(2) else {
        panic!("refused while the machine fails");
    };
    assert_eq!(refusal.clause, RefusalClause::MachineFailed);
}

#[test]
fn three_nodes_elect_replicate_and_fail_over_without_losing_what_was_acknowledged() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(1500);
    let leader = net.leader().expect("a leader");
    for ticket in 0..100 {
        net.nodes.get_mut(&leader).expect("there").append(
            ticket,
            b"x",
            Some(u128::from(ticket) + 1),
        );
        net.run_ms(2);
    }
    net.run_ms(50);
    let node = net.nodes.get_mut(&leader).expect("there");
    assert_eq!(total(node.outcome(99)), 100);
    let disk = node.disk.clone();
    net.nodes.remove(&leader);
    net.run_ms(2500);
    let next = net.leader().expect("another leader");
    assert_ne!(next, leader);
    net.nodes
        .get_mut(&next)
        .expect("there")
        .append(7, b"x", None);
    net.run_ms(30);
    let node = net.nodes.get_mut(&next).expect("there");
    assert_eq!(total(node.outcome(7)), 101);
    net.nodes
        .insert(leader, Node::boot(leader, &[1, 2, 3], disk, net.now));
    net.run_ms(1500);
    let applied: Vec<LogIndex> = net
        .nodes
        .values()
        .map(|node| node.core.partition(P).expect("there").applied())
        .collect();
    assert!(
        applied.iter().all(|index| *index == applied[0]),
        "{applied:?}"
    );
}

#[test]
fn a_new_profile_is_obeyed_from_the_next_batch_on_and_a_refused_one_is_in_the_status() {
    let mut node = Node::boot(1, &[1], MemoryDisk::default(), Time(0));
    let mut now = Time(0);
    let mut settle = |node: &mut Node| {
        for _ in 0..20 {
            now = now.plus_ms(50);
            node.turn(now);
        }
    };
    settle(&mut node);
    let tell = |node: &mut Node, ticket: u64, news: ProfileNews| {
        node.inbox.requests.push(Request {
            ticket,
            partition: PartitionId::default(),
            body: RequestBody::Profile(news),
        });
    };
    tell(
        &mut node,
        1,
        ProfileNews::Refused("mine.toml:3: no".to_owned()),
    );
    settle(&mut node);
    assert!(matches!(
        node.replies.pop(),
        Some(Reply::Profile { ticket: 1 })
    ));
    let trouble = node.core.status(None).trouble;
    assert!(trouble.contains("mine.toml:3: no"), "{trouble}");

    let before = *node.core.log().options();
    let mut profile = Profile::latency();
    profile.batch_bytes_max = 8_192;
    profile.chains_in_flight_max = 2;
    // An append before and one behind it, in the same turn: both are executed.
    node.append(2, b"one", None);
    tell(&mut node, 3, ProfileNews::Obey(Box::new(profile)));
    node.append(4, b"three", None);
    settle(&mut node);
    let after = *node.core.log().options();
    assert_eq!(
        (after.batch_bytes_max, after.chains_in_flight_max),
        (8_192, 2)
    );
    assert_eq!(after.segment_blocks, before.segment_blocks);
    assert_eq!(after.entry_body_bytes_max, before.entry_body_bytes_max);
    for ticket in [2, 4] {
        let outcome = node.outcome(ticket).expect("answered");
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }
    assert_eq!(node.core.status(None).trouble, "");
}

#[test]
fn on_a_host_that_can_keep_no_acknowledgement_a_replica_is_silent_and_says_why() {
    let mut node = Node::boot_on(
        1,
        &[1],
        MemoryDisk::default(),
        Time(0),
        Some("fuse: nobody knows"),
    );
    let mut now = Time(0);
    node.append(1, b"x", None);
    for _ in 0..40 {
        now = now.plus_ms(100);
        assert!(node.turn(now).is_empty(), "it says nothing to anyone");
    }
    match node.outcome(1).expect("answered") {
        Outcome::NotExecuted { refusal } => {
            assert_eq!(refusal.clause, RefusalClause::Unavailable);
            assert!(
                refusal.message.contains("fuse: nobody knows"),
                "{}",
                refusal.message
            );
        }
        other => panic!("{other:?}"),
    }
    let status = node.core.status(None);
    assert!(
        status.trouble.contains("fuse: nobody knows"),
        "{}",
        status.trouble
    );
    assert_eq!(
        status.partitions[0].role,
        clustor_wire::message::Role::Quarantined
    );
}

#[test]
fn what_waits_to_be_committed_is_bounded_for_the_node() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    net.nodes.retain(|id, _| *id == leader);
    let node = net.nodes.get_mut(&leader).expect("here");
    let payload = vec![7; 60 << 10];
    for ticket in 1..=20 {
        node.append(ticket, &payload, None);
    }
    net.run_ms(5);
    let node = net.nodes.get_mut(&leader).expect("here");
    let fit = (1 << 20) / (60 << 10);
    for ticket in 1..=20 {
        match node.outcome(ticket) {
            None => assert!(ticket <= fit, "append {ticket} was taken"),
            Some(Outcome::NotExecuted { refusal }) => {
                assert!(ticket > fit, "append {ticket} was refused: {refusal:?}");
                assert_eq!(refusal.clause, RefusalClause::Busy);
                assert!(
                    refusal.message.contains("the node's limit"),
                    "{}",
                    refusal.message
                );
            }
            Some(other) => panic!("nothing can be committed: {other:?}"),
        }
    }
}

#[test]
fn a_disk_that_hangs_costs_a_node_its_leadership_and_its_status_says_so() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(1500);
    let leader = net.leader().expect("a leader");
    let bound_ms = Profile::throughput().stuck_io_ms;
    let node = net.nodes.get_mut(&leader).expect("there");
    node.hangs = true;
    node.append(1, b"x", None);
    net.run_ms(bound_ms / 2);
    let node = net.nodes.get_mut(&leader).expect("there");
    assert!(node.outcome(1).is_none(), "it may still happen");
    let before = node.core.log().failure();
    assert!(before.is_none());
    net.run_ms(bound_ms / 2 + 10_000);
    let node = net.nodes.get_mut(&leader).expect("there");
    assert!(matches!(node.outcome(1), Some(Outcome::Unknown { .. })));
    node.inbox.requests.push(Request {
        ticket: 2,
        partition: P,
        body: RequestBody::Status,
    });
    net.run_ms(5);
    let node = net.nodes.get_mut(&leader).expect("there");
    let told = node.replies.iter().find_map(|reply| match reply {
        Reply::Status { ticket: 2, status } => status.as_ref().ok(),
        _ => None,
    });
    let trouble = &told.expect("answered").trouble;
    assert!(
        trouble.contains("has not ended within 30000 ms") && trouble.contains("restart"),
        "{trouble}"
    );
    let next = net.leader().expect("another leader");
    assert_ne!(next, leader);
    net.nodes
        .get_mut(&next)
        .expect("there")
        .append(3, b"yz", None);
    net.run_ms(50);
    let node = net.nodes.get_mut(&next).expect("there");
    assert!(matches!(node.outcome(3), Some(Outcome::Applied { .. })));
}

#[test]
fn at_a_first_start_nobody_is_named_whose_creation_a_power_loss_takes_back() {
    for ms in 1..10 {
        let mut net = Net::new(&[1, 2, 3]);
        net.run_ms(ms);
        let node = net.nodes.get_mut(&3).expect("there");
        node.hangs = true;
        net.run_ms(1_000);
        // What it had not begun to write is gone.
        let disk = net.nodes[&3].disk.clone();
        net.nodes
            .insert(3, Node::boot(3, &[1, 2, 3], disk, net.now));
        // Its sessions ended with it, also where its disk does not know that there was a boot.
        net.sessions.clear();
        net.run_ms(3_000);
        assert!(net.leader().is_some(), "{ms} ms: nobody leads");
        let third = net.nodes[&3].core.partition(P).expect("there").status();
        assert_eq!(third.trouble, "", "{ms} ms");
        assert!(third.applied > LogIndex::ZERO, "{ms} ms: it is left out");
    }
}

#[test]
fn whoever_follows_a_quiet_partition_answers_as_long_as_it_is_connected() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(20_000);
    let leader = net.ready_leader();
    let shown = |net: &mut Net, ticket| {
        let node = net.nodes.get_mut(&leader).expect("there");
        node.inbox.requests.push(Request {
            ticket,
            partition: P,
            body: RequestBody::Members(MembersRequest::Show),
        });
        net.run_ms(2);
        let node = net.nodes.get_mut(&leader).expect("there");
        let reply = node.replies.iter().find_map(|reply| match reply {
            Reply::Members {
                ticket: of,
                members,
            } if *of == ticket => Some(members.clone()),
            _ => None,
        });
        let members = reply.expect("answered").expect("shown").members;
        let silent = members.iter().filter(|member| !member.answers);
        silent.map(|member| member.node.get()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&mut net, 1), [0; 0]);

    let gone = if leader == 3 { 2 } else { 3 };
    net.nodes.remove(&gone);
    let node = net.nodes.get_mut(&leader).expect("there");
    node.inbox.peers.push(PeerEvent::Down(peer(gone)));
    net.run_ms(1_000);
    assert_eq!(shown(&mut net, 2), [gone]);
}

#[test]
fn how_the_disk_stands_is_logged_once_each_time_it_changes() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Arc::new(log.reopen().expect("the file")))
        .with_ansi(false)
        .finish();
    let mut node = Node::boot(1, &[1], MemoryDisk::default(), Time(0));
    let mut now = Time(0);
    tracing::subscriber::with_default(subscriber, || {
        for percent in [50, 85, 85, 95, 50] {
            node.inbox.disk.push(DiskEvent::Used { percent });
            for _ in 0..20 {
                now = now.plus_ms(50);
                node.turn(now);
            }
        }
    });
    let said = std::fs::read_to_string(log.path()).expect("text");
    let of_disk = said.lines().filter(|line| line.contains("the disk"));
    let words = ["85% used", "95% used", "has room again"];
    let found: Vec<bool> = of_disk
        .zip(words)
        .map(|(line, word)| line.contains(word) && line.contains("shard="))
        .collect();
    assert_eq!(found, [true; 3], "{said}");
    assert_eq!(said.matches("the disk").count(), 3, "{said}");
}

/// What a start says while a log of so many entries, each of its own chain, is applied in turns this far apart.
fn said_while_applying(entries: u64, turn_ms: u64) -> String {
    let mut net = Net::new(&[1]);
    net.run_ms(50);
    for ticket in 1..=entries {
        net.nodes
            .get_mut(&1)
            .expect("there")
            .append(ticket, b"abc", None);
        net.run_ms(5);
    }
    let disk = net.nodes[&1].disk.clone();
    let mut now = net.now;
    let mut node = Node::boot(1, &[1], disk, now);
    let log = tempfile::NamedTempFile::new().expect("a file");
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Arc::new(log.reopen().expect("the file")))
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..200 {
            now = now.plus_ms(turn_ms);
            node.turn(now);
        }
    });
    node.append(1, b"abc", None);
    for _ in 0..10 {
        now = now.plus_ms(turn_ms);
        node.turn(now);
    }
    assert_eq!(total(node.outcome(1)), 3 * (entries + 1), "all is applied");
    std::fs::read_to_string(log.path()).expect("text")
}

#[test]
fn a_start_that_applies_for_long_says_how_far_it_is() {
    let said = said_while_applying(40, 500);
    let of = |line: &str, field: &str| -> Option<u64> {
        let (_, rest) = line.split_once(&format!(" {field}="))?;
        let digits = rest.split(|letter: char| !letter.is_ascii_digit());
        digits.into_iter().next()?.parse().ok()
    };
    let told: Vec<(u64, u64, u64)> = said
        .lines()
        .filter(|line| line.contains("being applied"))
        .filter_map(|line| Some((of(line, "applied")?, of(line, "of")?, of(line, "percent")?)))
        .collect();
    assert!(told.len() >= 2, "{said}");
    assert!(told.windows(2).all(|two| two[0].0 < two[1].0), "{said}");
    for (applied, entries, percent) in told {
        assert!(entries >= 40 && applied < entries, "{said}");
        assert_eq!(percent, applied * 100 / entries, "{said}");
    }
    assert_eq!(said.matches("what the log held is applied").count(), 1);

    let said = said_while_applying(40, 10);
    assert!(!said.contains("what the log held"), "{said}");
}

#[test]
fn members_are_named_to_those_who_let_in_and_of_a_guest_nothing_is_remembered() {
    let mut net = Net::new(&[1, 2, 3]);
    let first = net.nodes.get_mut(&1).expect("there");
    let mut outbox = Outbox::default();
    first.inbox.now = net.now;
    first.core.turn(&mut first.inbox, &mut outbox);
    assert_eq!(outbox.addresses, [(peer(2), vec![]), (peer(3), vec![])]);

    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(1_000);
    let second = &net.nodes[&2].core;
    let hello = second.hello(peer(1));
    let batch = PeerBatch {
        boot: second.boot_number(),
        retired_chain: ChainNumber(5),
        ..PeerBatch::default()
    };
    let mut body = Vec::new();
    batch.encode(&mut body).expect("a batch");
    let batch = Frame {
        kind: FrameKind::PeerBatch,
        body,
    };
    let first = net.nodes.get_mut(&1).expect("there");
    let peers = &mut first.inbox.peers;
    peers.push(PeerEvent::Up(peer(9)));
    peers.push(PeerEvent::Frame(peer(9), hello));
    peers.push(PeerEvent::Frame(peer(9), batch));
    let here = GuestStatus {
        here: 1,
        ..GuestStatus::default()
    };
    first.inbox.guests = here;
    first.turn(net.now);
    assert_ne!(first.core.past_of(peer(2)), PeerPast::default());
    assert_eq!(first.core.past_of(peer(9)), PeerPast::default());
    assert_eq!(first.core.status(None).guests, here);
}
