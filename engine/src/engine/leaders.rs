//! The leadership of one partition, as its shard last said, and those who watch it.
//!
//! A lock that is held for a few stores and taken by the shard at changes of leadership alone. One publisher
//! for each live watch; those of dropped watches go at the next change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use clustor_shards::mesh::watch::{self, Publisher, Watch};

use crate::outcome::Leadership;

#[derive(Default)]
pub(super) struct Leaders {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    latest: Leadership,
    closed: bool,
    publishers: Vec<Publisher<Leadership>>,
}

impl Leaders {
    /// A watch that begins with the latest value.
    pub fn watch(&self) -> Watch<Leadership> {
        let mut state = self.lock();
        let (publisher, watch) = watch::pair(state.latest);
        state.publishers.retain(|other| !other.is_abandoned());
        if !state.closed {
            // Most partitions have one watcher, or none.
            state.publishers.reserve_exact(1);
            state.publishers.push(publisher);
        }
        watch
    }

    /// A new latest value.
    pub fn publish(&self, leadership: Leadership) {
        let mut state = self.lock();
        if state.closed || state.latest == leadership {
            return;
        }
        state.latest = leadership;
        state
            .publishers
            .retain(|publisher| !publisher.is_abandoned());
        for publisher in &mut state.publishers {
            publisher.publish(leadership);
        }
    }

    /// The last value: the shard is gone, and watches end.
    pub fn close(&self) {
        self.publish(Leadership::Lost);
        let mut state = self.lock();
        state.closed = true;
        state.publishers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
