//! Damage on ledger slots that were never used: the log ends there where nothing can have been lost, and is silent where something can.

mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::FileId;
use clustor_shards::log::Mode;
use clustor_shards::log::audit::{Damaged, Outcome};
use clustor_shards::log::inspect::{ChainView, Judgement, PairView};
use clustor_shards::log::recovery::{Damage, Incident};
use clustor_wire::ids::{ChainNumber, Incarnation, PairNumber};
use support::written::{ENTRIES, P, body, newest_used, written};
use support::{MemoryDisk, append, audit, durable, options, recover, settle, start, views};

const RUBBISH: Block = Block([0xa5; 4096]);

/// The newest pair and what a chain takes of it: its slot, the first block of its extent, and the one behind that.
#[derive(Debug, Clone, Copy)]
struct Place {
    pair: PairNumber,
    chain: ChainNumber,
    slot: u32,
    first_block: u32,
    end: u32,
}

impl Place {
    fn ledger(&self) -> FileId {
        FileId::ledger(self.pair)
    }

    fn segment(&self) -> FileId {
        FileId::segment(self.pair)
    }
}

fn view(disk: &mut MemoryDisk, pair: PairNumber) -> PairView {
    let mut views = views(disk).into_iter();
    views.find(|view| view.pair == pair).expect("a pair")
}

fn place_of(view: &PairView, chain: &ChainView) -> Place {
    let header = view.header.as_ref().expect("whole");
    let extent = chain.extent.as_ref().expect("whole");
    Place {
        pair: view.pair,
        chain: chain.chain,
        slot: header.body_block() + (chain.chain.get() - header.first_chain.get()) as u32,
        first_block: chain.first_block,
        end: chain.first_block + extent.header.blocks,
    }
}

/// The last chains of the newest pair, and the one that was never written.
fn ends(disk: &mut MemoryDisk) -> (Vec<Place>, Place) {
    let pair = newest_used(disk);
    let view = view(disk, pair);
    let chains = view.chains.iter();
    let places: Vec<Place> = chains.map(|chain| place_of(&view, chain)).collect();
    let last = *places.last().expect("the mark");
    let unused = Place {
        chain: last.chain.next(),
        slot: last.slot + 1,
        first_block: last.end,
        end: last.end,
        ..last
    };
    (places, unused)
}

fn lay(disk: &mut MemoryDisk, file: FileId, block: u32, what: Block) {
    disk.file(file)[block as usize] = what;
}

/// A start speaks, with everything, and tells of the slot; a scrub and an inspection say the same.
fn check_speaks(mut disk: MemoryDisk, place: Place, last: u64, what: &str) {
    let recovery = recover(&mut disk);
    assert_eq!(recovery.log.quarantine(), None, "{what}");
    let incident = Incident {
        pair: place.pair,
        chain: place.chain,
        damage: Damage::UnusedSlot,
    };
    assert_eq!(recovery.report.incidents, [incident], "{what}");
    assert_eq!(recovery.report.torn, None, "{what}: nothing was cut");
    assert_eq!(recovery.report.missing, 0, "{what}");
    let found = audit(&mut disk).expect(what);
    assert_eq!(found.outcome(), Outcome::Restored, "{what}");
    let [finding] = found.findings.as_slice() else {
        panic!("{what}: {:?}", found.findings);
    };
    assert_eq!((finding.pair, finding.chain), (place.pair, place.chain));
    assert_eq!(finding.damaged, Damaged::UnusedSlot, "{what}");
    let [bad] = finding.bad_blocks.as_slice() else {
        panic!("{what}: {finding:?}");
    };
    assert_eq!((bad.file, bad.block), (place.ledger(), place.slot));
    let shown = view(&mut disk, place.pair).chains;
    let shown = shown.iter().find(|shown| shown.chain == place.chain);
    let shown = shown.expect("its slot is there");
    assert_eq!(shown.judgement, Judgement::Blank, "{what}");
    assert_eq!(shown.faults.len(), 1, "{what}: {:?}", shown.faults);

    let mut log = recovery.log;
    settle(&mut log, &mut disk);
    assert_eq!(durable(&log, 1), last, "{what}");
    append(&mut log, 1, 1, last + 1, &body(last + 1), Mode::Strict);
    settle(&mut log, &mut disk);
    let again = recover(&mut disk);
    assert_eq!(again.report.incidents, [], "{what}: it is left behind");
    let mut log = again.log;
    settle(&mut log, &mut disk);
    assert_eq!(durable(&log, 1), last + 1, "{what}");
    assert_eq!(audit(&mut disk).expect(what).outcome(), Outcome::Healthy);
}

