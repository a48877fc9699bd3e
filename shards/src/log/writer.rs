//! The log of one shard while it runs: records in, durable chains out, proofs when they retire.
//!
//! One queue: records of all partitions enter the open batch in the order in which they were decided, and
//! nothing overtakes. Chains complete in any order and retire in sequence; only retiring mints proofs. The first
//! error is final: nothing that has not retired by then ever retires. A pair is opened by two chains, each alone in the
//! pipeline: the opening, which carries header, checkpoint and what a boot writes again, and the mark, an empty extent that
//! leaves something behind the opening, so that this pair and none before it is chosen from then on.

use std::collections::{BTreeMap, VecDeque};

use clustor_wire::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, PairNumber, PartitionId, Term,
};

use super::batch::{Batch, Vouch, for_each_item};
use super::checkpoint::OlderPair;
use super::extent::extent_blocks;
use super::fold::{Content, HardState, PartitionLog, ShardFold, encode_missing};
use super::item::ItemBuilder;
use super::keys::ShardKeys;
use super::location::{ExtentPlace, Locations};
use super::options::LogOptions;
use super::pair::{OpenPair, Spare};
use super::proof::{HardStateDurable, LocalDurable};
use super::read::Reads;
use super::record::{RECORD_HEADER_BYTES, Record, RecordKind, decode_record, encode_record_parts};
use super::recovery::Quarantine;
use super::seal::SegmentCipher;
use super::slot::SLOT_ITEM_BYTES;
use crate::buffer::BlockPool;
use crate::disk::{DiskError, DiskEvent, DiskOp};
use crate::turn::Time;

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
    /// Too much waits already.
    #[error("{queued} bytes wait for the disk, the limit is {limit}")]
    Busy {
        /// Bytes that wait.
        queued: usize,
        /// The limit.
        limit: usize,
    },
    /// The disk is full: no new pair can be made.
    #[error("the disk is full: no new segment can be made; free space on the log's file system")]
    DiskFull,
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
    /// Reads that ended.
    pub reads: Vec<super::read::ReadOutcome>,
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

struct InFlight {
    chain: ChainNumber,
    blocks: u32,
    done: bool,
    batch: Batch,
}

/// The log of one shard.
pub struct ShardLog {
    pub(super) options: LogOptions,
    pub(super) keys: ShardKeys,
    pub(super) pool: BlockPool,
    pub(super) boot: BootNumber,
    next_pair: PairNumber,
    next_chain: ChainNumber,
    retired: ChainNumber,
    phase: Phase,
    /// Set when the boot's mark has retired: from then on the shard may speak.
    open_since_boot: bool,
    quarantine: Option<Quarantine>,
    failure: Option<DiskError>,
    pub(super) current: Option<OpenPair>,
    spare: Spare,
    older: Vec<OlderPair>,
    /// Ciphers of every living pair, for reads.
    pub(super) ciphers: BTreeMap<PairNumber, SegmentCipher>,
    /// Files of pairs that were passed over, removed once the boot's mark has retired.
    passed_over: Vec<PairNumber>,
    /// As decided: the log as it stands, submitted or not.
    pub(super) decided: ShardFold,
    /// As submitted: what a checkpoint states.
    submitted: ShardFold,
    pub(super) locations: Locations,
    /// Per partition, the highest index of the log as it stands that has retired.
    durable: BTreeMap<PartitionId, LogIndex>,
    batch: Batch,
    queue: VecDeque<Batch>,
    queued_bytes: usize,
    in_flight: VecDeque<InFlight>,
    in_flight_blocks: u32,
    /// Emptied batches, kept for their memory.
    emptied: Vec<Batch>,
    /// What the boot writes again in its opening.
    rewrite: Option<Batch>,
    scratch: Vec<u8>,
    pub(super) reads: Reads,
}

