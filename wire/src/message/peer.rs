//! What shards of different nodes say to each other.

use crate::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, NodeId, PairNumber, PartitionId, ShardId, Term,
};

/// The first message of a peer session, from both ends. A session on which the two disagree about the
/// cluster, the placement or a version is closed with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHello {
    /// The sender; must be what its certificate says.
    pub node: NodeId,
    /// The sender's shard.
    pub shard: ShardId,
    /// The shard the sender believes it speaks to.
    pub to_shard: ShardId,
    /// The sender's boot.
    pub boot: BootNumber,
    /// The last chain that the sender's shard recovered or retired.
    pub last_chain: ChainNumber,
    /// The highest retired chain of the receiver that the sender has heard of, in the incarnation below; 0 for none.
    pub remembered_chain: ChainNumber,
    /// SHA-256 of the signed placement the sender runs under.
    pub placement_digest: [u8; 32],
    /// Version of the record frame in the sender's log.
    pub record_version: u8,
    /// Codec of record bodies in the sender's log: 1 binary, 2 json.
    pub record_codec: u8,
    /// Which formatting of the sender's disk; 0 before it holds a partition.
    pub incarnation: Incarnation,
    /// The receiver's incarnation that the sender heard last; 0 for none.
    pub remembered_incarnation: Incarnation,
    /// The receiver's latest boot of that incarnation that the sender heard of.
    pub remembered_boot: BootNumber,
}

/// Everything one shard has to say to one shard of another node in one turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerBatch {
    /// The sender's boot: a new one tells that its leaders are leaders no longer.
    pub boot: BootNumber,
    /// The highest chain of the sender that has retired.
    pub retired_chain: ChainNumber,
    /// Heartbeats of partitions the sender leads, coalesced.
    pub heartbeats: Vec<Heartbeat>,
    /// Answers to heartbeats.
    pub heartbeat_acks: Vec<HeartbeatAck>,
    /// Everything else, in order.
    pub messages: Vec<RaftMessage>,
    /// The sender's clock can't be trusted: its answers to heartbeats are no promise to refuse votes.
    pub clock_alarm: bool,
    /// Partitions that are quiet between the two shards.
    pub pair: Option<PairBeat>,
    /// The sender's device is slow: leadership is not handed to it.
    pub slow_device: bool,
    /// What the sender's heartbeats and its beats for pairs go by; `None` where a receiver shall go by its own.
    pub bounds: Option<ElectionBounds>,
}

/// What elections of partitions that the sender leads go by: all their replicas obey these. Who hears one of its heartbeats
/// refuses votes for the least of the timeouts by its own clock: the sender's leases, which are shorter, rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionBounds {
    /// An election timeout is at least this, in milliseconds.
    pub election_ms_min: u32,
    /// An election timeout is at most this before any election failed, in milliseconds.
    pub election_ms_max: u32,
    /// The sender is heard at least this often, in milliseconds.
    pub heartbeat_ms: u32,
}

/// Says, while partitions are quiet between two shards, that the sender is there, and which it leads quietly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PairBeat {
    /// How many the sender leads quietly in which the receiver gets the log.
    pub count: u32,
    /// Over them: the wrapping sum of [`QuietLed::mixed`].
    pub digest: u64,
    /// Partitions are quiet between the two, as the sender sees it: it wants to hear such beats.
    pub keeps: bool,
    /// The sender follows others quietly than the receiver says it leads: it wants to have them listed.
    pub asks: bool,
    /// All of them, where they were asked for; at most [`super::QUIET_LISTED_MAX`].
    pub led: Option<Vec<QuietLed>>,
}

/// A partition that is led quietly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietLed {
    /// Which.
    pub partition: PartitionId,
    /// In which term.
    pub term: Term,
}

impl QuietLed {
    /// What it adds to a digest: SplitMix64's finalizer (Steele et al. 2014) over its halves and its term, one after the
    /// other.
    #[must_use]
    pub const fn mixed(&self) -> u64 {
        let id = self.partition.0;
        let halves = mix(mix(id as u64) ^ ((id >> 64) as u64));
        mix(halves ^ self.term.0)
    }
}

const fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A leader's sign of life for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which partition.
    pub partition: PartitionId,
    /// The leader's term.
    pub term: Term,
    /// Durable on a quorum up to here, as far as this follower is known to match.
    pub wal_committed: LogIndex,
    /// The leader's heartbeat round; the answer echoes it (reads count only answers to rounds begun after them).
    pub round: u64,
}

