//! The properties that `tests/fuzz` tries without end: here with the committed seeds, and with bytes that proptest
//! draws.

use std::path::Path;

use clustor_shards::log::record::{RecordKind, encode_record};
use clustor_sim::fuzz::{forger_agrees, frames, ledger_replay, profile, segment_recovery};
use clustor_wire::frame::{Frame, encode_frame};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};

fn each_seed(target: &str, property: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut tried = 0;
    for seed in std::fs::read_dir(&seeds).expect("seeds are committed") {
        let seed = seed.expect("a directory can be listed").path();
        println!("{}", seed.display());
        property(&std::fs::read(&seed).expect("a seed can be read"));
        tried += 1;
    }
    assert!(tried > 2, "{}: {tried} seeds", seeds.display());
}

#[test]
fn the_forger_knows_the_formats() {
    assert!(forger_agrees());
}

#[test]
fn the_committed_seeds_hold() {
    each_seed("segment_recovery", segment_recovery);
    each_seed("ledger_replay", ledger_replay);
    each_seed("frames", frames);
    each_seed("profile", profile);
}

fn an_edit() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 8..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_or_forged_directory_makes_no_panic(first: u8, edits in vec(an_edit(), 1..6)) {
        let bytes: Vec<u8> = [vec![first], edits.concat()].concat();
        segment_recovery(&bytes);
    }

    #[test]
    fn a_forged_ledger_makes_no_panic(first: u8, edits in vec(an_edit(), 1..6)) {
        let bytes: Vec<u8> = [vec![first], edits.concat()].concat();
        ledger_replay(&bytes);
    }

    #[test]
    fn a_stream_makes_no_panic(piece: u8, kind: u8, body in vec(any::<u8>(), 0..600), cut in 0usize..700) {
        let mut bytes = vec![piece];
        let mut record = Vec::new();
        let kind = RecordKind::from_u8(kind % 12).unwrap_or(RecordKind::Entry);
        encode_record(&mut record, kind, PartitionId(7), Term(1), LogIndex(2), &body);
        let frame = Frame { body: record.clone(), ..Frame::goodbye("leaving") };
        encode_frame(&frame, &mut bytes).expect("it is short");
        bytes.extend(&record);
        frames(&bytes);
        bytes.truncate(cut);
        frames(&bytes);
        frames(&body);
    }

    #[test]
    fn a_profile_makes_no_panic(text in ".{0,200}", key in "[a-z_]{1,24}", value in "-?[0-9]{1,24}|\"[a-z0-9]{0,12}\"|true") {
        profile(text.as_bytes());
        profile(format!("clustor_profile = 1\nbase = \"latency\"\n{key} = {value}\n").as_bytes());
    }
}
