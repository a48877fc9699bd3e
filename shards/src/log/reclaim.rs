//! The end of a pair's life: its trailer is written, and when nothing needs it any more, it goes.
//!
//! Pairs go oldest first. Which entries are needed no more comes from outside, a floor for each partition
//! ([`ShardLog::set_floor`]). A scan looks for entries of the oldest pair above the floors. If there are none, or few, the
//! pair is emptied: floors become records, which raise the bases, and the few are read and written again at the head as
//! copies. Copies are made out of pairs that were begun before a floor rose last, and so each pass ends, whatever share of
//! its pairs is live. When all of it has retired, and everything else that was decided before, nothing refers to the pair, and its
//! files are removed. A checkpoint may still list it: recovery knows that a listed pair whose files are gone was being
//! removed, and that it is no loss if nothing at or above a base lay there.
//!
//! All of it is steady work: a bounded number of runs is looked at in a turn, a bounded number of bytes is written
//! again, one extent is read at a time, and appends that wait come first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clustor_wire::ids::{LogIndex, MacEpoch, PairNumber, PartitionId};

use super::batch::{Batch, for_each_item, is_copy};
use super::checkpoint::OlderPair;
use super::item::Item;
use super::location::{ExtentPlace, Location};
use super::pressure::Pressure;
use super::read::{ReadOutcome, ReadRefusal};
use super::record::{Record, RecordKind, decode_record, encode_record_parts};
use super::writer::{Mode, ShardLog};
use crate::buffer::Blocks;
use crate::disk::{DiskError, DiskOp, RetirePair, WriteTrailer};
use crate::turn::Time;

/// How long after a trailer found no space the next try comes.
const TRAILER_RETRY_MS: u64 = 1_000;
/// Runs of entries that a scan looks at in one turn.
const SCAN_RUNS_PER_TURN: usize = 512;
/// Runs of entries that a pair may hold and still be emptied.
const LIVE_RUNS_MAX: usize = 1 << 16;
/// How long after a scan began the next may begin.
const SCAN_EVERY_MS: u64 = 100;
/// How long work that goes on waits for a turn, if nothing else calls for one.
const TURN_EVERY_MS: u64 = 1;
/// What a floor's record counts for among the bytes of a turn.
const FLOOR_BYTES: usize = 128;

/// What is under way with closed pairs.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// The pair whose trailer is being written.
    trailer_of: Option<PairNumber>,
    /// A trailer found no space; the next try is due then.
    retry_at: Option<Time>,
    /// Per partition, the index up to which entries are not needed.
    floors: BTreeMap<PartitionId, LogIndex>,
    /// Floors have risen since the last scan began.
    have_risen: bool,
    /// The pair that was being filled when a floor rose last, at first those of earlier boots: what floors put to rest
    /// lies no later. What is live is copied out of pairs up to this one only, so that copies of copies come to an end.
    copy_until: PairNumber,
    /// The oldest pair and the number of pairs at the last scan.
    scanned: Option<(PairNumber, usize)>,
    scan_at: Time,
    stage: Stage,
    /// Everything that was decided when the stage began has retired.
    has_settled: bool,
    /// Pairs whose segments were not written from end to end: these are not kept.
    pub(super) unwritten: BTreeSet<PairNumber>,
    /// Segments that may be kept, as far as the disk was told, or more.
    kept_max: u32,
    /// Pairs that stay: their nonces are not accounted for, and what is in them is all there is to say why.
    evidence: BTreeSet<PairNumber>,
    turn_at: Option<Time>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Looks for what is live in the oldest pair.
    Scanning(Scan),
    /// Empties it.
    Moving(Moving),
    /// Waits until all of that has retired, to look again.
    Settling,
    /// Nothing is live there; waits until everything that says so has retired.
    Leaving(PairNumber),
}

#[derive(Debug)]
struct Scan {
    pair: PairNumber,
    /// Where it goes on: a partition, and an index in it.
    next: (PartitionId, LogIndex),
    floors: VecDeque<PartitionId>,
    live: VecDeque<(PartitionId, LogIndex, LogIndex)>,
    /// Blocks that may be live for the pair to be emptied.
    blocks_max: u32,
    /// First blocks of the extents that hold what is live.
    extents: BTreeSet<u32>,
    blocks: u32,
}