/// A start is silent; a scrub and an inspection say the same.
fn check_silent(mut disk: MemoryDisk, place: Place, what: &str) {
    let recovery = recover(&mut disk);
    let quarantine = recovery.log.quarantine().expect(what);
    assert_eq!(
        (quarantine.pair, quarantine.chain),
        (place.pair, place.chain)
    );
    let found = audit(&mut disk).expect(what);
    assert_eq!(found.outcome(), Outcome::Quarantine, "{what}");
    assert_eq!(found.quarantine.as_ref(), Some(quarantine), "{what}");
    let shown = view(&mut disk, place.pair).chains;
    let mut shown = shown.iter().filter(|shown| shown.chain == place.chain);
    let judged = shown.next().map(|shown| shown.judgement);
    assert_eq!(judged, Some(Judgement::Unnamed), "{what}");
}

#[test]
fn damage_on_the_first_unused_slot_silences_nobody() {
    let mut disk = written();
    let (_, unused) = ends(&mut disk);
    let mut rubbish = disk.clone();
    lay(&mut rubbish, unused.ledger(), unused.slot, RUBBISH);
    check_speaks(rubbish, unused, ENTRIES, "rubbish");
    let mut unreadable = disk.clone();
    unreadable.unreadable.push((unused.ledger(), unused.slot));
    check_speaks(unreadable, unused, ENTRIES, "unreadable");
    // Another block of the same file, written here: authentic in its own place only.
    let mut misdirected = disk.clone();
    let other = misdirected.files[&unused.ledger()][unused.slot as usize - 2];
    lay(&mut misdirected, unused.ledger(), unused.slot, other);
    check_speaks(misdirected, unused, ENTRIES, "misdirected");
    // However many are hit, the log ends at the first.
    let mut several = disk;
    for slot in [unused.slot, unused.slot + 1, unused.slot + 4] {
        lay(&mut several, unused.ledger(), slot, RUBBISH);
    }
    check_speaks(several, unused, ENTRIES, "several");
}

#[test]
fn damage_on_an_unused_slot_behind_an_unproven_tail_silences_nobody() {
    let mut disk = written();
    let (places, unused) = ends(&mut disk);
    // The last chain never came to write its slot.
    let last = places[places.len() - 1];
    lay(&mut disk, last.ledger(), last.slot, Block::ZERO);
    lay(&mut disk, unused.ledger(), unused.slot, RUBBISH);
    check_speaks(disk, unused, ENTRIES, "behind a tail");
}

#[test]
fn an_opening_whose_mark_was_never_written_says_itself_that_it_had_retired() {
    let mut disk = written();
    start(&mut disk);
    let (places, _) = ends(&mut disk);
    let [opening, mark] = places.as_slice() else {
        panic!("an opening and its mark: {places:?}");
    };
    lay(&mut disk, mark.segment(), mark.first_block, Block::ZERO);
    lay(&mut disk, mark.ledger(), mark.slot, RUBBISH);
    check_speaks(disk.clone(), *mark, ENTRIES, "behind the opening");
    // If nobody knows whether the opening had retired, it may be in a cache only that a loss of power empties.
    lay(&mut disk, opening.ledger(), opening.slot, RUBBISH);
    let log = recover(&mut disk).log;
    let quarantine = log.quarantine().expect("the opening is not proven");
    assert_eq!(quarantine.chain, mark.chain);
    let found = audit(&mut disk).expect("audits");
    assert_eq!(found.outcome(), Outcome::Quarantine);
}

