//! Every interleaving of small cases of the submission queue.

#![cfg(loom)]

use clustor_shards::mesh::{Doorbell, Rejected, SubmissionQueue, Wake};
use loom::sync::Arc;
use loom::thread;

/// For queues whose consumer never sleeps.
struct NeverAsleep;

impl Wake for NeverAsleep {
    fn wake(&self) {
        panic!("nobody announced a sleep");
    }
}

fn check(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(case);
}

fn queue<T>(capacity: usize) -> SubmissionQueue<T> {
    SubmissionQueue::new(capacity, &Doorbell::new(NeverAsleep))
}

#[test]
fn two_producers_lose_nothing_double_nothing_and_keep_their_order() {
    check(|| {
        let mut queue = queue(4);
        let producers: Vec<_> = [2, 1]
            .into_iter()
            .enumerate()
            .map(|(producer, count)| {
                let submitter = queue.submitter();
                thread::spawn(move || {
                    for number in 0..count {
                        submitter
                            .try_submit((producer, number))
                            .expect("there is room");
                    }
                })
            })
            .collect();
        let mut out = Vec::new();
        while out.len() < 3 {
            if queue.drain_into(&mut out, 2) == 0 {
                thread::yield_now();
            }
        }
        let of_first: Vec<_> = out.iter().filter(|item| item.0 == 0).collect();
        assert_eq!(of_first, [&(0, 0), &(0, 1)]);
        assert!(out.contains(&(1, 0)));
        for producer in producers {
            producer.join().expect("the producer ran to its end");
        }
        assert!(queue.is_empty());
    });
}

#[test]
fn slots_used_again_carry_the_new_item() {
    check(|| {
        let mut queue = queue(1);
        let submitter = queue.submitter();
        let producer = thread::spawn(move || {
            for number in 0..3 {
                let mut item = Box::new(number);
                while let Err(rejected) = submitter.try_submit(item) {
                    assert!(rejected.is_full());
                    item = rejected.into_inner();
                    thread::yield_now();
                }
            }
        });
        let mut out = Vec::new();
        while out.len() < 3 {
            if queue.drain_into(&mut out, usize::MAX) == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(out.iter().map(|item| **item).collect::<Vec<_>>(), [0, 1, 2]);
        producer.join().expect("the producer ran to its end");
    });
}

#[test]
fn the_bound_holds_against_two_producers() {
    check(|| {
        let mut queue = queue(1);
        let producers: Vec<_> = (0..2)
            .map(|item| {
                let submitter = queue.submitter();
                thread::spawn(move || match submitter.try_submit(item) {
                    Ok(()) => None,
                    Err(Rejected::Full(back)) => Some(back),
                    Err(Rejected::Closed(_)) => panic!("nobody closed it"),
                })
            })
            .collect();
        let mut all: Vec<_> = producers
            .into_iter()
            .filter_map(|producer| producer.join().expect("the producer ran to its end"))
            .collect();
        assert_eq!(all.len(), 1, "one fits, one comes back");
        assert_eq!(queue.drain_into(&mut all, usize::MAX), 1);
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    });
}

#[test]
fn what_is_accepted_before_a_close_is_drained_and_nothing_else() {
    check(|| {
        let mut queue = queue(2);
        let producers: Vec<_> = (0..2)
            .map(|item| {
                let submitter = queue.submitter();
                thread::spawn(move || match submitter.try_submit(item) {
                    Ok(()) => Some(item),
                    Err(Rejected::Closed(back)) => {
                        assert_eq!(back, item);
                        None
                    }
                    Err(Rejected::Full(_)) => panic!("both fit"),
                })
            })
            .collect();
        queue.close();
        let mut out = Vec::new();
        while !queue.is_settled() {
            if queue.drain_into(&mut out, usize::MAX) == 0 {
                thread::yield_now();
            }
        }
        let accepted: Vec<_> = producers
            .into_iter()
            .filter_map(|producer| producer.join().expect("the producer ran to its end"))
            .collect();
        out.sort_unstable();
        assert_eq!(out, accepted);
    });
}

#[test]
fn a_dropped_queue_lets_go_of_every_accepted_item_while_submitters_live() {
    check(|| {
        let witness = Arc::new(());
        let queue = queue(2);
        let submitter = queue.submitter();
        let kept = queue.submitter();
        let item = Arc::clone(&witness);
        let producer = thread::spawn(move || drop(submitter.try_submit(item)));
        drop(queue);
        producer.join().expect("the producer ran to its end");
        assert_eq!(Arc::strong_count(&witness), 1);
        assert!(kept.is_closed());
    });
}
