//! One seed: a cluster under load and faults, then without faults, until it has shown that it lives.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clustor_engine::outcome::{Outcome, ReadLevel, RefusalClause};
use clustor_engine::raft::Change;
use clustor_engine::request::{Reply, RequestBody, Wait};
use clustor_shards::disk::FileKind;
use clustor_shards::log::Mode;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::check::Violation;
use super::layout::peer;
use super::load::Clients;
use super::machine::{History, SABOTAGES};
use super::members;
use super::network::NetworkOptions;
use super::swarm::{Every, Faults, Swarm, draw_news};
use super::trace::Trace;
use super::world::{Happened, World};
use crate::disk::{Crash, StuckKind, WriteFault};

/// From the last fault to a write and a read in every partition and to all replicas having applied everything,
/// in microseconds of virtual time, at most.
pub const LIVENESS_US_MAX: u64 = 20_000_000;
/// Steps of one run, if nothing else is asked.
pub const STEPS_MAX: u64 = 2_000_000;
/// Copies of disks recovered in one run, at most (each is one proof of an acknowledgement or a vote).
const PROOFS_MAX: u32 = 24;
/// Wake tokens from here on are the run's own; below are clients'.
const FAULT_TOKEN: u64 = 1 << 62;
/// Operations of the last phase: numbers clients don't reach.
const PROBE_OP: u64 = 1 << 40;

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Events carried out.
    pub steps: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Acknowledged appends.
    pub acknowledged: u64,
    /// Answered reads.
    pub reads: u64,
    /// Boots of shards.
    pub boots: u64,
    /// Whether it came to its end, and was not cut short by the number of steps.
    pub finished: bool,
}

/// A run that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed} failed at step {step}, {at_us} us: {what}\nreplay: cargo run --release -p clustor-sim --bin sim -- --seed {seed} --steps {step}"
)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Events carried out.
    pub step: u64,
    /// Virtual time, in microseconds.
    pub at_us: u64,
    /// The rule, or what panicked.
    pub what: String,
}

/// Runs a seed, for at most so many steps.
///
/// # Errors
/// The rule that was broken, or the panic.
pub fn run(seed: u64, steps_max: u64, trace: Trace) -> Result<Report, Box<Failure>> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let swarm = Swarm::draw(&mut rng);
    play(seed, swarm, rng, steps_max, trace)
}

/// Runs what was drawn for a seed.
pub(crate) fn play(
    seed: u64,
    swarm: Swarm,
    rng: Xoshiro256PlusPlus,
    steps_max: u64,
    trace: Trace,
) -> Result<Report, Box<Failure>> {
    let mut run = Run::new(seed, swarm, rng, steps_max, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| run.whole()));
    let what = match outcome {
        Ok(Ok(finished)) => return Ok(run.report(finished)),
        Ok(Err(violation)) => violation.to_string(),
        Err(panic) => format!("panicked: {}", said(&*panic)),
    };
    run.world.say(|| format!("FAILED {what}"));
    Err(Box::new(Failure {
        seed,
        step: run.world.steps(),
        at_us: run.world.now_us(),
        what,
    }))
}

pub(super) fn said(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned())
}

/// The faults, as wake tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Power,
    Blackout,
    Stop,
    Cut,
    Reset,
    Stall,
    Full,
    Sabotage,
    Disk,
    Mode,
    Heal,
    Room,
    Retune,
    Members,
    Clock,
    Image,
    Empty,
}

const FAULTS: [Fault; 18] = [
    Fault::Kill,
    Fault::Power,
    Fault::Blackout,
    Fault::Stop,
    Fault::Cut,
    Fault::Reset,
    Fault::Stall,
    Fault::Full,
    Fault::Sabotage,
    Fault::Disk,
    Fault::Mode,
    Fault::Heal,
    Fault::Room,
    Fault::Retune,
    Fault::Members,
    Fault::Clock,
    Fault::Image,
    Fault::Empty,
];

fn token_of(fault: Fault) -> u64 {
    let place = FAULTS.iter().position(|known| *known == fault).unwrap_or(0);
    FAULT_TOKEN | place as u64
}

struct Run {
    seed: u64,
    steps_max: u64,
    world: World,
    faults: Faults,
    chaos_us: u64,
    clients: Clients,
    rng: Xoshiro256PlusPlus,
    calm: bool,
}

