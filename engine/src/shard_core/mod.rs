//! `ShardCore`: the turn over all partitions of a shard.
//!
//! Owns the shard's log, its cache of entries and its partitions. One turn takes proofs and reads from the log, peers'
//! frames, clients' and handles' requests and the time, in this order; lets every touched replica finish; carries what they
//! decided to the log, the peers and the machines; and submits one set of chains. Work per turn is
//! proportional to what was touched, never to what is there.
//!
//! - `addresses`: who is a member, and where members said they listen, to those who dial them and let them in
//! - `asked`: what clients and handles ask, to the partitions it is for
//! - `boot`: recovery, and partitions from what the log holds
//! - `campaigns`: whose time has come, and how many elections are under way at once
//! - `clocks`: whether the clock of turns can be trusted
//! - `heard`: what peers say, to the partitions it is for
//! - `lagging`: entries that peers want read from the log
//! - `links`: batches for peers
//! - `members`: who belongs to a partition
//! - `modes`: how partitions are made durable
//! - `outward`: what replicas decided, to the log, the machines and those who asked
//! - `pairs`: other shards with which partitions are quiet
//! - `partitions`: those that are here, and how often they are looked at
//! - `peers`: what is remembered of peers' disks, and what they hold against the own one
//! - `reloads`: clients that ask for the profile to be read anew
//! - `retired`: what the disk brought back
//! - `slow_device`: leaving a device that is slow
//! - `trouble`: what is wrong with the shard, in words

mod addresses;
mod asked;
mod boot;
mod campaigns;
mod clocks;
mod heard;
mod lagging;
mod links;
mod members;
mod modes;
mod outward;
mod pairs;
mod partitions;
mod peers;
mod reloads;
mod retired;
mod slow_device;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clustor_shards::alike::Alike;
use clustor_shards::disk::DiskOp;
use clustor_shards::log::{Retirement, ShardLog};
use clustor_shards::turn::{Application, ConnectionId, Inbox, Outbox, PeerId, Time};
use clustor_wire::ids::{BootNumber, Incarnation, NodeId, PartitionId, ShardId};
use clustor_wire::message::{GuestStatus, PeerBatch, RefusalClause, ScrubStatus, ShardStatus};

use crate::gate::ControlView;
use crate::gate::group::SLOW_CHAINS_WINDOW_MS;
use crate::machine::Stopwatch;
use crate::outcome::Leadership;
use crate::partition::durability::ShardFacts;
use crate::partition::{Answer, Partition, refusal};
use crate::profile::ProfileNews;
use crate::raft::{Configuration, EntryCache, Output, Timers, Turn, WantedEntries};
use crate::request::{Reply, Request};

use addresses::Addresses;
use boot::bounds;
pub use boot::{BootError, CoreConfig, PartitionSpec};
use campaigns::Campaigns;
use clocks::ClockWatch;
use lagging::Lagging;
use links::Links;
use pairs::Pairs;
use partitions::Partitions;
use peers::Peers;
pub use peers::{RECORD_CHAINS, RECORD_MS};
use reloads::Reloads;
use slow_device::SlowDevice;
use trouble::DiskStands;

/// What shards of one node say to each other; nothing yet: partitions don't move between shards, and whoever asks
/// the wrong one is told the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreMesh {}

/// How long a stopping shard waits for others to take over what it leads, in election timeouts.
const HAND_OVER_TIMEOUTS: u64 = 3;
/// Batches applied for one partition within one turn; the rest comes in the next.
const APPLY_BATCHES_MAX: usize = 8;

/// For whom entries are read from the log.
#[derive(Debug, Clone, Copy)]
enum ReadFor {
    Peer(WantedEntries),
    Machine,
}

/// What all partitions share.
struct Shared {
    me: PeerId,
    log: ShardLog,
    cache: EntryCache,
    /// What quiet partitions have alike.
    known: Alike<Configuration>,
    output: Output,
    retirement: Retirement,
    reads: BTreeMap<u64, ReadFor>,
    disk: Vec<DiskOp>,
    clocks: ClockWatch,
    /// The incarnation that was heard last of each peer.
    heard: BTreeMap<PeerId, Incarnation>,
}

impl Shared {
    /// What bears on the mode of all partitions.
    fn facts(&self, now: Time) -> ShardFacts {
        ShardFacts {
            slow_chains: self.log.slow_chains(now, SLOW_CHAINS_WINDOW_MS * 1000),
            quarantined: self.log.quarantine().is_some(),
        }
    }

    /// What a replica is lent for this turn.
    fn lend(&mut self, now: Time) -> Turn<'_> {
        Turn {
            now,
            me: self.me,
            segment_seq: self.log.current_pair(),
            io_writer_mode: self.log.options().io_writer_mode,
            cache: &mut self.cache,
            heard: &self.heard,
            out: &mut self.output,
            clock_alarm: self.clocks.is_raised(),
        }
    }
}

