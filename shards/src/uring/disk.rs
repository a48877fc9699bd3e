//! The disk carrier: operations of the `Disk` seam to submissions, completions to events.
//!
//! Owns every buffer in flight. Promises the log that errors are not overtaken: a chain that fails says so with its
//! only completion, and within one drain errors stand first.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clustor_wire::ids::{ChainNumber, PairNumber};

use super::blocking::BlockingWriter;
use super::chain::{ChainSteps, InFlight};
use super::error::RingError;
use super::files::{Files, Need};
use super::free::Freed;
use super::prepare::{Beside, Preparing};
use super::read::Reading;
use super::remove::{Kept, KeptFiles, Removing};
use super::ring::{Done, Mark, Owner, Ring};
use super::slab::Slab;
use crate::buffer::Blocks;
use crate::disk::pace::Pace;
use crate::disk::{
    DiskError, DiskEvent, DiskOp, DurableChain, FileId, FlushKind, PreparePair, ReadBlocks,
    RetirePair,
};

/// Pairs that may wait to be made.
const PREPARES_MAX: usize = 16;
/// Pairs that may wait to be removed.
const REMOVALS_MAX: usize = 1_024;

pub(super) struct Disk {
    pub(super) files: Files,
    /// Who carries the chains, where the ring does not.
    pub(super) writer: Option<BlockingWriter>,
    chains: Slab<InFlight>,
    reads: Slab<(u64, Reading)>,
    preparing: Option<Preparing>,
    prepares: VecDeque<PreparePair>,
    /// How fast the next is made.
    pace: Pace,
    removing: Option<Removing>,
    removals: VecDeque<RetirePair>,
    pub(super) kept: KeptFiles,
    /// Sizes of the ledgers that were found or made, in blocks.
    pub(super) ledgers: BTreeMap<PairNumber, u32>,
    freed: Freed,
    /// What happened since the last drain.
    events: Vec<DiskEvent>,
    group: Vec<io_uring::squeue::Entry>,
}

impl Disk {
    pub(super) fn new(files: Files, writer: Option<BlockingWriter>) -> Self {
        Self {
            files,
            writer,
            chains: Slab::new(),
            reads: Slab::new(),
            preparing: None,
            prepares: VecDeque::new(),
            pace: Pace::default(),
            removing: None,
            removals: VecDeque::new(),
            kept: KeptFiles::default(),
            ledgers: BTreeMap::new(),
            freed: Freed::new(),
            events: Vec::new(),
            group: Vec::with_capacity(16),
        }
    }

    /// Operations that a stopping shard waits for: chains, reads and removals, but not the zeroing of a spare.
    pub(super) fn unsettled(&self) -> usize {
        self.chains.len()
            + self.writer.as_ref().map_or(0, BlockingWriter::in_flight)
            + self.reads.len()
            + self.removals.len()
            + usize::from(self.removing.is_some())
            + self.events.len()
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.preparing.is_some() || self.unsettled() > 0
    }

    pub(super) fn start(&mut self, ring: &mut Ring, op: DiskOp) -> Result<(), RingError> {
        match op {
            DiskOp::Chain(chain) => self.start_chain(ring, chain, ChainSteps::Full),
            DiskOp::Read(read) => self.start_read(ring, read),
            DiskOp::Prepare(order) => self.start_prepare(ring, order),
            DiskOp::Trailer(write) => {
                let chain = DurableChain {
                    chain: ChainNumber::ZERO,
                    pair: write.pair,
                    log_block: write.block,
                    log: write.trailer,
                    ledger_block: 0,
                    ledger: Blocks::from_heap(0),
                    flush: FlushKind::Fdatasync,
                };
                self.start_chain(ring, chain, ChainSteps::Trailer)
            }
            // What is kept stays.
            DiskOp::Remove(pair) => {
                let order = RetirePair {
                    pair,
                    keep_blocks: None,
                    kept_max: u32::MAX,
                };
                self.start_remove(ring, order)
            }
            DiskOp::Retire(order) => self.start_remove(ring, order),
        }
    }

