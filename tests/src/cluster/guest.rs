//! An embedder's machine in a simulated cluster: it gets its own commands and is watched while it does.
//!
//! Every batch is cut into smaller ones at random, differently on every replica, and after each the machine's digest is
//! compared with those of all others that stood at that index, its own former lives included.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use clustor_engine::machine::{
    Admit, AnyMachine, Applied, Batch, Effects, Expired, Item, MachineError, Opened,
};
use clustor_wire::ids::{LogIndex, NodeId, PartitionId};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::check::Violation;

/// Which replica a machine is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its node.
    pub node: NodeId,
    /// Its partition.
    pub partition: PartitionId,
}

/// What a seed draws for a workload.
#[derive(Debug)]
pub struct Dice<'a>(pub(crate) &'a mut Xoshiro256PlusPlus);

impl Dice<'_> {
    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit.max(1))
    }

    /// Yes, in so many of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

type Make = dyn Fn(Place) -> Box<dyn AnyMachine> + Send + Sync;
type Workload = dyn Fn(u64, &mut Dice<'_>) -> Vec<u8> + Send + Sync;
type Check = dyn Fn(&dyn Any) -> Result<(), String> + Send + Sync;

/// The digests seen, and how they were broken.
#[derive(Debug, Default)]
struct Watched {
    /// By partition and index: the digest, who had it first, and how often it was seen.
    digests: BTreeMap<(PartitionId, LogIndex), (u64, NodeId, u32)>,
    broken: Option<Violation>,
}

/// The embedder's machine, its commands and what must hold of it.
#[derive(Clone)]
pub struct Plan {
    pub(crate) make: Arc<Make>,
    pub(crate) workload: Arc<Workload>,
    pub(crate) check: Option<Arc<Check>>,
    seed: u64,
    watched: Arc<Mutex<Watched>>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plan(..)")
    }
}

impl Plan {
    pub(crate) fn new(
        seed: u64,
        make: Arc<Make>,
        workload: Arc<Workload>,
        check: Option<Arc<Check>>,
    ) -> Self {
        Self {
            make,
            workload,
            check,
            seed,
            watched: Arc::default(),
        }
    }

    fn with<R>(&self, run: impl FnOnce(&mut Watched) -> R) -> R {
        run(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The command of an operation.
    pub(crate) fn command(&self, op: u64, rng: &mut Xoshiro256PlusPlus) -> Vec<u8> {
        (self.workload)(op, &mut Dice(rng))
    }

    /// The first rule that a machine broke.
    pub(crate) fn broken(&self) -> Option<Violation> {
        self.with(|watched| watched.broken.clone())
    }

    fn break_rule(&self, rule: &'static str, what: String) {
        self.with(|watched| {
            watched.broken.get_or_insert(Violation::new(rule, what));
        });
    }
}

/// A machine of the embedder's on one replica.
pub(crate) struct Guest {
    machine: Box<dyn AnyMachine>,
    place: Place,
    plan: Plan,
    rng: Xoshiro256PlusPlus,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(&self.place).finish()
    }
}

impl Guest {
    /// Made for the `life`th time.
    pub fn new(plan: &Plan, place: Place, life: u64) -> Self {
        let seed = plan.seed ^ place.node.get() << 32 ^ life << 40 ^ place.partition.get() as u64;
        Self {
            machine: (plan.make)(place),
            place,
            plan: plan.clone(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    fn who(&self) -> String {
        let Place { node, partition } = self.place;
        format!("partition {partition} on node {node}")
    }

    pub fn open(&mut self) -> Result<Opened, MachineError> {
        let opened = self.machine.open();
        if let Err(error) = &opened {
            let what = format!("{}: {error}", self.who());
            self.plan.break_rule("the machine opens", what);
        }
        opened
    }

    pub fn admit(&self, command: &[u8]) -> Admit {
        self.machine.admit(command)
    }

    pub fn digest(&self) -> Option<u64> {
        self.machine.digest()
    }

    pub fn durable_applied(&self) -> LogIndex {
        self.machine.durable_applied()
    }

    /// How many of so many items it gets at a time.
    pub fn portion(&mut self, items: usize) -> usize {
        if self.rng.random_bool(0.5) {
            1
        } else {
            self.rng.random_range(1..=items)
        }
    }

    pub fn apply(&mut self, items: &[Item<'_>], out: &mut Effects) -> Applied {
        let machine = &mut self.machine;
        let answer = catch_unwind(AssertUnwindSafe(|| machine.apply(Batch::new(items), out)));
        let last = items[items.len() - 1].index;
        self.judge(answer, last)
    }

    pub fn expire(&mut self, expired: Expired<'_>, out: &mut Effects) -> Applied {
        let machine = &mut self.machine;
        let answer = catch_unwind(AssertUnwindSafe(|| machine.expire(expired, out)));
        self.judge(answer, expired.index)
    }

    fn judge(&mut self, answer: Result<Applied, Box<dyn Any + Send>>, at: LogIndex) -> Applied {
        let failed = match answer {
            Ok(Applied::Ack) => {
                self.look(at);
                return Applied::Ack;
            }
            Ok(Applied::Retryable { from, reason }) => return Applied::Retryable { from, reason },
            Ok(Applied::Fatal(reason)) => reason,
            Err(panic) => format!("panicked: {}", super::run::said(&*panic)),
        };
        let what = format!("{}, in a batch up to index {at}: {failed}", self.who());
        self.plan.break_rule("the machine does not fail", what);
        Applied::Fatal(failed)
    }

    /// Compares what the machine is at an index with what the others were there.
    fn look(&mut self, at: LogIndex) {
        let check = self.plan.check.clone();
        if let Some(Err(wrong)) = check.map(|check| check(self.machine.as_any())) {
            let what = format!("{}, at index {at}: {wrong}", self.who());
            self.plan
                .break_rule("what is checked of the machine holds", what);
        }
        let Some(digest) = self.machine.digest() else {
            return;
        };
        let Place { node, partition } = self.place;
        let other = self.plan.with(|watched| {
            let seen = watched
                .digests
                .entry((partition, at))
                .or_insert((digest, node, 0));
            seen.2 += 1;
            let (first, whose, _) = *seen;
            (first != digest).then(|| {
                let before = watched
                    .digests
                    .range((partition, LogIndex::ZERO)..(partition, at));
                let agreed = before.rev().find(|(_, (.., times))| *times > 1);
                (
                    first,
                    whose,
                    agreed.map_or(LogIndex::ZERO, |((_, at), _)| *at),
                )
            })
        });
        if let Some((first, whose, agreed)) = other {
            let what = format!(
                "{} has digest {digest:#x} at index {at}, on node {whose} it was {first:#x}; they last agreed at index {agreed}",
                self.who()
            );
            self.plan
                .break_rule("machines agree at equal indexes", what);
        }
    }
}
