//! The life of a pair: its nonces are accounted for, it is closed by a trailer, and it goes when nothing needs it.

mod support;

use clustor_shards::disk::{DiskError, DiskEvent, DiskOp, FileId, RetirePair};
use clustor_shards::log::inspect::{PairView, SlotView};
use clustor_shards::log::nonce::{
    GAP_ALARM_BYTES, GAP_INCIDENT_BYTES, GapVerdict, NonceEvidence, gaps, judge,
};
use clustor_shards::log::record::{RecordKind, decode_record, encode_record};
use clustor_shards::log::recovery::Damage;
use clustor_shards::log::trailer::{FourLaneCrc, Trailer};
use clustor_shards::log::{LogRefusal, Mode, Pressure, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, PairNumber, PartitionId, Term};
use support::{MemoryDisk, append, durable, recover, settle, start};

const P: PartitionId = PartitionId(1);

/// A log that has filled a few pairs: 64 blocks each, entries of 3 KiB.
fn rolled(disk: &mut MemoryDisk) -> ShardLog {
    let mut log = start(disk);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=150 {
        append(&mut log, 1, 1, index, &[index as u8; 3000], Mode::Strict);
        settle(&mut log, disk);
    }
    assert!(log.current_pair() >= PairNumber(3));
    log
}

fn views(disk: &mut MemoryDisk) -> Vec<PairView> {
    let mut views = support::views(disk);
    views.retain(|view| view.header.is_some());
    views
}

/// What the ledgers say of each pair's nonces, ascending by pair.
fn evidence(views: &[PairView]) -> Vec<NonceEvidence> {
    let slots = |view: &PairView| -> Vec<_> {
        let good = |chain: &clustor_shards::log::inspect::ChainView| match &chain.slot {
            SlotView::Good(slot, _) => Some(*slot),
            _ => None,
        };
        view.chains.iter().filter_map(good).collect()
    };
    views
        .iter()
        .map(|view| {
            let header = view.header.as_ref().expect("kept above");
            let mut evidence = NonceEvidence {
                sealed: vec![(1, header.checkpoint_blocks)],
                is_open: header.pair == views.last().expect("one at least").pair,
                ..NonceEvidence::default()
            };
            for slot in slots(view) {
                evidence.sealed.push((slot.first_block, slot.blocks));
                if let Some(range) = slot.nonces.reserved {
                    assert_eq!(range.pair, header.pair);
                    evidence.reserved.push((range.start, range.blocks));
                }
            }
            evidence.is_abandoned = views
                .iter()
                .flat_map(slots)
                .filter_map(|slot| slot.nonces.abandoned)
                .any(|abandon| abandon.pair == header.pair);
            evidence
        })
        .collect()
}

#[test]
fn four_lanes_are_four_checksums_of_every_fourth_word() {
    let bytes: Vec<u8> = (0..9_999u32).map(|at| (at * 7 % 251) as u8).collect();
    for len in [0, 1, 4, 15, 16, 17, 4096, 4100, 9_999] {
        let mut padded = bytes[..len].to_vec();
        padded.resize(len.next_multiple_of(16), 0);
        let mut expected = [0u32; 4];
        for (lane, crc) in expected.iter_mut().enumerate() {
            let words = padded.chunks(4).skip(lane).step_by(4);
            *crc = crc32c::crc32c(&words.collect::<Vec<_>>().concat());
        }
        let mut lanes = FourLaneCrc::default();
        lanes.update(&bytes[..len]);
        assert_eq!(lanes.0, expected, "{len} bytes");
    }
    let mut lanes = FourLaneCrc::default();
    lanes.update(&[1; 16]);
    lanes.update(&[2; 4]);
    let mut at_once = FourLaneCrc::default();
    at_once.update(&[[1; 16].as_slice(), &[2; 4]].concat());
    assert_eq!(lanes, at_once);
}

#[test]
fn lanes_over_runs_apart_are_joined_to_those_over_all() {
    let bytes: Vec<u8> = (0..90_000u32).map(|at| (at * 11 % 253) as u8).collect();
    let lanes_of = |bytes: &[u8]| {
        let mut lanes = FourLaneCrc::default();
        lanes.update(bytes);
        lanes
    };
    let mut joined = FourLaneCrc::default();
    let mut fed = FourLaneCrc::default();
    let mut rest = bytes.as_slice();
    for len in [0, 1, 16, 4_000, 17, 65_536, 15, 300, 1 << 13] {
        let (run, behind) = rest.split_at(len);
        fed.update(run);
        joined = joined.followed_by(lanes_of(run), run.len());
        assert_eq!(joined, fed, "{len} bytes more");
        rest = behind;
    }
}

