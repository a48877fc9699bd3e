//! One answer from a shard to any thread.
//!
//! [`pair`] makes a cell with two ends. The shard sends through [`ReplySender`], once; the asker awaits
//! [`Reply`], a plain future for any executor or none, or waits for it on its thread. A sender that is
//! dropped unsent answers [`Lost`], so nobody hangs; a sender whose asker is gone gets its value back.
//! Neither end ever waits for the other.
//!
//! The value belongs to the sender until it sets `SENT`, to the asker from then on; whoever leaves last
//! clears the cell. [`pair`] allocates one cell; a [`ReplyPool`] keeps cells for use again.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Weak;

use super::blocking::block_on;
use super::sync::{Arc, AtomicU8, Mutex, Ordering, UnsafeCell};
use super::waker::WakerCell;

/// The value is there.
const SENT: u8 = 1;
/// There will never be a value.
const LOST: u8 = 2;
/// The sender touches the cell no more.
const SENDER_LEFT: u8 = 4;
/// The asker touches the cell no more.
const REPLY_LEFT: u8 = 8;

/// The shard dropped the request without answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the shard ended before it answered (it is stopping or has failed): whether the request took effect \
     is unknown; read it back, or send it again with the same idempotency key"
)]
pub struct Lost;

/// Why waiting for an answer ended without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// There will be none.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// Not yet; the reply is still good and can be waited for again.
    #[error("no answer within the time given; the request is still under way")]
    TimedOut,
}

struct Cell<T> {
    state: AtomicU8,
    value: UnsafeCell<Option<T>>,
    waker: WakerCell,
    /// Where the cell goes when both ends are gone.
    home: Weak<Home<T>>,
}

// SAFETY: `value` is the sender's until `SENT` is set and the asker's afterwards, and the last one's to
// leave; each step is a read-modify-write of `state` with acquire and release. It moves from thread to
// thread, hence `T: Send`; it is never shared.
unsafe impl<T: Send> Send for Cell<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T> Cell<T> {
    fn new(home: Weak<Home<T>>) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(0),
            value: UnsafeCell::new(None),
            waker: WakerCell::new(),
            home,
        })
    }

    fn ends(cell: Arc<Self>) -> (ReplySender<T>, Reply<T>) {
        let sender = ReplySender {
            cell: Arc::clone(&cell),
        };
        (sender, Reply { cell, taken: false })
    }

    /// Marks one end as gone. The second one to go clears the cell and brings it home.
    fn leave(cell: &Arc<Self>, own: u8, other: u8) {
        if cell.state.fetch_or(own, Ordering::AcqRel) & other == 0 {
            return;
        }
        // SAFETY: the other end left before, seen with acquire; this one is leaving.
        drop(cell.value.with_mut(|value| unsafe { (*value).take() }));
        // SAFETY: as above.
        unsafe { cell.waker.clear() };
        if let Some(home) = cell.home.upgrade() {
            cell.state.store(0, Ordering::Release);
            home.put(Arc::clone(cell));
        }
    }
}

/// Makes the two ends of one answer. Allocates once.
pub fn pair<T>() -> (ReplySender<T>, Reply<T>) {
    Cell::ends(Cell::new(Weak::new()))
}

/// The shard's end. Dropped unsent, it answers [`Lost`].
pub struct ReplySender<T> {
    cell: Arc<Cell<T>>,
}

impl<T> core::fmt::Debug for ReplySender<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ReplySender(..)")
    }
}

impl<T> ReplySender<T> {
    /// Answers, and wakes whoever waits. If the asker goes at this very moment, the value is dropped.
    ///
    /// # Errors
    /// The value, when the asker is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.is_abandoned() {
            return Err(value);
        }
        // SAFETY: `SENT` is not set, so the value is the sender's; there is one sender and it sends once.
        self.cell
            .value
            .with_mut(|place| unsafe { *place = Some(value) });
        self.cell.state.fetch_or(SENT, Ordering::AcqRel);
        self.cell.waker.wake();
        Ok(())
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.cell.state.load(Ordering::Acquire) & REPLY_LEFT != 0
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        // Only the sender sets `SENT`, so what it reads of it is its own doing.
        if self.cell.state.load(Ordering::Relaxed) & SENT == 0 {
            self.cell.state.fetch_or(LOST, Ordering::AcqRel);
            self.cell.waker.wake();
        }
        Cell::leave(&self.cell, SENDER_LEFT, REPLY_LEFT);
    }
}

