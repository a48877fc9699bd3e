//! Recovery, and partitions from what the log holds.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clustor_shards::alike::Alike;
use clustor_shards::buffer::BlockPool;
use clustor_shards::disk::BootDisk;
use clustor_shards::log::{
    KeyProvider, LogIdentity, LogOptions, PartitionLog, RecoverError, Recovery, RecoveryReport,
    Retirement, ShardLog,
};
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{ClusterId, Incarnation, LogIndex, NodeId, PartitionId};
use clustor_wire::message::GuestStatus;

use super::addresses::Addresses;
use super::campaigns::Campaigns;
use super::clocks::ClockWatch;
use super::lagging::Lagging;
use super::pairs::Pairs;
use super::partitions::Partitions;
use super::peers::{Peers, behind_its_past};
use super::reloads::Reloads;
use super::trouble::DiskStands;
use super::{Links, ShardCore, Shared};
use crate::gate::ControlView;
use crate::machine::deferred::AckBox;
use crate::machine::{MachineFactory, Stopwatch};
use crate::partition::Partition;
use crate::profile::Profile;
use crate::raft::configuration::ConfigurationError;
use crate::raft::{
    Configuration, EntryCache, LeaseBounds, Limits, Output, Replica, ReplicaConfig, Restored,
    Timers,
};

/// A partition that has a replica on the shard.
pub struct PartitionSpec {
    /// Its id.
    pub id: PartitionId,
    /// Who votes where the log does not say otherwise; this shard among them.
    pub voters: Vec<PeerId>,
    /// Makes its machine.
    pub factory: MachineFactory,
}

/// What a shard is told when it boots.
pub struct CoreConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node and shard.
    pub me: PeerId,
    /// The partitions that have a replica here.
    pub partitions: Vec<PartitionSpec>,
    /// The node's tunables.
    pub profile: Profile,
    /// How the ring writes (0 FixedUring, 1 RegisteredUring, 2 Blocking).
    pub io_writer_mode: u8,
    /// Data shards of the node: what is the node's they share evenly.
    pub shards: u16,
    /// Seed of everything that is drawn: election timeouts, incarnations, half of the boot's number. Another at each start: from
    /// the operating system in production.
    pub seed: u64,
    /// The bytes of the signed placement, handed to clients that ask.
    pub placement: Option<Vec<u8>>,
    /// Where nodes listen by the placement, for clients that must ask another one.
    pub placed: Arc<BTreeMap<NodeId, SocketAddr>>,
    /// The control plane's word on its partitions; [`crate::gate::SelfGoverned`] where there is none.
    pub control: Box<dyn ControlView + Send>,
    /// What machines are timed by.
    pub stopwatch: Box<dyn Stopwatch>,
    /// Where handles of deferred items leave what became of them; whoever runs the shard puts it into its inbox.
    pub acks: Arc<AckBox>,
    /// Why its replicas must stay silent, if the host can't keep an acknowledgement: they neither vote nor campaign nor
    /// acknowledge.
    pub silent: Option<String>,
}

/// Why a shard can't boot. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The log can't be recovered.
    #[error("shard {shard}: {error}")]
    Recover {
        /// Which shard.
        shard: u16,
        /// Why.
        error: RecoverError,
    },
    /// A partition's voters can't be, or this shard is not among them.
    #[error("partition {partition}: {error}")]
    Voters {
        /// Which partition.
        partition: PartitionId,
        /// Why.
        error: ConfigurationError,
    },
    /// The log has a configuration of the partition that this build can't read.
    #[error(
        "partition {partition}: its configuration in the log is not readable by this build: {error}"
    )]
    Configuration {
        /// Which partition.
        partition: PartitionId,
        /// Why.
        error: ConfigurationError,
    },
}

