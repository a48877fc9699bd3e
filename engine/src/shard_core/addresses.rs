//! Where members of this shard's partitions listen, as their configurations say: a node need not be in the placement of those
//! that it joins, and may move. A configuration is in the log, so every member learns of it as it learns of the member, and
//! still knows after a restart. TLS says who it is that answers there.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::turn::PeerId;
use clustor_wire::ids::PartitionId;

/// Addresses of one peer, at most: partitions may differ while a move is told to one after another.
const ADDRESSES_MAX: usize = 4;

/// The addresses.
#[derive(Default)]
pub(super) struct Addresses {
    /// What each partition's configurations say; only those that say something.
    noted: BTreeMap<PartitionId, Vec<(PeerId, Option<SocketAddr>)>>,
    /// Peers of whom there is news since the outbox was told.
    news: BTreeSet<PeerId>,
}

impl Addresses {
    /// Takes what a partition's configurations say. What is no address is none.
    pub fn note(&mut self, partition: PartitionId, said: &[(PeerId, &str)]) {
        let said: Vec<_> = said
            .iter()
            .map(|(peer, address)| (*peer, address.parse().ok()))
            .collect();
        let before = self.noted.get(&partition).map_or(&[][..], Vec::as_slice);
        let news = before.iter().filter(|known| !said.contains(known));
        let news = news.chain(said.iter().filter(|told| !before.contains(told)));
        self.news.extend(news.map(|(peer, _)| *peer));
        if said.is_empty() {
            self.noted.remove(&partition);
        } else {
            self.noted.insert(partition, said);
        }
    }

    /// What is new, for those who dial.
    pub fn tell(&mut self, into: &mut Vec<(PeerId, Vec<SocketAddr>)>) {
        while let Some(peer) = self.news.pop_first() {
            let mut addresses = Vec::new();
            for (other, address) in self.noted.values().flatten() {
                if let Some(address) = address
                    && *other == peer
                    && addresses.len() < ADDRESSES_MAX
                    && !addresses.contains(address)
                {
                    addresses.push(*address);
                }
            }
            into.push((peer, addresses));
        }
    }
}
