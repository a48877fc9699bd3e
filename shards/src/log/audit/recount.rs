//! Figures of a segment formed anew from its extents, to be compared with what its slots and its trailer state. Extents are
//! verified apart from each other, and in any order; their checksums are joined here.

use clustor_wire::ids::ChainNumber;

use super::super::header::PairHeader;
use super::super::merkle::{MerkleHash, PairTree};
use super::super::trailer::SegmentFigures;
use super::Whole;

/// The figures of a pair over its extents so far.
pub(in crate::log) struct Recount {
    next: ChainNumber,
    figures: SegmentFigures,
    tree: Option<PairTree>,
}

impl Recount {
    pub fn new(header: &PairHeader) -> Self {
        Self {
            next: header.first_chain,
            figures: SegmentFigures::default(),
            tree: header.format.leaf().map(PairTree::new),
        }
    }

    /// The chain whose extent comes next.
    pub fn next_chain(&self) -> ChainNumber {
        self.next
    }

    /// Takes the extent of the next chain.
    pub fn add(&mut self, first_block: u32, whole: &Whole) {
        self.next = self.next.next();
        self.figures.add_seen(
            (first_block, whole.blocks),
            (whole.entries, whole.record_bytes),
            whole.records,
        );
        if let (Some(tree), Some(root)) = (&mut self.tree, &whole.root) {
            self.figures.merkle_root = Some(tree.push(root));
        }
    }

    /// Whether a slot or trailer states the same.
    pub fn fits(&self, stated: &SegmentFigures) -> bool {
        self.figures == *stated
    }

    /// The Merkle root, where the pair keeps leaves.
    pub fn root(&self) -> Option<MerkleHash> {
        self.figures.merkle_root
    }
}
