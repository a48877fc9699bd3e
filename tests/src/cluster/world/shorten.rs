//! A log that gives up its beginning while its node is down, as one does whose machine needs it no more.

use clustor_shards::log::{LogIdentity, Retirement, ShardLog};
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, PartitionId};

use super::super::check::{Violation, must};
use super::super::host::SimKey;
use super::super::layout::CLUSTER;
use super::super::messages::name;
use super::World;
use crate::disk::{Crash, Fate};

/// Turns that a log is given for it, at most.
const TURNS_MAX: usize = 100_000;
/// How much time passes in a turn where the disk has nothing to do, in milliseconds.
const TURN_MS: u64 = 50;
/// Turns in a row in which nothing happens, after which nothing more will: the log looks every 100 ms at the latest for what it
/// may give up.
const REST_TURNS: usize = 20;

impl World {
    /// Starts the log of a shard whose node is down, and nothing else of it, lets it give up a partition's entries up to
    /// `until`, as far as they are durable, and ends it when that has reached the disk.
    ///
    /// # Errors
    /// If it can't be recovered, or gives up less.
    ///
    /// # Panics
    /// If the node runs.
    pub fn shorten(
        &mut self,
        shard: PeerId,
        partition: PartitionId,
        until: LogIndex,
    ) -> Result<(), Violation> {
        let bases = self.give_up(shard, &[(partition, until)])?;
        let base = bases.first().copied().flatten();
        must(base >= Some(until), "a log gives up its beginning", || {
            format!(
                "p{} on {}: {base:?}, asked for is {until}",
                partition.get(),
                shard.node
            )
        })
    }

    /// The same for several partitions at once, each up to an index: as much of it as the log's pairs let go of. Returns behind what
    /// each begins then.
    ///
    /// # Errors
    /// If the log can't be recovered.
    ///
    /// # Panics
    /// If the node runs.
    pub fn give_up(
        &mut self,
        shard: PeerId,
        floors: &[(PartitionId, LogIndex)],
    ) -> Result<Vec<Option<LogIndex>>, Violation> {
        assert!(!self.node_runs(shard.node), "a log has one owner");
        self.note(|| format!("the log of {} may give up {floors:?}", name(shard)));
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
        let mut rested = 0;
        let base = |log: &ShardLog, partition| Some(log.partition(partition)?.base);
        for _ in 0..TURNS_MAX {
            disk.take_events(&mut events);
            for event in events.drain(..) {
                log.on_event(now, event, &mut retirement);
            }
            for (partition, until) in floors {
                log.set_floor(*partition, *until);
            }
            log.poll(now, &mut ops);
            let rests = ops.is_empty();
            ops.drain(..).for_each(|op| disk.submit(op));
            let mut floors = floors.iter();
            let done = floors.all(|(partition, until)| base(&log, *partition) >= Some(*until));
            if (done && rests && log.is_settled()) || rested == REST_TURNS {
                break;
            }
            let works = disk.step();
            rested = if rests && !works { rested + 1 } else { 0 };
            if !works {
                now = now.plus_ms(TURN_MS);
            }
        }
        disk.crash_with(Crash::Kill, Fate::Landed);
        let floors = floors.iter();
        Ok(floors.map(|(id, _)| base(&log, *id)).collect())
    }
}
