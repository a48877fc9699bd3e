//! The typed messages the engine speaks. Their FlatBuffers form is made and read here, in one place.
//!
//! Decoding verifies: offsets by the FlatBuffers verifier, enums and lengths by hand. A message that fails is an
//! error with the registry's code, never a panic. Entries travel as one byte vector of record frames
//! (`clustor-shards`, log records), the very bytes that lie in the log; their own checksums are verified by
//! whoever takes them.

use crate::ids::{
    BootNumber, ChainNumber, LogIndex, NodeId, PairNumber, PartitionId, ShardId, Term,
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
    /// The highest retired chain of the receiver that the sender has ever heard of; 0 for none.
    pub remembered_chain: ChainNumber,
    /// SHA-256 of the signed placement the sender runs under.
    pub placement_digest: [u8; 32],
    /// Version of the record frame in the sender's log.
    pub record_version: u8,
    /// Codec of record bodies in the sender's log: 1 binary, 2 json.
    pub record_codec: u8,
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
}

/// A key by which retries of one append are known to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(pub u128);

/// A client's question. `id` is the client's; the answer carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRequest {
    /// Chosen by the client, unique on its connection.
    pub id: u64,
    /// What it asks.
    pub body: ClientRequestBody,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientRequestBody {
    /// Append a command.
    Append {
        /// To which partition.
        partition: PartitionId,
        /// The key and the `wal_committed` index known when it was first sent.
        key: Option<(IdempotencyKey, Option<LogIndex>)>,
        /// The command.
        payload: Vec<u8>,
    },
    /// Ask the machine, linearizably.
    Read {
        /// Of which partition.
        partition: PartitionId,
        /// The machine's own query.
        query: Vec<u8>,
    },
    /// Ask how partitions stand on this shard.
    Status {
        /// One partition, or all that have a replica on the shard that is asked.
        partition: Option<PartitionId>,
    },
    /// Ask for the placement this node runs under.
    Placement,
}

/// The answer to a [`ClientRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientResponse {
    /// The request's id.
    pub id: u64,
    /// The answer.
    pub body: ClientResponseBody,
}

/// What a client is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientResponseBody {
    /// Executed, exactly once.
    Applied {
        /// The partition.
        partition: PartitionId,
        /// Term of the entry.
        term: Term,
        /// Its index (the first, if the key was seen before).
        index: LogIndex,
        /// What the machine answered; empty for a duplicate whose reply is no longer at hand.
        reply: Vec<u8>,
        /// Whether the key was seen before.
        duplicate: bool,
    },
    /// Not executed, and never will be.
    NotExecuted(Refusal),
    /// It may still happen; retry with the same key and index.
    Unknown {
        /// Why nobody knows.
        why: String,
        /// Durable on a quorum up to here, as far as the answerer knows.
        wal_committed: LogIndex,
    },
    /// The machine's answer to a read.
    Read {
        /// The partition.
        partition: PartitionId,
        /// The term in which leadership was confirmed.
        term: Term,
        /// The machine had applied up to here.
        index: LogIndex,
        /// What it answered.
        reply: Vec<u8>,
    },
    /// How partitions stand.
    Status(ShardStatus),
    /// The placement, as its signed file's bytes.
    Placement(Vec<u8>),
}

/// Why something was refused, in numbers for programs and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The clause that refused; see [`RefusalClause`].
    pub clause: RefusalClause,
    /// One sentence: what, where, why, what to do.
    pub message: String,
    /// When a retry makes sense, in milliseconds; 0 for never.
    pub retry_after_ms: u32,
    /// The node that leads the partition, if the answerer knows.
    pub leader: Option<NodeId>,
    /// `wal_committed`, with [`RefusalClause::IndexNeeded`].
    pub wal_committed: Option<LogIndex>,
}

/// The clause by which something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RefusalClause {
    /// This replica does not lead the partition.
    NotLeader = 1,
    /// No replica of the partition on the shard that was asked.
    NotHere = 2,
    /// The payload exceeds the limit.
    TooLarge = 3,
    /// A queue is full.
    Busy = 4,
    /// The key's index is older than the idempotency table reaches.
    KeyExpired = 5,
    /// A key needs the `wal_committed` index that its client knew.
    IndexNeeded = 6,
    /// The node is stopping.
    Stopping = 7,
    /// The shard's disk failed, or the replica is quarantined.
    Unavailable = 8,
    /// The disk is full.
    DiskFull = 9,
    /// The machine, or the engine, does not do this.
    Unsupported = 10,
    /// The machine failed and is being rebuilt.
    MachineFailed = 11,
    /// Entries whose content is missing stand before what was asked.
    MissingContent = 12,
}

/// How a shard and its partitions stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStatus {
    /// The node.
    pub node: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// Its boot.
    pub boot: BootNumber,
    /// 0 FixedUring, 1 RegisteredUring, 2 Blocking.
    pub io_writer_mode: u8,
    /// What is wrong with the shard, in words; empty if nothing is.
    pub trouble: String,
    /// Its partitions, ascending.
    pub partitions: Vec<PartitionStatus>,
}

/// How one replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: PartitionId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// Last index of its log.
    pub last_index: LogIndex,
    /// Durable here up to this index.
    pub durable: LogIndex,
    /// Durable on a quorum up to this index.
    pub wal_committed: LogIndex,
    /// Applied up to this index.
    pub applied: LogIndex,
    /// Entries whose content is missing here.
    pub missing: u64,
    /// What is wrong with the replica, in words; empty if nothing is.
    pub trouble: String,
}

/// The role of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower = 1,
    /// Asks whether it would be elected.
    PreCandidate = 2,
    /// Campaigns.
    Candidate = 3,
    /// Leads.
    Leader = 4,
    /// Neither votes nor campaigns nor acknowledges.
    Quarantined = 5,
}
