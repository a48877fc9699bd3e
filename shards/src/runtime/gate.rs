//! Where the shards of a node wait for each other between recovery, which only reads, and the first write.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Opened once for all shards, or shut for those that have not passed.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Undecided,
    Open,
    Shut,
}

impl Gate {
    /// Lets every shard pass, unless it was shut before.
    pub(super) fn open(&self) {
        let mut state = self.state();
        if matches!(*state, State::Undecided) {
            *state = State::Open;
        }
        self.changed.notify_all();
    }

    /// Lets nobody pass any more.
    pub(super) fn shut(&self) {
        *self.state() = State::Shut;
        self.changed.notify_all();
    }

    /// Waits for one of both. Whether the shard may write.
    pub(super) fn wait(&self) -> bool {
        let waited = self
            .changed
            .wait_while(self.state(), |state| matches!(state, State::Undecided))
            .unwrap_or_else(PoisonError::into_inner);
        matches!(*waited, State::Open)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
