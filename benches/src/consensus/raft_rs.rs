//! Three replicas of the `raft` crate, each over its own storage in memory.

use raft::eraftpb::{EntryType, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use slog::{Discard, Logger, o};

use super::{Cluster, NODES, counted};
use crate::BenchError;

/// Far more than an election takes.
const ELECTION_TICKS_MAX: u32 = 10_000;

pub(super) struct RaftRs {
    nodes: Vec<RawNode<MemStorage>>,
    inboxes: Vec<Vec<Message>>,
    applied: Vec<u64>,
    leader: usize,
    payload: Vec<u8>,
}

fn wrong(error: raft::Error) -> BenchError {
    BenchError::Refused(format!("the raft crate: {error}"))
}

impl RaftRs {
    /// A cluster with a leader.
    pub(super) fn begin(payload: usize) -> Result<Self, BenchError> {
        let voters: Vec<u64> = (1..=NODES as u64).collect();
        let mut nodes = Vec::new();
        for &id in &voters {
            let config = Config {
                id,
                election_tick: 10,
                heartbeat_tick: 3,
                // As TiKV has them.
                max_size_per_msg: 1 << 20,
                max_inflight_msgs: 256,
                // What is proposed together goes in one message, as here.
                batch_append: true,
                pre_vote: true,
                check_quorum: true,
                // Commits travel with the next append here, and with this engine's.
                skip_bcast_commit: true,
                ..Config::default()
            };
            let storage = MemStorage::new_with_conf_state((voters.clone(), Vec::new()));
            let logger = Logger::root(Discard, o!());
            nodes.push(RawNode::new(&config, storage, &logger).map_err(wrong)?);
        }
        let mut this = Self {
            nodes,
            inboxes: (0..NODES).map(|_| Vec::new()).collect(),
            applied: vec![0; NODES],
            leader: NODES,
            payload: vec![0x5a; payload],
        };
        for _ in 0..ELECTION_TICKS_MAX {
            for node in &mut this.nodes {
                node.tick();
            }
            this.settle(false)?;
            let leads = |node: &RawNode<MemStorage>| node.raft.state == StateRole::Leader;
            if let Some(leader) = this.nodes.iter().position(leads) {
                this.leader = leader;
                return Ok(this);
            }
        }
        Err(BenchError::Refused("nobody is elected".to_owned()))
    }

    /// Takes what arrived, and goes through everything that is ready. What is appended is durable at once.
    fn turn(&mut self, node: usize, proposals: usize, counts: bool) -> Result<(), BenchError> {
        let inbox = core::mem::take(&mut self.inboxes[node]);
        let raw = &mut self.nodes[node];
        let payload = &self.payload;
        let work = || -> Result<_, raft::Error> {
            for message in inbox {
                raw.step(message)?;
            }
            for _ in 0..proposals {
                raw.propose(Vec::new(), payload.clone())?;
            }
            Ok(raw.has_ready().then(|| raw.ready()))
        };
        let ready = if counts { counted(work) } else { work() };
        let Some(mut ready) = ready.map_err(wrong)? else {
            return Ok(());
        };
        let mut messages = ready.take_messages();
        let mut committed = ready.take_committed_entries();
        let late = ready.take_persisted_messages();
        {
            let mut storage = raw.store().wl();
            storage.append(ready.entries()).map_err(wrong)?;
            if let Some(state) = ready.hs() {
                storage.set_hardstate(state.clone());
            }
        }
        messages.extend(late);
        let finish = || raw.advance(ready);
        let mut light = if counts { counted(finish) } else { finish() };
        if let Some(commit) = light.commit_index() {
            raw.store().wl().mut_hard_state().set_commit(commit);
        }
        messages.extend(light.take_messages());
        committed.extend(light.take_committed_entries());
        for entry in &committed {
            if entry.get_entry_type() == EntryType::EntryNormal {
                self.applied[node] = entry.index;
            }
        }
        if counts {
            counted(|| raw.advance_apply());
        } else {
            raw.advance_apply();
        }
        for message in messages {
            let to = usize::try_from(message.to).expect("three nodes") - 1;
            self.inboxes[to].push(message);
        }
        Ok(())
    }

    fn settle(&mut self, counts: bool) -> Result<(), BenchError> {
        loop {
            let mut quiet = true;
            for node in 0..NODES {
                if !self.inboxes[node].is_empty() || self.nodes[node].has_ready() {
                    quiet = false;
                    self.turn(node, 0, counts)?;
                }
            }
            if quiet {
                return Ok(());
            }
        }
    }
}

impl Cluster for RaftRs {
    fn batch(&mut self, entries: usize, counts: bool) -> u64 {
        let before = self.applied[self.leader];
        self.turn(self.leader, entries, counts)
            .and_then(|()| self.settle(counts))
            .expect("nothing fails in memory");
        self.applied[self.leader] - before
    }
}
