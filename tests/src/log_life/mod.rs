//! A shard's log lived through crashes, power losses and faults, and checked at every step.
//!
//! The log under test is the production one; only its disk is simulated. What is checked:
//!
//! - what comes back is a prefix of what was decided, over all partitions at once, at least as long as what
//!   was spoken for: nothing lost, nothing invented, no vote forgotten, nor how far a peer had come; entries to
//!   the last byte;
//! - content is missing only where something durable was damaged, or, for what was never spoken for, where a
//!   write or flush failed;
//! - replicas are quarantined only after damage;
//! - the log vouches only for entries of the log as it stands;
//! - what it vouches for goes back only where it was truncated, or content turned out to be lost;
//! - numbers of boots and chains never go back, and no block is written twice (the disk asserts it);
//! - it comes to rest, unless the disk keeps something from ending.
//!
//! Rooms, from the ground up:
//!
//! - [`history`]: what was decided and spoken for, and the check of what came back
//! - `entry`: entries that are known by a number
//! - [`shard`]: the log on its disk
//! - `profile`: what it runs under
//! - [`life`]: a random life, from a seed
//! - [`settle`]: what a crash may leave, gone through one by one
//! - [`crash_points`]: every crash point of a small workload, and everything that may be left there

mod agreement;
pub mod crash_points;
mod entry;
mod hearing;
pub mod history;
pub mod life;
mod profile;
pub mod settle;
pub mod shard;
mod swarm;

pub use history::{Faults, History, Recovered, Violation};
pub use shard::{Boot, Shard};
