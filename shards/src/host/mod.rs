//! What a node finds on its host: its data directory, its key, its processors and file systems.
//!
//! Blocking calls, made before a shard starts, never in a turn.

mod data_dir;
mod files;
mod key_file;
mod machine;
mod offline;

pub use data_dir::{Claim, DataDir, DataDirError, Identity, LOCK_WAIT, LONE_NODE};
pub use key_file::FileKeyProvider;
pub use machine::{FileSystem, Topology, file_system};
pub use offline::{NodesKeptOut, OfflineDir, OfflineDisk};
