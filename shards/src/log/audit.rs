//! Everything in a shard's files that can be verified, verified and judged: the scrub of a log at rest.
//!
//! Read-only, and by recovery's own readers and rules: the same choice of the pair, the same verdict on an extent and
//! its slot; at the end a recovery says what a start would make of it. Beyond a recovery it reads every byte that
//! counts, those that a start would leave alone until they are wanted included.
//!
//! The work is cut into [`Piece`]s that depend on nothing but the audit as it stands, so that whoever drives it may check
//! them on as many threads as he likes: first the ledgers ([`Audit::ledger_pieces`]), then, by what these say, the
//! extents ([`Audit::extent_pieces`]), then [`Audit::finish`].

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId, Term};

use super::checkpoint::{Checkpoint, OlderPair};
use super::extent::open_extent;
use super::fold::IndexRange;
use super::header::PairHeader;
use super::item::{Item, items};
use super::keys::{KeyProvider, LogIdentity, ShardKeys};
use super::options::LogOptions;
use super::pair::cipher_of;
use super::record::{RecordKind, records};
use super::recovery::choose::{Choice, choose};
use super::recovery::files::{Files, PairFiles, SlotState};
use super::recovery::judge::{SlotMark, Verdict, certain_chain, judge};
use super::recovery::walk::{position_behind_opening, walk};
use super::recovery::{Damage, Quarantine, RecoverError};
use super::seal::SegmentCipher;
use super::slot::{ExtentDigest, Slot};
use super::trailer::{self, FoundTrailer, TrailerState};
use super::writer::ShardLog;
use crate::buffer::{BLOCK_BYTES, Block, BlockPool, SizeClass};
use crate::disk::{BootDisk, FileId, FileKind};

/// Blocks in a piece, unless one extent alone is longer: 4 MiB.
const PIECE_BLOCKS: u32 = 1024;
/// Bad blocks named one by one in a finding; more are only counted.
pub const BAD_BLOCKS_NAMED_MAX: usize = 16;

/// How bad it is, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Outcome {
    /// All that counts is whole. A torn tail is no damage.
    #[default]
    Healthy,
    /// A copy is bad and another whole, or an extent is whole that no slot proves: nothing is lost.
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
}

impl AuditReport {
    /// The worst outcome.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let mut worst = self.findings.iter().map(|finding| finding.outcome).max();
        if !self.missing.is_empty() {
            worst = worst.max(Some(Outcome::Missing));
        }
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

/// Work that depends on nothing but the audit as it stands.
#[derive(Debug, Clone)]
pub struct Piece {
    pair: usize,
    part: Part,
}

#[derive(Debug, Clone)]
enum Part {
    Slots {
        first: u32,
        count: u32,
    },
    /// Extents that lie one behind the other, by their slots.
    Extents(Vec<(u32, Slot)>),
}

impl Piece {
    /// Bytes it reads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let blocks = match &self.part {
            Part::Slots { count, .. } => u64::from(*count),
            Part::Extents(extents) => extents.iter().map(|(_, at)| u64::from(at.blocks)).sum(),
        };
        blocks * BLOCK_BYTES as u64
    }
}

/// A piece that was checked; goes back to the audit, in any order.
#[derive(Debug)]
pub struct Checked {
    pair: usize,
    part: CheckedPart,
}

#[derive(Debug)]
enum CheckedPart {
    Slots(u32, Vec<SlotSeen>),
    Extents(Vec<(u32, Option<Whole>)>),
}

/// A slot, without its items: those are read again where they are wanted.
#[derive(Debug, Clone, Copy)]
struct SlotSeen {
    mark: SlotMark,
    slot: Option<Slot>,
}

impl SlotSeen {
    const UNTOUCHED: Self = Self {
        mark: SlotMark::Untouched,
        slot: None,
    };
}

/// An extent that is whole.
#[derive(Debug, Clone, Copy)]
struct Whole {
    blocks: u32,
    records: u32,
    previous: ExtentDigest,
    digest: ExtentDigest,
}

struct AuditedPair {
    role: Role,
    header: Option<PairHeader>,
    slots: Vec<SlotSeen>,
    /// By slot, where the slot says the place.
    extents: Vec<Option<Whole>>,
    report: PairReport,
}

