//! What a node finds on its host: its data directory, its key, its processors and file systems.
//!
//! Blocking calls, made before a shard starts, never in a turn.

mod boot_record;
mod data_dir;
mod files;
mod host_override;
mod key_file;
mod machine;
mod mounts;
mod offline;
mod policy;
mod scrub;

pub use boot_record::{
    BootRecord, RECORD_INCIDENTS_MAX, RECORD_PARTITIONS_MAX, RecoveryWork, WrittenRecord,
};
pub use data_dir::{Claim, DataDir, DataDirError, Identity, LOCK_WAIT, LONE_NODE, WithoutLog};
pub use host_override::{
    OVERRIDE_DAYS_MAX, Override, OverrideError, override_file, parse_overrides,
};
pub use key_file::FileKeyProvider;
pub use machine::{FileSystem, Topology, file_system};
pub use mounts::{Mount, mount_of};
pub use offline::{NodesKeptOut, OfflineDir, OfflineDisk};
pub use policy::{BlockDevice, Clause, Finding, HostError, HostFacts, Judgement, Outcome};
pub use scrub::{ScrubProgress, scrub_offline};
