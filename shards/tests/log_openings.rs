//! Which pair a start believes: spares and openings that nothing had spoken for are passed over whatever rot is in them, and a pair
//! that spoke never is.

mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::{FileId, FileKind, SPARE_ZERO_BLOCKS};
use clustor_shards::log::{Mode, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, PairNumber, PartitionId};
use support::written::{ENTRIES, P, newest_used, touched_blocks, vote, written};
use support::{MemoryDisk, append, durable, recover, settle, start};

#[test]
fn one_flipped_bit_in_a_spare_that_was_never_opened_silences_nobody() {
    let disk = written();
    let spare = *disk.files.keys().last().expect("a pair is there");
    assert!(spare.pair > newest_used(&disk));
    for kind in [FileKind::Ledger, FileKind::Segment] {
        let file = FileId {
            pair: spare.pair,
            kind,
        };
        for block in 0..disk.files[&file].len() as u32 {
            let mut disk = disk.clone();
            disk.flip(file, block, 8 * 2000 + 1);
            let mut log = recover(&mut disk).log;
            assert_eq!(log.quarantine(), None, "{file} block {block}");
            settle(&mut log, &mut disk);
            assert_eq!(durable(&log, 1), ENTRIES, "{file} block {block}");
        }
    }
}

/// The blocks that every pair that spoke has written to.
fn front_of(pair: PairNumber) -> Vec<(FileId, u32)> {
    let files = [FileId::segment(pair), FileId::ledger(pair)];
    let blocks = |file| (0..SPARE_ZERO_BLOCKS).map(move |block| (file, block));
    files.into_iter().flat_map(blocks).collect()
}

/// Starts on a disk that lacks nothing but a whole spare.
fn check_nobody_is_silent(mut disk: MemoryDisk, what: &str) {
    let mut log = recover(&mut disk).log;
    assert_eq!(log.quarantine(), None, "{what}");
    settle(&mut log, &mut disk);
    assert_eq!(durable(&log, 1), ENTRIES, "{what}");
}

#[test]
fn rot_in_several_blocks_of_a_spare_silences_nobody() {
    let disk = written();
    let spare = disk.files.keys().last().expect("a pair is there").pair;
    assert!(spare > newest_used(&disk));
    let ledger = FileId::ledger(spare);
    let front = front_of(spare);
    let behind = [4, 5, disk.files[&ledger].len() as u32 - 1];
    let mut places = front.clone();
    places.extend(behind.map(|block| (ledger, block)));
    for (at, one) in places.iter().enumerate() {
        for other in &places[at + 1..] {
            let mut disk = disk.clone();
            for (file, block) in [one, other] {
                disk.flip(*file, *block, 8 * 2000 + 1);
            }
            check_nobody_is_silent(disk, &format!("{one:?} and {other:?}"));
        }
    }
    for spared in &front {
        let mut disk = disk.clone();
        for (file, block) in places.iter().filter(|place| *place != spared) {
            disk.flip(*file, *block, 8 * 2000 + 1);
        }
        check_nobody_is_silent(disk, &format!("all but {spared:?}"));
    }
}

#[test]
fn rot_in_a_spare_of_which_one_file_has_no_name_yet_silences_nobody() {
    let disk = written();
    let spare = disk.files.keys().last().expect("a pair is there").pair;
    for missing in [FileId::segment(spare), FileId::ledger(spare)] {
        for (file, block) in front_of(spare) {
            let mut disk = disk.clone();
            disk.files.remove(&missing);
            if file != missing {
                disk.flip(file, block, 8 * 2000 + 1);
                check_nobody_is_silent(disk, &format!("{file} block {block}"));
            }
        }
    }
}

/// What a crash in the opening of the next pair leaves: these of its first blocks, and zeros.
fn opening_cut_short(segment: &[u32], ledger: &[u32]) -> (MemoryDisk, PairNumber) {
    opening_cut_short_on(written(), segment, ledger)
}

fn opening_cut_short_on(
    disk: MemoryDisk,
    segment: &[u32],
    ledger: &[u32],
) -> (MemoryDisk, PairNumber) {
    let mut disk = disk;
    let mut after = disk.clone();
    let mut log = recover(&mut after).log;
    settle(&mut log, &mut after);
    let pair = newest_used(&after);
    assert!(pair > newest_used(&disk));
    for (file, landed) in [
        (FileId::segment(pair), segment),
        (FileId::ledger(pair), ledger),
    ] {
        let all = (0..).zip(&after.files[&file]);
        let left = all.map(|(number, block)| match landed.contains(&number) {
            true => *block,
            false => Block::ZERO,
        });
        disk.files.insert(file, left.collect());
    }
    (disk, pair)
}

