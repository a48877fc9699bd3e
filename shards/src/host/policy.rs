//! Whether what lies under a data directory keeps what an acknowledgement promises.
//!
//! An acknowledgement says that a flush reached stable storage. Some stacks are known to break that (barriers off, an
//! overlay that never syncs), of some nobody knows (network and FUSE file systems, kinds this build has never heard of),
//! and some lose everything with the machine by design (memory). Facts are gathered from `/proc` and `/sys` and judged
//! here as values, before anything is written. What is judged:
//!
//! - [`Outcome::Reject`]: nothing runs
//! - [`Outcome::Quarantine`]: the node runs and answers, its replicas neither vote nor campaign nor acknowledge
//! - [`Outcome::Allow`]: runs; a finding that is allowed is a warning
//!
//! `host-override.toml` in the data directory allows a clause by name until a date, for a reason.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::host_override::{self, Override, OverrideError};
use super::mounts::{Mount, mount_of};

/// File systems that live on a device of their own and whose flush is known to reach it.
const LOCAL: [&str; 9] = [
    "ext4", "ext3", "ext2", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs",
];
/// Mount options under which a flush does not reach the device: ext4 and older XFS (Documentation/admin-guide/ext4.rst, xfs.rst),
/// f2fs (Documentation/filesystems/f2fs.rst, `fsync_mode`), bcachefs (its list of options, fs/bcachefs/opts.h).
const BARRIERS_OFF: [&str; 4] = [
    "nobarrier",
    "barrier=0",
    "fsync_mode=nobarrier",
    "journal_flush_disabled",
];
const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];
const NETWORK: [&str; 11] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "9p",
    "afs",
    "glusterfs",
    "gfs2",
    "ocfs2",
];

/// What may be found. Its name is what an override names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clause {
    /// The mount takes no writes.
    ReadOnly,
    /// The file system was told not to flush the device's cache.
    BarriersOff,
    /// An overlay that was told never to sync.
    OverlayVolatile,
    /// Metadata may reach the disk before data.
    DataWriteback,
    /// Every write is flushed by itself.
    SyncMount,
    /// Nothing outlives the machine.
    InMemory,
    /// A server keeps the data.
    NetworkFileSystem,
    /// A process keeps the data.
    Fuse,
    /// What lies under the overlay can't be seen.
    Overlay,
    /// A kind that is not known.
    UnknownFileSystem,
    /// Whether the device has a volatile cache is not known.
    WriteCacheUnknown,
    /// The system does not say what lies there.
    UnknownMount,
}

impl Clause {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ReadOnly,
        Self::BarriersOff,
        Self::OverlayVolatile,
        Self::DataWriteback,
        Self::SyncMount,
        Self::InMemory,
        Self::NetworkFileSystem,
        Self::Fuse,
        Self::Overlay,
        Self::UnknownFileSystem,
        Self::WriteCacheUnknown,
        Self::UnknownMount,
    ];

    /// Its name in reports and overrides.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::BarriersOff => "barriers_off",
            Self::OverlayVolatile => "overlay_volatile",
            Self::DataWriteback => "data_writeback",
            Self::SyncMount => "sync_mount",
            Self::InMemory => "in_memory",
            Self::NetworkFileSystem => "network_file_system",
            Self::Fuse => "fuse",
            Self::Overlay => "overlay",
            Self::UnknownFileSystem => "unknown_file_system",
            Self::WriteCacheUnknown => "write_cache_unknown",
            Self::UnknownMount => "unknown_mount",
        }
    }

    /// The clause of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|clause| clause.name() == name)
    }

    /// What follows from it.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::ReadOnly | Self::BarriersOff | Self::OverlayVolatile => Outcome::Reject,
            Self::NetworkFileSystem | Self::Fuse | Self::UnknownFileSystem => Outcome::Quarantine,
            Self::DataWriteback
            | Self::SyncMount
            | Self::InMemory
            | Self::Overlay
            | Self::WriteCacheUnknown
            | Self::UnknownMount => Outcome::Allow,
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::ReadOnly => {
                "the file system is mounted read-only; mount it rw, or choose another directory"
            }
            Self::BarriersOff => {
                "barriers are off: a flush does not reach the device, so what is acknowledged is lost with the power; mount it without nobarrier, barrier=0, fsync_mode=nobarrier (f2fs) and journal_flush_disabled (bcachefs)"
            }
            Self::OverlayVolatile => {
                "the overlay is mounted volatile: it never syncs, so what is acknowledged is lost with the power; use a volume, or mount it without volatile"
            }
            Self::DataWriteback => {
                "data=writeback: safe here, because blocks are written and flushed before they are relied on; it gains nothing either"
            }
            Self::SyncMount => {
                "mounted sync: every write is flushed by itself, beside the log's own flushes; slow"
            }
            Self::InMemory => {
                "the file system lives in memory: everything is lost with the machine; for tests and demonstrations only"
            }
            Self::NetworkFileSystem => {
                "a network file system: nobody here knows whether its server's answer to a flush means stable storage, nor who else writes; use a local disk"
            }
            Self::Fuse => {
                "a FUSE file system: nobody here knows whether its process passes a flush on to stable storage; use a local disk"
            }
            Self::Overlay => {
                "an overlay (a container's own layer): it passes flushes on, but what lies under it can't be seen, and it goes with the container; use a volume"
            }
            Self::UnknownFileSystem => {
                "a kind of file system that this build does not know; use ext4 or XFS"
            }
            Self::WriteCacheUnknown => {
                "the system does not say whether the device has a volatile write cache; flushes are sent all the same"
            }
            Self::UnknownMount => {
                "the system does not say what the directory lies on (/proc/self/mountinfo); it can't be judged"
            }
        }
    }
}

