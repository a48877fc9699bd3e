//! Replies on real threads, awaited and waited for.

#![cfg(not(loom))]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clustor_shards::mesh::reply::{Lost, Reply, ReplyPool, ReplySender, WaitError, pair};
use futures_lite::future;

#[test]
fn an_answer_reaches_a_task_and_a_thread() {
    let (sender, reply) = pair();
    let shard = thread::spawn(move || sender.send("answer").expect("somebody waits"));
    assert_eq!(future::block_on(reply), Ok("answer"));
    shard.join().expect("the shard ran to its end");

    let (sender, reply) = pair();
    let shard = thread::spawn(move || sender.send("answer").expect("somebody waits"));
    assert_eq!(reply.wait(), Ok("answer"));
    shard.join().expect("the shard ran to its end");
}

#[test]
fn an_answer_sent_before_anybody_asks_is_there() {
    let (sender, mut reply) = pair();
    assert!(reply.try_take().is_none());
    sender.send(1).expect("the reply is at hand");
    assert_eq!(reply.try_take(), Some(Ok(1)));
}

#[test]
fn a_sender_dropped_unsent_answers_lost_to_task_and_thread() {
    let (sender, reply) = pair::<u8>();
    drop(sender);
    assert_eq!(future::block_on(reply), Err(Lost));

    let (sender, mut reply) = pair::<u8>();
    let shard = thread::spawn(move || drop(sender));
    assert_eq!(
        reply.wait_timeout(Duration::from_secs(60)),
        Err(WaitError::Lost(Lost))
    );
    shard.join().expect("the shard ran to its end");
}

#[test]
fn a_sender_lost_in_a_panic_hangs_nobody() {
    let (sender, reply) = pair::<u8>();
    let shard = thread::spawn(move || {
        let _sender: ReplySender<u8> = sender;
        panic!("the shard failed");
    });
    assert_eq!(reply.wait(), Err(Lost));
    assert!(shard.join().is_err());
}

#[test]
fn a_timeout_is_told_from_a_loss_and_the_reply_stays_good() {
    let (sender, mut reply) = pair();
    let begun = Instant::now();
    let timeout = Duration::from_millis(20);
    assert_eq!(reply.wait_timeout(timeout), Err(WaitError::TimedOut));
    assert!(begun.elapsed() >= timeout);
    assert_eq!(reply.wait_timeout(Duration::ZERO), Err(WaitError::TimedOut));
    sender.send(5).expect("the reply is at hand");
    assert_eq!(reply.wait_timeout(Duration::MAX), Ok(5));
}

#[test]
fn a_dropped_reply_gives_the_sender_its_value_back() {
    let (sender, reply) = pair();
    assert!(!sender.is_abandoned());
    drop(reply);
    assert!(sender.is_abandoned());
    assert_eq!(sender.send(3), Err(3));
}

#[test]
fn an_answer_nobody_takes_is_dropped() {
    let witness = Arc::new(());
    for pool in [None, Some(ReplyPool::new(1))] {
        let (sender, reply) = pool.as_ref().map_or_else(pair, ReplyPool::pair);
        sender
            .send(Arc::clone(&witness))
            .expect("the reply is at hand");
        drop(reply);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}

#[test]
#[should_panic(expected = "taken before")]
fn an_answer_is_taken_once() {
    let (sender, mut reply) = pair();
    sender.send(1).expect("the reply is at hand");
    assert_eq!(reply.try_take(), Some(Ok(1)));
    let _ = reply.try_take();
}

#[test]
fn a_reply_may_travel_to_any_thread() {
    fn sent<T: Send + 'static>() {}
    sent::<Reply<Vec<u8>>>();
    sent::<ReplySender<Vec<u8>>>();
    sent::<ReplyPool<Vec<u8>>>();
}

#[test]
fn a_pool_serves_many_askers_and_mixes_no_answers_up() {
    let (askers, each) = if cfg!(miri) { (2, 30) } else { (4, 20_000_u64) };
    let pool = ReplyPool::new(2);
    let (to_shard, requests) = std::sync::mpsc::sync_channel::<(u64, ReplySender<u64>)>(8);
    let shard = thread::spawn(move || {
        for (question, sender) in requests {
            if question % 7 == 0 {
                drop(sender);
            } else {
                // Some askers do not wait for it.
                let _ = sender.send(question * 2);
            }
        }
    });
    let askers: Vec<_> = (0..askers)
        .map(|asker| {
            let (pool, to_shard) = (pool.clone(), to_shard.clone());
            thread::spawn(move || {
                for number in 0..each {
                    let question = asker * each + number;
                    let (sender, reply) = pool.pair();
                    to_shard.send((question, sender)).expect("the shard lives");
                    if question % 5 == 0 {
                        drop(reply);
                        continue;
                    }
                    let answer = if question % 2 == 0 {
                        future::block_on(reply)
                    } else {
                        reply.wait()
                    };
                    let expected = if question % 7 == 0 {
                        Err(Lost)
                    } else {
                        Ok(question * 2)
                    };
                    assert_eq!(answer, expected);
                }
            })
        })
        .collect();
    for asker in askers {
        asker.join().expect("every asker was answered");
    }
    drop(to_shard);
    shard.join().expect("the shard ran to its end");
}

#[test]
fn a_reply_outlives_its_pool() {
    let pool = ReplyPool::new(4);
    let (sender, reply) = pool.pair();
    drop(pool);
    sender.send(1).expect("the reply is at hand");
    assert_eq!(reply.wait(), Ok(1));
}
