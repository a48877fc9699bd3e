//! The machine the simulated clusters run: it keeps every command it was given, in order, and every timer that expired.
//!
//! A command begins with the number of its operation; its reply is the machine's length after it. The text behind the number may
//! set a timer (`timer NAME MS`), cancel one (`cancel NAME`) or defer its effects (`defer NUMBER`, with so many handles). A read sees how long the list is, where it ends and a
//! digest of everything in it, so that any two machines, and any read and any acknowledgement, can be compared.
//!
//! It lives in memory, or saves itself from time to time into a [`Store`], which survives whatever happens to its node.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clustor_engine::machine::{
    Admit, Applied, Batch, Effects, Expired, Item, MachineError, Opened, Stamp, StateMachine,
    Stopwatch, Timer,
};
use clustor_engine::request::ReadFn;
use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::deferred::Handles;
use super::guest::Guest;

/// Bytes of a command that name its operation.
pub const OP_BYTES: usize = 8;
/// One of so many operations is not admitted.
const HOPELESS: u64 = 61;

/// One command as a machine took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Where its entry stands.
    pub index: LogIndex,
    /// The term of its entry.
    pub term: Term,
    /// The time at it.
    pub stamp: Stamp,
    /// Its operation.
    pub op: u64,
    /// Digest of the machine's reply.
    pub told: u64,
    /// Digest of this command and all that happened before it.
    pub digest: u64,
}

/// One timer as it expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// At which index.
    pub index: LogIndex,
    /// The time at it.
    pub stamp: Stamp,
    /// The timer.
    pub timer: Timer,
    /// Digest of this and all that happened before it.
    pub digest: u64,
}

/// Orders a machine to fail at its next batch.
pub type Sabotage = Arc<AtomicU32>;

/// It gives up.
const FATAL: u32 = 1;
/// It panics.
const PANIC: u32 = 2;
/// It asks for half of its batch again; for all of it, on the numbers above.
const RETRY_HALF: u32 = 3;
/// Orders there are: 1 to this.
pub const SABOTAGES: u32 = 4;

/// What a machine on disk has saved.
#[derive(Debug, Default)]
struct Saved {
    applied: LogIndex,
    taken: Vec<Taken>,
    expired: Vec<Expiry>,
    digest: u64,
    timers: Vec<Timer>,
}

impl Saved {
    /// What an embedder's machine has lost is lost here too.
    fn forget_above(&mut self, index: LogIndex) {
        self.taken.retain(|taken| taken.index <= index);
        self.expired.retain(|expiry| expiry.index <= index);
        let taken = self.taken.last().map(|last| (last.index, last.digest));
        let expired = self.expired.last().map(|last| (last.index, last.digest));
        self.digest = taken.max(expired).map_or(0, |(_, digest)| digest);
        self.applied = index;
    }
}

/// What the machines of a shard have saved: a database that loses nothing it was given.
#[derive(Debug, Clone, Default)]
pub struct Store(Arc<Mutex<BTreeMap<PartitionId, Saved>>>);

impl Store {
    fn with<R>(&self, partition: PartitionId, run: impl FnOnce(&mut Saved) -> R) -> R {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        run(all.entry(partition).or_default())
    }

    /// Up to where a partition's machine has saved all.
    pub(crate) fn applied(&self, partition: PartitionId) -> LogIndex {
        self.with(partition, |saved| saved.applied)
    }

    /// Up to where a partition's machine needs no entry any more: all of it is saved, and the entry that carries the time at its end, the
    /// greatest stamp so far, lies behind.
    pub(crate) fn unneeded(&self, partition: PartitionId) -> LogIndex {
        self.with(partition, |saved| {
            let taken = saved.taken.iter().map(|taken| (taken.stamp, taken.index));
            let expired = saved.expired.iter().map(|at| (at.stamp, at.index));
            let all = taken.chain(expired);
            let time = all.clone().map(|(stamp, _)| stamp).max();
            let before = all.filter(|(stamp, _)| Some(*stamp) < time);
            before.map(|(_, index)| index).max().unwrap_or_default()
        })
    }
}

