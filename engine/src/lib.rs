//! Clustor, an embeddable replication engine: an ordered log made durable on a quorum of machines, and handed
//! to a state machine of one's own.
//!
//! Rooms, from the ground up; each imports only those above it in this list:
//!
//! - [`ids`]: the ids that public signatures name
//! - `lent`: what a partition without work does without
//! - [`profile`]: every number by which a node is tuned, with its limits
//! - [`security`]: identities, the signed placement
//! - [`raft`]: the consensus core, one replica of one partition
//! - [`gate`]: what may be served now, and the first clause that forbids it
//! - [`machine`]: the state machine, as an embedder writes it
//! - [`outcome`]: the three outcomes of an append, refusals, leadership
//! - [`request`]: what crosses from handles to a shard's turn and back
//! - [`partition`]: a replica in full, with its machine and those who wait for answers
//! - [`shard_core`]: the turn over all partitions of a shard
//! - `client`: the remote client (feature `net`); its adapter touches the world
//! - [`engine`]: the facade: an engine, its partitions, their handles; touches the world

#![forbid(unsafe_code)]

#[cfg(feature = "net")]
pub mod client;
pub mod engine;
pub mod gate;
pub mod ids;
mod lent;
pub mod machine;
pub mod outcome;
pub mod partition;
pub mod profile;
pub mod raft;
pub mod request;
pub mod security;
pub mod shard_core;
