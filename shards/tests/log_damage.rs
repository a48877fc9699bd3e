//! One flipped bit, anywhere: a defined outcome, never a wrong record, never an acknowledged entry cut off.

mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::FileId;
use clustor_shards::log::record::records;
use clustor_shards::log::recovery::Damage;
use clustor_shards::log::{HardState, LogIdentity, Mode, RecoverError, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PairNumber, PartitionId, Term};
use support::{
    MemoryDisk, TestKey, append, durable, identity, options, pool, recover, settle, start,
};

const P: PartitionId = PartitionId(1);
const ENTRIES: u64 = 60;

fn body(index: u64) -> Vec<u8> {
    vec![index as u8; 700]
}

/// A disk with two pairs: 60 entries in twenty chains, a vote in the middle, everything retired.
fn written() -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=ENTRIES {
        append(&mut log, 1, 1, index, &body(index), Mode::Group);
        if index == ENTRIES / 2 {
            log.hard_state(P, vote());
        }
        if index % 3 == 0 {
            settle(&mut log, &mut disk);
        }
    }
    // A chain behind the last one of interest, so that it is known to have retired.
    log.hard_state(P, vote());
    settle(&mut log, &mut disk);
    disk
}

fn vote() -> HardState {
    HardState {
        term: Term(1),
        vote: Some(NodeId(2)),
    }
}

fn frames_at(log: &mut ShardLog, disk: &mut MemoryDisk, index: u64) -> Option<Vec<u8>> {
    let mut ops = Vec::new();
    log.read(P, LogIndex(index), &mut ops).ok()?;
    let mut retirement = Retirement::default();
    while !ops.is_empty() {
        for op in core::mem::take(&mut ops) {
            let event = disk.carry(op);
            log.on_event(Time(0), event, &mut retirement);
        }
        if retirement.reads.is_empty() {
            log.poll(Time(0), &mut ops);
        }
    }
    retirement.reads.pop()?.frames
}

/// Every entry is there with its own bytes or known to be missing; the log is as long as it was; the vote stands.
fn check_nothing_lost(disk: &mut MemoryDisk, what: &str) -> u64 {
    let recovery = recover(disk);
    let mut log = recovery.log;
    if log.quarantine().is_some() {
        return u64::MAX;
    }
    settle(&mut log, disk);
    assert!(log.is_open(), "{what}");
    let partition = log.partition(P).expect(what).clone();
    assert_eq!(partition.last, LogIndex(ENTRIES), "{what}");
    assert_eq!(partition.hard_state, vote(), "{what}");
    assert_eq!(durable(&log, 1), partition.whole_until().get(), "{what}");
    for index in 1..=ENTRIES {
        if partition.is_missing(LogIndex(index)) {
            continue;
        }
        let frames = frames_at(&mut log, disk, index).expect(what);
        let first = records(&frames).next().expect(what).expect(what);
        assert_eq!(first.body, body(index), "{what}");
        assert_eq!(first.header.index, LogIndex(index), "{what}");
    }
    partition.missing_count()
}

