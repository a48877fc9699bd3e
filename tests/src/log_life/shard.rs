//! A shard's log on a simulated disk, and everything that is checked while it runs and when it comes back.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::buffer::BlockPool;
use clustor_shards::disk::{DiskEvent, DiskOp};
use clustor_shards::log::recovery::{Damage, Incident};
use clustor_shards::log::{
    HardState, Kek, KeyError, KeyProvider, LogIdentity, LogOptions, Mode, PartitionLog,
    ReadRefusal, RecoveryReport, Retirement, ShardLog,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{
    BootNumber, ChainNumber, ClusterId, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term,
};

use super::entry::{body_bytes, configuration_id, entry_id, identify, with_record};
use super::history::{Decision, EntryId, Faults, History, Recovered, Violation};
use crate::disk::{Crash, DiskImage, Fate, Settled, SimDisk};

/// Turns without progress after which a log counts as stuck.
const IDLE_TURNS_MAX: u32 = 64;
/// The longest patience with a stuck disk that a life waits for, in milliseconds: within those turns.
const PATIENCE_MS_MAX: u64 = 20_000;
/// Turns after which a pair that nothing needs must be gone.
const RECLAIM_TURNS_MAX: u32 = 400;
/// Reads in hand at once while everything is read back.
const READS_MAX: usize = 32;
/// Micro-steps after which a log that settles counts as one that never will.
const STEPS_MAX: u32 = 1 << 16;

pub(crate) struct FixedKey;

impl KeyProvider for FixedKey {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(Kek::new(KEK.into()))
    }
}

/// The secret from which everything is derived.
pub(crate) const KEK: [u8; 32] = [7; 32];
pub(crate) const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId(1),
    node: NodeId(2),
    shard: ShardId(3),
};

/// How far a boot came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// The log recovered and goes on to open a pair.
    Opening,
    /// The log reports damage whose identity is unknown.
    Quarantined,
}

/// The greatest numbers seen so far.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    boot: BootNumber,
    retired: ChainNumber,
}

/// A shard as it was at some moment: its disk, what it had decided and spoken for.
#[derive(Debug, Clone)]
pub struct OldImage {
    disk: DiskImage,
    history: History,
    numbers: Numbers,
    appended: BTreeMap<(PartitionId, Term, LogIndex), EntryId>,
}

/// One shard under test.
pub struct Shard {
    /// Its disk.
    pub disk: SimDisk,
    /// What it decided and what it spoke for.
    pub history: History,
    /// Damage that was planted into the disk at rest.
    pub damage: u32,
    /// What happened, line by line, if asked for.
    pub trace: Option<Vec<String>>,
    options: LogOptions,
    log: Option<ShardLog>,
    adopted: bool,
    /// What reading back found to be missing, beyond what recovery knew.
    found_missing: Vec<(PartitionId, LogIndex, LogIndex)>,
    recovered: BTreeMap<PartitionId, Recovered>,
    /// What was said to be needed no more in this boot.
    floors: BTreeMap<PartitionId, LogIndex>,
    numbers: Numbers,
    /// What the log said it may vouch for, per partition, with what it has decided since taken off.
    vouched: BTreeMap<PartitionId, LogIndex>,
    entries: u64,
    /// What was ever appended at (term, index): consensus never puts a second entry there.
    appended: BTreeMap<(PartitionId, Term, LogIndex), EntryId>,
    now: Time,
    ops: Vec<DiskOp>,
    events: Vec<DiskEvent>,
    retirement: Retirement,
}

impl Shard {
    /// A shard with nothing on `disk`.
    #[must_use]
    pub fn new(disk: SimDisk, options: LogOptions) -> Self {
        Self {
            disk,
            history: History::default(),
            damage: 0,
            trace: None,
            options,
            log: None,
            adopted: false,
            found_missing: Vec::new(),
            recovered: BTreeMap::new(),
            floors: BTreeMap::new(),
            numbers: Numbers::default(),
            vouched: BTreeMap::new(),
            entries: 0,
            appended: BTreeMap::new(),
            now: Time(0),
            ops: Vec::new(),
            events: Vec::new(),
            retirement: Retirement::default(),
        }
    }

