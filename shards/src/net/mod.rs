//! Connections as machines: bytes in, frames out, and back. No socket, no clock, no thread.
//!
//! From the ground up:
//!
//! - [`NetError`]: everything that is refused or lost
//! - [`Preface`]: what a dialler says in clear, to be routed
//! - [`SpiffeId`], [`TlsIdentity`]: who speaks
//! - [`Connection`]: TLS 1.3 with certificates on both sides, frames over it
//! - [`ShardNet`]: a shard's sockets: sessions with peer shards, connections of clients
//!
//! The only room that names rustls. A carrier (the shard's ring, or a client's thread) moves the bytes and brings
//! the time.

mod clients;
mod connection;
mod error;
mod identity;
mod limits;
mod notice;
mod peer;
mod preface;
mod sessions;
mod shard_net;
mod tls;

pub use connection::{Connection, ConnectionLimits, Expected, RECEIVE_BYTES_MAX};
pub use error::NetError;
pub use identity::{
    IDENTITY_FILE_BYTES_MAX, Role, SpiffeId, TlsFiles, TlsIdentity, application_protocol,
};
pub use limits::NetLimits;
pub use notice::Notice;
pub use peer::{Dial, LocalShard};
pub use preface::{PREFACE_BYTES, PREFACE_VERSION, Preface, SessionKind};
pub use shard_net::{ShardNet, SocketId};
