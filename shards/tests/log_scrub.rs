//! The scrub of a running log: it finds every flipped bit within a sweep, without a read too many.

mod signing;
mod support;

use std::collections::BTreeSet;

use clustor_shards::buffer::Block;
use clustor_shards::disk::{DiskError, DiskEvent, DiskOp, FileId, FileKind};
use clustor_shards::log::audit::Damaged;
use clustor_shards::log::scrub::{ScrubFinding, ScrubRates};
use clustor_shards::log::{
    Encoding, LogFormat, LogOptions, Mode, OnAuthenticationFailure, Retirement, ShardLog, Suite,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, PartitionId};
use signing::sign;
use support::{MemoryDisk, TestKey, append, durable, identity, options, pool, settle};

const P: PartitionId = PartitionId(1);
const ENTRIES: u64 = 40;
const RATES: ScrubRates = ScrubRates {
    round_ms: 60_000,
    sample_every_ms: 3_600_000,
    sample_percent: 0,
};
const SWEEP_MS: u64 = RATES.round_ms / 2;

fn boot(disk: &mut MemoryDisk, scrub: ScrubRates) -> ShardLog {
    let options = LogOptions { scrub, ..options() };
    let mut log = ShardLog::recover(disk, identity(), options, &TestKey(9), pool())
        .expect("recovers")
        .log;
    settle(&mut log, disk);
    assert!(log.is_open());
    log
}

/// Two boots, everything retired, the second one's log still running.
fn running(rates: ScrubRates) -> (ShardLog, MemoryDisk) {
    let mut disk = MemoryDisk::default();
    let mut log = boot(&mut disk, rates);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=ENTRIES {
        if index == 22 {
            log = boot(&mut disk, rates);
        }
        append(&mut log, 1, 1, index, &vec![index as u8; 900], Mode::Group);
        if index % 3 == 0 {
            settle(&mut log, &mut disk);
        }
    }
    settle(&mut log, &mut disk);
    (log, disk)
}

