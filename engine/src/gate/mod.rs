//! What may be served now, and the first clause that forbids it. Facts come in as values: a gate asks nobody.
//!
//! - [`group`]: whether appends may share chains (group-fsync)
//! - [`guard`]: how long a partition that could not keep its promise stays strict
//! - [`read`]: whether linearizable reads may be answered, and the control plane as a shard sees it

pub mod group;
pub mod guard;
pub mod read;

pub use group::{GroupClause, GroupFacts, group_fsync};
pub use guard::Guard;
pub use read::{ControlFacts, ControlView, ReadClause, ReadFacts, SelfGoverned, linearizable_read};
