//! Every byte of Clustor that leaves a process.
//!
//! Rooms, from the ground up; each imports only those above it in this list:
//!
//! - [`ids`]: identifiers as types
//! - [`error_code`]: the numeric registry of errors
//! - [`frame`]: the transport frame
//! - `generated`: flatc's output for `wire/schema`
//! - [`message`]: the typed messages, to and from FlatBuffers

pub mod error_code;
pub mod frame;
mod generated;
pub mod ids;
pub mod message;
