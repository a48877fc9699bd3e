//! A durable chain as linked submissions, with one completion.
//!
//! The kernel starts a linked submission when the one before it succeeded in full: an error or a short write
//! cancels the rest of the chain (io_uring_enter(2), IOSQE_IO_LINK). Every step but the last is silent when it
//! succeeds (IOSQE_CQE_SKIP_SUCCESS), and those that a failure cancels are silent too. So a chain completes once: with
//! its last step, or with the one that failed. A shard sleeps through the others. A step that is not the last and says
//! that it succeeded stops the process, because then nothing is known about the order of anything.

use clustor_wire::ids::ChainNumber;
use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use super::ring::{Mark, Owner, Ring};
use crate::buffer::{BLOCK_BYTES, Blocks};
use crate::disk::{DiskError, DiskEvent, DurableChain, FileId, FlushKind};

/// Bytes in one write submission; more is split. The kernel cuts a single write at 2 GiB less a page.
pub(super) const WRITE_BYTES_MAX: usize = 1 << 30;

/// How much of a chain to carry out. A shard always asks for [`ChainSteps::Full`]; the harness measures what
/// each further step costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainSteps {
    /// The log write alone: nothing is durable.
    Write,
    /// The log write and its flush.
    WriteFlush,
    /// Log write, flush, ledger write, flush.
    Full,
    /// As `WriteFlush`, for a trailer: the chain has no number and no ledger blocks.
    Trailer,
}

/// One step of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainStep {
    /// A write of `bytes` of the file's run, from byte `offset` of it on, in the place that the run has. `is_durable`: not done
    /// before it is on the device.
    Write {
        /// Which file.
        file: FileId,
        /// From where in its run, in bytes.
        offset: usize,
        /// How much.
        bytes: usize,
        /// A write and its flush are one.
        is_durable: bool,
    },
    /// A flush of the file's data.
    Flush {
        /// Which file.
        file: FileId,
    },
}

impl ChainSteps {
    /// What a carrier does for a chain, in order. A step begins when all before it have succeeded in full; the chain is
    /// durable when the last of [`ChainSteps::Full`] has. `flush` is the chain's own, or, from a carrier that has
    /// only one, [`FlushKind::Fdatasync`].
    pub fn of(self, chain: &DurableChain, flush: FlushKind) -> impl Iterator<Item = ChainStep> {
        let flushes = self != Self::Write;
        let is_durable = flushes && flush == FlushKind::Dsync;
        let file = move |file: FileId, length: usize| {
            let writes = (0..length)
                .step_by(WRITE_BYTES_MAX)
                .map(move |offset| ChainStep::Write {
                    file,
                    offset,
                    bytes: (length - offset).min(WRITE_BYTES_MAX),
                    is_durable,
                });
            let flush = (flushes && !is_durable).then_some(ChainStep::Flush { file });
            writes.chain(flush)
        };
        let log = file(FileId::segment(chain.pair), chain.log.byte_len());
        let ledger =
            (self == Self::Full).then(|| file(FileId::ledger(chain.pair), chain.ledger.byte_len()));
        log.chain(ledger.into_iter().flatten())
    }
}

/// A chain in flight. Owns the buffers until its completion was drained: no step of it runs then or later.
pub(super) struct InFlight {
    chain: DurableChain,
    steps: ChainSteps,
    /// Whether it was submitted, and its completion not drained.
    outstanding: bool,
    /// Why it failed.
    failed: Option<DiskError>,
    /// Whether each of its two files counts this chain as a user.
    pub(super) holds: [bool; 2],
    /// Files it waits for before it can be submitted.
    pub(super) waits: u8,
}

/// Flags of a write that is durable when it completes (pwritev2(2)).
const DSYNC: i32 = libc::RWF_DSYNC;

impl InFlight {
    pub(super) const fn new(chain: DurableChain, steps: ChainSteps) -> Self {
        Self {
            chain,
            steps,
            outstanding: false,
            failed: None,
            holds: [false; 2],
            waits: 0,
        }
    }

    pub(super) const fn number(&self) -> ChainNumber {
        self.chain.chain
    }

