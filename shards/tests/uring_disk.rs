//! The ring as a carrier of the disk seam, on real files.

mod ring_support;

use clustor_shards::buffer::{BLOCK_BYTES, Block, Blocks};
use clustor_shards::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, DurableChain, FileId, FlushKind,
};
use clustor_shards::uring::{RingError, ShardRing, WriterMode};
use clustor_wire::ids::{ChainNumber, PairNumber};
use ring_support::{block_of, carried, chain, directory, filled, pool, prepare, read_back, until};
use std::fs;

#[test]
fn a_chain_writes_both_files_and_returns_its_buffers() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let mut pool = pool();
    assert_eq!(ring.register_pool(&mut pool), WriterMode::FixedUring);
    prepare(&mut ring, 1, 64, 64);
    let log = filled(pool.take(3), 0xA1);
    let ledger = filled(pool.take(1), 0xB2);
    let mut events = carried(&mut ring, DiskOp::Chain(chain(7, 1, 5, log, 9, ledger)));
    let Some(DiskEvent::Chain {
        chain,
        log,
        ledger,
        outcome,
    }) = events.pop()
    else {
        panic!("a chain is answered by its event: {events:?}");
    };
    assert_eq!(chain, ChainNumber(7));
    assert_eq!(outcome, Ok(()));
    assert_eq!((log.len(), ledger.len()), (3, 1));
    assert!(log.slot().is_some(), "the pool's own run comes back");
    let segment = dir.path().join("wal/segment-1.log");
    for block in 5..8 {
        assert_eq!(block_of(&segment, block), [0xA1; BLOCK_BYTES]);
    }
    assert_eq!(block_of(&segment, 4), [0; BLOCK_BYTES]);
    assert_eq!(block_of(&segment, 8), [0; BLOCK_BYTES]);
    assert_eq!(
        block_of(&dir.path().join("wal/durability-1.log"), 9),
        [0xB2; BLOCK_BYTES]
    );
}

#[test]
fn a_chain_that_writes_through_writes_both_files() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let mut pool = pool();
    ring.register_pool(&mut pool);
    prepare(&mut ring, 1, 64, 64);
    let log = filled(pool.take(3), 0xA1);
    let ledger = filled(pool.take(1), 0xB2);
    let through = DurableChain {
        flush: FlushKind::Dsync,
        ..chain(7, 1, 5, log, 9, ledger)
    };
    ring.start(DiskOp::Chain(through))
        .expect("the ring takes submissions");
    assert_eq!(ring.in_flight(), 1, "a chain completes once");
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| !events.is_empty());
    assert!(
        matches!(
            events[..],
            [DiskEvent::Chain {
                outcome: Ok(()),
                ..
            }]
        ),
        "{events:?}"
    );
    let segment = dir.path().join("wal/segment-1.log");
    assert_eq!(block_of(&segment, 7), [0xA1; BLOCK_BYTES]);
    let durability = dir.path().join("wal/durability-1.log");
    assert_eq!(block_of(&durability, 9), [0xB2; BLOCK_BYTES]);
}

#[test]
fn chains_in_flight_together_each_complete_once() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let mut pool = pool();
    ring.register_pool(&mut pool);
    prepare(&mut ring, 1, 128, 128);
    let before = ring.enters();
    for number in 0..8u32 {
        let fill = u8::try_from(number + 1).expect("small");
        // Half of the runs come from the heap, which the ring writes without registration.
        let log = if number % 2 == 0 {
            pool.take(1)
        } else {
            Blocks::from_heap(1)
        };
        let ledger = filled(pool.take(1), fill);
        ring.start(DiskOp::Chain(chain(
            u64::from(number),
            1,
            number,
            filled(log, fill),
            number,
            ledger,
        )))
        .expect("the ring takes submissions");
    }
    ring.enter().expect("the ring takes submissions");
    assert_eq!(
        ring.enters(),
        before + 1,
        "eight chains are one system call"
    );
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| events.len() == 8);
    let mut numbers: Vec<u64> = events
        .iter()
        .map(|event| match event {
            DiskEvent::Chain {
                chain,
                outcome: Ok(()),
                ..
            } => chain.get(),
            other => panic!("every chain is done: {other:?}"),
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..8).collect::<Vec<u64>>());
    assert_eq!(ring.in_flight(), 0);
    for block in 0..8u8 {
        let path = dir.path().join("wal/segment-1.log");
        assert_eq!(
            block_of(&path, usize::from(block)),
            [block + 1; BLOCK_BYTES]
        );
    }
}

