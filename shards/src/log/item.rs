//! What a chain's records amount to, in short: runs of entries, and every small record verbatim.
//!
//! Items stand in ledger slots (for the chain's own extent) and at the end of a checkpoint (for what the boot
//! wrote again behind it). With them the identity of everything in an extent survives the loss of the extent,
//! and the small records, votes and configurations among them, exist in two files.
//!
//! Items of different partitions may change places; those of one partition stand in log order.
//!
//! A run is 40 bytes long: tag 1, record kind, two zero bytes, count (u32), partition (u128), term (u64), first
//! index (u64). A small record is tag 2, three zero bytes, and its frame.

use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::codec::{NUMBER_MAX, Reader, Writer};
use super::format::Encoding;
use super::record::{Record, RecordKind, decode_record};
use super::slot::{SLOT_ITEM_BYTES, SLOT_TEXT_ITEM_BYTES};
use super::text;

/// Bytes of one run.
pub(super) const RUN_BYTES: usize = 40;
/// Bytes in front of a small record's frame.
pub(super) const SMALL_PREFIX_BYTES: usize = 4;
/// The longest frame of a small record: at least three fit a slot.
pub const SMALL_RECORD_BYTES_MAX: usize = 1024;

const TAG_RUN: u8 = 1;
const TAG_SMALL: u8 = 2;
const COUNT_OFFSET: usize = 4;

/// `count` entries of one term, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// `Entry` or `Relocated`.
    pub kind: RecordKind,
    /// Whose.
    pub partition: PartitionId,
    /// Their term.
    pub term: Term,
    /// Index of the first.
    pub first: LogIndex,
    /// How many; at least 1.
    pub count: u32,
}

impl Run {
    /// Index of the last.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        LogIndex(self.first.get() + u64::from(self.count) - 1)
    }
}

impl Item<'_> {
    /// What kind of record it stands for.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self {
            Item::Run(run) => run.kind,
            Item::Small(record) => record.header.kind,
        }
    }
}

/// One item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A run of entries.
    Run(Run),
    /// A small record.
    Small(Record<'a>),
}

/// The bytes are not items. They are authenticated before they are decoded, so this tells of a defect, not of
/// damage; it is handled as damage all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadItems;

/// Items in the making.
#[derive(Debug, Default, Clone)]
pub(super) struct ItemBuilder {
    bytes: Vec<u8>,
    /// Per partition, where its newest run stands, as long as that may grow.
    growing: Vec<(PartitionId, usize, Run)>,
}

impl ItemBuilder {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.growing.clear();
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `record` joins what is here without exceeding what a slot of this encoding has for items.
    pub fn has_room_for(&self, record: &Record<'_>, encoding: Encoding) -> bool {
        let is_small = !matches!(
            record.header.kind,
            RecordKind::Entry | RecordKind::Relocated
        );
        match encoding {
            Encoding::Binary => {
                let cost = if is_small {
                    SMALL_PREFIX_BYTES + record.frame.len()
                } else {
                    RUN_BYTES
                };
                self.bytes.len() + cost <= SLOT_ITEM_BYTES
            }
            Encoding::Json => {
                let cost = if is_small {
                    text::small_text_bytes_max(record)
                } else {
                    text::RUN_TEXT_BYTES_MAX
                };
                text::items_text_bytes_max(&self.bytes) + cost <= SLOT_TEXT_ITEM_BYTES
            }
        }
    }

    /// Takes a record that follows all earlier ones of its partition.
    pub fn push(&mut self, record: &Record<'_>) {
        let header = &record.header;
        let grows = self
            .growing
            .iter()
            .rposition(|(partition, ..)| *partition == header.partition);
        if !matches!(header.kind, RecordKind::Entry | RecordKind::Relocated) {
            assert!(record.frame.len() <= SMALL_RECORD_BYTES_MAX);
            if let Some(at) = grows {
                self.growing.swap_remove(at);
            }
            write_small(&mut self.bytes, record.frame);
            return;
        }
        if let Some(at) = grows {
            let (_, offset, run) = &mut self.growing[at];
            if run.kind == header.kind
                && run.term == header.term
                && run.last().next() == header.index
            {
                run.count += 1;
                let place = *offset + COUNT_OFFSET;
                self.bytes[place..place + 4].copy_from_slice(&run.count.to_le_bytes());
                return;
            }
            self.growing.swap_remove(at);
        }
        let run = Run {
            kind: header.kind,
            partition: header.partition,
            term: header.term,
            first: header.index,
            count: 1,
        };
        self.growing.push((run.partition, self.bytes.len(), run));
        write_run(&mut self.bytes, &run);
    }
}

/// Appends a run.
pub(super) fn write_run(bytes: &mut Vec<u8>, run: &Run) {
    let mut w = Writer(bytes);
    w.bytes(&[TAG_RUN, run.kind as u8, 0, 0]);
    w.u32(run.count);
    w.u128(run.partition.get());
    w.u64(run.term.get());
    w.u64(run.first.get());
}

/// Appends a small record.
pub(super) fn write_small(bytes: &mut Vec<u8>, frame: &[u8]) {
    bytes.extend_from_slice(&[TAG_SMALL, 0, 0, 0]);
    bytes.extend_from_slice(frame);
}

/// The items in `bytes`; ends after the first that is none.
pub(super) fn items(bytes: &[u8]) -> Items<'_> {
    Items(Reader(bytes))
}

/// Iterator of [`items`].
pub(super) struct Items<'a>(Reader<'a>);

impl<'a> Items<'a> {
    fn decode(&mut self) -> Result<Item<'a>, BadItems> {
        let bad = |_| BadItems;
        match self.0.array::<4>().map_err(bad)? {
            [TAG_RUN, kind, 0, 0] => {
                let kind = RecordKind::from_u8(kind)
                    .filter(|kind| matches!(kind, RecordKind::Entry | RecordKind::Relocated))
                    .ok_or(BadItems)?;
                let count = self.0.u32().map_err(bad)?;
                let run = Run {
                    kind,
                    partition: self.0.partition().map_err(bad)?,
                    term: self.0.term().map_err(bad)?,
                    first: self.0.index().map_err(bad)?,
                    count,
                };
                let numbers = [run.term.get(), run.first.get()];
                if count == 0 || numbers.into_iter().any(|number| number > NUMBER_MAX) {
                    return Err(BadItems);
                }
                Ok(Item::Run(run))
            }
            [TAG_SMALL, 0, 0, 0] => {
                let record = decode_record(self.0.0).map_err(|_| BadItems)?;
                self.0.0 = &self.0.0[record.frame.len()..];
                Ok(Item::Small(record))
            }
            _ => Err(BadItems),
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, BadItems>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.0.is_empty() {
            return None;
        }
        let item = self.decode();
        if item.is_err() {
            self.0.0 = &[];
        }
        Some(item)
    }
}
