//! Pairs of files in a shard's directory: made ahead of need, removed, kept for later ones.

mod ring_support;

use clustor_shards::buffer::{BLOCK_BYTES, Blocks};
use clustor_shards::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, FileId, PreparePair, RetirePair, SPARE_ZERO_BLOCKS,
};
use clustor_shards::uring::ShardRing;
use clustor_wire::ids::PairNumber;
use ring_support::{carried, chain, directory, filled, prepare, read_back, until};
use std::fs;

#[test]
fn a_prepared_pair_is_zero_allocated_and_in_place() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    ring.start(DiskOp::Prepare(PreparePair {
        pair: PairNumber(3),
        segment_blocks: 600,
        ledger_blocks: 300,
    }))
    .expect("the ring takes submissions");
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| events.len() == 3);
    let DiskEvent::Prepared {
        pair,
        salt,
        segment_blocks_ready,
        recycled: false,
    } = events[0]
    else {
        panic!("the first event says that the pair is in place: {events:?}");
    };
    assert_eq!(pair, PairNumber(3));
    assert_eq!(segment_blocks_ready, 256, "the first piece is 1 MiB");
    assert_ne!(salt, [0; 32], "the salt is drawn");
    let ready: Vec<u32> = events[1..]
        .iter()
        .map(|event| match event {
            DiskEvent::Progress {
                segment_blocks_ready,
                ..
            } => *segment_blocks_ready,
            other => panic!("the rest follows in pieces, not {other:?}"),
        })
        .collect();
    assert_eq!(ready, [512, 600]);
    let segment = fs::read(dir.path().join("wal/segment-3.log")).expect("in place");
    let ledger = fs::read(dir.path().join("wal/durability-3.log")).expect("in place");
    assert_eq!(segment, vec![0; 600 * BLOCK_BYTES]);
    assert_eq!(ledger, vec![0; 300 * BLOCK_BYTES]);
    let mut names: Vec<_> = fs::read_dir(dir.path().join("wal"))
        .expect("listed")
        .map(|entry| entry.expect("listed").file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["durability-3.log", "segment-3.log"],
        "no temporary name is left"
    );
}

/// Pair 1 is in place, and its opening has gone down.
fn opened(ring: &mut ShardRing) {
    prepare(ring, 1, 1_000, 300);
    write(ring, 1, 0, 0);
}

/// A chain of one block in each file, to its end.
fn write(ring: &mut ShardRing, pair: u64, log_block: u32, ledger_block: u32) -> Vec<DiskEvent> {
    let run = || filled(Blocks::from_heap(1), 0xA1);
    let op = chain(1, pair, log_block, run(), ledger_block, run());
    ring.start(DiskOp::Chain(op))
        .expect("the ring takes submissions");
    let mut events = Vec::new();
    until(ring, &mut events, |events| {
        events
            .iter()
            .any(|event| matches!(event, DiskEvent::Chain { .. }))
    });
    events.retain(|event| !matches!(event, DiskEvent::Chain { .. }));
    events
}

#[test]
fn a_spare_is_zeroed_whole_before_it_gets_its_name_and_goes_on_beside_chains() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    opened(&mut ring);
    ring.start(DiskOp::Prepare(PreparePair {
        pair: PairNumber(2),
        segment_blocks: 1_000,
        ledger_blocks: 300,
    }))
    .expect("the ring takes submissions");
    let mut events = Vec::new();
    for block in 1..300 {
        events.extend(write(&mut ring, 1, block, block));
        if !events.is_empty() {
            break;
        }
    }
    // Whatever the chains did not see of it.
    until(&mut ring, &mut events, |events| !events.is_empty());
    assert!(
        matches!(
            &events[..],
            [DiskEvent::Prepared {
                segment_blocks_ready: 1_000,
                recycled: false,
                ..
            }]
        ),
        "{events:?}"
    );
    let segment = fs::read(dir.path().join("wal/segment-2.log")).expect("in place");
    assert_eq!(segment, vec![0; 1_000 * BLOCK_BYTES]);
    let ledger = fs::read(dir.path().join("wal/durability-2.log")).expect("in place");
    assert_eq!(ledger, vec![0; 300 * BLOCK_BYTES]);
}

