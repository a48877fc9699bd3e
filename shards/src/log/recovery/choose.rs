//! Which pair to believe: the newest that has something behind its opening.
//!
//! An opening is followed by its mark before anything is said, so a pair with nothing behind its opening was
//! never spoken for and is passed over, whatever it holds. What lies behind is an authentic slot or block. A slot that is
//! not, or can't be read, counts only if the opening may have retired: if it never did, nothing was submitted behind it, and
//! what is found there is rot.
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
                            prefix_stands: false,
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
                    prefix_stands: false,
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
/// A pair that spoke has written to each of its first [`SPARE_ZERO_BLOCKS`] blocks, in both files: header, checkpoint, opening and
/// mark. So where one of those is blank, what is not authentic is rot in a spare, or in an opening that nothing had spoken for. Two
/// authentic slots are an opening and what came behind it. Less that is authentic may be what a crash left of an opening, which reaches the
/// ledger after the segment: there its blocks lie, then, and the one behind them is blank.
fn spoke_without_header(files: &mut Files<'_>, found: &PairFiles) -> bool {
    let front = found.segment_blocks.min(SPARE_ZERO_BLOCKS);
    let segment = files.seen(FileId::segment(found.pair), front);
    let blocks = found.ledger_blocks.min(HEADERLESS_BLOCKS);
    let ledger = files.seen(FileId::ledger(found.pair), blocks);
    let is_written = match found.ledger_blocks {
        0 => segment.touched > 0,
        _ => ledger.touched > 0,
    };
    let [opening @ .., mark] = segment.blank;
    let is_never_spoken_for = match ledger.authentic {
        0 => mark || opening.contains(&true) || ledger.blank.contains(&true),
        _ => ledger.slots < 2 && mark && !opening.contains(&true),
    };
    is_written && !is_never_spoken_for
}

fn is_behind(files: &mut Files<'_>, header: &PairHeader, slots: &[SlotState]) -> bool {
    let (opening, behind) = slots.split_first().unwrap_or((&SlotState::Untouched, &[]));
    let is_authentic = |slot: &SlotState| matches!(slot, SlotState::Good(..));
    if behind.iter().any(is_authentic) {
        return true;
    }
    let may_have_retired = match opening {
        SlotState::Good(..) => true,
        // The opening's own chain ends with its slot.
        SlotState::Untouched | SlotState::Torn => false,
        SlotState::Bad | SlotState::Unreadable => opening_is_whole(files, header),
    };
    if may_have_retired && behind.iter().any(|slot| *slot != SlotState::Untouched) {
        return true;
    }
    let cipher = cipher_of(files.keys, header);
    files.has_block_behind_opening(header, &cipher)
}

fn opening_is_whole(files: &mut Files<'_>, header: &PairHeader) -> bool {
    let (checkpoint, _) = files.checkpoint(header);
    let cipher = cipher_of(files.keys, header);
    let (chain, place) = (header.first_chain, header.body_block());
    checkpoint.is_some() && files.extent(header, &cipher, chain, place, None).is_some()
}
