//! How a process ends, and what that makes of what was not durable.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::file::{Luck, SectorMask};
use super::{Crash, DiskImage, Fate, Name, Pace, SimDisk};

/// What a crash would decide about, in an order of the disk's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Per block of each unflushed or unfinished write, the sectors that would change something.
    pub blocks: Vec<SectorMask>,
    /// Names that a flush of the directory has yet to cover, each with the number of states in which it may
    /// come back.
    pub names: Vec<(Name, usize)>,
}

impl Unsettled {
    /// How many decisions there are, all told: subsets of the sectors times states of the names.
    #[must_use]
    pub fn count(&self) -> u64 {
        let states = self.names.iter().map(|(_, states)| *states as u64);
        let subsets = 1u64.checked_shl(self.sectors()).unwrap_or(u64::MAX);
        states.fold(subsets, u64::saturating_mul)
    }

    /// Sectors that are open.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.blocks.iter().map(|mask| mask.count_ones()).sum()
    }
}

/// One decision about everything [`Unsettled`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Settled {
    /// Per block, the sectors that are there.
    pub blocks: Vec<SectorMask>,
    /// Per name, how many of its changes are there.
    pub names: Vec<usize>,
}

impl SimDisk {
    /// Ends the process that used the disk, each unfinished or unflushed write with a fate of its own.
    pub fn crash(&mut self, crash: Crash) {
        self.crash_with(crash, Fate::Random);
    }

    /// As [`Self::crash`], with one fate for all.
    pub fn crash_with(&mut self, crash: Crash, fate: Fate) {
        if fate == Fate::Random {
            self.go_on_in_the_kernel();
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
        self.forget_process();
    }

    /// What the kernel has in hand goes on for a while after a kill.
    fn go_on_in_the_kernel(&mut self) {
        let goes_on = |task: &super::Task| task.is_in_kernel() && !task.is_stuck();
        let in_kernel = self.tasks.values().filter(|task| goes_on(task)).count();
        for _ in 0..self.rng.random_range(0..=2 * in_kernel) {
            let tasks: Vec<u64> = self
                .tasks
                .iter()
                .filter(|(_, task)| goes_on(task))
                .map(|(id, _)| *id)
                .collect();
            if tasks.is_empty() {
                break;
            }
            let nth = self.rng.random_range(0..tasks.len());
            self.advance(tasks[nth]);
        }
    }

    fn forget_process(&mut self) {
        self.tasks.clear();
        self.kept.clear();
        self.pace = Pace::default();
        let directory = &self.directory;
        self.files.retain(|inode, _| directory.mentions(*inode));
        self.events.clear();
        self.forget_planted_faults();
    }

    /// What a crash at this moment would decide about.
    #[must_use]
    pub fn unsettled(&self, crash: Crash) -> Unsettled {
        let mut blocks = Vec::new();
        if crash == Crash::Power {
            let unflushed = self.files.values().flat_map(super::SimFile::unflushed);
            blocks.extend(unflushed.map(|(_, sectors)| sectors));
        }
        for task in self.tasks.values() {
            if let Some((inode, block, run)) = task.write_in_flight()
                && let Some(file) = self.files.get(&inode)
            {
                let run = (block..).zip(run.as_slice());
                blocks.extend(run.map(|(at, bytes)| file.telling_sectors(at, &bytes.0)));
            }
        }
        Unsettled {
            blocks,
            names: match crash {
                Crash::Power => self.directory.unflushed(),
                Crash::Kill => Vec::new(),
            },
        }
    }

    /// The disk as a crash at this moment leaves it, if `settled` is what it decides about everything
    /// [`Self::unsettled`]; with another seed for what comes.
    ///
    /// # Panics
    /// If `settled` decides about other things.
    #[must_use]
    pub fn crashed(&self, crash: Crash, settled: &Settled, seed: u64) -> Self {
        let mut disk = self.copy(seed);
        let mut decided = settled.blocks.iter().copied();
        let mut keep = || decided.next().expect("every block is decided about");
        if crash == Crash::Power {
            for file in disk.files.values_mut() {
                file.lose_power_keeping(&mut keep);
            }
            disk.directory.lose_power_keeping(&settled.names);
        }
        for task in self.tasks.values() {
            if let Some((inode, block, run)) = task.write_in_flight()
                && let Some(file) = disk.files.get_mut(&inode)
            {
                file.write(block, run.as_slice(), &mut keep);
                if crash == Crash::Power {
                    file.lose_power_keeping(|| SectorMask::MAX);
                }
            }
        }
        disk.forget_process();
        disk
    }

    /// A copy of the disk as it is, with another seed for what comes. To be called right after a crash.
    ///
    /// # Panics
    /// If operations are in hand.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        assert!(self.tasks.is_empty(), "a disk is copied between two boots");
        self.copy(seed)
    }

    fn copy(&self, seed: u64) -> Self {
        Self {
            files: self.files.clone(),
            directory: self.directory.clone(),
            inodes: self.inodes,
            now_us: self.now_us,
            room: self.room,
            lost: self.lost.clone(),
            sealed: self.sealed.clone(),
            forged: self.forged,
            counters: self.counters,
            ..Self::with_options(seed, self.options)
        }
    }

    /// A number that tells disks with different content apart; of the process that uses it, it says nothing.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (file, inode) in self.directory.names() {
            file.hash(&mut hasher);
            if let Some(file) = self.files.get(inode) {
                file.fingerprint(&mut hasher);
            }
        }
        self.directory.unflushed().hash(&mut hasher);
        hasher.finish()
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
}
