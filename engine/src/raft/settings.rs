//! What a replica is told when it is made: who it is, its bounds, and what its log held.

use std::sync::Arc;

use clustor_shards::log::{self, HashSuite, IndexRange, Mode, PartitionLog, TermRun};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PartitionId, Term};

use super::configuration::{Configuration, ConfigurationError};
use super::fitness::{CATCH_UP_BYTES, STRUCTURAL_LAG_BYTES};
use super::lease::LeaseBounds;
use super::membership::ConfigurationAt;

/// Bounds of time, in milliseconds. Each node has its own, from its profile. The least and the greatest election timeout and the
/// heartbeat are those of the leader for all replicas of a partition ([`super::bounds`]), and its leases rely on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// An election timeout is at least this. 150 in a local network, 300 across a wide one.
    pub election_ms_min: u32,
    /// An election timeout is at most this before any election failed. 300, or 600.
    pub election_ms_max: u32,
    /// Each failed election multiplies the window by 1.5, up to this.
    pub election_backoff_ms_max: u32,
    /// A leader is heard at least this often.
    pub heartbeat_ms: u32,
    /// An append is repeated after twice the smoothed round trip, but not before this.
    pub rpc_ms_min: u32,
    /// And not later than this (twice this, once it was repeated).
    pub rpc_ms_max: u32,
    /// Heartbeats that come this much late, three in a row, tell of a slow path to the leader.
    pub high_rtt_ms: u32,
    /// A partition in which nothing happened for this long goes quiet; 0 for never.
    pub quiet_after_ms: u32,
    /// Of a leader's leases.
    pub lease: LeaseBounds,
}

impl Timers {
    /// For nodes in one place.
    pub const LOCAL: Self = Self {
        election_ms_min: 150,
        election_ms_max: 300,
        election_backoff_ms_max: 2000,
        heartbeat_ms: 50,
        rpc_ms_min: 100,
        rpc_ms_max: 1000,
        high_rtt_ms: 150,
        quiet_after_ms: 0,
        lease: LeaseBounds::OFF,
    };
}

/// Bounds of size. Each replica has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Payload of one entry, in bytes, at most.
    pub payload_bytes_max: usize,
    /// Append batches in flight to one follower, at most, and of no more bytes than they all may have; one always goes.
    pub inflight_batches_max: usize,
    /// Frames in one append batch, in bytes; one larger entry goes alone.
    pub batch_bytes_max: usize,
    /// Frames proposed and not yet committed, in bytes; one always goes.
    pub uncommitted_bytes_max: u64,
    /// Reads that wait for leadership to be confirmed, at most.
    pub reads_waiting_max: usize,
    /// Frames, in bytes, that a replica which has caught up lacks, at most; not above the next.
    pub catch_up_bytes_max: usize,
    /// Frames, in bytes, that a new voter lacks at most when a joint configuration is left forward.
    pub structural_lag_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 1 << 20,
            inflight_batches_max: 4,
            batch_bytes_max: 256 << 10,
            uncommitted_bytes_max: 4 << 20,
            reads_waiting_max: 4096,
            catch_up_bytes_max: CATCH_UP_BYTES,
            structural_lag_bytes_max: STRUCTURAL_LAG_BYTES,
        }
    }
}

/// Who a replica is and what binds it.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// The partition.
    pub partition: PartitionId,
    /// This replica's node and shard.
    pub me: PeerId,
    /// Which formatting of its disk; a configuration that names another one does not mean this replica.
    pub incarnation: Incarnation,
    /// Who votes, where the log holds no configuration yet.
    pub voters: Configuration,
    /// Seed of this replica's election timeouts; different on each replica.
    pub seed: u64,
    /// Bounds of time, shared by all replicas of a shard.
    pub timers: Arc<Timers>,
    /// Bounds of size, shared in the same way.
    pub limits: Arc<Limits>,
    /// The hash of the Merkle leaf that entries framed here carry, if they carry one.
    pub leaf: Option<HashSuite>,
    /// How appends are made durable where the log does not say otherwise.
    pub mode: Mode,
}

/// What the log held when the shard opened. The default is that of a partition that never was here.
///
/// Nothing in it counts as durable until the log says so: with `LocalDurable` and `HardStateDurable` values once
/// the opening has retired.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The term, 0 for none.
    pub term: Term,
    /// The vote in that term.
    pub vote: Option<NodeId>,
    /// The index before the first entry.
    pub base: LogIndex,
    /// The term at the base.
    pub base_term: Term,
    /// The terms of the entries, as runs, ascending; the first begins behind the base.
    pub runs: Vec<TermRun>,
    /// The last index.
    pub last: LogIndex,
    /// Entries without content, ascending.
    pub missing: Vec<IndexRange>,
    /// The configurations in the log, in its order; empty for the one the replica is made with. The first one holds.
    pub configurations: Vec<ConfigurationAt>,
    /// The newest exit from a joint configuration that was recorded as committed.
    pub exit_committed: Option<(Term, LogIndex)>,
    /// Whether the replica must neither vote nor campaign nor acknowledge.
    pub quarantined: bool,
    /// Quarantined for damage in the log: up to where that stands as it was written, if it does. A sole voter applies it.
    pub stands_until: Option<LogIndex>,
}

impl Restored {
    /// What the log says of a partition.
    ///
    /// # Errors
    /// If a configuration in it is none that this build reads.
    pub fn from_log(log: &PartitionLog) -> Result<Self, ConfigurationError> {
        let decode = |at: &log::ConfigurationAt| -> Result<ConfigurationAt, ConfigurationError> {
            Ok(ConfigurationAt {
                term: at.term,
                index: at.index,
                configuration: Arc::new(Configuration::decode(&at.body)?),
            })
        };
        let configurations: Result<_, _> = log.configurations.iter().map(decode).collect();
        Ok(Self {
            term: log.hard_state.term,
            vote: log.hard_state.vote,
            base: log.base,
            base_term: log.base_term,
            runs: log.terms.clone(),
            last: log.last,
            missing: log.missing.clone(),
            configurations: configurations?,
            exit_committed: log.exit_committed,
            quarantined: false,
            stands_until: None,
        })
    }
}
