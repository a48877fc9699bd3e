//! An honest disk in memory: everything that is submitted succeeds, at once and in order.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use clustor_shards::buffer::{Block, BlockPool, Blocks, SizeClass};
use clustor_shards::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, FileId, FoundPair, RetirePair, SPARE_ZERO_BLOCKS,
};
use clustor_shards::log::audit::{Audit, AuditReport, Checked, Checker, Piece};
use clustor_shards::log::record::{RecordKind, decode_record, encode_record};
use clustor_shards::log::{
    Kek, KeyError, KeyProvider, LogIdentity, LogOptions, Mode, RecoverError, Recovery, Retirement,
    ShardLog,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{ClusterId, LogIndex, NodeId, PartitionId, ShardId, Term};

#[derive(Default, Clone)]
pub struct MemoryDisk {
    pub files: BTreeMap<FileId, Vec<Block>>,
    /// Segments that wait to become another pair's.
    pub kept: Vec<Vec<Block>>,
    /// Of the last pair, in each byte.
    pub salts: u8,
    /// What was read, in order: the file and the first block.
    pub reads: Vec<(FileId, u32)>,
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
        let blocks = self.files.get(&file).map_or(&[][..], Vec::as_slice);
        for (at, place) in (block as usize..).zip(into.as_mut_slice()) {
            *place = blocks.get(at).copied().unwrap_or(Block::ZERO);
        }
        Ok(())
    }

    fn is_written(&mut self, _: FileId) -> bool {
        true
    }

    fn keep(&mut self, blocks: u32, count: u32) -> Result<(), DiskError> {
        self.kept.retain(|kept| kept.len() == blocks as usize);
        self.kept.truncate(count as usize);
        Ok(())
    }
}

pub struct TestKey(pub u8);

impl KeyProvider for TestKey {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(Kek::new(zeroize::Zeroizing::new([self.0; 32])))
    }
}

pub fn identity() -> LogIdentity {
    LogIdentity {
        cluster: ClusterId(7),
        node: NodeId(1),
        shard: ShardId(0),
    }
}

pub fn options() -> LogOptions {
    LogOptions::for_segment_bytes(256 << 10)
}

pub fn pool() -> BlockPool {
    BlockPool::new(&[SizeClass {
        blocks: 4,
        runs: 16,
    }])
}

pub fn recover(disk: &mut MemoryDisk) -> Recovery {
    ShardLog::recover(disk, identity(), options(), &TestKey(9), pool()).expect("recovers")
}

/// Carries operations until nothing is left to do.
pub fn settle(log: &mut ShardLog, disk: &mut MemoryDisk) -> Retirement {
    let mut retirement = Retirement::default();
    loop {
        let mut ops = Vec::new();
        log.poll(Time(0), &mut ops);
        if ops.is_empty() {
            return retirement;
        }
        for op in ops {
            let event = disk.carry(op);
            log.on_event(Time(0), event, &mut retirement);
        }
    }
}

/// A recovered log that has opened its pair.
pub fn start(disk: &mut MemoryDisk) -> ShardLog {
    let mut log = recover(disk).log;
    settle(&mut log, disk);
    assert!(log.is_open());
    log
}

pub fn append(log: &mut ShardLog, partition: u128, term: u64, index: u64, body: &[u8], mode: Mode) {
    let mut frame = Vec::new();
    encode_record(
        &mut frame,
        RecordKind::Entry,
        PartitionId(partition),
        Term(term),
        LogIndex(index),
        body,
    );
    log.append(&decode_record(&frame).expect("decodes"), mode);
}

pub fn durable(log: &ShardLog, partition: u128) -> u64 {
    log.durable(PartitionId(partition))
        .map_or(0, |durable| durable.index().get())
}

fn check(audit: &mut Audit, disk: &mut dyn BootDisk, pieces: Vec<Piece>) {
    let mut checker = Checker::new(audit, disk);
    // The order is nobody's business.
    let checked: Vec<Checked> = pieces
        .iter()
        .rev()
        .map(|piece| checker.check(piece))
        .collect();
    for checked in checked {
        audit.take(checked);
    }
}

/// Everything read, verified and judged.
pub fn audit(disk: &mut dyn BootDisk) -> Result<AuditReport, RecoverError> {
    let mut audit = Audit::begin(disk, identity(), &TestKey(9))?;
    let pieces = audit.ledger_pieces();
    check(&mut audit, disk, pieces);
    let pieces = audit.extent_pieces();
    check(&mut audit, disk, pieces);
    audit.finish(disk, &TestKey(9))
}
