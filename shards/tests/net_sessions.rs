//! Sessions between peer shards: who gets one, one per pair, and what comes in which order.

#![cfg(feature = "net")]

mod net_support;

use clustor_shards::log::Encoding;
use clustor_shards::net::{ConnectionLimits, LocalShard, NetError, NetLimits, Preface, ShardNet};
use clustor_shards::turn::{PeerEvent, PeerId, PeerPast, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ChainNumber, ClusterId, Incarnation, NodeId, ShardId};
use clustor_wire::message::PeerHello;
use net_support::Ca;
use net_support::by_hand::{accept, dial_by_hand, greet_by_hand, hello};
use net_support::world::{CLUSTER, World, address, local, net_of, net_with, peer, world_of};
use rand::Rng;

fn batch(number: u64) -> Frame {
    Frame {
        kind: FrameKind::PeerBatch,
        body: number.to_le_bytes().to_vec(),
    }
}

fn batches(world: &World, at: usize) -> Vec<(PeerId, Frame)> {
    world.peer_events[at]
        .iter()
        .filter_map(|event| match event {
            PeerEvent::Frame(peer, frame) if frame.kind == FrameKind::PeerBatch => {
                Some((*peer, frame.clone()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn three_nodes_form_one_session_per_pair_dialled_by_the_lower() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2), local(3)], &ca, 1);
    world.run(30, 1);
    for at in 0..3 {
        assert_eq!(world.nets[at].peers_up().count(), 2);
        assert_eq!(world.story(at).len(), 2, "{:?}", world.story(at));
        assert_eq!(world.nets[at].open_sockets(), 2);
    }
    let dials: Vec<_> = world.dials.iter().map(|(_, at, d)| (*at, d.peer)).collect();
    assert_eq!(dials, [(0, peer(2)), (0, peer(3)), (1, peer(3))]);
}

#[test]
fn the_hello_is_the_first_frame_and_brings_the_chains() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 1);
    let past = PeerPast {
        incarnation: Incarnation(200),
        boot: BootNumber(3),
        chain: ChainNumber(17),
    };
    world.nets[0].remember(peer(2), past);
    world.run(30, 1);
    let first = |at: usize| match &world.peer_events[at][..2] {
        [PeerEvent::Up(up), PeerEvent::Frame(from, frame)] => {
            assert_eq!((up, frame.kind), (from, FrameKind::PeerHello));
            PeerHello::decode(&frame.body).unwrap()
        }
        other => panic!("{other:?}"),
    };
    let hello = first(1);
    assert_eq!((hello.node, hello.last_chain), (NodeId(1), ChainNumber(10)));
    assert_eq!(hello.incarnation, Incarnation(100));
    assert_eq!(hello.remembered_chain, ChainNumber(17));
    assert_eq!(hello.remembered_incarnation, Incarnation(200));
    assert_eq!(hello.remembered_boot, BootNumber(3));
    let hello = first(0);
    assert_eq!((hello.node, hello.last_chain), (NodeId(2), ChainNumber(20)));
    assert_eq!(hello.remembered_chain, ChainNumber::ZERO);
}

#[test]
fn frames_pass_in_order_both_ways() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 2);
    world.run(30, 1);
    for number in 0..50 {
        world.nets[0].send(peer(2), batch(number)).unwrap();
        world.nets[1].send(peer(1), batch(100 + number)).unwrap();
        world.step(1);
    }
    world.run(10, 1);
    let at_2: Vec<_> = (0..50).map(|n| (peer(1), batch(n))).collect();
    let at_1: Vec<_> = (100..150).map(|n| (peer(2), batch(n))).collect();
    assert_eq!(batches(&world, 1), at_2);
    assert_eq!(batches(&world, 0), at_1);
}

#[test]
fn a_peer_that_is_placed_later_is_dialled_at_one_of_its_addresses_after_another() {
    let ca = Ca::new();
    let nets = vec![
        (1, net_of(local(1), ca.node(1), &[], Time(1))),
        (2, net_of(local(2), ca.node(2), &[1], Time(1))),
    ];
    let mut world = World::new(nets, 1);
    world.run(30, 1);
    assert!(world.dials.is_empty());
    let now = world.now;
    // Nobody listens at the first one.
    world.nets[0].place(peer(2), &[address(9), address(2)], now);
    world.run(2_000, 1);
    assert_eq!(world.nets[0].peers_up().next(), Some(peer(2)));
    assert_eq!(world.nets[1].peers_up().next(), Some(peer(1)));
    let dialled: Vec<_> = world
        .dials
        .iter()
        .map(|(_, _, dial)| dial.address)
        .collect();
    assert_eq!(dialled, [address(9), address(2)]);
    // The newest word counts, and a session that is up stays.
    let now = world.now;
    world.nets[0].place(peer(2), &[], now);
    world.run(30, 1);
    assert_eq!(world.nets[0].peers_up().count(), 1);
}

