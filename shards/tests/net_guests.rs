//! Guests: nodes of the cluster that neither the placement nor a configuration names, and that dial all the same.

#![cfg(feature = "net")]

mod net_support;

use clustor_shards::net::{NetError, NetLimits, Notice, ShardNet};
use clustor_shards::turn::{
    GUEST_MS_MAX, GUESTS_MAX, GUESTS_OF_NODE_MAX, PeerEvent, PeerId, PeerPast, Time,
};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ChainNumber, Incarnation, NodeId, ShardId};
use clustor_wire::message::{GuestStatus, PeerHello};
use net_support::Ca;
use net_support::by_hand::{dial_by_hand, hello};
use net_support::world::{World, address, local, net_of, peer};

/// Node 1, whose placement lists nobody, and others, whose placements list it.
fn host_and(others: &[u64], ca: &Ca) -> World {
    let mut nets = vec![(1, net_of(local(1), ca.node(1), &[], Time(1)))];
    for node in others {
        let net = net_of(local(*node), ca.node(*node), &[1], Time(1));
        nets.push((*node, net));
    }
    World::new(nets, 7)
}

fn guests(world: &World) -> Vec<PeerId> {
    let notices = world.notices[0].iter();
    notices
        .filter_map(|notice| match notice {
            Notice::GuestUp(peer) => Some(*peer),
            _ => None,
        })
        .collect()
}

fn batch() -> Frame {
    Frame {
        kind: FrameKind::PeerBatch,
        body: vec![7],
    }
}

fn got_batch(world: &World, at: usize, from: PeerId) -> bool {
    world.peer_events[at].iter().any(|event| {
        matches!(event, PeerEvent::Frame(peer, frame)
            if *peer == from && frame.kind == FrameKind::PeerBatch)
    })
}

#[test]
fn a_node_that_nobody_named_is_let_in_and_answered_and_stays_once_it_is_named() {
    let ca = Ca::new();
    let mut world = host_and(&[4], &ca);
    let past = PeerPast {
        incarnation: Incarnation(400),
        boot: BootNumber(1),
        chain: ChainNumber(9),
    };
    world.nets[0].remember(peer(4), past);
    world.run(50, 100);
    assert_eq!(guests(&world), [peer(4)]);
    assert!(world.nets[1].send(peer(1), batch()).is_ok());
    assert!(world.nets[0].send(peer(4), batch()).is_ok());
    world.run(5, 1);
    assert!(got_batch(&world, 0, peer(4)));
    assert!(got_batch(&world, 1, peer(1)));
    // What is remembered of a guest's disk it is told as everybody is.
    let told = world.peer_events[1].iter().find_map(|event| match event {
        PeerEvent::Frame(_, frame) if frame.kind == FrameKind::PeerHello => {
            Some(PeerHello::decode(&frame.body).expect("a hello"))
        }
        _ => None,
    });
    assert_eq!(told.expect("a hello").remembered_chain, ChainNumber(9));
    // The log has named it, without an address.
    world.nets[0].place(peer(4), &[], world.now);
    world.run(800, 100);
    assert_eq!(world.nets[0].guests(), GuestStatus::default());
    assert_eq!(world.story(0), ["up 4"]);
    assert_eq!(world.story(1), ["up 1"]);
    // Then with one, and it is dialled there.
    world.nets[0].place(peer(4), &[address(4)], world.now);
    world.cut_all();
    world.run(100, 10);
    assert_eq!(world.story(0), ["up 4", "down 4", "up 4"]);
    assert!(world.dials.iter().any(|(_, at, _)| *at == 0));
}

#[test]
fn a_guest_that_nothing_names_has_to_go_after_a_minute_is_told_why_and_may_come_again() {
    let ca = Ca::new();
    let mut world = host_and(&[4], &ca);
    world.run(50, 100);
    assert_eq!(world.story(0), ["up 4"]);
    let since = world.now;
    while world.story(0).len() < 2 {
        world.step(100);
        assert!(world.now.since_us(since) < 2 * GUEST_MS_MAX * 1000);
    }
    assert!(world.now.since_us(since) > (GUEST_MS_MAX - 10_000) * 1000);
    world.run(100, 100);
    let counted = world.nets[0].guests();
    assert_eq!((counted.here, counted.unnamed, counted.refused), (1, 1, 0));
    let told = world.troubles(1).join("\n");
    assert!(told.contains("let in as a guest"), "{told}");
    assert!(told.contains("clustor member add"), "{told}");
    assert_eq!(world.story(0)[..3], ["up 4", "down 4", "up 4"]);
    assert_eq!(guests(&world).len(), 2);
    // It was never dialled: nobody knows where it listens.
    assert!(world.dials.iter().all(|(_, at, _)| *at == 1));
}

