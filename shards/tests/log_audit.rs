//! The audit of a log at rest: it finds every flipped bit, and judges as a recovery does.

mod signing;
mod support;

use std::collections::BTreeSet;

use clustor_shards::buffer::Block;
use clustor_shards::disk::{DiskError, FileId};
use clustor_shards::log::audit::{Audit, AuditReport, Checker, Damaged, Finding, Outcome, Role};
use clustor_shards::log::inspect::{Selection, SlotView, inspect};
use clustor_shards::log::merkle::{MerkleHash, MerkleTree, leaf_hash};
use clustor_shards::log::nonce::GapVerdict;
use clustor_shards::log::record::{RecordKind, decode_record, encode_record, records};
use clustor_shards::log::trailer::FoundTrailer;
use clustor_shards::log::{
    Encoding, HardState, HashSuite, LogFormat, Mode, RecoverError, Retirement, ShardLog, Suite,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PairNumber, PartitionId, Term};
use signing::sign;
use support::{
    MemoryDisk, TestKey, append, audit, identity, options, pool, recover, settle, start, views,
};

const P: PartitionId = PartitionId(1);
const ENTRIES: u64 = 45;

/// Two boots, two partitions, everything retired.
fn written() -> MemoryDisk {
    written_with(LogFormat::default())
}

fn written_with(format: LogFormat) -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let start = |disk: &mut MemoryDisk| {
        let options = options().with_format(format);
        let recovery = ShardLog::recover(disk, identity(), options, &TestKey(9), pool());
        let mut log = recovery.expect("recovers").log;
        settle(&mut log, disk);
        assert!(log.is_open());
        log
    };
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=ENTRIES {
        if index == ENTRIES / 2 {
            log = start(&mut disk);
        }
        append(&mut log, 1, 1, index, &vec![index as u8; 900], Mode::Group);
        if index % 3 == 0 {
            settle(&mut log, &mut disk);
        }
    }
    // A chain behind the last one of interest, so that it is known to have retired.
    let vote = HardState {
        term: Term(1),
        vote: Some(NodeId(2)),
    };
    log.hard_state(P, vote);
    settle(&mut log, &mut disk);
    disk
}

fn touched(disk: &MemoryDisk) -> Vec<(FileId, u32)> {
    let mut touched = Vec::new();
    for (file, blocks) in &disk.files {
        for (number, block) in (0u32..).zip(blocks) {
            if block.0 != Block::ZERO.0 {
                touched.push((*file, number));
            }
        }
    }
    touched
}

/// The touched blocks that count: not those of a chain that the next boot wrote again.
fn counted(disk: &mut MemoryDisk) -> Vec<(FileId, u32)> {
    let report = audit(disk).expect("audits");
    let mut dead = BTreeSet::new();
    inspect(disk, identity(), &TestKey(9), &Selection::ALL, |view| {
        let role = report.pairs.iter().find(|pair| pair.pair == view.pair);
        let Some(Role::Older { last_certain }) = role.map(|pair| pair.role) else {
            return Ok(());
        };
        let header = view.header.expect("whole");
        for chain in view
            .chains
            .iter()
            .filter(|chain| chain.chain > last_certain)
        {
            let number = (chain.chain.get() - header.first_chain.get()) as u32;
            dead.insert((FileId::ledger(view.pair), header.body_block() + number));
            let blocks = chain.extent.as_ref().expect("whole").header.blocks;
            for block in chain.first_block..chain.first_block + blocks {
                dead.insert((FileId::segment(view.pair), block));
            }
        }
        Ok::<_, RecoverError>(())
    })
    .expect("inspects");
    let mut counted = touched(disk);
    counted.retain(|place| !dead.contains(place));
    assert!(counted.len() > 40, "most of it counts");
    counted
}

fn chosen(report: &AuditReport) -> PairNumber {
    report
        .pairs
        .iter()
        .find(|pair| pair.role == Role::Chosen)
        .expect("one is chosen")
        .pair
}

#[test]
fn an_intact_log_is_healthy_and_every_touched_block_was_read() {
    let mut disk = written();
    let report = audit(&mut disk).expect("audits");
    assert_eq!(report.outcome(), Outcome::Healthy);
    assert!(report.findings.is_empty());
    assert_eq!(report.torn, None);
    assert_eq!(report.nonces, GapVerdict::Healthy);
    assert!(report.pairs.iter().all(|pair| pair.nonce_gaps.bytes() == 0));
    let blocks = counted(&mut disk).len() as u64;
    assert!(report.bytes() >= blocks * 4096, "{}", report.bytes());
    assert!(
        report
            .pairs
            .iter()
            .any(|pair| pair.role != Role::Chosen && pair.chains > 3)
    );
}

