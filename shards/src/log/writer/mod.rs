//! The log of one shard while it runs: records in, durable chains out, proofs when they retire.
//!
//! - `decide`: records enter the queue in the order in which they were decided
//! - `submit`: batches become chains, a full pair makes way for the next
//! - `retire`: what the disk answers, and what that proves
//!
//! One queue: records of all partitions enter the open batch in the order in which they were decided, and
//! nothing overtakes. Chains complete in any order and retire in sequence; only retiring mints proofs. The first
//! error is final: nothing that has not retired by then ever retires. A pair is opened by two chains, each alone in the
//! pipeline: the opening, which carries header, checkpoint and what a boot writes again, and the mark, an empty extent that
//! leaves something behind the opening, so that this pair and none before it is chosen from then on.

mod decide;
mod retire;
mod slowness;
mod submit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use clustor_wire::ids::{BootNumber, ChainNumber, LogIndex, PairNumber, PartitionId};

use super::batch::{Batch, Emptied, for_each_item};
use super::checkpoint::{OlderPair, PastBoot};
use super::fold::{Content, PartitionLog, ShardFold};
use super::header::PairHeader;
use super::keys::ShardKeys;
use super::location::{ExtentPlace, Locations};
use super::nonce::GapVerdict;
use super::options::LogOptions;
use super::pair::{OpenPair, Spare};
use super::patience::Patience;
use super::pressure::Pressure;
use super::proof::{ExitDurable, HardStateDurable, LocalDurable};
use super::read::Reads;
use super::reclaim::Closing;
use super::recovery::{Quarantine, ROT_QUARANTINES};
use super::scrub::{LostRun, Scrub, ScrubFinding, SweepPlace};
use super::seal::SegmentCipher;
use crate::alike::Alike;
use crate::buffer::BlockPool;
use crate::disk::DiskError;
use crate::turn::{PeerId, PeerPast, Time};
use slowness::Slowness;

/// How an append is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It gets its own extent and its own chain.
    Strict,
    /// It shares a chain with what arrives about the same time.
    Group,
}

/// Why the log takes no append now. Nothing of a refused append has left a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogRefusal {
    /// The entry is longer than any may be.
    #[error("entry of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many batches wait already.
    #[error("{waiting} batches wait for the disk, the limit is {limit}")]
    Crowded {
        /// Batches that wait.
        waiting: usize,
        /// The limit.
        limit: usize,
    },
    /// Too much waits already.
    #[error("{queued} bytes wait for the disk, the limit is {limit}")]
    Busy {
        /// Bytes that wait.
        queued: usize,
        /// The limit.
        limit: usize,
    },
    /// The disk is full: no new pair can be made, and what is open has no room; or more is used than
    /// `disk_hard_percent`.
    #[error("the disk is full, or nearly; free space on the log's file system")]
    DiskFull,
    /// No new pair can be made for another reason, and what is open has no room.
    #[error("no new segment can be made: {0}; see to the log's directory")]
    NoSegment(DiskError),
    /// A write or flush failed; this is final until a restart.
    #[error("the disk failed: {0}; restart the node to recover what is durable")]
    Failed(DiskError),
    /// Damage whose identity is unknown: the shard's replicas stay silent.
    #[error("quarantined: {0}")]
    Quarantined(Quarantine),
}

/// What a turn's disk events amounted to. Reused: the caller drains the lists.
#[derive(Debug, Default)]
pub struct Retirement {
    /// Newly minted proofs, one per partition and chain.
    pub durable: Vec<LocalDurable>,
    /// Terms and votes that became durable, in order.
    pub hard_states: Vec<HardStateDurable>,
    /// Committed exits from joint configurations whose record became durable.
    pub exits: Vec<ExitDurable>,
    /// Reads that ended.
    pub reads: Vec<super::read::ReadOutcome>,
    /// Damage that the scrub found; what is lost by it is recorded as missing.
    pub scrubbed: Vec<ScrubFinding>,
    /// Entries that were found to be lost when the log read them for itself; they are recorded as missing.
    pub lost: Vec<LostRun>,
}

/// Where the log is in the life of its pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Takes batches.
    Running,
    /// Waits until nothing is in flight and a spare is ready, to open it.
    Draining,
    /// The opening chain is in flight, alone.
    Opening,
    /// The mark is in flight, alone.
    Marking,
}

/// Slow chains that are remembered.
const SLOW_CHAINS_MAX: usize = 16;
/// Group batches in a row that waited longer than twice their time, after which their partitions are reported.
pub const OVERRUNS_MAX: u8 = 2;