impl Run {
    fn new(
        seed: u64,
        swarm: Swarm,
        mut rng: Xoshiro256PlusPlus,
        steps_max: u64,
        trace: Trace,
    ) -> Self {
        let mut world = World::new(swarm.layout.clone(), swarm.network, rng.random());
        world.trace = trace;
        world.set_proofs(PROOFS_MAX);
        world.say(|| format!("seed {seed}: {swarm:?}"));
        let clients = Clients::new(&mut world, swarm.load, rng.random());
        Self {
            seed,
            steps_max,
            world,
            faults: swarm.faults,
            chaos_us: swarm.chaos_us,
            clients,
            rng,
            calm: false,
        }
    }

    fn report(&self, finished: bool) -> Report {
        Report {
            seed: self.seed,
            steps: self.world.steps(),
            virtual_us: self.world.now_us(),
            acknowledged: self.world.clients().acknowledged,
            reads: self.world.clients().reads,
            boots: self.world.hosts().map(|host| host.boots).sum(),
            finished,
        }
    }

    fn whole(&mut self) -> Result<bool, Violation> {
        for node in self.world.layout().nodes() {
            let at = self.rng.random_range(0..200_000);
            self.world.boot_at(node, at);
        }
        let drift = self.faults.drift_ppm_max;
        if drift > 0 {
            for node in self.world.layout().nodes() {
                let ppm = self.rng.random_range(-drift..=drift);
                self.world
                    .turn_clocks(node, |clocks, now| clocks.drift(now, ppm));
            }
        }
        for fault in FAULTS {
            self.file(fault);
        }
        while self.world.now_us() < self.chaos_us {
            if !self.step(|_, _| {})? {
                return Ok(false);
            }
        }
        self.calm_down();
        self.must_live()
    }

    /// One step; false if there are to be no more.
    fn step(&mut self, mut on_reply: impl FnMut(PeerId, &Reply)) -> Result<bool, Violation> {
        if self.world.steps() >= self.steps_max {
            return Ok(false);
        }
        match self.world.step()? {
            None => return Ok(false),
            Some(Happened::Nothing) => {}
            Some(Happened::Wake(token)) if token >= FAULT_TOKEN => self.injure(token)?,
            Some(Happened::Wake(token)) => self.clients.on_wake(&mut self.world, token),
            Some(Happened::Replies(replies)) => {
                for (from, reply) in replies {
                    on_reply(from, &reply);
                    self.clients.on_reply(&mut self.world, &reply);
                }
            }
            Some(Happened::Stopped(node)) => self.start_later(node),
        }
        Ok(true)
    }

    // ---- faults

    fn every(&self, fault: Fault) -> Every {
        let faults = &self.faults;
        match fault {
            Fault::Kill => faults.kill,
            Fault::Power => faults.power,
            Fault::Blackout => faults.blackout,
            Fault::Stop => faults.stop,
            Fault::Cut => faults.cut,
            Fault::Reset => faults.reset,
            Fault::Stall => faults.stall,
            Fault::Full => faults.full,
            Fault::Sabotage => faults.sabotage,
            Fault::Disk => faults.fragile.and(faults.disk),
            Fault::Retune => faults.retune,
            Fault::Mode => faults.mode,
            Fault::Members => faults.members,
            Fault::Clock => faults.clock,
            Fault::Image => faults.image,
            Fault::Empty => faults.empty,
            Fault::Heal | Fault::Room => None,
        }
    }

    /// Files the next fault of a kind.
    fn file(&mut self, fault: Fault) {
        if let Some(every) = self.every(fault) {
            let at = self.world.now_us() + self.rng.random_range(1..=2 * every);
            self.world.wake_at(at, token_of(fault));
        }
    }

    fn any_node(&mut self) -> NodeId {
        let nodes = self.world.layout().nodes();
        nodes[self.rng.random_range(0..nodes.len())]
    }

    fn any_shard(&mut self) -> PeerId {
        let shards = &self.world.layout().shards;
        shards[self.rng.random_range(0..shards.len())]
    }

    fn start_later(&mut self, node: NodeId) {
        let at = self.world.now_us() + self.rng.random_range(1_000..=self.faults.down_us_max);
        self.world.boot_at(node, at);
    }

