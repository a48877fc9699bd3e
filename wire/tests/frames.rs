//! The transport frame, through its public face.

use clustor_wire::error_code::ErrorCode;
use clustor_wire::frame::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameKind,
    GOODBYE_BYTES_MAX, encode_frame, encode_frame_with, goodbye_text,
};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

const KINDS: [FrameKind; 5] = [
    FrameKind::PeerHello,
    FrameKind::PeerBatch,
    FrameKind::ClientRequest,
    FrameKind::ClientResponse,
    FrameKind::Goodbye,
];

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let len = prop_oneof![4 => 0usize..200, 1 => 4000usize..20_000];
    let body = (len, any::<u8>()).prop_map(|(len, salt)| {
        (0..len)
            .map(|i| (i as u8).wrapping_mul(31).wrapping_add(salt))
            .collect()
    });
    let kind = prop_oneof![
        Just(KINDS[0]),
        Just(KINDS[1]),
        Just(KINDS[2]),
        Just(KINDS[3]),
        Just(KINDS[4])
    ];
    prop::collection::vec(
        (kind, body).prop_map(|(kind, body)| Frame { kind, body }),
        0..6,
    )
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        encode_frame(frame, &mut out).expect("the body is within the limit");
    }
    out
}

/// All frames of `bytes` as one piece, then the end of the stream.
fn decoded(mut bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::new();
    let mut frames = Vec::new();
    while let Some(frame) = decoder.decode(&mut bytes)? {
        frames.push(frame);
    }
    decoder.finish()?;
    Ok(frames)
}

