//! Operations in hand, and their micro-steps.
//!
//! A flush is two micro-steps, issued and ended, since it covers only what had completed when it was issued.

use std::collections::BTreeMap;

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::pace::Step;
use clustor_shards::disk::{
    DiskError, DiskEvent, DurableChain, FileId, FileKind, FlushKind, PreparePair, ReadBlocks,
    RetirePair, WriteTrailer,
};
use rand::Rng;

use super::file::{SimFile, digest};
use super::{InodeId, Kept, SimDisk, StuckKind, assert_admitted};

#[derive(Debug)]
pub(super) struct Task {
    pub(super) due_us: u64,
    pub(super) stuck: bool,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Chain {
        op: DurableChain,
        segment: InodeId,
        ledger: InodeId,
        stage: ChainStage,
    },
    Read {
        op: ReadBlocks,
        inode: Option<InodeId>,
    },
    Prepare {
        op: PreparePair,
        segment: InodeId,
        ledger: InodeId,
        /// What they were, if they were another pair's: segment, ledger.
        was: [Option<FileId>; 2],
        /// Blocks of the segment that are zeroed.
        zeroed: u32,
        stage: PrepareStage,
    },
    Trailer {
        op: WriteTrailer,
        segment: InodeId,
        stage: TrailerStage,
    },
    Remove {
        order: RetirePair,
        /// What is kept of it, if it was there.
        keeping: [Option<Kept>; 2],
        stage: RemoveStage,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TrailerStage {
    Write,
    Flush,
    Flushing(u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum ChainStage {
    Write(FileKind),
    Flush(FileKind),
    Flushing(FileKind, u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum PrepareStage {
    Create,
    ZeroFirst,
    FlushFirst,
    Rename(FileKind),
    FlushDirectory,
    FlushingDirectory(u64),
    Zero,
    FlushZeroed,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum RemoveStage {
    Unlink(FileKind),
    FlushDirectory,
    FlushingDirectory(u64),
}

/// Whether the task goes on, or which event ends it.
pub(super) enum Next {
    On(Work),
    End(DiskEvent),
}

impl Task {
    pub(super) fn due_us(&self) -> u64 {
        self.due_us
    }

    /// Whether it makes no micro-steps.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck
    }

    pub(super) fn unstick(&mut self) {
        self.stuck = false;
    }

    fn is_of(&self, kind: StuckKind) -> bool {
        match kind {
            StuckKind::Chain => matches!(self.work, Work::Chain { .. }),
            StuckKind::Prepare => matches!(self.work, Work::Prepare { .. }),
            StuckKind::Read => matches!(self.work, Work::Read { .. }),
            StuckKind::Trailer => matches!(self.work, Work::Trailer { .. }),
        }
    }

    /// Whether the kernel goes on with it after the process is gone: a chain was submitted as a whole.
    pub(super) fn is_in_kernel(&self) -> bool {
        matches!(self.work, Work::Chain { .. } | Work::Trailer { .. })
    }

    /// The write that a crash finds under way.
    pub(super) fn write_in_flight(&self) -> Option<(InodeId, u32, &Blocks)> {
        match &self.work {
            Work::Chain {
                op,
                segment,
                ledger,
                stage: ChainStage::Write(kind),
            } => Some(match kind {
                FileKind::Segment => (*segment, op.log_block, &op.log),
                FileKind::Ledger => (*ledger, op.ledger_block, &op.ledger),
            }),
            Work::Trailer {
                op,
                segment,
                stage: TrailerStage::Write,
            } => Some((*segment, op.block, &op.trailer)),
            _ => None,
        }
    }
}

/// Reads from an open file; `inode` is `None` where it was never there.
pub(super) fn read_from(
    files: &mut BTreeMap<InodeId, SimFile>,
    inode: Option<InodeId>,
    id: FileId,
    block: u32,
    into: &mut Blocks,
) -> Result<(), DiskError> {
    let file = inode
        .and_then(|inode| files.get_mut(&inode))
        .ok_or(DiskError::NoFile(id))?;
    file.read(block, into.as_mut_slice())
        .map_err(|bad| DiskError::Io(format!("{id}: block {bad} can't be read")))
}

fn end_chain(op: DurableChain, outcome: Result<(), DiskError>) -> Next {
    Next::End(DiskEvent::Chain {
        chain: op.chain,
        log: op.log,
        ledger: op.ledger,
        outcome,
    })
}

/// No file's.
const NO_INODE: InodeId = InodeId(0);

fn end_trailer(op: WriteTrailer, outcome: Result<(), DiskError>) -> Next {
    Next::End(DiskEvent::Trailer {
        pair: op.pair,
        trailer: op.trailer,
        outcome,
    })
}

impl SimDisk {
    pub(super) fn begin_chain(&mut self, op: DurableChain) -> Task {
        let mut open = |kind, block, run: &Blocks| {
            let id = FileId {
                pair: op.pair,
                kind,
            };
            let inode = self.directory.lookup(id);
            let Some((inode, file)) = inode.and_then(|i| Some((i, self.files.get_mut(&i)?))) else {
                panic!("chain {}: {id} is not in place", op.chain);
            };
            assert_admitted(file, id, op.chain, block, run, self.forged);
            inode
        };
        let segment = open(FileKind::Segment, op.log_block, &op.log);
        let ledger = open(FileKind::Ledger, op.ledger_block, &op.ledger);
        self.assert_sealed_once(segment, &op);
        self.pace.note(&op);
        self.task(Work::Chain {
            op,
            segment,
            ledger,
            stage: ChainStage::Write(FileKind::Segment),
        })
    }

    /// Under one salt a block has one content, whatever became of the disk that it was written to.
    fn assert_sealed_once(&mut self, segment: InodeId, op: &DurableChain) {
        let Some(salt) = self.files.get(&segment).and_then(SimFile::salt) else {
            return;
        };
        if self.forged && op.log_block == 0 && op.log.as_slice().len() == 1 {
            return; // A header is not sealed, and one that was forged may be restored from the other.
        }
        for (block, bytes) in (op.log_block..).zip(op.log.as_slice()) {
            let digest = digest(&bytes.0);
            let before = self.sealed.insert((salt, block), digest);
            assert!(
                before.is_none_or(|before| before == digest),
                "chain {}: pair {}: block {block} is sealed a second time under one salt",
                op.chain,
                op.pair
            );
        }
    }

    pub(super) fn begin_read(&mut self, op: ReadBlocks) -> Task {
        let inode = self.directory.lookup(op.file);
        self.task(Work::Read { op, inode })
    }

    pub(super) fn begin_trailer(&mut self, op: WriteTrailer) -> Task {
        let id = FileId::segment(op.pair);
        let inode = self.directory.lookup(id);
        let segment = match inode.and_then(|i| Some((i, self.files.get_mut(&i)?))) {
            Some((segment, file)) => {
                let admitted = file.admit_trailer(op.block, &op.trailer.as_slice()[0]);
                if let (Err(why), false) = (admitted, self.forged) {
                    panic!("{id}: {why}");
                }
                segment
            }
            // There is no such file: the write fails.
            None if self.lost.contains(&id) => NO_INODE,
            None => panic!("a trailer: {id} is not in place"),
        };
        self.task(Work::Trailer {
            op,
            segment,
            stage: TrailerStage::Write,
        })
    }

    fn advance_trailer(&mut self, op: WriteTrailer, segment: InodeId, stage: TrailerStage) -> Next {
        let kind = FileKind::Segment;
        if segment == NO_INODE {
            let file = FileId::segment(op.pair);
            return end_trailer(op, Err(DiskError::NoFile(file)));
        }
        let step = match stage {
            TrailerStage::Write => self
                .end_write(
                    (kind, segment),
                    (op.block, &op.trailer),
                    (segment, 0..0),
                    FlushKind::Fdatasync,
                )
                .map(|()| Some(TrailerStage::Flush)),
            TrailerStage::Flush => {
                let cover = self.files.get(&segment).map_or(0, SimFile::flush_begins);
                Ok(Some(TrailerStage::Flushing(cover)))
            }
            TrailerStage::Flushing(cover) => self.end_flush(kind, segment, cover).map(|()| None),
        };
        match step {
            Ok(Some(stage)) => Next::On(Work::Trailer { op, segment, stage }),
            Ok(None) => end_trailer(op, Ok(())),
            Err(error) => end_trailer(op, Err(error)),
        }
    }

    pub(super) fn task(&mut self, work: Work) -> Task {
        let timing = self.options.timing;
        let (least, most) = match &work {
            Work::Chain { op, stage, .. } => match stage {
                ChainStage::Write(_) if op.flush == FlushKind::Dsync => (
                    timing.write_us.0 + timing.flush_us.0,
                    timing.write_us.1 + timing.flush_us.1,
                ),
                ChainStage::Write(_) => timing.write_us,
                ChainStage::Flush(_) => (0, 0),
                ChainStage::Flushing(..) => timing.flush_us,
            },
            Work::Read { .. } => timing.read_us,
            Work::Prepare {
                op, zeroed, stage, ..
            } => match stage {
                PrepareStage::Create | PrepareStage::Rename(_) | PrepareStage::FlushDirectory => {
                    (0, 0)
                }
                PrepareStage::ZeroFirst | PrepareStage::Zero => match self.pace(op, *zeroed) {
                    Step::Pause => (
                        timing.write_us.0 + timing.pause_us,
                        timing.write_us.1 + timing.pause_us,
                    ),
                    Step::Hurry | Step::Next(_) => timing.write_us,
                },
                PrepareStage::FlushFirst
                | PrepareStage::FlushingDirectory(_)
                | PrepareStage::FlushZeroed => timing.flush_us,
            },
            Work::Trailer { stage, .. } => match stage {
                TrailerStage::Write => timing.write_us,
                TrailerStage::Flush => (0, 0),
                TrailerStage::Flushing(_) => timing.flush_us,
            },
            Work::Remove { stage, .. } => match stage {
                RemoveStage::Unlink(_) | RemoveStage::FlushDirectory => (0, 0),
                RemoveStage::FlushingDirectory(_) => timing.flush_us,
            },
        };
        let due_us = self.now_us + self.rng.random_range(least..=most.max(least));
        Task {
            due_us,
            stuck: false,
            work,
        }
    }

    /// One micro-step of one operation.
    pub(super) fn advance(&mut self, id: u64) {
        let Some(mut task) = self.tasks.remove(&id) else {
            return;
        };
        let sticks = self.stick_next.take_if(|kind| task.is_of(*kind));
        if let Some(kind) = sticks {
            task.stuck = true;
            self.counters.stuck[kind as usize] += 1;
            self.tasks.insert(id, task);
            return;
        }
        self.counters.steps += 1;
        let next = match task.work {
            Work::Chain {
                op,
                segment,
                ledger,
                stage,
            } => self.advance_chain(op, segment, ledger, stage),
            Work::Read { mut op, inode } => {
                let outcome = read_from(&mut self.files, inode, op.file, op.block, &mut op.into);
                Next::End(DiskEvent::Read {
                    token: op.token,
                    file: op.file,
                    block: op.block,
                    blocks: op.into,
                    outcome,
                })
            }
            Work::Prepare {
                op,
                segment,
                ledger,
                was,
                zeroed,
                stage,
            } => self.advance_prepare(op, (segment, was, zeroed), ledger, stage),
            Work::Trailer { op, segment, stage } => self.advance_trailer(op, segment, stage),
            Work::Remove {
                order,
                keeping,
                stage,
            } => self.advance_remove(order, keeping, stage),
        };
        match next {
            Next::On(work) => {
                if let Work::Prepare { op, .. } = &work {
                    self.events.push(DiskEvent::Advanced { pair: op.pair });
                }
                let task = self.task(work);
                self.tasks.insert(id, task);
            }
            Next::End(event) => self.events.push(event),
        }
    }

    fn advance_chain(
        &mut self,
        op: DurableChain,
        segment: InodeId,
        ledger: InodeId,
        stage: ChainStage,
    ) -> Next {
        let (kind, step) = match stage {
            ChainStage::Write(kind) => {
                let (inode, block, run) = match kind {
                    FileKind::Segment => (segment, op.log_block, &op.log),
                    FileKind::Ledger => (ledger, op.ledger_block, &op.ledger),
                };
                let own = op.log_block..op.log_block + op.log.len() as u32;
                let run = (block, run);
                (
                    kind,
                    self.end_write((kind, inode), run, (segment, own), op.flush),
                )
            }
            ChainStage::Flush(kind) => {
                let inode = match kind {
                    FileKind::Segment => segment,
                    FileKind::Ledger => ledger,
                };
                let cover = self.files.get(&inode).map_or(0, SimFile::flush_begins);
                return Next::On(Work::Chain {
                    op,
                    segment,
                    ledger,
                    stage: ChainStage::Flushing(kind, cover),
                });
            }
            ChainStage::Flushing(kind, cover) => {
                let inode = match kind {
                    FileKind::Segment => segment,
                    FileKind::Ledger => ledger,
                };
                (kind, self.end_flush(kind, inode, cover))
            }
        };
        if let Err(error) = step {
            return end_chain(op, Err(error));
        }
        let stage = match (stage, kind) {
            (ChainStage::Write(_), kind) if op.flush == FlushKind::Fdatasync => {
                ChainStage::Flush(kind)
            }
            (_, FileKind::Segment) => ChainStage::Write(FileKind::Ledger),
            (_, FileKind::Ledger) => return end_chain(op, Ok(())),
        };
        Next::On(Work::Chain {
            op,
            segment,
            ledger,
            stage,
        })
    }
}
