//! What the embedding suites share: a small profile and the machines under test.
// Each suite is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use clustor_engine::engine::{Engine, EngineBuilder, PartitionHandle};
use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::profile::Profile;

/// Long enough for a loaded machine, short enough to notice a hang.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The latency profile with small files.
pub fn small() -> Profile {
    let mut profile = Profile::latency();
    profile.segment_bytes = 2 << 20;
    profile.entry_bytes_max = 64 << 10;
    profile.queue_requests_max = 256;
    // However full the machine's disk is.
    (profile.disk_soft_percent, profile.disk_hard_percent) = (100, 100);
    profile
}

pub fn builder(dir: &Path) -> EngineBuilder {
    Engine::builder(dir.join("data")).profile(small())
}

/// Adds what it is told, a decimal number, and answers the sum.
#[derive(Default)]
pub struct Counter {
    pub value: i64,
    /// Commands applied in this life.
    pub applied: usize,
}

impl StateMachine for Counter {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            self.applied += 1;
            match text(item.command).parse::<i64>() {
                Ok(add) => {
                    self.value += add;
                    out.reply(item.index, self.value.to_string().as_bytes());
                }
                Err(_) => out.reply(item.index, b"error: expected a number"),
            }
        }
        Applied::Ack
    }
}

/// Keeps what it is told, in order.
#[derive(Default)]
pub struct Lines(pub Vec<String>);

impl StateMachine for Lines {
    fn apply(&mut self, batch: Batch<'_>, _out: &mut Effects) -> Applied {
        self.0
            .extend(batch.iter().map(|item| text(item.command).to_owned()));
        Applied::Ack
    }
}

pub fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).expect("the tests send text")
}

/// Holds a shard still until dropped: a read whose closure waits.
pub struct Held {
    _release: Sender<()>,
}

impl Held {
    pub fn shard_of<M: StateMachine>(handle: &PartitionHandle<M>) -> Self {
        let (release, released): (Sender<()>, Receiver<()>) = channel();
        let (entered_here, entered) = channel();
        // The future is dropped: the read goes on all the same.
        drop(handle.read(move |_| {
            entered_here.send(()).ok();
            released.recv().ok();
        }));
        entered
            .recv_timeout(PATIENCE)
            .expect("the shard runs the closure");
        Self { _release: release }
    }
}