struct InFlight {
    place: ExtentPlace,
    submitted_at: Time,
    /// The same on the clock of the log's patience.
    owed_since_us: u64,
    done: bool,
    batch: Batch,
}

/// The log of one shard.
pub struct ShardLog {
    pub(super) options: LogOptions,
    pub(super) keys: ShardKeys,
    pub(super) pool: BlockPool,
    pub(super) boot: BootNumber,
    pub(super) past_boots: Vec<PastBoot>,
    next_pair: PairNumber,
    next_chain: ChainNumber,
    retired: ChainNumber,
    phase: Phase,
    /// Set when the boot's mark has retired: from then on the shard may speak.
    open_since_boot: bool,
    quarantine: Option<Quarantine>,
    /// A batch that is to retire before the quarantined log falls silent has not.
    has_last_words: bool,
    nonce_gaps: (GapVerdict, u64),
    pub(super) failure: Option<DiskError>,
    pub(super) patience: Patience,
    /// How much of the file system is used, in percent, as far as it was said.
    used_percent: u8,
    pub(super) current: Option<OpenPair>,
    spare: Spare,
    /// Why a pair could not be made whole last, be it the next or, zeroed only in part, the one that is being filled: either
    /// way there may be no room soon. Kept until the next is whole or opened whole, so that nothing is admitted on a hope.
    spare_failure: Option<DiskError>,
    pub(super) older: Vec<OlderPair>,
    /// Ciphers of every living pair, for reads.
    pub(super) ciphers: BTreeMap<PairNumber, SegmentCipher>,
    pub(super) closing: Closing,
    /// Files of pairs that were passed over, removed once the boot's mark has retired.
    passed_over: Vec<PairNumber>,
    /// Spares of an earlier boot. Their segments are kept for the boot's own pair, which is asked for when that has been done.
    spares: Vec<PairNumber>,
    /// Those of which it has been asked and not been done yet.
    spares_leaving: Vec<PairNumber>,
    /// Pairs of which one header is bad, written again once the boot's mark has retired.
    restore_headers: Vec<PairHeader>,
    /// As decided: the log as it stands, submitted or not.
    pub(super) decided: ShardFold,
    /// As submitted: what a checkpoint states.
    submitted: ShardFold,
    /// Partitions were created, or come from a recovery, since memory was last given back.
    has_grown: bool,
    /// The configurations that quiet partitions have alike.
    bodies: Alike<[u8]>,
    pub(super) locations: Locations,
    /// Per partition, the highest index of the log as it stands that has retired.
    pub(super) durable: BTreeMap<PartitionId, LogIndex>,
    /// Entries whose lost content was found again, and how many chains that write it have not retired yet.
    found: BTreeMap<(PartitionId, LogIndex), u32>,
    pub(super) batch: Batch,
    queue: VecDeque<Batch>,
    pub(super) queued_bytes: usize,
    in_flight: VecDeque<InFlight>,
    in_flight_blocks: u32,
    /// The time of the latest turn.
    now: Time,
    /// When the open batch goes at the latest, while only the clock of the chains in flight holds it back.
    close_at: Option<Time>,
    /// When chains that took too long retired, the latest last.
    slow: VecDeque<Time>,
    slowness: Slowness,
    /// How long chains take, smoothed over about eight, in microseconds.
    chain_us: u64,
    /// Partitions whose last group batches waited too long, with how many did in a row.
    late: BTreeMap<PartitionId, u8>,
    /// Partitions with [`OVERRUNS_MAX`] such batches in a row, until they are taken.
    overrun: Vec<PartitionId>,
    /// Emptied batches, kept for their memory.
    emptied: Emptied,
    /// What the boot writes again in its opening.
    rewrite: Option<Batch>,
    pub(super) scratch: Vec<u8>,
    pub(super) reads: Reads,
    pub(super) scrub: Scrub,
}

/// What recovery hands over to make a [`ShardLog`].
pub(super) struct Restored {
    pub options: LogOptions,
    pub keys: ShardKeys,
    pub pool: BlockPool,
    pub boot: BootNumber,
    pub next_pair: PairNumber,
    pub next_chain: ChainNumber,
    pub boots: Vec<PastBoot>,
    pub older: Vec<OlderPair>,
    pub ciphers: BTreeMap<PairNumber, SegmentCipher>,
    pub passed_over: Vec<PairNumber>,
    pub spares: Vec<PairNumber>,
    pub certain: ShardFold,
    pub rewrite: Batch,
    pub locations: Locations,
    /// Pairs that are kept because of what their nonces came to.
    pub evidence: BTreeSet<PairNumber>,
    /// Pairs whose segments were not written from end to end.
    pub unwritten: BTreeSet<PairNumber>,
    pub nonce_gaps: (GapVerdict, u64),
    pub quarantine: Option<Quarantine>,
    pub restore_headers: Vec<PairHeader>,
    /// Where the scrub's sweep was.
    pub sweep: Option<SweepPlace>,
}

