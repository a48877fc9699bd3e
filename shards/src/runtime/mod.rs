//! The runtime of a node: one pinned thread per shard, and the loop of turns on it.
//!
//! Owns the threads, each shard's ring and its sleep. Relies on [`crate::turn::Application`] to decide
//! everything in its turn, and on turns being short. Promises: a turn sees everything that has arrived, its
//! submissions leave in one system call, a shard with nothing to do sleeps until its ring, its doorbell or its
//! deadline wakes it, and a stop lets every shard settle what is in flight.
//!
//! A panic in a turn, and a ring that fails, end the process with a report ([`EXIT_PANIC`], [`EXIT_RING`]):
//! memory is then not to be trusted, disk is, and recovery begins from there.
//!
//! Building what runs on a shard writes nothing, and no shard begins to write before all of the node are built: a start
//! that is refused leaves the data directory as it was.
//!
//! With feature `net` a node that listens has one more thread, the accepting one: it accepts, reads the preface,
//! and hands the descriptor to its shard, whose ring carries it from then on.
//!
//! A shard sleeps in its ring and nowhere else: its doorbell is a read on that ring, so that one system call waits for
//! devices, sockets, other threads and the deadline alike. glommio runs the accepting thread only.

#[cfg(feature = "net")]
mod carrier;
#[cfg(feature = "net")]
mod control;
mod error;
mod fatal;
mod gate;
mod node;
mod shard;
#[cfg(feature = "net")]
mod sleep;

#[cfg(feature = "net")]
pub use control::Listening;
pub use error::{StartError, StopError};
pub use fatal::{EXIT_PANIC, EXIT_RING};
#[cfg(feature = "net")]
pub use node::serve;
pub use node::{Node, NodeOptions, Stopper, start};
pub use shard::{Boot, Build, Deliver, OnBegin, ShardPlan};
