//! Everything is read back and compared when a log has opened.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::disk::DiskOp;
use clustor_shards::log::{PartitionLog, ReadRefusal, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{LogIndex, PartitionId};

use super::super::entry::identify;
use super::super::history::{Recovered, Violation};
use super::Shard;
use crate::disk::SimDisk;

/// Reads in hand at once while everything is read back.
const READS_MAX: usize = 32;

impl Shard {
    /// Reads every entry, compares it, and goes on from what the log holds.
    pub(super) fn read_back(&mut self) -> Result<(), Violation> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let mut wanted: BTreeSet<(PartitionId, LogIndex)> = BTreeSet::new();
        self.recovered = log
            .partitions()
            .map(|(id, p)| (id, given_back(p)))
            .collect();
        let at_boot = self.recovered.clone();
        for (id, partition) in &self.recovered {
            let base = partition.base.get();
            let all = (base + 1..=base + partition.terms.len() as u64).map(LogIndex);
            let there = all.filter(|index| !partition.missing.contains(index));
            wanted.extend(there.map(|index| (*id, index)));
        }
        while let Some((partition, index)) = wanted.first().copied() {
            let mut started = 0;
            let mut next = Some((partition, index));
            while let Some((partition, index)) = next
                && started < READS_MAX
            {
                match log.read(partition, index, &mut self.ops) {
                    Ok(_) => started += 1,
                    Err(ReadRefusal::Busy) => break,
                    // The log came first: it had begun to copy that run elsewhere.
                    Err(ReadRefusal::Missing) => {
                        let found = self.recovered.get_mut(&partition);
                        found.expect("recovered").missing.insert(index);
                        self.found_missing.push((partition, index, index));
                        wanted.remove(&(partition, index));
                    }
                    Err(refusal) => {
                        return Err(Violation::Stuck(format!(
                            "partition {partition} index {index} can't be read: {refusal}"
                        )));
                    }
                }
                // The extent is read whole; what it does not hold is asked for in the next round.
                let next_partition = (PartitionId(partition.get() + 1), LogIndex::ZERO);
                next = wanted.range(next_partition..).next().copied();
            }
            let done = run_reads(log, &mut self.disk, &mut self.ops, self.now);
            self.retirement.scrubbed.extend(done.scrubbed);
            for outcome in done.reads {
                let found = self
                    .recovered
                    .get_mut(&outcome.partition)
                    .expect("read from a partition that was recovered");
                let range = outcome.first.get()..=outcome.last.get();
                for index in range.clone() {
                    wanted.remove(&(outcome.partition, LogIndex(index)));
                }
                match outcome.frames {
                    None => {
                        let known = log.partition(outcome.partition);
                        let lost = known.is_some_and(|known| known.is_missing(outcome.first));
                        if !lost {
                            return Err(Violation::Stuck(format!(
                                "partition {} index {} was not read, and is not missing",
                                outcome.partition, outcome.first
                            )));
                        }
                        found.missing.extend(range.map(LogIndex));
                        let place = (outcome.partition, outcome.first, outcome.last);
                        self.found_missing.push(place);
                    }
                    Some(frames) => {
                        let entries = identify(outcome.partition, &frames).ok_or_else(|| {
                            Violation::Stuck(format!(
                                "partition {}: frames {}..={} hold what was never appended",
                                outcome.partition, outcome.first, outcome.last
                            ))
                        })?;
                        found.content.extend(entries);
                    }
                }
            }
        }
        let peers = log.peers().collect();
        let place = self.history.check(&self.recovered, &peers, self.faults())?;
        self.history.adopt(place, &at_boot);
        self.note(|| format!("goes on from {place} decisions"));
        Ok(())
    }
}

/// What the log says a partition holds.
pub(super) fn given_back(log: &PartitionLog) -> Recovered {
    let index_range = |first: LogIndex, last: LogIndex| (first.get()..=last.get()).map(LogIndex);
    let all = index_range(log.base.next(), log.last);
    Recovered {
        base: log.base,
        hard_state: (log.hard_state.term, log.hard_state.vote),
        exit: log.exit_committed,
        terms: all
            .map(|index| log.term_at(index).expect("every index has a term"))
            .collect(),
        missing: log
            .missing
            .iter()
            .flat_map(|range| index_range(range.first, range.last))
            .collect(),
        content: BTreeMap::new(),
        configurations: log
            .configurations
            .iter()
            .map(|at| (at.index, at.body.to_vec()))
            .collect(),
    }
}

/// Carries out the reads asked for, and whatever else is in hand, until all have ended.
fn run_reads(
    log: &mut ShardLog,
    disk: &mut SimDisk,
    ops: &mut Vec<DiskOp>,
    now: Time,
) -> Retirement {
    let mut retirement = Retirement::default();
    let mut events = Vec::new();
    while !ops.is_empty() {
        ops.drain(..).for_each(|op| disk.submit(op));
        // Whoever reads back waits for all of it.
        disk.unstick();
        disk.run_until_idle();
        disk.take_events(&mut events);
        for event in events.drain(..) {
            log.on_event(now, event, &mut retirement);
        }
        log.poll(now, ops);
    }
    retirement
}
