//! Nonces that are not accounted for: what a start, the next one, a scrub and reclaiming make of them.

mod signing;
mod support;

use clustor_shards::disk::{DiskOp, FileId, RetirePair};
use clustor_shards::log::audit::Outcome;
use clustor_shards::log::inspect::{PairView, Selection, inspect};
use clustor_shards::log::nonce::{GAP_INCIDENT_BYTES, GapVerdict, NONCE_RANGE_BLOCKS_MAX};
use clustor_shards::log::recovery::Damage;
use clustor_shards::log::{LogOptions, Mode, RecoverError, Recovery, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, PairNumber, PartitionId};
use signing::sign;
use support::{MemoryDisk, TestKey, append, audit, identity, pool, settle};

const P: PartitionId = PartitionId(1);
/// More than makes an incident.
const ENTRIES: u64 = 1 + GAP_INCIDENT_BYTES / ENTRY_BYTES;
const ENTRY_BYTES: u64 = 64 << 10;
/// Where a slot's nonce records lie, how long one is, and where in it the number of blocks stands.
const RECORDS_AT: usize = 176;
const RECORD_BYTES: usize = 24;
const BLOCKS_AT: usize = 16;

/// 16 MiB, reserved all at once.
fn options() -> LogOptions {
    LogOptions {
        nonce_range_blocks: NONCE_RANGE_BLOCKS_MAX,
        ..LogOptions::for_segment_bytes(16 << 20)
    }
}

fn recover(disk: &mut MemoryDisk) -> Recovery {
    ShardLog::recover(disk, identity(), options(), &TestKey(9), pool()).expect("recovers")
}

fn opened(mut log: ShardLog, disk: &mut MemoryDisk) -> ShardLog {
    settle(&mut log, disk);
    assert!(log.is_open());
    log
}

