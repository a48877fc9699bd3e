//! Reading files with a limit, and creating files that must not exist.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why a file could not be read or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("{path}: can't be read: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        why: String,
    },
    /// It is longer than such a file may be.
    #[error("{path}: longer than {limit} bytes", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// It holds something else than UTF-8.
    #[error("{path}: not UTF-8 text", path = path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A secret that others may read.
    #[error("{path}: has mode {mode:04o}, others may read this secret; `chmod 600` it", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is there already.
    #[error("{path}: exists, and is not overwritten; choose another directory or remove it yourself", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It can't be made.
    #[error("{path}: can't be created: {why}", path = path.display())]
    Uncreatable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        why: String,
    },
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// [`FileError::Unreadable`], [`FileError::TooLong`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let unreadable = |error: std::io::Error| FileError::Unreadable {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLong {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

/// Reads a text of at most `limit` bytes.
///
/// # Errors
/// As [`read`], and [`FileError::NotText`].
pub fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    String::from_utf8(read(path, limit)?).map_err(|_| FileError::NotText {
        path: path.to_owned(),
    })
}

/// Reads a secret text of at most `limit` bytes, if nobody else may read it.
///
/// # Errors
/// As [`read_text`], and [`FileError::Exposed`].
pub fn read_secret(path: &Path, limit: u64) -> Result<String, FileError> {
    let text = read_text(path, limit)?;
    let mode = std::fs::metadata(path)
        .map_err(|error| FileError::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
        })?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(text)
}

/// Makes a directory and those above it, for the owner alone, where there are none.
///
/// # Errors
/// [`FileError::Uncreatable`].
pub fn make_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| FileError::Uncreatable {
            path: path.to_owned(),
            why: error.to_string(),
        })
}

/// Refuses if any of these files is there.
///
/// # Errors
/// [`FileError::Exists`] with the first.
pub fn none_exists<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), FileError> {
    match paths
        .into_iter()
        .find(|path| path.symlink_metadata().is_ok())
    {
        None => Ok(()),
        Some(path) => Err(FileError::Exists {
            path: path.to_owned(),
        }),
    }
}

/// Creates a file that must not exist, readable by all.
///
/// # Errors
/// [`FileError::Exists`], [`FileError::Uncreatable`].
pub fn create(path: &Path, content: &str) -> Result<(), FileError> {
    create_with_mode(path, content, 0o644)
}

/// Creates a file that must not exist, for the owner alone.
///
/// # Errors
/// [`FileError::Exists`], [`FileError::Uncreatable`].
pub fn create_secret(path: &Path, content: &str) -> Result<(), FileError> {
    create_with_mode(path, content, 0o600)
}

fn create_with_mode(path: &Path, content: &str, mode: u32) -> Result<(), FileError> {
    let uncreatable = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            FileError::Exists {
                path: path.to_owned(),
            }
        } else {
            FileError::Uncreatable {
                path: path.to_owned(),
                why: error.to_string(),
            }
        }
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(uncreatable)?;
    file.write_all(content.as_bytes()).map_err(uncreatable)?;
    file.sync_all().map_err(uncreatable)
}