impl AuditedPair {
    fn header_in_use(&self) -> Option<&PairHeader> {
        self.header.as_ref().filter(|_| self.role != Role::Unused)
    }
}

/// An audit under way.
pub struct Audit {
    identity: LogIdentity,
    keys: ShardKeys,
    pairs: Vec<AuditedPair>,
    findings: Vec<Finding>,
}

impl Audit {
    /// Reads the headers, finds the pairs that count, and verifies headers and checkpoints.
    ///
    /// # Errors
    /// [`RecoverError`]: the files are not this shard's, or not for this build or key.
    pub fn begin(
        disk: &mut dyn BootDisk,
        identity: LogIdentity,
        keys: &dyn KeyProvider,
    ) -> Result<Self, RecoverError> {
        let keys = ShardKeys::new(keys.kek()?, identity);
        let found = disk.pairs().map_err(RecoverError::Disk)?;
        let mut files = Files::new(disk, &keys);
        let pairs = files.survey(&found)?;
        let mut findings = Vec::new();
        let roles = roles(&mut files, &pairs, &mut findings);
        let mut audited = Vec::with_capacity(pairs.len());
        for found in pairs {
            let role = roles
                .iter()
                .find(|(pair, _)| *pair == found.pair)
                .map_or(Role::Unused, |(_, role)| *role);
            let mut pair = AuditedPair {
                role,
                header: found.header,
                slots: Vec::new(),
                extents: Vec::new(),
                report: PairReport {
                    pair: found.pair,
                    role,
                    chains: 0,
                    records: 0,
                    extent_bytes: 0,
                    ledger_bytes: 0,
                },
            };
            check_front(&mut files, &mut pair, &mut findings);
            audited.push(pair);
        }
        Ok(Self {
            identity,
            keys,
            pairs: audited,
            findings,
        })
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// The slots of every ledger that counts.
    #[must_use]
    pub fn ledger_pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (number, pair) in self.pairs.iter().enumerate() {
            let Some(header) = pair.header_in_use() else {
                continue;
            };
            for first in (0..header.slots()).step_by(PIECE_BLOCKS as usize) {
                let count = PIECE_BLOCKS.min(header.slots() - first);
                pieces.push(Piece {
                    pair: number,
                    part: Part::Slots { first, count },
                });
            }
        }
        pieces
    }

    /// The extents that the slots speak of; to be asked for once every piece of the ledgers is back.
    #[must_use]
    pub fn extent_pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (number, pair) in self.pairs.iter().enumerate() {
            let Some(header) = pair.header_in_use() else {
                continue;
            };
            let mut run: Vec<(u32, Slot)> = Vec::new();
            let mut blocks = 0;
            let mut close = |run: &mut Vec<(u32, Slot)>| {
                if !run.is_empty() {
                    pieces.push(Piece {
                        pair: number,
                        part: Part::Extents(core::mem::take(run)),
                    });
                }
            };
            for (slot_number, seen) in (0u32..).zip(&pair.slots) {
                let Some(slot) = seen.slot.filter(|slot| fits(header, slot)) else {
                    continue;
                };
                let follows = run
                    .last()
                    .is_some_and(|(_, last)| last.first_block + last.blocks == slot.first_block);
                if !follows || blocks + slot.blocks > PIECE_BLOCKS {
                    close(&mut run);
                    blocks = 0;
                }
                blocks += slot.blocks;
                run.push((slot_number, slot));
            }
            close(&mut run);
        }
        pieces
    }

    /// Takes a checked piece back.
    pub fn take(&mut self, checked: Checked) {
        let pair = &mut self.pairs[checked.pair];
        match checked.part {
            CheckedPart::Slots(first, slots) => {
                let end = first as usize + slots.len();
                pair.report.ledger_bytes += (slots.len() * BLOCK_BYTES) as u64;
                if pair.slots.len() < end {
                    pair.slots.resize(end, SlotSeen::UNTOUCHED);
                    pair.extents.resize(end, None);
                }
                pair.slots[first as usize..end].copy_from_slice(&slots);
            }
            CheckedPart::Extents(extents) => {
                for (number, whole) in extents {
                    pair.extents[number as usize] = whole;
                }
            }
        }
    }

    /// Judges every chain, reads what no slot speaks of, and asks recovery what a start would make of it.
    ///
    /// # Errors
    /// [`RecoverError`], as [`Audit::begin`].
    pub fn finish(
        mut self,
        disk: &mut dyn BootDisk,
        keys: &dyn KeyProvider,
    ) -> Result<AuditReport, RecoverError> {
        let mut files = Files::new(disk, &self.keys);
        for pair in &mut self.pairs {
            judge_pair(&mut files, pair, &mut self.findings);
        }
        let pool = BlockPool::new(&[]);
        let options = LogOptions::for_segment_bytes(0);
        let recovery = ShardLog::recover(disk, self.identity, options, keys, pool)?;
        let mut missing = Vec::new();
        for (partition, log) in recovery.log.partitions() {
            missing.extend(log.missing.iter().map(|range| (partition, *range)));
        }
        // A listed pair that is gone is no loss if nothing that stands lay there.
        if missing.is_empty() {
            let gone = |finding: &Finding| finding.damaged == Damaged::Pair;
            self.findings.retain(|finding| !gone(finding));
        }
        self.findings
            .sort_by_key(|finding| (finding.pair, finding.chain));
        Ok(AuditReport {
            identity: self.identity,
            pairs: self.pairs.into_iter().map(|pair| pair.report).collect(),
            findings: self.findings,
            missing,
            torn: recovery.report.torn,
            quarantine: recovery.log.quarantine().cloned(),
        })
    }
}

