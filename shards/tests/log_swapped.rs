//! Blocks that are authentic, in a place that is not theirs: from another offset, another pair, another shard under the same
//! key, another life of the same disk. None of them counts, for a start, a read, a scrub of a running log, or one at rest.

mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::{DiskOp, FileId, FileKind};
use clustor_shards::log::audit::{Outcome, Role};
use clustor_shards::log::inspect::{PairView, Selection, SlotView, inspect};
use clustor_shards::log::record::{RecordKind, records};
use clustor_shards::log::scrub::ScrubRates;
use clustor_shards::log::{
    HardState, LogFormat, LogIdentity, LogOptions, Mode, RecoverError, Retirement, ShardLog, Suite,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{ChainNumber, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term};
use support::{MemoryDisk, TestKey, append, audit, identity, options, pool, settle};

const P: PartitionId = PartitionId(1);
const ENTRIES: u64 = 36;
/// Everything is looked at once in half of this.
const ROUND_MS: u64 = 60_000;

#[derive(Clone, Copy)]
struct Place {
    chain: ChainNumber,
    file: FileId,
    block: u32,
    /// Whether the chain holds any.
    has_entries: bool,
}

/// A shard's log, under the one key that all of a node's shards have theirs from.
struct World {
    disk: MemoryDisk,
    shard: LogIdentity,
    sealing: Suite,
    /// What the entries are filled with, with their index.
    mark: u8,
}

impl World {
    /// Two boots, each with a pair of its own; entries of one block and of three.
    fn new(shard: u16, sealing: Suite, mark: u8) -> Self {
        let mut world = Self {
            disk: MemoryDisk::default(),
            shard: LogIdentity {
                shard: ShardId(shard),
                ..identity()
            },
            sealing,
            mark,
        };
        let mut log = world.start();
        log.create_partition(P, Incarnation(5), b"voters");
        for index in 1..=ENTRIES {
            if index == ENTRIES / 2 {
                log = world.start();
            }
            append(&mut log, 1, 1, index, &world.body(index), Mode::Strict);
            settle(&mut log, &mut world.disk);
        }
        // A chain behind the last one of interest, so that it is known to have retired.
        let vote = HardState {
            term: Term(1),
            vote: Some(NodeId(2)),
        };
        log.hard_state(P, vote);
        settle(&mut log, &mut world.disk);
        world
    }

    fn body(&self, index: u64) -> Vec<u8> {
        let bytes = if index.is_multiple_of(3) { 9_000 } else { 900 };
        vec![self.mark ^ index as u8; bytes]
    }

    fn recover(&mut self) -> Result<ShardLog, RecoverError> {
        let options = LogOptions {
            format: LogFormat {
                sealing: self.sealing,
                ..LogFormat::default()
            },
            scrub: ScrubRates {
                round_ms: ROUND_MS,
                sample_every_ms: ScrubRates::MS_MAX,
                sample_percent: 0,
            },
            ..options()
        };
        ShardLog::recover(&mut self.disk, self.shard, options, &TestKey(9), pool())
            .map(|recovery| recovery.log)
    }

    fn start(&mut self) -> ShardLog {
        let mut log = self.recover().expect("recovers");
        settle(&mut log, &mut self.disk);
        assert!(log.is_open());
        log
    }

    /// The same with `block` in the place of another.
    fn with(&self, (file, number): (FileId, u32), block: &Block) -> Self {
        let mut disk = self.disk.clone();
        disk.file(file)[number as usize].0 = block.0;
        Self { disk, ..*self }
    }

    fn views(&mut self) -> Vec<PairView> {
        let mut views = Vec::new();
        inspect(
            &mut self.disk,
            self.shard,
            &TestKey(9),
            &Selection::ALL,
            |view| {
                views.push(view);
                Ok::<_, RecoverError>(())
            },
        )
        .expect("inspects");
        views
    }

    /// The blocks of chains that are known to have retired, but the openings', in the segment, and their slots.
    fn places(&mut self) -> Vec<Place> {
        let mut places = Vec::new();
        for view in self.views() {
            let last = match view.role {
                Role::Chosen => view.chains.last().expect("some").chain.prev(),
                Role::Older { last_certain } => last_certain,
                Role::Unused => continue,
            };
            let header = view.header.as_ref().expect("whole");
            for chain in view.chains.iter().filter(|chain| chain.chain <= last) {
                let SlotView::Good(slot, _) = &chain.slot else {
                    panic!("all slots are there");
                };
                if chain.chain == header.first_chain {
                    continue;
                }
                let extent = chain.extent.as_ref().expect("whole");
                let kinds = extent.records.iter().map(|record| record.header.kind);
                let place = |file, block| Place {
                    chain: chain.chain,
                    file,
                    block,
                    has_entries: kinds.clone().any(|kind| kind == RecordKind::Entry),
                };
                let number = (chain.chain.get() - header.first_chain.get()) as u32;
                places.push(place(
                    FileId::ledger(view.pair),
                    header.body_block() + number,
                ));
                for block in slot.first_block..slot.first_block + slot.blocks {
                    places.push(place(FileId::segment(view.pair), block));
                }
            }
        }
        assert!(places.len() > 80, "{}", places.len());
        places
    }

    /// Reads every entry: how many are there with what was written; none is there with anything else.
    fn read_all(&mut self, log: &mut ShardLog, what: &str) -> u64 {
        let mut whole = 0;
        for index in 1..=ENTRIES {
            let mut ops = Vec::new();
            if log.read(P, LogIndex(index), &mut ops).is_err() {
                continue;
            }
            let mut retirement = Retirement::default();
            while retirement.reads.is_empty() {
                for op in core::mem::take(&mut ops) {
                    let event = self.disk.carry(op);
                    log.on_event(Time(0), event, &mut retirement);
                }
                if retirement.reads.is_empty() {
                    log.poll(Time(0), &mut ops);
                }
            }
            let Some(frames) = retirement.reads.pop().and_then(|read| read.frames) else {
                continue;
            };
            let record = records(&frames).next().expect(what).expect(what);
            assert_eq!(record.header.index, LogIndex(index), "{what}");
            assert_eq!(record.body, self.body(index), "{what}");
            whole += 1;
        }
        whole
    }

    /// Lets a running log look at everything once; the damage it found.
    fn sweep(&mut self, log: &mut ShardLog) -> Vec<(FileKind, ChainNumber)> {
        let mut found = Vec::new();
        let mut now = Time(0);
        while now <= Time(ROUND_MS * 1_000) {
            let mut ops = Vec::new();
            log.poll(now, &mut ops);
            let idle = ops.is_empty();
            let mut retirement = Retirement::default();
            for op in ops {
                let kind = match &op {
                    DiskOp::Read(read) => read.file.kind,
                    _ => FileKind::Segment,
                };
                let event = self.disk.carry(op);
                log.on_event(now, event, &mut retirement);
                found.extend(retirement.scrubbed.drain(..).map(|it| (kind, it.chain)));
            }
            if idle {
                now = log.deadline().expect("the scrub goes on");
            }
        }
        found
    }
}

/// Everything that looks at the log finds that the block which was put at `place` is not that place's.
fn check(world: &World, place: Place, block: &Block, what: &str) {
    let Place {
        chain,
        file,
        block: number,
        has_entries,
    } = place;
    let (mut running, mut log) = running(world);
    let what = &format!("{file} block {number}, chain {chain}: {what}");
    let mut put = world.with((file, number), block);
    if put.shard == identity() {
        let report = audit(&mut put.disk).expect(what);
        assert!(report.outcome() > Outcome::Healthy, "{what}");
        let named = report.findings.iter().any(|found| found.chain == chain);
        assert!(named, "{what}: {:?}", report.findings);
    }
    // A start that may trust the slot reads the extent when it is asked for.
    let mut recovered = put.recover().expect(what);
    assert_eq!(recovered.quarantine(), None, "{what}");
    settle(&mut recovered, &mut put.disk);
    let whole = put.read_all(&mut recovered, what);
    // Of a slot the extent takes the place.
    let loses = has_entries && file.kind == FileKind::Segment;
    assert_eq!(whole < ENTRIES, loses, "{what}");
    // A log that runs already.
    running.disk.file(file)[number as usize].0 = block.0;
    let whole = running.read_all(&mut log, what);
    assert_eq!(whole < ENTRIES, loses, "{what}");
    let found = running.sweep(&mut log);
    assert!(found.contains(&(file.kind, chain)), "{what}: {found:?}");
}

fn running(world: &World) -> (World, ShardLog) {
    let mut running = World {
        disk: world.disk.clone(),
        ..*world
    };
    let log = running.start();
    (running, log)
}

#[test]
fn an_authentic_block_counts_nowhere_but_in_its_place() {
    for sealing in [Suite::ChaCha20Poly1305, Suite::None] {
        let mut world = World::new(0, sealing, 0x40);
        let other = World::new(1, sealing, 0x80);
        let places = world.places();
        // In clear, where only a checksum stands in the way, some are enough.
        let step = if sealing == Suite::None { 5 } else { 1 };
        for (at, place) in places.iter().enumerate().step_by(step) {
            let (file, number) = (place.file, place.block);
            let own = world.disk.files[&file][number as usize].0;
            let elsewhere = |step: usize| {
                let place = places[(at + step) % places.len()];
                (place.file, place.block)
            };
            let same_file = (1..places.len())
                .map(elsewhere)
                .find(|(other, _)| *other == file);
            let same_kind = |it: &(FileId, u32)| it.0.kind == file.kind && it.0 != file;
            let other_pair = (1..places.len()).map(elsewhere).find(same_kind);
            let candidates = [
                ("from another offset", &world, same_file),
                ("from another pair", &world, other_pair),
                ("from another shard", &other, Some((file, number))),
            ];
            for (what, from, source) in candidates {
                let (source, from_number) = source.expect("there is one");
                let block = &from.disk.files[&source][from_number as usize];
                assert!(block.0 != own && block.0 != Block::ZERO.0, "{what}");
                check(&world, *place, block, &format!("{what}, {sealing}"));
            }
        }
    }
}

/// The same files and salts, filled with other entries: as if a disk came back as an older image of itself, and the system's
/// randomness with it. Sealed under one nonce, both are authentic in both; only the slot's digest knows which was written.
#[test]
fn of_two_blocks_sealed_under_one_nonce_the_slot_knows_which_it_is() {
    let mut world = World::new(0, Suite::default(), 0x40);
    let fork = World::new(0, Suite::default(), 0x80);
    let places = world.places();
    let mut checked = 0;
    for place in places
        .iter()
        .filter(|place| place.file.kind == FileKind::Segment)
    {
        let at = (place.file, place.block);
        let block = &fork.disk.files[&at.0][at.1 as usize];
        if block.0 == world.disk.files[&at.0][at.1 as usize].0 {
            continue; // A mark is the same in both.
        }
        let what = &format!("{} block {}", at.0, at.1);
        let mut put = world.with(at, block);
        let report = audit(&mut put.disk).expect(what);
        let mut named = report.findings.iter();
        assert!(named.any(|found| found.chain == place.chain && found.outcome == Outcome::Missing));
        let (mut running, mut log) = running(&world);
        running.disk.file(at.0)[at.1 as usize].0 = block.0;
        let found = running.sweep(&mut log);
        assert!(
            found.contains(&(FileKind::Segment, place.chain)),
            "{what}: {found:?}"
        );
        checked += 1;
    }
    assert!(checked > 40);
}

#[test]
fn files_under_the_names_of_others_are_not_taken_for_theirs() {
    let world = World::new(0, Suite::default(), 0x40);
    let mut other = World::new(1, Suite::default(), 0x80);
    let mut swapped = World {
        disk: world.disk.clone(),
        ..world
    };
    let pairs: Vec<_> = world.disk.files.keys().map(|file| file.pair).collect();
    let first = pairs[0];
    let newest = (pairs.iter().rev().copied())
        .find(|pair| world.disk.files[&FileId::ledger(*pair)][0].0 != Block::ZERO.0)
        .expect("one was opened");
    for of in [FileId::segment, FileId::ledger] {
        let (one, two) = (of(first), of(newest));
        swapped
            .disk
            .files
            .insert(one, world.disk.files[&two].clone());
        swapped
            .disk
            .files
            .insert(two, world.disk.files[&one].clone());
    }
    let log = swapped.recover().expect("other pairs are authentic");
    let quarantine = log.quarantine().expect("the newest pair is not");
    assert_eq!(quarantine.pair, newest);
    // Another shard's directory.
    other.disk.files.clone_from(&world.disk.files);
    let refused = other.recover();
    assert!(
        refused.is_err_and(|error| matches!(error, RecoverError::Foreign { .. })),
        "by name"
    );
    // One file of a pair alone: the other restores its header, and what it holds is missing.
    for of in [FileId::segment, FileId::ledger] {
        let mut swapped = World {
            disk: world.disk.clone(),
            ..world
        };
        let block = &world.disk.files[&of(newest)];
        swapped.disk.files.insert(of(first), block.clone());
        let mut log = swapped.recover().expect("an older pair");
        assert_eq!(log.quarantine(), None);
        settle(&mut log, &mut swapped.disk);
        swapped.read_all(&mut log, "one file");
    }
}
