//! What a crash may leave behind, gone through one by one: every subset of the sectors that no flush covers and
//! every state of the names, as far as they can be counted; beyond that every block as there, gone or torn;
//! beyond that a sample.

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::disk::{SectorMask, Settled, Unsettled};

/// How many decisions are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Every subset of sectors, where these are at most so many.
    pub sectors_max: u64,
    /// Otherwise every block there, gone or torn, where these are at most so many.
    pub blocks_max: u64,
    /// Otherwise so many are drawn, beside the extremes.
    pub sample: u64,
}

/// How completely the decisions of one crash were gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Every subset of sectors, every state of every name.
    Sectors,
    /// Every block there, gone, or torn in one way that was drawn; every state of every name.
    Blocks,
    /// A sample.
    Sample,
}

/// What a block may come to, as a list of masks.
fn subsets(of: SectorMask) -> Vec<SectorMask> {
    (0..=SectorMask::MAX)
        .filter(|mask| mask & !of == 0)
        .collect()
}

fn there_gone_or_torn(of: SectorMask, rng: &mut Xoshiro256PlusPlus) -> Vec<SectorMask> {
    let mut masks = vec![0, of];
    if of.count_ones() > 1 {
        let torn = std::iter::repeat_with(|| of & rng.random::<SectorMask>());
        masks.extend(
            torn.take(64)
                .find(|torn| *torn != 0 && *torn != of)
                .or(Some(of & of.wrapping_neg())),
        );
    }
    masks.dedup();
    masks
}

/// The product of all choices, if it is at most `max`.
fn count(blocks: &[Vec<SectorMask>], names: &[usize], max: u64) -> Option<u64> {
    let choices = blocks.iter().map(Vec::len).chain(names.iter().copied());
    let mut product = 1u64;
    for choice in choices {
        product = product.saturating_mul(choice as u64);
        if product > max {
            return None;
        }
    }
    Some(product)
}

fn all_of(blocks: &[Vec<SectorMask>], names: &[usize], count: u64) -> Vec<Settled> {
    let nth = |mut n: u64| {
        let mut digit = |radix: usize| {
            let digit = n % radix as u64;
            n /= radix as u64;
            digit as usize
        };
        Settled {
            blocks: blocks
                .iter()
                .map(|masks| masks[digit(masks.len())])
                .collect(),
            names: names.iter().map(|states| digit(*states)).collect(),
        }
    };
    (0..count).map(nth).collect()
}

/// The decisions to go through, and how complete they are.
#[must_use]
pub fn decisions(unsettled: &Unsettled, limits: Limits, seed: u64) -> (Vec<Settled>, Coverage) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let names: Vec<usize> = unsettled.names.iter().map(|(_, states)| *states).collect();
    if unsettled.sectors() < u64::BITS {
        let by_sector: Vec<_> = unsettled.blocks.iter().map(|mask| subsets(*mask)).collect();
        if let Some(count) = count(&by_sector, &names, limits.sectors_max) {
            return (all_of(&by_sector, &names, count), Coverage::Sectors);
        }
    }
    let by_block: Vec<_> = unsettled
        .blocks
        .iter()
        .map(|mask| there_gone_or_torn(*mask, &mut rng))
        .collect();
    if let Some(count) = count(&by_block, &names, limits.blocks_max) {
        return (all_of(&by_block, &names, count), Coverage::Blocks);
    }
    let most = Settled {
        blocks: unsettled.blocks.clone(),
        names: names.iter().map(|states| states - 1).collect(),
    };
    let least = Settled {
        blocks: vec![0; unsettled.blocks.len()],
        names: vec![0; names.len()],
    };
    let drawn = (0..limits.sample).map(|_| Settled {
        blocks: by_block
            .iter()
            .map(|masks| masks[rng.random_range(0..masks.len())])
            .collect(),
        names: names
            .iter()
            .map(|states| rng.random_range(0..*states))
            .collect(),
    });
    let mut drawn: Vec<Settled> = drawn.collect();
    drawn.extend([most, least]);
    (drawn, Coverage::Sample)
}
