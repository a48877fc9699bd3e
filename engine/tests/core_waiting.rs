//! Who waits for an answer: how much may, and that each is answered once. On cores in virtual time.

#[path = "../../shards/tests/support/mod.rs"]
mod support;

mod core_support;

use clustor_engine::outcome::{Outcome, ReadLevel, RefusalClause};
use clustor_engine::request::{Request, RequestBody, Wait};
use clustor_shards::turn::{ClientEvent, ClientOp, ConnectionId};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, Refusal,
};
use core_support::P;
use core_support::net::{Net, Node};

const CONNECTION: ConnectionId = ConnectionId(5);
/// What the shard's share of the node's limit is in these tests.
const LIMIT: usize = 1 << 20;

fn frame(id: u64, query: Vec<u8>) -> Frame {
    let request = ClientRequest {
        id,
        body: ClientRequestBody::Read {
            partition: P,
            level: ReadLevel::Linearizable,
            query,
        },
    };
    let mut body = Vec::new();
    request.encode(&mut body).expect("a request");
    Frame {
        kind: FrameKind::ClientRequest,
        body,
    }
}

/// Asks with a query of so many bytes.
fn ask(node: &mut Node, id: u64, bytes: usize) {
    let frame = frame(id, vec![7; bytes]);
    let clients = &mut node.inbox.clients;
    clients.push(ClientEvent::Frame(CONNECTION, frame));
}

/// The refusal of a request, once it is answered.
fn refusal(node: &Node, wanted: u64) -> Option<Refusal> {
    let responses = node.answers.iter().filter_map(|op| match op {
        ClientOp::Send(CONNECTION, frame) => ClientResponse::decode(&frame.body).ok(),
        _ => None,
    });
    responses
        .filter(|response| response.id == wanted)
        .find_map(|response| match response.body {
            ClientResponseBody::NotExecuted(refusal) => Some(refusal),
            _ => None,
        })
}

fn is_busy(refusal: Option<&Refusal>) -> bool {
    refusal.is_some_and(|refusal| {
        refusal.clause == RefusalClause::Busy
            && refusal.message.contains("node_inflight_bytes_max")
            && refusal.message.contains(&LIMIT.to_string())
    })
}

#[test]
fn queries_that_wait_are_bounded_in_bytes_and_the_refusal_names_the_limit() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    let now = net.now;
    let node = net.nodes.get_mut(&leader).expect("there");
    let name = "spiffe://test.clustor/client/a".to_owned();
    node.inbox
        .clients
        .push(ClientEvent::Opened(CONNECTION, name));
    for id in 1..=3 {
        ask(node, id, LIMIT * 3 / 10);
    }
    ask(node, 4, LIMIT / 10 + 1024);
    // A small one finds room.
    ask(node, 5, 1024);
    node.turn(now);
    for id in [1, 2, 3, 5] {
        assert_eq!(refusal(node, id), None, "request {id}");
    }
    assert!(is_busy(refusal(node, 4).as_ref()), "{:?}", refusal(node, 4));

    // This machine knows no queries: that is an answer, too, and makes room.
    net.run_ms(100);
    let node = net.nodes.get_mut(&leader).expect("there");
    for id in [1, 2, 3, 5] {
        let refused = refusal(node, id).expect("answered");
        assert_eq!(refused.clause, RefusalClause::Unsupported);
    }
    ask(node, 6, LIMIT / 10 * 9);
    node.turn(net.now);
    assert_eq!(refusal(node, 6), None);

    // Those that are given up make room as well.
    let mut alone = Net::new(&[]);
    alone.now = net.now;
    let node = net.nodes.remove(&leader).expect("there");
    alone.nodes.insert(leader, node);
    alone.run_ms(2_000);
    let node = alone.nodes.get_mut(&leader).expect("there");
    let refused = refusal(node, 6).expect("given up");
    assert_eq!(refused.clause, RefusalClause::NotLeader);
    ask(node, 7, LIMIT / 10 * 9);
    alone.run_ms(10);
    let node = &alone.nodes[&leader];
    let refused = refusal(node, 7).expect("nobody leads");
    assert_eq!(refused.clause, RefusalClause::NotLeader);
}

#[test]
fn a_request_that_can_not_be_read_is_refused_with_the_reason() {
    let mut net = Net::new(&[1]);
    net.run_ms(2_000);
    let node = net.nodes.get_mut(&1).expect("there");
    let unreadable = Frame {
        kind: FrameKind::ClientRequest,
        body: vec![0; 64],
    };
    let expected = ClientRequest::decode(&unreadable.body).expect_err("unreadable");
    let clients = &mut node.inbox.clients;
    clients.push(ClientEvent::Frame(CONNECTION, unreadable));
    net.run_ms(1);
    let answers = &net.nodes[&1].answers;
    match &answers[..] {
        [ClientOp::Refuse(CONNECTION, why)] => assert_eq!(*why, expected.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_waits_for_the_commit_and_whoever_for_more_are_answered_once_each() {
    const EACH: u64 = 200;
    let mut net = Net::new(&[1, 2, 3]);
    net.run_ms(2_000);
    let leader = net.ready_leader();
    for round in 0..4 {
        let node = net.nodes.get_mut(&leader).expect("there");
        for ticket in round * EACH..(round + 1) * EACH {
            let wait = match ticket % 3 {
                0 => Wait::Applied,
                _ => Wait::Committed,
            };
            node.inbox.requests.push(Request {
                ticket,
                partition: P,
                body: RequestBody::Append {
                    payload: b"a".to_vec(),
                    key: None,
                    wait,
                    only_in: None,
                },
            });
        }
        net.run_ms(1);
    }
    net.run_ms(1_000);
    let node = net.nodes.get_mut(&leader).expect("there");
    let mut last = None;
    for ticket in 0..4 * EACH {
        let outcome = node.outcome(ticket);
        let Some(Outcome::Applied { index, reply, .. }) = outcome else {
            panic!("request {ticket}: {outcome:?}");
        };
        assert_eq!(reply.is_empty(), ticket % 3 != 0);
        assert!(last < Some(index));
        last = Some(index);
        assert_eq!(node.outcome(ticket), None, "answered once");
    }
}
