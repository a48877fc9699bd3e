//! Proofs from disks alone: what was acknowledged or voted is looked for on copies of them.

use clustor_shards::turn::PeerId;
use rand::Rng;

use super::super::check::clients::Acknowledged;
use super::super::check::consensus::VoteSent;
use super::super::check::{Violation, must, provable};
use super::super::messages::name;
use super::World;

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
            let before = self.is_lossy(voter)
                && (self.consensus.held_before(partition, voter, index, term)
                    || self.consensus.vouches(partition, voter, index, term));
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
        let silent = log.quarantine().is_some() && self.is_lossy(from);
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
