//! The test kit for embedders: a machine of one's own in a simulated cluster.
//!
//! The cluster is the engine as it ships: its turn, its log, its recovery. Time, network, disks and processes are
//! simulated, everything that is left to chance is drawn from the seed, and a run is the same bit for bit each time. Clients
//! append the commands of a workload, some of them under keys and retried; nodes are killed, lose power, are stopped and
//! stalled, cut off from each other and full; machines are made again in the middle. Then the faults stop, and every
//! replica must get to the end. On the way everything is checked that the engine promises, and of the machine:
//!
//! - that it is deterministic: its digest ([`StateMachine::digest`]) is compared at equal indexes between all replicas and all
//!   lives of each, after every batch, and batches are cut differently on each; its replies are compared, too
//! - that it does not fail: [`clustor_engine::machine::Applied::Fatal`] and panics end the run. `Retryable` is allowed.
//! - whatever else [`Simulation::check`] says
//!
//! ```
//! use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
//! use clustor_sim::simulation::{Simulation, seeds};
//!
//! #[derive(Default)]
//! struct Sum(u64);
//!
//! impl StateMachine for Sum {
//!     fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
//!         for item in batch {
//!             self.0 += u64::from(item.command[0]);
//!             out.reply(item.index, &self.0.to_le_bytes());
//!         }
//!         Applied::Ack
//!     }
//!
//!     fn digest(&self) -> Option<u64> {
//!         Some(self.0)
//!     }
//! }
//!
//! for seed in seeds(0..3) {
//!     Simulation::new(seed)
//!         .nodes(3)
//!         .machine(|_| Sum::default())
//!         .workload(|_, dice| vec![dice.below(10) as u8])
//!         .run()
//!         .unwrap_or_else(|failed| panic!("{failed}"));
//! }
//! ```

mod caller;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use clustor_engine::machine::{AnyMachine, StateMachine};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::cluster::guest::Plan;
pub use crate::cluster::guest::{Dice, Place};
pub use crate::cluster::run::Report;
use crate::cluster::run::{self, STEPS_MAX};
use crate::cluster::swarm::Swarm;
use crate::cluster::trace::Trace;

/// Nodes of a simulated cluster, at most.
pub const NODES_MAX: u64 = 7;
/// Bytes of a command, at most.
pub const COMMAND_BYTES_MAX: usize = 8_000;

pub use caller::{SEED_VARIABLE, TRACE_VARIABLE, seeds};

type Make = dyn Fn(Place) -> Box<dyn AnyMachine> + Send + Sync;
type Workload = dyn Fn(u64, &mut Dice<'_>) -> Vec<u8> + Send + Sync;
type Check = dyn Fn(&dyn Any) -> Result<(), String> + Send + Sync;

/// A run that broke a rule. Its text ends with the line that replays it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its seed.
    pub seed: u64,
    /// When, in microseconds of virtual time.
    pub at_us: u64,
    /// The rule, and how it was broken.
    pub what: String,
    /// The command that runs it again.
    pub replay: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} failed after {} us: {}\nreplay: {} (with {TRACE_VARIABLE}=1 for every event)",
            self.seed, self.at_us, self.what, self.replay
        )
    }
}

impl std::error::Error for Failed {}

/// A simulated cluster to be run with a machine.
pub struct Simulation {
    seed: u64,
    nodes: u64,
    partitions: u64,
    make: Option<Arc<Make>>,
    workload: Option<Arc<Workload>>,
    check: Option<Arc<Check>>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("nodes", &self.nodes)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// A run of this seed: three nodes, one partition.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            partitions: 1,
            make: None,
            workload: None,
            check: None,
        }
    }

    /// So many nodes.
    ///
    /// # Panics
    /// For none, or more than [`NODES_MAX`].
    #[must_use]
    pub fn nodes(mut self, nodes: u64) -> Self {
        assert!((1..=NODES_MAX).contains(&nodes), "1 to {NODES_MAX} nodes");
        self.nodes = nodes;
        self
    }

    /// So many partitions, each with a machine on every node.
    ///
    /// # Panics
    /// For none, or more than 16.
    #[must_use]
    pub fn partitions(mut self, partitions: u64) -> Self {
        assert!((1..=16).contains(&partitions), "1 to 16 partitions");
        self.partitions = partitions;
        self
    }

    /// The machine. Made at every start of its node, and again whenever it failed or is made to fail. One on disk finds
    /// what it saved by its [`Place`], in something that the closure keeps.
    #[must_use]
    pub fn machine<M: StateMachine>(
        mut self,
        make: impl Fn(Place) -> M + Send + Sync + 'static,
    ) -> Self {
        self.make = Some(Arc::new(move |place| Box::new(make(place))));
        self
    }

    /// The commands: the one of the `n`th operation, of at most [`COMMAND_BYTES_MAX`] bytes.
    #[must_use]
    pub fn workload(
        mut self,
        command: impl Fn(u64, &mut Dice<'_>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        self.workload = Some(Arc::new(move |op, dice| {
            let command = command(op, dice);
            let bytes = command.len();
            assert!(
                bytes <= COMMAND_BYTES_MAX,
                "a command of {bytes} bytes, at most {COMMAND_BYTES_MAX} are simulated"
            );
            command
        }));
        self
    }

    /// What must hold of the machine after every batch; the error says what does not.
    #[must_use]
    pub fn check<M: StateMachine>(
        mut self,
        check: impl Fn(&M) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Arc::new(move |machine| match machine.downcast_ref() {
            Some(machine) => check(machine),
            None => Err("the check is for a machine of another type".to_owned()),
        }));
        self
    }

    /// Runs it: some seconds of virtual time with faults, then without, until every replica is at the end.
    ///
    /// # Errors
    /// The first rule that was broken, with the line that replays the run.
    ///
    /// # Panics
    /// If no machine or no workload was given.
    pub fn run(self) -> Result<Report, Failed> {
        let make = self.make.expect("Simulation::machine was called");
        let workload = self.workload.expect("Simulation::workload was called");
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let mut swarm = Swarm::for_guest(&mut rng, self.nodes, self.partitions.into());
        swarm.layout.guest = Some(Plan::new(self.seed, make, workload, self.check));
        let trace = if caller::wants_trace() {
            Trace::Print(Box::new(|line| println!("{line}")))
        } else {
            Trace::Off
        };
        run::play(self.seed, swarm, rng, STEPS_MAX, trace).map_err(|failure| Failed {
            seed: failure.seed,
            at_us: failure.at_us,
            what: failure.what,
            replay: caller::replay(self.seed),
        })
    }
}
