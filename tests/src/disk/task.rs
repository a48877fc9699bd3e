//! Operations in hand, and their micro-steps.
//!
//! A flush is two micro-steps, issued and ended, since it covers only what had completed when it was issued.

use std::collections::BTreeMap;

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::pace::Step;
use clustor_shards::disk::{
    DiskError, DiskEvent, DurableChain, FileId, FileKind, FlushKind, PreparePair, ReadBlocks,
    RetirePair, SPARE_ZERO_BLOCKS, WriteTrailer,
};
use rand::Rng;

use super::file::{SectorMask, SimFile, digest};
use super::{InodeId, Kept, Name, SimDisk, StuckKind, assert_admitted, assert_preparable};

#[derive(Debug)]
pub(super) struct Task {
    due_us: u64,
    stuck: bool,
    work: Work,
}

#[derive(Debug)]
enum Work {
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
enum TrailerStage {
    Write,
    Flush,
    Flushing(u64),
}

#[derive(Debug, Clone, Copy)]
enum ChainStage {
    Write(FileKind),
    Flush(FileKind),
    Flushing(FileKind, u64),
}

#[derive(Debug, Clone, Copy)]
enum PrepareStage {
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
enum RemoveStage {
    Unlink(FileKind),
    FlushDirectory,
    FlushingDirectory(u64),
}

/// Whether the task goes on, or which event ends it.
enum Next {
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

/// How long a pause in the zeroing of a pair takes.
const PAUSE_US: u64 = 5_000;
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

