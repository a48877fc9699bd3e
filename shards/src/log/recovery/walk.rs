//! The chosen pair's chains in order, and the older pairs' up to their last certain chain.

use std::collections::BTreeMap;

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId};

use super::super::batch::{Batch, is_copy};
use super::super::checkpoint::{BOOTS_MAX, Checkpoint, OlderPair, PastBoot};
use super::super::extent::OpenExtent;
use super::super::fold::{Content, ShardFold, encode_missing};
use super::super::header::PairHeader;
use super::super::item::{BadItems, Item, ItemBuilder, items};
use super::super::location::{ExtentPlace, Locations};
use super::super::nonce::{self, GapVerdict, NonceAccount, NonceLedger};
use super::super::pair::cipher_of;
use super::super::record::{RecordKind, decode_record, records};
use super::super::scrub::SweepPlace;
use super::super::seal::SegmentCipher;
use super::super::slot::{ExtentDigest, Slot};
use super::super::trailer::{self, Trailer, TrailerState};
use super::choose::Choice;
use super::files::{Files, PairFiles, SlotState};
use super::judge::{SlotMark, Verdict, certain_chain, is_never_written, judge};
use super::{
    Damage, Incident, MISSING_QUARANTINES, NONCES_QUARANTINE, Quarantine, ROT_QUARANTINES,
};

/// What the walk found.
#[derive(Default)]
pub(in crate::log) struct Walked {
    pub chosen: Option<PairNumber>,
    pub chains: u64,
    pub certain: ChainNumber,
    pub torn: Option<ChainNumber>,
    /// The state up to the last certain chain.
    pub fold: ShardFold,
    /// What lies beyond, to be written again.
    pub rewrite: Batch,
    pub older: Vec<OlderPair>,
    /// How far the boots came whose pairs counted, that of the chosen pair last.
    pub boots: Vec<PastBoot>,
    pub ciphers: BTreeMap<PairNumber, SegmentCipher>,
    pub locations: Locations,
    pub incidents: Vec<Incident>,
    pub quarantine: Option<Quarantine>,
    /// What each pair's ledger says of nonces, ascending.
    pub nonces: Vec<NonceLedger>,
    /// Pairs of which one header is bad: both are to be written again.
    pub restore_headers: Vec<PairHeader>,
    /// Where the scrub's sweep was, as the newest slot that is whole states it.
    pub sweep: Option<SweepPlace>,
}

impl Walked {
    /// Missing entries over all partitions, those to be written again as missing not counted twice.
    pub fn missing(&self) -> u64 {
        let fold = self.settled();
        fold.partitions
            .values()
            .map(|log| log.missing_count())
            .sum()
    }

    /// The state with what is to be written again.
    fn settled(&self) -> ShardFold {
        let mut fold = self.fold.clone();
        for item in items(self.rewrite.items.bytes()).flatten() {
            if fold.apply_item(&item, Content::Here).is_err() {
                break;
            }
        }
        fold
    }

    /// Records above the last certain chain are taken from their extents one by one; authentic as each is, they may
    /// contradict what stands before them. Then nothing of them is written again.
    fn check_rewrite(&mut self) {
        let mut fold = self.fold.clone();
        let folds = items(self.rewrite.items.bytes())
            .all(|item| item.is_ok_and(|item| fold.apply_item(&item, Content::Here).is_ok()));
        if folds {
            return;
        }
        self.rewrite = Batch::default();
        self.distrust_prefix();
        if let (None, Some(pair)) = (&self.quarantine, self.chosen) {
            self.quarantine = Some(Quarantine {
                pair,
                chain: self.certain.next(),
                what: "authentic records contradict those before them",
                prefix_stands: false,
            });
        }
    }

    /// Nothing is to be read of what stands before the damage either.
    fn distrust_prefix(&mut self) {
        if let Some(quarantine) = &mut self.quarantine {
            quarantine.prefix_stands = false;
        }
    }

