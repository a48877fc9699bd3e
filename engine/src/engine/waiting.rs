//! The requests a shard has taken and not answered: a slab keyed by ticket, and their deadlines in order.
//!
//! Bounded by the shard's budget: no more requests are out than it allows. Whatever happens, each is
//! answered: by the shard, at its deadline, or when the slab is emptied or dropped.

use std::collections::BTreeSet;

use clustor_shards::turn::Time;

use super::submission::Asked;

/// A ticket is (generation of the slot, slot): a late reply never finds the slot's next tenant.
const SLOT_BITS: u32 = 32;

#[derive(Default)]
struct Slot {
    generation: u32,
    asked: Option<Asked>,
}

/// Requests taken and not answered.
#[derive(Default)]
pub(super) struct Waiting {
    slots: Vec<Slot>,
    free: Vec<u32>,
    deadlines: BTreeSet<(Time, u64)>,
}

impl Waiting {
    /// Keeps `asked` and gives it a ticket.
    pub fn insert(&mut self, asked: Asked) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("the budget bounds requests far below 2^32")
        });
        let slot = &mut self.slots[at as usize];
        let ticket = u64::from(slot.generation) << SLOT_BITS | u64::from(at);
        if let Some(deadline) = asked.deadline {
            self.deadlines.insert((deadline, ticket));
        }
        slot.asked = Some(asked);
        ticket
    }

    /// Takes what waits under `ticket`; `None` if it was answered before.
    pub fn remove(&mut self, ticket: u64) -> Option<Asked> {
        let at = (ticket & u64::from(u32::MAX)) as u32;
        let slot = self.slots.get_mut(at as usize)?;
        if u64::from(slot.generation) != ticket >> SLOT_BITS {
            return None;
        }
        let asked = slot.asked.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(at);
        if let Some(deadline) = asked.deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        Some(asked)
    }

    /// Takes one whose deadline has come.
    pub fn expired(&mut self, now: Time) -> Option<Asked> {
        let (deadline, ticket) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(ticket)
    }

    /// The next deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes everything.
    pub fn take_all(&mut self) -> impl Iterator<Item = Asked> {
        self.free.clear();
        self.deadlines.clear();
        core::mem::take(&mut self.slots)
            .into_iter()
            .filter_map(|slot| slot.asked)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for asked in self.take_all() {
            asked.answer.give_up("the shard ended".to_owned());
        }
    }
}
