//! Every interleaving of small cases of the ring.

#![cfg(loom)]

use clustor_shards::mesh::spsc::ring;
use loom::sync::Arc;
use loom::thread;

fn check(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(case);
}

#[test]
fn every_item_arrives_once_and_in_order() {
    for capacity in [1, 2] {
        check(move || {
            let (mut producer, mut consumer) = ring(capacity);
            let sender = thread::spawn(move || {
                for mut item in 0..3 {
                    while let Err(back) = producer.push(item) {
                        item = back;
                        thread::yield_now();
                    }
                }
            });
            let mut out = Vec::new();
            while out.len() < 3 {
                if consumer.drain_into(&mut out, 2) == 0 {
                    thread::yield_now();
                }
            }
            assert_eq!(out, [0, 1, 2]);
            assert_eq!(consumer.pop(), None);
            sender.join().expect("the producer ran to its end");
        });
    }
}

#[test]
fn popping_one_by_one_sees_the_same_items() {
    check(|| {
        let (mut producer, mut consumer) = ring(2);
        let sender = thread::spawn(move || {
            producer.push(Box::new(0)).expect("there is room");
            producer.push(Box::new(1)).expect("there is room");
        });
        for expected in 0..2 {
            let item = loop {
                match consumer.pop() {
                    Some(item) => break item,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*item, expected);
        }
        sender.join().expect("the producer ran to its end");
    });
}

#[test]
fn a_closed_ring_still_holds_everything_that_was_pushed() {
    check(|| {
        let (mut producer, mut consumer) = ring(2);
        let sender = thread::spawn(move || {
            producer.push(1).expect("there is room");
            producer.push(2).expect("there is room");
        });
        while !consumer.is_closed() {
            thread::yield_now();
        }
        let mut out = Vec::new();
        consumer.drain_into(&mut out, usize::MAX);
        assert_eq!(out, [1, 2]);
        sender.join().expect("the producer ran to its end");
    });
}

#[test]
fn items_left_inside_are_dropped_once_whoever_goes_first() {
    check(|| {
        let witness = Arc::new(());
        let (mut producer, mut consumer) = ring(2);
        let items = [Arc::clone(&witness), Arc::clone(&witness)];
        let sender = thread::spawn(move || {
            for item in items {
                // The consumer may be gone already: the item then comes back and is dropped here.
                drop(producer.push(item));
            }
        });
        drop(consumer.pop());
        drop(consumer);
        sender.join().expect("the producer ran to its end");
        assert_eq!(Arc::strong_count(&witness), 1);
    });
}
