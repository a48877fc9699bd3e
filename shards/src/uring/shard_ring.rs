//! One shard's ring with everything it carries.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bell::Bell;
use super::blocking::BlockingWriter;
use super::chain::ChainSteps;
use super::disk::{Disk, no_room};
use super::error::RingError;
use super::files::{Files, NameKind, c_name, parse_name};
use super::lock;
use super::read::Reading;
use super::remove::{Kept, KeptFiles};
use super::ring::{Done, Mark, Owner, Ring, WriterChoice, WriterMode, memlock_text};
use crate::buffer::{BLOCK_BYTES, BlockPool, Blocks};
use crate::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, DurableChain, FileId, FileKind, FoundPair,
};
use crate::sys::{self, EventFd};
use clustor_wire::ids::PairNumber;

/// How often the file system is asked how full it is.
const USED_EVERY_US: u64 = 1_000_000;
/// How long a wait looks away from the ring for the helper thread's sake.
const WRITER_PAUSE: Duration = Duration::from_millis(1);
/// Place 0 of the ring's table of files holds the lock file.
const LOCK_PLACE: u32 = 0;

/// Whether the files may be changed.
enum Writing {
    /// Not yet. How many segments of how many blocks recovery wants to be kept, once it has said so.
    Awaited { keep: Option<(u32, u32)> },
    /// They may.
    Begun,
}

/// The ring of one shard, and the directory that it holds the lock of.
///
/// Stays on the thread that made it. Operations are started, handed over together by one [`ShardRing::enter`],
/// and their events drained. The directory is free for another process when the ring is gone, which the
/// kernel completes shortly after the drop.
pub struct ShardRing {
    pub(super) ring: Ring,
    disk: Disk,
    /// Made when the first is needed.
    #[cfg(feature = "net")]
    pub(super) sockets: Option<super::sockets::Sockets>,
    bell: Option<Bell>,
    path: PathBuf,
    used_percent: u8,
    used_due_us: u64,
    choice: WriterChoice,
    writing: Writing,
    /// Why it can't be read from before the first turn any more: what the ring still holds would answer what is asked for next.
    boot_failure: Option<DiskError>,
    /// Closed after the ring, which holds it too.
    _lock: File,
    done: Vec<Done>,
}

impl std::fmt::Debug for ShardRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardRing")
            .field("path", &self.path)
            .field("mode", &self.ring.mode())
            .field("in_flight", &self.ring.in_flight())
            .finish_non_exhaustive()
    }
}

impl ShardRing {
    /// Makes the ring, takes the lock of `directory` (`<data>/shard-<n>`, made if absent), and removes what an
    /// earlier boot left under temporary names.
    ///
    /// # Errors
    /// See [`RingError`]; a lock that is held is waited for at most five seconds.
    pub fn open(directory: &Path) -> Result<Self, RingError> {
        Self::open_with(directory, WriterChoice::Auto)
    }

    /// As [`Self::open`], with a say in how it writes.
    ///
    /// # Errors
    /// See [`RingError`]; [`RingError::NoDirectIo`] only where the ring was asked for by name.
    pub fn open_with(directory: &Path, choice: WriterChoice) -> Result<Self, RingError> {
        let mut this = Self::open_reading(directory, choice)?;
        this.begin_writing()?;
        Ok(this)
    }

