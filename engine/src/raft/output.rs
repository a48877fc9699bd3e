//! What a replica decided, as values. One [`Output`] serves all partitions of a shard for a turn.

use core::ops::Range;

use clustor_shards::log::Mode;
use clustor_shards::log::record::{Record, parse_record};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use clustor_wire::message::{Heartbeat, HeartbeatAck, RaftBody, RaftMessage, ReadLevel};

use super::frames::Framed;

/// Buffers kept for the next appends, at most.
const SPARE_BUFFERS_MAX: usize = 64;

/// A record for the log. They enter the shard's queue in the order in which they stand in [`Output::records`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordToPersist {
    /// An entry, or a configuration; its frame lies in [`Output::frames`].
    Entry {
        /// Whose.
        partition: PartitionId,
        /// Its term.
        term: Term,
        /// Its index.
        index: LogIndex,
        /// Where its frame lies in [`Output::frames`].
        frame: Range<usize>,
        /// How it is made durable.
        mode: Mode,
    },
    /// Term and vote.
    HardState {
        /// Whose.
        partition: PartitionId,
        /// The term.
        term: Term,
        /// The vote in it.
        vote: Option<NodeId>,
    },
    /// The content of an entry that was lost here; its frame lies in [`Output::frames`].
    Relocated {
        /// Whose.
        partition: PartitionId,
        /// Its term.
        term: Term,
        /// Its index.
        index: LogIndex,
        /// Where its frame, of kind `Entry` or `Configuration`, lies in [`Output::frames`].
        frame: Range<usize>,
    },
    /// An exit from a joint configuration was committed; it is acted on once this is durable.
    ExitCommitted {
        /// Whose.
        partition: PartitionId,
        /// The exit's term.
        term: Term,
        /// The exit's index.
        index: LogIndex,
    },
    /// The voters of the configuration that the partition begins with are named: it takes the place of the nameless one.
    Founding {
        /// Whose.
        partition: PartitionId,
        /// The configuration's bytes.
        configuration: Vec<u8>,
    },
    /// Everything from `from` on is gone.
    Truncate {
        /// Whose.
        partition: PartitionId,
        /// The term in which this was decided.
        term: Term,
        /// The first index that is gone.
        from: LogIndex,
    },
}

impl RecordToPersist {
    /// An entry, new or found again, as the log takes it, out of [`Output::frames`]; `None` for other records. Its
    /// checksum was computed or verified by the replica in this very turn.
    #[must_use]
    pub fn entry<'a>(&self, frames: &'a [u8]) -> Option<Record<'a>> {
        match self {
            Self::Entry { frame, .. } | Self::Relocated { frame, .. } => {
                parse_record(&frames[frame.clone()]).ok()
            }
            _ => None,
        }
    }
}

/// A replica may apply its log up to here. Rises monotonically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applicable {
    /// Whose.
    pub partition: PartitionId,
    /// Durable on a quorum, matching the leader's log, durable here, content at hand.
    pub index: LogIndex,
}

/// A linearizable read may be answered once the machine has applied `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadReady {
    /// The partition.
    pub partition: PartitionId,
    /// The asker's mark.
    pub token: u64,
    /// What it relies on.
    pub level: ReadLevel,
    /// The term in which leadership was confirmed.
    pub term: Term,
    /// Apply up to here first.
    pub index: LogIndex,
}

/// A linearizable read can't be answered: leadership was lost while it waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFailed {
    /// The partition.
    pub partition: PartitionId,
    /// The asker's mark.
    pub token: u64,
    /// Who leads, if known.
    pub leader: Option<PeerId>,
}

/// What entries read from the log are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedFor {
    /// A follower that lags gets them as an append.
    Append,
    /// A peer lost them.
    Refetch,
}

/// Entries a peer needs that are no longer in the cache: read them from the log and hand them to
/// `Replica::entries_read`, or say `Replica::entries_unreadable`. One is outstanding per follower and purpose at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedEntries {
    /// Whose.
    pub partition: PartitionId,
    /// For which peer.
    pub peer: PeerId,
    /// The leader's term when it asked.
    pub term: Term,
    /// First index.
    pub from: LogIndex,
    /// Last index; all are durable here, and none is missing.
    pub to: LogIndex,
    /// Whole frames up to this many bytes together, but at least one.
    pub bytes_max: usize,
    /// What they are for.
    pub purpose: WantedFor,
}

/// How leadership changed, as this replica sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// Follows `leader`, or nobody it knows of.
    Follower {
        /// Who leads, if known.
        leader: Option<PeerId>,
    },
    /// This replica was elected; `first` is its empty entry: once that is applied, so is everything earlier.
    Elected {
        /// The empty entry of its term.
        first: LogIndex,
    },
    /// This replica leads no longer: what it proposed and has not seen applied may still happen.
    Lost,
}

/// One change of leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeadershipChange {
    /// Of which partition.
    pub partition: PartitionId,
    /// In which term.
    pub term: Term,
    /// What changed.
    pub change: Leadership,
}

/// Everything the replicas of a shard decided in one turn. Reused: the shard drains the lists and calls
/// [`Self::clear`].
#[derive(Debug, Default)]
pub struct Output {
    /// Messages for peers, in order. All that they depend on is durable.
    pub messages: Vec<(PeerId, RaftMessage)>,
    /// Heartbeats, to be coalesced by peer.
    pub heartbeats: Vec<(PeerId, Heartbeat)>,
    /// Answers to heartbeats, to be coalesced by peer.
    pub heartbeat_acks: Vec<(PeerId, HeartbeatAck)>,
    /// Records for the log, in order.
    pub records: Vec<RecordToPersist>,
    /// The bytes that entry records refer to.
    pub frames: Vec<u8>,
    /// How far replicas may apply.
    pub applicable: Vec<Applicable>,
    /// Reads whose leadership is confirmed.
    pub reads_ready: Vec<ReadReady>,
    /// Reads that can't be answered.
    pub reads_failed: Vec<ReadFailed>,
    /// Entries to be read from the log.
    pub wanted: Vec<WantedEntries>,
    /// Changes of leadership.
    pub leadership: Vec<LeadershipChange>,
    spare: Vec<Vec<u8>>,
    pub(super) checked: Vec<Framed>,
}

impl Output {
    /// An empty buffer for an append's frames, one that was given back if there is one.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a buffer of frames back, so that the next append need not allocate one.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() > 0 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Empties all lists and keeps their memory.
    pub fn clear(&mut self) {
        while let Some((_, message)) = self.messages.pop() {
            if let RaftBody::Append { frames, .. } | RaftBody::Refetched { frames, .. } =
                message.body
            {
                self.give_back(frames);
            }
        }
        self.heartbeats.clear();
        self.heartbeat_acks.clear();
        self.records.clear();
        self.frames.clear();
        self.applicable.clear();
        self.reads_ready.clear();
        self.reads_failed.clear();
        self.wanted.clear();
        self.leadership.clear();
    }
}
