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
//! - names may vanish, or come back, unless the directory was flushed;
//! - sectors rot, reads fail, writes get lost, land elsewhere, end short or in an error, where planted;
//! - the disk may come back as an older image of itself ([`SimDisk::image`]).
//!
//! Time: either the caller picks what happens next ([`SimDisk::step`], [`SimDisk::step_nth`]) and time does
//! not matter, or micro-steps come due on a virtual clock ([`SimDisk::next_due_us`],
//! [`SimDisk::advance_to_us`]).
//!
//! The disk also asserts what the log owes it: writes lie within the part of a file that was reported ready,
//! a block is written once (so that no nonce seals two plaintexts), and the files of a chain exist.

mod directory;
mod file;
mod task;

use std::collections::BTreeMap;

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, FileId, FileKind, FoundPair, PreparePair,
};
use clustor_wire::ids::{ChainNumber, PairNumber};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use directory::Directory;
use file::{Luck, SimFile};
use task::Task;

pub use file::SECTOR_BYTES;

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

/// What is planted into the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// It fails with an error; part of it may have landed.
    Error,
    /// It ends short; part of it may have landed.
    Short,
    /// The device reports success and writes nothing.
    Lost,
    /// The device reports success and writes to other blocks of the same file.
    Misdirected,
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
}