    /// The profile asks for silence where an extent is rotten, whether or not its identity is known; also where that was found
    /// earlier, and what it held has not come back since.
    pub fn quarantine_rot(&mut self) {
        self.distrust_prefix();
        let rotten = self
            .incidents
            .iter()
            .find(|found| found.damage == Damage::Extent);
        let found = match (rotten, self.chosen) {
            (Some(found), _) => Quarantine {
                pair: found.pair,
                chain: found.chain,
                what: ROT_QUARANTINES,
                prefix_stands: false,
            },
            (None, Some(pair)) if self.missing() > 0 => Quarantine {
                pair,
                chain: self.certain,
                what: MISSING_QUARANTINES,
                prefix_stands: false,
            },
            (None, _) => return,
        };
        self.quarantine.get_or_insert(found);
    }

    /// Notes what a ledger says of nonces.
    fn note_nonces(&mut self, header: &PairHeader, slots: &[SlotState], last_certain: ChainNumber) {
        let good = |state: &SlotState| match state {
            SlotState::Good(slot, _) => Some(*slot),
            _ => None,
        };
        let ledger = NonceLedger::of(header, slots.iter().map(good), last_certain);
        self.nonces.push(ledger);
    }

    /// Judges what became of every pair's nonces, and what follows from it.
    pub fn judge_nonces(&mut self) -> (Vec<NonceAccount>, GapVerdict) {
        let accounts = nonce::accounts(&self.nonces);
        let is_loss = |found: &Incident| matches!(found.damage, Damage::Extent | Damage::Pair);
        let integrity_failed =
            self.missing() > 0 || self.quarantine.is_some() || self.incidents.iter().any(is_loss);
        let verdict = nonce::judge_accounts(&accounts, integrity_failed);
        if verdict >= GapVerdict::Incident {
            let gaps = self.nonces.iter().zip(&accounts);
            let gaps = gaps.filter(|(_, account)| account.gap_bytes() > 0);
            let places: Vec<_> = gaps.map(|(ledger, _)| ledger.place()).collect();
            for (pair, chain) in &places {
                self.incident(*pair, *chain, Damage::Nonces);
            }
            if verdict == GapVerdict::Quarantine {
                self.distrust_prefix();
            }
            if let (GapVerdict::Quarantine, None, Some((pair, chain))) =
                (verdict, &self.quarantine, places.first())
            {
                self.quarantine = Some(Quarantine {
                    pair: *pair,
                    chain: *chain,
                    what: NONCES_QUARANTINE,
                    prefix_stands: false,
                });
            }
        }
        (accounts, verdict)
    }

    fn check_headers(&mut self, found: &PairFiles, header: &PairHeader) {
        // Where a file of an older pair is gone, it was being removed.
        let is_going = !found.both_files && self.chosen != Some(header.pair);
        if found.both_headers || is_going {
            return;
        }
        self.incident(header.pair, header.first_chain, Damage::Header);
        if found.both_files {
            self.restore_headers.push(header.clone());
        }
    }

    /// How far the boot of the chosen pair came: to the last chain that was walked there. What was taken of it then counts from here
    /// on, whatever is found in that pair later.
    fn note_boot(&mut self, chosen: &PairHeader) {
        if self.boots.len() >= BOOTS_MAX {
            self.boots.remove(0);
        }
        let behind = chosen.first_chain.get().saturating_add(self.chains);
        self.boots.push(PastBoot {
            boot: chosen.boot,
            last: ChainNumber(behind.saturating_sub(1)),
        });
    }

    fn incident(&mut self, pair: PairNumber, chain: ChainNumber, damage: Damage) {
        self.incidents.push(Incident {
            pair,
            chain,
            damage,
        });
    }
}

