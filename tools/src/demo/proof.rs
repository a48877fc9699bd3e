//! What was acknowledged, held against what the cluster answers and against what lies on the nodes' disks.

use std::collections::BTreeMap;
use std::time::Duration;

use clustor_engine::client::Client;
use clustor_shards::buffer::BlockPool;
use clustor_shards::log::{LogOptions, PartitionLog, ShardLog};
use clustor_wire::ids::PartitionId;

use super::SEGMENT_BYTES;
use super::load::{KeyState, Told};
use super::nodes::{NODES, Nodes};
use crate::exit::CommandError;
use crate::kv::KvAnswer;

/// The time one read is given.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Reads under way at once.
const READS_AT_ONCE: usize = 256;

/// How what was read differs from what was acknowledged.
#[derive(Debug, Default)]
pub(super) struct ReadBack {
    pub lost: u64,
    pub duplicated: u64,
}

/// Reads every key back, linearizably.
pub(super) fn read_back(client: &Client, told: &[Told]) -> Result<ReadBack, CommandError> {
    let keys: Vec<&KeyState> = told
        .iter()
        .flat_map(|told| &told.keys)
        .filter(|key| key.puts > 0)
        .collect();
    let mut found = ReadBack::default();
    for some in keys.chunks(READS_AT_ONCE) {
        let pending: Vec<_> = some
            .iter()
            .map(|key| client.read(key.partition, key.key.clone(), Some(READ_TIMEOUT)))
            .collect();
        for (key, pending) in some.iter().zip(pending) {
            let answer = pending.wait().map_err(CommandError::failed)?;
            let answer = KvAnswer::decode(&answer.reply)
                .ok_or_else(|| CommandError::failed("a read was answered by something else"))?;
            judge(key, answer, &mut found);
        }
    }
    Ok(found)
}

fn judge(key: &KeyState, answer: KvAnswer<'_>, found: &mut ReadBack) {
    // A write that nobody knows about may have happened once.
    let (value, more) = match &key.unknown {
        Some(unknown) if answer.value == Some(unknown) => (Some(unknown.as_slice()), 1),
        _ => (Some(key.value.as_slice()), 0),
    };
    if answer.value != value || answer.version < key.puts {
        found.lost += 1;
    } else if answer.version > key.puts + more {
        found.duplicated += answer.version - key.puts - more;
    }
}

/// Acknowledged writes that are not on a majority of the disks.
pub(super) fn unproven(nodes: &Nodes, told: &[Told]) -> Result<u64, CommandError> {
    let mut disks: Vec<BTreeMap<PartitionId, PartitionLog>> = Vec::new();
    for directory in nodes.directories()? {
        let mut partitions = BTreeMap::new();
        for shard in directory.shards().map_err(CommandError::failed)? {
            let (identity, mut disk) = directory.shard(shard).map_err(CommandError::failed)?;
            // What a restart would find: the same code, on the same files.
            let recovery = ShardLog::recover(
                &mut disk,
                identity,
                LogOptions::for_segment_bytes(SEGMENT_BYTES),
                directory.keys(),
                BlockPool::new(&[]),
            )
            .map_err(CommandError::failed)?;
            let found = recovery.log.partitions();
            partitions.extend(found.map(|(id, log)| (id, log.clone())));
        }
        disks.push(partitions);
    }
    let majority = usize::try_from(NODES / 2 + 1).unwrap_or(usize::MAX);
    let is_unproven = |acked: &&super::load::Acked| {
        let holders = disks.iter().filter(|disk| {
            disk.get(&acked.partition).is_some_and(|log| {
                log.term_at(acked.index) == Some(acked.term) && !log.is_missing(acked.index)
            })
        });
        holders.count() < majority
    };
    let all = told.iter().flat_map(|told| &told.acked);
    Ok(all.filter(is_unproven).count() as u64)
}
