//! The facade: an engine, its partitions, their handles.
//!
//! The one room of this crate that touches the world: it makes the data directory, starts the shards'
//! threads, reads the clock for timeouts, and is called from the embedder's threads. Everything it decides
//! about entries it leaves to the shard's turn. It relies on the runtime to carry turns, and promises that
//! each request gets exactly one answer, also when the engine stops, and that nothing waits without a bound.
//!
//! ```text
//! let engine = Engine::builder("data").partition(1, |_| Counter::default()).start()?;
//! let counter = engine.partition::<Counter>(1)?;
//! let done = counter.append(b"+3").await?;
//! let now = counter.read(|c| c.value).await?;
//! engine.shutdown(Duration::from_secs(5))?;
//! ```
//!
//! Without further words an engine is one node alone: no peers, no certificate, no file to configure. The same
//! lines with `.node(member)` (feature `net`) are one node of a cluster.

mod budget;
mod builder;
mod environment;
mod error;
mod handle;
mod keys;
mod leaders;
mod pending;
mod recovering;
mod seat;
mod served;
mod stopwatch;
mod submission;
mod tuning;
mod waiting;

use std::any::TypeId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clustor_shards::host::DataDir;
use clustor_shards::runtime::Node;
use clustor_wire::ids::PartitionId;

pub use builder::EngineBuilder;
pub use clustor_shards::host::{DataDirError, HostError};
pub use clustor_shards::log::{Kek, KeyError, KeyProvider, Mode};
pub use clustor_shards::mesh::watch::{ChangeError, Closed, Watch};
pub use clustor_shards::runtime::{StartError, StopError};
pub use clustor_wire::message::ProfileReload;
pub use environment::{LOG_ENCODING_VARIABLE, WAL_CODEC_VARIABLE};
pub use error::EngineError;
pub use handle::{AppendOptions, PartitionHandle, Refused};
pub use pending::{AppendFuture, AskFuture, MembersFuture, ReadError, ReadFuture, StatusFuture};
#[cfg(feature = "net")]
pub use seat::Member;
pub use tuning::{EngineHandle, ReloadAsked, ReloadError};

use crate::machine::StateMachine;
use handle::Port;
use leaders::Leaders;
use submission::Submission;

/// Partitions named in an error that lists them.
const LISTED_MAX: usize = 8;

/// A partition of this node, as the facade knows it.
struct Local {
    type_id: TypeId,
    type_name: &'static str,
    port: Arc<Port>,
    leaders: Arc<Leaders>,
}

/// A running node: its shards, their partitions, their machines.
///
/// Dropped without [`Engine::shutdown`] it tells the shards to stop and does not wait for them.
pub struct Engine {
    directory: DataDir,
    shards: u16,
    partitions: BTreeMap<PartitionId, Local>,
    node: Node<Submission>,
    handle: EngineHandle,
}

impl core::fmt::Debug for Engine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine")
            .field("data", &self.directory.path())
            .field("partitions", &self.partitions.len())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine whose data lies in this directory, made on first start with mode 0700.
    pub fn builder(data: impl Into<PathBuf>) -> EngineBuilder {
        EngineBuilder::new(data.into())
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.directory.path()
    }

    /// The partitions that have a replica on this node, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.keys().copied()
    }

    /// What any thread may turn of it while it runs.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// A handle to the partition whose machine is an `M`.
    ///
    /// # Errors
    /// [`EngineError::NoPartition`] or [`EngineError::WrongMachine`].
    pub fn partition<M: StateMachine>(
        &self,
        id: impl Into<PartitionId>,
    ) -> Result<PartitionHandle<M>, EngineError> {
        let partition = id.into();
        let served = self
            .partitions
            .get(&partition)
            .ok_or_else(|| EngineError::NoPartition {
                partition,
                known: self.listed(),
            })?;
        if served.type_id != TypeId::of::<M>() {
            return Err(EngineError::WrongMachine {
                partition,
                holds: served.type_name,
                asked: core::any::type_name::<M>(),
            });
        }
        Ok(PartitionHandle::new(
            partition,
            Arc::clone(&served.port),
            Arc::clone(&served.leaders),
        ))
    }

    /// Stops: refuses new requests, settles what is in flight, hands leadership over, closes the files, ends
    /// the threads. Every outstanding future gets one of the three outcomes; what is not known when
    /// `deadline` has passed is Unknown. When this returns, nothing of the engine touches a machine or the
    /// data directory any more, unless it says [`EngineError::StillRunning`].
    ///
    /// # Errors
    /// [`EngineError::Abandoned`] when the deadline passed first; [`EngineError::StillRunning`] when a shard's
    /// thread has not ended five seconds later.
    pub fn shutdown(self, deadline: Duration) -> Result<(), EngineError> {
        builder::note_logs(&self.directory, self.shards);
        self.node.shutdown(deadline).map_err(|stop| match stop {
            StopError::Deadline(_) => EngineError::Abandoned { deadline, stop },
            StopError::Stuck(_) => EngineError::StillRunning { stop },
        })
    }

    fn listed(&self) -> String {
        let mut listed: Vec<String> = self
            .partitions
            .keys()
            .take(LISTED_MAX)
            .map(ToString::to_string)
            .collect();
        if self.partitions.len() > LISTED_MAX {
            listed.push(format!("and {} more", self.partitions.len() - LISTED_MAX));
        }
        listed.join(", ")
    }
}
