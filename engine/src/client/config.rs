//! What a client is made of, and why it can't be made.

use clustor_shards::net::TlsIdentity;

use super::settings::ClientSettings;
use crate::security::Placement;

/// What a client is made of.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The cluster's nodes and partitions, as its operator signed them.
    pub placement: Placement,
    /// Who the client is.
    pub identity: TlsIdentity,
    /// Bounds and times.
    pub settings: ClientSettings,
}

impl ClientConfig {
    /// A client with the default bounds and times.
    #[must_use]
    pub fn new(placement: Placement, identity: TlsIdentity) -> Self {
        Self {
            placement,
            identity,
            settings: ClientSettings::default(),
        }
    }
}

/// Why a client can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificate is of another cluster.
    #[error(
        "client: the certificate is of trust domain {certificate}, the placement of {placement}: take both from one \
         cluster"
    )]
    WrongTrustDomain {
        /// The certificate's.
        certificate: String,
        /// The placement's.
        placement: String,
    },
    /// The system gave no random seed.
    #[error("client: no randomness from the system: {0}")]
    Seed(getrandom::Error),
    /// The client's thread can't be set up.
    #[error("client: {what}: {why}")]
    System {
        /// What failed.
        what: &'static str,
        /// The system's word.
        why: std::io::Error,
    },
}
