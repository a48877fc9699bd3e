//! Making a pair: both files opened under temporary names, allocated, zeroed with real writes, flushed,
//! renamed into place, the directory flushed. A segment that was kept was written before from end to end: of it only the
//! front and the last block are zeroed. A ledger that was kept is made to read as zero first, and zeroed as a new one is: what it
//! saves is that nothing is freed.
//!
//! One pair is made at a time. Beside chains it is zeroed whole, little by little, before it is flushed and gets its name: a file
//! system commits its journal then, and chains wait for that. A pair that the log needs gets its name as soon as its ledger and the
//! first mebibyte of its segment are zeroed, and the rest of the segment follows in flushed pieces ([`Pace`]).
//! Everything goes through the shard's own ring, because the lock of the directory
//! is free only when that ring is gone: no late zero can land on a block that a later process wrote.

use std::ffi::CString;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Timespec;
use io_uring::{opcode, types};

use super::chain::{flush_entry, write_entry};
use super::error::RingError;
use super::files::{Files, c_name, temporary_name};
use super::remove::Kept;
use super::ring::{Mark, Owner, Ring};
use crate::buffer::{BLOCK_BYTES, Blocks};
use crate::disk::pace::{Pace, Step};
use crate::disk::{DiskError, DiskEvent, FileId, PreparePair, SPARE_ZERO_BLOCKS};

/// Blocks zeroed by one write where the pair is needed: 1 MiB.
const PIECE_BLOCKS: u32 = 256;
/// Beside chains: 128 KiB, or as much as is due.
const SMALL_PIECE_BLOCKS: u32 = 32;
/// How long nothing is zeroed after a small piece: 25 MiB in a second at least are, or as many as are due.
const PAUSE: Duration = Duration::from_millis(5);
/// Step of the pause; the others are writes of zeros (0 and 1, by file) and their flushes (2 and 3), or counted.
const PAUSED: u8 = 7;

/// What is known beside the pair itself: how its carrier's chains fare.
#[derive(Clone, Copy)]
pub(super) struct Beside<'a> {
    pub(super) pace: &'a Pace,
    /// Chains are in flight.
    pub(super) is_busy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Allocate,
    Zero,
    Flush,
    Rename,
    Rest,
    CleanUp,
    Ended,
}

/// The pair that is being made.
pub(super) struct Preparing {
    order: PreparePair,
    /// Its segment, its ledger were another pair's.
    kept: [bool; 2],
    /// Segment, ledger: everywhere in this room.
    files: [FileId; 2],
    places: [u32; 2],
    opened: [bool; 2],
    temporary: [CString; 2],
    final_names: [CString; 2],
    /// What is written; zero for ever.
    zeros: Blocks,
    stage: Stage,
    outstanding: u8,
    error: Option<DiskError>,
    /// Blocks zeroed so far.
    zeroed: [u32; 2],
    /// First block of the write in flight, and the one behind its last.
    piece: [(u32, u32); 2],
    /// A flush follows the write in flight.
    flushes: bool,
    /// A pause is under way, beside whatever else is.
    is_pausing: bool,
    /// Its length; kept while the kernel may look at it.
    pause: Box<Timespec>,
    prepared: bool,
    stop: bool,
}

impl Preparing {
    /// Begins, with files of the sizes asked for where such were kept. The places in the ring's table are the caller's until
    /// [`Self::ended`].
    pub(super) fn begin(
        (order, kept): (PreparePair, [Option<Kept>; 2]),
        places: [u32; 2],
        ring: &mut Ring,
        files: &mut Files,
    ) -> Result<Self, RingError> {
        let ids = [FileId::segment(order.pair), FileId::ledger(order.pair)];
        let is_kept = [kept[0].is_some(), kept[1].is_some()];
        let mut temporary = ids.map(|file| c_name(temporary_name(file)));
        for (temporary, kept) in temporary.iter_mut().zip(kept) {
            if let Some(kept) = kept {
                *temporary = kept.name;
            }
        }
        let mut this = Self {
            order,
            kept: is_kept,
            files: ids,
            places,
            opened: [false; 2],
            temporary,
            final_names: ids.map(|file| c_name(file.to_string())),
            zeros: Blocks::from_heap(PIECE_BLOCKS as usize),
            stage: Stage::Open,
            outstanding: 0,
            error: None,
            zeroed: [0; 2],
            piece: [(0, 0); 2],
            flushes: false,
            is_pausing: false,
            pause: Box::new(Timespec::from(PAUSE)),
            prepared: false,
            stop: false,
        };
        this.push(ring, files, Step::Hurry)?;
        Ok(this)
    }

