//! A pair while it is written: the spare that waits, and the one that is being filled.

use clustor_wire::ids::{BootNumber, ChainNumber, DekEpoch, MacEpoch, PairNumber};
use hmac::Hmac;
use sha2::Sha256;

use super::batch::Batch;
use super::checkpoint::OlderPair;
use super::extent::{EXTENT_HEADER_BYTES, extent_blocks, seal_extent, seal_payloads};
use super::header::PairHeader;
use super::keys::{SALT_BYTES, ShardKeys};
use super::location::ExtentPlace;
use super::merkle::{PairTree, extent_root};
use super::nonce::{NonceRecords, NonceReservationAbandon, Reservation};
use super::options::LogOptions;
use super::scrub::SweepPlace;
use super::seal::{BlockUse, PAYLOAD_BYTES, SegmentCipher, authenticate};
use super::size::PairNeed;
use super::slot::{ExtentDigest, Slot};
use super::trailer::{SegmentFigures, Trailer};
use crate::buffer::BlockPool;
use crate::disk::{DiskOp, DurableChain, FileKind, FlushKind, PreparePair};
use crate::turn::Time;

/// How long after a failure to make a pair the next try comes.
const PREPARE_RETRY_MS: u64 = 1_000;

/// A pair that is in place and not opened.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    asked: PreparePair,
    salt: [u8; SALT_BYTES],
    blocks_ready: u32,
    recycled: bool,
    /// Its zeroing stopped: it ends where it is ready.
    pub cut: bool,
    /// When another may be asked for in its place, if it is too small then.
    retry_at: Time,
}

/// The next pair.
#[derive(Debug)]
pub(super) enum Spare {
    /// None was asked for.
    None,
    /// Asked for.
    Asked(PreparePair),
    /// Ready to be opened.
    Ready(Prepared),
    /// It could not be made; the next try is due then.
    Failed(Time),
}

impl Spare {
    /// It can't be made now.
    pub const fn failed_at(now: Time) -> Self {
        Self::Failed(now.plus_ms(PREPARE_RETRY_MS))
    }

    pub fn is_wanted(&self, now: Time) -> bool {
        match self {
            Spare::None => true,
            Spare::Failed(retry_at) => *retry_at <= now,
            Spare::Asked(_) | Spare::Ready(_) => false,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self, Spare::Ready(_))
    }

    /// Whether it could not be made, and is to be tried again.
    pub fn has_failed(&self) -> bool {
        matches!(self, Spare::Failed(_))
    }

    /// Whether it is zeroed to its end.
    pub fn is_whole(&self) -> bool {
        matches!(self, Spare::Ready(ready) if ready.blocks_ready >= ready.asked.segment_blocks)
    }

    pub fn retry_at(&self) -> Option<Time> {
        match self {
            Spare::Failed(retry_at) => Some(*retry_at),
            _ => None,
        }
    }

    pub fn prepared(
        &mut self,
        pair: PairNumber,
        salt: [u8; SALT_BYTES],
        (blocks_ready, recycled): (u32, bool),
    ) {
        if let Spare::Asked(asked) = self
            && asked.pair == pair
        {
            *self = Spare::Ready(Prepared {
                asked: *asked,
                salt,
                blocks_ready,
                recycled,
                cut: false,
                retry_at: Time::default(),
            });
        }
    }

    pub fn progress(&mut self, pair: PairNumber, blocks_ready: u32) {
        if let Spare::Ready(ready) = self
            && ready.asked.pair == pair
        {
            ready.blocks_ready = ready.blocks_ready.max(blocks_ready);
        }
    }

    pub fn failed(&mut self, pair: PairNumber, now: Time) {
        match self {
            Spare::Asked(asked) if asked.pair == pair => {
                *self = Spare::failed_at(now);
            }
            Spare::Ready(ready) if ready.asked.pair == pair => {
                ready.cut = true;
                ready.retry_at = now.plus_ms(PREPARE_RETRY_MS);
            }
            _ => {}
        }
    }