    /// As [`Self::open_with`], to be read from only, until [`Self::begin_writing`]: what an earlier boot left stays. Only
    /// missing directories are made and the lock is taken, without which another process could write what is read; and whether
    /// there is direct I/O is tried on a file that is gone again.
    ///
    /// # Errors
    /// As for [`Self::open_with`].
    pub fn open_reading(directory: &Path, choice: WriterChoice) -> Result<Self, RingError> {
        let ring = Ring::new()?;
        let wal = directory.join("wal");
        make_directories(directory, &wal)?;
        let lock = lock::take(&directory.join("lock"))?;
        ring.set_file(LOCK_PLACE, lock.as_raw_fd())?;
        let handle: OwnedFd = File::open(&wal)
            .map_err(wrong("opening the directory", &wal))?
            .into();
        let direct = match choice {
            WriterChoice::Blocking => false,
            WriterChoice::Auto | WriterChoice::Registered => has_direct_io(&wal)?,
        };
        if !direct && choice == WriterChoice::Registered {
            return Err(RingError::NoDirectIo { path: wal });
        }
        if !direct && choice == WriterChoice::Auto {
            tracing::warn!(
                directory = %wal.display(),
                "the file system refuses direct I/O (O_DIRECT): writing with Blocking, a helper thread, instead of \
                 FixedUring; group mode is not allowed so; put the data on ext4, xfs or another file system that has it",
            );
        }
        let writer = if direct {
            None
        } else {
            Some(BlockingWriter::start(wal.clone())?)
        };
        Ok(Self {
            ring,
            disk: Disk::new(Files::new(handle, wal.clone(), direct), writer),
            choice,
            writing: Writing::Awaited { keep: None },
            boot_failure: None,
            #[cfg(feature = "net")]
            sockets: None,
            bell: None,
            path: wal,
            used_percent: 0,
            used_due_us: 0,
            _lock: lock,
            done: Vec::with_capacity(256),
        })
    }

    /// Ends what [`Self::open_reading`] began: removes what an earlier boot left, and what recovery does not keep.
    ///
    /// # Errors
    /// When the directory can't be read, changed or flushed.
    pub fn begin_writing(&mut self) -> Result<(), RingError> {
        let before = core::mem::replace(&mut self.writing, Writing::Begun);
        let Writing::Awaited { keep } = before else {
            return Ok(());
        };
        remove_leftovers(&self.path)?;
        if let Some((blocks, count)) = keep {
            self.disk.kept = kept_files(&self.path, blocks, count)
                .map_err(wrong("sorting out the files that were kept in", &self.path))?;
        }
        Ok(())
    }

    /// Registers the memory of a pool from which nothing was taken yet, so that its runs are written without
    /// being pinned anew each time. Where too little memory may be locked the ring works without, and a warning
    /// says so.
    pub fn register_pool(&mut self, pool: &mut BlockPool) -> WriterMode {
        if self.disk.writer.is_some() || self.choice == WriterChoice::Registered {
            return self.writer_mode();
        }
        if let Err(error) = self.ring.register_pool(pool) {
            tracing::warn!(
                directory = %self.path.display(),
                %error,
                locked_memory_limit = %memlock_text(),
                "buffers could not be registered with the ring: writing with RegisteredUring instead of FixedUring; \
                 raise `ulimit -l` (RLIMIT_MEMLOCK, LimitMEMLOCK= in a systemd unit) to have it back",
            );
        }
        self.ring.mode()
    }

    /// How writes reach the files.
    #[must_use]
    pub fn writer_mode(&self) -> WriterMode {
        if self.disk.writer.is_some() {
            return WriterMode::Blocking;
        }
        self.ring.mode()
    }

    /// Has a signal of `event` end [`Self::sleep`].
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn listen(&mut self, event: &EventFd) -> Result<(), RingError> {
        let duplicate = || {
            event.duplicate().map_err(|source| RingError::Register {
                what: "its event descriptor",
                source,
            })
        };
        if let Some(writer) = &self.disk.writer {
            writer.signal(EventFd::from(duplicate()?));
        }
        self.bell = Some(Bell::new(duplicate()?));
        Ok(())
    }

    /// Starts one operation of the disk seam. Nothing happens before [`ShardRing::enter`].
    ///
    /// # Errors
    /// Only when the ring itself fails; what becomes of the operation is an event.
    ///
    /// # Panics
    /// Before [`Self::begin_writing`].
    pub fn start(&mut self, op: DiskOp) -> Result<(), RingError> {
        self.assert_writing();
        self.disk.start(&mut self.ring, op)
    }

    /// Starts the first steps of a chain: what the harness measures. The event is that of a whole chain.
    ///
    /// # Errors
    /// Only when the ring itself fails.
    ///
    /// # Panics
    /// Before [`Self::begin_writing`].
    pub fn start_chain(&mut self, chain: DurableChain, steps: ChainSteps) -> Result<(), RingError> {
        self.assert_writing();
        self.disk.start_chain(&mut self.ring, chain, steps)
    }