    pub(super) fn start_chain(
        &mut self,
        ring: &mut Ring,
        chain: DurableChain,
        steps: ChainSteps,
    ) -> Result<(), RingError> {
        if steps != ChainSteps::Trailer {
            self.pace.note(&chain);
            let beside = Beside {
                pace: &self.pace,
                is_busy: true,
            };
            if let Some(preparing) = &mut self.preparing {
                preparing.look(ring, &self.files, beside)?;
            }
            if let Some(writer) = &mut self.writer {
                writer.write(chain, steps);
                return Ok(());
            }
        }
        let files = [FileId::segment(chain.pair), FileId::ledger(chain.pair)];
        let at = self.chains.insert(InFlight::new(chain, steps));
        for (which, file) in files.into_iter().enumerate() {
            let need = self.files.need(ring, file, (Owner::Chain, at))?;
            let chain = self.chains.get_mut(at).expect("inserted above");
            match need {
                Need::Open(_) => chain.holds[which] = true,
                Need::Wait => chain.waits += 1,
                Need::NoRoom => chain.fail(no_room(file)),
            }
        }
        self.submit_chain(ring, at)
    }

    /// Submits a chain once both of its files are open, or ends it if one could not be opened.
    fn submit_chain(&mut self, ring: &mut Ring, at: u32) -> Result<(), RingError> {
        let chain = self
            .chains
            .get_mut(at)
            .expect("a chain that waits is in the table");
        if chain.waits > 0 {
            return Ok(());
        }
        if chain.has_failed() {
            self.end_chain(at);
            return Ok(());
        }
        let places = chain
            .files()
            .map(|file| self.files.place(file).expect("both files are open"));
        self.group.clear();
        chain.entries(ring, places, at, &mut self.group);
        ring.push_chain(&self.group)
    }

    fn end_chain(&mut self, at: u32) {
        let chain = self.chains.remove(at).expect("a chain ends once");
        for (file, held) in chain.files().into_iter().zip(chain.holds) {
            if held {
                self.files.release(file);
            }
        }
        self.events.push(chain.into_event());
    }

    fn start_read(&mut self, ring: &mut Ring, read: ReadBlocks) -> Result<(), RingError> {
        let file = read.file;
        let reading = Reading::new(file, read.block, read.into);
        let at = self.reads.insert((read.token, reading));
        match self.files.need(ring, file, (Owner::Read, at))? {
            Need::Open(place) => self.submit_read(ring, at, place),
            Need::Wait => Ok(()),
            Need::NoRoom => {
                self.end_read(at, Err(no_room(file)));
                Ok(())
            }
        }
    }

    fn submit_read(&mut self, ring: &mut Ring, at: u32, place: u32) -> Result<(), RingError> {
        let (_, reading) = self
            .reads
            .get_mut(at)
            .expect("a read in flight is in the table");
        let entry = reading.entry(ring, place, Mark::new(Owner::Read, 0, at));
        ring.push(&[entry])
    }

    fn end_read(&mut self, at: u32, outcome: Result<(), DiskError>) {
        let (token, reading) = self.reads.remove(at).expect("a read ends once");
        self.events.push(DiskEvent::Read {
            token,
            file: reading.file,
            block: reading.block,
            blocks: reading.into,
            outcome,
        });
    }

    fn start_prepare(&mut self, ring: &mut Ring, order: PreparePair) -> Result<(), RingError> {
        assert!(
            order.segment_blocks > 0 && order.ledger_blocks > 0,
            "a pair has at least one block in each file"
        );
        if self.prepares.len() == PREPARES_MAX {
            self.events.push(DiskEvent::PrepareFailed {
                pair: order.pair,
                error: DiskError::Io(format!("{PREPARES_MAX} pairs wait to be made already")),
            });
            return Ok(());
        }
        self.prepares.push_back(order);
        self.next_prepare(ring)
    }

