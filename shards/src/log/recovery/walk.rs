//! The chosen pair's chains in order, and the older pairs' up to their last certain chain.

use std::collections::BTreeMap;

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId};

use super::super::batch::Batch;
use super::super::checkpoint::{Checkpoint, OlderPair};
use super::super::fold::{Content, ShardFold, encode_missing};
use super::super::header::PairHeader;
use super::super::item::{BadItems, Item, ItemBuilder, items};
use super::super::location::{ExtentPlace, Locations};
use super::super::pair::cipher_of;
use super::super::record::{RecordKind, decode_record, records};
use super::super::seal::SegmentCipher;
use super::super::slot::{ExtentDigest, Slot};
use super::choose::Choice;
use super::files::{Files, PairFiles, SlotState};
use super::{Damage, Incident, Quarantine};

/// What the walk found.
#[derive(Default)]
pub(super) struct Walked {
    pub chosen: Option<PairNumber>,
    pub chains: u64,
    pub certain: ChainNumber,
    pub torn: Option<ChainNumber>,
    /// The state up to the last certain chain.
    pub fold: ShardFold,
    /// What lies beyond, to be written again.
    pub rewrite: Batch,
    pub older: Vec<OlderPair>,
    pub ciphers: BTreeMap<PairNumber, SegmentCipher>,
    pub locations: Locations,
    pub incidents: Vec<Incident>,
    pub quarantine: Option<Quarantine>,
}

impl Walked {
    /// Missing entries over all partitions, those to be written again as missing not counted twice.
    pub fn missing(&self) -> u64 {
        let mut fold = self.fold.clone();
        for item in items(self.rewrite.items.bytes()).flatten() {
            if fold.apply_item(&item, Content::Here).is_err() {
                break;
            }
        }
        fold.partitions
            .values()
            .map(|log| log.missing_count())
            .sum()
    }

    fn incident(&mut self, pair: PairNumber, chain: ChainNumber, damage: Damage) {
        self.incidents.push(Incident {
            pair,
            chain,
            damage,
        });
    }
}

pub(super) fn walk(files: &mut Files<'_>, pairs: &[PairFiles], choice: Choice) -> Walked {
    let mut walked = Walked::default();
    let (header, slots) = match choice {
        Choice::Empty => return walked,
        Choice::Lost(quarantine) => {
            walked.chosen = Some(quarantine.pair);
            walked.quarantine = Some(quarantine);
            return walked;
        }
        Choice::Pair(header, slots) => (header, slots),
    };
    walked.chosen = Some(header.pair);
    let both_headers = pairs
        .iter()
        .any(|found| found.pair == header.pair && found.both_headers);
    if !both_headers {
        walked.incident(header.pair, header.first_chain, Damage::Header);
    }
    let (checkpoint, whole) = files.checkpoint(&header);
    let Some(checkpoint) = checkpoint else {
        walked.quarantine = Some(Quarantine {
            pair: header.pair,
            chain: header.first_chain,
            what: "the checkpoint is bad in both files",
        });
        return walked;
    };
    if whole != [true, true] {
        walked.incident(header.pair, header.first_chain, Damage::Checkpoint);
    }
    walked.fold = checkpoint.fold.clone();
    walked.older.clone_from(&checkpoint.older);
    for older in &checkpoint.older {
        walk_older(files, pairs, *older, &mut walked);
    }
    walk_chosen(files, &header, &slots, &checkpoint, &mut walked);
    walked.older.push(OlderPair {
        pair: header.pair,
        last_certain: walked.certain,
    });
    mark_uncovered(&mut walked);
    walked
}

/// Where a chain's extent begins: the slot says it, else it follows the one before.
fn begins_at(slot: &SlotState, follows: u32) -> (u32, Option<&Slot>) {
    match slot {
        SlotState::Good(slot, _) => (slot.first_block, Some(slot)),
        _ => (follows, None),
    }
}