/// Checks pieces of one audit, on one thread, with a view of the disk of its own.
pub struct Checker<'a> {
    audit: &'a Audit,
    disk: &'a mut dyn BootDisk,
    pool: BlockPool,
}

impl<'a> Checker<'a> {
    /// A checker. It keeps a buffer of 4 MiB.
    pub fn new(audit: &'a Audit, disk: &'a mut dyn BootDisk) -> Self {
        let pool = BlockPool::new(&[SizeClass {
            blocks: PIECE_BLOCKS as usize,
            runs: 1,
        }]);
        Self { audit, disk, pool }
    }

    /// Reads and verifies one piece.
    ///
    /// # Panics
    /// If the piece is of another audit.
    pub fn check(&mut self, piece: &Piece) -> Checked {
        let pair = &self.audit.pairs[piece.pair];
        let header = pair.header.as_ref().expect("pieces are cut from headers");
        let part = match &piece.part {
            Part::Slots { first, count } => {
                let mut slots = Vec::with_capacity(*count as usize);
                let mut files = Files::new(self.disk, &self.audit.keys);
                files.each_slot(header, *first, *count, |state| {
                    slots.push(SlotSeen {
                        mark: SlotMark::from(&state),
                        slot: match state {
                            SlotState::Good(slot, _) => Some(slot),
                            _ => None,
                        },
                    });
                });
                CheckedPart::Slots(*first, slots)
            }
            Part::Extents(extents) => CheckedPart::Extents(self.check_extents(header, extents)),
        };
        Checked {
            pair: piece.pair,
            part,
        }
    }

    fn check_extents(
        &mut self,
        header: &PairHeader,
        extents: &[(u32, Slot)],
    ) -> Vec<(u32, Option<Whole>)> {
        let cipher = cipher_of(&self.audit.keys, header);
        let file = FileId::segment(header.pair);
        let first = extents[0].1.first_block;
        let count: u32 = extents.iter().map(|(_, slot)| slot.blocks).sum();
        let mut buffer = self.pool.take(count as usize);
        let checked = if self.disk.read(file, first, &mut buffer).is_ok() {
            let mut rest = buffer.as_mut_slice();
            let mut checked = Vec::with_capacity(extents.len());
            for (number, slot) in extents {
                let (blocks, behind) = rest.split_at_mut(slot.blocks as usize);
                checked.push((
                    *number,
                    check_extent(header, &cipher, *number, slot, blocks),
                ));
                rest = behind;
            }
            checked
        } else {
            let mut files = Files::new(self.disk, &self.audit.keys);
            let mut alone = |number, slot: &Slot| {
                let mut blocks = files.read(file, slot.first_block, slot.blocks)?;
                check_extent(header, &cipher, number, slot, blocks.as_mut_slice())
            };
            extents
                .iter()
                .map(|(number, slot)| (*number, alone(*number, slot)))
                .collect()
        };
        self.pool.put(buffer);
        checked
    }
}

