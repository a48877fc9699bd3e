//! A log that gives up its beginning while its node is down, as one does whose machine needs it no more.

use clustor_shards::log::{LogIdentity, Retirement, ShardLog};
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, PartitionId};

use super::super::check::Violation;
use super::super::host::SimKey;
use super::super::layout::CLUSTER;
use super::World;
use crate::disk::{Crash, Fate};

/// Turns after which a log must have done what it was asked for.
const TURNS_MAX: usize = 100_000;
/// How much time passes in a turn where the disk has nothing to do, in milliseconds.
const TURN_MS: u64 = 50;

impl World {
    /// Starts the log of a shard whose node is down, and nothing else of it, lets it give up a partition's entries up to
    /// `until`, as far as they are durable, and ends it when that has reached the disk.
    ///
    /// # Errors
    /// If it can't be recovered, or does not come to an end.
    ///
    /// # Panics
    /// If the node runs.
    pub fn shorten(
        &mut self,
        shard: PeerId,
        partition: PartitionId,
        until: LogIndex,
    ) -> Result<(), Violation> {
        assert!(!self.node_runs(shard.node), "a log has one owner");
        self.note(|| format!("node {}'s log gives up up to {until}", shard.node));
        let options = self.layout.profile_of(shard.node).log_options(0);
        let identity = LogIdentity {
            cluster: CLUSTER,
            node: shard.node,
            shard: shard.shard,
        };
        let disk = &mut self.host_mut(shard).disk;
        let recovery = ShardLog::recover(disk, identity, options, &SimKey, options.pool());
        let mut log = recovery
            .map_err(|error| Violation::new("a shard boots from its own disk", error.to_string()))?
            .log;
        let (mut events, mut ops) = (Vec::new(), Vec::new());
        let mut retirement = Retirement::default();
        let mut now = Time::default();
        for _ in 0..TURNS_MAX {
            disk.take_events(&mut events);
            for event in events.drain(..) {
                log.on_event(now, event, &mut retirement);
            }
            log.set_floor(partition, until);
            log.poll(now, &mut ops);
            let rests = ops.is_empty();
            ops.drain(..).for_each(|op| disk.submit(op));
            let base = log.partition(partition).map(|log| log.base);
            if base >= Some(until) && rests && log.is_settled() {
                disk.crash_with(Crash::Kill, Fate::Landed);
                return Ok(());
            }
            if !disk.step() {
                now = now.plus_ms(TURN_MS);
            }
        }
        Err(Violation::new(
            "a log gives up its beginning",
            format!(
                "p{} on {}: {:?}, asked for is {until}",
                partition.get(),
                shard.node,
                log.partition(partition).map(|log| log.base)
            ),
        ))
    }
}
