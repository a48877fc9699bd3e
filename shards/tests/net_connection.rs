//! Connections in memory: handshakes under every split, identities, bounds and closings.

#![cfg(feature = "net")]

mod net_support;

use clustor_shards::net::{
    Connection, ConnectionLimits, Expected, NetError, Role, SessionKind, SpiffeId, TlsIdentity,
};
use clustor_wire::frame::{FRAME_BODY_BYTES_MAX, Frame, FrameKind};
use clustor_wire::ids::NodeId;
use net_support::{Ca, TRUST_DOMAIN, load};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const KIND: SessionKind = SessionKind::Peer;

fn pair(dialler: &TlsIdentity, acceptor: &TlsIdentity) -> (Connection, Connection) {
    pair_with(dialler, acceptor, ConnectionLimits::default())
}

fn pair_with(
    dialler: &TlsIdentity,
    acceptor: &TlsIdentity,
    limits: ConnectionLimits,
) -> (Connection, Connection) {
    (
        Connection::dial(dialler, KIND, Expected::Anyone, limits).expect("a dialler"),
        Connection::accept(acceptor, KIND, Expected::Anyone, limits).expect("an acceptor"),
    )
}

fn frame(salt: u8, len: usize) -> Frame {
    Frame {
        kind: FrameKind::PeerBatch,
        body: (0..len).map(|i| (i as u8) ^ salt).collect(),
    }
}

/// Moves everything that `from` has to `to`, in pieces that `piece` sizes.
fn carry(from: &mut Connection, to: &mut Connection, piece: &mut dyn FnMut() -> usize) -> usize {
    let mut bytes = Vec::new();
    // An error here was reported by the call that ended the connection.
    let _ = from.transmit(&mut bytes, usize::MAX);
    let mut at = 0;
    while at < bytes.len() {
        let end = at.saturating_add(piece().max(1)).min(bytes.len());
        match to.receive(&mut bytes[at..end]) {
            Ok(0) | Err(_) => break,
            Ok(taken) => at += taken,
        }
    }
    bytes.len()
}

/// Carries both ways until neither has anything to say.
fn settle(a: &mut Connection, b: &mut Connection, piece: &mut dyn FnMut() -> usize) {
    for _ in 0..64 {
        if carry(a, b, piece) + carry(b, a, piece) == 0 {
            return;
        }
    }
    panic!("the two never fall silent");
}

fn settle_whole(a: &mut Connection, b: &mut Connection) {
    settle(a, b, &mut || usize::MAX);
}

fn frames(connection: &mut Connection) -> Vec<Frame> {
    std::iter::from_fn(|| connection.next_frame()).collect()
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let ca = Ca::new();
    let (mut a, mut b) = pair(&ca.node(1), &ca.node(2));
    assert_eq!((a.peer(), b.peer()), (None, None));
    settle_whole(&mut a, &mut b);
    let node = |n| SpiffeId::new(TRUST_DOMAIN, Role::Node(NodeId(n))).unwrap();
    assert_eq!(a.peer(), Some(&node(2)));
    assert_eq!(b.peer(), Some(&node(1)));
}

#[test]
fn frames_pass_both_ways_however_the_bytes_are_cut() {
    let ca = Ca::new();
    let (one, two) = (ca.node(1), ca.node(2));
    for size in [1, 2, 3, 5, 7, 64, 1000, 16 * 1024 + 22] {
        let (mut a, mut b) = pair(&one, &two);
        a.send(frame(1, 40_000)).unwrap();
        b.send(frame(2, 3)).unwrap();
        settle(&mut a, &mut b, &mut || size);
        assert_eq!(frames(&mut b), [frame(1, 40_000)], "pieces of {size}");
        assert_eq!(frames(&mut a), [frame(2, 3)], "pieces of {size}");
    }
}

