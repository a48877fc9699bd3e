//! However large what has to be written is, the pair that is made for it has room.

mod support;

use clustor_shards::disk::{DiskOp, FileId};
use clustor_shards::log::{LogOptions, Mode, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, PartitionId};
use support::{MemoryDisk, TestKey, append, durable, identity, pool};

/// Turns within which a log that has something to do comes to rest.
const TURNS_MAX: u64 = 200;

fn recover(disk: &mut MemoryDisk, options: LogOptions) -> ShardLog {
    ShardLog::recover(disk, identity(), options, &TestKey(9), pool())
        .expect("recovers")
        .log
}

/// Carries operations until nothing is left to do; the number of pairs that were asked for.
fn settle(log: &mut ShardLog, disk: &mut MemoryDisk) -> usize {
    let mut retirement = Retirement::default();
    let mut prepared = 0;
    for turn in 0..TURNS_MAX {
        let now = Time(0).plus_ms(turn);
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        if ops.is_empty() && log.is_settled() {
            return prepared;
        }
        for op in ops {
            prepared += usize::from(matches!(op, DiskOp::Prepare(_)));
            let event = disk.carry(op);
            log.on_event(now, event, &mut retirement);
        }
    }
    panic!("the log never comes to rest: {prepared} pairs were asked for");
}

/// The chains that are due reach their segments, and the process ends before anything else happens.
fn die_with_extents_written(mut log: ShardLog, disk: &mut MemoryDisk) -> usize {
    let mut ops = Vec::new();
    log.poll(Time(0), &mut ops);
    let mut chains = 0;
    for op in ops {
        if let DiskOp::Chain(chain) = op {
            let at = chain.log_block as usize;
            disk.file(FileId::segment(chain.pair))[at..at + chain.log.len()]
                .copy_from_slice(chain.log.as_slice());
            chains += 1;
        }
    }
    chains
}

#[test]
fn a_tail_of_long_entries_behind_a_large_checkpoint_is_written_again() {
    for partitions in [1, 50, 100, 150, 200, 300] {
        let options = LogOptions::for_segment_bytes(1 << 20);
        let longest = vec![7; options.entry_body_bytes_max];
        let mut disk = MemoryDisk::default();
        let mut log = recover(&mut disk, options);
        settle(&mut log, &mut disk);
        for partition in 1..=partitions {
            log.create_partition(PartitionId(partition), Incarnation(5), &[7; 60]);
        }
        settle(&mut log, &mut disk);
        drop(log);
        let mut log = recover(&mut disk, options);
        settle(&mut log, &mut disk);
        for index in 1..=2 {
            append(&mut log, 1, 1, index, &longest, Mode::Strict);
        }
        let mut ops = Vec::new();
        log.poll(Time(0), &mut ops);
        for op in ops {
            let event = disk.carry(op);
            log.on_event(Time(0), event, &mut Retirement::default());
        }
        assert_eq!(durable(&log, 1), 2);
        for index in 3..=4 {
            append(&mut log, 1, 1, index, &longest, Mode::Strict);
        }
        assert_eq!(die_with_extents_written(log, &mut disk), 2);
        let mut log = recover(&mut disk, options);
        let prepared = settle(&mut log, &mut disk);
        assert!(log.is_open(), "{partitions} partitions");
        assert_eq!(durable(&log, 1), 4);
        assert!(
            prepared <= 3,
            "{partitions} partitions: {prepared} pairs asked for"
        );
    }
}

#[test]
fn a_tail_of_a_large_segment_is_written_again_into_smaller_ones() {
    let large = LogOptions::for_segment_bytes(4 << 20);
    for small_bytes in [128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20] {
        let mut disk = MemoryDisk::default();
        let mut log = recover(&mut disk, large);
        settle(&mut log, &mut disk);
        log.create_partition(PartitionId(1), Incarnation(5), b"voters");
        settle(&mut log, &mut disk);
        for index in 1..=3 {
            append(&mut log, 1, 1, index, &[7; 100_000], Mode::Strict);
        }
        assert_eq!(die_with_extents_written(log, &mut disk), 3);
        let mut log = recover(&mut disk, LogOptions::for_segment_bytes(small_bytes));
        let prepared = settle(&mut log, &mut disk);
        assert!(log.is_open());
        assert_eq!(durable(&log, 1), 3);
        assert!(
            prepared <= 3,
            "{small_bytes} bytes: {prepared} pairs asked for"
        );
    }
}

#[test]
fn an_entry_longer_than_the_segments_of_the_profile_gets_one_that_has_room() {
    for bytes in [200_000, 300_000, 1 << 20] {
        let mut disk = MemoryDisk::default();
        let options = LogOptions::for_segment_bytes(256 << 10);
        let mut log = recover(&mut disk, options);
        settle(&mut log, &mut disk);
        log.create_partition(PartitionId(1), Incarnation(5), b"voters");
        settle(&mut log, &mut disk);
        append(&mut log, 1, 1, 1, &vec![7; bytes], Mode::Group);
        append(&mut log, 1, 1, 2, &[7; 100], Mode::Group);
        let prepared = settle(&mut log, &mut disk);
        assert_eq!(durable(&log, 1), 2);
        assert!(prepared <= 3, "{bytes} bytes: {prepared} pairs asked for");
        // It is read back by the next start, and what follows goes into segments of the profile's size again.
        drop(log);
        let mut log = recover(&mut disk, options);
        assert!(settle(&mut log, &mut disk) <= 3);
        assert_eq!(durable(&log, 1), 2);
    }
}