#[test]
fn a_spare_that_may_be_needed_soon_is_in_place_before_it_is_whole() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    opened(&mut ring);
    // More than three quarters are used.
    write(&mut ring, 1, 800, 1);
    ring.start(DiskOp::Prepare(PreparePair {
        pair: PairNumber(2),
        segment_blocks: 1_000,
        ledger_blocks: 300,
    }))
    .expect("the ring takes submissions");
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| {
        matches!(
            events.last(),
            Some(DiskEvent::Progress {
                segment_blocks_ready: 1_000,
                ..
            })
        )
    });
    assert!(
        matches!(
            events[0],
            DiskEvent::Prepared {
                segment_blocks_ready: 256,
                ..
            }
        ),
        "{events:?}"
    );
}

#[test]
fn a_spare_that_is_removed_while_it_is_zeroed_is_gone() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    opened(&mut ring);
    ring.start(DiskOp::Prepare(PreparePair {
        pair: PairNumber(2),
        segment_blocks: 20_000,
        ledger_blocks: 300,
    }))
    .expect("the ring takes submissions");
    write(&mut ring, 1, 1, 1);
    ring.start(DiskOp::Remove(PairNumber(2)))
        .expect("the ring takes submissions");
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| events.len() == 2);
    assert!(
        matches!(
            &events[..],
            [
                DiskEvent::PrepareFailed {
                    error: DiskError::Cancelled,
                    ..
                },
                DiskEvent::Removed {
                    outcome: Ok(()),
                    ..
                }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(names(&dir), ["durability-1.log", "segment-1.log"]);
    // The next can be made.
    prepare(&mut ring, 3, 64, 8);
}

#[test]
fn two_pairs_have_different_salts() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    for pair in [1, 2] {
        ring.start(DiskOp::Prepare(PreparePair {
            pair: PairNumber(pair),
            segment_blocks: 8,
            ledger_blocks: 8,
        }))
        .expect("the ring takes submissions");
    }
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| events.len() == 2);
    let salts: Vec<[u8; 32]> = events
        .iter()
        .map(|event| match event {
            DiskEvent::Prepared { salt, .. } => *salt,
            other => panic!("both are made, one after the other: {other:?}"),
        })
        .collect();
    assert_ne!(salts[0], salts[1]);
}

#[test]
fn a_removed_pair_is_gone_and_its_number_can_be_asked_for_again() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    prepare(&mut ring, 1, 4, 4);
    prepare(&mut ring, 2, 4, 4);
    for pair in [1, 1] {
        let events = carried(&mut ring, DiskOp::Remove(PairNumber(pair)));
        assert!(
            matches!(&events[0], DiskEvent::Removed { pair, outcome: Ok(()) } if *pair == PairNumber(1)),
            "{events:?}"
        );
    }
    let pairs: Vec<u64> = ring
        .pairs()
        .expect("listed")
        .iter()
        .map(|found| found.pair.get())
        .collect();
    assert_eq!(pairs, [2]);
    prepare(&mut ring, 1, 4, 4);
}

#[test]
fn removing_a_pair_that_is_being_made_answers_both() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let pair = PairNumber(1);
    ring.start(DiskOp::Prepare(PreparePair {
        pair,
        segment_blocks: 4096,
        ledger_blocks: 4096,
    }))
    .expect("the ring takes submissions");
    ring.start(DiskOp::Remove(pair))
        .expect("the ring takes submissions");
    let mut events = Vec::new();
    until(&mut ring, &mut events, |events| events.len() == 2);
    assert!(
        matches!(
            events[0],
            DiskEvent::PrepareFailed {
                error: DiskError::Cancelled,
                ..
            }
        ),
        "{events:?}"
    );
    assert!(
        matches!(
            events[1],
            DiskEvent::Removed {
                outcome: Ok(()),
                ..
            }
        ),
        "{events:?}"
    );
    assert_eq!(
        fs::read_dir(dir.path().join("wal"))
            .expect("listed")
            .count(),
        0
    );
}

fn retire(ring: &mut ShardRing, pair: u64, keep_blocks: Option<u32>, kept_max: u32) {
    let order = RetirePair {
        pair: PairNumber(pair),
        keep_blocks,
        kept_max,
    };
    let events = carried(ring, DiskOp::Retire(order));
    assert!(
        matches!(
            &events[..],
            [DiskEvent::Removed {
                outcome: Ok(()),
                ..
            }]
        ),
        "{events:?}"
    );
}

fn names(dir: &tempfile::TempDir) -> Vec<String> {
    let listed = fs::read_dir(dir.path().join("wal")).expect("listed");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("listed").file_name();
    let mut names: Vec<_> = listed
        .map(|entry| name(entry).into_string().expect("text"))
        .collect();
    // Those that are gone have their space given back by and by.
    names.retain(|name| !name.ends_with(".gone"));
    names.sort();
    names
}

