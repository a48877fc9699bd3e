//! A shard's ring: one io_uring that carries its durable chains, reads, file-system calls and sockets.
//!
//! Owns the shard's directory (its lock file is registered in the ring, so that the lock lives exactly as long
//! as the ring can still write), its open files, and every buffer in flight. Relies on one thread making,
//! using and dropping it. Promises what [`crate::disk`] asks of a carrier: four linked steps per chain, each
//! begun only after the one before succeeded in full; one event per operation; errors before successes.
//! Nothing that can block is called once turns have begun: opening, renaming, unlinking and flushing the
//! directory go through the ring as well. Where the file system has no direct I/O a helper thread carries the chains.
//!
//! An error of the ring itself ([`RingError`]) ends the process: a chain may then be cut, and only recovery
//! can say what is durable.
#![allow(unsafe_code)]

mod bell;
mod blocking;
mod chain;
mod disk;
mod error;
mod files;
mod free;
mod lock;
mod prepare;
mod read;
#[cfg(feature = "net")]
mod receive_buffers;
mod remove;
mod rig;
mod ring;
mod shard_ring;
mod slab;
#[cfg(feature = "net")]
mod socket_face;
#[cfg(feature = "net")]
mod sockets;

pub use chain::{ChainStep, ChainSteps};
pub use error::RingError;
pub use rig::{Rig, RigError, RigOptions, RigWork};
pub use ring::{WriterChoice, WriterMode};
pub use shard_ring::ShardRing;
#[cfg(feature = "net")]
pub use sockets::{
    KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, SocketEvent, SocketKey,
    UNACKNOWLEDGED_MS_MAX,
};

/// Whether this process may use io_uring at all, found out by making a ring.
///
/// # Errors
/// [`RingError`], with how to allow it where it is forbidden.
pub fn check_available() -> Result<(), RingError> {
    ring::Ring::new().map(drop)
}
