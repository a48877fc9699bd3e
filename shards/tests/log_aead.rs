//! The ciphers behind the sealing suites, against published vectors and against each other.

use clustor_shards::log::aead::{Aead, HAS_AES, OpenError};
use clustor_shards::log::known_answers::{SelfTestFailed, answers, check};
use proptest::prelude::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).expect("hexadecimal") as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

struct Vector {
    key: &'static str,
    nonce: &'static str,
    additional: &'static str,
    plain: Vec<u8>,
    sealed: &'static str,
    tag: &'static str,
}

fn holds(vector: &Vector, cipher: fn(&[u8; 32]) -> Aead) {
    let key: [u8; 32] = bytes(vector.key).try_into().expect("32 bytes");
    let nonce: [u8; 12] = bytes(vector.nonce).try_into().expect("12 bytes");
    let additional = bytes(vector.additional);
    let aead = cipher(&key);
    let mut text = vector.plain.clone();
    let tag = aead.seal(&nonce, &additional, &mut text);
    assert_eq!(text, bytes(vector.sealed));
    assert_eq!(tag.to_vec(), bytes(vector.tag));
    aead.open(&nonce, &additional, &mut text, &tag)
        .expect("just sealed");
    assert_eq!(text, vector.plain);
    let mut wrong = tag;
    wrong[7] ^= 1;
    let mut sealed = bytes(vector.sealed);
    assert_eq!(
        aead.open(&nonce, &additional, &mut sealed, &wrong),
        Err(OpenError)
    );
}

/// RFC 8439, section 2.8.2.
fn sunscreen() -> Vector {
    Vector {
        key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        nonce: "070000004041424344454647",
        additional: "50515253c0c1c2c3c4c5c6c7",
        plain: b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
            .to_vec(),
        sealed: "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
                 3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
                 92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
                 3ff4def08e4b7a9de576d26586cec64b6116",
        tag: "1ae10b594f09e26a7e902ecbd0600691",
    }
}

#[test]
fn chacha20_poly1305_is_that_of_rfc_8439() {
    holds(&sunscreen(), Aead::chacha20_poly1305);
    holds(&sunscreen(), Aead::portable_chacha20_poly1305);
}

#[test]
fn the_decryption_example_of_rfc_8439_opens() {
    // Appendix A.5.
    let key = bytes("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
    let nonce = bytes("000000000102030405060708");
    let additional = bytes("f33388860000000000004e91");
    let tag = bytes("eead9d67890cbb22392336fea1851f38");
    let sealed = bytes(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2\
         4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf\
         332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
         9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4\
         b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e\
         af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
         0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10\
         49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29\
         a6ad5cb4022b02709b",
    );
    for cipher in [Aead::chacha20_poly1305, Aead::portable_chacha20_poly1305] {
        let aead = cipher(key.as_slice().try_into().expect("32 bytes"));
        let mut text = sealed.clone();
        aead.open(
            nonce.as_slice().try_into().expect("12 bytes"),
            &additional,
            &mut text,
            tag.as_slice().try_into().expect("16 bytes"),
        )
        .expect("authentic");
        assert!(text.starts_with(b"Internet-Drafts are draft documents valid for a maximum"));
    }
}

/// Test cases 13 to 16 of "The Galois/Counter Mode of Operation (GCM)" (McGrew and Viega), as submitted to NIST.
#[cfg(feature = "aws-lc")]
#[test]
fn aes_256_gcm_is_that_of_nist() {
    const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
    const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    const PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    let plain = bytes(PLAIN);
    let vectors = [
        Vector {
            key: ZEROS,
            nonce: "000000000000000000000000",
            additional: "",
            plain: Vec::new(),
            sealed: "",
            tag: "530f8afbc74536b9a963b4f1c4cb738b",
        },
        Vector {
            key: ZEROS,
            nonce: "000000000000000000000000",
            additional: "",
            plain: vec![0; 16],
            sealed: "cea7403d4d606b6e074ec5d3baf39d18",
            tag: "d0d1c8a799996bf0265b98b5d48ab919",
        },
        Vector {
            key: KEY,
            nonce: "cafebabefacedbaddecaf888",
            additional: "",
            plain: plain.clone(),
            sealed: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
            tag: "b094dac5d93471bdec1a502270e3cc6c",
        },
        Vector {
            key: KEY,
            nonce: "cafebabefacedbaddecaf888",
            additional: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain: plain[..60].to_vec(),
            sealed: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
    ];
    for vector in &vectors {
        holds(vector, Aead::aes_256_gcm);
    }
}

proptest! {
    #[test]
    fn both_makers_of_chacha20_poly1305_seal_the_same_bytes(
        key: [u8; 32],
        nonce: [u8; 12],
        additional in prop::collection::vec(any::<u8>(), 0..40),
        plain in prop::collection::vec(any::<u8>(), 0..4200),
    ) {
        let (fast, portable) = (Aead::chacha20_poly1305(&key), Aead::portable_chacha20_poly1305(&key));
        let (mut one, mut other) = (plain.clone(), plain.clone());
        let tag = fast.seal(&nonce, &additional, &mut one);
        prop_assert_eq!(tag, portable.seal(&nonce, &additional, &mut other));
        prop_assert_eq!(&one, &other);
        prop_assert!(portable.open(&nonce, &additional, &mut one, &tag).is_ok());
        prop_assert_eq!(one, plain);
    }
}

#[test]
fn a_self_test_names_the_algorithm_that_gives_another_answer() {
    let given = answers();
    let passed = check(&given).expect("all give theirs");
    assert_eq!(passed.len(), if HAS_AES { 7 } else { 6 });
    for at in 0..given.len() {
        let mut wrong = given.clone();
        let last = wrong[at].given.last_mut().expect("something");
        *last ^= 1;
        let algorithm = passed[at];
        assert_eq!(check(&wrong), Err(SelfTestFailed { algorithm }));
    }
}
