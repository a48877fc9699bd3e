//! The simulator's disk: one shard's directory in memory, with everything a real device may do to it.
//!
//! [`SimDisk`] carries out the log's operations ([`DiskOp`]) in micro-steps and answers with [`DiskEvent`]s;
//! after a crash, recovery reads it through [`BootDisk`]. Everything random comes from its seed: the same
//! seed and the same calls give the same disk, bit for bit.
//!
//! The crash model:
//! - an unflushed write may be there, not there, or torn at 512 bytes, in any combination;
//! - a flush covers the writes to its file that had completed when it was issued, and nothing else;
//! - after a failed flush, what it covered may be gone at once, or at the next power loss, and no later flush
//!   saves it; its error is delivered before any success of a flush that was issued after it failed;
//! - a kill leaves the device's cache readable, and writes in flight may land, in part, before the lock is
//!   free, which is before recovery reads; a power loss may take from the cache what no flush covered;
//! - a segment that is kept for a later pair keeps what it holds, but for its front and its last block; a ledger that is kept
//!   is zeroed at one stroke;
//! - names may vanish, or come back, unless the directory was flushed;
//! - sectors rot, reads fail, writes get lost, land elsewhere in their file or in another, end short or in an
//!   error, flushes are reported that were none, operations never end, names get lost, where planted;
//! - the disk may be full, at once or in the middle of zeroing;
//! - the disk may come back as an older image of itself ([`SimDisk::image`]).
//!
//! What a crash may make of a disk can also be gone through one by one: [`SimDisk::unsettled`] lists what is
//! open, [`SimDisk::crashed`] makes the disk that comes of one decision about it.
//!
//! Time: either the caller picks what happens next ([`SimDisk::step`], [`SimDisk::step_nth`]) and time does
//! not matter, or micro-steps come due on a virtual clock ([`SimDisk::next_due_us`],
//! [`SimDisk::advance_to_us`]).
//!
//! The disk also asserts what the log owes it: writes lie within the part of a file that was reported ready,
//! a block is written once, under one salt no block is ever written with two contents (so that no nonce seals
//! two plaintexts, not even on a disk that came back as it was before), and the files of a chain exist.

mod crash;
mod directory;
mod fault;
mod file;
mod pairs;
mod task;

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::pace::Pace;
use clustor_shards::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, FileId, FileKind, FoundPair, PreparePair, RetirePair,
};
use clustor_wire::ids::{ChainNumber, PairNumber};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use directory::Directory;
use file::SimFile;
use task::Task;

pub use crash::{Settled, Unsettled};
pub use directory::Name;
pub use fault::{FlushFault, StuckKind, WriteFault};
pub use file::{SECTOR_BYTES, SectorMask};

/// What ended the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process alone: the device's cache stays.
    Kill,
    /// The machine: what no flush covered may be gone.
    Power,
}

/// What a crash makes of each unflushed or unfinished write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Drawn for each.
    Random,
    /// All are there.
    Landed,
    /// None is.
    Lost,
    /// All are torn at sectors.
    Torn,
}

/// How long micro-steps take on the virtual clock, in microseconds, each drawn between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A write of a chain, or a piece of zeroing.
    pub write_us: (u64, u64),
    /// A flush of a file or the directory.
    pub flush_us: (u64, u64),
    /// A read.
    pub read_us: (u64, u64),
    /// How long nothing of a pair is zeroed after a piece, beside chains.
    pub pause_us: u64,
}

impl Default for Timing {
    /// About what a virtio disk does.
    fn default() -> Self {
        Self {
            write_us: (10, 40),
            flush_us: (40, 120),
            read_us: (20, 100),
            pause_us: 5_000,
        }
    }
}

/// How a disk is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimDiskOptions {
    /// Durations on the virtual clock.
    pub timing: Timing,
    /// Blocks of a segment that are zeroed before the pair is reported as prepared.
    pub first_piece_blocks: u32,
    /// Blocks of each later piece.
    pub piece_blocks: u32,
}

impl Default for SimDiskOptions {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            first_piece_blocks: 64,
            piece_blocks: 256,
        }
    }
}

/// What the disk did, counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimDiskCounters {
    /// Micro-steps carried out.
    pub steps: u64,
    /// Writes of chains that completed.
    pub writes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Segments that became another pair's.
    pub recycled: u64,
    /// Segments that an earlier process had kept and a later one found.
    pub kept_for_later: u64,
    /// Flushes that failed.
    pub flushes_failed: u64,
    /// Writes that failed.
    pub writes_failed: u64,
    /// Writes and flushes that went wrong and were reported as done.
    pub silent_faults: u32,
    /// Those of segments.
    pub segment_faults: SilentFaults,
    /// Those of ledgers.
    pub ledger_faults: SilentFaults,
    /// Operations that got stuck, in the order of [`StuckKind`].
    pub stuck: [u64; 4],
    /// Steps in the making of pairs for which there was no room.
    pub no_room: u64,
}

