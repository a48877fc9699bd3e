//! At what pace a carrier zeroes the next pair, beside the chains of the one that is being filled.
//!
//! Zeros and their flushes are in the way of chains, and each chain that meets them is slower. So while chains go down, little
//! is zeroed at a time, with pauses, and not flushed piece by piece; the pace is that at which the pair before is
//! filled, so that the next is whole when three quarters of it are used, or a steady trickle, whichever is more. Nobody is in
//! the way where no chain is in flight: then it goes on without pauses. Where the log needs the pair, or may need it before it is
//! whole, nothing is spared: large pieces, each flushed and reported.
//!
//! Owns no clock. Both carriers ask it: the ring, and the simulator's disk.

use clustor_wire::ids::PairNumber;

use super::{DurableChain, PreparePair};

/// The whole of a use, and three quarters of it: when the next pair is to be whole.
const WHOLE: u64 = 1 << 16;
const LINE: u64 = WHOLE / 4 * 3;

/// How the zeroing of a pair is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The pair is needed: large pieces at once. What lies in place is flushed and reported piece by piece.
    Hurry,
    /// A piece at once. So many blocks are due: none if there is only nobody in the way.
    Next(u32),
    /// A small piece after a pause, or as soon as it is due.
    Pause,
}

/// What the carrier knows of the pair that is being filled.
#[derive(Debug, Default)]
pub struct Pace {
    /// The newest pair that is in place and not opened.
    spare: Option<PreparePair>,
    /// The pair that is being filled, and how much of it is used, in parts of [`WHOLE`].
    filling: Option<(PreparePair, u64)>,
}

impl Pace {
    /// A pair is in place.
    pub fn made(&mut self, order: PreparePair) {
        self.spare = Some(order);
    }

    /// The zeroing of a pair has failed: it ends early.
    pub fn failed(&mut self, pair: PairNumber) {
        if let Some((order, used)) = &mut self.filling
            && order.pair == pair
        {
            *used = WHOLE;
        }
    }

    /// A chain goes down.
    pub fn note(&mut self, chain: &DurableChain) {
        if let Some(spare) = self.spare.take_if(|spare| spare.pair == chain.pair) {
            self.filling = Some((spare, 0));
        }
        let Some((order, used)) = &mut self.filling else {
            return;
        };
        if order.pair != chain.pair {
            return;
        }
        let part = |block: u32, count: usize, of: u32| {
            (u64::from(block) + count as u64) * WHOLE / u64::from(of.max(1))
        };
        *used = (*used)
            .max(part(chain.log_block, chain.log.len(), order.segment_blocks))
            .max(part(
                chain.ledger_block,
                chain.ledger.len(),
                order.ledger_blocks,
            ));
    }

    /// How to go on with `pair`, of which `done` of `all` blocks are zeroed. `is_busy`: chains are in flight.
    #[must_use]
    pub fn step(&self, pair: PairNumber, (done, all): (u32, u32), is_busy: bool) -> Step {
        match &self.filling {
            None => Step::Hurry,
            Some((order, _)) if order.pair == pair => Step::Hurry,
            Some((_, used)) if *used >= LINE => Step::Hurry,
            Some((_, used)) => {
                let line = (u64::from(all) * used).div_ceil(LINE);
                match u32::try_from(line).unwrap_or(all).saturating_sub(done) {
                    0 if is_busy => Step::Pause,
                    due => Step::Next(due),
                }
            }
        }
    }
}
