//! Whether pairs are opened for nothing.

use clustor_shards::disk::DurableChain;

use super::super::history::Violation;

/// Pairs in a row that may be closed with nothing in them: a boot's may be too small for what waits, and those that a full disk cuts
/// short may be. What waits goes into the next that is whole.
const UNUSED_MAX: u32 = 8;
/// Chains that say nothing for anybody: the mark, and those that only reserve nonces.
const EMPTY_CHAINS: u32 = 3;
/// Blocks of the ledger that an opening takes at least; a header that is restored takes one.
const OPENING_BLOCKS_MIN: usize = 3;

/// What went into the pairs of one boot.
#[derive(Debug, Default)]
pub(super) struct Rolling {
    /// Of the present pair, behind its opening.
    chains: u32,
    is_used: bool,
    /// Pairs in a row with nothing in them.
    unused: u32,
}

impl Rolling {
    /// A chain is submitted.
    pub fn note(&mut self, chain: &DurableChain) -> Result<(), Violation> {
        let is_opening = chain.ledger_block == 0 && chain.ledger.len() >= OPENING_BLOCKS_MIN;
        if !is_opening {
            self.chains += 1;
            self.is_used |= chain.log.len() > 1 || self.chains > EMPTY_CHAINS;
            return Ok(());
        }
        let unused = if self.is_used { 0 } else { self.unused + 1 };
        *self = Self {
            unused,
            ..Self::default()
        };
        if unused > UNUSED_MAX {
            return Err(Violation::Stuck(format!(
                "{unused} pairs in a row were opened, up to pair {}, and nothing was put into them",
                chain.pair
            )));
        }
        Ok(())
    }
}
