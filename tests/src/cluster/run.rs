//! One seed: a cluster under load and faults, then without faults, until it has shown that it lives.

mod calm;
mod disks;
mod faults;
mod forgetting;
mod moves;
mod probe;
mod promises;

use std::panic::{AssertUnwindSafe, catch_unwind};

use clustor_engine::request::Reply;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::NodeId;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::check::Violation;
use super::floors;
use super::helical;
use super::load::Clients;
use super::marks::Marks;
use super::more;
use super::promises as third;
use super::simpler::Simpler;
use super::swarm::{Faults, Swarm};
use super::tardy::{self, Tardy};
use super::trace::Trace;
use super::world::{Happened, World};
use faults::{FAULT_TOKEN, FAULTS, Flapping};
use moves::Moves;
use promises::Promises;

use crate::disk::Crash;

pub(super) use disks::harm_marks;
pub(super) use faults::fault_marks;

/// From the last fault to a write and a read in every partition and to all replicas having applied everything,
/// in microseconds of virtual time, at most. The slowest disks write some 50 chains in a second, in which all partitions of a
/// shard share: what waits then, and the 64 commits of a change of voters in each, take most of it. Nodes far apart, whose
/// election timeouts are longer, are given as much more.
pub const LIVENESS_US_MAX: u64 = 60_000_000;
/// To all replicas having applied everything, how much longer than [`LIVENESS_US_MAX`] a cluster may take for each entry in the
/// logs of all its partitions, in microseconds of virtual time. Every replica may have to get and to apply all of them, and those of a
/// shard wait for one disk. A chain on the slowest takes 20 ms, and one message brings as much as a chain takes or the only entry that
/// fits: where hardly any entries share one, logs are short. The most that was seen is 2 ms for each of 190,000 entries.
pub const ENTRY_US_MAX: u64 = 10_000;
/// Steps of one run, if nothing else is asked: several times what the largest clusters under the most load take.
pub const STEPS_MAX: u64 = 10_000_000;
/// Copies of disks recovered in one run, at most (each is one proof of an acknowledgement or a vote).
const PROOFS_MAX: u32 = 24;

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Events carried out.
    pub steps: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Appends, reads and membership commands that shards were given, each attempt by itself.
    pub operations: u64,
    /// Acknowledged appends.
    pub acknowledged: u64,
    /// Answered reads.
    pub reads: u64,
    /// Boots of shards.
    pub boots: u64,
    /// Extents that rotted at the end of a run with helical damage.
    pub rotten: u64,
    /// The paths that it reached.
    pub marks: Marks,
    /// Whether it came to its end, and was not cut short by the number of steps.
    pub finished: bool,
}

impl Report {
    /// Of the operations, how many came to what was wanted: acknowledged appends and answered reads. The others were refused,
    /// or their answer was lost with a node.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.acknowledged + self.reads
    }

    /// The failure that it is not to have come to its end.
    #[must_use]
    pub fn cut_short(&self, kind: Kind) -> Option<Failure> {
        let rule = "a run comes to its end";
        (!self.finished).then(|| Failure {
            kind,
            seed: self.seed,
            simpler: Vec::new(),
            step: self.steps,
            at_us: self.virtual_us,
            rule: rule.to_owned(),
            what: format!("{rule}: it was cut short after {} steps", self.steps),
        })
    }
}

/// What a seed draws from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A few seconds of load, in which faults come one upon the other.
    #[default]
    Busy,
    /// Many minutes in which hardly anything happens, and faults are minutes apart.
    Light,
    /// A few seconds of load without faults, then a restart of all; of each entry all copies but one are rotten by then.
    Helical,
}

impl Kind {
    fn draw(self, rng: &mut Xoshiro256PlusPlus) -> Swarm {
        match self {
            Self::Busy => {
                let mut third = third::stream(rng);
                let mut floors = floors::stream(rng);
                let mut tardy = tardy::stream(rng);
                let mut swarm = Swarm::draw(rng);
                swarm.draw_promises(&mut third);
                swarm.draw_floors(&mut floors);
                swarm.draw_tardy(&mut tardy);
                swarm
            }
            Self::Light => Swarm::draw_light(rng),
            Self::Helical => Swarm::draw_helical(rng),
        }
    }

    /// What a command says beside the seed.
    const fn option(self) -> &'static str {
        match self {
            Self::Busy => "",
            Self::Light => "--light ",
            Self::Helical => "--helical ",
        }
    }
}

/// A run that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed} failed at step {step}, {at_us} us: {what}\nreplay: {}",
    self.replay()
)]
pub struct Failure {
    /// What it drew from.
    pub kind: Kind,
    /// The seed.
    pub seed: u64,
    /// How what it drew was made simpler.
    pub simpler: Vec<Simpler>,
    /// Events carried out.
    pub step: u64,
    /// Virtual time, in microseconds.
    pub at_us: u64,
    /// The rule, or what panicked, without the places and numbers of this run.
    pub rule: String,
    /// The rule and how it was broken, or what panicked.
    pub what: String,
}

impl Failure {
    /// The command that replays it.
    #[must_use]
    pub fn replay(&self) -> String {
        let (seed, step, kind) = (self.seed, self.step, self.kind.option());
        let mut simpler = self
            .simpler
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        if !simpler.is_empty() {
            simpler.insert_str(0, " --simpler ");
        }
        format!(
            "cargo run --release -p clustor-sim --bin sim -- {kind}--seed {seed}{simpler} --steps {step}"
        )
    }
}

