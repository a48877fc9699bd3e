//! Sockets of a ring: what a socket was given leaves before it is closed, and the kernel watches over the silent ones.

#![cfg(feature = "net")]

mod ring_support;

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};

use clustor_shards::uring::{
    KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, ShardRing, SocketKey,
    UNACKNOWLEDGED_MS_MAX, WriterChoice,
};
use rustix::net::sockopt;

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

#[test]
fn a_side_that_is_gone_without_a_word_is_found_out() {
    let dir = ring_support::directory();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let _other = TcpStream::connect(address).expect("connected");
    let (ours, _) = listener.accept().expect("accepted");
    let same = ours.try_clone().expect("a descriptor");

    let mut ring =
        ShardRing::open_reading(&dir.path().join("shard-0"), WriterChoice::Auto).expect("a ring");
    ring.open_sockets().expect("sockets");
    ring.adopt_socket(1, ours);
    assert_eq!(sockopt::socket_keepalive(&same), Ok(true));
    let idle = sockopt::tcp_keepidle(&same).expect("an option");
    assert_eq!(idle.as_secs(), KEEPALIVE_IDLE_S);
    let interval = sockopt::tcp_keepintvl(&same).expect("an option");
    assert_eq!(interval.as_secs(), KEEPALIVE_INTERVAL_S);
    assert_eq!(sockopt::tcp_keepcnt(&same), Ok(KEEPALIVE_PROBES));
    assert_eq!(sockopt::tcp_user_timeout(&same), Ok(UNACKNOWLEDGED_MS_MAX));
}
