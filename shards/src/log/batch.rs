//! Records gathered for one chain.

use std::borrow::Cow;

use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::fold::HardState;
use super::format::{Encoding, LogFormat};
use super::item::{Item, ItemBuilder, items};
use super::record::{Record, RecordKind};
use super::text;
use crate::turn::Time;

/// The records of one chain, before they are sealed.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Their frames, one behind the other.
    pub records: Vec<u8>,
    /// How many.
    pub count: u32,
    /// What they amount to.
    pub items: ItemBuilder,
    /// When its first record entered it, as far as a turn has seen.
    pub opened_at: Option<Time>,
    /// It holds one record that asked for a chain of its own.
    pub alone: bool,
    /// What the chain will vouch for when it retires.
    pub vouch: Vouch,
    /// It holds copies, whose places are noted when it retires.
    pub has_copies: bool,
    /// Whoever waits for all that was decided so far is told when this one retires.
    pub is_marked: bool,
    /// The last before a quarantined log falls silent.
    pub is_last: bool,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes a record's frame.
    pub fn push(&mut self, record: &Record<'_>) {
        self.items.push(record);
        self.records.extend_from_slice(record.frame);
        self.count += 1;
        self.has_copies |= is_copy(record.header.kind);
        self.vouch.note(record);
    }

    /// Whether `record` joins what is here within `bytes_max` of records as they are stored, and within a slot.
    pub fn has_room_for(&self, record: &Record<'_>, format: &LogFormat, bytes_max: usize) -> bool {
        let more = match format.log_encoding {
            Encoding::Binary => record.frame.len(),
            Encoding::Json => text::record_text_bytes_max(record.body.len()),
        };
        self.stored_bytes(format) + more <= bytes_max
            && self.items.has_room_for(record, format.ledger_encoding)
    }

    /// Bytes that the records take at rest, at most.
    pub fn stored_bytes(&self, format: &LogFormat) -> usize {
        match format.log_encoding {
            Encoding::Binary => self.records.len(),
            Encoding::Json => text::records_text_bytes_max(&self.records),
        }
    }

    /// The records as they lie at rest.
    pub fn stored(&self, format: &LogFormat) -> Cow<'_, [u8]> {
        match format.log_encoding {
            Encoding::Binary => Cow::Borrowed(&self.records),
            Encoding::Json => Cow::Owned(text::from_frames(&self.records)),
        }
    }

    pub fn clear(&mut self) {
        self.records.clear();
        self.items.clear();
        self.vouch.clear();
        self.count = 0;
        self.has_copies = false;
        self.is_marked = false;
        self.is_last = false;
        self.opened_at = None;
        self.alone = false;
    }
}

/// Emptied batches, kept for their memory: appends are to find some, however many batches wait at a time.
#[derive(Debug)]
pub(super) struct Emptied {
    batches: Vec<Batch>,
    /// Bytes that their record buffers have room for.
    bytes: usize,
    bytes_max: usize,
}

impl Emptied {
    /// None yet, and never more than have room for `bytes_max` bytes of records.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            batches: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Gives the memory of all of them back.
    pub fn forget(&mut self) {
        self.batches = Vec::new();
        self.bytes = 0;
    }

    /// An empty batch, with memory if there is one.
    pub fn take(&mut self) -> Batch {
        let batch = self.batches.pop().unwrap_or_default();
        self.bytes -= batch.records.capacity();
        batch
    }

    /// Empties a batch and keeps it, if there is room.
    pub fn put(&mut self, mut batch: Batch) {
        batch.clear();
        let bytes = self.bytes + batch.records.capacity();
        if bytes <= self.bytes_max {
            self.bytes = bytes;
            self.batches.push(batch);
        }
    }
}

/// Whether a record of this kind is a copy of what lies elsewhere.
pub(super) fn is_copy(kind: RecordKind) -> bool {
    matches!(
        kind,
        RecordKind::Relocated | RecordKind::RelocatedConfiguration
    )
}

/// What a chain makes durable when it retires, as the log stands now: truncations decided later clip it.
#[derive(Debug, Default)]
pub(super) struct Vouch {
    /// The highest index of each partition touched.
    pub indexes: Vec<(PartitionId, LogIndex)>,
    /// The newest term and vote of each partition that has one here.
    pub hard_states: Vec<(PartitionId, HardState)>,
    /// Entries whose lost content is written again here. A copy of what was never lost is none.
    pub found: Vec<(PartitionId, LogIndex)>,
    /// Committed exits from joint configurations.
    pub exits: Vec<(PartitionId, Term, LogIndex)>,
}

impl Vouch {
    fn note(&mut self, record: &Record<'_>) {
        let header = &record.header;
        match header.kind {
            RecordKind::Entry | RecordKind::Configuration => {
                match self
                    .indexes
                    .iter_mut()
                    .rev()
                    .find(|(p, _)| *p == header.partition)
                {
                    Some((_, index)) if header.index != LogIndex::ZERO => *index = header.index,
                    // It takes the place of another one, and says nothing about what lies behind.
                    Some(_) => {}
                    None => self.indexes.push((header.partition, header.index)),
                }
            }
            RecordKind::ExitCommitted => {
                self.exits
                    .push((header.partition, header.term, header.index));
            }
            RecordKind::Truncate => self.clip(header.partition, header.index),
            RecordKind::PartitionTombstone => {
                self.indexes.retain(|(p, _)| *p != header.partition);
                self.hard_states.retain(|(p, _)| *p != header.partition);
                self.found.retain(|(p, _)| *p != header.partition);
                self.exits.retain(|(p, _, _)| *p != header.partition);
            }
            RecordKind::HardState => {
                let Some(state) = HardState::from_record(record) else {
                    return;
                };
                match self
                    .hard_states
                    .iter_mut()
                    .find(|(p, _)| *p == header.partition)
                {
                    Some((_, newest)) => *newest = state,
                    None => self.hard_states.push((header.partition, state)),
                }
            }
            _ => {}
        }
    }

    /// Everything of `partition` from `from` on is gone. What lies under it stays vouched for.
    pub fn clip(&mut self, partition: PartitionId, from: LogIndex) {
        for (p, index) in &mut self.indexes {
            if *p == partition {
                *index = (*index).min(from.prev());
            }
        }
        self.found
            .retain(|(p, index)| *p != partition || *index < from);
    }

    fn clear(&mut self) {
        self.indexes.clear();
        self.hard_states.clear();
        self.found.clear();
        self.exits.clear();
    }
}

/// Calls `each` with the items of a batch, which are sound by construction.
pub(super) fn for_each_item<'a>(bytes: &'a [u8], mut each: impl FnMut(Item<'a>)) {
    for item in items(bytes) {
        each(item.expect("a batch's own items decode"));
    }
}
