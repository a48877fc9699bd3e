//! A bounded queue from any number of threads to one shard.
//!
//! A producer claims the next position by moving `tail` with a compare-and-swap, writes its item into the
//! slot, publishes the slot by storing its sequence number, and rings the shard's doorbell. The lowest bit
//! of `tail` says closed, so that claiming and closing are ordered by one atomic: an item is accepted
//! before the close, and then the consumer will find it, or it is refused and given back. The consumer
//! takes published slots in the order of their positions, hence the items of each producer in its order;
//! a producer interrupted between claim and publication holds back what was claimed after it until it goes
//! on, and rings when it does.
//!
//! Nobody waits, with one exception: dropping the consumer waits out producers that are between claim and
//! publication (the move of one item), because what they hold may be what somebody waits for.

use core::mem::MaybeUninit;

use super::doorbell::{Bell, Doorbell};
use super::sync::{Arc, AtomicU64, CachePadded, Ordering, UnsafeCell, thread};

/// The most items a queue may be asked to hold: 2^20. Its slots are allocated when it is made.
pub const SUBMISSION_CAPACITY_MAX: usize = 1 << 20;

/// The bit of `tail` that says closed; positions count in twos above it, and 2^63 of them never run out.
const CLOSED: u64 = 1;
const ONE_POSITION: u64 = 2;

struct Slot<T> {
    /// Position + 1 of the item published here last; 0 before the first.
    published: AtomicU64,
    item: UnsafeCell<MaybeUninit<T>>,
}

struct Queue<T> {
    /// Position of the consumer: everything below was taken.
    head: CachePadded<AtomicU64>,
    /// Twice the position the next producer claims, plus [`CLOSED`].
    tail: CachePadded<AtomicU64>,
    capacity: u64,
    mask: u64,
    slots: Box<[Slot<T>]>,
}

// SAFETY: a slot belongs to the producer that claimed its position until it stores `published` with
// release, from then to the consumer until it stores `head` with release; each reads the other's with
// acquire. Items move between threads, hence `T: Send`; they are never shared.
unsafe impl<T: Send> Send for Queue<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Queue<T> {}

impl<T> Queue<T> {
    fn slot(&self, position: u64) -> &Slot<T> {
        &self.slots[usize::try_from(position & self.mask).expect("the mask is below 2^20")]
    }

    fn is_published(&self, position: u64) -> bool {
        self.slot(position).published.load(Ordering::Acquire) == position + 1
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        let mut head = self.head.0.load(Ordering::Relaxed);
        while self.is_published(head) {
            // SAFETY: all submitters and the consumer are gone; the item was published and never taken.
            self.slot(head)
                .item
                .with_mut(|item| unsafe { (*item).assume_init_drop() });
            head += 1;
        }
    }
}

/// An item that was not accepted, and why.
#[derive(thiserror::Error)]
pub enum Rejected<T> {
    /// The queue holds as many items as it may: the shard is behind. Try again after some are answered.
    #[error("the shard's submission queue is full: wait for answers, then submit again")]
    Full(T),
    /// The shard takes nothing any more.
    #[error("the shard's submission queue is closed: the shard is stopping or gone")]
    Closed(T),
}

impl<T> Rejected<T> {
    /// The item.
    #[must_use]
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) => item,
        }
    }

    /// Whether the queue was full (and not closed).
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<T> core::fmt::Debug for Rejected<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

/// A producer's end. Any thread may hold and clone it.
pub struct Submitter<T> {
    queue: Arc<Queue<T>>,
    bell: Bell,
}

impl<T> Clone for Submitter<T> {
    fn clone(&self) -> Self {
        Self {
            queue: Arc::clone(&self.queue),
            bell: self.bell.clone(),
        }
    }
}

impl<T> core::fmt::Debug for Submitter<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Submitter")
            .field("capacity", &self.queue.capacity)
            .finish_non_exhaustive()
    }
}

