//! The primitives this room is built from: the standard library's, or loom's twins under `cfg(loom)`.
//!
//! Also [`CachePadded`]: what two threads write must not share a cache line.

#[cfg(loom)]
pub(super) use loom::cell::UnsafeCell;
#[cfg(loom)]
pub(super) use loom::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub(super) use loom::sync::{Arc, Mutex};
#[cfg(loom)]
pub(super) use loom::thread;

#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::{Arc, Mutex};
#[cfg(not(loom))]
pub(super) use std::thread;

/// `core::cell::UnsafeCell` with the face of loom's, which needs to see where an access begins and ends.
#[cfg(not(loom))]
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(super) fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
        access(self.0.get())
    }

    #[inline]
    pub(super) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

/// A value alone on its cache lines: 128 bytes, because x86-64 prefetches lines in pairs and some
/// aarch64 cores have lines of that size.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct CachePadded<T>(pub(super) T);
