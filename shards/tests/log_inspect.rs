//! Files laid open: every structure is there, and no damaged byte makes the reader fall over.

mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::FileId;
use clustor_shards::log::audit::Role;
use clustor_shards::log::inspect::{Judgement, PairView, Selection, SlotView, inspect};
use clustor_shards::log::record::RecordKind;
use clustor_shards::log::recovery::Damage;
use clustor_shards::log::{Mode, RecoverError};
use clustor_wire::ids::{Incarnation, LogIndex, PartitionId};
use support::{MemoryDisk, TestKey, append, identity, recover, settle, start};

const P: PartitionId = PartitionId(1);

/// Two boots; all that was said is durable.
fn written() -> MemoryDisk {
    written_with(|index| index as u8)
}

/// The same, each entry filled with what its index gives.
fn written_with(fill: impl Fn(u64) -> u8) -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    for boot in 0..2 {
        let mut log = start(&mut disk);
        if boot == 0 {
            log.create_partition(P, Incarnation(5), b"voters");
        }
        for index in 1..=10 {
            let index = boot * 10 + index;
            append(&mut log, 1, 1, index, &[fill(index); 700], Mode::Strict);
        }
        settle(&mut log, &mut disk);
    }
    disk
}

fn views(disk: &mut MemoryDisk) -> Result<Vec<PairView>, RecoverError> {
    let mut views = Vec::new();
    inspect(disk, identity(), &TestKey(9), &Selection::ALL, |view| {
        views.push(view);
        Ok::<_, RecoverError>(())
    })?;
    Ok(views)
}

fn newest(views: &[PairView]) -> &PairView {
    let mut chosen = views.iter().filter(|view| view.role == Role::Chosen);
    chosen.next().expect("one is chosen")
}

#[test]
fn an_extent_that_continues_another_history_is_judged_as_a_start_judges_it() {
    let mut disk = written();
    // The disk as it would be if the last entry but one were another: sealed under the same salt.
    let mut other = written_with(|index| if index == 19 { 99 } else { index as u8 });
    let views_of_other = views(&mut other).expect("inspects");
    let last = newest(&views_of_other).chains.last().expect("some");
    let header = newest(&views_of_other).header.as_ref().expect("whole");
    let (segment, ledger) = (FileId::segment(header.pair), FileId::ledger(header.pair));
    let slot = header.body_block() + (last.chain.get() - header.first_chain.get()) as u32;
    let blocks = last.extent.as_ref().expect("whole").header.blocks;
    let extent = (last.first_block..last.first_block + blocks).map(|block| (segment, block));
    for (file, block) in extent.chain([(ledger, slot)]) {
        let block = block as usize;
        assert_ne!(disk.file(file)[block].0, other.file(file)[block].0);
        disk.file(file)[block] = other.file(file)[block];
    }
    let incidents = recover(&mut disk.clone()).report.incidents;
    let rotten = incidents.iter().map(|found| (found.chain, found.damage));
    assert!(rotten.eq([(last.chain, Damage::Extent)]), "{incidents:?}");
    let views = views(&mut disk).expect("inspects");
    let shown = newest(&views).chains.last().expect("some");
    assert_eq!((shown.chain, shown.judgement), (last.chain, Judgement::Rot));
    assert!(shown.extent.is_none());
    let [fault] = shown.faults.as_slice() else {
        panic!("{:?}", shown.faults);
    };
    assert!(
        fault.contains("another digest of the one before it"),
        "{fault}"
    );
}

#[test]
fn every_structure_is_shown_and_judged() {
    let views = views(&mut written()).expect("inspects");
    let newest = newest(&views);
    assert_eq!(newest.header_copies, [true, true]);
    assert_eq!(newest.checkpoint_copies, [true, true]);
    let checkpoint = newest.checkpoint.as_ref().expect("whole");
    assert!(checkpoint.fold.partitions[&P].last >= LogIndex(9));
    assert!(!checkpoint.older.is_empty());
    assert!(
        newest
            .chains
            .iter()
            .all(|chain| chain.judgement == Judgement::Proven)
    );
    let chains = views.iter().flat_map(|view| &view.chains);
    let extents = chains.filter_map(|chain| chain.extent.as_ref());
    let records = extents.flat_map(|extent| &extent.records);
    let entries = records.filter(|record| record.header.kind == RecordKind::Entry);
    assert!(entries.count() >= 20);
    let reserved = newest.chains.iter().any(
        |chain| matches!(&chain.slot, SlotView::Good(slot, _) if slot.nonces.reserved.is_some()),
    );
    assert!(reserved, "the opening's slot reserves nonces");
    let mut older = views
        .iter()
        .filter(|view| matches!(view.role, Role::Older { .. }));
    assert!(older.all(|view| view.chains.len() > 2));
}