impl Default for Timing {
    /// About what a virtio disk does.
    fn default() -> Self {
        Self {
            write_us: (10, 40),
            flush_us: (40, 120),
            read_us: (20, 100),
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
    /// Flushes that failed.
    pub flushes_failed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct InodeId(u64);

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
    now_us: u64,
    events: Vec<DiskEvent>,
    full: bool,
    flush_fails_next: Option<FileKind>,
    write_fault_next: Option<(FileKind, WriteFault)>,
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
            now_us: 0,
            events: Vec::new(),
            full: false,
            flush_fails_next: None,
            write_fault_next: None,
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
            DiskOp::Remove(pair) => self.begin_remove(pair),
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

    /// Operations in hand, each of which can make a micro-step.
    #[must_use]
    pub fn runnable(&self) -> usize {
        self.tasks.len()
    }

    /// Carries out a micro-step of an operation drawn at random; false if none is in hand.
    pub fn step(&mut self) -> bool {
        match self.tasks.len() {
            0 => false,
            count => {
                let nth = self.rng.random_range(0..count);
                self.step_nth(nth)
            }
        }
    }

    /// Carries out a micro-step of the `nth` operation in hand, counted from the oldest; false if there are
    /// fewer.
    pub fn step_nth(&mut self, nth: usize) -> bool {
        let Some(id) = self.tasks.keys().nth(nth).copied() else {
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
        self.tasks.values().map(Task::due_us).min()
    }

    /// Moves the virtual clock and carries out everything that comes due, in order.
    pub fn advance_to_us(&mut self, now_us: u64) {
        while let Some((due, id)) = self
            .tasks
            .iter()
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

    // ---- crashes

    /// Ends the process that used the disk, each unfinished or unflushed write with a fate of its own.
    pub fn crash(&mut self, crash: Crash) {
        self.crash_with(crash, Fate::Random);
    }

    /// As [`Self::crash`], with one fate for all.
    pub fn crash_with(&mut self, crash: Crash, fate: Fate) {
        if fate == Fate::Random {
            // What the kernel has in hand goes on for a while after a kill.
            let in_kernel = self.tasks.values().filter(|t| t.is_in_kernel()).count();
            for _ in 0..self.rng.random_range(0..=2 * in_kernel) {
                let tasks: Vec<u64> = self
                    .tasks
                    .iter()
                    .filter(|(_, task)| task.is_in_kernel())
                    .map(|(id, _)| *id)
                    .collect();
                if tasks.is_empty() {
                    break;
                }
                let nth = self.rng.random_range(0..tasks.len());
                self.advance(tasks[nth]);
            }
        }
        for (_, task) in std::mem::take(&mut self.tasks) {
            if let Some((inode, block, run)) = task.write_in_flight()
                && let Some(file) = self.files.get_mut(&inode)
            {
                let luck = Luck::draw(fate, &mut self.rng);
                let rng = &mut self.rng;
                file.write(block, run.as_slice(), || luck.sectors(rng));
            }
        }
        if crash == Crash::Power {
            for file in self.files.values_mut() {
                file.lose_power(fate, &mut self.rng);
            }
            self.directory.lose_power(fate, &mut self.rng);
        }
        let directory = &self.directory;
        self.files.retain(|inode, _| directory.mentions(*inode));
        self.events.clear();
        self.flush_fails_next = None;
        self.write_fault_next = None;
    }

    /// A copy of the disk as it is, with another seed for what comes. To be called right after a crash.
    ///
    /// # Panics
    /// If operations are in hand.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        assert!(self.tasks.is_empty(), "a disk is copied between two boots");
        Self {
            files: self.files.clone(),
            directory: self.directory.clone(),
            inodes: self.inodes,
            now_us: self.now_us,
            full: self.full,
            ..Self::with_options(seed, self.options)
        }
    }

    /// Everything as it would be after a power loss in which nothing unflushed survived.
    #[must_use]
    pub fn image(&self) -> DiskImage {
        let mut image = DiskImage {
            files: self.files.clone(),
            directory: self.directory.clone(),
        };
        let mut unused = Xoshiro256PlusPlus::seed_from_u64(0);
        image.directory.lose_power(Fate::Lost, &mut unused);
        for file in image.files.values_mut() {
            file.lose_power(Fate::Lost, &mut unused);
        }
        image
    }

    /// Brings the disk back as an older image of itself. To be called right after a crash.
    ///
    /// # Panics
    /// If operations are in hand.
    pub fn restore(&mut self, image: DiskImage) {
        assert!(
            self.tasks.is_empty(),
            "an image is put back between two boots"
        );
        self.files = image.files;
        self.directory = image.directory;
    }

    // ---- faults

    /// Turns over bits of a block, durably; false if there is no such block.
    pub fn plant_rot(&mut self, file: FileId, block: u32) -> bool {
        let rng = &mut self.rng;
        let inode = self.directory.lookup(file);
        match inode.and_then(|inode| self.files.get_mut(&inode)) {
            Some(found) if block < found.blocks() => {
                found.rot(block, rng);
                true
            }
            _ => false,
        }
    }

    /// Makes the next `times` reads of a block fail (`None`: all, until it is written); false if there is no
    /// such block.
    pub fn make_unreadable(&mut self, file: FileId, block: u32, times: Option<u32>) -> bool {
        let inode = self.directory.lookup(file);
        match inode.and_then(|inode| self.files.get_mut(&inode)) {
            Some(found) if block < found.blocks() => {
                found.make_unreadable(block, times);
                true
            }
            _ => false,
        }
    }

    /// The next flush of a file of this kind to end, ends in an error.
    pub fn fail_next_flush(&mut self, kind: FileKind) {
        self.flush_fails_next = Some(kind);
    }

    /// The next chain's write to a file of this kind goes wrong.
    pub fn fault_next_write(&mut self, kind: FileKind, fault: WriteFault) {
        self.write_fault_next = Some((kind, fault));
    }

    /// Whether a planted flush or write fault waits to strike.
    #[must_use]
    pub fn has_planted_fault(&self) -> bool {
        self.flush_fails_next.is_some() || self.write_fault_next.is_some()
    }

    /// Whether there is room for new files.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    // ---- what is there

    /// The files that have a name.
    #[must_use]
    pub fn file_names(&self) -> Vec<FileId> {
        self.directory.names().keys().copied().collect()
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

    /// Whether a block was ever handed over to be written.
    #[must_use]
    pub fn was_submitted(&self, file: FileId, block: u32) -> bool {
        self.named(file).is_some_and(|f| f.is_submitted(block))
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
        for (id, inode) in self.directory.names() {
            let bytes = self
                .files
                .get(inode)
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
}

/// The rules a chain must keep, checked when it is handed over.
fn assert_admitted(file: &mut SimFile, id: FileId, chain: ChainNumber, block: u32, run: &Blocks) {
    if let Err(why) = file.admit(block, run.as_slice()) {
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
