//! What crosses from handles to a shard's turn and back, as values.
//!
//! A handle puts a [`Request`] into the shard's queue; some later turn answers it with the [`Reply`] of the
//! same ticket: exactly one for each request that asks for something, in any order. Tickets are the asker's, unique among those
//! unanswered on a shard; the shard only carries them. Timeouts are the asker's business: it stops waiting
//! and ignores the late reply, for an append that was taken can't be taken back.

use core::fmt;
use std::any::Any;

use clustor_shards::log::Mode;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, Term};
pub use clustor_wire::message::{
    AskedAnswer, AskedNode, DurabilityMode, MemberStanding, MemberStatus, MembersChange,
    PartitionMembers, PartitionStatus, ProfileReload, Role, TurnedKnob,
};
use clustor_wire::message::{IdempotencyKey, ReadLevel, Refusal};

use crate::machine::deferred::Settled;
use crate::outcome::{Leadership, Outcome};
use crate::profile::ProfileNews;
use crate::raft::MemberChange;

/// A question to a partition on the shard.
#[derive(Debug)]
pub struct Request {
    /// The asker's mark; the reply carries it.
    pub ticket: u64,
    /// Which partition.
    pub partition: PartitionId,
    /// What is asked.
    pub body: RequestBody,
}

/// What is asked.
pub enum RequestBody {
    /// Append a command. Answered by [`Reply::Append`].
    Append {
        /// The command.
        payload: Vec<u8>,
        /// The key, and the `wal_committed` index known when it was first sent; without an index the answer
        /// is a refusal that carries one.
        key: Option<(IdempotencyKey, Option<LogIndex>)>,
        /// When to answer.
        wait: Wait,
        /// It enters the log in this term or not at all.
        only_in: Option<Term>,
    },
    /// Run a closure against the machine. Answered by [`Reply::Read`].
    Read {
        /// What the read relies on.
        level: ReadLevel,
        /// The closure.
        read: ReadFn,
    },
    /// Ask for a durability mode. Answered by [`Reply::Append`] when the change is applied.
    Mode(Mode),
    /// Ask how the replica stands. Answered by [`Reply::Status`].
    Status,
    /// Ask who belongs to the partition, or change that. Answered by [`Reply::Members`].
    Members(MembersRequest),
    /// A deferred effect of the partition's machine is settled. Nobody is answered.
    Settled(Settled),
    /// Take news of the node's profile: for the shard as a whole, whichever partition is named. Answered by
    /// [`Reply::Profile`].
    Profile(ProfileNews),
    /// Raise the clock alarm: for the shard as a whole, whichever partition is named. Answered by [`Reply::Profile`].
    ClockAlarm,
    /// Wait until a client asks for the node's profile to be read anew: of the shard, whichever partition is named. Answered by
    /// [`Reply::Profile`] when one has.
    AwaitReload,
    /// Say how that reading went, to whoever asked for it. Answered by [`Reply::Profile`].
    Reloaded(Box<ProfileReload>),
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append {
                payload,
                key,
                wait,
                only_in,
            } => f
                .debug_struct("Append")
                .field("payload_bytes", &payload.len())
                .field("key", key)
                .field("wait", wait)
                .field("only_in", only_in)
                .finish(),
            Self::Read { level, .. } => write!(f, "Read({level:?}, ..)"),
            Self::ClockAlarm => f.write_str("ClockAlarm"),
            Self::AwaitReload => f.write_str("AwaitReload"),
            Self::Reloaded(outcome) => f.debug_tuple("Reloaded").field(outcome).finish(),
            Self::Mode(mode) => f.debug_tuple("Mode").field(mode).finish(),
            Self::Status => f.write_str("Status"),
            Self::Members(request) => f.debug_tuple("Members").field(request).finish(),
            Self::Settled(settled) => f.debug_tuple("Settled").field(settled).finish(),
            Self::Profile(news) => f.debug_tuple("Profile").field(news).finish(),
        }
    }
}

/// What is asked about the members of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembersRequest {
    /// Who they are.
    Show,
    /// Change who they are. The answer comes when the change has begun: an entry of it is in the leader's log.
    Change(MemberChange),
    /// Hand leadership to this voter, or to the one that has most of the log. The answer comes when that has begun.
    Transfer(Option<PeerId>),
}

/// When an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wait {
    /// When the machine has applied it; the answer has the machine's reply.
    #[default]
    Applied,
    /// When it is durable on a quorum, before it is applied; the reply is empty. Not with a key: whether a
    /// key executes is known at apply only. Such an append is refused as unsupported.
    Committed,
}

/// A closure that is run on the shard against the machine, as [`crate::machine::AnyMachine::as_any`] gives
/// it, and what it found.
pub type ReadFn = Box<dyn FnOnce(&dyn Any) -> Box<dyn Any + Send> + Send>;

/// What a shard tells a handle.
pub enum Reply {
    /// What became of an append.
    Append {
        /// The request's ticket.
        ticket: u64,
        /// The outcome.
        outcome: Outcome,
    },
    /// What a read found, or why it was not served.
    Read {
        /// The request's ticket.
        ticket: u64,
        /// What the closure returned.
        found: Result<Box<dyn Any + Send>, Refusal>,
    },
    /// How the replica stands, or that there is none.
    Status {
        /// The request's ticket.
        ticket: u64,
        /// Its status.
        status: Result<PartitionStatus, Refusal>,
    },
    /// Who belongs to the partition, as this replica knows after what was asked, or why it was refused.
    Members {
        /// The request's ticket.
        ticket: u64,
        /// The members.
        members: Result<PartitionMembers, Refusal>,
    },
    /// The news of the profile, or the clock alarm, was taken.
    Profile {
        /// The request's ticket.
        ticket: u64,
    },
    /// The leadership of a partition changed. Unasked for, sent at each change; before the first of a
    /// partition it is [`Leadership::Follower`].
    Leadership {
        /// Which partition.
        partition: PartitionId,
        /// How the replica stands now.
        leadership: Leadership,
    },
}

impl Reply {
    /// The ticket of the request that this answers, if it answers one.
    #[must_use]
    pub const fn ticket(&self) -> Option<u64> {
        match self {
            Self::Append { ticket, .. }
            | Self::Read { ticket, .. }
            | Self::Status { ticket, .. }
            | Self::Members { ticket, .. }
            | Self::Profile { ticket } => Some(*ticket),
            Self::Leadership { .. } => None,
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { ticket, outcome } => f
                .debug_struct("Append")
                .field("ticket", ticket)
                .field("outcome", outcome)
                .finish(),
            Self::Read { ticket, found } => f
                .debug_struct("Read")
                .field("ticket", ticket)
                .field("refusal", &found.as_ref().err())
                .finish_non_exhaustive(),
            Self::Status { ticket, status } => f
                .debug_struct("Status")
                .field("ticket", ticket)
                .field("status", status)
                .finish(),
            Self::Members { ticket, members } => f
                .debug_struct("Members")
                .field("ticket", ticket)
                .field("members", members)
                .finish(),
            Self::Profile { ticket } => f.debug_struct("Profile").field("ticket", ticket).finish(),
            Self::Leadership {
                partition,
                leadership,
            } => f
                .debug_struct("Leadership")
                .field("partition", partition)
                .field("leadership", leadership)
                .finish(),
        }
    }
}
