//! A random life of a shard's log, from a seed: boots, work, faults, crashes in the middle of anything.
//!
//! Swarm-style: each life draws which kinds of fault it may have, so that no kind hides another. Most lives
//! have at most one fault that damages something durable (a `Damage`), which must cost nothing that was
//! spoken for; a few have several, of which only is asked that nothing is invented. Beside that there may be
//! failing flushes and writes, reads that fail once or twice, operations that get stuck for a while or for
//! ever, a disk that is full or fills up in the middle of zeroing, and one that comes back as it was before. Some lives have
//! their profile changed between two boots, and many partitions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clustor_shards::disk::{FileId, FileKind};
use clustor_shards::log::Mode;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::hearing;
use super::history::Violation;
use super::profile::{self, Profiles};
use super::shard::{Boot, OldImage, Shard};
use super::swarm::{Damage, Swarm, pick};
use crate::disk::{Crash, Fate, FlushFault, SimDisk, SimDiskOptions, StuckKind, WriteFault};

/// How often a boot comes to rest before it crashes, if it comes so far.
const RESTS: f64 = 0.25;

/// What a life came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LifeReport {
    /// Boots that recovered.
    pub boots: u64,
    /// Boots that opened their pair.
    pub opened: u64,
    /// Crashes, of the process or the machine.
    pub crashes: u64,
    /// Decisions made.
    pub decisions: u64,
    /// Of them, entries that the log took.
    pub appends: u64,
    /// Times that a peer was heard, and recorded.
    pub heard: u64,
    /// Micro-steps of the disk.
    pub steps: u64,
    /// Flushes that failed.
    pub flushes_failed: u64,
    /// Segments that became another pair's.
    pub recycled: u64,
    /// Segments that an earlier process had kept and a later one found.
    pub kept_for_later: u64,
    /// Operations that got stuck.
    pub stuck: u64,
    /// Steps in the making of pairs for which there was no room.
    pub no_room: u64,
    /// Whether the disk came back as an older image of itself.
    pub rolled_back: bool,
    /// How often something durable was damaged.
    pub damaged: u32,
    /// How often in each way, by its name: all of them, in the same order in each report.
    pub damages: Vec<(&'static str, u64)>,
    /// Whether it ended in quarantine.
    pub quarantined: bool,
    /// Entries whose content was missing at the end.
    pub missing: u64,
    /// What happened, line by line, where asked for.
    pub trace: Vec<String>,
}

/// A promise of the log was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed}: {what}\nreplay with: cargo run -p clustor-sim --bin sim -- log --seed {seed}"
)]
pub struct LifeFailure {
    /// The seed of the life.
    pub seed: u64,
    /// What was broken.
    pub what: String,
    /// What happened before, where asked for.
    pub trace: Vec<String>,
}

/// Lives the life of `seed`; with `trace`, keeps what happened.
///
/// # Errors
/// [`LifeFailure`], when a promise was broken or an assertion of the log or the disk failed.
pub fn live(seed: u64, trace: bool) -> Result<LifeReport, LifeFailure> {
    let mut life = Life::new(seed, trace);
    let lived = catch_unwind(AssertUnwindSafe(|| life.live()));
    let trace = life.shard.trace.take().unwrap_or_default();
    let fail = |what, trace| LifeFailure { seed, what, trace };
    match lived {
        Ok(Ok(())) => Ok(LifeReport {
            trace,
            ..life.report()
        }),
        Ok(Err(violation)) => Err(fail(violation.to_string(), trace)),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(fail(said.unwrap_or("a panic").to_string(), trace))
        }
    }
}

struct Life {
    seed: u64,
    rng: Xoshiro256PlusPlus,
    /// What peers say, in a life that has some: drawn apart from all else.
    peers_rng: Option<Xoshiro256PlusPlus>,
    /// In a life whose profile changes.
    profiles: Option<Profiles>,
    shard: Shard,
    swarm: Swarm,
    boots: u64,
    opened: u64,
    crashes: u64,
    decisions: u64,
    appends: u64,
    heard: u64,
    quarantined: bool,
    rolled_back: bool,
    image: Option<OldImage>,
    done: Done,
    partitions: u128,
    boots_max: u32,
    floor_chance: f64,
    strict_chance: f64,
}

