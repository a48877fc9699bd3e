//! The Ed25519 key pair that signs placements, and the signature line.
//!
//! A signed manifest is one file: the text, and as its last line `# signature = ed25519:<hex>`, over all bytes
//! before that line. TOML reads that line as a comment, so the file stays what it says. Layout:
//! docs/specification.md, section 6.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::SecurityError;

const PUBLIC_FORM: &str = "ed25519:<64 hexadecimal digits>";
const PUBLIC_PREFIX: &str = "ed25519:";
const SECRET_FORM: &str = "ed25519-secret:<64 hexadecimal digits>";
const SECRET_PREFIX: &str = "ed25519-secret:";
const SIGNATURE_PREFIX: &str = "# signature = ed25519:";
const SIGNATURE_HEX_BYTES: usize = 128;
/// What is signed begins with this, so that a signature for anything else is none for a placement.
const CONTEXT: &[u8] = b"clustor placement 1\0";

/// The public key that placements are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementKey(VerifyingKey);

impl PlacementKey {
    /// Reads `ed25519:<64 hexadecimal digits>`; a line end may follow.
    ///
    /// # Errors
    /// [`SecurityError::KeyMalformed`].
    pub fn parse(text: &str) -> Result<Self, SecurityError> {
        let key: Option<[u8; 32]> = parse_hex(text.trim_end(), PUBLIC_PREFIX);
        key.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .map(Self)
            .ok_or(SecurityError::KeyMalformed {
                what: "public key of placements",
                form: PUBLIC_FORM,
            })
    }

    /// Splits a signed file into its text, if the signature is this key's.
    pub(super) fn verify<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], SecurityError> {
        let line_bytes = SIGNATURE_PREFIX.len() + SIGNATURE_HEX_BYTES + 1;
        let at = file
            .len()
            .checked_sub(line_bytes)
            .ok_or(SecurityError::Unsigned)?;
        let (text, line) = file.split_at(at);
        let line = line
            .strip_suffix(b"\n")
            .and_then(|line| core::str::from_utf8(line).ok())
            .filter(|_| text.is_empty() || text.ends_with(b"\n"))
            .ok_or(SecurityError::Unsigned)?;
        let signature: [u8; 64] =
            parse_hex(line, SIGNATURE_PREFIX).ok_or(SecurityError::Unsigned)?;
        self.0
            .verify_strict(&signed_bytes(text), &Signature::from_bytes(&signature))
            .map_err(|_| SecurityError::WrongSignature {
                key: self.to_string(),
            })?;
        Ok(text)
    }
}

impl core::fmt::Display for PlacementKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(PUBLIC_PREFIX)?;
        write_hex(f, self.0.as_bytes())
    }
}

/// The secret key that signs placements. Kept by the operator, never on a node; wiped when dropped.
pub struct PlacementSecret(SigningKey);

impl PlacementSecret {
    /// The key with these 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads `ed25519-secret:<64 hexadecimal digits>`; a line end may follow.
    ///
    /// # Errors
    /// [`SecurityError::KeyMalformed`].
    pub fn parse(text: &str) -> Result<Self, SecurityError> {
        parse_hex(text.trim_end(), SECRET_PREFIX)
            .map(|seed| Self::from_seed(&seed))
            .ok_or(SecurityError::KeyMalformed {
                what: "secret key of placements",
                form: SECRET_FORM,
            })
    }

    /// The form that [`Self::parse`] reads. For a file that nobody else may read.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::from(SECRET_PREFIX);
        write_hex(&mut text, self.0.as_bytes()).expect("a string takes everything");
        text.push('\n');
        text
    }

    /// The public key to it.
    #[must_use]
    pub fn public(&self) -> PlacementKey {
        PlacementKey(self.0.verifying_key())
    }

    /// Appends the signature line to `text`, which ends with a line end or is given one.
    #[must_use]
    pub fn sign(&self, mut text: String) -> String {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let signature = self.0.sign(&signed_bytes(text.as_bytes()));
        text.push_str(SIGNATURE_PREFIX);
        write_hex(&mut text, &signature.to_bytes()).expect("a string takes everything");
        text.push('\n');
        text
    }
}

impl core::fmt::Debug for PlacementSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PlacementSecret(of {})", self.public())
    }
}

fn signed_bytes(text: &[u8]) -> Vec<u8> {
    [CONTEXT, text].concat()
}

fn write_hex(out: &mut impl core::fmt::Write, bytes: &[u8]) -> core::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Reads `prefix` and exactly `N` bytes in lowercase hexadecimal digits: one form only.
fn parse_hex<const N: usize>(text: &str, prefix: &str) -> Option<[u8; N]> {
    let digits = text.strip_prefix(prefix)?.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
