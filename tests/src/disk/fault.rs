//! What is planted into a disk: writes and flushes that go wrong, operations that never end, damage.

use clustor_shards::buffer::{BLOCK_BYTES, Blocks};
use clustor_shards::disk::{DiskError, DiskEvent, FileId, FileKind, FlushKind};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::file::Luck;
use super::{Fate, InodeId, SECTOR_BYTES, SilentFaults, SimDisk};

/// What is planted into the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// It fails with an error; part of it may have landed.
    Error,
    /// It ends short; part of it may have landed.
    Short,
    /// The device reports success and writes nothing.
    Lost,
    /// The device reports success and writes to other blocks of the same file.
    Misdirected,
    /// The device reports success and writes to blocks of another file, acknowledged ones perhaps; the extent
    /// of the same chain apart, which would be two faults in one chain.
    MisdirectedFile,
}

/// What is planted into the next flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushFault {
    /// It fails, once; what it covered is gone at once or at the next power loss, and no later flush, which
    /// succeeds, saves it.
    Error,
    /// The device reports success and keeps what it covered in a cache that a power loss empties.
    Lie,
}

/// Which operations get stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StuckKind {
    /// Chains.
    Chain,
    /// The making of pairs.
    Prepare,
    /// Reads.
    Read,
    /// The writing of trailers.
    Trailer,
}

/// Where a misdirected write lands: a file and a block.
fn elsewhere(
    rng: &mut Xoshiro256PlusPlus,
    files: &[(InodeId, u32)],
    run_blocks: u32,
    spared: (InodeId, std::ops::Range<u32>),
) -> Option<(InodeId, u32)> {
    for _ in 0..16 {
        let (inode, blocks) = *files.get(rng.random_range(0..files.len().max(1)))?;
        let block = rng.random_range(0..blocks);
        let hits = inode == spared.0
            && block < spared.1.end
            && u64::from(block) + u64::from(run_blocks) > u64::from(spared.1.start);
        if !hits {
            return Some((inode, block));
        }
    }
    None
}

impl SimDisk {
    /// A chain's write of a run of blocks to one of its files comes to its end, and with it its flush where it is
    /// to be durable by then: `own` is the chain's extent.
    pub(super) fn end_write(
        &mut self,
        (kind, inode): (FileKind, InodeId),
        (block, run): (u32, &Blocks),
        own: (InodeId, std::ops::Range<u32>),
        flush: FlushKind,
    ) -> Result<(), DiskError> {
        let gone = || DiskError::Io("the file was removed".into());
        let fault = self
            .write_fault_next
            .take_if(|(planted, _)| *planted == kind)
            .map(|(_, fault)| fault);
        self.counters.writes += 1;
        match fault {
            None => {}
            Some(WriteFault::Error | WriteFault::Short) => self.counters.writes_failed += 1,
            Some(WriteFault::Lost) => self.silent_fault(kind).lost += 1,
            Some(WriteFault::Misdirected) => self.silent_fault(kind).misdirected += 1,
            Some(WriteFault::MisdirectedFile) => self.silent_fault(kind).misdirected_file += 1,
        }
        let rng = &mut self.rng;
        let (inode, block) = match fault {
            Some(WriteFault::MisdirectedFile) => {
                let others: Vec<_> = self
                    .files
                    .iter()
                    .filter(|(other, _)| **other != inode)
                    .map(|(other, file)| (*other, file.blocks()))
                    .collect();
                match elsewhere(rng, &others, run.len() as u32, own) {
                    Some(place) => place,
                    None => return Ok(()), // Beyond the end of everything.
                }
            }
            Some(WriteFault::Misdirected) => {
                let file = self.files.get(&inode).ok_or_else(gone)?;
                (inode, rng.random_range(0..file.blocks()))
            }
            _ => (inode, block),
        };
        let file = self.files.get_mut(&inode).ok_or_else(gone)?;
        match fault {
            Some(WriteFault::Lost) => Ok(()),
            Some(WriteFault::Error | WriteFault::Short) => {
                let luck = Luck::draw(Fate::Torn, rng);
                file.write(block, run.as_slice(), || luck.sectors(rng));
                let asked = run.byte_len() as u64;
                Err(if fault == Some(WriteFault::Short) {
                    let done = asked - SECTOR_BYTES as u64;
                    DiskError::Short { done, asked }
                } else {
                    DiskError::Io("planted: the write failed".into())
                })
            }
            None | Some(WriteFault::Misdirected | WriteFault::MisdirectedFile) => {
                file.write(block, run.as_slice(), || u8::MAX);
                match flush {
                    FlushKind::Fdatasync => Ok(()),
                    FlushKind::Dsync => self.end_durable_write(kind, inode),
                }
            }
        }
    }

    /// Counts one more, and says where it is to be counted by how.
    fn silent_fault(&mut self, kind: FileKind) -> &mut SilentFaults {
        self.counters.silent_faults += 1;
        match kind {
            FileKind::Segment => &mut self.counters.segment_faults,
            FileKind::Ledger => &mut self.counters.ledger_faults,
        }
    }

    /// The last write to a file, one that is durable when it ends, ends.
    fn end_durable_write(&mut self, kind: FileKind, inode: InodeId) -> Result<(), DiskError> {
        let file = self
            .files
            .get_mut(&inode)
            .expect("it was written to just before");
        let fault = self
            .flush_fault_next
            .take_if(|(planted, _)| *planted == kind);
        match fault {
            Some((_, FlushFault::Error)) => {
                self.counters.flushes_failed += 1;
                file.last_write_fails(&mut self.rng);
                let what = "planted: the write was not made durable";
                return Err(DiskError::Io(what.into()));
            }
            Some((_, FlushFault::Lie)) => {
                file.last_write_lies();
                self.silent_fault(kind).lied += 1;
            }
            None => file.last_write_settles(),
        }
        self.counters.flushes += 1;
        Ok(())
    }

