//! The latest value of something, from a shard to one watcher on any thread.
//!
//! [`pair`] makes a cell of three places: the publisher writes into its own (`back`), the watcher reads
//! from its own (`front`), and each exchanges its place for the middle one with a single atomic swap. The
//! publisher never waits, and overwrites what the watcher did not fetch: a slow watcher misses steps, never
//! the last one, and fetches that even after the publisher is gone. No step allocates.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use super::blocking::block_on;
use super::sync::{Arc, AtomicBool, AtomicU8, Ordering, UnsafeCell};
use super::waker::WakerCell;

/// The bits of `middle` that say which place lies there.
const PLACE: u8 = 3;
/// The bit of `middle` that says its value is newer than what the watcher has.
const FRESH: u8 = 4;

/// The publisher is gone: the value seen last is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the publisher of this value is gone (its shard is stopping or has failed): it changes no more"
)]
pub struct Closed;

/// Why waiting for a change ended without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There will be none.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// Not yet.
    #[error("no change within the time given")]
    TimedOut,
}

struct Cell<T> {
    places: [UnsafeCell<Option<T>>; 3],
    middle: AtomicU8,
    publisher_gone: AtomicBool,
    watcher_gone: AtomicBool,
    waker: WakerCell,
}

// SAFETY: of the three places one is the publisher's, one the watcher's, and the number of the third is in
// `middle`; places change hands only through swaps of `middle` with acquire and release. Values move from
// thread to thread, hence `T: Send`, and are never shared.
unsafe impl<T: Send> Send for Cell<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T> Cell<T> {
    fn place(&self, number: u8) -> &UnsafeCell<Option<T>> {
        &self.places[usize::from(number)]
    }
}

/// Makes the two ends. The watcher begins with `initial`, which does not count as a change.
#[must_use]
pub fn pair<T>(initial: T) -> (Publisher<T>, Watch<T>) {
    let cell = Arc::new(Cell {
        places: [
            UnsafeCell::new(Some(initial)),
            UnsafeCell::new(None),
            UnsafeCell::new(None),
        ],
        middle: AtomicU8::new(1),
        publisher_gone: AtomicBool::new(false),
        watcher_gone: AtomicBool::new(false),
        waker: WakerCell::new(),
    });
    let publisher = Publisher {
        cell: Arc::clone(&cell),
        back: 2,
    };
    (publisher, Watch { cell, front: 0 })
}

/// The shard's end.
pub struct Publisher<T> {
    cell: Arc<Cell<T>>,
    back: u8,
}

impl<T> core::fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Publisher(..)")
    }
}

impl<T> Publisher<T> {
    /// Makes `value` the latest and wakes the watcher if it waits. Every call counts as a change, also one
    /// with an equal value.
    pub fn publish(&mut self, value: T) {
        // SAFETY: `back` is the publisher's place.
        let old = self
            .cell
            .place(self.back)
            .with_mut(|place| unsafe { (*place).replace(value) });
        let middle = self.cell.middle.swap(self.back | FRESH, Ordering::AcqRel);
        self.back = middle & PLACE;
        self.cell.waker.wake();
        drop(old);
    }

    /// Whether the watcher is gone: nobody sees what is published.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.cell.watcher_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.cell.publisher_gone.store(true, Ordering::Release);
        self.cell.waker.wake();
    }
}

/// The watcher's end.
pub struct Watch<T> {
    cell: Arc<Cell<T>>,
    front: u8,
}

impl<T> core::fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Watch(..)")
    }
}

impl<T> Watch<T> {
    /// The latest value. Never waits.
    pub fn latest(&mut self) -> &T {
        self.fetch();
        self.seen()
    }

    /// The next change: a future of the latest value as soon as it is newer than the one seen last.
    /// Dropping it loses nothing.
    pub fn changed(&mut self) -> Changed<'_, T> {
        Changed { watch: Some(self) }
    }

    /// Waits on this thread for the next change. Never to be called on a shard or inside an async
    /// executor: it parks.
    ///
    /// # Errors
    /// [`Closed`], when there will be none.
    pub fn wait_changed(&mut self) -> Result<&T, Closed> {
        block_on(None, |context| self.poll_fetch(context)).expect("waits without a timeout")?;
        Ok(self.seen())
    }

    /// Waits on this thread for the next change, for at most `timeout`.
    ///
    /// # Errors
    /// [`ChangeError::Closed`], when there will be none; [`ChangeError::TimedOut`], when there is none yet.
    pub fn wait_changed_timeout(&mut self, timeout: Duration) -> Result<&T, ChangeError> {
        match block_on(Some(timeout), |context| self.poll_fetch(context)) {
            Some(outcome) => outcome?,
            None => return Err(ChangeError::TimedOut),
        }
        Ok(self.seen())
    }

    /// Whether the publisher is gone. What it published last may still have to be fetched.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.cell.publisher_gone.load(Ordering::Acquire)
    }

    fn seen(&self) -> &T {
        // SAFETY: `front` is the watcher's place, and only `fetch`, which borrows mutably, changes it.
        let value = self
            .cell
            .place(self.front)
            .with(|place| unsafe { (*place).as_ref() });
        value.expect("the initial value or one that was published")
    }

    /// Exchanges `front` for the middle place if that is newer; says whether it was.
    fn fetch(&mut self) -> bool {
        // Only the watcher lowers the mark, so once seen it stays until the swap.
        if self.cell.middle.load(Ordering::Relaxed) & FRESH == 0 {
            return false;
        }
        let middle = self.cell.middle.swap(self.front, Ordering::AcqRel);
        self.front = middle & PLACE;
        true
    }

    fn fetch_or_closed(&mut self) -> Option<Result<(), Closed>> {
        // Read first: a publisher that is gone has published its last value before.
        let closed = self.is_closed();
        if self.fetch() {
            return Some(Ok(()));
        }
        closed.then_some(Err(Closed))
    }

    fn poll_fetch(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        if let Some(outcome) = self.fetch_or_closed() {
            return Poll::Ready(outcome);
        }
        self.cell.waker.register(context.waker());
        match self.fetch_or_closed() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.cell.watcher_gone.store(true, Ordering::Release);
    }
}

/// The future of the next change, see [`Watch::changed`].
#[must_use = "futures do nothing unless awaited"]
pub struct Changed<'a, T> {
    watch: Option<&'a mut Watch<T>>,
}

impl<T> core::fmt::Debug for Changed<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Changed(..)")
    }
}

impl<'a, T> Future for Changed<'a, T> {
    type Output = Result<&'a T, Closed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let watch = self.watch.take().expect("polled after it was ready");
        match watch.poll_fetch(context) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(watch.seen())),
            Poll::Ready(Err(closed)) => Poll::Ready(Err(closed)),
            Poll::Pending => {
                self.watch = Some(watch);
                Poll::Pending
            }
        }
    }
}