    fn injure(&mut self, token: u64) -> Result<(), Violation> {
        let place = usize::try_from(token - FAULT_TOKEN).unwrap_or(usize::MAX);
        let Some(fault) = FAULTS.get(place).copied().filter(|_| !self.calm) else {
            return Ok(());
        };
        match fault {
            Fault::Kill => self.end_one(Crash::Kill),
            Fault::Power => self.end_one(Crash::Power),
            Fault::Blackout => {
                for node in self.world.layout().nodes() {
                    self.world.crash(node, Crash::Power);
                    self.start_later(node);
                }
            }
            Fault::Stop => {
                let node = self.any_node();
                self.world.stop(node);
            }
            Fault::Cut => self.cut(),
            Fault::Heal => self.heal(),
            Fault::Reset => {
                let (a, b) = (self.any_shard(), self.any_shard());
                if a.node != b.node {
                    self.world.reset_session(a, b);
                }
            }
            Fault::Stall => {
                let shard = self.any_shard();
                let for_us = self.rng.random_range(1_000..=self.faults.stall_us_max);
                self.world.stall(shard, for_us);
            }
            Fault::Full => {
                let shard = self.any_shard();
                self.world.say(|| format!("the disk of {shard:?} is full"));
                let percent = self.rng.random_range(70..100);
                let disk = &mut self.world.host_mut(shard).disk;
                disk.set_full(true);
                disk.set_used_percent(percent);
                let at = self.world.now_us() + self.rng.random_range(10_000..1_000_000);
                self.world.wake_at(at, token_of(Fault::Room));
            }
            Fault::Room => self.make_room(),
            Fault::Sabotage => {
                let shard = self.any_shard();
                let order = self.world.host_mut(shard).sabotage.clone();
                let how = self.rng.random_range(1..=SABOTAGES);
                order.store(how, std::sync::atomic::Ordering::Relaxed);
                self.world
                    .say(|| format!("a machine of {shard:?} will fail: {how}"));
            }
            Fault::Disk => self.fail_disk(),
            Fault::Retune => self.retune(),
            Fault::Mode => self.change_mode(),
            Fault::Members => self.change_members(),
            Fault::Clock => self.turn_clock(),
            Fault::Image => self.go_back()?,
            Fault::Empty => self.empty_disk(),
        }
        self.file(fault);
        Ok(())
    }

    /// The fragile node comes back with an empty disk, once.
    fn empty_disk(&mut self) {
        if let Some(node) = self.faults.fragile.filter(|n| !self.world.is_damaged(*n)) {
            self.world.crash(node, Crash::Power);
            self.world.empty_disks(node);
            self.start_later(node);
        }
    }

    /// Keeps an image of the fragile node's disks, or puts it back once everybody knows that the node came further.
    fn go_back(&mut self) -> Result<(), Violation> {
        let Some(node) = self
            .faults
            .fragile
            .filter(|node| !self.world.is_damaged(*node))
        else {
            return Ok(());
        };
        if !self.world.has_image(node) {
            self.world.take_image(node);
        } else if self.world.is_way_back_long(node)? {
            self.world.crash(node, Crash::Power);
            self.world.go_back(node);
            self.start_later(node);
            self.faults.image = None;
        }
        Ok(())
    }

    /// A clock jumps ahead or runs wild, or the wall clock is set: more than leases allow for, and to be noticed.
    fn turn_clock(&mut self) {
        let node = self.any_node();
        match self.rng.random_range(0..4) {
            0 => {
                let by_us = 1 << self.rng.random_range(10..=22);
                self.world
                    .turn_clocks(node, |clocks, now| clocks.jump(now, by_us));
            }
            1 => {
                let by_us = self.rng.random_range(-1_000_000..=1_000_000);
                self.world
                    .turn_clocks(node, |clocks, now| clocks.set_wall(now, by_us));
            }
            _ => {
                let ppm = match self.rng.random_range(0..3) {
                    0 => 0,
                    1 => self.rng.random_range(-600_000..=-70_000),
                    _ => self.rng.random_range(70_000..=1_500_000),
                };
                self.world
                    .turn_clocks(node, |clocks, now| clocks.run_wild(now, ppm));
            }
        }
    }

    /// A shard is told of another profile, or that one was refused.
    fn retune(&mut self) {
        let shard = self.any_shard();
        let news = draw_news(&mut self.rng, self.world.layout());
        let body = RequestBody::Profile(news);
        self.world.read(shard, PartitionId::default(), body);
    }

    /// Asks every replica of a partition for a mode: the leader, if there is one, takes it.
    fn change_mode(&mut self) {
        let partitions = &self.world.layout().partitions;
        let partition = partitions[self.rng.random_range(0..partitions.len())].clone();
        let mode = if self.rng.random_bool(0.5) {
            Mode::Strict
        } else {
            Mode::Group
        };
        for to in partition.replicas() {
            self.world.ask_mode(to, partition.id, mode);
        }
    }