    /// Takes the spare to open it, if it has room for `need`. One that has become
    /// too small is given up for a larger one, at once unless that is because its zeroing failed; one that is not zeroed far
    /// enough is waited for.
    pub fn take_for(&mut self, need: PairNeed, out: &mut Vec<DiskOp>) -> Option<Prepared> {
        let Spare::Ready(ready) = self else {
            return None;
        };
        let end = if ready.cut {
            ready.blocks_ready
        } else {
            ready.asked.segment_blocks
        };
        let too_small = !need.fits(end, ready.asked.ledger_blocks);
        if too_small {
            out.push(DiskOp::Remove(ready.asked.pair));
            *self = match ready.cut {
                // The next try may fail as this one did.
                true => Spare::Failed(ready.retry_at),
                false => Spare::None,
            };
            return None;
        }
        // The mark, one block, follows the opening at once.
        if u64::from(ready.blocks_ready) <= need.opening_blocks() {
            return None;
        }
        let ready = ready.clone();
        *self = Spare::None;
        Some(ready)
    }
}

/// Blocks of payload that `bytes` take.
pub(super) fn blocks_of(bytes: usize) -> u32 {
    bytes.div_ceil(PAYLOAD_BYTES) as u32
}

/// What a slot states beside its extent, as of the moment in which its chain is submitted.
pub(super) struct Known {
    /// The last chain that had retired.
    pub retired: ChainNumber,
    /// How the bytes are written.
    pub io_writer_mode: u8,
    /// Where the scrub's sweep is.
    pub sweep: Option<SweepPlace>,
}

/// The pair that is being filled.
pub(super) struct OpenPair {
    pub header: PairHeader,
    pub blocks_ready: u32,
    /// Its zeroing stopped: what lies behind `blocks_ready` may never have been written.
    is_cut: bool,
    end: u32,
    next_block: u32,
    next_slot: u32,
    previous: ExtentDigest,
    reservation: Reservation,
    figures: SegmentFigures,
    /// Where leaves are kept.
    tree: Option<PairTree>,
    /// Nonce records of the next slot.
    nonces: NonceRecords,
    integrity: Hmac<Sha256>,
    payload: Vec<u8>,
}

impl OpenPair {
    pub fn new(
        keys: &ShardKeys,
        (boot, first_chain): (BootNumber, ChainNumber),
        prepared: &Prepared,
        (checkpoint, rewrite): (&[u8], &Batch),
        options: &LogOptions,
    ) -> (Self, SegmentCipher) {
        let segment_blocks = if prepared.cut {
            prepared.blocks_ready
        } else {
            prepared.asked.segment_blocks
        };
        let header = PairHeader {
            identity: *keys.identity(),
            boot,
            pair: prepared.asked.pair,
            first_chain,
            dek_epoch: DekEpoch(1),
            mac_epoch: MacEpoch(1),
            format: options.format,
            segment_blocks,
            ledger_blocks: prepared.asked.ledger_blocks,
            checkpoint_bytes: checkpoint.len() as u32,
            checkpoint_blocks: blocks_of(checkpoint.len()),
            recycled: prepared.recycled,
            salt: prepared.salt,
        };
        let cipher = cipher_of(keys, &header);
        // The last block is the trailer's.
        let end = segment_blocks - 1;
        let (reservation, reserved) = Reservation::open(
            header.pair,
            (options.nonce_range_blocks, options.chains_in_flight_max),
            header.body_block() + extent_blocks(rewrite.stored_bytes(&options.format)),
            end,
        );
        let pair = Self {
            blocks_ready: prepared.blocks_ready,
            is_cut: prepared.cut,
            end,
            next_block: header.body_block(),
            next_slot: 0,
            previous: [0; 32],
            reservation,
            figures: SegmentFigures::default(),
            tree: header.format.leaf().map(PairTree::new),
            nonces: NonceRecords {
                reserved,
                abandoned: None,
            },
            integrity: keys.integrity(header.mac_epoch),
            payload: Vec::with_capacity(PAYLOAD_BYTES),
            header,
        };
        (pair, cipher)
    }