    pub(super) const fn pair(&self) -> clustor_wire::ids::PairNumber {
        self.order.pair
    }

    pub(super) const fn order(&self) -> PreparePair {
        self.order
    }

    /// Asks it to end as soon as nothing of it is in flight.
    pub(super) const fn stop(&mut self) {
        self.stop = true;
    }

    /// Whether it ended. If the pair never came into place, its places in the table are free again.
    pub(super) fn ended(&self) -> bool {
        self.stage == Stage::Ended && !self.is_pausing
    }

    /// Places of the table that hold no file and go back.
    pub(super) fn places_free(&self) -> Option<[u32; 2]> {
        (!self.prepared).then_some(self.places)
    }

    /// Takes a completion; an event to report, if it led to one.
    pub(super) fn completed(
        &mut self,
        step: u8,
        result: i32,
        ring: &mut Ring,
        files: &mut Files,
        beside: Beside<'_>,
    ) -> Result<Option<DiskEvent>, RingError> {
        if step == PAUSED {
            self.is_pausing = false;
            if self.outstanding > 0 || self.stage == Stage::Ended {
                return Ok(None);
            }
            if self.stop {
                return self.advance(ring, files, beside);
            }
            self.go_on(ring, files, beside)?;
            return Ok(None);
        }
        self.outstanding = self
            .outstanding
            .checked_sub(1)
            .expect("each step completes once");
        self.note(step, result);
        if self.outstanding > 0 {
            return Ok(None);
        }
        self.advance(ring, files, beside)
    }

    /// A chain went down: ends a pause if a piece is due.
    pub(super) fn look(
        &mut self,
        ring: &mut Ring,
        files: &Files,
        beside: Beside<'_>,
    ) -> Result<(), RingError> {
        let waits = self.outstanding == 0 && self.stage != Stage::Ended && !self.stop;
        if !waits || self.step(beside) == Step::Pause {
            return Ok(());
        }
        self.go_on(ring, files, beside)
    }

    /// After a pause.
    fn go_on(
        &mut self,
        ring: &mut Ring,
        files: &Files,
        beside: Beside<'_>,
    ) -> Result<(), RingError> {
        let step = self.step(beside);
        if self.stage == Stage::Zero && self.may_come_into_place(step) {
            self.stage = Stage::Flush;
        }
        self.push(ring, files, step)
    }

    fn step(&self, beside: Beside<'_>) -> Step {
        let [done, all] = match self.kept[0] {
            false => [self.zeroed, self.sizes()],
            true => [[0, self.zeroed[1]], [0, self.order.ledger_blocks]],
        };
        let of = (done[0] + done[1], all[0].saturating_add(all[1]));
        beside.pace.step(self.order.pair, of, beside.is_busy)
    }