/// What recovery hands over to make a [`ShardLog`].
pub(super) struct Restored {
    pub options: LogOptions,
    pub keys: ShardKeys,
    pub pool: BlockPool,
    pub boot: BootNumber,
    pub next_pair: PairNumber,
    pub next_chain: ChainNumber,
    pub older: Vec<OlderPair>,
    pub ciphers: BTreeMap<PairNumber, SegmentCipher>,
    pub passed_over: Vec<PairNumber>,
    pub certain: ShardFold,
    pub rewrite: Batch,
    pub locations: Locations,
    pub quarantine: Option<Quarantine>,
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
            next_pair: restored.next_pair,
            next_chain: restored.next_chain,
            retired: restored.next_chain.prev(),
            phase: Phase::Draining,
            open_since_boot: false,
            quarantine: restored.quarantine,
            failure: None,
            current: None,
            spare: Spare::None,
            older: restored.older,
            ciphers: restored.ciphers,
            passed_over: restored.passed_over,
            submitted: restored.certain,
            decided,
            locations: restored.locations,
            durable: BTreeMap::new(),
            batch: Batch::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_blocks: 0,
            emptied: Vec::new(),
            rewrite: Some(restored.rewrite),
            scratch: Vec::new(),
            reads: Reads::default(),
        }
    }

    // ---- what it says of itself

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

    /// The last chain that retired; before the opening, the last that may have been seen.
    #[must_use]
    pub fn retired_chain(&self) -> ChainNumber {
        self.retired
    }

    /// The pair that is being filled; `ZERO` before the first is opened.
    #[must_use]
    pub fn current_pair(&self) -> PairNumber {
        self.current
            .as_ref()
            .map_or(PairNumber::ZERO, |pair| pair.header.pair)
    }

    /// The failure that ended this log, if any.
    #[must_use]
    pub fn failure(&self) -> Option<&DiskError> {
        self.failure.as_ref()
    }

    /// The damage that keeps this shard's replicas silent, if any.
    #[must_use]
    pub fn quarantine(&self) -> Option<&Quarantine> {
        self.quarantine.as_ref()
    }

    /// The options it runs under.
    #[must_use]
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Chains in flight.
    #[must_use]
    pub fn chains_in_flight(&self) -> usize {
        self.in_flight.len()
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

    /// The partition's log as it stands, submitted or not.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionLog> {
        self.decided.partitions.get(&partition)
    }

    /// All partitions, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &PartitionLog)> {
        self.decided.partitions.iter().map(|(id, log)| (*id, log))
    }

    /// What this replica may vouch for: the highest index up to which the log as it stands has retired and
    /// is whole. `None` before the shard may speak, and for a partition that was never created.
    #[must_use]
    pub fn durable(&self, partition: PartitionId) -> Option<LocalDurable> {
        let log = self.decided.partitions.get(&partition)?;
        let retired = self.durable.get(&partition)?;
        let index = (*retired).min(log.whole_until()).max(log.base);
        Some(LocalDurable::mint(partition, log.term_at(index)?, index))
    }

    /// Whether an append of `body_bytes` would be taken now.
    ///
    /// # Errors
    /// The reason why not.
    pub fn admit(&self, body_bytes: usize) -> Result<(), LogRefusal> {
        if let Some(quarantine) = &self.quarantine {
            return Err(LogRefusal::Quarantined(quarantine.clone()));
        }
        if let Some(failure) = &self.failure {
            return Err(LogRefusal::Failed(failure.clone()));
        }
        if body_bytes > self.options.entry_body_bytes_max {
            return Err(LogRefusal::TooLarge {
                bytes: body_bytes,
                limit: self.options.entry_body_bytes_max,
            });
        }
        self.admit_frames(RECORD_HEADER_BYTES + body_bytes)
    }

    /// Whether frames that another node accepted would be taken now; their sizes were judged there.
    ///
    /// # Errors
    /// The reason why not.
    pub fn admit_frames(&self, bytes: usize) -> Result<(), LogRefusal> {
        if let Some(failure) = &self.failure {
            return Err(LogRefusal::Failed(failure.clone()));
        }
        let queued = self.queued_bytes + self.batch.records.len();
        if queued + bytes > self.options.queue_bytes_max && queued > 0 {
            if self.phase == Phase::Draining && self.spare.is_full() {
                return Err(LogRefusal::DiskFull);
            }
            return Err(LogRefusal::Busy {
                queued,
                limit: self.options.queue_bytes_max,
            });
        }
        Ok(())
    }

    // ---- what is decided

    /// Takes a record that was verified and that continues its partition's log. Whoever appends entries asks
    /// [`Self::admit`] first; small records are always taken.
    ///
    /// # Panics
    /// If the record does not continue the partition's log: the caller's invariant is broken, and a log that went
    /// on would not recover.
    pub fn append(&mut self, record: &Record<'_>, mode: Mode) {
        let alone = mode == Mode::Strict;
        let full = self.batch.records.len() + record.frame.len() > self.options.batch_bytes_max
            || self.batch.items.bytes().len() + ItemBuilder::cost(record) > SLOT_ITEM_BYTES;
        if !self.batch.is_empty() && (alone || full) {
            self.close_batch();
        }
        if record.header.kind == RecordKind::Entry {
            let log = self
                .decided
                .partitions
                .get_mut(&record.header.partition)
                .expect("a partition is created before it has entries");
            log.extend(record.header.term, record.header.index, record.header.index)
                .expect("entries continue the log");
        } else {
            let mut single = ItemBuilder::default();
            single.push(record);
            for_each_item(single.bytes(), |item| {
                self.decided
                    .apply_item(&item, Content::Here)
                    .expect("records continue the log");
            });
        }
        self.batch.push(record);
        if alone {
            self.close_batch();
        }
    }

    fn append_small(
        &mut self,
        kind: RecordKind,
        partition: PartitionId,
        term: Term,
        index: LogIndex,
        parts: &[&[u8]],
    ) {
        let mut frame = core::mem::take(&mut self.scratch);
        frame.clear();
        encode_record_parts(&mut frame, kind, partition, term, index, parts);
        let record = decode_record(&frame).expect("a frame just made decodes");
        self.append(&record, Mode::Group);
        self.scratch = frame;
    }

    /// Creates a partition with its first configuration (in the consensus room's encoding).
    ///
    /// # Panics
    /// If it exists, or the configuration exceeds 900 bytes.
    pub fn create_partition(
        &mut self,
        partition: PartitionId,
        incarnation: Incarnation,
        configuration: &[u8],
    ) {
        assert!(!self.decided.partitions.contains_key(&partition));
        assert!(configuration.len() <= 900);
        self.append_small(
            RecordKind::Configuration,
            partition,
            Term::ZERO,
            LogIndex::ZERO,
            &[&incarnation.get().to_le_bytes(), configuration],
        );
        self.durable.insert(partition, LogIndex::ZERO);
    }

    /// Records the replica's term and vote.
    pub fn hard_state(&mut self, partition: PartitionId, state: HardState) {
        self.append_small(
            RecordKind::HardState,
            partition,
            state.term,
            LogIndex::ZERO,
            &[&state.body()],
        );
    }

    /// Removes everything of the partition from `from` on, as decided in `term`. From this moment nothing
    /// vouches for what is removed: not what has retired, not the chains in flight, not what waits.
    pub fn truncate(&mut self, partition: PartitionId, term: Term, from: LogIndex) {
        if let Some(durable) = self.durable.get_mut(&partition) {
            *durable = (*durable).min(from.prev());
        }
        for in_flight in &mut self.in_flight {
            in_flight.batch.vouch.clip(partition, from);
        }
        for waiting in &mut self.queue {
            waiting.vouch.clip(partition, from);
        }
        // The record may come to stand in a batch of its own, so it does not clip the open one by itself.
        self.batch.vouch.clip(partition, from);
        self.locations.truncate(partition, from);
        self.append_small(RecordKind::Truncate, partition, term, from, &[]);
    }

    /// Records that content which once was here can't be read any more.
    pub(super) fn record_missing(
        &mut self,
        partition: PartitionId,
        term: Term,
        first: LogIndex,
        last: LogIndex,
    ) {
        let mut frame = core::mem::take(&mut self.scratch);
        frame.clear();
        let count = last.get() - first.get() + 1;
        encode_missing(&mut frame, partition, term, first, count);
        let record = decode_record(&frame).expect("a frame just made decodes");
        self.append(&record, Mode::Group);
        self.scratch = frame;
    }

    fn close_batch(&mut self) {
        let fresh = self.emptied.pop().unwrap_or_default();
        let mut batch = core::mem::replace(&mut self.batch, fresh);
        batch.closed = true;
        self.queued_bytes += batch.records.len();
        self.queue.push_back(batch);
    }

    // ---- what goes down

    /// Submits what may be submitted now. Called once at the end of a turn.
    pub fn poll(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        self.reads.retries(out);
        if self.failure.is_some() || self.quarantine.is_some() {
            return;
        }
        self.ask_for_spare(now, out);
        loop {
            let progressed = match self.phase {
                Phase::Running => self.submit_next(out),
                Phase::Draining => self.in_flight.is_empty() && self.submit_opening(out),
                Phase::Opening if self.in_flight.is_empty() => {
                    self.phase = Phase::Marking;
                    self.submit_mark(out);
                    true
                }
                Phase::Opening | Phase::Marking => false,
            };
            if !progressed {
                break;
            }
        }
        self.ask_for_spare(now, out);
        if self.open_since_boot {
            out.extend(self.passed_over.drain(..).map(DiskOp::Remove));
        }
    }

    /// When [`Self::poll`] should be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.spare.retry_at()
    }

    fn ask_for_spare(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        if !self.spare.is_wanted(now) {
            return;
        }
        let mut checkpoint = core::mem::take(&mut self.scratch);
        checkpoint.clear();
        super::checkpoint::encode(&self.submitted, &self.older, &[], &mut checkpoint);
        let rewrite = self.rewrite.as_ref().map_or((0, 0), |batch| {
            (batch.records.len(), batch.items.bytes().len())
        });
        let ask = Spare::size(
            self.next_pair,
            &self.options,
            checkpoint.len() + rewrite.1,
            rewrite.0,
        );
        self.scratch = checkpoint;
        self.next_pair = self.next_pair.next();
        self.spare = Spare::Asked(ask);
        out.push(DiskOp::Prepare(ask));
    }

    fn submit_next(&mut self, out: &mut Vec<DiskOp>) -> bool {
        if self.in_flight.len() >= self.options.chains_in_flight_max {
            return false;
        }
        let pair = self.current.as_ref().expect("a running log has a pair");
        let Some(waiting) = self
            .queue
            .front()
            .or_else(|| (!self.batch.is_empty()).then_some(&self.batch))
        else {
            let roll_early =
                self.in_flight.is_empty() && pair.is_nearly_full() && self.spare.is_ready();
            if roll_early {
                self.phase = Phase::Draining;
            }
            return roll_early;
        };
        let blocks = extent_blocks(waiting.records.len());
        if !pair.has_room(blocks) {
            self.phase = Phase::Draining;
            return true;
        }
        let quarter = pair.header.segment_blocks / 4;
        if !pair.is_ready_for(blocks)
            || !self.in_flight.is_empty() && self.in_flight_blocks + blocks > quarter
        {
            return false;
        }
        let batch = match self.queue.pop_front() {
            Some(batch) => {
                self.queued_bytes -= batch.records.len();
                batch
            }
            None => {
                let fresh = self.emptied.pop().unwrap_or_default();
                core::mem::replace(&mut self.batch, fresh)
            }
        };
        self.submit(batch, out);
        true
    }

    fn take_chain(&mut self) -> ChainNumber {
        let chain = self.next_chain;
        self.next_chain = chain.next();
        chain
    }

    fn submit(&mut self, batch: Batch, out: &mut Vec<DiskOp>) {
        let chain = self.take_chain();
        let pair = self.current.as_mut().expect("a running log has a pair");
        let cipher = &self.ciphers[&pair.header.pair];
        let (operation, place) = pair.chain(
            cipher,
            &mut self.pool,
            chain,
            self.retired,
            &batch,
            self.options.io_writer_mode,
        );
        self.note_submitted(&batch, place);
        self.fly(chain, place.blocks, batch);
        out.push(DiskOp::Chain(operation));
    }

    fn note_submitted(&mut self, batch: &Batch, place: ExtentPlace) {
        for_each_item(batch.items.bytes(), |item| {
            self.submitted
                .apply_item(&item, Content::Here)
                .expect("what was decided in order folds in order");
            self.locations.note(&item, place);
        });
    }

    fn fly(&mut self, chain: ChainNumber, blocks: u32, batch: Batch) {
        self.in_flight_blocks += blocks;
        self.in_flight.push_back(InFlight {
            chain,
            blocks,
            done: false,
            batch,
        });
    }

    fn submit_mark(&mut self, out: &mut Vec<DiskOp>) {
        let batch = self.emptied.pop().unwrap_or_default();
        self.submit(batch, out);
    }

    /// Opens the spare, if it is ready and large enough.
    fn submit_opening(&mut self, out: &mut Vec<DiskOp>) -> bool {
        if !self.spare.is_ready() {
            return false;
        }
        let rewrite = self.rewrite.take().unwrap_or_default();
        let mut older = self.older.clone();
        if let Some(pair) = &self.current {
            older.push(OlderPair {
                pair: pair.header.pair,
                last_certain: self.retired,
            });
        }
        let mut checkpoint = Vec::new();
        super::checkpoint::encode(
            &self.submitted,
            &older,
            rewrite.items.bytes(),
            &mut checkpoint,
        );
        let Some(prepared) = self.spare.take_for(&checkpoint, rewrite.records.len(), out) else {
            self.rewrite = Some(rewrite);
            return false;
        };
        let chain = self.take_chain();
        let (pair, cipher) = OpenPair::new(&self.keys, self.boot, chain, &prepared, &checkpoint);
        self.older = older;
        let pair = self.current.insert(pair);
        let (operation, place) = pair.opening(
            &cipher,
            &mut self.pool,
            &checkpoint,
            &rewrite,
            self.retired,
            self.options.io_writer_mode,
        );
        self.ciphers.insert(pair.header.pair, cipher);
        self.note_submitted(&rewrite, place);
        self.fly(chain, place.blocks, rewrite);
        self.phase = Phase::Opening;
        out.push(DiskOp::Chain(operation));
        true
    }

    // ---- what comes up

    /// Takes one event. Events of one inbox are given errors first.
    pub fn on_event(&mut self, now: Time, event: DiskEvent, retirement: &mut Retirement) {
        match event {
            DiskEvent::Chain {
                chain,
                log,
                ledger,
                outcome,
            } => {
                self.pool.put(log);
                self.pool.put(ledger);
                match outcome {
                    Ok(()) => self.chain_done(chain, retirement),
                    Err(error) => {
                        self.failure.get_or_insert(error);
                    }
                }
            }
            DiskEvent::Read {
                token,
                blocks,
                outcome,
                ..
            } => self.read_done(token, blocks, outcome, retirement),
            DiskEvent::Prepared {
                pair,
                salt,
                segment_blocks_ready,
            } => self.spare.prepared(pair, salt, segment_blocks_ready),
            DiskEvent::Progress {
                pair,
                segment_blocks_ready,
            } => {
                self.spare.progress(pair, segment_blocks_ready);
                if let Some(current) = &mut self.current
                    && current.header.pair == pair
                {
                    current.blocks_ready = current.blocks_ready.max(segment_blocks_ready);
                }
            }
            DiskEvent::PrepareFailed { pair, error } => {
                self.spare.failed(pair, error, now);
                if let Some(current) = &mut self.current
                    && current.header.pair == pair
                {
                    current.end_at_frontier();
                }
            }
            DiskEvent::Removed { .. } => {}
        }
    }

    fn chain_done(&mut self, chain: ChainNumber, retirement: &mut Retirement) {
        if let Some(done) = self.in_flight.iter_mut().find(|c| c.chain == chain) {
            done.done = true;
        }
        if self.failure.is_some() {
            return;
        }
        while self.in_flight.front().is_some_and(|front| front.done) {
            let Some(retired) = self.in_flight.pop_front() else {
                break;
            };
            assert!(retired.chain == self.retired.next());
            self.retired = retired.chain;
            self.in_flight_blocks -= retired.blocks;
            let mut batch = retired.batch;
            if self.open_since_boot {
                self.mint(&batch.vouch, retirement);
            }
            batch.clear();
            if self.emptied.len() < self.options.chains_in_flight_max {
                self.emptied.push(batch);
            }
        }
        if self.phase == Phase::Marking && self.in_flight.is_empty() {
            self.phase = Phase::Running;
            if !self.open_since_boot {
                self.open_since_boot = true;
                self.mint_recovered(retirement);
            }
        }
    }

    fn mint(&mut self, vouch: &Vouch, retirement: &mut Retirement) {
        for (partition, index) in &vouch.indexes {
            let Some(durable) = self.durable.get_mut(partition) else {
                continue;
            };
            if *index > *durable {
                *durable = *index;
                retirement.durable.extend(self.durable(*partition));
            }
        }
        for (partition, state) in &vouch.hard_states {
            retirement
                .hard_states
                .push(HardStateDurable::mint(*partition, state.term, state.vote));
        }
    }

    /// The shard may speak: for everything that the opening states or wrote again.
    fn mint_recovered(&mut self, retirement: &mut Retirement) {
        for (partition, log) in &self.submitted.partitions {
            let decided = self.decided.partitions.get(partition);
            let last = decided.map_or(log.last, |decided| decided.last.min(log.last));
            self.durable.insert(*partition, last);
            let state = log.hard_state;
            retirement
                .hard_states
                .push(HardStateDurable::mint(*partition, state.term, state.vote));
        }
        let partitions: Vec<PartitionId> = self.submitted.partitions.keys().copied().collect();
        for partition in partitions {
            retirement.durable.extend(self.durable(partition));
        }
    }
}