    /// Whoever leads a partition is asked to change its members.
    fn change_members(&mut self) {
        let partitions = &self.world.layout().partitions;
        let partition = partitions[self.rng.random_range(0..partitions.len())].clone();
        let fragile = self.faults.fragile;
        let Some((leader, configuration)) = members::leader(&self.world, partition.id) else {
            return;
        };
        let asked = members::draw(&mut self.rng, &partition, configuration, fragile);
        if let Some(asked) = asked {
            self.world
                .read(leader, partition.id, RequestBody::Members(asked));
        }
    }

    fn end_one(&mut self, crash: Crash) {
        let node = self.any_node();
        if self.world.node_runs(node) {
            self.world.crash(node, crash);
            self.start_later(node);
        }
    }

    /// Cuts a random set of nodes off from the others, in one direction or both.
    fn cut(&mut self) {
        let nodes = self.world.layout().nodes();
        let apart: Vec<bool> = nodes.iter().map(|_| self.rng.random_bool(0.5)).collect();
        let both = self.rng.random_bool(0.7);
        for (a, a_apart) in nodes.iter().zip(&apart) {
            for (b, b_apart) in nodes.iter().zip(&apart) {
                if *a_apart && !*b_apart {
                    self.world.network_mut().cut(*a, *b);
                    if both {
                        self.world.network_mut().cut(*b, *a);
                    }
                }
            }
        }
        self.world
            .say(|| format!("cut {apart:?} off, both ways: {both}"));
        let at = self.world.now_us() + self.rng.random_range(10_000..=self.faults.cut_us_max);
        self.world.wake_at(at, token_of(Fault::Heal));
    }

    fn heal(&mut self) {
        self.world.network_mut().heal();
        self.world.say(|| "cuts are healed".to_owned());
        for shard in self.world.layout().shards.clone() {
            self.world.connect_all(shard);
        }
    }

    fn make_room(&mut self) {
        for shard in self.world.layout().shards.clone() {
            let disk = &mut self.world.host_mut(shard).disk;
            disk.set_full(false);
            disk.set_used_percent(60);
        }
        self.world.say(|| "disks have room".to_owned());
    }

    /// Whether something is committed in every partition.
    fn has_begun(&self) -> bool {
        let consensus = self.world.consensus();
        let mut partitions = self.world.layout().partitions.iter();
        partitions.all(|partition| consensus.committed(partition.id) > LogIndex::ZERO)
    }

    /// The next flush or write of the fragile node fails.
    fn fail_disk(&mut self) {
        // The first start takes everybody, and a disk that fails before leaves nobody to go on.
        let Some(node) = self.faults.fragile.filter(|_| self.has_begun()) else {
            return;
        };
        self.world.mark_damaged(node);
        let shards = self.world.layout().shards.clone();
        let kind = if self.rng.random_bool(0.5) {
            FileKind::Segment
        } else {
            FileKind::Ledger
        };
        if self.faults.rot {
            return self.let_rot(node);
        }
        let how = self.rng.random_range(0..5);
        for shard in shards.into_iter().filter(|shard| shard.node == node) {
            let disk = &mut self.world.host_mut(shard).disk;
            match how {
                0 => disk.fail_next_flush(kind),
                1 => disk.fault_next_write(kind, WriteFault::Error),
                2 => disk.stick_next(StuckKind::Chain),
                3 => disk.stick_next(StuckKind::Read),
                _ => disk.fault_next_write(kind, WriteFault::Short),
            }
            self.world
                .say(|| format!("the disk of {shard:?} will fail: {kind:?} {how}"));
        }
    }

    /// One block of a node that is down turns over bits. Once in a run: two such places in one chain, in both files,
    /// may look like a torn tail.
    fn let_rot(&mut self, node: NodeId) {
        self.world.crash(node, Crash::Power);
        self.start_later(node);
        let shards = self.world.layout().shards.clone();
        let shards: Vec<PeerId> = shards.into_iter().filter(|s| s.node == node).collect();
        let shard = shards[self.rng.random_range(0..shards.len())];
        let disk = &mut self.world.host_mut(shard).disk;
        let mut places = Vec::new();
        for file in disk.file_names() {
            places.extend(
                disk.blocks_at_rest(file)
                    .into_iter()
                    .map(|block| (file, block)),
            );
        }
        self.faults.disk = None;
        if places.is_empty() {
            return;
        }
        let (file, block) = places[self.rng.random_range(0..places.len())];
        disk.plant_rot(file, block);
        self.world
            .say(|| format!("rot in {file} block {block} of {shard:?}"));
    }