#[test]
fn the_handshake_survives_a_cut_at_every_byte() {
    let ca = Ca::new();
    let (one, two) = (ca.node(1), ca.node(2));
    let mut longest = 0;
    let mut cut = 1;
    while cut <= longest.max(1) {
        let (mut a, mut b) = pair(&one, &two);
        a.send(frame(1, 10)).unwrap();
        b.send(frame(2, 10)).unwrap();
        for _ in 0..8 {
            for turn in 0..2 {
                let (from, to) = if turn == 0 {
                    (&mut a, &mut b)
                } else {
                    (&mut b, &mut a)
                };
                let mut bytes = Vec::new();
                from.transmit(&mut bytes, usize::MAX).unwrap();
                longest = longest.max(bytes.len());
                let at = cut.min(bytes.len());
                let (head, tail) = bytes.split_at_mut(at);
                to.receive(head).unwrap();
                to.receive(tail).unwrap();
            }
        }
        assert_eq!(frames(&mut b), [frame(1, 10)], "cut at {cut}");
        assert_eq!(frames(&mut a), [frame(2, 10)], "cut at {cut}");
        cut += 1;
    }
    assert!(longest > 600, "a flight with a certificate was cut");
}

#[test]
fn random_pieces_and_random_frames_arrive_whole_and_in_order() {
    let ca = Ca::new();
    let (one, two) = (ca.node(1), ca.node(2));
    for seed in 0..40 {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (mut a, mut b) = pair(&one, &two);
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        let mut wires = [Vec::new(), Vec::new()];
        for step in 0..400 {
            if rng.random_bool(0.2) && step < 300 {
                let len = if rng.random_bool(0.1) { 70_000 } else { 600 };
                let frame = frame(step as u8, rng.random_range(0..len));
                if rng.random() {
                    to_b.push(frame.clone());
                    a.send(frame).unwrap();
                } else {
                    to_a.push(frame.clone());
                    b.send(frame).unwrap();
                }
            }
            let limit = rng.random_range(1..30_000);
            a.transmit(&mut wires[0], limit).unwrap();
            b.transmit(&mut wires[1], limit).unwrap();
            let (wire, to) = if rng.random() {
                (&mut wires[0], &mut b)
            } else {
                (&mut wires[1], &mut a)
            };
            let len = rng.random_range(0..=wire.len());
            let taken = to.receive(&mut wire[..len]).unwrap();
            wire.drain(..taken);
            at_a.extend(frames(&mut a));
            at_b.extend(frames(&mut b));
        }
        for _ in 0..200 {
            a.transmit(&mut wires[0], usize::MAX).unwrap();
            b.transmit(&mut wires[1], usize::MAX).unwrap();
            let taken = b.receive(&mut wires[0]).unwrap();
            wires[0].drain(..taken);
            let taken = a.receive(&mut wires[1]).unwrap();
            wires[1].drain(..taken);
            at_a.extend(frames(&mut a));
            at_b.extend(frames(&mut b));
        }
        assert!(at_a == to_a && at_b == to_b, "seed {seed}");
    }
}

#[test]
fn a_certificate_of_another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let (mut a, mut b) = pair(&theirs.node(1), &ours.node(2));
    settle_whole(&mut a, &mut b);
    let told = |c: &Connection| {
        matches!(
            c.ended(),
            Some(NetError::Tls {
                handshaking: true,
                ..
            })
        )
    };
    assert!(told(&a), "{:?}", a.ended());
    assert!(told(&b), "{:?}", b.ended());
    assert_eq!((a.peer(), b.peer()), (None, None));
}

