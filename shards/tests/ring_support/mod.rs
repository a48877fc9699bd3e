//! What the ring's and the runtime's tests share: a directory that takes direct I/O, and waiting for events.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use clustor_shards::buffer::{BLOCK_BYTES, Block, BlockPool, Blocks, SizeClass};
use clustor_shards::disk::{
    DiskError, DiskEvent, DiskOp, DurableChain, FileId, FlushKind, PreparePair, ReadBlocks,
};
use clustor_shards::uring::ShardRing;
use clustor_wire::ids::{ChainNumber, PairNumber};
use std::path::Path;

/// A directory beside the test's own binary: /tmp may be a memory file system.
pub fn directory() -> tempfile::TempDir {
    let binary = std::env::current_exe().expect("a test has a binary");
    let beside = binary.parent().expect("a binary lies in a directory");
    tempfile::Builder::new()
        .prefix("ring-test-")
        .tempdir_in(beside)
        .expect("a directory can be made beside the test's binary")
}

pub fn pool() -> BlockPool {
    BlockPool::new(&[
        SizeClass {
            blocks: 1,
            runs: 32,
        },
        SizeClass {
            blocks: 16,
            runs: 16,
        },
    ])
}

/// Drains until `enough` says so; panics after 20 seconds without.
pub fn until(
    ring: &mut ShardRing,
    events: &mut Vec<DiskEvent>,
    mut enough: impl FnMut(&[DiskEvent]) -> bool,
) {
    let begun = std::time::Instant::now();
    ring.enter().expect("the ring takes submissions");
    while !enough(events) {
        assert!(
            begun.elapsed().as_secs() < 20,
            "nothing more came; so far: {events:?}"
        );
        ring.wait().expect("the ring waits");
        ring.drain(events).expect("the ring drains");
        // Neither answers anything: how full the disk is, and how the making of a pair fares.
        events
            .retain(|event| !matches!(event, DiskEvent::Used { .. } | DiskEvent::Advanced { .. }));
    }
}

/// Starts an operation that nothing is in flight beside, and waits for what it comes to.
pub fn carried(ring: &mut ShardRing, op: DiskOp) -> Vec<DiskEvent> {
    ring.start(op).expect("the ring takes submissions");
    let mut events = Vec::new();
    until(ring, &mut events, |events| !events.is_empty());
    events
}

/// Makes a pair and waits until the whole of it is zeroed.
pub fn prepare(ring: &mut ShardRing, pair: u64, segment_blocks: u32, ledger_blocks: u32) {
    ring.start(DiskOp::Prepare(PreparePair {
        pair: PairNumber(pair),
        segment_blocks,
        ledger_blocks,
    }))
    .expect("the ring takes submissions");
    let mut events = Vec::new();
    until(ring, &mut events, |events| {
        events.iter().any(|event| match event {
            DiskEvent::Prepared {
                segment_blocks_ready,
                ..
            }
            | DiskEvent::Progress {
                segment_blocks_ready,
                ..
            } => *segment_blocks_ready == segment_blocks,
            DiskEvent::PrepareFailed { error, .. } => panic!("pair {pair}: {error}"),
            _ => false,
        })
    });
}

pub fn filled(mut run: Blocks, byte: u8) -> Blocks {
    run.as_mut_slice().fill(Block([byte; BLOCK_BYTES]));
    run
}

pub fn chain(
    number: u64,
    pair: u64,
    log_block: u32,
    log: Blocks,
    ledger_block: u32,
    ledger: Blocks,
) -> DurableChain {
    DurableChain {
        chain: ChainNumber(number),
        pair: PairNumber(pair),
        log_block,
        log,
        ledger_block,
        ledger,
        flush: FlushKind::Fdatasync,
    }
}

pub fn block_of(path: &Path, block: usize) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("the file can be read");
    bytes[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES].to_vec()
}

/// What a file holds.
///
/// # Errors
/// Of the read.
pub fn read_back(
    ring: &mut ShardRing,
    file: FileId,
    block: u32,
    blocks: usize,
) -> Result<Vec<u8>, DiskError> {
    let into = filled(Blocks::from_heap(blocks), 0xEE);
    ring.start(DiskOp::Read(ReadBlocks {
        token: 9,
        file,
        block,
        into,
    }))
    .expect("the ring takes submissions");
    let mut events = Vec::new();
    until(ring, &mut events, |events| !events.is_empty());
    match events.pop() {
        Some(DiskEvent::Read {
            token: 9,
            outcome,
            blocks,
            ..
        }) => outcome.map(|()| blocks.as_slice().iter().flat_map(|block| block.0).collect()),
        other => panic!("a read is answered by its event, not {other:?}"),
    }
}
