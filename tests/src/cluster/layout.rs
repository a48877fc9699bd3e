//! Who is in a cluster: shards, partitions and their voters, and what every node runs with.

use std::collections::{BTreeMap, BTreeSet};

use clustor_engine::profile::Profile;
use clustor_shards::turn::{GUEST_MS_MAX, PeerId};
use clustor_wire::ids::{ClusterId, NodeId, PartitionId, ShardId};

use super::guest::Plan;
use super::machine::Cost;
use crate::disk::{SimDiskOptions, Timing};

/// The id of every simulated cluster.
pub const CLUSTER: ClusterId = ClusterId(7);

/// How long a visitor is borne in the product, in microseconds.
pub(super) const VISIT_US: u64 = GUEST_MS_MAX * 1000;

/// A partition and who votes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLayout {
    /// Its id.
    pub id: PartitionId,
    /// Its first voters, ascending.
    pub voters: Vec<PeerId>,
    /// Other shards that hold a replica of it, empty at first, and may become members.
    pub spares: Vec<PeerId>,
}

impl PartitionLayout {
    /// Every shard that holds a replica of it.
    #[must_use]
    pub fn replicas(&self) -> Vec<PeerId> {
        self.voters.iter().chain(&self.spares).copied().collect()
    }
}

/// A cluster as it is set up.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Every shard of every node, ascending.
    pub shards: Vec<PeerId>,
    /// Every partition, ascending.
    pub partitions: Vec<PartitionLayout>,
    /// Nodes whose placement lists others as the replicas of every partition, besides those it holds itself. Where there is one,
    /// nodes speak with those that one's placement or configurations say where to find; else everybody with everybody.
    pub listed: BTreeMap<NodeId, Vec<PeerId>>,
    /// Nodes that came later: only theirs and each other's placements list them.
    pub unlisted: BTreeSet<NodeId>,
    /// How long a shard bears a visitor: who is let in though neither its placement nor a configuration names it, in
    /// microseconds.
    pub visit_us: u64,
    /// What every node runs with.
    pub profile: Profile,
    /// Nodes that run with another.
    pub profiles: BTreeMap<NodeId, Profile>,
    /// The disks.
    pub disk: SimDiskOptions,
    /// Nodes whose disks are faster or slower than that.
    pub timings: BTreeMap<NodeId, Timing>,
    /// A node whose kernel has no ring, so that it writes by calls that block.
    pub blocking: Option<NodeId>,
    /// Nodes whose machines are on disk, and after how many batches they save themselves.
    pub on_disk: BTreeMap<NodeId, u32>,
    /// Nodes whose machines take time.
    pub costs: BTreeMap<NodeId, Cost>,
    /// Nodes that stand far from each other (the lesser one first), and how long a frame takes on the way at least, in
    /// microseconds.
    pub distances_us: BTreeMap<(NodeId, NodeId), u64>,
    /// The embedder's machine that runs on every node, if it is one's that is tested.
    pub guest: Option<Plan>,
}

/// A shard of a node.
#[must_use]
pub const fn peer(node: u64, shard: u16) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId(shard),
    }
}

impl Layout {
    /// `nodes` nodes of one shard each; partitions 1 to `partitions`, every node a voter of each.
    #[must_use]
    pub fn plain(nodes: u64, partitions: u128, profile: Profile) -> Self {
        let shards: Vec<PeerId> = (1..=nodes).map(|node| peer(node, 0)).collect();
        Self {
            partitions: (1..=partitions)
                .map(|id| PartitionLayout {
                    id: PartitionId(id),
                    voters: shards.clone(),
                    spares: Vec::new(),
                })
                .collect(),
            shards,
            listed: BTreeMap::new(),
            unlisted: BTreeSet::new(),
            visit_us: VISIT_US,
            profile,
            profiles: BTreeMap::new(),
            disk: SimDiskOptions::default(),
            timings: BTreeMap::new(),
            blocking: None,
            on_disk: BTreeMap::new(),
            costs: BTreeMap::new(),
            distances_us: BTreeMap::new(),
            guest: None,
        }
    }

    /// The replicas of a partition, as a node's placement has it.
    #[must_use]
    pub fn listed(&self, node: NodeId, partition: &PartitionLayout) -> Vec<PeerId> {
        let listed = self.listed.get(&node);
        listed.unwrap_or(&partition.voters).clone()
    }

    /// Whether a node's placement says where another one's shard listens.
    #[must_use]
    pub fn lists(&self, node: NodeId, other: PeerId) -> bool {
        if self.listed.is_empty() {
            return !self.unlisted.contains(&other.node) || self.unlisted.contains(&node);
        }
        let mut partitions = self.partitions.iter();
        partitions.any(|partition| self.listed(node, partition).contains(&other))
    }

    /// The nodes, ascending.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.shards.iter().map(|shard| shard.node).collect();
        nodes.dedup();
        nodes
    }

    /// Nodes that vote in no partition at first.
    #[must_use]
    pub fn newcomers(&self) -> BTreeSet<NodeId> {
        let votes = |node: &NodeId| {
            let mut voters = self
                .partitions
                .iter()
                .flat_map(|partition| &partition.voters);
            voters.any(|voter| voter.node == *node)
        };
        self.nodes()
            .into_iter()
            .filter(|node| !votes(node))
            .collect()
    }

    /// What a node runs with.
    #[must_use]
    pub fn profile_of(&self, node: NodeId) -> &Profile {
        self.profiles.get(&node).unwrap_or(&self.profile)
    }

    /// A node's disks.
    #[must_use]
    pub fn disk_of(&self, node: NodeId) -> SimDiskOptions {
        let timing = self.timings.get(&node).copied();
        SimDiskOptions {
            timing: timing.unwrap_or(self.disk.timing),
            ..self.disk
        }
    }

    /// How a node writes, as its status says it: 0 by a ring, 2 by calls that block.
    #[must_use]
    pub fn io_writer_mode(&self, node: NodeId) -> u8 {
        if self.blocking == Some(node) { 2 } else { 0 }
    }

    /// A partition.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&PartitionLayout> {
        self.partitions.iter().find(|partition| partition.id == id)
    }
}

/// A shipped profile with everything as small as a simulation wants it: rolling over, catching up from disk and
/// forgetting keys all happen within seconds.
#[must_use]
pub fn small(mut profile: Profile) -> Profile {
    profile.segment_bytes = 256 << 10;
    profile.segment_blocks_per_slot = 1;
    profile.batch_bytes_max = 16 << 10;
    profile.entry_bytes_max = 8 << 10;
    profile.append_batch_bytes_max = 16 << 10;
    profile.cache_bytes_max = 64 << 10;
    profile.inflight_bytes_max = 128 << 10;
    profile
}
