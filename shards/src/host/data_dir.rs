//! A node's data directory: whose it is, who uses it, where its parts lie.
//!
//! ```text
//! DATA/            mode 0700
//!   identity       whose directory this is: four lines, see `Identity`
//!   kek            the key-encryption key, mode 0600 (see `key_file`)
//!   lock           locked by the process that uses the directory
//!   shard-N/       mode 0700: the pairs of shard N, with the shard's own lock
//!   shard-N.begun  empty: shard N has a log, so a directory of it without one is not its
//! ```
//!
//! Whose a directory is, is judged before anything is written to it. The identity is written last: a start
//! that is interrupted before it is repeated from the beginning.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clustor_wire::ids::{ClusterId, NodeId, ShardId};

use super::files;
use super::host_override::OVERRIDE_FILE;
use super::key_file::FileKeyProvider;
use crate::disk::FileId;
use crate::log::keys::KeyError;

/// The unit of what stat(2) says that a file takes.
const STAT_BLOCK_BYTES: u64 = 512;
const IDENTITY_FILE: &str = "identity";
pub(super) const KEY_FILE: &str = "kek";
pub(super) const LOCK_FILE: &str = "lock";
/// Behind a shard's name: the file that says that it has a log.
const BEGUN: &str = ".begun";
/// First line of the identity file: what it is, and its version.
const IDENTITY_MAGIC: &str = "clustor-data 1";
/// The same without the version.
const IDENTITY_NAME: &str = "clustor-data ";
/// The version in [`IDENTITY_MAGIC`].
const IDENTITY_VERSION: u32 = 1;
/// An identity file is at most this long.
const IDENTITY_BYTES_MAX: u64 = 256;
/// Entries of a directory that are looked at to judge whether it is a data directory.
const ENTRIES_MAX: usize = 4096;
/// How long a lock of a process that is going down is waited for.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Whose data directory it is. Its file has the lines `clustor-data 1`, `alone` or `member`, `cluster HEX`,
/// `node N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Whether it is a lone node's, which never had peers.
    pub alone: bool,
    /// The cluster, 32 hexadecimal digits in the file; a lone node draws one of its own.
    pub cluster: ClusterId,
    /// The node, decimal in the file.
    pub node: NodeId,
}

impl core::fmt::Display for Identity {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let kind = if self.alone { "the lone" } else { "cluster" };
        write!(
            f,
            "node {} of {kind} {:032x}",
            self.node,
            self.cluster.get()
        )
    }
}

/// Who wants to use a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A lone node: takes whatever lone identity the directory has, or draws one.
    Alone,
    /// A node of a cluster: exactly this one.
    Member(ClusterId, NodeId),
}

/// The node id of a lone node.
pub const LONE_NODE: NodeId = NodeId(1);

/// Why a data directory was refused.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The process may not read or write there.
    #[error("{path}: {error}; let the node's user read and write it, or choose another directory")]
    Denied {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It belongs to someone else. Nothing was written.
    #[error(
        "{path}: this is the data directory of {found}, not of {expected}; use another directory"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who asked, in words.
        expected: String,
    },
    /// It holds something and has no identity. Nothing was written.
    #[error(
        "{path}: the directory has no identity file but holds {found:?}; use an empty or new directory, or restore its identity file"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// A shard that has a log has none here. Nothing was written to it.
    #[error(
        "{path}: shard {shard} has a log, and none is here: see that the disk is mounted that it lies on; if that log is lost for good, remove {mark}, and the shard begins anew (docs/operations.md, A lost disk)"
    )]
    LogGone {
        /// The shard's directory.
        path: PathBuf,
        /// Which shard.
        shard: ShardId,
        /// What says that it has one.
        mark: PathBuf,
    },
    /// Nothing of a node is there.
    #[error("{path}: not a node's data directory: it has no identity file")]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// Its identity file is of a newer build. Nothing was written.
    #[error(
        "{path}: written by format {found} of data directories, this build reads up to {IDENTITY_VERSION}; use a newer build"
    )]
    Newer {
        /// The identity file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Its identity file is damaged. Nothing was written.
    #[error(
        "{path}: expected the lines \"{IDENTITY_MAGIC}\", \"alone\" or \"member\", \"cluster HEX\" and \"node N\"; restore the file"
    )]
    Identity {
        /// The identity file.
        path: PathBuf,
    },
    /// Another process uses it, or another engine of this process.
    #[error("{path}: in use by another process{}, also after {} s; one directory serves one node: stop that process, or use another directory",
        holder.map_or_else(String::new, |pid| format!(" (process id {pid})")), LOCK_WAIT.as_secs())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds the lock, where the system tells.
        holder: Option<u32>,
    },
    /// A node runs on it, or is going down.
    #[error(
        "{path}: in use by a running node; stop the node first, or look at a copy of the directory"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Its key can't be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Shards that have no log yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WithoutLog {
    /// How many.
    pub shards: usize,
    /// Bytes that a start which ended in between has taken for their logs: the next one begins by giving them back.
    pub begun_bytes: u64,
}

