//! One file: what is durable, what is only in the device's cache, and what a crash makes of the two.
//!
//! Content is kept in 4 KiB pages that are shared and never changed in place; a page that is absent reads as
//! zero, so a prepared file of any size costs nothing until it is written. Every completed write that no
//! flush has covered is kept as a [`Version`] of its block; [`SimFile::view`] is what a reader sees.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use clustor_shards::buffer::{BLOCK_BYTES, Block};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::Fate;

/// Bytes that a device writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
const SECTORS: usize = BLOCK_BYTES / SECTOR_BYTES;
/// A set of sectors of one block, one bit each.
pub type SectorMask = u8;
const ALL_SECTORS: SectorMask = SectorMask::MAX;
const _: () = assert!(SECTORS == SectorMask::BITS as usize);

type Page = Arc<[u8; BLOCK_BYTES]>;

/// A number that tells contents apart, well enough for a test.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// A completed write of one block that no flush has covered.
#[derive(Debug, Clone)]
struct Version {
    /// Which write; all blocks of one write share it.
    write: u64,
    block: u32,
    page: Page,
    sectors: SectorMask,
    /// A flush that covered it failed: no later flush makes it durable.
    doomed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct SimFile {
    blocks: u32,
    /// Blocks from the start that are zeroed and flushed: the file is usable below.
    ready: u32,
    /// Every block of it was written once, as whichever pair's.
    whole: bool,
    durable: BTreeMap<u32, Page>,
    view: BTreeMap<u32, Page>,
    pending: Vec<Version>,
    /// The last write that completed.
    writes: u64,
    /// Blocks that were handed over to be written, whether or not they landed.
    submitted: BTreeSet<u32>,
    /// The trailer that was handed over.
    trailer: Option<Page>,
    /// What each of them was first handed over with, as a checksum: whatever lies there by now, only the same may be
    /// written again.
    first_bytes: BTreeMap<u32, u32>,
    /// Reads that still fail, by block; `u32::MAX` for ever.
    unreadable: BTreeMap<u32, u32>,
    /// The salt that was reported for it, of a segment.
    salt: Option<[u8; 32]>,
}

/// `page` with `sectors` of `over` laid on it.
fn merge(page: Option<&Page>, over: &Page, sectors: SectorMask) -> Page {
    if sectors == ALL_SECTORS {
        return Arc::clone(over);
    }
    let mut bytes = page.map_or([0; BLOCK_BYTES], |page| **page);
    for sector in 0..SECTORS {
        if sectors & (1 << sector) != 0 {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            bytes[range.clone()].copy_from_slice(&over[range]);
        }
    }
    Arc::new(bytes)
}

impl SimFile {
    pub(super) fn new(blocks: u32) -> Self {
        Self {
            blocks,
            ready: 0,
            whole: false,
            durable: BTreeMap::new(),
            view: BTreeMap::new(),
            pending: Vec::new(),
            writes: 0,
            submitted: BTreeSet::new(),
            trailer: None,
            first_bytes: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            salt: None,
        }
    }

    pub(super) fn salt(&self) -> Option<[u8; 32]> {
        self.salt
    }

    pub(super) fn set_salt(&mut self, salt: [u8; 32]) {
        self.salt = Some(salt);
    }

    /// Becomes another pair's: what it holds stays, and counts for nothing.
    pub(super) fn begin_again(&mut self) {
        self.ready = 0;
        self.pending.clear();
        self.view = self.durable.clone();
        self.submitted.clear();
        self.trailer = None;
        self.first_bytes.clear();
        self.salt = None;
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Whether it was zeroed to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn set_ready(&mut self, ready: u32) {
        self.ready = ready.min(self.blocks);
        self.whole |= self.ready == self.blocks;
    }

    /// Notes that `run` is about to be written from `block` on, and says what is wrong with that: beyond the
    /// usable part, or over a block that was written before with other bytes (two plaintexts under one nonce).
    pub(super) fn admit(&mut self, block: u32, run: &[Block]) -> Result<(), String> {
        let end = u64::from(block) + run.len() as u64;
        if run.is_empty() || end > u64::from(self.ready) {
            return Err(format!(
                "a write of blocks {block}..{end}, usable are 0..{} of {}",
                self.ready, self.blocks
            ));
        }
        for (at, bytes) in (block..).zip(run) {
            self.submitted.insert(at);
            let checksum = crc32c::crc32c(&bytes.0);
            if *self.first_bytes.entry(at).or_insert(checksum) != checksum {
                return Err(format!("block {at} is written a second time, differently"));
            }
        }
        Ok(())
    }

    /// Notes that a trailer is about to be written, and says what is wrong with that: it is outside the file, or not
    /// behind all else that was written, or another trailer was written before. The same may be written again.
    pub(super) fn admit_trailer(&mut self, block: u32, trailer: &Block) -> Result<(), String> {
        let last = self.submitted.last().copied().unwrap_or(0);
        if block >= self.blocks || block < last {
            return Err(format!(
                "a trailer at block {block} of {}, the last written is {last}",
                self.blocks
            ));
        }
        let first = self.submitted.insert(block);
        let before = self.trailer.replace(Arc::new(trailer.0));
        match before {
            None if !first => Err(format!("a trailer at block {block}, which is in use")),
            Some(before) if before != Arc::new(trailer.0) => {
                Err("a second trailer that is another".into())
            }
            _ => Ok(()),
        }
    }

    /// Completes a write: `keep` says which sectors of each block landed.
    pub(super) fn write(
        &mut self,
        block: u32,
        run: &[Block],
        mut keep: impl FnMut() -> SectorMask,
    ) {
        self.writes += 1;
        for (at, bytes) in (block..).zip(run) {
            let sectors = keep();
            if sectors == 0 || at >= self.blocks {
                continue;
            }
            let page = Arc::new(bytes.0);
            self.view
                .insert(at, merge(self.view.get(&at), &page, sectors));
            self.unreadable.remove(&at);
            self.pending.push(Version {
                write: self.writes,
                block: at,
                page,
                sectors,
                doomed: false,
            });
        }
    }

    /// Which writes a flush issued at this moment covers.
    pub(super) fn flush_begins(&self) -> u64 {
        self.writes
    }

    /// The flush that covers all writes up to `cover` succeeded.
    pub(super) fn flush_succeeds(&mut self, cover: u64) {
        self.settle_writes(0, cover);
    }

    /// The last write completed as one that is durable by itself: it, and no other, is.
    pub(super) fn last_write_settles(&mut self) {
        self.settle_writes(self.writes, self.writes);
    }

    fn settle_writes(&mut self, from: u64, to: u64) {
        let (covered, rest) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|version| {
                (from..=to).contains(&version.write) && !version.doomed
            });
        self.pending = rest;
        for version in covered {
            self.settle(&version, version.sectors);
        }
    }

