//! What a batch causes: replies and timers.

use std::sync::Arc;

use clustor_wire::ids::{LogIndex, PartitionId};

use super::deferred::{AckBox, AckHandle};
use super::{Stamp, Timer, TimerError, Timers};

/// What a batch causes: a reply per item, and timers set or cancelled. Reused from batch to batch, so that
/// replies cost no allocation each; the timers are those of the partition and stay.
#[derive(Debug, Default)]
pub struct Effects {
    bytes: Vec<u8>,
    /// (index of the item, where its reply ends in `bytes`), ascending in both.
    replies: Vec<(LogIndex, usize)>,
    timers: Timers,
    /// Where handles of deferred items say what became of them.
    acks: Option<(Arc<AckBox>, PartitionId)>,
    /// Handles given out since it was made.
    handles: u64,
    /// (number of the handle, index of the item) of those given out in the batch.
    deferred: Vec<(u64, LogIndex)>,
}

impl Effects {
    /// Nothing was caused yet.
    pub(crate) const NONE: Self = Self {
        bytes: Vec::new(),
        replies: Vec::new(),
        timers: Timers::NONE,
        acks: None,
        handles: 0,
        deferred: Vec::new(),
    };

    /// Whose effects these are, and where handles of deferred items say what became of them.
    pub(crate) fn settle_with(&mut self, partition: PartitionId, acks: &Arc<AckBox>) {
        self.acks
            .get_or_insert_with(|| (Arc::clone(acks), partition));
    }

    /// Whether nothing is in them that is needed once the replies are given: no timer is set, and no handle was ever given
    /// out, whose number must not be given out again.
    pub(crate) fn is_unused(&self) -> bool {
        self.timers.is_empty() && self.handles == 0
    }

    /// While the item at `index` is applied: its append is answered only when the handle says that it is done. See
    /// [`super::deferred`].
    pub fn defer(&mut self, index: LogIndex) -> AckHandle {
        let number = self.handles;
        self.handles += 1;
        self.deferred.push((number, index));
        let (to, partition) = match &self.acks {
            Some((acks, partition)) => (Some(Arc::clone(acks)), *partition),
            None => (None, PartitionId::default()),
        };
        AckHandle::new(to, partition, number, index)
    }

    /// The handles given out in the batch.
    pub(crate) fn take_deferred(&mut self) -> Vec<(u64, LogIndex)> {
        core::mem::take(&mut self.deferred)
    }

    /// Answers the item at `index`; an item that is not answered has an empty reply.
    ///
    /// # Panics
    /// If the item, or one behind it, was answered before. In `apply` that is Fatal.
    pub fn reply(&mut self, index: LogIndex, bytes: &[u8]) {
        self.reply_with(index, |out| out.extend_from_slice(bytes));
    }

    /// As [`Self::reply`], with the reply appended to a buffer by `write`, which must not touch what is
    /// already in it.
    ///
    /// # Panics
    /// As [`Self::reply`], and if `write` shortened the buffer.
    pub fn reply_with(&mut self, index: LogIndex, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(
            self.replies.last().is_none_or(|(last, _)| *last < index),
            "replies are given once, in index order: {index} does not follow"
        );
        let start = self.bytes.len();
        write(&mut self.bytes);
        assert!(
            self.bytes.len() >= start,
            "the writer of a reply only appends"
        );
        self.replies.push((index, self.bytes.len()));
    }

    /// The reply of the item at `index`; empty if it was given none.
    #[must_use]
    pub fn reply_of(&self, index: LogIndex) -> &[u8] {
        match self.replies.binary_search_by_key(&index, |(at, _)| *at) {
            Ok(found) => {
                let start = found.checked_sub(1).map_or(0, |prev| self.replies[prev].1);
                &self.bytes[start..self.replies[found].1]
            }
            Err(_) => &[],
        }
    }

    /// While the item at `index` is applied: sets the timer of this name, or moves it if it is set. It expires through
    /// [`super::StateMachine::expire`] at the first entry made for timers whose time is `due` or later; one that is due
    /// already expires soon. Time is that of the items' stamps: it passes while somebody leads the partition.
    ///
    /// # Errors
    /// [`TimerError`], on every replica alike.
    ///
    /// # Panics
    /// If a timer was set or cancelled for an item behind this one. In `apply` that is Fatal.
    pub fn set_timer(
        &mut self,
        index: LogIndex,
        name: &[u8],
        due: Stamp,
    ) -> Result<(), TimerError> {
        self.check_order(index);
        self.timers.set(index, name, due)
    }

    /// While the item at `index` is applied: cancels the timer of this name; whether it was set.
    ///
    /// # Panics
    /// As [`Self::set_timer`].
    pub fn cancel_timer(&mut self, index: LogIndex, name: &[u8]) -> bool {
        self.check_order(index);
        self.timers.cancel(index, name)
    }

    /// The timers that are set, with what the batch did to them so far: what a machine on disk stores with its data.
    #[must_use]
    pub const fn timers(&self) -> &Timers {
        &self.timers
    }

    fn check_order(&self, index: LogIndex) {
        assert!(
            !self.timers.changed_above(index),
            "timers are set in index order: {index} does not follow"
        );
    }

    /// Takes the timers that are due out, at this index.
    pub(crate) fn take_due(&mut self, index: LogIndex, time: Stamp) -> Vec<Timer> {
        self.timers.take_due(index, time)
    }

    /// Exactly these timers are set, and nothing else happened.
    pub(crate) fn open(&mut self, timers: Vec<Timer>) -> Result<(), TimerError> {
        self.clear();
        self.timers.replace(timers)
    }

    /// Forgets what the item at `from` and those behind it caused: they come again.
    pub(crate) fn forget_from(&mut self, from: LogIndex) {
        let keep = self.replies.partition_point(|(index, _)| *index < from);
        self.replies.truncate(keep);
        self.bytes
            .truncate(self.replies.last().map_or(0, |(_, end)| *end));
        self.timers.undo_from(from);
        self.deferred.retain(|(_, index)| *index < from);
    }

    /// Begins a new batch: forgets replies, keeps the timers as they are, and the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.replies.clear();
        self.timers.settle();
        self.deferred.clear();
    }
}
