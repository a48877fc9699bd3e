//! The client's machine against scripted nodes: whom it asks, and where it looks for leaders.
#![cfg(feature = "net")]

mod client_support;

use std::net::SocketAddr;

use client_support::world::{KEY, SECOND, World, key_of, world};
use client_support::{P, applied, at, index_needed, led_at, not_leader, request};
use clustor_engine::client::{Answer, ClientSettings, Keying, PAYLOAD_BYTES_MAX, Question};
use clustor_engine::outcome::{IdempotencyKey, Outcome, RefusalClause};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PartitionId, ShardId};
use clustor_wire::message::ReadLevel;

#[test]
fn a_named_leader_is_asked_next_and_from_then_on() {
    let mut world = world();
    let first = world.append(Keying::None);
    let (to, id, _) = world.next();
    world.reply(to, id, not_leader(Some(3)));
    let (leader, id, _) = world.next();
    assert_eq!((to, leader), (at(1), at(3)));
    world.reply(leader, id, applied(8));
    assert!(matches!(
        world.outcome(first),
        Some(Outcome::Applied {
            index: LogIndex(8),
            ..
        })
    ));
    world.append(Keying::None);
    assert_eq!(world.next().0, at(3));
    assert_eq!(world.dialled, [at(1), at(3)]);
}

#[test]
fn replicas_are_asked_in_turns_while_nobody_names_a_leader() {
    let mut world = world();
    world.append(Keying::None);
    let mut asked = Vec::new();
    for _ in 0..4 {
        let (to, id, _) = world.next();
        asked.push(to);
        world.reply(to, id, not_leader(None));
    }
    assert_eq!(asked, [at(1), at(2), at(3), at(1)]);
}

#[test]
fn two_replicas_that_name_each_other_do_not_make_a_storm() {
    let mut world = world();
    world.append(Keying::None);
    let mut sendings = 0;
    while world.machine.under_way() > 0 {
        let (to, frame) = match world.sent.pop_front() {
            Some(sent) => sent,
            None => {
                world.advance();
                continue;
            }
        };
        sendings += 1;
        let other = if to == at(1) { 2 } else { 1 };
        world.reply(to, request(&frame).id, not_leader(Some(other)));
    }
    assert!(sendings < 200, "{sendings} sendings in 10 s");
    assert!(world.now >= 11 * SECOND);
}

#[test]
fn what_no_node_could_serve_is_refused_unsent() {
    let mut world = world();
    let payload = vec![0; PAYLOAD_BYTES_MAX + 1];
    let long = world.ask(
        Question::Append {
            partition: P,
            keying: Keying::None,
            payload,
            only_in: None,
        },
        SECOND,
    );
    let nowhere = world.ask(
        Question::Read {
            partition: PartitionId(9),
            level: ReadLevel::Linearizable,
            query: Vec::new(),
        },
        SECOND,
    );
    let no_shard = world.ask(
        Question::Status {
            at: at(9),
            partition: None,
        },
        SECOND,
    );
    assert!(world.dialled.is_empty());
    match world.outcome(long) {
        Some(Outcome::NotExecuted { refusal }) => {
            assert_eq!(refusal.clause, RefusalClause::TooLong);
        }
        other => panic!("too large, got {other:?}"),
    }
    assert!(
        matches!(&world.answers[&nowhere], Answer::Read(Err(r)) if r.clause == RefusalClause::NotPlaced)
    );
    assert!(
        matches!(&world.answers[&no_shard], Answer::Status(Err(r)) if r.clause == RefusalClause::NotPlaced)
    );
}

#[test]
fn a_silent_node_is_given_up_and_another_asked() {
    let mut world = world();
    let ticket = world.append(Keying::New(KEY));
    let (to, id, _) = world.next();
    world.reply(to, id, index_needed(3));
    let (silent, _, first) = world.next();
    let (other, id, second) = world.next();
    assert_eq!(world.closed, [silent]);
    assert_ne!(silent, other);
    assert_eq!(key_of(&first), key_of(&second));
    world.reply(other, id, applied(4));
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Applied { .. })
    ));
}

