//! Which pairs count, what each chain amounts to, and what a damaged one held.

use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber};

use super::super::checkpoint::{Checkpoint, OlderPair};
use super::super::header::PairHeader;
use super::super::item::{Item, items};
use super::super::pair::cipher_of;
use super::super::record::RecordKind;
use super::super::recovery::Damage;
use super::super::recovery::choose::{Choice, choose};
use super::super::recovery::chosen::position_behind_opening;
use super::super::recovery::files::{Files, PairFiles, SlotState};
use super::super::recovery::judge::{SlotMark, Verdict, is_never_written, judge};
use super::super::recovery::walk::walk;
use super::super::seal::SegmentCipher;
use super::super::slot::ExtentDigest;
use super::super::trailer::{self, FoundTrailer, TrailerState};
use super::{AuditedPair, Damaged, Finding, Held, Outcome, Recount, Role, SlotSeen, Whole};
use crate::buffer::BLOCK_BYTES;
use crate::disk::{FileId, FileKind};

/// What each pair that counts is to the log, by the checkpoint of the chosen one.
pub(in crate::log) fn roles(
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
    let mut missed: Option<Vec<PairNumber>> = None;
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
        } else if (missed.get_or_insert_with(|| missed_pairs(files, pairs))).contains(&pair) {
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

/// The listed pairs that can't be read and held something that a start would look for: one that was being removed did not.
fn missed_pairs(files: &mut Files<'_>, pairs: &[PairFiles]) -> Vec<PairNumber> {
    let choice = choose(files, pairs);
    let walked = walk(files, pairs, choice);
    let incidents = walked.incidents.iter();
    incidents
        .filter(|incident| incident.damage == Damage::Pair)
        .map(|incident| incident.pair)
        .collect()
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

/// Both headers and both copies of the checkpoint.
pub(super) fn check_front(
    files: &mut Files<'_>,
    pair: &mut AuditedPair,
    findings: &mut Vec<Finding>,
) {
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

pub(super) fn judge_pair(
    files: &mut Files<'_>,
    pair: &mut AuditedPair,
    findings: &mut Vec<Finding>,
) {
    let Some(header) = pair.header_in_use().cloned() else {
        return;
    };
    let last_certain = pair.last_certain(&header, &pair.slots);
    let cipher = cipher_of(files.keys, &header);
    let mut follows = header.body_block();
    let mut previous: Option<ExtentDigest> = Some([0; 32]);
    let mut recount = Some(Recount::new(&header));
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
        let place = Place {
            header: &header,
            cipher: &cipher,
            number: number as u32,
            first_block,
            slot: seen,
        };
        let verdict = judge(whole.is_some(), seen.mark, is_certain, number == 0, || {
            let place = (chain, first_block);
            let slots = pair.slots.iter().map(|seen| seen.mark);
            is_never_written(files, &header, place, slots)
        });
        if matches!(verdict, Verdict::End | Verdict::Blank) {
            findings.extend(place.finding(files, verdict, pair.role));
            break;
        }
        pair.report.chains += 1;
        if let Some(whole) = whole {
            pair.report.records += u64::from(whole.records);
            pair.report.extent_bytes += u64::from(whole.blocks) * BLOCK_BYTES as u64;
            follows = first_block.saturating_add(whole.blocks);
            previous = Some(whole.digest);
            recount = recount.and_then(|mut recount| {
                recount.add(first_block, &whole);
                let stated = seen.slot.map(|slot| slot.figures);
                if stated.is_none_or(|stated| recount.fits(&stated)) {
                    return Some(recount);
                }
                findings.push(Finding::at(
                    header.pair,
                    chain,
                    Damaged::Figures,
                    Outcome::Restored,
                ));
                None
            });
        } else {
            recount = None;
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
        if let Some(finding) = place.finding(files, verdict, pair.role) {
            let ends = finding.damaged == Damaged::ExtentAndSlot && pair.role == Role::Chosen;
            findings.push(finding);
            if ends {
                break;
            }
        }
    }
    let Some(recount) = recount else {
        return;
    };
    pair.report.merkle_root = recount.root();
    if let (Role::Older { last_certain }, FoundTrailer::Whole(trailer)) =
        (pair.role, files.trailer(header.pair, header.segment_blocks))
        && recount.next_chain() == last_certain.next()
        && !recount.fits(&trailer.figures)
    {
        findings.push(Finding::at(
            header.pair,
            last_certain,
            Damaged::Figures,
            Outcome::Restored,
        ));
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
    Some(Whole::of(cipher, &extent, digest))
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
            Verdict::Blank => (Damaged::UnusedSlot, Outcome::Restored),
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
        if matches!(verdict, Verdict::Rot | Verdict::Unnamed) {
            self.name_bad_blocks(files, &mut finding);
            let (held, is_all) = self.held(files);
            if verdict == Verdict::Rot && is_all && !held.iter().any(is_content) {
                finding.outcome = Outcome::Restored;
            }
            finding.held = held;
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

    /// What the extent held: its slot says it, for an opening the checkpoint. And whether that is known to be all.
    fn held(&self, files: &mut Files<'_>) -> (Vec<Held>, bool) {
        let mut bytes = None;
        if self.number == 0 {
            let (checkpoint, _) = files.checkpoint(self.header);
            bytes = checkpoint.map(|Checkpoint { tail, .. }| tail);
        } else {
            files.each_slot(self.header, self.number, 1, |state| {
                if let SlotState::Good(_, said) = state {
                    bytes = Some(said);
                }
            });
        }
        let is_known = bytes.is_some();
        let bytes = bytes.unwrap_or_default();
        let is_all = is_known && items(&bytes).all(|item| item.is_ok());
        let held = items(&bytes).flatten().map(|item| held(&item)).collect();
        (held, is_all)
    }
}

/// Whether it is lost with its extent: an entry of the log is read from there, a configuration like any other. All else stands in
/// the slot as it is.
fn is_content(held: &Held) -> bool {
    match held.kind {
        RecordKind::Entry | RecordKind::Relocated | RecordKind::RelocatedConfiguration => true,
        RecordKind::Configuration => held.first > LogIndex::ZERO,
        _ => false,
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