impl ShardLog {
    pub(super) fn restore(restored: Restored) -> Self {
        let mut decided = restored.certain.clone();
        for_each_item(restored.rewrite.items.bytes(), |item| {
            decided
                .apply_item(&item, Content::Here)
                .expect("what recovery kept folds");
        });
        Self {
            options: restored.options,
            keys: restored.keys,
            pool: restored.pool,
            boot: restored.boot,
            past_boots: restored.boots,
            next_pair: restored.next_pair,
            next_chain: restored.next_chain,
            retired: restored.next_chain.prev(),
            phase: Phase::Draining,
            open_since_boot: false,
            quarantine: restored.quarantine,
            has_last_words: false,
            nonce_gaps: restored.nonce_gaps,
            failure: None,
            patience: Patience::default(),
            used_percent: 0,
            current: None,
            spare: Spare::None,
            spare_failure: None,
            closing: Closing::after_boot(
                &restored.older,
                restored.options.kept_segments_max,
                restored.evidence,
                restored.unwritten,
            ),
            older: restored.older,
            ciphers: restored.ciphers,
            passed_over: restored.passed_over,
            spares: restored.spares,
            spares_leaving: Vec::new(),
            restore_headers: restored.restore_headers,
            submitted: restored.certain,
            decided,
            has_grown: true,
            bodies: Alike::default(),
            locations: restored.locations,
            durable: BTreeMap::new(),
            found: BTreeMap::new(),
            batch: Batch::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_blocks: 0,
            now: Time::default(),
            close_at: None,
            slow: VecDeque::new(),
            slowness: Slowness::default(),
            chain_us: 0,
            late: BTreeMap::new(),
            overrun: Vec::new(),
            emptied: Emptied::new(restored.options.queue_bytes_max / 2),
            rewrite: Some(restored.rewrite),
            scratch: Vec::new(),
            reads: Reads::default(),
            scrub: Scrub::resume(restored.sweep),
        }
    }

