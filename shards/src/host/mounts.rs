//! Where a path is mounted, from the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The kind of file system, as the kernel names it: `ext4`, `nfs4`, `fuse.sshfs`.
    pub kind: String,
    /// What is mounted: a device, an export, a name.
    pub source: String,
    /// The device's numbers; major 0 where the file system has none of its own.
    pub device: (u32, u32),
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether an option is given, with exactly this value if it has one.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }
}

/// The mount that `path` lies on: of those whose point is the path or above it the deepest, and of several at one point
/// the last, which covers the others. Lines that can't be understood are passed over.
#[must_use]
pub fn mount_of(path: &Path, mountinfo: &str) -> Option<Mount> {
    let mut found: Option<Mount> = None;
    for mount in mountinfo.lines().filter_map(parse_line) {
        let deeper = found
            .as_ref()
            .is_none_or(|f| mount.point.components().count() >= f.point.components().count());
        if path.starts_with(&mount.point) && deeper {
            found = Some(mount);
        }
    }
    found
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL ...] - KIND SOURCE SUPER-OPTIONS`
fn parse_line(line: &str) -> Option<Mount> {
    let (first, second) = line.split_once(" - ")?;
    let mut first = first.split(' ');
    let (_, _, numbers, _) = (first.next()?, first.next()?, first.next()?, first.next()?);
    let (major, minor) = numbers.split_once(':')?;
    let point = unescaped(first.next()?);
    let options = first.next()?;
    let mut second = second.split(' ');
    let (kind, source) = (second.next()?, second.next()?);
    let of_super = second.next().unwrap_or_default();
    Some(Mount {
        point: PathBuf::from(OsString::from_vec(point)),
        kind: kind.to_owned(),
        source: String::from_utf8_lossy(&unescaped(source)).into_owned(),
        device: (major.parse().ok()?, minor.parse().ok()?),
        options: options
            .split(',')
            .chain(of_super.split(','))
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}
