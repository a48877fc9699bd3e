//! Merkle leaves of records, and roots over them.

use clustor_shards::log::HashSuite;
use clustor_shards::log::merkle::{MerkleHash, MerkleTree, PairTree, extent_root, leaf_hash};
use clustor_shards::log::record::{
    RecordError, RecordKind, decode_record, encode_record, encode_record_parts,
};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

const HASHES: [HashSuite; 2] = [HashSuite::Sha256, HashSuite::Blake3];

fn hex(hash: &MerkleHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The entries and roots by which implementations of RFC 6962 are checked (certificate-transparency's tests).
#[test]
fn roots_are_those_of_rfc_6962() {
    let entries: [&[u8]; 8] = [
        &[],
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[
            0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d,
            0x6e, 0x6f,
        ],
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut tree = MerkleTree::new(HashSuite::Sha256);
    assert_eq!(hex(&tree.root()), roots[0]);
    for (entry, root) in entries.iter().zip(&roots[1..]) {
        tree.push(&leaf_hash(HashSuite::Sha256, &[entry]));
        assert_eq!(hex(&tree.root()), *root);
    }
    assert_eq!(tree.leaves(), 8);
}

/// The definition itself: split at the greatest power of two below the number of leaves.
fn root_by_definition(hash: HashSuite, leaves: &[MerkleHash]) -> MerkleHash {
    let over = |bytes: &[u8]| match hash {
        HashSuite::Sha256 => Sha256::digest(bytes).into(),
        HashSuite::Blake3 => blake3::hash(bytes).into(),
    };
    match leaves {
        [] => over(&[]),
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let mut node = vec![1];
            node.extend(root_by_definition(hash, &leaves[..split]));
            node.extend(root_by_definition(hash, &leaves[split..]));
            over(&node)
        }
    }
}

fn framed(leaf: Option<HashSuite>, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let len = encode_record_parts(
        &mut frame,
        leaf,
        RecordKind::Entry,
        PartitionId(9),
        Term(3),
        LogIndex(7),
        &[body],
    );
    assert_eq!(len, frame.len());
    frame
}

proptest! {
    #[test]
    fn a_grown_tree_has_the_root_of_the_definition(leaves: Vec<MerkleHash>) {
        for hash in HASHES {
            let mut tree = MerkleTree::new(hash);
            leaves.iter().for_each(|leaf| tree.push(leaf));
            prop_assert_eq!(tree.root(), root_by_definition(hash, &leaves));
        }
    }

    #[test]
    fn a_leaf_covers_header_body_and_checksum(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for hash in HASHES {
            let frame = framed(Some(hash), &body);
            let record = decode_record(&frame).expect("just made");
            prop_assert_eq!(record.check_leaf(), Ok(()));
            prop_assert_eq!(record.body, body.as_slice());
            let mut covered = vec![0];
            covered.extend_from_slice(&frame[..44]);
            covered.extend_from_slice(&body);
            covered.extend_from_slice(&frame[44..48]);
            let by_hand: MerkleHash = match hash {
                HashSuite::Sha256 => Sha256::digest(&covered).into(),
                HashSuite::Blake3 => blake3::hash(&covered).into(),
            };
            prop_assert_eq!(record.leaf, Some((hash, &by_hand)));
            prop_assert_eq!(record.leaf(hash), by_hand);
        }
    }

    #[test]
    fn a_pair_has_the_root_over_the_roots_of_its_extents(extents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 1..20)) {
        for hash in HASHES {
            let mut tree = PairTree::new(hash);
            let mut leaves = Vec::new();
            for bodies in &extents {
                let frames: Vec<Vec<u8>> = bodies.iter().map(|body| framed(Some(hash), &[*body])).collect();
                let of_records: Vec<MerkleHash> = frames
                    .iter()
                    .map(|frame| decode_record(frame).expect("just made").leaf(hash))
                    .collect();
                let root = extent_root(hash, &frames.concat()).expect("frames");
                prop_assert_eq!(root, root_by_definition(hash, &of_records));
                let mut leaf = vec![0];
                leaf.extend(root);
                leaves.push(match hash {
                    HashSuite::Sha256 => Sha256::digest(&leaf).into(),
                    HashSuite::Blake3 => blake3::hash(&leaf).into(),
                });
                prop_assert_eq!(tree.push(&root), root_by_definition(hash, &leaves));
            }
            let mut cut = framed(None, b"body");
            cut.pop();
            prop_assert!(extent_root(hash, &cut).is_err());
        }
    }

    #[test]
    fn any_flipped_bit_of_a_frame_is_noticed(
        body in prop::collection::vec(any::<u8>(), 0..64),
        leaf in prop::sample::select(vec![None, Some(HashSuite::Sha256), Some(HashSuite::Blake3)]),
        place: prop::sample::Index,
    ) {
        let mut frame = framed(leaf, &body);
        let bit = place.index(frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        let judged = decode_record(&frame).and_then(|record| record.check_leaf());
        prop_assert!(judged.is_err());
    }
}

#[test]
fn a_record_without_a_leaf_still_has_a_place_in_a_tree() {
    let (with, without) = (
        framed(Some(HashSuite::Blake3), b"body"),
        framed(None, b"body"),
    );
    let with = decode_record(&with).expect("sound");
    let without = decode_record(&without).expect("sound");
    // The flag is part of the header that the leaf covers, so a record without one has another.
    assert_ne!(
        with.leaf(HashSuite::Blake3),
        without.leaf(HashSuite::Blake3)
    );
    assert_eq!(with.leaf(HashSuite::Sha256).len(), 32);
    assert_eq!(without.check_leaf(), Ok(()));
}

#[test]
fn a_hash_without_a_leaf_is_refused() {
    let mut frame = Vec::new();
    encode_record(
        &mut frame,
        RecordKind::Entry,
        PartitionId(9),
        Term(3),
        LogIndex(7),
        b"body",
    );
    for flags in [2, 4, 0x81] {
        frame[3] = flags;
        assert_eq!(decode_record(&frame), Err(RecordError::Fields), "{flags}");
    }
}

#[test]
fn a_newer_frame_is_refused_by_name() {
    let mut frame = framed(None, b"body");
    frame[0] = 3;
    let error = decode_record(&frame).expect_err("newer");
    assert_eq!(error, RecordError::Version(3));
    assert!(error.to_string().contains("version 3"), "{error}");
    assert!(error.to_string().contains("reads version 2"), "{error}");
}
