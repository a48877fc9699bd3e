//! Every interleaving of small cases of the reply cell. A waiter that misses its answer would wait for
//! ever, which loom reports as a deadlock.

#![cfg(loom)]

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::sync::atomic::{AtomicUsize, Ordering};

use clustor_shards::mesh::reply::{Lost, ReplyPool, WaitError, pair};
use loom::sync::{Arc, Notify};
use loom::thread;

fn check(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(case);
}

/// The smallest executor: polls when notified.
struct Task(Notify);

impl std::task::Wake for Task {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

fn await_on_this_thread<F: Future + Unpin>(mut future: F) -> F::Output {
    let task = std::sync::Arc::new(Task(Notify::new()));
    let waker = Waker::from(std::sync::Arc::clone(&task));
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => task.0.wait(),
        }
    }
}

#[test]
fn a_waiting_thread_gets_the_answer() {
    check(|| {
        let (sender, reply) = pair();
        let shard = thread::spawn(move || sender.send(Box::new(7)).expect("somebody waits"));
        assert_eq!(reply.wait(), Ok(Box::new(7)));
        shard.join().expect("the shard ran to its end");
    });
}

#[test]
fn an_awaiting_task_gets_the_answer() {
    check(|| {
        let (sender, reply) = pair();
        let shard = thread::spawn(move || sender.send(Box::new(7)).expect("somebody waits"));
        assert_eq!(await_on_this_thread(reply), Ok(Box::new(7)));
        shard.join().expect("the shard ran to its end");
    });
}

#[test]
fn a_sender_dropped_unsent_answers_lost() {
    check(|| {
        let (sender, reply) = pair::<u8>();
        let shard = thread::spawn(move || drop(sender));
        assert_eq!(reply.wait(), Err(Lost));
        shard.join().expect("the shard ran to its end");
    });
}

#[test]
fn a_value_nobody_takes_comes_back_or_is_dropped_once() {
    check(|| {
        let witness = Arc::new(());
        let (sender, reply) = pair();
        let value = Arc::clone(&witness);
        let shard = thread::spawn(move || drop(sender.send(value)));
        drop(reply);
        shard.join().expect("the shard ran to its end");
        assert_eq!(Arc::strong_count(&witness), 1);
    });
}

#[test]
fn a_wait_that_times_out_can_be_repeated() {
    check(|| {
        let (sender, mut reply) = pair();
        let shard = thread::spawn(move || sender.send(7).expect("somebody waits"));
        match reply.wait_timeout(Duration::ZERO) {
            Ok(value) => assert_eq!(value, 7),
            Err(WaitError::TimedOut) => assert_eq!(reply.wait(), Ok(7)),
            Err(WaitError::Lost(lost)) => panic!("it was answered: {lost}"),
        }
        shard.join().expect("the shard ran to its end");
    });
}

/// Counts its wake-ups; outside loom's view on purpose, read only after the threads have ended.
struct Counting(AtomicUsize);

impl std::task::Wake for Counting {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    check(|| {
        let (sender, mut reply) = pair();
        let shard = thread::spawn(move || sender.send(7).expect("somebody waits"));
        let mut poll = |counting: &std::sync::Arc<Counting>| {
            let waker = Waker::from(std::sync::Arc::clone(counting));
            Pin::new(&mut reply).poll(&mut Context::from_waker(&waker))
        };
        let first = std::sync::Arc::new(Counting(AtomicUsize::new(0)));
        let second = std::sync::Arc::new(Counting(AtomicUsize::new(0)));
        if poll(&first).is_ready() {
            shard.join().expect("the shard ran to its end");
            return;
        }
        let before = poll(&second);
        shard.join().expect("the shard ran to its end");
        match before {
            Poll::Ready(answer) => assert_eq!(answer, Ok(7)),
            Poll::Pending => {
                assert!(second.0.load(Ordering::Relaxed) >= 1);
                assert_eq!(poll(&second), Poll::Ready(Ok(7)));
            }
        }
    });
}

#[test]
fn a_cell_used_again_gives_each_asker_its_own_answer() {
    check(|| {
        let pool = ReplyPool::new(1);
        let (first, reply) = pool.pair();
        let shard = thread::spawn({
            let pool = pool.clone();
            move || {
                drop(first.send(Box::new(1)));
                // The cell may or may not be home by now.
                let (second, reply) = pool.pair();
                second.send(Box::new(2)).expect("the reply is at hand");
                assert_eq!(reply.wait(), Ok(Box::new(2)));
            }
        });
        assert_eq!(reply.wait(), Ok(Box::new(1)));
        let (third, reply) = pool.pair();
        drop(third);
        assert_eq!(reply.wait(), Err(Lost));
        shard.join().expect("the shard ran to its end");
    });
}

#[test]
fn a_cell_both_ends_leave_at_once_is_clean_when_used_again() {
    check(|| {
        let witness = Arc::new(());
        let pool = ReplyPool::new(1);
        let (sender, reply) = pool.pair();
        let value = Arc::clone(&witness);
        let shard = thread::spawn(move || drop(sender.send(value)));
        drop(reply);
        shard.join().expect("the shard ran to its end");
        assert_eq!(Arc::strong_count(&witness), 1);
        let (sender, mut reply) = pool.pair();
        assert!(reply.try_take().is_none());
        assert!(!sender.is_abandoned());
    });
}