#[test]
fn one_guest_too_many_is_told_so_and_gets_in_when_another_has_gone() {
    let ca = Ca::new();
    let others: Vec<u64> = (11..).take(GUESTS_MAX + 1).collect();
    let mut world = host_and(&others, &ca);
    world.run(60, 100);
    assert_eq!(world.nets[0].peers_up().count(), GUESTS_MAX);
    let up: Vec<PeerId> = world.nets[0].peers_up().collect();
    let late = others.iter().position(|node| !up.contains(&peer(*node)));
    let late = late.expect("one was refused") + 1;
    let counted = world.nets[0].guests();
    assert_eq!(counted.here as usize, GUESTS_MAX);
    assert!(counted.refused > 0);
    let told = world.troubles(late).join("\n");
    assert!(told.contains("8 such guests are let in at most"), "{told}");

    // Who is placed or named needs no such place.
    let early = up[0];
    let place_of = |node: PeerId| others.iter().position(|n| peer(*n) == node).unwrap() + 1;
    world.nets[0].place(early, &[], world.now);
    world.run(60, 100);
    assert_eq!(world.nets[0].peers_up().count(), GUESTS_MAX + 1);

    // And a place is free again once its guest has gone.
    let mut more = host_and(&others, &ca);
    more.run(60, 100);
    let up: Vec<PeerId> = more.nets[0].peers_up().collect();
    more.nets[place_of(up[0])].stop(more.now);
    more.run(60, 100);
    let now_up: Vec<PeerId> = more.nets[0].peers_up().collect();
    assert_eq!(now_up.len(), GUESTS_MAX);
    assert!(!now_up.contains(&up[0]));
}

#[test]
fn a_guest_has_one_session_and_one_place_however_often_it_dials() {
    let ca = Ca::new();
    let one = ca.node(1);
    let limits = NetLimits {
        guests_max: 1,
        ..NetLimits::default()
    };
    let mut net = ShardNet::new(local(2), ca.node(2), &[], limits, 0, Time(1)).unwrap();
    let (_, first) = dial_by_hand(&mut net, &one, hello(|_| {}), Time(1));
    let (_, second) = dial_by_hand(&mut net, &one, hello(|_| {}), Time(1));
    assert!(first.ended().is_none() && second.ended().is_none());
    assert_eq!(net.peers_up().collect::<Vec<_>>(), [peer(1)]);
    // Another shard of it is another guest.
    let other = hello(|h| h.shard = ShardId(9));
    let (_, third) = dial_by_hand(&mut net, &one, other, Time(1));
    match third.ended() {
        Some(NetError::RefusedByPeer { reason }) => {
            assert!(
                reason.contains("1 such guests are let in at most"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_takes_its_share_of_the_places_and_leaves_the_others_to_others() {
    let ca = Ca::new();
    let one = ca.node(1);
    let mut net = net_of(local(2), ca.node(2), &[], Time(1));
    let dial = |net: &mut ShardNet, shard: u16| {
        let hello = hello(|h| h.shard = ShardId(shard));
        let (_, by_hand) = dial_by_hand(net, &one, hello, Time(1));
        by_hand.ended().cloned()
    };
    let last = GUESTS_MAX as u16;
    let ended: Vec<_> = (0..=last).map(|shard| dial(&mut net, shard)).collect();
    let (let_in, refused) = ended.split_at(GUESTS_OF_NODE_MAX);
    assert!(let_in.iter().all(Option::is_none), "{let_in:?}");
    for ended in refused {
        let Some(NetError::RefusedByPeer { reason }) = ended else {
            panic!("{ended:?}");
        };
        let told = reason.contains("of one node's shards 2 such guests are let in at most");
        assert!(told, "{reason}");
    }
    assert_eq!(net.guests().refused as usize, refused.len());
    // Those who are here may dial again, and others come in.
    assert_eq!(dial(&mut net, 0), None);
    for node in (11..).take(GUESTS_MAX - GUESTS_OF_NODE_MAX) {
        let hello = hello(|h| h.node = NodeId(node));
        let (_, by_hand) = dial_by_hand(&mut net, &ca.node(node), hello, Time(1));
        assert!(by_hand.ended().is_none(), "node {node}");
    }
    assert_eq!(net.guests().here as usize, GUESTS_MAX);

    // Whom something names is no guest any more, and its place is free for another shard of its node.
    let mut net = net_of(local(2), ca.node(2), &[], Time(1));
    assert_eq!(dial(&mut net, 0), None);
    assert_eq!(dial(&mut net, 1), None);
    net.place(peer(1), &[], Time(1));
    assert_eq!(dial(&mut net, 2), None);
    assert!(dial(&mut net, 3).is_some());
}

#[test]
fn a_guest_is_judged_as_everybody_is() {
    let ca = Ca::new();
    let cases = [
        (hello(|h| h.placement_digest = [8; 32]), "placements differ"),
        (hello(|h| h.record_version = 9), "record version 9"),
        (hello(|h| h.to_shard = ShardId(4)), "names shard 4"),
    ];
    for (frame, words) in cases {
        let mut net = net_of(local(2), ca.node(2), &[], Time(1));
        let (_, by_hand) = dial_by_hand(&mut net, &ca.node(1), frame, Time(1));
        assert_eq!(net.peers_up().count(), 0, "{words}");
        match by_hand.ended() {
            Some(NetError::RefusedByPeer { reason }) => {
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}
