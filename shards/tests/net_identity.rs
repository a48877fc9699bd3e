//! Identities and prefaces: what is accepted, and what each refusal says.

#![cfg(feature = "net")]

mod net_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use clustor_shards::net::{
    NetError, PREFACE_BYTES, Preface, Role, SessionKind, SpiffeId, TlsFiles,
};
use clustor_wire::ids::{ClusterId, NodeId, ShardId};
use net_support::{Ca, TRUST_DOMAIN, load, write_key};
use proptest::prelude::{any, proptest};

fn refusal(files: &TlsFiles) -> String {
    load(files).expect_err("a refusal").to_string()
}

#[test]
fn a_spiffe_id_is_read_as_it_is_written() {
    for text in [
        "spiffe://a/node/0",
        "spiffe://prod.example-1_x/node/18446744073709551615",
        "spiffe://a/operator/Jane.Doe",
        "spiffe://a/client/kv-1",
    ] {
        assert_eq!(SpiffeId::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(
        SpiffeId::parse("spiffe://a/node/7").unwrap().node(),
        Some(NodeId(7))
    );
    assert_eq!(SpiffeId::parse("spiffe://a/client/7").unwrap().node(), None);
}

#[test]
fn what_is_not_quite_a_spiffe_id_is_refused() {
    let long = format!("spiffe://a/client/{}", "x".repeat(65));
    for text in [
        "",
        "spiffe://",
        "http://a/node/1",
        "spiffe://a/node",
        "spiffe://a/node/1/2",
        "spiffe://A/node/1",
        "spiffe:///node/1",
        "spiffe://a/node/",
        "spiffe://a/node/01",
        "spiffe://a/node/+1",
        "spiffe://a/node/-1",
        "spiffe://a/node/x",
        "spiffe://a/node/18446744073709551616",
        "spiffe://a/root/x",
        "spiffe://a/client/x y",
        "spiffe://a/client/x\n",
        &long,
    ] {
        assert!(SpiffeId::parse(text).is_err(), "{text:?}");
    }
    assert!(SpiffeId::new("a/b", Role::Node(NodeId(1))).is_err());
    assert!(SpiffeId::new("a", Role::Client("x/y".into())).is_err());
}

#[test]
fn an_identity_says_who_it_is() {
    let ca = Ca::new();
    let id = ca.node(5).id().clone();
    assert_eq!(
        id,
        SpiffeId::new(TRUST_DOMAIN, Role::Node(NodeId(5))).unwrap()
    );
}

#[test]
fn a_missing_file_is_named() {
    let ca = Ca::new();
    let files = ca.node_files(1);
    for change in [
        |f: &mut TlsFiles| f.ca = "/nowhere/ca.pem".into(),
        |f: &mut TlsFiles| f.certificate = "/nowhere/node.pem".into(),
        |f: &mut TlsFiles| f.key = "/nowhere/node.key".into(),
    ] {
        let mut changed = files.clone();
        change(&mut changed);
        let text = refusal(&changed);
        assert!(
            text.contains("/nowhere/") && text.contains("can't be read")
                || text.contains("can't read"),
            "{text}"
        );
    }
}

#[test]
fn a_damaged_file_is_named() {
    let ca = Ca::new();
    let files = ca.node_files(1);
    for path in [&files.ca, &files.certificate, &files.key] {
        let good = fs::read_to_string(path).unwrap();
        for bad in [
            String::new(),
            "not PEM".to_owned(),
            good.replace('A', "!"),
            good[..good.len() / 2].to_owned(),
        ] {
            fs::write(path, &bad).unwrap();
            let text = refusal(&files);
            assert!(text.contains(&path.display().to_string()), "{text}");
        }
        fs::write(path, good).unwrap();
    }
    load(&files).expect("all is well again");
}

#[test]
fn a_file_beyond_the_limit_is_not_read() {
    let ca = Ca::new();
    let files = ca.node_files(1);
    fs::write(&files.certificate, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(refusal(&files).contains("longer than"));
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let ca = Ca::new();
    let files = ca.node_files(1);
    for (mode, fits) in [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o660, false),
    ] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        let result = load(&files);
        assert_eq!(result.is_ok(), fits, "{mode:o}");
        if let Err(error) = result {
            assert!(matches!(error, NetError::KeyExposed { mode: found, .. } if found == mode));
        }
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Ca::new();
    let files = TlsFiles {
        key: ca.node_files(2).key,
        ..ca.node_files(1)
    };
    assert!(matches!(load(&files), Err(NetError::KeyMismatch { .. })));
}

#[test]
fn an_expired_or_early_certificate_is_refused_with_its_time() {
    let ca = Ca::new();
    let uri = "spiffe://test.clustor/node/1";
    let old = ca.issue("old", &[uri], (2019, 2020));
    assert!(matches!(
        load(&old),
        Err(NetError::Expired {
            not_after_s: 1_577_836_800,
            ..
        })
    ));
    let early = ca.issue("early", &[uri], (2090, 2100));
    assert!(matches!(load(&early), Err(NetError::NotYetValid { .. })));
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let files = TlsFiles {
        ca: other.ca_path(),
        ..ca.node_files(1)
    };
    assert!(matches!(load(&files), Err(NetError::WrongCa { .. })));
}

#[test]
fn a_certificate_without_exactly_one_identity_is_refused() {
    let ca = Ca::new();
    let cases: [&[&str]; 3] = [
        &[],
        &["https://example.org/node/1"],
        &["spiffe://a/node/1", "spiffe://a/node/2"],
    ];
    for (at, uris) in cases.iter().enumerate() {
        let files = ca.issue(&format!("x{at}"), uris, (2020, 2100));
        assert!(
            matches!(load(&files), Err(NetError::NoIdentity { .. })),
            "{uris:?}"
        );
    }
}

#[test]
fn an_empty_key_is_no_key() {
    let ca = Ca::new();
    let files = ca.node_files(1);
    write_key(
        &files.key,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    assert!(matches!(
        load(&files),
        Err(NetError::Malformed {
            what: "private key",
            ..
        })
    ));
}

proptest! {
    #[test]
    fn a_preface_is_read_as_it_was_written(cluster in 1u128.., shard in 0u16..u16::MAX) {
        let (cluster, shard) = (ClusterId(cluster), ShardId(shard));
        for preface in [
            Preface::peer(cluster, shard),
            Preface::client(Some(cluster), Some(shard)),
            Preface::client(None, Some(shard)),
            Preface::client(Some(cluster), None),
        ] {
            assert_eq!(Preface::decode(&preface.encode()), Ok(preface));
        }
    }

    #[test]
    fn any_flipped_bit_of_a_preface_is_noticed(bit in 0usize..PREFACE_BYTES * 8, cluster in any::<u128>()) {
        let mut bytes = Preface::client(Some(ClusterId(cluster)), None).encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Preface::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_preface(bytes in any::<[u8; PREFACE_BYTES]>()) {
        assert!(Preface::decode(&bytes).is_err());
    }
}

/// A preface with one field changed and the checksum made anew.
fn with_field(at: usize, value: u8) -> [u8; PREFACE_BYTES] {
    let mut bytes = Preface::peer(ClusterId(7), ShardId(1)).encode();
    bytes[at] = value;
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn each_field_of_a_preface_has_its_own_refusal() {
    let decode = |bytes: &[u8; PREFACE_BYTES]| Preface::decode(bytes).unwrap_err();
    assert_eq!(
        decode(&with_field(4, 2)),
        NetError::PrefaceVersion { version: 2 }
    );
    assert_eq!(
        decode(&with_field(5, 3)),
        NetError::PrefaceField { field: "kind" }
    );
    assert_eq!(
        decode(&with_field(24, 1)),
        NetError::PrefaceField { field: "reserved" }
    );
    assert_eq!(
        decode(&with_field(8, 0)),
        NetError::PrefaceField { field: "cluster" }
    );
    let mut tls = [0; PREFACE_BYTES];
    tls[0] = 0x16;
    assert!(decode(&tls).to_string().contains("plain TLS client"));
}

#[test]
fn the_prefaces_bytes_are_those_of_the_specification() {
    let bytes = Preface::peer(ClusterId(0x0102), ShardId(0x0304)).encode();
    assert_eq!(&bytes[..8], b"CLST\x01\x01\x04\x03");
    assert_eq!(&bytes[8..12], &[2, 1, 0, 0]);
    let client = Preface::client(None, None).encode();
    assert_eq!((client[5], &client[6..8]), (2, &[0xff, 0xff][..]));
    assert_eq!(SessionKind::Client as u8, 2);
}
