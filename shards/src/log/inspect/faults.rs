//! What is wrong with a structure, in words: file, block, and what of it does not fit.

use clustor_wire::ids::ChainNumber;

use super::super::audit::{Damaged, Finding, Role};
use super::super::extent::digest_of;
use super::super::header::{HeaderError, HeaderMismatch, PairHeader};
use super::super::recovery::files::{Files, PairFiles};
use super::super::seal::{BlockUse, SegmentCipher, is_untouched, verify};
use super::super::slot::Slot;
use crate::disk::{FileId, FileKind, SPARE_ZERO_BLOCKS};

/// Bad blocks of one extent that are named, at most.
const BLOCKS_NAMED_MAX: usize = 8;

const KINDS: [FileKind; 2] = [FileKind::Segment, FileKind::Ledger];

/// Whether nothing was written to the front of either file of a pair: it was made and never opened.
pub(super) fn is_spare(files: &mut Files<'_>, found: &PairFiles) -> bool {
    let is_blank = |files: &mut Files<'_>, file, blocks: u32| {
        files.seen(file, blocks.min(SPARE_ZERO_BLOCKS)).touched == 0
    };
    found.header.is_none()
        && is_blank(files, FileId::segment(found.pair), found.segment_blocks)
        && is_blank(files, FileId::ledger(found.pair), found.ledger_blocks)
}

/// What is wrong with a pair's headers and, where a header tells where they lie, its checkpoints and its trailer. An
/// opening that nothing followed may be unfinished, and so may a trailer that no checkpoint calls durable: that is no
/// damage.
pub(super) fn of_front(
    files: &mut Files<'_>,
    found: &PairFiles,
    role: Role,
    findings: &[Finding],
) -> Vec<String> {
    let is_lost = (findings.iter())
        .any(|finding| finding.pair == found.pair && finding.damaged == Damaged::BothHeaders);
    if role == Role::Unused && !is_lost {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for kind in KINDS {
        let file = FileId {
            pair: found.pair,
            kind,
        };
        if let Err(error) = files.header(kind, found.pair) {
            let why = if files.read(file, 0, 1).is_none() {
                "can't be read".to_owned()
            } else {
                header_words(&error)
            };
            faults.push(format!("{file} block 0: the header {why}"));
        }
    }
    let Some(header) = &found.header else {
        return faults;
    };
    for kind in KINDS {
        faults.extend(checkpoint(files, header, kind));
    }
    let of_trailer =
        |finding: &&Finding| finding.pair == found.pair && finding.damaged == Damaged::Trailer;
    if findings.iter().any(|finding| of_trailer(&finding)) {
        faults.push(format!(
            "{} block {}: the trailer is not authentic, or not what the next pair's checkpoint states",
            FileId::segment(found.pair),
            header.segment_blocks.saturating_sub(1)
        ));
    }
    faults
}

fn header_words(error: &HeaderError) -> String {
    match error {
        HeaderError::Bad => "has another magic, or impossible numbers".to_owned(),
        HeaderError::Suspect(HeaderMismatch::Mac) => {
            "does not have the MAC of its bytes".to_owned()
        }
        HeaderError::Suspect(what) | HeaderError::Refused(what) => match what {
            HeaderMismatch::Version(version) => format!("is of format {version}"),
            HeaderMismatch::Settings(what) => format!("has unknown settings: {what}"),
            HeaderMismatch::Suite(what) => what.to_string(),
            HeaderMismatch::Foreign(identity) => format!("is of {identity}"),
            HeaderMismatch::Mac => "is not authentic".to_owned(),
        },
    }
}

/// What is wrong with one copy of the checkpoint.
fn checkpoint(files: &mut Files<'_>, header: &PairHeader, kind: FileKind) -> Option<String> {
    let whole = match kind {
        FileKind::Segment => files.segment_checkpoint(header).is_some(),
        FileKind::Ledger => files.ledger_checkpoint(header).is_some(),
    };
    if whole {
        return None;
    }
    let file = FileId {
        pair: header.pair,
        kind,
    };
    let cipher = super::cipher_of(files.keys, header);
    let integrity = files.keys.integrity(header.mac_epoch);
    let blocks = 1..1 + header.checkpoint_blocks;
    let mut bad = blocks.filter_map(|number| {
        let Some(mut blocks) = files.read(file, number, 1) else {
            return Some((number, "can't be read"));
        };
        let block = &mut blocks.as_mut_slice()[0];
        let is_authentic = match kind {
            FileKind::Ledger => verify(&integrity, kind, header.pair, number, block).is_ok(),
            FileKind::Segment => cipher.open(number, block).is_ok_and(|prefix| {
                prefix.usage == BlockUse::Checkpoint && prefix.chain == header.first_chain
            }),
        };
        (!is_authentic).then_some((number, "is not authentic"))
    });
    Some(match bad.next() {
        Some((number, why)) => format!("{file} block {number}: the checkpoint {why}"),
        None => format!("{file}: the checkpoint's blocks are authentic, and no checkpoint"),
    })
}

/// What is wrong with the extent of a chain, block by block.
pub(super) fn of_extent(
    files: &mut Files<'_>,
    header: &PairHeader,
    cipher: &SegmentCipher,
    chain: ChainNumber,
    first_block: u32,
    slot: Option<&Slot>,
) -> Vec<String> {
    let file = FileId::segment(header.pair);
    // Without a slot nobody knows how long it was: its first block tells.
    let count = slot.map_or(1, |slot| slot.blocks);
    let end = first_block.saturating_add(count).min(header.segment_blocks);
    let mut faults = Vec::new();
    let mut more = 0;
    for number in first_block..end {
        let why = match files.read(file, number, 1) {
            None => "can't be read",
            Some(blocks) if is_untouched(&blocks.as_slice()[0]) => "was never written",
            Some(mut blocks) => {
                let opened = cipher.open(number, &mut blocks.as_mut_slice()[0]);
                match opened {
                    Err(_) => "is not authentic",
                    Ok(prefix) if prefix.chain != chain => "is another chain's",
                    Ok(prefix)
                        if prefix.usage != BlockUse::Extent
                            || prefix.ordinal != number - first_block =>
                    {
                        "stands in another's place"
                    }
                    Ok(_) => continue,
                }
            }
        };
        if faults.len() < BLOCKS_NAMED_MAX {
            faults.push(format!("{file} block {number}: the extent's block {why}"));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        faults.push(format!("{file}: and {more} more blocks of the extent"));
    }
    if faults.is_empty() {
        let blocks = (end > first_block).then(|| files.read(file, first_block, end - first_block));
        let digest = blocks.flatten().map(|blocks| digest_of(blocks.as_slice()));
        let is_other = slot.is_some_and(|slot| digest != Some(slot.digest));
        faults.push(format!(
            "{file} block {first_block}: the extent's blocks are authentic, and {}",
            if is_other {
                "not those whose digest the slot has"
            } else {
                "its header or a record's checksum or leaf does not fit"
            }
        ));
    }
    faults
}
