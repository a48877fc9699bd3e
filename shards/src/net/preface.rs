//! The preface: 32 bytes that a dialler sends in clear before TLS begins.
//!
//! It only routes: the acceptor learns which shard the connection is for and hands the descriptor over before
//! a single byte of TLS is read. It authenticates nothing; everything it claims is claimed again, and proved,
//! inside TLS (the application protocol for the kind, the certificate for the identity, the hello for shard,
//! cluster and placement). Layout: docs/specification.md, section 5.

use clustor_wire::ids::{ClusterId, ShardId};

use super::error::NetError;

/// Length of an encoded preface in bytes.
pub const PREFACE_BYTES: usize = 32;
/// The version of the preface, and of the session that follows it.
pub const PREFACE_VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"CLST";
const ANY_SHARD: u16 = u16::MAX;
const CHECKED_BYTES: usize = PREFACE_BYTES - 4;
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

/// Who speaks on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SessionKind {
    /// A shard of another node.
    Peer = 1,
    /// A client: a program or an operator.
    Client = 2,
}

impl core::fmt::Display for SessionKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Peer => "peer",
            Self::Client => "client",
        })
    }
}

/// What a preface says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preface {
    /// Peer or client.
    pub kind: SessionKind,
    /// The cluster the dialler believes it reaches; `None` where a client doesn't say.
    pub cluster: Option<ClusterId>,
    /// The shard it wants; `None` for whichever the node chooses (clients only).
    pub shard: Option<ShardId>,
}

impl Preface {
    /// The preface of a peer's connection to `shard`.
    #[must_use]
    pub const fn peer(cluster: ClusterId, shard: ShardId) -> Self {
        Self {
            kind: SessionKind::Peer,
            cluster: Some(cluster),
            shard: Some(shard),
        }
    }

    /// The preface of a client's connection, to one shard or to any.
    #[must_use]
    pub const fn client(cluster: Option<ClusterId>, shard: Option<ShardId>) -> Self {
        Self {
            kind: SessionKind::Client,
            cluster,
            shard,
        }
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0u8; PREFACE_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = PREFACE_VERSION;
        bytes[5] = self.kind as u8;
        let shard = self.shard.map_or(ANY_SHARD, ShardId::get);
        bytes[6..8].copy_from_slice(&shard.to_le_bytes());
        let cluster = self.cluster.map_or(0, ClusterId::get);
        bytes[8..24].copy_from_slice(&cluster.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a preface.
    ///
    /// # Errors
    /// [`NetError::PrefaceUnknown`] where something else speaks, [`NetError::PrefaceDamaged`],
    /// [`NetError::PrefaceVersion`], and [`NetError::PrefaceField`] for a field out of its range.
    pub fn decode(bytes: &[u8; PREFACE_BYTES]) -> Result<Self, NetError> {
        if bytes[0..4] != MAGIC {
            return Err(NetError::PrefaceUnknown {
                hint: if bytes[0] == TLS_HANDSHAKE_RECORD {
                    "TLS without the preface: is a plain TLS client dialling this port?"
                } else {
                    "is something other than Clustor dialling this port?"
                },
            });
        }
        let found = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        let mut stored = [0u8; 4];
        stored.copy_from_slice(&bytes[CHECKED_BYTES..]);
        let stored = u32::from_le_bytes(stored);
        if found != stored {
            return Err(NetError::PrefaceDamaged { stored, found });
        }
        if bytes[4] != PREFACE_VERSION {
            return Err(NetError::PrefaceVersion { version: bytes[4] });
        }
        let kind = match bytes[5] {
            1 => SessionKind::Peer,
            2 => SessionKind::Client,
            _ => return Err(NetError::PrefaceField { field: "kind" }),
        };
        let shard = u16::from_le_bytes([bytes[6], bytes[7]]);
        let mut cluster = [0u8; 16];
        cluster.copy_from_slice(&bytes[8..24]);
        let cluster = u128::from_le_bytes(cluster);
        if bytes[24..CHECKED_BYTES] != [0; 4] {
            return Err(NetError::PrefaceField { field: "reserved" });
        }
        let preface = Self {
            kind,
            cluster: (cluster != 0).then_some(ClusterId(cluster)),
            shard: (shard != ANY_SHARD).then_some(ShardId(shard)),
        };
        if kind == SessionKind::Peer {
            if preface.cluster.is_none() {
                return Err(NetError::PrefaceField { field: "cluster" });
            }
            if preface.shard.is_none() {
                return Err(NetError::PrefaceField { field: "shard" });
            }
        }
        Ok(preface)
    }
}
