//! The helper thread that writes without direct I/O, asked for by name.

mod ring_support;

use clustor_shards::buffer::{BLOCK_BYTES, Blocks};
use clustor_shards::disk::{BootDisk, DiskError, DiskEvent, DiskOp, FileId};
use clustor_shards::uring::{ShardRing, WriterChoice, WriterMode};
use clustor_wire::ids::PairNumber;
use ring_support::{block_of, chain, directory, filled, pool, prepare, until};

fn open(place: &std::path::Path) -> ShardRing {
    ShardRing::open_with(place, WriterChoice::Blocking).expect("the ring opens")
}

fn start_chain(ring: &mut ShardRing, number: u64, pair: u64, block: u32) {
    let fill = 0xA0 + number as u8;
    let run = |blocks| filled(Blocks::from_heap(blocks), fill);
    let op = chain(number, pair, block, run(2), number as u32, run(1));
    ring.start(DiskOp::Chain(op)).expect("it is taken");
}

#[test]
fn chains_pass_through_the_thread_and_are_read_back_through_the_ring() {
    let dir = directory();
    let mut ring = open(dir.path());
    assert_eq!(ring.register_pool(&mut pool()), WriterMode::Blocking);
    prepare(&mut ring, 1, 64, 64);
    for number in 0..8 {
        start_chain(&mut ring, number, 1, number as u32 * 2);
    }
    assert_eq!(ring.in_flight(), 8);
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| events.len() == 8);
    for (number, event) in (0..).zip(&events) {
        match event {
            DiskEvent::Chain { chain, outcome, .. } => {
                assert_eq!((chain.get(), outcome), (number, &Ok(())));
            }
            other => panic!("only chains were asked for: {other:?}"),
        }
    }
    assert_eq!(ring.in_flight(), 0);
    let segment = dir.path().join("wal/segment-1.log");
    assert_eq!(block_of(&segment, 7), [0xA3; BLOCK_BYTES]);
    drop(ring);
    // The next one reads it with direct I/O.
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let mut into = Blocks::from_heap(1);
    ring.read(FileId::ledger(PairNumber(1)), 5, &mut into)
        .expect("readable");
    assert_eq!(into.as_slice()[0].0, [0xA5; BLOCK_BYTES]);
}

#[test]
fn after_the_first_error_every_later_chain_is_cancelled() {
    let dir = directory();
    let mut ring = open(dir.path());
    prepare(&mut ring, 1, 64, 64);
    start_chain(&mut ring, 0, 1, 0);
    start_chain(&mut ring, 1, 9, 0);
    start_chain(&mut ring, 2, 1, 4);
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| events.len() == 3);
    let mut outcomes: Vec<_> = events
        .into_iter()
        .map(|event| match event {
            DiskEvent::Chain { chain, outcome, .. } => (chain.get(), outcome),
            other => panic!("only chains were asked for: {other:?}"),
        })
        .collect();
    outcomes.sort_by_key(|(number, _)| *number);
    assert_eq!(outcomes[0].1, Ok(()));
    let absent = FileId::segment(PairNumber(9));
    assert_eq!(outcomes[1].1, Err(DiskError::NoFile(absent)));
    assert_eq!(outcomes[2].1, Err(DiskError::Cancelled));
    let segment = dir.path().join("wal/segment-1.log");
    assert_eq!(block_of(&segment, 4), [0; BLOCK_BYTES], "it was not begun");
}

#[test]
fn a_ring_without_registered_buffers_can_be_asked_for() {
    let dir = directory();
    let mut ring =
        ShardRing::open_with(dir.path(), WriterChoice::Registered).expect("the ring opens");
    assert_eq!(ring.register_pool(&mut pool()), WriterMode::RegisteredUring);
}
