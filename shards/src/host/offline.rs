//! A node's data directory for offline tools: read-only, and with plain reads, never maps: a bad sector under a
//! map kills the process, a bad sector under a read is an error.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clustor_wire::ids::ShardId;

use crate::buffer::{BLOCK_BYTES, Block, Blocks};
use crate::disk::{BootDisk, DiskError, FileId, FoundPair};
use crate::log::LogIdentity;
use crate::sys;

use super::data_dir::{self, DataDirError, Identity, KEY_FILE, LOCK_FILE, LOCK_RETRY, LOCK_WAIT};
use super::key_file::FileKeyProvider;

/// No node starts on the directory while this lives.
#[derive(Debug)]
pub struct NodesKeptOut {
    _locks: Vec<File>,
}

/// A node's data directory looked at from outside: nothing written, and nothing locked unless it is asked for.
#[derive(Debug)]
pub struct OfflineDir {
    path: PathBuf,
    identity: Identity,
    keys: FileKeyProvider,
}

impl OfflineDir {
    /// Reads whose directory it is.
    ///
    /// # Errors
    /// [`DataDirError`]: it is none, or can't be read.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let identity = data_dir::read_identity(path)?.ok_or_else(|| DataDirError::Nothing {
            path: path.to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            keys: FileKeyProvider::new(path.join(KEY_FILE)),
        })
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its key.
    #[must_use]
    pub fn keys(&self) -> &FileKeyProvider {
        &self.keys
    }

    /// The same, with the key from another file: where the directory is a copy without its key.
    #[must_use]
    pub fn with_key(mut self, key: &Path) -> Self {
        self.keys = FileKeyProvider::new(key);
        self
    }

    /// Keeps nodes out for as long as the outcome lives: locks the directory and every shard in it against those who
    /// write. Nothing is written; other readers are let in. Where no node runs, and writes of one that ended are still under way,
    /// it waits up to [`LOCK_WAIT`] for their end.
    ///
    /// # Errors
    /// [`DataDirError::InUse`]: a node runs on it, or writes of one that ended do not end.
    pub fn keep_nodes_out(&self) -> Result<NodesKeptOut, DataDirError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| DataDirError::Io { path, error }
        };
        let mut paths = vec![self.path.join(LOCK_FILE)];
        for shard in self.shards().map_err(failed(&self.path))? {
            paths.push(self.path.join(format!("shard-{shard}")).join(LOCK_FILE));
        }
        let begun = Instant::now();
        let mut locks = Vec::with_capacity(paths.len());
        for path in paths {
            let file = match File::open(&path) {
                Ok(file) => file,
                // No node has ever opened it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path)(error)),
            };
            // The directory's lock is a process's, and ends with it; a shard's is its ring's, which may outlive that for a moment.
            let has_ended = !locks.is_empty();
            loop {
                match file.try_lock_shared() {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) if has_ended && begun.elapsed() < LOCK_WAIT => {
                        std::thread::sleep(LOCK_RETRY);
                    }
                    Err(TryLockError::WouldBlock) => {
                        return Err(DataDirError::InUse {
                            path: self.path.clone(),
                        });
                    }
                    Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
                }
            }
            locks.push(file);
        }
        Ok(NodesKeptOut { _locks: locks })
    }

    /// The shards that have a log here, ascending.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub fn shards(&self) -> io::Result<Vec<ShardId>> {
        let mut shards = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("shard-"));
            if let Some(number) = number.and_then(|number| number.parse().ok())
                && entry.path().join("wal").is_dir()
            {
                shards.push(ShardId(number));
            }
        }
        shards.sort_unstable();
        Ok(shards)
    }

    /// A shard's log: whose it is, and its files.
    ///
    /// # Errors
    /// When its files can't be opened.
    pub fn shard(&self, shard: ShardId) -> io::Result<(LogIdentity, OfflineDisk)> {
        let identity = LogIdentity {
            cluster: self.identity.cluster,
            node: self.identity.node,
            shard,
        };
        let wal = self.path.join(format!("shard-{shard}")).join("wal");
        Ok((identity, OfflineDisk::open(&wal)?))
    }
}

