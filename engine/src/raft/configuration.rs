//! Who votes: a configuration of one half, or of two while it is joint.
//!
//! The bytes of a configuration are the body of a `Configuration` record, little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | voters in the first half, 1 to 9 |
//! | 2 | 1 | voters in the second half, 0 to 9; 0 where it is not joint |
//! | 3 | 1 | reserved for members that do not vote, 0 |
//! | 4 | 10 each | a voter: node (8), shard (2); the first half, then the second |

use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, ShardId};

/// Voters in one half, at most: an even larger quorum costs latency and buys nothing (5 survive two losses).
pub const VOTERS_MAX: usize = 9;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 4;
const VOTER_BYTES: usize = 10;

/// Why a configuration can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A half has no voter, or too many.
    #[error("a half of {0} voters, 1 to {VOTERS_MAX} are possible")]
    Count(usize),
    /// A node stands twice in one half.
    #[error("node {0} stands twice in one half")]
    Twice(NodeId),
    /// The bytes are no configuration this build reads.
    #[error("configuration bytes are not of version {VERSION} or have another length")]
    Bytes,
}

/// Who votes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    first: Vec<PeerId>,
    second: Vec<PeerId>,
}

fn check(mut voters: Vec<PeerId>) -> Result<Vec<PeerId>, ConfigurationError> {
    if voters.is_empty() || voters.len() > VOTERS_MAX {
        return Err(ConfigurationError::Count(voters.len()));
    }
    voters.sort_unstable();
    match voters.windows(2).find(|w| w[0].node == w[1].node) {
        Some(pair) => Err(ConfigurationError::Twice(pair[0].node)),
        None => Ok(voters),
    }
}

impl Configuration {
    /// One half.
    ///
    /// # Errors
    /// No voter, more than [`VOTERS_MAX`], or a node twice.
    pub fn simple(voters: Vec<PeerId>) -> Result<Self, ConfigurationError> {
        Ok(Self {
            first: check(voters)?,
            second: Vec::new(),
        })
    }

    /// Two halves: what is decided needs a majority of each.
    ///
    /// # Errors
    /// As [`Self::simple`], for either half.
    pub fn joint(first: Vec<PeerId>, second: Vec<PeerId>) -> Result<Self, ConfigurationError> {
        Ok(Self {
            first: check(first)?,
            second: check(second)?,
        })
    }

    /// The halves: one, or two while it is joint. Each is ascending and not empty.
    pub fn halves(&self) -> impl Iterator<Item = &[PeerId]> {
        [self.first.as_slice(), self.second.as_slice()]
            .into_iter()
            .filter(|half| !half.is_empty())
    }

    /// Whether this replica votes in some half.
    #[must_use]
    pub fn contains(&self, peer: PeerId) -> bool {
        self.halves().any(|half| half.contains(&peer))
    }

    /// Every voter but `me`, each once.
    pub fn others(&self, me: PeerId) -> impl Iterator<Item = PeerId> {
        let second = self.second.iter().filter(|p| !self.first.contains(p));
        self.first
            .iter()
            .chain(second)
            .copied()
            .filter(move |p| *p != me)
    }

    /// Whether `me` alone is every majority.
    #[must_use]
    pub fn is_sole_voter(&self, me: PeerId) -> bool {
        self.halves().all(|half| half == [me])
    }

    /// The record body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let voters = self.first.len() + self.second.len();
        let mut out = Vec::with_capacity(HEAD_BYTES + voters * VOTER_BYTES);
        out.extend_from_slice(&[VERSION, self.first.len() as u8, self.second.len() as u8, 0]);
        for voter in self.first.iter().chain(&self.second) {
            out.extend_from_slice(&voter.node.get().to_le_bytes());
            out.extend_from_slice(&voter.shard.get().to_le_bytes());
        }
        out
    }

    /// Reads a record body.
    ///
    /// # Errors
    /// [`ConfigurationError`].
    pub fn decode(body: &[u8]) -> Result<Self, ConfigurationError> {
        let [VERSION, first, second, 0, voters @ ..] = body else {
            return Err(ConfigurationError::Bytes);
        };
        let (first, second) = (usize::from(*first), usize::from(*second));
        if voters.len() != (first + second) * VOTER_BYTES {
            return Err(ConfigurationError::Bytes);
        }
        let mut voters = voters.chunks_exact(VOTER_BYTES).map(|bytes| {
            let (node, shard) = bytes.split_at(8);
            PeerId {
                node: NodeId(u64::from_le_bytes(node.try_into().unwrap_or_default())),
                shard: ShardId(u16::from_le_bytes(shard.try_into().unwrap_or_default())),
            }
        });
        let first: Vec<PeerId> = voters.by_ref().take(first).collect();
        let second: Vec<PeerId> = voters.collect();
        if second.is_empty() {
            Self::simple(first)
        } else {
            Self::joint(first, second)
        }
    }
}