    /// The flush of one of a chain's files, issued when `cover` was the last write, comes to its end.
    pub(super) fn end_flush(
        &mut self,
        kind: FileKind,
        inode: InodeId,
        cover: u64,
    ) -> Result<(), DiskError> {
        let file = self
            .files
            .get_mut(&inode)
            .ok_or_else(|| DiskError::Io("the file was removed".into()))?;
        let fault = self
            .flush_fault_next
            .take_if(|(planted, _)| *planted == kind);
        match fault {
            Some((_, FlushFault::Error)) => {
                self.counters.flushes_failed += 1;
                file.flush_fails(cover, &mut self.rng);
                return Err(DiskError::Io("planted: the flush failed".into()));
            }
            Some((_, FlushFault::Lie)) => {
                file.flush_lies(cover);
                self.silent_fault(kind).lied += 1;
            }
            None => file.flush_succeeds(cover),
        }
        self.counters.flushes += 1;
        Ok(())
    }

    /// Turns over bits of a block, durably; false if there is no such block.
    pub fn plant_rot(&mut self, file: FileId, block: u32) -> bool {
        let rng = &mut self.rng;
        let inode = self.directory.lookup(file);
        match inode.and_then(|inode| self.files.get_mut(&inode)) {
            Some(found) if block < found.blocks() => {
                found.rot(block, rng);
                true
            }
            _ => false,
        }
    }

    /// Writes something to a block that nobody sent there, durably, and no byte of it zero; false if there is no such block.
    pub fn plant_rubbish(&mut self, file: FileId, block: u32) -> bool {
        let rng = &mut self.rng;
        let inode = self.directory.lookup(file);
        match inode.and_then(|inode| self.files.get_mut(&inode)) {
            Some(found) if block < found.blocks() => {
                found.overwrite(block, &[0; BLOCK_BYTES].map(|_| rng.random_range(1..=255)));
                true
            }
            _ => false,
        }
    }

    /// Makes the next `times` reads of a block fail (`None`: all, until it is written); false if there is no
    /// such block.
    pub fn make_unreadable(&mut self, file: FileId, block: u32, times: Option<u32>) -> bool {
        let inode = self.directory.lookup(file);
        match inode.and_then(|inode| self.files.get_mut(&inode)) {
            Some(found) if block < found.blocks() => {
                found.make_unreadable(block, times);
                true
            }
            _ => false,
        }
    }

    /// A file loses its name, durably: the directory was damaged. False if it had none.
    ///
    /// # Panics
    /// If operations are in hand: a file that is open cannot be lost.
    pub fn lose_file(&mut self, file: FileId) -> bool {
        assert!(self.tasks.is_empty(), "files are lost between two boots");
        self.lost.insert(file);
        self.directory.lose(file)
    }

    /// Writes a block as somebody else would who has the disk in hand, durably; false if there is no such block.
    pub fn overwrite(&mut self, file: FileId, block: u32, bytes: &[u8; BLOCK_BYTES]) -> bool {
        let inode = self.directory.lookup(file);
        match inode.and_then(|inode| self.files.get_mut(&inode)) {
            Some(found) if block < found.blocks() => {
                found.overwrite(block, bytes);
                self.forged = true;
                true
            }
            _ => false,
        }
    }

    /// The next flush of a file of this kind to end, ends in an error.
    pub fn fail_next_flush(&mut self, kind: FileKind) {
        self.fault_next_flush(kind, FlushFault::Error);
    }

    /// The next flush of a file of this kind to end goes wrong.
    pub fn fault_next_flush(&mut self, kind: FileKind, fault: FlushFault) {
        self.flush_fault_next = Some((kind, fault));
    }

    /// The next chain's write to a file of this kind goes wrong.
    pub fn fault_next_write(&mut self, kind: FileKind, fault: WriteFault) {
        self.write_fault_next = Some((kind, fault));
    }

    /// The next operation of this kind to make a micro-step makes none any more, until [`Self::unstick`].
    pub fn stick_next(&mut self, kind: StuckKind) {
        self.stick_next = Some(kind);
    }

    /// Whether an operation is stuck.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.tasks.values().any(super::Task::is_stuck)
    }

    /// Whatever is stuck goes on.
    pub fn unstick(&mut self) {
        self.stick_next = None;
        self.tasks.values_mut().for_each(super::Task::unstick);
    }

    /// No planted fault strikes any more.
    pub fn forget_planted_faults(&mut self) {
        self.flush_fault_next = None;
        self.write_fault_next = None;
        self.stick_next = None;
    }

    /// Whether a planted fault of a flush, a write or an operation waits to strike.
    #[must_use]
    pub fn has_planted_fault(&self) -> bool {
        self.flush_fault_next.is_some()
            || self.write_fault_next.is_some()
            || self.stick_next.is_some()
    }

    /// Whether there is room for new files.
    pub fn set_full(&mut self, full: bool) {
        self.room = full.then_some(0);
    }

    /// There is room for so many pieces more of new files: a pair's creation and each of the pieces that are
    /// zeroed count as one. So a disk fills up in the middle of zeroing.
    pub fn set_room_pieces(&mut self, pieces: u32) {
        self.room = Some(pieces);
    }

    /// So much of the file system is used, in percent, from here on.
    pub fn set_used_percent(&mut self, percent: u8) {
        self.events.push(DiskEvent::Used { percent });
    }
}