    /// A copy to take another course from here, after a crash.
    ///
    /// # Panics
    /// If the shard runs.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        assert!(self.log.is_none(), "a shard is copied between two boots");
        self.stopped(self.disk.fork(seed))
    }

    /// The shard as a crash at this moment leaves it, if `settled` is what it decides about everything
    /// [`SimDisk::unsettled`]. Keeps a trace of its own where this one has one.
    #[must_use]
    pub fn crashed(&self, crash: Crash, settled: &Settled, seed: u64) -> Self {
        self.stopped(self.disk.crashed(crash, settled, seed))
    }

    fn stopped(&self, disk: SimDisk) -> Self {
        Self {
            disk,
            history: self.history.clone(),
            damage: self.damage,
            trace: self.trace.as_ref().map(|_| Vec::new()),
            recovered: self.recovered.clone(),
            numbers: self.numbers,
            entries: self.entries,
            appended: self.appended.clone(),
            now: self.now,
            ..Self::new(SimDisk::new(0), self.options)
        }
    }

    /// The faults that explain what a recovery may find.
    #[must_use]
    pub fn faults(&self) -> Faults {
        let counters = self.disk.counters();
        Faults {
            damage: self.damage + counters.silent_faults,
            failed: counters.flushes_failed + counters.writes_failed > 0,
        }
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.log.is_some()
    }

    /// The shard's disk and what is known of it, to be put back later.
    #[must_use]
    pub fn image(&self) -> OldImage {
        OldImage {
            disk: self.disk.image(),
            history: self.history.clone(),
            numbers: self.numbers,
            appended: self.appended.clone(),
        }
    }

    /// The disk comes back as it was. What was spoken for since is gone, and nothing on the disk tells: all
    /// that can be asked is what held at that moment. Under the salts of before nothing is sealed again, which
    /// the disk watches over.
    ///
    /// # Panics
    /// If the shard runs.
    pub fn restore(&mut self, image: OldImage) {
        assert!(self.log.is_none(), "an image is put back between two boots");
        self.disk.restore(image.disk);
        self.history = image.history;
        self.numbers = image.numbers;
        self.appended = image.appended;
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Ends the process.
    pub fn crash(&mut self, crash: Crash, fate: Fate) {
        self.note(|| format!("crash: {crash:?}, {fate:?}"));
        self.log = None;
        self.floors.clear();
        self.ops.clear();
        self.events.clear();
        self.retirement = Retirement::default();
        self.vouched.clear();
        self.disk.crash_with(crash, fate);
    }

    /// Whether the log has opened its pair, so that the shard may speak and decide.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.log.as_ref().is_some_and(ShardLog::is_open)
    }

    /// Whether a write or flush has failed: only a restart helps.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.failure().is_some())
    }

    /// Recovers from the disk and checks what came back.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn boot(&mut self) -> Result<Boot, Violation> {
        assert!(self.log.is_none());
        let pool = BlockPool::new(&[]);
        let recovery =
            match ShardLog::recover(&mut self.disk, IDENTITY, self.options, &FixedKey, pool) {
                Ok(recovery) => recovery,
                Err(_) if self.faults().is_damaged() => return Ok(Boot::Quarantined),
                Err(error) => return Err(Violation::Stuck(format!("recovery refused: {error}"))),
            };
        self.note(|| format!("boot: {:?}", recovery.report));
        self.check_incidents(&recovery.report)?;
        let log = recovery.log;
        if let Some(quarantine) = log.quarantine() {
            if !self.faults().is_damaged() {
                return Err(Violation::QuarantinedWithoutFault(quarantine.to_string()));
            }
            return Ok(Boot::Quarantined);
        }
        if log.boot() < self.numbers.boot && self.faults().damage <= 1 {
            return Err(Violation::NumberWentBack {
                what: "boot",
                now: log.boot().get(),
                before: self.numbers.boot.get(),
            });
        }
        self.check_retired(log.retired_chain())?;
        self.recovered = log
            .partitions()
            .map(|(id, p)| (id, given_back(p)))
            .collect();
        self.history.check(&self.recovered, self.faults())?;
        self.adopted = false;
        self.log = Some(log);
        self.turn()?;
        Ok(Boot::Opening)
    }

    /// Damage is reported only where there was some. What a failed flush dropped is found above the last certain chain.
    fn check_incidents(&self, report: &RecoveryReport) -> Result<(), Violation> {
        let explained = |incident: &Incident| {
            self.faults().is_damaged()
                || self.faults().failed
                    && incident.damage == Damage::Extent
                    && incident.chain > report.certain
        };
        match report.incidents.iter().find(|i| !explained(i)) {
            Some(incident) => Err(Violation::FalseAlarm(incident.to_string())),
            None => Ok(()),
        }
    }

    fn check_retired(&mut self, retired: ChainNumber) -> Result<(), Violation> {
        if retired < self.numbers.retired && self.faults().damage <= 1 {
            return Err(Violation::NumberWentBack {
                what: "chain",
                now: retired.get(),
                before: self.numbers.retired.get(),
            });
        }
        Ok(())
    }

    /// One turn: takes what the disk answered, checks what the log says of it, submits what it asks for.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn turn(&mut self) -> Result<(), Violation> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        self.disk.take_events(&mut self.events);
        for event in self.events.drain(..) {
            log.on_event(self.now, event, &mut self.retirement);
        }
        log.poll(self.now, &mut self.ops);
        // Floors become records when a turn ends.
        if self.adopted {
            for (id, partition) in log.partitions() {
                if self.history.state()[&id].base < partition.base {
                    let index = partition.base;
                    self.history.decide(id, Decision::Floor { index });
                }
            }
        }
        for op in self.ops.drain(..) {
            if let Some(trace) = &mut self.trace {
                trace.push(describe(&op));
            }
            self.disk.submit(op);
        }
        if log.is_open() && !self.adopted {
            self.adopted = true;
            let before = std::mem::take(&mut self.retirement);
            self.read_back()?;
            let scrubbed = std::mem::replace(&mut self.retirement, before).scrubbed;
            self.retirement.scrubbed.extend(scrubbed);
        }
        self.check_spoken()?;
        // Only what is said from here on can know of it.
        for (partition, first, last) in self.found_missing.drain(..) {
            self.history.found_missing(partition, first, last);
            clip(&mut self.vouched, partition, first);
        }
        Ok(())
    }

    fn check_spoken(&mut self) -> Result<(), Violation> {
        let Some(log) = &self.log else {
            return Ok(());
        };
        for proof in self.retirement.durable.drain(..) {
            self.history
                .spoke(proof.partition(), proof.term(), proof.index())?;
        }
        for proof in self.retirement.hard_states.drain(..) {
            if (proof.term(), proof.vote()) != (Term::ZERO, None) {
                self.history
                    .spoke_hard_state(proof.partition(), proof.term(), proof.vote())?;
            }
        }
        let damaged = self.faults().is_damaged();
        for finding in self.retirement.scrubbed.drain(..) {
            if !damaged {
                return Err(Violation::Stuck(format!(
                    "the scrub found damage that nobody did: {finding}"
                )));
            }
            for lost in finding.lost {
                let place = (lost.partition, lost.first, lost.last);
                self.found_missing.push(place);
            }
        }
        if !log.is_open() {
            return Ok(());
        }
        let partitions: Vec<PartitionId> = log.partitions().map(|(id, _)| id).collect();
        for partition in partitions {
            let Some(proof) = log.durable(partition) else {
                continue;
            };
            self.history.spoke(partition, proof.term(), proof.index())?;
            let before = self.vouched.insert(partition, proof.index());
            // Content found to be lost, while entries are written again, takes it back too.
            let went_back = before.filter(|before| *before > proof.index());
            if let Some(before) = went_back.filter(|_| !self.faults().is_damaged()) {
                return Err(Violation::NumberWentBack {
                    what: "durable index",
                    now: proof.index().get(),
                    before: before.get(),
                });
            }
        }
        let retired = log.retired_chain();
        self.numbers.boot = self.numbers.boot.max(log.boot());
        self.numbers.retired = self.numbers.retired.max(retired);
        Ok(())
    }

    /// A micro-step of the disk drawn by it, and a turn; false if nothing is in hand.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn step(&mut self) -> Result<bool, Violation> {
        let stepped = self.disk.step();
        if self.disk.has_events() || !stepped {
            self.turn()?;
        }
        Ok(stepped || self.disk.runnable() > 0)
    }

    /// Virtual time goes on.
    pub fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// Runs until the log has opened and nothing is in hand, with no crash.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if it never does.
    pub fn settle(&mut self) -> Result<(), Violation> {
        let (mut idle, mut steps) = (0, 0);
        loop {
            if self.step()? {
                steps += 1;
                if steps > STEPS_MAX && self.is_open() {
                    return Ok(()); // It serves, and is busy with writing cold entries again.
                }
                if steps > STEPS_MAX {
                    return Err(Violation::Stuck("the log never comes to rest".into()));
                }
                continue;
            }
            let Some(log) = &self.log else {
                return Ok(());
            };
            if log.failure().is_some() || log.is_open() && log.is_settled() {
                return Ok(());
            }
            if self.disk.is_stuck() && log.options().stuck_io_ms > PATIENCE_MS_MAX {
                return Ok(()); // It waits for longer than is worth while.
            }
            idle += 1;
            if idle > IDLE_TURNS_MAX {
                return Err(Violation::Stuck(format!(
                    "the log does not settle: open {}, {} chains in flight, pair {}",
                    log.is_open(),
                    log.chains_in_flight(),
                    log.current_pair()
                )));
            }
            self.wait_ms(500);
        }
    }

    /// Where an operation hangs, the log says so after its bound.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if it goes on waiting.
    pub fn check_patience(&mut self) -> Result<(), Violation> {
        for _ in 0..2 * IDLE_TURNS_MAX {
            let Some(log) = &self.log else {
                return Ok(());
            };
            let is_over = log.failure().is_some() || log.quarantine().is_some();
            let waits_long = log.options().stuck_io_ms > PATIENCE_MS_MAX;
            if is_over || waits_long || !self.disk.is_stuck() {
                return Ok(());
            }
            self.wait_ms(500);
            self.turn()?;
            for _ in 0..8 {
                self.step()?;
            }
        }
        Err(Violation::Stuck(
            "an operation hangs, and the log goes on waiting".into(),
        ))
    }

    /// Checks that every closed pair has its trailer, once the log has settled.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if one has not.
    pub fn check_closed(&self) -> Result<(), Violation> {
        let Some(log) = self.log.as_ref().filter(|log| log.failure().is_none()) else {
            return Ok(());
        };
        let mut closed = log.older_pairs().iter();
        match closed.find(|pair| pair.trailer.is_some() && !pair.trailer_durable) {
            Some(pair) => Err(Violation::Stuck(format!(
                "the trailer of pair {} was never written",
                pair.pair
            ))),
            None => Ok(()),
        }
    }

    /// Where there is room and nothing is damaged, appends are taken.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if they are refused.
    pub fn check_admits(&self) -> Result<(), Violation> {
        let log = self.log.as_ref();
        let Some(log) = log.filter(|log| log.failure().is_none() && log.quarantine().is_none())
        else {
            return Ok(());
        };
        log.admit(8).map_err(|refusal| {
            Violation::Stuck(format!(
                "an append is refused for no reason left: {refusal}"
            ))
        })
    }

    // ---- reading back

    /// Reads every entry, compares it, and goes on from what the log holds.
    fn read_back(&mut self) -> Result<(), Violation> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let mut wanted: BTreeSet<(PartitionId, LogIndex)> = BTreeSet::new();
        self.recovered = log
            .partitions()
            .map(|(id, p)| (id, given_back(p)))
            .collect();
        let at_boot = self.recovered.clone();
        for (id, partition) in &self.recovered {
            let base = partition.base.get();
            let all = (base + 1..=base + partition.terms.len() as u64).map(LogIndex);
            let there = all.filter(|index| !partition.missing.contains(index));
            wanted.extend(there.map(|index| (*id, index)));
        }
        while let Some((partition, index)) = wanted.first().copied() {
            let mut started = 0;
            let mut next = Some((partition, index));
            while let Some((partition, index)) = next
                && started < READS_MAX
            {
                match log.read(partition, index, &mut self.ops) {
                    Ok(_) => started += 1,
                    Err(ReadRefusal::Busy) => break,
                    // The log came first: it had begun to copy that run elsewhere.
                    Err(ReadRefusal::Missing) => {
                        let found = self.recovered.get_mut(&partition);
                        found.expect("recovered").missing.insert(index);
                        self.found_missing.push((partition, index, index));
                        wanted.remove(&(partition, index));
                    }
                    Err(refusal) => {
                        return Err(Violation::Stuck(format!(
                            "partition {partition} index {index} can't be read: {refusal}"
                        )));
                    }
                }
                // The extent is read whole; what it does not hold is asked for in the next round.
                let next_partition = (PartitionId(partition.get() + 1), LogIndex::ZERO);
                next = wanted.range(next_partition..).next().copied();
            }
            let done = run_reads(log, &mut self.disk, &mut self.ops, self.now);
            self.retirement.scrubbed.extend(done.scrubbed);
            for outcome in done.reads {
                let found = self
                    .recovered
                    .get_mut(&outcome.partition)
                    .expect("read from a partition that was recovered");
                let range = outcome.first.get()..=outcome.last.get();
                for index in range.clone() {
                    wanted.remove(&(outcome.partition, LogIndex(index)));
                }
                match outcome.frames {
                    None => {
                        let known = log.partition(outcome.partition);
                        let lost = known.is_some_and(|known| known.is_missing(outcome.first));
                        if !lost {
                            return Err(Violation::Stuck(format!(
                                "partition {} index {} was not read, and is not missing",
                                outcome.partition, outcome.first
                            )));
                        }
                        found.missing.extend(range.map(LogIndex));
                        let place = (outcome.partition, outcome.first, outcome.last);
                        self.found_missing.push(place);
                    }
                    Some(frames) => {
                        let entries = identify(outcome.partition, &frames).ok_or_else(|| {
                            Violation::Stuck(format!(
                                "partition {}: frames {}..={} hold what was never appended",
                                outcome.partition, outcome.first, outcome.last
                            ))
                        })?;
                        found.content.extend(entries);
                    }
                }
            }
        }
        let place = self.history.check(&self.recovered, self.faults())?;
        self.history.adopt(place, &at_boot);
        self.note(|| format!("goes on from {place} decisions"));
        Ok(())
    }

    // ---- deciding

    /// The partitions that exist.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.history.state().keys().copied().collect()
    }

    /// Creates a partition.
    pub fn create(&mut self, partition: PartitionId) {
        let Some(log) = &mut self.log else { return };
        log.create_partition(partition, Incarnation(9), b"first");
        self.history.decide(partition, Decision::Create);
    }

    /// Appends an entry with a body of about `bytes` in `term`, if the log takes it; true if it did. Where
    /// this term had an entry at this index before, that one is appended again.
    pub fn append(&mut self, partition: PartitionId, term: Term, bytes: usize, mode: Mode) -> bool {
        self.entries += 1;
        self.append_id(partition, term, entry_id(self.entries, bytes), mode)
    }

    /// Appends a configuration.
    pub fn configure(&mut self, partition: PartitionId, term: Term) -> bool {
        self.entries += 1;
        self.append_id(partition, term, configuration_id(self.entries), Mode::Group)
    }

    fn append_id(&mut self, partition: PartitionId, term: Term, id: EntryId, mode: Mode) -> bool {
        let Some(log) = &mut self.log else {
            return false;
        };
        let index = self.history.state()[&partition].last().next();
        let at = (partition, term, index);
        let id = self.appended.get(&at).copied().unwrap_or(id);
        if log.admit(body_bytes(id)).is_err() {
            return false;
        }
        self.appended.insert(at, id);
        with_record(partition, term, index, id, |record| {
            log.append(record, mode)
        });
        self.history
            .decide(partition, Decision::Append { term, id });
        self.note(|| format!("append {partition}: term {term} index {index} id {id:x} {mode:?}"));
        true
    }

    /// Records a term and vote.
    pub fn vote(&mut self, partition: PartitionId, term: Term, vote: Option<NodeId>) {
        let Some(log) = &mut self.log else { return };
        log.hard_state(partition, HardState { term, vote });
        self.history
            .decide(partition, Decision::HardState { term, vote });
        self.note(|| format!("vote {partition}: term {term} {vote:?}"));
    }

    /// Entries up to `index` are needed no more, as far as the log vouches for them.
    pub fn set_floor(&mut self, partition: PartitionId, index: LogIndex) {
        let Some(log) = &mut self.log else { return };
        let Some(durable) = log.durable(partition) else {
            return;
        };
        let index = index.min(durable.index());
        log.set_floor(partition, index);
        let floor = self.floors.entry(partition).or_default();
        *floor = index.max(*floor);
        self.note(|| format!("floor {partition}: {index}"));
    }

    /// Nothing up to here may be truncated: it was committed.
    #[must_use]
    pub fn committed(&self, partition: PartitionId) -> LogIndex {
        let base = self.history.state()[&partition].base;
        let floor = self.floors.get(&partition).copied();
        floor.unwrap_or_default().max(base)
    }

    /// Every partition's entries are needed no more: all closed pairs must go.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if one stays.
    pub fn check_reclaimed(&mut self) -> Result<(), Violation> {
        for partition in self.partitions() {
            self.set_floor(partition, LogIndex(u64::MAX));
        }
        for _ in 0..RECLAIM_TURNS_MAX {
            let Some(log) = self.log.as_ref().filter(|log| log.failure().is_none()) else {
                return Ok(());
            };
            // What lies above the last index vouched for can't be given up.
            if log.older_pairs().is_empty() || self.faults() != Faults::default() {
                return Ok(());
            }
            self.wait_ms(50);
            self.turn()?;
            while self.step()? {}
        }
        let log = self.log.as_ref();
        let stay = log.map_or(0, |log| log.older_pairs().len());
        Err(Violation::Stuck(format!("{stay} closed pairs stay")))
    }

    /// Removes everything from `from` on.
    pub fn truncate(&mut self, partition: PartitionId, term: Term, from: LogIndex) {
        let Some(log) = &mut self.log else { return };
        log.truncate(partition, term, from);
        clip(&mut self.vouched, partition, from);
        self.history.decide(partition, Decision::Truncate { from });
        self.note(|| format!("truncate {partition}: from {from}"));
    }
}

