//! Where the shards have their key from: the data directory's file, or what the embedder's own provider gave.

use clustor_shards::host::FileKeyProvider;
use clustor_shards::log::{Kek, KeyError, KeyProvider};

/// The key of one start, for each of its shards.
#[derive(Clone)]
pub(super) enum Keys {
    /// Read by each shard.
    File(FileKeyProvider),
    /// Asked for once, before anything was written.
    Given(Kek),
}

impl KeyProvider for Keys {
    fn kek(&self) -> Result<Kek, KeyError> {
        match self {
            Self::File(file) => file.kek(),
            Self::Given(kek) => Ok(kek.clone()),
        }
    }
}
