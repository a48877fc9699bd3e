//! The file provider of the key-encryption key.
//!
//! A file of 64 hexadecimal digits and a newline, readable by its owner alone. Made on first start, from the
//! system's generator; from then on it must be there: without it the log can't be read. Whoever backs up the
//! log backs it up separately.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::{Zeroize as _, Zeroizing};

use super::files;
use crate::log::keys::{KEY_BYTES, Kek, KeyError, KeyProvider};

/// Bytes of the key file.
const FILE_BYTES: usize = 2 * KEY_BYTES + 1;

/// The key-encryption key in a file with mode 0600.
#[derive(Debug, Clone)]
pub struct FileKeyProvider {
    path: PathBuf,
}

impl FileKeyProvider {
    /// The key in this file, which must exist when the key is asked for.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The key in `directory/name`, made there if there is no such file.
    ///
    /// # Errors
    /// When the file can't be made, or the system has no randomness.
    pub fn create(directory: &Path, name: &str) -> Result<Self, KeyError> {
        let path = directory.join(name);
        if !path.exists() {
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            getrandom::fill(&mut *key)
                .map_err(|error| KeyError(format!("{}: no randomness: {error}", path.display())))?;
            let text = to_hex(&key);
            files::put(directory, name, 0o600, text.as_bytes())
                .map_err(|error| KeyError(format!("{}: {error}", path.display())))?;
        }
        Ok(Self { path })
    }

    fn fail(&self, reason: &str) -> KeyError {
        KeyError(format!("{}: {reason}", self.path.display()))
    }
}

impl KeyProvider for FileKeyProvider {
    fn kek(&self) -> Result<Kek, KeyError> {
        let (bytes, metadata) = files::get(&self.path, FILE_BYTES as u64)
            .map_err(|error| self.fail(&error.to_string()))?
            .ok_or_else(|| {
                self.fail("there is no key file; restore it from its backup, or start with the key provider that this directory was made with: the log can't be read without its key")
            })?;
        let mut bytes = Zeroizing::new(bytes);
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(self.fail(&format!(
                "others may read or write it (mode {mode:04o}); chmod 600 it, and consider the key known"
            )));
        }
        let key = from_hex(&bytes)
            .ok_or_else(|| self.fail("expected 64 hexadecimal digits and a newline"))?;
        bytes.zeroize();
        Ok(Kek::new(key))
    }
}

fn to_hex(key: &[u8; KEY_BYTES]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES));
    for byte in key {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text.push('\n');
    text
}

fn from_hex(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(key)
}