#[test]
fn pairs_are_read_one_by_one_and_nothing_of_them_is_kept() {
    let mut disk = written();
    let mut audit = Audit::begin(&mut disk, identity(), &TestKey(9)).expect("begins");
    let mut pairs = Vec::new();
    while let Some(pair) = audit.next_pair() {
        assert!(
            audit.extent_pieces().is_empty(),
            "its ledger is not read yet"
        );
        disk.reads.clear();
        for pieces in [Audit::ledger_pieces, Audit::extent_pieces] {
            let pieces = pieces(&audit);
            assert!(!pieces.is_empty());
            let mut checker = Checker::new(&audit, &mut disk);
            let checked = pieces.iter().map(|piece| checker.check(piece));
            for checked in checked.collect::<Result<Vec<_>, _>>().expect("it reads") {
                audit.take(checked);
            }
        }
        audit.judge(&mut disk).expect("it reads");
        assert!(disk.reads.iter().all(|(file, _)| file.pair == pair));
        pairs.push(pair);
    }
    assert!(pairs.len() >= 2 && pairs.is_sorted());
    assert_eq!(audit.pair_count(), pairs.len());
    let started = audit.start().try_on(&mut disk).expect("it reads");
    let report = audit.finish(started);
    assert_eq!(report.outcome(), Outcome::Healthy);
}

#[test]
fn however_many_older_pairs_are_gone_the_rest_is_read_as_often() {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    let mut older = Vec::new();
    for index in 1..=40 {
        append(&mut log, 1, 1, index, &[7; 900], Mode::Group);
        settle(&mut log, &mut disk);
        if index % 2 == 0 {
            older.push(log.current_pair());
            log = start(&mut disk);
        }
    }
    let reads_without = |gone: &[PairNumber]| {
        let mut disk = disk.clone();
        for pair in gone {
            disk.files.remove(&FileId::segment(*pair));
            disk.files.remove(&FileId::ledger(*pair));
        }
        disk.reads.clear();
        let report = audit(&mut disk).expect("audits");
        let pairs = report
            .findings
            .iter()
            .map(|found| (found.pair, found.damaged));
        let expected = gone.iter().map(|pair| (*pair, Damaged::Pair));
        assert!(pairs.eq(expected), "{:?}", report.findings);
        disk.reads.len()
    };
    let (one, many) = (reads_without(&older[..1]), reads_without(&older[..10]));
    assert!(many <= one, "{many} reads without ten, {one} without one");
}

#[test]
fn an_audit_that_the_system_is_short_of_memory_for_is_refused_and_judges_nothing() {
    let disk = written();
    let mut whole = disk.clone();
    whole.reads.clear();
    audit(&mut whole).expect("audits");
    let short = DiskError::Passing("Cannot allocate memory".into());
    for read in 0..whole.reads.len() {
        let mut disk = disk.clone();
        disk.reads.clear();
        disk.failing = Some((read..read + 200, short.clone()));
        match audit(&mut disk) {
            Err(error) => assert_eq!(error, RecoverError::Passing(short.clone())),
            Ok(report) => panic!("read {read} told nothing: {:?}", report.findings),
        }
    }
}

#[test]
fn every_flipped_bit_is_found_and_judged_as_recovery_judges_it() {
    let disk = written();
    for (file, block) in counted(&mut disk.clone()) {
        for bit in [8 * 70 + 3, 8 * 4085 + 6] {
            let mut damaged = disk.clone();
            damaged.flip(file, block, bit);
            let what = format!("{file} block {block} bit {bit}");
            let report = audit(&mut damaged).expect(&what);
            assert!(!report.findings.is_empty(), "{what}");
            assert!(report.outcome() > Outcome::Healthy, "{what}");
            let recovery = recover(&mut damaged);
            assert_eq!(
                report.quarantine.as_ref(),
                recovery.log.quarantine(),
                "{what}"
            );
            assert_eq!(report.torn, recovery.report.torn, "{what}");
            for incident in &recovery.report.incidents {
                let place = |finding: &&Finding| {
                    (finding.pair, finding.chain) == (incident.pair, incident.chain)
                };
                assert!(
                    report.findings.iter().any(|f| place(&f)),
                    "{what}: {incident}"
                );
            }
            let named = |finding: &Finding| {
                finding
                    .bad_blocks
                    .iter()
                    .any(|bad| bad.file == file && bad.block == block)
                    || matches!(finding.damaged, Damaged::Checkpoint(_))
            };
            assert!(
                report.findings.iter().any(named),
                "{what}: {:?}",
                report.findings
            );
        }
    }
}

