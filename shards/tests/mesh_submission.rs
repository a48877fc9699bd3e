//! The submission queue and the doorbell on real threads.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use clustor_shards::mesh::submission::SUBMISSION_CAPACITY_MAX;
use clustor_shards::mesh::{Doorbell, Rejected, SubmissionQueue, Wake};

/// A sleep that a wake-up ends, before or after it began: what an eventfd is to a shard.
#[derive(Default)]
struct Sleep {
    woken: Mutex<bool>,
    changed: Condvar,
    wakes: AtomicUsize,
}

impl Sleep {
    fn sleep(&self) {
        let mut woken = self.woken.lock().expect("nobody panics while holding it");
        while !*woken {
            woken = self
                .changed
                .wait(woken)
                .expect("nobody panics while holding it");
        }
        *woken = false;
    }
}

impl Wake for Sleep {
    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        *self.woken.lock().expect("nobody panics while holding it") = true;
        self.changed.notify_one();
    }
}

fn doorbell() -> (Arc<Sleep>, Doorbell) {
    let sleep = Arc::new(Sleep::default());
    let doorbell = Doorbell::new(Arc::clone(&sleep));
    (sleep, doorbell)
}

#[test]
fn a_sleeping_consumer_gets_every_item_of_many_producers_in_each_ones_order() {
    let (producers, each) = if cfg!(miri) {
        (3, 50)
    } else {
        (4, 100_000_usize)
    };
    let (sleep, mut doorbell) = doorbell();
    let mut queue = SubmissionQueue::new(8, &doorbell);
    let threads: Vec<_> = (0..producers)
        .map(|producer| {
            let submitter = queue.submitter();
            thread::spawn(move || {
                for number in 0..each {
                    let mut item = (producer, number);
                    while let Err(rejected) = submitter.try_submit(item) {
                        assert!(rejected.is_full());
                        item = rejected.into_inner();
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = vec![0; producers];
    let mut taken = 0;
    let mut batch = Vec::new();
    while taken < producers * each {
        let parking = doorbell.announce();
        if queue.is_empty() {
            sleep.sleep();
        }
        drop(parking);
        taken += queue.drain_into(&mut batch, 5);
        for (producer, number) in batch.drain(..) {
            assert_eq!(number, next[producer]);
            next[producer] += 1;
        }
    }
    for thread in threads {
        thread.join().expect("the producer ran to its end");
    }
    assert!(queue.is_empty());
}

#[test]
fn the_bound_is_exactly_the_capacity() {
    let (_sleep, doorbell) = doorbell();
    for capacity in [1, 2, 3, 5] {
        let mut queue = SubmissionQueue::new(capacity, &doorbell);
        let submitter = queue.submitter();
        assert_eq!(submitter.capacity(), capacity);
        let mut out = Vec::new();
        for _lap in 0..3 {
            for item in 0..capacity {
                submitter.try_submit(item).expect("there is room");
            }
            match submitter.try_submit(99) {
                Err(Rejected::Full(99)) => {}
                other => panic!("expected the item back as Full, got {other:?}"),
            }
            assert_eq!(queue.drain_into(&mut out, usize::MAX), capacity);
            assert_eq!(out, (0..capacity).collect::<Vec<_>>());
            out.clear();
        }
    }
}

#[test]
fn after_a_close_nothing_is_accepted_and_what_was_is_drained() {
    let (_sleep, doorbell) = doorbell();
    let mut queue = SubmissionQueue::new(4, &doorbell);
    let submitter = queue.submitter();
    submitter.try_submit(1).expect("there is room");
    submitter.clone().try_submit(2).expect("there is room");
    assert!(!submitter.is_closed());
    queue.close();
    assert!(submitter.is_closed());
    assert!(!queue.is_settled(), "two accepted items are still inside");
    match submitter.try_submit(3) {
        Err(Rejected::Closed(3)) => {}
        other => panic!("expected the item back as Closed, got {other:?}"),
    }
    let mut out = Vec::new();
    queue.drain_into(&mut out, usize::MAX);
    assert_eq!(out, [1, 2]);
    assert!(queue.is_settled());
}

#[test]
fn a_close_in_the_midst_loses_nothing_that_was_accepted() {
    let rounds = if cfg!(miri) { 5 } else { 500 };
    for _ in 0..rounds {
        let (_sleep, doorbell) = doorbell();
        let mut queue = SubmissionQueue::new(16, &doorbell);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let submitter = queue.submitter();
                thread::spawn(move || {
                    let mut accepted = 0;
                    loop {
                        match submitter.try_submit(()) {
                            Ok(()) => accepted += 1,
                            Err(Rejected::Full(())) => thread::yield_now(),
                            Err(Rejected::Closed(())) => return accepted,
                        }
                    }
                })
            })
            .collect();
        let mut out = Vec::new();
        while out.len() < 20 {
            queue.drain_into(&mut out, 7);
            thread::yield_now();
        }
        queue.close();
        while !queue.is_settled() {
            queue.drain_into(&mut out, 7);
            thread::yield_now();
        }
        let accepted: usize = threads
            .into_iter()
            .map(|thread| thread.join().expect("the producer ran to its end"))
            .sum();
        assert_eq!(out.len(), accepted);
    }
}

#[test]
fn a_dropped_queue_lets_go_of_what_is_inside_and_refuses_the_rest() {
    let (_sleep, doorbell) = doorbell();
    let witness = Arc::new(());
    let queue = SubmissionQueue::new(4, &doorbell);
    let submitter = queue.submitter();
    for _ in 0..3 {
        submitter
            .try_submit(Arc::clone(&witness))
            .expect("there is room");
    }
    drop(queue);
    assert_eq!(Arc::strong_count(&witness), 1);
    let rejected = submitter
        .try_submit(Arc::clone(&witness))
        .expect_err("the queue is gone");
    assert!(!rejected.is_full());
}

#[test]
fn an_awake_shard_is_not_woken_and_a_parked_one_once() {
    let (sleep, mut doorbell) = doorbell();
    let bell = doorbell.bell();
    bell.ring();
    assert_eq!(sleep.wakes.load(Ordering::Relaxed), 0);
    let parking = doorbell.announce();
    bell.ring();
    bell.clone().ring();
    assert_eq!(sleep.wakes.load(Ordering::Relaxed), 1);
    sleep.sleep();
    drop(parking);
    bell.ring();
    assert_eq!(sleep.wakes.load(Ordering::Relaxed), 1);
}

#[test]
#[should_panic(expected = "at least one item")]
fn a_queue_of_nothing_is_refused() {
    let (_sleep, doorbell) = doorbell();
    let _ = SubmissionQueue::<u8>::new(0, &doorbell);
}

#[test]
#[should_panic(expected = "is above")]
fn a_queue_beyond_the_limit_is_refused() {
    let (_sleep, doorbell) = doorbell();
    let _ = SubmissionQueue::<u8>::new(SUBMISSION_CAPACITY_MAX + 1, &doorbell);
}