/// What follows from what was found; the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The node runs.
    Allow,
    /// It runs and stays silent: its replicas neither vote nor campaign nor acknowledge.
    Quarantine,
    /// It does not run.
    Reject,
}

impl core::fmt::Display for Outcome {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        })
    }
}

/// A block device, as `/sys/dev/block/MAJOR:MINOR` tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockDevice {
    /// Its name: `nvme0n1`, `dm-0`.
    pub name: String,
    /// `queue/write_cache`: `write back` where it has a volatile cache, which flushes empty.
    pub write_cache: Option<String>,
    /// `queue/fua`: whether single writes can go past the cache.
    pub fua: Option<bool>,
    /// `queue/rotational`: whether it has a head to move.
    pub rotational: Option<bool>,
}

/// What was found of the host, as values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The directory in question, or the nearest that exists above it.
    pub path: PathBuf,
    /// What it lies on.
    pub mount: Option<Mount>,
    /// The device under it, where it has one of its own.
    pub device: Option<BlockDevice>,
}

impl HostFacts {
    /// Gathers the facts about `path`, which need not exist yet. What the system does not say is left out.
    ///
    /// # Errors
    /// When neither the path nor anything above it can be looked at.
    pub fn gather(path: &Path) -> io::Result<Self> {
        let path = nearest(path)?;
        let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let mount = mount_of(&path, &String::from_utf8_lossy(&mountinfo));
        let device = mount.as_ref().and_then(device_of);
        Ok(Self {
            path,
            mount,
            device,
        })
    }
}

/// The path, resolved; of a path that does not exist the part that does.
fn nearest(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut at = absolute.as_path();
    loop {
        match at.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match at.parent() {
                Some(parent) => at = parent,
                None => return Err(error),
            },
            found => return found,
        }
    }
}

fn device_of(mount: &Mount) -> Option<BlockDevice> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut major, mut minor) = mount.device;
    if major == 0 {
        // btrfs mounts under numbers of its own; its source names the device.
        let source = fs::metadata(&mount.source)
            .ok()
            .filter(|_| mount.source.starts_with("/dev/"))?;
        let device = source.rdev();
        (major, minor) = (libc::major(device), libc::minor(device));
    }
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition has no queue; its disk is the directory above.
    let disk = if device.join("partition").exists() {
        device.parent()?.to_owned()
    } else {
        device
    };
    let says = |what: &str| {
        let text = fs::read_to_string(disk.join("queue").join(what)).ok()?;
        Some(text.trim().to_owned())
    };
    Some(BlockDevice {
        name: disk.file_name()?.to_string_lossy().into_owned(),
        write_cache: says("write_cache"),
        fua: says("fua").map(|text| text == "1"),
        rotational: says("rotational").map(|text| text == "1"),
    })
}

/// Something that was found, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub clause: Clause,
    /// What follows.
    pub outcome: Outcome,
    /// Why, and what to do.
    pub reason: &'static str,
    /// What allows it although its own outcome is another.
    pub allowed_by: Option<Override>,
}

/// The facts, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What was judged.
    pub facts: HostFacts,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// Overrides of what was not found.
    pub unneeded: Vec<Override>,
}