#[test]
fn a_rotten_extent_names_what_it_held() {
    let mut disk = written();
    let report = audit(&mut disk).expect("audits");
    let newest = chosen(&report);
    let (_, last) = *touched(&disk)
        .iter()
        .rfind(|(file, _)| *file == FileId::segment(newest))
        .expect("touched");
    // The last extent is the vote's, the one before holds the last three entries.
    disk.flip(FileId::segment(newest), last - 1, 9);
    let report = audit(&mut disk).expect("audits");
    assert_eq!(report.outcome(), Outcome::Missing);
    let [finding] = report.findings.as_slice() else {
        panic!("{:?}", report.findings);
    };
    assert_eq!(finding.damaged, Damaged::Extent);
    let held = finding.held[0];
    assert_eq!(
        (held.kind, held.partition, held.term),
        (RecordKind::Entry, P, Term(1))
    );
    assert_eq!(
        (held.first, held.last),
        (LogIndex(ENTRIES - 2), LogIndex(ENTRIES))
    );
}

#[test]
fn what_a_rotten_extent_held_and_was_written_again_since_is_not_missing() {
    let mut disk = written();
    let report = audit(&mut disk).expect("audits");
    let newest = FileId::segment(chosen(&report));
    let (_, last) = *touched(&disk)
        .iter()
        .rfind(|(file, _)| *file == newest)
        .expect("touched");
    disk.flip(newest, last - 1, 9);
    let mut log = start(&mut disk);
    let mut now = Time(0);
    let mut ops = Vec::new();
    while log.partition(P).expect("there").missing_count() == 0 {
        if ops.is_empty() {
            now = now.plus_ms(50);
            log.read(P, LogIndex(ENTRIES - 2), &mut ops)
                .expect("it is there");
            log.poll(now, &mut ops);
        }
        for op in core::mem::take(&mut ops) {
            let event = disk.carry(op);
            log.on_event(now, event, &mut Retirement::default());
        }
    }
    settle(&mut log, &mut disk);
    let report = audit(&mut disk).expect("audits");
    assert_eq!(report.outcome(), Outcome::Missing);
    let lost: u64 = report
        .missing
        .iter()
        .map(|(_, range)| range.last.get() - range.first.get() + 1)
        .sum();
    assert_eq!(lost, 3, "{:?}", report.missing);
    for index in ENTRIES - 2..=ENTRIES {
        let mut frame = Vec::new();
        let body = vec![index as u8; 900];
        encode_record(
            &mut frame,
            RecordKind::Entry,
            P,
            Term(1),
            LogIndex(index),
            &body,
        );
        log.relocate(&decode_record(&frame).expect("just made"));
    }
    settle(&mut log, &mut disk);
    // A chain behind the copies, so that they are known to have retired.
    append(&mut log, 1, 1, ENTRIES + 1, b"more", Mode::Group);
    settle(&mut log, &mut disk);
    let report = audit(&mut disk).expect("audits");
    assert!(report.missing.is_empty(), "{:?}", report.missing);
    assert_eq!(report.outcome(), Outcome::Restored, "{:?}", report.findings);
}

#[test]
fn a_rotten_extent_of_which_everything_stands_in_its_slot_loses_nothing() {
    let mut disk = written();
    let report = audit(&mut disk).expect("audits");
    let newest = FileId::segment(chosen(&report));
    let blocks: Vec<u32> = touched(&disk)
        .into_iter()
        .filter(|(file, _)| *file == newest)
        .map(|(_, block)| block)
        .collect();
    // Behind the header, the checkpoint and the opening stands the mark; the last extent is the vote's.
    for (block, holds) in [
        (blocks[3], None),
        (blocks[blocks.len() - 1], Some(RecordKind::HardState)),
    ] {
        let mut disk = disk.clone();
        disk.flip(newest, block, 9);
        let report = audit(&mut disk).expect("audits");
        let [finding] = report.findings.as_slice() else {
            panic!("{:?}", report.findings);
        };
        assert_eq!(finding.damaged, Damaged::Extent);
        assert!(finding.held.iter().map(|held| held.kind).eq(holds));
        assert_eq!(report.outcome(), Outcome::Restored, "{holds:?}");
        assert!(report.missing.is_empty());
        let recovery = recover(&mut disk);
        assert_eq!(recovery.log.quarantine(), None);
    }
}