impl ShardCore {
    /// Recovers the log and makes the partitions. Nothing is said to anyone before the log has opened its pair.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn boot(
        config: CoreConfig,
        pool: BlockPool,
        now: Time,
        disk: &mut dyn BootDisk,
        keys: &dyn KeyProvider,
    ) -> Result<(Self, RecoveryReport), BootError> {
        let me = config.me;
        let identity = LogIdentity {
            cluster: config.cluster,
            node: me.node,
            shard: me.shard,
        };
        let options = LogOptions {
            drawn: mix(config.seed, me, PartitionId(u128::MAX)) as u32,
            ..config.profile.log_options(config.io_writer_mode)
        };
        let Recovery { mut log, report } = ShardLog::recover(disk, identity, options, keys, pool)
            .map_err(|error| BootError::Recover {
            shard: me.shard.get(),
            error,
        })?;
        let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let mut cache = EntryCache::new(number(config.profile.cache_bytes_max));
        let incarnation = incarnation_of(&log, config.seed, me);
        let peers = Peers::new(me, incarnation, &log);
        let heard = log.peers().map(|(peer, past)| (peer, past.incarnation));
        let heard = heard.collect();
        let behind = log.peers().find(|(peer, _)| *peer == me);
        let behind = behind.map(|(_, told)| behind_its_past(me, peers.own(), told));
        let (timers, limits) = bounds(&config.profile);
        let mut partitions = Vec::with_capacity(config.partitions.len());
        for spec in config.partitions {
            let id = spec.id;
            if log.partition(id).is_none() && log.quarantine().is_none() {
                create(&mut log, me, incarnation, id, &spec.voters)?;
            }
            let known = log.partition(id);
            let is_silent = config.silent.is_some() || behind.is_some();
            let stands_until = log.stands_until(id).filter(|_| !is_silent);
            let replica = make_replica(
                me,
                &config.profile,
                (&timers, &limits),
                config.seed,
                incarnation,
                (id, spec.voters),
                known,
                (log.quarantine().is_some() || is_silent, stands_until),
                now,
                &mut cache,
            )?;
            let partition = Partition::new(
                id,
                replica,
                spec.factory,
                &config.profile,
                &config.acks,
                &config.placed,
                now,
            );
            partitions.push(Box::new(partition));
        }
        let partitions = Partitions::of(partitions);
        let quarantined = log.quarantine().is_some() || behind.is_some();
        let touched: BTreeSet<PartitionId> = partitions.ids().collect();
        let core = Self {
            me,
            shared: Shared {
                me,
                log,
                cache,
                known: Alike::default(),
                output: Output::default(),
                retirement: Retirement::default(),
                reads: BTreeMap::new(),
                disk: Vec::new(),
                heard,
                clocks: ClockWatch::default(),
            },
            partitions,
            touched,
            deadlines: BTreeSet::new(),
            campaigns: Campaigns::default(),
            lagging: Lagging::default(),
            links: Links::default(),
            pairs: Pairs::default(),
            peers,
            behind,
            answers: Vec::new(),
            operators: BTreeSet::new(),
            reloads: Reloads::default(),
            inflight_bytes: 0,
            read_bytes: 0,
            inflight_bytes_max: config.profile.node_inflight_bytes_max
                / u64::from(config.shards.max(1)),
            scratch_answers: Vec::new(),
            frames: Vec::new(),
            placement: config.placement,
            addresses: Addresses::default(),
            guests: GuestStatus::default(),
            failure_told: quarantined,
            disk_told: DiskStands::WELL,
            turned_at: now,
            rest_at: None,
            slow_device: None,
            stopping_since: None,
            patience_ms: config.profile.election_ms_max,
            profile_refused: None,
            control: config.control,
            stopwatch: config.stopwatch,
            timers,
            silent: config.silent,
        };
        Ok((core, report))
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one caller, every value of another kind"
)]
fn make_replica(
    me: PeerId,
    profile: &Profile,
    (timers, limits): (&Arc<Timers>, &Arc<Limits>),
    seed: u64,
    incarnation: Incarnation,
    (id, voters): (PartitionId, Vec<PeerId>),
    known: Option<&PartitionLog>,
    (quarantined, stands_until): (bool, Option<LogIndex>),
    now: Time,
    cache: &mut EntryCache,
) -> Result<Replica, BootError> {
    let voters = Configuration::simple(voters).map_err(|error| BootError::Voters {
        partition: id,
        error,
    })?;
    let config = ReplicaConfig {
        partition: id,
        me,
        incarnation,
        voters,
        seed: mix(seed, me, id),
        timers: Arc::clone(timers),
        limits: Arc::clone(limits),
        leaf: profile.format().leaf(),
        mode: profile.mode,
    };
    let mut restored = match known {
        Some(log) => Restored::from_log(log).map_err(|error| BootError::Configuration {
            partition: id,
            error,
        })?,
        None => Restored::default(),
    };
    restored.quarantined = quarantined;
    restored.stands_until = stands_until;
    Ok(Replica::new(config, restored, now, cache))
}