#[derive(Debug)]
struct Moving {
    pair: PairNumber,
    floors: VecDeque<PartitionId>,
    live: VecDeque<(PartitionId, LogIndex, LogIndex)>,
    is_reading: bool,
    /// Frames that were read, and how many bytes of them were written again.
    frames: Vec<u8>,
    done: usize,
}

impl Moving {
    /// Whether nothing can be done before what is being read has come.
    fn waits_for_read(&self) -> bool {
        self.is_reading && self.floors.is_empty() && self.done == self.frames.len()
    }
}

impl Closing {
    /// `older`: the pairs of earlier boots; `kept_max`: segments that the start kept at most; `evidence`: pairs that stay;
    /// `unwritten`: pairs whose segments were not written from end to end.
    pub fn after_boot(
        older: &[OlderPair],
        kept_max: u32,
        evidence: BTreeSet<PairNumber>,
        unwritten: BTreeSet<PairNumber>,
    ) -> Self {
        Self {
            kept_max,
            evidence,
            unwritten,
            copy_until: older.last().map_or(PairNumber::ZERO, |older| older.pair),
            ..Self::default()
        }
    }

    /// When a turn is wanted even if nothing happens; `is_read`: whether a read of a pair is in flight.
    pub fn due(&self, is_read: impl Fn(PairNumber) -> bool) -> Option<Time> {
        let scan_at = self.have_risen.then_some(self.scan_at);
        let turn_at = match &self.stage {
            Stage::Idle => scan_at,
            // What is waited for comes up from the disk, and that is a turn.
            Stage::Settling | Stage::Leaving(_) if !self.has_settled => None,
            Stage::Leaving(pair) if is_read(*pair) => None,
            Stage::Moving(moving) if moving.waits_for_read() => None,
            _ => self.turn_at,
        };
        [self.retry_at, turn_at].into_iter().flatten().min()
    }
}

impl ShardLog {
    /// The pairs before the one that is being filled, ascending.
    #[must_use]
    pub fn older_pairs(&self) -> &[OlderPair] {
        &self.older
    }

    /// Writes the trailer of the oldest closed pair that has none yet, one at a time.
    pub(super) fn write_trailers(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        let waits = self.closing.retry_at.is_some_and(|at| at > now);
        if self.closing.trailer_of.is_some() || waits {
            return;
        }
        let next = self
            .older
            .iter()
            .filter(|older| !older.trailer_durable)
            .find_map(|older| Some((older.segment_blocks - 1, older.trailer?)));
        let Some((block, trailer)) = next else {
            self.closing.retry_at = None;
            return;
        };
        let mut blocks = self.pool.take(1);
        let integrity = self.keys.integrity(MacEpoch(1));
        trailer.write(&integrity, block, &mut blocks.as_mut_slice()[0]);
        self.closing.trailer_of = Some(trailer.pair);
        self.closing.retry_at = None;
        out.push(DiskOp::Trailer(WriteTrailer {
            pair: trailer.pair,
            block,
            trailer: blocks,
        }));
    }