#[test]
fn nodes_under_different_placements_do_not_talk_and_both_say_why() {
    let ca = Ca::new();
    let other = LocalShard {
        placement_digest: [8; 32],
        ..local(2)
    };
    let mut world = world_of(vec![local(1), other], &ca, 1);
    world.run(40, 1);
    for at in 0..2 {
        assert!(world.peer_events[at].is_empty());
        assert!(
            world
                .troubles(at)
                .iter()
                .any(|t| t.contains("placements differ")),
            "{:?}",
            world.troubles(at)
        );
    }
}

#[test]
fn another_encoding_of_the_log_is_refused_by_both_names_on_both_sides() {
    let ca = Ca::new();
    let other = LocalShard {
        record_codec: Encoding::Json as u8,
        ..local(2)
    };
    let mut world = world_of(vec![local(1), other], &ca, 1);
    world.run(40, 1);
    assert!(world.peer_events.iter().all(Vec::is_empty));
    for at in [0, 1] {
        let troubles = world.troubles(at);
        let names_both = |t: &String| {
            t.contains("binary") && t.contains("json") && t.contains("CLUSTOR_LOG_ENCODING")
        };
        assert!(troubles.iter().any(names_both), "{troubles:?}");
    }
}

#[test]
fn a_preface_for_another_cluster_or_shard_is_refused_before_tls() {
    let ca = Ca::new();
    let mut net = net_of(local(2), ca.node(2), &[1], Time(1));
    let accept = |net: &mut ShardNet, preface| net.on_accepted(&preface, Time(1));
    assert!(matches!(
        accept(&mut net, Preface::peer(ClusterId(5), ShardId(0))),
        Err(NetError::WrongCluster { found: 5, .. })
    ));
    assert!(matches!(
        accept(&mut net, Preface::peer(CLUSTER, ShardId(1))),
        Err(NetError::WrongShard {
            what: "preface",
            ..
        })
    ));
    assert_eq!(net.open_sockets(), 0);
}

#[test]
fn a_certificate_that_is_not_the_nodes_is_refused_at_the_start() {
    let ca = Ca::new();
    let limits = NetLimits::default();
    let result = ShardNet::new(local(2), ca.node(3), &[], limits, 0, Time(0));
    assert!(matches!(result, Err(NetError::WrongIdentity { .. })));
}

