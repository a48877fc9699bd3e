//! What the embedder gave, and whose end is the embedder's code too.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A value of the embedder's. A panic in its `Drop` is logged and goes no further: it is no reason to end the shard, which
/// may drop it at any moment.
pub(crate) struct Guarded<T>(Option<T>);

impl<T> Guarded<T> {
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub fn get(&self) -> &T {
        self.0.as_ref().expect(WHOLE)
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(WHOLE)
    }

    /// The value, which is the caller's to end.
    pub fn into_inner(mut self) -> T {
        self.0.take().expect(WHOLE)
    }
}

/// It is taken by its end alone.
const WHOLE: &str = "a guarded value is there until it is given up";

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
            tracing::error!(
                "{} panicked while it was dropped",
                std::any::type_name::<T>()
            );
        }
    }
}
