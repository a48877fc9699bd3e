//! The signed placement: nothing in it is believed before the signature, and every rule has its own refusal.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use clustor_engine::security::{
    PlacedNode, Placement, PlacementDraft, PlacementKey, PlacementSecret, PlacementWarning,
    SecurityError,
};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{ClusterId, NodeId, PartitionId, ShardId};
use proptest::prelude::{any, prop, proptest};

fn secret() -> PlacementSecret {
    PlacementSecret::from_seed(&[7; 32])
}

fn draft(nodes: u64, shards: u16, partitions: u32, replicas: usize) -> PlacementDraft {
    let nodes: BTreeMap<_, _> = (1..=nodes)
        .map(|id| {
            let address = SocketAddr::from(([127, 0, 0, 1], 7000 + id as u16));
            (NodeId(id), PlacedNode { address, shards })
        })
        .collect();
    PlacementDraft {
        cluster: ClusterId(0xabc),
        trust_domain: "test.clustor".to_owned(),
        record_codec: 1,
        nodes,
        partitions: BTreeMap::new(),
    }
    .spread(partitions, replicas)
}

fn at(node: u64, shard: u16) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId(shard),
    }
}

fn load_text(text: &str) -> Result<Placement, SecurityError> {
    let secret = secret();
    Placement::load(secret.sign(text.to_owned()).as_bytes(), &secret.public())
}

const GOOD: &str = r#"version = 1
cluster = "00000000000000000000000000000abc"
trust_domain = "test.clustor"
record_codec = "binary"

[[node]]
id = 1
address = "127.0.0.1:7001"
shards = 2

[[node]]
id = 2
address = "[::1]:7002"
shards = 1

[[node]]
id = 3
address = "127.0.0.1:7003"
shards = 1

[[partition]]
id = "1"
replicas = ["1/1", "2/0", "3/0"]
"#;

fn refused(from: &str, to: &str) -> SecurityError {
    assert!(GOOD.contains(from), "{from}");
    let text = GOOD.replacen(from, to, 1);
    load_text(&text).expect_err(to)
}

#[test]
fn a_draft_is_read_back_as_it_was_signed() {
    let draft = draft(3, 2, 16, 3);
    let file = draft.sign(&secret()).unwrap();
    let placement = Placement::load(file.as_bytes(), &secret().public()).unwrap();
    assert_eq!(placement.cluster(), draft.cluster);
    assert_eq!(placement.trust_domain(), "test.clustor");
    assert_eq!(placement.record_codec(), 1);
    assert_eq!(placement.nodes(), &draft.nodes);
    assert_eq!(placement.partitions(), &draft.partitions);
    assert_eq!(placement.file(), file.as_bytes());
    assert!(placement.warnings().is_empty());
}

#[test]
fn replicas_are_spread_over_all_nodes_and_shards() {
    let file = draft(3, 2, 16, 3).sign(&secret()).unwrap();
    let placement = Placement::load(file.as_bytes(), &secret().public()).unwrap();
    for node in 1..=3 {
        for shard in 0..2 {
            let held = placement.partitions_on(at(node, shard)).len();
            assert!((7..=9).contains(&held), "{node}/{shard} holds {held}");
        }
    }
    let firsts = (1..=3).map(|n| {
        let first = |r: &&Vec<PeerId>| r[0].node == NodeId(n);
        placement.partitions().values().filter(first).count()
    });
    assert!(firsts.into_iter().all(|n| (5..=6).contains(&n)));
}

#[test]
fn lookups_agree_with_each_other() {
    let placement = load_text(GOOD).unwrap();
    let partition = PartitionId(1);
    assert_eq!(
        placement.replicas(partition),
        Some(&[at(1, 1), at(2, 0), at(3, 0)][..])
    );
    assert_eq!(placement.replicas(PartitionId(2)), None);
    assert_eq!(placement.shard_of(partition, NodeId(1)), Some(ShardId(1)));
    assert_eq!(placement.shard_of(partition, NodeId(4)), None);
    assert_eq!(placement.partitions_on(at(1, 1)), [partition]);
    assert!(placement.partitions_on(at(1, 0)).is_empty());
    assert!(placement.peers_of(at(1, 0)).is_empty());
    assert_eq!(
        placement.peers_of(at(2, 0)),
        [
            (at(1, 1), "127.0.0.1:7001".parse().unwrap()),
            (at(3, 0), "127.0.0.1:7003".parse().unwrap()),
        ]
    );
    assert_eq!(placement.node(NodeId(2)).unwrap().shards, 1);
}

