//! Descriptors and mappings.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes `T` the owner of a descriptor: a listener or file of another library.
pub fn adopt<T: FromRawFd>(fd: OwnedFd) -> T {
    // SAFETY: `FromRawFd` asks for an open descriptor that nobody else owns; `into_raw_fd` gives exactly that.
    unsafe { T::from_raw_fd(fd.into_raw_fd()) }
}

/// The most vectors one [`read_vectored_at`] takes (`IOV_MAX` of Linux).
pub const VECTORS_MAX: usize = 1024;

/// Reads from `offset` on into the vectors, one behind the other (preadv(2)), and returns how many bytes; fewer at the
/// end of the file. At most [`VECTORS_MAX`] vectors.
///
/// # Errors
/// When the file can't be read there.
pub fn read_vectored_at(
    file: &File,
    into: &mut [IoSliceMut<'_>],
    offset: u64,
) -> io::Result<usize> {
    let count = into.len().min(VECTORS_MAX) as libc::c_int;
    let offset =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `IoSliceMut` has the layout of an iovec on Unix, and each lends its bytes to this call alone.
    let read = unsafe { libc::preadv(file.as_raw_fd(), into.as_mut_ptr().cast(), count, offset) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Whether a file has no hole (lseek(2), `SEEK_HOLE`): every block was written. What was only allocated is a hole to ext4 and
/// xfs; a file system that can't tell says that there is none. Moves the file's position.
///
/// # Errors
/// When the file can't be asked.
pub fn is_without_holes(file: &File) -> io::Result<bool> {
    let bytes = file.metadata()?.len();
    // SAFETY: the descriptor is open for as long as `file` is lent; no memory is passed.
    let hole = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_HOLE) };
    match u64::try_from(hole) {
        Ok(hole) => Ok(hole >= bytes),
        Err(_) => Err(io::Error::last_os_error()),
    }
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

/// How much of the file system of `path` is used, in percent, rounded down: of what is used and what a process without
/// privileges may still use (statvfs(3)). 0 where it says nothing of its size.
///
/// # Errors
/// When the path is not there, or holds a zero byte.
pub fn used_percent(path: &Path) -> io::Result<u8> {
    let stat = statvfs(path)?;
    let used = u128::from(stat.f_blocks.saturating_sub(stat.f_bfree));
    let total = used + u128::from(stat.f_bavail);
    Ok((used * 100).checked_div(total).unwrap_or(0) as u8)
}

/// Bytes that a process without privileges may still write to the file system of `path` (statvfs(3)).
///
/// # Errors
/// When the path is not there, or holds a zero byte.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn statvfs(path: &Path) -> io::Result<libc::statvfs> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: all-zero is a valid statvfs.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends in a zero byte, the call fills `stat`; neither is kept.
    let code = unsafe { libc::statvfs(name.as_ptr(), &raw mut stat) };
    if code == 0 {
        Ok(stat)
    } else {
        Err(io::Error::last_os_error())
    }
}