#[test]
fn an_extent_and_its_slot_both_bad_is_a_quarantine() {
    let mut disk = written();
    let report = audit(&mut disk).expect("audits");
    let newest = chosen(&report);
    let last_of = |disk: &MemoryDisk, wanted| {
        touched(disk)
            .iter()
            .rfind(|(file, _)| *file == wanted)
            .expect("touched")
            .1
    };
    let (segment, ledger) = (FileId::segment(newest), FileId::ledger(newest));
    let (extent, slot) = (last_of(&disk, segment) - 1, last_of(&disk, ledger) - 1);
    disk.flip(segment, extent, 9);
    disk.flip(ledger, slot, 9);
    let report = audit(&mut disk).expect("audits");
    assert_eq!(report.outcome(), Outcome::Quarantine);
    assert_eq!(report.findings[0].damaged, Damaged::ExtentAndSlot);
    assert_eq!(report.findings[0].bad_block_count, 2);
    // A start says nothing of a whole extent then.
    let recovery = recover(&mut disk);
    assert!(recovery.log.quarantine().is_some());
    assert_eq!(recovery.report.incidents, []);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let mut disk = written();
    let mut log = start(&mut disk);
    append(&mut log, 1, 1, ENTRIES + 1, &[7; 9000], Mode::Strict);
    settle(&mut log, &mut disk);
    let newest = log.current_pair();
    let last_of = |disk: &MemoryDisk, wanted| {
        touched(disk)
            .iter()
            .rfind(|(file, _)| *file == wanted)
            .expect("touched")
            .1
    };
    let (segment, ledger) = (FileId::segment(newest), FileId::ledger(newest));
    let (extent, slot) = (last_of(&disk, segment), last_of(&disk, ledger));
    disk.files.get_mut(&ledger).expect("there")[slot as usize] = Block::ZERO;
    disk.files.get_mut(&segment).expect("there")[extent as usize] = Block::ZERO;
    let report = audit(&mut disk).expect("audits");
    assert_eq!(report.outcome(), Outcome::Healthy, "{:?}", report.findings);
    assert!(report.torn.is_some());
}

#[test]
fn an_unreadable_sector_is_named_and_what_lies_around_it_is_verified() {
    let disk = written();
    for bad in counted(&mut disk.clone()) {
        let mut failing = disk.clone();
        failing.unreadable.push(bad);
        let report = audit(&mut failing).expect("audits");
        let what = format!("{} block {}", bad.0, bad.1);
        assert_eq!(report.findings.len(), 1, "{what}: {:?}", report.findings);
        let finding = &report.findings[0];
        assert!(finding.outcome < Outcome::Quarantine, "{what}");
        let named = finding
            .bad_blocks
            .iter()
            .any(|block| block.unreadable && (block.file, block.block) == bad);
        assert!(
            named || matches!(finding.damaged, Damaged::Checkpoint(_)),
            "{what}: {finding:?}"
        );
    }
}

#[test]
fn a_log_of_any_encoding_is_audited() {
    let encodings = [Encoding::Binary, Encoding::Json];
    for (log_encoding, ledger_encoding) in encodings
        .iter()
        .flat_map(|log| encodings.map(|ledger| (*log, ledger)))
    {
        let format = LogFormat {
            log_encoding,
            ledger_encoding,
            ..LogFormat::default()
        };
        let report = audit(&mut written_with(format)).expect("audits");
        assert_eq!(
            report.outcome(),
            Outcome::Healthy,
            "{format:?}: {:?}",
            report.findings
        );
    }
}

#[test]
fn another_key_is_refused() {
    let mut disk = written();
    let refused = Audit::begin(&mut disk, identity(), &TestKey(8)).err();
    assert!(matches!(refused, Some(RecoverError::WrongKey { .. })));
}

