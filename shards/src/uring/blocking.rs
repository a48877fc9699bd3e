//! The Blocking way of writing: a helper thread carries chains out with pwrite(2) and fdatasync(2), through the page cache.
//!
//! For file systems without direct I/O. One chain at a time, in the order given: write the log blocks, flush the
//! segment, write the ledger blocks, flush the ledger, each step only after the one before succeeded in full. After the
//! first error every later chain is cancelled, so that no success is seen behind it. Everything else of a shard goes
//! through its ring as ever, with files that are opened without `O_DIRECT`.
//!
//! The shard's lock outlives what the thread writes: a process's descriptors are closed when its last thread is gone,
//! and a thread in a system call is not gone.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clustor_wire::ids::PairNumber;

use super::chain::{ChainStep, ChainSteps};
use super::error::RingError;
use crate::buffer::Blocks;
use crate::disk::{DiskError, DiskEvent, DurableChain, FileId, FlushKind};
use crate::sys::EventFd;

/// Files that the thread keeps open: those of the pair that is written and of the one before.
const FILES_MAX: usize = 4;

enum Job {
    Chain(DurableChain, ChainSteps),
    /// The pair's files are removed or made anew.
    Forget(PairNumber),
}

#[derive(Default)]
struct Shared {
    /// Events that were sent and not taken.
    ended: AtomicUsize,
    /// Whether what waits is not to be begun any more.
    abandoned: AtomicBool,
    /// Whom to wake.
    event: Mutex<Option<EventFd>>,
}

/// The shard's end of its helper thread.
pub(super) struct BlockingWriter {
    jobs: Option<Sender<Job>>,
    ended: Receiver<DiskEvent>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    in_flight: usize,
}

impl BlockingWriter {
    /// Starts the thread that writes in `directory`.
    pub(super) fn start(directory: PathBuf) -> Result<Self, RingError> {
        let (jobs, todo) = channel();
        let (done, ended) = channel();
        let shared = Arc::new(Shared::default());
        let path = directory.clone();
        let helper = Helper {
            directory,
            files: VecDeque::new(),
            failed: false,
        };
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("clustor-writer".to_owned())
            .spawn(move || helper.run(&todo, &done, &theirs))
            .map_err(|source| RingError::Directory {
                what: "starting the thread that writes it",
                path,
                source,
            })?;
        Ok(Self {
            jobs: Some(jobs),
            ended,
            shared,
            thread: Some(thread),
            in_flight: 0,
        })
    }

    /// Has the thread signal `event` whenever a chain ended.
    pub(super) fn signal(&self, event: EventFd) {
        *self
            .shared
            .event
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(event);
    }

    pub(super) fn write(&mut self, chain: DurableChain, steps: ChainSteps) {
        self.in_flight += 1;
        self.send(Job::Chain(chain, steps));
    }

    pub(super) fn forget(&mut self, pair: PairNumber) {
        self.send(Job::Forget(pair));
    }

    fn send(&mut self, job: Job) {
        let jobs = self.jobs.as_ref().expect("sent to until it is dropped");
        assert!(jobs.send(job).is_ok(), "the writing thread has panicked");
    }

    /// Chains that were handed over and whose events were not taken.
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a chain ended whose event was not taken.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire) > 0
    }

    /// Moves the events of all chains that ended into `into`.
    pub(super) fn take(&mut self, into: &mut Vec<DiskEvent>) {
        while let Ok(event) = self.ended.try_recv() {
            self.took(event, into);
        }
    }

    /// Waits for one event at most `timeout`, and moves it into `into`.
    pub(super) fn wait(&mut self, timeout: Duration, into: &mut Vec<DiskEvent>) {
        match self.ended.recv_timeout(timeout) {
            Ok(event) => self.took(event, into),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the writing thread has panicked"),
        }
    }

    fn took(&mut self, event: DiskEvent, into: &mut Vec<DiskEvent>) {
        self.shared.ended.fetch_sub(1, Ordering::AcqRel);
        self.in_flight -= 1;
        into.push(event);
    }
}

