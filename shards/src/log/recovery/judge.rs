//! What a chain's extent and its ledger slot together amount to: the rules by which torn is told from rotten.
//!
//! One function, asked by recovery and by every scrub, so that none of them can come to another verdict.

use clustor_wire::ids::ChainNumber;

use super::super::header::PairHeader;
use super::files::{Files, SlotState};

/// A ledger slot as found, without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) enum SlotMark {
    /// Never written.
    Untouched,
    /// Authentic.
    Good,
    /// A write of it was cut short: its chain never retired.
    Torn,
    /// Written, and not authentic.
    Bad,
    /// It can't be read, so nobody knows whether it was written.
    Unreadable,
}

impl From<&SlotState> for SlotMark {
    fn from(slot: &SlotState) -> Self {
        match slot {
            SlotState::Untouched => Self::Untouched,
            SlotState::Good(..) => Self::Good,
            SlotState::Torn => Self::Torn,
            SlotState::Bad => Self::Bad,
            SlotState::Unreadable => Self::Unreadable,
        }
    }
}

/// The verdict on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) enum Verdict {
    /// The extent is whole and its slot says so.
    Proven,
    /// The extent is whole and its chain never came to write its slot, or not to the end: an ordinary tail.
    Tail,
    /// The extent is whole; its slot was written and is lost.
    SlotLost,
    /// The extent is rotten; what it held is known, from its slot or, for the opening, from the checkpoint.
    Rot,
    /// Nothing, or an unfinished write: the pair ends here.
    End,
    /// The slot is damaged and was never used: nothing of its chain was written, and the pair ends here.
    Blank,
    /// The extent is rotten and its slot is lost with it.
    Unnamed,
}

/// Judges a chain by whether its extent is whole, by its slot, whether the chain is certain (at or below any
/// authentic `retired`, or in an older pair), and whether it is its pair's opening, whose identity stands in
/// the checkpoint. Whether [`is_never_written`], it asks only where that decides.
pub(in crate::log) fn judge(
    extent_is_whole: bool,
    slot: SlotMark,
    is_certain: bool,
    is_opening: bool,
    is_never_written: impl FnOnce() -> bool,
) -> Verdict {
    match (extent_is_whole, slot) {
        (true, SlotMark::Good) => Verdict::Proven,
        (true, SlotMark::Untouched | SlotMark::Torn) if !is_certain => Verdict::Tail,
        (true, _) => Verdict::SlotLost,
        (false, SlotMark::Untouched | SlotMark::Torn) if !is_certain => Verdict::End,
        (false, SlotMark::Good) => Verdict::Rot,
        (false, _) if is_opening => Verdict::Rot,
        (false, _) if !is_certain && is_never_written() => Verdict::Blank,
        (false, _) => Verdict::Unnamed,
    }
}

/// Whether a chain behind the opening, whose slot tells nothing, was never written: its extent would begin at `first_block`, and
/// is flushed there before its slot is written. So where that place is blank, the chain never retired. That nothing
/// lies behind either, neither blocks nor one of the pair's `slots`, keeps a second fault from being taken for this.
///
/// Right behind the opening, that must have retired: its own slot says so. Otherwise what lies behind it does.
pub(in crate::log) fn is_never_written(
    files: &mut Files<'_>,
    header: &PairHeader,
    (chain, first_block): (ChainNumber, u32),
    slots: impl Iterator<Item = SlotMark>,
) -> bool {
    let number = (chain.get() - header.first_chain.get()) as usize;
    let mut slots = slots.enumerate();
    slots.all(|(at, slot)| match slot {
        SlotMark::Good => at < number,
        _ => at > 0 || number > 1,
    }) && files.is_blank_from(header, first_block)
}

/// The greatest chain that any authentic slot knew to have retired, given what those slots say. The opening
/// counts: something is behind it.
pub(in crate::log) fn certain_chain(
    header: &PairHeader,
    retired: impl Iterator<Item = ChainNumber>,
) -> ChainNumber {
    retired.fold(header.first_chain, ChainNumber::max)
}
