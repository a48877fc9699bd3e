//! The doorbell of a shard: rung only when the shard sleeps, so that a busy shard costs no system call.
//!
//! The shard: [`Doorbell::announce`] raises the parked flag, then it looks at its queues once more, and
//! sleeps only if they are empty. A producer: publishes its item, then [`Bell::ring`] looks at the flag
//! and wakes the shard if it is raised.
//!
//! Why no wake-up is lost. Each side writes one thing and then reads the other's (the flag, the queue), and
//! each has a sequentially consistent fence between its two steps. Fences have one total order. If the
//! producer's comes first, the shard's second look sees the item. If the shard's comes first, the
//! producer sees the raised flag, or a later value of it: lowered by another producer, which then wakes the
//! shard, or by the shard itself, which is awake and looks again before it may sleep. Release and acquire
//! alone would let both reads miss both writes. Every write of the flag is a swap, so that each follows the
//! one before it in a single chain, and a swap that found the flag raised lies before whatever the shard
//! writes after it woke. The producer that lowers the flag (an atomic swap) is the
//! one that wakes, so a sleeping shard gets one call to [`Wake::wake`] however many ring. A wake-up may
//! come after the shard has got up by itself: the sleep after that ends at once, which costs a turn and is
//! harmless.

use super::sync::{Arc, AtomicBool, CachePadded, Ordering, fence};

/// Ends a shard's sleep. Called on the producer's thread: must not block, and must count (a call before
/// the sleep begins ends it as soon as it begins), as an eventfd does.
pub trait Wake: Send + Sync {
    /// Ends the present or the next sleep.
    fn wake(&self);
}

impl<W: Wake + ?Sized> Wake for std::sync::Arc<W> {
    fn wake(&self) {
        (**self).wake();
    }
}

struct Shared {
    /// Whether the shard sleeps or is about to.
    parked: CachePadded<AtomicBool>,
    wake: Box<dyn Wake>,
}

/// The shard's end. There is one.
pub struct Doorbell {
    shared: Arc<Shared>,
}

impl core::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Doorbell(..)")
    }
}

impl Doorbell {
    /// A doorbell that ends the shard's sleep through `wake`.
    #[must_use]
    pub fn new(wake: impl Wake + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                parked: CachePadded(AtomicBool::new(false)),
                wake: Box::new(wake),
            }),
        }
    }

    /// The producers' end; any number may be given out, and cloned.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Announces that the shard is about to sleep. It must look at every queue after this call, sleep only
    /// if all are empty, and drop what it got when it is awake again.
    #[must_use = "the shard counts as awake as soon as this is dropped"]
    pub fn announce(&mut self) -> Parking<'_> {
        self.shared.parked.0.swap(true, Ordering::AcqRel);
        // The shard's half of the pair of fences: the flag is up before any queue is looked at.
        fence(Ordering::SeqCst);
        Parking { doorbell: self }
    }
}

/// The time between announcing a sleep and being awake again.
pub struct Parking<'a> {
    doorbell: &'a Doorbell,
}

impl core::fmt::Debug for Parking<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Parking(..)")
    }
}

impl Drop for Parking<'_> {
    fn drop(&mut self) {
        self.doorbell.shared.parked.0.swap(false, Ordering::AcqRel);
    }
}

/// A producer's end.
#[derive(Clone)]
pub struct Bell {
    shared: Arc<Shared>,
}

impl core::fmt::Debug for Bell {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Bell(..)")
    }
}

impl Bell {
    /// Wakes the shard if it sleeps or is about to. To be called after publishing, once per batch.
    #[inline]
    pub fn ring(&self) {
        // The producer's half of the pair of fences: what was published is out before the flag is read.
        fence(Ordering::SeqCst);
        // Read first: a swap would take the flag's line away from the shard each time.
        if self.shared.parked.0.load(Ordering::Relaxed)
            && self.shared.parked.0.swap(false, Ordering::AcqRel)
        {
            self.shared.wake.wake();
        }
    }
}
