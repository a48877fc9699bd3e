//! A pair's files, read and verified piece by piece.

use clustor_wire::ids::{ChainNumber, MacEpoch, PairNumber};
use hmac::Hmac;
use sha2::Sha256;

use super::super::checkpoint::Checkpoint;
use super::super::codec::NUMBER_MAX;
use super::super::extent::{ExtentHeader, OpenExtent, digest_of, open_extent, open_payloads};
use super::super::header::{HeaderError, HeaderMismatch, PairHeader};
use super::super::keys::ShardKeys;
use super::super::pair::cipher_of;
use super::super::read::READ_TRIES;
use super::super::seal::{
    BlockUse, SegmentCipher, is_untouched, plain_payload, sealed_payload, verify,
};
use super::super::slot::{ExtentDigest, Slot};
use super::super::trailer::{FoundTrailer, Trailer};
use super::RecoverError;
use crate::buffer::{BLOCK_BYTES, Block, Blocks};
use crate::disk::{BootDisk, DiskError, FileId, FileKind, FoundPair, SPARE_ZERO_BLOCKS};

/// Bytes that a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// The greatest number of a pair in a name that is taken for one of a log's: all that follow are still numbers that files may
/// state.
const PAIR_MAX: u64 = NUMBER_MAX / 2;
/// Blocks read at once.
const READ_BLOCKS: u32 = 256;

/// One pair of files and what block 0 says.
pub(in crate::log) struct PairFiles {
    pub pair: PairNumber,
    /// From whichever copy is whole.
    pub header: Option<PairHeader>,
    /// Whether both copies are.
    pub both_headers: bool,
    /// Whether its segment is there.
    pub has_segment: bool,
    /// Whether both files are there.
    pub both_files: bool,
    /// Size of the segment; 0 if it is gone.
    pub segment_blocks: u32,
    /// Size of the ledger; 0 if it is gone.
    pub ledger_blocks: u32,
}

/// A ledger slot as found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large variant: a box would only be one allocation more for each"
)]
pub(in crate::log) enum SlotState {
    /// Never written.
    Untouched,
    /// Authentic.
    Good(Slot, Vec<u8>),
    /// A write of it was cut short: a sector of it is still as it was made. The chain never retired.
    Torn,
    /// Written, and not authentic.
    Bad,
    /// It can't be read, so nobody knows whether it was written.
    Unreadable,
}

impl SlotState {
    /// Where its chain's extent begins: the slot says it, else it follows the one before.
    pub(super) fn begins_at(&self, follows: u32) -> (u32, Option<&Slot>) {
        match self {
            Self::Good(slot, _) => (slot.first_block, Some(slot)),
            _ => (follows, None),
        }
    }
}

/// What was seen of the first blocks of a file of which no header tells what they hold.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::log) struct Seen {
    /// Blocks that are not zeros.
    pub touched: u32,
    /// Those of them that are authentic. Of a segment none is known to be: without a header there is no key.
    pub authentic: u32,
    /// Those of them that are slots.
    pub slots: u32,
    /// Which of the first blocks, which every pair that spoke has written to in both files, were not, or not to their end.
    pub blank: [bool; SPARE_ZERO_BLOCKS as usize],
}

/// Whole blocks in a file of this size; 0 where there is none.
fn blocks_in(bytes: Option<u64>) -> u32 {
    let blocks = bytes.unwrap_or(0) / BLOCK_BYTES as u64;
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

/// A run of blocks of one file that was asked for ahead of need.
struct Piece {
    file: FileId,
    first: u32,
    end: u32,
    /// `None` where some block of it can't be read: it is not tried again as a whole.
    blocks: Option<Blocks>,
}

/// Reads and verifies.
pub(in crate::log) struct Files<'a> {
    disk: &'a mut dyn BootDisk,
    /// The piece of a segment that was read last: extents are asked for one behind the other.
    piece: Option<Piece>,
    /// An answer that says nothing of the disk: from then on nothing is read, and nothing that was concluded counts.
    passing: Option<DiskError>,
    pub keys: &'a ShardKeys,
}

