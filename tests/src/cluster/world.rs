//! A cluster on virtual time: hosts, the network between them, and the checks over both.
//!
//! A world does what its queue says, one event a step. It draws everything from its seed and knows no clock, so
//! the same seed and the same calls give the same events, bit for bit. Whoever drives it (a seed's
//! [`super::run`], a script's [`crate::scenario`]) asks, injures and listens between steps.

use std::collections::BTreeMap;

use clustor_engine::request::{Reply, Request, RequestBody};
use clustor_shards::log::Damage;
use clustor_shards::log::{Mode, ShardLog};
use clustor_shards::turn::{Application, Outbox, PeerEvent, PeerId, PeerPast};
use clustor_wire::frame::Frame;
use clustor_wire::ids::{NodeId, PartitionId};
use clustor_wire::message::{PeerBatch, RaftBody, ReadLevel};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::check::clients::{Acknowledged, Clients};
use super::check::consensus::{Consensus, VoteSent};
use super::check::modes::Modes;
use super::check::{Violation, must, provable};
use super::clocks::Clocks;
use super::host::Host;
use super::layout::Layout;
use super::messages::{self, MessageKind, name};
use super::network::{Network, NetworkOptions, Packet};
use super::queue::Queue;
use super::trace::Trace;
use crate::disk::{Crash, DiskImage, SimDisk};

/// The ticket of all questions for a mode.
const MODE_TICKET: u64 = u64::MAX;
/// From something that arrives to the turn that takes it, in microseconds, at most.
const TURN_DELAY_US_MAX: u64 = 30;
/// Turns in a row, in one millisecond, in which nothing comes and nothing leaves, at most.
const IDLE_TURNS_MAX: u32 = 100;
/// From a lost peer, or a healed cut, to the next session, in microseconds.
const CONNECT_US: (u64, u64) = (1_000, 30_000);
/// From a killed process to its peers' notice, in microseconds.
const NOTICE_KILL_US: (u64, u64) = (100, 5_000);
/// From a node without power to its peers' notice, in microseconds.
const NOTICE_POWER_US: (u64, u64) = (1_000, 400_000);

/// Chains that an older image of a disk is behind what everybody remembers, at least: fewer may go unnoticed.
const WAY_BACK_CHAINS_MIN: u64 = 80;
/// The same for boots.
const WAY_BACK_BOOTS_MIN: u64 = 6;