const WITH_LEAVES: LogFormat = LogFormat {
    sealing: Suite::None,
    merkle_leaves: true,
    hash: HashSuite::Sha256,
    log_encoding: Encoding::Binary,
    ledger_encoding: Encoding::Binary,
};

/// The leaf of an extent in a pair's tree, from its blocks in clear as the specification describes them.
fn extent_leaf(blocks: &[Block]) -> MerkleHash {
    let payload: Vec<u8> = blocks
        .iter()
        .flat_map(|block| block.0[16..4080].to_vec())
        .collect();
    let bytes = u64::from_le_bytes(payload[24..32].try_into().expect("8 bytes")) as usize;
    let mut tree = MerkleTree::new(HashSuite::Sha256);
    for record in records(&payload[64..64 + bytes]) {
        tree.push(&record.expect("sound").leaf(HashSuite::Sha256));
    }
    leaf_hash(HashSuite::Sha256, &[&tree.root()])
}

#[test]
fn slots_and_trailers_state_the_merkle_root_over_the_records() {
    let mut disk = written_with(WITH_LEAVES);
    let report = audit(&mut disk).expect("audits");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let mut trailers = 0;
    for view in views(&mut disk) {
        let segment = disk.files[&FileId::segment(view.pair)].clone();
        let mut tree = MerkleTree::new(HashSuite::Sha256);
        let audited = report.pairs.iter().find(|pair| pair.pair == view.pair);
        let audited = audited.expect("audited");
        for chain in &view.chains {
            let (SlotView::Good(slot, _), Some(extent)) = (&chain.slot, &chain.extent) else {
                continue;
            };
            let place = chain.first_block as usize;
            tree.push(&extent_leaf(
                &segment[place..place + extent.header.blocks as usize],
            ));
            assert_eq!(slot.figures.merkle_root, Some(tree.root()));
            if let Role::Older { last_certain } = view.role
                && last_certain == chain.chain
            {
                let Some(FoundTrailer::Whole(trailer)) = view.trailer else {
                    panic!("a closed pair has a trailer: {:?}", view.trailer);
                };
                assert_eq!(trailer.figures.merkle_root, Some(tree.root()));
                assert_eq!(audited.merkle_root, Some(tree.root()));
                trailers += 1;
            }
        }
        if view.role == Role::Chosen {
            assert_eq!(audited.merkle_root, Some(tree.root()));
        }
    }
    assert!(trailers > 0);
    let without = audit(&mut written()).expect("audits");
    assert!(without.pairs.iter().all(|pair| pair.merkle_root.is_none()));
}

#[test]
fn a_root_that_its_records_do_not_give_is_found_though_all_is_authentic() {
    let disk = written_with(WITH_LEAVES);
    let views = views(&mut disk.clone());
    let newest = views.iter().find(|view| view.role == Role::Chosen);
    let newest = newest.expect("one is chosen");
    let body = newest.header.as_ref().expect("whole").body_block();
    // Offset 64 are a slot's figures: records, checksums of entries and offsets, root.
    for at in [64, 64 + 8, 64 + 23, 64 + 24, 64 + 40] {
        let mut disk = disk.clone();
        let file = FileId::ledger(newest.pair);
        let block = &mut disk.file(file)[body as usize + 2];
        block.0[at] ^= 1;
        sign(file, body + 2, block);
        let report = audit(&mut disk).expect("audits");
        let damaged: Vec<_> = report.findings.iter().map(|found| found.damaged).collect();
        assert_eq!(damaged, [Damaged::Figures], "{at}");
        assert!(report.outcome() <= Outcome::Restored);
    }
}

#[test]
fn a_slot_without_a_root_where_the_pair_has_one_is_bad() {
    let mut disk = written_with(WITH_LEAVES);
    let pair = chosen(&audit(&mut disk).expect("audits"));
    let views = views(&mut disk);
    let view = views.iter().find(|view| view.pair == pair).expect("there");
    let number = view.header.as_ref().expect("whole").body_block() + 2;
    let file = FileId::ledger(pair);
    let block = &mut disk.file(file)[number as usize];
    block.0[64 + 40..64 + 72].fill(0);
    sign(file, number, block);
    let report = audit(&mut disk).expect("audits");
    let damaged: Vec<_> = report.findings.iter().map(|found| found.damaged).collect();
    assert_eq!(damaged, [Damaged::Slot]);
}