    pub(super) fn begin_prepare(&mut self, op: PreparePair) -> Task {
        assert_preparable(&self.directory, &op);
        let mut take = |kind, blocks| {
            let fits = |kept: &Kept| kept.file.kind == kind && kept.blocks == blocks;
            let at = self.kept.iter().position(fits);
            at.map(|at| self.kept.remove(at))
        };
        let kept = [
            take(FileKind::Segment, op.segment_blocks),
            take(FileKind::Ledger, op.ledger_blocks),
        ];
        // What has another size now goes.
        self.give_up(|kept| kept.file.kind == FileKind::Ledger && kept.blocks != op.ledger_blocks);
        let inodes = kept.map(|kept| {
            kept.map_or_else(
                || {
                    self.inodes += 1;
                    InodeId(self.inodes)
                },
                |kept| kept.inode,
            )
        });
        let [segment, ledger] = inodes;
        if kept[0].is_none() {
            self.files.insert(segment, SimFile::new(op.segment_blocks));
        } else if let Some(file) = self.files.get_mut(&segment) {
            file.begin_again();
            self.counters.recycled += 1;
        }
        self.files.insert(ledger, SimFile::new(op.ledger_blocks));
        self.task(Work::Prepare {
            op,
            segment,
            ledger,
            was: kept.map(|kept| kept.map(|kept| kept.file)),
            zeroed: 0,
            stage: PrepareStage::Create,
        })
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

    pub(super) fn begin_remove(&mut self, order: RetirePair) -> Task {
        let pair = order.pair;
        // A pair that is still being made goes when what it waits for has ended.
        let is_its =
            |task: &&Task| matches!(&task.work, Work::Prepare { op, .. } if op.pair == pair);
        let stuck = self.tasks.values().filter(is_its).any(|task| task.stuck);
        Task {
            stuck,
            ..self.task(Work::Remove {
                order,
                keeping: [None; 2],
                stage: RemoveStage::Unlink(FileKind::Segment),
            })
        }
    }

    fn task(&mut self, work: Work) -> Task {
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
                    Step::Pause => (timing.write_us.0, timing.write_us.1 + PAUSE_US),
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

    fn advance_prepare(
        &mut self,
        op: PreparePair,
        (segment, was, mut zeroed): (InodeId, [Option<FileId>; 2], u32),
        ledger: InodeId,
        stage: PrepareStage,
    ) -> Next {
        let is_needed = self.pace(&op, zeroed) == Step::Hurry;
        let recycled = was[0].is_some();
        let writes = matches!(
            stage,
            PrepareStage::Create | PrepareStage::ZeroFirst | PrepareStage::Zero
        );
        let fits = match &mut self.room {
            Some(0) => false,
            Some(pieces) => {
                *pieces -= u32::from(writes);
                true
            }
            None => true,
        };
        if writes && !fits {
            self.counters.no_room += 1;
            if !matches!(stage, PrepareStage::Zero) {
                for (was, inode) in was.into_iter().zip([segment, ledger]) {
                    match was {
                        Some(file) => self.directory.change(Name::Kept(file), None),
                        None => drop(self.files.remove(&inode)),
                    }
                }
            }
            self.pace.failed(op.pair);
            return Next::End(DiskEvent::PrepareFailed {
                pair: op.pair,
                error: DiskError::Full,
            });
        }
        let first = self.options.first_piece_blocks.max(1);
        let piece = self.options.piece_blocks.max(1);
        let stage = match stage {
            PrepareStage::Create => PrepareStage::ZeroFirst,
            PrepareStage::ZeroFirst => {
                let more = match zeroed {
                    0 => first,
                    _ => piece,
                };
                zeroed = zeroed.saturating_add(more).min(op.segment_blocks);
                if recycled {
                    self.zero_ends(segment);
                    zeroed = op.segment_blocks;
                }
                // A pair that nobody waits for is zeroed whole before it gets its name.
                match is_needed || zeroed == op.segment_blocks {
                    true => PrepareStage::FlushFirst,
                    false => PrepareStage::ZeroFirst,
                }
            }
            PrepareStage::FlushFirst => {
                if let Some(file) = self.files.get_mut(&segment) {
                    file.flush_succeeds(file.flush_begins());
                }
                PrepareStage::Rename(FileKind::Segment)
            }
            PrepareStage::Rename(FileKind::Segment) => {
                let name = Name::Of(FileId::segment(op.pair));
                self.directory.change(name, Some(segment));
                if let Some(file) = was[0] {
                    self.directory.change(Name::Kept(file), None);
                }
                PrepareStage::Rename(FileKind::Ledger)
            }
            PrepareStage::Rename(FileKind::Ledger) => {
                let name = Name::Of(FileId::ledger(op.pair));
                self.directory.change(name, Some(ledger));
                if let Some(file) = was[1] {
                    self.directory.change(Name::Kept(file), None);
                }
                PrepareStage::FlushDirectory
            }
            PrepareStage::FlushDirectory => {
                PrepareStage::FlushingDirectory(self.directory.flush_begins())
            }
            PrepareStage::FlushingDirectory(cover) => {
                self.directory.flush_succeeds(cover);
                self.counters.flushes += 1;
                self.set_ready(ledger, op.ledger_blocks);
                self.set_ready(segment, zeroed);
                self.pace.made(op);
                let salt = self.rng.random();
                if let Some(file) = self.files.get_mut(&segment) {
                    file.set_salt(salt);
                }
                let event = DiskEvent::Prepared {
                    pair: op.pair,
                    salt,
                    segment_blocks_ready: zeroed,
                    recycled,
                };
                if zeroed == op.segment_blocks {
                    return Next::End(event);
                }
                self.events.push(event);
                PrepareStage::Zero
            }
            PrepareStage::Zero => {
                zeroed = zeroed.saturating_add(piece).min(op.segment_blocks);
                match is_needed || zeroed == op.segment_blocks {
                    true => PrepareStage::FlushZeroed,
                    false => PrepareStage::Zero,
                }
            }
            PrepareStage::FlushZeroed => {
                self.set_ready(segment, zeroed);
                let event = DiskEvent::Progress {
                    pair: op.pair,
                    segment_blocks_ready: zeroed,
                };
                if zeroed == op.segment_blocks {
                    return Next::End(event);
                }
                self.events.push(event);
                PrepareStage::Zero
            }
        };
        Next::On(Work::Prepare {
            op,
            segment,
            ledger,
            was,
            zeroed,
            stage,
        })
    }

    /// How the zeroing of a pair goes on.
    fn pace(&self, op: &PreparePair, zeroed: u32) -> Step {
        let is_chain = |task: &Task| matches!(task.work, Work::Chain { .. });
        let is_busy = self.tasks.values().any(is_chain);
        self.pace
            .step(op.pair, (zeroed, op.segment_blocks), is_busy)
    }

    /// Writes zeros over the front and the last block of a segment that was another pair's.
    fn zero_ends(&mut self, segment: InodeId) {
        let Some(file) = self.files.get_mut(&segment) else {
            return;
        };
        let front = file.blocks().min(SPARE_ZERO_BLOCKS);
        for (block, count) in [(0, front), (file.blocks() - 1, 1)] {
            let zeros = Blocks::from_heap(count as usize);
            file.write(block, zeros.as_slice(), || SectorMask::MAX);
        }
    }

    fn set_ready(&mut self, inode: InodeId, blocks: u32) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.set_ready(blocks);
        }
    }

