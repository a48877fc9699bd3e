//! What clients ask and are answered.

use crate::ids::{BootNumber, LogIndex, NodeId, PartitionId, ShardId, Term};

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
        /// It enters the log in this term or never.
        only_in: Option<Term>,
    },
    /// Ask the machine.
    Read {
        /// Of which partition.
        partition: PartitionId,
        /// What the read relies on.
        level: ReadLevel,
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
    /// Ask for a durability mode; an operator may.
    Mode {
        /// Of which partition.
        partition: PartitionId,
        /// The mode.
        mode: DurabilityMode,
    },
    /// Have the node read its profile anew; an operator may, and shard 0 answers.
    Reload,
    /// Ask the leader who belongs to a partition, or to change that; the latter an operator may.
    Members {
        /// Of which partition.
        partition: PartitionId,
        /// What is asked.
        verb: MembersVerb,
        /// Whom it is about: a node, 0 for nobody.
        node: NodeId,
        /// And its shard.
        shard: ShardId,
        /// Where it listens for its peers; empty if the placement says.
        address: String,
    },
}

/// What a read relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum ReadLevel {
    /// Sees everything that was acknowledged before it began: the leader asks a majority whether it still leads.
    #[default]
    Linearizable = 1,
    /// The same as long as clocks run evenly (docs/operations.md, Leases): the leader answers by itself while it holds a
    /// lease, and as [`Self::Linearizable`] while it does not.
    Lease = 2,
    /// Sees some earlier state, in full, of the replica that answers, which need not lead. Nothing says how old it is.
    Local = 3,
}

/// How appends are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DurabilityMode {
    /// Each has a chain of its own.
    Strict = 1,
    /// Those that arrive about the same time share a chain.
    Group = 2,
}

/// What is asked about the members of a partition. To ask twice does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MembersVerb {
    /// Who they are.
    Show = 1,
    /// One more gets the log and counts for nothing.
    Add = 2,
    /// The same for one that is never to vote.
    Observe = 3,
    /// A learner is to vote.
    Promote = 4,
    /// A member is to be none.
    Remove = 5,
    /// A change of voters that is under way is taken back.
    RollBack = 6,
    /// A voter is to lead.
    Transfer = 7,
    /// A member listens elsewhere.
    Address = 8,
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
        /// What it relied on: a lease that was not held is [`ReadLevel::Linearizable`].
        level: ReadLevel,
        /// The term in which leadership was confirmed; at [`ReadLevel::Local`] the replica's own.
        term: Term,
        /// The machine had applied up to here.
        index: LogIndex,
        /// What it answered.
        reply: Vec<u8>,
    },
    /// How partitions stand.
    Status(ShardStatus),
    /// Who belongs to a partition.
    Members(PartitionMembers),
    /// The placement, as its signed file's bytes.
    Placement(Vec<u8>),
    /// How a reading of the node's profile went.
    Reload(ProfileReload),
}

/// How a node's reading of its profile went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProfileReload {
    /// The node.
    pub node: NodeId,
    /// Readings since the node started, this one included.
    pub readings: u64,
    /// The profile: a shipped one's name, or a file.
    pub profile: String,
    /// Whether the node obeys it; if not, it keeps what it had.
    pub obeyed: bool,
    /// Knobs that were turned; at most [`super::TURNED_KNOBS_MAX`].
    pub live: Vec<TurnedKnob>,
    /// Knobs whose new value takes effect at the next start; at most [`super::TURNED_KNOBS_MAX`].
    pub at_restart: Vec<TurnedKnob>,
    /// Why it is not obeyed, one fault each: file, line, key, value, limit; at most [`super::PROFILE_FAULTS_MAX`].
    pub wrong: Vec<String>,
}

/// A knob of a profile whose value differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TurnedKnob {
    /// Its key.
    pub key: String,
    /// What it stood at.
    pub before: String,
    /// What it is to stand at.
    pub after: String,
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
    /// Where on that node, if the answerer knows; `None` without `leader`.
    pub leader_at: Option<LeaderAt>,
    /// `wal_committed`, with [`RefusalClause::IndexNeeded`].
    pub wal_committed: Option<LogIndex>,
}

/// Where to find a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderAt {
    /// Its shard.
    pub shard: ShardId,
    /// Where its node listens, an IP address and a port, of [`ADDRESS_BYTES_MAX`](super::ADDRESS_BYTES_MAX) bytes at most;
    /// empty where that is not known.
    pub address: String,
}

/// The clause by which something was refused.
///
/// Those from [`RefusalClause::CLIENTS_FROM`] on are a client's own: it says them to its caller, and they are never sent.
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
    /// The gate forbids the mode.
    ModeConflict = 13,
    /// The certificate does not allow it.
    Forbidden = 14,
    /// The machine did not admit the command.
    Rejected = 15,
    /// The append was for another term.
    TermChanged = 16,
    /// The gate forbids the read.
    ReadGate = 17,
    /// The machine takes longer over its batches than it may, and enough wait for it.
    ApplyBudget = 18,
    /// A client: its placement names no such partition or shard.
    NotPlaced = 128,
    /// A client: no frame can hold what is asked.
    TooLong = 129,
    /// A client: a node can't be reached, or was lost.
    Unreached = 130,
    /// A client: TLS failed, or a certificate is somebody else's.
    Untrusted = 131,
    /// A client: a node refused the connection, and said why.
    TurnedAway = 132,
    /// A client: the time was over, and nobody had given an answer that counts.
    Unanswered = 133,
    /// A client: a node answered what can't be read, or something else than was asked.
    Incompatible = 134,
    /// A client: it was closed.
    Closed = 135,
}

