//! One shard of one node: its core while it runs, its disk always.

use std::cell::Cell;
use std::sync::Arc;

use clustor_engine::machine::Stopwatch;
use clustor_engine::machine::deferred::AckBox;
use clustor_engine::partition::Partition;
use clustor_engine::request::{Request, RequestBody};
use clustor_engine::shard_core::{CoreConfig, CoreMesh, PartitionSpec, ShardCore};
use clustor_shards::log::{Kek, KeyError, KeyProvider, RecoveryReport};
use clustor_shards::turn::{Inbox, PeerId, Time};
use clustor_wire::ids::{Incarnation, LogIndex, PartitionId};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::check::Violation;
use super::clocks::Clocks;
use super::control::Control;
use super::deferred::Handles;
use super::guest::{Guest, Place};
use super::layout::{CLUSTER, Layout};
use super::machine::{History, OnDisk, Sabotage, Spent, Store};
use crate::disk::SimDisk;

/// Every simulated node has the same key.
pub(crate) struct SimKey;

impl KeyProvider for SimKey {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(Kek::new([7; 32].into()))
    }
}

/// A shard.
pub struct Host {
    pub(crate) id: PeerId,
    pub(crate) core: Option<ShardCore>,
    pub(crate) disk: SimDisk,
    pub(crate) inbox: Inbox<Request, CoreMesh>,
    /// The next turn, if one is filed.
    pub(crate) turn_at: Option<u64>,
    /// The disk's next micro-step, if one is filed.
    pub(crate) disk_at: Option<u64>,
    /// The disk does nothing until it is thawed.
    pub(crate) disk_frozen: bool,
    /// The process gets no processor before this moment.
    pub(crate) stalled_until: u64,
    /// Boots so far.
    pub(crate) boots: u64,
    /// Turns in a row in which nothing came, nothing left and hardly any time passed.
    pub(crate) idle_turns: u32,
    pub(crate) last_turn_us: u64,
    /// What its partitions had applied after the last turn, added up.
    pub(crate) applied: u64,
    /// Whether it found its device slow when it was seen last.
    pub(crate) slow_device: bool,
    /// Whether its log had failed then.
    pub(crate) failed: bool,
    /// Orders the shard's machines to fail.
    pub(crate) sabotage: Sabotage,
    /// What handles of deferred effects say; a new one each boot.
    acks: Arc<AckBox>,
    /// The handles that are out.
    handles: Handles,
    /// What its machines saved.
    store: Store,
    /// What its machines cost it.
    pub(crate) spent: Spent,
    /// How much of that has passed.
    passed_us: u64,
    /// Its clocks.
    pub(crate) clocks: Clocks,
    /// Its control plane.
    pub(crate) control: Control,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("id", &self.id)
            .field("runs", &self.core.is_some())
            .field("boots", &self.boots)
            .finish_non_exhaustive()
    }
}

impl Host {
    pub(crate) fn new(id: PeerId, layout: &Layout, seed: u64) -> Self {
        let spent = Spent::default();
        spent.set_cost(layout.costs.get(&id.node).copied().unwrap_or_default());
        Self {
            id,
            core: None,
            disk: SimDisk::with_options(seed, layout.disk_of(id.node)),
            inbox: Inbox::default(),
            turn_at: None,
            disk_at: None,
            disk_frozen: false,
            stalled_until: 0,
            boots: 0,
            idle_turns: 0,
            last_turn_us: 0,
            applied: 0,
            slow_device: false,
            failed: false,
            sabotage: Sabotage::default(),
            acks: AckBox::new(|| ()),
            handles: Handles::default(),
            store: Store::default(),
            spent,
            passed_us: 0,
            clocks: Clocks::new(id.node),
            control: Control::default(),
        }
    }

    /// The shard's own clock.
    pub(crate) fn clock(&self, now_us: u64) -> Time {
        Time(self.clocks.boot_us(now_us))
    }

    /// When the shard's clock says `time`.
    pub(crate) fn moment(&self, time: Time) -> u64 {
        self.clocks.moment_us(time.0)
    }

    /// Time that its machines took since this was asked last, in microseconds: it takes no turn before it has passed.
    pub(crate) fn take_spent_us(&mut self) -> u64 {
        let spent_us = self.spent.read_us();
        spent_us - std::mem::replace(&mut self.passed_us, spent_us)
    }

    /// Settles some of the deferred effects; of 1,000 so many are left alone.
    pub(crate) fn settle_some(&mut self, rng: &mut Xoshiro256PlusPlus, stay: u32, calm: bool) {
        self.handles.settle_some(rng, stay, calm);
        let settled = self.acks.take().into_iter();
        self.inbox.requests.extend(settled.map(|settled| Request {
            ticket: u64::MAX,
            partition: settled.partition,
            body: RequestBody::Settled(settled),
        }));
    }