    fn next_prepare(&mut self, ring: &mut Ring) -> Result<(), RingError> {
        if self.preparing.is_some() {
            return Ok(());
        }
        let Some(order) = self.prepares.pop_front() else {
            return Ok(());
        };
        let first = self.files.take_place(ring)?;
        let second = self.files.take_place(ring)?;
        let (Some(first), Some(second)) = (first, second) else {
            if let Some(place) = first {
                ring.put_file(place);
            }
            self.events.push(DiskEvent::PrepareFailed {
                pair: order.pair,
                error: no_room(FileId::segment(order.pair)),
            });
            return Ok(());
        };
        let sizes = [order.segment_blocks, order.ledger_blocks];
        let kept = core::array::from_fn(|which| {
            let fits = |kept: &Kept| kept.blocks == sizes[which];
            let at = self.kept[which].iter().position(fits)?;
            Some(self.kept[which].swap_remove(at))
        });
        // What has another size now will hardly be asked for again.
        for misfit in self.kept[1].extract_if(.., |kept| kept.blocks != order.ledger_blocks) {
            self.freed.take(misfit.name);
        }
        self.freed.next(ring, &self.files)?;
        self.preparing = Some(Preparing::begin(
            (order, kept),
            [first, second],
            ring,
            &mut self.files,
        )?);
        Ok(())
    }

    fn start_remove(&mut self, ring: &mut Ring, order: RetirePair) -> Result<(), RingError> {
        let pair = order.pair;
        if self.removals.len() == REMOVALS_MAX {
            self.events.push(DiskEvent::Removed {
                pair,
                outcome: Err(DiskError::Io(format!(
                    "{REMOVALS_MAX} pairs wait to be removed already"
                ))),
            });
            return Ok(());
        }
        if let Some(at) = self.prepares.iter().position(|order| order.pair == pair) {
            self.prepares.remove(at);
            self.events.push(DiskEvent::PrepareFailed {
                pair,
                error: DiskError::Cancelled,
            });
        }
        if let Some(preparing) = &mut self.preparing
            && preparing.pair() == pair
        {
            preparing.stop();
        }
        self.removals.push_back(order);
        if let Some(writer) = &mut self.writer {
            writer.forget(pair);
        }
        self.next_remove(ring)
    }

    fn next_remove(&mut self, ring: &mut Ring) -> Result<(), RingError> {
        if self.removing.is_some() {
            return Ok(());
        }
        let being_made = self.preparing.as_ref().map(Preparing::pair);
        let ready = self.removals.iter().position(|&RetirePair { pair, .. }| {
            being_made != Some(pair)
                && !self.files.is_busy(FileId::segment(pair))
                && !self.files.is_busy(FileId::ledger(pair))
        });
        if let Some(at) = ready {
            let order = self.removals.remove(at).expect("found above");
            let ledger_blocks = self.ledgers.remove(&order.pair);
            self.removing = Some(Removing::begin(
                (order, ledger_blocks, self.freed.has_room()),
                &mut self.kept,
                ring,
                &mut self.files,
            )?);
        }
        Ok(())
    }