impl Judgement {
    /// Judges facts, with what overrides allow.
    #[must_use]
    pub fn of(facts: HostFacts, overrides: &[Override]) -> Self {
        let mut findings: Vec<Finding> = clauses(&facts)
            .into_iter()
            .map(|clause| {
                let allowed_by = overrides
                    .iter()
                    .find(|allowed| allowed.clause == clause && clause.outcome() != Outcome::Allow);
                Finding {
                    clause,
                    outcome: allowed_by.map_or(clause.outcome(), |_| Outcome::Allow),
                    reason: clause.reason(),
                    allowed_by: allowed_by.cloned(),
                }
            })
            .collect();
        findings.sort_by_key(|finding| core::cmp::Reverse(finding.outcome));
        let unneeded = overrides
            .iter()
            .filter(|allowed| {
                !findings
                    .iter()
                    .any(|finding| finding.allowed_by.as_ref() == Some(*allowed))
            })
            .cloned()
            .collect();
        Self {
            facts,
            findings,
            unneeded,
        }
    }

    /// Gathers and judges what lies under a data directory, which need not exist yet. `now_s`: seconds since 1970.
    ///
    /// # Errors
    /// [`HostError`]: the path can't be looked at, or its override file is not acceptable.
    pub fn gather(data: &Path, now_s: u64) -> Result<Self, HostError> {
        let overrides = host_override::read(data, now_s)?;
        let facts = HostFacts::gather(data).map_err(|error| HostError::Path {
            path: data.to_owned(),
            error,
        })?;
        Ok(Self::of(facts, &overrides))
    }

    /// What follows: the worst of all.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let worst = self.findings.iter().map(|finding| finding.outcome).max();
        worst.unwrap_or(Outcome::Allow)
    }

    /// Whether the node may run, with the reason why it stays silent if it must.
    ///
    /// # Errors
    /// [`HostError::Rejected`].
    pub fn admit(&self) -> Result<Option<String>, HostError> {
        let Some(worst) = self.findings.first() else {
            return Ok(None);
        };
        let reason = format!("{}: {}", worst.clause.name(), worst.reason);
        match worst.outcome {
            Outcome::Allow => Ok(None),
            Outcome::Quarantine => Ok(Some(reason)),
            Outcome::Reject => Err(HostError::Rejected {
                path: self.facts.path.clone(),
                reason,
            }),
        }
    }
}

/// Why a host was refused. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The path can't be looked at.
    #[error("{path}: {error}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Its override file is not acceptable.
    #[error(transparent)]
    Override(#[from] OverrideError),
    /// An acknowledgement would be a lie there.
    #[error("{path}: {reason}")]
    Rejected {
        /// The path.
        path: PathBuf,
        /// The clause, why, and what to do.
        reason: String,
    },
}

fn clauses(facts: &HostFacts) -> Vec<Clause> {
    let Some(mount) = &facts.mount else {
        return vec![Clause::UnknownMount];
    };
    let mut found = Vec::new();
    let mut note = |clause, holds: bool| {
        if holds {
            found.push(clause);
        }
    };
    let kind = mount.kind.as_str();
    let device = facts.device.as_ref();
    let ram_disk = device.is_some_and(|device| {
        ["zram", "ram"].iter().any(|stem| {
            let number = device.name.strip_prefix(stem);
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
    });
    let in_memory = IN_MEMORY.contains(&kind) || ram_disk;
    let network = NETWORK.contains(&kind);
    let fuse =
        kind == "fuse" || kind == "fuseblk" || kind.starts_with("fuse.") || kind == "virtiofs";
    let overlay = kind == "overlay" || kind == "aufs";
    let local = LOCAL.contains(&kind);
    note(Clause::ReadOnly, mount.has("ro"));
    note(
        Clause::BarriersOff,
        BARRIERS_OFF.iter().any(|option| mount.has(option)),
    );
    note(Clause::OverlayVolatile, overlay && mount.has("volatile"));
    note(Clause::NetworkFileSystem, network);
    note(Clause::Fuse, fuse);
    note(
        Clause::UnknownFileSystem,
        !(local || network || fuse || overlay || in_memory),
    );
    note(Clause::InMemory, in_memory);
    note(Clause::Overlay, overlay);
    note(Clause::DataWriteback, mount.has("data=writeback"));
    note(Clause::SyncMount, mount.has("sync"));
    let known = device.is_some_and(|device| device.write_cache.is_some());
    // ZFS and others that span devices keep them to themselves, and flush them all.
    note(
        Clause::WriteCacheUnknown,
        local && kind != "zfs" && !known && !ram_disk,
    );
    found
}
