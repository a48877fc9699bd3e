//! Majorities, of one half and of two. Pure arithmetic.
//!
//! Everything that a quorum decides is decided here: what is committed, who is elected, whether leadership is
//! confirmed, when a quorum was last heard of.

use clustor_shards::turn::PeerId;

use super::configuration::{Configuration, VOTERS_MAX};

/// How many of `voters` make a majority.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The greatest value that a majority of `voters` reaches. A voter without a value counts as the least one.
///
/// # Panics
/// If there is no voter, or more than [`VOTERS_MAX`].
pub fn reached_by_majority<T: Ord + Copy + Default>(
    voters: &[PeerId],
    value: impl Fn(PeerId) -> T,
) -> T {
    assert!(!voters.is_empty());
    assert!(voters.len() <= VOTERS_MAX);
    let mut values = [T::default(); VOTERS_MAX];
    let values = &mut values[..voters.len()];
    for (slot, voter) in values.iter_mut().zip(voters) {
        *slot = value(*voter);
    }
    values.sort_unstable();
    values[voters.len() - majority(voters.len())]
}

/// The greatest value that a majority of every half reaches.
pub fn reached<T: Ord + Copy + Default>(
    configuration: &Configuration,
    value: impl Fn(PeerId) -> T,
) -> T {
    configuration
        .halves()
        .map(|half| reached_by_majority(half, &value))
        .min()
        .unwrap_or_default()
}

/// How a ballot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ballot {
    /// A majority of every half said yes.
    Won,
    /// Some half can't reach a majority any more.
    Lost,
    /// Neither.
    Open,
}

/// Counts the votes: `Some(true)` yes, `Some(false)` no, `None` not heard from.
pub fn count(configuration: &Configuration, vote: impl Fn(PeerId) -> Option<bool>) -> Ballot {
    let mut result = Ballot::Won;
    for half in configuration.halves() {
        let yes = half.iter().filter(|p| vote(**p) == Some(true)).count();
        let no = half.iter().filter(|p| vote(**p) == Some(false)).count();
        if half.len() - no < majority(half.len()) {
            return Ballot::Lost;
        }
        if yes < majority(half.len()) {
            result = Ballot::Open;
        }
    }
    result
}
