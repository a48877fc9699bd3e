//! One node of a cluster with a machine of its own, and a client that asks it over the network.
//!
//! ```text
//! clustor certs cluster --dir dev
//! cargo run -p clustor-engine --features net --example cluster_node -- node dev 1      # and 2, and 3: a terminal for each
//! cargo run -p clustor-engine --features net --example cluster_node -- add dev 5       # as often as you like
//! ```
//!
//! Each partition counts: commands are numbers to add, the reply is the sum. Enter ends a node in order.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clustor_engine::client::{Client, ClientConfig};
use clustor_engine::engine::{Engine, Member};
use clustor_engine::ids::{NodeId, PeerId, ShardId};
use clustor_engine::machine::{Applied, Batch, Effects, MachineError, StateMachine};
use clustor_engine::security::{Placement, PlacementKey, TlsFiles, TlsIdentity};

/// Adds up.
#[derive(Default)]
pub struct Counter {
    /// The sum.
    pub sum: u64,
}

impl StateMachine for Counter {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let command = std::str::from_utf8(item.command).ok();
            match command.and_then(|text| text.parse::<u64>().ok()) {
                Some(number) => {
                    self.sum = self.sum.wrapping_add(number);
                    out.reply(item.index, self.sum.to_string().as_bytes());
                }
                None => out.reply(item.index, b"error: expected a number"),
            }
        }
        Applied::Ack
    }

    // What remote clients ask; a handle in this process reads with a closure instead.
    fn query(&self, _: &[u8], reply: &mut Vec<u8>) -> Result<(), MachineError> {
        reply.extend_from_slice(self.sum.to_string().as_bytes());
        Ok(())
    }
}

/// The signed placement of the cluster in `dir`.
fn placement(dir: &Path) -> Result<Placement, Box<dyn Error>> {
    let key = PlacementKey::parse(&std::fs::read_to_string(dir.join("placement.pub"))?)?;
    let file = std::fs::read(dir.join("placement.toml"))?;
    Ok(Placement::load(&file, &key)?)
}

/// Who `name` is by its certificate in `dir`: `node-1`, `client-dev`.
fn identity(dir: &Path, name: &str) -> Result<TlsIdentity, Box<dyn Error>> {
    let files = TlsFiles {
        ca: dir.join("ca.pem"),
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    };
    Ok(TlsIdentity::load(&files, SystemTime::now())?)
}

/// Starts node `number` of the cluster in `dir`; its data lies there in `own-NUMBER`.
pub fn start(dir: &Path, number: u64) -> Result<Engine, Box<dyn Error>> {
    let placement = placement(dir)?;
    let node = NodeId(number);
    let shards = placement.node(node).map_or(0, |placed| placed.shards);
    let mut builder = Engine::builder(dir.join(format!("own-{number}")));
    for shard in (0..shards).map(ShardId) {
        for partition in placement.partitions_on(PeerId { node, shard }) {
            builder = builder.partition(*partition, |_| Counter::default());
        }
    }
    let member = Member {
        placement,
        identity: identity(dir, &format!("node-{number}"))?,
        listen: None,
    };
    Ok(builder.node(member).start()?)
}

/// A client of the cluster in `dir`. It finds the leader by itself, whichever node that is.
pub fn connect(dir: &Path) -> Result<Client, Box<dyn Error>> {
    let config = ClientConfig::new(placement(dir)?, identity(dir, "client-dev")?);
    Ok(Client::connect(config)?)
}

/// Adds to the first partition, and returns its sum.
pub fn add(client: &Client, number: &str) -> Result<String, Box<dyn Error>> {
    let done = client.append(1, number).wait()?;
    println!("index {}, term {}", done.index, done.term);
    let sum = client.read(1, *b"sum", None).wait()?;
    Ok(String::from_utf8(sum.reply)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["node", dir, number] => {
            let engine = start(Path::new(dir), number.parse()?)?;
            println!(
                "node {number} runs with {} partitions; Enter ends it",
                engine.partitions().count()
            );
            std::io::stdin().read_line(&mut String::new())?;
            engine.shutdown(Duration::from_secs(5))?;
        }
        ["add", dir, number] => {
            let client = connect(Path::new(dir))?;
            println!("the sum is {}", add(&client, number)?);
            client.close();
        }
        _ => return Err("usage: cluster_node node DIR NUMBER | add DIR AMOUNT".into()),
    }
    Ok(())
}
