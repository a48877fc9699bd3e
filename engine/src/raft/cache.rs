//! The bounded cache of recent entries, one per shard, shared by its partitions.
//!
//! One ring of bytes, written round and round: a frame goes in once, lies contiguous, and is overwritten when
//! the ring comes round, oldest first, whosever it is. So memory is bounded by the ring (and 40 bytes of
//! bookkeeping per frame in it), nothing is allocated per entry, and an idle partition costs nothing. What is no
//! longer here is read from the log.

use std::collections::VecDeque;

use clustor_wire::ids::LogIndex;

use crate::lent::Lent;

/// A partition's place in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheSlot(u32);

#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    len: u32,
}

#[derive(Debug, Clone, Copy)]
struct Laid {
    slot: u32,
    place: Place,
}

#[derive(Debug, Default)]
struct Run {
    first: LogIndex,
    places: Lent<VecDeque<Place>>,
}

impl Run {
    fn place(&self, index: LogIndex) -> Option<Place> {
        let offset = index.get().checked_sub(self.first.get())?;
        self.places.get(usize::try_from(offset).ok()?).copied()
    }

    fn clear(&mut self) {
        // Gives the memory back: a partition that left the cache may stay idle for long.
        self.places = Lent::default();
    }
}

/// The cache. For each partition it holds one contiguous run of its most recent frames, maybe empty.
#[derive(Debug)]
pub struct EntryCache {
    ring: Box<[u8]>,
    head: u64,
    laid: VecDeque<Laid>,
    runs: Vec<Run>,
    free: Vec<u32>,
}

impl EntryCache {
    /// A cache of `bytes_max` bytes of frames, taken at once (untouched pages cost nothing).
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            ring: vec![0; bytes_max].into_boxed_slice(),
            head: 0,
            laid: VecDeque::new(),
            runs: Vec::new(),
            free: Vec::new(),
        }
    }

    /// A place for one more partition.
    ///
    /// # Panics
    /// Beyond 2^32 partitions.
    pub fn register(&mut self) -> CacheSlot {
        if let Some(slot) = self.free.pop() {
            return CacheSlot(slot);
        }
        let slot = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        assert!(slot < u32::MAX, "a cache holds at most 2^32 partitions");
        self.runs.push(Run::default());
        CacheSlot(slot)
    }

    /// Forgets where a partition's frames lie, and keeps its place.
    pub fn forget(&mut self, slot: CacheSlot) {
        self.run_mut(slot).clear();
    }

    /// Gives back the memory of what is kept of frames that belong to no run any more, oldest first up to one that does.
    pub fn give_back(&mut self) {
        while let Some(oldest) = self.laid.front()
            && self.runs[oldest.slot as usize]
                .places
                .front()
                .map(|place| place.at)
                != Some(oldest.place.at)
        {
            self.laid.pop_front();
        }
        if self.laid.capacity() > 4 * self.laid.len() {
            self.laid.shrink_to(2 * self.laid.len());
        }
    }

    /// Gives a partition's place back.
    pub fn release(&mut self, slot: CacheSlot) {
        self.run_mut(slot).clear();
        self.free.push(slot.0);
    }

    /// Bytes of frames it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.len()
    }

    /// Lays the frame of entry `index` down. A frame that does not follow the last one of its partition begins
    /// its run anew; one larger than the cache ends it.
    pub fn push(&mut self, slot: CacheSlot, index: LogIndex, frame: &[u8]) {
        let capacity = self.ring.len() as u64;
        let len = frame.len() as u64;
        let run = self.run_mut(slot);
        let follows = run.first.get() + run.places.len() as u64 == index.get();
        if len > capacity {
            run.clear();
            return;
        }
        if !follows || run.places.is_empty() {
            run.places.clear();
            run.first = index;
        }
        let mut at = self.head;
        if at % capacity + len > capacity {
            at += capacity - at % capacity;
        }
        self.evict(at + len - (at + len).min(capacity));
        let start = (at % capacity) as usize;
        self.ring[start..start + frame.len()].copy_from_slice(frame);
        self.head = at + len;
        let place = Place {
            at,
            len: frame.len() as u32,
        };
        self.laid.push_back(Laid {
            slot: slot.0,
            place,
        });
        let run = self.run_mut(slot);
        if run.places.is_empty() {
            run.first = index;
        }
        run.places.push_back(place);
    }

    /// Frees everything laid below `floor`.
    fn evict(&mut self, floor: u64) {
        while let Some(oldest) = self.laid.front()
            && oldest.place.at < floor
        {
            let run = &mut self.runs[oldest.slot as usize];
            // A truncation may have taken the frame out of its run before.
            if run.places.front().is_some_and(|p| p.at == oldest.place.at) {
                run.places.pop_front();
                run.first = run.first.next();
                if run.places.is_empty() {
                    run.clear();
                }
            }
            self.laid.pop_front();
        }
    }

    /// Forgets everything of a partition from `from` on.
    pub fn truncate(&mut self, slot: CacheSlot, from: LogIndex) {
        let run = self.run_mut(slot);
        let keep = from.get().saturating_sub(run.first.get());
        run.places
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// The frame of entry `index`, if it is here.
    #[must_use]
    pub fn frame(&self, slot: CacheSlot, index: LogIndex) -> Option<&[u8]> {
        let place = self.runs[slot.0 as usize].place(index)?;
        let start = (place.at % self.ring.len() as u64) as usize;
        Some(&self.ring[start..start + place.len as usize])
    }

    /// Copies frames from `from` up to `to` behind one another into `out`, whole frames only, until the next would
    /// exceed `bytes_max` (the first always goes). Returns how many; 0 if `from` is not here.
    pub fn copy(
        &self,
        slot: CacheSlot,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> u32 {
        let mut count = 0;
        let mut bytes = 0;
        let mut index = from;
        while index <= to
            && let Some(frame) = self.frame(slot, index)
            && (count == 0 || bytes + frame.len() <= bytes_max)
        {
            out.extend_from_slice(frame);
            bytes += frame.len();
            count += 1;
            index = index.next();
        }
        count
    }

    /// Bytes of the frames from `from` up to `to`; the count stops behind `enough`. `None` if not all are here.
    #[must_use]
    pub fn bytes(
        &self,
        slot: CacheSlot,
        from: LogIndex,
        to: LogIndex,
        enough: usize,
    ) -> Option<usize> {
        if from > to {
            return Some(0);
        }
        let run = &self.runs[slot.0 as usize];
        run.place(to)?;
        let start = usize::try_from(from.get().checked_sub(run.first.get())?).ok()?;
        let mut bytes = 0;
        for place in run.places.range(start..) {
            bytes += place.len as usize;
            if bytes > enough {
                break;
            }
        }
        Some(bytes)
    }

    fn run_mut(&mut self, slot: CacheSlot) -> &mut Run {
        &mut self.runs[slot.0 as usize]
    }
}