/// A log under these options, each of its entries written by itself.
fn running_under(options: LogOptions) -> (ShardLog, MemoryDisk) {
    let mut disk = MemoryDisk::default();
    let recovered = ShardLog::recover(&mut disk, identity(), options, &TestKey(9), pool());
    let mut log = recovered.expect("recovers").log;
    settle(&mut log, &mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=ENTRIES {
        append(&mut log, 1, 1, index, &vec![index as u8; 900], Mode::Strict);
        settle(&mut log, &mut disk);
    }
    (log, disk)
}

/// What happened in a stretch of time.
#[derive(Default)]
struct Lived {
    findings: Vec<ScrubFinding>,
    /// When, from where and how many blocks.
    reads: Vec<(Time, FileId, u32, u32)>,
}

/// Lets time go by, from deadline to deadline.
fn live(log: &mut ShardLog, disk: &mut MemoryDisk, from: Time, to: Time) -> Lived {
    let mut lived = Lived::default();
    let mut now = from;
    while now <= to {
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        let mut retirement = Retirement::default();
        let idle = ops.is_empty();
        let reads = ops
            .iter()
            .filter(|op| matches!(op, DiskOp::Read(_)))
            .count();
        assert!(reads <= 1, "one read at a time");
        for op in ops {
            if let DiskOp::Read(read) = &op {
                let count = read.into.len() as u32;
                lived.reads.push((now, read.file, read.block, count));
            }
            let event = disk.carry(op);
            log.on_event(now, event, &mut retirement);
        }
        lived.findings.append(&mut retirement.scrubbed);
        if idle {
            let next = log.deadline().expect("the scrub goes on");
            assert!(next > now, "it is not called for nothing");
            now = next;
        }
    }
    lived
}

/// Blocks that were written, but for those of the chain that the second boot wrote again.
fn written(disk: &MemoryDisk) -> BTreeSet<(FileId, u32)> {
    let mut written = BTreeSet::new();
    for (file, blocks) in &disk.files {
        for (number, block) in (0u32..).zip(blocks) {
            if block.0 != Block::ZERO.0 {
                written.insert((*file, number));
            }
        }
    }
    written
}

fn looked_at(lived: &Lived) -> BTreeSet<(FileId, u32)> {
    lived
        .reads
        .iter()
        .flat_map(|(_, file, block, count)| (*block..*block + *count).map(|block| (*file, block)))
        .collect()
}

fn at(ms: u64) -> Time {
    Time(ms * 1000)
}

#[test]
fn a_sweep_reads_every_byte_that_counts_spread_over_its_time() {
    let (mut log, mut disk) = running(RATES);
    let written = written(&disk);
    let lived = live(&mut log, &mut disk, at(0), at(SWEEP_MS + SWEEP_MS / 32));
    assert_eq!(log.scrub_status().sweeps, 1);
    assert!(lived.findings.is_empty(), "{:?}", lived.findings);
    let looked_at = looked_at(&lived);
    let dead = written.difference(&looked_at).count();
    assert!(
        dead <= 3,
        "only an unproven chain that was written again: {dead}"
    );
    assert!(written.len() > 40);
    let halves = lived
        .reads
        .iter()
        .filter(|(now, ..)| *now < at(SWEEP_MS / 2))
        .count();
    assert!(
        halves * 4 > lived.reads.len() && halves * 4 < lived.reads.len() * 3,
        "spread"
    );
    let status = log.scrub_status();
    assert!(status.bytes >= (looked_at.len() * 4096) as u64);
    assert!(
        status
            .oldest_unverified_ms
            .is_some_and(|ms| ms <= RATES.round_ms)
    );
}

#[test]
fn every_flipped_bit_is_found_within_one_sweep() {
    let (mut log, mut disk) = running(RATES);
    let written = written(&disk);
    let reads = looked_at(&live(
        &mut log,
        &mut disk,
        at(0),
        at(SWEEP_MS + SWEEP_MS / 32),
    ));
    for (file, block) in written.intersection(&reads).copied() {
        let what = format!("{file} block {block}");
        let (mut log, mut disk) = running(RATES);
        let before = durable(&log, 1);
        disk.flip(file, block, 8 * 1000 + 3);
        let lived = live(&mut log, &mut disk, at(0), at(SWEEP_MS + SWEEP_MS / 32));
        assert_eq!(lived.findings.len(), 1, "{what}: {:?}", lived.findings);
        let finding = &lived.findings[0];
        assert_eq!(finding.pair, file.pair, "{what}");
        assert_eq!(log.scrub_status().damaged_places, 1, "{what}");
        let missing = log.partition(P).expect("there").missing_count();
        let lost: u64 = finding
            .lost
            .iter()
            .map(|run| run.last.get() - run.first.get() + 1)
            .sum();
        assert_eq!(missing, lost, "{what}: recorded");
        if file.kind == FileKind::Ledger {
            assert_eq!(missing, 0, "{what}");
        }
        if missing > 0 {
            assert_eq!(finding.damaged, Damaged::Extent, "{what}");
            assert!(
                durable(&log, 1) < before,
                "{what}: vouches for what is whole"
            );
        }
        // The next sweep has nothing new to say, and the log goes on.
        let lived = live(&mut log, &mut disk, at(SWEEP_MS * 2), at(SWEEP_MS * 4));
        assert!(lived.findings.is_empty(), "{what}: {:?}", lived.findings);
        append(&mut log, 1, 1, ENTRIES + 1, b"more", Mode::Strict);
        settle(&mut log, &mut disk);
        let log = boot(&mut disk, RATES);
        assert_eq!(
            log.partition(P).expect("there").last,
            LogIndex(ENTRIES + 1),
            "{what}"
        );
        assert!(
            log.partition(P).expect("there").missing_count() >= missing,
            "{what}"
        );
    }
}

#[test]
fn rot_in_an_extent_whose_slot_is_bad_too_is_still_known_by_name_while_the_log_runs() {
    let (mut log, mut disk) = running(RATES);
    let pair = log.current_pair();
    let last_of = |disk: &MemoryDisk, wanted: FileId| {
        *written(disk)
            .iter()
            .rfind(|(file, _)| *file == wanted)
            .expect("written")
    };
    let (segment, extent) = last_of(&disk, FileId::segment(pair));
    let (ledger, slot) = last_of(&disk, FileId::ledger(pair));
    disk.flip(segment, extent, 9);
    disk.flip(ledger, slot, 9);
    let lived = live(&mut log, &mut disk, at(0), at(SWEEP_MS + SWEEP_MS / 32));
    let found: Vec<Damaged> = lived
        .findings
        .iter()
        .map(|finding| finding.damaged)
        .collect();
    assert_eq!(found, [Damaged::Slot, Damaged::ExtentAndSlot]);
    assert_eq!(lived.findings[1].lost.len(), 1);
    assert_eq!(lived.findings[1].lost[0].last, LogIndex(ENTRIES));
}

#[test]
fn a_sample_looks_at_its_part_of_each_pair_and_boots_draw_differently() {
    let rates = ScrubRates {
        round_ms: 100_000_000,
        sample_every_ms: 10_000_000,
        sample_percent: 10,
    };
    let mut drawn = BTreeSet::new();
    let (mut log, mut disk) = running(rates);
    for _ in 0..3 {
        // The sweep begins and learns the headers; the first sample comes long before it ends.
        let lived = live(&mut log, &mut disk, at(0), at(10_000_000));
        let sampled: Vec<_> = lived
            .reads
            .iter()
            .filter(|(now, ..)| *now == at(10_000_000))
            .map(|(_, file, block, _)| (*file, *block))
            .collect();
        let slots = sampled
            .iter()
            .filter(|(file, _)| file.kind == FileKind::Ledger)
            .count();
        assert!((2..=10).contains(&slots), "{slots}");
        drawn.insert(sampled);
        log = boot(&mut disk, rates);
    }
    assert!(drawn.len() > 1);
}

#[test]
fn appends_that_wait_or_are_on_their_way_come_first() {
    let (mut log, mut disk) = running(RATES);
    let due = at(SWEEP_MS / 64 + 1);
    let mut ops = Vec::new();
    log.poll(at(0), &mut ops);
    assert!(ops.is_empty());
    append(&mut log, 1, 1, ENTRIES + 1, b"first", Mode::Strict);
    log.poll(due, &mut ops);
    assert!(matches!(ops.as_slice(), [DiskOp::Chain(_)]), "{ops:?}");
    let mut meanwhile = Vec::new();
    log.poll(due.plus_ms(1_000), &mut meanwhile);
    assert!(meanwhile.is_empty(), "{meanwhile:?}");
    let event = disk.carry(ops.remove(0));
    log.on_event(due, event, &mut Retirement::default());
    log.poll(due, &mut ops);
    assert!(matches!(ops.as_slice(), [DiskOp::Read(_)]), "{ops:?}");
}

#[test]
fn a_merkle_root_that_the_extents_do_not_give_is_found_by_a_sweep() {
    find_forged_figures(40);
}

#[test]
fn a_checksum_of_the_entries_that_the_extents_do_not_give_is_found_by_a_sweep() {
    for lane in 0..4 {
        find_forged_figures(8 + 4 * lane);
    }
}

/// One byte of a slot's figures is another, under a MAC that is right.
fn find_forged_figures(at_byte: usize) {
    let options = LogOptions {
        scrub: RATES,
        ..options()
    };
    let options = LogOptions {
        format: LogFormat {
            merkle_leaves: true,
            ..options.format
        },
        ..options
    };
    let (mut log, mut disk) = running_under(options);
    let whole = live(&mut log, &mut disk, at(0), at(SWEEP_MS + SWEEP_MS / 32));
    assert!(whole.findings.is_empty(), "{:?}", whole.findings);
    let file = FileId::ledger(log.current_pair());
    let number = disk.files[&file]
        .iter()
        .rposition(|block| block.0 != Block::ZERO.0)
        .expect("slots were written") as u32
        - 3;
    let block = &mut disk.file(file)[number as usize];
    block.0[64 + at_byte] ^= 1;
    sign(file, number, block);
    let lived = live(
        &mut log,
        &mut disk,
        at(SWEEP_MS + SWEEP_MS / 32),
        at(3 * SWEEP_MS + SWEEP_MS / 32),
    );
    let damaged: Vec<_> = lived.findings.iter().map(|found| found.damaged).collect();
    assert_eq!(damaged, [Damaged::Figures], "once, though seen twice");
    assert_eq!(durable(&log, 1), ENTRIES, "nothing is lost by it");
    assert_eq!(log.scrub_status().damaged_places, 1);
}

#[test]
fn a_sweep_ends_in_time_though_appends_never_cease_to_wait() {
    let rates = ScrubRates {
        round_ms: 2_000,
        ..RATES
    };
    let (mut log, mut disk) = running(rates);
    let mut in_flight = Vec::new();
    let mut next = ENTRIES + 1;
    for ms in 0..2 * rates.round_ms {
        while log.admit(64).is_ok() {
            append(&mut log, 1, 1, next, &[1; 64], Mode::Strict);
            next += 1;
        }
        log.poll(at(ms), &mut in_flight);
        // One chain at a time ends, every ten milliseconds: there are always more than can go.
        let mut is_busy = ms % 10 != 0;
        for op in std::mem::take(&mut in_flight) {
            if matches!(op, DiskOp::Chain(_)) && std::mem::replace(&mut is_busy, true) {
                in_flight.push(op);
            } else {
                let event = disk.carry(op);
                log.on_event(at(ms), event, &mut Retirement::default());
            }
        }
        assert!(!log.is_settled(), "it is never idle");
    }
    let status = log.scrub_status();
    assert!(status.sweeps >= 1, "{status:?}");
    assert_eq!(status.damaged_places, 0);
}

#[test]
fn a_look_for_which_memory_was_short_is_taken_again_and_finds_no_damage() {
    let (mut log, mut disk) = running(RATES);
    let (mut now, mut short) = (at(0), 0);
    while log.scrub_status().sweeps == 0 {
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        if ops.is_empty() {
            now = log.deadline().expect("the scrub goes on");
        }
        for op in ops {
            let is_read = matches!(op, DiskOp::Read(_));
            let mut event = disk.carry(op);
            // Four answers in a row of each five: more than there are tries.
            if let DiskEvent::Read { outcome, .. } = &mut event
                && is_read
                && short % 5 < 4
            {
                *outcome = Err(DiskError::Passing("Cannot allocate memory".into()));
            }
            short += u32::from(is_read);
            let mut retirement = Retirement::default();
            log.on_event(now, event, &mut retirement);
            assert!(retirement.scrubbed.is_empty(), "{:?}", retirement.scrubbed);
        }
    }
    assert!(short > 50);
    assert_eq!(log.scrub_status().damaged_places, 0);
    assert_eq!(durable(&log, 1), ENTRIES);
}

/// What a boot that nothing disturbs looks at in a sweep.
fn looked_at_in_a_sweep(disk: &MemoryDisk) -> BTreeSet<(FileId, u32)> {
    let mut disk = disk.clone();
    let mut log = boot(&mut disk, RATES);
    looked_at(&live(
        &mut log,
        &mut disk,
        at(0),
        at(SWEEP_MS + SWEEP_MS / 32),
    ))
}

/// Lives of a tenth of a sweep, each of which ends without a word.
#[test]
fn restarts_in_the_middle_keep_no_byte_from_being_looked_at() {
    let (_, mut disk) = running(RATES);
    let there = written(&disk);
    let whole = looked_at_in_a_sweep(&disk);
    let mut to_look_at: BTreeSet<_> = there.intersection(&whole).collect();
    assert!(to_look_at.len() > 40);
    let mut lives = 0;
    while !to_look_at.is_empty() {
        let mut log = boot(&mut disk, RATES);
        let lived = live(&mut log, &mut disk, at(0), at(SWEEP_MS / 10));
        assert!(lived.findings.is_empty(), "{:?}", lived.findings);
        let seen = looked_at(&lived);
        to_look_at.retain(|place| !seen.contains(place));
        lives += 1;
        assert!(
            lives <= 20,
            "not looked at in {lives} lives: {to_look_at:?}"
        );
    }
    assert!(lives >= 5, "the sweep keeps its pace: {lives} lives");
}

/// Readers that keep numbers in doubles lose nothing of those that have 64 bits.
#[test]
fn where_a_sweep_is_stands_as_decimal_strings_in_a_ledger_of_text_and_is_taken_up_from_there() {
    let format = LogFormat {
        log_encoding: Encoding::Json,
        ledger_encoding: Encoding::Json,
        sealing: Suite::None,
        ..LogFormat::default()
    };
    let options = LogOptions {
        scrub: RATES,
        ..options().with_format(format)
    };
    let (mut log, mut disk) = running_under(options);
    live(&mut log, &mut disk, at(0), at(SWEEP_MS / 2));
    let ledger = FileId::ledger(log.current_pair());
    let blocks = disk.files[&ledger].iter();
    let bytes: Vec<u8> = blocks.flat_map(|block| block.0).collect();
    let text = String::from_utf8_lossy(&bytes);
    let stated: Vec<&str> = text
        .split("\"sweep\":{")
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(fields, _)| fields)
        .collect();
    let last = stated.last().expect("empty chains state the place");
    let fields: Vec<(&str, &str)> = last
        .split(',')
        .filter_map(|field| field.split_once(':'))
        .collect();
    let names = [
        "pair",
        "slot",
        "last",
        "last_slots",
        "chains_done",
        "spent_ms",
    ];
    assert!(
        fields
            .iter()
            .map(|(name, _)| name.trim_matches('"'))
            .eq(names),
        "{last}"
    );
    for (name, value) in fields {
        let is_text = value.starts_with('"') && value.ends_with('"');
        let is_32_bits = name.contains("slot");
        assert_eq!(is_text, !is_32_bits, "{name}: {value}");
        assert!(
            value.trim_matches('"').parse::<u64>().is_ok(),
            "{name}: {value}"
        );
    }
    // It is read as it was written.
    let recovered = ShardLog::recover(&mut disk, identity(), options, &TestKey(9), pool());
    let mut log = recovered.expect("recovers").log;
    settle(&mut log, &mut disk);
    live(&mut log, &mut disk, at(0), at(SWEEP_MS / 10));
    let permille = log.scrub_status().sweep_permille;
    assert!(permille > 400, "it goes on where it was: {permille}");
}