#[test]
fn a_bad_slot_whose_extent_is_whole_costs_nothing() {
    let mut disk = written();
    let (places, _) = ends(&mut disk);
    let last = places[places.len() - 1];
    lay(&mut disk, last.ledger(), last.slot, RUBBISH);
    let recovery = recover(&mut disk);
    let found = recovery.report.incidents.iter().map(|found| found.damage);
    assert!(found.eq([Damage::Slot]));
    let mut log = recovery.log;
    settle(&mut log, &mut disk);
    assert_eq!(durable(&log, 1), ENTRIES);
}

/// A last chain of several blocks, in which something is acknowledged.
fn written_wide() -> (MemoryDisk, Place) {
    let mut disk = written();
    let mut log = start(&mut disk);
    append(&mut log, 1, 1, ENTRIES + 1, &[7; 9000], Mode::Strict);
    settle(&mut log, &mut disk);
    let (places, _) = ends(&mut disk);
    let last = places[places.len() - 1];
    assert_eq!(last.end - last.first_block, 3);
    (disk, last)
}

#[test]
fn a_bad_slot_is_silence_where_anything_of_its_extent_was_written() {
    let (disk, last) = written_wide();
    let mut bad = disk.clone();
    lay(&mut bad, last.ledger(), last.slot, RUBBISH);
    // All that a torn write, or rot in a whole one, may leave: some of its blocks, or of their sectors.
    for left in 1..7u32 {
        let mut torn = bad.clone();
        for block in (0..3).filter(|block| left >> block & 1 == 0) {
            lay(
                &mut torn,
                last.segment(),
                last.first_block + block,
                Block::ZERO,
            );
        }
        check_silent(torn, last, &format!("blocks {left:03b}"));
    }
    for (block, sector) in (0..3).flat_map(|block| (0..8).map(move |sector| (block, sector))) {
        let mut torn = bad.clone();
        for other in 0..3 {
            let place = (last.first_block + other) as usize;
            let (from, to) = (sector * 512, (sector + 1) * 512);
            let whole = torn.files[&last.segment()][place];
            let torn = &mut torn.file(last.segment())[place];
            *torn = Block::ZERO;
            if other == block {
                torn.0[from..to].copy_from_slice(&whole.0[from..to]);
            }
        }
        check_silent(torn, last, &format!("block {block} sector {sector}"));
    }
    for block in 0..3 {
        let mut rotten = bad.clone();
        rotten.flip(last.segment(), last.first_block + block, 8 * 99);
        check_silent(rotten, last, &format!("rot in block {block}"));
        let mut unreadable = bad.clone();
        let place = (last.segment(), last.first_block + block);
        unreadable.unreadable.push(place);
        check_silent(unreadable, last, &format!("block {block} unreadable"));
    }
}

#[test]
fn a_bad_slot_is_silence_where_its_extents_place_is_not_quite_blank() {
    let mut disk = written();
    let (_, unused) = ends(&mut disk);
    lay(&mut disk, unused.ledger(), unused.slot, RUBBISH);
    let trailer = disk.files[&unused.segment()].len() as u32 - 1;
    for block in unused.first_block..trailer {
        let mut damaged = disk.clone();
        damaged.flip(unused.segment(), block, 8 * 4095 + 7);
        check_silent(damaged, unused, &format!("a bit in block {block}"));
    }
    // That block is not for extents.
    disk.flip(unused.segment(), trailer, 8 * 2000);
    check_speaks(disk, unused, ENTRIES, "a bit in the trailer's block");
}