#[test]
fn every_sealed_block_lies_in_a_range_that_its_ledger_reserved() {
    let mut disk = MemoryDisk::default();
    let _ = rolled(&mut disk);
    let views = views(&mut disk);
    assert!(views.len() >= 3);
    for (view, evidence) in views.iter().zip(evidence(&views)) {
        let mut next = 1;
        for (start, blocks) in &evidence.reserved {
            assert_eq!(*start, next, "ranges are contiguous");
            next += blocks;
        }
        assert_eq!(gaps(&evidence).bytes(), 0, "pair {}", view.pair);
        assert!(
            evidence.is_abandoned || evidence.is_open,
            "pair {}",
            view.pair
        );
    }
}

#[test]
fn what_a_crash_left_of_a_reservation_is_given_up_by_the_next_boot() {
    let mut disk = MemoryDisk::default();
    drop(rolled(&mut disk));
    let mut log = start(&mut disk);
    settle(&mut log, &mut disk);
    for evidence in evidence(&views(&mut disk)) {
        assert_eq!(gaps(&evidence).bytes(), 0);
    }
}

#[test]
fn gaps_are_what_is_sealed_without_a_range_or_reserved_and_lost() {
    let whole = NonceEvidence {
        reserved: vec![(1, 10), (11, 10)],
        sealed: vec![(1, 3), (4, 5)],
        is_open: true,
        ..NonceEvidence::default()
    };
    assert_eq!(gaps(&whole).bytes(), 0);
    let closed_without_a_word = NonceEvidence {
        is_open: false,
        ..whole.clone()
    };
    assert_eq!(gaps(&closed_without_a_word).unsealed_bytes, 12 * 4096);
    let given_up = NonceEvidence {
        is_abandoned: true,
        ..closed_without_a_word
    };
    assert_eq!(gaps(&given_up).bytes(), 0);
    let slot_with_a_range_lost = NonceEvidence {
        reserved: vec![(1, 4), (15, 6)],
        sealed: vec![(1, 3), (4, 5), (12, 6)],
        ..given_up
    };
    assert_eq!(gaps(&slot_with_a_range_lost).unreserved_bytes, 7 * 4096);
}

#[test]
fn gaps_are_judged_by_their_bytes_and_their_company() {
    use GapVerdict::{Alarm, Healthy, Incident, Quarantine};
    for (bytes, before, failed, verdict) in [
        (0, 0, true, Healthy),
        (GAP_ALARM_BYTES, 0, true, Healthy),
        (GAP_ALARM_BYTES + 1, u64::MAX, true, Alarm),
        (GAP_INCIDENT_BYTES + 1, 0, false, Incident),
        (GAP_INCIDENT_BYTES + 1, GAP_INCIDENT_BYTES, false, Incident),
        (
            GAP_INCIDENT_BYTES + 1,
            GAP_INCIDENT_BYTES + 1,
            false,
            Quarantine,
        ),
        (GAP_INCIDENT_BYTES + 1, 0, true, Quarantine),
    ] {
        assert_eq!(
            judge(bytes, before, failed),
            verdict,
            "{bytes} {before} {failed}"
        );
    }
}

/// Every closed pair, and the last block of its segment.
fn trailers(disk: &mut MemoryDisk, log: &ShardLog) -> Vec<(Trailer, [u8; 4096])> {
    log.older_pairs()
        .iter()
        .map(|older| {
            let trailer = older.trailer.expect("a pair closed in order has one");
            let segment = disk.file(FileId::segment(older.pair));
            assert_eq!(segment.len(), older.segment_blocks as usize);
            (trailer, segment.last().expect("it has blocks").0)
        })
        .collect()
}

#[test]
fn a_closed_pair_has_a_trailer_that_says_what_is_in_it() {
    let mut disk = MemoryDisk::default();
    let log = rolled(&mut disk);
    assert!(log.older_pairs().iter().all(|older| older.trailer_durable));
    let views = views(&mut disk);
    for (trailer, block) in trailers(&mut disk, &log) {
        assert_eq!(&block[..4], b"TRL1");
        let view = views.iter().find(|view| view.pair == trailer.pair);
        let view = view.expect("its files are there");
        let extents = view.chains.iter().filter_map(|chain| chain.extent.as_ref());
        let records: u64 = extents.map(|extent| u64::from(extent.header.records)).sum();
        assert_eq!(trailer.figures.records, records);
        let last = view.chains.last().expect("it has chains");
        assert_eq!(trailer.last.0, last.chain);
    }
}

