//! Keys: one secret from a provider, everything else derived (HKDF-SHA256, RFC 5869).
//!
//! - KEK: 32 bytes from the embedder's [`KeyProvider`];
//! - data key = HKDF(KEK, "clustor dek", cluster, node, shard, dek epoch);
//! - segment key = HKDF(data key, the pair's salt): a pair restored from an old image and written again has a
//!   fresh salt, so a (key, nonce) pair can't seal two plaintexts;
//! - integrity key = HKDF(KEK, "clustor mac", cluster, node, shard, mac epoch).
//!
//! All are zeroized when dropped.

use clustor_wire::ids::{ClusterId, DekEpoch, MacEpoch, NodeId, ShardId};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::aead::Aead;
use super::format::{Suite, SuiteUnavailable};
use super::seal::Sealer;

/// Bytes of every key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a pair's salt.
pub const SALT_BYTES: usize = 32;
/// Bytes of an integrity MAC (HMAC-SHA256, RFC 2104).
pub const MAC_BYTES: usize = 32;

/// Whose log this is. Part of every derived key and of every header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The shard.
    pub shard: ShardId,
}

impl core::fmt::Display for LogIdentity {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "cluster {:032x}, node {}, shard {}",
            self.cluster.get(),
            self.node,
            self.shard
        )
    }
}

/// Why a key can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no key: {0}")]
pub struct KeyError(pub String);

/// The key-encryption key. Never written anywhere by the log.
#[derive(Clone)]
pub struct Kek(Zeroizing<[u8; KEY_BYTES]>);

impl Kek {
    /// Takes 32 secret bytes.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(bytes)
    }
}

impl core::fmt::Debug for Kek {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Kek(..)")
    }
}

/// Where the key-encryption key comes from: a file, or a key management service.
pub trait KeyProvider {
    /// The key.
    ///
    /// # Errors
    /// When it can't be had; the message says what to do.
    fn kek(&self) -> Result<Kek, KeyError>;
}

/// The keys of one shard, derived when they are needed.
#[derive(Debug, Clone)]
pub(super) struct ShardKeys {
    kek: Kek,
    identity: LogIdentity,
}

impl ShardKeys {
    pub fn new(kek: Kek, identity: LogIdentity) -> Self {
        Self { kek, identity }
    }

    /// What they are derived from.
    pub fn kek(&self) -> &Kek {
        &self.kek
    }

    pub fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    fn derive(&self, purpose: &[u8], epoch: u32) -> Zeroizing<[u8; KEY_BYTES]> {
        let hkdf = Hkdf::<Sha256>::new(None, &*self.kek.0);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hkdf.expand_multi_info(
            &[
                purpose,
                &self.identity.cluster.get().to_le_bytes(),
                &self.identity.node.get().to_le_bytes(),
                &self.identity.shard.get().to_le_bytes(),
                &epoch.to_le_bytes(),
            ],
            &mut *key,
        )
        .expect("32 bytes are a valid HKDF output length");
        key
    }

    /// What makes the tags of one pair's segment.
    ///
    /// # Errors
    /// [`SuiteUnavailable`].
    pub fn segment_sealer(
        &self,
        suite: Suite,
        epoch: DekEpoch,
        salt: &[u8; SALT_BYTES],
    ) -> Result<Sealer, SuiteUnavailable> {
        suite.check_available()?;
        let dek = self.derive(b"clustor dek", epoch.get());
        let hkdf = Hkdf::<Sha256>::new(Some(salt), &*dek);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hkdf.expand(b"clustor segment", &mut *key)
            .expect("32 bytes are a valid HKDF output length");
        match suite {
            Suite::None => Ok(Sealer::Clear),
            Suite::ChaCha20Poly1305 => Ok(Sealer::Aead(Aead::chacha20_poly1305(&key))),
            #[cfg(feature = "aws-lc")]
            Suite::Aes256Gcm => Ok(Sealer::Aead(Aead::aes_256_gcm(&key))),
            #[cfg(not(feature = "aws-lc"))]
            Suite::Aes256Gcm => Err(SuiteUnavailable(suite)),
        }
    }

    /// The keyed MAC of one epoch, ready to be cloned per block.
    pub fn integrity(&self, epoch: MacEpoch) -> Hmac<Sha256> {
        let key = self.derive(b"clustor mac", epoch.get());
        Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes keys of any length")
    }
}
