//! Nodes that talk through their rings: peers dialled and accepted, frames both ways, clients, last words.

#![cfg(feature = "net")]

mod net_support;
mod ring_support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use clustor_shards::buffer::SizeClass;
use clustor_shards::net::{
    Connection, ConnectionLimits, Expected, NetLimits, Preface, SessionKind, ShardNet, TlsIdentity,
};
use clustor_shards::runtime::{Listening, Node, NodeOptions, ShardPlan, serve};
use clustor_shards::turn::{Application, ClientEvent, ClientOp, Inbox, Outbox, PeerEvent, PeerId};
use clustor_shards::uring::WriterChoice;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::ShardId;
use net_support::world::{CLUSTER, local, peer};
use net_support::{Ca, TRUST_DOMAIN};

/// Sends a frame to a peer when asked, echoes clients, reports what peers do.
struct Chatter;

/// What happened, for the test.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Up(PeerId),
    Down(PeerId),
    Batch(PeerId, Vec<u8>),
    Client(String),
}

impl Application for Chatter {
    type Request = (PeerId, Vec<u8>);
    type Reply = News;
    type Mesh = ();

    fn turn(&mut self, inbox: &mut Inbox<(PeerId, Vec<u8>), ()>, outbox: &mut Outbox<News, ()>) {
        // How full the disk is.
        inbox.disk.clear();
        for event in inbox.peers.drain(..) {
            match event {
                PeerEvent::Up(peer) => outbox.replies.push(News::Up(peer)),
                PeerEvent::Down(peer) => outbox.replies.push(News::Down(peer)),
                PeerEvent::Frame(peer, frame) if frame.kind == FrameKind::PeerBatch => {
                    outbox.replies.push(News::Batch(peer, frame.body));
                }
                PeerEvent::Frame(..) => {}
            }
        }
        for event in inbox.clients.drain(..) {
            match event {
                ClientEvent::Opened(_, who) => outbox.replies.push(News::Client(who)),
                ClientEvent::Frame(id, frame) => outbox.clients.push(ClientOp::Send(
                    id,
                    Frame {
                        kind: FrameKind::ClientResponse,
                        body: frame.body,
                    },
                )),
                ClientEvent::Closed(_) => {}
            }
        }
        for (to, body) in inbox.requests.drain(..) {
            outbox.peers.push((
                to,
                Frame {
                    kind: FrameKind::PeerBatch,
                    body,
                },
            ));
        }
        outbox.stopped = inbox.stopping;
    }
}

struct Running {
    node: Node<(PeerId, Vec<u8>)>,
    news: Receiver<News>,
}

impl Running {
    fn wait_for(&self, what: &News) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            match self.news.recv_timeout(Duration::from_secs(20)) {
                Ok(news) if news == *what => return,
                Ok(_) => {}
                Err(error) => panic!("{what:?} never came: {error}"),
            }
        }
        panic!("{what:?} never came");
    }

    fn send(&self, to: PeerId, body: Vec<u8>) {
        self.node
            .submitter(ShardId(0))
            .try_submit((to, body))
            .expect("the queue has room");
    }

    fn stop(self) {
        self.node
            .shutdown(Duration::from_secs(10))
            .expect("it stops");
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a bound address")
}

fn run(
    node: u64,
    identity: TlsIdentity,
    peers: Vec<(PeerId, SocketAddr)>,
    listening: Listening,
    directory: &std::path::Path,
) -> Running {
    let (to, news): (Sender<News>, _) = channel();
    let plan: ShardPlan<Chatter, String> = ShardPlan {
        directory: directory.join(format!("node-{node}")),
        writer: WriterChoice::Auto,
        pool: vec![SizeClass { blocks: 1, runs: 4 }],
        build: Box::new(move |boot| {
            let limits = NetLimits::default();
            let net = ShardNet::new(local(node), identity, &peers, limits, node, boot.now)
                .map_err(|error| error.to_string())?;
            *boot.net = Some(net);
            Ok(Chatter)
        }),
        deliver: Box::new(move |news| {
            let _ = to.send(news);
        }),
    };
    let node = serve(&NodeOptions::default(), vec![plan], listening).expect("it starts");
    Running { node, news }
}

#[test]
fn two_nodes_find_each_other_and_large_frames_pass_whole() {
    let dir = ring_support::directory();
    let ca = Ca::new();
    let (first, second) = (listener(), listener());
    let addresses = [address(&first), address(&second)];
    let one = run(
        1,
        ca.node(1),
        vec![(peer(2), addresses[1])],
        Listening::new(first, None),
        dir.path(),
    );
    let two = run(
        2,
        ca.node(2),
        vec![(peer(1), addresses[0])],
        Listening::new(second, None),
        dir.path(),
    );
    one.wait_for(&News::Up(peer(2)));
    two.wait_for(&News::Up(peer(1)));
    // Larger than any buffer on the way: sends continue where they stopped, receives share buffers.
    for (round, bytes) in [10usize, 70_000, 3_000_000].into_iter().enumerate() {
        let body: Vec<u8> = (0..bytes)
            .map(|at| u8::try_from((at * 7 + round) % 251).expect("small"))
            .collect();
        one.send(peer(2), body.clone());
        two.wait_for(&News::Batch(peer(1), body.clone()));
        two.send(peer(1), body.clone());
        one.wait_for(&News::Batch(peer(2), body));
    }
    two.stop();
    one.wait_for(&News::Down(peer(2)));
    // The lower node dials: it finds the other when that is back.
    let second = TcpListener::bind(addresses[1]).expect("the port is free again");
    let two = run(
        2,
        ca.node(2),
        vec![(peer(1), addresses[0])],
        Listening::new(second, None),
        dir.path(),
    );
    one.wait_for(&News::Up(peer(2)));
    two.stop();
    one.stop();
}

