//! Removing a pair: both names gone, the directory flushed. Files that are kept for a later pair are renamed, and count as
//! kept only once the directory was flushed: until then a power loss may give them their old names back. So is what goes: its
//! space is given back little by little (`free`).

use std::ffi::CString;

use clustor_wire::ids::PairNumber;
use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::error::RingError;
use super::files::{Files, c_name, gone_name, kept_name, parse_name};
use super::prepare::close_entry;
use super::ring::{Mark, Owner, Ring};
use crate::disk::{DiskError, DiskEvent, FileId, RetirePair};

/// A file whose pair is gone.
pub(super) struct Kept {
    pub(super) name: CString,
    pub(super) blocks: u32,
}

/// Segments and ledgers of pairs that are gone, for pairs to come.
pub(super) type KeptFiles = [Vec<Kept>; 2];

/// The pair that is being removed.
pub(super) struct Removing {
    pair: PairNumber,
    /// What its segment and its ledger become, if they are kept.
    keeping: [Option<Kept>; 2],
    files: [FileId; 2],
    /// What is renamed to what, or, to nothing, unlinked: the segment, the ledger, kept ones that are given up. Held while the
    /// kernel may look at them.
    names: Vec<(CString, Option<CString>)>,
    /// Places of the ring's table that its files held.
    places: Vec<u32>,
    outstanding: u8,
    flushing: bool,
    error: Option<DiskError>,
}

impl Removing {
    /// Begins. Neither file is in use. `kept` are the files that wait; of each kind those above `kept_max` go too.
    /// `ledger_blocks`: the size of the ledger, if it is known. `may_wait`: files that go may wait for their space to be given back.
    pub(super) fn begin(
        (order, ledger_blocks, may_wait): (RetirePair, Option<u32>, bool),
        kept: &mut KeptFiles,
        ring: &mut Ring,
        files: &mut Files,
    ) -> Result<Self, RingError> {
        let pair = order.pair;
        let kept_max = order.kept_max as usize;
        let ids = [FileId::segment(pair), FileId::ledger(pair)];
        let ledger_blocks = ledger_blocks.filter(|_| order.keep_blocks.is_some());
        let blocks = [order.keep_blocks, ledger_blocks];
        let keeping = core::array::from_fn(|which| {
            let name = c_name(kept_name(ids[which]));
            let kept = &kept[which];
            // A number that an aborted boot used may be used again: what was kept under it must not be replaced.
            let may_keep = kept.len() < kept_max && !kept.iter().any(|other| other.name == name);
            let blocks = blocks[which].filter(|_| may_keep)?;
            Some(Kept { name, blocks })
        });
        let gone = |file| may_wait.then(|| c_name(gone_name(file)));
        let mut names = Vec::with_capacity(2);
        for (file, keeping) in ids.into_iter().zip(&keeping) {
            let to = match keeping {
                Some(kept) => Some(kept.name.clone()),
                None => gone(file),
            };
            names.push((c_name(file.to_string()), to));
        }
        for kept in kept {
            for given_up in kept.split_off(kept.len().min(kept_max)) {
                let file = given_up.name.to_str().ok().and_then(parse_name);
                let to = file.and_then(|(file, _)| gone(file));
                names.push((given_up.name, to));
            }
        }
        let mut this = Self {
            pair,
            keeping,
            files: ids,
            names,
            places: ids.iter().filter_map(|&file| files.forget(file)).collect(),
            outstanding: 0,
            flushing: false,
            error: None,
        };
        let directory = types::Fd(files.directory());
        let step = |(from, to): &(CString, Option<CString>)| match to {
            Some(to) => {
                opcode::RenameAt::new(directory, from.as_ptr(), directory, to.as_ptr()).build()
            }
            None => opcode::UnlinkAt::new(directory, from.as_ptr()).build(),
        };
        let mut group: Vec<Entry> = this.names.iter().map(step).collect();
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
        let unlinking = !self.flushing && usize::from(step) < self.names.len();
        if result < 0
            && !self.flushing
            && let Some(keeping) = self.keeping.get_mut(usize::from(step))
        {
            *keeping = None;
        }
        if result < 0 && self.error.is_none() && !(unlinking && -result == libc::ENOENT) {
            self.error = Some(DiskError::of(
                "removing",
                self.files[usize::from(step & 1)],
                -result,
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
            // A power loss may bring them back: they stay what they are until the next start.
            self.keeping = [None, None];
            self.names.clear();
        }
        Ok(Some(DiskEvent::Removed {
            pair: self.pair,
            outcome: self.error.take().map_or(Ok(()), Err),
        }))
    }

    /// When it ended: its segment and its ledger where they are kept, and the names of files whose space is to be given back.
    pub(super) fn ended(self) -> ([Option<Kept>; 2], Vec<CString>) {
        let Self { keeping, names, .. } = self;
        let is_kept = |name: &CString| keeping.iter().flatten().any(|kept| kept.name == *name);
        let gone = names.into_iter().filter_map(|(_, to)| to);
        let gone = gone.filter(|name| !is_kept(name)).collect();
        (keeping, gone)
    }
}
