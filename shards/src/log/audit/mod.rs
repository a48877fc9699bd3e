//! Everything in a shard's files that can be verified, verified and judged: the scrub of a log at rest.
//!
//! Read-only, and by recovery's own readers and rules: the same choice of the pair, the same verdict on an extent and
//! its slot; at the end a recovery says what a start would make of it. Beyond a recovery it reads every byte that
//! counts, those that a start would leave alone until they are wanted included.
//!
//! Pairs are audited one by one ([`Audit::next_pair`]), and what was seen of each slot is forgotten with its pair. The work on one
//! is cut into [`Piece`]s that depend on nothing but the audit as it stands, so that whoever drives it may check
//! them on as many threads as he likes: first the ledger ([`Audit::ledger_pieces`]), then, by what this says, the
//! extents ([`Audit::extent_pieces`]), then [`Audit::judge`]. When there is no pair left, [`Audit::finish`] puts it together with what a
//! start would make of it all ([`Audit::start`]), which may go on meanwhile.
//!
//! So it takes as much memory as a start, and for a few hundred bytes of each slot of one pair; damage is listed whole.
//!
//! - `recount`: a segment's figures and Merkle root, formed anew
//! - `report`: what was found, as values
//! - `verdict`: which pairs count, what each chain amounts to, what a damaged one held

mod recount;
mod report;
mod verdict;

use clustor_wire::ids::{ChainNumber, PairNumber, PartitionId};

use super::extent::{OpenExtent, open_extent};
use super::fold::{IndexRange, PartitionLog};
use super::format::LogFormat;
use super::header::PairHeader;
use super::keys::{Kek, KeyError, KeyProvider, LogIdentity, ShardKeys};
use super::location::Locations;
use super::merkle::{MerkleHash, extent_root};
use super::nonce::{self, GapVerdict, NonceGaps, NonceLedger};
use super::options::LogOptions;
use super::pair::cipher_of;
use super::recovery::files::{Files, SlotState};
use super::recovery::judge::{SlotMark, certain_chain};
use super::recovery::{Quarantine, RecoverError};
use super::seal::SegmentCipher;
use super::slot::{ExtentDigest, Slot};
use super::trailer::FourLaneCrc;
use super::writer::ShardLog;
use crate::buffer::{BLOCK_BYTES, Block, BlockPool, SizeClass};
use crate::disk::{BootDisk, FileId};

pub(super) use recount::Recount;
pub use report::{
    AuditReport, BAD_BLOCKS_NAMED_MAX, BadBlock, Damaged, Finding, Held, Outcome, PairReport, Role,
};
pub(super) use verdict::roles;
use verdict::{check_front, judge_pair};

/// Blocks in a piece, unless one extent alone is longer: 4 MiB.
const PIECE_BLOCKS: u32 = 1024;

/// Work on the pair at hand that depends on nothing but the audit as it stands.
#[derive(Debug, Clone)]
pub struct Piece {
    pair: usize,
    blocks: u32,
    part: Part,
}

#[derive(Debug, Clone)]
enum Part {
    /// This slot, and as many behind it as there are blocks in the piece.
    Slots(u32),
    /// Extents that lie one behind the other, by the numbers of their slots.
    Extents(Vec<u32>),
}

impl Piece {
    /// Bytes it reads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES as u64
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
pub(super) struct Whole {
    blocks: u32,
    records: u32,
    /// Bytes of its records' frames, and their checksum.
    record_bytes: u32,
    entries: FourLaneCrc,
    previous: ExtentDigest,
    digest: ExtentDigest,
    /// Over its records, where the pair keeps leaves.
    root: Option<MerkleHash>,
}

impl Whole {
    fn of(cipher: &SegmentCipher, extent: &OpenExtent, digest: ExtentDigest) -> Self {
        let records = extent.records();
        let mut entries = FourLaneCrc::default();
        entries.update(records);
        Self {
            entries,
            blocks: extent.header.blocks,
            records: extent.header.records,
            record_bytes: records.len() as u32,
            previous: extent.header.previous,
            digest,
            root: (cipher.leaf).and_then(|hash| extent_root(hash, records).ok()),
        }
    }
}

struct AuditedPair {
    role: Role,
    header: Option<PairHeader>,
    /// Empty but for the pair at hand.
    slots: Vec<SlotSeen>,
    /// By slot, where the slot says the place; the same.
    extents: Vec<Option<Whole>>,
    report: PairReport,
}

impl AuditedPair {
    fn header_in_use(&self) -> Option<&PairHeader> {
        self.header.as_ref().filter(|_| self.role != Role::Unused)
    }

