//! Where is measured: a directory of its own on the device in question, removed at the end.

use std::path::Path;

use clustor_shards::host::{FileSystem, file_system};

use crate::BenchError;

/// A directory to measure in. Dropping it removes it.
#[derive(Debug)]
pub struct Place {
    directory: tempfile::TempDir,
    file_system: FileSystem,
}

impl Place {
    /// Makes a directory in `parent`.
    ///
    /// # Errors
    /// When it can't be made, or lies on a file system in memory: that measures no device.
    pub fn new(parent: &Path) -> Result<Self, BenchError> {
        let name = parent.display();
        let file_system = file_system(parent).map_err(|error| {
            BenchError::Place(format!("{name}: {error}; choose another with --dir"))
        })?;
        if file_system.in_memory {
            return Err(BenchError::Place(format!(
                "{name}: lies on {}, a file system in memory, where no flush reaches a device; choose another with --dir",
                file_system.name
            )));
        }
        let directory = tempfile::Builder::new()
            .prefix("clustor-bench-")
            .tempdir_in(parent)
            .map_err(|error| {
                BenchError::Place(format!(
                    "{name}: making a directory: {error}; choose another with --dir"
                ))
            })?;
        Ok(Self {
            directory,
            file_system,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The kind of file system it lies on.
    pub fn file_system(&self) -> FileSystem {
        self.file_system
    }
}
