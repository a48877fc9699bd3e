//! What goes down: batches as durable chains, and the opening of the next pair.

use clustor_wire::ids::ChainNumber;

use super::super::batch::{Batch, for_each_item, is_copy};
use super::super::checkpoint::{self, OlderPair};
use super::super::extent::extent_blocks;
use super::super::fold::Content;
use super::super::location::ExtentPlace;
use super::super::nonce::{AbandonReason, NonceReservationAbandon};
use super::super::pair::{Known, OpenPair, Spare};
use super::super::size::PairNeed;
use super::{InFlight, OVERRUNS_MAX, Phase, ShardLog};
use crate::disk::{DiskOp, DurableChain, FileKind, RetirePair};
use crate::turn::Time;

impl ShardLog {
    /// Submits what may be submitted now. Called once at the end of a turn.
    pub fn poll(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        let before = out.len();
        self.watch_disk(now);
        self.submit_due(now, out);
        self.patience.ask_all(&out[before..]);
    }

    fn submit_due(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        self.reads.retries(now, out);
        self.close_at = None;
        if self.is_silent() {
            return;
        }
        self.now = now;
        self.note_opened();
        self.ask_for_spare(now, out);
        loop {
            let progressed = match self.phase {
                Phase::Running => self.submit_next(out),
                Phase::Draining => self.in_flight.is_empty() && self.submit_opening(out),
                Phase::Opening if self.in_flight.is_empty() => {
                    self.phase = Phase::Marking;
                    self.submit_empty(out);
                    true
                }
                Phase::Opening | Phase::Marking => false,
            };
            if !progressed {
                break;
            }
        }
        self.ask_for_spare(now, out);
        if self.quarantine.is_some() {
            return;
        }
        self.give_back_kept(out);
        if self.open_since_boot {
            out.extend(self.passed_over.drain(..).map(DiskOp::Remove));
            if self.may_close_pairs() {
                self.write_trailers(now, out);
                self.reclaim(now, out);
            }
            self.restore_headers(out);
        }
        self.poll_scrub(now, out);
        self.state_place(now, out);
    }

    /// Whether work on closed pairs may go on: until the mark of the newest pair has retired, the one before it may be
    /// chosen again.
    fn may_close_pairs(&self) -> bool {
        self.open_since_boot && matches!(self.phase, Phase::Running | Phase::Draining)
    }

    /// Writes both headers of a pair again where one was bad: the same bytes, so that the whole one is at no risk.
    fn restore_headers(&mut self, out: &mut Vec<DiskOp>) {
        let flush = self.options.flush;
        for header in core::mem::take(&mut self.restore_headers) {
            let integrity = self.keys.integrity(header.mac_epoch);
            let mut copy = |kind| {
                let mut blocks = self.pool.take(1);
                header.encode(kind, &integrity, &mut blocks.as_mut_slice()[0]);
                blocks
            };
            out.push(DiskOp::Chain(DurableChain {
                // No chain of the log: nothing retires with it.
                chain: ChainNumber::ZERO,
                pair: header.pair,
                log_block: 0,
                log: copy(FileKind::Segment),
                ledger_block: 0,
                ledger: copy(FileKind::Ledger),
                flush,
            }));
        }
    }