#[test]
fn a_hello_that_is_not_the_certificates_is_refused_with_the_reason() {
    let ca = Ca::new();
    let cases: [(u64, Frame, &str); 6] = [
        (
            3,
            hello(|_| {}),
            "the hello claims node 1, the certificate says node 3",
        ),
        (1, hello(|h| h.to_shard = ShardId(4)), "names shard 4"),
        (
            2,
            hello(|h| h.node = NodeId(2)),
            "node 2 is this node itself",
        ),
        (1, batch(1), "before the hello"),
        (
            1,
            Frame {
                kind: FrameKind::PeerHello,
                body: vec![1, 2, 3],
            },
            "can't be read",
        ),
        (1, hello(|h| h.record_version = 9), "record version 9"),
    ];
    for (node, frame, words) in cases {
        let mut net = net_of(local(2), ca.node(2), &[1, 3, 8], Time(1));
        let (_, by_hand) = dial_by_hand(&mut net, &ca.node(node), frame, Time(1));
        let (mut peers, mut clients) = (Vec::new(), Vec::new());
        net.take_events(&mut peers, &mut clients, Time(1));
        assert!(peers.is_empty(), "{words}");
        let notice = format!("{:?}", net.poll_notice().expect("a notice"));
        assert!(notice.contains("PeerRefused"), "{notice}");
        match by_hand.ended() {
            Some(NetError::RefusedByPeer { reason }) => {
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn the_later_of_two_connections_of_a_pair_stays() {
    let ca = Ca::new();
    let one = ca.node(1);
    let mut net = net_of(local(2), ca.node(2), &[1], Time(1));
    let (first, first_by_hand) = dial_by_hand(&mut net, &one, hello(|_| {}), Time(1));
    assert!(first_by_hand.ended().is_none());
    let (second, second_by_hand) = dial_by_hand(&mut net, &one, hello(|_| {}), Time(1));
    assert!(second > first && second_by_hand.ended().is_none());
    let (mut peers, mut clients) = (Vec::new(), Vec::new());
    net.take_events(&mut peers, &mut clients, Time(1));
    let story: Vec<_> = peers
        .iter()
        .map(|event| match event {
            PeerEvent::Up(_) => "up",
            PeerEvent::Frame(..) => "hello",
            PeerEvent::Down(_) => "down",
        })
        .collect();
    assert_eq!(story, ["up", "hello", "down", "up", "hello"]);
    let mut bytes = Vec::new();
    net.transmit(first, &mut bytes, usize::MAX, Time(1));
    assert_eq!(net.poll_close(Time(1)), Some(first));
    assert_eq!(net.open_sockets(), 1);
}

#[test]
fn a_connection_accepted_earlier_never_displaces_a_later_one() {
    let ca = Ca::new();
    let one = ca.node(1);
    let mut net = net_of(local(2), ca.node(2), &[1], Time(1));
    let early = accept(&mut net, Time(1));
    let (_, late) = dial_by_hand(&mut net, &one, hello(|_| {}), Time(1));
    let slow = greet_by_hand(&mut net, early, &one, hello(|_| {}), Time(1));
    match slow.ended() {
        Some(NetError::RefusedByPeer { reason }) => {
            assert!(reason.contains("has precedence"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(late.ended().is_none());
    assert_eq!(net.peers_up().count(), 1);
}

#[test]
fn waits_between_dials_grow_to_the_limit_and_never_beyond() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 1);
    world.reachable = false;
    world.run(10_000, 1);
    let of_1 = world.dials.iter().filter(|(_, at, _)| *at == 0);
    let times: Vec<u64> = of_1.map(|(at, ..)| at.0 / 1000).collect();
    let waits: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(waits.len() > 10, "{waits:?}");
    assert!((25..=51).contains(&waits[0]), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 1_001), "{waits:?}");
    assert!(waits[8..].iter().all(|wait| *wait >= 499), "{waits:?}");
    let distinct: std::collections::BTreeSet<_> = waits[8..].iter().collect();
    assert!(distinct.len() > 1, "waits are jittered");
    assert_eq!(world.troubles(0).len(), 1, "the same trouble is told once");
    world.reachable = true;
    world.run(1_100, 1);
    assert_eq!(world.nets[0].peers_up().count(), 1);
}

#[test]
fn a_reset_is_followed_by_a_new_session() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 3);
    world.run(30, 1);
    world.cut_all();
    world.run(200, 1);
    assert_eq!(world.story(0), ["up 2", "down 2", "up 2"]);
    assert_eq!(world.story(1), ["up 1", "down 1", "up 1"]);
}

#[test]
fn a_quiet_session_stays_up_and_delivers_nothing() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 4);
    world.run(30, 1);
    let before = world.peer_events[0].len();
    world.run(600, 50);
    assert_eq!(world.story(0), ["up 2"]);
    assert_eq!(
        world.peer_events[0].len(),
        before,
        "signs of life stay below"
    );
}

#[test]
fn a_peer_that_falls_silent_is_closed() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 4);
    world.run(30, 1);
    world.freeze_all();
    world.reachable = false;
    world.run(100, 50);
    assert_eq!(world.story(1), ["up 1"], "not before five seconds");
    world.run(60, 50);
    assert_eq!(world.story(1), ["up 1", "down 1"]);
    assert!(
        world
            .troubles(1)
            .iter()
            .any(|t| t.contains("nothing was heard"))
    );
    assert_eq!(
        world.nets[1].open_sockets(),
        0,
        "drained or not, it is closed"
    );
}

#[test]
fn a_handshake_that_hangs_is_given_up() {
    let ca = Ca::new();
    let mut net = net_of(local(2), ca.node(2), &[], Time(1));
    let socket = net
        .on_accepted(&Preface::peer(CLUSTER, ShardId(0)), Time(1))
        .unwrap();
    assert_eq!(net.next_deadline(), Some(Time(1).plus_ms(5_000)));
    net.on_time(Time(1).plus_ms(4_999));
    assert_eq!(net.poll_close(Time(1).plus_ms(4_999)), None);
    let late = Time(1).plus_ms(5_000);
    net.on_time(late);
    assert_eq!(net.poll_close(late), Some(socket));
    assert_eq!(net.open_sockets(), 0);
    assert!(format!("{:?}", net.poll_notice()).contains("HandshakeTimeout"));
}

#[test]
fn handshakes_are_bounded() {
    let ca = Ca::new();
    let mut net = net_of(local(2), ca.node(2), &[1], Time(1));
    let preface = Preface::peer(CLUSTER, ShardId(0));
    for _ in 0..64 {
        net.on_accepted(&preface, Time(1)).unwrap();
    }
    assert!(matches!(
        net.on_accepted(&preface, Time(1)),
        Err(NetError::TooMany { limit: 64, .. })
    ));
    net.on_time(Time(1).plus_ms(5_000));
    net.on_accepted(&preface, Time(1).plus_ms(5_000))
        .expect("those that hung made room");
}