/// What went wrong and was reported as done, by how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SilentFaults {
    /// Writes that were none.
    pub lost: u32,
    /// Writes that went elsewhere in their file, or nowhere.
    pub misdirected: u32,
    /// Writes that went to another file, or nowhere.
    pub misdirected_file: u32,
    /// Flushes that were none.
    pub lied: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct InodeId(u64);

/// A file that waits to become another pair's.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// What it was; its name.
    file: FileId,
    inode: InodeId,
    blocks: u32,
}

/// An image of everything that is durable, to be put back later.
#[derive(Debug, Clone)]
pub struct DiskImage {
    files: BTreeMap<InodeId, SimFile>,
    directory: Directory,
}

/// One shard's disk.
#[derive(Debug)]
pub struct SimDisk {
    rng: Xoshiro256PlusPlus,
    options: SimDiskOptions,
    files: BTreeMap<InodeId, SimFile>,
    directory: Directory,
    inodes: u64,
    tasks: BTreeMap<u64, Task>,
    tasks_begun: u64,
    /// Files of pairs that are gone and are kept, as far as the process knows of them.
    kept: Vec<Kept>,
    /// How fast the next pair is made.
    pace: Pace,
    now_us: u64,
    events: Vec<DiskEvent>,
    /// Pieces of new files that can still be written, if that is limited.
    room: Option<u32>,
    flush_fault_next: Option<(FileKind, FlushFault)>,
    write_fault_next: Option<(FileKind, WriteFault)>,
    /// The next operation to make a micro-step never ends, if it is of this kind.
    stick_next: Option<StuckKind>,
    /// Files whose names were lost to damage.
    lost: BTreeSet<FileId>,
    /// Digests of what was ever written to a segment, by salt and block.
    sealed: BTreeMap<([u8; 32], u32), u64>,
    /// Whether files hold what the log never wrote: a header or trailer may then be replaced by another.
    forged: bool,
    counters: SimDiskCounters,
}

impl SimDisk {
    /// An empty disk with default options.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_options(seed, SimDiskOptions::default())
    }

    /// An empty disk.
    #[must_use]
    pub fn with_options(seed: u64, options: SimDiskOptions) -> Self {
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            options,
            files: BTreeMap::new(),
            directory: Directory::default(),
            inodes: 0,
            tasks: BTreeMap::new(),
            tasks_begun: 0,
            kept: Vec::new(),
            pace: Pace::default(),
            now_us: 0,
            events: Vec::new(),
            room: None,
            flush_fault_next: None,
            write_fault_next: None,
            stick_next: None,
            lost: BTreeSet::new(),
            sealed: BTreeMap::new(),
            forged: false,
            counters: SimDiskCounters::default(),
        }
    }

    // ---- operations and events

    /// Takes an operation in hand.
    ///
    /// # Panics
    /// If the operation breaks a rule that the log owes the disk (module text).
    pub fn submit(&mut self, op: DiskOp) {
        let task = match op {
            DiskOp::Chain(op) => self.begin_chain(op),
            DiskOp::Read(op) => self.begin_read(op),
            DiskOp::Prepare(op) => self.begin_prepare(op),
            DiskOp::Trailer(op) => self.begin_trailer(op),
            DiskOp::Remove(pair) => self.begin_remove(RetirePair {
                pair,
                keep_blocks: None,
                kept_max: u32::MAX,
            }),
            DiskOp::Retire(order) => self.begin_remove(order),
        };
        self.tasks_begun += 1;
        self.tasks.insert(self.tasks_begun, task);
    }

    /// Hands out what happened since the last call: errors first, otherwise in the order it happened.
    pub fn take_events(&mut self, into: &mut Vec<DiskEvent>) {
        self.events.sort_by_key(|event| !event.is_error());
        into.append(&mut self.events);
    }

    /// Whether events wait to be taken.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    // ---- what happens next

    /// Operations in hand that can make a micro-step: all but those that are stuck.
    #[must_use]
    pub fn runnable(&self) -> usize {
        self.tasks.values().filter(|task| !task.is_stuck()).count()
    }

    /// Carries out a micro-step of an operation drawn at random; false if none can make one.
    pub fn step(&mut self) -> bool {
        match self.runnable() {
            0 => false,
            count => {
                let nth = self.rng.random_range(0..count);
                self.step_nth(nth)
            }
        }
    }

    /// Carries out a micro-step of the `nth` operation that can make one, counted from the oldest; false if
    /// there are fewer.
    pub fn step_nth(&mut self, nth: usize) -> bool {
        let mut runnable = self.tasks.iter().filter(|(_, task)| !task.is_stuck());
        let Some(id) = runnable.nth(nth).map(|(id, _)| *id) else {
            return false;
        };
        self.advance(id);
        true
    }

    /// Steps at random until nothing is in hand. Operations are finite, so this ends.
    pub fn run_until_idle(&mut self) {
        while self.step() {}
    }

    /// When the next micro-step is due on the virtual clock.
    #[must_use]
    pub fn next_due_us(&self) -> Option<u64> {
        let runnable = self.tasks.values().filter(|task| !task.is_stuck());
        runnable.map(Task::due_us).min()
    }

    /// Moves the virtual clock and carries out everything that comes due, in order.
    pub fn advance_to_us(&mut self, now_us: u64) {
        while let Some((due, id)) = self
            .tasks
            .iter()
            .filter(|(_, task)| !task.is_stuck())
            .map(|(id, task)| (task.due_us(), *id))
            .min()
            && due <= now_us
        {
            self.now_us = self.now_us.max(due);
            self.advance(id);
        }
        self.now_us = self.now_us.max(now_us);
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> SimDiskCounters {
        self.counters
    }

    // ---- what is there

    /// The files that have a name.
    #[must_use]
    pub fn file_names(&self) -> Vec<FileId> {
        self.directory.files().map(|(file, _)| file).collect()
    }

    /// Writes and flushes take exactly so long from here on, in microseconds.
    pub fn slow_down(&mut self, us: u64) {
        self.options.timing.write_us = (us, us);
        self.options.timing.flush_us = (us, us);
    }

    /// Micro-steps take so long from here on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.options.timing = timing;
    }

    /// Size of a file in blocks.
    #[must_use]
    pub fn file_blocks(&self, file: FileId) -> Option<u32> {
        self.named(file).map(SimFile::blocks)
    }

    /// Blocks of a file that were written and flushed, and have nothing unflushed over them.
    #[must_use]
    pub fn blocks_at_rest(&self, file: FileId) -> Vec<u32> {
        self.named(file).map(SimFile::at_rest).unwrap_or_default()
    }

    /// The blocks of a file that were never handed over to be written.
    #[must_use]
    pub fn untouched_blocks(&self, file: FileId) -> Vec<u32> {
        self.named(file).map_or_else(Vec::new, |found| {
            let all = 0..found.blocks();
            all.filter(|block| !found.is_submitted(*block)).collect()
        })
    }

    fn named(&self, file: FileId) -> Option<&SimFile> {
        let inode = self.directory.lookup(file)?;
        self.files.get(&inode)
    }
}