    fn note(&mut self, step: u8, result: i32) {
        let which = usize::from(step & 1);
        let file = self.files[which];
        let ignored = match self.stage {
            // A file system without the call still takes the writes.
            Stage::Allocate => matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS),
            // What is not there need not be removed.
            Stage::CleanUp => true,
            _ => false,
        };
        if result < 0 {
            if !ignored && !matches!(self.error, Some(ref first) if *first != DiskError::Cancelled)
            {
                self.error = Some(DiskError::of("preparing", file, -result));
            }
            return;
        }
        match self.stage {
            Stage::Open => self.opened[which] = true,
            // Behind the two writes their flushes.
            Stage::Zero | Stage::Rest if step < 2 => self.wrote(which, result),
            _ => {}
        }
    }

    fn wrote(&mut self, which: usize, result: i32) {
        let (first, end) = self.piece[which];
        let asked = (end - first) as usize * BLOCK_BYTES;
        let done = result.unsigned_abs() as usize;
        if done == asked {
            self.zeroed[which] = end;
        } else if self.error.is_none() {
            self.error = Some(DiskError::Short {
                done: done as u64,
                asked: asked as u64,
            });
        }
    }

    fn sizes(&self) -> [u32; 2] {
        [self.order.segment_blocks, self.order.ledger_blocks]
    }

    fn advance(
        &mut self,
        ring: &mut Ring,
        files: &mut Files,
        beside: Beside<'_>,
    ) -> Result<Option<DiskEvent>, RingError> {
        if self.stop && self.error.is_none() {
            self.error = Some(DiskError::Cancelled);
        }
        if self.stage == Stage::CleanUp {
            self.stage = Stage::Ended;
            let error = self
                .error
                .take()
                .expect("only a failure is cleaned up after");
            return Ok(Some(DiskEvent::PrepareFailed {
                pair: self.order.pair,
                error,
            }));
        }
        if self.error.is_some() {
            if self.prepared {
                return Ok(self.end_after_failure(files));
            }
            self.stage = Stage::CleanUp;
            self.push(ring, files, Step::Hurry)?;
            return Ok(None);
        }
        let mut event = None;
        let step = self.step(beside);
        self.stage = match self.stage {
            Stage::Open => Stage::Allocate,
            Stage::Allocate => Stage::Zero,
            Stage::Zero if self.may_come_into_place(step) => Stage::Flush,
            Stage::Zero => Stage::Zero,
            Stage::Flush => Stage::Rename,
            Stage::Rename => {
                event = Some(self.in_place(ring, files)?);
                Stage::Rest
            }
            Stage::Rest => {
                event = self.flushes.then_some(DiskEvent::Progress {
                    pair: self.order.pair,
                    segment_blocks_ready: self.zeroed[0],
                });
                Stage::Rest
            }
            Stage::CleanUp | Stage::Ended => unreachable!("handled above"),
        };
        if self.stage == Stage::Rest && self.zeroed[0] == self.order.segment_blocks {
            self.release(files);
            return Ok(event);
        }
        if step == Step::Pause && matches!(self.stage, Stage::Zero | Stage::Rest) {
            self.begin_pause(ring)?;
        } else {
            self.push(ring, files, step)?;
        }
        Ok(Some(event.unwrap_or(DiskEvent::Advanced {
            pair: self.order.pair,
        })))
    }

    fn begin_pause(&mut self, ring: &mut Ring) -> Result<(), RingError> {
        if self.is_pausing {
            return Ok(());
        }
        self.is_pausing = true;
        let pause: *const Timespec = &raw const *self.pause;
        let mark = Mark::new(Owner::Prepare, PAUSED, 0);
        ring.push(&[opcode::Timeout::new(pause).build().user_data(mark.pack())])
    }

    fn end_after_failure(&mut self, files: &mut Files) -> Option<DiskEvent> {
        self.release(files);
        let error = self.error.take()?;
        // A spare that is removed while it is zeroed has been answered already.
        (!self.stop).then_some(DiskEvent::PrepareFailed {
            pair: self.order.pair,
            error,
        })
    }

    fn release(&mut self, files: &mut Files) {
        self.stage = Stage::Ended;
        for file in self.files {
            files.release(file);
        }
    }

    /// Whether enough is zeroed for the pair to get its name: all of it, unless the log needs it.
    fn may_come_into_place(&self, step: Step) -> bool {
        (0..2).all(|which| self.zeroed[which] >= self.enough(which, step))
    }

    /// How much of a file is zeroed before the pair gets its name.
    fn enough(&self, which: usize, step: Step) -> u32 {
        let size = self.sizes()[which];
        match step == Step::Hurry && !self.kept[0] && which == 0 {
            true => size.min(PIECE_BLOCKS),
            false => size,
        }
    }

    /// The next blocks of a file to be zeroed: the first, and the one behind the last. Of a segment that was another's, what lies
    /// between the front and the last block stays as it is.
    fn next_zeros(&self, which: usize, step: Step) -> (u32, u32) {
        let (size, done) = (self.sizes()[which], self.zeroed[which]);
        if which == 0 && self.kept[0] {
            return match done {
                0 => (0, size.min(SPARE_ZERO_BLOCKS)),
                _ => (size - 1, size),
            };
        }
        let blocks = match step {
            Step::Hurry => PIECE_BLOCKS,
            Step::Next(due) => due.clamp(SMALL_PIECE_BLOCKS, PIECE_BLOCKS),
            Step::Pause => SMALL_PIECE_BLOCKS,
        };
        (done, size.min(done + blocks))
    }

    fn in_place(&mut self, ring: &mut Ring, files: &mut Files) -> Result<DiskEvent, RingError> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| RingError::Register {
            what: "a salt from the system's generator",
            source: std::io::Error::other(error.to_string()),
        })?;
        self.prepared = true;
        for which in 0..2 {
            // Recovery may have read a file that this one has just replaced.
            if let Some(place) = files.forget(self.files[which]) {
                ring.set_file(place, -1)?;
                ring.put_file(place);
            }
            files.insert(self.files[which], self.places[which]);
            files.hold(self.files[which]);
        }
        Ok(DiskEvent::Prepared {
            pair: self.order.pair,
            salt,
            segment_blocks_ready: self.zeroed[0],
            recycled: self.kept[0],
        })
    }

    fn push(&mut self, ring: &mut Ring, files: &Files, step: Step) -> Result<(), RingError> {
        let directory = types::Fd(files.directory());
        let mut group: Vec<Entry> = Vec::with_capacity(4);
        let mark = |step: u8| Mark::new(Owner::Prepare, step, 0).pack();
        match self.stage {
            Stage::Open => {
                for which in 0..2 {
                    let target = types::DestinationSlot::try_from_slot_target(self.places[which])
                        .expect("the table is smaller than the greatest slot");
                    let made = match self.kept[which] {
                        true => 0,
                        false => libc::O_CREAT | libc::O_TRUNC,
                    };
                    group.push(
                        opcode::OpenAt::new(directory, self.temporary[which].as_ptr())
                            .flags(libc::O_RDWR | files.flags() | made)
                            .mode(0o600)
                            .file_index(Some(target))
                            .build(),
                    );
                }
            }
            Stage::Allocate => {
                for which in 0..2 {
                    let bytes = u64::from(self.sizes()[which]) * BLOCK_BYTES as u64;
                    let allocate = opcode::Fallocate::new(types::Fixed(self.places[which]), bytes);
                    // Should the device lose a zero, an old slot must not show.
                    let mode = match which == 1 && self.kept[1] {
                        true => libc::FALLOC_FL_ZERO_RANGE,
                        false => 0,
                    };
                    group.push(allocate.mode(mode).build());
                }
            }
            Stage::Zero | Stage::Rest => return self.push_zeros(ring, files, step),
            Stage::Flush => group.extend(self.places.map(|place| {
                // The whole of it, size and allocation included.
                opcode::Fsync::new(types::Fixed(place)).build()
            })),
            Stage::Rename => {
                for which in 0..2 {
                    group.push(
                        opcode::RenameAt::new(
                            directory,
                            self.temporary[which].as_ptr(),
                            directory,
                            self.final_names[which].as_ptr(),
                        )
                        .build()
                        .flags(Flags::IO_LINK),
                    );
                }
                group.push(opcode::Fsync::new(directory).build());
            }
            Stage::CleanUp => {
                for names in [&self.temporary, &self.final_names] {
                    for name in names {
                        group.push(opcode::UnlinkAt::new(directory, name.as_ptr()).build());
                    }
                }
                for which in 0..2 {
                    if self.opened[which] {
                        group.push(close_entry(self.places[which]));
                    }
                }
            }
            Stage::Ended => return Ok(()),
        }
        let marked: Vec<Entry> = (0u8..)
            .zip(group)
            .map(|(step, entry)| entry.user_data(mark(step)))
            .collect();
        self.outstanding = u8::try_from(marked.len()).expect("a stage is a few submissions");
        ring.push(&marked)
    }

    /// The next piece of each file that still needs one where the pair is needed, else of one.
    fn push_zeros(&mut self, ring: &mut Ring, files: &Files, step: Step) -> Result<(), RingError> {
        let needed = step == Step::Hurry;
        let mut group = Vec::with_capacity(4);
        for which in [1, 0] {
            let size = self.sizes()[which];
            let enough = match self.stage {
                Stage::Zero => self.enough(which, step),
                _ => size,
            };
            if self.zeroed[which] >= enough || !needed && !group.is_empty() {
                continue;
            }
            let (first, end) = self.next_zeros(which, step);
            self.piece[which] = (first, end);
            // Through the page cache a flush at the end would write everything at once.
            self.flushes =
                self.stage == Stage::Rest && (needed || end == size) || files.flags() == 0;
            let to = u64::from(first) * BLOCK_BYTES as u64;
            let bytes = (end - first) as usize * BLOCK_BYTES;
            let write = write_entry(ring, (&self.zeros, 0, bytes), self.places[which], to, 0);
            let mark = |step: usize| Mark::new(Owner::Prepare, step as u8, 0).pack();
            let write = write.user_data(mark(which));
            if self.flushes {
                group.push(write.flags(Flags::IO_LINK));
                group.push(flush_entry(self.places[which]).user_data(mark(2 + which)));
            } else {
                group.push(write);
            }
        }
        assert!(
            !group.is_empty(),
            "a pair of which all is zeroed has its name, or gets it"
        );
        self.outstanding = u8::try_from(group.len()).expect("four at most");
        ring.push(&group)
    }
}

/// Takes a file out of the table. On a worker of the kernel's: the last close of an unlinked file frees its
/// space, which takes time.
pub(super) fn close_entry(place: u32) -> Entry {
    opcode::Close::new(types::Fixed(place))
        .build()
        .flags(Flags::ASYNC)
}