#[test]
fn a_torn_tail_is_shown_and_what_lies_behind_it_is_dead() {
    let mut disk = written();
    let views_before = views(&mut disk).expect("inspects");
    let pair = newest(&views_before).pair;
    let chains = &newest(&views_before).chains;
    let body = newest(&views_before)
        .header
        .as_ref()
        .expect("whole")
        .body_block();
    // The last but one and the last never came to write their slots; the former's extent is not whole.
    let number = chains.len() as u32 - 2;
    let ledger = disk.files.get_mut(&FileId::ledger(pair)).expect("there");
    ledger[(body + number) as usize] = Block::ZERO;
    ledger[(body + number + 1) as usize] = Block::ZERO;
    disk.flip(
        FileId::segment(pair),
        chains[number as usize].first_block,
        3,
    );
    let views = views(&mut disk).expect("inspects");
    let last = newest(&views).chains.last().expect("one");
    assert_eq!(last.judgement, Judgement::Torn);
    assert!(last.extent.is_none());
}

#[test]
fn no_damaged_byte_makes_it_fall_over_or_show_what_is_not_authentic() {
    let disk = written();
    let whole = views(&mut disk.clone()).expect("inspects");
    let entries = |views: &[PairView]| -> Vec<_> {
        let chains = views.iter().flat_map(|view| &view.chains);
        let extents = chains.filter_map(|chain| chain.extent.as_ref());
        extents.flat_map(|extent| extent.records.clone()).collect()
    };
    let all = entries(&whole);
    for (file, blocks) in &disk.files {
        for (number, block) in (0u32..).zip(blocks) {
            if block.0 == Block::ZERO.0 {
                continue;
            }
            for bit in [5, 8 * 11, 8 * 17 + 1, 8 * 90, 8 * 2000, 8 * 4090] {
                let mut damaged = disk.clone();
                damaged.flip(*file, number, bit);
                // Headers that no key fits are refused in words; everything else is shown as far as it is whole.
                let Ok(shown) = views(&mut damaged) else {
                    continue;
                };
                assert!(entries(&shown).iter().all(|record| all.contains(record)));
            }
            let mut damaged = disk.clone();
            let block = &mut damaged.files.get_mut(file).expect("there")[number as usize];
            block.0.fill(0xff);
            drop(views(&mut damaged));
        }
    }
}

/// Blocks of a run, in bytes.
const fn bytes(blocks: u64) -> u64 {
    blocks * 4096
}

#[test]
fn what_became_of_nonces_is_shown_and_reported_at_a_start() {
    let mut disk = written();
    let views = views(&mut disk).expect("inspects");
    for view in &views {
        let Some(account) = view.nonces else {
            assert_eq!(view.role, Role::Unused);
            continue;
        };
        assert_eq!(account.gaps.bytes(), 0, "{account:?}");
        let extents = view.chains.iter().filter_map(|chain| chain.extent.as_ref());
        let sealed: u32 = extents.map(|extent| extent.header.blocks).sum();
        let front = view.header.as_ref().expect("whole").checkpoint_blocks;
        assert_eq!(account.sealed_bytes, bytes((sealed + front).into()));
        // The rest of an older pair was given up by the next one's opening; of the newest it waits.
        let rest = account.reserved_bytes - account.sealed_bytes;
        let is_older = view.role != Role::Chosen;
        assert_eq!(account.abandoned_bytes, if is_older { rest } else { 0 });
        assert!(rest > 0);
    }
    let recovery = support::recover(&mut disk);
    let shown: Vec<_> = views.iter().filter_map(|view| view.nonces).collect();
    let told = &recovery.report.nonces;
    assert_eq!(told.len(), shown.len());
    assert_eq!(
        told.last(),
        shown.last(),
        "of the newest, all slots are read"
    );
    assert!(told.iter().all(|account| account.gaps.bytes() == 0));
    assert!(told[0].abandoned_bytes > 0);

    // A slot that reserved is lost: what it had reserved and others sealed lies in no range.
    let newest = newest(&views);
    let opening = newest.header.as_ref().expect("whole").body_block();
    disk.flip(FileId::ledger(newest.pair), opening, 77);
    let recovery = support::recover(&mut disk);
    let account = recovery.report.nonces.last().expect("the newest");
    assert!(account.gaps.unreserved_bytes > 0, "{account:?}");
}
