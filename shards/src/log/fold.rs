//! What the log says about each partition: its records folded in order.
//!
//! The writer keeps two folds, of what was decided and of what was submitted; recovery rebuilds one. A fold
//! holds positions, terms, votes and configurations, never entries' content.

use std::collections::BTreeMap;
use std::sync::Arc;

use clustor_wire::ids::{BootNumber, Incarnation, LogIndex, NodeId, PartitionId, ShardId, Term};
use serde::{Deserialize, Serialize};

use super::codec::{NUMBER_MAX, Reader, Truncated, Writer};
use super::format::HashSuite;
use super::item::{Item, Run};
use super::record::{Record, RecordKind, encode_record_parts};
use crate::alike::Alike;
use crate::turn::PeerPast;

/// Entries from `first` on have `term`, up to the next run's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermRun {
    /// Their term.
    pub term: Term,
    /// Index of the first.
    pub first: LogIndex,
}

/// Indexes `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexRange {
    /// The first.
    pub first: LogIndex,
    /// The last.
    pub last: LogIndex,
}

/// A configuration and its place in the log; index 0 is the one the partition was created with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationAt {
    /// Its term.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
    /// The configuration, in the consensus room's encoding.
    #[serde(with = "super::text::base64_bytes")]
    pub body: Arc<[u8]>,
}

/// A replica's term and vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardState {
    /// The greatest term the replica has acted in.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

impl HardState {
    /// The body of its record: 1 and the node, or 0 and zeros.
    pub(super) fn body(self) -> [u8; 9] {
        let mut body = [0; 9];
        if let Some(vote) = self.vote {
            body[0] = 1;
            body[1..].copy_from_slice(&vote.get().to_le_bytes());
        }
        body
    }

    pub(super) fn from_record(record: &Record<'_>) -> Option<Self> {
        let body: &[u8; 9] = record.body.try_into().ok()?;
        let node = NodeId(u64::from_le_bytes(body[1..].try_into().ok()?));
        let vote = match body[0] {
            0 => None,
            1 => Some(node),
            _ => return None,
        };
        Some(Self {
            term: record.header.term,
            vote,
        })
    }
}

/// One partition, as the log tells.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionLog {
    /// Drawn when the partition was created on this disk.
    pub incarnation: Incarnation,
    /// Newest term and vote.
    pub hard_state: HardState,
    /// The log begins behind this index.
    pub base: LogIndex,
    /// Term at `base`.
    pub base_term: Term,
    /// The last index.
    pub last: LogIndex,
    /// The terms of `base`+1 to `last`.
    pub terms: Vec<TermRun>,
    /// Indexes whose content is lost here, ascending and disjoint.
    pub missing: Vec<IndexRange>,
    /// The committed configuration and every later one.
    pub configurations: Vec<ConfigurationAt>,
    /// The newest committed exit from a joint configuration.
    pub exit_committed: Option<(Term, LogIndex)>,
    /// The newest snapshot's place.
    pub snapshot_mark: Option<(Term, LogIndex)>,
}