impl BootDisk for SimDisk {
    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError> {
        assert!(
            self.tasks.is_empty(),
            "recovery reads before the first turn"
        );
        let mut found: BTreeMap<PairNumber, FoundPair> = BTreeMap::new();
        for (id, inode) in self.directory.files() {
            let bytes = self
                .files
                .get(&inode)
                .map(|file| u64::from(file.blocks()) * clustor_shards::buffer::BLOCK_BYTES as u64);
            let pair = found.entry(id.pair).or_insert(FoundPair {
                pair: id.pair,
                segment_bytes: None,
                ledger_bytes: None,
            });
            match id.kind {
                FileKind::Segment => pair.segment_bytes = bytes,
                FileKind::Ledger => pair.ledger_bytes = bytes,
            }
        }
        Ok(found.into_values().collect())
    }

    fn read(&mut self, file: FileId, block: u32, into: &mut Blocks) -> Result<(), DiskError> {
        let inode = self.directory.lookup(file);
        task::read_from(&mut self.files, inode, file, block, into)
    }

    fn is_written(&mut self, file: FileId) -> bool {
        self.named(file).is_some_and(SimFile::is_whole)
    }

    fn keep(&mut self, blocks: u32, count: u32) -> Result<(), DiskError> {
        let found: Vec<_> = self.directory.kept().collect();
        for (file, inode) in found {
            let kept = self.files.get(&inode).filter(|kept| match file.kind {
                FileKind::Segment => kept.blocks() == blocks && kept.is_whole(),
                FileKind::Ledger => true,
            });
            let (may_keep, links) = (self.kept_of(file.kind) < count, self.directory.links(inode));
            match kept.map(SimFile::blocks).filter(|_| may_keep && links == 1) {
                Some(blocks) => self.kept.push(Kept {
                    file,
                    inode,
                    blocks,
                }),
                None => self.directory.change(Name::Kept(file), None),
            }
        }
        if !self.kept.is_empty() {
            self.directory.flush_succeeds(self.directory.flush_begins());
        }
        self.counters.kept_for_later += u64::from(self.kept_of(FileKind::Segment));
        Ok(())
    }
}

/// The rules a chain must keep, checked when it is handed over. A header that was forged may be restored from the other.
fn assert_admitted(
    file: &mut SimFile,
    id: FileId,
    chain: ChainNumber,
    block: u32,
    run: &Blocks,
    forged: bool,
) {
    let restores = forged && block == 0;
    if let (Err(why), false) = (file.admit(block, run.as_slice()), restores) {
        panic!("chain {chain}: {id}: {why}");
    }
}

/// The rules a new pair must keep.
fn assert_preparable(directory: &Directory, op: &PreparePair) {
    assert!(
        op.segment_blocks > 0 && op.ledger_blocks > 0,
        "pair {}: a file of no blocks",
        op.pair
    );
    for id in [FileId::segment(op.pair), FileId::ledger(op.pair)] {
        assert!(
            directory.lookup(id).is_none(),
            "{id} is in place and would be replaced: pair numbers are never reused"
        );
    }
}
