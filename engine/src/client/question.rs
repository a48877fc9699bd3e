//! What is asked, and what is answered.

use clustor_shards::turn::PeerId;
use clustor_wire::frame::FRAME_BODY_BYTES_MAX;
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, DurabilityMode, IdempotencyKey, MembersVerb, MessageError,
    PartitionMembers, ProfileReload, ReadLevel, Refusal, ShardStatus,
};

use super::pending::{MembersError, ReadAnswer};
use crate::outcome::Outcome;

/// The longest command or query in bytes: a frame's body less what stands around it.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX - 4096;

/// By what repeated sendings of an append are known to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keying {
    /// By nothing: it is sent once, and an answer that is lost leaves its outcome unknown.
    None,
    /// By a key that was never sent before.
    New(IdempotencyKey),
    /// By the key and index of an earlier append whose outcome is unknown.
    Retry(IdempotencyKey, LogIndex),
}

impl Keying {
    pub(super) const fn key(self) -> Option<IdempotencyKey> {
        match self {
            Self::None => None,
            Self::New(key) | Self::Retry(key, _) => Some(key),
        }
    }
}

/// A question for the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Append a command.
    Append {
        /// To which partition.
        partition: PartitionId,
        /// Its key.
        keying: Keying,
        /// The command, at most [`PAYLOAD_BYTES_MAX`].
        payload: Vec<u8>,
        /// It enters the log in this term or never: refused by `TermChanged` where another has begun.
        only_in: Option<Term>,
    },
    /// Ask a partition's machine.
    Read {
        /// Which partition.
        partition: PartitionId,
        /// What the read relies on.
        level: ReadLevel,
        /// The machine's own query, at most [`PAYLOAD_BYTES_MAX`].
        query: Vec<u8>,
    },
    /// Ask for a durability mode. To ask twice does no harm.
    Mode {
        /// Of which partition.
        partition: PartitionId,
        /// The mode.
        mode: DurabilityMode,
    },
    /// Ask who belongs to a partition, or for a change of that. To ask twice does no harm.
    Members {
        /// Of which partition.
        partition: PartitionId,
        /// What is asked.
        verb: MembersVerb,
        /// Whom it is about; nobody has node 0.
        peer: PeerId,
        /// Where that listens for its peers; empty if the placement says.
        address: String,
    },
    /// Ask one shard how it stands. Answered with the first refusal or lost connection: it is not asked again.
    Status {
        /// Which shard.
        at: PeerId,
        /// One partition, or all on that shard.
        partition: Option<PartitionId>,
    },
    /// Have a node read its profile anew. Asked once, like a status; to ask twice does no harm.
    Reload {
        /// Which shard: the node's first.
        at: PeerId,
    },
}

impl Question {
    /// The partition by which it is routed; `None` for what one shard is asked.
    pub(super) const fn partition(&self) -> Option<PartitionId> {
        match self {
            Self::Append { partition, .. }
            | Self::Read { partition, .. }
            | Self::Mode { partition, .. }
            | Self::Members { partition, .. } => Some(*partition),
            Self::Status { .. } | Self::Reload { .. } => None,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append { payload, .. } => payload.len(),
            Self::Read { query, .. } => query.len(),
            Self::Mode { .. }
            | Self::Members { .. }
            | Self::Status { .. }
            | Self::Reload { .. } => 0,
        }
    }

    /// Whether a sending with this index could execute: an append, unless its key still lacks an index, or a change.
    pub(super) fn may_execute(&self, index: Option<LogIndex>) -> bool {
        match self {
            Self::Append { keying, .. } => keying.key().is_none() || index.is_some(),
            Self::Mode { .. } => true,
            Self::Members { verb, .. } => *verb != MembersVerb::Show,
            Self::Read { .. } | Self::Status { .. } | Self::Reload { .. } => false,
        }
    }

    /// The answer if it was refused unsent. An append that repeats an earlier one may still happen.
    pub(super) fn refused(&self, refusal: Refusal) -> Answer {
        match self {
            Self::Append {
                keying: Keying::Retry(key, index),
                ..
            } => Answer::Append(Outcome::Unknown {
                clause: Some(refusal.clause),
                why: refusal.message,
                key: Some(*key),
                wal_committed: *index,
            }),
            Self::Append { .. } | Self::Mode { .. } => {
                Answer::Append(Outcome::NotExecuted { refusal })
            }
            Self::Read { .. } => Answer::Read(Err(refusal)),
            Self::Members { .. } => Answer::Members(Err(MembersError {
                refusal,
                may_have_begun: false,
            })),
            Self::Status { .. } => Answer::Status(Err(refusal)),
            Self::Reload { .. } => Answer::Reload(Err(refusal)),
        }
    }

    /// The request's message. The payload moves into it and back: it is copied once, into the frame.
    pub(super) fn encode(
        &mut self,
        id: u64,
        index: Option<LogIndex>,
    ) -> Result<Vec<u8>, MessageError> {
        let mut out = Vec::with_capacity(self.bytes() + 128);
        let body = match self {
            Self::Append {
                partition,
                keying,
                payload,
                only_in,
            } => ClientRequestBody::Append {
                partition: *partition,
                key: keying.key().map(|key| (key, index)),
                payload: core::mem::take(payload),
                only_in: *only_in,
            },
            Self::Read {
                partition,
                level,
                query,
            } => ClientRequestBody::Read {
                partition: *partition,
                level: *level,
                query: core::mem::take(query),
            },
            Self::Mode { partition, mode } => ClientRequestBody::Mode {
                partition: *partition,
                mode: *mode,
            },
            Self::Members {
                partition,
                verb,
                peer,
                address,
            } => ClientRequestBody::Members {
                partition: *partition,
                verb: *verb,
                node: peer.node,
                shard: peer.shard,
                address: address.clone(),
            },
            Self::Reload { .. } => ClientRequestBody::Reload,
            Self::Status { partition, .. } => ClientRequestBody::Status {
                partition: *partition,
            },
        };
        let request = ClientRequest { id, body };
        let encoded = request.encode(&mut out);
        match (self, request.body) {
            (Self::Append { payload, .. }, ClientRequestBody::Append { payload: back, .. }) => {
                *payload = back;
            }
            (Self::Read { query, .. }, ClientRequestBody::Read { query: back, .. }) => {
                *query = back;
            }
            _ => {}
        }
        encoded.map(|()| out)
    }
}

/// The one answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What became of an append, or of a change of the mode.
    Append(Outcome),
    /// What the machine answered, or why it was not asked.
    Read(Result<ReadAnswer, Refusal>),
    /// Who belongs to a partition, after what was asked has begun, or why it has not.
    Members(Result<PartitionMembers, MembersError>),
    /// How the shard stands, or why it did not say.
    Status(Result<ShardStatus, Refusal>),
    /// How the reading of the profile went, or why the node did not say.
    Reload(Result<ProfileReload, Refusal>),
}
