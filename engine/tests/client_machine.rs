//! The client's machine against scripted nodes: retries, bounds, and what is said of an append.
#![cfg(feature = "net")]

mod client_support;

use client_support::world::{KEY, SECOND, World, key_of, world};
use client_support::{P, applied, at, bare_status, index_needed, not_leader, refused, request};
use clustor_engine::client::{ClientSettings, Keying, Question};
use clustor_engine::outcome::{IdempotencyKey, Outcome, RefusalClause, describe};
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{ClientResponseBody, ReadLevel};

#[test]
fn a_new_key_fetches_its_index_and_the_next_one_has_it() {
    let mut world = world();
    let first = world.append(Keying::New(KEY));
    let (to, id, body) = world.next();
    assert_eq!(key_of(&body), Some((KEY, None)));
    world.reply(to, id, index_needed(40));
    let (to, id, body) = world.next();
    assert_eq!(key_of(&body), Some((KEY, Some(LogIndex(40)))));
    world.reply(to, id, applied(44));
    assert!(matches!(
        world.outcome(first),
        Some(Outcome::Applied { .. })
    ));
    let other = IdempotencyKey(2);
    world.append(Keying::New(other));
    assert_eq!(key_of(&world.next().2), Some((other, Some(LogIndex(44)))));
}

#[test]
fn a_lost_append_is_sent_again_with_its_key_and_its_first_index() {
    let mut world = world();
    let first = world.append(Keying::New(KEY));
    let (to, id, _) = world.next();
    world.reply(to, id, index_needed(40));
    let (to, _, _) = world.next();
    world.lose(to);
    // Meanwhile a newer index becomes known; the retry must not take it.
    world.append(Keying::New(IdempotencyKey(2)));
    let mut settled = false;
    while !settled {
        let (to, id, body) = world.next();
        assert_ne!(to, at(1), "it was just lost");
        let (key, index) = key_of(&body).unwrap();
        if key == KEY {
            assert_eq!(index, Some(LogIndex(40)));
            world.reply(to, id, applied(50));
            settled = true;
        } else {
            world.reply(to, id, applied(70));
        }
    }
    assert!(matches!(
        world.outcome(first),
        Some(Outcome::Applied {
            index: LogIndex(50),
            ..
        })
    ));
}

#[test]
fn a_lost_append_without_a_key_is_unknown_and_never_sent_twice() {
    let mut world = world();
    let ticket = world.append(Keying::None);
    let (to, _, _) = world.next();
    world.lose(to);
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Unknown { key: None, .. })
    ));
    assert!(world.sent.is_empty());
}

#[test]
fn an_append_without_a_key_that_could_not_be_sent_yet_goes_elsewhere() {
    let mut world = world();
    world.dead = vec![at(1), at(2)];
    let ticket = world.append(Keying::None);
    let (to, id, _) = world.next();
    assert_eq!(to, at(3));
    world.reply(to, id, applied(1));
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Applied { .. })
    ));
}

#[test]
fn at_its_deadline_an_append_that_was_sent_is_unknown_with_key_and_index() {
    let mut world = world();
    let ticket = world.append(Keying::New(KEY));
    let (to, id, _) = world.next();
    world.reply(to, id, index_needed(40));
    let (to, id, _) = world.next();
    while world.outcome(ticket).is_none() {
        world.advance();
        world.sent.clear();
    }
    assert_eq!(world.now, 11 * SECOND);
    match world.outcome(ticket).unwrap() {
        Outcome::Unknown {
            key, wal_committed, ..
        } => {
            assert_eq!((*key, *wal_committed), (Some(KEY), LogIndex(40)));
        }
        other => panic!("unknown, got {other:?}"),
    }
    // A late answer is no second outcome: `settle` would find it.
    world.reply(to, id, applied(60));
    assert_eq!(world.answers.len(), 1);
}