    fn assert_writing(&self) {
        assert!(
            matches!(self.writing, Writing::Begun),
            "{}: nothing is started on a ring that only reads",
            self.path.display()
        );
    }

    /// Hands everything started to the kernel: one system call, or none if there is nothing to hand over.
    ///
    /// # Errors
    /// When the ring fails; it is not used again.
    pub fn enter(&mut self) -> Result<(), RingError> {
        if self.ring.wants_enter() {
            self.ring.enter(0)?;
        }
        Ok(())
    }

    /// Hands everything over and waits for at least one completion, if anything is in flight.
    ///
    /// # Errors
    /// When the ring fails; it is not used again.
    pub fn wait(&mut self) -> Result<(), RingError> {
        let writing = self.disk.writer.as_ref().map_or(0, |w| w.in_flight());
        if writing == 0 {
            let want = usize::from(self.in_flight() > 0);
            return self.ring.enter(want);
        }
        while !self.has_completions() {
            self.ring.enter(0)?;
            self.disk.wait_for_writer(WRITER_PAUSE);
            if self.disk.has_events() {
                break;
            }
        }
        self.ring.enter(0)
    }

    /// Hands everything over and waits until something completes, the event that it listens to is signalled, or
    /// `longest` has passed.
    ///
    /// # Errors
    /// When the ring fails; it is not used again.
    pub fn sleep(&mut self, longest: Duration) -> Result<(), RingError> {
        if let Some(bell) = &mut self.bell {
            bell.arm(&mut self.ring)?;
        }
        self.ring.enter_for(longest)
    }

    /// Moves the events of everything that completed into `events`, errors first.
    ///
    /// # Errors
    /// When a follow-up could not be started because the ring failed.
    pub fn drain(&mut self, events: &mut Vec<DiskEvent>) -> Result<(), RingError> {
        self.ring.drain(&mut self.done);
        for at in 0..self.done.len() {
            let done = self.done[at];
            match done.mark.owner {
                Owner::Chain
                | Owner::Read
                | Owner::Open
                | Owner::Prepare
                | Owner::Remove
                | Owner::Free => {
                    self.disk.completed(&mut self.ring, done)?;
                }
                #[cfg(feature = "net")]
                Owner::Receive | Owner::Send | Owner::Connect => {
                    let sockets = self.sockets.as_mut().expect("a socket's submission");
                    sockets.completed(&mut self.ring, done)?;
                }
                #[cfg(feature = "net")]
                Owner::Nobody => {}
                Owner::Doorbell => {
                    let bell = self.bell.as_mut().expect("an armed bell");
                    bell.completed(done.result)?;
                }
                other @ Owner::Boot => panic!("nothing of {other:?} was submitted"),
            }
        }
        self.done.clear();
        self.disk.take_events(events);
        events.extend(self.used_news());
        Ok(())
    }

    /// Looks at the file system once in a second: how much of it is used, if that is another part than before.
    fn used_news(&mut self) -> Option<DiskEvent> {
        let now = sys::boottime_us();
        if now < self.used_due_us {
            return None;
        }
        self.used_due_us = now + USED_EVERY_US;
        // A file system that does not answer says nothing of its size; writes will find out.
        let percent = sys::used_percent(&self.path).ok()?;
        let before = core::mem::replace(&mut self.used_percent, percent);
        (before != percent).then_some(DiskEvent::Used { percent })
    }

    /// Whether a drain would find something, or the kernel holds back completions that an enter would bring.
    pub fn has_completions(&mut self) -> bool {
        self.ring.has_completions() || self.disk.writer.as_ref().is_some_and(|w| w.has_ended())
    }

