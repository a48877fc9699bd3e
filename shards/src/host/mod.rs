//! What a node finds on its host: its data directory and its key.
//!
//! Blocking calls, made before a shard starts, never in a turn.

mod data_dir;
mod files;
mod key_file;

pub use data_dir::{Claim, DataDir, DataDirError, Identity, LOCK_WAIT, LONE_NODE};
pub use key_file::FileKeyProvider;
