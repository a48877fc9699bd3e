//! Connections of clients at a shard: who they are, what they may say, how many there are.

#![cfg(feature = "net")]

mod net_support;

use clustor_shards::net::{
    Connection, ConnectionLimits, Expected, NetError, NetLimits, Notice, Preface, SessionKind,
    ShardNet, SocketId, TlsIdentity,
};
use clustor_shards::turn::{ClientEvent, ClientOp, ConnectionId, Time};
use clustor_wire::frame::{Frame, FrameKind};
use net_support::world::{CLUSTER, local, net_of};
use net_support::{Ca, TRUST_DOMAIN};

const NOW: Time = Time(1);

fn frame(kind: FrameKind, len: usize) -> Frame {
    Frame {
        kind,
        body: vec![3; len],
    }
}

struct Client {
    socket: SocketId,
    connection: Connection,
}

impl Client {
    fn connect(net: &mut ShardNet, identity: &TlsIdentity) -> Self {
        let preface = Preface::client(Some(CLUSTER), None);
        let socket = net.on_accepted(&preface, NOW).unwrap();
        let connection = Connection::dial(
            identity,
            SessionKind::Client,
            Expected::AnyNode,
            ConnectionLimits::default(),
        )
        .unwrap();
        Self { socket, connection }
    }

    fn settle(&mut self, net: &mut ShardNet) {
        for _ in 0..8 {
            let mut bytes = Vec::new();
            self.connection.transmit(&mut bytes, usize::MAX).unwrap();
            net.on_bytes(self.socket, &mut bytes, NOW);
            bytes.clear();
            net.transmit(self.socket, &mut bytes, usize::MAX, NOW);
            let mut at = 0;
            while at < bytes.len() {
                match self.connection.receive(&mut bytes[at..]) {
                    Ok(taken) if taken > 0 => at += taken,
                    // How the connection ended is what tests look at.
                    _ => break,
                }
            }
        }
    }
}

fn events(net: &mut ShardNet) -> Vec<ClientEvent> {
    let (mut peers, mut clients) = (Vec::new(), Vec::new());
    net.take_events(&mut peers, &mut clients, NOW);
    assert!(peers.is_empty());
    clients
}

#[test]
fn a_client_is_opened_by_name_asks_and_is_answered() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[], NOW);
    let mut client = Client::connect(&mut net, &ca.client("alice"));
    client
        .connection
        .send(frame(FrameKind::ClientRequest, 9))
        .unwrap();
    client.settle(&mut net);
    let id = ConnectionId(client.socket.0);
    match &events(&mut net)[..] {
        [
            ClientEvent::Opened(opened, name),
            ClientEvent::Frame(from, asked),
        ] => {
            assert_eq!((*opened, *from), (id, id));
            assert_eq!(name, &format!("spiffe://{TRUST_DOMAIN}/client/alice"));
            assert_eq!(asked, &frame(FrameKind::ClientRequest, 9));
        }
        other => panic!("{other:?}"),
    }
    net.client_op(ClientOp::Send(id, frame(FrameKind::ClientResponse, 7)), NOW);
    client.settle(&mut net);
    assert_eq!(
        client.connection.next_frame(),
        Some(frame(FrameKind::ClientResponse, 7))
    );
    net.on_closed(client.socket, "end of stream", NOW);
    assert!(matches!(events(&mut net)[..], [ClientEvent::Closed(closed)] if closed == id));
    assert_eq!(net.open_sockets(), 0);
}

#[test]
fn a_connected_client_has_no_deadline() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[], NOW);
    let mut client = Client::connect(&mut net, &ca.client("alice"));
    assert!(net.next_deadline().is_some());
    client.settle(&mut net);
    assert_eq!(net.next_deadline(), None);
}

