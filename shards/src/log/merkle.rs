//! Merkle leaves of records and the root over a pair's leaves (the tree of RFC 6962, section 2.1).
//!
//! A leaf is H(0x00, header but its checksum, body, checksum) of a binary frame, an inner node H(0x01, left, right), H
//! either SHA-256 or BLAKE3: the prefixes keep a leaf from passing for a node. The tree of n leaves splits at the
//! greatest power of two below n; the root over none is H of nothing. [`MerkleTree`] keeps one hash for each bit
//! of the number of leaves, so a root over a million leaves takes 640 bytes.
//!
//! There are two storeys. The records of an extent have a root ([`extent_root`]); the pair's tree ([`PairTree`]) has one
//! leaf for each extent, H(0x00, that root). So extents can be verified in any order and on many threads, and what is kept
//! of each until the pair's root is formed is 32 bytes. A record's leaf covers 49 bytes at least and an extent's 32, so one can't pass
//! for the other.

use sha2::{Digest as _, Sha256};

use super::format::HashSuite;
use super::record::{RecordError, parse_record};

/// Bytes of a leaf, a node and a root.
pub const MERKLE_BYTES: usize = 32;
/// A leaf, a node or a root.
pub type MerkleHash = [u8; MERKLE_BYTES];

/// Put before what a leaf covers.
const LEAF_PREFIX: [u8; 1] = [0];
/// Put before the two hashes that a node covers.
const NODE_PREFIX: [u8; 1] = [1];

fn hash_parts<'a>(hash: HashSuite, parts: impl Iterator<Item = &'a [u8]>) -> MerkleHash {
    match hash {
        HashSuite::Sha256 => {
            let mut digest = Sha256::new();
            parts.for_each(|part| digest.update(part));
            digest.finalize().into()
        }
        HashSuite::Blake3 => {
            let mut digest = blake3::Hasher::new();
            parts.for_each(|part| {
                digest.update(part);
            });
            digest.finalize().into()
        }
    }
}

/// The leaf over `parts`, laid one behind the other.
#[must_use]
pub fn leaf_hash(hash: HashSuite, parts: &[&[u8]]) -> MerkleHash {
    let prefix = core::iter::once(LEAF_PREFIX.as_slice());
    hash_parts(hash, prefix.chain(parts.iter().copied()))
}

fn node_hash(hash: HashSuite, left: &MerkleHash, right: &MerkleHash) -> MerkleHash {
    let parts: [&[u8]; 3] = [&NODE_PREFIX, left, right];
    hash_parts(hash, parts.into_iter())
}

/// A tree that grows leaf by leaf and knows its root. Allocates nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MerkleTree {
    hash: HashSuite,
    leaves: u64,
    /// `peaks[k]` is the root of a full subtree of 2^k leaves where bit k of `leaves` is set.
    peaks: [MerkleHash; u64::BITS as usize],
}

impl MerkleTree {
    /// A tree without leaves.
    #[must_use]
    pub const fn new(hash: HashSuite) -> Self {
        Self {
            hash,
            leaves: 0,
            peaks: [[0; MERKLE_BYTES]; u64::BITS as usize],
        }
    }

    /// The hash it is made with.
    #[must_use]
    pub const fn hash(&self) -> HashSuite {
        self.hash
    }

    /// Number of its leaves.
    #[must_use]
    pub const fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Adds the leaf that follows all others.
    pub fn push(&mut self, leaf: &MerkleHash) {
        let mut grown = *leaf;
        let carried = self.leaves.trailing_ones() as usize;
        for left in &self.peaks[..carried] {
            grown = node_hash(self.hash, left, &grown);
        }
        self.peaks[carried] = grown;
        self.leaves += 1;
    }

    /// The root over all leaves so far.
    #[must_use]
    pub fn root(&self) -> MerkleHash {
        let mut standing = (0..self.peaks.len()).filter(|bit| self.leaves >> bit & 1 == 1);
        let Some(lowest) = standing.next() else {
            return hash_parts(self.hash, core::iter::empty());
        };
        standing.fold(self.peaks[lowest], |right, bit| {
            node_hash(self.hash, &self.peaks[bit], &right)
        })
    }
}

/// The root over the leaves of the records that lie one behind the other in `bytes`; their checksums are taken on trust.
///
/// # Errors
/// [`RecordError`], where the bytes are no frames.
pub fn extent_root(hash: HashSuite, mut bytes: &[u8]) -> Result<MerkleHash, RecordError> {
    let mut tree = MerkleTree::new(hash);
    while !bytes.is_empty() {
        let record = parse_record(bytes)?;
        tree.push(&record.leaf(hash));
        bytes = &bytes[record.frame.len()..];
    }
    Ok(tree.root())
}

/// A pair's tree: a leaf for each extent, in the order of their chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairTree(MerkleTree);

impl PairTree {
    /// The tree of a pair without extents.
    #[must_use]
    pub const fn new(hash: HashSuite) -> Self {
        Self(MerkleTree::new(hash))
    }

    /// Adds the extent that follows all others, by its own root, and gives the root over all so far.
    pub fn push(&mut self, extent: &MerkleHash) -> MerkleHash {
        self.0.push(&leaf_hash(self.0.hash(), &[extent]));
        self.0.root()
    }
}