#[test]
fn rot_behind_an_opening_that_a_crash_cut_short_silences_nobody_and_loses_nothing() {
    for landed in [&[0][..], &[0, 1], &[1, 2], &[0, 1, 2]] {
        let (disk, pair) = opening_cut_short(landed, &[]);
        check_nobody_is_silent(disk.clone(), &format!("{landed:?} landed"));
        for file in [FileId::ledger(pair), FileId::segment(pair)] {
            for block in 0..disk.files[&file].len() as u32 {
                let what = format!("{landed:?} landed, {file} {block}");
                let mut flipped = disk.clone();
                flipped.flip(file, block, 8 * 1000 + 2);
                check_nobody_is_silent(flipped, &what);
                // A whole block of something else, where nothing had been written.
                if !landed.contains(&block) || file.kind == FileKind::Ledger {
                    let mut overwritten = disk.clone();
                    overwritten.file(file)[block as usize].0.fill(0x5a);
                    check_nobody_is_silent(overwritten, &what);
                }
            }
        }
    }
}

#[test]
fn rot_in_the_header_of_an_opening_of_which_the_ledger_was_cut_short_silences_nobody() {
    let blocks = [0, 1, 2];
    for landed in 0u32..7 {
        let ledger: Vec<u32> = (0..3).filter(|block| landed & 1 << block != 0).collect();
        let (disk, pair) = opening_cut_short(&blocks, &ledger);
        check_nobody_is_silent(disk.clone(), &format!("{ledger:?} landed"));
        for file in [FileId::ledger(pair), FileId::segment(pair)] {
            for block in 0..6 {
                let mut disk = disk.clone();
                disk.flip(file, block, 100);
                check_nobody_is_silent(disk, &format!("{ledger:?} landed, {file} {block}"));
            }
        }
    }
    // The ledger's header was torn within, and the other one is rotten.
    for torn in [0..512, 3584..4096] {
        let (mut disk, pair) = opening_cut_short(&blocks, &blocks);
        disk.file(FileId::ledger(pair))[0].0[torn.clone()].fill(0);
        disk.flip(FileId::segment(pair), 0, 100);
        check_nobody_is_silent(disk, &format!("{torn:?} did not land"));
    }
}

/// A disk whose next opening has a checkpoint of several blocks: of so many partitions.
const PARTITIONS: u128 = 40;

fn written_wide() -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    for partition in 1..=PARTITIONS {
        log.create_partition(PartitionId(partition), Incarnation(5), &[3; 300]);
        append(&mut log, partition, 1, 1, &[7; 300], Mode::Group);
        settle(&mut log, &mut disk);
    }
    // Its last chain is known to have retired.
    log.hard_state(PartitionId(1), vote());
    settle(&mut log, &mut disk);
    disk
}

/// Block 3 of the segment is the checkpoint's then, and tells nothing of a mark. Without either header the shard falls silent, where
/// it could not know that nobody had spoken; with one it does not, and in no case it goes on without what it had.
#[test]
fn an_opening_of_several_blocks_that_a_crash_cut_short_loses_nothing() {
    let disk = written_wide();
    let mut after = disk.clone();
    let mut log = recover(&mut after).log;
    settle(&mut log, &mut after);
    let ledger = FileId::ledger(newest_used(&after));
    // The last is the mark's.
    let blocks = touched_blocks(&after, ledger).len() as u32 - 1;
    assert!(blocks > 2 + SPARE_ZERO_BLOCKS, "{blocks}");
    let all: Vec<u32> = (0..blocks).collect();
    let mut silent = 0;
    for from in 0..=blocks {
        let landed: Vec<u32> = (from..blocks).collect();
        let (disk, pair) = opening_cut_short_on(disk.clone(), &all, &landed);
        let files = [FileId::segment(pair), FileId::ledger(pair)];
        let rotten = files
            .into_iter()
            .flat_map(|file| (0..blocks + 2).map(move |block| (file, block)));
        for rot in rotten.map(Some).chain([None]) {
            let what = format!("ledger from block {from} on, rot {rot:?}");
            let mut disk = disk.clone();
            if let Some((file, block)) = rot {
                disk.flip(file, block, 100);
            }
            let mut log = recover(&mut disk).log;
            if let Some(quarantine) = log.quarantine() {
                assert_eq!(quarantine.what, "both headers are bad", "{what}");
                assert_eq!(rot, Some((FileId::segment(pair), 0)), "{what}");
                assert!(from > 0, "{what}: the ledger's header is whole");
                silent += 1;
                continue;
            }
            settle(&mut log, &mut disk);
            for partition in 1..=PARTITIONS {
                assert_eq!(durable(&log, partition), 1, "{what}: partition {partition}");
            }
        }
    }
    assert!(silent < blocks, "nothing of the ledger landed: a spare");
}

