//! Entries that peers want read from the log while it takes no more reads: asked for in the order in which they were wanted,
//! as reads end.

use std::collections::{BTreeMap, VecDeque};

use clustor_shards::log::READS_IN_FLIGHT_MAX;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::PartitionId;

use crate::raft::{WantedEntries, WantedFor};

/// Reads for peers in flight, at most; the rest is left to machines, which have nobody else to ask.
const PEER_READS_MAX: usize = READS_IN_FLIGHT_MAX * 3 / 4;

/// Whose question it is: the newest of each counts.
type Asker = (PartitionId, PeerId, bool);

/// What waits, and how many reads for peers are in flight.
#[derive(Debug, Default)]
pub(super) struct Lagging {
    wanted: BTreeMap<Asker, WantedEntries>,
    order: VecDeque<Asker>,
    in_flight: usize,
}

impl Lagging {
    /// A replica wants entries for a peer.
    pub fn want(&mut self, wanted: WantedEntries) {
        let is_refetch = wanted.purpose == WantedFor::Refetch;
        let asker = (wanted.partition, wanted.peer, is_refetch);
        if self.wanted.insert(asker, wanted).is_none() {
            self.order.push_back(asker);
        }
    }

    /// What is to be read next, if one more read may begin.
    pub fn next(&self) -> Option<WantedEntries> {
        let first = self.order.front()?;
        let may = self.in_flight < PEER_READS_MAX;
        self.wanted.get(first).copied().filter(|_| may)
    }

    /// What is next is read, or will never be.
    pub fn took(&mut self, reads: bool) {
        if let Some(asker) = self.order.pop_front() {
            self.wanted.remove(&asker);
        }
        self.in_flight += usize::from(reads);
    }

    /// A read for a peer ended.
    pub fn ended(&mut self) {
        self.in_flight -= 1;
    }

    /// Gives back the memory of what does not wait any more.
    pub fn give_back(&mut self) {
        self.order.shrink_to_fit();
    }
}
