//! Removing a pair: both names gone, the directory flushed.

use std::ffi::CString;

use clustor_wire::ids::PairNumber;
use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::disk::disk_error;
use super::error::RingError;
use super::files::{Files, c_name};
use super::prepare::close_entry;
use super::ring::{Mark, Owner, Ring};
use crate::disk::{DiskError, DiskEvent, FileId};

/// The pair that is being removed.
pub(super) struct Removing {
    pair: PairNumber,
    files: [FileId; 2],
    /// Kept while the kernel may look at them.
    names: [CString; 2],
    /// Places of the ring's table that its files held.
    places: Vec<u32>,
    outstanding: u8,
    flushing: bool,
    error: Option<DiskError>,
}

impl Removing {
    /// Begins. Neither file is in use.
    pub(super) fn begin(
        pair: PairNumber,
        ring: &mut Ring,
        files: &mut Files,
    ) -> Result<Self, RingError> {
        let ids = [FileId::segment(pair), FileId::ledger(pair)];
        let mut this = Self {
            pair,
            files: ids,
            names: ids.map(|file| c_name(file.to_string())),
            places: ids.iter().filter_map(|&file| files.forget(file)).collect(),
            outstanding: 0,
            flushing: false,
            error: None,
        };
        let directory = types::Fd(files.directory());
        let mut group: Vec<Entry> = this
            .names
            .iter()
            .map(|name| opcode::UnlinkAt::new(directory, name.as_ptr()).build())
            .collect();
        group.extend(this.places.iter().map(|&place| close_entry(place)));
        this.push(ring, group)?;
        Ok(this)
    }

    fn push(&mut self, ring: &mut Ring, group: Vec<Entry>) -> Result<(), RingError> {
        let marked: Vec<Entry> = (0u8..)
            .zip(group)
            .map(|(step, entry)| entry.user_data(Mark::new(Owner::Remove, step, 0).pack()))
            .collect();
        self.outstanding = u8::try_from(marked.len()).expect("four at most");
        ring.push(&marked)
    }

    /// Takes a completion; the event when it ended.
    pub(super) fn completed(
        &mut self,
        step: u8,
        result: i32,
        ring: &mut Ring,
        files: &Files,
    ) -> Result<Option<DiskEvent>, RingError> {
        self.outstanding = self
            .outstanding
            .checked_sub(1)
            .expect("each step completes once");
        let unlinking = !self.flushing && step < 2;
        if result < 0 && self.error.is_none() && !(unlinking && -result == libc::ENOENT) {
            self.error = Some(disk_error(
                "removing",
                self.files[usize::from(step & 1)],
                result,
            ));
        }
        if self.outstanding > 0 {
            return Ok(None);
        }
        if !self.flushing {
            self.flushing = true;
            for place in self.places.drain(..) {
                ring.put_file(place);
            }
            let flush = opcode::Fsync::new(types::Fd(files.directory())).build();
            self.push(ring, vec![flush])?;
            return Ok(None);
        }
        Ok(Some(DiskEvent::Removed {
            pair: self.pair,
            outcome: self.error.take().map_or(Ok(()), Err),
        }))
    }
}