/// One read that no signal cuts short: a receive with a timeout is not resumed by the kernel when the process was
/// stopped and continued (signal(7)).
fn read_some(stream: &mut TcpStream, bytes: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// A client with a blocking socket of its own.
struct Client {
    stream: TcpStream,
    connection: Connection,
}

impl Client {
    fn new(to: SocketAddr, identity: &TlsIdentity) -> Self {
        let mut stream = TcpStream::connect(to).expect("connected");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("set");
        let preface = Preface::client(Some(CLUSTER), Some(ShardId(0)));
        stream.write_all(&preface.encode()).expect("sent");
        let connection = Connection::dial(
            identity,
            SessionKind::Client,
            Expected::AnyNode,
            ConnectionLimits::default(),
        )
        .expect("a connection");
        Self { stream, connection }
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        self.connection
            .transmit(&mut out, 1 << 20)
            .expect("encrypted");
        self.stream.write_all(&out).expect("sent");
    }

    fn ask(&mut self, body: &[u8]) -> Vec<u8> {
        let frame = Frame {
            kind: FrameKind::ClientRequest,
            body: body.to_vec(),
        };
        self.connection.send(frame).expect("queued");
        loop {
            self.flush();
            if let Some(frame) = self.connection.next_frame() {
                return frame.body;
            }
            let mut bytes = [0; 16 * 1024];
            let count = read_some(&mut self.stream, &mut bytes).expect("read");
            assert!(count > 0, "the node closed the connection");
            self.connection
                .receive(&mut bytes[..count])
                .expect("decrypted");
        }
    }
}

#[test]
fn clients_are_answered_and_told_when_the_node_stops() {
    let dir = ring_support::directory();
    let ca = Ca::new();
    let bound = listener();
    let to = address(&bound);
    let node = run(
        1,
        ca.node(1),
        Vec::new(),
        Listening::new(bound, None),
        dir.path(),
    );
    let identity = ca.client("ada");
    let mut clients: Vec<Client> = (0..8).map(|_| Client::new(to, &identity)).collect();
    for round in 0..50u8 {
        for client in &mut clients {
            assert_eq!(client.ask(&[round; 300]), [round; 300]);
        }
    }
    node.wait_for(&News::Client(format!("spiffe://{TRUST_DOMAIN}/client/ada")));
    let stopping = std::thread::spawn(move || node.stop());
    for client in &mut clients {
        let mut bytes = Vec::new();
        client
            .stream
            .read_to_end(&mut bytes)
            .expect("an orderly end, not a reset");
    }
    stopping.join().expect("it stops");
}

#[test]
fn connections_without_a_preface_are_dropped_and_do_not_keep_others_out() {
    let dir = ring_support::directory();
    let ca = Ca::new();
    let bound = listener();
    let to = address(&bound);
    let listening = Listening {
        preface_ms_max: 300,
        half_open_max: 4,
        ..Listening::new(bound, None)
    };
    let node = run(1, ca.node(1), Vec::new(), listening, dir.path());
    let mut silent: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(to).expect("connected"))
        .collect();
    let mut client = Client::new(to, &ca.client("ada"));
    assert_eq!(client.ask(b"hello"), b"hello");
    for stream in &mut silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("set");
        assert_eq!(
            read_some(stream, &mut [0; 1]).expect("an end"),
            0,
            "dropped"
        );
    }
    let mut stranger = TcpStream::connect(to).expect("connected");
    stranger
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    // The bytes behind the preface were not read: the end may come as a reset.
    assert_eq!(
        read_some(&mut stranger, &mut [0; 1]).unwrap_or(0),
        0,
        "refused"
    );
    assert_eq!(client.ask(b"still here"), b"still here");
    node.stop();
}

#[test]
fn a_higher_node_reaches_a_lower_one_that_knows_only_its_former_address() {
    let dir = ring_support::directory();
    let ca = Ca::new();
    let (first, second, former) = (listener(), listener(), listener());
    let addresses = [address(&first), address(&former)];
    // Nobody listens there any more.
    drop(former);
    let one = run(
        1,
        ca.node(1),
        vec![(peer(2), addresses[1])],
        Listening::new(first, None),
        dir.path(),
    );
    let two = run(
        2,
        ca.node(2),
        vec![(peer(1), addresses[0])],
        Listening::new(second, None),
        dir.path(),
    );
    one.wait_for(&News::Up(peer(2)));
    two.wait_for(&News::Up(peer(1)));
    two.send(peer(1), b"moved".to_vec());
    one.wait_for(&News::Batch(peer(2), b"moved".to_vec()));
    one.send(peer(2), b"heard".to_vec());
    two.wait_for(&News::Batch(peer(1), b"heard".to_vec()));
    two.stop();
    one.stop();
}
