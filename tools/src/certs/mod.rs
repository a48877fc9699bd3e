//! Certificates, keys and the signed placement of a cluster: for development, and as a model for an operator's own
//! tooling. Secrets are written with mode 0600, nothing is ever overwritten.

mod authority;
mod cluster;
mod command;

use std::path::PathBuf;

pub use authority::Authority;
pub use cluster::{
    Cluster, ClusterPlan, load_placement_secret, make_cluster, make_placement_keys, nodes_in_a_row,
    placement_files, random_cluster,
};
pub use command::{CertsArgs, run};

/// The client for whom `clustor certs cluster` makes a certificate, and whose commands use unless told otherwise.
pub const DEFAULT_CLIENT: &str = "dev";
/// The operator for whom it makes one.
pub const DEFAULT_OPERATOR: &str = "ops";

use clustor_engine::security::SecurityError;
use clustor_shards::net::NetError;

use crate::exit::CommandError;
use crate::files::FileError;

/// Why certificates could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertsError {
    /// A file is missing, unreadable, or there already.
    #[error(transparent)]
    File(#[from] FileError),
    /// The CA's files are not a CA's.
    #[error("{path}: not a CA's file: {why}; make one with `clustor certs init`", path = path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The library's word.
        why: String,
    },
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Issue(String),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Random(String),
    /// The plan contradicts itself.
    #[error("{0}")]
    Plan(String),
    /// The placement, or its key, is not acceptable.
    #[error(transparent)]
    Placement(#[from] SecurityError),
    /// A name that no SPIFFE ID can hold.
    #[error(transparent)]
    Name(#[from] NetError),
}

impl CertsError {
    fn issue(error: rcgen::Error) -> Self {
        Self::Issue(error.to_string())
    }
}

impl From<CertsError> for CommandError {
    fn from(error: CertsError) -> Self {
        match &error {
            CertsError::File(FileError::Exists { .. } | FileError::Uncreatable { .. })
            | CertsError::Issue(_)
            | CertsError::Random(_) => Self::failed(error),
            CertsError::Plan(_) | CertsError::Name(_) => Self::usage(error),
            CertsError::File(_) | CertsError::Authority { .. } | CertsError::Placement(_) => {
                Self::bad_input(error)
            }
        }
    }
}