#[test]
fn a_rotten_trailer_is_restored_from_the_checkpoint_and_reported() {
    let mut disk = MemoryDisk::default();
    let log = rolled(&mut disk);
    let whole = trailers(&mut disk, &log);
    drop(log);
    // Only a checkpoint that came later knows that it had been durable: that of the second pair after.
    let pair = whole[0].0.pair;
    disk.file(FileId::segment(pair))
        .last_mut()
        .expect("there")
        .0[9] ^= 1;
    let recovery = recover(&mut disk);
    let incidents: Vec<_> = recovery.report.incidents.iter().collect();
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    assert_eq!(
        (incidents[0].pair, incidents[0].damage),
        (pair, Damage::Trailer)
    );
    let mut log = recovery.log;
    settle(&mut log, &mut disk);
    assert_eq!(trailers(&mut disk, &log)[..whole.len()], whole[..]);
}

#[test]
fn a_torn_trailer_is_written_again_without_a_word() {
    let mut disk = MemoryDisk::default();
    let log = rolled(&mut disk);
    let whole = trailers(&mut disk, &log);
    drop(log);
    // The newest checkpoint can't know yet what became of the trailer of the pair before it.
    let pair = whole.last().expect("some").0.pair;
    disk.file(FileId::segment(pair))
        .last_mut()
        .expect("there")
        .0[700..]
        .fill(0);
    disk.file(FileId::segment(pair))
        .last_mut()
        .expect("there")
        .0[4] ^= 1;
    let recovery = recover(&mut disk);
    assert_eq!(recovery.report.incidents, vec![]);
    let mut log = recovery.log;
    settle(&mut log, &mut disk);
    assert_eq!(trailers(&mut disk, &log)[..whole.len()], whole[..]);
}

/// Turns until the log asks for nothing, time going on between them.
fn settle_for(log: &mut ShardLog, disk: &mut MemoryDisk, from_ms: u64) -> Vec<PairNumber> {
    let mut removed = Vec::new();
    let mut retirement = Retirement::default();
    for ms in from_ms..from_ms + 1_000 {
        let now = Time(0).plus_ms(ms);
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        for op in ops {
            if let DiskOp::Remove(pair) | DiskOp::Retire(RetirePair { pair, .. }) = op {
                removed.push(pair);
            }
            let event = disk.carry(op);
            log.on_event(now, event, &mut retirement);
        }
    }
    removed
}

fn body_of(
    log: &mut ShardLog,
    disk: &mut MemoryDisk,
    partition: PartitionId,
    index: u64,
) -> Option<Vec<u8>> {
    let mut ops = Vec::new();
    log.read(partition, LogIndex(index), &mut ops).ok()?;
    let mut retirement = Retirement::default();
    for op in ops {
        let event = disk.carry(op);
        log.on_event(Time(0), event, &mut retirement);
    }
    let frames = retirement.reads.pop()?.frames?;
    let record = decode_record(&frames).expect("a verified frame");
    assert_eq!(record.header.kind, RecordKind::Entry);
    assert_eq!(record.header.index, LogIndex(index));
    Some(record.body.to_vec())
}

#[test]
fn a_pair_goes_when_every_floor_is_past_it_and_no_sooner() {
    let mut disk = MemoryDisk::default();
    let mut log = rolled(&mut disk);
    let before: Vec<_> = log.older_pairs().iter().map(|older| older.pair).collect();
    assert_eq!(
        settle_for(&mut log, &mut disk, 0),
        vec![],
        "no floor was given"
    );
    log.set_floor(P, LogIndex(60));
    let removed = settle_for(&mut log, &mut disk, 1_000);
    assert!(!removed.is_empty() && removed.len() < before.len());
    assert_eq!(removed[..], before[..removed.len()], "oldest first");
    assert_eq!(log.partition(P).expect("there").base, LogIndex(60));
    assert_eq!(body_of(&mut log, &mut disk, P, 60), None);
    assert_eq!(body_of(&mut log, &mut disk, P, 61), Some(vec![61; 3000]));
    // What lies above the floor comes back, and nothing is missed.
    let recovery = recover(&mut disk);
    assert_eq!(recovery.report.incidents, vec![]);
    assert_eq!(recovery.report.missing, 0);
    let mut log = recovery.log;
    settle(&mut log, &mut disk);
    assert_eq!(log.partition(P).expect("there").base, LogIndex(60));
    for index in 61..=150 {
        assert_eq!(
            body_of(&mut log, &mut disk, P, index),
            Some(vec![index as u8; 3000])
        );
    }
}

