//! What is decided: records enter the queue, and nothing overtakes.

use clustor_wire::ids::{Incarnation, LogIndex, PartitionId, Term};

use super::super::batch::{Batch, for_each_item};
use super::super::codec::Writer;
use super::super::extent::extent_blocks;
use super::super::fold::{Content, HardState, PEER_PAST_BYTES, encode_missing, encode_past};
use super::super::item::ItemBuilder;
use super::super::pressure::Pressure;
use super::super::record::{
    RECORD_HEADER_BYTES, Record, RecordKind, decode_record, encode_record_parts,
};
use super::{LogRefusal, Mode, Phase, ShardLog};
use crate::disk::DiskError;
use crate::turn::{PeerId, PeerPast};

/// Peers in one PeerChains record, at most: it is a small record.
const PEERS_PER_RECORD_MAX: usize = 24;

impl ShardLog {
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
        if self.pressure() == Pressure::Hard {
            return Err(LogRefusal::DiskFull);
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
        if let Some(failure) = &self.spare_failure
            && !self.has_room_without_spare(bytes)
        {
            return Err(match failure {
                DiskError::Full => LogRefusal::DiskFull,
                other => LogRefusal::NoSegment(other.clone()),
            });
        }
        if self.queue.len() >= self.options.queue_batches_max {
            return Err(LogRefusal::Crowded {
                waiting: self.queue.len(),
                limit: self.options.queue_batches_max,
            });
        }
        let limit = match self.pressure() {
            Pressure::None => self.options.queue_bytes_max,
            Pressure::Soft | Pressure::Hard => self.options.queue_bytes_max / 2,
        };
        if queued + bytes > limit && queued > 0 {
            return Err(LogRefusal::Busy { queued, limit });
        }
        Ok(())
    }

    /// Whether the pair that is being filled has room for everything that waits and `bytes` more, with the padding of
    /// the extents it may come to stand in.
    fn has_room_without_spare(&self, bytes: usize) -> bool {
        let format = &self.options.format;
        let waiting = self.queue.iter().chain([&self.batch]);
        let stored: usize = waiting.map(|batch| batch.stored_bytes(format)).sum();
        let bytes = stored + format.stored_bytes_max(bytes);
        let extents = self.queue.len() + 2 + self.options.chains_in_flight_max;
        let blocks = extent_blocks(bytes).saturating_add(extents as u32);
        self.phase != Phase::Draining
            && self
                .current
                .as_ref()
                .is_some_and(|pair| pair.has_room(blocks) && pair.has_slots(extents as u32))
    }

    /// Takes a record that was verified and that continues its partition's log. Whoever appends entries asks
    /// [`Self::admit`] first; small records are always taken.
    ///
    /// # Panics
    /// If the record does not continue the partition's log: the caller's invariant is broken, and a log that went
    /// on would not recover.
    pub fn append(&mut self, record: &Record<'_>, mode: Mode) {
        let alone = mode == Mode::Strict;
        let full =
            !self
                .batch
                .has_room_for(record, &self.options.format, self.options.batch_bytes_max);
        if !self.batch.is_empty() && (alone || full) {
            self.close_batch();
        }
        if record.header.kind == RecordKind::Entry {
            let log = self
                .decided
                .get_mut(record.header.partition)
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
            self.batch.alone = true;
            self.close_batch();
        }
    }

    pub(in crate::log) fn append_small(
        &mut self,
        kind: RecordKind,
        partition: PartitionId,
        term: Term,
        index: LogIndex,
        parts: &[&[u8]],
    ) {
        let mut frame = core::mem::take(&mut self.scratch);
        frame.clear();
        encode_record_parts(
            &mut frame,
            self.options.format.leaf(),
            kind,
            partition,
            term,
            index,
            parts,
        );
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
        self.has_grown = true;
    }