/// The asker's end: a future of the answer, for any executor. Dropping it takes nothing back.
#[must_use = "the answer comes through this"]
pub struct Reply<T> {
    cell: Arc<Cell<T>>,
    taken: bool,
}

impl<T> core::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Reply(..)")
    }
}

impl<T> Reply<T> {
    /// Waits on this thread. Never to be called on a shard or inside an async executor: it parks.
    ///
    /// # Errors
    /// [`Lost`], when there will be no answer.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn wait(mut self) -> Result<T, Lost> {
        block_on(None, |context| self.poll_answer(context)).expect("waits without a timeout")
    }

    /// Waits on this thread for at most `timeout`. After a timeout the reply can be waited for again.
    ///
    /// # Errors
    /// [`WaitError::Lost`], when there will be no answer; [`WaitError::TimedOut`], when there is none yet.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<T, WaitError> {
        match block_on(Some(timeout), |context| self.poll_answer(context)) {
            Some(answer) => Ok(answer?),
            None => Err(WaitError::TimedOut),
        }
    }

    /// The answer, if it is there.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn try_take(&mut self) -> Option<Result<T, Lost>> {
        assert!(!self.taken, "the answer was taken before");
        let state = self.cell.state.load(Ordering::Acquire);
        if state & SENT != 0 {
            self.taken = true;
            // SAFETY: `SENT` was seen with acquire: the value is the asker's.
            let value = self.cell.value.with_mut(|place| unsafe { (*place).take() });
            return Some(Ok(value.expect("sent, and not taken before")));
        }
        if state & LOST != 0 {
            self.taken = true;
            return Some(Err(Lost));
        }
        None
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Lost>> {
        if let Some(answer) = self.try_take() {
            return Poll::Ready(answer);
        }
        self.cell.waker.register(context.waker());
        match self.try_take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

// Nothing in it is pinned: the value lies in the cell.
impl<T> Unpin for Reply<T> {}

impl<T> Future for Reply<T> {
    type Output = Result<T, Lost>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_answer(context)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        Cell::leave(&self.cell, REPLY_LEFT, SENDER_LEFT);
    }
}

/// The cells at rest.
struct Home<T> {
    cells_max: usize,
    cells: Mutex<Vec<Arc<Cell<T>>>>,
}

impl<T> Home<T> {
    /// Keeps a cleared cell, unless there are enough or another thread is at the list: the end that is
    /// leaving may be a shard's, which must not wait. The cell then goes back to the heap.
    fn put(&self, cell: Arc<Cell<T>>) {
        if let Ok(mut cells) = self.cells.try_lock()
            && cells.len() < self.cells_max
        {
            cells.push(cell);
        }
    }

    fn take(&self) -> Option<Arc<Cell<T>>> {
        self.cells.try_lock().ok()?.pop()
    }
}

/// Reply cells used again, so that answering costs no allocation in a steady state.
///
/// Any thread may hold and clone it. It never waits: a cell comes from the heap when the pool is empty or
/// another thread is at it.
pub struct ReplyPool<T> {
    home: std::sync::Arc<Home<T>>,
}

impl<T> Clone for ReplyPool<T> {
    fn clone(&self) -> Self {
        Self {
            home: std::sync::Arc::clone(&self.home),
        }
    }
}

impl<T> core::fmt::Debug for ReplyPool<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ReplyPool")
            .field("cells_max", &self.home.cells_max)
            .finish_non_exhaustive()
    }
}

impl<T> ReplyPool<T> {
    /// A pool that keeps at most `cells_max` cells at rest; any number may be in use. A cell is made when
    /// it is first needed.
    #[must_use]
    pub fn new(cells_max: usize) -> Self {
        Self {
            home: std::sync::Arc::new(Home {
                cells_max,
                cells: Mutex::new(Vec::with_capacity(cells_max)),
            }),
        }
    }

    /// Makes the two ends of one answer, like [`pair`].
    pub fn pair(&self) -> (ReplySender<T>, Reply<T>) {
        let cell = self
            .home
            .take()
            .unwrap_or_else(|| Cell::new(std::sync::Arc::downgrade(&self.home)));
        Cell::ends(cell)
    }
}
