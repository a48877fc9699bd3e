//! The thread-per-core runtime of Clustor: every syscall, every unsafe, every lock-free structure.
//!
//! Rooms, from the ground up; each imports only those above it in this list:
//!
//! - [`sys`]: safe wrappers over single system calls
//! - [`alike`]: what partitions have alike, kept once
//! - [`buffer`]: the bounded pool of aligned blocks
//! - [`mesh`]: rings, queues, doorbells and replies between threads, all lock-free
//! - [`disk`]: the seam between the log and whatever carries its bytes
//! - [`turn`]: inbox, outbox, and the trait an application implements
//! - [`log`]: segment and ledger files, sealing, recovery; deterministic, no I/O of its own
//! - [`host`]: the node's data directory and its key, the machine's processors and file systems
//! - `net` (feature `net`): connections as machines: TLS, frames, peers, clients; no socket of its own
//! - [`uring`]: a shard's ring: durable chains, reads, files, sockets
//! - [`runtime`]: executors, pinning, the turn loop, starting and stopping

pub mod alike;
pub mod buffer;
pub mod disk;
pub mod host;
pub mod log;
pub mod mesh;
#[cfg(feature = "net")]
pub mod net;
pub mod runtime;
pub mod sys;
pub mod turn;
pub mod uring;
