//! What tests of a shard's core have alike.
#![allow(dead_code, unreachable_pub)]

pub mod idle;
pub mod net;

use std::sync::Arc;

use clustor_engine::gate::SelfGoverned;
use clustor_engine::machine::Stopwatch;
use clustor_engine::machine::deferred::AckBox;
use clustor_engine::profile::Profile;
use clustor_engine::shard_core::{CoreConfig, PartitionSpec};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{ClusterId, NodeId, PartitionId, ShardId};

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

/// Shard 0 of node 1, by itself.
pub fn config(profile: Profile, partitions: Vec<PartitionSpec>) -> CoreConfig {
    CoreConfig {
        cluster: ClusterId(7),
        me: peer(1),
        partitions,
        profile,
        io_writer_mode: 0,
        shards: 1,
        seed: 31,
        placement: None,
        placed: Arc::default(),
        control: Box::new(SelfGoverned),
        stopwatch: Box::new(Still),
        acks: AckBox::new(|| ()),
        silent: None,
    }
}
