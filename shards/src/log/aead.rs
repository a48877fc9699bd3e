//! Authenticated encryption behind the sealing suites: one key, explicit nonces, in place, nothing allocated per call.
//!
//! ChaCha20-Poly1305 (RFC 8439) comes from the `chacha20poly1305` crate or, with the feature `aws-lc`, from
//! aws-lc-rs: the same bytes, faster. AES-256-GCM (NIST SP 800-38D) comes from aws-lc-rs alone. Keys are wiped when an
//! [`Aead`] is dropped: the crate zeroizes, AWS-LC cleanses what it frees.
//!
//! Whoever seals must never use a nonce twice under one key.

#[cfg(feature = "aws-lc")]
use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, Tag};

use super::keys::KEY_BYTES;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// Whether this build has AES-256-GCM.
pub const HAS_AES: bool = cfg!(feature = "aws-lc");
/// Who computes ChaCha20-Poly1305 in this build, for people.
pub const CHACHA20_POLY1305_PROVIDER: &str = if cfg!(feature = "aws-lc") {
    "aws-lc-rs"
} else {
    "chacha20poly1305"
};

/// The bytes are not what was sealed under this key, nonce and additional data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct OpenError;

enum Cipher {
    Portable(Box<ChaCha20Poly1305>),
    #[cfg(feature = "aws-lc")]
    AwsLc(LessSafeKey),
}

/// One key of one algorithm.
pub struct Aead(Cipher);

impl core::fmt::Debug for Aead {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Aead(..)")
    }
}

impl Aead {
    /// ChaCha20-Poly1305, computed by whatever is fastest in this build.
    #[must_use]
    pub fn chacha20_poly1305(key: &[u8; KEY_BYTES]) -> Self {
        #[cfg(feature = "aws-lc")]
        return Self::aws_lc(&CHACHA20_POLY1305, key);
        #[cfg(not(feature = "aws-lc"))]
        Self::portable_chacha20_poly1305(key)
    }

    /// ChaCha20-Poly1305, computed by the `chacha20poly1305` crate.
    #[must_use]
    pub fn portable_chacha20_poly1305(key: &[u8; KEY_BYTES]) -> Self {
        Self(Cipher::Portable(Box::new(ChaCha20Poly1305::new(
            key.into(),
        ))))
    }

    /// AES-256-GCM.
    #[cfg(feature = "aws-lc")]
    #[must_use]
    pub fn aes_256_gcm(key: &[u8; KEY_BYTES]) -> Self {
        Self::aws_lc(&AES_256_GCM, key)
    }

    #[cfg(feature = "aws-lc")]
    fn aws_lc(algorithm: &'static aws_lc_rs::aead::Algorithm, key: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(algorithm, key).expect("both algorithms take keys of 32 bytes");
        Self(Cipher::AwsLc(LessSafeKey::new(key)))
    }

    /// Seals `in_out` in place and returns its tag. `in_out` is far below 64 GiB, the least of the algorithms'
    /// limits, wherever it fits memory that this project deals in.
    #[must_use]
    pub fn seal(
        &self,
        nonce: &[u8; NONCE_BYTES],
        additional: &[u8],
        in_out: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        match &self.0 {
            Cipher::Portable(cipher) => cipher
                .encrypt_inout_detached(&(*nonce).into(), additional, in_out.into())
                .expect("far below the cipher's limit")
                .into(),
            #[cfg(feature = "aws-lc")]
            Cipher::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::from(additional), in_out)
                    .expect("far below the cipher's limit");
                let mut bytes = [0; TAG_BYTES];
                bytes.copy_from_slice(tag.as_ref());
                bytes
            }
        }
    }

    /// Opens `in_out` in place; the tag is compared in constant time.
    ///
    /// # Errors
    /// [`OpenError`]; then what `in_out` holds must not be used.
    pub fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        additional: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), OpenError> {
        match &self.0 {
            Cipher::Portable(cipher) => cipher
                .decrypt_inout_detached(
                    &(*nonce).into(),
                    additional,
                    in_out.into(),
                    &Tag::from(*tag),
                )
                .map_err(|_| OpenError),
            #[cfg(feature = "aws-lc")]
            Cipher::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(additional), tag, in_out)
                    .map(|_| ())
                    .map_err(|_| OpenError)
            }
        }
    }
}
