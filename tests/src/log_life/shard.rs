//! A shard's log on a simulated disk, and everything that is checked while it runs and when it comes back.

mod deciding;
mod reading;
mod rest;
mod rolling;
mod silence;

use std::collections::BTreeMap;

use clustor_shards::buffer::BlockPool;
use clustor_shards::disk::{DiskEvent, DiskOp};
use clustor_shards::log::nonce::NonceAccount;
use clustor_shards::log::recovery::{Damage, Incident};
use clustor_shards::log::{
    Kek, KeyError, KeyProvider, LogIdentity, LogOptions, RecoveryReport, Retirement, ShardLog,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{
    BootNumber, ChainNumber, ClusterId, LogIndex, NodeId, PairNumber, PartitionId, ShardId, Term,
};

use super::history::{Decision, EntryId, Faults, History, Recovered, Violation};
use crate::disk::{Crash, DiskImage, Fate, Settled, SimDisk};
use deciding::clip;
use reading::given_back;
use rolling::Rolling;

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
    /// A slot that was damaged before anything was written to it: its pair, and its block in the ledger.
    pub(super) untouched_slot: Option<(PairNumber, u32)>,
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
    rolling: Rolling,
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
            untouched_slot: None,
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
            rolling: Rolling::default(),
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
            untouched_slot: self.untouched_slot,
            trace: self.trace.as_ref().map(|_| Vec::new()),
            recovered: self.recovered.clone(),
            numbers: self.numbers,
            entries: self.entries,
            appended: self.appended.clone(),
            now: self.now,
            ..Self::new(SimDisk::new(0), self.options)
        }
    }

    /// The next boot may run under other options.
    ///
    /// # Panics
    /// If the shard runs.
    pub(super) fn change_options(&mut self, change: impl FnOnce(&mut LogOptions)) {
        assert!(self.log.is_none(), "a profile is read at a start");
        change(&mut self.options);
        let options = self.options;
        self.note(|| format!("options: {options:?}"));
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
        self.rolling = Rolling::default();
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
        self.check_nonces(&recovery.report)?;
        let log = recovery.log;
        if let Some(quarantine) = log.quarantine() {
            if !self.faults().is_damaged() {
                return Err(Violation::QuarantinedWithoutFault(quarantine.to_string()));
            }
            if self.is_nothing_lost() {
                return Err(Violation::QuarantinedForNothing(quarantine.to_string()));
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
        let peers = log.peers().collect();
        self.history.check(&self.recovered, &peers, self.faults())?;
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

    /// Whatever was damaged, every nonce is accounted for where the ledgers are whole.
    fn check_nonces(&self, report: &RecoveryReport) -> Result<(), Violation> {
        let unexplained = |account: &&NonceAccount| account.gap_bytes() > 0;
        match report.nonces.iter().find(unexplained) {
            Some(account) => Err(Violation::FalseAlarm(format!("nonces: {account:?}"))),
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
                    let asked = self.floors.get(&id).copied().unwrap_or_default();
                    if index > asked {
                        return Err(Violation::GaveUpTooMuch {
                            partition: id,
                            base: index,
                            asked,
                        });
                    }
                    self.history.decide(id, Decision::Floor { index });
                }
            }
        }
        for op in self.ops.drain(..) {
            if let Some(trace) = &mut self.trace {
                trace.push(describe(&op));
            }
            if let DiskOp::Chain(chain) = &op {
                self.rolling.note(chain)?;
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
        for proof in self.retirement.exits.drain(..) {
            self.history
                .spoke_exit(proof.partition(), proof.term(), proof.index())?;
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
        DiskOp::Retire(order) => format!(
            "retire {} keep {:?} of {}",
            order.pair, order.keep_blocks, order.kept_max
        ),
    }
}
