//! Side effects that take longer than a turn: an item is taken, and acknowledged when its effects are safe.
//!
//! [`super::Effects::defer`] gives a handle for an item. The append, and each retry of it under its key, is answered only when the handle says that it is done,
//! from any thread; meanwhile the machine goes on with later items, and reads see what it has applied. A handle that fails, is
//! dropped, or is late means that nobody knows what the effects came to: the machine is made
//! again and fed from the index it opens at, as after [`super::Applied::Fatal`], and the effects of what is not in it
//! are caused again. A handle is late `ack_ms_max` of the profile after it was given out, or after the last handle given out before
//! it was settled, if that was later: jobs done in order, one after the other, have that long each, however many there are.
//!
//! [`queue`] carries jobs with their handles to a thread of the embedder's. It needs no limit of its own: a partition
//! with [`DEFERRED_MAX`] handles out applies nothing more until some are settled.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use clustor_wire::ids::{LogIndex, PartitionId};

use super::Effects;

/// Handles out in one partition from which on nothing more is applied; a batch may go over it by its own.
pub const DEFERRED_MAX: usize = 1_024;

/// What became of a deferred effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which of its handles, in the order in which they were given out in this life of the process.
    pub number: u64,
    /// It is safe, or why nobody knows.
    pub result: Result<(), String>,
}

/// Where handles leave what became of them, for their shard: taken out by whoever runs it, once a turn, and put into the shard's
/// inbox.
pub struct AckBox {
    settled: Mutex<Vec<Settled>>,
    ring: Box<dyn Fn() + Send + Sync>,
}

impl core::fmt::Debug for AckBox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("AckBox(..)")
    }
}

impl AckBox {
    /// An empty box; `ring` wakes the shard.
    #[must_use]
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            settled: Mutex::default(),
            ring: Box::new(ring),
        })
    }

    /// Takes what handles have left.
    #[must_use]
    pub fn take(&self) -> Vec<Settled> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        core::mem::take(&mut *settled)
    }

    fn put(&self, settled: Settled) {
        self.settled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(settled);
        (self.ring)();
    }
}

/// The right, and the duty, to say what became of an item's side effects. Dropped unused it says that nobody knows.
#[must_use = "an effect whose handle is dropped counts as failed"]
pub struct AckHandle {
    /// `None` where no engine waits for it, and once it was used.
    to: Option<Arc<AckBox>>,
    partition: PartitionId,
    number: u64,
    index: LogIndex,
}

impl core::fmt::Debug for AckHandle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("AckHandle").field(&self.index).finish()
    }
}

impl AckHandle {
    pub(super) const fn new(
        to: Option<Arc<AckBox>>,
        partition: PartitionId,
        number: u64,
        index: LogIndex,
    ) -> Self {
        Self {
            to,
            partition,
            number,
            index,
        }
    }

    /// The item's index.
    #[must_use]
    pub const fn index(&self) -> LogIndex {
        self.index
    }

    /// The effects are safe: the item may be answered.
    pub fn done(mut self) {
        self.settle(Ok(()));
    }

    /// Nobody knows what the effects came to, for this reason.
    pub fn failed(mut self, reason: impl Into<String>) {
        self.settle(Err(reason.into()));
    }

    fn settle(&mut self, result: Result<(), String>) {
        if let Some(to) = self.to.take() {
            to.put(Settled {
                partition: self.partition,
                number: self.number,
                result,
            });
        }
    }
}

impl Drop for AckHandle {
    fn drop(&mut self) {
        self.settle(Err("its handle was dropped".to_owned()));
    }
}

/// The machine's end of a queue of jobs.
#[derive(Debug)]
pub struct Deferred<T>(Sender<(T, AckHandle)>);

impl<T> Clone for Deferred<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The worker's end of a queue of jobs.
#[derive(Debug)]
pub struct Jobs<T>(Receiver<(T, AckHandle)>);

/// A queue of jobs from a machine to a thread that does them, in order.
#[must_use]
pub fn queue<T: Send>() -> (Deferred<T>, Jobs<T>) {
    let (machine, worker) = channel();
    (Deferred(machine), Jobs(worker))
}

impl<T: Send> Deferred<T> {
    /// While the item at `index` is applied: hands its job over. Where no worker is left it counts as failed.
    pub fn push(&self, index: LogIndex, out: &mut Effects, job: T) {
        let handle = out.defer(index);
        if let Err(unsent) = self.0.send((job, handle)) {
            let (_, handle) = unsent.0;
            handle.failed("no worker takes deferred jobs any more");
        }
    }
}

impl<T> Jobs<T> {
    /// The next job, as soon as there is one; `None` when no machine is left that could give any.
    #[must_use]
    pub fn next(&self) -> Option<(T, AckHandle)> {
        self.0.recv().ok()
    }

    /// Does jobs with `work` until no machine is left, one after the other.
    pub fn run(&self, mut work: impl FnMut(T) -> Result<(), String>) {
        while let Some((job, handle)) = self.next() {
            match work(job) {
                Ok(()) => handle.done(),
                Err(reason) => handle.failed(reason),
            }
        }
    }
}
