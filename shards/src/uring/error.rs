//! What can go wrong with a ring itself, as against the operations it carries.

use std::io;
use std::path::PathBuf;

/// Why a shard's ring could not be opened, or cannot go on. After an error of [`RingError::Enter`] or
/// [`RingError::Torn`] the ring is not used again: the process ends and recovery decides.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel forbids io_uring to this process.
    #[error(
        "io_uring is forbidden to this process ({source}): allow it with `sysctl kernel.io_uring_disabled=0`, or in a \
         container with a seccomp profile that permits io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has io_uring, but not all that is needed of it.
    #[error("this kernel's io_uring is too old ({source}): Linux 6.1 or newer is needed")]
    KernelTooOld {
        /// What the kernel said.
        source: io::Error,
    },
    /// The ring could not be made.
    #[error(
        "making the ring: {source}; if this says that memory can't be allocated, raise `ulimit -l` (locked memory, now {memlock})"
    )]
    Setup {
        /// What the kernel said.
        source: io::Error,
        /// The limit on locked memory as it stands.
        memlock: String,
    },
    /// Another process holds the shard's directory.
    #[error(
        "{path}: in use by {holder}: a directory serves one process at a time; stop that one, or choose another directory"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The holder's process id, where the lock file says it.
        holder: String,
    },
    /// The file system refuses O_DIRECT.
    #[error(
        "{path}: the file system refuses direct I/O (O_DIRECT): put the data on ext4, xfs or another that has it"
    )]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
    },
    /// The shard's directory can't be made or used.
    #[error("{path}: {what}: {source}")]
    Directory {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A registration with the ring failed.
    #[error("registering {what} with the ring: {source}")]
    Register {
        /// What was to be registered.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused to take or complete submissions.
    #[error("the ring failed: {source}")]
    Enter {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel took only part of a submission, which may have cut a durable chain in two.
    #[error(
        "the kernel took {taken} of {pushed} submissions: the order of a durable chain is no longer certain"
    )]
    Torn {
        /// Submissions taken.
        taken: usize,
        /// Submissions pushed.
        pushed: usize,
    },
}
