//! A cluster on virtual time: hosts, the network between them, and the checks over both.
//!
//! A world does what its queue says, one event a step. It draws everything from its seed and knows no clock, so
//! the same seed and the same calls give the same events, bit for bit. Whoever drives it (a seed's
//! [`super::run`], a script's [`crate::scenario`]) asks, injures and listens between steps.

mod asking;
mod lives;
mod proofs;
mod sessions;
mod shorten;
mod strangers;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use clustor_engine::profile::{Profile, ProfileNews};
use clustor_engine::request::{Reply, RequestBody};
use clustor_shards::log::OnAuthenticationFailure;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::addresses::Addresses;
use super::check::Violation;
use super::check::clients::Clients;
use super::check::consensus::Consensus;
use super::check::modes::Modes;
use super::deferred::EFFECTS_STAY;
use super::host::Host;
use super::layout::Layout;
use super::marks::Marks;
use super::messages::MessageKind;
use super::network::{Network, NetworkOptions, Packet};
use super::queue::Queue;
use super::trace::Trace;
use crate::disk::DiskImage;

/// What is to happen.
#[derive(Debug)]
enum Event {
    Turn(PeerId),
    Disk(PeerId),
    Frame(Packet),
    Connect(PeerId, PeerId),
    /// A side notices that its session ended.
    Notice(PeerId, PeerId, u64),
    /// The time of a visitor (second) in a session is over.
    Leave(PeerId, PeerId, u64),
    Boot(NodeId),
    /// The driver asked to be woken.
    Wake(u64),
}

/// What a step did that a driver may care for.
#[derive(Debug)]
pub enum Happened {
    /// Nothing of note.
    Nothing,
    /// The driver asked for this.
    Wake(u64),
    /// A shard answered; what it acknowledged was found to hold.
    Replies(Vec<(PeerId, Reply)>),
    /// A shard that was asked to stop has stopped.
    Stopped(NodeId),
}

/// A cluster, its network and its checks.
#[derive(Debug)]
pub struct World {
    layout: Layout,
    now_us: u64,
    steps: u64,
    operations: u64,
    queue: Queue<Event>,
    hosts: BTreeMap<PeerId, Host>,
    network: Network,
    addresses: Addresses,
    rng: Xoshiro256PlusPlus,
    consensus: Consensus,
    modes: Modes,
    clients: Clients,
    /// Copies of disks may still be recovered this often, to look for what was acknowledged.
    proofs_left: u32,
    /// Nodes whose disks may fail.
    damaged: Vec<NodeId>,
    /// Shards whose disks may have lost what they vouched for.
    lossy: Vec<PeerId>,
    stopping: Vec<NodeId>,
    /// Images of disks that may come back.
    images: BTreeMap<PeerId, DiskImage>,
    /// Shards whose disks did, and who remembers durably that they had come further.
    went_back: BTreeSet<(PeerId, PeerId)>,
    /// Messages that left, by sender, receiver and kind; counted where somebody asked for it.
    sent: Option<BTreeMap<(NodeId, NodeId, MessageKind), u64>>,
    /// The paths that were reached.
    pub(crate) marks: Marks,
    /// Nothing fails any more.
    pub calm: bool,
    /// Of 1,000 handles of deferred effects, how many a turn leaves alone.
    pub effects_stay: u32,
    /// The trace.
    pub trace: Trace,
}

impl World {
    /// A cluster that is switched off.
    #[must_use]
    pub fn new(layout: Layout, network: NetworkOptions, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let hosts = layout
            .shards
            .iter()
            .map(|shard| (*shard, Host::new(*shard, &layout, rng.random())))
            .collect();
        let network = Network::new(network, layout.distances_us.clone());
        Self {
            consensus: Consensus::new(&layout),
            modes: Modes::default(),
            layout,
            now_us: 0,
            steps: 0,
            operations: 0,
            queue: Queue::new(),
            hosts,
            network,
            addresses: Addresses::default(),
            rng,
            clients: Clients::default(),
            proofs_left: 0,
            damaged: Vec::new(),
            lossy: Vec::new(),
            stopping: Vec::new(),
            images: BTreeMap::new(),
            went_back: BTreeSet::new(),
            sent: None,
            marks: Marks::default(),
            calm: false,
            effects_stay: EFFECTS_STAY,
            trace: Trace::Off,
        }
    }

