//! A log over an honest disk in memory.
#![allow(dead_code, unreachable_pub)]

mod memory_disk;
pub mod written;

use clustor_shards::buffer::{BlockPool, SizeClass};
use clustor_shards::disk::BootDisk;
use clustor_shards::log::audit::{Audit, AuditReport, Checked, Checker, Piece};
use clustor_shards::log::inspect::{PairView, Selection, inspect};
use clustor_shards::log::record::{RecordKind, decode_record, encode_record};
use clustor_shards::log::{
    Kek, KeyError, KeyProvider, LogIdentity, LogOptions, Mode, RecoverError, Recovery, Retirement,
    ShardLog,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{ClusterId, LogIndex, NodeId, PartitionId, ShardId, Term};
pub use memory_disk::MemoryDisk;

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

fn check(audit: &mut Audit, disk: &mut dyn BootDisk, pieces: &[Piece]) -> Result<(), RecoverError> {
    let mut checker = Checker::new(audit, disk);
    // The order is nobody's business.
    let checked = pieces.iter().rev().map(|piece| checker.check(piece));
    let checked: Vec<Checked> = checked.collect::<Result<_, _>>()?;
    for checked in checked {
        audit.take(checked);
    }
    Ok(())
}

/// Everything read, verified and judged.
pub fn audit(disk: &mut dyn BootDisk) -> Result<AuditReport, RecoverError> {
    audit_of(disk, identity())
}

/// The same of somebody else's.
pub fn audit_of(
    disk: &mut dyn BootDisk,
    identity: LogIdentity,
) -> Result<AuditReport, RecoverError> {
    let mut audit = Audit::begin(disk, identity, &TestKey(9))?;
    while audit.next_pair().is_some() {
        let pieces = audit.ledger_pieces();
        check(&mut audit, disk, &pieces)?;
        let pieces = audit.extent_pieces();
        check(&mut audit, disk, &pieces)?;
        audit.judge(disk)?;
    }
    let started = audit.start().try_on(disk)?;
    Ok(audit.finish(started))
}

/// All that an inspection shows, pair by pair.
pub fn views(disk: &mut MemoryDisk) -> Vec<PairView> {
    let mut views = Vec::new();
    inspect(disk, identity(), &TestKey(9), &Selection::ALL, |view| {
        views.push(view);
        Ok::<_, RecoverError>(())
    })
    .expect("this shard's directory");
    views
}
