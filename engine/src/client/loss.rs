//! Why a connection ended, or could not begin.

use clustor_shards::net::NetError;
use clustor_wire::message::RefusalClause;

/// Why a connection ended, or could not begin: which of a client's own clauses, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The clause; its remedy is a client's.
    pub clause: RefusalClause,
    /// What happened.
    pub why: String,
}

impl Loss {
    /// The node can't be reached, or was lost.
    pub fn unreached(why: impl ToString) -> Self {
        Self::by(RefusalClause::Unreached, why)
    }

    /// It sent what this client can't read, or did not ask for.
    pub fn incompatible(why: impl ToString) -> Self {
        Self::by(RefusalClause::Incompatible, why)
    }

    fn by(clause: RefusalClause, why: impl ToString) -> Self {
        Self {
            clause,
            why: why.to_string(),
        }
    }
}

impl From<NetError> for Loss {
    fn from(error: NetError) -> Self {
        let clause = match &error {
            NetError::RefusedByPeer { .. } => RefusalClause::TurnedAway,
            NetError::Tls { .. }
            | NetError::Setup { .. }
            | NetError::NoIdentity { .. }
            | NetError::WrongIdentity { .. }
            | NetError::WrongTrustDomain { .. } => RefusalClause::Untrusted,
            NetError::Frame { .. } | NetError::Message { .. } | NetError::Unexpected { .. } => {
                RefusalClause::Incompatible
            }
            _ => RefusalClause::Unreached,
        };
        Self::by(clause, error)
    }
}