    /// Another configuration in the place of the one that the partition was created with.
    ///
    /// # Panics
    /// If there is no such partition, or the configuration exceeds 900 bytes.
    pub fn name_voters(&mut self, partition: PartitionId, configuration: &[u8]) {
        assert!(configuration.len() <= 900);
        let log = &self.decided.partitions[&partition];
        let incarnation = log.incarnation.get().to_le_bytes();
        self.append_small(
            RecordKind::Configuration,
            partition,
            Term::ZERO,
            LogIndex::ZERO,
            &[&incarnation, configuration],
        );
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

    /// Records that the exit from a joint configuration at (`term`, `index`) was committed.
    pub fn exit_committed(&mut self, partition: PartitionId, term: Term, index: LogIndex) {
        self.append_small(RecordKind::ExitCommitted, partition, term, index, &[]);
    }

    /// Removes everything of the partition from `from` on, as decided in `term`. From this moment nothing
    /// vouches for what is removed: not what has retired, not the chains in flight, not what waits.
    ///
    /// # Panics
    /// While the log is not open and may yet be: what its opening states is vouched for as a whole once its mark has retired.
    pub fn truncate(&mut self, partition: PartitionId, term: Term, from: LogIndex) {
        let will_open = self.failure.is_none() && self.quarantine.is_none();
        assert!(
            self.is_open() || !will_open,
            "nothing is truncated before the log is open"
        );
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
        self.found
            .retain(|(p, index), _| *p != partition || *index < from);
        self.locations.truncate(partition, from);
        self.append_small(RecordKind::Truncate, partition, term, from, &[]);
    }

    /// Records how far peers had come when they were last heard. Where no record waits for the disk yet this asks for
    /// nothing: [`Self::has_open_batch`] tells when it costs no chain of its own.
    pub fn peer_chains(&mut self, peers: &[(PeerId, PeerPast)]) {
        for peers in peers.chunks(PEERS_PER_RECORD_MAX) {
            let mut body = Vec::with_capacity(peers.len() * PEER_PAST_BYTES);
            let mut writer = Writer(&mut body);
            for (peer, past) in peers {
                encode_past(&mut writer, (peer.node, peer.shard), *past);
            }
            let nobody = PartitionId::default();
            self.append_small(
                RecordKind::PeerChains,
                nobody,
                Term::ZERO,
                LogIndex::ZERO,
                &[&body],
            );
        }
    }

    /// Whether records wait in a batch that a chain is due for.
    #[must_use]
    pub fn has_open_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Whether all that was decided has retired. If not, the last batch of it is marked.
    pub(in crate::log) fn mark_decided(&mut self) -> bool {
        match self.last_decided() {
            Some(batch) => {
                batch.is_marked = true;
                false
            }
            None => true,
        }
    }

    /// The batch with what was decided last, if it has not retired.
    pub(super) fn last_decided(&mut self) -> Option<&mut Batch> {
        if self.batch.is_empty() {
            let in_flight = self.in_flight.back_mut().map(|chain| &mut chain.batch);
            self.queue.back_mut().or(in_flight)
        } else {
            Some(&mut self.batch)
        }
    }

    /// Takes the content of an entry, or a configuration, whose own was lost here, as the frame that was verified. It counts
    /// as durable once its chain has retired. Whoever calls asks [`Self::admit_frames`] first.
    ///
    /// Nothing happens if the partition's log has another entry there, or has its content.
    pub fn relocate(&mut self, entry: &Record<'_>) {
        let header = &entry.header;
        let (partition, term, index) = (header.partition, header.term, header.index);
        let lost = self
            .decided
            .partitions
            .get(&partition)
            .is_some_and(|log| log.term_at(index) == Some(term) && log.is_missing(index));
        if !lost {
            return;
        }
        *self.found.entry((partition, index)).or_default() += 1;
        let kind = match header.kind {
            RecordKind::Configuration => RecordKind::RelocatedConfiguration,
            _ => RecordKind::Relocated,
        };
        self.append_small(kind, partition, term, index, &[entry.body]);
        // It entered the open batch, which closes with the record behind it at the earliest.
        self.batch.vouch.found.push((partition, index));
    }

    /// Records that content which once was here can't be read any more.
    pub(in crate::log) fn record_missing(
        &mut self,
        partition: PartitionId,
        term: Term,
        first: LogIndex,
        last: LogIndex,
    ) {
        let mut frame = core::mem::take(&mut self.scratch);
        frame.clear();
        let count = last.get() - first.get() + 1;
        encode_missing(
            &mut frame,
            self.options.format.leaf(),
            partition,
            term,
            first,
            count,
        );
        let record = decode_record(&frame).expect("a frame just made decodes");
        self.append(&record, Mode::Group);
        self.scratch = frame;
    }

    pub(super) fn close_batch(&mut self) {
        let fresh = self.emptied.take();
        let batch = core::mem::replace(&mut self.batch, fresh);
        self.queued_bytes += batch.records.len();
        self.queue.push_back(batch);
    }
}