/// Whether the place that a slot states lies in the segment.
fn fits(header: &PairHeader, slot: &Slot) -> bool {
    let end = slot.first_block.checked_add(slot.blocks);
    slot.blocks > 0
        && slot.first_block >= header.body_block()
        && end.is_some_and(|end| end <= header.segment_blocks)
}

fn check_extent(
    header: &PairHeader,
    cipher: &SegmentCipher,
    number: u32,
    slot: &Slot,
    blocks: &mut [Block],
) -> Option<Whole> {
    let digest = super::extent::digest_of(blocks);
    if digest != slot.digest {
        return None;
    }
    let chain = ChainNumber(header.first_chain.get() + u64::from(number));
    let extent = open_extent(cipher, slot.first_block, chain, blocks).ok()?;
    let mut count = 0;
    for record in records(extent.records()) {
        record.ok()?;
        count += 1;
    }
    (count == extent.header.records).then_some(Whole {
        blocks: extent.header.blocks,
        records: extent.header.records,
        previous: extent.header.previous,
        digest,
    })
}

/// What each pair that counts is to the log, by the checkpoint of the chosen one.
fn roles(
    files: &mut Files<'_>,
    pairs: &[PairFiles],
    findings: &mut Vec<Finding>,
) -> Vec<(PairNumber, Role)> {
    let header = match choose(files, pairs) {
        Choice::Empty => return Vec::new(),
        Choice::Lost(quarantine) => {
            findings.push(Finding::at(
                quarantine.pair,
                quarantine.chain,
                Damaged::BothHeaders,
                Outcome::Quarantine,
            ));
            return Vec::new();
        }
        Choice::Pair(header, _) => header,
    };
    let (checkpoint, _) = files.checkpoint(&header);
    let mut roles = vec![(header.pair, Role::Chosen)];
    for older in checkpoint.iter().flat_map(|c| &c.older).copied() {
        let OlderPair {
            pair, last_certain, ..
        } = older;
        roles.push((pair, Role::Older { last_certain }));
        let is_there = pairs
            .iter()
            .any(|found| found.pair == pair && found.header.is_some());
        if is_there {
            findings.extend(check_trailer(files, &older));
        } else if is_missed(files, pairs, pair) {
            findings.push(Finding::at(
                pair,
                last_certain,
                Damaged::Pair,
                Outcome::Missing,
            ));
        }
    }
    roles
}

/// Whether a listed pair that can't be read held anything that a start would look for: one that was being removed did not.
fn is_missed(files: &mut Files<'_>, pairs: &[PairFiles], pair: PairNumber) -> bool {
    let choice = choose(files, pairs);
    let walked = walk(files, pairs, choice);
    walked
        .incidents
        .iter()
        .any(|incident| incident.pair == pair && incident.damage == Damage::Pair)
}

/// The trailer of a closed pair. One that is not there is written at the next start; whether a bad one was torn or is
/// rotten, a start restores it.
fn check_trailer(files: &mut Files<'_>, older: &OlderPair) -> Option<Finding> {
    let found = files.trailer(older.pair, older.segment_blocks);
    let state = trailer::judge(&found, older.trailer.as_ref(), older.trailer_durable);
    let is_bad = match state {
        TrailerState::Whole | TrailerState::None => false,
        TrailerState::Torn => found != FoundTrailer::Untouched,
        TrailerState::Rotten => true,
    };
    is_bad.then(|| {
        let mut finding = Finding::at(
            older.pair,
            older.last_certain,
            Damaged::Trailer,
            Outcome::Restored,
        );
        let unreadable = found == FoundTrailer::Unreadable;
        let block = older.segment_blocks.saturating_sub(1);
        finding.bad_block(FileId::segment(older.pair), block, unreadable);
        finding
    })
}