/// What the machines of a node cost, in microseconds of virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Each batch.
    pub batch_us: u64,
    /// Each item of it, besides.
    pub item_us: u64,
}

/// What the machines of a shard cost, and the time that they took, by which they are timed: nothing but what they cost.
#[derive(Debug, Clone, Default)]
pub struct Spent(Arc<Mutex<(Cost, u64)>>);

impl Spent {
    fn with<R>(&self, run: impl FnOnce(&mut (Cost, u64)) -> R) -> R {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on they cost this.
    pub(crate) fn set_cost(&self, cost: Cost) {
        self.with(|(of, _)| *of = cost);
    }

    fn batch(&self, items: usize) {
        self.with(|(cost, us)| *us += cost.batch_us + cost.item_us * items as u64);
    }
}

impl Stopwatch for Spent {
    fn read_us(&self) -> u64 {
        self.with(|(_, us)| *us)
    }
}

/// Where a machine saves itself, and after how many batches.
#[derive(Debug, Clone)]
pub struct OnDisk {
    /// Where.
    pub store: Store,
    /// After how many batches; what came after the last time is forgotten with the process.
    pub every: u32,
}

/// The list of all commands.
#[derive(Debug, Default)]
pub struct History {
    partition: PartitionId,
    taken: Vec<Taken>,
    expired: Vec<Expiry>,
    digest: u64,
    sabotage: Sabotage,
    on_disk: Option<OnDisk>,
    handles: Handles,
    spent: Spent,
    /// Batches since it was saved.
    unsaved: u32,
    /// Where it stood when it opened.
    opened: LogIndex,
    /// The embedder's machine behind it.
    guest: Option<Guest>,
}

/// What a read of a [`History`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Commands in the list.
    pub len: usize,
    /// The index of the last one, 0 for an empty list.
    pub last: LogIndex,
    /// Digest up to the last one, 0 for an empty list.
    pub digest: u64,
}

fn mix(digest: u64, value: u64) -> u64 {
    let mixed = (digest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// The operation a command names; a shorter one counts as filled up with zeros.
#[must_use]
pub fn op_of(command: &[u8]) -> u64 {
    let mut bytes = [0; OP_BYTES];
    let len = command.len().min(OP_BYTES);
    bytes[..len].copy_from_slice(&command[..len]);
    u64::from_le_bytes(bytes)
}

/// What a command says behind the number of its operation.
fn words(command: &[u8]) -> impl Iterator<Item = &str> {
    let text = command.get(OP_BYTES..).unwrap_or_default();
    // What fills it up behind that says nothing.
    let said = text.windows(2).position(|pair| pair == b"  ");
    let text = &text[..said.unwrap_or(text.len())];
    std::str::from_utf8(text)
        .unwrap_or_default()
        .split_whitespace()
}

/// The timer that a command sets, for so many milliseconds, or cancels.
pub(crate) fn timer_of(command: &[u8]) -> Option<(&str, Option<u64>)> {
    let mut words = words(command);
    match (words.next(), words.next(), words.next()) {
        (Some("timer"), Some(name), Some(ms)) => Some((name, Some(ms.parse().ok()?))),
        (Some("cancel"), Some(name), None) => Some((name, None)),
        _ => None,
    }
}

/// Digest of any bytes; 0 for none.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |digest, byte| mix(digest, u64::from(*byte) + 1))
}

/// The item as an embedder's machine gets it: without the number of its operation.
fn for_guest<'a>(item: &Item<'a>) -> Item<'a> {
    Item {
        command: item.command.get(OP_BYTES..).unwrap_or_default(),
        ..*item
    }
}

impl History {
    /// An empty list whose failures are ordered through `sabotage`.
    #[must_use]
    pub fn new(partition: PartitionId, sabotage: Sabotage, on_disk: Option<OnDisk>) -> Self {
        Self {
            partition,
            sabotage,
            on_disk,
            ..Self::default()
        }
    }

    /// The same with a place for the handles of what it defers.
    pub(crate) fn with_handles(mut self, handles: Handles) -> Self {
        self.handles = handles;
        self
    }

