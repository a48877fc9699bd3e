//! Three replicas of the `openraft` crate on one thread, each over its own vector of entries.
//!
//! openraft is no core that is called: each replica is a handful of tasks of an asynchronous runtime that pass messages
//! through channels. All of them run on a runtime of one thread, which is counted with them, for the crate can't do without.
//! What is left out is what the vector of entries itself does when it takes some.

use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    BasicNode, Config, Entry, LogId, LogState, OptionalSend, Raft, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy, StorageError, StorageIOError,
    StoredMembership, Vote,
};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

use super::{Cluster, NODES, counted, not_counted};
use crate::BenchError;

/// Far longer than anything takes: nothing is repeated, nobody campaigns.
const NEVER_MS: u64 = 3_600_000;
/// Turns of the runtime within which a leader is elected.
const ELECTION_TURNS_MAX: u32 = 100_000;

openraft::declare_raft_types!(
    Types:
        D = Payload,
        R = (),
);

type Id = u64;
type Storage<T> = Result<T, StorageError<Id>>;
type Rpc<T, E = RaftError<Id>> = Result<T, RPCError<Id, BasicNode, E>>;

/// A command that is copied by reference.
#[derive(Debug, Clone)]
struct Payload(#[allow(dead_code, reason = "carried, not read")] Arc<[u8]>);

/// A replica's log: its first entry is of index 0.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    entries: Vec<Entry<Types>>,
    vote: Option<Vote<Id>>,
}

