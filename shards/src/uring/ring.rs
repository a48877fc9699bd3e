//! The raw ring: submissions in, completions out, and what is registered with it.
//!
//! Relies on its two carriers (disk, sockets) to keep every buffer and path that a submission names alive
//! until the completion was drained; see [`Ring::push`].

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, squeue};

use super::error::RingError;
use crate::buffer::{BlockPool, Blocks};
use crate::sys;

/// Submissions that fit between two enters; more are entered early. Eight chains take 32, one send and one
/// receive per connection take the rest.
pub(super) const SUBMISSIONS_MAX: u32 = 256;
/// Completions that fit before the kernel keeps the rest on a list of its own.
const COMPLETIONS_MAX: u32 = 2048;
/// Files that can be registered: two per pair that is open.
pub(super) const FILES_MAX: u32 = 256;
/// Buffers the kernel lets one ring register (IORING_MAX_REG_BUFFERS).
const BUFFERS_MAX: usize = 16_384;
/// Times an enter is tried again after EAGAIN or EBUSY with nothing taken, before that counts as failure.
const ENTER_TRIES_MAX: u32 = 1_000;
/// How long a ring that is closed waits for what it could not cancel.
const CANCEL_SECONDS_MAX: u64 = 2;

/// How a shard's writes reach its files, best first. Numbers are what ledger slots and acknowledgements carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum WriterMode {
    /// Registered buffers and files.
    FixedUring = 0,
    /// Registered files; buffers are pinned anew for each write, because too little memory may be locked.
    RegisteredUring = 1,
    /// A helper thread with pwrite and fdatasync, because the file system has no direct I/O.
    Blocking = 2,
}

impl WriterMode {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FixedUring => "FixedUring",
            Self::RegisteredUring => "RegisteredUring",
            Self::Blocking => "Blocking",
        }
    }
}

/// Which way of writing a shard is to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WriterChoice {
    /// The best there is: each that can't be had gives way to the next, and a warning says so.
    #[default]
    Auto,
    /// The ring, without registered buffers.
    Registered,
    /// The helper thread.
    Blocking,
}

/// What a completion belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Owner {
    Chain = 1,
    Read = 2,
    Open = 3,
    Prepare = 4,
    Remove = 5,
    #[cfg(feature = "net")]
    Receive = 6,
    #[cfg(feature = "net")]
    Send = 7,
    #[cfg(feature = "net")]
    Connect = 8,
    /// Nobody waits for it.
    #[cfg(feature = "net")]
    Nobody = 9,
    /// A synchronous operation before the first turn.
    Boot = 10,
    /// The read of the doorbell.
    Doorbell = 11,
    /// Freeing the space of a file that is gone.
    Free = 12,
}

/// A submission's mark: whose it is, which step of it, and the place in the owner's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) owner: Owner,
    pub(super) step: u8,
    pub(super) place: u32,
}

impl Mark {
    pub(super) const fn new(owner: Owner, step: u8, place: u32) -> Self {
        Self { owner, step, place }
    }

    pub(super) const fn pack(self) -> u64 {
        ((self.owner as u64) << 56) | ((self.step as u64) << 48) | self.place as u64
    }

    fn unpack(packed: u64) -> Self {
        let owner = match packed >> 56 {
            1 => Owner::Chain,
            2 => Owner::Read,
            3 => Owner::Open,
            4 => Owner::Prepare,
            5 => Owner::Remove,
            #[cfg(feature = "net")]
            6 => Owner::Receive,
            #[cfg(feature = "net")]
            7 => Owner::Send,
            #[cfg(feature = "net")]
            8 => Owner::Connect,
            #[cfg(feature = "net")]
            9 => Owner::Nobody,
            10 => Owner::Boot,
            11 => Owner::Doorbell,
            12 => Owner::Free,
            other => panic!("the kernel returned a mark of no owner: {other}"),
        };
        let step = u8::try_from((packed >> 48) & 0xff).expect("eight bits");
        let place = u32::try_from(packed & 0xffff_ffff).expect("thirty-two bits");
        Self { owner, step, place }
    }
}

/// One completion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) mark: Mark,
    /// Bytes, a descriptor, or a negative error number.
    pub(super) result: i32,
    /// Which provided buffer was filled, among others.
    #[cfg(feature = "net")]
    pub(super) flags: u32,
}

pub(super) struct Ring {
    io: IoUring,
    mode: WriterMode,
    /// Address and length of each registered buffer, by its slot in the pool.
    registered: Vec<(usize, usize)>,
    free_files: Vec<u32>,
    in_flight: usize,
    enters: u64,
    /// A ring has one submitter: the thread that made it (IORING_SETUP_SINGLE_ISSUER).
    stays_here: PhantomData<*mut ()>,
}

