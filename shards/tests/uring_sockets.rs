//! Sockets of a ring: what a socket was given leaves before it is closed.

#![cfg(feature = "net")]

mod ring_support;

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};

use clustor_shards::uring::{ShardRing, SocketKey, WriterChoice};

/// More than the buffers of both ends hold.
const BYTES: usize = 64 << 20;

#[test]
fn whoever_ends_its_own_side_still_gets_what_was_under_way() {
    let dir = ring_support::directory();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let mut other = TcpStream::connect(address).expect("connected");
    let (ours, _) = listener.accept().expect("accepted");

    let mut ring =
        ShardRing::open_reading(&dir.path().join("shard-0"), WriterChoice::Auto).expect("a ring");
    ring.open_sockets().expect("sockets");
    let key: SocketKey = 1;
    ring.adopt_socket(key, ours);
    ring.send_socket(key, vec![7; BYTES]).expect("taken");
    // Time stands still: it does not linger until it is given up.
    ring.close_socket(key, 0).expect("taken");
    other.shutdown(Shutdown::Write).expect("ended");
    ring.enter().expect("the ring takes submissions");
    // The other side's end is all that can come while nobody reads.
    ring.wait().expect("the ring waits");
    ring.drain(&mut Vec::new()).expect("the ring drains");

    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let ended = other.read_to_end(&mut bytes);
        (bytes.len(), ended.is_ok())
    });
    while !reader.is_finished() {
        ring.tend_sockets(0).expect("it goes on");
        ring.enter().expect("the ring takes submissions");
        ring.drain(&mut Vec::new()).expect("the ring drains");
    }
    assert_eq!(reader.join().expect("it ends"), (BYTES, true));
}
