//! The `clustor` command as a library, so that one command can use another in process (the demo makes its
//! certificates with [`certs`] and writes the same configs that [`config`] reads).
//!
//! Rooms, from the ground up; each imports only those above it in this list:
//!
//! - [`exit`]: exit codes, and the error that carries one
//! - [`json`]: what `--json` prints, and its rule for numbers
//! - [`files`]: reading files with a limit, creating files that must not exist
//! - [`config`]: a node's config file
//! - [`certs`]: certificates, keys and the signed placement of a cluster
//! - [`inspect`]: what lies in a shard's files
//! - [`scrub`]: whether all of it is whole
//! - [`reload`]: a running node's profile file: watched, read again, obeyed
//! - [`profile`]: the shipped profiles, and files of one's own
//! - [`host`]: what lies under a data directory, judged
//! - [`probe`]: what a device can do, and the profile that follows
//! - [`kv`]: the key-value machine and its commands
//! - [`serve`]: one node of a cluster
//! - [`demo`]: three nodes, a load, a kill, and the proof that nothing was lost
//! - [`client_commands`]: questions to a running cluster: append, read, status

pub mod certs;
pub mod client_commands;
pub mod config;
pub mod demo;
pub mod exit;
pub mod files;
pub mod host;
pub mod inspect;
pub mod json;
pub mod kv;
pub mod probe;
pub mod profile;
pub mod reload;
pub mod scrub;
pub mod serve;
