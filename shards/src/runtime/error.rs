//! Why a node could not be started or stopped.

use std::io;

use clustor_wire::ids::ShardId;

use crate::uring::RingError;

/// Why a node did not start. Nothing of it runs any more.
#[derive(Debug, thiserror::Error)]
pub enum StartError<E> {
    /// The plan can't be carried out as it stands.
    #[error("starting the node: {0}")]
    Plan(String),
    /// A thread could not be started.
    #[error(
        "shard {shard}: starting its thread: {source}; the process may have no more (`ulimit -u`)"
    )]
    Thread {
        /// Which shard.
        shard: ShardId,
        /// What the system said.
        source: io::Error,
    },
    /// A shard's thread could not be bound to its processor.
    #[error(
        "shard {shard}: binding its thread to processor {cpu}: {source}; `taskset -p` shows which the process may use"
    )]
    Processor {
        /// Which shard.
        shard: ShardId,
        /// Which processor, counted from 0.
        cpu: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The accepting thread could not be started.
    #[error(
        "starting the accepting thread: {0}; if it is about memory, raise `ulimit -l` (locked memory; a node takes 512 KiB at least)"
    )]
    Control(String),
    /// A shard's ring could not be opened.
    #[error("shard {shard}: {source}")]
    Ring {
        /// Which shard.
        shard: ShardId,
        /// Why.
        source: RingError,
    },
    /// What was to run on a shard could not be built.
    #[error("shard {shard}: {source}")]
    Build {
        /// Which shard.
        shard: ShardId,
        /// Why.
        source: E,
    },
}

/// Why a node did not stop in order. Its threads are gone all the same, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Some shards had work in flight when the time was over; it was abandoned, as in a crash: what was
    /// acknowledged is durable.
    #[error(
        "shards {0:?} had not settled when the time was over: their work in flight was abandoned"
    )]
    Deadline(Vec<u16>),
    /// Some shards' threads do not react; they are left behind.
    #[error("shards {0:?} do not react: their threads are left behind, end the process")]
    Stuck(Vec<u16>),
}
