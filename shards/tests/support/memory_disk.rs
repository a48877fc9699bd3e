//! An honest disk in memory: everything that is submitted succeeds, at once and in order; what is not carried never happened.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::ops::Range;

use clustor_shards::buffer::{Block, Blocks};
use clustor_shards::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, FileId, FoundPair, RetirePair, SPARE_ZERO_BLOCKS,
};

#[derive(Default, Clone)]
pub struct MemoryDisk {
    pub files: BTreeMap<FileId, Vec<Block>>,
    /// Segments that wait to become another pair's.
    pub kept: Vec<Vec<Block>>,
    /// Of the last pair, in each byte.
    pub salts: u8,
    /// What was read, in order: the file and the first block.
    pub reads: Vec<(FileId, u32)>,
    /// Which of these fail, and how.
    pub failing: Option<(Range<usize>, DiskError)>,
    /// Blocks that can't be read.
    pub unreadable: Vec<(FileId, u32)>,
    /// Files that were not written from end to end.
    pub unwritten: Vec<FileId>,
}

impl MemoryDisk {
    pub fn carry(&mut self, op: DiskOp) -> DiskEvent {
        match op {
            DiskOp::Chain(chain) => {
                self.write(FileId::segment(chain.pair), chain.log_block, &chain.log);
                self.write(
                    FileId::ledger(chain.pair),
                    chain.ledger_block,
                    &chain.ledger,
                );
                DiskEvent::Chain {
                    chain: chain.chain,
                    log: chain.log,
                    ledger: chain.ledger,
                    outcome: Ok(()),
                }
            }
            DiskOp::Read(mut read) => {
                let outcome = BootDisk::read(self, read.file, read.block, &mut read.into);
                DiskEvent::Read {
                    token: read.token,
                    file: read.file,
                    block: read.block,
                    blocks: read.into,
                    outcome,
                }
            }
            DiskOp::Prepare(ask) => {
                self.salts += 1;
                let zeros = |blocks| vec![Block::ZERO; blocks as usize];
                let fits = |kept: &Vec<Block>| kept.len() == ask.segment_blocks as usize;
                let kept = self.kept.iter().position(fits);
                let recycled = kept.is_some();
                let mut segment =
                    kept.map_or_else(|| zeros(ask.segment_blocks), |at| self.kept.remove(at));
                segment[..SPARE_ZERO_BLOCKS as usize].fill(Block::ZERO);
                segment[ask.segment_blocks as usize - 1] = Block::ZERO;
                self.files.insert(FileId::segment(ask.pair), segment);
                self.files
                    .insert(FileId::ledger(ask.pair), zeros(ask.ledger_blocks));
                DiskEvent::Prepared {
                    pair: ask.pair,
                    salt: [self.salts; 32],
                    segment_blocks_ready: ask.segment_blocks,
                    recycled,
                }
            }
            DiskOp::Trailer(write) => {
                self.write(FileId::segment(write.pair), write.block, &write.trailer);
                DiskEvent::Trailer {
                    pair: write.pair,
                    trailer: write.trailer,
                    outcome: Ok(()),
                }
            }
            DiskOp::Retire(RetirePair {
                pair,
                keep_blocks,
                kept_max,
            }) => {
                let segment = self.files.remove(&FileId::segment(pair));
                self.files.remove(&FileId::ledger(pair));
                self.kept.truncate(kept_max as usize);
                if keep_blocks.is_some() && self.kept.len() < kept_max as usize {
                    self.kept.extend(segment);
                }
                DiskEvent::Removed {
                    pair,
                    outcome: Ok(()),
                }
            }
            DiskOp::Remove(pair) => {
                self.files.remove(&FileId::segment(pair));
                self.files.remove(&FileId::ledger(pair));
                DiskEvent::Removed {
                    pair,
                    outcome: Ok(()),
                }
            }
        }
    }

    fn write(&mut self, file: FileId, block: u32, blocks: &Blocks) {
        let place = block as usize..block as usize + blocks.len();
        self.files.get_mut(&file).expect("a prepared file")[place]
            .copy_from_slice(blocks.as_slice());
    }

    /// A file's blocks.
    pub fn file(&mut self, file: FileId) -> &mut Vec<Block> {
        self.files.get_mut(&file).expect("a file")
    }

    /// Every segment's blocks, to be damaged.
    pub fn segments(&mut self) -> impl Iterator<Item = &mut Vec<Block>> {
        self.files
            .iter_mut()
            .filter(|(file, _)| **file == FileId::segment(file.pair))
            .map(|(_, blocks)| blocks)
    }

    /// Flips one bit.
    pub fn flip(&mut self, file: FileId, block: u32, bit: usize) {
        self.files.get_mut(&file).expect("a file")[block as usize].0[bit / 8] ^= 1 << (bit % 8);
    }
}

impl BootDisk for MemoryDisk {
    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError> {
        let mut pairs: Vec<_> = self.files.keys().map(|file| file.pair).collect();
        pairs.dedup();
        let bytes = |file| {
            self.files
                .get(&file)
                .map(|blocks| blocks.len() as u64 * 4096)
        };
        Ok(pairs
            .into_iter()
            .map(|pair| FoundPair {
                pair,
                segment_bytes: bytes(FileId::segment(pair)),
                ledger_bytes: bytes(FileId::ledger(pair)),
            })
            .collect())
    }

    fn read(&mut self, file: FileId, block: u32, into: &mut Blocks) -> Result<(), DiskError> {
        self.reads.push((file, block));
        if let Some((which, error)) = &self.failing
            && which.contains(&(self.reads.len() - 1))
        {
            return Err(error.clone());
        }
        let place = block..block + into.len() as u32;
        let mut unreadable = self.unreadable.iter();
        if unreadable.any(|(bad, at)| *bad == file && place.contains(at)) {
            return Err(DiskError::Io("unreadable sector".to_owned()));
        }
        let blocks = self.files.get(&file).ok_or(DiskError::NoFile(file))?;
        for (at, place) in (block as usize..).zip(into.as_mut_slice()) {
            *place = blocks.get(at).copied().unwrap_or(Block::ZERO);
        }
        Ok(())
    }

    fn is_written(&mut self, file: FileId) -> bool {
        !self.unwritten.contains(&file)
    }

    fn keep(&mut self, blocks: u32, count: u32) -> Result<(), DiskError> {
        self.kept.retain(|kept| kept.len() == blocks as usize);
        self.kept.truncate(count as usize);
        Ok(())
    }
}
