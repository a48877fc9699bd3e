//! The machine under a node: processors for shards, and the kind of file system under a directory.
//!
//! Facts only; who decides on them says so where it decides.

use std::io;
use std::path::Path;

use crate::sys;

/// The processors of a node: one for each data shard, and one for the accepting thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// One data shard is pinned to each.
    pub data: Vec<usize>,
    /// Where the accepting thread runs; with two processors or fewer it shares one with a data shard.
    pub control: usize,
}

impl Topology {
    /// Every processor that the process may use but the last, which is the accepting thread's; with two or fewer,
    /// all of them, and the accepting thread shares the last.
    ///
    /// # Errors
    /// When the system does not say which may be used.
    pub fn detect() -> io::Result<Self> {
        Self::of(&sys::allowed_cpus()?)
    }

    /// The same for a given list of processors.
    ///
    /// # Errors
    /// When the list is empty.
    pub fn of(cpus: &[usize]) -> io::Result<Self> {
        let Some((&last, others)) = cpus.split_last() else {
            return Err(io::Error::other("the process may use no processor"));
        };
        let data = if cpus.len() > 2 { others } else { cpus };
        Ok(Self {
            data: data.to_vec(),
            control: last,
        })
    }
}

/// The kind of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name, as `mount` shows it; `other` where it is none of the common ones.
    pub name: &'static str,
    /// Whether it lives in memory, so that nothing on it outlives the machine.
    pub in_memory: bool,
}

/// The kind of file system under `path` (numbers from statfs(2)).
///
/// # Errors
/// When the path is not there.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let (name, in_memory) = match sys::file_system_magic(path)? {
        0xEF53 => ("ext4", false),
        0x5846_5342 => ("xfs", false),
        0x9123_683E => ("btrfs", false),
        0x2FC1_2FC1 => ("zfs", false),
        0x794C_7630 => ("overlay", false),
        0x0102_1994 => ("tmpfs", true),
        0x8584_58F6 => ("ramfs", true),
        _ => ("other", false),
    };
    Ok(FileSystem { name, in_memory })
}