/// A log, the files of the pair that it was using, and the blocks of the ledger that were written.
fn spoken() -> (MemoryDisk, FileId, FileId, Vec<u32>) {
    let disk = written();
    let newest = newest_used(&disk);
    let (segment, ledger) = (FileId::segment(newest), FileId::ledger(newest));
    let touched = touched_blocks(&disk, ledger);
    assert!(touched.len() > 4);
    (disk, segment, ledger, touched)
}

#[test]
fn a_pair_that_spoke_tells_though_its_headers_and_all_but_one_block_of_its_ledger_are_rotten() {
    let (disk, segment, ledger, touched) = spoken();
    let mut disk = disk;
    disk.flip(segment, 0, 77);
    for block in &touched {
        disk.flip(ledger, *block, 8 * 2000 + 1);
    }
    let silenced = |mut disk: MemoryDisk, what: &str| {
        let log = recover(&mut disk).log;
        let quarantine = log.quarantine().expect(what);
        assert_eq!(quarantine.what, "both headers are bad", "{what}");
    };
    silenced(disk.clone(), "all are rotten, none is blank");
    for whole in touched.iter().skip(1) {
        for blank in touched.iter().filter(|block| *block != whole) {
            let mut disk = disk.clone();
            disk.flip(ledger, *whole, 8 * 2000 + 1);
            disk.file(ledger)[*blank as usize] = Block::ZERO;
            silenced(disk, &format!("{whole} is whole, {blank} is lost"));
        }
    }
}

#[test]
fn a_pair_that_spoke_is_never_taken_for_a_spare_though_its_segment_reads_as_zeros() {
    let (disk, segment, ledger, touched) = spoken();
    // The disk lost the segment, and the ledger's header is rotten: two faults, and still it tells.
    let mut disk = disk;
    disk.file(segment).fill(Block::ZERO);
    disk.flip(ledger, 0, 77);
    // And whatever of the rest of the ledger reads as zeros, as long as one block beside it does not.
    for keep in touched.iter().skip(1) {
        let mut disk = disk.clone();
        for block in touched.iter().skip(1).filter(|block| *block != keep) {
            disk.file(ledger)[*block as usize] = Block::ZERO;
        }
        let log = recover(&mut disk).log;
        assert!(log.quarantine().is_some(), "block {keep} is left");
    }
}

/// Whoever heard of a chain that a start does not know of takes the disk for an older image of itself.
fn check_a_start_knows_what_was_said(log: &ShardLog, disk: &MemoryDisk) {
    let said = log.retired_chain();
    let again = recover(&mut disk.clone()).log;
    let last = again.past_boots().last().expect("it was open");
    assert_eq!(last.boot, log.boot());
    assert!(
        last.last >= said,
        "said {said}, a start knows {}",
        last.last
    );
}

/// A log that wrote something, and the first index that it has not.
fn begun(disk: &mut MemoryDisk) -> (ShardLog, u64) {
    let mut log = start(disk);
    log.create_partition(P, Incarnation(5), b"voters");
    append(&mut log, 1, 1, 1, &[7; 900], Mode::Group);
    settle(&mut log, disk);
    (log, 2)
}

#[test]
fn what_a_log_says_of_its_chains_at_any_moment_a_start_knows_of() {
    let mut disk = MemoryDisk::default();
    let (mut log, mut next) = begun(&mut disk);
    let first = log.current_pair();
    while log.current_pair().get() < first.get() + 3 {
        append(&mut log, 1, 1, next, &[7; 900], Mode::Group);
        next += 1;
        let mut ops = Vec::new();
        log.poll(Time(0), &mut ops);
        for op in ops {
            let event = disk.carry(op);
            log.on_event(Time(0), event, &mut Retirement::default());
            check_a_start_knows_what_was_said(&log, &disk);
        }
    }
}

#[test]
fn a_log_that_fails_between_an_opening_and_its_mark_says_nothing_of_the_opening() {
    let mut disk = MemoryDisk::default();
    let (mut log, mut next) = begun(&mut disk);
    let pair = log.current_pair();
    // A read that never ends.
    let mut never_carried = Vec::new();
    log.read(P, LogIndex(1), &mut never_carried)
        .expect("it is there");
    while log.current_pair() == pair {
        append(&mut log, 1, 1, next, &[7; 900], Mode::Group);
        next += 1;
        let mut ops = Vec::new();
        log.poll(Time(0), &mut ops);
        for op in ops {
            let event = disk.carry(op);
            log.on_event(Time(0), event, &mut Retirement::default());
        }
    }
    assert_eq!(log.chains_in_flight(), 0, "the opening has retired");
    let mut now = Time(0);
    while log.failure().is_none() {
        now = now.plus_ms(1000);
        log.watch_disk(now);
    }
    let mut ops = Vec::new();
    log.poll(now, &mut ops);
    assert!(ops.is_empty(), "there will be no mark");
    check_a_start_knows_what_was_said(&log, &disk);
    assert_eq!(newest_used(&disk), pair);
}
