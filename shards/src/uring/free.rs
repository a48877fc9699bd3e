//! Giving the space of files back that are gone: piece by piece, with pauses.
//!
//! To unlink a large file frees all of it in one go: its file system's journal and, where it discards, its device are busy with
//! that, and flushes of other files wait behind it (on ext4 some 30 ms for 256 MiB). So a file that goes is renamed, which costs
//! nothing, counts as gone from then on, and is punched out from its end, one piece in flight at a time. What a process that
//! ended had not got to is unlinked at the next start. Nothing waits for this, and no error of it matters: then the
//! rest is freed at once.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Timespec;
use io_uring::{opcode, types};

use super::error::RingError;
use super::files::Files;
use super::ring::{Mark, Owner, Ring};

/// Bytes that are freed at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// How long nothing is freed after that: one flush in a thousand may meet a piece where they take 50 us each.
const PAUSE: Duration = Duration::from_millis(50);
/// Files that may wait for it: so much space at most is gone and not given back. More are unlinked as they are.
const WAITING_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Piece,
    Pause,
    /// The name, and the descriptor if it was open.
    Last {
        outstanding: u8,
    },
}

/// The file that is being freed.
struct Freeing {
    /// Kept while the kernel may look at it.
    name: CString,
    file: Option<File>,
    /// What is left of it.
    bytes: u64,
    stage: Stage,
}

/// Files that are gone by their names and still take space.
pub(super) struct Freed {
    waiting: VecDeque<CString>,
    freeing: Option<Freeing>,
    /// Kept while the kernel may look at it.
    pause: Box<Timespec>,
}

impl Freed {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            freeing: None,
            pause: Box::new(Timespec::from(PAUSE)),
        }
    }

    /// Whether there is room for as many files as one removal gives.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Takes a file that was renamed to this, if it was there.
    pub(super) fn take(&mut self, name: CString) {
        self.waiting.push_back(name);
    }

    /// Begins with the next file, if none is under way.
    pub(super) fn next(&mut self, ring: &mut Ring, files: &Files) -> Result<(), RingError> {
        while self.freeing.is_none()
            && let Some(name) = self.waiting.pop_front()
        {
            let path = files
                .path()
                .join(Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())));
            let file = match File::options().write(true).open(path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(_) => None,
            };
            let length = file.as_ref().and_then(|file| file.metadata().ok());
            let mut freeing = Freeing {
                name,
                file,
                bytes: length.map_or(0, |data| data.len()),
                stage: Stage::Piece,
            };
            freeing.go_on(ring, files)?;
            self.freeing = Some(freeing);
        }
        Ok(())
    }

    /// Takes a completion.
    pub(super) fn completed(
        &mut self,
        result: i32,
        ring: &mut Ring,
        files: &Files,
    ) -> Result<(), RingError> {
        let freeing = self.freeing.as_mut().expect("a step of what is freed");
        match &mut freeing.stage {
            Stage::Piece => {
                // Unsupported, or whatever it is: the rest at once.
                let left = freeing.bytes.saturating_sub(PIECE_BYTES);
                freeing.bytes = if result < 0 { 0 } else { left };
                if freeing.bytes > 0 {
                    freeing.stage = Stage::Pause;
                    let pause: *const Timespec = &raw const *self.pause;
                    return push(ring, vec![opcode::Timeout::new(pause).build()]);
                }
                freeing.go_on(ring, files)
            }
            Stage::Pause => {
                freeing.stage = Stage::Piece;
                freeing.go_on(ring, files)
            }
            Stage::Last { outstanding } => {
                *outstanding -= 1;
                if *outstanding > 0 {
                    return Ok(());
                }
                self.freeing = None;
                self.next(ring, files)
            }
        }
    }

    /// Leaks what the kernel may still look at.
    pub(super) fn leak(&mut self) {
        std::mem::forget(self.freeing.take());
        std::mem::forget(std::mem::replace(
            &mut self.pause,
            Box::new(Timespec::new()),
        ));
    }
}

impl Freeing {
    /// The next piece, from the end; the file itself when no more than one is left.
    fn go_on(&mut self, ring: &mut Ring, files: &Files) -> Result<(), RingError> {
        if let Some(file) = &self.file
            && self.bytes > PIECE_BYTES
        {
            let punch = opcode::Fallocate::new(types::Fd(file.as_raw_fd()), PIECE_BYTES)
                .offset(self.bytes - PIECE_BYTES)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
            return push(ring, vec![punch.build()]);
        }
        let directory = types::Fd(files.directory());
        let mut group = vec![opcode::UnlinkAt::new(directory, self.name.as_ptr()).build()];
        if let Some(file) = self.file.take() {
            let close = opcode::Close::new(types::Fd(file.into_raw_fd())).build();
            // The last close frees what is left: on a worker of the kernel's.
            group.push(close.flags(Flags::ASYNC));
        }
        self.stage = Stage::Last {
            outstanding: u8::try_from(group.len()).expect("two at most"),
        };
        push(ring, group)
    }
}

fn push(ring: &mut Ring, group: Vec<Entry>) -> Result<(), RingError> {
    let mark = Mark::new(Owner::Free, 0, 0).pack();
    let marked: Vec<Entry> = group.into_iter().map(|e| e.user_data(mark)).collect();
    ring.push(&marked)
}
