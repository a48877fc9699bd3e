//! A log of two pairs, all of it retired, for tests of what becomes of it.
#![allow(dead_code, unreachable_pub)]

use clustor_shards::buffer::Block;
use clustor_shards::disk::FileId;
use clustor_shards::log::{HardState, Mode};
use clustor_wire::ids::{Incarnation, NodeId, PairNumber, PartitionId, Term};

use super::{MemoryDisk, append, settle, start};

pub const P: PartitionId = PartitionId(1);
pub const ENTRIES: u64 = 60;

pub fn body(index: u64) -> Vec<u8> {
    vec![index as u8; 700]
}

/// A disk with two pairs: 60 entries in twenty chains, a vote in the middle, everything retired.
pub fn written() -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    for index in 1..=ENTRIES {
        append(&mut log, 1, 1, index, &body(index), Mode::Group);
        if index == ENTRIES / 2 {
            log.hard_state(P, vote());
        }
        if index % 3 == 0 {
            settle(&mut log, &mut disk);
        }
    }
    // A chain behind the last one of interest, so that it is known to have retired.
    log.hard_state(P, vote());
    settle(&mut log, &mut disk);
    disk
}

pub fn vote() -> HardState {
    HardState {
        term: Term(1),
        vote: Some(NodeId(2)),
    }
}

pub fn touched_blocks(disk: &MemoryDisk, file: FileId) -> Vec<u32> {
    let is_touched = |block: &Block| block.0.iter().any(|byte| *byte != 0);
    (0u32..)
        .zip(&disk.files[&file])
        .filter(|(_, block)| is_touched(block))
        .map(|(number, _)| number)
        .collect()
}

pub fn newest_used(disk: &MemoryDisk) -> PairNumber {
    disk.files
        .keys()
        .map(|file| file.pair)
        .filter(|pair| touched_blocks(disk, FileId::ledger(*pair)).len() > 3)
        .max()
        .expect("a used pair")
}
