//! What a shard decides, as consensus would.

use std::collections::BTreeMap;

use clustor_shards::log::{HardState, LogRefusal, Mode, ShardLog};
use clustor_shards::turn::{PeerId, PeerPast};
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PartitionId, Term};

use super::super::entry::{body_bytes, configuration_id, entry_id, is_configuration, with_record};
use super::super::history::{Decision, EntryId};
use super::Shard;

impl Shard {
    /// The partitions that exist.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.history.state().keys().copied().collect()
    }

    /// Creates a partition.
    pub fn create(&mut self, partition: PartitionId) {
        let Some(log) = &mut self.log else { return };
        log.create_partition(partition, Incarnation(9), b"first");
        self.history.decide(partition, Decision::Create);
    }

    /// Appends an entry with a body of about `bytes` in `term`, if the log takes it; true if it did. Where
    /// this term had an entry at this index before, that one is appended again.
    pub fn append(&mut self, partition: PartitionId, term: Term, bytes: usize, mode: Mode) -> bool {
        self.entries += 1;
        let id = entry_id(self.entries, bytes);
        self.append_id(partition, term, id, mode, |log, bytes| log.admit(bytes))
    }

    /// Appends an entry whose length another node judged, by greater segments, if the log takes it; true if it did.
    pub fn append_foreign(&mut self, partition: PartitionId, term: Term, bytes: usize) -> bool {
        self.entries += 1;
        let id = entry_id(self.entries, bytes);
        self.append_id(partition, term, id, Mode::Group, |log, bytes| {
            log.admit_frames(bytes)
        })
    }

    /// Appends a configuration.
    pub fn configure(&mut self, partition: PartitionId, term: Term) -> bool {
        self.entries += 1;
        let id = configuration_id(self.entries);
        self.append_id(partition, term, id, Mode::Group, |log, bytes| {
            log.admit(bytes)
        })
    }

    fn append_id(
        &mut self,
        partition: PartitionId,
        term: Term,
        id: EntryId,
        mode: Mode,
        admits: impl FnOnce(&ShardLog, usize) -> Result<(), LogRefusal>,
    ) -> bool {
        let Some(log) = &mut self.log else {
            return false;
        };
        let index = self.history.state()[&partition].last().next();
        let at = (partition, term, index);
        let id = self.appended.get(&at).copied().unwrap_or(id);
        if admits(log, body_bytes(id)).is_err() {
            return false;
        }
        self.appended.insert(at, id);
        with_record(partition, term, index, id, |record| {
            log.append(record, mode)
        });
        self.history
            .decide(partition, Decision::Append { term, id });
        self.note(|| format!("append {partition}: term {term} index {index} id {id:x} {mode:?}"));
        true
    }

    /// Records a term and vote.
    pub fn vote(&mut self, partition: PartitionId, term: Term, vote: Option<NodeId>) {
        let Some(log) = &mut self.log else { return };
        log.hard_state(partition, HardState { term, vote });
        self.history
            .decide(partition, Decision::HardState { term, vote });
        self.note(|| format!("vote {partition}: term {term} {vote:?}"));
    }

    /// Records that the newest configuration is a committed exit, unless that was recorded.
    pub fn exit(&mut self, partition: PartitionId) {
        let Some(log) = &mut self.log else { return };
        let state = &self.history.state()[&partition];
        let newest = state.entries.iter().rposition(|e| is_configuration(e.id));
        let Some(at) = newest else { return };
        let (term, index) = (state.entries[at].term, LogIndex(at as u64 + 1));
        let is_durable = log.durable(partition).is_some_and(|p| p.index() >= index);
        if state.exit == Some((term, index)) || !is_durable {
            return;
        }
        log.exit_committed(partition, term, index);
        self.history
            .decide(partition, Decision::Exit { term, index });
        self.note(|| format!("exit {partition}: term {term} index {index}"));
    }

    /// Records how far a peer has come: further than ever before.
    pub fn hear(&mut self, peer: PeerId, past: PeerPast) {
        let Some(log) = &mut self.log else { return };
        log.peer_chains(&[(peer, past)]);
        self.history.hear(peer, past);
        self.note(|| format!("heard {peer:?}: {past:?}"));
    }

    /// Entries up to `index` are needed no more, as far as the log vouches for them.
    pub fn set_floor(&mut self, partition: PartitionId, index: LogIndex) {
        let Some(log) = &mut self.log else { return };
        let Some(durable) = log.durable(partition) else {
            return;
        };
        let index = index.min(durable.index());
        log.set_floor(partition, index);
        let floor = self.floors.entry(partition).or_default();
        *floor = index.max(*floor);
        self.note(|| format!("floor {partition}: {index}"));
    }

    /// Nothing up to here may be truncated: it was committed.
    #[must_use]
    pub fn committed(&self, partition: PartitionId) -> LogIndex {
        let state = &self.history.state()[&partition];
        let exit = state.exit.map_or(LogIndex::ZERO, |(_, index)| index);
        let floor = self.floors.get(&partition).copied();
        floor.unwrap_or_default().max(state.base).max(exit)
    }

    /// Removes everything from `from` on.
    pub fn truncate(&mut self, partition: PartitionId, term: Term, from: LogIndex) {
        let Some(log) = &mut self.log else { return };
        log.truncate(partition, term, from);
        clip(&mut self.vouched, partition, from);
        self.history.decide(partition, Decision::Truncate { from });
        self.note(|| format!("truncate {partition}: from {from}"));
    }
}

/// From `from` on nothing is vouched for any more.
pub(super) fn clip(
    vouched: &mut BTreeMap<PartitionId, LogIndex>,
    partition: PartitionId,
    from: LogIndex,
) {
    if let Some(index) = vouched.get_mut(&partition) {
        *index = (*index).min(from.prev());
    }
}
