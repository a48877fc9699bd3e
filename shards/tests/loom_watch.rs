//! Every interleaving of small cases of the watch. A watcher that misses the last step would wait for
//! ever, which loom reports as a deadlock.

#![cfg(loom)]

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use clustor_shards::mesh::watch::{ChangeError, Closed, pair};
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
fn a_waiting_watcher_sees_the_last_step() {
    check(|| {
        let (mut publisher, mut watch) = pair(Box::new(0));
        let shard = thread::spawn(move || {
            publisher.publish(Box::new(1));
            publisher.publish(Box::new(2));
            publisher
        });
        let mut seen = 0;
        while seen < 2 {
            let now = **watch.wait_changed().expect("the publisher lives");
            assert!(now > seen, "steps come in order, each once");
            seen = now;
        }
        drop(shard.join().expect("the shard ran to its end"));
    });
}

#[test]
fn an_awaiting_watcher_sees_the_last_step_and_then_the_end() {
    check(|| {
        let (mut publisher, mut watch) = pair(0);
        let shard = thread::spawn(move || {
            publisher.publish(1);
            publisher.publish(2);
        });
        let mut seen = 0;
        loop {
            match await_on_this_thread(watch.changed()) {
                Ok(now) => {
                    assert!(*now > seen, "steps come in order, each once");
                    seen = *now;
                }
                Err(Closed) => break,
            }
        }
        assert_eq!(seen, 2);
        assert_eq!(*watch.latest(), 2);
        shard.join().expect("the shard ran to its end");
    });
}

#[test]
fn looking_never_goes_back() {
    check(|| {
        let (mut publisher, mut watch) = pair(Box::new(0));
        let shard = thread::spawn(move || {
            for step in 1..=3 {
                publisher.publish(Box::new(step));
            }
        });
        let first = **watch.latest();
        let second = **watch.latest();
        assert!(first <= second);
        shard.join().expect("the shard ran to its end");
        assert_eq!(**watch.latest(), 3);
    });
}

#[test]
fn a_wait_that_times_out_can_be_repeated() {
    check(|| {
        let (mut publisher, mut watch) = pair(0);
        let shard = thread::spawn(move || publisher.publish(1));
        match watch.wait_changed_timeout(Duration::ZERO) {
            Ok(now) => assert_eq!(*now, 1),
            Err(ChangeError::TimedOut) => assert_eq!(watch.wait_changed(), Ok(&1)),
            Err(ChangeError::Closed(_)) => panic!("the last step comes before the end"),
        }
        shard.join().expect("the shard ran to its end");
    });
}

#[test]
fn every_value_is_dropped_once_whoever_goes_first() {
    check(|| {
        let witness = Arc::new(());
        let (mut publisher, mut watch) = pair(Arc::clone(&witness));
        let values = [Arc::clone(&witness), Arc::clone(&witness)];
        let shard = thread::spawn(move || {
            for value in values {
                publisher.publish(value);
            }
        });
        watch.latest();
        drop(watch);
        shard.join().expect("the shard ran to its end");
        assert_eq!(Arc::strong_count(&witness), 1);
    });
}
