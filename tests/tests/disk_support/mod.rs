//! A simulated disk with one pair, and what is asked of it.
#![allow(unreachable_pub)]

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::{DiskEvent, DiskOp, DurableChain, FileId, FlushKind, PreparePair};
use clustor_sim::disk::SimDisk;
use clustor_wire::ids::{ChainNumber, PairNumber};

pub const PAIR: PairNumber = PairNumber(1);
pub const SEGMENT: FileId = FileId::segment(PAIR);
pub const LEDGER: FileId = FileId::ledger(PAIR);

pub fn filled(len: usize, byte: u8) -> Blocks {
    let mut blocks = Blocks::from_heap(len);
    for block in blocks.as_mut_slice() {
        block.0.fill(byte);
    }
    blocks
}

pub fn chain(number: u64, log_block: u32, ledger_block: u32) -> DiskOp {
    let byte = number as u8;
    DiskOp::Chain(DurableChain {
        chain: ChainNumber(number),
        pair: PAIR,
        log_block,
        log: filled(1, byte),
        ledger_block,
        ledger: filled(1, byte),
        flush: FlushKind::Fdatasync,
    })
}

pub fn prepare(pair: PairNumber, segment_blocks: u32) -> DiskOp {
    DiskOp::Prepare(PreparePair {
        pair,
        segment_blocks,
        ledger_blocks: 8,
    })
}

pub fn events(disk: &mut SimDisk) -> Vec<DiskEvent> {
    let mut events = Vec::new();
    disk.take_events(&mut events);
    events.retain(|event| !matches!(event, DiskEvent::Advanced { .. }));
    events
}

/// A disk with one pair in place.
pub fn prepared(seed: u64) -> SimDisk {
    let mut disk = SimDisk::new(seed);
    disk.submit(prepare(PAIR, 16));
    disk.run_until_idle();
    assert!(matches!(
        events(&mut disk)[..],
        [DiskEvent::Prepared {
            segment_blocks_ready: 16,
            ..
        }]
    ));
    disk
}