impl<'a> Files<'a> {
    pub fn new(disk: &'a mut dyn BootDisk, keys: &'a ShardKeys) -> Self {
        Self {
            disk,
            piece: None,
            passing: None,
            keys,
        }
    }

    /// Whether every read so far was answered by the disk. Whoever concludes anything from what was read asks this first.
    ///
    /// # Errors
    /// [`RecoverError::Passing`]: the system was short of something, so that what could not be read may be whole.
    pub fn check(&self) -> Result<(), RecoverError> {
        match &self.passing {
            Some(error) => Err(RecoverError::Passing(error.clone())),
            None => Ok(()),
        }
    }

    /// The blocks of a range, read [`READ_TRIES`] times before they count as unreadable.
    pub fn read(&mut self, file: FileId, block: u32, count: u32) -> Option<Blocks> {
        if self.passing.is_some() {
            return None;
        }
        let mut into = Blocks::from_heap(count as usize);
        let mut passing = None;
        for _ in 0..READ_TRIES {
            match self.disk.read(file, block, &mut into) {
                Ok(()) => return Some(into),
                Err(error) if error.is_passing() => passing = Some(error),
                Err(_) => {}
            }
        }
        self.passing = passing;
        None
    }

    /// As [`Self::read`], of a segment that ends at `end`: a short range is taken out of a piece of [`READ_BLOCKS`], so
    /// that extents one behind the other cost one read. Where the piece can't be read, the range is read by itself, and so is
    /// what follows up to the piece's end: a device takes its time over a bad sector.
    fn read_ahead(&mut self, file: FileId, block: u32, count: u32, end: u32) -> Option<Blocks> {
        let wanted = READ_BLOCKS.min(end.saturating_sub(block));
        if count >= wanted {
            return self.read(file, block, count);
        }
        let covers = |piece: &&Piece| {
            let bad = piece.blocks.is_none() && block < piece.end;
            piece.file == file && piece.first <= block && (bad || block + count <= piece.end)
        };
        if self.piece.as_ref().filter(covers).is_none() {
            self.piece = Some(Piece {
                file,
                first: block,
                end: block + wanted,
                blocks: self.read(file, block, wanted),
            });
        }
        let piece = self.piece.as_ref().expect("one was just put there");
        let Some(blocks) = &piece.blocks else {
            return self.read(file, block, count);
        };
        let from = (block - piece.first) as usize;
        let mut into = Blocks::from_heap(count as usize);
        into.as_mut_slice()
            .copy_from_slice(&blocks.as_slice()[from..from + count as usize]);
        Some(into)
    }

    /// Every block of a range by itself, `None` where it can't be read.
    fn read_each(
        &mut self,
        file: FileId,
        block: u32,
        count: u32,
        mut each: impl FnMut(u32, Option<&mut Block>),
    ) {
        let end = block + count;
        let mut at = block;
        while at < end {
            let len = READ_BLOCKS.min(end - at);
            match self.read(file, at, len) {
                Some(mut blocks) => {
                    for (number, block) in (at..).zip(blocks.as_mut_slice()) {
                        each(number, Some(block));
                    }
                }
                None => {
                    for number in at..at + len {
                        let mut one = self.read(file, number, 1);
                        each(number, one.as_mut().map(|one| &mut one.as_mut_slice()[0]));
                    }
                }
            }
            at += len;
        }
    }

    /// Block 0 of one of a pair's files.
    pub fn header(&mut self, kind: FileKind, pair: PairNumber) -> Result<PairHeader, HeaderError> {
        let blocks = self
            .read(FileId { pair, kind }, 0, 1)
            .ok_or(HeaderError::Bad)?;
        let keys = self.keys;
        PairHeader::decode(
            kind,
            pair,
            keys.identity(),
            |epoch| keys.integrity(epoch),
            &blocks.as_slice()[0],
        )
    }

    /// Reads every header.
    ///
    /// A name with a number that no log comes to is refused, and a header that is authentic and not for this build or shard. One that is not
    /// authentic is damage, unless nothing in the directory is authentic: then the directory is another's, or
    /// the key is.
    pub fn survey(&mut self, found: &[FoundPair]) -> Result<Vec<PairFiles>, RecoverError> {
        let surveyed = self.read_headers(found);
        self.check()?;
        surveyed
    }

