//! Putting an engine together and starting it.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clustor_shards::host::{Claim, DataDir, FileKeyProvider, Identity};
use clustor_shards::mesh::reply::ReplyPool;
use clustor_shards::runtime::{Boot, NodeOptions, ShardPlan, start};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{PartitionId, ShardId};

use super::budget::Budget;
use super::handle::Port;
use super::leaders::Leaders;
use super::served::Served;
use super::{Engine, EngineError, Local};
use crate::machine::{AnyMachine, MachineFactory, StateMachine};
use crate::outcome::Leadership;
use crate::profile::Profile;
use crate::shard_core::{BootError, CoreConfig, LOG_POOL, PartitionSpec, ShardCore};

/// A lone node runs on one shard.
const LONE_SHARD: ShardId = ShardId(0);
/// How long a start waits for its partitions to be led; then it returns, and they refuse until they are.
const READY_WAIT: Duration = Duration::from_secs(5);
/// Reply cells kept for use again, at most; more are made and freed as needed.
const OUTCOME_CELLS_MAX: usize = 1_024;
/// Messages between shards: a lone node's shard has nobody to send to.
const MESH_MESSAGES_MAX: usize = 16;

/// What an engine is made of; [`EngineBuilder::start`] makes it.
///
/// A node of a cluster names its placement, certificates and addresses here as well (feature `net`);
/// whatever is not named makes it a lone node.
pub struct EngineBuilder {
    data: PathBuf,
    profile: Profile,
    partitions: Vec<PartitionPlan>,
}

impl core::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("data", &self.data)
            .field("profile", &self.profile.name)
            .field("partitions", &self.partitions.len())
            .finish()
    }
}

struct PartitionPlan {
    id: PartitionId,
    type_id: TypeId,
    type_name: &'static str,
    factory: MachineFactory,
}

impl EngineBuilder {
    pub(super) fn new(data: PathBuf) -> Self {
        Self {
            data,
            profile: Profile::latency(),
            partitions: Vec::new(),
        }
    }

    /// Adds a partition. `factory` makes its machine, on its shard: when the engine starts, and again when
    /// the machine failed.
    #[must_use]
    pub fn partition<M: StateMachine>(
        mut self,
        id: impl Into<PartitionId>,
        factory: impl Fn(PartitionId) -> M + Send + 'static,
    ) -> Self {
        self.partitions.push(PartitionPlan {
            id: id.into(),
            type_id: TypeId::of::<M>(),
            type_name: core::any::type_name::<M>(),
            factory: Box::new(move |id| -> Box<dyn AnyMachine> { Box::new(factory(id)) }),
        });
        self
    }

    /// Runs under this profile instead of [`Profile::latency`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Starts the engine: makes or opens the data directory, recovers the logs, makes the machines, and waits,
    /// up to five seconds, until the partitions are led and have applied what was committed before.
    ///
    /// # Errors
    /// [`EngineError`]. Nothing runs then; and nothing was written where the error is about the builder, the
    /// profile, or a directory that is someone else's.
    pub fn start(self) -> Result<Engine, EngineError> {
        self.check()?;
        let directory = DataDir::open(&self.data, Claim::Alone)?;
        let budget = Arc::new(Budget::new(
            self.profile.queue_requests_max,
            self.profile.queue_bytes_max,
        ));
        let options = NodeOptions {
            requests_max: self.profile.queue_requests_max as usize,
            mesh_messages_max: MESH_MESSAGES_MAX,
            cpus: Vec::new(),
        };
        let entry_bytes_max = self.profile.entry_bytes_max;

        let mut specs = Vec::with_capacity(self.partitions.len());
        let mut known = Vec::with_capacity(self.partitions.len());
        let me = PeerId {
            node: directory.identity().node,
            shard: LONE_SHARD,
        };
        for plan in self.partitions {
            known.push((plan.id, plan.type_id, plan.type_name));
            specs.push(PartitionSpec {
                id: plan.id,
                voters: vec![me],
                factory: plan.factory,
            });
        }
        let leadership: BTreeMap<PartitionId, Arc<Leaders>> =
            known.iter().map(|(id, ..)| (*id, Arc::default())).collect();
        let plan = ShardPlan {
            directory: directory.shard(LONE_SHARD)?,
            pool: LOG_POOL.to_vec(),
            build: build(
                directory.identity(),
                me,
                specs,
                self.profile,
                seed()?,
                directory.keys().clone(),
                Arc::clone(&budget),
                leadership.clone(),
            ),
            // Replies go through their own cells.
            deliver: Box::new(|never| match never {}),
        };
        let node = start(&options, vec![plan])?;
        let port = Arc::new(Port {
            submitter: node.submitter(LONE_SHARD),
            budget,
            outcomes: ReplyPool::new(OUTCOME_CELLS_MAX),
            entry_bytes_max,
        });
        let partitions = known
            .into_iter()
            .map(|(id, type_id, type_name)| {
                let local = Local {
                    type_id,
                    type_name,
                    port: Arc::clone(&port),
                    leaders: Arc::clone(&leadership[&id]),
                };
                (id, local)
            })
            .collect();
        wait_until_led(leadership.values());
        Ok(Engine {
            directory,
            partitions,
            node,
        })
    }

    /// What can be judged before anything is touched.
    fn check(&self) -> Result<(), EngineError> {
        self.profile.check()?;
        if self.partitions.is_empty() {
            return Err(EngineError::NoPartitions);
        }
        let mut ids: Vec<PartitionId> = self.partitions.iter().map(|plan| plan.id).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(EngineError::PartitionTwice(pair[0])),
            None => Ok(()),
        }
    }
}

type Core = Served<ShardCore>;
type Build = Box<dyn FnOnce(Boot<'_>) -> Result<Core, BootError> + Send>;

/// What makes the shard's core, on the shard's thread.
#[expect(
    clippy::too_many_arguments,
    reason = "one caller, every value of another kind"
)]
fn build(
    identity: Identity,
    me: PeerId,
    partitions: Vec<PartitionSpec>,
    profile: Profile,
    seed: u64,
    keys: FileKeyProvider,
    budget: Arc<Budget>,
    leadership: BTreeMap<PartitionId, Arc<Leaders>>,
) -> Build {
    Box::new(move |boot| {
        let config = CoreConfig {
            cluster: identity.cluster,
            me,
            partitions,
            profile,
            io_writer_mode: boot.mode as u8,
            seed,
            placement: None,
        };
        let (core, report) = ShardCore::boot(config, boot.pool, boot.now, boot.disk, &keys)?;
        tracing::info!(shard = %boot.shard, boot = %report.boot, ?report, "recovered");
        Ok(Served::new(core, budget, leadership))
    })
}

fn seed() -> Result<u64, EngineError> {
    getrandom::u64().map_err(EngineError::Seed)
}

/// Waits until each partition is led, or will not be; no longer than [`READY_WAIT`] for all of them.
fn wait_until_led<'a>(partitions: impl Iterator<Item = &'a Arc<Leaders>>) {
    let until = Instant::now() + READY_WAIT;
    for leaders in partitions {
        let mut watch = leaders.watch();
        loop {
            if matches!(
                watch.latest(),
                Leadership::Ready { .. } | Leadership::Draining | Leadership::Lost
            ) {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || watch.wait_changed_timeout(left).is_err() {
                break;
            }
        }
    }
}