#[test]
fn at_its_deadline_nobody_is_told_to_follow_leaders_as_the_client_did() {
    let mut world = world();
    let ticket = world.append(Keying::New(KEY));
    while world.outcome(ticket).is_none() {
        match world.sent.pop_front() {
            Some((to, frame)) => world.reply(to, request(&frame).id, not_leader(None)),
            None => world.advance(),
        }
    }
    match world.outcome(ticket).unwrap() {
        Outcome::NotExecuted { refusal } => {
            assert_eq!(refusal.clause, RefusalClause::Unanswered);
            let told = describe(refusal);
            assert!(told.contains("its time is over"), "{told}");
            assert!(told.contains("give it more time"), "{told}");
        }
        other => panic!("not executed, got {other:?}"),
    }
}

#[test]
fn at_its_deadline_an_append_that_nobody_took_was_not_executed() {
    let mut world = world();
    world.dead = vec![at(1), at(2), at(3)];
    let ticket = world.append(Keying::New(KEY));
    while world.outcome(ticket).is_none() {
        world.advance();
    }
    match world.outcome(ticket).unwrap() {
        Outcome::NotExecuted { refusal } => {
            assert_eq!(refusal.clause, RefusalClause::Unreached);
            assert!(
                refusal.message.contains("connection refused"),
                "{}",
                refusal.message
            );
            // The remedy is a client's: there is no partition whose status could be looked at.
            let told = describe(refusal);
            assert!(told.contains("see that the node runs"), "{told}");
        }
        other => panic!("not executed, got {other:?}"),
    }
    assert!(
        world.dialled.len() < 60,
        "{} dials in 10 s",
        world.dialled.len()
    );
}

#[test]
fn a_refusal_after_a_lost_sending_is_not_taken_for_the_whole_truth() {
    for clause in [RefusalClause::TooLarge, RefusalClause::KeyExpired] {
        let mut world = world();
        let ticket = world.append(Keying::New(KEY));
        let (to, id, _) = world.next();
        world.reply(to, id, index_needed(40));
        let (to, _, _) = world.next();
        world.lose(to);
        let (to, id, _) = world.next();
        world.reply(to, id, ClientResponseBody::NotExecuted(refused(clause)));
        assert!(
            matches!(world.outcome(ticket), Some(Outcome::Unknown { .. })),
            "{clause:?}: {:?}",
            world.outcome(ticket)
        );
    }
}

#[test]
fn a_refusal_that_no_retry_helps_is_told_at_once() {
    for clause in [
        RefusalClause::TooLarge,
        RefusalClause::DiskFull,
        RefusalClause::Unsupported,
    ] {
        let mut world = world();
        let ticket = world.append(Keying::None);
        let (to, id, _) = world.next();
        world.reply(to, id, ClientResponseBody::NotExecuted(refused(clause)));
        match world.outcome(ticket) {
            Some(Outcome::NotExecuted { refusal }) => assert_eq!(refusal.clause, clause),
            other => panic!("{clause:?}: {other:?}"),
        }
    }
}

#[test]
fn an_index_that_was_too_old_from_the_start_is_renewed_once() {
    let mut world = world();
    world.append(Keying::None);
    let (to, id, _) = world.next();
    world.reply(to, id, applied(5));
    let ticket = world.append(Keying::New(KEY));
    let expired = || ClientResponseBody::NotExecuted(refused(RefusalClause::KeyExpired));
    let (to, id, body) = world.next();
    assert_eq!(key_of(&body), Some((KEY, Some(LogIndex(5)))));
    world.reply(to, id, expired());
    let (to, id, body) = world.next();
    assert_eq!(key_of(&body), Some((KEY, None)));
    world.reply(to, id, index_needed(2_000_000));
    let (to, id, body) = world.next();
    assert_eq!(key_of(&body), Some((KEY, Some(LogIndex(2_000_000)))));
    world.reply(to, id, expired());
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::NotExecuted { .. })
    ));
}

#[test]
fn a_retry_of_an_earlier_append_is_never_called_not_executed() {
    let mut world = world();
    let ticket = world.append(Keying::Retry(KEY, LogIndex(9)));
    let (to, id, body) = world.next();
    assert_eq!(key_of(&body), Some((KEY, Some(LogIndex(9)))));
    let expired = ClientResponseBody::NotExecuted(refused(RefusalClause::KeyExpired));
    world.reply(to, id, expired);
    match world.outcome(ticket) {
        Some(Outcome::Unknown {
            clause,
            wal_committed,
            ..
        }) => {
            assert_eq!(*wal_committed, LogIndex(9));
            // Whoever reads it must not repeat it for ever.
            assert_eq!(*clause, Some(RefusalClause::KeyExpired));
        }
        other => panic!("unknown, got {other:?}"),
    }
}

