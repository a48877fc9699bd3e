//! Proofs from disks alone: what was acknowledged or voted is looked for on copies of them.

use std::collections::BTreeMap;

use clustor_shards::log::ShardLog;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use rand::Rng;

use super::super::check::clients::Acknowledged;
use super::super::check::consensus::VoteSent;
use super::super::check::{Violation, must, provable};
use super::super::layout::PartitionLayout;
use super::super::messages::name;
use super::World;

/// Where an entry stands, and of which term it is.
type Entry = (LogIndex, Term);

impl World {
    fn may_prove(&mut self) -> bool {
        let may = self.proofs_left > 0 && self.rng.random_range(0..4) == 0;
        self.proofs_left -= u32::from(may);
        may
    }

    /// Looks for an acknowledged entry on copies of the disks, as a power loss would leave them now.
    pub(super) fn prove(&mut self, acknowledged: Acknowledged) -> Result<(), Violation> {
        if !self.may_prove() {
            return Ok(());
        }
        let Acknowledged {
            partition,
            index,
            term,
            op,
            ..
        } = acknowledged;
        let Some(found) = self.layout.partition(partition) else {
            return Ok(());
        };
        let mut holders = Vec::new();
        for voter in found.replicas() {
            let log = provable::recovered(&self.layout, voter, &self.hosts[&voter].disk)?;
            let before = self.held_before(partition, voter, index, term);
            if before || provable::holds(&log, partition, index, term) {
                holders.push(voter);
            }
        }
        let holds = |voter: &PeerId| holders.contains(voter);
        must(
            self.consensus.is_quorum_at(partition, index, holds),
            "what is acknowledged is provable from a quorum of disks",
            || {
                format!(
                    "p{} index {index} term {term} (operation {op}) is on {holders:?} only",
                    partition.get()
                )
            },
        )
    }

    /// Whether a shard vouched for an entry on a disk that may have lost it since.
    fn held_before(
        &self,
        partition: PartitionId,
        voter: PeerId,
        index: LogIndex,
        term: Term,
    ) -> bool {
        self.is_lossy(voter)
            && (self.consensus.held_before(partition, voter, index, term)
                || self.consensus.vouches(partition, voter, index, term))
    }

    /// Looks for every entry that is committed, and thereby for all that was acknowledged, on copies of the disks, as a power loss
    /// of all nodes would leave them now: enough of those who decide in the latest configuration that is committed must hold it. Each
    /// disk is recovered once, and none is when the others have proved everything. Once nothing fails any more, all must be on disks
    /// again: what a disk had before it lost it does not count then.
    ///
    /// # Errors
    /// The entry that can't be proved, or the disk that can't be recovered.
    pub fn prove_all(&self) -> Result<(), Violation> {
        let partitions = self.layout.partitions.iter();
        let mut open: Vec<(&PartitionLayout, Vec<Entry>)> = partitions
            .map(|found| {
                let entries = self.consensus.committed_entries(found.id);
                (found, entries.collect())
            })
            .collect();
        let mut logs: BTreeMap<PeerId, ShardLog> = BTreeMap::new();
        // Not always the same ones first.
        let first = usize::try_from(self.steps).unwrap_or_default() % self.hosts.len();
        let shards = self.hosts.iter().cycle().skip(first);
        for (shard, host) in shards.take(self.hosts.len()) {
            open.retain(|(_, entries)| !entries.is_empty());
            if !open
                .iter()
                .any(|(found, _)| found.replicas().contains(shard))
            {
                continue;
            }
            let log = provable::recovered(&self.layout, *shard, &host.disk)?;
            logs.insert(*shard, log);
            for (found, entries) in &mut open {
                entries.retain(|entry| !self.is_proved(&logs, found.id, *entry));
            }
        }
        let left = open
            .iter()
            .find_map(|(found, left)| Some((found.id, left.first()?)));
        must(
            left.is_none(),
            "what is committed is provable from a quorum of disks",
            || format!("{left:?} is not, of {:?}", logs.keys()),
        )
    }

    fn is_proved(
        &self,
        logs: &BTreeMap<PeerId, ShardLog>,
        partition: PartitionId,
        (index, term): Entry,
    ) -> bool {
        let end = self.consensus.committed(partition);
        self.consensus.is_quorum_at(partition, end, |voter| {
            let log = logs.get(voter);
            log.is_some_and(|log| provable::holds(log, partition, index, term))
                || !self.calm && self.held_before(partition, *voter, index, term)
        })
    }

    /// A vote leaves only once it is on disk.
    pub(super) fn prove_vote(&mut self, from: PeerId, vote: VoteSent) -> Result<(), Violation> {
        if !self.may_prove() {
            return Ok(());
        }
        let log = provable::recovered(&self.layout, from, &self.hosts[&from].disk)?;
        let state = log
            .partition(vote.partition)
            .map(|log| log.hard_state)
            .unwrap_or_default();
        let silent = log.quarantine().is_some() && self.may_silence(from);
        must(
            silent
                || state.term > vote.term
                || state.term == vote.term && state.vote == Some(vote.to),
            "a vote is durable before it is sent",
            || {
                format!(
                    "p{} t{}: {} votes for {}, its disk says {state:?}",
                    vote.partition.get(),
                    vote.term,
                    name(from),
                    vote.to
                )
            },
        )
    }
}
