//! The properties that `tests/fuzz` tries without end: here with the committed seeds, and with bytes that proptest
//! draws.

mod fuzz_seeds;

use std::path::{Path, PathBuf};

use clustor_engine::profile::{Allowed, Profile};
use clustor_shards::log::record::{RecordKind, encode_record, records};
use clustor_sim::fuzz::{forger_agrees, frames, ledger_replay, profile, segment_recovery};
use clustor_wire::frame::{Frame, FrameDecoder, FrameKind, encode_frame};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use clustor_wire::message::{ClientRequest, ClientResponse, PeerBatch, PeerHello};
use fuzz_seeds::{Form, valid_seeds};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::prop_oneof;
use proptest::sample::subsequence;

fn seeds_of(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

fn each_seed(target: &str, property: fn(&[u8])) {
    let seeds = seeds_of(target);
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

fn assert_decodes(kind: FrameKind, body: &[u8]) {
    let error = match kind {
        FrameKind::PeerHello => PeerHello::decode(body).err(),
        FrameKind::PeerBatch => PeerBatch::decode(body).err(),
        FrameKind::ClientRequest => ClientRequest::decode(body).err(),
        FrameKind::ClientResponse => ClientResponse::decode(body).err(),
        FrameKind::Goodbye => None,
    };
    assert_eq!(error, None, "{kind:?}");
}

/// Where this fails after a change of a format: `cargo run -p clustor-sim --example fuzz_seeds` writes them anew.
#[test]
fn the_seeds_that_are_meant_to_be_valid_are_what_the_formats_are() {
    for seed in valid_seeds() {
        let file = seeds_of("frames").join(seed.name);
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", seed.name));
        let mut stream = &bytes[1..];
        match seed.form {
            Form::Bare(kind) => assert_decodes(kind, stream),
            Form::Frames(count) => {
                let mut decoder = FrameDecoder::new();
                for _ in 0..count {
                    let frame = decoder.decode(&mut stream).expect("a frame");
                    let frame = frame.expect("a whole frame");
                    assert_decodes(frame.kind, &frame.body);
                }
                assert!(stream.is_empty());
            }
            Form::Records(count) => {
                assert_eq!(records(stream).filter(Result::is_ok).count(), count);
            }
        }
        assert_eq!(
            bytes, seed.bytes,
            "{} is not what is written today",
            seed.name
        );
    }
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
    fn a_profile_makes_no_panic(
        text in ".{0,200}",
        key in "[a-z_]{1,24}",
        value in "-?[0-9]{1,24}|\"[a-z0-9]{0,12}\"|true",
        knobs in subsequence(Profile::KNOBS.to_vec(), 1..4),
        values in vec(prop_oneof![any::<u64>(), 0u64..4096], 4),
    ) {
        profile(text.as_bytes());
        profile(format!("base = \"latency\"\n{key} = {value}\n").as_bytes());
        // What each key takes by itself may still not go together.
        let lines = knobs.iter().zip(&values).map(|(knob, value)| match knob.allowed {
            Allowed::Number { min, max } => {
                let value = min + value % (max - min).saturating_add(1);
                format!("{} = {value}\n", knob.key)
            }
            _ => String::new(),
        });
        profile(lines.collect::<String>().as_bytes());
    }
}
