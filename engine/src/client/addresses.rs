//! Where nodes listen: by the placement, and by what nodes said since. A leader need not be in the client's placement, and may
//! have moved. Whoever answers there must have the node's certificate, so that a wrong word costs a dial and no more.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use clustor_shards::turn::PeerId;
use clustor_wire::ids::NodeId;

use crate::security::Placement;

/// Shards of which something was said, at most; of others the placement's word counts.
const TOLD_MAX: usize = 1_024;

/// The addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    placed: BTreeMap<NodeId, SocketAddr>,
    told: BTreeMap<PeerId, SocketAddr>,
}

impl Addresses {
    pub fn new(placement: &Placement) -> Self {
        let nodes = placement.nodes().iter();
        Self {
            placed: nodes
                .map(|(node, placed)| (*node, placed.address))
                .collect(),
            told: BTreeMap::new(),
        }
    }

    /// Takes a node's word on where another one's shard listens; whether that is news. What is no address is none.
    pub fn tell(&mut self, of: PeerId, address: &str) -> bool {
        let Ok(address) = address.parse::<SocketAddr>() else {
            return false;
        };
        let known = self.told.get(&of).or(self.placed.get(&of.node));
        if known == Some(&address) || !self.told.contains_key(&of) && self.told.len() >= TOLD_MAX {
            return false;
        }
        self.told.insert(of, address);
        true
    }

    /// Whether a node said where this shard listens.
    pub fn is_told(&self, of: PeerId) -> bool {
        self.told.contains_key(&of)
    }

    /// Where to dial a shard after so many failures in a row: what was said first, and then the placement's word in turn.
    pub fn of(&self, at: PeerId, failures: u32) -> Option<SocketAddr> {
        let placed = self.placed.get(&at.node).copied();
        match self.told.get(&at).copied() {
            Some(told) if placed.is_none() || failures.is_multiple_of(2) => Some(told),
            _ => placed,
        }
    }
}