#[test]
fn a_bad_slot_is_silence_where_something_was_written_behind_it() {
    let mut disk = written();
    let (places, _) = ends(&mut disk);
    let [.., lost, last] = places.as_slice() else {
        panic!("more than two chains");
    };
    // The extent is gone with its slot, and what lies behind was written by a log that had come so far.
    for block in lost.first_block..lost.end {
        lay(&mut disk, lost.segment(), block, Block::ZERO);
    }
    lay(&mut disk, lost.ledger(), lost.slot, RUBBISH);
    let mut slot_only = disk.clone();
    for block in last.first_block..last.end {
        lay(&mut slot_only, last.segment(), block, Block::ZERO);
    }
    let certain = recover(&mut slot_only).report.certain;
    assert!(certain >= lost.chain, "the later slot knows it as retired");
    check_silent(slot_only, *lost, "a slot");
    lay(&mut disk, last.ledger(), last.slot, Block::ZERO);
    check_silent(disk, *lost, "an extent");
}

#[test]
fn a_bad_slot_is_silence_where_a_later_one_was_written_that_does_not_know_it_as_retired() {
    let (mut disk, _) = written_wide();
    let mut log = start(&mut disk);
    // Two chains in flight, of which the later is durable first.
    append(&mut log, 1, 1, ENTRIES + 2, &body(1), Mode::Strict);
    append(&mut log, 1, 1, ENTRIES + 3, &body(2), Mode::Strict);
    let mut ops = Vec::new();
    log.poll(clustor_shards::turn::Time(0), &mut ops);
    let pair = log.current_pair();
    for op in ops {
        disk.carry(op);
    }
    let view = view(&mut disk, pair);
    let mut places = view.chains.iter().map(|chain| place_of(&view, chain));
    let (earlier, later) = (places.nth(2), places.next());
    let (earlier, later) = (earlier.expect("in flight"), later.expect("in flight"));
    for block in earlier.first_block..earlier.end {
        lay(&mut disk, earlier.segment(), block, Block::ZERO);
    }
    lay(&mut disk, earlier.ledger(), earlier.slot, RUBBISH);
    check_silent(disk.clone(), earlier, "a later chain is whole");
    let mut slot_only = disk.clone();
    for block in later.first_block..later.end {
        lay(&mut slot_only, later.segment(), block, Block::ZERO);
    }
    check_silent(slot_only, earlier, "a later slot is authentic");
    lay(&mut disk, later.ledger(), later.slot, Block::ZERO);
    check_silent(disk, earlier, "a later extent is whole");
}

#[test]
fn in_a_recycled_segment_only_zeros_tell_that_nothing_was_written() {
    for old_until in [12, options().segment_blocks as usize] {
        let mut disk = MemoryDisk::default();
        // As far as it had come, another pair left something.
        let mut left = vec![Block::ZERO; options().segment_blocks as usize];
        left[..old_until].fill(Block([0x5a; 4096]));
        disk.kept = vec![left.clone(); 8];
        let mut log = start(&mut disk);
        log.create_partition(P, Incarnation(5), b"voters");
        let mut furthest = 0;
        for index in 1..20 {
            disk.kept = vec![left.clone(); 8];
            append(&mut log, 1, 1, index, &[7; 9000], Mode::Strict);
            settle(&mut log, &mut disk);
            let (_, unused) = ends(&mut disk);
            let header = view(&mut disk, unused.pair).header.expect("whole");
            assert!(header.recycled);
            let mut damaged = disk.clone();
            lay(&mut damaged, unused.ledger(), unused.slot, RUBBISH);
            let what = format!("{old_until}: block {}", unused.first_block);
            match unused.first_block as usize {
                block if block < old_until => check_silent(damaged, unused, &what),
                _ => check_speaks(damaged, unused, index, &what),
            }
            furthest = furthest.max(unused.first_block);
        }
        assert!(furthest > 12, "both sides of what was left");
    }
}
