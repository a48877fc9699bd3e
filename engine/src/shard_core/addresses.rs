//! Where members of this shard's partitions listen, as their configurations say: a node need not be in the placement of those
//! that it joins, and may move. A configuration is in the log, so every member learns of it as it learns of the member, and
//! still knows after a restart. TLS says who it is that answers there.
//!
//! Who is a member at all is told, too: a peer that nothing here has named yet is a guest, and may not stay.

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
    /// Members of any partition, now or since the boot.
    named: BTreeSet<PeerId>,
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

    /// Takes who is a member of a partition: who was named stays a peer.
    pub fn name(&mut self, members: impl Iterator<Item = PeerId>) {
        for peer in members {
            if self.named.insert(peer) {
                self.news.insert(peer);
            }
        }
    }

    /// Whether it is a member of a partition, or was since the boot.
    pub fn is_named(&self, peer: PeerId) -> bool {
        self.named.contains(&peer)
    }

    /// What is new, for those who dial and those who let in.
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