#[test]
fn the_few_live_entries_of_a_cold_partition_are_written_again_first() {
    const COLD: PartitionId = PartitionId(2);
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    log.create_partition(COLD, Incarnation(6), b"voters");
    for index in 1..=3 {
        append(
            &mut log,
            2,
            1,
            index,
            &[0xc0 | index as u8; 500],
            Mode::Group,
        );
    }
    for index in 1..=150 {
        append(&mut log, 1, 1, index, &[index as u8; 3000], Mode::Strict);
        settle(&mut log, &mut disk);
    }
    let oldest = log.older_pairs()[0].pair;
    log.set_floor(P, LogIndex(150));
    let removed = settle_for(&mut log, &mut disk, 0);
    assert!(removed.contains(&oldest));
    assert!(log.older_pairs().is_empty());
    for _ in 0..2 {
        for index in 1..=3 {
            let expected = vec![0xc0 | index as u8; 500];
            assert_eq!(body_of(&mut log, &mut disk, COLD, index), Some(expected));
        }
        assert_eq!(durable(&log, 2), 3);
        let recovery = recover(&mut disk);
        assert_eq!(
            (recovery.report.missing, recovery.report.incidents),
            (0, vec![])
        );
        log = recovery.log;
        settle(&mut log, &mut disk);
    }
}

#[test]
fn a_copy_of_what_was_truncated_meanwhile_is_dropped() {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    log.create_partition(PartitionId(2), Incarnation(6), b"voters");
    for index in 1..=3 {
        append(&mut log, 2, 1, index, b"old", Mode::Group);
    }
    for index in 1..=150 {
        append(&mut log, 1, 1, index, &[index as u8; 3000], Mode::Strict);
        settle(&mut log, &mut disk);
    }
    log.set_floor(P, LogIndex(150));
    // As many turns as it takes until the copies are in flight.
    let mut retirement = Retirement::default();
    for turn in 0..12 {
        let now = Time(0).plus_ms(turn * 50);
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        if turn == 5 {
            log.truncate(PartitionId(2), Term(2), LogIndex(2));
            append(&mut log, 2, 2, 2, b"new", Mode::Group);
        }
        for op in ops {
            let event = disk.carry(op);
            log.on_event(now, event, &mut retirement);
        }
    }
    settle_for(&mut log, &mut disk, 1_000);
    for _ in 0..2 {
        assert_eq!(
            log.partition(PartitionId(2)).expect("there").last,
            LogIndex(2)
        );
        let cold = PartitionId(2);
        assert_eq!(body_of(&mut log, &mut disk, cold, 1), Some(b"old".to_vec()));
        assert_eq!(body_of(&mut log, &mut disk, cold, 2), Some(b"new".to_vec()));
        log = start(&mut disk);
    }
}

/// A disk where the copies of a cold partition's entries are in flight, with the chain that holds them.
fn with_copies_in_flight(cold: PartitionId) -> (ShardLog, MemoryDisk, DiskOp, Time) {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    log.create_partition(cold, Incarnation(6), b"voters");
    for index in 1..=3 {
        append(&mut log, cold.0, 1, index, b"cold", Mode::Group);
    }
    for index in 1..=150 {
        append(&mut log, 1, 1, index, &[index as u8; 3000], Mode::Strict);
        settle(&mut log, &mut disk);
    }
    log.set_floor(P, LogIndex(150));
    let oldest = FileId::segment(log.older_pairs()[0].pair);
    let mut was_read = false;
    for turn in 0..100 {
        let now = Time(0).plus_ms(turn * 50);
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        let mut copies = None;
        for op in ops {
            match &op {
                DiskOp::Chain(_) if was_read => copies = Some(op),
                _ => {
                    was_read |= matches!(&op, DiskOp::Read(read) if read.file == oldest);
                    let event = disk.carry(op);
                    log.on_event(now, event, &mut Retirement::default());
                }
            }
        }
        if let Some(copies) = copies {
            return (log, disk, copies, now);
        }
    }
    panic!("nothing was copied");
}

