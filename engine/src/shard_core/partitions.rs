//! The partitions of a shard, and how often one of them was looked at.
//!
//! What a turn costs must follow from the partitions to which something happens, not from how many there are. Every way to
//! a partition leads through here and is counted, one by one where all of them are gone through.

use core::cell::Cell;
use std::collections::BTreeMap;

use clustor_wire::ids::PartitionId;

use crate::partition::Partition;

/// All partitions of a shard, by their ids.
pub(super) struct Partitions {
    /// Each in a box of its own: the nodes of a map keep room for others.
    held: BTreeMap<PartitionId, Box<Partition>>,
    visits: Cell<u64>,
}

impl Partitions {
    /// These. Made of all at once, the map has no half-empty nodes.
    pub fn of(partitions: impl IntoIterator<Item = Box<Partition>>) -> Self {
        let by_id = partitions.into_iter().map(|held| (held.id, held));
        Self {
            held: by_id.collect(),
            visits: Cell::new(0),
        }
    }

    /// How often a partition was looked at.
    pub fn visits(&self) -> u64 {
        self.visits.get()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    fn count(&self, visited: usize) {
        let visits = self.visits.get();
        self.visits.set(visits.wrapping_add(visited as u64));
    }

    pub fn contains(&self, id: PartitionId) -> bool {
        self.count(1);
        self.held.contains_key(&id)
    }

    pub fn get(&self, id: &PartitionId) -> Option<&Partition> {
        self.count(1);
        self.held.get(id).map(Box::as_ref)
    }

    pub fn get_mut(&mut self, id: &PartitionId) -> Option<&mut Partition> {
        self.count(1);
        self.held.get_mut(id).map(Box::as_mut)
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = PartitionId> {
        self.count(self.held.len());
        self.held.keys().copied()
    }

    /// All of them, ascending.
    pub fn all(&self) -> impl Iterator<Item = &Partition> {
        self.count(self.held.len());
        self.held.values().map(Box::as_ref)
    }

    /// All of them, ascending, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.count(self.held.len());
        self.held.values_mut().map(Box::as_mut)
    }
}
