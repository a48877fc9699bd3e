//! What happens next: events ordered by time and, within a moment, by when they were filed.

use std::collections::BTreeMap;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    events: BTreeMap<(u64, u64), E>,
    filed: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            filed: 0,
        }
    }

    /// Files an event for a moment, in microseconds.
    pub(crate) fn push(&mut self, at_us: u64, event: E) {
        self.filed += 1;
        self.events.insert((at_us, self.filed), event);
    }

    /// Takes the next event and its moment.
    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        self.events
            .pop_first()
            .map(|((at_us, _), event)| (at_us, event))
    }

    /// The moment of the next event.
    pub(crate) fn next_at_us(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at_us, _), _)| *at_us)
    }
}