#[test]
fn the_refusal_of_a_diallers_certificate_is_its_first_reads_error() {
    // The dialler trusts the acceptor's CA, not the other way round.
    let (ours, theirs) = (Ca::new(), Ca::new());
    let files = theirs.node_files(1);
    let both = theirs.dir.path().join("both.pem");
    let bundle = [ours.ca_path(), theirs.ca_path()]
        .map(|path| std::fs::read_to_string(path).unwrap())
        .concat();
    std::fs::write(&both, bundle).unwrap();
    let dialler = load(&clustor_shards::net::TlsFiles { ca: both, ..files }).unwrap();
    let (mut a, mut b) = pair(&dialler, &ours.node(2));
    carry(&mut a, &mut b, &mut || usize::MAX);
    carry(&mut b, &mut a, &mut || usize::MAX);
    assert!(a.peer().is_some(), "the dialler is content");
    carry(&mut a, &mut b, &mut || usize::MAX);
    assert!(b.ended().is_some(), "the acceptor is not");
    carry(&mut b, &mut a, &mut || usize::MAX);
    match a.ended() {
        Some(NetError::Tls { handshaking, why }) => {
            assert!(*handshaking && why.contains("UnknownCA"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_expired_certificate_is_refused_by_the_other_side() {
    let ca = Ca::new();
    let uri = format!("spiffe://{TRUST_DOMAIN}/node/1");
    let files = ca.issue("old", &[&uri], (2019, 2020));
    // The process that holds it loads it as of a time when it was good: its clock is wrong, or it ran on.
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_560_000_000);
    let expired = TlsIdentity::load(&files, then).unwrap();
    let (mut a, mut b) = pair(&expired, &ca.node(2));
    settle_whole(&mut a, &mut b);
    assert!(b.ended().unwrap().to_string().contains("expired"), "{b:?}");
    assert!(a.ended().is_some());
    let (mut a, mut b) = pair(&ca.node(3), &expired);
    settle_whole(&mut a, &mut b);
    assert!(a.ended().unwrap().to_string().contains("expired"), "{a:?}");
    assert!(b.ended().is_some());
}

#[test]
fn somebody_else_than_expected_is_told_so() {
    let ca = Ca::new();
    let limits = ConnectionLimits::default();
    let expected = Expected::Exactly(SpiffeId::new(TRUST_DOMAIN, Role::Node(NodeId(7))).unwrap());
    let mut a = Connection::dial(&ca.node(1), KIND, expected, limits).unwrap();
    let mut b = Connection::accept(&ca.node(2), KIND, Expected::AnyNode, limits).unwrap();
    settle_whole(&mut a, &mut b);
    assert!(
        matches!(a.ended(), Some(NetError::WrongIdentity { .. })),
        "{a:?}"
    );
    assert_eq!(b.next_frame(), None);
    match b.ended() {
        Some(NetError::RefusedByPeer { reason }) => assert!(reason.contains("node/7"), "{reason}"),
        other => panic!("{other:?}"),
    }
    settle_whole(&mut a, &mut b);
    assert!(a.is_finished() && b.is_finished());
}

#[test]
fn a_client_may_not_pose_as_a_node() {
    let ca = Ca::new();
    let limits = ConnectionLimits::default();
    let mut a = Connection::dial(&ca.client("eve"), KIND, Expected::Anyone, limits).unwrap();
    let mut b = Connection::accept(&ca.node(2), KIND, Expected::AnyNode, limits).unwrap();
    a.send(frame(1, 10)).unwrap();
    settle_whole(&mut a, &mut b);
    assert_eq!(b.next_frame(), None, "nothing of it is handed out");
    assert!(
        matches!(b.ended(), Some(NetError::WrongIdentity { .. })),
        "{b:?}"
    );
}

#[test]
fn another_trust_domain_under_the_same_ca_is_refused() {
    let ca = Ca::new();
    let stranger = load(&ca.issue("x", &["spiffe://elsewhere/node/1"], (2020, 2100))).unwrap();
    let (mut a, mut b) = pair(&stranger, &ca.node(2));
    settle_whole(&mut a, &mut b);
    assert!(
        matches!(b.ended(), Some(NetError::WrongTrustDomain { .. })),
        "{b:?}"
    );
}

#[test]
fn the_kind_is_authenticated_inside_tls() {
    let ca = Ca::new();
    let limits = ConnectionLimits::default();
    let client = ca.client("c");
    let mut a = Connection::dial(&client, SessionKind::Client, Expected::Anyone, limits).unwrap();
    let mut b =
        Connection::accept(&ca.node(2), SessionKind::Peer, Expected::Anyone, limits).unwrap();
    settle_whole(&mut a, &mut b);
    assert!(a.ended().is_some() && b.ended().is_some());
    assert_eq!(b.peer(), None);
}

#[test]
fn an_acceptor_refuses_a_dialler_without_a_certificate() {
    let ca = Ca::new();
    let mut b = Connection::accept(
        &ca.node(2),
        KIND,
        Expected::Anyone,
        ConnectionLimits::default(),
    )
    .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(ca.ca_path()).unwrap();
    roots
        .add(rustls_pki_types::pem::PemObject::from_pem_slice(&pem).unwrap())
        .unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(net_support::AcceptAny))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"clustor-peer/1".to_vec()];
    let name = "clustor.invalid".try_into().unwrap();
    let mut a = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    for _ in 0..4 {
        let mut bytes = Vec::new();
        while a.wants_write() {
            a.write_tls(&mut bytes).unwrap();
        }
        // The refusal is what the test is about; it is looked at below.
        let _ = b.receive(&mut bytes);
        let mut back = Vec::new();
        b.transmit(&mut back, usize::MAX).unwrap();
        let mut back = back.as_slice();
        while !back.is_empty() {
            a.read_tls(&mut back).unwrap();
            let _ = a.process_new_packets();
        }
    }
    assert_eq!(b.peer(), None);
    match b.ended() {
        Some(NetError::Tls { handshaking, why }) => {
            assert!(*handshaking && why.contains("certificate"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_flipped_bit_ends_the_connection_and_delivers_nothing() {
    let ca = Ca::new();
    let (one, two) = (ca.node(1), ca.node(2));
    for byte in [0, 1, 3, 5, 20, 100] {
        let (mut a, mut b) = pair(&one, &two);
        settle_whole(&mut a, &mut b);
        a.send(frame(1, 200)).unwrap();
        let mut bytes = Vec::new();
        a.transmit(&mut bytes, usize::MAX).unwrap();
        bytes[byte] ^= 0x10;
        let result = b.receive(&mut bytes);
        // A longer length leaves an incomplete record: more bytes must end it, not deliver it.
        let result = result.and_then(|_| b.receive(&mut [0u8; 20_000]));
        assert!(result.is_err(), "byte {byte}");
        assert_eq!(b.next_frame(), None);
        carry(&mut b, &mut a, &mut || usize::MAX);
        assert!(a.ended().is_some(), "byte {byte}: the sender is told");
    }
}

#[test]
fn garbage_instead_of_a_handshake_is_a_typed_error() {
    let ca = Ca::new();
    let (_, mut b) = pair(&ca.node(1), &ca.node(2));
    let mut garbage = *b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(matches!(
        b.receive(&mut garbage),
        Err(NetError::Tls {
            handshaking: true,
            ..
        })
    ));
    assert!(b.receive(&mut [1, 2, 3]).is_err(), "the error stays");
}

#[test]
fn frames_beyond_the_wires_limit_are_given_back() {
    let ca = Ca::new();
    let (mut a, mut b) = pair(&ca.node(1), &ca.node(2));
    let (back, error) = a.send(frame(1, FRAME_BODY_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(back.body.len(), FRAME_BODY_BYTES_MAX + 1);
    assert!(matches!(error, NetError::FrameTooLarge { .. }));
    a.send(frame(1, FRAME_BODY_BYTES_MAX)).unwrap();
    settle_whole(&mut a, &mut b);
    assert_eq!(frames(&mut b).len(), 1, "the largest frame passes");
}

#[test]
fn a_full_send_queue_refuses_by_count_and_by_bytes() {
    let ca = Ca::new();
    let limits = ConnectionLimits {
        send_frames_max: 3,
        send_bytes_max: 1000,
        received_bytes_max: 1000,
    };
    let (mut a, _) = pair_with(&ca.node(1), &ca.node(2), limits);
    for _ in 0..3 {
        a.send(frame(1, 10)).unwrap();
    }
    let (_, error) = a.send(frame(1, 10)).unwrap_err();
    assert!(matches!(error, NetError::SendQueueFull { frames: 3, .. }));
    let (mut a, _) = pair_with(&ca.node(1), &ca.node(2), limits);
    a.send(frame(1, 5000)).expect("one always fits");
    let (_, error) = a.send(frame(1, 1)).unwrap_err();
    assert!(matches!(error, NetError::SendQueueFull { frames: 1, .. }));
}

#[test]
fn a_reader_that_stops_fetching_stops_the_sender_and_loses_nothing() {
    let ca = Ca::new();
    let limits = ConnectionLimits {
        received_bytes_max: 100_000,
        ..ConnectionLimits::default()
    };
    let (mut a, mut b) = pair_with(&ca.node(1), &ca.node(2), limits);
    settle_whole(&mut a, &mut b);
    for salt in 0..100 {
        a.send(frame(salt, 10_000)).unwrap();
    }
    let mut bytes = Vec::new();
    a.transmit(&mut bytes, usize::MAX).unwrap();
    let mut taken_total = 0;
    loop {
        let taken = b.receive(&mut bytes).unwrap();
        if taken == 0 {
            break;
        }
        bytes.drain(..taken);
        taken_total += taken;
    }
    assert!(!b.wants_read());
    assert!(taken_total < 100_000 + 2 * 64 * 1024, "{taken_total}");
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend(frames(&mut b));
        let taken = b.receive(&mut bytes).unwrap();
        bytes.drain(..taken);
    }
    assert!((0..100).all(|salt| got[usize::from(salt)] == frame(salt, 10_000)));
}

#[test]
fn transmit_stops_at_its_limit() {
    let ca = Ca::new();
    let (mut a, mut b) = pair(&ca.node(1), &ca.node(2));
    settle_whole(&mut a, &mut b);
    a.send(frame(1, 200_000)).unwrap();
    let mut bytes = Vec::new();
    let given = a.transmit(&mut bytes, 20_000).unwrap();
    assert!((20_000..20_000 + 17_000).contains(&given), "{given}");
    assert!(a.wants_write());
}

#[test]
fn an_orderly_close_delivers_what_was_queued_before_it() {
    let ca = Ca::new();
    let (mut a, mut b) = pair(&ca.node(1), &ca.node(2));
    a.send(frame(1, 50_000)).unwrap();
    a.close();
    assert!(matches!(a.send(frame(2, 1)), Err((_, NetError::Closed))));
    settle_whole(&mut a, &mut b);
    assert_eq!(frames(&mut b), [frame(1, 50_000)]);
    assert_eq!(b.ended(), Some(&NetError::ClosedByPeer));
    assert_eq!(b.lost("end of stream"), NetError::ClosedByPeer);
    assert!(b.receive(&mut [1]).is_err());
    settle_whole(&mut a, &mut b);
    assert!(a.is_finished() && b.is_finished());
}

#[test]
fn an_end_without_a_close_is_a_loss() {
    let ca = Ca::new();
    let (mut a, mut b) = pair(&ca.node(1), &ca.node(2));
    settle_whole(&mut a, &mut b);
    assert!(matches!(b.lost("end of stream"), NetError::Lost { .. }));
    assert!(b.is_finished() || b.wants_write());
    assert!(!a.is_finished());
}

#[test]
fn damage_anywhere_in_a_conversation_neither_panics_nor_delivers_what_was_not_sent() {
    let ca = Ca::new();
    let (one, two) = (ca.node(1), ca.node(2));
    let (mut conversations, mut ended) = (0, 0);
    for seed in 0..600 {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (mut a, mut b) = pair(&one, &two);
        for salt in 0..4 {
            a.send(frame(salt, 300)).unwrap();
            b.send(frame(salt, 300)).unwrap();
        }
        // Somewhere in the first bytes of one direction: hello, certificate, finished, or the frames.
        let (victim, mut left) = (rng.random_range(0..2), rng.random_range(0..3_000_usize));
        let mut damaged = false;
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            for turn in 0..2 {
                let (from, to) = if turn == 0 {
                    (&mut a, &mut b)
                } else {
                    (&mut b, &mut a)
                };
                let mut bytes = Vec::new();
                // Whether it ended is counted below.
                let _ = from.transmit(&mut bytes, usize::MAX);
                if turn == victim && !damaged {
                    if left < bytes.len() {
                        bytes[left] ^= 1 << rng.random_range(0..8);
                        damaged = true;
                        match rng.random_range(0..3) {
                            0 => bytes.extend((0..40).map(|_| rng.random::<u8>())),
                            1 => bytes.truncate(rng.random_range(left..bytes.len())),
                            _ => {}
                        }
                    } else {
                        left -= bytes.len();
                    }
                }
                let mut at = 0;
                while at < bytes.len() {
                    let end = (at + rng.random_range(1..2_000_usize)).min(bytes.len());
                    match to.receive(&mut bytes[at..end]) {
                        Ok(0) | Err(_) => break,
                        Ok(taken) => at += taken,
                    }
                }
            }
            at_a.extend(frames(&mut a));
            at_b.extend(frames(&mut b));
        }
        let sent: Vec<_> = (0..4).map(|salt| frame(salt, 300)).collect();
        assert!(sent.starts_with(&at_a), "seed {seed}");
        assert!(sent.starts_with(&at_b), "seed {seed}");
        // Offsets beyond the conversation damage nothing: those must be delivered whole. A record cut short only
        // stalls: the carrier's time limits close such a connection.
        let over = a.ended().is_some() || b.ended().is_some();
        let whole = at_a.len() == 4 && at_b.len() == 4;
        assert_eq!(whole, !damaged, "seed {seed}");
        assert!(damaged || !over, "seed {seed}");
        conversations += usize::from(damaged);
        ended += usize::from(over);
    }
    assert!(0 < ended && ended < conversations && conversations < 600);
}