    /// Whether an extent of `blocks` and its slot fit.
    pub fn has_room(&self, blocks: u32) -> bool {
        self.next_block + blocks <= self.end && self.next_slot < self.header.slots()
    }

    /// Whether `count` more chains find a slot.
    pub fn has_slots(&self, count: u32) -> bool {
        self.next_slot.saturating_add(count) <= self.header.slots()
    }

    /// Whether the segment is zeroed far enough for an extent of `blocks`.
    pub fn is_ready_for(&self, blocks: u32) -> bool {
        self.next_block + blocks <= self.blocks_ready
    }

    /// Whether seven eighths of either file are used.
    pub fn is_nearly_full(&self) -> bool {
        self.next_block > self.end / 8 * 7 || self.next_slot > self.header.slots() / 8 * 7
    }

    /// Zeroing stopped: the pair ends where it is ready.
    pub fn end_at_frontier(&mut self) {
        self.is_cut = true;
        self.end = self.end.min(self.blocks_ready);
        self.reservation.end_at(self.end);
    }

    /// Whether every block of the segment has been written at least once.
    pub fn is_written(&self) -> bool {
        !self.is_cut && self.blocks_ready >= self.header.segment_blocks
    }

    /// Whether the nonces of an extent of `blocks` are reserved. The last that are reserved are kept for the
    /// chain that carries the next range.
    pub fn is_reserved_for(&self, blocks: u32) -> bool {
        self.reservation.covers(self.next_block + blocks)
    }

    /// Whether a reservation is in a chain that has not retired.
    pub fn is_reserving(&self) -> bool {
        self.reservation.is_riding()
    }

    /// A chain of this pair has retired.
    pub fn retired(&mut self, chain: ChainNumber) {
        self.reservation.retired(chain);
    }

    /// This pair as the next one's checkpoint states it, once all its chains have retired, `last` last.
    pub fn closed(&self, last: ChainNumber) -> OlderPair {
        OlderPair {
            pair: self.header.pair,
            last_certain: last,
            segment_blocks: self.header.segment_blocks,
            trailer: Some(Trailer {
                pair: self.header.pair,
                first: (self.header.first_chain, self.header.body_block()),
                last: (last, self.next_block),
                figures: self.figures,
            }),
            trailer_durable: false,
        }
    }

    /// Seals `batch` into the next extent and slot. `blocks_wanted` are those of the greatest extent that is in sight:
    /// so that nonces are reserved in time.
    pub fn chain(
        &mut self,
        cipher: &SegmentCipher,
        pool: &mut BlockPool,
        chain: ChainNumber,
        batch: &Batch,
        blocks_wanted: u32,
        known: &Known,
    ) -> (DurableChain, ExtentPlace) {
        let slot_number = self.next_slot;
        assert!(chain.get() == self.header.first_chain.get() + u64::from(slot_number));
        let stored = batch.stored(&self.header.format);
        let place = self.take_place(chain, batch, stored.len());
        self.nonces.reserved = self.reservation.ride(chain, self.next_block, blocks_wanted);
        let mut log = pool.take(place.blocks as usize);
        let records = (&*stored, batch.count);
        self.previous = seal_extent(
            cipher,
            place.first_block,
            chain,
            self.previous,
            records,
            log.as_mut_slice(),
        );
        let ledger_block = self.header.body_block() + slot_number;
        let mut ledger = pool.take(1);
        self.write_slot(
            place,
            known,
            batch.items.bytes(),
            &mut ledger.as_mut_slice()[0],
        );
        let operation = DurableChain {
            chain,
            pair: self.header.pair,
            log_block: place.first_block,
            log,
            ledger_block,
            ledger,
            flush: FlushKind::default(),
        };
        (operation, place)
    }

