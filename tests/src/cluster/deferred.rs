//! Effects that the machines of a shard deferred, and which of them are not safe yet.
//!
//! An effect is owed from when its item is given handles until all of them are done. A handle that fails or is dropped leaves it
//! owed: nobody knows what came of it, until a machine made anew causes it again under handles of its own, or opens with the item in it.
//! What the handles of a former machine say by then counts for nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use clustor_engine::machine::AckHandle;
use clustor_wire::ids::{LogIndex, PartitionId};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// Of 1,000 handles, how many a turn leaves alone if nothing else is drawn, and at most once there are no more faults.
pub const EFFECTS_STAY: u32 = 500;

type Place = (PartitionId, LogIndex);

/// A handle that is out, and for which causing of its effect.
#[derive(Debug)]
struct Out {
    place: Place,
    causing: u64,
    handle: AckHandle,
}

/// An effect that is not safe.
#[derive(Debug)]
struct Owed {
    /// Which causing of it counts.
    causing: u64,
    /// Its handles that are not done.
    handles: usize,
}

#[derive(Debug, Default)]
struct Kept {
    out: Vec<Out>,
    owed: BTreeMap<Place, Owed>,
    causings: u64,
}

/// The handles of one life of a shard; whoever drives the shard settles them.
#[derive(Debug, Clone, Default)]
pub struct Handles(Arc<Mutex<Kept>>);

impl Handles {
    fn with<R>(&self, run: impl FnOnce(&mut Kept) -> R) -> R {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An item's effects are caused, under these handles.
    pub(super) fn give(
        &self,
        partition: PartitionId,
        index: LogIndex,
        handles: impl Iterator<Item = AckHandle>,
    ) {
        self.with(|kept| {
            let place = (partition, index);
            kept.causings += 1;
            let (causing, before) = (kept.causings, kept.out.len());
            kept.out.extend(handles.map(|handle| Out {
                place,
                causing,
                handle,
            }));
            let handles = kept.out.len() - before;
            kept.owed.insert(place, Owed { causing, handles });
        });
    }

    /// A machine opens with everything up to this index in it.
    pub(super) fn opened(&self, partition: PartitionId, applied: LogIndex) {
        self.with(|kept| {
            kept.owed
                .retain(|(of, index), _| *of != partition || *index > applied);
        });
    }

    /// Whether an item's effects are not safe.
    pub(super) fn owes(&self, partition: PartitionId, index: LogIndex) -> bool {
        self.with(|kept| kept.owed.contains_key(&(partition, index)))
    }

    /// Whether some are out.
    pub(super) fn any_out(&self) -> bool {
        self.with(|kept| !kept.out.is_empty())
    }

    /// Settles some of the handles: done, mostly, and sometimes failed or dropped. Of 1,000 so many stay out.
    pub(super) fn settle_some(&self, rng: &mut Xoshiro256PlusPlus, stay: u32, calm: bool) {
        self.with(|kept| {
            for out in std::mem::take(&mut kept.out) {
                match rng.random_range(0..1_000) {
                    0 if !calm => out.handle.failed("drawn"),
                    1 if !calm => drop(out.handle),
                    drawn if drawn < stay => kept.out.push(out),
                    _ => {
                        out.handle.done();
                        kept.done(out.place, out.causing);
                    }
                }
            }
        });
    }
}

impl Kept {
    fn done(&mut self, place: Place, causing: u64) {
        if let Some(owed) = self.owed.get_mut(&place)
            && owed.causing == causing
        {
            owed.handles -= 1;
            if owed.handles == 0 {
                self.owed.remove(&place);
            }
        }
    }
}