    /// The last chain that is known to have retired.
    fn last_certain(&self, header: &PairHeader, slots: &[SlotSeen]) -> ChainNumber {
        let retired = |seen: &SlotSeen| Some(seen.slot?.retired);
        match self.role {
            Role::Older { last_certain } => last_certain,
            _ => certain_chain(header, slots.iter().filter_map(retired)),
        }
    }
}

/// An audit under way.
pub struct Audit {
    identity: LogIdentity,
    keys: ShardKeys,
    pairs: Vec<AuditedPair>,
    /// Which of them is at hand, and from which on none was.
    current: Option<usize>,
    next: usize,
    nonces: Vec<NonceLedger>,
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
                    nonce_gaps: NonceGaps::default(),
                    has_lost_slots: false,
                    merkle_root: None,
                },
            };
            check_front(&mut files, &mut pair, &mut findings);
            audited.push(pair);
        }
        files.check()?;
        Ok(Self {
            identity,
            keys,
            pairs: audited,
            current: None,
            next: 0,
            nonces: Vec::new(),
            findings,
        })
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// How many pairs count.
    #[must_use]
    pub fn pair_count(&self) -> usize {
        let in_use = self.pairs.iter().filter_map(AuditedPair::header_in_use);
        in_use.count()
    }

    /// Takes the next pair that counts in hand, oldest first; `None` where there is none left.
    ///
    /// # Panics
    /// If the one before was not judged.
    pub fn next_pair(&mut self) -> Option<PairNumber> {
        assert!(self.current.is_none(), "one pair at a time");
        let mut rest = self.pairs.iter().enumerate().skip(self.next);
        let (number, pair) = rest.find(|(_, pair)| pair.header_in_use().is_some())?;
        self.next = number + 1;
        self.current = Some(number);
        Some(pair.report.pair)
    }

    /// The number of the pair at hand, and its header.
    fn at_hand(&self) -> (usize, &PairHeader) {
        let number = self.current.expect("a pair is at hand");
        let header = self.pairs[number].header_in_use();
        (number, header.expect("it counts"))
    }

    /// The slots of the pair at hand.
    ///
    /// # Panics
    /// If none is.
    #[must_use]
    pub fn ledger_pieces(&self) -> Vec<Piece> {
        let (pair, header) = self.at_hand();
        (0..header.slots())
            .step_by(PIECE_BLOCKS as usize)
            .map(|first| Piece {
                pair,
                blocks: PIECE_BLOCKS.min(header.slots() - first),
                part: Part::Slots(first),
            })
            .collect()
    }

    /// The extents that its slots speak of; to be asked for once every piece of the ledger is back.
    ///
    /// # Panics
    /// If no pair is at hand.
    #[must_use]
    pub fn extent_pieces(&self) -> Vec<Piece> {
        let (pair, header) = self.at_hand();
        let mut pieces: Vec<Piece> = Vec::new();
        // Where the extent before ends, and the blocks of the piece that it is in.
        let mut end = None;
        for (number, seen) in (0u32..).zip(&self.pairs[pair].slots) {
            let Some(slot) = seen.slot.filter(|slot| fits(header, slot)) else {
                continue;
            };
            let follows = end == Some(slot.first_block);
            end = Some(slot.first_block + slot.blocks);
            match pieces.last_mut() {
                Some(Piece {
                    blocks,
                    part: Part::Extents(run),
                    ..
                }) if follows && *blocks + slot.blocks <= PIECE_BLOCKS => {
                    *blocks += slot.blocks;
                    run.push(number);
                }
                _ => pieces.push(Piece {
                    pair,
                    blocks: slot.blocks,
                    part: Part::Extents(vec![number]),
                }),
            }
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

    /// Judges every chain of the pair at hand, reads what no slot speaks of, and puts the pair away.
    ///
    /// # Errors
    /// [`RecoverError`], as [`Audit::begin`].
    ///
    /// # Panics
    /// If no pair is at hand.
    pub fn judge(&mut self, disk: &mut dyn BootDisk) -> Result<(), RecoverError> {
        let number = self.at_hand().0;
        let mut files = Files::new(disk, &self.keys);
        let pair = &mut self.pairs[number];
        judge_pair(&mut files, pair, &mut self.findings);
        files.check()?;
        let slots = core::mem::take(&mut pair.slots);
        pair.extents = Vec::new();
        if let Some(header) = pair.header_in_use() {
            let last_certain = pair.last_certain(header, &slots);
            let said = slots.iter().map(|seen| seen.slot);
            self.nonces
                .push(NonceLedger::of(header, said, last_certain));
        }
        self.current = None;
        Ok(())
    }

    /// What a start would do with the log.
    #[must_use]
    pub fn start(&self) -> Start {
        let mut headers = self.pairs.iter().filter_map(|pair| pair.header.as_ref());
        Start {
            identity: self.identity,
            kek: self.keys.kek().clone(),
            // What it was written with is what a start has to ask for.
            format: headers
                .next()
                .map_or_else(LogFormat::default, |header| header.format),
        }
    }

    /// Puts together what was found and what a start made of it all.
    ///
    /// # Panics
    /// If a pair was not judged.
    #[must_use]
    pub fn finish(mut self, started: Started) -> AuditReport {
        assert!(self.next_pair().is_none(), "every pair is judged first");
        let nonces = self.judge_nonces();
        // A listed pair that is gone is no loss if nothing that stands lay there.
        if started.short.is_empty() {
            let gone = |finding: &Finding| finding.damaged == Damaged::Pair;
            self.findings.retain(|finding| !gone(finding));
        }
        // What was written again since is whole where it stands now.
        for finding in &mut self.findings {
            if finding.outcome == Outcome::Missing && !started.lacks(finding) {
                finding.outcome = Outcome::Restored;
            }
        }
        self.findings
            .sort_by_key(|finding| (finding.pair, finding.chain));
        AuditReport {
            identity: self.identity,
            pairs: self.pairs.into_iter().map(|pair| pair.report).collect(),
            findings: self.findings,
            missing: started.missing(),
            torn: started.torn,
            quarantine: started.quarantine,
            nonces,
        }
    }

    /// Compares what the ledgers reserved with what was sealed.
    fn judge_nonces(&mut self) -> GapVerdict {
        let is_loss = |finding: &Finding| finding.outcome > Outcome::Restored;
        let is_damaged = self.findings.iter().any(is_loss);
        let accounts = nonce::accounts(&self.nonces);
        for account in &accounts {
            let mut pairs = self.pairs.iter_mut();
            if let Some(of) = pairs.find(|pair| pair.report.pair == account.pair) {
                of.report.nonce_gaps = account.gaps;
                of.report.has_lost_slots = account.has_lost_slots;
            }
        }
        nonce::judge_accounts(&accounts, is_damaged)
    }
}

/// A start on the log, for what it would find. It reads for itself, so that it may go on beside the audit.
pub struct Start {
    identity: LogIdentity,
    kek: Kek,
    format: LogFormat,
}

/// What a start found.
#[derive(Debug)]
pub struct Started {
    short: Vec<(PartitionId, PartitionLog)>,
    locations: Locations,
    torn: Option<ChainNumber>,
    quarantine: Option<Quarantine>,
}

impl Started {
    /// The partitions that miss content, ascending, as all of the log tells of them and not its newest checkpoint alone.
    #[must_use]
    pub fn short(&self) -> &[(PartitionId, PartitionLog)] {
        &self.short
    }

    /// Whether something that a damaged extent held stands nowhere else. A copy in the last chain of all, which nothing
    /// proves to have retired, does not count: the next start writes it again.
    fn lacks(&self, finding: &Finding) -> bool {
        if self.quarantine.is_some() || finding.damaged == Damaged::Pair {
            return true;
        }
        let mut runs = self.locations.in_extent(finding.pair, finding.chain);
        if runs.next().is_some() {
            return true;
        }
        let is_missing = |held: &Held| {
            let missing = self.missing();
            let mut ranges = missing.iter().filter(|(id, _)| *id == held.partition);
            ranges.any(|(_, range)| range.first <= held.last && held.first <= range.last)
        };
        // Where nobody can say what it held, it may be anything that is missing.
        let unknown = finding.held.is_empty() && !self.short.is_empty();
        unknown || finding.held.iter().any(is_missing)
    }

    fn missing(&self) -> Vec<(PartitionId, IndexRange)> {
        let of_each = self.short.iter();
        let all = of_each.flat_map(|(id, log)| log.missing.iter().map(|range| (*id, *range)));
        all.collect()
    }
}

impl KeyProvider for Start {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(self.kek.clone())
    }
}

