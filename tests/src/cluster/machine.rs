//! The machine the simulated clusters run: it keeps every command it was given, in order.
//!
//! A command begins with the number of its operation; its reply is the machine's length after it. A read sees
//! how long the list is, where it ends and a digest of everything in it, so that any two machines, and any read
//! and any acknowledgement, can be compared.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::request::ReadFn;
use clustor_wire::ids::{LogIndex, Term};

/// Bytes of a command that name its operation.
pub const OP_BYTES: usize = 8;

/// One command as a machine took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Where its entry stands.
    pub index: LogIndex,
    /// The term of its entry.
    pub term: Term,
    /// Its operation.
    pub op: u64,
    /// Digest of this command and all before it.
    pub digest: u64,
}

/// Orders a machine to fail: how many of its next batches it gives up on.
pub type Sabotage = Arc<AtomicU32>;

/// The list of all commands.
#[derive(Debug, Default)]
pub struct History {
    taken: Vec<Taken>,
    sabotage: Sabotage,
}

/// What a read of a [`History`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Commands in the list.
    pub len: usize,
    /// The index of the last one, 0 for an empty list.
    pub last: LogIndex,
    /// Digest of the list, 0 for an empty one.
    pub digest: u64,
}

fn mix(digest: u64, value: u64) -> u64 {
    let mixed = (digest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// The operation a command names; a shorter one counts as filled up with zeros.
#[must_use]
pub fn op_of(command: &[u8]) -> u64 {
    let mut bytes = [0; OP_BYTES];
    let len = command.len().min(OP_BYTES);
    bytes[..len].copy_from_slice(&command[..len]);
    u64::from_le_bytes(bytes)
}

impl History {
    /// An empty list whose failures are ordered through `sabotage`.
    #[must_use]
    pub fn new(sabotage: Sabotage) -> Self {
        Self {
            taken: Vec::new(),
            sabotage,
        }
    }

    /// Everything it took, in order.
    #[must_use]
    pub fn taken(&self) -> &[Taken] {
        &self.taken
    }

    fn seen(&self) -> Seen {
        Seen {
            len: self.taken.len(),
            last: self.taken.last().map_or(LogIndex::ZERO, |last| last.index),
            digest: self.taken.last().map_or(0, |last| last.digest),
        }
    }

    /// A closure that reads a [`Seen`] from a history.
    #[must_use]
    pub fn reader() -> ReadFn {
        Box::new(|machine: &dyn Any| {
            let history = machine
                .downcast_ref::<Self>()
                .expect("the machine is a history");
            Box::new(history.seen())
        })
    }
}

impl StateMachine for History {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        let ordered = self.sabotage.load(Ordering::Relaxed);
        if ordered > 0 {
            self.sabotage.store(ordered - 1, Ordering::Relaxed);
            return Applied::Fatal("sabotage".to_owned());
        }
        for item in batch {
            let digest = self.taken.last().map_or(0, |last| last.digest);
            let op = op_of(item.command);
            let digest = mix(mix(mix(digest, op), item.index.get()), item.term.get());
            self.taken.push(Taken {
                index: item.index,
                term: item.term,
                op,
                digest,
            });
            out.reply(item.index, &(self.taken.len() as u64).to_le_bytes());
        }
        Applied::Ack
    }

    fn digest(&self) -> Option<u64> {
        Some(self.seen().digest)
    }
}