/// Everything in an older pair had retired: only where its entries lie is of interest.
fn walk_older(files: &mut Files<'_>, pairs: &[PairFiles], older: OlderPair, walked: &mut Walked) {
    let header = pairs
        .iter()
        .find(|found| found.pair == older.pair)
        .and_then(|found| found.header.clone());
    let Some(header) = header else {
        walked.incident(older.pair, older.last_certain, Damage::Pair);
        return;
    };
    let slots = files.slots(&header);
    let cipher = cipher_of(files.keys, &header);
    let mut follows = header.body_block();
    for (number, slot) in slots.iter().enumerate() {
        let chain = ChainNumber(header.first_chain.get() + number as u64);
        if chain > older.last_certain {
            break;
        }
        let (first_block, good) = begins_at(slot, follows);
        if good.is_none() {
            walked.incident(header.pair, chain, Damage::Slot);
        }
        match files.extent(&header, &cipher, chain, first_block, good) {
            Some((extent, _)) => {
                let place = ExtentPlace {
                    pair: header.pair,
                    chain,
                    first_block,
                    blocks: extent.header.blocks,
                };
                note_locations(extent.records(), place, &mut walked.locations);
                follows = first_block + extent.header.blocks;
            }
            None => {
                walked.incident(header.pair, chain, Damage::Extent);
                follows = first_block + good.map_or(0, |slot| slot.blocks);
                if let SlotState::Good(_, tail) = slot {
                    forget_removed(tail, &mut walked.locations);
                }
            }
        }
    }
    walked.ciphers.insert(header.pair, cipher);
}

/// What a rotten extent removed stays removed: its slot repeats the records that say so.
fn forget_removed(identity: &[u8], locations: &mut Locations) {
    for item in items(identity).flatten() {
        if let Item::Small(record) = item
            && record.header.kind == RecordKind::Truncate
        {
            locations.truncate(record.header.partition, record.header.index);
        }
    }
}

fn note_locations(bytes: &[u8], place: ExtentPlace, locations: &mut Locations) {
    let mut noted = ItemBuilder::default();
    for record in records(bytes).flatten() {
        noted.push(&record);
    }
    for item in items(noted.bytes()).flatten() {
        locations.note(&item, place);
    }
}

/// The greatest chain that any authentic slot knew to have retired. The opening counts: something is behind it.
fn certain_chain(header: &PairHeader, slots: &[SlotState]) -> ChainNumber {
    slots
        .iter()
        .filter_map(|slot| match slot {
            SlotState::Good(slot, _) => Some(slot.retired),
            _ => None,
        })
        .fold(header.first_chain, ChainNumber::max)
}

fn walk_chosen(
    files: &mut Files<'_>,
    header: &PairHeader,
    slots: &[SlotState],
    checkpoint: &Checkpoint,
    walked: &mut Walked,
) {
    walked.certain = certain_chain(header, slots);
    let cipher = cipher_of(files.keys, header);
    let mut follows = header.body_block();
    let mut previous: Option<ExtentDigest> = Some([0; 32]);
    for (number, slot) in slots.iter().enumerate() {
        let chain = ChainNumber(header.first_chain.get() + number as u64);
        let is_certain = chain <= walked.certain;
        let (first_block, good) = begins_at(slot, follows);
        let extent = files
            .extent(header, &cipher, chain, first_block, good)
            .filter(|(extent, _)| previous.is_none_or(|digest| digest == extent.header.previous));
        let taken = match (&extent, slot) {
            (Some((extent, digest)), _) => {
                follows = first_block + extent.header.blocks;
                previous = Some(*digest);
                if good.is_none() && *slot != SlotState::Untouched || is_certain && good.is_none() {
                    walked.incident(header.pair, chain, Damage::Slot);
                }
                let place = ExtentPlace {
                    pair: header.pair,
                    chain,
                    first_block,
                    blocks: extent.header.blocks,
                };
                take_extent(walked, extent.records(), is_certain.then_some(place))
            }
            (None, SlotState::Untouched) if !is_certain => {
                walked.torn = files.is_written(header, first_block).then_some(chain);
                break;
            }
            (None, SlotState::Good(slot, tail)) => {
                follows = first_block + slot.blocks;
                previous = Some(slot.digest);
                walked.incident(header.pair, chain, Damage::Extent);
                let identity = if number == 0 { &checkpoint.tail } else { tail };
                take_identity(walked, identity, is_certain)
            }
            (None, _) if number == 0 => {
                // The opening's identity stands in the checkpoint; only its length is unknown.
                previous = None;
                follows = position_behind_opening(files, header, &cipher, slots);
                walked.incident(header.pair, chain, Damage::Extent);
                take_identity(walked, &checkpoint.tail, is_certain)
            }
            (None, _) => Err(BadItems),
        };
        if taken.is_err() {
            walked.quarantine = Some(Quarantine {
                pair: header.pair,
                chain,
                what: "an extent and its ledger slot are both bad, nobody knows what they held",
            });
            break;
        }
        walked.chains += 1;
    }
    walked.ciphers.insert(header.pair, cipher);
}

