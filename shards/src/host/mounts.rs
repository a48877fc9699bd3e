//! Where a path is mounted, from the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::collections::BTreeSet;
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

/// A mount and its place among the others.
struct Line {
    id: u64,
    parent: u64,
    mount: Mount,
}

/// The mount that `path` lies on, as the kernel walks there: from the root along the path, and over to whatever is mounted
/// on a point of the way, so that a mount above covers those below that it does not hold itself, and one at the same point
/// those before it. What was mounted over the root itself covers nothing: a walk begins beneath it. Lines that can't be
/// understood are passed over.
#[must_use]
pub fn mount_of(path: &Path, mountinfo: &str) -> Option<Mount> {
    let mut lines: Vec<Line> = mountinfo.lines().filter_map(parse_line).collect();
    let ids: BTreeSet<u64> = lines.iter().map(|line| line.id).collect();
    let is_top = |line: &Line| line.parent == line.id || !ids.contains(&line.parent);
    let root = Path::new("/");
    let at_root = lines
        .iter()
        .position(|line| line.mount.point == root && is_top(line));
    // A process whose root lies within a mount is not shown that one.
    let mut here = at_root.map(|at| lines.remove(at));
    lines.retain(|line| line.mount.point != root && path.starts_with(&line.mount.point));
    // Bounded: each round takes a line.
    loop {
        let mut next: Option<(usize, usize)> = None;
        for (at, line) in lines.iter().enumerate() {
            let within = match &here {
                Some(here) => line.parent == here.id,
                None => is_top(line),
            };
            let depth = line.mount.point.components().count();
            if within && next.is_none_or(|(_, least)| depth <= least) {
                next = Some((at, depth));
            }
        }
        match next {
            Some((at, _)) => here = Some(lines.remove(at)),
            None => return here.map(|here| here.mount),
        }
    }
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL ...] - KIND SOURCE SUPER-OPTIONS`
fn parse_line(line: &str) -> Option<Line> {
    let (first, second) = line.split_once(" - ")?;
    let mut first = first.split(' ');
    let (id, parent) = (first.next()?.parse().ok()?, first.next()?.parse().ok()?);
    let (numbers, _) = (first.next()?, first.next()?);
    let (major, minor) = numbers.split_once(':')?;
    let point = unescaped(first.next()?);
    let options = first.next()?;
    let mut second = second.split(' ');
    let (kind, source) = (second.next()?, second.next()?);
    let of_super = second.next().unwrap_or_default();
    let mount = Mount {
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
    };
    Some(Line { id, parent, mount })
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