/// The engine on one shard.
pub struct ShardCore {
    me: PeerId,
    shared: Shared,
    partitions: Partitions,
    /// Partitions something happened to in this turn.
    touched: BTreeSet<PartitionId>,
    deadlines: BTreeSet<(Time, PartitionId)>,
    campaigns: Campaigns,
    lagging: Lagging,
    links: Links,
    pairs: Pairs,
    peers: Peers,
    /// Why the replicas stay silent, if the disk is an older image of itself.
    behind: Option<String>,
    answers: Vec<(PartitionId, Answer)>,
    /// Connections of operators.
    operators: BTreeSet<ConnectionId>,
    /// Clients that wait for the profile to be read anew.
    reloads: Reloads,
    /// Bytes that leaders here have accepted and that are not durable on a quorum, all partitions together.
    inflight_bytes: u64,
    inflight_bytes_max: u64,
    /// Bytes of the queries that wait for their answers, all partitions together.
    read_bytes: u64,
    scratch_answers: Vec<Answer>,
    frames: Vec<u8>,
    placement: Option<Vec<u8>>,
    addresses: Addresses,
    /// As those who let them in count them.
    guests: GuestStatus,
    /// Whether the disk's failure was told to the partitions.
    failure_told: bool,
    disk_told: DiskStands,
    /// The moment of the latest turn.
    turned_at: Time,
    /// When memory is given back if nothing happens until then.
    rest_at: Option<Time>,
    /// `None` while the device is not slow.
    slow_device: Option<SlowDevice>,
    /// Since when the shard is stopping.
    stopping_since: Option<Time>,
    patience_ms: u64,
    /// Why the newest profile was refused; the one before it stays.
    profile_refused: Option<String>,
    /// The control plane's word.
    control: Box<dyn ControlView + Send>,
    /// What machines are timed by.
    stopwatch: Box<dyn Stopwatch>,
    /// Bounds of time of all replicas.
    timers: Arc<Timers>,
    /// Why the replicas stay silent, if the host can't keep an acknowledgement.
    silent: Option<String>,
}

