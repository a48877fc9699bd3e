//! No wake-up is lost: a shard that sleeps although something is there would sleep for ever, which loom
//! reports as a deadlock.

#![cfg(loom)]

use clustor_shards::mesh::{Doorbell, SubmissionQueue, Wake, full_mesh};
use clustor_wire::ids::ShardId;
use loom::sync::{Arc, Notify};
use loom::thread;

/// A sleep that a wake-up ends, before or after it began: what an eventfd is to a shard. loom's `Notify`
/// may also end it for no reason.
struct Sleep(Arc<Notify>);

impl Wake for Sleep {
    fn wake(&self) {
        self.0.notify();
    }
}

fn check(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(case);
}

#[test]
fn a_sleeping_shard_gets_every_submission_of_two_producers() {
    check(|| {
        let sleep = Arc::new(Notify::new());
        let mut doorbell = Doorbell::new(Sleep(Arc::clone(&sleep)));
        let mut queue = SubmissionQueue::new(2, &doorbell);
        let producers: Vec<_> = (0..2)
            .map(|item| {
                let submitter = queue.submitter();
                thread::spawn(move || submitter.try_submit(item).expect("there is room"))
            })
            .collect();
        let mut out = Vec::new();
        while out.len() < 2 {
            let parking = doorbell.announce();
            if queue.is_empty() {
                sleep.wait();
            }
            drop(parking);
            queue.drain_into(&mut out, usize::MAX);
        }
        for producer in producers {
            producer.join().expect("the producer ran to its end");
        }
    });
}

#[test]
fn a_sleeping_shard_gets_two_submissions_of_one_producer() {
    check(|| {
        let sleep = Arc::new(Notify::new());
        let mut doorbell = Doorbell::new(Sleep(Arc::clone(&sleep)));
        let mut queue = SubmissionQueue::new(2, &doorbell);
        let submitter = queue.submitter();
        let producer = thread::spawn(move || {
            for item in 0..2 {
                submitter.try_submit(item).expect("there is room");
            }
        });
        let mut out = Vec::new();
        while out.len() < 2 {
            let parking = doorbell.announce();
            if queue.is_empty() {
                sleep.wait();
            }
            drop(parking);
            queue.drain_into(&mut out, usize::MAX);
        }
        assert_eq!(out, [0, 1]);
        producer.join().expect("the producer ran to its end");
    });
}

#[test]
fn two_sleeping_shards_answer_each_other_over_the_mesh() {
    check(|| {
        let sleeps = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let doorbells: Vec<_> = sleeps
            .iter()
            .map(|sleep| Doorbell::new(Sleep(Arc::clone(sleep))))
            .collect();
        let bells: Vec<_> = doorbells.iter().map(Doorbell::bell).collect();
        let mut ports = full_mesh(&bells, 1);
        let mut shards: Vec<_> = doorbells
            .into_iter()
            .zip(sleeps)
            .map(|(mut doorbell, sleep)| {
                let mut port = ports.remove(0);
                move || {
                    let me = port.shard();
                    let other = ShardId(1 - me.get());
                    let mut received = Vec::new();
                    if me == ShardId(0) {
                        port.send(other, 10).expect("there is room");
                        port.flush();
                    }
                    while received.is_empty() {
                        let parking = doorbell.announce();
                        if port.is_empty() {
                            sleep.wait();
                        }
                        drop(parking);
                        port.drain(&mut received);
                    }
                    if me == ShardId(1) {
                        port.send(other, 11).expect("there is room");
                        port.flush();
                    }
                    assert_eq!(received, [(other, 11 - i32::from(me.get()))]);
                }
            })
            .collect();
        let second = thread::spawn(shards.pop().expect("two shards"));
        shards.pop().expect("two shards")();
        second.join().expect("the shard ran to its end");
    });
}
