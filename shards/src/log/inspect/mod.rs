//! A shard's files laid open, for people and offline tools: every structure, and whether it is whole.
//!
//! Read-only, through [`BootDisk`]; the same readers as recovery. Nothing that is not authentic is shown; of what is not,
//! `faults` says what is wrong with it.

mod faults;

use clustor_wire::ids::{ChainNumber, NodeId, PairNumber, ShardId};

use super::audit::{Finding, Role, roles};
use super::checkpoint::Checkpoint;
use super::codec::Reader;
use super::extent::{ExtentHeader, OpenExtent};
use super::fold::{PEER_PAST_BYTES, PeerShard, decode_past};
use super::format::HashSuite;
use super::header::PairHeader;
use super::item::{Item, items};
use super::keys::{KeyProvider, LogIdentity, ShardKeys};
use super::merkle::MerkleHash;
use super::nonce::{NonceAccount, NonceLedger, accounts};
use super::pair::cipher_of;
use super::record::{Record, RecordHeader, RecordKind, records};
use super::recovery::RecoverError;
use super::recovery::files::{Files, PairFiles, SlotState};
use super::recovery::judge::{SlotMark, Verdict, certain_chain, is_never_written, judge};
use super::slot::{ExtentDigest, Slot};
use super::trailer::FoundTrailer;
use crate::disk::{BootDisk, FileId, FileKind};
use crate::turn::PeerPast;

/// One pair.
#[derive(Debug, Clone)]
pub struct PairView {
    /// Its number.
    pub pair: PairNumber,
    /// What it is to the log.
    pub role: Role,
    /// Whether it was made and never opened.
    pub is_spare: bool,
    /// What is wrong with headers, checkpoints and trailer, a text for each.
    pub faults: Vec<String>,
    /// Its header, from whichever copy is whole; `None` for a spare, or where both are bad.
    pub header: Option<PairHeader>,
    /// Whether the copies of the header are whole: the segment's, the ledger's.
    pub header_copies: [bool; 2],
    /// Its checkpoint, from whichever copy is whole.
    pub checkpoint: Option<Checkpoint>,
    /// Whether the copies of the checkpoint are whole: the segment's, the ledger's.
    pub checkpoint_copies: [bool; 2],
    /// What the opening wrote again behind the checkpoint, as that says.
    pub rewritten: Vec<ItemView>,
    /// The segment's last block; `None` where no header tells which that is.
    pub trailer: Option<FoundTrailer>,
    /// What became of its nonces, as far as its authentic slots tell; `None` where nothing in it counts.
    pub nonces: Option<NonceAccount>,
    /// Its chains, as far as anything of them is there.
    pub chains: Vec<ChainView>,
}

/// What a chain amounts to, by the rules of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The extent is whole and its slot says so.
    Proven,
    /// The extent is whole and no slot proves it: an ordinary tail, which a start writes again.
    Tail,
    /// The extent is whole; its slot was written and is lost.
    SlotLost,
    /// The extent is rotten; what it held is known.
    Rot,
    /// The extent is rotten and its slot is lost with it.
    Unnamed,
    /// An unfinished write: a start cuts it off, and what lies behind it.
    Torn,
    /// The slot is damaged and was never used: nothing of its chain was written, and the log ends here.
    Blank,
    /// It lies behind the last chain that counts.
    Dead,
    /// Nothing in this pair counts.
    Unused,
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
    /// What that amounts to.
    pub judgement: Judgement,
    /// What is wrong with slot and extent, a text for each. An unfinished write is not.
    pub faults: Vec<String>,
}

/// A ledger slot.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large variant: a box would only be one allocation more for each"
)]
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

/// Bytes of an entry's body that a [`RecordView`] has, at most.
pub const ENTRY_BYTES_MAX: usize = 64;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView {
    /// Kind, partition, term, index and length of the body.
    pub header: RecordHeader,
    /// The checksum that its frame carries.
    pub crc: u32,
    /// The Merkle leaf that its frame carries.
    pub leaf: Option<(HashSuite, MerkleHash)>,
    /// Its body; of an entry and of a copy of one only the first [`ENTRY_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
}

impl RecordView {
    fn of(record: &Record<'_>) -> Self {
        let is_entry = record.header.kind.content() == Some(RecordKind::Entry);
        let shown = match is_entry {
            true => record.body.len().min(ENTRY_BYTES_MAX),
            false => record.body.len(),
        };
        Self {
            header: record.header,
            crc: record.crc(),
            leaf: record.leaf.map(|(hash, leaf)| (hash, *leaf)),
            body: record.body[..shown].to_vec(),
        }
    }

