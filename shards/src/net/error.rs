//! What goes wrong on the way between two shards: one enum for the room.

use crate::log::Encoding;
use std::path::PathBuf;

use clustor_wire::ids::{ClusterId, NodeId, ShardId};

use super::identity::SpiffeId;

/// Everything that `net` refuses or loses. The text says what, where and what to do; a session that ends
/// with one of these shows the other side the same text where TLS still stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// A file of the identity can't be read.
    #[error("{path}: can't read the {what}: {why}; check the path and its permissions", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// The system's word.
        why: String,
    },
    /// A file of the identity is not what it should be.
    #[error("{path}: not a valid {what}: {why}; make it again with `clustor certs`", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A private key that others may read.
    #[error("{path}: the private key has mode {mode:04o}, others may read it; `chmod 600` it", path = path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate's key is another one.
    #[error("{key}: not the private key of {certificate}; use the pair that was made together",
        key = key.display(), certificate = certificate.display())]
    KeyMismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
    },
    /// The certificate's time is over.
    #[error("{path}: the certificate expired at unix time {not_after_s}; make a new one with `clustor certs`", path = path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// Its end, in seconds since 1970.
        not_after_s: i64,
    },
    /// The certificate's time has not begun.
    #[error("{path}: the certificate is valid only from unix time {not_before_s}; check the clock of this machine", path = path.display())]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// Its begin, in seconds since 1970.
        not_before_s: i64,
    },
    /// The certificate was issued by another CA than the bundle holds.
    #[error("{certificate}: not issued by a CA in {ca} ({why}); use the bundle of the cluster that issued it",
        certificate = certificate.display(), ca = ca.display())]
    WrongCa {
        /// The certificate.
        certificate: PathBuf,
        /// The bundle.
        ca: PathBuf,
        /// The verifier's word.
        why: String,
    },
    /// A certificate without a usable SPIFFE ID.
    #[error(
        "the certificate of {of} names nobody: {why}; it needs exactly one URI `spiffe://<trust-domain>/node|operator|client/<name>`"
    )]
    NoIdentity {
        /// Whose certificate: a file, or the other side.
        of: String,
        /// What is wrong.
        why: String,
    },
    /// The TLS library refuses the configuration.
    #[error("TLS can't be set up: {why}")]
    Setup {
        /// The library's word.
        why: String,
    },

    /// What arrived is no preface.
    #[error("the connection does not begin with Clustor's preface: {hint}")]
    PrefaceUnknown {
        /// What may be the matter.
        hint: &'static str,
    },
    /// The preface's checksum does not fit.
    #[error("the preface is damaged: checksum {stored:08x} stored, {found:08x} computed")]
    PrefaceDamaged {
        /// As sent.
        stored: u32,
        /// As computed.
        found: u32,
    },
    /// A preface of another version.
    #[error(
        "the preface has version {version}, this node speaks 1; run the same release on all nodes"
    )]
    PrefaceVersion {
        /// The version sent.
        version: u8,
    },
    /// A field of the preface is out of its range.
    #[error("the preface's field `{field}` is out of range")]
    PrefaceField {
        /// Its name.
        field: &'static str,
    },

    /// TLS failed.
    #[error("TLS failed{phase}: {why}", phase = if *handshaking { " in the handshake" } else { "" })]
    Tls {
        /// Whether the handshake was still going on. A dialler's first reads count as the handshake: a TLS 1.3
        /// acceptor judges the dialler's certificate after the dialler's handshake has succeeded.
        handshaking: bool,
        /// The library's word.
        why: String,
    },
    /// The other side's frame is damaged, too long, or unknown.
    #[error("a frame was refused: {why}")]
    Frame {
        /// What is wrong with it.
        why: String,
    },
    /// The connection ended without a goodbye.
    #[error("the connection was lost: {why}")]
    Lost {
        /// The carrier's word.
        why: String,
    },
    /// The other side closed in order.
    #[error("the other side closed the connection")]
    ClosedByPeer,
    /// The other side closed and said why.
    #[error("the other side refused: {reason}")]
    RefusedByPeer {
        /// Its words, cut and cleaned.
        reason: String,
    },
    /// The handshake or the hello took too long.
    #[error("no session within {limit_ms} ms")]
    HandshakeTimeout {
        /// The limit.
        limit_ms: u64,
    },
    /// Nothing was heard for too long.
    #[error("nothing was heard for {limit_ms} ms")]
    Silent {
        /// The limit.
        limit_ms: u64,
    },
    /// More waits to be sent than the queue may hold.
    #[error(
        "the send queue is full: {frames} frames, {bytes} bytes; the other side reads too slowly"
    )]
    SendQueueFull {
        /// Frames waiting.
        frames: usize,
        /// Bytes waiting.
        bytes: usize,
    },
    /// A frame beyond the wire's limit was to be sent.
    #[error("a frame body of {bytes} bytes exceeds the limit of {limit} bytes")]
    FrameTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The connection is closing or closed.
    #[error("the connection is closed")]
    Closed,
    /// No session with that peer.
    #[error("no session with shard {shard} of node {node} is up")]
    NoSession {
        /// The node.
        node: NodeId,
        /// The shard.
        shard: ShardId,
    },
    /// All places for connections are taken.
    #[error("{limit} {what} are the limit, all are taken; close some or try another shard")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// All places for clients are taken, and this one needed its own least.
    #[error(
        "all {limit} places for clients of this shard are taken and another client came, and this connection was silent longest, for {silent_ms} ms; connect again when there is something to ask"
    )]
    Displaced {
        /// The limit.
        limit: usize,
        /// How long it was silent.
        silent_ms: u64,
    },
    /// The certificate belongs to somebody else than the connection is for.
    #[error("the certificate says {found}, expected {expected}")]
    WrongIdentity {
        /// What was expected.
        expected: String,
        /// What the certificate says.
        found: SpiffeId,
    },
    /// A certificate of another trust domain.
    #[error("the certificate is of trust domain {found}, this cluster's is {expected}")]
    WrongTrustDomain {
        /// Ours.
        expected: String,
        /// Theirs.
        found: String,
    },
    /// The hello names another node than the certificate.
    #[error("the hello claims node {claimed}, the certificate says node {certified}")]
    WrongNode {
        /// What the hello claims.
        claimed: NodeId,
        /// What the certificate says.
        certified: NodeId,
    },
    /// The hello, or the preface, is for another shard.
    #[error("the {what} names shard {found}, expected shard {expected}")]
    WrongShard {
        /// Which message and field.
        what: &'static str,
        /// What it names.
        found: ShardId,
        /// What was expected.
        expected: ShardId,
    },
    /// The preface names another cluster.
    #[error(
        "the connection is for cluster {found:032x}, this is cluster {expected:032x}; check the addresses in the placement"
    )]
    WrongCluster {
        /// Theirs.
        found: u128,
        /// Ours.
        expected: u128,
    },
    /// The two run under different placements: they disagree about who holds what and must not talk.
    #[error(
        "the placements differ in the cluster, its trust domain, record codec or partitions: theirs {theirs}, ours {ours}; give every node a signed manifest that agrees and restart"
    )]
    PlacementDiffers {
        /// First 16 hexadecimal digits of theirs.
        theirs: String,
        /// First 16 hexadecimal digits of ours.
        ours: String,
    },
    /// Their record frames are not ours.
    #[error(
        "their log has record version {version} and encoding {}, ours version {our_version} and encoding {}; run the same release on all nodes, and set CLUSTOR_LOG_ENCODING, or log_encoding in the profile, to the same",
        encoding_name(*.codec), encoding_name(*.our_codec)
    )]
    RecordsDiffer {
        /// Their version.
        version: u8,
        /// Their codec.
        codec: u8,
        /// Our version.
        our_version: u8,
        /// Our codec.
        our_codec: u8,
    },
    /// A shard of this very node, which is no peer.
    #[error(
        "node {node} is this node itself; give every node a certificate and a number of its own"
    )]
    Myself {
        /// The node.
        node: NodeId,
    },
    /// Somebody who is neither placed nor named, and no place is free for one more.
    #[error(
        "shard {shard} of node {node} is listed by no placement and named by no partition's members here, and {limit} such guests are let in at most; it may try again, or be listed in the placement of this node"
    )]
    GuestsFull {
        /// The node.
        node: NodeId,
        /// The shard.
        shard: ShardId,
        /// The limit.
        limit: usize,
    },
    /// Somebody who is neither placed nor named, and whose node has its share of the places.
    #[error(
        "shard {shard} of node {node} is listed by no placement and named by no partition's members here, and of one node's shards {limit} such guests are let in at most; it may try again, or be listed in the placement of this node"
    )]
    GuestsOfNodeFull {
        /// The node.
        node: NodeId,
        /// The shard.
        shard: ShardId,
        /// The limit.
        limit: usize,
    },
    /// Somebody who is neither placed nor named, and was not named since.
    #[error(
        "shard {shard} of node {node} was let in as a guest, and no partition here has named it as a member within {limit_ms} ms; it may come again, and stays once `clustor member add` has run or the placement of this node lists it"
    )]
    GuestUnnamed {
        /// The node.
        node: NodeId,
        /// The shard.
        shard: ShardId,
        /// The limit.
        limit_ms: u64,
    },
    /// A frame that has no place at this point of a session.
    #[error("a {kind} frame came {when}")]
    Unexpected {
        /// The frame's kind.
        kind: &'static str,
        /// When it came.
        when: &'static str,
    },
    /// A message inside a frame can't be read.
    #[error("a message can't be read: {why}")]
    Message {
        /// What is wrong.
        why: String,
    },
    /// Another connection of the same pair has precedence.
    #[error("another connection of the same shard pair has precedence")]
    Superseded,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl NetError {
    /// Whether this side refuses the session for a reason that the other side should be told.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Tls { .. } | Self::Lost { .. } | Self::ClosedByPeer | Self::RefusedByPeer { .. }
        )
    }

    /// The refusal of a preface that names another cluster.
    #[must_use]
    pub const fn wrong_cluster(found: ClusterId, expected: ClusterId) -> Self {
        Self::WrongCluster {
            found: found.get(),
            expected: expected.get(),
        }
    }
}

fn encoding_name(number: u8) -> String {
    match Encoding::from_u8(number) {
        Some(encoding) => encoding.name().to_owned(),
        None => format!("{number}, which this build does not know"),
    }
}
