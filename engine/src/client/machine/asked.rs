//! One question under way, and what its sendings have shown.

use clustor_wire::ids::LogIndex;
use clustor_wire::message::{PartitionMembers, Refusal};

use super::super::link::InFlight;
use super::super::question::{Keying, Question};

/// Where a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Being routed, or waiting for the answers to its sendings alone.
    Waiting,
    /// In a link's queue.
    Queued(clustor_shards::turn::PeerId),
    /// Sent; this attempt decides what is done next.
    Sent(u64),
    /// Asked again then.
    Paused {
        /// When.
        until: u64,
    },
}

/// One question under way.
#[derive(Debug)]
pub(super) struct Asked {
    pub question: Question,
    pub deadline: u64,
    pub place: Place,
    /// The index that goes with the key; never another once it was sent with one that may have executed.
    pub index: Option<LogIndex>,
    /// Sendings that may execute and are not settled.
    pub open: u32,
    /// A sending that may have executed was lost, or it was sent before by an earlier append.
    pub doubtful: bool,
    pub pauses: u32,
    /// Leaders' names followed since the last pause.
    pub hints_followed: u32,
    /// Whether its index was renewed after it had expired.
    pub renewed: bool,
    /// It is not sent again: this is why.
    pub refused_for_good: bool,
    /// Who belongs to the partition, as the newest replica knows of those that know of no leader.
    pub view: Option<PartitionMembers>,
    /// Why it has no answer yet.
    pub last: Option<Refusal>,
}

impl Asked {
    pub fn new(question: Question, deadline: u64) -> Self {
        let (index, doubtful) = match &question {
            Question::Append {
                keying: Keying::Retry(_, index),
                ..
            } => (Some(*index), true),
            _ => (None, false),
        };
        Self {
            question,
            deadline,
            place: Place::Waiting,
            index,
            open: 0,
            doubtful,
            pauses: 0,
            hints_followed: 0,
            renewed: false,
            refused_for_good: false,
            view: None,
            last: None,
        }
    }

    /// Gives a key its index, if it has none.
    pub fn fix_index(&mut self, committed: Option<LogIndex>) {
        if let Question::Append { keying, .. } = &self.question
            && keying.key().is_some()
        {
            self.index = self.index.or(committed);
        }
    }

    /// What a replica that knows of no leader knows of the members: kept if nobody knows newer.
    pub fn keep_view(&mut self, view: PartitionMembers) {
        let age = |view: &PartitionMembers| (view.term, view.last_index);
        if self
            .view
            .as_ref()
            .is_none_or(|kept| age(kept) <= age(&view))
        {
            self.view = Some(view);
        }
    }

    pub fn sent(&mut self, id: u64, request: &InFlight) {
        self.place = Place::Sent(id);
        self.open += u32::from(request.may_execute);
    }

    /// Whether a sending may have executed, or still execute.
    pub const fn may_happen(&self) -> bool {
        self.doubtful || self.open > 0
    }

    /// Whether sending it once more can't make it execute twice.
    pub fn may_be_repeated(&self) -> bool {
        match &self.question {
            Question::Append { keying, .. } => keying.key().is_some() || !self.may_happen(),
            Question::Read { .. } | Question::Mode { .. } | Question::Members { .. } => true,
            Question::Status { .. } | Question::Reload { .. } => false,
        }
    }
}