impl Drop for BlockingWriter {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by its hook.
            drop(thread.join());
        }
    }
}

struct Helper {
    directory: PathBuf,
    files: VecDeque<(FileId, File)>,
    failed: bool,
}

impl Helper {
    fn run(mut self, todo: &Receiver<Job>, done: &Sender<DiskEvent>, shared: &Shared) {
        while let Ok(job) = todo.recv() {
            if shared.abandoned.load(Ordering::Acquire) {
                return;
            }
            let (chain, steps) = match job {
                Job::Chain(chain, steps) => (chain, steps),
                Job::Forget(pair) => {
                    self.files.retain(|(file, _)| file.pair != pair);
                    continue;
                }
            };
            let outcome = if self.failed {
                Err(DiskError::Cancelled)
            } else {
                self.carry_out(&chain, steps)
            };
            self.failed |= outcome.is_err();
            let event = DiskEvent::Chain {
                chain: chain.chain,
                log: chain.log,
                ledger: chain.ledger,
                outcome,
            };
            shared.ended.fetch_add(1, Ordering::AcqRel);
            if done.send(event).is_err() {
                return;
            }
            let event = shared.event.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(event) = event.as_ref() {
                event.signal();
            }
        }
    }

    /// Both kinds of flush are a write and fdatasync here: the page cache has no cheaper way.
    fn carry_out(&mut self, chain: &DurableChain, steps: ChainSteps) -> Result<(), DiskError> {
        for step in steps.of(chain, FlushKind::Fdatasync) {
            match step {
                ChainStep::Write {
                    file,
                    offset,
                    bytes,
                    ..
                } => {
                    let (run, block) = match file == FileId::segment(chain.pair) {
                        true => (&chain.log, chain.log_block),
                        false => (&chain.ledger, chain.ledger_block),
                    };
                    self.write(file, (run, offset, bytes), block)?;
                }
                ChainStep::Flush { file } => self.flush(file)?,
            }
        }
        Ok(())
    }

    fn open(&mut self, file: FileId) -> Result<&File, DiskError> {
        let at = match self.files.iter().position(|(open, _)| *open == file) {
            Some(at) => at,
            None => {
                let opened = OpenOptions::new()
                    .write(true)
                    .open(self.directory.join(file.to_string()))
                    .map_err(|error| DiskError::of_opening(file, &error))?;
                if self.files.len() == FILES_MAX {
                    self.files.pop_front();
                }
                self.files.push_back((file, opened));
                self.files.len() - 1
            }
        };
        Ok(&self.files[at].1)
    }

    fn write(
        &mut self,
        file: FileId,
        (run, offset, count): (&Blocks, usize, usize),
        block: u32,
    ) -> Result<(), DiskError> {
        let blocks = run.as_slice();
        // SAFETY: blocks are plain bytes without padding (`repr(C)` around one array), and stay borrowed.
        let bytes =
            unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), run.byte_len()) };
        let piece = &bytes[offset..offset + count];
        let to = u64::from(block) * crate::buffer::BLOCK_BYTES as u64 + offset as u64;
        let open = self.open(file)?;
        let done = loop {
            match open.write_at(piece, to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure("writing", file, &error)),
                Ok(done) => break done,
            }
        };
        if done != piece.len() {
            return Err(DiskError::Short {
                done: done as u64,
                asked: piece.len() as u64,
            });
        }
        Ok(())
    }

    fn flush(&mut self, file: FileId) -> Result<(), DiskError> {
        let flushed = self.open(file)?.sync_data();
        flushed.map_err(|error| failure("flushing", file, &error))
    }
}

fn failure(doing: &str, file: FileId, error: &io::Error) -> DiskError {
    match error.raw_os_error() {
        Some(code) => DiskError::of(doing, file, code),
        None => DiskError::Io(format!("{doing} {file}: {error}")),
    }
}