impl<T> Submitter<T> {
    /// Submits one item and rings the shard's doorbell. Never waits; retries only when another submit
    /// succeeded in between.
    ///
    /// # Errors
    /// The item, with the reason.
    pub fn try_submit(&self, item: T) -> Result<(), Rejected<T>> {
        let queue = &*self.queue;
        let mut tail = queue.tail.0.load(Ordering::Relaxed);
        let position = loop {
            if tail & CLOSED != 0 {
                return Err(Rejected::Closed(item));
            }
            let position = tail / ONE_POSITION;
            // Acquire: a slot below `head + capacity` has been read out. `head` may have passed an old
            // value of `tail`; the exchange then fails.
            let head = queue.head.0.load(Ordering::Acquire);
            if position.saturating_sub(head) >= queue.capacity {
                return Err(Rejected::Full(item));
            }
            match queue.tail.0.compare_exchange_weak(
                tail,
                tail + ONE_POSITION,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break position,
                Err(now) => tail = now,
            }
        };
        let slot = queue.slot(position);
        // SAFETY: the exchange gave this position to this call alone, and the item that was in the slot a
        // lap ago was taken: `head`, read with acquire, is within `capacity` of it.
        slot.item.with_mut(|place| unsafe {
            (*place).write(item);
        });
        slot.published.store(position + 1, Ordering::Release);
        self.bell.ring();
        Ok(())
    }

    /// The most items the queue holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        to_usize(self.queue.capacity)
    }

    /// Whether the shard takes nothing any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.tail.0.load(Ordering::Acquire) & CLOSED != 0
    }
}

/// The shard's end.
pub struct SubmissionQueue<T> {
    queue: Arc<Queue<T>>,
    bell: Bell,
    head: u64,
}

impl<T> core::fmt::Debug for SubmissionQueue<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SubmissionQueue")
            .field("capacity", &self.queue.capacity)
            .finish_non_exhaustive()
    }
}

impl<T> SubmissionQueue<T> {
    /// A queue of at most `capacity` items whose producers ring `doorbell`.
    ///
    /// # Panics
    /// When `capacity` is 0 or more than [`SUBMISSION_CAPACITY_MAX`].
    #[must_use]
    pub fn new(capacity: usize, doorbell: &Doorbell) -> Self {
        assert!(capacity >= 1, "a submission queue holds at least one item");
        assert!(
            capacity <= SUBMISSION_CAPACITY_MAX,
            "submission capacity {capacity} is above {SUBMISSION_CAPACITY_MAX}"
        );
        let slots = capacity.next_power_of_two();
        Self {
            queue: Arc::new(Queue {
                head: CachePadded(AtomicU64::new(0)),
                tail: CachePadded(AtomicU64::new(0)),
                capacity: capacity as u64,
                mask: slots as u64 - 1,
                slots: (0..slots)
                    .map(|_| Slot {
                        published: AtomicU64::new(0),
                        item: UnsafeCell::new(MaybeUninit::uninit()),
                    })
                    .collect(),
            }),
            bell: doorbell.bell(),
            head: 0,
        }
    }

    /// A producer's end.
    #[must_use]
    pub fn submitter(&self) -> Submitter<T> {
        Submitter {
            queue: Arc::clone(&self.queue),
            bell: self.bell.clone(),
        }
    }

    /// Moves what is published at this moment, at most `max` items, to the end of `out`; says how many.
    pub fn drain_into(&mut self, out: &mut Vec<T>, max: usize) -> usize {
        // At most one lap, so that producers that keep up can't hold the shard in here.
        let most = (max as u64).min(self.queue.capacity);
        let start = self.head;
        while self.head - start < most && self.queue.is_published(self.head) {
            // SAFETY: published, seen with acquire; `head` moves past it, so it is read once.
            let item = self
                .queue
                .slot(self.head)
                .item
                .with(|item| unsafe { (*item).assume_init_read() });
            self.head += 1;
            out.push(item);
        }
        if self.head != start {
            self.queue.head.0.store(self.head, Ordering::Release);
        }
        to_usize(self.head - start)
    }

    /// Whether nothing can be taken at this moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.queue.is_published(self.head)
    }

    /// Refuses every submit from now on. What was accepted before is still there to drain.
    pub fn close(&self) {
        self.queue.tail.0.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether it is closed and everything ever accepted has been drained.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let tail = self.queue.tail.0.load(Ordering::Acquire);
        tail & CLOSED != 0 && tail / ONE_POSITION == self.head
    }
}

impl<T> Drop for SubmissionQueue<T> {
    fn drop(&mut self) {
        self.close();
        let mut left = Vec::new();
        while !self.is_settled() {
            if self.drain_into(&mut left, usize::MAX) == 0 {
                thread::yield_now();
            }
            left.clear();
        }
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("at most the capacity, which is below 2^20")
}