    /// Whether the boot's opening and mark have retired: only then may the shard speak to anyone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_since_boot
    }

    /// The boot's number.
    #[must_use]
    pub fn boot(&self) -> BootNumber {
        self.boot
    }

    /// The latest boots before this one that opened a pair, and how far they came, ascending: at most
    /// [`BOOTS_MAX`](super::checkpoint::BOOTS_MAX).
    #[must_use]
    pub fn past_boots(&self) -> &[PastBoot] {
        &self.past_boots
    }

    /// The last chain that retired; before the opening, the last that may have been seen.
    #[must_use]
    pub fn retired_chain(&self) -> ChainNumber {
        // Of a pair whose mark has not retired nothing is said: a recovery may pass it over. That mark is submitted only with the
        // next poll, and never if the log has fallen silent by then.
        let lacks_mark = match self.phase {
            Phase::Running | Phase::Draining => false,
            Phase::Opening => self.in_flight.is_empty(),
            Phase::Marking => true,
        };
        if lacks_mark {
            return self.retired.prev();
        }
        self.retired
    }

    /// The pair that is being filled; `ZERO` before the first is opened.
    #[must_use]
    pub fn current_pair(&self) -> PairNumber {
        self.current
            .as_ref()
            .map_or(PairNumber::ZERO, |pair| pair.header.pair)
    }

    /// What the bytes whose nonces were not accounted for at the start amount to, and how many they are.
    #[must_use]
    pub fn nonce_gaps(&self) -> (GapVerdict, u64) {
        self.nonce_gaps
    }

    /// The failure that ended this log, if any.
    #[must_use]
    pub fn failure(&self) -> Option<&DiskError> {
        self.failure.as_ref()
    }

    /// How the filling of the file system weighs on the log.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        Pressure::of(self.used_percent, &self.options)
    }

    /// How much of the file system is used, in percent; 0 until it was said.
    #[must_use]
    pub fn used_percent(&self) -> u8 {
        self.used_percent
    }

    /// Why the next pair, or the rest of the one that is being filled, could not be made whole, if the last try that ended
    /// failed. The next is tried again every second.
    #[must_use]
    pub fn spare_failure(&self) -> Option<&DiskError> {
        self.spare_failure.as_ref()
    }

    /// The damage that keeps this shard's replicas silent, if any.
    #[must_use]
    pub fn quarantine(&self) -> Option<&Quarantine> {
        self.quarantine.as_ref()
    }

    /// From here on the shard's replicas stay silent: the profile asks for it where an extent is rotten. What was decided up to
    /// here still goes to the disk, so that the next start knows what is missing.
    pub(super) fn quarantine_at(&mut self, pair: PairNumber, chain: ChainNumber) {
        if self.quarantine.is_some() {
            return;
        }
        self.quarantine = Some(Quarantine {
            pair,
            chain,
            what: ROT_QUARANTINES,
            prefix_stands: false,
        });
        if let Some(last) = self.last_decided() {
            last.is_last = true;
            self.has_last_words = true;
        }
    }

    /// Whether nothing goes to the disk any more, or comes of it.
    pub(super) fn is_silent(&self) -> bool {
        self.failure.is_some() || self.quarantine.is_some() && !self.has_last_words
    }

    /// The options it runs under.
    #[must_use]
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Obeys what can be turned while it runs: the greatest batch, the chains in flight, the thresholds of a disk that
    /// fills, the segments that are kept, how fast the log is scrubbed, and what becomes of a shard that finds rot from here
    /// on. The open batch closes as it
    /// stands, so that no batch is made under both.
    pub fn retune(&mut self, options: &LogOptions) {
        self.options.batch_bytes_max = options.batch_bytes_max;
        self.options.batch_ms_max = options.batch_ms_max;
        self.options.group_chains_max = options.group_chains_max;
        self.options.queue_batches_max = options.queue_batches_max;
        self.options.chains_in_flight_max = options.chains_in_flight_max;
        self.options.kept_segments_max = options.kept_segments_max;
        self.options.disk_soft_percent = options.disk_soft_percent;
        self.options.disk_hard_percent = options.disk_hard_percent;
        self.options.flush = options.flush;
        self.options.slow_chain_ms = options.slow_chain_ms;
        self.options.stuck_io_ms = options.stuck_io_ms;
        self.options.on_authentication_failure = options.on_authentication_failure;
        self.retune_scrub(options.scrub);
        if !self.batch.is_empty() {
            self.close_batch();
        }
    }

    /// Takes the disk for failed if it has owed an answer for `stuck_io_ms`. Called early in a turn, behind the disk's events,
    /// so that the turn can tell; [`Self::poll`] does it too.
    pub fn watch_disk(&mut self, now: Time) {
        let bound_us = self.options.stuck_io_ms * 1000;
        self.patience.look(now, bound_us);
        if self.failure.is_none() {
            self.failure = self.patience.lost(self.oldest_chain_us(), bound_us);
        }
    }

    /// Since when the oldest chain in flight is owed.
    fn oldest_chain_us(&self) -> Option<u64> {
        let chains = self.in_flight.iter();
        chains
            .filter(|chain| !chain.done)
            .map(|chain| chain.owed_since_us)
            .min()
    }

    /// Chains in flight.
    #[must_use]
    pub fn chains_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How long a chain takes at present, from its submission to its retirement, in microseconds: smoothed over about
    /// the last eight; 0 before the first.
    #[must_use]
    pub fn chain_us(&self) -> u64 {
        self.chain_us
    }

    /// Chains that took longer than the options' `slow_chain_ms` and retired within the last `window_us`; 16 at most.
    #[must_use]
    pub fn slow_chains(&self, now: Time, window_us: u64) -> usize {
        let recent = |at: &&Time| now.since_us(**at) <= window_us;
        self.slow.iter().rev().take_while(recent).count()
    }

    /// When fewer than `count` of them will have retired within the last `window_us`, if no more are slow; `None` where so many
    /// are not known.
    #[must_use]
    pub fn slow_chains_pass_at(&self, count: usize, window_us: u64) -> Option<Time> {
        let last = self.slow.iter().rev().nth(count.checked_sub(1)?)?;
        Some(Time(last.0 + window_us + 1))
    }

    /// Whether the device is slow: three chains in a row took longer than the options' `slow_chain_ms`, or all of the last 500 ms
    /// did in the mean, and since then no five in a row took less than 80 % of it.
    #[must_use]
    pub const fn is_device_slow(&self) -> bool {
        self.slowness.is_slow()
    }

    /// Takes the partitions of which [`OVERRUNS_MAX`] group batches in a row went to the disk later than twice
    /// `batch_ms_max` after their first record: the device does not keep up with what it was promised.
    pub fn take_overruns(&mut self) -> std::vec::Drain<'_, PartitionId> {
        self.overrun.drain(..)
    }

    /// Whether nothing waits and nothing is in flight.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.failure.is_some()
            || self.quarantine.is_some()
            || self.in_flight.is_empty()
                && self.queue.is_empty()
                && self.batch.is_empty()
                && self.phase == Phase::Running
    }

    /// Whether the scrub may read: no append waits for the disk or is on its way, or the scrub is late.
    pub(super) fn may_scrub(&self, is_late: bool) -> bool {
        let is_idle = self.queue.is_empty() && self.batch.is_empty() && self.in_flight.is_empty();
        self.failure.is_none()
            && self.quarantine.is_none()
            && self.phase == Phase::Running
            && (is_idle || is_late)
    }

    /// The partition's log as it stands, submitted or not.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionLog> {
        self.decided.partitions.get(&partition).map(Arc::as_ref)
    }

    /// The partition is quiet: what is kept of it twice while it is written to is kept once until it is again.
    pub fn rest(&mut self, partition: PartitionId) {
        let decided = self.decided.partitions.get_mut(&partition);
        let submitted = self.submitted.partitions.get_mut(&partition);
        if let (Some(decided), Some(submitted)) = (decided, submitted)
            && !Arc::ptr_eq(decided, submitted)
            && decided == submitted
        {
            Arc::make_mut(decided).rest(&mut self.bodies);
            *submitted = Arc::clone(decided);
        }
        self.locations.rest(partition);
    }

    /// Nothing is written: gives back the memory that writing grew. It grows again where it is needed.
    pub fn give_back(&mut self) {
        self.emptied.forget();
        if self.batch.is_empty() {
            self.batch = Batch::default();
        }
        self.scratch = Vec::new();
        if core::mem::take(&mut self.has_grown) {
            // Made of all at once, a map has no half-empty nodes.
            let (decided, submitted) = (&mut self.decided, &mut self.submitted);
            for fold in [decided, submitted] {
                fold.partitions = core::mem::take(&mut fold.partitions).into_iter().collect();
            }
            self.durable = core::mem::take(&mut self.durable).into_iter().collect();
            self.locations.pack();
        }
    }

    /// How far each peer shard had come when it was last heard, as far as that was recorded.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, PeerPast)> {
        self.decided.peers.iter().map(|((node, shard), past)| {
            let (node, shard) = (*node, *shard);
            (PeerId { node, shard }, *past)
        })
    }

    /// All partitions, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &PartitionLog)> {
        self.decided
            .partitions
            .iter()
            .map(|(id, log)| (*id, &**log))
    }

    /// Entries of the partition whose lost content was found again and is not durable yet.
    #[must_use]
    pub fn copies_in_flight(&self, partition: PartitionId) -> u64 {
        self.copies_of(partition).count() as u64
    }

    fn copies_of(&self, partition: PartitionId) -> impl Iterator<Item = LogIndex> {
        self.found
            .range((partition, LogIndex::ZERO)..)
            .map(|((found, index), _)| (*found, *index))
            .take_while(move |(found, _)| *found == partition)
            .map(|(_, index)| index)
    }

    /// What this replica may vouch for: the highest index up to which the log as it stands has retired and
    /// is whole. `None` before the shard may speak, while it is quarantined, and for a partition that was never created or whose
    /// creation has not retired.
    #[must_use]
    pub fn durable(&self, partition: PartitionId) -> Option<LocalDurable> {
        if self.quarantine.is_some() {
            return None;
        }
        let log = self.decided.partitions.get(&partition)?;
        let retired = self.durable.get(&partition)?;
        let unretired = self
            .copies_of(partition)
            .next()
            .map_or(log.last, LogIndex::prev);
        let index = (*retired)
            .min(log.whole_until())
            .min(unretired)
            .max(log.base);
        Some(LocalDurable::mint(partition, log.term_at(index)?, index))
    }

    /// Up to which index the partition's entries can be read, where the log is quarantined and what stands before the damage is as it
    /// was written: on disk, in order, and nothing of it missing. It vouches for nothing.
    #[must_use]
    pub fn stands_until(&self, partition: PartitionId) -> Option<LogIndex> {
        self.quarantine
            .as_ref()
            .filter(|quarantine| quarantine.prefix_stands)?;
        let log = self.decided.partitions.get(&partition)?;
        let mut until = log.base;
        for location in self.locations.of(partition) {
            let last = location.last.min(log.last);
            let stands = |index| log.term_at(index) == Some(location.term);
            if location.first > until.next() || !stands(location.first) || !stands(last) {
                break;
            }
            until = until.max(last);
        }
        Some(until.min(log.whole_until()))
    }
}