    // ---- calm

    /// No more faults; what is down comes up, what failed is restarted.
    fn calm_down(&mut self) {
        self.calm = true;
        self.world.calm = true;
        self.clients.resting = true;
        self.world.say(|| "no more faults".to_owned());
        self.world.network_mut().set_options(NetworkOptions {
            delay_us: (50, 2_000),
            ..NetworkOptions::CALM
        });
        self.make_room();
        for node in self.world.layout().nodes() {
            self.world
                .turn_clocks(node, |clocks, now| clocks.run_wild(now, 0));
            // A disk that failed is failed until a restart.
            let failed = self
                .world
                .hosts()
                .filter(|host| host.id.node == node)
                .any(|host| {
                    let core = host.core.as_ref();
                    core.is_some_and(|core| core.log().failure().is_some())
                        || host.disk.is_stuck()
                        || host.disk.has_planted_fault()
                });
            if failed {
                self.world.crash(node, Crash::Kill);
            }
            // What was planted while it was down would strike at its start.
            let shards = self.world.layout().shards.clone();
            for shard in shards.into_iter().filter(|shard| shard.node == node) {
                self.world.host_mut(shard).disk.forget_planted_faults();
            }
            let at = self.world.now_us() + 3_000_000;
            self.world.boot_at(node, self.world.now_us() + 1);
            // One that was stopping then is down now.
            self.world.boot_at(node, at);
        }
        self.heal();
    }

    /// Every partition serves a write and a read, and every replica that may speak gets whole and applies everything, in
    /// bounded time.
    fn must_live(&mut self) -> Result<bool, Violation> {
        let until = self.world.now_us() + LIVENESS_US_MAX;
        let mut probes: Vec<Probe> = Vec::new();
        for (partition, number) in self.world.layout().partitions.iter().zip(0..) {
            probes.push(Probe {
                replicas: partition.replicas(),
                partition: partition.clone(),
                op: PROBE_OP + number,
                stage: Stage::Write,
                ticket: None,
                next_us: self.world.now_us(),
                at: 0,
            });
        }
        loop {
            let waiting = probes.iter().filter(|p| p.stage != Stage::Done).count();
            if waiting == 0 && self.all_applied() {
                break;
            }
            if self.world.now_us() > until {
                return Err(Violation::new(
                    "when faults stop, every partition serves",
                    format!("after {LIVENESS_US_MAX} us: {}", self.state_of(&probes)),
                ));
            }
            for probe in &mut probes {
                probe.ask(&mut self.world, &mut self.rng);
            }
            // The probes' pace needs an event at least this often.
            let at = self.world.now_us() + 20_000;
            if self.world.next_at_us().is_none_or(|next| next > at) {
                self.world.wake_at(at, u64::MAX);
            }
            let mut replies = Vec::new();
            let goes_on = self.step(|from, reply| {
                if let Some(heard) = Heard::of(from, reply) {
                    replies.push(heard);
                }
            })?;
            for heard in &replies {
                probes
                    .iter_mut()
                    .for_each(|probe| probe.hear(heard, self.world.now_us()));
            }
            if !goes_on {
                return Ok(false);
            }
        }
        self.drain()?;
        self.world.settle()?;
        Ok(true)
    }

    /// Clients ask no more, and whoever still waits is answered.
    fn drain(&mut self) -> Result<(), Violation> {
        self.clients.silent = true;
        let until = self.world.now_us() + 1_000_000;
        while self.world.now_us() < until && self.step(|_, _| {})? {}
        Ok(())
    }