impl PartitionLog {
    /// Term of the entry at `index`; `None` outside `base..=last`.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base {
            return Some(self.base_term);
        }
        if index < self.base || index > self.last {
            return None;
        }
        let after = self.terms.partition_point(|run| run.first <= index);
        Some(self.terms[after - 1].term)
    }

    /// The first and last index of the entries of `term`, if there are any.
    #[must_use]
    pub fn range_of(&self, term: Term) -> Option<(LogIndex, LogIndex)> {
        let at = self.terms.partition_point(|run| run.term < term);
        let run = self.terms.get(at).filter(|run| run.term == term)?;
        let behind = self.terms[at..].iter().find(|run| run.term > term);
        let last = behind.map_or(self.last, |next| next.first.prev());
        Some((run.first, last))
    }

    /// Whether this can be a partition's log: the terms cover `base`+1 to `last` in ascending order, and what is
    /// missing and configured lies in it. What a checkpoint states may be authentic and still not be.
    pub(super) fn is_coherent(&self) -> bool {
        let starts = match self.terms.first() {
            Some(first) => first.first == self.base.next() && first.term >= self.base_term,
            None => self.last == self.base,
        };
        let numbers = [self.hard_state.term.get(), self.last.get()];
        let ends = |last: Option<LogIndex>| last.is_none_or(|last| last <= self.last);
        let terms_ascend = self
            .terms
            .is_sorted_by(|a, b| a.term < b.term && a.first < b.first);
        let missing_ascends = self.missing.is_sorted_by(|a, b| a.last < b.first);
        let missing_within =
            |range: &IndexRange| self.base < range.first && range.first <= range.last;
        let configurations_ascend = self.configurations.is_sorted_by(|a, b| a.index < b.index);
        numbers.into_iter().all(|number| number <= NUMBER_MAX)
            && starts
            && terms_ascend
            && ends(self.terms.last().map(|run| run.first))
            && missing_ascends
            && self.missing.iter().all(missing_within)
            && ends(self.missing.last().map(|range| range.last))
            && configurations_ascend
            && ends(self.configurations.last().map(|at| at.index))
    }

    /// What of the entries `first` to `last` of `term` still stands: a truncation may have cut off their end, and others
    /// may have taken its place.
    pub(super) fn standing(
        &self,
        term: Term,
        first: LogIndex,
        last: LogIndex,
    ) -> Option<(LogIndex, LogIndex)> {
        let (first, last) = (first.max(self.base.next()), last.min(self.last));
        if first > last || self.term_at(first) != Some(term) {
            return None;
        }
        let after = self.terms.partition_point(|run| run.first <= first);
        let end = self
            .terms
            .get(after)
            .map_or(self.last, |next| next.first.prev());
        Some((first, last.min(end)))
    }

    /// Whether the content at `index` is lost here.
    #[must_use]
    pub fn is_missing(&self, index: LogIndex) -> bool {
        let after = self.missing.partition_point(|range| range.first <= index);
        after > 0 && self.missing[after - 1].last >= index
    }

    /// Gives back the memory that it does not need while it does not grow.
    pub(super) fn rest(&mut self, bodies: &mut Alike<[u8]>) {
        for at in &mut self.configurations {
            bodies.share(&mut at.body);
        }
        self.terms.shrink_to_fit();
        self.missing.shrink_to_fit();
        self.configurations.shrink_to_fit();
    }

    /// The highest index before the first missing one.
    #[must_use]
    pub fn whole_until(&self) -> LogIndex {
        self.missing
            .first()
            .map_or(self.last, |range| range.first.prev())
    }

    /// Number of missing entries.
    #[must_use]
    pub fn missing_count(&self) -> u64 {
        self.missing
            .iter()
            .map(|range| range.last.get() - range.first.get() + 1)
            .sum()
    }

    pub(super) fn extend(
        &mut self,
        term: Term,
        first: LogIndex,
        last: LogIndex,
    ) -> Result<(), FoldError> {
        let newest = self.term_at(self.last).unwrap_or_default();
        if first != self.last.next() || last < first || term < newest {
            return Err(FoldError::NotContiguous);
        }
        if term != newest || self.terms.is_empty() {
            // Most logs have few terms, and there may be thousands of logs.
            if self.terms.is_empty() {
                self.terms.reserve_exact(1);
            }
            self.terms.push(TermRun { term, first });
        }
        self.last = last;
        Ok(())
    }

    pub(super) fn truncate(&mut self, from: LogIndex) -> Result<(), FoldError> {
        if from <= self.base {
            return Err(FoldError::NotContiguous);
        }
        if from > self.last {
            return Ok(());
        }
        self.last = from.prev();
        self.terms.retain(|run| run.first < from);
        self.configurations.retain(|at| at.index < from);
        self.missing.retain(|range| range.first < from);
        if let Some(range) = self.missing.last_mut() {
            range.last = range.last.min(from.prev());
        }
        Ok(())
    }

    /// The log begins behind `index` from now on. What was known up to it is forgotten, but for the newest configuration.
    pub(super) fn rise(&mut self, term: Term, index: LogIndex) -> Result<(), FoldError> {
        if index <= self.base {
            return Ok(());
        }
        if self.term_at(index) != Some(term) {
            return Err(FoldError::NotContiguous);
        }
        let covering = self.terms.partition_point(|run| run.first <= index);
        self.terms.drain(..covering.saturating_sub(1));
        if index == self.last {
            self.terms.clear();
        } else if let Some(first) = self.terms.first_mut() {
            first.first = index.next();
            if let [first, second, ..] = self.terms.as_slice()
                && second.first <= first.first
            {
                self.terms.remove(0);
            }
        }
        self.missing.retain(|range| range.last > index);
        if let Some(range) = self.missing.first_mut() {
            range.first = range.first.max(index.next());
        }
        let below = self
            .configurations
            .iter()
            .filter(|at| at.index <= index)
            .count();
        self.configurations.drain(..below.saturating_sub(1));
        (self.base, self.base_term) = (index, term);
        Ok(())
    }

    pub(super) fn mark_missing(&mut self, first: LogIndex, last: LogIndex) {
        let (first, last) = (first.max(self.base.next()), last.min(self.last));
        if first > last {
            return;
        }
        let mut merged = IndexRange { first, last };
        self.missing.retain(|range| {
            let touches = range.first <= merged.last.next() && merged.first <= range.last.next();
            if touches {
                merged.first = merged.first.min(range.first);
                merged.last = merged.last.max(range.last);
            }
            !touches
        });
        let at = self
            .missing
            .partition_point(|range| range.first < merged.first);
        self.missing.insert(at, merged);
    }

    fn mark_found(&mut self, first: LogIndex, last: LogIndex) {
        let mut kept = Vec::with_capacity(self.missing.len() + 1);
        for range in &self.missing {
            if range.last < first || range.first > last {
                kept.push(*range);
                continue;
            }
            if range.first < first {
                kept.push(IndexRange {
                    first: range.first,
                    last: first.prev(),
                });
            }
            if range.last > last {
                kept.push(IndexRange {
                    first: last.next(),
                    last: range.last,
                });
            }
        }
        self.missing = kept;
    }
}