    pub(super) fn trailer_done(
        &mut self,
        now: Time,
        pair: PairNumber,
        trailer: Blocks,
        outcome: Result<(), DiskError>,
    ) {
        self.pool.put(trailer);
        self.closing.trailer_of = None;
        match outcome {
            Ok(()) => {
                let closed = self.older.iter_mut().find(|older| older.pair == pair);
                if let Some(closed) = closed {
                    closed.trailer_durable = true;
                }
            }
            Err(DiskError::Full) => self.closing.retry_at = Some(now.plus_ms(TRAILER_RETRY_MS)),
            // The file lost its name: what lay in it is missing, and read so. Nothing that is spoken for depends on the
            // trailer, which is given up.
            Err(DiskError::NoFile(_)) => {
                let closed = self.older.iter_mut().find(|older| older.pair == pair);
                if let Some(closed) = closed {
                    closed.trailer = None;
                }
            }
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }

    // ---- floors

    /// Entries of `partition` up to `index` are not needed any more: the machine's own durable state covers them, and
    /// no peer will ask for them. They must be committed. What has not retired stays needed. The log's base follows when that
    /// lets a pair go.
    pub fn set_floor(&mut self, partition: PartitionId, index: LogIndex) {
        let Some(log) = self.decided.partitions.get(&partition) else {
            return;
        };
        let Some(retired) = self.durable.get(&partition) else {
            return;
        };
        let index = index.min(*retired);
        let floor = self.closing.floors.entry(partition).or_default();
        if index > log.base && index > *floor {
            *floor = index;
            self.closing.have_risen = true;
            self.closing.copy_until = self.current_pair();
        }
    }

    /// The floor of a partition as a scan applies it: at least its base.
    fn floor(&self, partition: PartitionId) -> LogIndex {
        let base = self
            .decided
            .partitions
            .get(&partition)
            .map_or(LogIndex::ZERO, |log| log.base);
        let floor = self.closing.floors.get(&partition);
        floor.copied().unwrap_or_default().max(base)
    }

    // ---- one pair after the other

    /// One turn's share of the work.
    pub(super) fn reclaim(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        self.closing.turn_at = Some(now.plus_ms(TURN_EVERY_MS));
        let stage = core::mem::take(&mut self.closing.stage);
        self.closing.stage = match stage {
            Stage::Idle => self.begin_scan(now),
            Stage::Scanning(scan) => self.scan(scan),
            Stage::Moving(moving) => self.empty(moving, out),
            Stage::Settling if self.closing.has_settled => self.scan_oldest(),
            Stage::Leaving(pair) if self.closing.has_settled => self.leave(pair, out),
            waits => waits,
        };
    }

    fn begin_scan(&mut self, now: Time) -> Stage {
        let Some(oldest) = self.older.first() else {
            self.closing.have_risen = false;
            return Stage::Idle;
        };
        let now_oldest = Some((oldest.pair, self.older.len()));
        let is_new = self.closing.scanned != now_oldest;
        let is_closed = oldest.trailer_durable || oldest.trailer.is_none();
        if now < self.closing.scan_at || !(is_new || self.closing.have_risen) {
            return Stage::Idle;
        }
        if self.closing.evidence.contains(&oldest.pair) {
            self.closing.scanned = now_oldest;
            self.closing.have_risen = false;
            return Stage::Idle;
        }
        if !is_closed {
            self.closing.scan_at = now.plus_ms(SCAN_EVERY_MS);
            return Stage::Idle;
        }
        self.closing.scanned = now_oldest;
        self.closing.have_risen = false;
        self.closing.scan_at = now.plus_ms(SCAN_EVERY_MS);
        self.scan_oldest()
    }

    fn scan_oldest(&self) -> Stage {
        match self.older.first() {
            Some(oldest) => {
                let may_copy = oldest.pair <= self.closing.copy_until;
                let share = may_copy.then_some(self.options.relocate_share);
                Stage::Scanning(Scan::of(oldest, share))
            }
            None => Stage::Idle,
        }
    }

    fn scan(&mut self, mut scan: Scan) -> Stage {
        let mut budget = SCAN_RUNS_PER_TURN;
        let (mut partition, mut from) = scan.next;
        loop {
            let Some((found, runs)) = self.locations.from(partition).next() else {
                return self.scanned(scan);
            };
            if found > partition {
                (partition, from) = (found, LogIndex::ZERO);
            }
            let first = runs.partition_point(|run| run.last < from);
            let looked_at = &runs[first..runs.len().min(first + budget)];
            let pair = scan.pair;
            let here = looked_at.iter().filter(|run| run.place.pair == pair);
            self.note_live(&mut scan, partition, here);
            if scan.blocks > scan.blocks_max || scan.live.len() > LIVE_RUNS_MAX {
                return Stage::Idle;
            }
            budget -= looked_at.len();
            if budget == 0 {
                let last = looked_at.last().map_or(from, |run| run.last);
                scan.next = (partition, last.next());
                return Stage::Scanning(scan);
            }
            budget -= 1;
            let Some(next) = partition.get().checked_add(1) else {
                return self.scanned(scan);
            };
            (partition, from) = (PartitionId(next), LogIndex::ZERO);
            if budget == 0 {
                scan.next = (partition, from);
                return Stage::Scanning(scan);
            }
        }
    }

    /// Notes which of the runs, all of the scan's pair, hold entries that are needed.
    fn note_live<'a>(
        &self,
        scan: &mut Scan,
        partition: PartitionId,
        runs: impl Iterator<Item = &'a Location>,
    ) {
        let Some(log) = self.decided.partitions.get(&partition) else {
            return;
        };
        let floor = self.floor(partition);
        for run in runs {
            if run.first <= floor && floor > log.base && scan.floors.back() != Some(&partition) {
                scan.floors.push_back(partition);
            }
            let (mut first, last) = (run.first.max(floor.next()), run.last.min(log.last));
            // What is missing can't be copied; it stays missing.
            while let Some(gap) = log
                .missing
                .iter()
                .find(|gap| gap.first <= first && first <= gap.last)
            {
                first = gap.last.next();
            }
            if first > last || log.term_at(first) != Some(run.term) {
                continue;
            }
            scan.live.push_back((partition, first, last));
            if scan.extents.insert(run.place.first_block) {
                scan.blocks = scan.blocks.saturating_add(run.place.blocks);
            }
        }
    }

