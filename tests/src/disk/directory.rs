//! The shard's directory: names that are durable, and changes that a flush of the directory has yet to cover.

use std::collections::BTreeMap;

use clustor_shards::disk::FileId;
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{Fate, InodeId};

/// A name in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A pair's file, in place.
    Of(FileId),
    /// A file of a pair that is gone, kept for a later one.
    Kept(FileId),
}

/// A name that was given or taken away.
#[derive(Debug, Clone)]
struct Change {
    number: u64,
    file: Name,
    inode: Option<InodeId>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    names: BTreeMap<Name, InodeId>,
    durable: BTreeMap<Name, InodeId>,
    pending: Vec<Change>,
    changes: u64,
}

fn apply(names: &mut BTreeMap<Name, InodeId>, file: Name, inode: Option<InodeId>) {
    match inode {
        Some(inode) => names.insert(file, inode),
        None => names.remove(&file),
    };
}

impl Directory {
    pub(super) fn lookup(&self, file: FileId) -> Option<InodeId> {
        self.names.get(&Name::Of(file)).copied()
    }

    /// The files of pairs.
    pub(super) fn files(&self) -> impl Iterator<Item = (FileId, InodeId)> {
        self.names.iter().filter_map(|(name, inode)| match name {
            Name::Of(file) => Some((*file, *inode)),
            Name::Kept(_) => None,
        })
    }

    /// The files that are kept.
    pub(super) fn kept(&self) -> impl Iterator<Item = (FileId, InodeId)> {
        self.names.iter().filter_map(|(name, inode)| match name {
            Name::Of(_) => None,
            Name::Kept(file) => Some((*file, *inode)),
        })
    }

    /// How many names a file has.
    pub(super) fn links(&self, inode: InodeId) -> usize {
        self.names.values().filter(|named| **named == inode).count()
    }

    pub(super) fn names(&self) -> &BTreeMap<Name, InodeId> {
        &self.names
    }

    /// Gives a name (a rename into place), or takes it away.
    pub(super) fn change(&mut self, file: Name, inode: Option<InodeId>) {
        self.changes += 1;
        apply(&mut self.names, file, inode);
        self.pending.push(Change {
            number: self.changes,
            file,
            inode,
        });
    }

    pub(super) fn flush_begins(&self) -> u64 {
        self.changes
    }

    pub(super) fn flush_succeeds(&mut self, cover: u64) {
        for change in &self.pending {
            if change.number <= cover {
                apply(&mut self.durable, change.file, change.inode);
            }
        }
        self.pending.retain(|change| change.number > cover);
    }

    /// Each name comes back as any of the states it had since the last flush, each on its own.
    pub(super) fn lose_power(&mut self, fate: Fate, rng: &mut Xoshiro256PlusPlus) {
        let mut histories: BTreeMap<Name, Vec<Option<InodeId>>> = BTreeMap::new();
        for change in self.pending.drain(..) {
            histories.entry(change.file).or_default().push(change.inode);
        }
        for (file, states) in histories {
            let survivors = match fate {
                Fate::Landed => states.len(),
                Fate::Lost => 0,
                Fate::Random | Fate::Torn => rng.random_range(0..=states.len()),
            };
            if let Some(last) = survivors.checked_sub(1) {
                apply(&mut self.durable, file, states[last]);
            }
        }
        self.names = self.durable.clone();
    }

    /// Names that a power loss decides about, each with the number of states that it may come back in.
    pub(super) fn unflushed(&self) -> Vec<(Name, usize)> {
        let mut states: BTreeMap<Name, usize> = BTreeMap::new();
        for change in &self.pending {
            *states.entry(change.file).or_insert(1) += 1;
        }
        states.into_iter().collect()
    }

    /// As [`Self::lose_power`], where `keep` says of each unflushed name, ascending, how many of its changes
    /// survive.
    pub(super) fn lose_power_keeping(&mut self, keep: &[usize]) {
        let names = self.unflushed();
        for ((file, _), keep) in names.into_iter().zip(keep) {
            let mut changes = self.pending.iter().filter(|c| c.file == file);
            if let Some(last) = keep.checked_sub(1).and_then(|at| changes.nth(at)) {
                apply(&mut self.durable, file, last.inode);
            }
        }
        self.pending.clear();
        self.names = self.durable.clone();
    }

    /// A name is gone, durably: the directory was damaged.
    pub(super) fn lose(&mut self, file: FileId) -> bool {
        let file = Name::Of(file);
        self.pending.retain(|change| change.file != file);
        self.durable.remove(&file);
        self.names.remove(&file).is_some()
    }

    /// Whether the file can still be reached by a name, now or after a power loss.
    pub(super) fn mentions(&self, inode: InodeId) -> bool {
        self.names.values().any(|i| *i == inode)
            || self.durable.values().any(|i| *i == inode)
            || self.pending.iter().any(|c| c.inode == Some(inode))
    }
}
