//! The `Disk` seam: what the log asks of a disk, and what the disk answers, as values.
//!
//! Operations go down in the outbox of a turn, events come up in the inbox of a later one. Two carriers
//! implement it: the ring (`uring`) and the simulator's disk. What both owe the log:
//!
//! - a [`DurableChain`] is four ordered steps: write the log blocks, flush the segment, write the ledger
//!   blocks, flush the ledger ([`FlushKind::Dsync`]: each write and its flush are one). A step begins only after the
//!   one before it succeeded in full; a short count is an error;
//! - exactly one event answers each operation, [`DiskEvent::Advanced`], [`DiskEvent::Progress`] and [`DiskEvent::Used`] apart;
//!   buffers come back in it;
//! - while a pair is made, each step of that which ends comes up, so that the log can tell a long making from one that hangs;
//! - in one inbox, events that report an error stand before those that report success;
//! - operations are started in the order given; chains may complete in any order.
//!
//! Before the first turn, recovery reads synchronously through [`BootDisk`], and says what is to become of the files that
//! an earlier process kept.

pub mod pace;

use clustor_wire::ids::{ChainNumber, PairNumber};

use crate::buffer::Blocks;

/// Which of a pair's two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// `segment-<pair>.log`: sealed records.
    Segment,
    /// `durability-<pair>.log`: one slot per chain.
    Ledger,
}

/// One file of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// The pair it belongs to.
    pub pair: PairNumber,
    /// Which of the two.
    pub kind: FileKind,
}

impl FileId {
    /// The segment file of `pair`.
    #[must_use]
    pub const fn segment(pair: PairNumber) -> Self {
        Self {
            pair,
            kind: FileKind::Segment,
        }
    }

    /// The ledger file of `pair`.
    #[must_use]
    pub const fn ledger(pair: PairNumber) -> Self {
        Self {
            pair,
            kind: FileKind::Ledger,
        }
    }
}

impl FileId {
    /// The file of this name, as [`core::fmt::Display`] gives it; `None` for any other name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (stem, pair) = name.strip_suffix(".log")?.rsplit_once('-')?;
        let pair = PairNumber(pair.parse().ok()?);
        let file = match stem {
            "segment" => Self::segment(pair),
            "durability" => Self::ledger(pair),
            _ => return None,
        };
        (file.to_string() == name).then_some(file)
    }
}

impl core::fmt::Display for FileId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let stem = match self.kind {
            FileKind::Segment => "segment",
            FileKind::Ledger => "durability",
        };
        write!(f, "{stem}-{}.log", self.pair)
    }
}

/// How a chain's writes are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushKind {
    /// A flush of the file (fdatasync(2)) follows each write.
    #[default]
    Fdatasync,
    /// Each write is durable when it completes (`RWF_DSYNC`, pwritev2(2)): two steps instead of four. A write that
    /// the block layer splits may be durable in part before that; an extent counts for nothing before its slot
    /// stands in the ledger, and the slot is written only after the whole of it is durable.
    Dsync,
}

/// Log write, flush, ledger write, flush: in this order, each only after the one before.
#[derive(Debug)]
pub struct DurableChain {
    /// Its number; completions carry it.
    pub chain: ChainNumber,
    /// The pair both files belong to.
    pub pair: PairNumber,
    /// First block of the log write within the segment.
    pub log_block: u32,
    /// The log blocks.
    pub log: Blocks,
    /// First block of the ledger write within the ledger.
    pub ledger_block: u32,
    /// The ledger blocks.
    pub ledger: Blocks,
    /// How the two writes are made durable.
    pub flush: FlushKind,
}

/// Read `into.len()` blocks. Blocks beyond the end of the file read as zero.
#[derive(Debug)]
pub struct ReadBlocks {
    /// The asker's mark; the event carries it.
    pub token: u64,
    /// From which file.
    pub file: FileId,
    /// From which block on.
    pub block: u32,
    /// Where to.
    pub into: Blocks,
}

/// Blocks at the start of a spare's segment that are zero even where it was made of a kept one; so is its last, where
/// its trailer will stand. Every opening writes to all of them: a header, a block of the checkpoint, an extent, the mark.
pub const SPARE_ZERO_BLOCKS: u32 = 4;

