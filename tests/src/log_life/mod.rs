//! A shard's log lived through crashes, power losses and faults, and checked at every step.
//!
//! The log under test is the production one; only its disk is simulated. What is checked:
//!
//! - what comes back is a prefix of what was decided, over all partitions at once, at least as long as what
//!   was spoken for: nothing lost, nothing invented, no vote forgotten; entries to the last byte;
//! - content is missing only where something durable was damaged, or, for what was never spoken for, where a
//!   write or flush failed;
//! - replicas are quarantined only after damage;
//! - the log vouches only for entries of the log as it stands;
//! - numbers of boots and chains never go back, and no block is written twice (the disk asserts it).
//!
//! Rooms, from the ground up:
//!
//! - [`history`]: what was decided and spoken for, and the check of what came back
//! - `entry`: entries that are known by a number
//! - [`shard`]: the log on its disk
//! - [`life`]: a random life, from a seed
//! - [`crash_points`]: every crash point of a small workload

pub mod crash_points;
mod entry;
pub mod history;
pub mod life;
pub mod shard;

pub use history::{Faults, History, Recovered, Violation};
pub use shard::{Boot, Shard};