    fn read_headers(&mut self, found: &[FoundPair]) -> Result<Vec<PairFiles>, RecoverError> {
        if let Some(stray) = found.iter().find(|found| found.pair.get() > PAIR_MAX) {
            return Err(RecoverError::Stray { pair: stray.pair });
        }
        let ours = *self.keys.identity();
        let mut pairs = Vec::with_capacity(found.len());
        let mut suspicion = None;
        for found in found {
            let pair = found.pair;
            let copies = [
                self.header(FileKind::Segment, pair),
                self.header(FileKind::Ledger, pair),
            ];
            let mut whole = Vec::with_capacity(2);
            let mut mac_failures = 0;
            for copy in copies {
                match copy {
                    Ok(header) => whole.push(header),
                    Err(HeaderError::Refused(mismatch)) => {
                        return Err(RecoverError::from_mismatch(pair, &ours, mismatch));
                    }
                    Err(HeaderError::Suspect(HeaderMismatch::Mac)) => mac_failures += 1,
                    Err(HeaderError::Suspect(mismatch)) => {
                        suspicion.get_or_insert((pair, mismatch));
                    }
                    Err(HeaderError::Bad) => {}
                }
            }
            // A single copy that fails is what a torn opening leaves; both failing is not.
            if mac_failures == 2 {
                suspicion.get_or_insert((pair, HeaderMismatch::Mac));
            }
            pairs.push(PairFiles {
                pair,
                both_headers: whole.len() == 2,
                has_segment: found.segment_bytes.is_some(),
                both_files: found.segment_bytes.is_some() && found.ledger_bytes.is_some(),
                segment_blocks: blocks_in(found.segment_bytes),
                ledger_blocks: blocks_in(found.ledger_bytes),
                header: whole.pop(),
            });
        }
        let nothing_authentic = pairs.iter().all(|pair| pair.header.is_none());
        if let Some((pair, mismatch)) = suspicion.filter(|_| nothing_authentic) {
            return Err(RecoverError::from_mismatch(pair, &ours, mismatch));
        }
        Ok(pairs)
    }

    /// What of the first `blocks` of a file was ever written to.
    pub fn seen(&mut self, file: FileId, blocks: u32) -> Seen {
        let integrity = self.keys.integrity(MacEpoch(1));
        let FileId { pair, kind } = file;
        let mut seen = Seen::default();
        self.read_each(file, 0, blocks, |number, block| {
            let Some(block) = block else {
                return;
            };
            if let Some(blank) = seen.blank.get_mut(number as usize) {
                *blank = is_cut_short(block);
            }
            if is_untouched(block) {
                return;
            }
            seen.touched += 1;
            if kind == FileKind::Ledger && verify(&integrity, kind, pair, number, block).is_ok() {
                seen.authentic += 1;
                seen.slots += u32::from(Slot::decode(plain_payload(block)).is_some());
            }
        });
        seen
    }

    /// Whether a segment was zeroed to its end, and nothing was written to its front since.
    pub fn is_blank(&mut self, segment: FileId) -> bool {
        let front = self.read(segment, 0, SPARE_ZERO_BLOCKS);
        front.is_some_and(|front| front.as_slice().iter().all(is_untouched))
            && self.disk.is_written(segment)
    }

    /// The first `count` slots of a ledger, or all there are.
    pub fn slots(&mut self, header: &PairHeader, count: u32) -> Vec<SlotState> {
        let count = header.slots().min(count);
        let mut slots = Vec::with_capacity(count as usize);
        self.each_slot(header, 0, count, |slot| slots.push(slot));
        slots
    }

    /// The checkpoint, from whichever copy is whole; and whether each copy is (segment, ledger).
    pub fn checkpoint(&mut self, header: &PairHeader) -> (Option<Checkpoint>, [bool; 2]) {
        let ledger = self.ledger_checkpoint(header);
        let segment = self.segment_checkpoint(header);
        let whole = [segment.is_some(), ledger.is_some()];
        (ledger.or(segment), whole)
    }

