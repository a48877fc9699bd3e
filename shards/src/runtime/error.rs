//! Why a node could not be started or stopped.

use clustor_wire::ids::ShardId;

use crate::uring::RingError;

/// Why a node did not start. Nothing of it runs any more.
#[derive(Debug, thiserror::Error)]
pub enum StartError<E> {
    /// The plan can't be carried out as it stands.
    #[error("starting the node: {0}")]
    Plan(String),
    /// An executor could not be made.
    #[error(
        "shard {shard}: starting its executor: {why}; it needs 512 KiB of locked memory at least (`ulimit -l`), \
         and a processor that the process may use"
    )]
    Executor {
        /// Which shard.
        shard: ShardId,
        /// What the executor said.
        why: String,
    },
    /// The control-plane thread could not be started.
    #[error("starting the control-plane thread: {0}")]
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
