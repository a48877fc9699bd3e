//! Entries back from disk, for followers that lag and for machines that replay.
//!
//! A read fetches the whole extent that holds the wanted run, verifies it, and hands out the frames of the
//! run from the wanted index on. What can't be read or verified in [`READ_TRIES`] tries is recorded as missing, in the
//! same turn: the log keeps its identity, vouches for nothing from there on, and says so to whoever asked. An answer that says
//! nothing of the disk, as that memory is short, is no try: the read is asked for again after a pause, for as long as the
//! log's patience lasts. A start
//! takes the ledgers' word for what had retired, so this is where rot in old extents comes to light.

use std::collections::BTreeMap;

use clustor_wire::ids::{LogIndex, PairNumber, PartitionId, Term};

use super::extent::open_extent;
use super::location::{ExtentPlace, Location};
use super::options::OnAuthenticationFailure;
use super::record::{RecordHeader, encode_record_parts, verified_records};
use super::scrub::LostRun;
use super::writer::{Retirement, ShardLog};
use crate::buffer::Blocks;
use crate::disk::{DiskError, DiskOp, FileId, ReadBlocks};
use crate::turn::Time;

/// Tries before a sector counts as unreadable, or an extent as damaged.
pub const READ_TRIES: u32 = 3;
/// How long after an answer that says nothing of the disk a read is asked for again.
pub(super) const PASSING_RETRY_MS: u64 = 20;
/// Reads in flight at most; more are refused as Busy.
pub const READS_IN_FLIGHT_MAX: usize = 64;

/// Why a read can't be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadRefusal {
    /// The index is outside the partition's log.
    #[error("the index is outside the log")]
    Outside,
    /// The entry's chain has not retired: it is still with whoever appended it.
    #[error("the entry is not on disk yet")]
    NotYet,
    /// The entry's content is missing here.
    #[error("the entry's content is missing here")]
    Missing,
    /// Too many reads are in flight.
    #[error("{READS_IN_FLIGHT_MAX} reads are in flight")]
    Busy,
}

/// How a read ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The token that the read was given.
    pub token: u64,
    /// Whose entries.
    pub partition: PartitionId,
    /// Index of the first.
    pub first: LogIndex,
    /// Index of the last.
    pub last: LogIndex,
    /// Their frames, one behind the other, verified; `None` if they turned out to be missing here, or were
    /// truncated meanwhile.
    pub frames: Option<Vec<u8>>,
}

struct Pending {
    partition: PartitionId,
    term: Term,
    first: LogIndex,
    last: LogIndex,
    place: ExtentPlace,
    tries: u32,
    /// Since when it is owed, on the clock of the log's patience.
    owed_since_us: u64,
    /// The log itself reads, to write the entries again elsewhere.
    to_copy: bool,
}

/// The reads in flight.
#[derive(Default)]
pub(super) struct Reads {
    pending: BTreeMap<u64, Pending>,
    next_token: u64,
    /// Reads to be asked for again, and when.
    again: Vec<(Time, DiskOp)>,
    found_rotten: u64,
}

impl Reads {
    /// Whether any read of `pair` is in flight.
    pub fn has_of(&self, pair: PairNumber) -> bool {
        self.pending.values().any(|read| read.place.pair == pair)
    }

    /// A token that no other read has.
    pub fn take_token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        token
    }

    /// Reads that have to be tried again now.
    pub fn retries(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        let due = self.again.extract_if(.., |(at, _)| *at <= now);
        out.extend(due.map(|(_, op)| op));
    }

    /// When the next has to be tried again.
    pub fn due(&self) -> Option<Time> {
        self.again.iter().map(|(at, _)| *at).min()
    }
}

