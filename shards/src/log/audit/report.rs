//! What an audit found, as values.

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId, Term};

use super::super::fold::IndexRange;
use super::super::keys::LogIdentity;
use super::super::merkle::MerkleHash;
use super::super::nonce::{GapVerdict, NonceGaps};
use super::super::record::RecordKind;
use super::super::recovery::Quarantine;
use crate::disk::{FileId, FileKind};

/// Bad blocks named one by one in a finding; more are only counted.
pub const BAD_BLOCKS_NAMED_MAX: usize = 16;

/// How bad it is, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Outcome {
    /// All that counts is whole. A torn tail is no damage.
    #[default]
    Healthy,
    /// A copy is bad and another whole, an extent is whole that no slot proves, all that one held stands in its slot, or a bad slot
    /// was never used: nothing is lost.
    Restored,
    /// Content is lost whose identity is known: it is to be fetched from peers.
    Missing,
    /// Nobody knows what was lost: the shard's replicas stay silent.
    Quarantine,
}

/// What a pair is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pair whose state a start takes.
    Chosen,
    /// An older pair that still lives, up to its last certain chain.
    Older {
        /// That chain.
        last_certain: ChainNumber,
    },
    /// A spare, an opening that nothing was said of, or a pair that is no longer listed: nothing in it counts, and it
    /// was not read.
    Unused,
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damaged {
    /// The header in this file.
    Header(FileKind),
    /// The copy of the checkpoint in this file.
    Checkpoint(FileKind),
    /// The copies of the checkpoint differ though both are authentic.
    CheckpointsDiffer,
    /// The checkpoint in both files.
    BothCheckpoints,
    /// A ledger slot; the extent is whole.
    Slot,
    /// A ledger slot that was never used: where its extent would lie nothing was written, nor behind that.
    UnusedSlot,
    /// An extent; what it held is known.
    Extent,
    /// An extent and its slot.
    ExtentAndSlot,
    /// The trailer of a closed segment; the checkpoint states what it held.
    Trailer,
    /// A listed older pair: gone, or both headers bad.
    Pair,
    /// The pair that was written last: both headers are bad.
    BothHeaders,
    /// A slot or trailer states other figures, other checksums, or another Merkle root, than the extents give, all of them authentic:
    /// whoever wrote them erred, or held the keys.
    Figures,
}

impl core::fmt::Display for Damaged {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Header(FileKind::Segment) => "the segment's header is bad",
            Self::Header(FileKind::Ledger) => "the ledger's header is bad",
            Self::Checkpoint(FileKind::Segment) => "the segment's copy of the checkpoint is bad",
            Self::Checkpoint(FileKind::Ledger) => "the ledger's copy of the checkpoint is bad",
            Self::CheckpointsDiffer => "the copies of the checkpoint differ",
            Self::BothCheckpoints => "the checkpoint is bad in both files",
            Self::Slot => "the ledger slot is bad, the extent is whole",
            Self::UnusedSlot => "the ledger slot is bad, and was never used",
            Self::Extent => "the extent is rotten, what it held is known",
            Self::ExtentAndSlot => "the extent and its ledger slot are both bad",
            Self::Trailer => "the segment's trailer is bad, the checkpoint restores it",
            Self::Pair => "this older pair is gone, or both its headers are bad",
            Self::BothHeaders => "both headers are bad",
            Self::Figures => {
                "the extents are whole, but give other figures, checksums or another Merkle root than is stated"
            }
        })
    }
}

/// What a damaged extent held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Of which kind.
    pub kind: RecordKind,
    /// Whose.
    pub partition: PartitionId,
    /// Of which term.
    pub term: Term,
    /// The first index.
    pub first: LogIndex,
    /// The last.
    pub last: LogIndex,
}

/// A block that is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBlock {
    /// In which file.
    pub file: FileId,
    /// Which.
    pub block: u32,
    /// Whether it can't be read at all; otherwise it is not authentic.
    pub unreadable: bool,
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which pair.
    pub pair: PairNumber,
    /// At which chain; the pair's first for headers and checkpoints.
    pub chain: ChainNumber,
    /// What.
    pub damaged: Damaged,
    /// What follows from it.
    pub outcome: Outcome,
    /// The bad blocks, the first [`BAD_BLOCKS_NAMED_MAX`]. None where each block by itself is authentic and their
    /// order, digest or checksum is not.
    pub bad_blocks: Vec<BadBlock>,
    /// How many there are.
    pub bad_block_count: u64,
    /// What it held, where that is known.
    pub held: Vec<Held>,
}

/// What was read of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairReport {
    /// Its number.
    pub pair: PairNumber,
    /// What it is to the log.
    pub role: Role,
    /// Chains that count.
    pub chains: u64,
    /// Records in whole extents.
    pub records: u64,
    /// Bytes of whole extents.
    pub extent_bytes: u64,
    /// Bytes of ledger and checkpoints that were verified.
    pub ledger_bytes: u64,
    /// Bytes whose nonces are not accounted for.
    pub nonce_gaps: NonceGaps,
    /// Slots of its ledger that are certain are lost: its gaps tell nothing, and are not judged.
    pub has_lost_slots: bool,
    /// The Merkle root over its extents, formed anew and equal to what is stated; `None` without leaves, or where an
    /// extent is bad.
    pub merkle_root: Option<MerkleHash>,
}

/// What an audit found.
#[derive(Debug, Clone)]
pub struct AuditReport {
    /// Whose log.
    pub identity: LogIdentity,
    /// Its pairs, ascending.
    pub pairs: Vec<PairReport>,
    /// Damage, in order of place.
    pub findings: Vec<Finding>,
    /// What a start would know to be missing, found now or before.
    pub missing: Vec<(PartitionId, IndexRange)>,
    /// The chain at which a start would cut a torn tail.
    pub torn: Option<ChainNumber>,
    /// The damage for which a start would keep the shard silent.
    pub quarantine: Option<Quarantine>,
    /// What the bytes whose nonces are not accounted for amount to, over all pairs: what a start would make of them, if it
    /// knew of all damage that was found here.
    pub nonces: GapVerdict,
}

impl AuditReport {
    /// The worst outcome.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let mut worst = self.findings.iter().map(|finding| finding.outcome).max();
        if !self.missing.is_empty() {
            worst = worst.max(Some(Outcome::Missing));
        }
        let nonces = match self.nonces {
            GapVerdict::Healthy | GapVerdict::Alarm => Outcome::Healthy,
            GapVerdict::Incident => Outcome::Restored,
            GapVerdict::Quarantine => Outcome::Quarantine,
        };
        worst = worst.max(Some(nonces));
        if self.quarantine.is_some() {
            worst = Some(Outcome::Quarantine);
        }
        worst.unwrap_or_default()
    }

    /// Bytes that were verified.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pairs
            .iter()
            .map(|pair| pair.extent_bytes + pair.ledger_bytes)
            .sum()
    }
}
impl Finding {
    pub(super) fn at(
        pair: PairNumber,
        chain: ChainNumber,
        damaged: Damaged,
        outcome: Outcome,
    ) -> Self {
        Self {
            pair,
            chain,
            damaged,
            outcome,
            bad_blocks: Vec::new(),
            bad_block_count: 0,
            held: Vec::new(),
        }
    }

    pub(super) fn bad_block(&mut self, file: FileId, block: u32, unreadable: bool) {
        self.bad_block_count += 1;
        if self.bad_blocks.len() < BAD_BLOCKS_NAMED_MAX {
            self.bad_blocks.push(BadBlock {
                file,
                block,
                unreadable,
            });
        }
    }
}
