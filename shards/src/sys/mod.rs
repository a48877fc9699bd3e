//! Thin safe wrappers over single calls that have no safe form.
//!
//! Owns nothing and decides nothing: each function is one system call or one conversion, so that nobody
//! above needs the word `unsafe` or a raw error number. What a call returns is an [`std::io::Error`]; the
//! room that makes the call knows what it means.
#![allow(unsafe_code)]

mod clock;
mod event_fd;
mod file;
#[cfg(feature = "net")]
mod socket;
mod thread;

pub use clock::{boottime_us, both_clocks_us};
pub use event_fd::EventFd;
pub use file::{
    VECTORS_MAX, adopt, file_system_magic, free_bytes, is_without_holes, read_vectored_at,
    used_percent,
};
#[cfg(feature = "net")]
pub use socket::{RawAddress, duplicate, tcp_socket};
pub use thread::{allowed_cpus, end_process, memlock_limit, pin_current_thread, terminate};