pub(in crate::log) fn walk(files: &mut Files<'_>, pairs: &[PairFiles], choice: Choice) -> Walked {
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
    if let Some(found) = pairs.iter().find(|found| found.pair == header.pair) {
        walked.check_headers(found, &header);
    }
    let (checkpoint, whole) = files.checkpoint(&header);
    let Some(checkpoint) = checkpoint else {
        walked.quarantine = Some(Quarantine {
            pair: header.pair,
            chain: header.first_chain,
            what: "the checkpoint is bad in both files",
            prefix_stands: false,
        });
        return walked;
    };
    if whole != [true, true] {
        walked.incident(header.pair, header.first_chain, Damage::Checkpoint);
    }
    walked.fold = checkpoint.fold.clone();
    walked.older.clone_from(&checkpoint.older);
    walked.boots.clone_from(&checkpoint.boots);
    for older in &checkpoint.older {
        walk_older(files, pairs, *older, &mut walked);
    }
    let half_gone = take_out_gone(pairs, &mut walked);
    check_trailers(files, &mut walked);
    let flushed = walk_chosen(files, &header, &slots, &checkpoint, &mut walked);
    walked.note_boot(&header);
    walked.note_nonces(&header, &slots, walked.certain);
    walked.check_rewrite();
    let closed = closed_pair(&header, &slots, walked.certain);
    walked.older.push(closed);
    let before = walked.settled();
    mark_uncovered(&mut walked);
    judge_gone(&checkpoint.older, &half_gone, &before, &mut walked);
    forget_below_bases(&mut walked);
    if walked.quarantine.is_some() {
        // Nothing is written again, so this is where it is read, if it is.
        for (bytes, place) in &flushed {
            for item in items(bytes).flatten() {
                walked.locations.note(&item, *place);
            }
        }
    }
    walked
}

/// Takes pairs whose segment is gone out of the list, and what is left of them with it. Those of which only the ledger is
/// gone are returned: their extents can be read.
fn take_out_gone(pairs: &[PairFiles], walked: &mut Walked) -> Vec<PairNumber> {
    let mut half_gone = Vec::new();
    let mut listed = core::mem::take(&mut walked.older);
    listed.retain_mut(|older| {
        let found = pairs.iter().find(|found| found.pair == older.pair);
        let Some(found) = found.filter(|found| found.has_segment) else {
            return false;
        };
        if found.ledger_blocks == 0 {
            half_gone.push(older.pair);
        }
        let fits = |header: &PairHeader| header.segment_blocks == older.segment_blocks;
        if !found.header.as_ref().is_some_and(fits) {
            // Nothing may be written to a file that nobody understands.
            older.trailer = None;
        }
        true
    });
    walked.older = listed;
    half_gone
}

/// A listed pair whose files are gone, or one of them, was being removed; that is no loss if nothing above a base lay there.
fn judge_gone(
    listed: &[OlderPair],
    half_gone: &[PairNumber],
    before: &ShardFold,
    walked: &mut Walked,
) {
    let missing = |fold: &ShardFold| -> Vec<_> {
        let logs = fold.partitions.iter();
        logs.map(|(id, log)| (*id, log.missing.clone())).collect()
    };
    let is_loss = missing(before) != missing(&walked.settled());
    for older in listed {
        let is_gone = !walked.older.iter().any(|kept| kept.pair == older.pair);
        if is_gone && is_loss {
            walked.incident(older.pair, older.last_certain, Damage::Pair);
        }
    }
    if !is_loss {
        walked
            .incidents
            .retain(|incident| !half_gone.contains(&incident.pair));
    }
}

fn forget_below_bases(walked: &mut Walked) {
    for (partition, log) in &walked.settled().partitions {
        walked.locations.forget_until(*partition, log.base);
    }
}

