//! What tests of a shard's core have alike.
#![allow(dead_code, unreachable_pub)]

pub mod net;

use clustor_engine::machine::Stopwatch;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId, ShardId};

/// The partition that is looked at.
pub const P: PartitionId = PartitionId(1);

/// Machines take no time.
pub struct Still;

impl Stopwatch for Still {
    fn read_us(&self) -> u64 {
        0
    }
}

pub const fn peer(node: u64) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId(0),
    }
}