    /// The peers in a PeerChains record and how far each had come; `None` where the body is none of one.
    #[must_use]
    pub fn peers(&self) -> Option<Vec<(PeerShard, PeerPast)>> {
        if self.header.kind != RecordKind::PeerChains
            || !self.body.len().is_multiple_of(PEER_PAST_BYTES)
        {
            return None;
        }
        let peers = self.body.chunks(PEER_PAST_BYTES).map(|bytes| {
            let mut r = Reader(bytes);
            let shard = (NodeId(r.u64().ok()?), ShardId(r.u16().ok()?));
            Some((shard, decode_past(&mut r).ok()?))
        });
        peers.collect()
    }
}

/// What is to be shown.
pub struct Selection<'a> {
    /// Only this pair.
    pub pair: Option<PairNumber>,
    /// Only these records of extents.
    pub records: &'a dyn Fn(&RecordHeader) -> bool,
}

impl Selection<'_> {
    /// Everything.
    pub const ALL: Selection<'static> = Selection {
        pair: None,
        records: &|_| true,
    };
}

/// An item of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemView {
    /// Kind, partition, term and first index; the length of the body for small records.
    pub at: RecordHeader,
    /// How many entries; 1 for a small record.
    pub count: u32,
    /// A small record itself.
    pub small: Option<RecordView>,
}

/// An extent that is whole.
#[derive(Debug, Clone)]
pub struct ExtentView {
    /// Its header.
    pub header: ExtentHeader,
    /// Its digest.
    pub digest: ExtentDigest,
    /// Its records, in order: those that are to be shown.
    pub records: Vec<RecordView>,
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
    selection: &Selection<'_>,
    mut each: impl FnMut(PairView) -> Result<(), E>,
) -> Result<(), E> {
    let kek = keys.kek().map_err(RecoverError::from)?;
    let keys = ShardKeys::new(kek, identity);
    let found = disk.pairs().map_err(RecoverError::Disk)?;
    let mut files = Files::new(disk, &keys);
    let pairs = files.survey(&found)?;
    let mut findings = Vec::new();
    let roles = roles(&mut files, &pairs, &mut findings);
    let accounts = nonces(&mut files, &pairs, &roles);
    files.check()?;
    let is_wanted = |pair: &PairFiles| selection.pair.is_none_or(|only| only == pair.pair);
    for pair in pairs.into_iter().filter(is_wanted) {
        let role = roles.iter().find(|(number, _)| *number == pair.pair);
        let role = role.map_or(Role::Unused, |(_, role)| *role);
        let account = accounts.iter().find(|account| account.pair == pair.pair);
        let mut viewed = view(&mut files, pair, role, &findings, selection);
        viewed.nonces = account.copied();
        files.check()?;
        each(viewed)?;
    }
    Ok(())
}

/// What became of the nonces of the pairs that count.
fn nonces(
    files: &mut Files<'_>,
    pairs: &[PairFiles],
    roles: &[(PairNumber, Role)],
) -> Vec<NonceAccount> {
    let mut ledgers = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let role = roles.iter().find(|(number, _)| *number == pair.pair);
        let (Some((_, role)), Some(header)) = (role, &pair.header) else {
            continue;
        };
        let slots = files.slots(header, u32::MAX);
        let certain = last_certain(header, *role, &slots);
        let good = slots.iter().map(|slot| said(slot).copied());
        ledgers.push(NonceLedger::of(header, good, certain));
    }
    accounts(&ledgers)
}

/// The last chain that is known to have retired.
fn last_certain(header: &PairHeader, role: Role, slots: &[SlotState]) -> ChainNumber {
    match role {
        Role::Older { last_certain } => last_certain,
        Role::Chosen | Role::Unused => {
            let said = slots.iter().filter_map(said);
            certain_chain(header, said.map(|slot| slot.retired))
        }
    }
}

