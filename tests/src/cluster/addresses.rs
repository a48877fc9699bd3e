//! Where nodes listen, and who knows of it: by its placement or by a configuration.
//!
//! As in the product either of two nodes may dial, where the newest configuration or else its placement says that the other
//! listens, and the other takes it in: for good if its own placement or configurations name it, else as a visitor for a while.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;

use clustor_shards::turn::PeerId;
use clustor_wire::ids::NodeId;

use super::layout::Layout;

/// Addresses of nodes, and what shards were told of them.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// How often a node moved: each time to an address that no node had before.
    moves: BTreeMap<NodeId, u8>,
    /// The same, when the placements were written.
    written: BTreeMap<NodeId, u8>,
    /// They list every node.
    all_listed: bool,
    /// What a shard's configurations have told it since it booted: where another listens, if anywhere.
    told: BTreeMap<(PeerId, PeerId), Vec<SocketAddr>>,
}

impl Addresses {
    fn moves(&self, node: NodeId) -> u8 {
        self.moves.get(&node).copied().unwrap_or(0)
    }

    /// Where a node listens.
    pub fn of(&self, node: NodeId) -> SocketAddr {
        let ip = Ipv4Addr::new(10, self.moves(node), 0, node.get() as u8);
        SocketAddr::new(IpAddr::V4(ip), 7400)
    }

    /// A node listens elsewhere from here on.
    pub fn leave(&mut self, node: NodeId) {
        *self.moves.entry(node).or_default() += 1;
    }

    /// Whether it ever moved.
    pub fn moved(&self, node: NodeId) -> bool {
        self.moves(node) > 0
    }

    /// Every node gets a placement that says where all the others listen.
    pub fn write_placements(&mut self) {
        self.written.clone_from(&self.moves);
        self.all_listed = true;
    }

    /// Whether a node's placement says where another one's shard listens. That of a node that came later was written when it
    /// came to each partition.
    fn finds(&self, layout: &Layout, node: NodeId, other: PeerId) -> bool {
        layout.unlisted.contains(&node)
            || self.lists(layout, node, other)
                && self.written.get(&other.node).copied().unwrap_or(0) == self.moves(other.node)
    }

    fn lists(&self, layout: &Layout, node: NodeId, other: PeerId) -> bool {
        self.all_listed || layout.lists(node, other)
    }

    /// A shard boots: it knows what its placement says.
    pub fn forget(&mut self, shard: PeerId) {
        self.told.retain(|(me, _), _| *me != shard);
    }

    /// A shard's configurations say where another listens.
    pub fn tell(&mut self, shard: PeerId, other: PeerId, at: Vec<SocketAddr>) {
        self.told.insert((shard, other), at);
    }

    /// Whether one of two shards finds the other.
    pub fn meet(&self, layout: &Layout, a: PeerId, b: PeerId) -> bool {
        [(a, b), (b, a)].into_iter().any(|(dials, listens)| {
            let told = self.told.get(&(dials, listens));
            told.is_some_and(|at| at.contains(&self.of(listens.node)))
                || self.finds(layout, dials.node, listens)
        })
    }

    /// Whether a shard's placement or configurations name another: who is let in and is not named is a visitor.
    pub fn knows(&self, layout: &Layout, shard: PeerId, other: PeerId) -> bool {
        self.lists(layout, shard.node, other) || self.told.contains_key(&(shard, other))
    }
}
