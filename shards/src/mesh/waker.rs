//! A place for one task's waker, shared by the task that waits and the thread that answers.
//!
//! The waiter calls [`WakerCell::register`] and then looks for the answer once more; the answerer publishes
//! the answer and then calls [`WakerCell::wake`]. Both begin with a read-modify-write of `state`, so one
//! comes first: either the waiter's, and the answerer finds the waker, or the answerer's, and the waiter's
//! second look finds the answer. The waker itself is touched only by whoever moved `state` away from idle;
//! the other leaves a mark or wakes itself, and nobody waits.

use core::task::Waker;

use super::sync::{AtomicU8, Ordering, UnsafeCell, thread};

const IDLE: u8 = 0;
/// The waiter is putting its waker in.
const REGISTERING: u8 = 1;
/// The answerer is taking it out, or asks the registering waiter to wake itself.
const WAKING: u8 = 2;

#[derive(Debug)]
pub(super) struct WakerCell {
    state: AtomicU8,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the waker is accessed only between moving `state` away from idle and back, see `register` and
// `wake`; wakers are themselves `Send + Sync`.
unsafe impl Send for WakerCell {}
// SAFETY: as above.
unsafe impl Sync for WakerCell {}

impl WakerCell {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(IDLE),
            waker: UnsafeCell::new(None),
        }
    }

    /// Leaves `waker` to be woken. Called by one waiter at a time, which looks again afterwards.
    pub(super) fn register(&self, waker: &Waker) {
        if self
            .state
            .compare_exchange(IDLE, REGISTERING, Ordering::Acquire, Ordering::Acquire)
            .is_err()
        {
            // An earlier answer is being announced at this moment: come again at once. The answerer may have
            // been interrupted by this very thread, so it gets the core first.
            thread::yield_now();
            waker.wake_by_ref();
            return;
        }
        // SAFETY: the exchange from idle gave the place to this call.
        let old = self.waker.with_mut(|place| unsafe {
            match &*place {
                Some(present) if present.will_wake(waker) => None,
                _ => (*place).replace(waker.clone()),
            }
        });
        let registered =
            self.state
                .compare_exchange(REGISTERING, IDLE, Ordering::AcqRel, Ordering::Acquire);
        if registered.is_err() {
            // An answerer came by in the meantime and left its mark.
            // SAFETY: still registering; the answerer touches nothing but its mark.
            let own = self.waker.with_mut(|place| unsafe { (*place).take() });
            self.state.swap(IDLE, Ordering::AcqRel);
            if let Some(own) = own {
                own.wake();
            }
        }
        drop(old);
    }

    /// Wakes who is registered, once. Called by one answerer at a time, after publishing.
    pub(super) fn wake(&self) {
        if self.state.fetch_or(WAKING, Ordering::AcqRel) != IDLE {
            return;
        }
        // SAFETY: moving `state` from idle to waking gave the place to this call.
        let waker = self.waker.with_mut(|place| unsafe { (*place).take() });
        self.state.fetch_and(!WAKING, Ordering::Release);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Forgets who is registered.
    ///
    /// # Safety
    /// Neither waiter nor answerer may be in this cell, or come again before the caller is done.
    pub(super) unsafe fn clear(&self) {
        // SAFETY: the caller's promise.
        drop(self.waker.with_mut(|place| unsafe { (*place).take() }));
        self.state.store(IDLE, Ordering::Release);
    }
}