    /// Files of a kind that wait to become another pair's.
    pub(super) fn kept_of(&self, kind: FileKind) -> u32 {
        let is_of = |kept: &&Kept| kept.file.kind == kind;
        self.kept.iter().filter(is_of).count() as u32
    }

    /// Whether a file of a pair that goes is kept: there is room for it, and its name is free.
    fn may_keep(&self, order: &RetirePair, file: FileId) -> bool {
        order.keep_blocks.is_some()
            && self.kept_of(file.kind) < order.kept_max
            && self.kept.iter().all(|kept| kept.file != file)
    }

    /// Removes files that were kept; their space is there for new ones.
    fn give_up(&mut self, is_unwanted: impl Fn(&Kept) -> bool) {
        for given_up in self.kept.extract_if(.., |kept| is_unwanted(kept)) {
            self.directory.change(Name::Kept(given_up.file), None);
            if let Some(room) = &mut self.room {
                *room += match given_up.file.kind {
                    FileKind::Segment => 1 + given_up.blocks / self.options.piece_blocks.max(1),
                    FileKind::Ledger => 0,
                };
            }
        }
    }

    fn advance_remove(
        &mut self,
        order: RetirePair,
        mut keeping: [Option<Kept>; 2],
        stage: RemoveStage,
    ) -> Next {
        let pair = order.pair;
        let stage = match stage {
            RemoveStage::Unlink(kind) => {
                let id = FileId { pair, kind };
                if let Some(inode) = self.directory.lookup(id) {
                    self.directory.change(Name::Of(id), None);
                    if self.may_keep(&order, id) {
                        keeping[usize::from(kind == FileKind::Ledger)] = Some(Kept {
                            file: id,
                            inode,
                            blocks: self.files.get(&inode).map_or(0, SimFile::blocks),
                        });
                        self.directory.change(Name::Kept(id), Some(inode));
                    }
                }
                while self.kept_of(kind) > order.kept_max {
                    let last = self.kept.iter().rfind(|kept| kept.file.kind == kind);
                    let last = last.expect("more than none").file;
                    self.give_up(|kept| kept.file == last);
                }
                match kind {
                    FileKind::Segment => RemoveStage::Unlink(FileKind::Ledger),
                    FileKind::Ledger => RemoveStage::FlushDirectory,
                }
            }
            RemoveStage::FlushDirectory => {
                RemoveStage::FlushingDirectory(self.directory.flush_begins())
            }
            RemoveStage::FlushingDirectory(cover) => {
                self.directory.flush_succeeds(cover);
                self.counters.flushes += 1;
                self.kept.extend(keeping.into_iter().flatten());
                return Next::End(DiskEvent::Removed {
                    pair,
                    outcome: Ok(()),
                });
            }
        };
        Next::On(Work::Remove {
            order,
            keeping,
            stage,
        })
    }
}
