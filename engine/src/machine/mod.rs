//! The machine: what the embedder writes, and what the engine runs committed entries through.
//!
//! A [`StateMachine`] lives on its partition's shard from its first call to its last, on one thread, and is
//! called in the shard's turn: it needs neither `Send` nor a lock. The *factory* that makes it is
//! `Fn + Send` and runs again after the machine failed.
//!
//! What the engine promises: every committed command arrives once per life of the machine, in index order,
//! never before it is durable on a quorum, never again at or below the index that [`StateMachine::open`]
//! gave. Indexes have gaps: entries of the engine's own and retries of a known idempotency key take an index
//! and never reach the machine. How items fall into batches differs between replicas.
//!
//! What the machine promises: it is deterministic. Its only inputs are the items, the timers that come due, and their
//! stamps.
//!
//! A machine that grants a lease for five seconds, and ends it when they are over:
//!
//! ```
//! use std::collections::BTreeSet;
//! use clustor_engine::machine::{Applied, Batch, Effects, Expired, StateMachine};
//!
//! #[derive(Default)]
//! struct Leases {
//!     held: BTreeSet<Vec<u8>>,
//! }
//!
//! impl StateMachine for Leases {
//!     fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
//!         for item in batch {
//!             let set = out.set_timer(item.index, item.command, item.stamp.plus_ms(5_000));
//!             match set {
//!                 Ok(()) => drop(self.held.insert(item.command.to_vec())),
//!                 Err(error) => out.reply(item.index, error.to_string().as_bytes()),
//!             }
//!         }
//!         Applied::Ack
//!     }
//!
//!     fn expire(&mut self, expired: Expired<'_>, _: &mut Effects) -> Applied {
//!         for timer in expired.timers {
//!             self.held.remove(&timer.name);
//!         }
//!         Applied::Ack
//!     }
//! }
//! ```

pub mod deferred;
mod effects;
mod guarded;
mod stopwatch;
mod timers;

use std::any::Any;

use clustor_wire::ids::{LogIndex, PartitionId, Term};

pub use deferred::AckHandle;
pub use effects::Effects;
pub(crate) use guarded::Guarded;
pub use stopwatch::Stopwatch;
pub use timers::{TIMER_NAME_BYTES_MAX, TIMERS_DUE_MAX, TIMERS_MAX, Timer, TimerError, Timers};

/// A deterministic machine fed with the committed entries of one partition.
pub trait StateMachine: 'static {
    /// Version of the machine's behaviour: one that would answer any command otherwise has another.
    const VERSION: u32 = 1;

    /// Called once, before anything else: where the machine stands. A machine on disk opens its files here
    /// and reports the highest index whose effects are in them; the engine goes on behind it. The default
    /// is that of a machine in memory: nothing is in it, every entry comes.
    ///
    /// # Errors
    /// What keeps it from opening. The partition is then unavailable, and says so; others live on.
    fn open(&mut self) -> Result<Opened, MachineError> {
        Ok(Opened::default())
    }

    /// Whether the leader puts a command into the log. Called on the leader alone, before the log, with the
    /// machine as it stands then: what is in the log and not yet applied is not in it, so a refusal is an early one,
    /// never the machine's last word, and [`Self::apply`] judges for itself. A retry under a known key is not
    /// asked for. Quick, changes nothing; a panic counts as `Fatal`.
    fn admit(&self, command: &[u8]) -> Admit {
        let _ = command;
        Admit::Yes
    }

    /// Takes a batch of committed commands, in order. Synchronous; blocks the shard while it runs.
    ///
    /// A command that the machine rejects by its own rules is answered by its reply and acknowledged:
    /// [`Applied::Retryable`] and [`Applied::Fatal`] are for a machine that could not do its work.
    /// A panic counts as `Fatal` for this partition alone.
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied;

    /// Takes timers that came due, at the index of the entry that says so: on every replica at the same index, however the
    /// entries around it fall into batches. They are no longer set; the machine may set them again. The answer counts
    /// for all of them together: [`Applied::Retryable`] names their index, and then none took effect. A machine on
    /// disk stores the index with what they change, as that of a command. A machine that sets no timers is never
    /// asked.
    fn expire(&mut self, expired: Expired<'_>, out: &mut Effects) -> Applied {
        let _ = (expired, out);
        Applied::Ack
    }

    /// Up to which index the machine's own storage will not forget, whatever happens to the process. For a
    /// machine in memory, the default, that is 0: it is rebuilt from the log.
    fn durable_applied(&self) -> LogIndex {
        LogIndex::ZERO
    }

    /// A digest of the whole state, compared between replicas at equal indexes. `None`: not offered.
    fn digest(&self) -> Option<u64> {
        None
    }

    /// Answers a question of a remote client, which can't send a closure, by appending to `reply`. Runs
    /// linearizably, changes nothing. The default refuses.
    ///
    /// # Errors
    /// [`MachineError::NoQueries`] where the machine answers none, else why this one has no answer.
    fn query(&self, request: &[u8], reply: &mut Vec<u8>) -> Result<(), MachineError> {
        let _ = (request, reply);
        Err(MachineError::NoQueries)
    }
}

/// Where a machine stands when it opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// The highest index whose effects are already in the machine; 0 for one kept in memory. One above the
    /// log's last entry is refused: machine and log are then not of one history.
    pub applied: LogIndex,
    /// The timers that were set at that index, in any order: a machine on disk stores them with its data. None for a
    /// machine in memory, which sets them again while it is given the log.
    pub timers: Vec<Timer>,
}

impl Opened {
    /// The effects of everything up to `applied` are in the machine already.
    #[must_use]
    pub const fn at(applied: LogIndex) -> Self {
        Self {
            applied,
            timers: Vec::new(),
        }
    }