    /// Submissions that have not completed, what it listens to aside.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let writing = self.disk.writer.as_ref().map_or(0, |w| w.in_flight());
        let listening = self.bell.as_ref().is_some_and(Bell::is_armed);
        self.ring.in_flight() - usize::from(listening) + writing
    }

    /// Operations of the disk that a shard waits for before it closes the ring. The zeroing of a spare pair is
    /// not among them: an unfinished spare is made anew.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.disk.unsettled()
    }

    /// Whether the disk has work in flight, the zeroing of a spare included.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.disk.is_busy()
    }

    /// System calls that handed submissions over, so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.ring.enters()
    }

    /// One synchronous submission, before the first turn.
    fn boot_step(&mut self, entry: io_uring::squeue::Entry) -> Result<i32, RingError> {
        self.ring.push(&[entry])?;
        loop {
            self.ring.enter(1)?;
            self.ring.drain(&mut self.done);
            if let Some(done) = self.done.pop() {
                assert_eq!(
                    done.mark.owner,
                    Owner::Boot,
                    "nothing else is in flight at boot"
                );
                return Ok(done.result);
            }
        }
    }

    fn boot_place(&mut self, file: FileId) -> Result<Option<u32>, DiskError> {
        if let Some(place) = self.disk.files.place(file) {
            return Ok(Some(place));
        }
        let path = self.path.join(file.to_string());
        let opened = match OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(self.disk.files.flags())
            .open(&path)
        {
            Ok(opened) => opened,
            Err(error) => return Err(DiskError::of_opening(file, &error)),
        };
        let text = |error: RingError| DiskError::Passing(error.to_string());
        let Some(place) = self.disk.files.take_place(&mut self.ring).map_err(text)? else {
            return Ok(None);
        };
        self.ring
            .set_file(place, opened.as_raw_fd())
            .map_err(text)?;
        self.disk.files.insert(file, place);
        Ok(Some(place))
    }
}

impl BootDisk for ShardRing {
    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError> {
        let mut found: BTreeMap<PairNumber, FoundPair> = BTreeMap::new();
        let text = |error: io::Error| DiskError::Io(format!("listing the directory: {error}"));
        for entry in fs::read_dir(&self.path).map_err(text)? {
            let entry = entry.map_err(text)?;
            let name = entry.file_name();
            let Some((file, NameKind::InPlace)) = name.to_str().and_then(parse_name) else {
                continue;
            };
            let bytes = entry.metadata().map_err(text)?.len();
            let pair = found.entry(file.pair).or_insert(FoundPair {
                pair: file.pair,
                segment_bytes: None,
                ledger_bytes: None,
            });
            match file.kind {
                FileKind::Segment => pair.segment_bytes = Some(bytes),
                FileKind::Ledger => {
                    pair.ledger_bytes = Some(bytes);
                    self.disk.ledgers.insert(file.pair, blocks_in(bytes));
                }
            }
        }
        Ok(found.into_values().collect())
    }

    fn read(&mut self, file: FileId, block: u32, into: &mut Blocks) -> Result<(), DiskError> {
        if let Some(failure) = &self.boot_failure {
            return Err(failure.clone());
        }
        let place = self.boot_place(file)?.ok_or_else(|| no_room(file))?;
        let run = std::mem::replace(into, Blocks::from_heap(0));
        let mut reading = Reading::new(file, block, run);
        let outcome = loop {
            let entry = reading.entry(&self.ring, place, Mark::new(Owner::Boot, 0, 0));
            match self.boot_step(entry) {
                Ok(result) => {
                    if let Some(outcome) = reading.completed(result) {
                        break outcome;
                    }
                }
                Err(error) => {
                    // The kernel may still write into the run.
                    std::mem::forget(reading);
                    let failure = DiskError::Passing(error.to_string());
                    self.boot_failure = Some(failure.clone());
                    return Err(failure);
                }
            }
        };
        *into = reading.into;
        outcome
    }

    fn is_written(&mut self, file: FileId) -> bool {
        let opened = File::open(self.path.join(file.to_string()));
        opened.is_ok_and(|file| sys::is_without_holes(&file).unwrap_or(false))
    }

    fn keep(&mut self, blocks: u32, count: u32) -> Result<(), DiskError> {
        if let Writing::Awaited { keep } = &mut self.writing {
            *keep = Some((blocks, count));
            return Ok(());
        }
        let text = |error: io::Error| DiskError::Io(format!("files that were kept: {error}"));
        self.disk.kept = kept_files(&self.path, blocks, count).map_err(text)?;
        Ok(())
    }
}