#[test]
fn a_client_that_speaks_like_a_peer_is_refused() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[], NOW);
    let mut client = Client::connect(&mut net, &ca.client("eve"));
    client
        .connection
        .send(frame(FrameKind::PeerBatch, 9))
        .unwrap();
    client.settle(&mut net);
    assert!(matches!(
        events(&mut net)[..],
        [ClientEvent::Opened(..), ClientEvent::Closed(_)]
    ));
    assert_eq!(client.connection.next_frame(), None);
    assert!(matches!(
        client.connection.ended(),
        Some(NetError::RefusedByPeer { .. })
    ));
}

#[test]
fn a_client_that_the_shard_refuses_is_told_why_and_so_is_the_log() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[], NOW);
    let mut client = Client::connect(&mut net, &ca.client("garbled"));
    client.settle(&mut net);
    events(&mut net);
    let id = ConnectionId(client.socket.0);
    net.client_op(ClientOp::Refuse(id, "no root table".to_owned()), NOW);
    client.settle(&mut net);
    assert_eq!(client.connection.next_frame(), None);
    match client.connection.ended() {
        Some(NetError::RefusedByPeer { reason }) => {
            assert!(reason.contains("can't be read: no root table"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(events(&mut net)[..], [ClientEvent::Closed(closed)] if closed == id));
    match net.poll_notice() {
        Some(Notice::ClientClosed(Some(who), NetError::Message { .. })) => {
            assert!(who.to_string().ends_with("/client/garbled"), "{who}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_reads_no_answers_is_closed_when_its_queue_is_full() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[], NOW);
    let mut client = Client::connect(&mut net, &ca.client("slow"));
    client.settle(&mut net);
    events(&mut net);
    let id = ConnectionId(client.socket.0);
    for _ in 0..5 {
        net.client_op(
            ClientOp::Send(id, frame(FrameKind::ClientResponse, 4 << 20)),
            NOW,
        );
    }
    assert!(matches!(events(&mut net)[..], [ClientEvent::Closed(_)]));
    assert!(format!("{:?}", net.poll_notice()).contains("SendQueueFull"));
    // What it asked before is answered to nobody: the operation is dropped.
    net.client_op(ClientOp::Send(id, frame(FrameKind::ClientResponse, 1)), NOW);
}

#[test]
fn what_was_sent_before_a_close_still_leaves() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[], NOW);
    let mut client = Client::connect(&mut net, &ca.client("c"));
    client.settle(&mut net);
    let id = ConnectionId(client.socket.0);
    net.client_op(
        ClientOp::Send(id, frame(FrameKind::ClientResponse, 100_000)),
        NOW,
    );
    net.client_op(ClientOp::Close(id), NOW);
    assert_eq!(net.poll_close(NOW), None, "not before it has left");
    client.settle(&mut net);
    assert_eq!(net.poll_close(NOW), Some(client.socket));
    assert_eq!(
        client.connection.next_frame(),
        Some(frame(FrameKind::ClientResponse, 100_000))
    );
    assert_eq!(client.connection.ended(), Some(&NetError::ClosedByPeer));
}

#[test]
fn clients_are_bounded_and_leave_their_places() {
    let ca = Ca::new();
    let limits = NetLimits {
        clients_max: 2,
        ..NetLimits::default()
    };
    let mut net = ShardNet::new(local(1), ca.node(1), &[], limits, 0, NOW).unwrap();
    let preface = Preface::client(None, None);
    let first = net.on_accepted(&preface, NOW).unwrap();
    net.on_accepted(&preface, NOW).unwrap();
    assert!(matches!(
        net.on_accepted(&preface, NOW),
        Err(NetError::TooMany { limit: 2, .. })
    ));
    net.on_closed(first, "end of stream", NOW);
    net.on_accepted(&preface, NOW).unwrap();
    assert!(
        events(&mut net).is_empty(),
        "nobody was opened, nobody is closed"
    );
}

#[test]
fn a_newcomer_takes_the_place_of_whoever_has_been_idle_longest() {
    let ca = Ca::new();
    let limits = NetLimits {
        clients_max: 3,
        client_idle_ms_min: 1_000,
        ..NetLimits::default()
    };
    let mut net = ShardNet::new(local(1), ca.node(1), &[], limits, 0, NOW).unwrap();
    let come = |name: &str, net: &mut ShardNet| {
        let mut client = Client::connect(net, &ca.client(name));
        client.settle(net);
        client
    };
    // Came first, and waits for an answer; came next, and asked later than the third.
    let mut waits = come("waits", &mut net);
    let mut asked = come("asked", &mut net);
    let mut idle = come("idle", &mut net);
    let (waiting, answered) = (ConnectionId(waits.socket.0), ConnectionId(asked.socket.0));
    let ask = |client: &mut Client, net: &mut ShardNet, at: Time| {
        let request = frame(FrameKind::ClientRequest, 9);
        client.connection.send(request).unwrap();
        let mut bytes = Vec::new();
        client.connection.transmit(&mut bytes, usize::MAX).unwrap();
        net.on_bytes(client.socket, &mut bytes, at);
    };
    let answer = || frame(FrameKind::ClientResponse, 7);
    ask(&mut waits, &mut net, NOW);
    let later = NOW.plus_ms(500);
    ask(&mut asked, &mut net, later);
    net.client_op(ClientOp::Send(answered, answer()), later);
    asked.settle(&mut net);
    events(&mut net);
    while net.poll_notice().is_some() {}

    // Nobody has been idle for long enough.
    let newcomer = Preface::client(Some(CLUSTER), None);
    let full = Err(NetError::TooMany {
        what: "client connections",
        limit: 3,
    });
    assert_eq!(net.on_accepted(&newcomer, NOW.plus_ms(999)), full);
    // One has, and gives way.
    net.on_accepted(&newcomer, NOW.plus_ms(1_000))
        .expect("a place");
    idle.settle(&mut net);
    assert_eq!(idle.connection.next_frame(), None);
    let ended = format!("{:?}", idle.connection.ended());
    assert!(ended.contains("RefusedByPeer"), "{ended}");
    assert!(ended.contains("silent longest"), "{ended}");
    let gone = ConnectionId(idle.socket.0);
    assert!(matches!(events(&mut net)[..], [ClientEvent::Closed(id)] if id == gone));
    let notice = format!("{:?}", net.poll_notice());
    assert!(
        notice.contains("Displaced") && notice.contains("1000"),
        "{notice}"
    );
    // The next, when its own time has come; whoever waits for an answer stays however long it takes.
    assert_eq!(net.on_accepted(&newcomer, NOW.plus_ms(1_499)), full);
    net.on_accepted(&newcomer, NOW.plus_ms(1_500))
        .expect("a place");
    assert!(matches!(events(&mut net)[..], [ClientEvent::Closed(id)] if id == answered));
    assert_eq!(net.on_accepted(&newcomer, NOW.plus_ms(4_000)), full);
    // Its answer is on its way: it stays until that has left, and for a while after.
    let at = NOW.plus_ms(4_000);
    net.client_op(ClientOp::Send(waiting, answer()), at);
    assert_eq!(net.on_accepted(&newcomer, at), full);
    let mut bytes = Vec::new();
    net.transmit(waits.socket, &mut bytes, usize::MAX, at);
    assert_eq!(net.on_accepted(&newcomer, NOW.plus_ms(4_999)), full);
    net.on_accepted(&newcomer, NOW.plus_ms(5_000))
        .expect("a place");
    assert!(matches!(events(&mut net)[..], [ClientEvent::Closed(id)] if id == waiting));
}

#[test]
fn stopping_says_goodbye_to_clients_and_accepts_no_more() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[], NOW);
    let mut client = Client::connect(&mut net, &ca.client("c"));
    client.settle(&mut net);
    net.stop(NOW);
    client.settle(&mut net);
    assert_eq!(client.connection.ended(), Some(&NetError::ClosedByPeer));
    assert_eq!(net.poll_close(NOW), Some(client.socket));
    assert_eq!(
        net.on_accepted(&Preface::client(None, None), NOW),
        Err(NetError::Stopping)
    );
}
