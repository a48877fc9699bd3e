//! Removing a pair: both names gone, the directory flushed. A segment that is kept for a later pair is renamed instead of
//! unlinked, and counts as kept only once the directory was flushed: until then a power loss may give it its old name back.

use std::ffi::CString;

use clustor_wire::ids::PairNumber;
use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::disk::disk_error;
use super::error::RingError;
use super::files::{Files, c_name, kept_name};
use super::prepare::close_entry;
use super::ring::{Mark, Owner, Ring};
use crate::disk::{DiskError, DiskEvent, FileId, RetirePair};

/// A segment whose pair is gone.
pub(super) struct Kept {
    pub(super) name: CString,
    pub(super) blocks: u32,
}

/// The pair that is being removed.
pub(super) struct Removing {
    pair: PairNumber,
    /// What its segment becomes, if it is kept.
    keeping: Option<Kept>,
    /// Kept ones that are given up; their names while the kernel may look at them.
    given_up: Vec<Kept>,
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
    /// Begins. Neither file is in use. `kept` are the segments that wait; those above `kept_max` go too.
    pub(super) fn begin(
        order: RetirePair,
        kept: &mut Vec<Kept>,
        ring: &mut Ring,
        files: &mut Files,
    ) -> Result<Self, RingError> {
        let pair = order.pair;
        let kept_max = order.kept_max as usize;
        let ids = [FileId::segment(pair), FileId::ledger(pair)];
        let name = c_name(kept_name(ids[0]));
        // A number that an aborted boot used may be used again: what was kept under it must not be replaced.
        let may_keep = kept.len() < kept_max && !kept.iter().any(|other| other.name == name);
        let blocks = order.keep_blocks.filter(|_| may_keep);
        let mut this = Self {
            pair,
            keeping: blocks.map(|blocks| Kept { name, blocks }),
            given_up: kept.split_off(kept.len().min(kept_max)),
            files: ids,
            names: ids.map(|file| c_name(file.to_string())),
            places: ids.iter().filter_map(|&file| files.forget(file)).collect(),
            outstanding: 0,
            flushing: false,
            error: None,
        };
        let directory = types::Fd(files.directory());
        let unlink = |name: &CString| opcode::UnlinkAt::new(directory, name.as_ptr()).build();
        let [segment, ledger] = &this.names;
        let mut group = vec![match &this.keeping {
            Some(kept) => {
                let (from, to) = (segment.as_ptr(), kept.name.as_ptr());
                opcode::RenameAt::new(directory, from, directory, to).build()
            }
            None => unlink(segment),
        }];
        group.push(unlink(ledger));
        group.extend(this.given_up.iter().map(|kept| unlink(&kept.name)));
        group.extend(this.places.iter().map(|&place| close_entry(place)));
        this.push(ring, group)?;
        Ok(this)
    }

    fn push(&mut self, ring: &mut Ring, group: Vec<Entry>) -> Result<(), RingError> {
        let marked: Vec<Entry> = (0u8..)
            .zip(group)
            .map(|(step, entry)| entry.user_data(Mark::new(Owner::Remove, step, 0).pack()))
            .collect();
        self.outstanding = u8::try_from(marked.len()).expect("four, and those given up");
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
        let names = 2 + self.given_up.len();
        let unlinking = !self.flushing && usize::from(step) < names;
        if result < 0 && step == 0 && !self.flushing {
            self.keeping = None;
        }
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
        if self.error.is_some() {
            self.keeping = None;
        }
        Ok(Some(DiskEvent::Removed {
            pair: self.pair,
            outcome: self.error.take().map_or(Ok(()), Err),
        }))
    }

    /// When it ended: the segment that is kept, if it is.
    pub(super) fn into_kept(self) -> Option<Kept> {
        self.keeping
    }
}