    /// The same at the cost that is set there.
    pub(crate) fn with_spent(mut self, spent: Spent) -> Self {
        self.spent = spent;
        self
    }

    /// The same with an embedder's machine behind it, which says where it opens.
    pub(crate) fn with_guest(mut self, guest: Guest) -> Self {
        self.guest = Some(guest);
        self
    }

    /// Every command it took, in order.
    #[must_use]
    pub fn taken(&self) -> &[Taken] {
        &self.taken
    }

    /// Every timer that expired, in order.
    #[must_use]
    pub fn expired(&self) -> &[Expiry] {
        &self.expired
    }

    /// Where it stood when it opened.
    #[must_use]
    pub const fn opened(&self) -> LogIndex {
        self.opened
    }

    fn seen(&self) -> Seen {
        Seen {
            len: self.taken.len(),
            last: self.taken.last().map_or(LogIndex::ZERO, |last| last.index),
            digest: self.taken.last().map_or(0, |last| last.digest),
        }
    }

    /// A closure that reads a [`Seen`] from a history.
    #[must_use]
    pub fn reader() -> ReadFn {
        Box::new(|machine: &dyn Any| {
            let history = machine
                .downcast_ref::<Self>()
                .expect("the machine is a history");
            Box::new(history.seen())
        })
    }

    /// How many of `items` items it takes before it fails as it was ordered to, if it was.
    fn stops_at(&self, items: usize) -> Option<usize> {
        match self.sabotage.load(Ordering::Relaxed) {
            0 => None,
            RETRY_HALF => Some(items / 2),
            _ => Some(0),
        }
    }

    /// Fails as it was ordered to; what took no effect begins at `from`.
    fn fail(&self, from: LogIndex, out: &mut Effects) -> Applied {
        match self.sabotage.swap(0, Ordering::Relaxed) {
            FATAL => return Applied::Fatal("sabotage".to_owned()),
            // Without the hook's word on it: it is meant.
            PANIC => resume_unwind(Box::new("sabotage")),
            _ => {}
        }
        // What it did for items that come again counts for nothing.
        out.reply(from, b"never");
        let _ = out.set_timer(from, b"never", Stamp(0));
        out.cancel_timer(from, b"0");
        drop(out.defer(from));
        let reason = "sabotage".to_owned();
        Applied::Retryable { from, reason }
    }

    /// Sets or cancels a timer or defers effects, if the text says so.
    fn obey(&self, item: &Item<'_>, out: &mut Effects) {
        let mut words = words(item.command);
        match (words.next(), words.next(), words.next()) {
            (Some("timer"), Some(name), Some(ms)) => {
                if let Ok(ms) = ms.parse() {
                    let _ = out.set_timer(item.index, name.as_bytes(), item.stamp.plus_ms(ms));
                }
            }
            (Some("cancel"), Some(name), None) => {
                out.cancel_timer(item.index, name.as_bytes());
            }
            (Some("defer"), Some(number), None) => {
                let number = number.parse().unwrap_or(1);
                let handles = (0..number).map(|_| out.defer(item.index));
                self.handles.give(self.partition, item.index, handles);
            }
            _ => {}
        }
    }

