//! The full mesh: from every shard of a node to every shard, one ring.
//!
//! Each shard holds one [`MeshPort`]: the producers of its rings to all shards and the consumers of the
//! rings from all. A ring to oneself is among them, so that nobody has to treat that case apart, and a node
//! of one shard has a mesh like any other. N shards have N x N rings of the given capacity, allocated when
//! the mesh is made. A full ring is backpressure: the item comes back and the sender keeps it for a later
//! turn.

use clustor_wire::ids::ShardId;

use super::doorbell::Bell;
use super::spsc::{Consumer, Producer, ring};

/// Makes the mesh of as many shards as there are bells: port `i` belongs to shard `i`, whose bell is
/// `bells[i]`. Each ring holds at most `ring_capacity` items.
///
/// # Panics
/// When there is no bell, more than 65,536, or the capacity is out of the ring's bounds.
#[must_use]
pub fn full_mesh<T>(bells: &[Bell], ring_capacity: usize) -> Vec<MeshPort<T>> {
    assert!(!bells.is_empty(), "a mesh has at least one shard");
    assert!(
        bells.len() <= usize::from(u16::MAX) + 1,
        "shards are numbered in 16 bits, {} bells do not fit",
        bells.len()
    );
    let mut ports: Vec<MeshPort<T>> = (0..bells.len())
        .map(|index| MeshPort {
            me: shard_id(index),
            to: Vec::with_capacity(bells.len()),
            from: Vec::with_capacity(bells.len()),
        })
        .collect();
    // Senders in ascending order: every port's `from` ends up ordered by sender.
    for sender in 0..bells.len() {
        for (receiver, bell) in bells.iter().enumerate() {
            let (producer, consumer) = ring(ring_capacity);
            ports[sender].to.push(Outgoing {
                ring: producer,
                bell: bell.clone(),
                unrung: false,
            });
            ports[receiver].from.push(consumer);
        }
    }
    ports
}

fn shard_id(index: usize) -> ShardId {
    ShardId(u16::try_from(index).expect("checked when the mesh was made"))
}

struct Outgoing<T> {
    ring: Producer<T>,
    bell: Bell,
    /// Whether something was sent since the bell was rung last.
    unrung: bool,
}

/// One shard's end of the mesh.
pub struct MeshPort<T> {
    me: ShardId,
    to: Vec<Outgoing<T>>,
    from: Vec<Consumer<T>>,
}

impl<T> core::fmt::Debug for MeshPort<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MeshPort")
            .field("me", &self.me)
            .field("shards", &self.to.len())
            .finish_non_exhaustive()
    }
}

impl<T> MeshPort<T> {
    /// Whose port this is.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.me
    }

    /// How many shards the mesh connects, this one included.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.to.len()
    }

    /// Puts one item into the ring to `to`. It may be taken at once, but a sleeping shard is woken only by
    /// the next [`MeshPort::flush`].
    ///
    /// # Errors
    /// The item, when the ring is full or the other shard is gone ([`MeshPort::is_gone`] tells which).
    ///
    /// # Panics
    /// When the mesh has no such shard.
    pub fn send(&mut self, to: ShardId, item: T) -> Result<(), T> {
        let outgoing = self.outgoing_mut(to);
        outgoing.ring.push(item)?;
        outgoing.unrung = true;
        Ok(())
    }

    /// Items the ring to `to` surely takes at this moment.
    ///
    /// # Panics
    /// When the mesh has no such shard.
    pub fn free(&mut self, to: ShardId) -> usize {
        self.outgoing_mut(to).ring.free()
    }

    /// Whether the port of shard `to` was dropped.
    ///
    /// # Panics
    /// When the mesh has no such shard.
    #[must_use]
    pub fn is_gone(&self, to: ShardId) -> bool {
        let count = self.to.len();
        self.to
            .get(usize::from(to.get()))
            .unwrap_or_else(|| panic!("{}", no_such_shard(to, count)))
            .ring
            .is_closed()
    }

    /// Wakes every shard that was sent something since the last flush. To be called once at the end of a
    /// turn.
    pub fn flush(&mut self) {
        for outgoing in &mut self.to {
            if core::mem::take(&mut outgoing.unrung) {
                outgoing.bell.ring();
            }
        }
    }

    /// Moves what is there at this moment to the end of `out`: ascending by sender, each sender's items in
    /// the order it sent them, at most one ring's capacity of each. Says how many.
    pub fn drain(&mut self, out: &mut Vec<(ShardId, T)>) -> usize {
        let mut count = 0;
        for (index, ring) in self.from.iter_mut().enumerate() {
            let sender = shard_id(index);
            count += ring.drain_with(usize::MAX, |item| out.push((sender, item)));
        }
        count
    }

    /// Whether nothing can be taken at this moment.
    pub fn is_empty(&mut self) -> bool {
        self.from.iter_mut().all(Consumer::is_empty)
    }

    fn outgoing_mut(&mut self, to: ShardId) -> &mut Outgoing<T> {
        let count = self.to.len();
        self.to
            .get_mut(usize::from(to.get()))
            .unwrap_or_else(|| panic!("{}", no_such_shard(to, count)))
    }
}

impl<T> Drop for MeshPort<T> {
    fn drop(&mut self) {
        self.flush();
    }
}

fn no_such_shard(to: ShardId, count: usize) -> String {
    format!("no shard {to} in a mesh of {count}: shards are numbered from 0")
}