impl Start {
    /// Recovers the log from `disk`, and forgets it.
    ///
    /// # Errors
    /// [`RecoverError`], as [`Audit::begin`].
    pub fn try_on(&self, disk: &mut dyn BootDisk) -> Result<Started, RecoverError> {
        let options = LogOptions::for_segment_bytes(0).with_format(self.format);
        let pool = BlockPool::new(&[]);
        let recovery = ShardLog::recover(disk, self.identity, options, self, pool)?;
        let mut log = recovery.log;
        let short = log.partitions().filter(|(_, log)| !log.missing.is_empty());
        Ok(Started {
            short: short.map(|(id, log)| (id, log.clone())).collect(),
            torn: recovery.report.torn,
            quarantine: log.quarantine().cloned(),
            locations: core::mem::take(&mut log.locations),
        })
    }
}

/// Checks pieces of one audit, on one thread, with a view of the disk of its own.
pub struct Checker<'a> {
    audit: &'a Audit,
    disk: &'a mut dyn BootDisk,
    pool: BlockPool,
    /// For the records of the extent at hand.
    room: Vec<u8>,
}

impl<'a> Checker<'a> {
    /// A checker. It keeps a buffer of 4 MiB.
    pub fn new(audit: &'a Audit, disk: &'a mut dyn BootDisk) -> Self {
        let pool = BlockPool::new(&[SizeClass {
            blocks: PIECE_BLOCKS as usize,
            runs: 1,
        }]);
        Self {
            audit,
            disk,
            pool,
            room: Vec::new(),
        }
    }