/// A shard of another node, as its log knows it.
pub type PeerShard = (NodeId, ShardId);

/// Records that do not follow from what stands before them: a defect, or damage that went unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// Entries that do not continue the log, or a truncation under its base.
    #[error("records do not continue the partition's log")]
    NotContiguous,
    /// A record of a partition that was never created here.
    #[error("record of a partition that was never created")]
    UnknownPartition,
    /// The body is not what the kind asks for.
    #[error("record body does not fit its kind")]
    BadBody,
}

/// All partitions of a shard, and what was heard of its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardFold {
    /// The partitions. Two folds that say the same of one may share it; whoever changes it has it to itself.
    pub partitions: BTreeMap<PartitionId, Arc<PartitionLog>>,
    /// How far each peer shard had come when it was last heard.
    pub peers: BTreeMap<PeerShard, PeerPast>,
}

/// Whether the content behind an item is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Here,
    Lost,
}

impl ShardFold {
    /// The partition's log, to be changed.
    pub(super) fn get_mut(&mut self, partition: PartitionId) -> Option<&mut PartitionLog> {
        self.partitions.get_mut(&partition).map(Arc::make_mut)
    }

    fn get(&mut self, partition: PartitionId) -> Result<&mut PartitionLog, FoldError> {
        self.get_mut(partition).ok_or(FoldError::UnknownPartition)
    }

    pub(super) fn apply_item(
        &mut self,
        item: &Item<'_>,
        content: Content,
    ) -> Result<(), FoldError> {
        match item {
            Item::Run(run) => self.apply_run(run, content),
            Item::Small(record) => self.apply_small(record),
        }
    }

    fn apply_run(&mut self, run: &Run, content: Content) -> Result<(), FoldError> {
        let log = self.get(run.partition)?;
        if run.kind == RecordKind::Relocated {
            if content == Content::Here
                && let Some((first, last)) = log.standing(run.term, run.first, run.last())
            {
                log.mark_found(first, last);
            }
            return Ok(());
        }
        log.extend(run.term, run.first, run.last())?;
        if content == Content::Lost {
            log.mark_missing(run.first, run.last());
        }
        Ok(())
    }

