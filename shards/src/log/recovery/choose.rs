//! Which pair to believe: the newest that has something behind its opening.
//!
//! An opening is followed by its mark before anything is said, so a pair with nothing behind its opening was
//! never spoken for and is passed over, whatever it holds. What lies behind is a touched slot, or an authentic
//! block. An unreadable slot counts as touched only if the opening itself is whole: if it isn't, nothing was submitted
//! behind it.
//!
//! A pair that spoke can't be gone unnoticed: what is left of it tells, or the trailer of the pair before does.

use super::super::header::PairHeader;
use super::super::pair::cipher_of;
use super::super::trailer::FoundTrailer;
use super::Quarantine;
use super::files::{Files, PairFiles, SlotState};
use crate::disk::{FileId, SPARE_ZERO_BLOCKS};
use clustor_wire::ids::ChainNumber;

/// What was chosen.
pub(in crate::log) enum Choice {
    /// Nothing was ever said here.
    Empty,
    /// This pair.
    Pair(PairHeader, Vec<SlotState>),
    /// Something was said, and its state is lost.
    Lost(Quarantine),
}

/// Blocks of a ledger looked at where no header tells their number: far more than any opening takes.
const HEADERLESS_BLOCKS: u32 = 4096;

pub(in crate::log) fn choose(files: &mut Files<'_>, pairs: &[PairFiles]) -> Choice {
    for found in pairs.iter().rev() {
        match &found.header {
            Some(header) => {
                let slots = files.slots(header, u32::MAX);
                if is_behind(files, header, &slots) {
                    // A trailer is written when the next pair's mark has retired, so that pair spoke.
                    let trailer = files.trailer(header.pair, header.segment_blocks);
                    if matches!(trailer, FoundTrailer::Whole(_)) {
                        return Choice::Lost(Quarantine {
                            pair: header.pair.next(),
                            chain: ChainNumber::ZERO,
                            what: "the newest pair is closed, and the one that followed it is gone",
                        });
                    }
                    return Choice::Pair(header.clone(), slots);
                }
            }
            None if spoke_without_header(files, found) => {
                return Choice::Lost(Quarantine {
                    pair: found.pair,
                    chain: ChainNumber::ZERO,
                    what: "both headers are bad",
                });
            }
            None => {}
        }
    }
    Choice::Empty
}

/// Whether a pair without a header may have spoken: its ledger was written to; or, where the ledger is gone, the front of its
/// segment was: an opening writes to neither before both have their names. What lies behind the front of a segment may be what an
/// earlier pair left there.
///
/// An authentic block of the ledger settles it. What is not authentic is what is left of such a block, or rot in a spare, or in an opening
/// that nothing had spoken for. A pair that spoke has written to each of its first [`SPARE_ZERO_BLOCKS`] blocks, in both files: header,
/// checkpoint, opening and mark. So where one of those is read as zeros, and no block of the ledger is authentic, it is rot.
fn spoke_without_header(files: &mut Files<'_>, found: &PairFiles) -> bool {
    let front = found.segment_blocks.min(SPARE_ZERO_BLOCKS);
    let segment = files.seen(FileId::segment(found.pair), front);
    let blocks = found.ledger_blocks.min(HEADERLESS_BLOCKS);
    let ledger = files.seen(FileId::ledger(found.pair), blocks);
    let is_written = match found.ledger_blocks {
        0 => segment.touched > 0,
        _ => ledger.touched > 0,
    };
    let is_blank_somewhere = segment.blank_front + ledger.blank_front > 0;
    is_written && (ledger.authentic > 0 || !is_blank_somewhere)
}

fn is_behind(files: &mut Files<'_>, header: &PairHeader, slots: &[SlotState]) -> bool {
    let behind = slots.get(1..).unwrap_or_default();
    let written =
        |slot: &SlotState| matches!(slot, SlotState::Good(..) | SlotState::Torn | SlotState::Bad);
    if behind.iter().any(written) {
        return true;
    }
    if behind.contains(&SlotState::Unreadable) && opening_is_whole(files, header, &slots[0]) {
        return true;
    }
    let cipher = cipher_of(files.keys, header);
    files.has_block_behind_opening(header, &cipher)
}

fn opening_is_whole(files: &mut Files<'_>, header: &PairHeader, slot: &SlotState) -> bool {
    let (checkpoint, _) = files.checkpoint(header);
    let cipher = cipher_of(files.keys, header);
    let slot = match slot {
        SlotState::Good(slot, _) => Some(slot),
        _ => None,
    };
    checkpoint.is_some()
        && files
            .extent(
                header,
                &cipher,
                header.first_chain,
                header.body_block(),
                slot,
            )
            .is_some()
}