/// A data directory in use: locked as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    keys: FileKeyProvider,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes it on first start: the directory (0700, parents as the umask has them),
    /// its lock, its key, and last its identity. Waits up to [`LOCK_WAIT`] for the lock.
    ///
    /// # Errors
    /// [`DataDirError`]; one that says "nothing was written" has left the directory as it was.
    pub fn open(path: &Path, claim: Claim) -> Result<Self, DataDirError> {
        Self::open_as(path, claim, true)
    }

    /// The same for whoever has the key from elsewhere: none is made.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_without_key(path: &Path, claim: Claim) -> Result<Self, DataDirError> {
        Self::open_as(path, claim, false)
    }

    fn open_as(path: &Path, claim: Claim, makes_key: bool) -> Result<Self, DataDirError> {
        let known = read_identity(path)?;
        match known {
            Some(identity) => judge(path, identity, claim)?,
            None => judge_empty(path)?,
        }
        if known.is_none() {
            make_private(path)?;
        }
        let lock = lock(path)?;
        // Another start may have made the directory meanwhile.
        let identity = match read_identity(path)? {
            Some(identity) => {
                judge(path, identity, claim)?;
                identity
            }
            None => {
                judge_empty(path)?;
                if makes_key {
                    FileKeyProvider::create(path, KEY_FILE)?;
                }
                let identity = new_identity(claim)?;
                write_identity(path, identity)?;
                identity
            }
        };
        Ok(Self {
            path: path.to_owned(),
            identity,
            keys: FileKeyProvider::new(path.join(KEY_FILE)),
            _lock: lock,
        })
    }

    /// Whether no node has used the directory yet.
    ///
    /// # Errors
    /// [`DataDirError`], where it can't be read or holds a damaged identity.
    pub fn is_new(directory: &Path) -> Result<bool, DataDirError> {
        Ok(read_identity(directory)?.is_none())
    }

    /// Which of the first `shards` shards of a directory have no log yet: none of their pairs is in place.
    ///
    /// # Errors
    /// [`DataDirError`], where a shard's directory can't be read.
    pub fn without_log(directory: &Path, shards: u16) -> Result<WithoutLog, DataDirError> {
        let mut without = WithoutLog::default();
        for shard in 0..shards {
            let wal = shard_in(directory, ShardId(shard)).join("wal");
            if let Some(begun_bytes) = begun_in(&wal).map_err(io_error(&wal))? {
                without.shards += 1;
                without.begun_bytes += begun_bytes;
            }
        }
        Ok(without)
    }

    /// The file that the process which uses a directory holds open and locked.
    #[must_use]
    pub fn lock_file(directory: &Path) -> PathBuf {
        directory.join(LOCK_FILE)
    }

    /// Whose it is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The provider of its key.
    #[must_use]
    pub const fn keys(&self) -> &FileKeyProvider {
        &self.keys
    }

    /// The directory of a shard, made if there is none.
    ///
    /// # Errors
    /// When it can't be made; [`DataDirError::LogGone`].
    pub fn shard(&self, shard: ShardId) -> Result<PathBuf, DataDirError> {
        let path = shard_in(&self.path, shard);
        let mark = mark_of(&path);
        if mark.try_exists().map_err(io_error(&mark))? && !has_log(&path)? {
            return Err(DataDirError::LogGone { path, shard, mark });
        }
        make_private(&path)?;
        Ok(path)
    }

    /// Notes which of the first `shards` shards have a log by now.
    ///
    /// # Errors
    /// When it can't be told, or noted.
    pub fn note_logs(&self, shards: u16) -> Result<(), DataDirError> {
        for shard in (0..shards).map(ShardId) {
            let path = shard_in(&self.path, shard);
            let mark = mark_of(&path);
            if !mark.try_exists().map_err(io_error(&mark))? && has_log(&path)? {
                let name = format!("shard-{shard}{BEGUN}");
                files::put(&self.path, &name, 0o600, b"").map_err(io_error(&mark))?;
            }
        }
        Ok(())
    }
}

