//! A durable key-value store in one process: `cargo run -p clustor-engine --example embedded_kv`.
//!
//! Commands are `key=value`; the reply is the value that was there before. What is acknowledged survives
//! kill -9 and power loss: run it twice with the same directory and the second run finds it all again.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use clustor_engine::engine::Engine;
use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use futures_lite::future::block_on;

#[derive(Default)]
struct Store {
    values: BTreeMap<String, String>,
}

impl StateMachine for Store {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let command = String::from_utf8_lossy(item.command);
            match command.split_once('=') {
                Some((key, value)) => {
                    let before = self.values.insert(key.to_owned(), value.to_owned());
                    out.reply(item.index, before.unwrap_or_default().as_bytes());
                }
                None => out.reply(item.index, b"error: expected key=value"),
            }
        }
        Applied::Ack
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).unwrap_or("clustor-data".to_owned());
    let engine = Engine::builder(&dir)
        .partition(1, |_| Store::default())
        .start()?;
    let store = engine.partition::<Store>(1)?;

    // Futures run under any executor; each has a blocking twin.
    let done = block_on(store.append("colour=blue"))?;
    let before = String::from_utf8_lossy(&done.reply);
    println!("index {}: colour was {before:?}", done.index);
    store.append_blocking("visits=many")?;

    // Reads are linearizable: they see everything acknowledged before them.
    let colour = store.read_blocking(|s| s.values.get("colour").cloned())?;
    let keys = block_on(store.read(|s| s.values.len()))?;
    println!("colour is {colour:?}, {keys} keys, all of it in {dir}/");

    engine.shutdown(Duration::from_secs(5))?;
    Ok(())
}
