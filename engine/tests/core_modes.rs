//! How partitions are made durable: asked for, in force, held back, and who may ask.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use clustor_engine::outcome::{Outcome, RefusalClause};
use clustor_engine::request::{Request, RequestBody};
use clustor_shards::log::Mode;
use clustor_shards::turn::{ClientEvent, ClientOp, ConnectionId};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, DurabilityMode,
};
use core_support::P;
use core_support::net::{Net, Node};

fn ask_mode(node: &mut Node, ticket: u64, mode: Mode) {
    node.inbox.requests.push(Request {
        ticket,
        partition: P,
        body: RequestBody::Mode(mode),
    });
}

#[test]
fn a_change_of_the_mode_is_an_entry_and_in_force_on_every_replica() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    let node = net.nodes.get_mut(&leader).expect("here");
    for ticket in 1..=20 {
        node.append(ticket, b"grouped", None);
    }
    ask_mode(node, 50, Mode::Strict);
    for ticket in 21..=24 {
        node.append(ticket, b"alone", None);
    }
    let before = node.core.log().retired_chain();
    net.run_ms(200);
    let node = net.nodes.get_mut(&leader).expect("here");
    let chains = node.core.log().retired_chain().get() - before.get();
    assert_eq!(
        chains,
        1 + 1 + 4 + 1,
        "what was grouped, the change, each alone, and what is known of peers beside them"
    );
    for ticket in (1..=24).chain([50]) {
        let outcome = node.outcome(ticket).expect("answered");
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }
    for id in [1, 2, 3] {
        let strict = DurabilityMode::Strict;
        assert_eq!(
            net.mode_on(id),
            (strict, strict, String::new()),
            "node {id}"
        );
    }
}

#[test]
fn the_mode_that_was_asked_for_survives_a_restart_and_counts_for_the_next_leader() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    ask_mode(net.nodes.get_mut(&leader).expect("here"), 1, Mode::Strict);
    net.run_ms(200);
    for id in [1, 2, 3] {
        let node = net.nodes.remove(&id).expect("here");
        let again = Node::boot(id, &[1, 2, 3], node.disk, net.now);
        net.nodes.insert(id, again);
        // What its log says is not known before it is applied: strict until then, whatever the profile says.
        assert_eq!(net.mode_on(id).0, DurabilityMode::Strict);
    }
    net.run_ms(3_000);
    for id in [1, 2, 3] {
        assert_eq!(net.mode_on(id).1, DurabilityMode::Strict, "node {id}");
    }
}

#[test]
fn no_clause_is_told_where_the_mode_is_the_one_that_was_asked_for() {
    let group = DurabilityMode::Group;
    for voters in [&[1][..], &[1, 2, 3]] {
        let mut net = Net::new(voters);
        net.run_ms(2_000);
        let leader = net.ready_leader();
        let node = net.nodes.get_mut(&leader).expect("here");
        node.append(1, b"grouped", None);
        net.run_ms(200);
        for id in voters {
            let node = net.nodes.remove(id).expect("here");
            let again = Node::boot(*id, voters, node.disk, net.now);
            net.nodes.insert(*id, again);
        }
        let mut was_group = false;
        for _ in 0..300 {
            net.run_ms(10);
            for id in voters {
                let (mode, wanted, held_back) = net.mode_on(*id);
                let is_group = (mode, wanted) == (group, group);
                assert!(!is_group || held_back.is_empty(), "node {id}: {held_back}");
                was_group |= is_group;
            }
        }
        assert!(was_group, "it comes back to what was asked for");
    }
}

#[test]
fn a_voter_that_blocks_keeps_the_partition_strict_and_status_says_so() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    let other = 1 + leader % 3;
    let node = net.nodes.remove(&other).expect("here");
    let again = Node::boot_writing(other, &[1, 2, 3], node.disk, net.now, 2);
    net.nodes.insert(other, again);
    net.run_ms(1_000);
    let leader = net.ready_leader();
    let node = net.nodes.get_mut(&leader).expect("here");
    for ticket in 1..=3 {
        node.append(ticket, b"more", None);
    }
    net.run_ms(500);
    let strict = DurabilityMode::Strict;
    let held_back = format!("blocking_voter (node {other})");
    assert_eq!(
        net.mode_on(leader),
        (strict, DurabilityMode::Group, held_back.clone())
    );
    let node = net.nodes.get_mut(&leader).expect("here");
    ask_mode(node, 9, Mode::Group);
    net.run_ms(100);
    let node = net.nodes.get_mut(&leader).expect("here");
    match node.outcome(9).expect("answered") {
        Outcome::NotExecuted { refusal } => {
            assert_eq!(refusal.clause, RefusalClause::ModeConflict);
            assert!(refusal.message.contains(&held_back), "{}", refusal.message);
        }
        other => panic!("not refused: {other:?}"),
    }
    // It writes as it should again: the partition goes back to what was asked for.
    let node = net.nodes.remove(&other).expect("here");
    let again = Node::boot(other, &[1, 2, 3], node.disk, net.now);
    net.nodes.insert(other, again);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    net.nodes
        .get_mut(&leader)
        .expect("here")
        .append(20, b"x", None);
    net.run_ms(500);
    let group = DurabilityMode::Group;
    assert_eq!(net.mode_on(leader), (group, group, String::new()));
}

#[test]
fn only_an_operators_connection_may_change_the_mode() {
    let mut net = Net::new(&[1]);
    net.run_ms(1_000);
    let ask = ClientRequest {
        id: 7,
        body: ClientRequestBody::Mode {
            partition: P,
            mode: DurabilityMode::Strict,
        },
    };
    let mut body = Vec::new();
    ask.encode(&mut body).expect("short");
    let frame = || Frame {
        kind: FrameKind::ClientRequest,
        body: body.clone(),
    };
    let node = net.nodes.get_mut(&1).expect("here");
    let (client, operator) = (ConnectionId(1), ConnectionId(2));
    for (connection, name) in [(client, "client/ops"), (operator, "operator/ops")] {
        let name = format!("spiffe://example/{name}");
        node.inbox
            .clients
            .push(ClientEvent::Opened(connection, name));
        node.inbox
            .clients
            .push(ClientEvent::Frame(connection, frame()));
    }
    net.run_ms(100);
    let node = net.nodes.get_mut(&1).expect("here");
    let answers: Vec<(ConnectionId, ClientResponseBody)> = node
        .answers
        .drain(..)
        .map(|op| match op {
            ClientOp::Send(to, frame) => {
                let answer = ClientResponse::decode(&frame.body).expect("decodes");
                (to, answer.body)
            }
            ClientOp::Close(to) | ClientOp::Refuse(to, _) => panic!("{to:?} was closed"),
        })
        .collect();
    assert_eq!(answers.len(), 2);
    for (to, answer) in answers {
        match answer {
            ClientResponseBody::NotExecuted(refused) => {
                assert_eq!((to, refused.clause), (client, RefusalClause::Forbidden));
            }
            ClientResponseBody::Applied { .. } => assert_eq!(to, operator),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(net.mode_on(1).0, DurabilityMode::Strict);
}