#[test]
fn a_chain_to_a_pair_that_is_not_there_fails_and_returns_its_buffers() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let op = chain(1, 77, 0, Blocks::from_heap(1), 0, Blocks::from_heap(1));
    let mut events = carried(&mut ring, DiskOp::Chain(op));
    match events.pop() {
        Some(DiskEvent::Chain {
            outcome: Err(DiskError::NoFile(file)),
            log,
            ..
        }) => {
            assert_eq!(file, FileId::segment(PairNumber(77)));
            assert_eq!(log.len(), 1);
        }
        other => panic!("it fails: {other:?}"),
    }
}

#[test]
fn blocks_beyond_the_end_read_as_zero() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    prepare(&mut ring, 1, 4, 4);
    let file = FileId::segment(PairNumber(1));
    fs::write(
        dir.path().join("wal/segment-1.log"),
        [7; 3 * BLOCK_BYTES + 100],
    )
    .expect("written");
    let bytes = read_back(&mut ring, file, 2, 4).expect("it reads");
    assert_eq!(bytes[..BLOCK_BYTES + 100], [7; BLOCK_BYTES + 100]);
    assert!(bytes[BLOCK_BYTES + 100..].iter().all(|byte| *byte == 0));
    let beyond = read_back(&mut ring, file, 1_000, 2).expect("it reads");
    assert!(beyond.iter().all(|byte| *byte == 0));
}

#[test]
fn a_missing_file_is_an_error_of_the_read() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let error =
        read_back(&mut ring, FileId::ledger(PairNumber(5)), 0, 1).expect_err("it is missing");
    assert_eq!(error, DiskError::NoFile(FileId::ledger(PairNumber(5))));
}

/// The system lets nobody write to it, whoever asks: as little may be opened where a file's owner or mode was changed.
const NOBODYS_FILE: &str = "/proc/sys/kernel/osrelease";

#[test]
fn a_file_that_may_not_be_opened_says_nothing_of_what_it_holds() {
    let dir = directory();
    let wal = dir.path().join("wal");
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    prepare(&mut ring, 1, 8, 4);
    drop(ring);
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let file = FileId::segment(PairNumber(1));
    let (path, aside) = (wal.join(file.to_string()), wal.join("aside"));
    fs::rename(&path, &aside).expect("renamed");
    std::os::unix::fs::symlink(NOBODYS_FILE, &path).expect("linked");
    let error = read_back(&mut ring, file, 0, 1).expect_err("it may not be opened");
    assert!(error.is_passing(), "{error:?}");
    fs::rename(&aside, &path).expect("renamed");
    read_back(&mut ring, file, 0, 1).expect("asked again, it reads");
}

#[test]
fn boot_lists_pairs_and_reads_them_without_turns() {
    let dir = directory();
    {
        let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
        prepare(&mut ring, 12, 8, 4);
        prepare(&mut ring, 3, 8, 4);
        let op = chain(
            1,
            12,
            1,
            filled(Blocks::from_heap(2), 0x5A),
            0,
            filled(Blocks::from_heap(1), 0x5B),
        );
        carried(&mut ring, DiskOp::Chain(op));
    }
    let wal = dir.path().join("wal");
    fs::remove_file(wal.join("durability-3.log")).expect("removed");
    for (name, text) in [
        ("segment-007.log", "x"),
        ("segment-4.log.new", "x"),
        ("notes.txt", "x"),
    ] {
        fs::write(wal.join(name), text).expect("written");
    }
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    assert!(
        !wal.join("segment-4.log.new").exists(),
        "leftovers are removed"
    );
    assert!(
        wal.join("notes.txt").exists(),
        "what is not the shard's stays"
    );
    let found = ring.pairs().expect("listed");
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].pair, found[0].segment_bytes, found[0].ledger_bytes),
        (PairNumber(3), Some(8 * 4096), None)
    );
    assert_eq!(
        (found[1].pair, found[1].ledger_bytes),
        (PairNumber(12), Some(4 * 4096))
    );
    let mut into = Blocks::from_heap(10);
    ring.read(FileId::segment(PairNumber(12)), 0, &mut into)
        .expect("it reads");
    let expected: Vec<u8> = [0, 0x5A, 0x5A, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let first_bytes: Vec<u8> = into
        .as_slice()
        .iter()
        .map(|block: &Block| block.0[0])
        .collect();
    assert_eq!(first_bytes, expected);
}

#[test]
fn a_second_ring_on_the_directory_is_refused_by_name_of_its_holder() {
    let dir = directory();
    let _held = ShardRing::open(dir.path()).expect("the ring opens");
    let begun = std::time::Instant::now();
    match ShardRing::open(dir.path()) {
        Err(RingError::Locked { holder, .. }) => {
            assert_eq!(holder, format!("process {}", std::process::id()));
        }
        other => panic!("it is refused: {other:?}"),
    }
    let waited = begun.elapsed().as_secs_f64();
    assert!(
        (4.5..8.0).contains(&waited),
        "it waits five seconds for a dying holder, not {waited}"
    );
}
