//! What goes wrong with an engine as a whole; what becomes of an append is in [`crate::outcome`].

use std::time::Duration;

use clustor_shards::host::{DataDirError, HostError};
use clustor_shards::log::KeyError;
use clustor_shards::runtime::{StartError, StopError};
use clustor_wire::ids::PartitionId;

use crate::profile::ProfileError;
use crate::shard_core::BootError;

/// Why an engine did not start, has no such handle, or did not stop in time.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing to serve.
    #[error("no partition was given: add one with Engine::builder(..).partition(id, |_| machine)")]
    NoPartitions,
    /// One id, two machines.
    #[error("partition {0} was given twice to the builder")]
    PartitionTwice(PartitionId),
    /// The profile's values don't hold their limits.
    #[error("profile: {0}")]
    Profile(#[from] ProfileError),
    /// An acknowledgement could not be kept on what the data directory lies on. Nothing was written.
    #[error("host policy: {0}; see clustor host")]
    Host(#[from] HostError),
    /// An environment variable has a value that names nothing.
    #[error(
        "environment: {variable} = {value:?} is neither \"binary\" nor \"json\"; correct it, or unset it to go by the profile"
    )]
    Variable {
        /// Which.
        variable: &'static str,
        /// Its value.
        value: std::ffi::OsString,
    },
    /// A directory of which shards have no log yet lies on a file system without room for these logs' first files. Nothing was
    /// written.
    #[error(
        "data directory: {path}: {} MiB are free, the logs of {shards} shard(s) begin with {} MiB (two segments with their ledgers each); free space, choose another file system, or lower segment_bytes in the profile",
        .free_bytes >> 20, .needed_bytes.div_ceil(1 << 20)
    )]
    TooSmall {
        /// The directory, or the nearest above it that exists.
        path: std::path::PathBuf,
        /// Free bytes.
        free_bytes: u64,
        /// Bytes that the start would take.
        needed_bytes: u64,
        /// Shards that have no log yet.
        shards: usize,
    },
    /// The file system of the data directory does not say how much of it is free.
    #[error("data directory: {path}: {error}")]
    Room {
        /// The directory, or the nearest above it that exists.
        path: std::path::PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The provider that was given to the builder has no key. Nothing was written.
    #[error("the builder's key provider: {0}")]
    Key(#[from] KeyError),
    /// The data directory can't be used.
    #[error("data directory: {0}")]
    Directory(#[from] DataDirError),
    /// The shards did not come up; nothing of them runs any more.
    #[error("start: {0}")]
    Start(#[from] StartError<BootError>),
    /// The system gave no random seed.
    #[error("start: no randomness from the system: {0}")]
    Seed(getrandom::Error),
    /// The certificate is not a node's.
    #[cfg(feature = "net")]
    #[error("certificate: it says {found}, which is no node; use the node's own certificate")]
    NotANode {
        /// Who it is.
        found: String,
    },
    /// The node's log is to have another encoding than the cluster's.
    #[cfg(feature = "net")]
    #[error(
        "log encoding: this node is to write {node}, the placement says record_codec = \"{cluster}\"; set CLUSTOR_LOG_ENCODING, or log_encoding in the profile, to {cluster}, or sign a placement that says {node}"
    )]
    OtherEncoding {
        /// What the node is to write.
        node: clustor_shards::log::Encoding,
        /// What the placement says.
        cluster: clustor_shards::log::Encoding,
    },
    /// The placement knows nothing of this node.
    #[error(
        "placement: node {node}, which the certificate names, is not in it; sign a placement that has it"
    )]
    #[cfg(feature = "net")]
    NotPlaced {
        /// The node.
        node: clustor_wire::ids::NodeId,
    },
    /// The builder's partitions are not those of the placement.
    #[cfg(feature = "net")]
    #[error("partition {partition} {}", if *.placed { "is placed on this node but was not given to the builder" } else { "was given to the builder but is not placed on this node" })]
    OtherPartitions {
        /// One that differs.
        partition: PartitionId,
        /// Whether the placement has it here.
        placed: bool,
    },
    /// The port can't be listened on.
    #[cfg(feature = "net")]
    #[error("listen on {address}: {error}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The system does not say which processors may be used.
    #[cfg(feature = "net")]
    #[error("processors: {0}")]
    Processors(std::io::Error),
    /// This node has no replica of the partition.
    #[error("partition {partition} has no replica on this node; its partitions: {known}")]
    NoPartition {
        /// The one asked for.
        partition: PartitionId,
        /// The first few there are.
        known: String,
    },
    /// The partition's machine is of another type.
    #[error("partition {partition} holds a {holds}, not a {asked}")]
    WrongMachine {
        /// The partition.
        partition: PartitionId,
        /// Its machine's type.
        holds: &'static str,
        /// The type asked for.
        asked: &'static str,
    },
    /// The deadline passed before everything was settled: what was in flight was abandoned, as in a crash, and
    /// its outcomes are Unknown. Nothing runs any more, and what was acknowledged is durable.
    #[error("shutdown: work in flight was abandoned after {:.1} s: {stop}", .deadline.as_secs_f64())]
    Abandoned {
        /// The deadline.
        deadline: Duration,
        /// Which shards.
        stop: StopError,
    },
    /// Something still runs long after the deadline: a machine that does not return. The shard's directory
    /// stays locked until it does; what was acknowledged is durable.
    #[error("shutdown: {stop}; a machine's apply or a read's closure has not returned")]
    StillRunning {
        /// Which shards.
        stop: StopError,
    },
}