    /// These timers were set there.
    #[must_use]
    pub fn with_timers(mut self, timers: Vec<Timer>) -> Self {
        self.timers = timers;
        self
    }
}

/// What a machine says to a command before it enters the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admit {
    /// It may enter the log.
    Yes,
    /// It is refused for this reason, by the clause `Rejected`; nothing happened.
    No(String),
}

/// Why a machine could not open, or has no answer.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Its storage failed.
    #[error("machine's storage: {0}")]
    Storage(#[from] std::io::Error),
    /// What it says itself.
    #[error("{0}")]
    Failed(String),
    /// It answers no queries: [`StateMachine::query`] is not implemented.
    #[error("machine answers no queries: implement StateMachine::query to serve remote reads")]
    NoQueries,
}

impl MachineError {
    /// An error in the machine's own words.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }
}

/// A moment on the clock of the leader that accepted an entry, in microseconds.
///
/// Never goes back from one item of a partition to the next, whoever leads; differences are meaningful, the
/// origin is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Microseconds since `earlier`, 0 if that lies ahead.
    #[must_use]
    pub const fn since_us(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment and `us` microseconds.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// This moment and `ms` milliseconds.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        self.plus_us(ms.saturating_mul(1000))
    }
}

/// One committed command. Its bytes are borrowed: copy what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Its index in the partition's log.
    pub index: LogIndex,
    /// The term in which it was accepted.
    pub term: Term,
    /// When the leader accepted it.
    pub stamp: Stamp,
    /// What was appended.
    pub command: &'a [u8],
}

/// Committed items in index order: never empty, at most `apply_entries_max` of the profile.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    items: &'a [Item<'a>],
}

impl<'a> Batch<'a> {
    /// The batch of these items.
    ///
    /// # Panics
    /// If there are none, or their indexes do not ascend.
    #[must_use]
    pub fn new(items: &'a [Item<'a>]) -> Self {
        assert!(!items.is_empty(), "a batch holds at least one item");
        assert!(
            items.is_sorted_by(|a, b| a.index < b.index),
            "a batch's indexes ascend"
        );
        Self { items }
    }

    /// The items, in index order.
    pub fn iter(&self) -> core::slice::Iter<'a, Item<'a>> {
        self.items.iter()
    }

    /// How many items there are; at least 1.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.items.len()
    }

    /// Always false: there is no empty batch.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Index of the last item: what a machine on disk stores with the batch's effects.
    #[must_use]
    pub const fn last_index(&self) -> LogIndex {
        self.items[self.items.len() - 1].index
    }
}

impl<'a> IntoIterator for Batch<'a> {
    type Item = &'a Item<'a>;
    type IntoIter = core::slice::Iter<'a, Item<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'a> IntoIterator for &Batch<'a> {
    type Item = &'a Item<'a>;
    type IntoIter = core::slice::Iter<'a, Item<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

/// Timers that came due, at one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired<'a> {
    /// The index of the entry at which they expire.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The time at it: none of them is due later.
    pub stamp: Stamp,
    /// The timers by the time at which they were due, those of one time by name; 1 to [`TIMERS_DUE_MAX`].
    pub timers: &'a [Timer],
}

/// How far `apply` got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Every item took effect.
    Ack,
    /// The items before `from` took effect, `from` and those behind it did not; they come again.
    Retryable {
        /// The first item without effect; an index of the batch.
        from: LogIndex,
        /// Why, for the operator.
        reason: String,
    },
    /// The machine can't go on; nothing is known about the batch. It is dropped, made anew by its factory,
    /// opened, and fed from its index.
    Fatal(String),
}

/// A [`StateMachine`] whose type is erased: what a shard holds. Implemented for every machine; not meant to
/// be implemented otherwise.
pub trait AnyMachine: 'static {
    /// [`StateMachine::VERSION`].
    fn version(&self) -> u32;
    /// [`StateMachine::open`].
    ///
    /// # Errors
    /// As there.
    fn open(&mut self) -> Result<Opened, MachineError>;
    /// [`StateMachine::admit`].
    fn admit(&self, command: &[u8]) -> Admit;
    /// [`StateMachine::apply`].
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied;
    /// [`StateMachine::expire`].
    fn expire(&mut self, expired: Expired<'_>, out: &mut Effects) -> Applied;
    /// [`StateMachine::durable_applied`].
    fn durable_applied(&self) -> LogIndex;
    /// [`StateMachine::digest`].
    fn digest(&self) -> Option<u64>;
    /// [`StateMachine::query`].
    ///
    /// # Errors
    /// As there.
    fn query(&self, request: &[u8], reply: &mut Vec<u8>) -> Result<(), MachineError>;
    /// The machine itself, for a read's closure.
    fn as_any(&self) -> &dyn Any;
}

impl<M: StateMachine> AnyMachine for M {
    fn version(&self) -> u32 {
        M::VERSION
    }

    fn open(&mut self) -> Result<Opened, MachineError> {
        StateMachine::open(self)
    }

    fn admit(&self, command: &[u8]) -> Admit {
        StateMachine::admit(self, command)
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        StateMachine::apply(self, batch, out)
    }

    fn expire(&mut self, expired: Expired<'_>, out: &mut Effects) -> Applied {
        StateMachine::expire(self, expired, out)
    }

    fn durable_applied(&self) -> LogIndex {
        StateMachine::durable_applied(self)
    }

    fn digest(&self) -> Option<u64> {
        StateMachine::digest(self)
    }

    fn query(&self, request: &[u8], reply: &mut Vec<u8>) -> Result<(), MachineError> {
        StateMachine::query(self, request, reply)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a partition's machine, on the shard, at start and again after the machine failed.
pub type MachineFactory = Box<dyn Fn(PartitionId) -> Box<dyn AnyMachine> + Send>;