    /// Virtual time, in microseconds.
    #[must_use]
    pub const fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Steps taken.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Appends, reads and membership commands that running shards were given, each attempt by itself.
    #[must_use]
    pub const fn operations(&self) -> u64 {
        self.operations
    }

    /// The cluster as it was set up.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The checks on consensus and machines.
    #[must_use]
    pub const fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// The checks on what clients were told.
    #[must_use]
    pub const fn clients(&self) -> &Clients {
        &self.clients
    }

    /// A shard.
    #[must_use]
    pub fn host(&self, shard: PeerId) -> Option<&Host> {
        self.hosts.get(&shard)
    }

    /// All shards, ascending.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    pub(crate) fn host_mut(&mut self, shard: PeerId) -> &mut Host {
        self.hosts.get_mut(&shard).expect("a shard of the layout")
    }

    /// Whether any shard of a node runs.
    #[must_use]
    pub fn node_runs(&self, node: NodeId) -> bool {
        self.hosts
            .values()
            .any(|host| host.id.node == node && host.runs())
    }

    /// A node reads its profile anew: its shards that run obey it, and it starts with it from here on.
    pub fn reload(&mut self, node: NodeId, profile: Profile) {
        for shard in self.shards_of(node) {
            if self.hosts[&shard].runs() {
                let news = ProfileNews::Obey(Box::new(profile.clone()));
                self.read(shard, PartitionId::default(), RequestBody::Profile(news));
            }
        }
        self.layout.profiles.insert(node, profile);
    }

    /// The network.
    pub fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// How many copies of disks may still be recovered to look for what was acknowledged or voted.
    pub fn set_proofs(&mut self, proofs: u32) {
        self.proofs_left = proofs;
    }

    /// A node's disk may fail from now on, so that the node falls silent and finds what it has not said durable yet damaged.
    pub fn mark_damaged(&mut self, node: NodeId) {
        if !self.damaged.contains(&node) {
            self.damaged.push(node);
        }
    }

    /// A shard's disk has lost content that it may have vouched for, or will.
    pub fn mark_lossy(&mut self, shard: PeerId) {
        self.mark_damaged(shard.node);
        if !self.lossy.contains(&shard) {
            self.lossy.push(shard);
        }
    }

    /// Whether a node's disk may have failed.
    #[must_use]
    pub fn is_damaged(&self, node: NodeId) -> bool {
        self.damaged.contains(&node)
    }

    /// Whether a shard's disk may have lost content that it vouched for. A disk that failed, and said so, has lost nothing.
    #[must_use]
    pub fn is_lossy(&self, shard: PeerId) -> bool {
        let host = self.hosts.get(&shard);
        let lies = host.is_some_and(|host| host.disk.counters().silent_faults > 0);
        self.lossy.contains(&shard) || lies
    }

    /// Whether a shard's log may hold damage: its disk lost something, or failed and said so. What a failed write or flush left
    /// at the end was never vouched for, and may be taken for rot; then it is missing until it is fetched or truncated.
    #[must_use]
    pub fn may_hold_damage(&self, shard: PeerId) -> bool {
        let failed = self.hosts.get(&shard).is_some_and(|host| {
            let counters = host.disk.counters();
            counters.flushes_failed + counters.writes_failed > 0
        });
        failed || self.is_lossy(shard)
    }

    /// Whether what a shard's disk may hold can silence the shard: what a failed write or flush left does where the profile asks for it.
    #[must_use]
    pub fn may_silence(&self, shard: PeerId) -> bool {
        let judges = self.layout.profile_of(shard.node).on_authentication_failure;
        let wary = judges == OnAuthenticationFailure::Quarantine;
        self.is_lossy(shard) || (wary && self.may_hold_damage(shard))
    }

    /// Marks what keeps leaders from leases and from the mode that they were asked for.
    pub(crate) fn mark_clauses(&mut self) {
        for host in self.hosts.values() {
            let Some(core) = host.core.as_ref().filter(|core| core.is_open()) else {
                continue;
            };
            for status in core.status(None).partitions {
                self.marks.on_status(&status);
            }
        }
    }

    /// Whether a shard held a lease on a partition when it took its last turn.
    pub(crate) fn holds_lease(&self, shard: PeerId, partition: PartitionId) -> bool {
        let core = self.host(shard).and_then(|host| host.core.as_ref());
        core.filter(|core| core.is_open()).is_some_and(|core| {
            let status = core.status(Some(partition));
            status.partitions.iter().any(|found| found.lease_held)
        })
    }

    /// Counts the messages that leave, from 0.
    pub fn count_sent(&mut self) {
        self.sent = Some(BTreeMap::new());
    }

    /// Messages of a kind that left one node for another since [`Self::count_sent`], whatever became of them.
    #[must_use]
    pub fn sent(&self, from: NodeId, to: NodeId, kind: MessageKind) -> u64 {
        let sent = self.sent.as_ref();
        sent.and_then(|sent| sent.get(&(from, to, kind)).copied())
            .unwrap_or(0)
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        self.trace.note(self.now_us, what);
    }

    /// Notes something in the trace.
    pub fn say(&mut self, what: impl FnOnce() -> String) {
        self.note(what);
    }

    fn shards_of(&self, node: NodeId) -> Vec<PeerId> {
        let shards = self.layout.shards.iter();
        shards.filter(|s| s.node == node).copied().collect()
    }

    /// The next event's moment.
    #[must_use]
    pub fn next_at_us(&self) -> Option<u64> {
        self.queue.next_at_us()
    }

    /// Lets time pass without an event, up to the next one's moment.
    pub fn pass_to_us(&mut self, at_us: u64) {
        let next = self.queue.next_at_us().unwrap_or(at_us);
        self.now_us = self.now_us.max(at_us.min(next));
    }

    /// Carries out the next event. `None` if nothing is to come.
    ///
    /// # Errors
    /// The rule that was broken by it.
    pub fn step(&mut self) -> Result<Option<Happened>, Violation> {
        let Some((at_us, event)) = self.queue.pop() else {
            return Ok(None);
        };
        self.now_us = at_us;
        self.steps += 1;
        match event {
            Event::Turn(shard) => return self.turn(shard).map(Some),
            Event::Disk(shard) => self.disk(shard),
            Event::Frame(packet) => self.deliver(packet),
            Event::Connect(a, b) => self.connect(a, b),
            Event::Notice(me, other, session) => {
                if self.network.is_in(me, other, session) {
                    self.drop_session(me, other);
                }
            }
            Event::Leave(host, visitor, session) => self.end_visit(host, visitor, session),
            Event::Boot(node) => self.boot(node)?,
            Event::Wake(token) => return Ok(Some(Happened::Wake(token))),
        }
        Ok(Some(Happened::Nothing))
    }

    /// The end of a run in which everything settled: what was acknowledged is in the machines and provable from the disks, every
    /// request was answered, and files hold what they should.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn settle(&self) -> Result<(), Violation> {
        self.is_settled()?;
        // An embedder's machine sets timers by commands of its own.
        let own = self.layout.guest.is_none();
        for partition in self.layout.partitions.iter().filter(|_| own) {
            self.consensus.agreed(partition.id).judge_timers()?;
        }
        for (shard, host) in &self.hosts {
            self.modes.fenced(*shard, &host.disk)?;
        }
        self.prove_all()
    }

    /// The same, but for the files: they take long to read.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn is_settled(&self) -> Result<(), Violation> {
        for partition in &self.layout.partitions {
            self.consensus.agreed(partition.id).settle()?;
        }
        self.clients.settle()
    }
}
