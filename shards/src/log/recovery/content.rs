//! What a chain holds, taken into the state: where its entries lie, or that they are missing.

use clustor_wire::ids::{LogIndex, PairNumber, PartitionId};

use super::super::batch::is_copy;
use super::super::fold::{Content, encode_missing};
use super::super::item::{BadItems, Item, ItemBuilder, items};
use super::super::location::{ExtentPlace, Locations};
use super::super::record::{RecordKind, decode_record, records};
use super::super::slot::Slot;
use super::walk::Walked;

/// Where the extent lies that a slot vouches for.
pub(super) fn place_of(pair: PairNumber, slot: &Slot) -> ExtentPlace {
    ExtentPlace {
        pair,
        chain: slot.chain,
        first_block: slot.first_block,
        blocks: slot.blocks,
    }
}

pub(super) fn note_locations(bytes: &[u8], place: ExtentPlace, locations: &mut Locations) {
    let mut noted = ItemBuilder::default();
    for record in records(bytes).flatten() {
        noted.push(&record);
    }
    for item in items(noted.bytes()).flatten() {
        locations.note(&item, place);
    }
}

/// Folds what a certain chain holds, from the items that say it; without a place, the content is lost.
pub(super) fn fold_items(
    walked: &mut Walked,
    identity: &[u8],
    place: Option<ExtentPlace>,
) -> Result<(), BadItems> {
    let content = match place {
        Some(_) => Content::Here,
        None => Content::Lost,
    };
    for item in items(identity) {
        let item = item?;
        walked
            .fold
            .apply_item(&item, content)
            .map_err(|_| BadItems)?;
        match (place, item) {
            (Some(place), item) => walked.locations.note(&item, place),
            // What a rotten extent removed stays removed.
            (None, Item::Small(record)) if record.header.kind == RecordKind::Truncate => walked
                .locations
                .truncate(record.header.partition, record.header.index),
            (None, _) => {}
        }
    }
    Ok(())
}

/// Folds the records of a certain chain's extent, where its slot does not say what they are.
pub(super) fn fold_extent(
    walked: &mut Walked,
    bytes: &[u8],
    place: ExtentPlace,
) -> Result<(), BadItems> {
    let mut noted = ItemBuilder::default();
    for record in records(bytes) {
        noted.push(&record.map_err(|_| BadItems)?);
    }
    fold_items(walked, noted.bytes(), Some(place))
}

/// What is known of a rotten extent above the last certain chain is written again: its entries as missing, its small
/// records as they stand.
pub(super) fn rewrite_as_missing(walked: &mut Walked, identity: &[u8]) -> Result<(), BadItems> {
    let mut frame = Vec::new();
    for item in items(identity) {
        match item? {
            // The original is still there: a pair goes only when its copies have retired.
            item if is_copy(item.kind()) => {}
            Item::Small(record) => walked.rewrite.push(&record),
            Item::Run(run) => {
                frame.clear();
                encode_missing(
                    &mut frame,
                    None,
                    run.partition,
                    run.term,
                    run.first,
                    u64::from(run.count),
                );
                let record = decode_record(&frame).map_err(|_| BadItems)?;
                walked.rewrite.push(&record);
            }
        }
    }
    Ok(())
}

/// Whatever the certain state holds and no whole extent covers is missing. What a lost chain had cut off, or replaced by
/// entries of another term, is not where older chains say: of their runs counts what the log still holds.
pub(super) fn mark_uncovered(walked: &mut Walked) {
    let mut gaps: Vec<(PartitionId, LogIndex, LogIndex)> = Vec::new();
    for (partition, log) in &walked.fold.partitions {
        let standing = |term| log.range_of(term);
        walked.locations.keep_standing(*partition, standing);
        let mut next = log.base.next();
        for location in walked.locations.of(*partition) {
            if location.first > next {
                gaps.push((*partition, next, location.first.prev()));
            }
            next = location.last.next();
        }
        if next <= log.last {
            gaps.push((*partition, next, log.last));
        }
    }
    for (partition, first, last) in gaps {
        if let Some(log) = walked.fold.get_mut(partition) {
            log.mark_missing(first, last);
        }
    }
}