    fn scanned(&mut self, scan: Scan) -> Stage {
        if scan.live.is_empty() && scan.floors.is_empty() {
            self.closing.has_settled = self.mark_decided();
            return Stage::Leaving(scan.pair);
        }
        Stage::Moving(Moving {
            pair: scan.pair,
            floors: scan.floors,
            live: scan.live,
            is_reading: false,
            frames: Vec::new(),
            done: 0,
        })
    }

    /// Writes floors and copies, as much as a turn may.
    fn empty(&mut self, mut moving: Moving, out: &mut Vec<DiskOp>) -> Stage {
        let mut budget = self.options.relocate_turn_bytes_max;
        while budget > 0 && self.has_room_for_copies() {
            if let Some(partition) = moving.floors.pop_front() {
                self.write_floor(partition);
                budget = budget.saturating_sub(FLOOR_BYTES);
            } else if moving.done < moving.frames.len() {
                let copied = self.copy_next(&mut moving);
                budget = budget.saturating_sub(copied);
            } else if moving.is_reading {
                break;
            } else if let Some(run) = moving.live.pop_front() {
                if !self.read_to_copy(&mut moving, run, out) {
                    break;
                }
            } else {
                self.closing.has_settled = self.mark_decided();
                return Stage::Settling;
            }
        }
        Stage::Moving(moving)
    }

    /// Whether appends leave room: what waits takes less than half of the queue.
    fn has_room_for_copies(&self) -> bool {
        self.queued_bytes + self.batch.records.len() <= self.options.queue_bytes_max / 2
    }

    fn write_floor(&mut self, partition: PartitionId) {
        let floor = self.floor(partition);
        let Some(log) = self.decided.partitions.get(&partition) else {
            return;
        };
        let Some(term) = log.term_at(floor).filter(|_| floor > log.base) else {
            return;
        };
        self.append_small(RecordKind::Floor, partition, term, floor, &[]);
        self.locations.forget_until(partition, floor);
    }

    /// Starts to read a run; false if it must wait.
    fn read_to_copy(
        &mut self,
        moving: &mut Moving,
        (partition, first, last): (PartitionId, LogIndex, LogIndex),
        out: &mut Vec<DiskOp>,
    ) -> bool {
        let place = self.locations.find(partition, first);
        if place.is_none_or(|location| location.place.pair != moving.pair) {
            return true; // It went meanwhile; the next scan sees what is left.
        }
        match self.begin_read(partition, first, true, out) {
            Ok(_) => {
                moving.is_reading = true;
                moving.live.push_front((partition, first, last));
                true
            }
            Err(ReadRefusal::Outside | ReadRefusal::Missing) => true,
            Err(ReadRefusal::NotYet | ReadRefusal::Busy) => {
                moving.live.push_front((partition, first, last));
                false
            }
        }
    }

    /// A run that was to be copied has been read, or is missing.
    pub(super) fn copy_was_read(&mut self, outcome: ReadOutcome) {
        let Stage::Moving(moving) = &mut self.closing.stage else {
            return;
        };
        moving.is_reading = false;
        moving.done = 0;
        moving.frames = outcome.frames.unwrap_or_default();
        if let Some((partition, _, last)) = moving.live.pop_front()
            && outcome.last < last
        {
            moving
                .live
                .push_front((partition, outcome.last.next(), last));
        }
    }

    /// Writes the next frame again as a copy, if it is still the partition's. The bytes it took.
    fn copy_next(&mut self, moving: &mut Moving) -> usize {
        let Ok(record) = decode_record(&moving.frames[moving.done..]) else {
            moving.done = moving.frames.len();
            return 0;
        };
        let bytes = record.frame.len();
        self.copy(&record);
        moving.done += bytes;
        bytes
    }