impl Drop for ShardRing {
    fn drop(&mut self) {
        if !self.ring.settle() {
            tracing::error!(
                directory = %self.path.display(),
                in_flight = self.ring.in_flight(),
                "operations did not end in time; their buffers are given up",
            );
            self.disk.leak();
            if let Some(bell) = self.bell.take() {
                bell.leak();
            }
            #[cfg(feature = "net")]
            if let Some(sockets) = self.sockets.take() {
                sockets.leak();
            }
        }
    }
}

fn wrong<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RingError + 'a {
    move |source| RingError::Directory {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Makes the directories and flushes their names, so that a power loss takes none of them back. Those that are there are
/// flushed, too: a start that ended between the two left one that only seems to be durable.
fn make_directories(directory: &Path, wal: &Path) -> Result<(), RingError> {
    fs::create_dir_all(wal).map_err(wrong("making the directory", wal))?;
    for made in [Some(directory), directory.parent()].into_iter().flatten() {
        let made = if made.as_os_str().is_empty() {
            Path::new(".")
        } else {
            made
        };
        File::open(made)
            .and_then(|handle| handle.sync_all())
            .map_err(wrong("flushing the directory", made))?;
    }
    Ok(())
}

/// The segments of `blocks` blocks and the ledgers that an earlier process kept, `count` of either at most; the others are removed.
/// None of them has another name (a file system that does not rename at one stroke may leave both), and each segment was written
/// from end to end.
fn kept_files(wal: &Path, blocks: u32, count: u32) -> io::Result<KeptFiles> {
    let mut kept = KeptFiles::default();
    for entry in fs::read_dir(wal)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_kept = name.to_str().and_then(parse_name);
        let Some((file, NameKind::Kept)) = is_kept else {
            continue;
        };
        let data = entry.metadata()?;
        let (kept, is_fit) = match file.kind {
            FileKind::Segment => {
                let fits = data.len() == u64::from(blocks) * BLOCK_BYTES as u64;
                let is_fit = fits && sys::is_without_holes(&File::open(entry.path())?)?;
                (&mut kept[0], is_fit)
            }
            // Of another size it goes when a pair is made.
            FileKind::Ledger => (&mut kept[1], data.len() > 0),
        };
        if is_fit && data.nlink() == 1 && kept.len() < count as usize {
            let name = c_name(name.to_string_lossy().into_owned());
            let blocks = blocks_in(data.len());
            kept.push(Kept { name, blocks });
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    if kept.iter().any(|kept| !kept.is_empty()) {
        File::open(wal)?.sync_all()?;
    }
    Ok(kept)
}

/// Whole blocks in a file of so many bytes.
fn blocks_in(bytes: u64) -> u32 {
    u32::try_from(bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX)
}

fn remove_leftovers(wal: &Path) -> Result<(), RingError> {
    for entry in fs::read_dir(wal).map_err(wrong("listing the directory", wal))? {
        let entry = entry.map_err(wrong("listing the directory", wal))?;
        if let Some((_, NameKind::New | NameKind::Gone)) =
            entry.file_name().to_str().and_then(parse_name)
        {
            let path = entry.path();
            fs::remove_file(&path).map_err(wrong("removing what an earlier boot left", &path))?;
        }
    }
    Ok(())
}

/// Whether a file in `wal` can be opened for direct I/O, and a block be written so.
fn has_direct_io(wal: &Path) -> Result<bool, RingError> {
    let probe = wal.join("direct-io-probe.new");
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&probe);
    let outcome = opened.and_then(|file| {
        let block = Blocks::from_heap(1);
        file.write_at(&block.as_slice()[0].0, 0)
    });
    // The name may have been made before the flag was refused.
    match fs::remove_file(&probe) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(wrong("removing a probe", &probe)(error));
        }
        _ => {}
    }
    match outcome {
        Ok(written) => Ok(written == BLOCK_BYTES),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(false)
        }
        // It was opened so, and only room is missing.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(true),
        Err(error) => Err(wrong("writing a probe", &probe)(error)),
    }
}
