//! All of a log: its older pairs up to their last certain chain, the chosen pair, and what of it is missing.

use std::collections::BTreeMap;

use clustor_wire::ids::{ChainNumber, PairNumber};

use super::super::batch::Batch;
use super::super::checkpoint::{BOOTS_MAX, OlderPair, PastBoot};
use super::super::fold::{Content, ShardFold};
use super::super::header::PairHeader;
use super::super::item::items;
use super::super::location::{ExtentPlace, Locations};
use super::super::nonce::{self, GapVerdict, NonceAccount, NonceLedger};
use super::super::pair::cipher_of;
use super::super::scrub::SweepPlace;
use super::super::seal::SegmentCipher;
use super::super::trailer::{self, Trailer, TrailerState};
use super::choose::Choice;
use super::chosen::walk_chosen;
use super::content::{mark_uncovered, note_locations, place_of};
use super::files::{Files, PairFiles, SlotState};
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

    pub(super) fn incident(&mut self, pair: PairNumber, chain: ChainNumber, damage: Damage) {
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
        let (first_block, good) = slot.begins_at(follows);
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
