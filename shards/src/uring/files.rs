//! The files of a shard that are open in its ring, and the operations that wait for one to open.
//!
//! A file is opened once, straight into the ring's table, and stays until it is removed or until the table is
//! full: then the file of the lowest pair that nothing uses makes room, because the highest pairs are the ones
//! that are written.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use clustor_wire::ids::PairNumber;
use io_uring::{opcode, types};

use super::error::RingError;
use super::ring::{Mark, Owner, Ring};
use crate::disk::{DiskError, FileId, FileKind};

/// What an operation that needs a file is told.
pub(super) enum Need {
    /// It is open, in this place of the ring's table. The caller counts as a user until it says `release`.
    Open(u32),
    /// It is being opened; the waiter is named when that ended.
    Wait,
    /// There is no place: everything open is in use.
    NoRoom,
}

/// Who waits for a file: which owner's operation, at which place of its table.
pub(super) type Waiter = (Owner, u32);

enum State {
    Opening { waiters: Vec<Waiter> },
    Open { users: u32 },
}

struct Entry {
    place: u32,
    state: State,
}

pub(super) struct Files {
    directory: OwnedFd,
    /// Where that is.
    path: PathBuf,
    /// What files are opened with beside their access mode: `O_DIRECT`, or nothing.
    flags: i32,
    table: BTreeMap<FileId, Entry>,
    /// Files that are being opened, by the place in the ring's table; keeps the name alive.
    opening: BTreeMap<u32, (FileId, CString)>,
}

/// A name within the shard's directory as the kernel takes it.
pub(super) fn c_name(name: String) -> CString {
    CString::new(name).expect("names of pairs hold no zero byte")
}

/// The name under which a file is made, before it is whole.
pub(super) fn temporary_name(file: FileId) -> String {
    format!("{file}.new")
}

/// The name under which a file of a pair that is gone waits to become another pair's.
pub(super) fn kept_name(file: FileId) -> String {
    format!("{file}.kept")
}

/// The name under which a file that is gone waits for its space to be given back.
pub(super) fn gone_name(file: FileId) -> String {
    format!("{file}.gone")
}

/// What the name of a file says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    /// It is a pair's.
    InPlace,
    /// It was being made.
    New,
    /// It is of a pair that is gone, and waits to become another's.
    Kept,
    /// It is gone, and its space not given back yet.
    Gone,
}

/// The file that a name in the directory belongs to, and as what.
pub(super) fn parse_name(name: &str) -> Option<(FileId, NameKind)> {
    let aside = [
        (".new", NameKind::New),
        (".kept", NameKind::Kept),
        (".gone", NameKind::Gone),
    ];
    let (name, name_kind) = aside
        .iter()
        .find_map(|(end, kind)| Some((name.strip_suffix(end)?, *kind)))
        .unwrap_or((name, NameKind::InPlace));
    let stem = name.strip_suffix(".log")?;
    let (kind, number) = if let Some(number) = stem.strip_prefix("segment-") {
        (FileKind::Segment, number)
    } else {
        (FileKind::Ledger, stem.strip_prefix("durability-")?)
    };
    let pair = PairNumber(number.parse().ok()?);
    let file = FileId { pair, kind };
    // Only the one spelling that the shard itself writes counts.
    let plain = file.to_string();
    (plain == name).then_some((file, name_kind))
}

impl Files {
    pub(super) const fn new(directory: OwnedFd, path: PathBuf, direct: bool) -> Self {
        Self {
            directory,
            path,
            flags: if direct { libc::O_DIRECT } else { 0 },
            table: BTreeMap::new(),
            opening: BTreeMap::new(),
        }
    }

    /// The directory's descriptor.
    pub(super) fn directory(&self) -> RawFd {
        self.directory.as_raw_fd()
    }

    /// Where the directory is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What files are opened with: `O_DIRECT` where the file system has it.
    pub(super) const fn flags(&self) -> i32 {
        self.flags
    }

    /// A place in the ring's table, made free if need be.
    pub(super) fn take_place(&mut self, ring: &mut Ring) -> Result<Option<u32>, RingError> {
        if let Some(place) = ring.take_file() {
            return Ok(Some(place));
        }
        let Some(file) = self
            .table
            .iter()
            .find(|(_, entry)| matches!(entry.state, State::Open { users: 0 }))
            .map(|(file, _)| *file)
        else {
            return Ok(None);
        };
        let entry = self.table.remove(&file).expect("found above");
        ring.set_file(entry.place, -1)?;
        Ok(Some(entry.place))
    }