fn touched_blocks(disk: &MemoryDisk, file: FileId) -> Vec<u32> {
    let is_touched = |block: &Block| block.0.iter().any(|byte| *byte != 0);
    (0u32..)
        .zip(&disk.files[&file])
        .filter(|(_, block)| is_touched(block))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn a_flipped_bit_anywhere_in_a_segment_loses_no_identity() {
    let disk = written();
    let files: Vec<FileId> = disk.files.keys().copied().collect();
    let mut missing_seen = 0;
    for file in files
        .into_iter()
        .filter(|file| *file == FileId::segment(file.pair))
    {
        for block in touched_blocks(&disk, file) {
            for bit in [8 * 100 + 3, 8 * 4090 + 7] {
                let mut damaged = disk.clone();
                damaged.flip(file, block, bit);
                let what = format!("{file} block {block} bit {bit}");
                let missing = check_nothing_lost(&mut damaged, &what);
                assert_ne!(missing, u64::MAX, "quarantined: {what}");
                missing_seen = missing_seen.max(missing);
                let again = check_nothing_lost(&mut damaged, &what);
                assert_eq!(again, missing, "missing stays missing: {what}");
            }
        }
    }
    assert!(missing_seen >= 3, "some flip hit an extent of entries");
}

#[test]
fn a_flipped_bit_anywhere_in_a_ledger_loses_nothing() {
    let disk = written();
    let files: Vec<FileId> = disk.files.keys().copied().collect();
    for file in files
        .into_iter()
        .filter(|file| *file == FileId::ledger(file.pair))
    {
        for block in touched_blocks(&disk, file) {
            for bit in [8 * 20, 8 * 4080] {
                let mut damaged = disk.clone();
                damaged.flip(file, block, bit);
                let what = format!("{file} block {block} bit {bit}");
                assert_eq!(check_nothing_lost(&mut damaged, &what), 0, "{what}");
            }
        }
    }
}

#[test]
fn rot_in_an_extent_and_in_its_slot_quarantines_and_keeps_what_lies_under_it() {
    let disk = written();
    let newest = newest_used(&disk);
    let slots = touched_blocks(&disk, FileId::ledger(newest));
    let slot = slots[slots.len() - 3];
    let segment = touched_blocks(&disk, FileId::segment(newest));
    let mut damaged = disk.clone();
    damaged.flip(FileId::ledger(newest), slot, 9);
    for block in segment.iter().rev().take(6) {
        damaged.flip(FileId::segment(newest), *block, 9);
    }
    let recovery = recover(&mut damaged);
    assert!(recovery.log.quarantine().is_some());
    assert!(recovery.log.partition(P).expect("there").last < LogIndex(ENTRIES));
    let mut ops = Vec::new();
    let mut log = recovery.log;
    log.poll(Time(0), &mut ops);
    assert!(ops.is_empty(), "a quarantined log writes nothing");
}

fn newest_used(disk: &MemoryDisk) -> PairNumber {
    disk.files
        .keys()
        .map(|file| file.pair)
        .filter(|pair| touched_blocks(disk, FileId::ledger(*pair)).len() > 3)
        .max()
        .expect("a used pair")
}

#[test]
fn a_checkpoint_bad_in_both_files_quarantines() {
    let mut disk = written();
    let newest = newest_used(&disk);
    disk.flip(FileId::segment(newest), 1, 77);
    disk.flip(FileId::ledger(newest), 1, 77);
    let quarantine = recover(&mut disk).log.quarantine().cloned();
    assert_eq!(quarantine.expect("quarantined").pair, newest);
}

#[test]
fn a_header_bad_in_one_file_is_taken_from_the_other_and_reported() {
    let mut disk = written();
    let newest = newest_used(&disk);
    disk.flip(FileId::segment(newest), 0, 8 * 60);
    let report = recover(&mut disk).report;
    assert!(
        report
            .incidents
            .iter()
            .any(|incident| incident.damage == Damage::Header && incident.pair == newest)
    );
    assert_eq!(report.missing, 0);
}

#[test]
fn an_unretired_tail_with_an_untouched_slot_is_cut() {
    let mut disk = written();
    let newest = newest_used(&disk);
    let last_slot = *touched_blocks(&disk, FileId::ledger(newest))
        .last()
        .expect("one");
    let last_extent = *touched_blocks(&disk, FileId::segment(newest))
        .last()
        .expect("one");
    disk.files.get_mut(&FileId::ledger(newest)).expect("there")[last_slot as usize] = Block::ZERO;
    disk.flip(FileId::segment(newest), last_extent, 4);
    let recovery = recover(&mut disk);
    assert!(recovery.report.torn.is_some());
    assert!(recovery.log.quarantine().is_none());
    assert_eq!(recovery.report.missing, 0);
}

#[test]
fn another_nodes_directory_and_another_key_are_refused_by_name() {
    let mut disk = written();
    let other = LogIdentity {
        node: NodeId(9),
        ..identity()
    };
    let refused = |disk: &mut MemoryDisk, identity, key| {
        ShardLog::recover(disk, identity, options(), &TestKey(key), pool())
            .err()
            .expect("refused")
    };
    let error = refused(&mut disk, other, 9);
    assert!(matches!(error, RecoverError::Foreign { .. }), "{error}");
    let error = refused(&mut disk, identity(), 8);
    assert!(matches!(error, RecoverError::WrongKey { .. }), "{error}");
}

#[test]
fn a_disk_that_lost_a_listed_older_pair_reports_its_entries_as_missing() {
    let mut disk = written();
    // A restart lists the pair before as older; then that pair's files vanish.
    let older = newest_used(&disk);
    start(&mut disk);
    disk.files.remove(&FileId::segment(older));
    disk.files.remove(&FileId::ledger(older));
    let recovery = recover(&mut disk);
    assert!(recovery.log.quarantine().is_none());
    let partition = recovery.log.partition(P).expect("there");
    assert_eq!(partition.last, LogIndex(ENTRIES));
    assert!(partition.missing_count() > 0);
    assert_eq!(partition.hard_state, vote());
}