#[test]
fn a_copy_that_was_on_its_way_does_not_vouch_for_what_was_found_lost_and_fetched_meanwhile() {
    const COLD: PartitionId = PartitionId(2);
    let (mut log, mut disk, copies, now) = with_copies_in_flight(COLD);
    assert_eq!(durable(&log, 2), 3);
    let oldest = FileId::segment(log.older_pairs()[0].pair);
    let intact = disk.file(oldest).clone();
    for block in disk.file(oldest) {
        block.0[9] ^= 1;
    }
    let mut ops = Vec::new();
    log.read(COLD, LogIndex(1), &mut ops).expect("it is there");
    while !log.partition(COLD).expect("there").is_missing(LogIndex(3)) {
        for op in ops.drain(..) {
            let event = disk.carry(op);
            log.on_event(now, event, &mut Retirement::default());
        }
        if log.partition(COLD).expect("there").missing_count() == 0 {
            log.poll(now, &mut ops);
            assert!(!ops.is_empty(), "it is read again");
        }
    }
    *disk.file(oldest) = intact;
    assert_eq!(durable(&log, 2), 0);
    for index in 1..=3 {
        let mut frame = Vec::new();
        let entry = (RecordKind::Entry, COLD, Term(1), LogIndex(index));
        encode_record(&mut frame, entry.0, entry.1, entry.2, entry.3, b"cold");
        log.relocate(&decode_record(&frame).expect("just made"));
    }
    assert_eq!(log.copies_in_flight(COLD), 3);
    let event = disk.carry(copies);
    log.on_event(now, event, &mut Retirement::default());
    let mut crashed = disk.clone();
    assert_eq!(durable(&log, 2), 0, "what was fetched is not on the disk");
    settle(&mut log, &mut disk);
    assert_eq!(log.copies_in_flight(COLD), 0);
    assert_eq!(durable(&log, 2), 3);
    assert_eq!(durable(&start(&mut disk), 2), 3);
    assert_eq!(durable(&start(&mut crashed), 2), 3, "nothing was decided");
}

#[test]
fn a_full_disk_refuses_appends_keeps_reading_and_recovers_when_space_returns() {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    let mut retirement = Retirement::default();
    let mut full = true;
    let mut turn = |log: &mut ShardLog, disk: &mut MemoryDisk, full: bool, ms: u64| {
        let now = Time(0).plus_ms(ms);
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        for op in ops {
            let event = match op {
                DiskOp::Prepare(ask) if full => DiskEvent::PrepareFailed {
                    pair: ask.pair,
                    error: DiskError::Full,
                },
                op => disk.carry(op),
            };
            log.on_event(now, event, &mut retirement);
        }
    };
    let body = [7; 3000];
    let (mut index, mut refused) = (0, 0);
    for ms in 0..600 {
        match log.admit(body.len()) {
            Ok(()) => {
                index += 1;
                append(&mut log, 1, 1, index, &body, Mode::Strict);
            }
            Err(LogRefusal::DiskFull) => {
                refused += 1;
                // What was taken before has retired, and is read.
                for _ in 0..8 {
                    turn(&mut log, &mut disk, full, ms * 50);
                }
                assert!(log.is_settled(), "nothing waits for space");
                assert_eq!(durable(&log, 1), index);
                assert!(body_of(&mut log, &mut disk, P, index).is_some());
                full = refused < 3;
            }
            Err(other) => panic!("{other}"),
        }
        turn(&mut log, &mut disk, full, ms * 50);
    }
    assert!(
        refused >= 3 && index > 200,
        "{refused} refused, {index} taken"
    );
    assert_eq!(
        start(&mut disk).partition(P).expect("there").last,
        LogIndex(index)
    );
}

#[test]
fn pressure_halves_what_waits_and_then_refuses_clients() {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    settle(&mut log, &mut disk);
    let under = |log: &mut ShardLog, percent: u8| {
        let used = DiskEvent::Used { percent };
        log.on_event(Time(0), used, &mut Retirement::default());
    };
    under(&mut log, 79);
    assert_eq!(log.pressure(), Pressure::None);
    under(&mut log, 80);
    assert_eq!((log.pressure(), log.admit(100)), (Pressure::Soft, Ok(())));
    let limit = log.options().queue_bytes_max;
    append(&mut log, 1, 1, 1, &vec![1; 3000], Mode::Group);
    let refusal = log.admit_frames(limit / 2);
    assert!(matches!(refusal, Err(LogRefusal::Busy { limit: half, .. }) if half == limit / 2));
    under(&mut log, 90);
    assert_eq!(log.admit(100), Err(LogRefusal::DiskFull));
    assert_eq!(
        log.admit_frames(100),
        Ok(()),
        "what a leader has accepted is still taken"
    );
    let mut patient = *log.options();
    patient.disk_hard_percent = 100;
    log.retune(&patient);
    assert_eq!((log.pressure(), log.admit(100)), (Pressure::Soft, Ok(())));
    under(&mut log, 100);
    assert_eq!(log.admit(100), Err(LogRefusal::DiskFull));
    under(&mut log, 50);
    assert_eq!((log.pressure(), log.admit(100)), (Pressure::None, Ok(())));
}