fn view(
    files: &mut Files<'_>,
    found: PairFiles,
    role: Role,
    findings: &[Finding],
    selection: &Selection<'_>,
) -> PairView {
    let copies = [FileKind::Segment, FileKind::Ledger];
    let mut view = PairView {
        pair: found.pair,
        role,
        is_spare: faults::is_spare(files, &found),
        faults: faults::of_front(files, &found, role, findings),
        header_copies: copies.map(|kind| files.header(kind, found.pair).is_ok()),
        header: found.header,
        checkpoint: None,
        checkpoint_copies: [false; 2],
        rewritten: Vec::new(),
        trailer: None,
        nonces: None,
        chains: Vec::new(),
    };
    let Some(header) = view.header.clone() else {
        return view;
    };
    (view.checkpoint, view.checkpoint_copies) = files.checkpoint(&header);
    if let Some(checkpoint) = &view.checkpoint {
        view.rewritten = item_views(&checkpoint.tail);
    }
    view.trailer = Some(files.trailer(header.pair, header.segment_blocks));
    let slots = files.slots(&header, u32::MAX);
    let last_certain = last_certain(&header, role, &slots);
    let cipher = cipher_of(files.keys, &header);
    let mut follows = header.body_block();
    let mut previous: Option<ExtentDigest> = Some([0; 32]);
    let mut ended = false;
    let marks: Vec<SlotMark> = slots.iter().map(SlotMark::from).collect();
    for (number, slot) in slots.into_iter().enumerate() {
        let chain = ChainNumber(header.first_chain.get() + number as u64);
        let good = said(&slot);
        let first_block = good.map_or(follows, |slot| slot.first_block);
        let extent = files.extent(&header, &cipher, chain, first_block, good);
        let continues = extent.as_ref().is_none_or(|(extent, _)| {
            previous.is_none_or(|digest| digest == extent.header.previous)
        });
        let extent = extent.filter(|_| continues);
        previous = match (&extent, good) {
            (Some((_, digest)), _) => Some(*digest),
            (None, slot) => slot.map(|slot| slot.digest),
        };
        let blocks = match (&extent, good) {
            (Some((extent, _)), _) => extent.header.blocks,
            (None, Some(slot)) => slot.blocks,
            (None, None) => 0,
        };
        follows = first_block.saturating_add(blocks);
        let is_there = slot != SlotState::Untouched
            || extent.is_some()
            || !ended && files.is_begun(&header, &cipher, first_block);
        if !is_there {
            break;
        }
        let is_certain = chain <= last_certain;
        let judgement = match role {
            Role::Unused => Judgement::Unused,
            Role::Older { .. } if !is_certain => Judgement::Dead,
            _ if ended => Judgement::Dead,
            _ => judged(judge(
                extent.is_some(),
                (&slot).into(),
                is_certain,
                number == 0,
                || {
                    let place = (chain, first_block);
                    is_never_written(files, &header, place, marks.iter().copied())
                },
            )),
        };
        ended |= matches!(judgement, Judgement::Torn | Judgement::Blank);
        let mut faults = Vec::new();
        let is_lost = matches!(
            judgement,
            Judgement::SlotLost | Judgement::Unnamed | Judgement::Rot | Judgement::Blank
        );
        let slot_block = header.body_block() + number as u32;
        if is_lost && let Some(why) = slot_words(&slot) {
            let file = FileId::ledger(header.pair);
            faults.push(format!("{file} block {slot_block}: the slot {why}"));
        }
        let is_rotten = matches!(judgement, Judgement::Rot | Judgement::Unnamed);
        if is_rotten && !continues {
            let file = FileId::segment(header.pair);
            faults.push(format!(
                "{file} block {first_block}: the extent is whole, and states another digest of the one before it"
            ));
        } else if is_rotten {
            let extent = faults::of_extent(files, &header, &cipher, chain, first_block, good);
            faults.extend(extent);
        }
        view.chains.push(ChainView {
            chain,
            slot: slot_view(slot),
            first_block,
            extent: extent.map(|(extent, digest)| extent_view(&extent, digest, selection)),
            judgement,
            faults,
        });
    }
    view
}

fn said(slot: &SlotState) -> Option<&Slot> {
    match slot {
        SlotState::Good(slot, _) => Some(slot),
        _ => None,
    }
}

const fn judged(verdict: Verdict) -> Judgement {
    match verdict {
        Verdict::Proven => Judgement::Proven,
        Verdict::Tail => Judgement::Tail,
        Verdict::SlotLost => Judgement::SlotLost,
        Verdict::Rot => Judgement::Rot,
        Verdict::Unnamed => Judgement::Unnamed,
        Verdict::End => Judgement::Torn,
        Verdict::Blank => Judgement::Blank,
    }
}

fn extent_view(extent: &OpenExtent, digest: ExtentDigest, selection: &Selection<'_>) -> ExtentView {
    ExtentView {
        records: records(extent.records())
            .flatten()
            .filter(|record| (selection.records)(&record.header))
            .map(|record| RecordView::of(&record))
            .collect(),
        header: extent.header.clone(),
        digest,
    }
}

fn slot_view(slot: SlotState) -> SlotView {
    match slot {
        SlotState::Untouched => SlotView::Untouched,
        SlotState::Torn => SlotView::Torn,
        SlotState::Bad => SlotView::Bad,
        SlotState::Unreadable => SlotView::Unreadable,
        SlotState::Good(slot, bytes) => SlotView::Good(slot, item_views(&bytes)),
    }
}

fn item_views(bytes: &[u8]) -> Vec<ItemView> {
    items(bytes)
        .flatten()
        .map(|item| item_view(&item))
        .collect()
}

/// What is wrong with a slot; `None` where nothing is.
const fn slot_words(slot: &SlotState) -> Option<&'static str> {
    match slot {
        SlotState::Good(..) => None,
        SlotState::Untouched => Some("was never written, and later ones know its chain as retired"),
        SlotState::Torn => Some("was written in part, and later ones know its chain as retired"),
        SlotState::Bad => Some("is not authentic"),
        SlotState::Unreadable => Some("can't be read"),
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
            small: None,
        },
        Item::Small(record) => ItemView {
            at: record.header,
            count: 1,
            small: Some(RecordView::of(record)),
        },
    }
}