impl ShardCore {
    /// Whether the boot's opening has retired: before that, nothing is said to anyone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.log.is_open()
    }

    /// This boot.
    #[must_use]
    pub fn boot_number(&self) -> BootNumber {
        self.shared.log.boot()
    }

    /// The shard's log, to be looked at.
    #[must_use]
    pub fn log(&self) -> &ShardLog {
        &self.shared.log
    }

    /// A partition, to be looked at.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&Partition> {
        self.partitions.get(&partition)
    }

    /// All partitions, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.all()
    }

    /// How often one of the partitions was looked at since the shard booted, from within or from outside: the work of a turn
    /// that depends on partitions is by how much it grows.
    #[must_use]
    pub fn visits(&self) -> u64 {
        self.partitions.visits()
    }

    /// A partition that is led here, not quietly, and has its time before the shard would come to it: there is none after a turn.
    #[doc(hidden)]
    #[must_use]
    pub fn unattended(&self) -> Option<PartitionId> {
        let is_missed = |partition: &&Partition| {
            let due = partition.replica.next_deadline();
            let filed = partition.busy.filed_deadline;
            partition.replica.is_leader() && due.is_some_and(|due| filed.is_none_or(|at| at > due))
        };
        let mut all = self.partitions.all().filter(|_| self.is_open());
        all.find(is_missed).map(|partition| partition.id)
    }

    /// How the shard and its partitions stand: one partition, or all.
    #[must_use]
    pub fn status(&self, only: Option<PartitionId>) -> ShardStatus {
        let log = &self.shared.log;
        let clock_alarm = self.shared.clocks.is_raised();
        ShardStatus {
            node: self.me.node,
            shard: self.me.shard,
            boot: log.boot(),
            io_writer_mode: log.options().io_writer_mode,
            trouble: self.trouble(),
            partitions: self
                .partitions
                .all()
                .filter(|partition| only.is_none_or(|only| only == partition.id))
                .map(|partition| {
                    let control = self.control.facts(partition.id);
                    partition.status_at(self.turned_at, clock_alarm, control, &|peer| {
                        self.peers.has_session(peer)
                    })
                })
                .collect(),
            scrub: scrub_status(log),
            guests: self.guests,
        }
    }

    /// Takes news of the profile: batches after this one are made under it.
    fn take_profile(&mut self, now: Time, news: ProfileNews) {
        let profile = match news {
            ProfileNews::Refused(why) => {
                self.profile_refused = Some(why);
                return;
            }
            ProfileNews::Obey(profile) => profile,
        };
        self.profile_refused = None;
        let writer = self.shared.log.options().io_writer_mode;
        self.shared.log.retune(&profile.log_options(writer));
        self.patience_ms = profile.election_ms_max;
        let (timers, limits) = bounds(&profile);
        self.timers = timers;
        for partition in self.partitions.all_mut() {
            partition.retune(now, Arc::clone(&self.timers), Arc::clone(&limits), &profile);
        }
        self.touched.extend(self.partitions.ids());
    }

    /// Which node this is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.me.node
    }

    /// Which shard this is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.me.shard
    }

    /// A failed disk is final, and so is a quarantine, or being behind one's own past: replicas leave what they lead to others and
    /// fall silent, and whoever waits learns that nobody knows.
    fn tell_failure(&mut self, now: Time) {
        if self.failure_told {
            return;
        }
        let log = &self.shared.log;
        let (why, text) = match (log.failure(), log.quarantine()) {
            (Some(_), _) => (
                "the shard's disk failed",
                "the shard's disk failed; restart the node to recover what is durable".to_owned(),
            ),
            (None, Some(quarantine)) => ("the shard is quarantined", quarantine.to_string()),
            (None, None) => match &self.behind {
                Some(why) => ("the shard's disk is an older image of itself", why.clone()),
                None => return,
            },
        };
        self.failure_told = true;
        let refused = refusal(RefusalClause::Unavailable, text, 1000);
        for partition in self.partitions.all_mut() {
            let answers = &mut self.scratch_answers;
            let turn = &mut self.shared.lend(now);
            let is_fast = |peer| self.peers.is_fast_since(peer, Time::default());
            partition.replica.bequeath(turn, is_fast);
            partition.replica.quarantine(turn);
            partition.give_up_appends(why, answers);
            partition.give_up_reads(&refused, answers);
            partition.set_leadership(Leadership::Lost, answers);
            let id = partition.id;
            self.touched.insert(id);
            self.answers
                .extend(answers.drain(..).map(|answer| (id, answer)));
        }
    }

    /// Settles what is in flight, then hands over what it leads. Returns whether nothing is left.
    ///
    /// Whoever leads no longer can't answer what waits but by Unknown, so that comes first; what takes longer than half the time is
    /// given up for a leader that is there when this node is not.
    fn wind_down(&mut self, now: Time) -> bool {
        let since = *self.stopping_since.get_or_insert(now);
        let patience = self.patience_ms * HAND_OVER_TIMEOUTS * 1000;
        let out_of_patience = now.since_us(since) > patience;
        let must_hand_over = now.since_us(since) > patience / 2;
        let mut busy = false;
        for partition in self.partitions.all_mut() {
            if partition.replica.is_leader() {
                partition.stopping = true;
                // To be asked wakes it, whatever it answers.
                self.touched.insert(partition.id);
                if partition.is_waited_for() && !must_hand_over {
                    busy = true;
                    continue;
                }
                let handing_over = partition
                    .replica
                    .transfer_leadership(&self.shared.lend(now), None)
                    .is_ok();
                busy |= handing_over || partition.is_waited_for();
            }
        }
        let settled = self.shared.log.is_settled();
        settled && !busy || out_of_patience
    }

    fn say_goodbye(&mut self) {
        let refused = refusal(
            RefusalClause::Stopping,
            "the node is stopping".to_owned(),
            1000,
        );
        for partition in self.partitions.all_mut() {
            let answers = &mut self.scratch_answers;
            partition.give_up_appends("the node stopped", answers);
            partition.give_up_reads(&refused, answers);
            partition.set_leadership(Leadership::Lost, answers);
            let id = partition.id;
            self.answers
                .extend(answers.drain(..).map(|answer| (id, answer)));
        }
    }

    /// Nothing leaves before the log is open: what was said must have been durable.
    fn send_batches(&mut self, now: Time, outbox: &mut Outbox<Reply, CoreMesh>) {
        self.links.collect(&mut self.shared.output);
        if !self.shared.log.is_open() {
            self.links.forget();
            return;
        }
        let retired = self.shared.log.retired_chain();
        if self.behind.is_none() {
            let due = self.peers.due(now, retired);
            due.for_each(|peer| self.links.greet(peer));
        }
        let head = PeerBatch {
            boot: self.shared.log.boot(),
            retired_chain: retired,
            clock_alarm: self.shared.clocks.is_raised(),
            slow_device: self.shared.log.is_device_slow(),
            bounds: Some(self.timers.bounds()),
            ..PeerBatch::default()
        };
        self.links
            .flush(&head, &mut self.shared.output, &mut outbox.peers);
        for (peer, _) in &outbox.peers {
            self.peers.said(now, *peer, retired);
        }
    }

    /// Compares the clocks. Where they can't be trusted, neither can what was measured by them, be it a silence for an alarm
    /// that is raised already.
    fn watch_clocks(&mut self, now: Time, wall_us: Option<u64>) {
        if self.shared.clocks.look(now, wall_us, &self.timers.lease) {
            self.tell_clock_alarm(now);
        }
    }

    /// Somebody who watches the clocks raises the alarm.
    fn raise_clock_alarm(&mut self, now: Time) {
        tracing::warn!("a clock alarm is raised from outside");
        self.shared.clocks.raise(now);
        self.tell_clock_alarm(now);
    }

    fn tell_clock_alarm(&mut self, now: Time) {
        for partition in self.partitions.all_mut() {
            partition.replica.on_clock_alarm(now);
        }
        self.touched.extend(self.partitions.ids());
    }

    /// Wakes partitions that were quiet.
    fn wake(&mut self, now: Time, woken: Vec<PartitionId>) {
        for id in woken {
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.replica.wake(now);
                self.touched.insert(id);
            }
        }
    }

    /// Files whether a partition is quiet.
    fn file_quiet(&mut self, now: Time, id: PartitionId) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            let replica = &partition.replica;
            let (term, quiet) = (replica.term(), replica.quiet());
            let filed = &mut partition.filed_quiet;
            self.pairs.file(now, id, term, &quiet, filed);
            if filed.is_some() {
                partition.rest(&mut self.shared.cache, &mut self.shared.known);
                self.shared.log.rest(id);
            }
        }
    }

    /// Whether peers hear anything of it.
    fn speaks(&self) -> bool {
        self.shared.log.is_open() && self.behind.is_none()
    }

    /// What is quiet wakes where the other shard is silent.
    fn tend_pairs(&mut self, now: Time) {
        let woken = self.pairs.silent(now, &self.timers);
        if !woken.is_empty() {
            tracing::info!(
                partitions = woken.len(),
                "a peer is silent: what was quiet wakes"
            );
            self.wake(now, woken);
        }
    }

    fn next_deadline(&self, now: Time) -> Option<Time> {
        let partition = self.deadlines.first().map(|(at, _)| *at);
        let log = &self.shared.log;
        let news = self.peers.deadline(log.retired_chain());
        let news = news.filter(|_| log.is_open() && self.behind.is_none());
        let pairs = self.pairs.deadline(now, &self.timers);
        let pairs = pairs.filter(|_| self.speaks());
        let campaigns = self.campaigns.is_due() && log.is_open();
        let campaigns = campaigns.then_some(now);
        [partition, log.deadline(), news, pairs, campaigns]
            .into_iter()
            .flatten()
            .min()
    }
}

