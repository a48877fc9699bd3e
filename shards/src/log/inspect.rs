//! A shard's files laid open, for people and offline tools: every structure, and whether it is whole.
//!
//! Read-only, through [`BootDisk`]; the same readers as recovery. Nothing that is not authentic is shown.

use clustor_wire::ids::{ChainNumber, PairNumber};

use super::checkpoint::Checkpoint;
use super::extent::ExtentHeader;
use super::header::PairHeader;
use super::item::{Item, items};
use super::keys::{KeyProvider, LogIdentity, ShardKeys};
use super::pair::cipher_of;
use super::record::{RecordHeader, records};
use super::recovery::RecoverError;
use super::recovery::files::{Files, PairFiles, SlotState};
use super::slot::{ExtentDigest, Slot};
use crate::disk::BootDisk;

/// One pair.
#[derive(Debug, Clone)]
pub struct PairView {
    /// Its number.
    pub pair: PairNumber,
    /// Its header, from whichever copy is whole; `None` for a spare, or where both are bad.
    pub header: Option<PairHeader>,
    /// Whether both copies of the header are whole.
    pub both_headers: bool,
    /// Its checkpoint, from whichever copy is whole.
    pub checkpoint: Option<Checkpoint>,
    /// Whether the copies of the checkpoint are whole: the segment's, the ledger's.
    pub checkpoint_copies: [bool; 2],
    /// Its chains, as far as anything of them is there.
    pub chains: Vec<ChainView>,
}

/// One chain.
#[derive(Debug, Clone)]
pub struct ChainView {
    /// Its number.
    pub chain: ChainNumber,
    /// Its ledger slot.
    pub slot: SlotView,
    /// First block of its extent.
    pub first_block: u32,
    /// Its extent, if it is whole.
    pub extent: Option<ExtentView>,
}

/// A ledger slot.
#[derive(Debug, Clone)]
pub enum SlotView {
    /// Never written.
    Untouched,
    /// Authentic.
    Good(Slot, Vec<ItemView>),
    /// A write of it was cut short.
    Torn,
    /// Written, and not authentic.
    Bad,
    /// It can't be read.
    Unreadable,
}

/// An item of a slot, without the bytes of small records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemView {
    /// Kind, partition, term and first index; the length of the body for small records.
    pub at: RecordHeader,
    /// How many entries; 1 for a small record.
    pub count: u32,
}

/// An extent that is whole.
#[derive(Debug, Clone)]
pub struct ExtentView {
    /// Its header.
    pub header: ExtentHeader,
    /// Its digest.
    pub digest: ExtentDigest,
    /// The headers of its records, in order.
    pub records: Vec<RecordHeader>,
}

/// Every pair of a shard, ascending, each handed to `each` as soon as it is read.
///
/// # Errors
/// [`RecoverError`], where the directory is not this shard's or was written by another build, or what `each`
/// returns.
pub fn inspect<E: From<RecoverError>>(
    disk: &mut dyn BootDisk,
    identity: LogIdentity,
    keys: &dyn KeyProvider,
    mut each: impl FnMut(PairView) -> Result<(), E>,
) -> Result<(), E> {
    let kek = keys.kek().map_err(RecoverError::from)?;
    let keys = ShardKeys::new(kek, identity);
    let found = disk.pairs().map_err(RecoverError::Disk)?;
    let mut files = Files::new(disk, &keys);
    for pair in files.survey(&found)? {
        each(view(&mut files, pair))?;
    }
    Ok(())
}

fn view(files: &mut Files<'_>, found: PairFiles) -> PairView {
    let mut view = PairView {
        pair: found.pair,
        both_headers: found.both_headers,
        header: found.header,
        checkpoint: None,
        checkpoint_copies: [false; 2],
        chains: Vec::new(),
    };
    let Some(header) = &view.header else {
        return view;
    };
    (view.checkpoint, view.checkpoint_copies) = files.checkpoint(header);
    let cipher = cipher_of(files.keys, header);
    let mut follows = header.body_block();
    for (number, slot) in files.slots(header, u32::MAX).into_iter().enumerate() {
        let chain = ChainNumber(header.first_chain.get() + number as u64);
        let (first_block, good) = match &slot {
            SlotState::Good(slot, _) => (slot.first_block, Some(slot)),
            _ => (follows, None),
        };
        let extent = files.extent(header, &cipher, chain, first_block, good);
        follows = match (&extent, good) {
            (Some((extent, _)), _) => first_block + extent.header.blocks,
            (None, Some(slot)) => first_block + slot.blocks,
            (None, None) => follows,
        };
        let extent = extent.map(|(extent, digest)| ExtentView {
            records: records(extent.records())
                .flatten()
                .map(|record| record.header)
                .collect(),
            header: extent.header.clone(),
            digest,
        });
        if slot == SlotState::Untouched && extent.is_none() {
            break;
        }
        view.chains.push(ChainView {
            chain,
            slot: slot_view(slot),
            first_block,
            extent,
        });
    }
    view
}

fn slot_view(slot: SlotState) -> SlotView {
    match slot {
        SlotState::Untouched => SlotView::Untouched,
        SlotState::Torn => SlotView::Torn,
        SlotState::Bad => SlotView::Bad,
        SlotState::Unreadable => SlotView::Unreadable,
        SlotState::Good(slot, bytes) => {
            let held = items(&bytes)
                .flatten()
                .map(|item| item_view(&item))
                .collect();
            SlotView::Good(slot, held)
        }
    }
}

fn item_view(item: &Item<'_>) -> ItemView {
    match item {
        Item::Run(run) => ItemView {
            at: RecordHeader {
                kind: run.kind,
                partition: run.partition,
                term: run.term,
                index: run.first,
                body_len: 0,
            },
            count: run.count,
        },
        Item::Small(record) => ItemView {
            at: record.header,
            count: 1,
        },
    }
}