    /// Asks for `file` on behalf of `waiter`.
    pub(super) fn need(
        &mut self,
        ring: &mut Ring,
        file: FileId,
        waiter: Waiter,
    ) -> Result<Need, RingError> {
        match self
            .table
            .get_mut(&file)
            .map(|entry| (entry.place, &mut entry.state))
        {
            Some((place, State::Open { users })) => {
                *users += 1;
                return Ok(Need::Open(place));
            }
            Some((_, State::Opening { waiters })) => {
                waiters.push(waiter);
                return Ok(Need::Wait);
            }
            None => {}
        }
        let Some(place) = self.take_place(ring)? else {
            return Ok(Need::NoRoom);
        };
        let name = c_name(file.to_string());
        let target = types::DestinationSlot::try_from_slot_target(place)
            .expect("the table is smaller than the greatest slot");
        let open = opcode::OpenAt::new(types::Fd(self.directory()), name.as_ptr())
            .flags(libc::O_RDWR | self.flags)
            .file_index(Some(target))
            .build()
            .user_data(Mark::new(Owner::Open, 0, place).pack());
        self.opening.insert(place, (file, name));
        self.table.insert(
            file,
            Entry {
                place,
                state: State::Opening {
                    waiters: vec![waiter],
                },
            },
        );
        ring.push(&[open])?;
        Ok(Need::Wait)
    }

    /// An opening ended. The file, its waiters, each counted as a user if the file is open, and what became of it.
    pub(super) fn opened(
        &mut self,
        ring: &mut Ring,
        place: u32,
        result: i32,
    ) -> (FileId, Vec<Waiter>, Result<u32, DiskError>) {
        let (file, _name) = self
            .opening
            .remove(&place)
            .expect("an opening completes once");
        let entry = self.table.get_mut(&file).expect("it is being opened");
        let State::Opening { waiters } = &mut entry.state else {
            panic!("{file} was opened twice");
        };
        let waiters = std::mem::take(waiters);
        if result < 0 {
            self.table.remove(&file);
            ring.put_file(place);
            let error = DiskError::of_opening(file, &io::Error::from_raw_os_error(-result));
            return (file, waiters, Err(error));
        }
        let users = u32::try_from(waiters.len()).expect("few operations wait for one file");
        entry.state = State::Open { users };
        (file, waiters, Ok(place))
    }

    /// Enters a file that was opened by other means.
    pub(super) fn insert(&mut self, file: FileId, place: u32) {
        let before = self.table.insert(
            file,
            Entry {
                place,
                state: State::Open { users: 0 },
            },
        );
        assert!(before.is_none(), "{file} is open already");
    }

    /// Counts a use of an open file.
    pub(super) fn hold(&mut self, file: FileId) {
        match self.table.get_mut(&file).map(|entry| &mut entry.state) {
            Some(State::Open { users }) => *users += 1,
            _ => panic!("{file} is not open"),
        }
    }

    /// One use of an open file ended.
    pub(super) fn release(&mut self, file: FileId) {
        let entry = self.table.get_mut(&file).expect("a used file is open");
        match &mut entry.state {
            State::Open { users } => *users = users.checked_sub(1).expect("each use ends once"),
            State::Opening { .. } => panic!("{file} was used before it was open"),
        }
    }

    /// Whether `file` is being opened or used.
    pub(super) fn is_busy(&self, file: FileId) -> bool {
        match self.table.get(&file).map(|entry| &entry.state) {
            None => false,
            Some(State::Opening { .. }) => true,
            Some(State::Open { users }) => *users > 0,
        }
    }

    /// Forgets a file that is not busy; its place in the ring's table, still holding it, if it was open.
    pub(super) fn forget(&mut self, file: FileId) -> Option<u32> {
        assert!(!self.is_busy(file), "{file} is in use");
        self.table.remove(&file).map(|entry| entry.place)
    }

    /// The place of a file if it is open, without counting a use.
    pub(super) fn place(&self, file: FileId) -> Option<u32> {
        self.table.get(&file).map(|entry| entry.place)
    }
}