/// Where the mark's extent begins when both the opening's extent and its slot are bad: the mark's slot says
/// it; failing that, the extent is searched for.
pub(in crate::log) fn position_behind_opening(
    files: &mut Files<'_>,
    header: &PairHeader,
    cipher: &SegmentCipher,
    slots: &[SlotState],
) -> u32 {
    if let Some(SlotState::Good(slot, _)) = slots.get(1) {
        return slot.first_block;
    }
    let mark = header.first_chain.next();
    (header.body_block()..header.segment_blocks)
        .find(|block| files.extent(header, cipher, mark, *block, None).is_some())
        .unwrap_or(header.segment_blocks)
}

/// Takes the records of a whole extent: into the state where it is certain, else to be written again.
fn take_extent(
    walked: &mut Walked,
    bytes: &[u8],
    certain_at: Option<ExtentPlace>,
) -> Result<(), BadItems> {
    let Some(place) = certain_at else {
        for record in records(bytes) {
            walked.rewrite.push(&record.map_err(|_| BadItems)?);
        }
        return Ok(());
    };
    let mut noted = ItemBuilder::default();
    for record in records(bytes) {
        noted.push(&record.map_err(|_| BadItems)?);
    }
    for item in items(noted.bytes()) {
        let item = item?;
        walked
            .fold
            .apply_item(&item, Content::Here)
            .map_err(|_| BadItems)?;
        walked.locations.note(&item, place);
    }
    Ok(())
}

/// Takes what is known of a rotten extent: its entries as missing, its small records as they stand.
fn take_identity(walked: &mut Walked, bytes: &[u8], is_certain: bool) -> Result<(), BadItems> {
    let mut frame = Vec::new();
    if is_certain {
        forget_removed(bytes, &mut walked.locations);
    }
    for item in items(bytes) {
        let item = item?;
        if is_certain {
            walked
                .fold
                .apply_item(&item, Content::Lost)
                .map_err(|_| BadItems)?;
            continue;
        }
        match item {
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

/// Whatever the certain state holds and no whole extent covers is missing.
fn mark_uncovered(walked: &mut Walked) {
    let mut gaps: Vec<(PartitionId, LogIndex, LogIndex)> = Vec::new();
    for (partition, log) in &walked.fold.partitions {
        let mut next = log.base.next();
        for location in walked.locations.of(*partition) {
            if location.first > log.last {
                break;
            }
            let last = location.last.min(log.last);
            let first = location.first.max(next);
            if last < first {
                continue;
            }
            // A run of another term at these places was truncated and replaced by one that is lost.
            let stands = log.term_at(first) == Some(location.term)
                && log.term_at(last) == Some(location.term);
            if first > next || !stands {
                let gap_end = if stands { first.prev() } else { last };
                gaps.push((*partition, next, gap_end));
            }
            next = last.next();
        }
        if next <= log.last {
            gaps.push((*partition, next, log.last));
        }
    }
    for (partition, first, last) in gaps {
        if let Some(log) = walked.fold.partitions.get_mut(&partition) {
            log.mark_missing(first, last);
        }
    }
}