/// What is to happen.
#[derive(Debug)]
enum Event {
    Turn(PeerId),
    Disk(PeerId),
    Frame(Packet),
    Connect(PeerId, PeerId),
    /// A side notices that its session ended.
    Notice(PeerId, PeerId, u64),
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
    queue: Queue<Event>,
    hosts: BTreeMap<PeerId, Host>,
    network: Network,
    rng: Xoshiro256PlusPlus,
    consensus: Consensus,
    modes: Modes,
    clients: Clients,
    /// Copies of disks may still be recovered this often, to look for what was acknowledged.
    proofs_left: u32,
    /// Nodes whose disks lie, with what they may have lost.
    damaged: Vec<NodeId>,
    stopping: Vec<NodeId>,
    /// Images of disks that may come back.
    images: BTreeMap<PeerId, DiskImage>,
    /// Nodes whose disks did.
    went_back: Vec<NodeId>,
    /// Messages that left, by sender, receiver and kind; counted where somebody asked for it.
    sent: Option<BTreeMap<(NodeId, NodeId, MessageKind), u64>>,
    /// Nothing fails any more.
    pub calm: bool,
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
        Self {
            consensus: Consensus::new(&layout),
            modes: Modes::default(),
            layout,
            now_us: 0,
            steps: 0,
            queue: Queue::new(),
            hosts,
            network: Network::new(network),
            rng,
            clients: Clients::default(),
            proofs_left: 0,
            damaged: Vec::new(),
            stopping: Vec::new(),
            images: BTreeMap::new(),
            went_back: Vec::new(),
            sent: None,
            calm: false,
            trace: Trace::Off,
        }
    }

    // ---- to be looked at

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

    /// The network.
    pub fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// How many copies of disks may still be recovered to look for what was acknowledged or voted.
    pub fn set_proofs(&mut self, proofs: u32) {
        self.proofs_left = proofs;
    }

    /// A node's disk may lose content from now on.
    pub fn mark_damaged(&mut self, node: NodeId) {
        if !self.damaged.contains(&node) {
            self.damaged.push(node);
        }
    }

    /// Whether a node's disk may have lost content.
    #[must_use]
    pub fn is_damaged(&self, node: NodeId) -> bool {
        self.damaged.contains(&node)
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

    // ---- asking

    /// Sends an append to a shard; returns its ticket. Attempts of one operation share its number.
    pub fn append(
        &mut self,
        to: PeerId,
        partition: PartitionId,
        op: u64,
        body: RequestBody,
    ) -> u64 {
        self.ask(to, partition, Some(op), body)
    }

    /// Sends a read to a shard; returns its ticket.
    pub fn read(&mut self, to: PeerId, partition: PartitionId, body: RequestBody) -> u64 {
        self.ask(to, partition, None, body)
    }

    fn ask(
        &mut self,
        to: PeerId,
        partition: PartitionId,
        op: Option<u64>,
        body: RequestBody,
    ) -> u64 {
        let boot = self.hosts.get(&to).map_or(0, |host| host.boots);
        let only_in = match &body {
            RequestBody::Append { only_in, .. } => *only_in,
            _ => None,
        };
        let level = match &body {
            RequestBody::Read { level, .. } => *level,
            _ => ReadLevel::Linearizable,
        };
        let ticket = self.clients.ask(
            &mut self.consensus,
            (to, boot),
            partition,
            op,
            level,
            only_in,
        );
        self.note(|| {
            let what = op.map_or_else(
                || format!("{body:?}"),
                |op| format!("append op {op} {body:?}"),
            );
            format!("ask #{ticket} {} p{} {what}", name(to), partition.get())
        });
        let host = self.host_mut(to);
        if host.runs() {
            host.inbox.requests.push(Request {
                ticket,
                partition,
                body,
            });
            self.wake_host(to);
        } else {
            self.clients.on_boot(to, boot + 1);
        }
        ticket
    }

    /// Asks a shard for a durability mode. What becomes of it nobody waits for: it must do no harm.
    pub fn ask_mode(&mut self, to: PeerId, partition: PartitionId, mode: Mode) {
        self.note(|| format!("ask {} p{} for {mode:?}", name(to), partition.get()));
        let host = self.host_mut(to);
        if host.runs() {
            host.inbox.requests.push(Request {
                ticket: MODE_TICKET,
                partition,
                body: RequestBody::Mode(mode),
            });
            self.wake_host(to);
        }
    }

    /// Asks for [`Happened::Wake`] at a moment.
    pub fn wake_at(&mut self, at_us: u64, token: u64) {
        self.queue.push(at_us.max(self.now_us), Event::Wake(token));
    }

    // ---- lives

    /// Starts a node at a moment.
    pub fn boot_at(&mut self, node: NodeId, at_us: u64) {
        self.queue.push(at_us.max(self.now_us), Event::Boot(node));
    }

    /// Ends a node's process, or its power.
    pub fn crash(&mut self, node: NodeId, crash: Crash) {
        self.crash_with(node, crash, crate::disk::Fate::Random);
    }

    /// As [`Self::crash`], with one fate for everything that was not flushed.
    pub fn crash_with(&mut self, node: NodeId, crash: Crash, fate: crate::disk::Fate) {
        if !self.node_runs(node) {
            return;
        }
        self.note(|| format!("node {node} ends: {crash:?} {fate:?}"));
        for shard in self.shards_of(node) {
            let host = self.host_mut(shard);
            host.disk.crash_with(crash, fate);
            host.disk_frozen = false;
        }
        let notice = match crash {
            Crash::Kill => NOTICE_KILL_US,
            Crash::Power => NOTICE_POWER_US,
        };
        self.take_down(node, notice);
    }

    /// The processes of a node are gone: requests die with them, peers will notice.
    fn take_down(&mut self, node: NodeId, notice: (u64, u64)) {
        self.stopping.retain(|stopping| *stopping != node);
        for shard in self.shards_of(node) {
            let host = self.host_mut(shard);
            host.core = None;
            host.turn_at = None;
            host.disk_at = None;
            host.stalled_until = 0;
            let boot = host.boots + 1;
            self.clients.on_boot(shard, boot);
            let others: Vec<PeerId> = self.hosts.keys().copied().collect();
            for other in others {
                self.network.end(shard, other);
                if self.network.is_up(other, shard) {
                    let session = self.network.session(other, shard);
                    let at = self.now_us + self.rng.random_range(notice.0..=notice.1);
                    self.queue.push(at, Event::Notice(other, shard, session));
                }
            }
        }
    }

    /// Asks a node to stop in order.
    pub fn stop(&mut self, node: NodeId) {
        if !self.node_runs(node) || self.stopping.contains(&node) {
            return;
        }
        self.note(|| format!("node {node} is asked to stop"));
        self.stopping.push(node);
        for shard in self.shards_of(node) {
            self.host_mut(shard).inbox.stopping = true;
            self.wake_host(shard);
        }
    }

    /// Keeps a node's disks as a power loss would leave them now.
    pub fn take_image(&mut self, node: NodeId) {
        self.note(|| format!("an image of node {node}'s disks"));
        for shard in self.shards_of(node) {
            let image = self.host_mut(shard).disk.image();
            self.images.insert(shard, image);
        }
    }

    /// Whether an image of a node's disks was taken.
    #[must_use]
    pub fn has_image(&self, node: NodeId) -> bool {
        self.images.keys().any(|shard| shard.node == node)
    }

    /// Whether an image of a node's disks was taken, and everybody else remembers durably, and well, that the node came
    /// further since then. Shorter ways back go unnoticed.
    ///
    /// # Errors
    /// If somebody's disk can't be recovered.
    pub fn is_way_back_long(&self, node: NodeId) -> Result<bool, Violation> {
        let mut others = Vec::new();
        for (shard, host) in &self.hosts {
            if shard.node != node {
                others.push(provable::recovered(&self.layout, *shard, &host.disk)?);
            }
        }
        for shard in self.shards_of(node) {
            let Some(image) = self.images.get(&shard) else {
                return Ok(false);
            };
            let log = provable::recovered_from(&self.layout, shard, image.clone())?;
            let Some((_, partition)) = log.partitions().next() else {
                return Ok(false);
            };
            let Some(then) = log.past_boots().last() else {
                return Ok(false);
            };
            let least = then.last.get() + WAY_BACK_CHAINS_MIN;
            let is_long = |past: &PeerPast| {
                let same = past.boot == then.boot && past.chain.get() >= least;
                let later = past.boot.get() >= then.boot.get() + WAY_BACK_BOOTS_MIN;
                past.incarnation == partition.incarnation && (same || later)
            };
            let knows = |other: &ShardLog| {
                let mut peers = other.peers();
                peers.any(|(peer, past)| peer == shard && is_long(&past))
            };
            if !others.iter().all(knows) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts the image of a node that is down back on its disks.
    ///
    /// # Panics
    /// If the node runs, or there is no image of it.
    pub fn go_back(&mut self, node: NodeId) {
        assert!(
            !self.node_runs(node),
            "an image is put back between two boots"
        );
        self.note(|| format!("node {node}'s disks are an older image of themselves"));
        for shard in self.shards_of(node) {
            let image = self.images.remove(&shard).expect("an image was taken");
            self.host_mut(shard).disk.restore(image);
            self.consensus.went_back(shard);
        }
        self.mark_damaged(node);
        self.went_back.push(node);
    }

    /// Puts empty disks into a node that is down.
    ///
    /// # Panics
    /// If the node runs.
    pub fn empty_disks(&mut self, node: NodeId) {
        assert!(!self.node_runs(node), "a disk is changed between two boots");
        self.note(|| format!("node {node}'s disks are new and empty"));
        for shard in self.shards_of(node) {
            let seed = self.rng.random();
            let options = self.layout.disk;
            self.host_mut(shard)
                .change_disk(SimDisk::with_options(seed, options));
            self.consensus.is_another(shard);
        }
        self.images.retain(|shard, _| shard.node != node);
        self.mark_damaged(node);
    }

    fn boot(&mut self, node: NodeId) -> Result<(), Violation> {
        if self.node_runs(node) {
            return Ok(());
        }
        for shard in self.shards_of(node) {
            let seed = self.rng.random();
            let now_us = self.now_us;
            let damaged = self.is_damaged(node);
            let host = self.hosts.get_mut(&shard).expect("a shard of the layout");
            let report = host.boot(&self.layout, now_us, seed)?;
            let core = host.core.as_ref().expect("just booted");
            self.consensus.on_boot(shard, core, damaged)?;
            self.trace.note(now_us, || {
                format!(
                    "boot {} number {} chosen {:?} chains {} torn {:?} rewritten {} missing {} incidents {}",
                    name(shard),
                    report.boot,
                    report.chosen,
                    report.chains,
                    report.torn,
                    report.rewritten,
                    report.missing,
                    report.incidents.len()
                )
            });
            // A slot may be torn: its chain never retired.
            let mut incidents = report
                .incidents
                .iter()
                .filter(|incident| incident.damage != Damage::Slot);
            must(
                damaged || incidents.next().is_none(),
                "an undamaged disk has no incidents",
                || format!("{}: {:?}", name(shard), report.incidents),
            )?;
            self.wake_host(shard);
            self.connect_all(shard);
        }
        Ok(())
    }

    /// Files new sessions with everybody that this shard has none with.
    pub fn connect_all(&mut self, shard: PeerId) {
        let others: Vec<PeerId> = self.hosts.keys().copied().collect();
        for other in others {
            if other.node != shard.node {
                let at = self.now_us + self.rng.random_range(CONNECT_US.0..=CONNECT_US.1);
                self.queue.push(at, Event::Connect(shard, other));
            }
        }
    }

    /// A session ends, and both sides notice; another follows.
    pub fn reset_session(&mut self, a: PeerId, b: PeerId) {
        for (me, other) in [(a, b), (b, a)] {
            let session = self.network.session(me, other);
            let at = self.now_us + self.rng.random_range(NOTICE_KILL_US.0..=NOTICE_KILL_US.1);
            self.queue.push(at, Event::Notice(me, other, session));
        }
        let at = self.now_us + self.rng.random_range(CONNECT_US.0..=CONNECT_US.1);
        self.queue.push(at, Event::Connect(a, b));
    }

    /// Everything held by rules is delivered now, where its session still stands.
    pub fn release_held(&mut self) {
        for packet in self.network.release() {
            self.queue.push(self.now_us, Event::Frame(packet));
        }
    }

    /// A disk does nothing more until it is thawed.
    pub fn freeze_disk(&mut self, shard: PeerId, frozen: bool) {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        host.disk_frozen = frozen;
        if !frozen {
            // What was due meanwhile happens from now on.
            host.disk_at = None;
            let due = host.disk.next_due_us();
            if let Some(due) = due {
                host.disk_at = Some(due.max(now_us));
                self.queue.push(due.max(now_us), Event::Disk(shard));
            }
        }
    }

    /// A process gets no processor for a while.
    pub fn stall(&mut self, shard: PeerId, for_us: u64) {
        let until = self.now_us + for_us;
        self.note(|| format!("stall {} for {for_us} us", name(shard)));
        let host = self.host_mut(shard);
        host.stalled_until = host.stalled_until.max(until);
    }

    /// Does something to the clocks of a node.
    pub(crate) fn turn_clocks(&mut self, node: NodeId, how: impl Fn(&mut Clocks, u64)) {
        let now_us = self.now_us;
        for shard in self.shards_of(node) {
            let host = self.host_mut(shard);
            how(&mut host.clocks, now_us);
            self.note(|| format!("the clocks of {} change", name(shard)));
        }
    }

    // ---- time

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
            Event::Boot(node) => self.boot(node)?,
            Event::Wake(token) => return Ok(Some(Happened::Wake(token))),
        }
        Ok(Some(Happened::Nothing))
    }

    fn drop_session(&mut self, me: PeerId, other: PeerId) {
        if self.network.end(me, other) {
            self.note(|| format!("down {} with {}", name(me), name(other)));
            let host = self.host_mut(me);
            if host.runs() {
                host.inbox.peers.push(PeerEvent::Down(other));
                self.wake_host(me);
            }
        }
    }

    fn connect(&mut self, a: PeerId, b: PeerId) {
        let runs = |shard| self.hosts.get(&shard).is_some_and(Host::runs);
        let cut = self.network.is_cut(a.node, b.node) || self.network.is_cut(b.node, a.node);
        let whole = self.network.is_up(a, b)
            && self.network.is_up(b, a)
            && self.network.session(a, b) == self.network.session(b, a);
        if !runs(a) || !runs(b) || cut || whole {
            return;
        }
        self.drop_session(a, b);
        self.drop_session(b, a);
        self.network.establish(a, b);
        self.note(|| format!("up {} with {}", name(a), name(b)));
        for (me, other) in [(a, b), (b, a)] {
            let Some(hello) = self.hello(other, me) else {
                continue;
            };
            let peers = &mut self.host_mut(me).inbox.peers;
            peers.push(PeerEvent::Up(other));
            peers.push(PeerEvent::Frame(other, hello));
            self.wake_host(me);
        }
    }

    /// What a shard says first in a session: it is never lost, or there is no session.
    fn hello(&self, from: PeerId, to: PeerId) -> Option<Frame> {
        Some(self.hosts.get(&from)?.core.as_ref()?.hello(to))
    }

    fn deliver(&mut self, packet: Packet) {
        let Packet {
            from,
            to,
            session,
            frame,
        } = packet;
        let runs = self.hosts.get(&to).is_some_and(Host::runs);
        if !runs
            || !self.network.is_in(to, from, session)
            || self.network.is_cut(from.node, to.node)
        {
            return;
        }
        self.note(|| {
            let what = messages::describe(&frame);
            format!("recv {} from {}: {what}", name(to), name(from))
        });
        self.host_mut(to)
            .inbox
            .peers
            .push(PeerEvent::Frame(from, frame));
        self.wake_host(to);
    }

    fn disk(&mut self, shard: PeerId) {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        if host.disk_at != Some(now_us) || host.disk_frozen {
            return;
        }
        host.disk_at = None;
        host.disk.advance_to_us(now_us);
        if host.runs() && host.disk.has_events() {
            self.wake_host(shard);
        }
        self.file_disk(shard);
    }

    fn file_disk(&mut self, shard: PeerId) {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        if host.disk_frozen || host.disk_at.is_some() {
            return;
        }
        if let Some(due) = host.disk.next_due_us() {
            let due = due.max(now_us);
            host.disk_at = Some(due);
            self.queue.push(due, Event::Disk(shard));
        }
    }

    /// Something arrived: a turn is due soon.
    fn wake_host(&mut self, shard: PeerId) {
        let at = self.now_us + self.rng.random_range(1..=TURN_DELAY_US_MAX);
        self.file_turn(shard, at);
    }

    fn file_turn(&mut self, shard: PeerId, at_us: u64) {
        let host = self.host_mut(shard);
        let at_us = at_us.max(host.stalled_until);
        if host.runs() && host.turn_at.is_none_or(|filed| filed > at_us) {
            host.turn_at = Some(at_us);
            self.queue.push(at_us, Event::Turn(shard));
        }
    }

    // ---- a turn

    fn turn(&mut self, shard: PeerId) -> Result<Happened, Violation> {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        if host.turn_at != Some(now_us) || !host.runs() {
            return Ok(Happened::Nothing);
        }
        host.turn_at = None;
        if host.stalled_until > now_us {
            let until = host.stalled_until;
            self.file_turn(shard, until);
            return Ok(Happened::Nothing);
        }
        if !host.disk_frozen {
            host.disk.advance_to_us(now_us);
        }
        host.disk.take_events(&mut host.inbox.disk);
        if let Some(host) = self.hosts.get_mut(&shard)
            && host.has_handles()
        {
            host.settle_some(&mut self.rng, self.calm);
        }
        let host = self.host_mut(shard);
        let came = !host.inbox.is_empty();
        host.inbox.now = host.clock(now_us);
        host.inbox.wall_us = Some(host.clocks.wall_us(now_us));
        let mut outbox = Outbox::default();
        if let Some(core) = &mut host.core {
            core.turn(&mut host.inbox, &mut outbox);
        }
        outbox
            .replies
            .retain(|reply| reply.ticket() != Some(MODE_TICKET));
        let left =
            !(outbox.disk.is_empty() && outbox.peers.is_empty() && outbox.replies.is_empty());
        self.judge_pace(shard, came || left)?;
        self.look(shard, &outbox.replies)?;
        for (to, frame) in outbox.peers {
            self.send(shard, to, frame)?;
        }
        let host = self.host_mut(shard);
        for op in outbox.disk {
            host.disk.submit(op);
        }
        host.disk_at = None;
        self.file_disk(shard);
        if outbox.stopped {
            return self.stopped(shard);
        }
        if self.host_mut(shard).has_handles() {
            let at = now_us + self.rng.random_range(100..=20_000);
            self.file_turn(shard, at);
        }
        if let Some(deadline) = outbox.deadline {
            let at = self.host_mut(shard).moment(deadline).max(now_us + 1);
            self.file_turn(shard, at);
        }
        if outbox.replies.is_empty() {
            return Ok(Happened::Nothing);
        }
        Ok(Happened::Replies(
            outbox
                .replies
                .into_iter()
                .map(|reply| (shard, reply))
                .collect(),
        ))
    }

    /// All shards of a node stop together: the last one ends the node.
    fn stopped(&mut self, shard: PeerId) -> Result<Happened, Violation> {
        self.note(|| format!("{} has stopped", name(shard)));
        let host = self.host_mut(shard);
        host.core = None;
        host.disk.crash_with(Crash::Kill, crate::disk::Fate::Landed);
        if self.node_runs(shard.node) {
            return Ok(Happened::Nothing);
        }
        self.take_down(shard.node, NOTICE_KILL_US);
        Ok(Happened::Stopped(shard.node))
    }

    /// A shard that takes turn after turn for nothing would burn its core.
    fn judge_pace(&mut self, shard: PeerId, busy: bool) -> Result<(), Violation> {
        let now_us = self.now_us;
        let host = self.host_mut(shard);
        let partitions = host.core.iter().flat_map(|core| core.partitions());
        let applied = partitions.map(|partition| partition.applied().get()).sum();
        let busy = busy || std::mem::replace(&mut host.applied, applied) != applied;
        let soon = now_us < host.last_turn_us + 1000;
        host.last_turn_us = now_us;
        host.idle_turns = if busy || !soon {
            0
        } else {
            host.idle_turns + 1
        };
        must(
            host.idle_turns < IDLE_TURNS_MAX,
            "a shard with nothing to do waits",
            || format!("{}: {IDLE_TURNS_MAX} turns for nothing", name(shard)),
        )
    }

    fn look(&mut self, shard: PeerId, replies: &[Reply]) -> Result<(), Violation> {
        let Some(core) = self.hosts.get(&shard).and_then(|host| host.core.as_ref()) else {
            return Ok(());
        };
        let guest = self.layout.guest.as_ref();
        if let Some(broken) = guest.and_then(super::guest::Plan::broken) {
            return Err(broken);
        }
        self.consensus.after_turn(shard, core)?;
        self.modes.after_turn(shard, core)?;
        for reply in replies {
            self.trace
                .note(self.now_us, || format!("answer {} {reply:?}", name(shard)));
            let acknowledged = self.clients.on_reply(&mut self.consensus, shard, reply)?;
            if let Some(acknowledged) = acknowledged {
                self.prove(acknowledged)?;
            }
        }
        Ok(())
    }

    // ---- proofs from disks alone

    fn may_prove(&mut self) -> bool {
        let may = self.proofs_left > 0 && self.rng.random_range(0..4) == 0;
        self.proofs_left -= u32::from(may);
        may
    }

    /// Looks for an acknowledged entry on copies of the disks, as a power loss would leave them now.
    fn prove(&mut self, acknowledged: Acknowledged) -> Result<(), Violation> {
        if !self.may_prove() {
            return Ok(());
        }
        let Acknowledged {
            partition,
            index,
            term,
            op,
        } = acknowledged;
        let Some(found) = self.layout.partition(partition) else {
            return Ok(());
        };
        let mut holders = Vec::new();
        for voter in found.replicas() {
            let log = provable::recovered(&self.layout, voter, &self.hosts[&voter].disk)?;
            let before = self.consensus.held_before(partition, voter, index, term);
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
    fn prove_vote(&mut self, from: PeerId, vote: VoteSent) -> Result<(), Violation> {
        if !self.may_prove() {
            return Ok(());
        }
        let log = provable::recovered(&self.layout, from, &self.hosts[&from].disk)?;
        let state = log
            .partition(vote.partition)
            .map(|log| log.hard_state)
            .unwrap_or_default();
        let silent = log.quarantine().is_some();
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

    fn send(&mut self, from: PeerId, to: PeerId, frame: Frame) -> Result<(), Violation> {
        let batch = PeerBatch::decode(&frame.body)
            .map_err(|error| Violation::new("what is sent can be read", error.to_string()))?;
        if let Some(sent) = &mut self.sent {
            for (kind, count) in messages::count(&batch) {
                *sent.entry((from.node, to.node, kind)).or_default() += count;
            }
        }
        must(
            !self.went_back.contains(&from.node) || !self.network.is_up(from, to),
            "a disk that came back as an older image of itself says nothing",
            || {
                format!(
                    "{} says to {}: {}",
                    name(from),
                    name(to),
                    messages::describe(&frame)
                )
            },
        )?;
        self.judge_voter(from, &batch)?;
        let mut votes = self.consensus.on_sent(from, &batch)?;
        for message in &batch.messages {
            if message.body == (RaftBody::VoteResponse { granted: true }) {
                let (partition, term) = (message.partition, message.term);
                self.consensus.votes_for(partition, term, from, to.node)?;
                votes.push(VoteSent {
                    partition,
                    term,
                    to: to.node,
                });
            }
        }
        for vote in votes {
            self.prove_vote(from, vote)?;
        }
        let arrivals = self
            .network
            .send(self.now_us, from, to, frame, &mut self.rng);
        for (at_us, packet) in arrivals {
            self.queue.push(at_us, Event::Frame(packet));
        }
        Ok(())
    }

    /// Nobody votes or campaigns in the place of a voter that is on another disk.
    fn judge_voter(&self, from: PeerId, batch: &PeerBatch) -> Result<(), Violation> {
        let core = self.hosts.get(&from).and_then(|host| host.core.as_ref());
        let Some(core) = core else {
            return Ok(());
        };
        for message in &batch.messages {
            let votes = matches!(
                message.body,
                RaftBody::Vote { .. } | RaftBody::VoteResponse { granted: true }
            );
            let partition = core.partition(message.partition).filter(|_| votes);
            let meant = partition.is_none_or(|partition| {
                let configuration = partition.configuration();
                !configuration.contains(from)
                    || configuration.incarnation_of(from) == core.incarnation()
            });
            must(
                meant,
                "a voter is on the disk that its configuration names",
                || {
                    format!(
                        "{} says {:?} as {}",
                        name(from),
                        message,
                        core.incarnation()
                    )
                },
            )?;
        }
        Ok(())
    }

    /// The end of a run in which everything settled: what was acknowledged is in the machines, every request was
    /// answered.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn settle(&self) -> Result<(), Violation> {
        for partition in &self.layout.partitions {
            self.consensus.agreed(partition.id).settle()?;
        }
        for (shard, host) in &self.hosts {
            self.modes.fenced(*shard, &host.disk)?;
        }
        self.clients.settle()
    }
}
