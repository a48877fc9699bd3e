//! The lock of a shard's directory: one process at a time, and none before the last one's writes have landed.
//!
//! The lock belongs to the open file, and that file is registered in the ring. When a process is killed its
//! descriptors close at once, but the kernel takes its ring down later, after the last write in flight; only
//! then is the lock free. So whoever gets it knows that nobody else's write is still under way.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use super::error::RingError;
use crate::sys;

/// How long to wait for a holder that may be dying.
const WAIT_MS_MAX: u64 = 5_000;
/// How long between two attempts.
const RETRY_MS: u64 = 20;

/// Takes the lock, waiting a few seconds for a dying holder, and writes this process's id into the file.
pub(super) fn take(path: &Path) -> Result<File, RingError> {
    let wrong = |what| {
        move |source: io::Error| RingError::Directory {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(wrong("opening the lock file"))?;
    let until = sys::boottime_us() + WAIT_MS_MAX * 1_000;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                if sys::boottime_us() >= until {
                    return Err(RingError::Locked {
                        path: path.to_owned(),
                        holder: holder(&mut file),
                    });
                }
                if !core::mem::replace(&mut told, true) {
                    let holder = holder(&mut file);
                    tracing::warn!(path = %path.display(), holder, "waiting for the shard's directory, which another process uses");
                }
                std::thread::sleep(Duration::from_millis(RETRY_MS));
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(wrong("taking the lock")(error)),
        }
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()));
    match written {
        // It only says who is there. A full disk must not keep a shard from being read.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
        written => written.map_err(wrong("writing the process id into the lock file"))?,
    }
    Ok(file)
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // The file is at most one number; a longer one was not written here.
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.take(32).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}
