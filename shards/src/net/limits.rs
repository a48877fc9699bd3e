//! Bounds of a shard's sockets: every wait and every number of things.

use super::connection::ConnectionLimits;
use crate::turn::{GUEST_MS_MAX, GUESTS_MAX, GUESTS_OF_NODE_MAX};

/// Bounds of a shard's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetLimits {
    /// From the begin of a dial, or from acceptance, to a session, in milliseconds.
    pub handshake_ms_max: u64,
    /// The least wait between two dials, in milliseconds.
    pub backoff_ms_min: u64,
    /// The greatest wait between two dials, in milliseconds.
    pub backoff_ms_max: u64,
    /// Of two nodes the higher dials, too, once it has had no session for so long, in milliseconds: each wait is drawn
    /// from its upper half. It leaves the lower time for several dials.
    pub patience_ms: u64,
    /// A session that lasted so long clears the count of failed dials, in milliseconds.
    pub settled_ms_min: u64,
    /// A session is given a sign of life in this rhythm, in milliseconds.
    pub keepalive_ms: u64,
    /// A peer not heard for so long is closed, in milliseconds; several keepalives.
    pub silence_ms_max: u64,
    /// How long an ended socket may take to send its last bytes, in milliseconds.
    pub drain_ms_max: u64,
    /// Connections of clients, handshakes included.
    pub clients_max: usize,
    /// How long a client must have been silent, and owed nothing, before a newcomer may have its place where all are taken, in
    /// milliseconds.
    pub client_idle_ms_min: u64,
    /// Accepted connections of peers that are not a session yet.
    pub handshakes_max: usize,
    /// Sessions with guests: peers that are neither placed nor named.
    pub guests_max: usize,
    /// Of these, with shards of one node.
    pub guests_of_node_max: usize,
    /// How long a guest that nothing names may stay, in milliseconds.
    pub guest_ms_max: u64,
    /// Bytes of frames in events not yet taken; one frame may exceed it.
    pub event_bytes_max: usize,
    /// Bounds of each connection.
    pub connection: ConnectionLimits,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            handshake_ms_max: 5_000,
            backoff_ms_min: 50,
            backoff_ms_max: 1_000,
            patience_ms: 4_000,
            settled_ms_min: 1_000,
            keepalive_ms: 1_000,
            silence_ms_max: 5_000,
            drain_ms_max: 2_000,
            clients_max: 1_024,
            client_idle_ms_min: 1_000,
            handshakes_max: 64,
            guests_max: GUESTS_MAX,
            guests_of_node_max: GUESTS_OF_NODE_MAX,
            guest_ms_max: GUEST_MS_MAX,
            event_bytes_max: 16 << 20,
            connection: ConnectionLimits::default(),
        }
    }
}
