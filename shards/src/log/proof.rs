//! Proofs of durability: values that only the log can make, and only when a chain has retired.
//!
//! An acknowledgement, to a leader or to a client, is built from nothing else, so it can't be made without
//! its evidence.

use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};

/// The partition's log, as it stood when this was minted, is durable on this replica up to (term, index).
///
/// A truncation that comes later lowers what the log vouches for; whoever keeps a `LocalDurable` across
/// turns must ask `ShardLog::durable` again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalDurable {
    partition: PartitionId,
    term: Term,
    index: LogIndex,
}

impl LocalDurable {
    pub(super) const fn mint(partition: PartitionId, term: Term, index: LogIndex) -> Self {
        Self {
            partition,
            term,
            index,
        }
    }

    /// Whose log.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Term of the entry at [`Self::index`].
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Durable up to and with this index.
    #[must_use]
    pub const fn index(&self) -> LogIndex {
        self.index
    }
}

/// The replica's term and vote are durable: messages that depend on them may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardStateDurable {
    partition: PartitionId,
    term: Term,
    vote: Option<NodeId>,
}

impl HardStateDurable {
    pub(super) const fn mint(partition: PartitionId, term: Term, vote: Option<NodeId>) -> Self {
        Self {
            partition,
            term,
            vote,
        }
    }

    /// Whose.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The durable term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The durable vote in that term.
    #[must_use]
    pub const fn vote(&self) -> Option<NodeId> {
        self.vote
    }
}

/// The record of a committed exit from a joint configuration is durable: the replica may act on the exit, and a restart
/// won't bring the joint configuration back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitDurable {
    partition: PartitionId,
    term: Term,
    index: LogIndex,
}

impl ExitDurable {
    pub(super) const fn mint(partition: PartitionId, term: Term, index: LogIndex) -> Self {
        Self {
            partition,
            term,
            index,
        }
    }

    /// Whose.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The exit's term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The exit's index.
    #[must_use]
    pub const fn index(&self) -> LogIndex {
        self.index
    }
}