#[test]
fn an_outcome_that_time_alone_left_unknown_names_no_clause_and_is_to_be_repeated() {
    let mut world = world();
    let ticket = world.append(Keying::Retry(KEY, LogIndex(9)));
    let (to, id, _) = world.next();
    let busy = ClientResponseBody::NotExecuted(refused(RefusalClause::Busy));
    world.reply(to, id, busy);
    while world.outcome(ticket).is_none() {
        world.advance();
        world.sent.clear();
    }
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Unknown { clause: None, .. })
    ));
}

#[test]
fn no_more_requests_are_in_flight_than_the_bound_and_all_are_sent_in_the_end() {
    let mut world = World::new(ClientSettings {
        link_requests_max: 4,
        ..ClientSettings::default()
    });
    let tickets: Vec<_> = (0..20).map(|_| world.append(Keying::None)).collect();
    assert_eq!(world.sent.len(), 4);
    for answered in 1..=20 {
        let (to, id, _) = world.next();
        assert!(world.sent.len() <= 3);
        world.reply(to, id, applied(answered));
    }
    assert!(
        tickets
            .iter()
            .all(|ticket| world.answers.contains_key(ticket))
    );
}

#[test]
fn bytes_in_flight_are_bounded_too() {
    let mut world = World::new(ClientSettings {
        link_bytes_max: 1000,
        ..ClientSettings::default()
    });
    for _ in 0..3 {
        let query = vec![0; 600];
        world.ask(
            Question::Read {
                partition: P,
                level: ReadLevel::Linearizable,
                query,
            },
            SECOND,
        );
    }
    assert_eq!(world.sent.len(), 1);
}

#[test]
fn more_questions_than_the_bound_are_refused_as_busy() {
    let mut world = World::new(ClientSettings {
        questions_max: 2,
        ..ClientSettings::default()
    });
    world.append(Keying::None);
    world.append(Keying::None);
    let third = world.append(Keying::None);
    match world.outcome(third) {
        Some(Outcome::NotExecuted { refusal }) => assert_eq!(refusal.clause, RefusalClause::Busy),
        other => panic!("busy, got {other:?}"),
    }
}

#[test]
fn the_first_answer_of_two_sendings_counts_and_the_second_does_no_harm() {
    let mut world = world();
    let ticket = world.append(Keying::New(KEY));
    let (to, id, _) = world.next();
    world.reply(to, id, index_needed(3));
    let (slow, slow_id, _) = world.next();
    // The node is alive, for it answers something else, but this append hangs.
    world.ask(
        Question::Status {
            at: slow,
            partition: None,
        },
        SECOND,
    );
    let (to, id, _) = world.next();
    world.reply(to, id, bare_status(slow));
    let (other, id, _) = world.next();
    assert_ne!(slow, other);
    assert!(world.closed.is_empty());
    world.reply(other, id, applied(4));
    world.reply(slow, slow_id, applied(4));
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Applied { .. })
    ));
}

#[test]
fn an_answer_of_another_shard_or_kind_ends_the_connection() {
    let mut world = world();
    let ticket = world.append(Keying::None);
    let (to, id, _) = world.next();
    world.reply(to, id, bare_status(to));
    assert_eq!(world.closed, [to]);
    assert!(matches!(
        world.outcome(ticket),
        Some(Outcome::Unknown { .. })
    ));
}

#[test]
fn closing_answers_everything_under_way() {
    let mut world = world();
    let tickets = [world.append(Keying::None), world.append(Keying::New(KEY))];
    world.machine.stop();
    world.settle();
    assert!(matches!(
        world.outcome(tickets[0]),
        Some(Outcome::Unknown { .. })
    ));
    // Its key has no index yet, so it can't have executed.
    assert!(matches!(
        world.outcome(tickets[1]),
        Some(Outcome::NotExecuted { .. })
    ));
    assert_eq!(world.machine.under_way(), 0);
}
