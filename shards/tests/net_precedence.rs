//! Both sides of a pair may dial: the higher does where the lower does not get through, one of two connections stays,
//! and it is the same one for both.

#![cfg(feature = "net")]

mod net_support;

use clustor_shards::net::{LocalShard, NetError, NetLimits, ShardNet};
use clustor_shards::turn::{PeerEvent, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, NodeId};
use net_support::Ca;
use net_support::by_hand::{accept, dial_by_hand, greet_by_hand, hello};
use net_support::world::{Blocked, World, address, local, net_of, net_with, peer, world_of};
use rand::Rng;

fn dials_of(world: &World, at: usize) -> Vec<u64> {
    let dials = world.dials.iter().filter(|(_, of, _)| *of == at);
    dials.map(|(when, ..)| when.0 / 1000).collect()
}

#[test]
fn the_higher_node_dials_after_a_while_where_the_lower_gets_nowhere() {
    let ca = Ca::new();
    for how in [Blocked::Refused, Blocked::Swallowed] {
        let mut world = world_of(vec![local(1), local(2)], &ca, 1);
        world.blocked.insert((0, 1), how);
        world.run(1_990, 1);
        assert!(dials_of(&world, 1).is_empty(), "{how:?}: not at once");
        world.run(2_100, 1);
        assert_eq!(dials_of(&world, 1).len(), 1, "{how:?}");
        // It stays, and what the lower had under way is given up.
        let lower = dials_of(&world, 0).len();
        world.run(600, 50);
        assert_eq!(dials_of(&world, 0).len(), lower, "{how:?}");
        for at in 0..2 {
            assert_eq!(world.story(at), [format!("up {}", 2 - at)], "{how:?}");
            assert_eq!(world.nets[at].open_sockets(), 1, "{how:?}");
        }
        world.nets[1].send(peer(1), batch(7)).unwrap();
        world.nets[0].send(peer(2), batch(8)).unwrap();
        world.run(5, 1);
        assert_eq!(last_batch(&world, 0), Some(7));
        assert_eq!(last_batch(&world, 1), Some(8));
    }
}

fn batch(number: u64) -> Frame {
    Frame {
        kind: FrameKind::PeerBatch,
        body: number.to_le_bytes().to_vec(),
    }
}

fn last_batch(world: &World, at: usize) -> Option<u64> {
    let last = world.peer_events[at].last();
    match last {
        Some(PeerEvent::Frame(_, frame)) if frame.kind == FrameKind::PeerBatch => {
            Some(u64::from_le_bytes(frame.body.as_slice().try_into().ok()?))
        }
        _ => None,
    }
}

#[test]
fn a_higher_node_that_is_down_for_long_is_dialled_no_more_often_than_a_lower_one() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 1);
    world.reachable = false;
    world.run(30_000, 1);
    let [lower, higher] = [0, 1].map(|at| dials_of(&world, at));
    assert!((2_000..=4_000).contains(&higher[0]), "{higher:?}");
    assert!(higher.len() <= lower.len(), "{higher:?}");
    let waits: Vec<u64> = higher.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(waits[8..].iter().all(|wait| (499..=1_001).contains(wait)));
    assert_eq!(world.troubles(1).len(), 1, "the same trouble is told once");
}

/// Two nets, of which the higher hardly waits for the lower.
fn hasty(ca: &Ca, seed: u64, patience_ms: u64) -> World {
    let limits = NetLimits {
        patience_ms,
        ..NetLimits::default()
    };
    let net = |me: u64, other| net_with(local(me), ca.node(me), &[other], limits, Time(1));
    World::new(vec![(1, net(1, 2)), (2, net(2, 1))], seed)
}

#[test]
fn of_two_dials_at_once_one_becomes_the_session_on_both_sides_and_stays() {
    let ca = Ca::new();
    let mut both = 0;
    for seed in 0..60 {
        let mut world = hasty(&ca, seed, 1 + seed % 12);
        world.lag = 0.7;
        world.run(2_000, 1);
        for at in 0..2 {
            let story = world.story(at);
            assert_eq!(story, [format!("up {}", 2 - at)], "seed {seed}");
            assert_eq!(world.nets[at].open_sockets(), 1, "seed {seed}");
        }
        both += u64::from(!dials_of(&world, 1).is_empty());
        world.lag = 0.0;
        world.nets[1].send(peer(1), batch(7)).unwrap();
        world.nets[0].send(peer(2), batch(8)).unwrap();
        world.run(5, 1);
        assert_eq!(last_batch(&world, 0), Some(7), "seed {seed}");
        assert_eq!(last_batch(&world, 1), Some(8), "seed {seed}");
    }
    assert!(both > 30, "both dialled in {both}");
}

