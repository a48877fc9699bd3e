//! The accepting thread's sleep: until its event descriptor is signalled or a timer runs out.
//!
//! One task of the executor reads the event descriptor for as long as the thread lives; its loop waits for
//! the flag it raises. One timer is kept armed while the loop runs: it carries the deadlines, and it bounds how
//! long the executor can park over a task that is ready, which glommio does now and then.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::Timer;

use crate::sys::{self, EventFd};

/// The longest sleep while anything is in flight.
const BUSY_US_MAX: u64 = 5_000;
/// The longest sleep of an idle thread.
const IDLE_US_MAX: u64 = 50_000;
/// The shortest timer: glommio rounds up to this.
const SLEEP_US_MIN: u64 = 1_000;

#[derive(Default)]
struct Signal {
    raised: Cell<bool>,
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The thread's end of its event descriptor and its timer.
pub(super) struct Sleeper {
    signal: Rc<Signal>,
    reader: glommio::task::JoinHandle<()>,
    timer: Timer,
    /// When the timer runs out, in microseconds of the boot clock; 0 when it has.
    armed_until_us: u64,
}

impl Sleeper {
    /// On its executor: begins to read `event`.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub(super) fn new(event: &EventFd) -> io::Result<Self> {
        let file: BufferedFile = sys::adopt(event.duplicate()?);
        let signal = Rc::new(Signal::default());
        let mine = Rc::clone(&signal);
        let reader = glommio::spawn_local(async move {
            while !mine.ended.get() {
                // An error here can only be an interrupted read: the loop looks at everything when it wakes.
                drop(file.read_at(0, 8).await);
                mine.raised.set(true);
                if let Some(waker) = mine.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
            drop(file.close().await);
        })
        .detach();
        Ok(Self {
            signal,
            reader,
            timer: Timer::new(Duration::from_micros(SLEEP_US_MIN)),
            armed_until_us: 0,
        })
    }

    /// Sleeps until the descriptor is signalled, or `wake_at_us` of the boot clock has come, or a few milliseconds
    /// have passed: more often than asked, never later by more than the timer's millisecond.
    pub(super) async fn sleep(&mut self, busy: bool, wake_at_us: Option<u64>) {
        let now = sys::boottime_us();
        let longest = if busy { BUSY_US_MAX } else { IDLE_US_MAX };
        let until = wake_at_us
            .unwrap_or(u64::MAX)
            .clamp(now + SLEEP_US_MIN, now + longest);
        if self.armed_until_us == 0 {
            self.timer = Timer::new(Duration::from_micros(until - now));
            self.armed_until_us = until;
        } else if self.armed_until_us > until {
            self.timer.reset(Duration::from_micros(until - now));
            self.armed_until_us = until;
        }
        poll_fn(|context| {
            if self.signal.raised.take() {
                return Poll::Ready(());
            }
            if Pin::new(&mut self.timer).poll(context).is_ready() {
                self.armed_until_us = 0;
                return Poll::Ready(());
            }
            *self.signal.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the reading of the descriptor.
    pub(super) async fn end(self, event: &EventFd) {
        self.signal.ended.set(true);
        event.signal();
        self.reader.await;
    }
}
