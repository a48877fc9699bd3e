//! A bounded ring from one producer to one consumer.
//!
//! Each side owns its position and remembers the last position it saw of the other, so that in a steady
//! stream neither reads the other's cache line more than once per lap. Positions count items for ever and
//! wrap with the integer; the slot is the position modulo the number of slots, a power of two. The bound is
//! the capacity asked for, exactly. An item is published by the release store of `tail` and its slot given
//! back by the release store of `head`; each is read with acquire by the other side. Neither side ever waits.

use core::mem::MaybeUninit;

use super::sync::{Arc, AtomicBool, AtomicUsize, CachePadded, Ordering, UnsafeCell};

/// The most items a ring may be asked to hold: 2^20. Its slots are allocated when it is made.
pub const RING_CAPACITY_MAX: usize = 1 << 20;

struct Ring<T> {
    /// Position of the consumer: everything below was taken.
    head: CachePadded<AtomicUsize>,
    /// Position of the producer: everything below was published.
    tail: CachePadded<AtomicUsize>,
    capacity: usize,
    mask: usize,
    producer_gone: AtomicBool,
    consumer_gone: AtomicBool,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by the producer alone until `tail` passes it and by the consumer alone from
// then until `head` passes it; both passages are release stores read with acquire. Items move from one
// thread to another, hence `T: Send`; they are never shared.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & self.mask]
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let mut head = self.head.0.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: both sides are gone; `head..tail` was published and never taken.
            self.slot(head)
                .with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// Makes a ring that holds at most `capacity` items.
///
/// # Panics
/// When `capacity` is 0 or more than [`RING_CAPACITY_MAX`].
#[must_use]
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity >= 1, "a ring holds at least one item");
    assert!(
        capacity <= RING_CAPACITY_MAX,
        "ring capacity {capacity} is above {RING_CAPACITY_MAX}"
    );
    let slots = capacity.next_power_of_two();
    let ring = Arc::new(Ring {
        head: CachePadded(AtomicUsize::new(0)),
        tail: CachePadded(AtomicUsize::new(0)),
        capacity,
        mask: slots - 1,
        producer_gone: AtomicBool::new(false),
        consumer_gone: AtomicBool::new(false),
        slots: (0..slots)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
    });
    let producer = Producer {
        ring: Arc::clone(&ring),
        tail: 0,
        head_seen: 0,
    };
    let consumer = Consumer {
        ring,
        head: 0,
        tail_seen: 0,
    };
    (producer, consumer)
}

/// The side that puts items in.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    head_seen: usize,
}

impl<T> core::fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Producer")
            .field("capacity", &self.ring.capacity)
            .finish_non_exhaustive()
    }
}

impl<T> Producer<T> {
    /// Publishes one item. Never waits.
    ///
    /// # Errors
    /// The item, when the ring is full or the consumer is gone ([`Producer::is_closed`] tells which).
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(item);
        }
        if self.tail.wrapping_sub(self.head_seen) >= self.ring.capacity {
            self.head_seen = self.ring.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) >= self.ring.capacity {
                return Err(item);
            }
        }
        // SAFETY: fewer than `capacity` items lie between `head` and `tail`, so this slot was taken by the
        // consumer (seen with acquire) or never used, and only this producer writes beyond `tail`.
        self.ring.slot(self.tail).with_mut(|slot| unsafe {
            (*slot).write(item);
        });
        self.tail = self.tail.wrapping_add(1);
        self.ring.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// The most items the ring holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity
    }

    /// Items that surely fit at this moment; the consumer can only make it more.
    pub fn free(&mut self) -> usize {
        self.head_seen = self.ring.head.0.load(Ordering::Acquire);
        self.ring.capacity - self.tail.wrapping_sub(self.head_seen)
    }

    /// Whether the consumer is gone: nothing pushed is taken any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring.consumer_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.ring.producer_gone.store(true, Ordering::Release);
    }
}

/// The side that takes items out, in the order they were put in.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    tail_seen: usize,
}

impl<T> core::fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Consumer")
            .field("capacity", &self.ring.capacity)
            .finish_non_exhaustive()
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut taking = Taking { consumer: self };
        Some(taking.next_published())
    }

    /// Moves what is there at this moment, at most `max` items, to the end of `out`; says how many. The
    /// ring's lines are read and written once for the whole batch.
    pub fn drain_into(&mut self, out: &mut Vec<T>, max: usize) -> usize {
        self.drain_with(max, |item| out.push(item))
    }

    /// Hands what is there at this moment, at most `max` items, to `each`; says how many. If `each` panics,
    /// the item it was given is its own, and those after it stay in the ring.
    pub fn drain_with(&mut self, max: usize, mut each: impl FnMut(T)) -> usize {
        self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
        let count = self.tail_seen.wrapping_sub(self.head).min(max);
        if count > 0 {
            let taking = &mut Taking { consumer: self };
            for _ in 0..count {
                each(taking.next_published());
            }
        }
        count
    }

    /// Whether nothing is there at this moment.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail_seen {
            self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
        }
        self.head == self.tail_seen
    }

    /// The most items the ring holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity
    }

    /// Whether the producer is gone. What it pushed before is still there: once this says true, whatever a
    /// drain begun afterwards finds is all there will ever be.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring.producer_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.ring.consumer_gone.store(true, Ordering::Release);
        // What is there is dropped at once, for it may hold what somebody waits for. What a push that ran
        // at this moment leaves behind goes with the ring.
        self.drain_with(usize::MAX, drop);
    }
}

/// Takes items and gives their slots back together when it is done, also when it unwinds.
struct Taking<'a, T> {
    consumer: &'a mut Consumer<T>,
}

impl<T> Taking<'_, T> {
    /// The caller has seen that an item is there.
    #[inline]
    fn next_published(&mut self) -> T {
        let head = self.consumer.head;
        debug_assert!(head != self.consumer.tail_seen, "nothing published here");
        // SAFETY: the caller saw `tail` beyond `head` with acquire, so the item was written before; `head`
        // moves past it now, so it is read once.
        let item = self
            .consumer
            .ring
            .slot(head)
            .with(|slot| unsafe { (*slot).assume_init_read() });
        self.consumer.head = head.wrapping_add(1);
        item
    }
}

impl<T> Drop for Taking<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.consumer
            .ring
            .head
            .0
            .store(self.consumer.head, Ordering::Release);
    }
}