fn shard_in(directory: &Path, shard: ShardId) -> PathBuf {
    directory.join(format!("shard-{shard}"))
}

fn mark_of(shard: &Path) -> PathBuf {
    let mut mark = shard.as_os_str().to_owned();
    mark.push(BEGUN);
    mark.into()
}

/// Whether a shard's directory has a pair in place.
fn has_log(shard: &Path) -> Result<bool, DataDirError> {
    let wal = shard.join("wal");
    Ok(begun_in(&wal).map_err(io_error(&wal))?.is_none())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DataDirError + '_ {
    move |error| {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                DataDirError::Denied { path, error }
            }
            _ => DataDirError::Io { path, error },
        }
    }
}

/// Bytes of what an earlier start left in a shard's directory of pairs, and the next one removes; if none of a pair is in place.
fn begun_in(wal: &Path) -> io::Result<Option<u64>> {
    let entries = match std::fs::read_dir(wal) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(0)),
        Err(error) => return Err(error),
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        if FileId::from_name(name).is_some() {
            return Ok(None);
        }
        let left = [".new", ".gone"].iter().any(|end| {
            let name = name.strip_suffix(end);
            name.and_then(FileId::from_name).is_some()
        });
        match entry.metadata() {
            Ok(found) if left => bytes += found.blocks() * STAT_BLOCK_BYTES,
            // Who uses the directory at this moment has removed it; the lock tells who that is.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(Some(bytes))
}

fn make_private(path: &Path) -> Result<(), DataDirError> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(parent).map_err(io_error(parent))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => flush_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = std::fs::metadata(path).map_err(io_error(path))?;
            if !metadata.is_dir() {
                return Err(io_error(path)(io::ErrorKind::NotADirectory.into()));
            }
            let mut permissions = metadata.permissions();
            if permissions.mode() & 0o077 != 0 {
                permissions.set_mode(0o700);
                std::fs::set_permissions(path, permissions).map_err(io_error(path))?;
            }
            // A start that ended before this left a directory that only seems to be durable.
            match flush_parent(path) {
                // Whoever may not read it did not make the directory, either.
                Err(DataDirError::Denied { .. }) => Ok(()),
                outcome => outcome,
            }
        }
        Err(error) => Err(io_error(path)(error)),
    }
}

fn flush_parent(path: &Path) -> Result<(), DataDirError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error(parent))
}

fn judge(path: &Path, found: Identity, claim: Claim) -> Result<(), DataDirError> {
    let expected = match claim {
        Claim::Alone if found.alone => return Ok(()),
        Claim::Alone => "a lone node".to_owned(),
        Claim::Member(cluster, node) => {
            let identity = Identity {
                alone: false,
                cluster,
                node,
            };
            if identity == found {
                return Ok(());
            }
            identity.to_string()
        }
    };
    Err(DataDirError::Foreign {
        path: path.to_owned(),
        found,
        expected,
    })
}