/// Each life is given other rates and writes something while its first look at slots is on its way, and ends before that
/// is answered.
#[test]
fn what_was_asked_for_and_never_answered_is_asked_for_again() {
    let (_, mut disk) = running(RATES);
    let there = written(&disk);
    let whole = looked_at_in_a_sweep(&disk);
    for life in 1..=3 {
        let mut log = boot(&mut disk, RATES);
        let (mut now, mut is_asked) = (at(0), false);
        while !is_asked {
            let mut ops = Vec::new();
            log.poll(now, &mut ops);
            if ops.is_empty() {
                now = log.deadline().expect("the scrub goes on");
            }
            for op in ops {
                match &op {
                    DiskOp::Read(read)
                        if read.file.kind == FileKind::Ledger && read.into.len() > 1 =>
                    {
                        is_asked = true;
                    }
                    _ => log.on_event(now, disk.carry(op), &mut Retirement::default()),
                }
            }
        }
        let options = LogOptions {
            scrub: ScrubRates {
                sample_every_ms: RATES.sample_every_ms + 1,
                ..RATES
            },
            ..*log.options()
        };
        log.retune(&options);
        append(&mut log, 1, 1, ENTRIES + life, &[1; 64], Mode::Strict);
        settle(&mut log, &mut disk);
        assert_eq!(log.scrub_status().sweeps, 0);
    }
    let mut log = boot(&mut disk, RATES);
    let end = at(SWEEP_MS + SWEEP_MS / 32);
    let seen = looked_at(&live(&mut log, &mut disk, at(0), end));
    let to_look_at = there.intersection(&whole);
    let unseen: Vec<_> = to_look_at.filter(|place| !seen.contains(place)).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

#[test]
fn however_short_lives_are_each_takes_the_sweep_further() {
    let (_, mut disk) = running(RATES);
    let there = written(&disk).len();
    let mut lives = 0;
    loop {
        // Hardly longer than a start waits before it scrubs.
        let mut log = boot(&mut disk, RATES);
        live(&mut log, &mut disk, at(0), at(SWEEP_MS / 50));
        lives += 1;
        if log.scrub_status().sweeps > 0 {
            break;
        }
        assert!(
            lives <= there,
            "a sweep over {there} blocks has not ended in {lives} lives"
        );
    }
    assert!(lives > 5);
}

#[test]
fn a_sweep_that_is_under_way_obeys_other_rates() {
    let (mut log, mut disk) = running(ScrubRates {
        round_ms: 1_000 * RATES.round_ms,
        ..RATES
    });
    let third = SWEEP_MS * 1_000 / 3;
    live(&mut log, &mut disk, at(0), at(third));
    let status = log.scrub_status();
    assert_eq!((status.sweeps, status.sweep_permille < 500), (0, true));
    let options = LogOptions {
        scrub: RATES,
        ..*log.options()
    };
    log.retune(&options);
    // The time that it has had is over long since.
    live(&mut log, &mut disk, at(third), at(third + SWEEP_MS / 2));
    let sweeps = log.scrub_status().sweeps;
    assert_eq!(sweeps, 1);
    live(
        &mut log,
        &mut disk,
        at(third + SWEEP_MS / 2),
        at(third + 4 * SWEEP_MS),
    );
    assert!(
        log.scrub_status().sweeps >= 3,
        "and so do those that follow"
    );
}

#[test]
fn samples_are_drawn_as_often_as_other_rates_say() {
    let rare = ScrubRates {
        round_ms: 100_000_000,
        sample_every_ms: 40_000_000,
        sample_percent: 0,
    };
    let (mut log, mut disk) = running(rare);
    live(&mut log, &mut disk, at(0), at(1_000_000));
    let options = LogOptions {
        scrub: ScrubRates {
            sample_every_ms: 1_000_000,
            sample_percent: 50,
            ..rare
        },
        ..*log.options()
    };
    log.retune(&options);
    let before = log.scrub_status();
    live(&mut log, &mut disk, at(1_000_000), at(5_000_000));
    let after = log.scrub_status();
    let sampled = (after.bytes - before.bytes) - (after.sweep_bytes - before.sweep_bytes);
    assert!(sampled > 0, "{after:?}");
}

#[test]
fn a_log_that_is_told_to_fall_silent_over_rot_does_so_when_it_finds_some() {
    let (mut log, mut disk) = running(RATES);
    let last_of = |wanted| {
        *written(&disk)
            .iter()
            .rfind(|(file, _)| *file == wanted)
            .expect("written")
    };
    let (file, block) = last_of(FileId::segment(log.current_pair()));
    let options = LogOptions {
        on_authentication_failure: OnAuthenticationFailure::Quarantine,
        ..*log.options()
    };
    log.retune(&options);
    disk.flip(file, block, 9);
    let mut now = at(0);
    while log.quarantine().is_none() {
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        if ops.is_empty() {
            now = log.deadline().expect("the scrub goes on");
            assert!(now < at(2 * SWEEP_MS), "rot was not found");
        }
        for op in ops {
            let event = disk.carry(op);
            log.on_event(now, event, &mut Retirement::default());
        }
    }
    assert_eq!(durable(&log, 1), 0, "it vouches for nothing any more");
}