    /// The items of what the opening wrote again, from whichever checkpoint is whole.
    pub fn checkpoint_tail(&mut self, header: &PairHeader) -> Option<Vec<u8>> {
        self.ledger_checkpoint(header)
            .or_else(|| self.segment_checkpoint(header))
            .map(|checkpoint| checkpoint.tail)
    }

    /// The ledger's copy of the checkpoint, if it is whole.
    pub fn ledger_checkpoint(&mut self, header: &PairHeader) -> Option<Checkpoint> {
        let integrity = self.keys.integrity(header.mac_epoch);
        let blocks = self.read(FileId::ledger(header.pair), 1, header.checkpoint_blocks)?;
        let mut bytes = Vec::with_capacity(blocks.byte_len());
        for (number, block) in (1u32..).zip(blocks.as_slice()) {
            verify(&integrity, FileKind::Ledger, header.pair, number, block).ok()?;
            bytes.extend_from_slice(plain_payload(block));
        }
        Checkpoint::decode(bytes.get(..header.checkpoint_bytes as usize)?)
    }

    /// The segment's copy of the checkpoint, if it is whole.
    pub fn segment_checkpoint(&mut self, header: &PairHeader) -> Option<Checkpoint> {
        let cipher = cipher_of(self.keys, header);
        let mut blocks = self.read(FileId::segment(header.pair), 1, header.checkpoint_blocks)?;
        let mut bytes = Vec::with_capacity(blocks.byte_len());
        open_payloads(
            &cipher,
            1,
            header.first_chain,
            BlockUse::Checkpoint,
            blocks.as_mut_slice(),
            |payload| bytes.extend_from_slice(payload),
        )
        .ok()?;
        Checkpoint::decode(bytes.get(..header.checkpoint_bytes as usize)?)
    }

    /// The extent of `chain` at `first_block`, if it is whole; its digest with it. The number of blocks comes
    /// from the slot where there is one, else from the extent's own first block.
    pub fn extent(
        &mut self,
        header: &PairHeader,
        cipher: &SegmentCipher,
        chain: ChainNumber,
        first_block: u32,
        slot: Option<&Slot>,
    ) -> Option<(OpenExtent, ExtentDigest)> {
        let file = FileId::segment(header.pair);
        let blocks = match slot {
            Some(slot) => slot.blocks,
            None => self.extent_blocks(header, cipher, chain, first_block)?,
        };
        let end = first_block.checked_add(blocks)?;
        if blocks == 0 || end > header.segment_blocks {
            return None;
        }
        let mut blocks = self.read_ahead(file, first_block, blocks, header.segment_blocks)?;
        let digest = digest_of(blocks.as_slice());
        if slot.is_some_and(|slot| slot.digest != digest) {
            return None;
        }
        let extent = open_extent(
            cipher,
            first_block,
            chain,
            blocks.as_mut_slice(),
            Vec::new(),
        )
        .ok()?;
        Some((extent, digest))
    }

    fn extent_blocks(
        &mut self,
        header: &PairHeader,
        cipher: &SegmentCipher,
        chain: ChainNumber,
        first_block: u32,
    ) -> Option<u32> {
        if first_block >= header.segment_blocks {
            return None;
        }
        let file = FileId::segment(header.pair);
        let mut first = self.read_ahead(file, first_block, 1, header.segment_blocks)?;
        let block = &mut first.as_mut_slice()[0];
        let prefix = cipher.open(first_block, block).ok()?;
        if prefix.chain != chain || prefix.ordinal != 0 || prefix.usage != BlockUse::Extent {
            return None;
        }
        ExtentHeader::decode(sealed_payload(block)).map(|extent| extent.blocks)
    }

    /// The slots of a ledger from `first` on, in order.
    pub fn each_slot(
        &mut self,
        header: &PairHeader,
        first: u32,
        count: u32,
        mut each: impl FnMut(SlotState),
    ) {
        let integrity = self.keys.integrity(header.mac_epoch);
        let block = header.body_block() + first;
        self.read_each(
            FileId::ledger(header.pair),
            block,
            count,
            |number, block| {
                each(match block {
                    None => SlotState::Unreadable,
                    Some(block) if is_untouched(block) => SlotState::Untouched,
                    Some(block) => slot_state(header, &integrity, number, block),
                });
            },
        );
    }