/// Compares each closed pair's trailer to what the checkpoint states. Whichever is not known to be durable, what was read
/// may be in the device's cache only, is written once more when the boot's mark has retired.
fn check_trailers(files: &mut Files<'_>, walked: &mut Walked) {
    for at in 0..walked.older.len() {
        let older = walked.older[at];
        if !walked.ciphers.contains_key(&older.pair) {
            continue; // Its files are gone.
        }
        let found = files.trailer(older.pair, older.segment_blocks);
        let state = trailer::judge(&found, older.trailer.as_ref(), older.trailer_durable);
        if state == TrailerState::Rotten {
            walked.incident(older.pair, older.last_certain, Damage::Trailer);
        }
        walked.older[at].trailer_durable &= state == TrailerState::Whole;
    }
}

/// The chosen pair as the boot's checkpoint states it. Its trailer's figures stand in the slot of the last certain
/// chain; where that is bad there is no trailer.
fn closed_pair(header: &PairHeader, slots: &[SlotState], certain: ChainNumber) -> OlderPair {
    let at = (certain.get() - header.first_chain.get()) as usize;
    let trailer = match slots.get(at) {
        Some(SlotState::Good(slot, _)) => Some(Trailer {
            pair: header.pair,
            first: (header.first_chain, header.body_block()),
            last: (certain, slot.first_block + slot.blocks),
            figures: slot.figures,
        }),
        _ => None,
    };
    OlderPair {
        pair: header.pair,
        last_certain: certain,
        segment_blocks: header.segment_blocks,
        trailer,
        trailer_durable: false,
    }
}

/// Where a chain's extent begins: the slot says it, else it follows the one before.
fn begins_at(slot: &SlotState, follows: u32) -> (u32, Option<&Slot>) {
    match slot {
        SlotState::Good(slot, _) => (slot.first_block, Some(slot)),
        _ => (follows, None),
    }
}

/// Everything in an older pair had retired: only where its entries lie is of interest, and its slots say that. An
/// extent is read only where its slot is bad.
fn walk_older(files: &mut Files<'_>, pairs: &[PairFiles], older: OlderPair, walked: &mut Walked) {
    let found = pairs.iter().find(|found| found.pair == older.pair);
    let Some(found) = found.filter(|found| found.has_segment) else {
        return; // Whether that is a loss is judged when all is known.
    };
    let Some(header) = found.header.clone() else {
        walked.incident(older.pair, older.last_certain, Damage::Pair);
        return;
    };
    walked.check_headers(found, &header);
    let certain = older.last_certain.get().saturating_add(1);
    let count = certain.saturating_sub(header.first_chain.get());
    let slots = files.slots(&header, u32::try_from(count).unwrap_or(u32::MAX));
    walked.note_nonces(&header, &slots, older.last_certain);
    let cipher = cipher_of(files.keys, &header);
    let mut follows = header.body_block();
    for (chain, slot) in (header.first_chain.get()..).map(ChainNumber).zip(&slots) {
        let (first_block, good) = begins_at(slot, follows);
        let is_opening = chain == header.first_chain;
        let opening_items = match (is_opening, good) {
            (true, Some(_)) => files.checkpoint_tail(&header),
            _ => None,
        };
        let identity = match slot {
            SlotState::Good(_, tail) if !is_opening => Some(tail.as_slice()),
            _ => opening_items.as_deref(),
        };
        if let (Some(slot), Some(identity)) = (good, identity) {
            let place = place_of(header.pair, slot);
            follows = first_block + slot.blocks;
            for item in items(identity).flatten() {
                walked.locations.note(&item, place);
            }
            continue;
        }
        match files.extent(&header, &cipher, chain, first_block, good) {
            Some((extent, _)) => {
                walked.incident(header.pair, chain, Damage::Slot);
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
            }
        }
    }
    walked.ciphers.insert(header.pair, cipher);
}

