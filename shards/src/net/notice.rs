//! What the carrier should log: sessions that came and went, and why somebody was refused.

use super::error::NetError;
use super::identity::SpiffeId;
use crate::turn::PeerId;

/// Something for the carrier's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A session with a peer began.
    PeerUp(PeerId),
    /// A session with a guest began: a peer that is neither placed nor named.
    GuestUp(PeerId),
    /// A session with a peer, or a guest, ended.
    PeerDown(PeerId, NetError),
    /// A dial did not lead to a session. The same reason is told once until a session was up.
    DialFailed(PeerId, NetError),
    /// A connection accepted for a peer did not lead to a session; who it was, where a certificate told.
    PeerRefused(Option<SpiffeId>, NetError),
    /// A client's connection ended, or was refused.
    ClientClosed(Option<SpiffeId>, NetError),
}