    fn apply_small(&mut self, record: &Record<'_>) -> Result<(), FoldError> {
        let header = &record.header;
        if header.kind == RecordKind::PeerChains {
            return self.apply_peer_chains(record.body);
        }
        if header.kind == RecordKind::Configuration && header.index == LogIndex::ZERO {
            let mut body = Reader(record.body);
            let incarnation = body.u64().map_err(|_| FoldError::BadBody)?;
            let known = self.get_mut(header.partition);
            let first = known.and_then(|log| log.configurations.first_mut());
            if let Some(first) = first.filter(|first| first.index == LogIndex::ZERO) {
                // Another one takes its place: its voters are named.
                first.body = body.0.into();
                return Ok(());
            }
            let log = PartitionLog {
                incarnation: Incarnation(incarnation),
                configurations: vec![ConfigurationAt {
                    term: header.term,
                    index: header.index,
                    body: body.0.into(),
                }],
                ..PartitionLog::default()
            };
            self.partitions.insert(header.partition, Arc::new(log));
            return Ok(());
        }
        let log = self.get(header.partition)?;
        match header.kind {
            RecordKind::HardState => {
                log.hard_state = HardState::from_record(record).ok_or(FoldError::BadBody)?;
            }
            RecordKind::Truncate => log.truncate(header.index)?,
            RecordKind::Configuration => {
                log.extend(header.term, header.index, header.index)?;
                log.configurations.push(ConfigurationAt {
                    term: header.term,
                    index: header.index,
                    body: record.body.into(),
                });
            }
            RecordKind::Floor => log.rise(header.term, header.index)?,
            RecordKind::RelocatedConfiguration => {
                if log.term_at(header.index) == Some(header.term) {
                    log.mark_found(header.index, header.index);
                }
            }
            RecordKind::ExitCommitted => log.exit_committed = Some((header.term, header.index)),
            RecordKind::SnapshotMark => log.snapshot_mark = Some((header.term, header.index)),
            RecordKind::Missing => {
                let count = Reader(record.body).u64().map_err(|_| FoldError::BadBody)?;
                let last = header
                    .index
                    .get()
                    .checked_add(count)
                    .filter(|_| count > 0)
                    .ok_or(FoldError::BadBody)?;
                let last = LogIndex(last).prev();
                if header.index > log.last {
                    log.extend(header.term, header.index, last)?;
                }
                log.mark_missing(header.index, last);
            }
            RecordKind::PartitionTombstone => {
                self.partitions.remove(&header.partition);
            }
            RecordKind::Entry | RecordKind::Relocated | RecordKind::PeerChains => {
                return Err(FoldError::BadBody);
            }
        }
        Ok(())
    }

    fn apply_peer_chains(&mut self, body: &[u8]) -> Result<(), FoldError> {
        let mut r = Reader(body);
        while !r.0.is_empty() {
            let bad = |_| FoldError::BadBody;
            let node = NodeId(r.u64().map_err(bad)?);
            let shard = ShardId(r.u16().map_err(bad)?);
            let past = decode_past(&mut r).map_err(bad)?;
            self.peers.entry((node, shard)).or_default().advance(past);
        }
        Ok(())
    }
}

/// Bytes of a peer in a PeerChains record and in a checkpoint.
pub(super) const PEER_PAST_BYTES: usize = 34;

/// What is remembered of a peer shard: node (8), shard (2), incarnation (8), boot (8), chain (8).
pub(super) fn encode_past(w: &mut Writer<'_>, (node, shard): PeerShard, past: PeerPast) {
    w.u64(node.get());
    w.u16(shard.get());
    w.u64(past.incarnation.get());
    w.u64(past.boot.get());
    w.u64(past.chain.get());
}

/// The same behind node and shard.
pub(super) fn decode_past(r: &mut Reader<'_>) -> Result<PeerPast, Truncated> {
    Ok(PeerPast {
        incarnation: Incarnation(r.u64()?),
        boot: BootNumber(r.u64()?),
        chain: r.chain()?,
    })
}

/// Frames a Missing record: `count` entries of `term` from `first` on have no content here.
pub(super) fn encode_missing(
    out: &mut Vec<u8>,
    leaf: Option<HashSuite>,
    partition: PartitionId,
    term: Term,
    first: LogIndex,
    count: u64,
) {
    encode_record_parts(
        out,
        leaf,
        RecordKind::Missing,
        partition,
        term,
        first,
        &[&count.to_le_bytes()],
    );
}