    /// Reads and verifies one piece.
    ///
    /// # Errors
    /// [`RecoverError::Passing`]: what it could not read may be whole.
    ///
    /// # Panics
    /// If the piece is of another audit.
    pub fn check(&mut self, piece: &Piece) -> Result<Checked, RecoverError> {
        let pair = &self.audit.pairs[piece.pair];
        let header = pair.header.as_ref().expect("pieces are cut from headers");
        let part = match &piece.part {
            Part::Slots(first) => {
                let mut slots = Vec::with_capacity(piece.blocks as usize);
                let mut files = Files::new(self.disk, &self.audit.keys);
                files.each_slot(header, *first, piece.blocks, |state| {
                    slots.push(SlotSeen {
                        mark: SlotMark::from(&state),
                        slot: match state {
                            SlotState::Good(slot, _) => Some(slot),
                            _ => None,
                        },
                    });
                });
                files.check()?;
                CheckedPart::Slots(*first, slots)
            }
            Part::Extents(numbers) => {
                let place = |number: &u32| {
                    let slot = pair.slots[*number as usize].slot;
                    (*number, slot.expect("pieces are cut from slots"))
                };
                let extents: Vec<(u32, Slot)> = numbers.iter().map(place).collect();
                CheckedPart::Extents(self.check_extents(header, &extents)?)
            }
        };
        Ok(Checked {
            pair: piece.pair,
            part,
        })
    }

    fn check_extents(
        &mut self,
        header: &PairHeader,
        extents: &[(u32, Slot)],
    ) -> Result<Vec<(u32, Option<Whole>)>, RecoverError> {
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
                let whole = check_extent(header, &cipher, *number, slot, blocks, &mut self.room);
                checked.push((*number, whole));
                rest = behind;
            }
            checked
        } else {
            let mut files = Files::new(self.disk, &self.audit.keys);
            let mut alone = |number, slot: &Slot| {
                let mut blocks = files.read(file, slot.first_block, slot.blocks)?;
                check_extent(
                    header,
                    &cipher,
                    number,
                    slot,
                    blocks.as_mut_slice(),
                    &mut self.room,
                )
            };
            let checked = extents
                .iter()
                .map(|(number, slot)| (*number, alone(*number, slot)))
                .collect();
            files.check()?;
            checked
        };
        self.pool.put(buffer);
        Ok(checked)
    }
}

/// Whether the place that a slot states lies in the segment.
pub(super) fn fits(header: &PairHeader, slot: &Slot) -> bool {
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
    room: &mut Vec<u8>,
) -> Option<Whole> {
    let chain = ChainNumber(header.first_chain.get() + u64::from(number));
    let digest = Some(&slot.digest);
    whole_extent(cipher, slot.first_block, chain, digest, blocks, room)
}

/// An extent, if all of it is whole: its digest, where one is known, its seals, its header and checksum, each of its
/// records. These are opened in `room`, which is kept for the next.
pub(super) fn whole_extent(
    cipher: &SegmentCipher,
    first_block: u32,
    chain: ChainNumber,
    digest: Option<&ExtentDigest>,
    blocks: &mut [Block],
    room: &mut Vec<u8>,
) -> Option<Whole> {
    let found = super::extent::digest_of(blocks);
    if digest.is_some_and(|digest| *digest != found) {
        return None;
    }
    let extent = open_extent(cipher, first_block, chain, blocks, core::mem::take(room)).ok()?;
    let whole = Whole::of(cipher, &extent, found);
    *room = extent.into_records();
    Some(whole)
}