    fn copy(&mut self, record: &Record<'_>) {
        let header = &record.header;
        let stands = self
            .decided
            .partitions
            .get(&header.partition)
            .is_some_and(|log| {
                header.index > log.base
                    && log.term_at(header.index) == Some(header.term)
                    && !log.is_missing(header.index)
            });
        let kind = match header.kind {
            RecordKind::Entry => RecordKind::Relocated,
            RecordKind::Configuration => RecordKind::RelocatedConfiguration,
            _ => return,
        };
        if !stands {
            return;
        }
        let mut frame = core::mem::take(&mut self.scratch);
        frame.clear();
        encode_record_parts(
            &mut frame,
            record.leaf.map(|(hash, _)| hash),
            kind,
            header.partition,
            header.term,
            header.index,
            &[record.body],
        );
        let copy = decode_record(&frame).expect("a frame just made decodes");
        self.append(&copy, Mode::Group);
        self.scratch = frame;
    }

    /// A chain with copies has retired: from now on they are read, where they are still the partition's.
    pub(super) fn note_copies(&mut self, batch: &Batch, place: ExtentPlace) {
        if batch.is_marked {
            self.closing.has_settled = true;
        }
        if !batch.has_copies {
            return;
        }
        for_each_item(batch.items.bytes(), |item| {
            if !is_copy(item.kind()) {
                return;
            }
            let (partition, term, first, last) = match item {
                Item::Run(run) => (run.partition, run.term, run.first, run.last()),
                Item::Small(record) => {
                    let header = record.header;
                    (header.partition, header.term, header.index, header.index)
                }
            };
            let Some(log) = self.decided.partitions.get(&partition) else {
                return;
            };
            if let Some((first, last)) = log.standing(term, first, last) {
                let copy = Location {
                    term,
                    first,
                    last,
                    place,
                };
                self.locations.insert(partition, copy);
            }
        });
    }

    /// Whether a read of the pair is in flight.
    pub(super) fn is_read(&self, pair: PairNumber) -> bool {
        self.reads.has_of(pair) || self.scrub.looks_at(pair)
    }

    /// Nothing refers to the pair any more. It goes once no read of it is in flight.
    fn leave(&mut self, pair: PairNumber, out: &mut Vec<DiskOp>) -> Stage {
        if self.is_read(pair) {
            return Stage::Leaving(pair);
        }
        let leaving = self.older.iter().find(|older| older.pair == pair);
        let is_written = !self.closing.unwritten.remove(&pair);
        let segment_blocks = leaving
            .filter(|_| is_written)
            .map(|older| older.segment_blocks);
        self.older.retain(|older| older.pair != pair);
        self.ciphers.remove(&pair);
        // The next may go at once.
        self.closing.scan_at = Time::default();
        out.push(DiskOp::Retire(RetirePair {
            pair,
            keep_blocks: segment_blocks.filter(|blocks| *blocks == self.options.segment_blocks),
            kept_max: self.kept_max(),
        }));
        Stage::Idle
    }

    /// Segments that may be kept: none where the file system fills up.
    fn kept_max(&self) -> u32 {
        match self.pressure() {
            Pressure::None => self.options.kept_segments_max,
            Pressure::Soft | Pressure::Hard => 0,
        }
    }

    /// Gives kept segments back when fewer may be kept than before. Not while a spare is asked for, which may be made of
    /// one: its space would be asked for anew.
    pub(super) fn give_back_kept(&mut self, out: &mut Vec<DiskOp>) {
        let kept_max = self.kept_max();
        if kept_max >= self.closing.kept_max {
            self.closing.kept_max = kept_max;
        } else if !self.waits_for_spare() {
            self.closing.kept_max = kept_max;
            out.push(DiskOp::Retire(RetirePair::give_back(kept_max)));
        }
    }
}

impl Scan {
    /// `relocate_share`: none if nothing is to be copied.
    fn of(pair: &OlderPair, relocate_share: Option<u32>) -> Self {
        // Without a trailer nobody knows how much there is: the pair goes when all of it is dead.
        let written = pair.trailer.map_or(0, |trailer| trailer.last.1);
        Self {
            pair: pair.pair,
            blocks_max: relocate_share.map_or(0, |share| written / share),
            next: (PartitionId(0), LogIndex::ZERO),
            floors: VecDeque::new(),
            live: VecDeque::new(),
            extents: BTreeSet::new(),
            blocks: 0,
        }
    }
}
