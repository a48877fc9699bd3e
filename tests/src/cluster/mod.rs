//! Clusters in simulation: shard cores on simulated disks and a faulty network, checked at every step.
//!
//! - `queue`: what happens next
//! - [`trace`]: one line for each event
//! - [`machine`]: what the clusters run
//! - `deferred`: their effects that are not safe yet
//! - [`guest`]: an embedder's machine behind it
//! - [`layout`]: who is in a cluster
//! - [`messages`], [`network`]: frames, and what becomes of them
//! - [`host`]: one shard, its core and its disk
//! - `control`: what a control plane says
//! - `addresses`: where nodes listen, and who knows of it
//! - [`check`]: what must hold
//! - [`world`]: all of it together, one event a step
//! - [`marks`]: which paths a run reached
//! - [`swarm`], [`more`], `promises`, `floors`, [`tardy`], `wide`, `light`, `helical`, [`load`], [`run`]: what a seed draws, its clients, and its run
//! - [`simpler`], [`minimise`]: what can be left out of it

mod addresses;
pub mod check;
mod clocks;
mod control;
mod deferred;
mod floors;
pub mod guest;
mod helical;
pub mod host;
pub mod layout;
mod light;
pub mod load;
pub mod machine;
pub mod marks;
pub(crate) mod members;
pub mod messages;
pub mod minimise;
pub mod more;
pub mod network;
mod promises;
mod queue;
pub mod run;
pub mod simpler;
pub mod swarm;
pub mod tardy;
pub mod trace;
mod wide;
pub mod world;