/// The bounds that a profile sets, for all replicas to share.
pub(super) fn bounds(profile: &Profile) -> (Arc<Timers>, Arc<Limits>) {
    (Arc::new(timers(profile)), Arc::new(limits(profile)))
}

/// The bounds of time.
fn timers(profile: &Profile) -> Timers {
    let ms = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Timers {
        election_ms_min: ms(profile.election_ms_min),
        election_ms_max: ms(profile.election_ms_max),
        election_backoff_ms_max: Timers::LOCAL
            .election_backoff_ms_max
            .max(ms(profile.election_ms_max)),
        heartbeat_ms: ms(profile.heartbeat_ms),
        high_rtt_ms: ms(profile.high_rtt_ms),
        quiet_after_ms: ms(profile.quiet_after_ms),
        lease: LeaseBounds {
            on: profile.leases,
            lease_ms: ms(profile.lease_ms),
            rtt_ms: ms(profile.lease_rtt_ms),
            skew_ms: ms(profile.lease_skew_ms),
            gap_max: profile.lease_gap_max,
        },
        ..Timers::LOCAL
    }
}

/// The bounds of size.
fn limits(profile: &Profile) -> Limits {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    Limits {
        payload_bytes_max: number(profile.entry_bytes_max),
        inflight_batches_max: number(profile.append_batches_in_flight_max),
        batch_bytes_max: number(profile.append_batch_bytes_max),
        uncommitted_bytes_max: profile.inflight_bytes_max,
        ..Limits::default()
    }
}

/// Which formatting of its disk the shard runs on: what its partitions say, or a new one for an empty disk. Never 0.
fn incarnation_of(log: &ShardLog, seed: u64, me: PeerId) -> Incarnation {
    let drawn = Incarnation(mix(seed, me, PartitionId::default()).max(1));
    log.partitions()
        .next()
        .map_or(drawn, |(_, partition)| partition.incarnation)
}

/// A partition that was never here begins with its first configuration, at index 0, and the disk's incarnation.
fn create(
    log: &mut ShardLog,
    me: PeerId,
    incarnation: Incarnation,
    id: PartitionId,
    voters: &[PeerId],
) -> Result<(), BootError> {
    let configuration =
        Configuration::simple(voters.to_vec()).map_err(|error| BootError::Voters {
            partition: id,
            error,
        })?;
    // Where nobody else votes there is nobody to ask.
    let alone = configuration.is_sole_voter(me);
    let named = alone.then(|| configuration.naming(&[(me, incarnation)]));
    let configuration = named.and_then(Result::ok).unwrap_or(configuration);
    log.create_partition(id, incarnation, &configuration.encode());
    Ok(())
}

/// A seed of its own for each replica of each partition (SplitMix64's finalizer, Steele et al. 2014).
fn mix(seed: u64, me: PeerId, id: PartitionId) -> u64 {
    let id = id.get();
    let place = me.node.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ u64::from(me.shard.get()) << 48
        ^ (id as u64)
        ^ ((id >> 64) as u64).rotate_left(32);
    let mut z = seed ^ place;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
