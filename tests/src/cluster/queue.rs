//! What happens next: events ordered by time and, within a moment, by when they were filed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An event's moment, in microseconds, when it was filed, and where it lies.
type Filed = (u64, u64, usize);

/// Events to come.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    order: BinaryHeap<Reverse<Filed>>,
    /// The events themselves stay where they are while their order changes.
    events: Vec<Option<E>>,
    free: Vec<usize>,
    filed: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            order: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            filed: 0,
        }
    }

    /// Files an event for a moment, in microseconds.
    pub(crate) fn push(&mut self, at_us: u64, event: E) {
        self.filed += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.order.push(Reverse((at_us, self.filed, place)));
    }

    /// Takes the next event and its moment.
    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at_us, _, place)) = self.order.pop()?;
        self.free.push(place);
        Some((at_us, self.events[place].take()?))
    }

    /// The moment of the next event.
    pub(crate) fn next_at_us(&self) -> Option<u64> {
        self.order.peek().map(|Reverse((at_us, ..))| *at_us)
    }
}