/// How far the log's scrub is, in the words of the client protocol.
fn scrub_status(log: &ShardLog) -> ScrubStatus {
    let scrub = log.scrub_status();
    ScrubStatus {
        sweeps: scrub.sweeps,
        sweep_permille: scrub.sweep_permille,
        bytes: scrub.bytes,
        finished_ms_ago: scrub.finished_ms_ago,
        oldest_unverified_ms: scrub.oldest_unverified_ms,
        damaged_places: scrub.damaged_places,
        lost_entries: scrub.lost_entries,
    }
}

impl Application for ShardCore {
    type Request = Request;
    type Reply = Reply;
    type Mesh = CoreMesh;

    fn turn(&mut self, inbox: &mut Inbox<Request, CoreMesh>, outbox: &mut Outbox<Reply, CoreMesh>) {
        let now = inbox.now;
        self.turned_at = now;
        self.guests = inbox.guests;
        self.watch_clocks(now, inbox.wall_us);
        self.take_disk_events(now, inbox);
        self.take_hellos(inbox);
        self.shared.log.watch_disk(now);
        self.tell_failure(now);
        self.tell_disk();
        self.take_peer_events(now, inbox);
        self.take_client_events(now, inbox, outbox);
        self.take_requests(now, inbox, outbox);
        self.tick_due(now);
        self.tend_pairs(now);
        self.tend_modes(now);
        self.tend_timers(now);
        self.leave_slow_device(now);
        let done = inbox.stopping && self.wind_down(now);
        self.finish_replicas(now);
        self.carry_out(now);
        if done {
            self.say_goodbye();
        }
        self.deliver(outbox);
        self.peers.record(now, &mut self.shared.log);
        self.addresses.tell(&mut outbox.addresses);
        self.peers.tell(&mut outbox.remembered);
        self.shared.log.poll(now, &mut self.shared.disk);
        outbox.disk.append(&mut self.shared.disk);
        self.take_overruns(now);
        if self.speaks() {
            self.pairs.beat(now, &self.timers, &mut self.links);
        }
        self.send_batches(now, outbox);
        self.rest_if_idle(now);
        outbox.deadline = self.next_deadline(now);
        outbox.stopped = done;
        if inbox.stopping && !done {
            let soon = now.plus_ms(5);
            outbox.deadline = Some(outbox.deadline.map_or(soon, |at| at.min(soon)));
        }
    }
}
