//! Everything lock-free: how threads of a node hand things to each other without waiting.
//!
//! - [`spsc`]: a bounded ring from one producer to one consumer
//! - [`doorbell`]: waking a shard that sleeps, and only then
//! - [`submission`]: a bounded queue from any number of threads to a shard
//! - [`port`]: the full mesh of rings between the shards of a node
//! - [`reply`]: one answer from a shard to any thread, awaited or waited for
//! - [`watch`]: the latest value of something, from a shard to any thread
//!
//! Relies on nothing but atomics; knows no executor, no ring and no socket (what wakes a shard comes in
//! behind the [`Wake`] trait). Promises: every queue has a bound and gives back what does not fit; nothing
//! accepted is lost or doubled; the order of each producer is kept; a side that is gone is seen by the
//! other; a shard never waits for another thread here, but for the moment in which it drops its submission
//! queue. loom checks this in `tests/loom_*.rs` over all
//! interleavings of small cases; under `cfg(loom)` the primitives in `sync` become loom's.

#![allow(unsafe_code)]

mod blocking;
pub mod doorbell;
pub mod port;
pub mod reply;
pub mod spsc;
pub mod submission;
mod sync;
mod waker;
pub mod watch;

pub use doorbell::{Bell, Doorbell, Parking, Wake};
pub use port::{MeshPort, full_mesh};
pub use submission::{Rejected, SubmissionQueue, Submitter};
