//! The simulator of Clustor: the engine's own code on virtual time and a disk that tears, loses and rots.
//!
//! Rooms, from the ground up; each imports only those above it in this list:
//!
//! - [`disk`]: one shard's disk, with its crash model
//! - [`log_life`]: a shard's log lived through crashes and faults, and checked
//! - [`cluster`]: whole clusters on such disks and a faulty network, checked at every step
//! - [`simulation`]: such a cluster with a machine of one's own, the test kit for embedders
//! - [`scenario`]: scripts of what replicas say to each other, played on such a cluster
//! - [`fuzz`]: properties of any bytes: of damaged and forged files, of frames and messages, of profiles

pub mod cluster;
pub mod disk;
pub mod fuzz;
pub mod log_life;
pub mod scenario;
pub mod simulation;
