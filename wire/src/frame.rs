//! The transport frame: what one shard or client sends another, length-delimited and checksummed.

/// What a frame's body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The first frame of a peer session, both ways: [`crate::message::PeerHello`].
    PeerHello = 1,
    /// Consensus traffic of one shard pair, one batch per turn: [`crate::message::PeerBatch`].
    PeerBatch = 2,
    /// A client asks: [`crate::message::ClientRequest`].
    ClientRequest = 3,
    /// A client is answered: [`crate::message::ClientResponse`].
    ClientResponse = 4,
}

/// One frame, decoded: its kind and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body holds.
    pub kind: FrameKind,
    /// The message, in FlatBuffers.
    pub body: Vec<u8>,
}
