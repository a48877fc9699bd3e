//! The chosen pair's chains in order: the certain ones from their slots, what lies above from its extents.

use clustor_wire::ids::ChainNumber;

use super::super::checkpoint::Checkpoint;
use super::super::extent::OpenExtent;
use super::super::header::PairHeader;
use super::super::item::{BadItems, ItemBuilder};
use super::super::location::ExtentPlace;
use super::super::pair::cipher_of;
use super::super::record::records;
use super::super::seal::SegmentCipher;
use super::super::slot::{ExtentDigest, Slot};
use super::content::{fold_extent, fold_items, place_of, rewrite_as_missing};
use super::files::{Files, SlotState};
use super::judge::{SlotMark, Verdict, certain_chain, is_never_written, judge};
use super::walk::Walked;
use super::{Damage, Quarantine};

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

pub(super) fn walk_chosen(
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
        let (first_block, good) = slot.begins_at(self.follows);
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