    /// Its two files: the segment, then the ledger.
    pub(super) const fn files(&self) -> [FileId; 2] {
        [
            FileId::segment(self.chain.pair),
            FileId::ledger(self.chain.pair),
        ]
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Marks a chain failed that was never submitted.
    pub(super) fn fail(&mut self, error: DiskError) {
        self.failed.get_or_insert(error);
    }

    fn steps(&self) -> impl Iterator<Item = ChainStep> {
        self.steps.of(&self.chain, self.chain.flush)
    }

    /// The linked submissions, for files at these places of the ring's table, appended to `group`.
    pub(super) fn entries(
        &mut self,
        ring: &Ring,
        places: [u32; 2],
        at: u32,
        group: &mut Vec<Entry>,
    ) {
        let total = self.steps().count();
        assert!(!self.chain.log.is_empty(), "every chain has an extent");
        assert!(total <= usize::from(u8::MAX), "a step has eight bits");
        let [segment, _] = self.files();
        for (at_step, step) in self.steps().enumerate() {
            let mark = Mark::new(Owner::Chain, u8::try_from(at_step).expect("checked"), at);
            let entry = match step {
                ChainStep::Write {
                    file,
                    offset,
                    bytes,
                    is_durable,
                } => {
                    let (run, block, place) = match file == segment {
                        true => (&self.chain.log, self.chain.log_block, places[0]),
                        false => (&self.chain.ledger, self.chain.ledger_block, places[1]),
                    };
                    let to = u64::from(block) * BLOCK_BYTES as u64;
                    let flags = if is_durable { DSYNC } else { 0 };
                    write_entry(ring, (run, offset, bytes), place, to, flags)
                }
                ChainStep::Flush { file } => flush_entry(places[usize::from(file != segment)]),
            };
            let entry = entry.user_data(mark.pack());
            group.push(if at_step + 1 < total {
                entry.flags(Flags::IO_LINK | Flags::SKIP_SUCCESS)
            } else {
                entry
            });
        }
        self.outstanding = true;
    }

    /// Takes the completion.
    ///
    /// # Panics
    /// If there is another, or a step succeeded that is not the last.
    pub(super) fn completed(&mut self, step: u8, result: i32) {
        assert!(self.outstanding, "a chain completes once");
        self.outstanding = false;
        let mut steps = self.steps().skip(usize::from(step));
        let done = steps.next().expect("a step of this chain");
        let is_last = steps.next().is_none();
        drop(steps);
        let outcome = match done {
            ChainStep::Write { file, .. } if result < 0 => {
                Err(DiskError::of("writing", file, -result))
            }
            ChainStep::Flush { file } if result < 0 => {
                Err(DiskError::of("flushing", file, -result))
            }
            ChainStep::Write { bytes, .. } if result.unsigned_abs() as usize != bytes => {
                Err(DiskError::Short {
                    done: u64::from(result.unsigned_abs()),
                    asked: bytes as u64,
                })
            }
            ChainStep::Write { .. } | ChainStep::Flush { .. } => Ok(()),
        };
        match outcome {
            Ok(()) => assert!(
                is_last,
                "{}: step {step} of chain {} was done, and not in silence",
                self.files()[0],
                self.number(),
            ),
            Err(error) => self.failed = Some(error),
        }
    }

    /// The event of a chain that ended.
    pub(super) fn into_event(self) -> DiskEvent {
        assert!(!self.outstanding, "a chain ends with its completion");
        if self.steps == ChainSteps::Trailer {
            return DiskEvent::Trailer {
                pair: self.chain.pair,
                trailer: self.chain.log,
                outcome: self.failed.map_or(Ok(()), Err),
            };
        }
        DiskEvent::Chain {
            chain: self.chain.chain,
            log: self.chain.log,
            ledger: self.chain.ledger,
            outcome: self.failed.map_or(Ok(()), Err),
        }
    }
}

/// A write of `bytes` of `run`, from byte `offset` on, to byte `to` and on of the file at `place`.
pub(super) fn write_entry(
    ring: &Ring,
    (run, offset, bytes): (&Blocks, usize, usize),
    place: u32,
    to: u64,
    flags: i32,
) -> Entry {
    assert!(
        offset + bytes <= run.byte_len(),
        "a write stays within its run"
    );
    let address = run.as_slice().as_ptr().cast::<u8>().wrapping_add(offset);
    let count = u32::try_from(bytes).expect("a write is at most 1 GiB");
    let to = to + offset as u64;
    match ring.fixed_slot(run) {
        Some(slot) => opcode::WriteFixed::new(types::Fixed(place), address, count, slot)
            .offset(to)
            .rw_flags(flags)
            .build(),
        None => opcode::Write::new(types::Fixed(place), address, count)
            .offset(to)
            .rw_flags(flags)
            .build(),
    }
}

/// A flush of the data of the file at `place`.
pub(super) fn flush_entry(place: u32) -> Entry {
    opcode::Fsync::new(types::Fixed(place))
        .flags(types::FsyncFlags::DATASYNC)
        .build()
}