proptest! {
    #[test]
    fn any_split_of_any_sequence_of_frames_round_trips_within_the_memory_bound(
        frames in frames(),
        cuts in prop::collection::vec(1usize..5000, 1..20),
    ) {
        let bytes = encoded(&frames);
        let mut decoder = FrameDecoder::new();
        let mut got = Vec::new();
        let mut rest = bytes.as_slice();
        let mut cuts = cuts.iter().copied().cycle();
        // Where the frame at hand began, to know how much of it has arrived.
        let mut begun = 0;
        while !rest.is_empty() {
            let (mut piece, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            rest = later;
            while let Some(frame) = decoder.decode(&mut piece)? {
                begun += FRAME_HEADER_BYTES + frame.body.len();
                prop_assert_eq!(decoder.buffered_bytes(), 0);
                got.push(frame);
            }
            prop_assert!(piece.is_empty());
            let arrived = bytes.len() - rest.len() - begun;
            prop_assert!(decoder.buffered_bytes() <= arrived + arrived.max(4096));
            if arrived > 0 {
                let at_hand = &frames[got.len()];
                prop_assert!(decoder.buffered_bytes() <= FRAME_HEADER_BYTES + at_hand.body.len());
            }
        }
        prop_assert_eq!(decoder.finish(), Ok(()));
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_stream_is_rejected(
        frames in frames(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut bytes = encoded(&frames);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decoded(&bytes).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_wait_for_more_but_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(bytes.is_empty() || decoded(&bytes).is_err());
    }
}

#[test]
fn every_single_flipped_bit_of_a_frame_is_rejected() {
    let frame = Frame {
        kind: FrameKind::PeerBatch,
        body: (0..=255).collect(),
    };
    let bytes = encoded(std::slice::from_ref(&frame));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = decoded(&damaged).expect_err("a damaged frame was accepted");
        // Only a longer length can't be told before the stream ends; nothing but the header's length says more.
        let too_short = matches!(error, FrameError::TooShort { .. });
        assert!(!too_short || bit < 32, "bit {bit}: {error}");
    }
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_too_short() {
    let bytes = encoded(&[Frame {
        kind: FrameKind::ClientRequest,
        body: vec![7; 20],
    }]);
    for len in 1..bytes.len() {
        let error = decoded(&bytes[..len]).expect_err("a cut frame was accepted");
        let want = if len < FRAME_HEADER_BYTES {
            FRAME_HEADER_BYTES
        } else {
            bytes.len()
        };
        assert_eq!(error, FrameError::TooShort { have: len, want });
        assert_eq!(error.code(), ErrorCode::BodyTooShort);
    }
}

/// A header with the given fields, and any checksum: all but the length is judged before the checksum can be.
fn header(len: u32, kind: u8, flags: u8, version: u16) -> Vec<u8> {
    let mut header = len.to_le_bytes().to_vec();
    header.extend_from_slice(&[kind, flags]);
    header.extend_from_slice(&version.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header
}

#[test]
fn what_a_header_may_not_say_is_rejected_before_any_of_the_body_is_awaited() {
    let over = FRAME_BODY_BYTES_MAX as u32 + 1;
    for (bytes, code) in [
        (header(over, 1, 0, 1), ErrorCode::BodyTooLarge),
        (header(u32::MAX, 1, 0, 1), ErrorCode::BodyTooLarge),
        (header(8, 0, 0, 1), ErrorCode::UnknownKind),
        (header(8, 6, 0, 1), ErrorCode::UnknownKind),
        (header(8, 1, 0x80, 1), ErrorCode::UnknownField),
        (header(8, 1, 0, 0), ErrorCode::VersionUnsupported),
        (header(over, 9, 9, 2), ErrorCode::VersionUnsupported),
    ] {
        let mut decoder = FrameDecoder::new();
        let error = decoder
            .decode(&mut bytes.as_slice())
            .expect_err("the header was accepted");
        assert_eq!(error.code(), code, "{error}");
        assert!(
            error.to_string().starts_with(&code.to_string()),
            "the text does not name its code: {error}"
        );
    }
}

#[test]
fn a_decoder_is_unusable_after_an_error() {
    let good = encoded(&[Frame {
        kind: FrameKind::PeerHello,
        body: vec![1; 9],
    }]);
    let mut bad = good.clone();
    *bad.last_mut().expect("a frame has bytes") ^= 1;
    let mut decoder = FrameDecoder::new();
    let error = decoder
        .decode(&mut bad.as_slice())
        .expect_err("a damaged frame was accepted");
    assert_eq!(error.code(), ErrorCode::ChecksumMismatch);
    let mut later = good.as_slice();
    assert_eq!(decoder.decode(&mut later), Err(error.clone()));
    assert_eq!(later.len(), good.len(), "a failed decoder consumed bytes");
    assert_eq!(decoder.finish(), Err(error));
}

#[test]
fn the_largest_body_is_sent_and_received_and_one_byte_more_is_not() {
    let mut frame = Frame {
        kind: FrameKind::PeerBatch,
        body: vec![3; FRAME_BODY_BYTES_MAX],
    };
    assert_eq!(
        decoded(&encoded(std::slice::from_ref(&frame))),
        Ok(vec![frame.clone()])
    );
    frame.body.push(3);
    let mut out = vec![1, 2, 3];
    let error = encode_frame(&frame, &mut out).expect_err("a body over the limit was sent");
    assert_eq!(error.code(), ErrorCode::BodyTooLarge);
    assert_eq!(out, [1, 2, 3], "a refused frame left bytes behind");
}

#[test]
fn a_declared_length_alone_takes_no_memory() {
    let mut decoder = FrameDecoder::new();
    let mut input: &[u8] = &header(FRAME_BODY_BYTES_MAX as u32, 2, 0, 1);
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(decoder.buffered_bytes(), FRAME_HEADER_BYTES);
    assert_eq!(decoder.decode(&mut [0u8; 100].as_slice()), Ok(None));
    assert!(decoder.buffered_bytes() <= FRAME_HEADER_BYTES + 4096);
}

#[test]
fn a_body_that_could_not_be_built_leaves_the_buffer_as_it_was() {
    let mut out = vec![9; 5];
    let refused = encode_frame_with(FrameKind::ClientResponse, &mut out, |out| {
        out.extend_from_slice(&[1; 100]);
        Err(FrameError::TooLarge { len: 77 })
    });
    assert_eq!(refused, Err(FrameError::TooLarge { len: 77 }));
    assert_eq!(out, [9; 5]);
}

#[test]
fn the_bytes_of_a_frame_are_those_of_the_specification() {
    let bytes = encoded(&[Frame {
        kind: FrameKind::ClientRequest,
        body: b"clustor".to_vec(),
    }]);
    assert_eq!(bytes[..8], [7, 0, 0, 0, 3, 0, 1, 0]);
    assert_eq!(&bytes[12..], b"clustor");
    let summed = [&bytes[..8], b"clustor".as_slice()].concat();
    assert_eq!(bytes[8..12], bitwise_crc32c(&summed).to_le_bytes());
}

/// CRC32C by its definition: reflected polynomial 0x82F63B78, all ones at both ends (RFC 3720, appendix B.4).
fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

#[test]
fn a_goodbye_is_cut_at_a_character_and_read_without_control_characters() {
    let long = format!("a{}", "\u{e9}".repeat(GOODBYE_BYTES_MAX));
    let frame = Frame::goodbye(&long);
    assert_eq!(frame.kind, FrameKind::Goodbye);
    assert_eq!(frame.body.len(), GOODBYE_BYTES_MAX - 1);
    assert!(long.starts_with(&goodbye_text(&frame.body)));
    assert_eq!(goodbye_text(b"no\n\x1b[31mred\xff"), "no  [31mred\u{fffd}");
}