impl ShardLog {
    /// Starts to read entries of `partition` from `index` on; how many come depends on how they lie. The
    /// outcome comes with [`Retirement::reads`] of a later turn.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub fn read(
        &mut self,
        partition: PartitionId,
        index: LogIndex,
        out: &mut Vec<DiskOp>,
    ) -> Result<u64, ReadRefusal> {
        self.read_run(partition, index, out).map(|(token, _)| token)
    }

    /// As [`Self::read`]; tells the last index that will come, too, so that what lies behind can be asked for at once.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub fn read_run(
        &mut self,
        partition: PartitionId,
        index: LogIndex,
        out: &mut Vec<DiskOp>,
    ) -> Result<(u64, LogIndex), ReadRefusal> {
        self.begin_read(partition, index, false, out)
    }

    pub(super) fn begin_read(
        &mut self,
        partition: PartitionId,
        index: LogIndex,
        to_copy: bool,
        out: &mut Vec<DiskOp>,
    ) -> Result<(u64, LogIndex), ReadRefusal> {
        let log = self
            .decided
            .partitions
            .get(&partition)
            .ok_or(ReadRefusal::Outside)?;
        if index <= log.base || index > log.last {
            return Err(ReadRefusal::Outside);
        }
        if log.is_missing(index) {
            return Err(ReadRefusal::Missing);
        }
        let Location {
            term, last, place, ..
        } = self
            .locations
            .find(partition, index)
            .filter(|location| log.term_at(index) == Some(location.term))
            .filter(|location| location.place.chain <= self.retired_chain())
            .ok_or(ReadRefusal::NotYet)?;
        if self.reads.pending.len() >= READS_IN_FLIGHT_MAX {
            return Err(ReadRefusal::Busy);
        }
        let last = log
            .missing
            .iter()
            .find(|range| range.first > index)
            .map_or(last, |range| last.min(range.first.prev()));
        let token = self.reads.take_token();
        self.patience.ask_read(token);
        let pending = Pending {
            partition,
            term,
            first: index,
            last,
            place,
            tries: 1,
            owed_since_us: self.patience.clock_us(),
            to_copy,
        };
        self.reads.pending.insert(token, pending);
        let into = self.pool.take(place.blocks as usize);
        out.push(read_extent(token, place, into));
        Ok((token, last))
    }

    pub(super) fn read_done(
        &mut self,
        now: Time,
        token: u64,
        mut blocks: Blocks,
        outcome: Result<(), DiskError>,
        retirement: &mut Retirement,
    ) {
        let Some(mut pending) = self.reads.pending.remove(&token) else {
            self.pool.put(blocks);
            return;
        };
        let place = pending.place;
        let passing = outcome.as_ref().err().filter(|error| error.is_passing());
        let passing = passing.cloned();
        let owed_us = self.patience.clock_us() - pending.owed_since_us;
        if passing.is_some() && owed_us < self.options().stuck_io_ms * 1000 {
            self.reads.pending.insert(token, pending);
            let again_at = now.plus_ms(PASSING_RETRY_MS);
            let again = read_extent(token, place, blocks);
            self.reads.again.push((again_at, again));
            return;
        }
        let frames = outcome.ok().and_then(|()| {
            let cipher = self.ciphers.get(&place.pair)?;
            let extent = open_extent(
                cipher,
                place.first_block,
                place.chain,
                blocks.as_mut_slice(),
                Vec::new(),
            )
            .ok()?;
            pending.collect(extent.into_records())
        });
        if frames.is_none() && passing.is_none() && pending.tries < READ_TRIES {
            pending.tries += 1;
            self.reads.pending.insert(token, pending);
            let again = read_extent(token, place, blocks);
            self.reads.again.push((now, again));
            return;
        }
        self.pool.put(blocks);
        let stands = self
            .decided
            .partitions
            .get(&pending.partition)
            .is_some_and(|log| log.term_at(pending.last) == Some(pending.term));
        if let Some(error) = passing {
            self.failure.get_or_insert(error);
        } else if frames.is_none() && stands && self.is_still_there(&pending) {
            self.reads.found_rotten += 1;
            self.record_missing(pending.partition, pending.term, pending.first, pending.last);
            if self.options().on_authentication_failure == OnAuthenticationFailure::Quarantine {
                self.quarantine_at(place.pair, place.chain);
            }
            if pending.to_copy {
                // No outcome of a read tells anybody.
                retirement.lost.push(LostRun {
                    partition: pending.partition,
                    term: pending.term,
                    first: pending.first,
                    last: pending.last,
                });
            }
        }
        let outcome = ReadOutcome {
            token,
            partition: pending.partition,
            first: pending.first,
            last: pending.last,
            frames: frames.filter(|_| stands),
        };
        if pending.to_copy {
            self.copy_was_read(outcome);
        } else {
            retirement.reads.push(outcome);
        }
    }
}

impl ShardLog {
    /// Whether the run still lies where it was read, and is not known to be missing: another read may have come first,
    /// and what was cut off and appended again has another place.
    fn is_still_there(&self, pending: &Pending) -> bool {
        let lies_there = |index| {
            self.locations
                .find(pending.partition, index)
                .is_some_and(|location| location.place == pending.place)
        };
        lies_there(pending.first)
            && lies_there(pending.last)
            && self
                .decided
                .partitions
                .get(&pending.partition)
                .is_some_and(|log| !log.is_missing(pending.first))
    }

    /// Runs of entries that reads found rotten since the start. Each is recorded as missing.
    #[must_use]
    pub fn found_rotten(&self) -> u64 {
        self.reads.found_rotten
    }
}

fn read_extent(token: u64, place: ExtentPlace, into: Blocks) -> DiskOp {
    DiskOp::Read(ReadBlocks {
        token,
        file: FileId::segment(place.pair),
        block: place.first_block,
        into,
    })
}

impl Pending {
    /// The frames of this run out of the records of an open extent, if all are there. A copy of an entry gets the frame of an entry back.
    fn collect(&self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        // As most runs lie: nothing else is in the extent.
        let mut wanted = self.first;
        let is_run = verified_records(&bytes).all(|record| {
            let is_next = self.wants(&record.header, wanted);
            wanted = wanted.next();
            is_next && record.header.kind.content() == Some(record.header.kind)
        });
        if is_run && wanted == self.last.next() {
            return Some(bytes);
        }
        let mut frames = Vec::with_capacity(bytes.len());
        let mut next = self.first;
        for record in verified_records(&bytes) {
            let header = &record.header;
            let wanted = self.wants(header, next);
            let Some(kind) = header.kind.content().filter(|_| wanted) else {
                continue;
            };
            if kind == header.kind {
                frames.extend_from_slice(record.frame);
            } else {
                // A copy is handed out as what it is a copy of.
                let leaf = record.leaf.map(|(hash, _)| hash);
                let (term, index) = (header.term, header.index);
                let body = &[record.body];
                encode_record_parts(&mut frames, leaf, kind, header.partition, term, index, body);
            }
            next = next.next();
        }
        frames.shrink_to_fit();
        (next == self.last.next()).then_some(frames)
    }

    /// Whether a record is the entry at `next` of this run.
    fn wants(&self, header: &RecordHeader, next: LogIndex) -> bool {
        header.partition == self.partition
            && header.term == self.term
            && header.index == next
            && next <= self.last
    }
}
