//! What most partitions do without most of the time.

use core::ops::{Deref, DerefMut};
use std::collections::VecDeque;

/// A value that takes memory only while it is not [`Bare::BARE`]: that is what is read as long as nothing was written.
/// Whoever holds it gives the memory back with [`Self::give_back`]; nothing else does, so that what is written again and
/// again allocates once.
#[derive(Debug, Clone)]
pub(crate) struct Lent<T>(Option<Box<T>>);

/// A type of which one value says that there is nothing.
pub(crate) trait Bare: Sized + 'static {
    /// That value.
    const BARE: &'static Self;

    /// The same, to be written to.
    fn bare() -> Self;

    /// Whether it is that value, or as good as.
    fn is_bare(&self) -> bool;
}

impl<T: Bare> Lent<T> {
    /// Gives the memory back if nothing is in it.
    pub fn give_back(&mut self) {
        if self.0.as_deref().is_some_and(Bare::is_bare) {
            self.0 = None;
        }
    }
}

impl<T: 'static> Bare for Vec<T> {
    const BARE: &'static Self = &Self::new();

    fn bare() -> Self {
        Self::new()
    }

    fn is_bare(&self) -> bool {
        self.is_empty()
    }
}

impl<T: 'static> Bare for VecDeque<T> {
    const BARE: &'static Self = &Self::new();

    fn bare() -> Self {
        Self::new()
    }

    fn is_bare(&self) -> bool {
        self.is_empty()
    }
}

impl<T> Default for Lent<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Bare> Deref for Lent<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::BARE)
    }
}

impl<T: Bare> DerefMut for Lent<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(fill)
    }
}

#[cold]
fn fill<T: Bare>() -> Box<T> {
    Box::new(T::bare())
}