#[test]
fn a_retired_pair_leaves_its_files_to_later_ones_of_the_same_size() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = directory();
    let wal = dir.path().join("wal");
    let inode = |name: &str| fs::metadata(wal.join(name)).expect("there").ino();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    prepare(&mut ring, 1, 600, 8);
    for (at, byte) in [(0, 0xA1), (599, 0xA2)] {
        let op = chain(
            1,
            1,
            at,
            filled(Blocks::from_heap(1), byte),
            0,
            filled(Blocks::from_heap(1), byte),
        );
        carried(&mut ring, DiskOp::Chain(op));
    }
    let op = chain(
        2,
        1,
        1,
        filled(Blocks::from_heap(598), 0xA3),
        1,
        filled(Blocks::from_heap(1), 0xA3),
    );
    carried(&mut ring, DiskOp::Chain(op));
    let old = inode("segment-1.log");
    let old_ledger = inode("durability-1.log");
    retire(&mut ring, 1, Some(600), 1);
    assert_eq!(names(&dir), ["durability-1.log.kept", "segment-1.log.kept"]);
    assert!(ring.pairs().expect("listed").is_empty());
    // Of another size: made anew. A ledger is zeroed as if it were.
    prepare(&mut ring, 2, 300, 8);
    assert_ne!(inode("segment-2.log"), old);
    assert_eq!(inode("durability-2.log"), old_ledger);
    let ledger = fs::read(wal.join("durability-2.log")).expect("read");
    assert_eq!(ledger.len(), 8 * BLOCK_BYTES);
    assert!(ledger.iter().all(|byte| *byte == 0));
    let events = carried(
        &mut ring,
        DiskOp::Prepare(PreparePair {
            pair: PairNumber(3),
            segment_blocks: 600,
            ledger_blocks: 8,
        }),
    );
    assert!(
        matches!(
            &events[..],
            [DiskEvent::Prepared {
                segment_blocks_ready: 600,
                recycled: true,
                ..
            }]
        ),
        "{events:?}"
    );
    assert_eq!(inode("segment-3.log"), old);
    let bytes = fs::read(wal.join("segment-3.log")).expect("read");
    assert_eq!(bytes.len(), 600 * BLOCK_BYTES);
    let front = SPARE_ZERO_BLOCKS as usize * BLOCK_BYTES;
    let last = 599 * BLOCK_BYTES;
    assert!(bytes[..front].iter().all(|byte| *byte == 0));
    assert!(bytes[front..last].iter().all(|byte| *byte == 0xA3));
    assert!(bytes[last..].iter().all(|byte| *byte == 0));
    let ledger = fs::read(wal.join("durability-3.log")).expect("read");
    assert!(ledger.iter().all(|byte| *byte == 0));
    // It takes chains and reads as any other.
    let op = chain(
        3,
        3,
        9,
        filled(Blocks::from_heap(2), 0xB1),
        1,
        filled(Blocks::from_heap(1), 0xB2),
    );
    carried(&mut ring, DiskOp::Chain(op));
    let bytes = read_back(&mut ring, FileId::segment(PairNumber(3)), 8, 4).expect("it reads");
    let firsts: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
    assert_eq!(firsts, [0xA3, 0xB1, 0xB1, 0xA3]);
}

#[test]
fn kept_files_are_given_back_when_fewer_may_be_kept() {
    let dir = directory();
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    for pair in 1..=4 {
        prepare(&mut ring, pair, 16, 4);
    }
    retire(&mut ring, 1, Some(16), 2);
    retire(&mut ring, 2, Some(16), 2);
    retire(&mut ring, 3, Some(16), 2);
    let pair_4 = ["durability-4.log", "segment-4.log"];
    let ledgers = ["durability-1.log.kept", "durability-2.log.kept"];
    let segments = ["segment-1.log.kept", "segment-2.log.kept"];
    let [[one, two], [three, four]] = [ledgers, segments];
    assert_eq!(names(&dir), [one, two, pair_4[0], three, four, pair_4[1]]);
    // What is gone already can't be kept.
    retire(&mut ring, 3, Some(16), 8);
    assert_eq!(names(&dir).len(), 6);
    retire(&mut ring, 4, None, 1);
    assert_eq!(names(&dir), [one, three]);
    // Of another size than what is asked for: a ledger goes, its segment may be asked for again.
    prepare(&mut ring, 5, 8, 8);
    assert_eq!(names(&dir), ["durability-5.log", three, "segment-5.log"]);
    // No pair is named: only what is kept goes.
    let order = RetirePair::give_back(0);
    retire(
        &mut ring,
        order.pair.get(),
        order.keep_blocks,
        order.kept_max,
    );
    assert_eq!(names(&dir), ["durability-5.log", "segment-5.log"]);
}