impl RefusalClause {
    /// The least number of a client's own clauses.
    pub const CLIENTS_FROM: u8 = 128;

    /// Whether a client says it of itself.
    #[must_use]
    pub const fn is_clients(self) -> bool {
        self as u8 >= Self::CLIENTS_FROM
    }
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
    /// How far its scrub is.
    pub scrub: ScrubStatus,
    /// Its guests.
    pub guests: GuestStatus,
}

/// Guests of a shard: shards of other nodes that neither the placement nor a configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestStatus {
    /// Those that are connected.
    pub here: u32,
    /// Those since the start that nothing named in time, and that were disconnected.
    pub unnamed: u64,
    /// Those since the start that were refused because all places were taken.
    pub refused: u64,
}

/// How far the scrub of a shard's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubStatus {
    /// Sweeps over everything that were finished since the start.
    pub sweeps: u64,
    /// How much of the present one is done, in thousandths.
    pub sweep_permille: u32,
    /// Bytes verified since the start.
    pub bytes: u64,
    /// Milliseconds since the last sweep ended; `None` before the first has.
    pub finished_ms_ago: Option<u64>,
    /// Milliseconds within which every byte was verified or written, of those in which a process ran on the log: the last sweep may
    /// have begun in an earlier one. `None` before the first sweep has ended.
    pub oldest_unverified_ms: Option<u64>,
    /// Damaged places that were found since the start.
    pub damaged_places: u64,
    /// Entries that became missing by it.
    pub lost_entries: u64,
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
    /// The mode in force on this replica.
    pub mode: DurabilityMode,
    /// The mode that was asked for last.
    pub wanted_mode: DurabilityMode,
    /// The clause that holds the leader in strict mode although group was asked for; empty if none does.
    pub held_back: String,
    /// Whether this replica leads and holds a lease.
    pub lease_held: bool,
    /// The clause by which a leader holds no lease; empty if it holds one or does not lead.
    pub no_lease: String,
    /// The 99th percentile of what its machine took over a batch, in microseconds; `None` before the first.
    pub apply_p99_us: Option<u64>,
    /// How often more than one of a hundred batches took longer than they may, while it led.
    pub apply_breaches: u64,
    /// How many entries may wait for its machine at the leader because of that; `None` where it is not limited.
    pub apply_backlog_max: Option<u64>,
    /// The entry whose missing content is asked for, while one is.
    pub asked_index: Option<LogIndex>,
    /// Whom it is asked of, [`MEMBERS_MAX`](super::MEMBERS_MAX) at most.
    pub asked: Vec<AskedNode>,
}

/// A node that was asked for missing content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedNode {
    /// Which.
    pub node: NodeId,
    /// What it answered.
    pub answer: AskedAnswer,
}

/// What a node that was asked for missing content answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AskedAnswer {
    /// Nothing yet.
    None = 0,
    /// The content is missing there too.
    Missing = 1,
    /// It is committed, and only in a snapshot there.
    Compacted = 2,
    /// It never had that entry.
    Never = 3,
    /// Nothing yet, and there is no session with it.
    Unreachable = 4,
}

/// Who belongs to a partition, as one replica of it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMembers {
    /// The partition.
    pub partition: PartitionId,
    /// The node that says so.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// Last index of its log.
    pub last_index: LogIndex,
    /// Durable on a quorum up to this index.
    pub wal_committed: LogIndex,
    /// How far a change of voters is.
    pub change: MembersChange,
    /// The members, ascending.
    pub members: Vec<MemberStatus>,
}

/// How far a change of voters is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MembersChange {
    /// None is under way.
    #[default]
    None,
    /// The voters before and those after it decide together since the entry at `entered`.
    Joint {
        /// Where it was entered.
        entered: LogIndex,
        /// Where it will be left, if that is in the log.
        exit: Option<LogIndex>,
        /// Whether that leads back.
        back: bool,
    },
    /// It was left at `exit`; those who vote no more are needed for a moment yet.
    Finishing {
        /// Where it was left.
        exit: LogIndex,
    },
}

/// One member of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its node.
    pub node: NodeId,
    /// Its shard there.
    pub shard: ShardId,
    /// What it is.
    pub standing: MemberStanding,
    /// Where it listens for its peers, if the placement does not say; else empty.
    pub address: String,
    /// Durable there up to this index, as the leader knows; `None` from others.
    pub durable: Option<LogIndex>,
    /// Whether the leader heard of it within an election timeout; false from others.
    pub answers: bool,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MemberStanding {
    /// It votes.
    Voter = 1,
    /// It votes among those after the change that is under way.
    Joining = 2,
    /// It votes among those before the change that is under way, or is needed until that is over.
    Leaving = 3,
    /// It gets the log, counts for nothing and may be promoted.
    Learner = 4,
    /// It gets the log and counts for nothing.
    Observer = 5,
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