#[test]
fn an_unreachable_shard_says_so_at_once_when_asked_for_its_status() {
    let mut world = world();
    world.dead = vec![at(2)];
    let ticket = world.ask(
        Question::Status {
            at: at(2),
            partition: None,
        },
        10 * SECOND,
    );
    assert!(
        matches!(&world.answers[&ticket], Answer::Status(Err(r)) if r.message.contains("refused"))
    );
}

#[test]
fn a_leader_that_no_placement_lists_is_asked_where_it_listens() {
    let mut world = World::new(ClientSettings::default());
    let ticket = world.append(Keying::New(KEY));
    let (from, id, _) = world.next();
    let unlisted = PeerId {
        shard: ShardId(5),
        ..at(9)
    };
    world.reply(from, id, led_at(unlisted, "10.0.0.9:7400"));
    let (to, id, _) = world.next();
    assert_eq!(to, unlisted);
    assert_eq!(world.at.last(), Some(&"10.0.0.9:7400".parse().unwrap()));
    world.reply(to, id, applied(7));
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Applied { .. })
    ));
    // It is asked first from then on.
    let ticket = world.append(Keying::New(IdempotencyKey(2)));
    let (to, id, _) = world.next();
    assert_eq!(to, unlisted);
    // Once it answers no more, the others are.
    world.dead.push(unlisted);
    world.lose(to);
    let (to, id_2, _) = world.next();
    assert!([at(1), at(2), at(3)].contains(&to), "{to:?}");
    assert!(id_2 > id);
    world.reply(to, id_2, applied(8));
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Applied { .. })
    ));
}

#[test]
fn a_leader_that_moved_is_dialled_where_it_is_said_to_listen_and_where_the_placement_says_in_turn()
{
    let mut world = World::new(ClientSettings::default());
    world.dead.push(at(3));
    let ticket = world.append_patiently();
    for _ in 0..30 {
        let (from, id, _) = world.next();
        world.reply(from, id, led_at(at(3), "10.0.0.9:7400"));
    }
    let moved = "10.0.0.9:7400".parse().unwrap();
    let placed = "127.0.0.1:3".parse().unwrap();
    let dialled = world.dialled.iter().zip(&world.at);
    let of_3: Vec<SocketAddr> = dialled
        .filter(|(to, _)| **to == at(3))
        .map(|(_, a)| *a)
        .collect();
    assert!(of_3.len() > 2, "{of_3:?}");
    assert_eq!(of_3[..2], [moved, placed]);
    world.dead.clear();
    loop {
        let (to, id, _) = world.next();
        if to == at(3) {
            world.reply(to, id, applied(7));
            break;
        }
        world.reply(to, id, led_at(at(3), "10.0.0.9:7400"));
    }
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Applied { .. })
    ));
}

#[test]
fn a_leader_without_an_address_is_not_looked_for_and_names_are_bounded() {
    let mut world = World::new(ClientSettings::default());
    world.append_patiently();
    for address in ["", "somewhere:7400", "10.0.0.9"] {
        let (from, id, _) = world.next();
        world.reply(from, id, led_at(at(9), address));
    }
    assert!(!world.dialled.contains(&at(9)));
    // Nodes that name ever new ones, none of which answers.
    for node in 10..60 {
        let (from, id, _) = world.next();
        world.dead.push(at(node));
        world.reply(from, id, led_at(at(node), "10.0.0.9:7400"));
    }
    world.dialled.clear();
    let mut asked = Vec::new();
    for _ in 0..40 {
        let (from, id, _) = world.next();
        asked.push(from);
        world.reply(from, id, not_leader(None));
    }
    assert!(asked.iter().all(|to| to.node.get() <= 3), "{asked:?}");
    let mut unlisted: Vec<_> = world
        .dialled
        .iter()
        .filter(|to| to.node.get() > 3)
        .collect();
    unlisted.sort_unstable();
    unlisted.dedup();
    assert!(unlisted.len() <= 4, "{unlisted:?}");
}