/// Where the extent lies that a slot vouches for.
fn place_of(pair: PairNumber, slot: &Slot) -> ExtentPlace {
    ExtentPlace {
        pair,
        chain: slot.chain,
        first_block: slot.first_block,
        blocks: slot.blocks,
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

/// The chosen pair: certain chains from their slots, as far as those are whole; what lies above from its extents.
struct ChosenWalk<'a> {
    header: &'a PairHeader,
    cipher: SegmentCipher,
    checkpoint: &'a Checkpoint,
    /// Where the next extent begins if its slot does not say.
    follows: u32,
    /// The digest the next extent repeats, where it is known.
    previous: Option<ExtentDigest>,
    /// Above the last certain chain, as long as slots are authentic: what whole extents hold, and where. They were flushed before their
    /// slots were written.
    flushed: Vec<(Vec<u8>, ExtentPlace)>,
    /// A slot above the last certain chain was not authentic.
    is_past_flushed: bool,
}

/// How one chain was taken.
enum Step {
    Taken,
    /// Never acknowledged, and what follows it neither: the walk ends. Whether anything of it lies there.
    Torn(bool),
    /// Nobody knows what it held.
    Lost,
}

fn walk_chosen(
    files: &mut Files<'_>,
    header: &PairHeader,
    slots: &[SlotState],
    checkpoint: &Checkpoint,
    walked: &mut Walked,
) -> Vec<(Vec<u8>, ExtentPlace)> {
    let retired = slots.iter().filter_map(|slot| match slot {
        SlotState::Good(slot, _) => Some(slot.retired),
        _ => None,
    });
    walked.certain = certain_chain(header, retired);
    let newest = slots.iter().rev().find_map(|slot| match slot {
        SlotState::Good(slot, _) => Some(slot),
        _ => None,
    });
    walked.sweep = newest.and_then(|slot| slot.sweep);
    let mut walk = ChosenWalk {
        header,
        cipher: cipher_of(files.keys, header),
        checkpoint,
        follows: header.body_block(),
        previous: Some([0; 32]),
        flushed: Vec::new(),
        is_past_flushed: false,
    };
    for (chain, slot) in (header.first_chain.get()..).map(ChainNumber).zip(slots) {
        let step = if chain <= walked.certain {
            walk.certain(files, chain, slot, slots, walked)
        } else {
            walk.uncertain(files, chain, slot, slots, walked)
        };
        match step {
            Ok(Step::Taken) => walked.chains += 1,
            Ok(Step::Torn(written)) => {
                walked.torn = written.then_some(chain);
                break;
            }
            lost @ (Ok(Step::Lost) | Err(BadItems)) => {
                walked.quarantine = Some(Quarantine {
                    pair: header.pair,
                    chain,
                    what: "an extent and its ledger slot are both bad, nobody knows what they held",
                    prefix_stands: lost.is_ok(),
                });
                break;
            }
        }
    }
    walked.ciphers.insert(header.pair, walk.cipher);
    walk.flushed
}

impl ChosenWalk<'_> {
    /// A chain that had retired: its slot says what it holds. The extent is read only where the slot is bad, and
    /// otherwise when its entries are asked for.
    fn certain(
        &mut self,
        files: &mut Files<'_>,
        chain: ChainNumber,
        slot: &SlotState,
        slots: &[SlotState],
        walked: &mut Walked,
    ) -> Result<Step, BadItems> {
        let pair = self.header.pair;
        let is_opening = chain == self.header.first_chain;
        if let SlotState::Good(slot, tail) = slot {
            self.follows = slot.first_block.saturating_add(slot.blocks);
            self.previous = Some(slot.digest);
            let identity = if is_opening {
                &self.checkpoint.tail
            } else {
                tail
            };
            fold_items(walked, identity, Some(place_of(pair, slot)))?;
            return Ok(Step::Taken);
        }
        if let Some((extent, digest)) = self.extent(files, chain, self.follows, None) {
            walked.incident(pair, chain, Damage::Slot);
            let place = ExtentPlace {
                pair,
                chain,
                first_block: self.follows,
                blocks: extent.header.blocks,
            };
            self.follows += extent.header.blocks;
            self.previous = Some(digest);
            fold_extent(walked, extent.records(), place)?;
            return Ok(Step::Taken);
        }
        if !is_opening {
            return Ok(Step::Lost);
        }
        // The opening's identity stands in the checkpoint; only its length is unknown.
        self.previous = None;
        self.follows = position_behind_opening(files, self.header, &self.cipher, slots);
        walked.incident(pair, chain, Damage::Extent);
        fold_items(walked, &self.checkpoint.tail, None)?;
        Ok(Step::Taken)
    }

    /// A chain of which nobody knows whether it had retired: its extent decides.
    fn uncertain(
        &mut self,
        files: &mut Files<'_>,
        chain: ChainNumber,
        slot: &SlotState,
        slots: &[SlotState],
        walked: &mut Walked,
    ) -> Result<Step, BadItems> {
        let pair = self.header.pair;
        let (first_block, good) = begins_at(slot, self.follows);
        let extent = self.extent(files, chain, first_block, good);
        let verdict = judge(extent.is_some(), slot.into(), false, false, || {
            let place = (chain, first_block);
            let slots = slots.iter().map(SlotMark::from);
            is_never_written(files, self.header, place, slots)
        });
        if verdict == Verdict::SlotLost {
            walked.incident(pair, chain, Damage::Slot);
        }
        if let Some((extent, digest)) = extent {
            self.follows = first_block + extent.header.blocks;
            self.previous = Some(digest);
            let mut noted = ItemBuilder::default();
            for record in records(extent.records()) {
                let record = record.map_err(|_| BadItems)?;
                walked.rewrite.push(&record);
                noted.push(&record);
            }
            self.is_past_flushed |= good.is_none();
            if let Some(slot) = good.filter(|_| !self.is_past_flushed) {
                let bytes = noted.bytes().to_vec();
                self.flushed.push((bytes, place_of(pair, slot)));
            }
            return Ok(Step::Taken);
        }
        match slot {
            SlotState::Good(slot, tail) if verdict == Verdict::Rot => {
                self.follows = slot.first_block.saturating_add(slot.blocks);
                self.previous = Some(slot.digest);
                walked.incident(pair, chain, Damage::Extent);
                rewrite_as_missing(walked, tail)?;
                Ok(Step::Taken)
            }
            _ if verdict == Verdict::End => Ok(Step::Torn(files.is_begun(
                self.header,
                &self.cipher,
                first_block,
            ))),
            _ if verdict == Verdict::Blank => {
                walked.incident(pair, chain, Damage::UnusedSlot);
                Ok(Step::Torn(false))
            }
            _ => Ok(Step::Lost),
        }
    }

    fn extent(
        &self,
        files: &mut Files<'_>,
        chain: ChainNumber,
        first_block: u32,
        slot: Option<&Slot>,
    ) -> Option<(OpenExtent, ExtentDigest)> {
        files
            .extent(self.header, &self.cipher, chain, first_block, slot)
            .filter(|(extent, _)| {
                self.previous
                    .is_none_or(|digest| digest == extent.header.previous)
            })
    }
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

/// Folds what a certain chain holds, from the items that say it; without a place, the content is lost.
fn fold_items(
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
fn fold_extent(walked: &mut Walked, bytes: &[u8], place: ExtentPlace) -> Result<(), BadItems> {
    let mut noted = ItemBuilder::default();
    for record in records(bytes) {
        noted.push(&record.map_err(|_| BadItems)?);
    }
    fold_items(walked, noted.bytes(), Some(place))
}

/// What is known of a rotten extent above the last certain chain is written again: its entries as missing, its small
/// records as they stand.
fn rewrite_as_missing(walked: &mut Walked, identity: &[u8]) -> Result<(), BadItems> {
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
fn mark_uncovered(walked: &mut Walked) {
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