    fn take_place(
        &mut self,
        chain: ChainNumber,
        batch: &Batch,
        stored_bytes: usize,
    ) -> ExtentPlace {
        let place = ExtentPlace {
            pair: self.header.pair,
            chain,
            first_block: self.next_block,
            blocks: extent_blocks(stored_bytes),
        };
        self.next_block += place.blocks;
        self.next_slot += 1;
        assert!(self.next_block <= self.blocks_ready);
        assert!(self.next_slot <= self.header.slots());
        assert!(self.reservation.covers(self.next_block));
        self.figures.add_extent(
            (place.first_block, place.blocks),
            &batch.records,
            batch.count,
        );
        if let Some(tree) = &mut self.tree {
            let root = extent_root(self.header.format.hash, &batch.records);
            let root = root.expect("a batch holds frames that were parsed when they came");
            self.figures.merkle_root = Some(tree.push(&root));
        }
        place
    }

    fn write_slot(
        &mut self,
        place: ExtentPlace,
        known: &Known,
        items: &[u8],
        block: &mut crate::buffer::Block,
    ) {
        self.payload.clear();
        let slot = Slot {
            chain: place.chain,
            retired: known.retired,
            first_block: place.first_block,
            blocks: place.blocks,
            digest: self.previous,
            io_writer_mode: known.io_writer_mode,
            figures: self.figures,
            sweep: known.sweep,
            nonces: core::mem::take(&mut self.nonces),
        };
        slot.encode(self.header.format.ledger_encoding, items, &mut self.payload);
        let slot_number = (place.chain.get() - self.header.first_chain.get()) as u32;
        authenticate(
            &self.integrity,
            FileKind::Ledger,
            self.header.pair,
            self.header.body_block() + slot_number,
            &self.payload,
            block,
        );
    }

    /// Header, checkpoint and what is written again, into both files. `abandoned`: the pair of which the rest will not be
    /// sealed.
    pub fn opening(
        &mut self,
        cipher: &SegmentCipher,
        pool: &mut BlockPool,
        (checkpoint, rewrite): (&[u8], &Batch),
        abandoned: Option<NonceReservationAbandon>,
        known: &Known,
    ) -> (DurableChain, ExtentPlace) {
        let chain = self.header.first_chain;
        self.nonces.abandoned = abandoned;
        let body = self.header.body_block() as usize;
        let stored = rewrite.stored(&self.header.format);
        let place = self.take_place(chain, rewrite, stored.len());
        let mut log = pool.take(body + place.blocks as usize);
        let (front, extent) = log.as_mut_slice().split_at_mut(body);
        self.header
            .encode(FileKind::Segment, &self.integrity, &mut front[0]);
        seal_payloads(
            cipher,
            1,
            chain,
            BlockUse::Checkpoint,
            checkpoint.chunks(PAYLOAD_BYTES),
            &mut front[1..],
        );
        self.previous = seal_extent(
            cipher,
            place.first_block,
            chain,
            [0; 32],
            (&stored, rewrite.count),
            extent,
        );
        let mut ledger = pool.take(body + 1);
        let (front, slot) = ledger.as_mut_slice().split_at_mut(body);
        self.header
            .encode(FileKind::Ledger, &self.integrity, &mut front[0]);
        for (number, (payload, block)) in
            (1u32..).zip(checkpoint.chunks(PAYLOAD_BYTES).zip(&mut front[1..]))
        {
            authenticate(
                &self.integrity,
                FileKind::Ledger,
                self.header.pair,
                number,
                payload,
                block,
            );
        }
        self.write_slot(place, known, &[], &mut slot[0]);
        let operation = DurableChain {
            chain,
            pair: self.header.pair,
            log_block: 0,
            log,
            ledger_block: 0,
            ledger,
            flush: FlushKind::default(),
        };
        (operation, place)
    }
}

/// The cipher of a pair's segment.
pub(super) fn cipher_of(keys: &ShardKeys, header: &PairHeader) -> SegmentCipher {
    let sealer = keys
        .segment_sealer(header.format.sealing, header.dek_epoch, &header.salt)
        .expect(
            "the suite of a header is judged when it is read, that of the options at the start",
        );
    SegmentCipher::new(sealer, header)
}

const _: () = assert!(EXTENT_HEADER_BYTES < PAYLOAD_BYTES);