/// Runs a seed, for at most so many steps.
///
/// # Errors
/// The rule that was broken, or the panic.
pub fn run(kind: Kind, seed: u64, steps_max: u64, trace: Trace) -> Result<Report, Box<Failure>> {
    run_simpler(kind, seed, &[], steps_max, trace)
}

/// Runs a seed with what it drew made simpler in these ways, one after the other.
///
/// # Errors
/// The rule that was broken, or the panic.
pub fn run_simpler(
    kind: Kind,
    seed: u64,
    simpler: &[Simpler],
    steps_max: u64,
    trace: Trace,
) -> Result<Report, Box<Failure>> {
    let (swarm, rng) = draw(kind, seed, simpler);
    play(seed, swarm, rng, steps_max, trace).map_err(|mut failure| {
        failure.kind = kind;
        failure.simpler = simpler.to_vec();
        failure
    })
}

/// What a seed draws, made simpler, and where the rest is drawn from.
#[must_use]
pub fn draw(kind: Kind, seed: u64, simpler: &[Simpler]) -> (Swarm, Xoshiro256PlusPlus) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut swarm = kind.draw(&mut rng);
    for way in simpler {
        // What changes nothing is no mistake: the ways before it may have done as much.
        let _ = way.apply(&mut swarm);
        if let Simpler::Draws(which) = way {
            rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            for _ in 0..*which {
                rng.jump();
            }
        }
    }
    (swarm, rng)
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
    let (rule, what) = match outcome {
        Ok(Ok(finished)) => return Ok(run.report(finished)),
        Ok(Err(violation)) => (violation.rule.to_owned(), violation.to_string()),
        Err(panic) => {
            let what = format!("panicked: {}", said(&*panic));
            (what.replace(|c: char| c.is_ascii_digit(), ""), what)
        }
    };
    run.world.say(|| format!("FAILED {what}"));
    Err(Box::new(Failure {
        kind: Kind::Busy,
        seed,
        simpler: Vec::new(),
        step: run.world.steps(),
        at_us: run.world.now_us(),
        rule,
        what,
    }))
}

/// What a panic said.
#[must_use]
pub fn said(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned())
}

struct Run {
    seed: u64,
    steps_max: u64,
    world: World,
    faults: Faults,
    chaos_us: u64,
    helical: bool,
    rotten: u64,
    clients: Clients,
    rng: Xoshiro256PlusPlus,
    /// For the faults of [`super::more`].
    more: Xoshiro256PlusPlus,
    /// Those of [`super::promises`].
    promises: Promises,
    /// For those of [`super::floors`].
    floors: Xoshiro256PlusPlus,
    calm: bool,
    moves: Moves,
    /// A node whose disks are slow for a while.
    slowed: Option<NodeId>,
    flapping: Option<Flapping>,
    /// Who went back and hears nobody, and how often it starts anew until it does.
    alone: Option<(NodeId, u32)>,
    /// Nodes whose disks lost something.
    harmed: Vec<NodeId>,
}

impl Run {
    fn new(
        seed: u64,
        swarm: Swarm,
        mut rng: Xoshiro256PlusPlus,
        steps_max: u64,
        trace: Trace,
    ) -> Self {
        let more = more::stream(&more::stream(&rng));
        let promises = Promises::new(third::stream(&more));
        let floors = floors::run_stream(&rng);
        let kept = tardy::run_stream(&rng);
        let mut world = World::new(swarm.layout.clone(), swarm.network, rng.random());
        world.trace = trace;
        world.set_proofs(PROOFS_MAX);
        let tardy = swarm.faults.tardy;
        let tardy = tardy.map(|keeping| Tardy::new(keeping, kept));
        world.network_mut().set_tardy(tardy);
        world.effects_stay = swarm.load.effects_stay;
        world.say(|| format!("seed {seed}: {swarm:?}"));
        let clients = Clients::new(&mut world, swarm.load, rng.random());
        Self {
            seed,
            steps_max,
            world,
            faults: swarm.faults,
            chaos_us: swarm.chaos_us,
            helical: swarm.helical,
            rotten: 0,
            clients,
            rng,
            more,
            promises,
            floors,
            calm: false,
            moves: Moves::default(),
            slowed: None,
            flapping: None,
            alone: None,
            harmed: Vec::new(),
        }
    }

    fn report(&self, finished: bool) -> Report {
        let mut marks = self.world.marks.clone();
        marks.add(&self.world.consensus().marks());
        marks.add(&self.moves.marks);
        self.count_harm(&mut marks);
        Report {
            seed: self.seed,
            steps: self.world.steps(),
            virtual_us: self.world.now_us(),
            operations: self.world.operations(),
            acknowledged: self.world.clients().acknowledged,
            reads: self.world.clients().reads,
            boots: self.world.hosts().map(|host| host.boots).sum(),
            rotten: self.rotten,
            marks,
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
        if !self.helical {
            self.calm_down();
            return self.must_live();
        }
        self.clients.resting = true;
        // Or in the midst of it, where some have what others never get.
        if self.more.random_bool(0.5) {
            self.drain()?;
            self.clients.silent = false;
        }
        for node in self.world.layout().nodes() {
            self.world.crash(node, Crash::Power);
        }
        self.rotten = helical::let_all_but_one_rot(&mut self.world)?;
        self.calm_down();
        let finished = self.must_live()?;
        if finished {
            helical::is_whole(&self.world)?;
        }
        Ok(finished)
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
}