impl Ring {
    pub(super) fn new() -> Result<Self, RingError> {
        let io = IoUring::builder()
            .dontfork()
            .setup_cqsize(COMPLETIONS_MAX)
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .build(SUBMISSIONS_MAX)
            .map_err(setup_error)?;
        io.submitter()
            .register_files_sparse(FILES_MAX)
            .map_err(|source| RingError::Register {
                what: "a table of files",
                source,
            })?;
        // Place 0 is the lock file's for the life of the ring.
        let free_files = (1..FILES_MAX).rev().collect();
        Ok(Self {
            io,
            mode: WriterMode::RegisteredUring,
            registered: Vec::new(),
            free_files,
            in_flight: 0,
            enters: 0,
            stays_here: PhantomData,
        })
    }

    pub(super) const fn mode(&self) -> WriterMode {
        self.mode
    }

    /// Submissions whose completion has not been drained.
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Enters so far.
    pub(super) const fn enters(&self) -> u64 {
        self.enters
    }

    /// Registers every run of a pool from which nothing was taken yet. Says why not, where it can't be.
    pub(super) fn register_pool(&mut self, pool: &mut BlockPool) -> Result<(), io::Error> {
        assert!(self.registered.is_empty(), "a ring registers one pool");
        let mut regions = pool.regions();
        if regions.is_empty() {
            return Ok(());
        }
        if regions.len() > BUFFERS_MAX {
            return Err(io::Error::other(
                "the pool has more runs than a ring can register (16,384)",
            ));
        }
        regions.sort_by_key(|region| region.0);
        let vectors: Vec<libc::iovec> = regions
            .iter()
            .enumerate()
            .map(|(place, &(slot, address, bytes))| {
                assert_eq!(place, usize::from(slot), "a run is missing from the pool");
                libc::iovec {
                    iov_base: address.cast(),
                    iov_len: bytes,
                }
            })
            .collect();
        // SAFETY: each vector names one live, exclusively owned run of the pool. The kernel pins the pages, so
        // they stay valid for the ring even after a run is freed, and `fixed_slot` lets only writes and reads
        // of a run that still lies at the registered address name its slot.
        unsafe { self.io.submitter().register_buffers(&vectors)? };
        self.registered = regions
            .iter()
            .map(|&(_, address, bytes)| (address as usize, bytes))
            .collect();
        self.mode = WriterMode::FixedUring;
        Ok(())
    }

    /// Registers the entries of a ring of provided buffers.
    #[cfg(feature = "net")]
    pub(super) fn register_receive_buffers(
        &self,
        entries: u64,
        count: u16,
        group: u16,
    ) -> io::Result<()> {
        // SAFETY: the caller keeps the entries where they are until the ring is gone (`ReceiveBuffers::new`).
        unsafe {
            self.io
                .submitter()
                .register_buf_ring_with_flags(entries, count, group, 0)
        }
    }

    /// The registered slot of a run, if it lies where it was registered.
    pub(super) fn fixed_slot(&self, run: &Blocks) -> Option<u16> {
        let slot = run.slot()?;
        let &(address, bytes) = self.registered.get(usize::from(slot))?;
        (address == run.as_slice().as_ptr() as usize && run.byte_len() <= bytes).then_some(slot)
    }

    /// A free place in the table of files.
    pub(super) fn take_file(&mut self) -> Option<u32> {
        self.free_files.pop()
    }

    /// Gives back a place that holds no file.
    pub(super) fn put_file(&mut self, place: u32) {
        debug_assert!(!self.free_files.contains(&place));
        self.free_files.push(place);
    }

    /// Puts a descriptor into a place of the table (-1 takes out what is there).
    pub(super) fn set_file(&self, place: u32, fd: RawFd) -> Result<(), RingError> {
        self.io
            .submitter()
            .register_files_update(place, &[fd])
            .map(drop)
            .map_err(|source| RingError::Register {
                what: "a file",
                source,
            })
    }

    /// Pushes a group of submissions that must not be parted (links reach only as far as one enter does).
    ///
    /// The caller keeps every buffer and path that the group names alive and, apart from the kernel's own
    /// access, untouched until the completion of the submission was drained.
    pub(super) fn push(&mut self, group: &[squeue::Entry]) -> Result<(), RingError> {
        self.push_for(group, group.len())
    }

    /// As [`Ring::push`], for linked submissions that complete once.
    pub(super) fn push_chain(&mut self, links: &[squeue::Entry]) -> Result<(), RingError> {
        self.push_for(links, 1)
    }