impl Finding {
    fn at(pair: PairNumber, chain: ChainNumber, damaged: Damaged, outcome: Outcome) -> Self {
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

    fn bad_block(&mut self, file: FileId, block: u32, unreadable: bool) {
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

/// Both headers and both copies of the checkpoint.
fn check_front(files: &mut Files<'_>, pair: &mut AuditedPair, findings: &mut Vec<Finding>) {
    let Some(header) = pair.header_in_use().cloned() else {
        return;
    };
    let file = |kind| FileId {
        pair: header.pair,
        kind,
    };
    let at = |damaged, outcome| Finding::at(header.pair, header.first_chain, damaged, outcome);
    for kind in [FileKind::Segment, FileKind::Ledger] {
        if files.header(kind, header.pair).is_err() {
            let mut finding = at(Damaged::Header(kind), Outcome::Restored);
            let unreadable = files.read(file(kind), 0, 1).is_none();
            finding.bad_block(file(kind), 0, unreadable);
            findings.push(finding);
        }
    }
    let copies = [
        (FileKind::Segment, files.segment_checkpoint(&header)),
        (FileKind::Ledger, files.ledger_checkpoint(&header)),
    ];
    pair.report.ledger_bytes += 2 * u64::from(header.body_block()) * BLOCK_BYTES as u64;
    match &copies {
        [(_, Some(one)), (_, Some(other))] if one == other => {}
        [(_, Some(_)), (_, Some(_))] => {
            findings.push(at(Damaged::CheckpointsDiffer, Outcome::Restored));
        }
        // An older pair's state has been taken over by those behind it.
        [(_, None), (_, None)] if pair.role == Role::Chosen => {
            findings.push(at(Damaged::BothCheckpoints, Outcome::Quarantine));
        }
        [(_, None), (_, None)] => {
            findings.push(at(Damaged::BothCheckpoints, Outcome::Restored));
        }
        _ => {
            for (kind, _) in copies.iter().filter(|(_, copy)| copy.is_none()) {
                findings.push(at(Damaged::Checkpoint(*kind), Outcome::Restored));
            }
        }
    }
}

fn judge_pair(files: &mut Files<'_>, pair: &mut AuditedPair, findings: &mut Vec<Finding>) {
    let Some(header) = pair.header_in_use().cloned() else {
        return;
    };
    let last_certain = match pair.role {
        Role::Older { last_certain } => last_certain,
        _ => certain_chain(
            &header,
            pair.slots
                .iter()
                .filter_map(|seen| Some(seen.slot?.retired)),
        ),
    };
    let cipher = cipher_of(files.keys, &header);
    let mut follows = header.body_block();
    let mut previous: Option<ExtentDigest> = Some([0; 32]);
    for number in 0..pair.slots.len() {
        let seen = pair.slots[number];
        let chain = ChainNumber(header.first_chain.get() + number as u64);
        let is_certain = chain <= last_certain;
        if !is_certain && matches!(pair.role, Role::Older { .. }) {
            break;
        }
        let first_block = seen.slot.map_or(follows, |slot| slot.first_block);
        let whole = match seen.slot {
            Some(_) => pair.extents[number],
            None => unspoken_extent(files, &header, &cipher, chain, first_block),
        };
        let whole = whole.filter(|whole| previous.is_none_or(|digest| digest == whole.previous));
        let verdict = judge(whole.is_some(), seen.mark, is_certain, number == 0);
        if verdict == Verdict::End {
            break;
        }
        pair.report.chains += 1;
        if let Some(whole) = whole {
            pair.report.records += u64::from(whole.records);
            pair.report.extent_bytes += u64::from(whole.blocks) * BLOCK_BYTES as u64;
            follows = first_block.saturating_add(whole.blocks);
            previous = Some(whole.digest);
        } else {
            follows = match seen.slot {
                Some(slot) => first_block.saturating_add(slot.blocks),
                None if number == 0 => {
                    let mut slots = Vec::with_capacity(2);
                    files.each_slot(&header, 0, 2, |state| slots.push(state));
                    position_behind_opening(files, &header, &cipher, &slots)
                }
                None => first_block,
            };
            previous = seen.slot.map(|slot| slot.digest);
        }
        let place = Place {
            header: &header,
            cipher: &cipher,
            number: number as u32,
            first_block,
            slot: seen,
        };
        if let Some(finding) = place.finding(files, verdict, pair.role) {
            let ends = finding.damaged == Damaged::ExtentAndSlot && pair.role == Role::Chosen;
            findings.push(finding);
            if ends {
                break;
            }
        }
    }
}

/// An extent that no slot speaks of, where it should begin.
fn unspoken_extent(
    files: &mut Files<'_>,
    header: &PairHeader,
    cipher: &SegmentCipher,
    chain: ChainNumber,
    first_block: u32,
) -> Option<Whole> {
    let (extent, digest) = files.extent(header, cipher, chain, first_block, None)?;
    records(extent.records())
        .all(|record| record.is_ok())
        .then_some(Whole {
            blocks: extent.header.blocks,
            records: extent.header.records,
            previous: extent.header.previous,
            digest,
        })
}

/// A chain that was judged.
struct Place<'a> {
    header: &'a PairHeader,
    cipher: &'a SegmentCipher,
    number: u32,
    first_block: u32,
    slot: SlotSeen,
}

impl Place<'_> {
    fn chain(&self) -> ChainNumber {
        ChainNumber(self.header.first_chain.get() + u64::from(self.number))
    }

    fn finding(&self, files: &mut Files<'_>, verdict: Verdict, role: Role) -> Option<Finding> {
        let (damaged, outcome) = match verdict {
            Verdict::Proven | Verdict::Tail | Verdict::End => return None,
            Verdict::SlotLost => (Damaged::Slot, Outcome::Restored),
            Verdict::Rot => (Damaged::Extent, Outcome::Missing),
            // What an older pair said is stated by the checkpoints behind it: only its entries are lost.
            Verdict::Unnamed if role != Role::Chosen => (Damaged::ExtentAndSlot, Outcome::Missing),
            Verdict::Unnamed => (Damaged::ExtentAndSlot, Outcome::Quarantine),
        };
        let mut finding = Finding::at(self.header.pair, self.chain(), damaged, outcome);
        if self.slot.mark != SlotMark::Good {
            let unreadable = self.slot.mark == SlotMark::Unreadable;
            let block = self.header.body_block() + self.number;
            finding.bad_block(FileId::ledger(self.header.pair), block, unreadable);
        }
        if verdict != Verdict::SlotLost {
            self.name_bad_blocks(files, &mut finding);
            finding.held = self.held(files);
        }
        Some(finding)
    }

    fn name_bad_blocks(&self, files: &mut Files<'_>, finding: &mut Finding) {
        let file = FileId::segment(self.header.pair);
        let blocks = self.slot.slot.map_or(1, |slot| slot.blocks);
        let end = self.first_block.saturating_add(blocks);
        for block in self.first_block..end.min(self.header.segment_blocks) {
            match files.read(file, block, 1) {
                None => finding.bad_block(file, block, true),
                Some(mut read) => {
                    let opened = self.cipher.open(block, &mut read.as_mut_slice()[0]);
                    if opened.is_err() {
                        finding.bad_block(file, block, false);
                    }
                }
            }
        }
    }

    /// What the extent held: its slot says it, for an opening the checkpoint.
    fn held(&self, files: &mut Files<'_>) -> Vec<Held> {
        let mut bytes = Vec::new();
        if self.number == 0 {
            let (checkpoint, _) = files.checkpoint(self.header);
            bytes = checkpoint.map_or(bytes, |Checkpoint { tail, .. }| tail);
        } else {
            files.each_slot(self.header, self.number, 1, |state| {
                if let SlotState::Good(_, said) = state {
                    bytes = said;
                }
            });
        }
        items(&bytes).flatten().map(|item| held(&item)).collect()
    }
}

fn held(item: &Item<'_>) -> Held {
    match item {
        Item::Run(run) => Held {
            kind: run.kind,
            partition: run.partition,
            term: run.term,
            first: run.first,
            last: run.last(),
        },
        Item::Small(record) => Held {
            kind: record.header.kind,
            partition: record.header.partition,
            term: record.header.term,
            first: record.header.index,
            last: record.header.index,
        },
    }
}