/// The pairs of a shard's `wal` directory, read-only. Each clone is another view on the same open files.
#[derive(Debug, Clone)]
pub struct OfflineDisk {
    files: Arc<BTreeMap<FileId, OfflineFile>>,
}

#[derive(Debug)]
struct OfflineFile {
    file: File,
    bytes: u64,
}

impl OfflineDisk {
    /// Opens every file of `wal` whose name is that of a pair's file; others are left alone. Past the page cache where
    /// the file system lets it (O_DIRECT): what matters is what lies on the device.
    ///
    /// # Errors
    /// When the directory can't be listed, or a file can't be opened.
    pub fn open(wal: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(wal)? {
            let entry = entry?;
            if let Some(id) = entry.file_name().to_str().and_then(FileId::from_name) {
                let file = open_direct(&entry.path())?;
                let bytes = file.metadata()?.len();
                files.insert(id, OfflineFile { file, bytes });
            }
        }
        Ok(Self {
            files: Arc::new(files),
        })
    }
}

fn open_direct(path: &Path) -> io::Result<File> {
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    match direct {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(path),
        other => other,
    }
}

impl OfflineFile {
    fn read(&self, block: u32, into: &mut [Block]) -> io::Result<()> {
        let mut offset = u64::from(block) * BLOCK_BYTES as u64;
        for part in into.chunks_mut(sys::VECTORS_MAX) {
            let wanted = part.len() * BLOCK_BYTES;
            let mut done = 0;
            while done < wanted {
                let at = done / BLOCK_BYTES;
                // A read that ended inside a block is taken up at the block's start: O_DIRECT wants it aligned.
                done = at * BLOCK_BYTES;
                let mut vectors: Vec<IoSliceMut<'_>> = part[at..]
                    .iter_mut()
                    .map(|block| IoSliceMut::new(&mut block.0))
                    .collect();
                match sys::read_vectored_at(&self.file, &mut vectors, offset + done as u64) {
                    Ok(read) if done + read == wanted => break,
                    Ok(read) if read >= BLOCK_BYTES => done += read,
                    // The end of the file: what lies beyond reads as zero.
                    Ok(read) => {
                        let mut rest = &mut part[at..];
                        if read > 0 {
                            rest[0].0[read..].fill(0);
                            rest = &mut rest[1..];
                        }
                        rest.fill(Block::ZERO);
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            offset += wanted as u64;
        }
        Ok(())
    }
}

impl BootDisk for OfflineDisk {
    fn is_written(&mut self, _: FileId) -> bool {
        true
    }

    /// Nothing is changed here.
    fn keep(&mut self, _: u32, _: u32) -> Result<(), DiskError> {
        Ok(())
    }

    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError> {
        let mut pairs: Vec<_> = self.files.keys().map(|file| file.pair).collect();
        pairs.dedup();
        let bytes = |file| self.files.get(&file).map(|file| file.bytes);
        Ok(pairs
            .into_iter()
            .map(|pair| FoundPair {
                pair,
                segment_bytes: bytes(FileId::segment(pair)),
                ledger_bytes: bytes(FileId::ledger(pair)),
            })
            .collect())
    }

    fn read(&mut self, id: FileId, block: u32, into: &mut Blocks) -> Result<(), DiskError> {
        match self.files.get(&id) {
            Some(file) => {
                file.read(block, into.as_mut_slice())
                    .map_err(|error| match error.raw_os_error() {
                        Some(errno) => DiskError::of("reading", id, errno),
                        None => DiskError::Io(error.to_string()),
                    })
            }
            // As a start meets it: what was in it is not known to have been zeros.
            None => Err(DiskError::NoFile(id)),
        }
    }
}
