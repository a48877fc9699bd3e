//! What the disks alone say: each is copied as a power loss would leave it, recovered, and looked at.

use clustor_shards::buffer::{BlockPool, SizeClass};
use clustor_shards::log::inspect::{PairView, Selection, inspect};
use clustor_shards::log::recovery::RecoverError;
use clustor_shards::log::{LogIdentity, ShardLog};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::Violation;
use crate::cluster::host::SimKey;
use crate::cluster::layout::{CLUSTER, Layout};
use crate::disk::{DiskImage, SimDisk};

/// The log on a copy of a disk from which a power loss has taken everything that was not flushed.
///
/// # Errors
/// If it can't be recovered.
pub(crate) fn recovered(
    layout: &Layout,
    shard: PeerId,
    disk: &SimDisk,
) -> Result<ShardLog, Violation> {
    recovered_from(layout, shard, disk.image())
}

/// The log in an image of a disk.
///
/// # Errors
/// If it can't be recovered.
pub(crate) fn recovered_from(
    layout: &Layout,
    shard: PeerId,
    image: DiskImage,
) -> Result<ShardLog, Violation> {
    let mut copy = SimDisk::new(0);
    copy.restore(image);
    let identity = identity_of(shard);
    let pool = BlockPool::new(&[SizeClass { blocks: 1, runs: 1 }]);
    let options = layout.profile.log_options(0);
    ShardLog::recover(&mut copy, identity, options, &SimKey, pool)
        .map(|recovery| recovery.log)
        .map_err(|error| Violation::new("a shard boots from its own disk", error.to_string()))
}

const fn identity_of(shard: PeerId) -> LogIdentity {
    LogIdentity {
        cluster: CLUSTER,
        node: shard.node,
        shard: shard.shard,
    }
}

/// Every pair of a shard, as a power loss would leave its disk.
///
/// # Errors
/// If its files are not a shard's.
pub(crate) fn each_pair(
    shard: PeerId,
    disk: &SimDisk,
    mut each: impl FnMut(&PairView),
) -> Result<(), Violation> {
    let mut copy = SimDisk::new(0);
    copy.restore(disk.image());
    inspect(
        &mut copy,
        identity_of(shard),
        &SimKey,
        &Selection::ALL,
        |pair| {
            each(&pair);
            Ok::<(), RecoverError>(())
        },
    )
    .map_err(|error| Violation::new("a shard's files can be read", error.to_string()))
}

/// Whether a recovered log holds an entry, content and all, or gave it up, as it may what is committed and saved by its machine. What it
/// lost below, and had applied before, withdraws nothing that was counted.
pub(crate) fn holds(log: &ShardLog, partition: PartitionId, index: LogIndex, term: Term) -> bool {
    log.quarantine().is_none()
        && log.partition(partition).is_some_and(|log| {
            index <= log.base || log.term_at(index) == Some(term) && !log.is_missing(index)
        })
}