/// From `from` on nothing is vouched for any more.
fn clip(vouched: &mut BTreeMap<PartitionId, LogIndex>, partition: PartitionId, from: LogIndex) {
    if let Some(index) = vouched.get_mut(&partition) {
        *index = (*index).min(from.prev());
    }
}

/// What the log says a partition holds.
fn given_back(log: &PartitionLog) -> Recovered {
    let index_range = |first: LogIndex, last: LogIndex| (first.get()..=last.get()).map(LogIndex);
    let all = index_range(log.base.next(), log.last);
    Recovered {
        base: log.base,
        hard_state: (log.hard_state.term, log.hard_state.vote),
        terms: all
            .map(|index| log.term_at(index).expect("every index has a term"))
            .collect(),
        missing: log
            .missing
            .iter()
            .flat_map(|range| index_range(range.first, range.last))
            .collect(),
        content: BTreeMap::new(),
    }
}

/// Carries out the reads asked for, and whatever else is in hand, until all have ended.
fn run_reads(
    log: &mut ShardLog,
    disk: &mut SimDisk,
    ops: &mut Vec<DiskOp>,
    now: Time,
) -> Retirement {
    let mut retirement = Retirement::default();
    let mut events = Vec::new();
    while !ops.is_empty() {
        ops.drain(..).for_each(|op| disk.submit(op));
        // Whoever reads back waits for all of it.
        disk.unstick();
        disk.run_until_idle();
        disk.take_events(&mut events);
        for event in events.drain(..) {
            log.on_event(now, event, &mut retirement);
        }
        log.poll(now, ops);
    }
    retirement
}

fn describe(op: &DiskOp) -> String {
    match op {
        DiskOp::Chain(chain) => format!(
            "chain {} pair {}: log {}+{}, ledger {}+{}",
            chain.chain,
            chain.pair,
            chain.log_block,
            chain.log.len(),
            chain.ledger_block,
            chain.ledger.len()
        ),
        DiskOp::Read(read) => format!("read {} {}+{}", read.file, read.block, read.into.len()),
        DiskOp::Prepare(prepare) => format!(
            "prepare {}: {} + {} blocks",
            prepare.pair, prepare.segment_blocks, prepare.ledger_blocks
        ),
        DiskOp::Trailer(write) => format!("trailer of pair {}", write.pair),
        DiskOp::Remove(pair) => format!("remove {pair}"),
    }
}
