//! A shard's files mapped into memory, for offline tools.
//!
//! Never in a running shard: a bad sector under a map kills the process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clustor_wire::ids::ShardId;
use memmap2::Mmap;

use crate::buffer::{BLOCK_BYTES, Block, Blocks};
use crate::disk::{BootDisk, DiskError, FileId, FoundPair};
use crate::log::LogIdentity;
use crate::sys::map_read_only;

use super::data_dir::{self, DataDirError, Identity, KEY_FILE};
use super::key_file::FileKeyProvider;

/// A node's data directory looked at from outside: nothing is locked, nothing written.
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
    /// When its files can't be mapped.
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

/// The pairs of a shard's `wal` directory, read-only.
#[derive(Debug)]
pub struct OfflineDisk {
    files: BTreeMap<FileId, Mmap>,
}

impl OfflineDisk {
    /// Maps every file of `wal` whose name is that of a pair's file; others are left alone.
    ///
    /// # Errors
    /// When the directory can't be listed, or a file can't be opened or mapped.
    pub fn open(wal: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(wal)? {
            let entry = entry?;
            if let Some(file) = entry.file_name().to_str().and_then(FileId::from_name) {
                files.insert(file, map_read_only(&File::open(entry.path())?)?);
            }
        }
        Ok(Self { files })
    }
}

impl BootDisk for OfflineDisk {
    fn pairs(&mut self) -> Result<Vec<FoundPair>, DiskError> {
        let mut pairs: Vec<_> = self.files.keys().map(|file| file.pair).collect();
        pairs.dedup();
        let bytes = |file| self.files.get(&file).map(|map| map.len() as u64);
        Ok(pairs
            .into_iter()
            .map(|pair| FoundPair {
                pair,
                segment_bytes: bytes(FileId::segment(pair)),
                ledger_bytes: bytes(FileId::ledger(pair)),
            })
            .collect())
    }

    fn read(&mut self, file: FileId, block: u32, into: &mut Blocks) -> Result<(), DiskError> {
        let bytes = self.files.get(&file).map_or(&[][..], |map| &map[..]);
        let mut at = block as usize * BLOCK_BYTES;
        for place in into.as_mut_slice() {
            *place = Block::ZERO;
            let have = bytes.get(at..).unwrap_or_default();
            let len = have.len().min(BLOCK_BYTES);
            place.0[..len].copy_from_slice(&have[..len]);
            at += BLOCK_BYTES;
        }
        Ok(())
    }
}
