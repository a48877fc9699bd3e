//! What ends the sleep of a ring.

mod ring_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::{DiskEvent, DiskOp};
use clustor_shards::sys::EventFd;
use clustor_shards::uring::{ShardRing, WriterChoice};
use ring_support::{chain, directory, filled, prepare, until};

/// Far longer than any test may take: a sleep that lasts so long has missed what should have ended it.
const LONG: Duration = Duration::from_secs(600);

fn listening(choice: WriterChoice) -> (tempfile::TempDir, ShardRing, Arc<EventFd>) {
    let dir = directory();
    let mut ring = ShardRing::open_with(dir.path(), choice).expect("the ring opens");
    let event = Arc::new(EventFd::new().expect("a descriptor"));
    ring.listen(&event).expect("a descriptor");
    (dir, ring, event)
}

#[test]
fn the_time_ends_it() {
    let (_dir, mut ring, _event) = listening(WriterChoice::Auto);
    let begun = Instant::now();
    let longest = Duration::from_millis(20);
    ring.sleep(longest).expect("it sleeps");
    assert!(
        begun.elapsed() >= longest,
        "it sleeps as long as it was told"
    );
    assert_eq!(ring.in_flight(), 0, "what it listens to is no operation");
}

#[test]
fn a_signal_ends_it_before_and_meanwhile_and_each_time() {
    let (_dir, mut ring, event) = listening(WriterChoice::Auto);
    let mut events = Vec::new();
    for _ in 0..3 {
        event.signal();
        ring.sleep(LONG).expect("it sleeps");
        ring.drain(&mut events).expect("it drains");
        let theirs = Arc::clone(&event);
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            theirs.signal();
        });
        ring.sleep(LONG).expect("it sleeps");
        ring.drain(&mut events).expect("it drains");
        waker.join().expect("the waker does not panic");
    }
}

#[test]
fn a_chain_that_ends_ends_it_whoever_carries_it() {
    for choice in [WriterChoice::Auto, WriterChoice::Blocking] {
        let (_dir, mut ring, _event) = listening(choice);
        prepare(&mut ring, 1, 8, 8);
        let run = || filled(Blocks::from_heap(1), 0xA0);
        ring.start(DiskOp::Chain(chain(0, 1, 0, run(), 0, run())))
            .expect("it is taken");
        let mut events = Vec::new();
        while !events
            .iter()
            .any(|event| matches!(event, DiskEvent::Chain { .. }))
        {
            if !ring.has_completions() {
                ring.sleep(LONG).expect("it sleeps");
            }
            ring.drain(&mut events).expect("it drains");
        }
    }
}

#[test]
fn a_ring_that_listens_can_be_closed_and_waited_on() {
    let (dir, mut ring, _event) = listening(WriterChoice::Auto);
    ring.sleep(Duration::ZERO).expect("it sleeps");
    prepare(&mut ring, 1, 8, 8);
    let mut events = Vec::new();
    let run = || filled(Blocks::from_heap(1), 0xA0);
    ring.start(DiskOp::Chain(chain(0, 1, 0, run(), 0, run())))
        .expect("it is taken");
    until(&mut ring, &mut events, |events| !events.is_empty());
    drop(ring);
    ShardRing::open(dir.path()).expect("the directory is free again");
}