    /// The last block of a pair's segment, where its trailer stands.
    pub fn trailer(&mut self, pair: PairNumber, segment_blocks: u32) -> FoundTrailer {
        let number = segment_blocks.saturating_sub(1);
        let integrity = self.keys.integrity(MacEpoch(1));
        match self.read(FileId::segment(pair), number, 1) {
            Some(blocks) => Trailer::read(&integrity, pair, number, &blocks.as_slice()[0]),
            None => FoundTrailer::Unreadable,
        }
    }

    /// Whether anything of an extent lies where it would begin, or that can't be read. In a segment that was another
    /// pair's only what is authentic tells: within the blocks that are read at once.
    pub fn is_begun(&mut self, header: &PairHeader, cipher: &SegmentCipher, block: u32) -> bool {
        if block >= header.segment_blocks {
            return false;
        }
        if !header.recycled {
            return self
                .read(FileId::segment(header.pair), block, 1)
                .is_none_or(|blocks| !is_untouched(&blocks.as_slice()[0]));
        }
        let count = READ_BLOCKS.min(header.segment_blocks - block);
        let mut begun = false;
        self.read_each(FileId::segment(header.pair), block, count, |at, found| {
            begun |= found.is_none_or(|found| cipher.open(at, found).is_ok());
        });
        begun
    }

    /// Whether nothing was ever written from a block of a segment on, up to the trailer's: all is zeros. What another pair
    /// left there, or can't be read, may be anything.
    pub fn is_blank_from(&mut self, header: &PairHeader, first: u32) -> bool {
        let trailer = header.segment_blocks.saturating_sub(1);
        let Some(count) = trailer.checked_sub(first) else {
            return false; // No extent begins there, so where it would is not known.
        };
        let mut is_blank = true;
        self.read_each(FileId::segment(header.pair), first, count, |_, block| {
            is_blank &= block.is_some_and(|block| is_untouched(block));
        });
        is_blank
    }

    /// Whether any authentic block of a later chain than the opening lies in the segment.
    pub fn has_block_behind_opening(
        &mut self,
        header: &PairHeader,
        cipher: &SegmentCipher,
    ) -> bool {
        let body = header.body_block();
        let count = header.segment_blocks.saturating_sub(body);
        let mut behind = false;
        self.read_each(
            FileId::segment(header.pair),
            body,
            count,
            |number, block| {
                if let Some(block) = block
                    && !behind
                    && !is_untouched(block)
                {
                    behind = cipher
                        .open(number, block)
                        .is_ok_and(|prefix| prefix.chain > header.first_chain);
                }
            },
        );
        behind
    }
}

/// Whether not all of a block was written since it was zeroed. Each ends with a code over it all, and nearly each begins with a magic
/// number or the number of its chain; further blocks of a checkpoint may begin with zeros.
fn is_cut_short(block: &Block) -> bool {
    let (first, last) = (
        &block.0[..SECTOR_BYTES],
        &block.0[BLOCK_BYTES - SECTOR_BYTES..],
    );
    [first, last]
        .iter()
        .any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// What the block of a slot amounts to.
pub(in crate::log) fn slot_state(
    header: &PairHeader,
    integrity: &Hmac<Sha256>,
    number: u32,
    block: &Block,
) -> SlotState {
    let chain = header.first_chain.get() + u64::from(number - header.body_block());
    if verify(integrity, FileKind::Ledger, header.pair, number, block).is_err() {
        // A whole slot has no empty sector, so one that has was cut short by a crash.
        let mut sectors = block.0.chunks(SECTOR_BYTES);
        return if sectors.any(|sector| sector.iter().all(|byte| *byte == 0)) {
            SlotState::Torn
        } else {
            SlotState::Bad
        };
    }
    match Slot::decode(plain_payload(block)) {
        Some((slot, items)) if slot.chain.get() == chain && slot.lies_in(header) => {
            SlotState::Good(slot, items.into_owned())
        }
        _ => SlotState::Bad,
    }
}