    /// The flush that covers all writes up to `cover` failed: some of them are gone at once, the others stay
    /// to be seen, but no flush makes them durable any more.
    pub(super) fn flush_fails(&mut self, cover: u64, rng: &mut Xoshiro256PlusPlus) {
        self.doom_writes(0, cover, rng);
    }

    /// The last write, which was to be durable when it completed, failed to be.
    pub(super) fn last_write_fails(&mut self, rng: &mut Xoshiro256PlusPlus) {
        self.doom_writes(self.writes, self.writes, rng);
    }

    fn doom_writes(&mut self, from: u64, to: u64, rng: &mut Xoshiro256PlusPlus) {
        let mut touched = BTreeSet::new();
        self.pending.retain_mut(|version| {
            if !(from..=to).contains(&version.write) {
                return true;
            }
            version.doomed = true;
            match rng.random_range(0..4) {
                0 => version.sectors = 0,
                1 => version.sectors &= rng.random::<SectorMask>(),
                _ => return true,
            }
            touched.insert(version.block);
            version.sectors != 0
        });
        for block in touched {
            self.rebuild_view(block);
        }
    }

    /// The flush that covers all writes up to `cover` is reported as done, and nothing was: what it covered
    /// can still be read, and no flush makes it durable any more.
    pub(super) fn flush_lies(&mut self, cover: u64) {
        self.forget_writes(0, cover);
    }

    /// As [`Self::flush_lies`], of the last write alone, which was to be durable when it completed.
    pub(super) fn last_write_lies(&mut self) {
        self.forget_writes(self.writes, self.writes);
    }

    fn forget_writes(&mut self, from: u64, to: u64) {
        for version in &mut self.pending {
            version.doomed |= (from..=to).contains(&version.write);
        }
    }

    /// The sectors of a write to `block` that would change what is durable there.
    pub(super) fn telling_sectors(&self, block: u32, bytes: &[u8; BLOCK_BYTES]) -> SectorMask {
        if self.pending.iter().filter(|v| v.block == block).count() > 1 {
            return ALL_SECTORS; // What one leaves out may show through another.
        }
        let durable = self.durable.get(&block);
        let mut telling = 0;
        for sector in 0..SECTORS {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            let old = durable.map_or(&[0; SECTOR_BYTES][..], |page| &page[range.clone()]);
            telling |= SectorMask::from(*old != bytes[range]) << sector;
        }
        telling
    }

    /// Of every unflushed write, in order, the block and the sectors of which a power loss decides.
    pub(super) fn unflushed(&self) -> impl Iterator<Item = (u32, SectorMask)> {
        self.pending.iter().map(|version| {
            let telling = self.telling_sectors(version.block, &version.page);
            (version.block, telling & version.sectors)
        })
    }

    /// As [`Self::lose_power`], where `keep` says in order which sectors of each unflushed write survive.
    pub(super) fn lose_power_keeping(&mut self, mut keep: impl FnMut() -> SectorMask) {
        for version in std::mem::take(&mut self.pending) {
            self.settle(&version, version.sectors & keep());
        }
        self.view = self.durable.clone();
    }