/// Make both files of a pair, zeroed with real writes.
///
/// The carrier makes them under temporary names in the shard's directory (replacing what an aborted boot
/// left), zeroes them, flushes both, renames them into place,
/// flushes the directory, and then reports [`DiskEvent::Prepared`] with a salt from the operating
/// system's generator (the seed's, in simulation). Where nobody waits for the pair it is zeroed whole before that, little by
/// little ([`pace`]). Where it is needed only its ledger and a first piece of the segment are; the rest of the segment follows in
/// flushed pieces, each reported as [`DiskEvent::Progress`]. Each step that ends and leads to neither is reported as
/// [`DiskEvent::Advanced`].
///
/// Where a segment of just this size was kept ([`RetirePair`]), it becomes this pair's by being renamed: it was written
/// once from end to end, so that only its first [`SPARE_ZERO_BLOCKS`] and its last block are zeroed, before it gets its
/// name, and all of it is ready at once. What else lies in it was sealed for another pair, under another salt. A ledger that
/// was kept is zeroed as a new one is: only its space is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparePair {
    /// Its number.
    pub pair: PairNumber,
    /// Size of the segment, in blocks.
    pub segment_blocks: u32,
    /// Size of the ledger, in blocks.
    pub ledger_blocks: u32,
}

/// Remove both files of a pair that nothing needs any more, as [`DiskOp::Remove`] does, or keep them for a later
/// [`PreparePair`].
///
/// A kept file gets another name, by which no start takes it for a pair's, and is touched only once the directory was
/// flushed: until then a power loss may bring the pair back, and it must be what it was. What an earlier process kept is of use
/// to a later one, see [`BootDisk::keep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetirePair {
    /// Its number.
    pub pair: PairNumber,
    /// Size of its segment in blocks, all of them written at least once, where its files may be kept; `None` where they go.
    pub keep_blocks: Option<u32>,
    /// Segments, and as many ledgers, that may be kept when this has been done, these included. Those above it are removed, so
    /// that 0 gives all their space back.
    pub kept_max: u32,
}

impl RetirePair {
    /// Removes no pair, only the files that are kept above `kept_max`. No pair has the number zero.
    #[must_use]
    pub const fn give_back(kept_max: u32) -> Self {
        Self {
            pair: PairNumber::ZERO,
            keep_blocks: None,
            kept_max,
        }
    }
}

/// Write the trailer of a closed pair's segment, then flush the segment: two ordered steps.
#[derive(Debug)]
pub struct WriteTrailer {
    /// Of which pair.
    pub pair: PairNumber,
    /// The segment's last block.
    pub block: u32,
    /// The trailer: one block.
    pub trailer: Blocks,
}

/// What the log asks for.
#[derive(Debug)]
pub enum DiskOp {
    /// Make a batch durable.
    Chain(DurableChain),
    /// Read blocks.
    Read(ReadBlocks),
    /// Make a new pair.
    Prepare(PreparePair),
    /// Write a segment's trailer.
    Trailer(WriteTrailer),
    /// Remove both files of a pair, where they exist, and flush the directory.
    Remove(PairNumber),
    /// Remove a pair, or keep its files for a later one.
    Retire(RetirePair),
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The file system is full.
    #[error("no space left on device")]
    Full,
    /// Fewer bytes than asked for were written.
    #[error("short write: {done} of {asked} bytes")]
    Short {
        /// Bytes written.
        done: u64,
        /// Bytes asked for.
        asked: u64,
    },
    /// An earlier step of the same chain failed, so this one was not begun.
    #[error("cancelled, an earlier step of the chain failed")]
    Cancelled,
    /// There is no such file: a directory lost its name.
    #[error("{0}: no such file")]
    NoFile(FileId),
    /// The device has not answered: neither success nor error came.
    #[error("{what} has not ended within {ms} ms (stuck_io_ms): the device hangs")]
    Stuck {
        /// What was asked for.
        what: &'static str,
        /// The bound, in milliseconds.
        ms: u64,
    },
    /// The system lacked something for the moment, memory most likely: that says nothing of what is on the disk, and the same
    /// may succeed soon.
    #[error("{0} (that says nothing of what is on the disk)")]
    Passing(String),
    /// More is to be written into one segment than any may hold.
    #[error(
        "a segment of {blocks} blocks is needed, and {blocks_max} are the most that one may have"
    )]
    TooLarge {
        /// Blocks of 4 KiB that it would need.
        blocks: u64,
        /// The most there may be.
        blocks_max: u64,
    },
    /// The sector can't be read, or any other error of the device or file system.
    #[error("I/O error: {0}")]
    Io(String),
}

impl DiskError {
    /// What the system's error number amounts to, met in `doing` something to a file.
    #[must_use]
    pub fn of(doing: &str, file: FileId, errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT => return Self::Full,
            libc::ECANCELED => return Self::Cancelled,
            libc::ENOENT => return Self::NoFile(file),
            _ => {}
        }
        let error = std::io::Error::from_raw_os_error(errno);
        let text = format!("{doing} {file}: {error}");
        match errno {
            libc::ENOMEM
            | libc::EAGAIN
            | libc::EINTR
            | libc::ENOBUFS
            | libc::EMFILE
            | libc::ENFILE => Self::Passing(text),
            _ => Self::Io(text),
        }
    }

    /// As [`Self::of`], of a file that can't be opened: whoever may not open it, or may only read where the file system has fallen
    /// back to that, knows nothing of what it holds.
    #[must_use]
    pub fn of_opening(file: FileId, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                Self::Passing(format!("opening {file}: {error}"))
            }
            Some(errno) => Self::of("opening", file, errno),
            None => Self::Io(format!("opening {file}: {error}")),
        }
    }

    /// Whether the same may succeed soon, as nothing is known to be wrong with the disk.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Passing(_))
    }
}