impl Log {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Storage<Vec<Entry<Types>>> {
        let place = |bound: Bound<&u64>, open: usize, past: usize| match bound {
            Bound::Included(at) => *at as usize + past,
            Bound::Excluded(at) => *at as usize + 1 - past,
            Bound::Unbounded => open,
        };
        let kept = self.kept();
        let len = kept.entries.len();
        let from = place(range.start_bound(), 0, 0).min(len);
        let to = place(range.end_bound(), len, 1).clamp(from, len);
        Ok(kept.entries[from..to].to_vec())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Storage<LogState<Types>> {
        Ok(LogState {
            last_purged_log_id: None,
            last_log_id: self.kept().entries.last().map(|entry| entry.log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<Id>) -> Storage<()> {
        self.kept().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Storage<Option<Vote<Id>>> {
        Ok(self.kept().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Storage<()>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        not_counted(|| self.kept().entries.extend(entries));
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<Id>) -> Storage<()> {
        self.kept().entries.truncate(from.index as usize);
        Ok(())
    }

    async fn purge(&mut self, _: LogId<Id>) -> Storage<()> {
        // Indexes are places: all is kept, and nothing asks for less.
        Ok(())
    }
}

/// A machine that knows how far it has come.
#[derive(Debug, Clone, Default)]
struct Machine(Arc<Mutex<Applied>>);

#[derive(Debug, Default)]
struct Applied {
    last: Option<LogId<Id>>,
    members: StoredMembership<Id, BasicNode>,
}

impl Machine {
    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> u64 {
        self.applied().last.map_or(0, |id| id.index)
    }
}

/// Snapshots are never asked for.
fn no_snapshot() -> StorageError<Id> {
    let why = std::io::Error::from(std::io::ErrorKind::Unsupported);
    StorageIOError::read_snapshot(None, &why).into()
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Storage<Snapshot<Types>> {
        Err(no_snapshot())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Storage<(Option<LogId<Id>>, StoredMembership<Id, BasicNode>)> {
        let applied = self.applied();
        Ok((applied.last, applied.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Storage<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = self.applied();
        let mut responses = Vec::new();
        for entry in entries {
            applied.last = Some(entry.log_id);
            if let openraft::EntryPayload::Membership(members) = entry.payload {
                applied.members = StoredMembership::new(Some(entry.log_id), members);
            }
            responses.push(());
        }
        Ok(responses)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Storage<Box<Cursor<Vec<u8>>>> {
        Err(no_snapshot())
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta<Id, BasicNode>,
        _: Box<Cursor<Vec<u8>>>,
    ) -> Storage<()> {
        Err(no_snapshot())
    }

    async fn get_current_snapshot(&mut self) -> Storage<Option<Snapshot<Types>>> {
        Ok(None)
    }
}

/// The replicas, once all of them are made.
#[derive(Clone, Default)]
struct Network(Arc<OnceLock<Vec<Raft<Types>>>>);

/// A way to one of them: messages pass as values.
struct Way {
    network: Network,
    to: usize,
}

impl Way {
    fn to(&self) -> Result<&Raft<Types>, Unreachable> {
        let all = self.network.0.get();
        all.and_then(|all| all.get(self.to)).ok_or_else(|| {
            let why = std::io::Error::from(std::io::ErrorKind::NotConnected);
            Unreachable::new(&why)
        })
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: Id, _: &BasicNode) -> Way {
        Way {
            network: self.clone(),
            to: target as usize - 1,
        }
    }
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Id>> {
        let answer = self.to()?.append_entries(rpc).await;
        answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Rpc<InstallSnapshotResponse<Id>, RaftError<Id, InstallSnapshotError>> {
        Err(RPCError::Unreachable(Unreachable::new(&no_snapshot())))
    }

    async fn vote(&mut self, rpc: VoteRequest<Id>, _: RPCOption) -> Rpc<VoteResponse<Id>> {
        let answer = self.to()?.vote(rpc).await;
        answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }
}

pub(super) struct OpenRaft {
    runtime: Runtime,
    nodes: Vec<Raft<Types>>,
    machines: Vec<Machine>,
    payload: Payload,
}

fn wrong(error: impl std::fmt::Display) -> BenchError {
    BenchError::Refused(format!("the openraft crate: {error}"))
}

impl OpenRaft {
    /// A cluster that its first replica leads.
    pub(super) fn begin(payload: usize) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(wrong)?;
        let config = Config {
            heartbeat_interval: NEVER_MS,
            election_timeout_min: 2 * NEVER_MS,
            election_timeout_max: 3 * NEVER_MS,
            snapshot_policy: SnapshotPolicy::Never,
            enable_tick: false,
            enable_heartbeat: false,
            enable_elect: false,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(wrong)?);
        let machines: Vec<Machine> = (0..NODES).map(|_| Machine::default()).collect();
        let nodes = runtime.block_on(async {
            let network = Network::default();
            let mut nodes = Vec::new();
            for (id, machine) in (1..).zip(&machines) {
                let (log, machine) = (Log::default(), machine.clone());
                let node = Raft::new(id, config.clone(), network.clone(), log, machine).await;
                nodes.push(node.map_err(wrong)?);
            }
            let _ = network.0.set(nodes.clone());
            let members = (1..=NODES as Id).map(|id| (id, BasicNode::default()));
            let members: std::collections::BTreeMap<_, _> = members.collect();
            nodes[0].initialize(members).await.map_err(wrong)?;
            Ok::<_, BenchError>(nodes)
        })?;
        let this = Self {
            runtime,
            nodes,
            machines,
            payload: Payload(vec![0x5a; payload].into()),
        };
        let led = this.runtime.block_on(async {
            for _ in 0..ELECTION_TURNS_MAX {
                // The configuration, and the empty entry of the first term.
                if this.machines.iter().all(|machine| machine.index() >= 1) {
                    return true;
                }
                yield_now().await;
            }
            false
        });
        if led {
            Ok(this)
        } else {
            Err(BenchError::Refused("nobody is elected".to_owned()))
        }
    }

    /// Proposes all, waits for all answers, and until all replicas have applied all.
    async fn write(&self, entries: usize) -> Result<(), BenchError> {
        let leader = &self.nodes[0];
        let mut answers = Vec::with_capacity(entries);
        for _ in 0..entries {
            let answer = leader.client_write_ff(self.payload.clone()).await;
            answers.push(answer.map_err(wrong)?);
        }
        for answer in answers {
            answer.await.map_err(wrong)?.map_err(wrong)?;
        }
        let last = self.machines[0].index();
        while self.machines.iter().any(|machine| machine.index() < last) {
            yield_now().await;
        }
        Ok(())
    }
}

impl Cluster for OpenRaft {
    fn batch(&mut self, entries: usize, counts: bool) -> u64 {
        let before = self.machines[0].index();
        let work = || self.runtime.block_on(self.write(entries));
        let written = if counts { counted(work) } else { work() };
        written.expect("nothing fails in memory");
        self.machines[0].index() - before
    }
}
