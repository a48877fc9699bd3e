//! Waiting on a plain thread for what a task would await: the blocking twins of reply and watch.
//!
//! A thread has one waker, made once and kept, whose wake-up is the thread's unpark token. Tokens may be
//! stale or meant for something else, so every return from parking is followed by another look.

use core::task::{Context, Poll, Waker};
use core::time::Duration;

/// Polls until ready, parked in between. `None` when `timeout` ran out first.
#[cfg(not(loom))]
pub(super) fn block_on<R>(
    timeout: Option<Duration>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>,
) -> Option<R> {
    use std::thread;
    use std::time::Instant;

    struct Unpark(thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }

        fn wake_by_ref(self: &std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }

    fn new_waker() -> Waker {
        Waker::from(std::sync::Arc::new(Unpark(thread::current())))
    }

    std::thread_local! {
        static WAKER: Waker = new_waker();
    }
    // While the thread's own data is being torn down there is no kept waker.
    let waker = WAKER.try_with(Waker::clone).unwrap_or_else(|_| new_waker());
    let context = &mut Context::from_waker(&waker);
    // A deadline beyond what the clock can express never comes.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        if let Poll::Ready(answer) = poll(context) {
            return Some(answer);
        }
        match deadline {
            None => thread::park(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                thread::park_timeout(left);
            }
        }
    }
}

/// Under loom there is no time: a timeout is one that may run out anywhere between two looks. Its park token
/// also ends waits for other things, so a `Notify` stands in for it.
#[cfg(loom)]
pub(super) fn block_on<R>(
    timeout: Option<Duration>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>,
) -> Option<R> {
    use loom::sync::Notify;

    struct Unpark(Notify);

    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.notify();
        }
    }

    let unpark = std::sync::Arc::new(Unpark(Notify::new()));
    let waker = Waker::from(std::sync::Arc::clone(&unpark));
    let context = &mut Context::from_waker(&waker);
    loop {
        if let Poll::Ready(answer) = poll(context) {
            return Some(answer);
        }
        if timeout.is_some() {
            loom::thread::yield_now();
            return match poll(context) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            };
        }
        unpark.0.wait();
    }
}
