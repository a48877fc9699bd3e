//! What the suites that run real nodes share.
#![allow(dead_code, unreachable_pub)]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The built command with these arguments.
pub fn clustor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clustor"));
    command.args(args);
    command
}

/// Makes a cluster of one node, one shard and one partition in `dir`, which listens at this port of this machine.
pub fn make_lone(dir: &Path, port: u16) {
    let listen = format!("127.0.0.1:{port}");
    let one = ["--nodes", "1", "--shards", "1", "--partitions", "1"];
    let made = clustor(&["certs", "cluster", "--listen", &listen, "--dir"])
        .arg(dir)
        .args(one)
        .output()
        .expect("the clustor binary runs");
    assert!(made.status.success(), "{made:?}");
}

/// An id, a term or an index, which JSON has as a string.
pub fn id(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}

/// The first of so many free ports in a row.
pub fn free_ports(count: u16) -> u16 {
    let mut tries = (0..100).map(|_| {
        let first = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = first.local_addr().expect("an address").port();
        let rest = (1..count).all(|n| {
            port.checked_add(n)
                .is_some_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        });
        (port, rest)
    });
    let found = tries.find(|(_, rest)| *rest);
    found.expect("free ports in a row").0
}