    /// Takes some items, through the guest if there is one.
    fn take(&mut self, items: &[Item<'_>], out: &mut Effects) -> Applied {
        let answer = match &mut self.guest {
            Some(guest) => {
                let own: Vec<Item<'_>> = items.iter().map(for_guest).collect();
                guest.apply(&own, out)
            }
            None => {
                for (place, item) in (self.taken.len() as u64 + 1..).zip(items) {
                    self.obey(item, out);
                    out.reply(item.index, &place.to_le_bytes());
                }
                Applied::Ack
            }
        };
        let until = match &answer {
            Applied::Ack => LogIndex(u64::MAX),
            Applied::Retryable { from, .. } => *from,
            Applied::Fatal(_) => return answer,
        };
        let mut last = None;
        for item in items.iter().take_while(|item| item.index < until) {
            let op = op_of(item.command);
            let told = digest_of(out.reply_of(item.index));
            let entry = mix(mix(mix(self.digest, op), item.index.get()), item.term.get());
            self.digest = mix(mix(entry, item.stamp.0), told);
            self.taken.push(Taken {
                index: item.index,
                term: item.term,
                stamp: item.stamp,
                op,
                told,
                digest: self.digest,
            });
            last = Some(item.index);
        }
        if let Some(last) = last {
            self.save(last, out);
        }
        answer
    }

    /// Saves itself where it is time to.
    fn save(&mut self, applied: LogIndex, out: &Effects) {
        let Some(on_disk) = &self.on_disk else {
            return;
        };
        self.unsaved += 1;
        if self.unsaved < on_disk.every {
            return;
        }
        self.unsaved = 0;
        on_disk.store.with(self.partition, |saved| {
            saved.applied = applied;
            saved.digest = self.digest;
            let (taken, expired) = (saved.taken.len(), saved.expired.len());
            saved.taken.extend_from_slice(&self.taken[taken..]);
            saved.expired.extend_from_slice(&self.expired[expired..]);
            saved.timers = out.timers().iter().cloned().collect();
        });
    }
}

impl StateMachine for History {
    fn open(&mut self) -> Result<Opened, MachineError> {
        let guest = self.guest.as_mut().map(Guest::open).transpose()?;
        let Some(on_disk) = &self.on_disk else {
            return Ok(Opened::default());
        };
        Ok(on_disk.store.with(self.partition, |saved| {
            let opened = guest
                .unwrap_or_else(|| Opened::at(saved.applied).with_timers(saved.timers.clone()));
            self.opened = opened.applied;
            saved.forget_above(opened.applied);
            self.handles.opened(self.partition, opened.applied);
            self.digest = saved.digest;
            self.taken.clone_from(&saved.taken);
            self.expired.clone_from(&saved.expired);
            opened
        }))
    }

    fn admit(&self, command: &[u8]) -> Admit {
        if let Some(guest) = &self.guest {
            return guest.admit(command.get(OP_BYTES..).unwrap_or_default());
        }
        if op_of(command) % HOPELESS == HOPELESS - 1 {
            return Admit::No("it is one of those".to_owned());
        }
        Admit::Yes
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        let items: Vec<Item<'_>> = batch.iter().copied().collect();
        self.spent.batch(items.len());
        let stops_at = self.stops_at(items.len()).unwrap_or(items.len());
        let mut rest = &items[..stops_at];
        while !rest.is_empty() {
            let many = self.guest.as_mut().map(|guest| guest.portion(rest.len()));
            let (portion, later) = rest.split_at(many.unwrap_or(rest.len()));
            let answer = self.take(portion, out);
            if answer != Applied::Ack {
                return answer;
            }
            rest = later;
        }
        if let Some(item) = items.get(stops_at) {
            return self.fail(item.index, out);
        }
        Applied::Ack
    }

    fn expire(&mut self, expired: Expired<'_>, out: &mut Effects) -> Applied {
        if self.stops_at(1).is_some() {
            return self.fail(expired.index, out);
        }
        if let Some(guest) = &mut self.guest {
            let answer = guest.expire(expired, out);
            if answer != Applied::Ack {
                return answer;
            }
        }
        for timer in expired.timers {
            let name = digest_of(&timer.name);
            self.digest = mix(
                mix(mix(self.digest, name), timer.due.0),
                expired.index.get(),
            );
            self.expired.push(Expiry {
                index: expired.index,
                stamp: expired.stamp,
                timer: timer.clone(),
                digest: self.digest,
            });
        }
        self.save(expired.index, out);
        Applied::Ack
    }

    fn durable_applied(&self) -> LogIndex {
        if let Some(guest) = &self.guest {
            return guest.durable_applied();
        }
        self.on_disk.as_ref().map_or(LogIndex::ZERO, |on_disk| {
            on_disk.store.with(self.partition, |saved| saved.applied)
        })
    }

    fn digest(&self) -> Option<u64> {
        match &self.guest {
            Some(guest) => guest.digest(),
            None => Some(self.digest),
        }
    }
}
