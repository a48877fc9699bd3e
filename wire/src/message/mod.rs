//! The typed messages the engine speaks. Their FlatBuffers form is made and read here, in one place.
//!
//! Decoding verifies: offsets by the FlatBuffers verifier, enums and lengths by hand. A message that fails is an
//! error with the registry's code, never a panic. Entries travel as one byte vector of record frames
//! (`clustor-shards`, log records), the very bytes that lie in the log; their own checksums are verified by
//! whoever takes them.
//!
//! Encoding refuses what decoding would: a list over its limit, a message that no frame could hold. It keeps its
//! working memory per thread, so that a steady stream of messages allocates nothing but the caller's buffer.

mod client;
mod client_codec;
mod codec;
mod error;
mod peer;
mod peer_codec;

pub use client::{
    AskedAnswer, AskedNode, ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody,
    DurabilityMode, GuestStatus, IdempotencyKey, LeaderAt, MemberStanding, MemberStatus,
    MembersChange, MembersVerb, PartitionMembers, PartitionStatus, ProfileReload, ReadLevel,
    Refusal, RefusalClause, Role, ScrubStatus, ShardStatus, TurnedKnob,
};
pub use error::MessageError;
pub use peer::{
    ElectionBounds, Heartbeat, HeartbeatAck, PairBeat, PeerBatch, PeerHello, QuietLed, RaftBody,
    RaftMessage, RefetchVerdict,
};

/// Most heartbeats in one [`PeerBatch`], and most answers to heartbeats.
pub const BATCH_HEARTBEATS_MAX: usize = 65_535;

/// Most messages in one [`PeerBatch`].
pub const BATCH_MESSAGES_MAX: usize = 16_384;

/// Most partitions listed in one [`PairBeat`].
pub const QUIET_LISTED_MAX: usize = 65_535;

/// Most members in one [`PartitionMembers`].
pub const MEMBERS_MAX: usize = 64;

/// Most bytes of an address where a node listens, as a [`Refusal`] names it.
pub const ADDRESS_BYTES_MAX: usize = 48;

/// Most knobs in each list of one [`ProfileReload`].
pub const TURNED_KNOBS_MAX: usize = 256;

/// Most faults in one [`ProfileReload`].
pub const PROFILE_FAULTS_MAX: usize = 128;

/// Most partitions in one [`ShardStatus`].
pub const STATUS_PARTITIONS_MAX: usize = 16_384;

/// Highest number of an I/O writer mode: 0 FixedUring, 1 RegisteredUring, 2 Blocking.
pub const IO_WRITER_MODE_MAX: u8 = 2;
