//! The latest-value cell on real threads, awaited and waited for.

#![cfg(not(loom))]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clustor_shards::mesh::watch::{ChangeError, Closed, Publisher, Watch, pair};
use futures_lite::future;

#[test]
fn a_watch_begins_with_its_initial_value_which_is_no_change() {
    let (_publisher, mut watch) = pair("initial");
    assert_eq!(*watch.latest(), "initial");
    let begun = Instant::now();
    let timeout = Duration::from_millis(20);
    assert_eq!(
        watch.wait_changed_timeout(timeout),
        Err(ChangeError::TimedOut)
    );
    assert!(begun.elapsed() >= timeout);
}

#[test]
fn a_slow_watcher_misses_steps_but_never_the_last() {
    let (mut publisher, mut watch) = pair(0);
    for step in 1..=100 {
        publisher.publish(step);
    }
    assert_eq!(watch.wait_changed(), Ok(&100));
    assert_eq!(
        watch.wait_changed_timeout(Duration::ZERO),
        Err(ChangeError::TimedOut),
        "one change, however many steps"
    );
    publisher.publish(101);
    assert_eq!(*watch.latest(), 101);
    assert_eq!(
        watch.wait_changed_timeout(Duration::ZERO),
        Err(ChangeError::TimedOut),
        "what was looked at is no change any more"
    );
}

#[test]
fn the_last_step_is_seen_after_the_publisher_is_gone_and_then_the_end() {
    let (mut publisher, mut watch) = pair(0);
    publisher.publish(1);
    drop(publisher);
    assert!(watch.is_closed());
    assert_eq!(future::block_on(watch.changed()), Ok(&1));
    assert_eq!(future::block_on(watch.changed()), Err(Closed));
    assert_eq!(watch.wait_changed(), Err(Closed));
    assert_eq!(
        watch.wait_changed_timeout(Duration::from_secs(60)),
        Err(ChangeError::Closed(Closed))
    );
    assert_eq!(*watch.latest(), 1);
}

#[test]
fn a_waiting_watcher_is_told_when_the_publisher_goes() {
    let (publisher, mut watch) = pair(0);
    let shard = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        drop(publisher);
    });
    assert_eq!(watch.wait_changed(), Err(Closed));
    shard.join().expect("the shard ran to its end");
}

#[test]
fn a_watcher_that_awaits_or_waits_follows_a_publisher_on_another_thread() {
    let steps = if cfg!(miri) { 50 } else { 200_000_u64 };
    for awaiting in [true, false] {
        let (mut publisher, mut watch) = pair(0);
        let shard = thread::spawn(move || {
            for step in 1..=steps {
                publisher.publish(step);
                if step % 64 == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut seen = 0;
        loop {
            let change = if awaiting {
                future::block_on(watch.changed())
            } else {
                watch.wait_changed()
            };
            match change {
                Ok(&now) => {
                    assert!(now > seen);
                    seen = now;
                }
                Err(Closed) => break,
            }
        }
        assert_eq!(seen, steps);
        shard.join().expect("the shard ran to its end");
    }
}

#[test]
fn a_change_given_up_halfway_is_not_lost() {
    let (mut publisher, mut watch) = pair(0);
    assert!(future::block_on(future::poll_once(watch.changed())).is_none());
    publisher.publish(1);
    assert_eq!(future::block_on(watch.changed()), Ok(&1));
}

#[test]
fn a_publisher_sees_that_nobody_watches_and_goes_on_unhindered() {
    let (mut publisher, watch) = pair(0);
    assert!(!publisher.is_abandoned());
    drop(watch);
    assert!(publisher.is_abandoned());
    publisher.publish(1);
}

#[test]
fn values_are_dropped_once_each() {
    let witness = Arc::new(());
    let (mut publisher, mut watch) = pair(Arc::clone(&witness));
    for _ in 0..5 {
        publisher.publish(Arc::clone(&witness));
        watch.latest();
        publisher.publish(Arc::clone(&witness));
    }
    assert!(
        Arc::strong_count(&witness) <= 4,
        "three places and this one"
    );
    drop(publisher);
    drop(watch);
    assert_eq!(Arc::strong_count(&witness), 1);
}

#[test]
fn both_ends_may_travel_to_any_thread() {
    fn sent<T: Send + 'static>() {}
    sent::<Watch<Vec<u8>>>();
    sent::<Publisher<Vec<u8>>>();
}