    /// Whether every replica has applied everything that is committed and holds all of it; those whose damage keeps
    /// them silent are passed over.
    fn all_applied(&self) -> bool {
        self.world.layout().partitions.iter().all(|partition| {
            let committed = self.world.consensus().committed(partition.id);
            let Some((leader, configuration)) = members::leader(&self.world, partition.id) else {
                return false;
            };
            let leads = self.world.host(leader);
            let leads = leads.and_then(|host| host.partition(partition.id));
            let over = leads.is_some_and(|found| found.change() == Change::None);
            // No node has this number: everybody is another one.
            // Nobody sets timers any more.
            let guest = self.world.layout().guest.is_some();
            let expired = guest || leads.is_some_and(|found| found.timers().is_empty());
            over && expired
                && configuration.members(peer(u64::MAX, 0)).all(|voter| {
                    let host = self.world.host(voter);
                    let silent = self.world.is_damaged(voter.node)
                        && host.is_none_or(|h| h.is_silenced() || h.is_left_out(partition.id));
                    silent
                        || host
                            .and_then(|host| host.partition(partition.id))
                            .is_some_and(|found| {
                                found.applied() >= committed
                                    && found.machine().is_some()
                                    && found.status().missing == 0
                            })
                })
        })
    }

    fn state_of(&self, probes: &[Probe]) -> String {
        let mut text = String::new();
        for probe in probes {
            text.push_str(&format!(
                "p{} {:?}: ",
                probe.partition.id.get(),
                probe.stage
            ));
            for voter in &probe.replicas {
                let host = self.world.host(*voter);
                match host.and_then(|host| host.partition(probe.partition.id)) {
                    Some(found) => text.push_str(&format!(
                        "{voter:?} {:?} timers {:?} {:?} {:?}; ",
                        found.status(),
                        found.timers().next_due(),
                        found.configuration(),
                        found.change()
                    )),
                    None => text.push_str(&format!("{voter:?} is down; ")),
                }
            }
        }
        text
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Write,
    Read,
    Done,
}

/// A write and then a read in one partition, tried until they succeed.
struct Probe {
    partition: super::layout::PartitionLayout,
    replicas: Vec<PeerId>,
    op: u64,
    stage: Stage,
    ticket: Option<u64>,
    next_us: u64,
    at: usize,
}

/// What a probe needs of a reply.
struct Heard {
    ticket: u64,
    served: bool,
    leader: Option<NodeId>,
}

impl Heard {
    fn of(_: PeerId, reply: &Reply) -> Option<Self> {
        let ticket = reply.ticket()?;
        let (served, refusal) = match reply {
            Reply::Append {
                outcome: Outcome::Applied { .. },
                ..
            }
            | Reply::Read { found: Ok(_), .. } => (true, None),
            Reply::Append {
                outcome: Outcome::NotExecuted { refusal },
                ..
            }
            | Reply::Read {
                found: Err(refusal),
                ..
            } => (false, Some(refusal)),
            _ => (false, None),
        };
        let leader = refusal
            .filter(|refusal| refusal.clause == RefusalClause::NotLeader)
            .and_then(|refusal| refusal.leader);
        Some(Self {
            ticket,
            served,
            leader,
        })
    }
}

impl Probe {
    fn ask(&mut self, world: &mut World, rng: &mut Xoshiro256PlusPlus) {
        if self.stage == Stage::Done || world.now_us() < self.next_us {
            return;
        }
        // Many partitions that share a slow disk are given the time that they need.
        let partitions = world.layout().partitions.len() as u64;
        self.next_us = world.now_us() + (50_000 * partitions).max(300_000);
        let to = self.replicas[self.at % self.replicas.len()];
        self.at += 1;
        let ticket = match self.stage {
            Stage::Write => {
                // Each try is an operation of its own: an append without a key is never retried.
                self.op += 1 << 10;
                let mut payload = self.op.to_le_bytes().to_vec();
                if let Some(guest) = &world.layout().guest {
                    payload.extend(guest.command(self.op, rng));
                }
                let body = RequestBody::Append {
                    payload,
                    key: None,
                    wait: Wait::Applied,
                    only_in: None,
                };
                world.append(to, self.partition.id, self.op, body)
            }
            _ => world.read(
                to,
                self.partition.id,
                RequestBody::Read {
                    level: ReadLevel::Linearizable,
                    read: History::reader(),
                },
            ),
        };
        self.ticket = Some(ticket);
    }

    fn hear(&mut self, heard: &Heard, now_us: u64) {
        if self.ticket != Some(heard.ticket) {
            return;
        }
        self.ticket = None;
        self.next_us = now_us + 10_000;
        if heard.served {
            self.stage = match self.stage {
                Stage::Write => Stage::Read,
                _ => Stage::Done,
            };
            // The same shard serves the read.
            self.at += self.replicas.len() - 1;
        } else if let Some(leader) = heard.leader {
            let place = self.replicas.iter().position(|v| v.node == leader);
            self.at = place.unwrap_or(self.at);
        }
    }
}
