//! Known answers: every algorithm that the log relies on, before anything of it is read.
//!
//! A processor, a library or a build that computes wrongly would take whole logs for rotten, or seal what nobody can open again.
//! Each algorithm is given a published example; where its answer is another, the start is refused and nothing is touched.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::aead::Aead;

/// What an algorithm gave for a published example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which algorithm.
    pub algorithm: &'static str,
    /// What it gave.
    pub given: Vec<u8>,
    /// What was published.
    pub published: Vec<u8>,
}

/// An algorithm does not give its published answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "self-test: {algorithm} does not give the published answer: this machine, or this build, computes wrongly; nothing was read or written"
)]
pub struct SelfTestFailed {
    /// Which.
    pub algorithm: &'static str,
}

/// Compares answers with what was published; the names of those that agree.
///
/// # Errors
/// [`SelfTestFailed`]: the first that does not.
pub fn check(answers: &[Answer]) -> Result<Vec<&'static str>, SelfTestFailed> {
    let judged = answers.iter().map(|answer| {
        let algorithm = answer.algorithm;
        (answer.given == answer.published)
            .then_some(algorithm)
            .ok_or(SelfTestFailed { algorithm })
    });
    judged.collect()
}

/// Gives every algorithm of this build its example.
#[must_use]
pub fn answers() -> Vec<Answer> {
    #[cfg_attr(
        not(feature = "aws-lc"),
        expect(unused_mut, reason = "with aws-lc one is added")
    )]
    let mut answers = vec![
        crc32c(),
        sha256(),
        blake3_of_nothing(),
        hmac_sha256(),
        hkdf_sha256(),
        chacha20_poly1305(),
    ];
    #[cfg(feature = "aws-lc")]
    answers.push(aes_256_gcm());
    answers
}

/// The bytes of hexadecimal digits.
fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap_or(0) as u8;
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// The check value of CRC-32C (RFC 3720, appendix B.4, names the polynomial).
fn crc32c() -> Answer {
    Answer {
        algorithm: "crc32c",
        given: crc32c::crc32c(b"123456789").to_be_bytes().to_vec(),
        published: bytes("e3069283"),
    }
}

/// FIPS 180-2, appendix B.1.
fn sha256() -> Answer {
    Answer {
        algorithm: "sha256",
        given: Sha256::digest(b"abc").to_vec(),
        published: bytes("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    }
}

/// The first of BLAKE3's test vectors.
fn blake3_of_nothing() -> Answer {
    Answer {
        algorithm: "blake3",
        given: blake3::hash(b"").as_bytes().to_vec(),
        published: bytes("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    }
}

/// RFC 4231, test case 2.
fn hmac_sha256() -> Answer {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").expect("HMAC takes keys of any length");
    mac.update(b"what do ya want for nothing?");
    Answer {
        algorithm: "hmac-sha256",
        given: mac.finalize().into_bytes().to_vec(),
        published: bytes("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    }
}

/// RFC 5869, appendix A.1.
fn hkdf_sha256() -> Answer {
    let salt: Vec<u8> = (0..=12).collect();
    let info: Vec<u8> = (0xf0..=0xf9).collect();
    let mut given = vec![0; 42];
    Hkdf::<Sha256>::new(Some(&salt), &[0x0b; 22])
        .expand(&info, &mut given)
        .expect("42 bytes are a valid HKDF output length");
    Answer {
        algorithm: "hkdf-sha256",
        given,
        published: bytes(
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
    }
}

/// RFC 8439, section 2.8.2.
fn chacha20_poly1305() -> Answer {
    let key: [u8; 32] = core::array::from_fn(|at| 0x80 + at as u8);
    let nonce = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    Answer {
        algorithm: "chacha20-poly1305",
        given: there_and_back(
            &Aead::chacha20_poly1305(&key),
            &nonce,
            &bytes("50515253c0c1c2c3c4c5c6c7"),
            plain,
        ),
        published: [
            &bytes("1ae10b594f09e26a7e902ecbd0600691")[..],
            plain.as_slice(),
        ]
        .concat(),
    }
}

/// Test case 14 of "The Galois/Counter Mode of Operation (GCM)" (McGrew and Viega), as submitted to NIST.
#[cfg(feature = "aws-lc")]
fn aes_256_gcm() -> Answer {
    Answer {
        algorithm: "aes-256-gcm",
        given: there_and_back(&Aead::aes_256_gcm(&[0; 32]), &[0; 12], b"", &[0; 16]),
        published: [
            &bytes("d0d1c8a799996bf0265b98b5d48ab919")[..],
            [0; 16].as_slice(),
        ]
        .concat(),
    }
}

/// The tag, which is over all that was sealed, and what comes back; nothing does where a wrong tag opens it.
fn there_and_back(aead: &Aead, nonce: &[u8; 12], additional: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut text = plain.to_vec();
    let tag = aead.seal(nonce, additional, &mut text);
    let mut wrong = tag;
    wrong[15] ^= 1;
    let opens_wrong = aead
        .open(nonce, additional, &mut text.clone(), &wrong)
        .is_ok();
    if opens_wrong || aead.open(nonce, additional, &mut text, &tag).is_err() {
        return Vec::new();
    }
    [&tag[..], &text].concat()
}