/// A follower's answer to a [`Heartbeat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatAck {
    /// Which partition.
    pub partition: PartitionId,
    /// The follower's term: greater than the leader's if the leader is deposed.
    pub term: Term,
    /// The round answered.
    pub round: u64,
}

/// A consensus message of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftMessage {
    /// Which partition.
    pub partition: PartitionId,
    /// The sender's term (for a pre-vote request, the term it would campaign in).
    pub term: Term,
    /// What it says.
    pub body: RaftBody,
}

/// What a consensus message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RaftBody {
    /// Would you vote for me?
    PreVote {
        /// Index of the candidate's last entry.
        last_index: LogIndex,
        /// Term of the candidate's last entry.
        last_term: Term,
    },
    /// Answer to a pre-vote.
    PreVoteResponse {
        /// Whether it would.
        granted: bool,
        /// Whether the voter's round trips to its leader exceed the profile's threshold.
        high_rtt: bool,
    },
    /// Vote for me.
    Vote {
        /// Index of the candidate's last entry.
        last_index: LogIndex,
        /// Term of the candidate's last entry.
        last_term: Term,
        /// The leader asked for this election: passes leader stickiness.
        transfer: bool,
    },
    /// Answer to a vote request; sent only when the vote is durable.
    VoteResponse {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries to append behind (`prev_term`, `prev_index`).
    Append {
        /// Index before the first entry.
        prev_index: LogIndex,
        /// Term of the entry there.
        prev_term: Term,
        /// Durable on a quorum up to here.
        wal_committed: LogIndex,
        /// Received by a majority up to here; a hint, may go back.
        raft_commit: LogIndex,
        /// Entries in `frames`.
        count: u32,
        /// Their record frames, one behind the other.
        frames: Vec<u8>,
    },
    /// The follower holds the leader's log up to `matched` (received, not necessarily durable).
    AppendAccepted {
        /// Highest index known to match.
        matched: LogIndex,
    },
    /// The follower's log does not continue from there.
    AppendRejected {
        /// The `prev_index` that did not fit.
        prev_index: LogIndex,
        /// Where to try next: skips a whole term at a time.
        hint_index: LogIndex,
        /// The follower's term at that index.
        hint_term: Term,
    },
    /// The follower's ledger covers the leader's log up to here.
    DurabilityAck {
        /// min(highest index known to match in this leader's term, durable).
        last_fsynced_index: LogIndex,
        /// The pair in which that lies.
        segment_seq: PairNumber,
        /// 0 FixedUring, 1 RegisteredUring, 2 Blocking.
        io_writer_mode: u8,
    },
    /// Campaign now: the leader hands over.
    TimeoutNow,
    /// Nothing has happened for a while, and you should hold all of my log, durably and committed: be quiet.
    Quiesce {
        /// Its last index.
        last_index: LogIndex,
        /// The round of heartbeats with which this is asked.
        round: u64,
    },
    /// I hold all of it, and am quiet.
    QuiesceAck {
        /// Its last index.
        last_index: LogIndex,
        /// The round with which it was asked.
        round: u64,
    },
    /// Answer to a pre-vote: the configuration at this place is committed, and you are no member by it.
    NotMember {
        /// Its term.
        stated_term: Term,
        /// Its index.
        stated_index: LogIndex,
    },
    /// Give me the content of these entries: mine is lost. A follower asks its leader, a leader everybody.
    Refetch {
        /// Their term.
        entry_term: Term,
        /// Index of the first.
        first: LogIndex,
        /// Index of the last.
        last: LogIndex,
    },
    /// Answer to [`RaftBody::Refetch`].
    Refetched {
        /// The term asked for.
        entry_term: Term,
        /// The first index asked for.
        first: LogIndex,
        /// What the sender has there.
        verdict: RefetchVerdict,
        /// For [`RefetchVerdict::Have`]: whole record frames from `first` on, as many as fit; otherwise empty.
        frames: Vec<u8>,
    },
    /// The first start of a partition, of no term.
    Founding {
        /// The configuration that the partition begins with, its voters named; empty from a voter that is new and asks.
        configuration: Vec<u8>,
    },
}

/// What a replica has of an entry that another one lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RefetchVerdict {
    /// Its content.
    Have = 1,
    /// The entry, but its content is lost here too.
    Missing = 2,
    /// Nothing any more: its log begins behind it, so it was committed; a snapshot holds it.
    Compacted = 3,
    /// Not this entry: its log ends before it, or has another one there.
    Never = 4,
}

impl RefetchVerdict {
    /// The verdict of this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Have,
            2 => Self::Missing,
            3 => Self::Compacted,
            4 => Self::Never,
            _ => return None,
        })
    }
}