    fn push_for(&mut self, group: &[squeue::Entry], completions: usize) -> Result<(), RingError> {
        assert!(
            group.len() <= SUBMISSIONS_MAX as usize,
            "a group is entered at once"
        );
        let queue = self.io.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < group.len() {
            self.enter(0)?;
        }
        // SAFETY: the carriers own what the entries point to in their tables of operations in flight, and
        // take it out only when the completion is drained; `Drop` leaks it if completions can't be had.
        unsafe { self.io.submission().push_multiple(group) }.expect("room was made above");
        self.in_flight += completions;
        Ok(())
    }

    /// Whether an enter has something to do: submissions to hand over, or completions the kernel holds back.
    pub(super) fn wants_enter(&mut self) -> bool {
        let queue = self.io.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.io.completion().is_empty() || {
            let queue = self.io.submission();
            queue.taskrun() || queue.cq_overflow()
        }
    }

    /// Hands everything pushed to the kernel, and waits until `want` completions are there, or a signal comes.
    pub(super) fn enter(&mut self, want: usize) -> Result<(), RingError> {
        self.enter_by(|submitter| submitter.submit_and_wait(want))
    }

    /// Hands everything pushed to the kernel, and waits until a completion is there, `longest` has passed, or a signal comes.
    pub(super) fn enter_for(&mut self, longest: Duration) -> Result<(), RingError> {
        let longest = Timespec::from(longest);
        let args = SubmitArgs::new().timespec(&longest);
        self.enter_by(|submitter| submitter.submit_with_args(1, &args))
    }

    fn enter_by(
        &mut self,
        submit: impl Fn(&Submitter<'_>) -> io::Result<usize>,
    ) -> Result<(), RingError> {
        let pushed = self.io.submission().len();
        let mut refused = 0;
        loop {
            self.enters += 1;
            match submit(&self.io.submitter()) {
                Ok(taken) if taken == pushed => return Ok(()),
                Ok(taken) => return Err(RingError::Torn { taken, pushed }),
                // The time is over, and there was nothing to take.
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => return Ok(()),
                // A signal: whoever waited looks for itself what there is, and how long to wait now.
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {
                    if self.io.submission().is_empty() {
                        return Ok(());
                    }
                }
                Err(error)
                    if refused < ENTER_TRIES_MAX
                        && matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) =>
                {
                    // Nothing was taken, except where a wait was cut short after everything was.
                    if self.io.submission().is_empty() && pushed > 0 {
                        return Ok(());
                    }
                    refused += 1;
                    std::thread::yield_now();
                }
                Err(source) => return Err(RingError::Enter { source }),
            }
        }
    }

    /// Moves every completion that is there into `into`.
    pub(super) fn drain(&mut self, into: &mut Vec<Done>) {
        let before = into.len();
        into.extend(self.io.completion().map(|entry| Done {
            mark: Mark::unpack(entry.user_data()),
            result: entry.result(),
            #[cfg(feature = "net")]
            flags: entry.flags(),
        }));
        let drained = into.len() - before;
        assert!(
            drained <= self.in_flight,
            "more completions than submissions"
        );
        self.in_flight -= drained;
    }

    /// Cancels what can be cancelled and waits for the rest, a few seconds at most. True if nothing is left in
    /// flight; if not, what the submissions point to must never be freed.
    pub(super) fn settle(&mut self) -> bool {
        let mut done = Vec::new();
        if self.enter(0).is_err() {
            return self.in_flight == 0;
        }
        self.drain(&mut done);
        if self.in_flight == 0 {
            return true;
        }
        // An error here (nothing found, or time ran out) changes nothing: the count below decides.
        drop(self.io.submitter().register_sync_cancel(
            Some(Timespec::new().sec(CANCEL_SECONDS_MAX)),
            CancelBuilder::any(),
        ));
        let until = sys::boottime_us() + CANCEL_SECONDS_MAX * 1_000_000;
        while self.in_flight > 0 && sys::boottime_us() < until {
            if self.enter(0).is_err() {
                break;
            }
            self.drain(&mut done);
            done.clear();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.in_flight == 0
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.io.as_raw_fd()
    }
}

fn setup_error(source: io::Error) -> RingError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => RingError::Forbidden { source },
        Some(libc::EINVAL) => RingError::KernelTooOld { source },
        _ => RingError::Setup {
            source,
            memlock: memlock_text(),
        },
    }
}

/// The limit on locked memory, for messages.
pub(super) fn memlock_text() -> String {
    match sys::memlock_limit() {
        Ok(Some(bytes)) => format!("{} KiB", bytes / 1024),
        Ok(None) => "unlimited".to_owned(),
        Err(error) => format!("unknown: {error}"),
    }
}
