//! Properties that must hold for any bytes, as functions of those bytes: a fuzzer calls them without end
//! (`tests/fuzz`), the test suite with the committed seeds and some drawn ones.
//!
//! Each returns if the property holds and panics if not.
//!
//! - [`segment_recovery`], [`ledger_replay`]: a shard's directory, damaged or forged as the bytes say, is
//!   recovered. The bytes are a list of edits, so that a fuzzer gets behind seals and MACs: [`edits`]
//! - [`frames`]: the transport's frames, the messages in them, and records
//! - [`profile`]: the text of a profile

pub mod edits;
mod log_files;
mod reseal;

pub use log_files::{forger_agrees, ledger_replay, segment_recovery};

use clustor_engine::profile::Profile;
use clustor_shards::log::record::{decode_record, records};
use clustor_wire::frame::{FrameDecoder, encode_frame};
use clustor_wire::message::{ClientRequest, ClientResponse, PeerBatch, PeerHello};

/// `bytes` as what arrives on a connection, in pieces as the first byte says; every frame's body as every message,
/// and all of it as records.
///
/// # Panics
/// If a decoder panics, or what it accepts does not come out the same again.
pub fn frames(bytes: &[u8]) {
    let Some((piece, stream)) = bytes.split_first() else {
        return;
    };
    let mut decoder = FrameDecoder::new();
    'stream: for mut piece in stream.chunks(usize::from(*piece) + 1) {
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(frame)) => {
                    let mut again = Vec::new();
                    encode_frame(&frame, &mut again).expect("a frame that arrived can be sent");
                    let twin = FrameDecoder::new().decode(&mut &again[..]);
                    assert_eq!(twin.expect("it arrives again"), Some(frame.clone()));
                    messages(&frame.body);
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.decode(&mut piece), Err(error), "errors are final");
                    break 'stream;
                }
            }
            assert!(decoder.buffered_bytes() <= 2 * stream.len() + 8192);
        }
    }
    messages(stream);
    for record in records(stream) {
        let Ok(record) = record else { break };
        let twin = decode_record(record.frame).expect("a record's frame is one");
        assert_eq!((twin.header, twin.body), (record.header, record.body));
        let _ = record.check_leaf();
    }
}

/// `bytes` as each of the messages: what is accepted comes out the same again.
fn messages(bytes: &[u8]) {
    if let Ok(hello) = PeerHello::decode(bytes) {
        let mut again = Vec::new();
        if hello.encode(&mut again).is_ok() {
            assert_eq!(PeerHello::decode(&again), Ok(hello));
        }
    }
    if let Ok(batch) = PeerBatch::decode(bytes) {
        let mut again = Vec::new();
        if batch.encode(&mut again).is_ok() {
            assert_eq!(PeerBatch::decode(&again), Ok(batch));
        }
    }
    if let Ok(request) = ClientRequest::decode(bytes) {
        let mut again = Vec::new();
        if request.encode(&mut again).is_ok() {
            assert_eq!(ClientRequest::decode(&again), Ok(request));
        }
    }
    if let Ok(response) = ClientResponse::decode(bytes) {
        let mut again = Vec::new();
        if response.encode(&mut again).is_ok() {
            assert_eq!(ClientResponse::decode(&again), Ok(response));
        }
    }
}

/// `bytes` as a profile file: what is accepted is within its limits and makes a log, what is refused is refused with a
/// line of the file.
///
/// # Panics
/// If not, or if the parser panics.
pub fn profile(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    match Profile::judge(text, "fuzz.toml") {
        Ok(profile) => {
            profile.check().expect("what was read is within its limits");
            let options = profile.log_options(0);
            options.check().expect("a profile makes a log's options");
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            for error in wrong {
                let lines = text.split('\n').count();
                assert!(error.line() <= lines, "{error}: of {lines} lines");
                assert!(error.to_string().contains("fuzz.toml"));
            }
        }
    }
}
