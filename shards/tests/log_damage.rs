//! One flipped bit, anywhere: a defined outcome, never a wrong record, never an acknowledged entry cut off.

mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::{DiskError, FileId, FileKind};
use clustor_shards::log::record::records;
use clustor_shards::log::recovery::Damage;
use clustor_shards::log::{
    LogIdentity, LogOptions, LogRefusal, Mode, OnAuthenticationFailure, RecoverError, Retirement,
    ShardLog,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PairNumber, Term};
use support::written::{ENTRIES, P, body, newest_used, touched_blocks, vote, written};
use support::{
    MemoryDisk, TestKey, append, durable, identity, options, pool, recover, settle, start,
};

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

/// Every entry is there with its own bytes or found to be missing; the log is as long as it was; the vote stands.
/// Returns how many are missing: known at the start, and once everything was read.
fn check_nothing_lost(disk: &mut MemoryDisk, what: &str) -> Option<(u64, u64)> {
    let recovery = recover(disk);
    let mut log = recovery.log;
    if log.quarantine().is_some() {
        return None;
    }
    settle(&mut log, disk);
    assert!(log.is_open(), "{what}");
    let at_start = log.partition(P).expect(what).missing_count();
    for index in 1..=ENTRIES {
        if log.partition(P).expect(what).is_missing(LogIndex(index)) {
            continue;
        }
        let Some(frames) = frames_at(&mut log, disk, index) else {
            let partition = log.partition(P).expect(what);
            assert!(partition.is_missing(LogIndex(index)), "{what}");
            assert!(log.found_rotten() > 0, "{what}");
            continue;
        };
        let first = records(&frames).next().expect(what).expect(what);
        assert_eq!(first.body, body(index), "{what}");
        assert_eq!(first.header.index, LogIndex(index), "{what}");
    }
    let partition = log.partition(P).expect(what);
    assert_eq!(partition.last, LogIndex(ENTRIES), "{what}");
    assert_eq!(partition.hard_state, vote(), "{what}");
    let missing = partition.missing_count();
    assert_eq!(durable(&log, 1), partition.whole_until().get(), "{what}");
    settle(&mut log, disk);
    Some((at_start, missing))
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
                let found = check_nothing_lost(&mut damaged, &what);
                let (_, missing) = found.unwrap_or_else(|| panic!("quarantined: {what}"));
                missing_seen = missing_seen.max(missing);
                let again = check_nothing_lost(&mut damaged, &what);
                assert_eq!(
                    again,
                    Some((missing, missing)),
                    "missing stays missing: {what}"
                );
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
                assert_eq!(
                    check_nothing_lost(&mut damaged, &what),
                    Some((0, 0)),
                    "{what}"
                );
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

/// Both copies of a chain are bad: its extent and its slot.
fn lose_chain(disk: &mut MemoryDisk, slot_from_last: usize) {
    let newest = newest_used(disk);
    let slots = touched_blocks(disk, FileId::ledger(newest));
    let slot = slots[slots.len() - slot_from_last];
    let segment = touched_blocks(disk, FileId::segment(newest));
    // Every extent at the end is one block: the last holds the vote, the one before it three entries.
    let extent = segment[segment.len() - slot_from_last];
    disk.flip(FileId::ledger(newest), slot, 9);
    disk.flip(FileId::segment(newest), extent, 9);
}

#[test]
fn what_stands_before_damage_that_nobody_can_name_is_read_and_vouched_for_by_nobody() {
    // In the last chain, in the one before it, of which nothing says that it had retired, and in one that had.
    for (from_last, until) in [(1, ENTRIES), (2, ENTRIES - 3), (4, ENTRIES - 6)] {
        let mut disk = written();
        lose_chain(&mut disk, from_last);
        let what = format!("chain {from_last} from the last");
        let mut log = recover(&mut disk).log;
        assert!(log.quarantine().expect(&what).prefix_stands, "{what}");
        assert_eq!(log.stands_until(P), Some(LogIndex(until)), "{what}");
        assert_eq!(log.durable(P), None, "{what}");
        for index in 1..=until {
            let frames = frames_at(&mut log, &mut disk, index).expect(&what);
            let first = records(&frames).next().expect(&what).expect(&what);
            assert_eq!(first.body, body(index), "{what}");
        }
        assert_eq!(frames_at(&mut log, &mut disk, until + 1), None, "{what}");
        assert_eq!(log.durable(P), None, "{what}");
    }
}

#[test]
fn nothing_is_read_before_damage_that_is_no_place_in_the_log() {
    let mut disk = written();
    lose_chain(&mut disk, 4);
    let wary = LogOptions {
        on_authentication_failure: OnAuthenticationFailure::Quarantine,
        ..options()
    };
    let recover_so = |disk: &mut MemoryDisk| {
        let recovered = ShardLog::recover(disk, identity(), wary, &TestKey(9), pool());
        recovered.expect("recovers").log
    };
    let log = recover_so(&mut disk.clone());
    assert!(log.quarantine().is_some());
    assert_eq!(log.stands_until(P), None, "who suspects tampering");
    let newest = newest_used(&disk);
    for file in [FileId::segment(newest), FileId::ledger(newest)] {
        disk.flip(file, 1, 9);
    }
    let log = recover(&mut disk).log;
    assert!(log.quarantine().is_some());
    assert_eq!(log.stands_until(P), None, "without a checkpoint");
    let log = recover(&mut written()).log;
    assert_eq!(
        log.stands_until(P),
        None,
        "an open log vouches for what it holds"
    );
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
fn a_header_bad_in_one_file_is_restored_from_the_other_and_reported() {
    for kind in [FileKind::Segment, FileKind::Ledger] {
        let mut disk = written();
        let newest = newest_used(&disk);
        for pair in [newest, PairNumber(2)] {
            let file = FileId { pair, kind };
            let whole = disk.files[&file][0];
            disk.flip(file, 0, 8 * 60);
            let report = recover(&mut disk).report;
            let found = report
                .incidents
                .iter()
                .any(|found| found.damage == Damage::Header && found.pair == pair);
            assert!(found, "{file}: {:?}", report.incidents);
            assert_eq!(report.missing, 0);
            assert_ne!(
                disk.files[&file][0].0, whole.0,
                "a recovery alone writes nothing"
            );
            start(&mut disk);
            assert_eq!(disk.files[&file][0].0, whole.0, "{file}");
            assert_eq!(recover(&mut disk).report.incidents, [], "{file}");
        }
    }
}

#[test]
fn headers_bad_in_both_files_quarantine_the_newest_pair_and_leave_an_older_ones_entries_missing() {
    let disk = written();
    let newest = newest_used(&disk);
    let mut damaged = disk.clone();
    for file in [FileId::segment(newest), FileId::ledger(newest)] {
        damaged.flip(file, 0, 8 * 60);
    }
    let quarantine = recover(&mut damaged)
        .log
        .quarantine()
        .cloned()
        .expect("quarantined");
    assert_eq!(quarantine.pair, newest);
    let said = quarantine.to_string();
    assert!(
        said.contains("both headers") && said.contains("docs/operations.md#quarantine"),
        "{said}"
    );

    // What an older pair held stands in the newest pair's checkpoint, so nothing of it is unknown.
    let mut damaged = disk.clone();
    for file in [
        FileId::segment(PairNumber(2)),
        FileId::ledger(PairNumber(2)),
    ] {
        damaged.flip(file, 0, 8 * 60);
    }
    let recovery = recover(&mut damaged);
    assert!(recovery.log.quarantine().is_none());
    assert!(recovery.report.missing > 0);
    let incidents = recovery.report.incidents;
    assert!(
        incidents.iter().any(|found| found.damage == Damage::Pair),
        "{incidents:?}"
    );
}

#[test]
fn rot_of_known_identity_quarantines_where_the_profile_asks_for_it() {
    let asked = LogOptions {
        on_authentication_failure: OnAuthenticationFailure::Quarantine,
        ..options()
    };
    let recover_so = |disk: &mut MemoryDisk| {
        ShardLog::recover(disk, identity(), asked, &TestKey(9), pool()).expect("recovers")
    };
    // Above the last certain chain, at the start.
    let disk = written();
    let newest = newest_used(&disk);
    let last = *touched_blocks(&disk, FileId::segment(newest))
        .last()
        .expect("one");
    let mut damaged = disk.clone();
    damaged.flip(FileId::segment(newest), last, 99);
    assert!(recover(&mut damaged).log.quarantine().is_none());
    let quarantine = recover_so(&mut damaged)
        .log
        .quarantine()
        .cloned()
        .expect("quarantined");
    assert_eq!(quarantine.pair, newest);
    assert!(
        quarantine.to_string().contains("on_authentication_failure"),
        "{quarantine}"
    );
    // Below it, when the entries are read.
    let mut damaged = disk.clone();
    let held = touched_blocks(&disk, FileId::segment(PairNumber(2)));
    damaged.flip(FileId::segment(PairNumber(2)), held[held.len() / 2], 99);
    let mut log = recover_so(&mut damaged).log;
    assert!(log.quarantine().is_none());
    settle(&mut log, &mut damaged);
    assert!(log.durable(P).is_some());
    let rotten = (1..=ENTRIES).find(|index| frames_at(&mut log, &mut damaged, *index).is_none());
    assert!(rotten.is_some());
    assert_eq!(log.quarantine().expect("quarantined").pair, PairNumber(2));
    assert!(log.durable(P).is_none(), "it vouches for nothing any more");
    assert!(matches!(log.admit(1), Err(LogRefusal::Quarantined(_))));
    // The next start reads no extent so far down: what it holds was written before the log fell silent.
    let retirement = settle(&mut log, &mut damaged);
    assert!(retirement.durable.is_empty(), "{:?}", retirement.durable);
    assert!(log.durable(P).is_none());
    let quarantine = recover_so(&mut damaged).log.quarantine().cloned();
    let quarantine = quarantine.expect("still quarantined");
    assert!(
        quarantine.to_string().contains("found damaged before"),
        "{quarantine}"
    );
    // Whoever asks for repair after all gets it.
    let log = recover(&mut damaged).log;
    assert!(log.quarantine().is_none());
    assert!(log.partition(P).expect("there").missing_count() > 0);
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

#[test]
fn a_disk_that_lost_its_newest_pair_is_quarantined() {
    let spoken = || {
        let mut disk = written();
        start(&mut disk);
        let newest = newest_used(&disk);
        disk.files.remove(&FileId::ledger(newest));
        (disk, FileId::segment(newest))
    };
    // The pair before is closed: its trailer says that another followed.
    let (mut both, segment) = spoken();
    both.files.remove(&segment);
    // The header is gone too; what is left of the segment was written to.
    let (mut ledger, segment) = spoken();
    ledger.files.get_mut(&segment).expect("it is left")[0] = Block::ZERO;
    for mut disk in [both, ledger] {
        let recovery = recover(&mut disk);
        assert!(recovery.log.quarantine().is_some(), "{:?}", recovery.report);
    }
}

#[test]
fn a_start_reads_no_extent_of_a_chain_that_is_known_to_have_retired() {
    let mut disk = written();
    // A second boot, so that the first boot's pairs are older ones.
    start(&mut disk);
    disk.reads.clear();
    recover(&mut disk);
    let newest = newest_used(&disk);
    let older = |file: &FileId| *file == FileId::segment(file.pair) && file.pair < newest;
    // The last block is the trailer's.
    let trailer = |file: &FileId| disk.files[file].len() as u32 - 1;
    let read: Vec<_> = disk
        .reads
        .iter()
        .filter(|(file, block)| older(file) && *block > 0 && *block != trailer(file))
        .collect();
    assert!(read.is_empty(), "{read:?}");
    let tail = disk.reads.iter().filter(|(file, block)| {
        *file == FileId::segment(newest) && *block > 1 && *block != trailer(file)
    });
    assert!(
        tail.count() <= 3,
        "the mark, of which nobody says that it had retired"
    );
}

#[test]
fn rot_found_by_a_read_is_missing_from_then_on_through_rolls_and_restarts() {
    let mut disk = written();
    let mut log = start(&mut disk);
    let older = PairNumber(2);
    assert!(older < newest_used(&disk));
    let held: Vec<u32> = touched_blocks(&disk, FileId::segment(older));
    for block in &held[held.len() / 2..] {
        disk.flip(FileId::segment(older), *block, 8 * 77);
    }
    let before = durable(&log, 1);
    assert_eq!(before, ENTRIES, "the ledgers say that all is there");
    let rotten = (1..=ENTRIES)
        .find(|index| frames_at(&mut log, &mut disk, *index).is_none())
        .expect("one of them was hit");
    // In the same turn: missing, with its identity, and nothing from there on is vouched for.
    let partition = log.partition(P).expect("there");
    let range = partition.missing[0];
    assert_eq!(range.first, LogIndex(rotten));
    assert_eq!(partition.term_at(range.first), Some(Term(1)));
    assert_eq!(partition.last, LogIndex(ENTRIES));
    assert_eq!(durable(&log, 1), rotten - 1);
    assert_eq!(log.found_rotten(), 1);
    let missing = partition.missing.clone();
    settle(&mut log, &mut disk);
    let pair = log.current_pair();
    for index in ENTRIES + 1.. {
        append(&mut log, 1, 1, index, &body(index), Mode::Strict);
        settle(&mut log, &mut disk);
        if log.current_pair().get() > pair.get() + 2 {
            break;
        }
    }
    assert_eq!(log.partition(P).expect("there").missing, missing);
    assert_eq!(durable(&log, 1), rotten - 1);
    drop(log);
    for _ in 0..2 {
        let log = start(&mut disk);
        let partition = log.partition(P).expect("there");
        assert_eq!(partition.missing, missing);
        assert_eq!(partition.term_at(LogIndex(rotten)), Some(Term(1)));
        assert_eq!(durable(&log, 1), rotten - 1);
    }
}

#[test]
fn a_slot_that_a_crash_cut_short_is_no_damage() {
    let mut disk = written();
    let newest = newest_used(&disk);
    let ledger = FileId::ledger(newest);
    let last_slot = *touched_blocks(&disk, ledger).last().expect("one") as usize;
    // The slot of the last chain, of which nobody says that it had retired, is there but for one sector.
    for sector in 0..8 {
        let mut torn = disk.clone();
        torn.files.get_mut(&ledger).expect("there")[last_slot].0[sector * 512..(sector + 1) * 512]
            .fill(0);
        let report = recover(&mut torn).report;
        assert_eq!(report.incidents, [], "sector {sector}");
        assert_eq!(report.missing, 0);
        // With its extent torn as well, it is the tail: that flush never ended.
        let last_extent = *touched_blocks(&torn, FileId::segment(newest))
            .last()
            .expect("one");
        torn.flip(FileId::segment(newest), last_extent, 4);
        let recovery = recover(&mut torn);
        assert!(recovery.log.quarantine().is_none(), "sector {sector}");
        assert_eq!(recovery.report.incidents, [], "sector {sector}");
        assert!(recovery.report.torn.is_some(), "sector {sector}");
    }
    // A whole slot that rotted is one.
    disk.flip(ledger, last_slot as u32, 3);
    let incidents = recover(&mut disk).report.incidents;
    assert!(
        incidents.iter().any(|found| found.damage == Damage::Slot),
        "{incidents:?}"
    );
}

/// What a flipped bit leads to, whatever it hits: everything stands in two places, or its identity does. So the start goes through,
/// and all is there or known to be missing; of what it finds, each is one that the table of the specification has for one place.
fn check_some_outcome(disk: &mut MemoryDisk, what: &str) {
    let recovery = ShardLog::recover(disk, identity(), options(), &TestKey(9), pool());
    let recovery = recovery.unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = recovery.report.incidents;
    assert!(found.len() <= 1, "{what}: {found:?}");
    drop(recovery.log);
    assert!(check_nothing_lost(disk, what).is_some(), "{what}");
}

#[test]
fn any_flipped_bit_anywhere_has_a_defined_outcome() {
    let disk = written();
    let newest = newest_used(&disk);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for (file, blocks) in &disk.files {
        // A bit of every byte that the newest headers' fields take, of every eighth in older ones.
        let step = if file.pair == newest { 1 } else { 8 };
        for byte in (0..128).step_by(step) {
            let bit = 8 * byte + draw(8);
            let mut damaged = disk.clone();
            damaged.flip(*file, 0, bit);
            check_some_outcome(&mut damaged, &format!("{file} header bit {bit}"));
        }
        // Anywhere else: what was never written, too.
        for block in 1..blocks.len() as u32 {
            if block > 4 && draw(24) > 0 {
                continue;
            }
            let bit = draw(8 * 4096);
            let mut damaged = disk.clone();
            damaged.flip(*file, block, bit);
            check_some_outcome(&mut damaged, &format!("{file} block {block} bit {bit}"));
        }
    }
}

#[test]
fn what_stands_of_a_run_is_read_though_the_pair_that_cut_off_the_rest_is_gone() {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=4 {
        append(&mut log, 1, 1, index, &body(index), Mode::Group);
    }
    settle(&mut log, &mut disk);
    // A chain behind it: the start that follows leaves the entries where they are.
    log.hard_state(P, vote());
    settle(&mut log, &mut disk);
    let mut log = start(&mut disk);
    let pair = log.current_pair();
    log.truncate(P, Term(2), LogIndex(3));
    append(&mut log, 1, 2, 3, &body(30), Mode::Group);
    settle(&mut log, &mut disk);
    log.hard_state(P, vote());
    settle(&mut log, &mut disk);
    drop(start(&mut disk));
    disk.files.remove(&FileId::segment(pair));
    let mut log = start(&mut disk);
    let partition = log.partition(P).expect("there");
    assert_eq!(partition.last, LogIndex(3));
    let missing: Vec<_> = partition
        .missing
        .iter()
        .map(|r| (r.first.get(), r.last.get()))
        .collect();
    assert_eq!(missing, [(3, 3)], "only what lay in the pair that is gone");
    for index in 1..=2 {
        let frames = frames_at(&mut log, &mut disk, index).expect("it is still there");
        let first = records(&frames).next().expect("one").expect("sound");
        assert_eq!(
            (first.header.index, first.body),
            (LogIndex(index), &body(index)[..])
        );
    }
}

#[test]
fn a_start_that_the_system_is_short_of_memory_for_is_refused_and_judges_nothing() {
    let disk = written();
    let mut whole = disk.clone();
    whole.reads.clear();
    let report = recover(&mut whole).report;
    let reads = whole.reads.len();
    assert!(reads > 20);
    let short = DiskError::Passing("Cannot allocate memory".into());
    for read in 0..reads {
        let mut disk = disk.clone();
        disk.reads.clear();
        disk.failing = Some((read..read + 3, short.clone()));
        let refused = ShardLog::recover(&mut disk, identity(), options(), &TestKey(9), pool());
        assert_eq!(
            refused.err(),
            Some(RecoverError::Passing(short.clone())),
            "read {read}"
        );
        // Twice in a row is made good by asking again.
        disk.reads.clear();
        disk.failing = Some((read..read + 2, short.clone()));
        assert_eq!(recover(&mut disk).report, report, "read {read}");
    }
}

#[test]
fn a_file_named_for_a_pair_that_no_log_comes_to_is_refused_by_name() {
    for number in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 62) + 7] {
        let mut disk = written();
        let stray = FileId::segment(PairNumber(number));
        disk.files.insert(stray, Vec::new());
        let refused = ShardLog::recover(&mut disk, identity(), options(), &TestKey(9), pool());
        let error = refused.err().expect("it is refused");
        assert!(
            matches!(error, RecoverError::Stray { pair } if pair == PairNumber(number)),
            "{error}"
        );
        assert!(error.to_string().contains(&number.to_string()));
        disk.files.remove(&stray);
        let mut log = recover(&mut disk).log;
        settle(&mut log, &mut disk);
        assert_eq!(durable(&log, 1), ENTRIES);
    }
}
