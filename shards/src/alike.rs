//! Values that many partitions of a shard have alike, each kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Kept at most; where there are more, the others are each partition's own.
const ALIKE_MAX: usize = 1_024;

/// The values that are kept.
#[derive(Debug)]
pub struct Alike<T: ?Sized>(BTreeSet<Arc<T>>);

impl<T: ?Sized> Default for Alike<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: ?Sized + Ord> Alike<T> {
    /// Puts the value that is kept in the place of one that equals it.
    pub fn share(&mut self, value: &mut Arc<T>) {
        if let Some(kept) = self.0.get(value) {
            if !Arc::ptr_eq(kept, value) {
                *value = Arc::clone(kept);
            }
            return;
        }
        if self.0.len() == ALIKE_MAX {
            self.0.retain(|kept| Arc::strong_count(kept) > 1);
        }
        if self.0.len() < ALIKE_MAX {
            self.0.insert(Arc::clone(value));
        }
    }
}