/// Damages done at once, by how; those of writes and flushes are the disk's to count.
#[derive(Debug, Default)]
struct Done {
    rot: u64,
    unreadable: u64,
    untouched_slot: u64,
    lost_file: u64,
}

/// What became of a stretch of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    Lived,
    Crashed,
    Quarantined,
}

impl Life {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let options = profile::draw(&mut rng, seed);
        let disk = SimDisk::with_options(
            rng.random(),
            SimDiskOptions {
                first_piece_blocks: pick(&mut rng, &[2, 8, 16, 96]),
                piece_blocks: pick(&mut rng, &[4, 16, 64]),
                ..SimDiskOptions::default()
            },
        );
        let mut shard = Shard::new(disk, options);
        shard.trace = trace.then(Vec::new);
        let swarm = Swarm::draw(&mut rng);
        // A third of the lives has peers.
        let has_peers = (seed / 7).is_multiple_of(3);
        let mut life = Self {
            seed,
            peers_rng: has_peers.then(|| Xoshiro256PlusPlus::seed_from_u64(!seed)),
            profiles: Profiles::of(seed),
            shard,
            swarm,
            boots: 0,
            opened: 0,
            crashes: 0,
            decisions: 0,
            appends: 0,
            heard: 0,
            quarantined: false,
            rolled_back: false,
            image: None,
            done: Done::default(),
            partitions: rng.random_range(1..=4),
            boots_max: rng.random_range(2..=6),
            floor_chance: pick(&mut rng, &[0.0, 0.05, 0.3]),
            strict_chance: pick(&mut rng, &[0.0, 0.2, 1.0]),
            rng,
        };
        if let Some(profiles) = &mut life.profiles {
            life.partitions = life.partitions.max(profiles.partitions());
        }
        life
    }

    fn report(&self) -> LifeReport {
        let counters = self.shard.disk.counters();
        LifeReport {
            boots: self.boots,
            opened: self.opened,
            crashes: self.crashes,
            decisions: self.decisions,
            appends: self.appends,
            heard: self.heard,
            steps: counters.steps,
            flushes_failed: counters.flushes_failed,
            recycled: counters.recycled,
            kept_for_later: counters.kept_for_later,
            stuck: counters.stuck.iter().sum(),
            no_room: counters.no_room,
            rolled_back: self.rolled_back,
            damaged: self.shard.faults().damage,
            damages: self.damages(),
            quarantined: self.quarantined,
            missing: self.shard.history.missing_count() as u64,
            trace: Vec::new(),
        }
    }

    /// How often something was damaged, in each way that a swarm may draw.
    fn damages(&self) -> Vec<(&'static str, u64)> {
        let counters = self.shard.disk.counters();
        let (segment, ledger) = (counters.segment_faults, counters.ledger_faults);
        vec![
            ("rot", self.done.rot),
            ("unreadable", self.done.unreadable),
            ("untouched_slot", self.done.untouched_slot),
            ("lost_file", self.done.lost_file),
            ("segment_write_lost", segment.lost.into()),
            ("ledger_write_lost", ledger.lost.into()),
            ("segment_misdirected", segment.misdirected.into()),
            ("ledger_misdirected", ledger.misdirected.into()),
            ("segment_misfiled", segment.misdirected_file.into()),
            ("ledger_misfiled", ledger.misdirected_file.into()),
            ("segment_flush_lied", segment.lied.into()),
            ("ledger_flush_lied", ledger.lied.into()),
        ]
    }

    fn live(&mut self) -> Result<(), Violation> {
        for _ in 0..self.boots_max {
            self.maybe_damage(0.3);
            match self.boot()? {
                Stretch::Lived => {}
                Stretch::Crashed => continue,
                Stretch::Quarantined => return Ok(()),
            }
            if self.work()? == Stretch::Lived {
                self.shard.check_patience()?;
                if self.rng.random_bool(RESTS) {
                    self.rest()?;
                }
                self.crash();
            }
        }
        // What there is must come back once more, undisturbed.
        self.maybe_damage(0.3);
        self.make_room();
        self.boots += 1;
        self.maybe_change_profile();
        if self.shard.boot()? == Boot::Quarantined {
            self.quarantined = true;
            return Ok(());
        }
        self.shard.settle()?;
        self.shard.check_vouches()?;
        self.shard.check_closed()?;
        self.shard.check_reclaimed()?;
        if !self.shard.is_open() && !self.shard.has_failed() {
            return Err(Violation::Stuck("the last boot did not open".into()));
        }
        self.shard.check_admits()?;
        self.opened += 1;
        Ok(())
    }

    /// A while in which nothing is decided and nothing is in the way.
    fn rest(&mut self) -> Result<(), Violation> {
        self.make_room();
        self.shard.disk.unstick();
        self.shard.settle()?;
        self.shard.check_vouches()
    }

    /// Whatever filled the disk is gone.
    fn make_room(&mut self) {
        self.shard.disk.set_full(false);
        self.shard.disk.set_used_percent(60);
    }

    fn crash(&mut self) {
        let crash = pick(&mut self.rng, &[Crash::Kill, Crash::Power, Crash::Power]);
        let fate = match self.rng.random_range(0..6) {
            0 => Fate::Lost,
            1 => Fate::Landed,
            2 => Fate::Torn,
            _ => Fate::Random,
        };
        self.shard.crash(crash, fate);
        self.crashes += 1;
        // The machine goes down as well, before anything was read.
        if self.rng.random_bool(0.1) {
            self.shard.crash(Crash::Power, Fate::Random);
            self.crashes += 1;
        }
        self.maybe_roll_back();
    }

    /// An image is taken after some crash, and put back after a later one. What was damaged or failed since
    /// stays noted: it explains more than it must, in lives that are few.
    fn maybe_roll_back(&mut self) {
        if !self.swarm.rolls_back || self.rolled_back {
            return;
        }
        match self.image.take() {
            None => self.image = Some(self.shard.image()),
            Some(image) if self.rng.random_bool(0.5) => {
                self.shard.note(|| "the disk comes back as it was".into());
                self.shard.restore(image);
                self.rolled_back = true;
            }
            image => self.image = image,
        }
    }

    /// The operator may have changed it while the shard was down.
    fn maybe_change_profile(&mut self) {
        if let Some(profiles) = &mut self.profiles {
            let seed = self.seed;
            self.shard
                .change_options(|options| profiles.change(options, seed));
        }
    }

    /// Recovers, and runs until the shard may speak.
    fn boot(&mut self) -> Result<Stretch, Violation> {
        self.boots += 1;
        if self.rng.random_bool(self.swarm.flaky_chance) {
            self.flaky_read();
        }
        self.maybe_change_profile();
        if self.shard.boot()? == Boot::Quarantined {
            self.quarantined = true;
            return Ok(Stretch::Quarantined);
        }
        let mut idle = 0;
        while !self.shard.is_open() {
            if self.shard.has_failed() || self.crash_now() {
                self.crash();
                return Ok(Stretch::Crashed);
            }
            if !self.shard.step()? {
                self.shard.wait_ms(500);
                self.make_room();
                self.shard.disk.unstick();
                idle += 1;
                if idle > 64 {
                    return Err(Violation::Stuck("the boot does not open its pair".into()));
                }
            }
        }
        self.opened += 1;
        Ok(Stretch::Lived)
    }

    fn crash_now(&mut self) -> bool {
        self.rng.random_bool(self.swarm.crash_chance)
    }

    fn work(&mut self) -> Result<Stretch, Violation> {
        for number in 1..=self.partitions {
            if !self
                .shard
                .history
                .state()
                .contains_key(&PartitionId(number))
            {
                self.shard.create(PartitionId(number));
            }
        }
        for _ in 0..self.rng.random_range(3..120) {
            self.decide();
            self.maybe_hear();
            if self.rng.random_bool(0.6) {
                self.shard.turn()?;
            }
            self.maybe_fail();
            self.maybe_damage(0.01);
            for _ in 0..self.rng.random_range(0..8) {
                let stepped = self.shard.step()?;
                if self.crash_now() {
                    self.crash();
                    return Ok(Stretch::Crashed);
                }
                if !stepped {
                    self.shard.wait_ms(300);
                    if self.rng.random_bool(0.2) {
                        self.shard.disk.unstick();
                    }
                    break;
                }
            }
        }
        Ok(Stretch::Lived)
    }

    fn decide(&mut self) {
        if self.shard.has_failed() {
            return;
        }
        let partition = pick(&mut self.rng, &self.shard.partitions());
        if self.rng.random_bool(self.floor_chance) {
            let last = self.shard.history.state()[&partition].last().get();
            // The last partition is a cold one: its entries have to be written again.
            let cold = self.partitions > 1 && partition == PartitionId(self.partitions);
            let index = if cold { last / 4 } else { last };
            self.shard.set_floor(partition, LogIndex(index));
        }
        let state = &self.shard.history.state()[&partition];
        let last = state.last();
        let mut term = state.hard_state.0.max(Term(1));
        if let Some(entry) = state.entries.last() {
            term = term.max(entry.term);
        }
        let (vote_term, vote) = state.hard_state;
        self.decisions += 1;
        if let Some(bytes) = self.profiles.as_mut().and_then(Profiles::foreign_bytes) {
            self.appends += u64::from(self.shard.append_foreign(partition, term, bytes));
            return;
        }
        match self.rng.random_range(0..100) {
            0..55 => {
                let bytes = match self.rng.random_range(0..10) {
                    0..6 => self.rng.random_range(8..200),
                    6..9 => self.rng.random_range(200..4000),
                    _ => self.rng.random_range(4000..14000),
                };
                let mode = if self.rng.random_bool(self.strict_chance) {
                    Mode::Strict
                } else {
                    Mode::Group
                };
                let taken = self.shard.append(partition, term, bytes, mode);
                self.appends += u64::from(taken);
            }
            55..58 => {
                let taken = self.shard.configure(partition, term);
                self.appends += u64::from(taken);
            }
            58..68 => {
                if vote.is_none() && vote_term > Term::ZERO && self.rng.random_bool(0.5) {
                    self.shard.vote(partition, vote_term, Some(NodeId(5)));
                } else {
                    let vote = self.rng.random_bool(0.5).then_some(NodeId(4));
                    self.shard.vote(partition, term.next(), vote);
                }
            }
            68..80 if last > self.shard.committed(partition) => {
                let room = last.get() - self.shard.committed(partition).get();
                let back = self.rng.random_range(0..room.min(4));
                self.shard
                    .truncate(partition, term, LogIndex(last.get() - back));
            }
            80..84 => self.shard.exit(partition),
            _ => {}
        }
    }

    fn maybe_hear(&mut self) {
        let Some(rng) = &mut self.peers_rng else {
            return;
        };
        if !self.shard.has_failed() && rng.random_bool(hearing::CHANCE) {
            let (peer, past) = hearing::draw(rng, self.shard.history.peers());
            self.shard.hear(peer, past);
            self.heard += 1;
        }
    }

    // ---- faults

    fn maybe_fail(&mut self) {
        let swarm = &self.swarm;
        if self.rng.random_bool(swarm.failure_chance) {
            let kind = pick(&mut self.rng, &[FileKind::Segment, FileKind::Ledger]);
            match self.rng.random_range(0..4) {
                0 => self.shard.disk.fault_next_write(kind, WriteFault::Error),
                1 => self.shard.disk.fault_next_write(kind, WriteFault::Short),
                _ => self.shard.disk.fail_next_flush(kind),
            }
            self.shard
                .note(|| format!("a write or flush of a {kind:?} will fail"));
        }
        if self.rng.random_bool(swarm.stuck_chance) {
            let kinds = [
                StuckKind::Chain,
                StuckKind::Chain,
                StuckKind::Prepare,
                StuckKind::Read,
                StuckKind::Trailer,
            ];
            let kind = pick(&mut self.rng, &kinds);
            self.shard.disk.stick_next(kind);
            self.shard.note(|| format!("a {kind:?} will get stuck"));
        }
        if self.rng.random_bool(swarm.full_chance) {
            let pieces = self.rng.random_range(0..4);
            self.shard.disk.set_room_pieces(pieces);
            let percent = pick(&mut self.rng, &[60, 85, 95]);
            self.shard.disk.set_used_percent(percent);
            self.shard
                .note(|| format!("{pieces} pieces of room, {percent}% used"));
        } else if self.rng.random_bool(0.05) {
            self.make_room();
        }
    }

    /// A read that fails once or twice is no damage.
    fn flaky_read(&mut self) {
        let files = self.shard.disk.file_names();
        if files.is_empty() {
            return;
        }
        let file = pick(&mut self.rng, &files);
        let blocks = self.shard.disk.file_blocks(file).unwrap_or(1);
        let block = self.rng.random_range(0..blocks);
        let times = self.rng.random_range(1..=2);
        self.shard.disk.make_unreadable(file, block, Some(times));
    }

    fn maybe_damage(&mut self, chance: f64) {
        let swarm = &self.swarm;
        if swarm.damages.is_empty()
            || self.shard.faults().damage >= swarm.damages_max
            || !self.rng.random_bool(chance)
        {
            return;
        }
        let damage = pick(&mut self.rng, &swarm.damages);
        let disk = &mut self.shard.disk;
        let what = match damage {
            Damage::Write(..) | Damage::LyingFlush(_) if disk.has_planted_fault() => return,
            Damage::Write(kind, fault) => {
                disk.fault_next_write(kind, fault);
                self.shard
                    .note(|| format!("the next {kind:?} write: {fault:?}"));
                return; // It counts when it strikes.
            }
            Damage::LyingFlush(kind) => {
                disk.fault_next_flush(kind, FlushFault::Lie);
                self.shard
                    .note(|| format!("the next {kind:?} flush is none"));
                return;
            }
            Damage::Rot | Damage::Unreadable | Damage::UntouchedSlot => self.damage_a_block(damage),
            Damage::LostFile => self.lose_a_file(),
        };
        if let Some(what) = what {
            self.shard.damage += 1;
            match damage {
                Damage::Rot => self.done.rot += 1,
                Damage::Unreadable => self.done.unreadable += 1,
                Damage::UntouchedSlot => self.done.untouched_slot += 1,
                Damage::LostFile => self.done.lost_file += 1,
                Damage::Write(..) | Damage::LyingFlush(_) => {}
            }
            self.shard.note(|| what);
        }
    }

    fn damage_a_block(&mut self, damage: Damage) -> Option<String> {
        let disk = &mut self.shard.disk;
        let files = disk.file_names();
        let mut file = *files.choose(&mut self.rng)?;
        let blocks: Vec<u32> = if damage == Damage::UntouchedSlot {
            file = FileId::ledger(file.pair);
            disk.untouched_blocks(file)
        } else {
            disk.blocks_at_rest(file)
        };
        let mut block = *blocks.choose(&mut self.rng)?;
        let mut is_rubbish = false;
        if damage == Damage::UntouchedSlot {
            is_rubbish = block.is_multiple_of(2);
            // The slot that would be next is the one that a start looks at.
            let next = *blocks.first()?;
            if !(block - next).is_multiple_of(3) {
                block = next;
            }
            self.shard.untouched_slot = Some((file.pair, block));
        }
        let disk = &mut self.shard.disk;
        let done = match damage {
            Damage::Rot => disk.plant_rot(file, block),
            Damage::UntouchedSlot if is_rubbish => disk.plant_rubbish(file, block),
            _ => disk.make_unreadable(file, block, None),
        };
        done.then(|| format!("{damage:?}, rubbish {is_rubbish}: {file} block {block}"))
    }

    /// Only between two boots: a file that is open stays reachable.
    fn lose_a_file(&mut self) -> Option<String> {
        if self.shard.is_running() {
            return None;
        }
        let files = self.shard.disk.file_names();
        let file = *files.choose(&mut self.rng)?;
        self.shard
            .disk
            .lose_file(file)
            .then(|| format!("{file} loses its name"))
    }
}
