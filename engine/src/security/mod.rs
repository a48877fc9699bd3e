//! Who may speak, and who holds what: identities and the signed placement.
//!
//! Owns the placement manifest: its form, its signature, its rules. Everything a node believes about the cluster
//! (which nodes there are, where they listen, which shard holds which replica) comes from a manifest that its
//! operator signed; the bytes are verified before anything in them is read. No I/O: bytes come in as values.

mod placement;
mod signature;

#[cfg(feature = "net")]
pub use clustor_shards::net::{Role, SpiffeId, TlsFiles, TlsIdentity};
pub use placement::{
    PLACEMENT_BYTES_MAX, PLACEMENT_NODES_MAX, PLACEMENT_PARTITIONS_MAX, PLACEMENT_REPLICAS_MAX,
    PLACEMENT_SHARDS_MAX, PLACEMENT_VERSION, PlacedNode, Placement, PlacementDraft,
    PlacementWarning,
};
pub use signature::{PlacementKey, PlacementSecret};

use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId};

/// Why a placement, or a key for one, is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// A key is not in the form `ed25519:<64 hexadecimal digits>`.
    #[error("not a {what}: expected one line `{form}`; make it again with `clustor certs`")]
    KeyMalformed {
        /// Public or secret.
        what: &'static str,
        /// The form.
        form: &'static str,
    },
    /// A manifest beyond the limit.
    #[error(
        "the placement has {bytes} bytes, the limit is {PLACEMENT_BYTES_MAX}; split the cluster"
    )]
    PlacementTooLong {
        /// Its length.
        bytes: usize,
    },
    /// No signature line at the end.
    #[error(
        "the placement is not signed: its last line is not `# signature = ed25519:<128 hexadecimal digits>`; sign it \
         with `clustor certs placement`"
    )]
    Unsigned,
    /// The signature is not this key's, or the bytes are not those that were signed.
    #[error(
        "the placement was signed by another key than {key}, or changed after it was signed; use the cluster's own \
         manifest and public key, or sign it again with `clustor certs placement`"
    )]
    WrongSignature {
        /// The key it was verified with.
        key: String,
    },
    /// The signed text does not parse.
    #[error("the placement, line {line}: {why}")]
    Syntax {
        /// The line, from 1; 0 where it isn't known.
        line: usize,
        /// What was expected.
        why: String,
    },
    /// A version this release does not read.
    #[error(
        "the placement has version {version}, this release reads {PLACEMENT_VERSION}; run the release that wrote it"
    )]
    UnknownVersion {
        /// The version.
        version: u32,
    },
    /// A field is out of its range.
    #[error("the placement's {field} is `{value}`, expected {expected}")]
    Field {
        /// Its name, with where it stands.
        field: String,
        /// What it holds, cut.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// More of something than the limit, or none.
    #[error("the placement has {count} {what}, expected 1 to {limit}")]
    Count {
        /// Of what.
        what: String,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A node twice.
    #[error("the placement names node {node} twice; give each node one entry")]
    DuplicateNode {
        /// Which.
        node: NodeId,
    },
    /// Two nodes at one address.
    #[error(
        "the placement gives the address {address} to node {first} and node {second}; each needs its own"
    )]
    DuplicateAddress {
        /// The address.
        address: core::net::SocketAddr,
        /// One node.
        first: NodeId,
        /// The other.
        second: NodeId,
    },
    /// A partition twice.
    #[error("the placement names partition {partition} twice; give each partition one entry")]
    DuplicatePartition {
        /// Which.
        partition: PartitionId,
    },
    /// A replica on a node that is not there.
    #[error(
        "partition {partition} has a replica on node {node}, which the placement does not name"
    )]
    UnknownNode {
        /// The partition.
        partition: PartitionId,
        /// The node.
        node: NodeId,
    },
    /// A replica on a shard that is not there.
    #[error(
        "partition {partition} has a replica on shard {shard} of node {node}, which has shards 0 to {last}",
        node = at.node, shard = at.shard
    )]
    UnknownShard {
        /// The partition.
        partition: PartitionId,
        /// The replica.
        at: PeerId,
        /// The node's last shard.
        last: u16,
    },
    /// Two replicas of a partition on one node: they would fail together.
    #[error("partition {partition} has two replicas on node {node}; put each on a node of its own")]
    ReplicasShareNode {
        /// The partition.
        partition: PartitionId,
        /// The node.
        node: NodeId,
    },
}