    /// When [`Self::poll`] should be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.is_silent() {
            return self.reads.due();
        }
        let goes_on = self.quarantine.is_none();
        let closing = self.closing.due(|pair| self.is_read(pair));
        let closing = closing.filter(|_| self.may_close_pairs());
        let due = [
            self.spare.retry_at(),
            closing.filter(|_| goes_on),
            self.scrub_deadline().filter(|_| goes_on),
            self.place_due().filter(|_| goes_on),
            self.close_at,
            self.reads.due(),
            self.patience
                .due(self.oldest_chain_us(), self.options.stuck_io_ms * 1000),
        ];
        due.into_iter().flatten().min()
    }

    /// What entered the queue in this turn entered it now.
    fn note_opened(&mut self) {
        let now = self.now;
        let waiting = self.queue.iter_mut().rev();
        for batch in waiting.take_while(|batch| batch.opened_at.is_none()) {
            batch.opened_at = Some(now);
        }
        if !self.batch.is_empty() {
            self.batch.opened_at.get_or_insert(now);
        }
    }

    /// Whether the open batch may go although it could still grow. While the flushes in flight are its window, it
    /// waits; a term or a vote in it does not.
    fn may_close(&mut self) -> bool {
        if self.in_flight.len() < self.options.group_chains_max
            || !self.batch.vouch.hard_states.is_empty()
        {
            return true;
        }
        let now = self.now;
        let opened_at = self.batch.opened_at.unwrap_or(now);
        let close_at = opened_at.plus_ms(self.options.batch_ms_max);
        if now >= close_at {
            return true;
        }
        self.close_at = Some(close_at);
        false
    }

    /// Has the segments of an earlier boot's spares kept, before the first pair is asked for. Whether that works out makes
    /// no difference but to what zeroing is saved; what is left of these pairs goes with the others that were passed over.
    fn keep_spares(&mut self, out: &mut Vec<DiskOp>) {
        for pair in core::mem::take(&mut self.spares) {
            self.spares_leaving.push(pair);
            out.push(DiskOp::Retire(RetirePair {
                pair,
                keep_blocks: Some(self.options.segment_blocks),
                kept_max: self.options.kept_segments_max,
            }));
        }
    }

    /// Whether a spare is asked for, or about to be.
    pub(in crate::log) fn waits_for_spare(&self) -> bool {
        !self.spares_leaving.is_empty() || !(self.spare.is_ready() || self.spare.has_failed())
    }

    fn ask_for_spare(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        self.keep_spares(out);
        // Making files keeps the file system's journal busy, and appends wait for the opening and its mark.
        let rolls = self.open_since_boot && matches!(self.phase, Phase::Opening | Phase::Marking);
        if rolls || !self.spare.is_wanted(now) || !self.spares_leaving.is_empty() {
            return;
        }
        let mut checkpoint = core::mem::take(&mut self.scratch);
        let need = self.next_opening(&mut checkpoint).1;
        self.scratch = checkpoint;
        match need.pair(self.next_pair, &self.options) {
            Ok(ask) => {
                self.next_pair = self.next_pair.next();
                self.spare = Spare::Asked(ask);
                out.push(DiskOp::Prepare(ask));
            }
            Err(error) => {
                self.spare = Spare::failed_at(now);
                self.spare_failure = Some(error);
            }
        }
    }

    /// What the next pair is opened with, as things stand: the pairs before it, its checkpoint, and what it must have room for.
    fn next_opening(&self, checkpoint: &mut Vec<u8>) -> (Vec<OlderPair>, PairNeed) {
        let format = &self.options.format;
        let current = self.current.as_ref();
        let closed = current.map(|pair| pair.closed(self.retired));
        let older: Vec<OlderPair> = self.older.iter().cloned().chain(closed).collect();
        let rewrite = self.rewrite.as_ref();
        checkpoint.clear();
        checkpoint::encode(
            format.ledger_encoding,
            &self.submitted,
            (&older, &self.past_boots),
            rewrite.map_or(&[], |batch| batch.items.bytes()),
            checkpoint,
        );
        let need = PairNeed::of(
            checkpoint,
            rewrite.map_or(0, |batch| batch.stored_bytes(format)),
            self.first_waiting().map(|batch| batch.stored_bytes(format)),
        );
        (older, need)
    }

    /// The batch that goes next.
    fn first_waiting(&self) -> Option<&Batch> {
        let open = (!self.batch.is_empty()).then_some(&self.batch);
        self.queue.front().or(open)
    }

    fn submit_next(&mut self, out: &mut Vec<DiskOp>) -> bool {
        if self.in_flight.len() >= self.options.chains_in_flight_max {
            return false;
        }
        let pair = self.current.as_ref().expect("a running log has a pair");
        let Some(waiting) = self.first_waiting() else {
            let roll_early =
                self.in_flight.is_empty() && pair.is_nearly_full() && self.spare.is_ready();
            if roll_early {
                self.phase = Phase::Draining;
            }
            return roll_early;
        };
        let blocks = extent_blocks(waiting.stored_bytes(&self.options.format));
        if !pair.has_room(blocks) {
            self.phase = Phase::Draining;
            return true;
        }
        if !pair.is_reserved_for(blocks) {
            return self.submit_reservation(blocks, out);
        }
        let quarter = pair.header.segment_blocks / 4;
        if !pair.is_ready_for(blocks)
            || !self.in_flight.is_empty() && self.in_flight_blocks + blocks > quarter
        {
            return false;
        }
        if self.queue.is_empty() && !self.may_close() {
            return false;
        }
        let batch = match self.queue.pop_front() {
            Some(batch) => {
                self.queued_bytes -= batch.records.len();
                batch
            }
            None => {
                let fresh = self.emptied.take();
                core::mem::replace(&mut self.batch, fresh)
            }
        };
        self.judge_wait(&batch);
        self.submit(batch, blocks, out);
        true
    }

    /// An empty chain that carries the reservation for an extent of `blocks`, unless one is on its way.
    fn submit_reservation(&mut self, blocks: u32, out: &mut Vec<DiskOp>) -> bool {
        let pair = self.current.as_ref().expect("a running log has a pair");
        if pair.is_reserving() || !pair.is_ready_for(1) {
            return false;
        }
        let empty = self.emptied.take();
        self.submit(empty, blocks, out);
        true
    }

    /// Whether the pair has room for a chain that says nothing but what its slot states. While no next pair can be made, that
    /// is kept for others.
    pub(in crate::log) fn has_room_for_empty(&self) -> bool {
        let has_room =
            |pair: &OpenPair| pair.has_room(1) && pair.is_ready_for(1) && pair.is_reserved_for(1);
        self.spare_failure.is_none() && self.current.as_ref().is_some_and(has_room)
    }

    /// Submits such a chain.
    pub(in crate::log) fn submit_empty(&mut self, out: &mut Vec<DiskOp>) {
        let empty = self.emptied.take();
        self.submit(empty, 1, out);
    }

    fn known(&self) -> Known {
        Known {
            retired: self.retired,
            io_writer_mode: self.options.io_writer_mode,
            sweep: self.scrub.place(),
        }
    }

    /// Counts, for each partition in a group batch, how many in a row went to the disk too late.
    fn judge_wait(&mut self, batch: &Batch) {
        let waited_us = batch.opened_at.map_or(0, |at| self.now.since_us(at));
        let late = waited_us > 2_000 * self.options.batch_ms_max;
        if batch.alone || !late && self.late.is_empty() {
            return;
        }
        for (partition, _) in &batch.vouch.indexes {
            if !late {
                self.late.remove(partition);
                continue;
            }
            let count = self.late.entry(*partition).or_default();
            *count += 1;
            if *count >= OVERRUNS_MAX {
                self.late.remove(partition);
                self.overrun.push(*partition);
            }
        }
    }

    fn take_chain(&mut self) -> ChainNumber {
        let chain = self.next_chain;
        self.next_chain = chain.next();
        chain
    }

    /// `blocks_wanted`: of the greatest extent in sight.
    fn submit(&mut self, batch: Batch, blocks_wanted: u32, out: &mut Vec<DiskOp>) {
        let chain = self.take_chain();
        let known = self.known();
        let pair = self.current.as_mut().expect("a running log has a pair");
        let cipher = &self.ciphers[&pair.header.pair];
        let (mut operation, place) =
            pair.chain(cipher, &mut self.pool, chain, &batch, blocks_wanted, &known);
        operation.flush = self.options.flush;
        self.note_submitted(&batch, place);
        self.fly(place, batch);
        out.push(DiskOp::Chain(operation));
    }

    fn note_submitted(&mut self, batch: &Batch, place: ExtentPlace) {
        for_each_item(batch.items.bytes(), |item| {
            self.submitted
                .apply_item(&item, Content::Here)
                .expect("what was decided in order folds in order");
            // A copy is read only once it has retired; until then the original is.
            if !is_copy(item.kind()) {
                self.locations.note(&item, place);
            }
        });
    }

    fn fly(&mut self, place: ExtentPlace, batch: Batch) {
        self.scrub.note_stated(self.now);
        self.in_flight_blocks += place.blocks;
        self.in_flight.push_back(InFlight {
            place,
            submitted_at: self.now,
            owed_since_us: self.patience.clock_us(),
            done: false,
            batch,
        });
    }

    /// Opens the spare, if it is ready and large enough.
    fn submit_opening(&mut self, out: &mut Vec<DiskOp>) -> bool {
        if !self.spare.is_ready() {
            return false;
        }
        let mut checkpoint = Vec::new();
        let (older, need) = self.next_opening(&mut checkpoint);
        let Some(prepared) = self.spare.take_for(need, out) else {
            return false;
        };
        let rewrite = self.rewrite.take().unwrap_or_default();
        let reason = match &self.current {
            Some(pair) => {
                if !pair.is_written() {
                    self.closing.unwritten.insert(pair.header.pair);
                }
                AbandonReason::Rolled
            }
            None => AbandonReason::Ended,
        };
        let abandoned = older.last().map(|older| NonceReservationAbandon {
            pair: older.pair,
            reason,
        });
        if !prepared.cut {
            self.spare_failure = None;
        }
        let chain = self.take_chain();
        let (pair, cipher) = OpenPair::new(
            &self.keys,
            (self.boot, chain),
            &prepared,
            (&checkpoint, &rewrite),
            &self.options,
        );
        self.older = older;
        let known = self.known();
        let pair = self.current.insert(pair);
        let (mut operation, place) = pair.opening(
            &cipher,
            &mut self.pool,
            (&checkpoint, &rewrite),
            abandoned,
            &known,
        );
        self.ciphers.insert(pair.header.pair, cipher);
        operation.flush = self.options.flush;
        self.note_submitted(&rewrite, place);
        self.fly(place, rewrite);
        self.phase = Phase::Opening;
        out.push(DiskOp::Chain(operation));
        true
    }
}