/// One boot and one pair, in which more than 4 MiB were sealed.
fn written() -> (MemoryDisk, PairNumber) {
    let mut disk = MemoryDisk::default();
    let log = recover(&mut disk).log;
    let mut log = opened(log, &mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=ENTRIES {
        let body = vec![index as u8; ENTRY_BYTES as usize];
        append(&mut log, 1, 1, index, &body, Mode::Strict);
        settle(&mut log, &mut disk);
    }
    assert_eq!(log.older_pairs().len(), 0, "all in one pair");
    let pair = log.current_pair();
    (disk, pair)
}

fn view(disk: &mut MemoryDisk, pair: PairNumber) -> PairView {
    let mut found = None;
    inspect(disk, identity(), &TestKey(9), &Selection::ALL, |view| {
        if view.pair == pair {
            found = Some(view);
        }
        Ok::<_, RecoverError>(())
    })
    .expect("inspects");
    found.expect("the pair is there")
}

/// The block of a pair's first slot.
fn opening_slot(disk: &mut MemoryDisk, pair: PairNumber) -> u32 {
    view(disk, pair).header.expect("whole").body_block()
}

/// Writes a pair's first slot anew, as somebody who holds the keys and keeps no account.
fn forge(disk: &mut MemoryDisk, pair: PairNumber, change: impl FnOnce(&mut [u8; 4096])) {
    let number = opening_slot(disk, pair);
    let file = FileId::ledger(pair);
    let block = &mut disk.file(file)[number as usize];
    change(&mut block.0);
    sign(file, number, block);
}

/// The range becomes one block long.
fn reserves_next_to_nothing(slot: &mut [u8; 4096]) {
    let at = RECORDS_AT + BLOCKS_AT;
    slot[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
}

/// The second of two records, which gives up what earlier pairs had left, goes.
fn gives_nothing_up(slot: &mut [u8; 4096]) {
    assert_eq!(slot[5], 2, "a range, and the end of one");
    slot[5] = 1;
    slot[RECORDS_AT + RECORD_BYTES..RECORDS_AT + 2 * RECORD_BYTES].fill(0xff);
}

#[test]
fn more_than_4_mib_sealed_without_a_range_are_an_incident_and_at_the_next_start_a_quarantine() {
    let (mut disk, pair) = written();
    forge(&mut disk, pair, reserves_next_to_nothing);
    // A start that doesn't come to its mark has not happened.
    for _ in 0..2 {
        let Recovery { log, report } = recover(&mut disk);
        assert_eq!(report.nonce_verdict, GapVerdict::Incident);
        let incidents: Vec<_> = report
            .incidents
            .iter()
            .map(|it| (it.pair, it.damage))
            .collect();
        assert_eq!(incidents, [(pair, Damage::Nonces)]);
        assert_eq!(log.quarantine(), None);
        let (verdict, bytes) = log.nonce_gaps();
        assert!(verdict == GapVerdict::Incident && bytes > GAP_INCIDENT_BYTES);
        let report = audit(&mut disk).expect("audits");
        assert_eq!(report.nonces, GapVerdict::Incident);
        assert_eq!(report.outcome(), Outcome::Restored);
    }
    let log = recover(&mut disk).log;
    drop(opened(log, &mut disk));
    let Recovery { log, report } = recover(&mut disk);
    assert_eq!(report.nonce_verdict, GapVerdict::Quarantine);
    let quarantine = log.quarantine().expect("twice is too often");
    assert_eq!(quarantine.pair, pair);
    let report = audit(&mut disk).expect("audits");
    assert_eq!(report.nonces, GapVerdict::Quarantine);
    assert_eq!(report.quarantine.as_ref(), Some(quarantine));
}

#[test]
fn beside_missing_content_they_are_a_quarantine_at_once() {
    let (mut disk, pair) = written();
    forge(&mut disk, pair, reserves_next_to_nothing);
    let last = view(&mut disk, pair).chains.pop().expect("one at least");
    disk.flip(FileId::segment(pair), last.first_block, 99);
    let Recovery { log, report } = recover(&mut disk);
    assert_eq!(report.nonce_verdict, GapVerdict::Quarantine);
    assert!(log.quarantine().is_some());
    let report = audit(&mut disk).expect("audits");
    assert_eq!(report.quarantine.as_ref(), log.quarantine());
}

#[test]
fn what_a_lost_slot_had_reserved_is_damage_of_that_slot_and_no_more() {
    let (mut disk, pair) = written();
    let slot = opening_slot(&mut disk, pair);
    disk.flip(FileId::ledger(pair), slot, 77);
    // At every start it is read anew, of an older pair too, and beside missing content.
    for start in 0..3 {
        let Recovery { log, report } = recover(&mut disk);
        let account = report.nonces[0];
        assert!(account.has_lost_slots && account.gaps.unreserved_bytes > GAP_INCIDENT_BYTES);
        assert_eq!(report.nonce_verdict, GapVerdict::Healthy, "start {start}");
        assert!(!report.incidents.is_empty(), "the slot is one");
        assert_eq!(log.quarantine(), None);
        let report = audit(&mut disk).expect("audits");
        assert_eq!(report.nonces, GapVerdict::Healthy);
        let log = opened(log, &mut disk);
        let last = view(&mut disk, log.current_pair()).chains.pop();
        disk.flip(
            FileId::segment(log.current_pair()),
            last.expect("the mark").first_block,
            9,
        );
    }
}

#[test]
fn what_an_opening_forgot_to_give_up_the_next_one_gives_up() {
    let (mut disk, first) = written();
    let log = recover(&mut disk).log;
    let second = opened(log, &mut disk).current_pair();
    forge(&mut disk, second, gives_nothing_up);
    let Recovery { log, report } = recover(&mut disk);
    assert_eq!(report.nonces[0].pair, first);
    assert!(report.nonces[0].gaps.unsealed_bytes > GAP_INCIDENT_BYTES);
    assert_eq!(report.nonce_verdict, GapVerdict::Incident);
    drop(opened(log, &mut disk));
    let Recovery { log, report } = recover(&mut disk);
    assert_eq!(report.nonces[0].gaps.bytes(), 0);
    assert!(report.nonces[0].abandoned_bytes > 0);
    assert_eq!(report.nonce_verdict, GapVerdict::Healthy);
    assert_eq!(log.quarantine(), None);
}

#[test]
fn what_openings_forgot_twice_quarantines() {
    let (mut disk, _) = written();
    for verdict in [GapVerdict::Incident, GapVerdict::Quarantine] {
        let log = recover(&mut disk).log;
        let pair = opened(log, &mut disk).current_pair();
        forge(&mut disk, pair, gives_nothing_up);
        assert_eq!(recover(&mut disk).report.nonce_verdict, verdict);
    }
}

/// Pairs that went, once nothing in the log is needed.
fn reclaimed(log: &mut ShardLog, disk: &mut MemoryDisk) -> Vec<PairNumber> {
    log.set_floor(P, LogIndex(ENTRIES));
    let mut went = Vec::new();
    let mut retirement = Retirement::default();
    for ms in 0..1_000 {
        let now = Time(0).plus_ms(ms);
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        for op in ops {
            if let DiskOp::Remove(pair) | DiskOp::Retire(RetirePair { pair, .. }) = op {
                went.push(pair);
            }
            let event = disk.carry(op);
            log.on_event(now, event, &mut retirement);
        }
    }
    went
}

#[test]
fn a_pair_whose_nonces_are_an_incident_is_not_reclaimed() {
    let (disk, pair) = written();
    for is_forged in [false, true] {
        let mut disk = disk.clone();
        if is_forged {
            forge(&mut disk, pair, reserves_next_to_nothing);
        }
        let log = recover(&mut disk).log;
        let mut log = opened(log, &mut disk);
        let went = reclaimed(&mut log, &mut disk);
        assert_eq!(went.contains(&pair), !is_forged);
        assert!(!is_forged || disk.files.contains_key(&FileId::segment(pair)));
        if is_forged {
            let soon = Time(0).plus_ms(2_000);
            assert!(
                log.deadline().is_none_or(|at| at > soon),
                "nothing turns for it"
            );
        }
    }
}
