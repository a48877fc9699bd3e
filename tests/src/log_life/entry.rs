//! Entries that are known by a number: their frames can be made again from it, so that content read back can
//! be compared to the last byte.

use clustor_shards::log::record::{RecordKind, decode_record, encode_record, records};
use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::history::EntryId;

/// Bytes of a body that hold the number.
const ID_BYTES: usize = 8;
/// Numbers with this bit are configurations: small records, which lie in two files.
const CONFIGURATION_BIT: EntryId = 1 << 63;
const LENGTH_SHIFT: u32 = 40;
/// The longest body a number can ask for.
pub(super) const BODY_BYTES_MAX: usize = (1 << 20) - 1;

/// The number of the `count`-th entry of a life, with a body of about `bytes`.
pub(super) fn entry_id(count: u64, bytes: usize) -> EntryId {
    assert!(count < 1 << LENGTH_SHIFT);
    (bytes.clamp(ID_BYTES, BODY_BYTES_MAX) as u64) << LENGTH_SHIFT | count
}

/// The same, as a configuration.
pub(super) fn configuration_id(count: u64) -> EntryId {
    entry_id(count, 4 * ID_BYTES) | CONFIGURATION_BIT
}

fn kind(id: EntryId) -> RecordKind {
    if id & CONFIGURATION_BIT == 0 {
        RecordKind::Entry
    } else {
        RecordKind::Configuration
    }
}

/// Whether it is a configuration.
pub(super) fn is_configuration(id: EntryId) -> bool {
    kind(id) == RecordKind::Configuration
}

/// Bytes of the body.
pub(super) fn body_bytes(id: EntryId) -> usize {
    ((id & !CONFIGURATION_BIT) >> LENGTH_SHIFT) as usize
}

/// Its body.
pub(super) fn body(id: EntryId) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    body.resize(body_bytes(id), id as u8);
    body
}

/// The frame of entry `id` at (term, index).
pub(super) fn frame(partition: PartitionId, term: Term, index: LogIndex, id: EntryId) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_record(&mut frame, kind(id), partition, term, index, &body(id));
    frame
}

/// The entries in `frames`, each with its index; `None` if any frame is not exactly what its number asks for.
pub(super) fn identify(partition: PartitionId, frames: &[u8]) -> Option<Vec<(LogIndex, EntryId)>> {
    records(frames)
        .map(|record| {
            let record = record.ok()?;
            let id = EntryId::from_le_bytes(record.body.get(..ID_BYTES)?.try_into().ok()?);
            let header = &record.header;
            // A leaf may follow the body.
            let made = frame(partition, header.term, header.index, id);
            let made = decode_record(&made).expect("a frame just made decodes");
            let same = made.header == *header && made.body == record.body;
            (same && record.check_leaf().is_ok()).then_some((header.index, id))
        })
        .collect()
}

/// Runs `take` with the decoded record of entry `id`.
pub(super) fn with_record<R>(
    partition: PartitionId,
    term: Term,
    index: LogIndex,
    id: EntryId,
    take: impl FnOnce(&clustor_shards::log::record::Record<'_>) -> R,
) -> R {
    let frame = frame(partition, term, index, id);
    let record = decode_record(&frame).expect("a frame just made decodes");
    take(&record)
}