#[test]
fn an_unsigned_manifest_is_refused() {
    let key = secret().public();
    let mut signed = secret().sign(GOOD.to_owned());
    assert_eq!(
        Placement::load(GOOD.as_bytes(), &key).unwrap_err(),
        SecurityError::Unsigned
    );
    assert_eq!(
        Placement::load(b"", &key).unwrap_err(),
        SecurityError::Unsigned
    );
    signed.push('\n');
    assert_eq!(
        Placement::load(signed.as_bytes(), &key).unwrap_err(),
        SecurityError::Unsigned
    );
    let upper = secret()
        .sign(GOOD.to_owned())
        .replace("ed25519:", "ED25519:");
    assert_eq!(
        Placement::load(upper.as_bytes(), &key).unwrap_err(),
        SecurityError::Unsigned
    );
}

#[test]
fn a_manifest_signed_by_another_key_is_refused_and_the_expected_key_named() {
    let other = PlacementSecret::from_seed(&[8; 32]);
    let file = other.sign(GOOD.to_owned());
    let error = Placement::load(file.as_bytes(), &secret().public()).unwrap_err();
    assert!(
        matches!(&error, SecurityError::WrongSignature { key } if *key == secret().public().to_string())
    );
    Placement::load(file.as_bytes(), &other.public()).unwrap();
}

#[test]
fn the_signature_is_judged_before_the_content() {
    let other = PlacementSecret::from_seed(&[8; 32]);
    let file = other.sign("this is not TOML".to_owned());
    assert!(matches!(
        Placement::load(file.as_bytes(), &secret().public()),
        Err(SecurityError::WrongSignature { .. })
    ));
    assert!(matches!(
        Placement::load(file.as_bytes(), &other.public()),
        Err(SecurityError::Syntax { line: 1, .. })
    ));
}

proptest! {
    #[test]
    fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), change in 1u8..) {
        let mut file = secret().sign(GOOD.to_owned()).into_bytes();
        let at = at.index(file.len());
        file[at] ^= change;
        assert!(Placement::load(&file, &secret().public()).is_err());
    }
}

#[test]
fn the_digest_is_of_what_every_node_must_agree_on_and_not_of_who_is_there() {
    let other = PlacementSecret::from_seed(&[8; 32]);
    let again = other.sign(GOOD.to_owned());
    let again = Placement::load(again.as_bytes(), &other.public()).unwrap();
    let placement = load_text(GOOD).unwrap();
    assert_eq!(placement.digest(), again.digest());
    let moved = load_text(&GOOD.replace("1/1", "1/0")).unwrap();
    assert_eq!(placement.digest(), moved.digest());
    let json = GOOD.replace("record_codec = \"binary\"", "record_codec = \"json\"");
    assert_ne!(json, GOOD);
    assert_ne!(placement.digest(), load_text(&json).unwrap().digest());
    let more = format!("{GOOD}\n[[partition]]\nid = \"77\"\nreplicas = [\"1/0\"]\n");
    assert_ne!(placement.digest(), load_text(&more).unwrap().digest());
}

#[test]
fn an_unknown_version_is_refused_whatever_else_it_holds() {
    let text = GOOD.replacen("version = 1", "version = 2\nnovelty = true", 1);
    assert_eq!(
        load_text(&text).unwrap_err(),
        SecurityError::UnknownVersion { version: 2 }
    );
}