    /// Adds what the file holds, readable and durable, to a fingerprint.
    pub(super) fn fingerprint(&self, into: &mut DefaultHasher) {
        (self.blocks, self.ready, self.salt).hash(into);
        for (block, page) in self.durable.iter().chain(&self.view) {
            block.hash(into);
            page[..].hash(into);
        }
        for version in &self.pending {
            (version.block, version.sectors, version.doomed).hash(into);
        }
    }

    /// What every unflushed write comes to in a power loss.
    pub(super) fn lose_power(&mut self, fate: Fate, rng: &mut Xoshiro256PlusPlus) {
        let pending = std::mem::take(&mut self.pending);
        let mut luck = None;
        for version in pending {
            let of_write = match luck {
                Some((write, luck)) if write == version.write => luck,
                _ => {
                    let drawn = Luck::draw(fate, rng);
                    luck = Some((version.write, drawn));
                    drawn
                }
            };
            self.settle(&version, version.sectors & of_write.sectors(rng));
        }
        self.view = self.durable.clone();
    }

    fn settle(&mut self, version: &Version, sectors: SectorMask) {
        if sectors != 0 {
            let page = merge(self.durable.get(&version.block), &version.page, sectors);
            self.durable.insert(version.block, page);
        }
    }

    fn rebuild_view(&mut self, block: u32) {
        let mut page = self.durable.get(&block).cloned();
        for version in self.pending.iter().filter(|v| v.block == block) {
            page = Some(merge(page.as_ref(), &version.page, version.sectors));
        }
        match page {
            Some(page) => self.view.insert(block, page),
            None => self.view.remove(&block),
        };
    }

    /// Fills `into` from `block` on; an error names the block that can't be read.
    pub(super) fn read(&mut self, block: u32, into: &mut [Block]) -> Result<(), u32> {
        for (at, out) in (block..).zip(into) {
            if let Some(left) = self.unreadable.get_mut(&at) {
                if *left != u32::MAX {
                    *left -= 1;
                    if *left == 0 {
                        self.unreadable.remove(&at);
                    }
                }
                return Err(at);
            }
            match self.view.get(&at) {
                Some(page) => out.0.copy_from_slice(&page[..]),
                None => out.0.fill(0),
            }
        }
        Ok(())
    }

    /// Turns over a few bits of a block, durably.
    pub(super) fn rot(&mut self, block: u32, rng: &mut Xoshiro256PlusPlus) {
        let mut mask = [0u8; BLOCK_BYTES];
        for _ in 0..rng.random_range(1..=3) {
            mask[rng.random_range(0..BLOCK_BYTES)] |= 1 << rng.random_range(0..8);
        }
        let flip = |page: Option<&Page>| {
            let mut bytes = page.map_or([0; BLOCK_BYTES], |page| **page);
            bytes.iter_mut().zip(&mask).for_each(|(b, m)| *b ^= m);
            Arc::new(bytes)
        };
        let (durable, view) = (flip(self.durable.get(&block)), flip(self.view.get(&block)));
        self.pending.retain(|version| version.block != block);
        self.durable.insert(block, durable);
        self.view.insert(block, view);
    }

    /// A block becomes `bytes`, durably.
    pub(super) fn overwrite(&mut self, block: u32, bytes: &[u8; BLOCK_BYTES]) {
        let page = Arc::new(*bytes);
        self.pending.retain(|version| version.block != block);
        self.durable.insert(block, Arc::clone(&page));
        self.view.insert(block, page);
    }

    /// Makes the next `times` reads of a block fail; `None` for ever. A write heals it.
    pub(super) fn make_unreadable(&mut self, block: u32, times: Option<u32>) {
        let times = times.unwrap_or(u32::MAX);
        if times > 0 {
            self.unreadable.insert(block, times);
        }
    }

    /// Blocks that were written and flushed, and have nothing pending over them.
    pub(super) fn at_rest(&self) -> Vec<u32> {
        let moving: BTreeSet<u32> = self.pending.iter().map(|version| version.block).collect();
        self.durable
            .keys()
            .copied()
            .filter(|block| !moving.contains(block))
            .collect()
    }

    /// Whether the block was ever handed over to be written.
    pub(super) fn is_submitted(&self, block: u32) -> bool {
        self.submitted.contains(&block)
    }
}

/// What a crash does to one write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Luck {
    Landed,
    Lost,
    Torn,
}

impl Luck {
    pub(super) fn draw(fate: Fate, rng: &mut Xoshiro256PlusPlus) -> Self {
        match fate {
            Fate::Landed => Self::Landed,
            Fate::Lost => Self::Lost,
            Fate::Torn => Self::Torn,
            Fate::Random => match rng.random_range(0..3) {
                0 => Self::Landed,
                1 => Self::Lost,
                _ => Self::Torn,
            },
        }
    }

    /// Which sectors of one block of the write landed.
    pub(super) fn sectors(self, rng: &mut Xoshiro256PlusPlus) -> SectorMask {
        match self {
            Self::Landed => ALL_SECTORS,
            Self::Lost => 0,
            Self::Torn => match rng.random_range(0..4) {
                0 => ALL_SECTORS,
                1 => 0,
                _ => rng.random::<SectorMask>(),
            },
        }
    }
}