    /// Takes one completion that belongs to the disk.
    pub(super) fn completed(&mut self, ring: &mut Ring, done: Done) -> Result<(), RingError> {
        let Mark { owner, step, place } = done.mark;
        match owner {
            Owner::Chain => {
                let chain = self
                    .chains
                    .get_mut(place)
                    .expect("a chain in flight is in the table");
                chain.completed(step, done.result);
                self.end_chain(place);
            }
            Owner::Read => {
                let (_, reading) = self
                    .reads
                    .get_mut(place)
                    .expect("a read in flight is in the table");
                let file = reading.file;
                match reading.completed(done.result) {
                    Some(outcome) => {
                        self.files.release(file);
                        self.end_read(place, outcome);
                    }
                    None => {
                        let at = self.files.place(file).expect("a file in use is open");
                        self.submit_read(ring, place, at)?;
                    }
                }
            }
            Owner::Open => self.opened(ring, place, done.result)?,
            Owner::Prepare => {
                let preparing = self
                    .preparing
                    .as_mut()
                    .expect("a step of the pair being made");
                let writing = self.writer.as_ref().map_or(0, BlockingWriter::in_flight);
                let beside = Beside {
                    pace: &self.pace,
                    is_busy: writing > 0 || self.chains.len() > 0,
                };
                let event =
                    preparing.completed(step, done.result, ring, &mut self.files, beside)?;
                match event {
                    Some(DiskEvent::Prepared { pair, .. }) => {
                        self.ledgers.insert(pair, preparing.order().ledger_blocks);
                        self.pace.made(preparing.order());
                    }
                    Some(DiskEvent::PrepareFailed { pair, .. }) => self.pace.failed(pair),
                    _ => {}
                }
                self.events.extend(event);
                if preparing.ended() {
                    for free in preparing.places_free().into_iter().flatten() {
                        ring.put_file(free);
                    }
                    self.preparing = None;
                    self.next_prepare(ring)?;
                }
            }
            Owner::Remove => {
                let removing = self
                    .removing
                    .as_mut()
                    .expect("a step of the pair being removed");
                if let Some(event) = removing.completed(step, done.result, ring, &self.files)? {
                    self.events.push(event);
                    if let Some(removing) = self.removing.take() {
                        let (kept, gone) = removing.ended();
                        for (list, kept) in self.kept.iter_mut().zip(kept) {
                            list.extend(kept);
                        }
                        gone.into_iter().for_each(|name| self.freed.take(name));
                    }
                    self.freed.next(ring, &self.files)?;
                }
            }
            Owner::Free => self.freed.completed(done.result, ring, &self.files)?,
            other => panic!("{other:?} is not the disk's"),
        }
        if !self.removals.is_empty() {
            self.next_remove(ring)?;
        }
        Ok(())
    }

    fn opened(&mut self, ring: &mut Ring, place: u32, result: i32) -> Result<(), RingError> {
        let (file, waiters, outcome) = self.files.opened(ring, place, result);
        for (owner, at) in waiters {
            match (owner, &outcome) {
                (Owner::Chain, outcome) => {
                    let chain = self
                        .chains
                        .get_mut(at)
                        .expect("a waiting chain is in the table");
                    chain.waits -= 1;
                    match outcome {
                        Ok(_) => {
                            let which = usize::from(chain.files()[1] == file);
                            chain.holds[which] = true;
                        }
                        Err(error) => chain.fail(error.clone()),
                    }
                    self.submit_chain(ring, at)?;
                }
                (_, Ok(place)) => self.submit_read(ring, at, *place)?,
                (_, Err(error)) => self.end_read(at, Err(error.clone())),
            }
        }
        Ok(())
    }

    /// Moves what happened into `into`, errors first.
    pub(super) fn take_events(&mut self, into: &mut Vec<DiskEvent>) {
        if let Some(writer) = &mut self.writer {
            writer.take(&mut self.events);
        }
        into.append(&mut self.events);
        into.sort_by_key(|event| !event.is_error());
    }

    /// Whether something happened since the last drain.
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Waits a moment for a chain that the helper thread carries.
    pub(super) fn wait_for_writer(&mut self, timeout: Duration) {
        if let Some(writer) = &mut self.writer {
            writer.wait(timeout, &mut self.events);
        }
    }

    /// Leaks every buffer that the kernel may still touch.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.chains, Slab::new()));
        std::mem::forget(std::mem::replace(&mut self.reads, Slab::new()));
        std::mem::forget(self.preparing.take());
        std::mem::forget(self.removing.take());
        self.freed.leak();
    }
}

pub(super) fn no_room(file: FileId) -> DiskError {
    DiskError::Passing(format!(
        "{file}: all {} places for open files are in use",
        super::ring::FILES_MAX
    ))
}