/// A directory without identity must hold nothing but what an interrupted first start leaves.
fn judge_empty(path: &Path) -> Result<(), DataDirError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(path)(error)),
    };
    for entry in entries.take(ENTRIES_MAX) {
        let name = entry.map_err(io_error(path))?.file_name();
        let name = name.to_string_lossy();
        let stem = name
            .strip_suffix(files::TEMPORARY)
            .and_then(|stem| stem.strip_suffix('.'))
            .unwrap_or(&name);
        if ![IDENTITY_FILE, KEY_FILE, LOCK_FILE, OVERRIDE_FILE].contains(&stem) {
            return Err(DataDirError::NotOurs {
                path: path.to_owned(),
                found: name.into_owned(),
            });
        }
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join(LOCK_FILE);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error(&path))?;
    let begun = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WAIT => {
                if !core::mem::replace(&mut told, true) {
                    tracing::warn!(
                        directory = %directory.display(),
                        process = holder(&file),
                        seconds = LOCK_WAIT.as_secs(),
                        "waiting for the directory, which another process uses"
                    );
                }
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::Locked {
                    path: directory.to_owned(),
                    holder: holder(&file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error(&path)(error)),
        }
    }
}

/// The process that holds a lock on the file, by proc_locks(5). It is not told of file systems whose device has another
/// number there, nor of processes outside this one's container.
fn holder(file: &File) -> Option<u32> {
    let of = file.metadata().ok()?;
    let (major, minor) = (libc::major(of.dev()), libc::minor(of.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", of.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, _, pid, at, ..] if *at == place => pid.parse().ok(),
            _ => None,
        }
    })
}

fn new_identity(claim: Claim) -> Result<Identity, DataDirError> {
    match claim {
        Claim::Member(cluster, node) => Ok(Identity {
            alone: false,
            cluster,
            node,
        }),
        Claim::Alone => {
            let mut cluster = [0; 16];
            getrandom::fill(&mut cluster)
                .map_err(|error| KeyError(format!("no randomness: {error}")))?;
            Ok(Identity {
                alone: true,
                cluster: ClusterId(u128::from_le_bytes(cluster)),
                node: LONE_NODE,
            })
        }
    }
}

pub(super) fn read_identity(directory: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = directory.join(IDENTITY_FILE);
    let Some((bytes, _)) = files::get(&path, IDENTITY_BYTES_MAX).map_err(io_error(&path))? else {
        return Ok(None);
    };
    let text = core::str::from_utf8(&bytes).ok();
    let version = text
        .and_then(|text| text.lines().next()?.strip_prefix(IDENTITY_NAME))
        .and_then(|version| version.parse().ok());
    if let Some(found) = version.filter(|found| *found > IDENTITY_VERSION) {
        return Err(DataDirError::Newer { path, found });
    }
    let parsed = text.and_then(parse_identity);
    parsed.map(Some).ok_or(DataDirError::Identity { path })
}

fn parse_identity(text: &str) -> Option<Identity> {
    let mut lines = text.lines();
    if lines.next()? != IDENTITY_MAGIC {
        return None;
    }
    let alone = match lines.next()? {
        "alone" => true,
        "member" => false,
        _ => return None,
    };
    let cluster = lines.next()?.strip_prefix("cluster ")?;
    let node = lines.next()?.strip_prefix("node ")?;
    if lines.next().is_some() || cluster.len() != 32 {
        return None;
    }
    Some(Identity {
        alone,
        cluster: ClusterId(u128::from_str_radix(cluster, 16).ok()?),
        node: NodeId(node.parse().ok()?),
    })
}

fn write_identity(directory: &Path, identity: Identity) -> Result<(), DataDirError> {
    let text = format!(
        "{IDENTITY_MAGIC}\n{}\ncluster {:032x}\nnode {}\n",
        if identity.alone { "alone" } else { "member" },
        identity.cluster.get(),
        identity.node
    );
    files::put(directory, IDENTITY_FILE, 0o600, text.as_bytes())
        .map_err(io_error(&directory.join(IDENTITY_FILE)))
}
