//! The single-producer single-consumer ring on real threads.

#![cfg(not(loom))]

use std::sync::Arc;
use std::thread;

use clustor_shards::mesh::spsc::{RING_CAPACITY_MAX, ring};

#[test]
fn every_item_arrives_once_and_in_order() {
    let count = if cfg!(miri) { 500 } else { 200_000_u64 };
    for capacity in [1, 3, 64] {
        let (mut producer, mut consumer) = ring(capacity);
        let sender = thread::spawn(move || {
            for mut item in 0..count {
                while let Err(back) = producer.push(item) {
                    item = back;
                    thread::yield_now();
                }
            }
        });
        let mut next = 0;
        let mut batch = Vec::new();
        while next < count {
            if consumer.drain_into(&mut batch, 17) == 0 {
                thread::yield_now();
            }
            for item in batch.drain(..) {
                assert_eq!(item, next);
                next += 1;
            }
        }
        sender.join().expect("the producer ran to its end");
        assert!(consumer.is_closed());
        assert!(consumer.is_empty());
    }
}

#[test]
fn the_bound_is_exactly_the_capacity_and_a_full_ring_gives_the_item_back() {
    for capacity in [1, 2, 3, 5, 8] {
        let (mut producer, mut consumer) = ring(capacity);
        for lap in 0..3 {
            for item in 0..capacity {
                assert_eq!(producer.free(), capacity - item);
                assert_eq!(producer.push((lap, item)), Ok(()));
            }
            assert_eq!(producer.push((9, 9)), Err((9, 9)));
            assert_eq!(consumer.pop(), Some((lap, 0)));
            assert_eq!(producer.push((lap, capacity)), Ok(()));
            let mut out = Vec::new();
            assert_eq!(consumer.drain_into(&mut out, usize::MAX), capacity);
            let expected: Vec<_> = (1..=capacity).map(|item| (lap, item)).collect();
            assert_eq!(out, expected);
            assert_eq!(consumer.pop(), None);
        }
    }
}

#[test]
fn a_drain_takes_no_more_than_it_was_allowed() {
    let (mut producer, mut consumer) = ring(8);
    for item in 0..6 {
        producer.push(item).expect("there is room");
    }
    let mut out = vec![100];
    assert_eq!(consumer.drain_into(&mut out, 4), 4);
    assert_eq!(out, [100, 0, 1, 2, 3]);
    assert_eq!(consumer.drain_into(&mut out, 0), 0);
    assert_eq!(consumer.drain_into(&mut out, 4), 2);
    assert_eq!(out, [100, 0, 1, 2, 3, 4, 5]);
}

#[test]
fn items_left_inside_are_dropped_once_whichever_side_goes_first() {
    for consumer_first in [true, false] {
        let witness = Arc::new(());
        let (mut producer, mut consumer) = ring(4);
        for _ in 0..4 {
            producer.push(Arc::clone(&witness)).expect("there is room");
        }
        drop(consumer.pop());
        producer.push(Arc::clone(&witness)).expect("there is room");
        assert_eq!(Arc::strong_count(&witness), 5);
        if consumer_first {
            drop(consumer);
            assert_eq!(
                Arc::strong_count(&witness),
                1,
                "what waited inside is let go at once"
            );
            drop(producer);
        } else {
            drop(producer);
            drop(consumer);
        }
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}

#[test]
fn a_side_that_is_gone_is_seen_by_the_other() {
    let (mut producer, consumer) = ring(4);
    assert!(!producer.is_closed());
    drop(consumer);
    assert!(producer.is_closed());
    assert_eq!(producer.push(1), Err(1));

    let (mut producer, mut consumer) = ring(4);
    producer.push(1).expect("there is room");
    assert!(!consumer.is_closed());
    drop(producer);
    assert!(consumer.is_closed());
    assert_eq!(
        consumer.pop(),
        Some(1),
        "what was pushed before is still there"
    );
    assert_eq!(consumer.pop(), None);
}

#[test]
fn a_panic_in_a_drain_keeps_what_comes_after_it() {
    let (mut producer, mut consumer) = ring(4);
    for item in 0..4 {
        producer.push(item).expect("there is room");
    }
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        consumer.drain_with(usize::MAX, |item| assert!(item != 1, "refuses the second"));
    }));
    assert!(unwound.is_err());
    let mut out = Vec::new();
    consumer.drain_into(&mut out, usize::MAX);
    assert_eq!(out, [2, 3]);
}

#[test]
#[should_panic(expected = "at least one item")]
fn a_ring_of_nothing_is_refused() {
    let _ = ring::<u8>(0);
}

#[test]
#[should_panic(expected = "is above")]
fn a_ring_beyond_the_limit_is_refused() {
    let _ = ring::<u8>(RING_CAPACITY_MAX + 1);
}
