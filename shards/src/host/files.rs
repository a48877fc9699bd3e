//! Small files that are written whole: under a temporary name, flushed, renamed into place, and the
//! directory flushed, so that a crash leaves the old content or the new.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Ending of a file that is not in place yet; one left behind by a crash is replaced.
pub(super) const TEMPORARY: &str = "tmp";

/// Puts `bytes` in place as `directory/name`, with `mode`.
pub(super) fn put(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.{TEMPORARY}"));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// Reads a regular file of at most `bytes_max` bytes; `None` if there is none. Anything else by that name is an error: a
/// pipe would keep its reader waiting.
pub(super) fn get(path: &Path, bytes_max: u64) -> io::Result<Option<(Vec<u8>, std::fs::Metadata)>> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(io::Error::other("this is not a regular file"));
        }
        _ => {}
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let mut bytes = Vec::with_capacity(bytes_max as usize + 1);
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(Some((bytes, metadata)))
}