#[test]
fn what_the_form_does_not_know_is_refused_with_its_line() {
    match refused("record_codec", "colour = 1\nrecord_codec") {
        SecurityError::Syntax { line: 4, why } => assert!(why.contains("colour"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        refused("shards = 2", "shards = -2"),
        SecurityError::Syntax { line: 9, .. }
    ));
    assert!(matches!(
        refused("id = 1", "id = \"1\""),
        SecurityError::Syntax { .. }
    ));
    assert!(matches!(
        refused("shards = 2\n", ""),
        SecurityError::Syntax { .. }
    ));
}

#[test]
fn each_rule_has_its_own_refusal() {
    let node = NodeId;
    let partition = PartitionId(1);
    assert_eq!(
        refused("id = 2", "id = 1"),
        SecurityError::DuplicateNode { node: node(1) }
    );
    assert_eq!(
        refused("127.0.0.1:7003", "127.0.0.1:7001"),
        SecurityError::DuplicateAddress {
            address: "127.0.0.1:7001".parse().unwrap(),
            first: node(1),
            second: node(3),
        }
    );
    assert_eq!(
        refused("3/0", "4/0"),
        SecurityError::UnknownNode {
            partition,
            node: node(4)
        }
    );
    assert_eq!(
        refused("1/1", "1/2"),
        SecurityError::UnknownShard {
            partition,
            at: at(1, 2),
            last: 1
        }
    );
    assert_eq!(
        refused("\"3/0\"", "\"1/0\""),
        SecurityError::ReplicasShareNode {
            partition,
            node: node(1)
        }
    );
    let twice = format!("{GOOD}\n[[partition]]\nid = \"1\"\nreplicas = [\"1/0\"]\n");
    assert_eq!(
        load_text(&twice).unwrap_err(),
        SecurityError::DuplicatePartition { partition }
    );
    for (from, to) in [
        ("00000000000000000000000000000abc", "abc"),
        (
            "00000000000000000000000000000abc",
            "00000000000000000000000000000ABC",
        ),
        (
            "00000000000000000000000000000abc",
            "00000000000000000000000000000000",
        ),
        ("test.clustor", "Test"),
        ("\"binary\"", "\"xml\""),
        ("127.0.0.1:7001", "localhost:7001"),
        ("127.0.0.1:7001", "127.0.0.1:0"),
        ("id = \"1\"", "id = \"01\""),
        (
            "id = \"1\"",
            "id = \"340282366920938463463374607431768211456\"",
        ),
        ("1/1", "1"),
        ("1/1", "01/1"),
        ("1/1", "1/1/1"),
    ] {
        let error = refused(from, to);
        assert!(
            matches!(error, SecurityError::Field { .. }),
            "{to}: {error}"
        );
    }
}

#[test]
fn counts_are_bounded_on_both_sides() {
    let count = |error: SecurityError| match error {
        SecurityError::Count { what, count, limit } => (what, count, limit),
        other => panic!("{other:?}"),
    };
    assert_eq!(count(refused("shards = 2", "shards = 0")).1, 0);
    assert_eq!(count(refused("shards = 2", "shards = 1025")).2, 1024);
    let (what, found, _) = count(refused("[\"1/1\", \"2/0\", \"3/0\"]", "[]"));
    assert_eq!((what.as_str(), found), ("replicas of partition 1", 0));
    let sign = |draft: PlacementDraft| draft.sign(&secret()).unwrap_err();
    assert_eq!(count(sign(draft(9, 1, 1, 9))).1, 9);
    assert_eq!(count(sign(draft(0, 1, 0, 0))).0, "nodes");
    assert_eq!(count(sign(draft(3, 1, 0, 3))).0, "partitions");
    assert_eq!(count(sign(draft(3, 1, 65_537, 1))).1, 65_537);
    assert_eq!(count(sign(draft(1025, 1, 1, 1))).1, 1025);
    let long = vec![b' '; (16 << 20) + 1];
    assert!(matches!(
        Placement::load(&long, &secret().public()),
        Err(SecurityError::PlacementTooLong { .. })
    ));
}

#[test]
fn even_voters_and_idle_nodes_are_warned_of() {
    let file = draft(5, 1, 2, 2).sign(&secret()).unwrap();
    let placement = Placement::load(file.as_bytes(), &secret().public()).unwrap();
    assert_eq!(
        placement.warnings(),
        [
            PlacementWarning::EvenVoters {
                partition: PartitionId(1),
                replicas: 2,
                partitions: 2,
            },
            PlacementWarning::IdleNode { node: NodeId(4) },
            PlacementWarning::IdleNode { node: NodeId(5) },
        ]
    );
}

#[test]
fn keys_are_read_as_they_are_written_and_secrets_are_not_shown() {
    let secret = secret();
    let public = secret.public();
    assert_eq!(PlacementKey::parse(&format!("{public}\n")).unwrap(), public);
    let again = PlacementSecret::parse(&secret.to_text()).unwrap();
    assert_eq!(again.public(), public);
    assert!(!format!("{secret:?}").contains("0707"));
    for text in [
        "",
        "ed25519:",
        "ed25519:00",
        &public.to_string().to_uppercase(),
        "x",
    ] {
        assert!(PlacementKey::parse(text).is_err(), "{text}");
        assert!(PlacementSecret::parse(text).is_err(), "{text}");
    }
}