#[test]
fn a_frame_without_a_session_comes_back() {
    let ca = Ca::new();
    let mut net = net_of(local(1), ca.node(1), &[2], Time(1));
    for to in [peer(2), peer(9)] {
        let (frame, error) = net.send(to, batch(5)).unwrap_err();
        assert_eq!(frame, batch(5));
        assert!(matches!(error, NetError::NoSession { .. }));
    }
}

#[test]
fn events_that_nobody_takes_stop_the_sender_and_lose_nothing() {
    let ca = Ca::new();
    let limits = NetLimits {
        event_bytes_max: 100_000,
        connection: ConnectionLimits {
            send_frames_max: 10,
            send_bytes_max: 100_000,
            received_bytes_max: 50_000,
        },
        ..NetLimits::default()
    };
    let net = |me: u64, other| net_with(local(me), ca.node(me), &[other], limits, Time(1));
    let mut world = World::new(vec![(1, net(1, 2)), (2, net(2, 1))], 5);
    world.run(30, 1);
    world.taking = false;
    let big = |n: u64| Frame {
        kind: FrameKind::PeerBatch,
        body: n.to_le_bytes().repeat(1_000),
    };
    let mut sent = 0;
    for _ in 0..300 {
        if world.nets[0].send(peer(2), big(sent)).is_ok() {
            sent += 1;
        }
        world.step(1);
    }
    // Events, frames received, the wire, the queue, and what one step may exceed them by: 8 KB each.
    assert!(
        (30..70).contains(&sent),
        "the sender was stopped after {sent}"
    );
    world.taking = true;
    world.run(60, 1);
    let got = batches(&world, 1);
    assert_eq!(got.len() as u64, sent);
    assert!((0..sent).all(|n| got[n as usize].1 == big(n)));
}

#[test]
fn frames_of_an_earlier_session_never_come_after_a_later_one_began() {
    let ca = Ca::new();
    let identities = [ca.node(1), ca.node(2)];
    for seed in 0..30 {
        let nets = vec![
            (1, net_of(local(1), identities[0].clone(), &[2], Time(1))),
            (2, net_of(local(2), identities[1].clone(), &[1], Time(1))),
        ];
        let mut world = World::new(nets, seed);
        let mut sessions = 0u64;
        let mut seen = 0;
        for _ in 0..600 {
            // Whoever sends tags its frames with its own count of sessions.
            for event in &world.peer_events[0][seen..] {
                sessions += u64::from(matches!(event, PeerEvent::Up(_)));
            }
            seen = world.peer_events[0].len();
            // Refused without a session: nothing to check then.
            let _ = world.nets[0].send(peer(2), batch(sessions));
            if world.rng.random_bool(0.02) {
                world.cut_all();
            }
            world.step(3);
        }
        let mut present = None;
        let mut last = 0;
        let mut ups = 0;
        for event in &world.peer_events[1] {
            match event {
                PeerEvent::Up(_) => {
                    present = None;
                    ups += 1;
                }
                PeerEvent::Down(_) => present = Some(u64::MAX),
                PeerEvent::Frame(_, frame) if frame.kind == FrameKind::PeerHello => {}
                PeerEvent::Frame(_, frame) => {
                    let tag = u64::from_le_bytes(frame.body.as_slice().try_into().unwrap());
                    assert!(present.is_none_or(|p| p == tag), "seed {seed}");
                    assert!(tag >= last, "seed {seed}");
                    present = Some(tag);
                    last = tag;
                }
            }
        }
        assert!(ups > 2, "seed {seed}: sessions came and went");
    }
}

#[test]
fn stopping_tells_the_peers_and_dials_no_more() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 6);
    world.run(30, 1);
    let now = world.now;
    world.nets[0].stop(now);
    world.run(20, 1);
    assert_eq!(world.story(0), ["up 2", "down 2"]);
    assert_eq!(world.story(1), ["up 1", "down 1"]);
    assert!(
        world.troubles(1).iter().any(|t| t.contains("stopping")),
        "{:?}",
        world.troubles(1)
    );
    let dials = |world: &World| world.dials.iter().filter(|(_, at, _)| *at == 0).count();
    let before = dials(&world);
    world.run(100, 50);
    assert_eq!(dials(&world), before);
    assert_eq!(world.nets[0].open_sockets(), 0);
    assert_eq!(world.nets[0].next_deadline(), None);
}