#[test]
fn after_cuts_while_both_dial_a_session_stands_on_both_sides_and_nothing_old_comes_after() {
    let ca = Ca::new();
    for seed in 0..30 {
        let mut world = hasty(&ca, seed, 60);
        world.lag = 0.5;
        let mut tag = 0u64;
        for _ in 0..1_000 {
            tag += 1;
            for (at, to) in [(0, 2), (1, 1)] {
                // Refused without a session: nothing is lost then.
                let _ = world.nets[at].send(peer(to), batch(tag));
            }
            if world.rng.random_bool(0.01) {
                world.cut_all();
            }
            world.step(3);
        }
        world.run(1_200, 1);
        let before = [0, 1].map(|at| world.story(at).len());
        world.run(600, 50);
        for (at, before) in before.into_iter().enumerate() {
            assert_eq!(world.story(at).len(), before, "seed {seed}: it settled");
            assert_eq!(world.nets[at].peers_up().count(), 1, "seed {seed}");
            assert_eq!(world.nets[at].open_sockets(), 1, "seed {seed}");
            let mut last = 0;
            let mut is_up = false;
            for event in &world.peer_events[at] {
                match event {
                    PeerEvent::Up(_) => is_up = true,
                    PeerEvent::Down(_) => is_up = false,
                    PeerEvent::Frame(_, frame) if frame.kind == FrameKind::PeerHello => {}
                    PeerEvent::Frame(_, frame) => {
                        let tag = u64::from_le_bytes(frame.body.as_slice().try_into().unwrap());
                        assert!(is_up && tag > last, "seed {seed}");
                        last = tag;
                    }
                }
            }
        }
    }
}

#[test]
fn a_duplicate_never_displaces_a_session_that_is_sound() {
    let ca = Ca::new();
    let two = ca.node(2);
    let mut world = world_of(vec![local(1), local(2)], &ca, 1);
    world.run(30, 1);
    let of_2 = || {
        hello(|hello| {
            hello.node = NodeId(2);
        })
    };
    for _ in 0..40 {
        let now = world.now;
        let (_, duplicate) = dial_by_hand(&mut world.nets[0], &two, of_2(), now);
        match duplicate.ended() {
            Some(NetError::RefusedByPeer { reason }) => {
                assert!(reason.contains("has precedence"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        world.run(10, 50);
    }
    for at in 0..2 {
        assert_eq!(world.story(at), [format!("up {}", 2 - at)]);
    }
    // Once nothing has been heard for two signs of life it is doubtful, long before it is given up.
    world.freeze_all();
    world.reachable = false;
    world.run(42, 50);
    assert_eq!(world.story(0), ["up 2"]);
    let now = world.now;
    let (_, later) = dial_by_hand(&mut world.nets[0], &two, of_2(), now);
    assert_eq!(later.ended(), None);
    world.step(1);
    assert_eq!(world.story(0), ["up 2", "down 2", "up 2"]);
}

#[test]
fn a_connection_from_before_the_session_never_displaces_it() {
    let ca = Ca::new();
    let two = ca.node(2);
    let mut world = world_of(vec![local(1), local(2)], &ca, 1);
    world.step(1);
    assert!(world.story(0).is_empty() && !world.dials.is_empty());
    // Accepted while the dial is under way, and no hello yet.
    let now = world.now;
    let early = accept(&mut world.nets[0], now);
    world.run(30, 1);
    assert_eq!(world.story(0), ["up 2"]);
    world.freeze_all();
    world.reachable = false;
    world.run(50, 50);
    let of_2 = hello(|hello| hello.node = NodeId(2));
    let now = world.now;
    let slow = greet_by_hand(&mut world.nets[0], early, &two, of_2, now);
    match slow.ended() {
        Some(NetError::RefusedByPeer { reason }) => {
            assert!(reason.contains("has precedence"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_higher_node_that_came_back_takes_the_place_of_its_half_open_session() {
    let ca = Ca::new();
    let mut world = world_of(vec![local(1), local(2)], &ca, 1);
    world.run(30, 1);
    // Its machine lost power: nobody tells the lower, whose dials get nowhere either.
    world.freeze_all();
    world.blocked.insert((0, 1), Blocked::Swallowed);
    let again = LocalShard {
        boot: BootNumber(2),
        ..local(2)
    };
    let now = world.now;
    world.nets[1] = net_of(again, ca.node(2), &[1], now);
    world.run(90, 50);
    assert_eq!(world.story(0), ["up 2", "down 2", "up 2"]);
    assert_eq!(world.nets[1].peers_up().next(), Some(peer(1)));
    let troubles = world.troubles(0);
    assert!(
        troubles.iter().any(|t| t.contains("has precedence")),
        "{troubles:?}"
    );
    world.run(600, 50);
    assert_eq!(world.story(0).len(), 3);
}

#[test]
fn who_answers_at_the_lower_nodes_address_must_be_that_node() {
    let ca = Ca::new();
    let nets: Vec<(u64, ShardNet)> = vec![
        (2, net_of(local(2), ca.node(2), &[], Time(1))),
        (3, net_of(local(3), ca.node(3), &[], Time(1))),
    ];
    let mut world = World::new(nets, 1);
    let now = world.now;
    // Node 3 listens where node 1 is said to.
    world.nets[0].place(peer(1), &[address(3)], now);
    world.run(4_200, 1);
    assert!(!dials_of(&world, 0).is_empty());
    assert!(world.peer_events.iter().all(Vec::is_empty));
    let troubles = world.troubles(0);
    assert!(
        troubles
            .iter()
            .any(|t| t.contains("node/3") && t.contains("node/1")),
        "{troubles:?}"
    );
    // And one that dials under another's number is refused, whoever has precedence.
    let now = world.now;
    world.nets[0].place(peer(3), &[address(9)], now);
    let claim = hello(|hello| hello.node = NodeId(3));
    let (_, impostor) = dial_by_hand(&mut world.nets[0], &ca.node(4), claim, now);
    match impostor.ended() {
        Some(NetError::RefusedByPeer { reason }) => {
            assert!(reason.contains("the certificate says node 4"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
