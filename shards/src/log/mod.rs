//! The log: how bytes become durable. Sans-I/O planners over the `Disk` seam.

pub mod proof;
pub mod record;
