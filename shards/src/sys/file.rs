//! Descriptors and mappings.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use memmap2::Mmap;

/// Makes `T` the owner of a descriptor: a listener or file of another library.
pub fn adopt<T: FromRawFd>(fd: OwnedFd) -> T {
    // SAFETY: `FromRawFd` asks for an open descriptor that nobody else owns; `into_raw_fd` gives exactly that.
    unsafe { T::from_raw_fd(fd.into_raw_fd()) }
}

/// Maps a whole file for reading. For offline tools: a bad sector under a map is a SIGBUS, so a running
/// shard never maps.
///
/// # Errors
/// When the file can't be mapped.
pub fn map_read_only(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is private to this process and read-only. Its content changes if another process
    // writes the file meanwhile; the readers treat every byte as untrusted and check it after copying.
    unsafe { Mmap::map(file) }
}

/// The magic number of the file system that `path` lies on (statfs(2), `f_type`).
///
/// # Errors
/// When the path is not there, or holds a zero byte.
pub fn file_system_magic(path: &Path) -> io::Result<i64> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: all-zero is a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends in a zero byte, the call fills `stat`; neither is kept.
    let code = unsafe { libc::statfs(name.as_ptr(), &raw mut stat) };
    if code == 0 {
        Ok(stat.f_type)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes that a process without privileges may still write to the file system of `path` (statvfs(3)).
///
/// # Errors
/// When the path is not there, or holds a zero byte.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: all-zero is a valid statvfs.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends in a zero byte, the call fills `stat`; neither is kept.
    let code = unsafe { libc::statvfs(name.as_ptr(), &raw mut stat) };
    if code == 0 {
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    } else {
        Err(io::Error::last_os_error())
    }
}