/// What the disk answers.
#[derive(Debug)]
pub enum DiskEvent {
    /// A chain ended: all four steps done, or the first error.
    Chain {
        /// Which.
        chain: ChainNumber,
        /// The log buffer.
        log: Blocks,
        /// The ledger buffer.
        ledger: Blocks,
        /// Whether all four steps were done.
        outcome: Result<(), DiskError>,
    },
    /// A read ended.
    Read {
        /// The asker's mark.
        token: u64,
        /// From which file.
        file: FileId,
        /// From which block on.
        block: u32,
        /// The buffer; its content counts only where the outcome is `Ok`.
        blocks: Blocks,
        /// Whether it was read.
        outcome: Result<(), DiskError>,
    },
    /// A pair is in place: its ledger is whole, its segment usable below `segment_blocks_ready`.
    Prepared {
        /// Which.
        pair: PairNumber,
        /// 32 random bytes for the segment's key.
        salt: [u8; 32],
        /// Blocks of the segment that are zeroed and flushed, or were written before.
        segment_blocks_ready: u32,
        /// Whether its segment was another pair's before: blocks that were never written then don't read as zero.
        recycled: bool,
    },
    /// A step in the making of a pair has ended, and the next is under way. Nothing more of the pair is usable by that.
    Advanced {
        /// Which.
        pair: PairNumber,
    },
    /// More of a prepared pair's segment is zeroed and flushed.
    Progress {
        /// Which.
        pair: PairNumber,
        /// Blocks of the segment that are zeroed and flushed, from its start.
        segment_blocks_ready: u32,
    },
    /// A pair could not be made, or its zeroing could not go on. Nothing of it is usable beyond what was
    /// reported before; if nothing was, the files are gone.
    PrepareFailed {
        /// Which.
        pair: PairNumber,
        /// Why.
        error: DiskError,
    },
    /// A trailer was written and flushed, or not.
    Trailer {
        /// Of which pair.
        pair: PairNumber,
        /// The buffer.
        trailer: Blocks,
        /// Whether both steps were done.
        outcome: Result<(), DiskError>,
    },
    /// So much of the file system is used. Answers nothing: it comes by itself, when it has changed.
    Used {
        /// Percent, rounded down; of what a process without privileges could use in all.
        percent: u8,
    },
    /// A pair's files are gone, or not; the segment may be kept under another name.
    Removed {
        /// Which.
        pair: PairNumber,
        /// Whether they are.
        outcome: Result<(), DiskError>,
    },
}

impl DiskEvent {
    /// Whether this event reports that a write or a flush failed. Such events come first in an inbox.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(
            self,
            DiskEvent::Chain {
                outcome: Err(_),
                ..
            } | DiskEvent::Trailer {
                outcome: Err(_),
                ..
            } | DiskEvent::PrepareFailed { .. }
        )
    }
}

/// The files of one pair, as found in a shard's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundPair {
    /// Its number, from the names.
    pub pair: PairNumber,
    /// Size of the segment in bytes, if there is one.
    pub segment_bytes: Option<u64>,
    /// Size of the ledger in bytes, if there is one.
    pub ledger_bytes: Option<u64>,
}

/// The disk as recovery sees it: synchronous, before the first turn, and read-only but for [`Self::keep`].
pub trait BootDisk {
    /// Every pair of which at least one file is in place, in ascending order.
    ///
    /// # Errors
    /// When the directory can't be read.
    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError>;

    /// Fills `into` from `block` on. Blocks beyond the end of the file read as zero.
    ///
    /// # Errors
    /// When a sector in the range can't be read; `into` then holds nothing of use.
    fn read(&mut self, file: FileId, block: u32, into: &mut Blocks) -> Result<(), DiskError>;

    /// Whether every block of a file was written at least once, as far as the file system tells: whether its zeroing had come
    /// to its end. No promise hangs on it, only how long first writes take.
    fn is_written(&mut self, file: FileId) -> bool;

    /// Of what an earlier process kept ([`RetirePair`]), keeps up to `count` segments of `blocks` blocks and as many ledgers for pairs
    /// to come, and removes the others. The directory is flushed before this returns, because that process may have ended before it
    /// had done so. A file that has the name of a pair as well is not kept: it may still be that pair's. Where nothing may be written
    /// yet, all this happens when it may, before anything else.
    ///
    /// # Errors
    /// When the directory can't be read, changed or flushed.
    fn keep(&mut self, blocks: u32, count: u32) -> Result<(), DiskError>;
}
