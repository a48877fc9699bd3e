//! The ids that public signatures name, so that a program needs no other crate for them.
//!
//! Owns nothing: what they mean, and in which form they are written, the wire decides.

pub use clustor_shards::turn::PeerId;
pub use clustor_wire::ids::{
    BootNumber, ChainNumber, ClusterId, Incarnation, LogIndex, NodeId, PairNumber, PartitionId,
    ShardId, Term,
};
