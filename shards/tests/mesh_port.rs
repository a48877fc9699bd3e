//! The full mesh between shards.

#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clustor_shards::mesh::{Bell, Doorbell, MeshPort, Wake, full_mesh};
use clustor_wire::ids::ShardId;

struct Count(Arc<AtomicUsize>);

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn doorbells(count: usize) -> (Vec<Doorbell>, Vec<Bell>, Vec<Arc<AtomicUsize>>) {
    let wakes: Vec<_> = (0..count).map(|_| Arc::default()).collect();
    let doorbells: Vec<_> = wakes
        .iter()
        .map(|wakes| Doorbell::new(Count(Arc::clone(wakes))))
        .collect();
    let bells = doorbells.iter().map(Doorbell::bell).collect();
    (doorbells, bells, wakes)
}

fn mesh<T>(count: usize, capacity: usize) -> Vec<MeshPort<T>> {
    full_mesh(&doorbells(count).1, capacity)
}

#[test]
fn every_pair_of_shards_reaches_each_other_and_a_drain_is_ordered_by_sender() {
    let mut ports = mesh(3, 4);
    for sender in [2, 0, 1] {
        for receiver in 0..3_u16 {
            for number in 0..2 {
                ports[sender]
                    .send(ShardId(receiver), (sender, receiver, number))
                    .expect("there is room");
            }
        }
    }
    for (index, port) in ports.iter_mut().enumerate() {
        let me = u16::try_from(index).expect("three shards");
        assert_eq!(port.shard(), ShardId(me));
        assert_eq!(port.shards(), 3);
        assert!(!port.is_empty());
        let mut out = Vec::new();
        assert_eq!(port.drain(&mut out), 6);
        let expected: Vec<_> = (0..3_u16)
            .flat_map(|sender| {
                (0..2).map(move |number| (ShardId(sender), (usize::from(sender), me, number)))
            })
            .collect();
        assert_eq!(out, expected);
        assert!(port.is_empty());
    }
}

#[test]
fn a_mesh_of_one_shard_talks_to_itself() {
    let mut ports = mesh(1, 2);
    let port = &mut ports[0];
    port.send(ShardId(0), "hello").expect("there is room");
    port.flush();
    let mut out = Vec::new();
    port.drain(&mut out);
    assert_eq!(out, [(ShardId(0), "hello")]);
}

#[test]
fn a_full_ring_gives_the_item_back_and_hinders_no_other() {
    let mut ports = mesh(3, 2);
    let (first, rest) = ports.split_at_mut(1);
    let port = &mut first[0];
    assert_eq!(port.free(ShardId(1)), 2);
    port.send(ShardId(1), 1).expect("there is room");
    port.send(ShardId(1), 2).expect("there is room");
    assert_eq!(port.free(ShardId(1)), 0);
    assert_eq!(port.send(ShardId(1), 3), Err(3));
    assert!(!port.is_gone(ShardId(1)));
    port.send(ShardId(2), 4)
        .expect("another shard's ring has room");
    let mut out = Vec::new();
    rest[0].drain(&mut out);
    assert_eq!(out, [(ShardId(0), 1), (ShardId(0), 2)]);
    port.send(ShardId(1), 3).expect("there is room again");
}

#[test]
fn a_flush_rings_each_sleeping_target_once_and_nobody_else() {
    let (mut doorbells, bells, wakes) = doorbells(3);
    let mut ports = full_mesh(&bells, 8);
    let count = |shard: usize| wakes[shard].load(Ordering::Relaxed);
    let _sleeping: Vec<_> = doorbells.iter_mut().map(Doorbell::announce).collect();
    for item in 0..3 {
        ports[0].send(ShardId(1), item).expect("there is room");
    }
    assert_eq!(count(1), 0, "only a flush rings");
    ports[0].flush();
    assert_eq!([count(0), count(1), count(2)], [0, 1, 0]);
    ports[0].flush();
    assert_eq!(count(1), 1, "nothing new was sent");
    ports[0].send(ShardId(2), 9).expect("there is room");
    drop(ports.remove(0));
    assert_eq!(count(2), 1, "a port that goes flushes first");
}

#[test]
fn a_shard_that_is_gone_is_seen_and_what_it_sent_still_arrives() {
    let mut ports = mesh(2, 4);
    let mut last = ports.pop().expect("two ports");
    last.send(ShardId(0), 7).expect("there is room");
    drop(last);
    let port = &mut ports[0];
    assert!(port.is_gone(ShardId(1)));
    assert_eq!(port.send(ShardId(1), 8), Err(8));
    let mut out = Vec::new();
    port.drain(&mut out);
    assert_eq!(out, [(ShardId(1), 7)]);
}

#[test]
fn shards_on_threads_of_their_own_exchange_everything_in_order() {
    let shards = 3_u16;
    let each = if cfg!(miri) { 20 } else { 20_000_u64 };
    let ports = mesh::<u64>(usize::from(shards), 4);
    let threads: Vec<_> = ports
        .into_iter()
        .map(|mut port| {
            thread::spawn(move || {
                let mut sent = vec![0; usize::from(shards)];
                let mut next = vec![0; usize::from(shards)];
                let mut inbox = Vec::new();
                while sent.iter().chain(&next).any(|&count| count < each) {
                    for to in 0..shards {
                        let number = &mut sent[usize::from(to)];
                        while *number < each && port.send(ShardId(to), *number).is_ok() {
                            *number += 1;
                        }
                    }
                    port.flush();
                    port.drain(&mut inbox);
                    for (from, number) in inbox.drain(..) {
                        let expected = &mut next[usize::from(from.get())];
                        assert_eq!(number, *expected);
                        *expected += 1;
                    }
                    thread::yield_now();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("the shard ran to its end");
    }
}

#[test]
#[should_panic(expected = "no shard 2 in a mesh of 2")]
fn a_shard_that_does_not_exist_is_refused() {
    let mut ports = mesh(2, 1);
    let _ = ports[0].send(ShardId(2), ());
}

#[test]
#[should_panic(expected = "at least one shard")]
fn a_mesh_of_nobody_is_refused() {
    let _ = full_mesh::<u8>(&[], 1);
}