    /// Up to where a partition's machine has saved all; 0 for one in memory.
    pub(crate) fn saved(&self, partition: PartitionId) -> LogIndex {
        self.store.applied(partition)
    }

    /// Up to where a partition's machine needs no entry any more; 0 for one in memory.
    pub(crate) fn unneeded(&self, partition: PartitionId) -> LogIndex {
        self.store.unneeded(partition)
    }

    /// Whether effects are deferred.
    pub(crate) fn has_handles(&self) -> bool {
        self.handles.any_out()
    }

    /// Whether the effects of an item are not safe.
    pub(crate) fn owes(&self, partition: PartitionId, index: LogIndex) -> bool {
        self.handles.owes(partition, index)
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.core.is_some()
    }

    /// Whether damage or an old disk keeps it silent for good.
    #[must_use]
    pub fn is_silenced(&self) -> bool {
        self.core
            .as_ref()
            .is_some_and(|core| core.log().quarantine().is_some() || core.behind().is_some())
    }

    /// A partition of it, while it runs.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&Partition> {
        self.core.as_ref()?.partition(partition)
    }

    /// What a partition's machine holds, while it runs.
    #[must_use]
    pub fn history(&self, partition: PartitionId) -> Option<&History> {
        self.partition(partition)?
            .machine()?
            .as_any()
            .downcast_ref()
    }

    /// Another disk, with nothing on it, not even the machines' own files.
    pub(crate) fn change_disk(&mut self, disk: SimDisk) {
        self.disk = disk;
        self.store = Store::default();
    }

    /// Whether another disk has the place of the voter that this replica would be, so that it stays out.
    #[must_use]
    pub fn is_left_out(&self, partition: PartitionId) -> bool {
        let partition = self.partition(partition);
        partition.is_some_and(|partition| partition.estranged().is_some())
    }

    /// Whether its disk is another one than that of the voter whom a configuration names by this incarnation. It can't know
    /// that itself where it came in later and has no log any more.
    #[must_use]
    pub fn is_other_than(&self, partition: PartitionId, named: Incarnation) -> bool {
        let log = self
            .core
            .as_ref()
            .and_then(|core| core.log().partition(partition));
        named != Incarnation::ZERO && log.is_some_and(|log| log.incarnation != named)
    }

    /// Starts the process: the disk as it is now, everything else new.
    pub(crate) fn boot(
        &mut self,
        layout: &Layout,
        now_us: u64,
        seed: u64,
    ) -> Result<RecoveryReport, Violation> {
        self.boots += 1;
        self.slow_device = false;
        self.failed = false;
        self.acks = AckBox::new(|| ());
        self.handles = Handles::default();
        self.inbox = Inbox::default();
        let sabotage = &self.sabotage;
        // What is known of an embedder's machine is kept, for it alone says what is in it.
        let every = layout.on_disk.get(&self.id.node).copied();
        let every = every.or(layout.guest.as_ref().map(|_| 1));
        let on_disk = every.map(|every| OnDisk {
            store: self.store.clone(),
            every,
        });
        let node = self.id.node;
        let spent = &self.spent;
        let lives = Cell::new(self.boots << 16);
        let partitions = layout
            .partitions
            .iter()
            .filter(|partition| partition.replicas().contains(&self.id))
            .map(|partition| {
                let (sabotage, on_disk) = (sabotage.clone(), on_disk.clone());
                let (handles, spent) = (self.handles.clone(), spent.clone());
                let (guest, lives) = (layout.guest.clone(), lives.clone());
                PartitionSpec {
                    id: partition.id,
                    voters: layout.listed(node, partition),
                    factory: Box::new(move |partition| {
                        let history = History::new(partition, sabotage.clone(), on_disk.clone())
                            .with_handles(handles.clone())
                            .with_spent(spent.clone());
                        let Some(plan) = &guest else {
                            return Box::new(history);
                        };
                        lives.set(lives.get() + 1);
                        let place = Place { node, partition };
                        Box::new(history.with_guest(Guest::new(plan, place, lives.get())))
                    }),
                }
            })
            .collect();
        let config = CoreConfig {
            cluster: CLUSTER,
            me: self.id,
            partitions,
            profile: layout.profile_of(self.id.node).clone(),
            io_writer_mode: layout.io_writer_mode(self.id.node),
            shards: layout
                .shards
                .iter()
                .filter(|at| at.node == self.id.node)
                .count() as u16,
            seed,
            placement: None,
            placed: Arc::default(),
            control: Box::new(self.control.clone()),
            stopwatch: Box::new(self.spent.clone()),
            acks: Arc::clone(&self.acks),
            silent: None,
        };
        let now = self.clock(now_us);
        let pool = config.profile.log_options(0).pool();
        let (core, report) =
            ShardCore::boot(config, pool, now, &mut self.disk, &SimKey).map_err(|error| {
                Violation::new("a shard boots from its own disk", error.to_string())
            })?;
        self.core = Some(core);
        Ok(report)
    }
}
