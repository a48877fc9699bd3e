//! Pairs made, removed, and kept for later ones, in micro-steps.

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::pace::Step;
use clustor_shards::disk::{
    DiskError, DiskEvent, FileId, FileKind, PreparePair, RetirePair, SPARE_ZERO_BLOCKS,
};
use rand::Rng;

use super::file::{SectorMask, SimFile};
use super::task::{Next, PrepareStage, RemoveStage, Task, Work};
use super::{InodeId, Kept, Name, SimDisk, assert_preparable};

impl SimDisk {
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

    pub(super) fn advance_prepare(
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
    pub(super) fn pace(&self, op: &PreparePair, zeroed: u32) -> Step {
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

    pub(super) fn advance_remove(
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