#[test]
fn a_file_that_is_gone_gives_its_space_back_piece_by_piece() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = directory();
    let wal = dir.path().join("wal");
    let [segment, ledger] = ["segment-1.log.gone", "durability-1.log.gone"];
    let [segment, ledger] = [segment, ledger].map(|name| wal.join(name));
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    prepare(&mut ring, 1, 5_000, 4);
    // Waited for while it is gone: it is freed from its end.
    let file = fs::File::open(wal.join("segment-1.log")).expect("there");
    let blocks = || file.metadata().expect("open").blocks();
    let before = blocks();
    retire(&mut ring, 1, None, 0);
    let mut seen = vec![before];
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while segment.exists() || ledger.exists() {
        assert!(std::time::Instant::now() < until, "{seen:?}");
        if seen.last() != Some(&blocks()) {
            seen.push(blocks());
        }
        ring.sleep(std::time::Duration::from_millis(5))
            .expect("the ring works");
        ring.drain(&mut Vec::new()).expect("the ring works");
    }
    assert!(seen.is_sorted_by(|a, b| a > b), "{seen:?}");
    // A file system that can't punch holes frees it at once.
    let can_punch = blocks() < before;
    assert!(!can_punch || seen.len() > 2, "{seen:?}");

    // Ended in the middle: the next start removes it.
    prepare(&mut ring, 2, 5_000, 4);
    retire(&mut ring, 2, None, 0);
    drop(ring);
    let ring = ShardRing::open(dir.path()).expect("the ring opens");
    let left = fs::read_dir(&wal).expect("listed").count();
    assert_eq!(left, 0);
    drop(ring);
}

#[test]
fn a_start_finds_what_an_earlier_one_kept_and_removes_what_is_of_no_use() {
    let dir = directory();
    let wal = dir.path().join("wal");
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    for pair in 1..=3 {
        prepare(&mut ring, pair, 16, 4);
    }
    for pair in 1..=3 {
        retire(&mut ring, pair, Some(16), 8);
    }
    prepare(&mut ring, 9, 8, 4);
    retire(&mut ring, 9, Some(8), 8);
    // One took the ledger of another.
    let ledgers = || {
        names(&dir)
            .iter()
            .filter(|name| name.starts_with("d"))
            .count()
    };
    assert_eq!(ledgers(), 3);
    drop(ring);
    // Allocated and never written: its first writes would take longer.
    let hollow = fs::File::create(wal.join("segment-7.log.kept")).expect("made");
    hollow.set_len(16 * BLOCK_BYTES as u64).expect("sized");
    // Still a pair's by its other name.
    fs::hard_link(wal.join("segment-3.log.kept"), wal.join("segment-3.log")).expect("linked");
    fs::write(wal.join("segment-5.log.new"), [1; 4096]).expect("written");
    fs::write(wal.join("segment-x.log.kept"), [1; 4096]).expect("written");
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    let others = ["segment-3.log", "segment-x.log.kept"];
    ring.keep(16, 2).expect("sorted");
    assert_eq!(ledgers(), 2);
    let segments = || {
        let mut names = names(&dir);
        names.retain(|name| name.starts_with("s"));
        names
    };
    let [one, two] = ["segment-1.log.kept", "segment-2.log.kept"];
    assert_eq!(segments(), [one, two, others[0], others[1]]);
    assert!(ring.is_written(FileId::segment(PairNumber(3))));
    assert!(!ring.is_written(FileId::segment(PairNumber(4))));
    // They count, and become pairs like those that this process kept.
    prepare(&mut ring, 10, 8, 4);
    retire(&mut ring, 10, Some(8), 2);
    assert_eq!(segments(), [one, two, others[0], others[1]]);
    assert_eq!(ledgers(), 2);
    let events = carried(
        &mut ring,
        DiskOp::Prepare(PreparePair {
            pair: PairNumber(11),
            segment_blocks: 16,
            ledger_blocks: 8,
        }),
    );
    let [DiskEvent::Prepared { recycled: true, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((segments().len(), ledgers()), (4, 1));
    drop(ring);
    let mut ring = ShardRing::open(dir.path()).expect("the ring opens");
    ring.keep(16, 0).expect("sorted");
    assert!(!names(&dir).iter().any(|name| name == one || name == two));
}
