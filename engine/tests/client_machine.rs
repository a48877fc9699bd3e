//! The client's machine against scripted nodes: routing, retries, bounds, and what is said of an append.
#![cfg(feature = "net")]

mod client_support;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use client_support::{
    P, applied, at, bare_status, index_needed, led_at, not_leader, placement, refused, request,
    response,
};
use clustor_engine::client::{
    Answer, ClientSettings, Effect, Keying, Machine, PAYLOAD_BYTES_MAX, Question,
};
use clustor_engine::outcome::{IdempotencyKey, Outcome, RefusalClause};
use clustor_shards::turn::PeerId;
use clustor_wire::frame::Frame;
use clustor_wire::ids::{LogIndex, PartitionId, ShardId};
use clustor_wire::message::{ClientRequestBody, ClientResponseBody, ReadLevel};

const SECOND: u64 = 1_000_000;
const KEY: IdempotencyKey = IdempotencyKey(0xfeed);

/// The machine, and all that it did.
struct World {
    machine: Machine,
    now: u64,
    sent: VecDeque<(PeerId, Frame)>,
    dialled: Vec<PeerId>,
    /// Where.
    at: Vec<SocketAddr>,
    closed: Vec<PeerId>,
    answers: BTreeMap<u64, Answer>,
    /// Nodes that don't accept connections.
    dead: Vec<PeerId>,
}

impl World {
    fn new(settings: ClientSettings) -> Self {
        let addresses: Vec<_> = (1..=3)
            .map(|port| format!("127.0.0.1:{port}").parse().unwrap())
            .collect();
        Self {
            machine: Machine::new(&placement(&addresses), settings, 42),
            now: SECOND,
            sent: VecDeque::new(),
            dialled: Vec::new(),
            at: Vec::new(),
            closed: Vec::new(),
            answers: BTreeMap::new(),
            dead: Vec::new(),
        }
    }

    /// Carries out what the machine wants. Dials succeed at once, and greetings are answered.
    fn settle(&mut self) {
        while let Some(effect) = self.machine.poll() {
            match effect {
                Effect::Dial { to, address } => {
                    self.dialled.push(to);
                    self.at.push(address);
                    if self.dead.contains(&to) {
                        self.machine
                            .disconnected(self.now, to, "connection refused");
                    } else {
                        self.machine.connected(self.now, to);
                    }
                }
                Effect::Send { to, frame } if request(&frame).id == 0 => {
                    let status = response(0, bare_status(to));
                    self.machine.frame(self.now, to, &status);
                }
                Effect::Send { to, frame } => self.sent.push_back((to, frame)),
                Effect::Close { to, .. } => self.closed.push(to),
                Effect::Answer { ticket, answer } => {
                    let before = self.answers.insert(ticket, answer);
                    assert_eq!(before, None, "question {ticket} has one answer");
                }
            }
        }
    }

    fn ask(&mut self, question: Question, timeout: u64) -> u64 {
        let deadline = self.now + timeout;
        let ticket = self.machine.submit(self.now, question, deadline);
        self.settle();
        ticket
    }

    fn append(&mut self, keying: Keying) -> u64 {
        let question = Question::Append {
            partition: P,
            keying,
            payload: b"+3".to_vec(),
            only_in: None,
        };
        self.ask(question, 10 * SECOND)
    }

    /// An append that has all the time.
    fn append_patiently(&mut self) -> u64 {
        let question = Question::Append {
            partition: P,
            keying: Keying::New(KEY),
            payload: b"+3".to_vec(),
            only_in: None,
        };
        self.ask(question, 1_000 * SECOND)
    }

    /// The next request that was sent, waiting for it if need be.
    fn next(&mut self) -> (PeerId, u64, ClientRequestBody) {
        while self.sent.is_empty() {
            self.advance();
        }
        let (to, frame) = self.sent.pop_front().unwrap();
        let request = request(&frame);
        (to, request.id, request.body)
    }

    fn advance(&mut self) {
        self.now = self
            .machine
            .next_deadline()
            .expect("something is due")
            .max(self.now);
        self.machine.tick(self.now);
        self.settle();
    }

    fn reply(&mut self, from: PeerId, id: u64, body: ClientResponseBody) {
        self.now += 100;
        self.machine.frame(self.now, from, &response(id, body));
        self.settle();
    }

    fn lose(&mut self, from: PeerId) {
        self.machine.disconnected(self.now, from, "reset");
        self.settle();
    }

    fn outcome(&self, ticket: u64) -> Option<&Outcome> {
        match self.answers.get(&ticket)? {
            Answer::Append(outcome) => Some(outcome),
            other => panic!("an append's answer, got {other:?}"),
        }
    }
}

fn key_of(body: &ClientRequestBody) -> Option<(IdempotencyKey, Option<LogIndex>)> {
    match body {
        ClientRequestBody::Append { key, payload, .. } => {
            assert_eq!(payload, b"+3");
            *key
        }
        other => panic!("an append, got {other:?}"),
    }
}

fn world() -> World {
    World::new(ClientSettings::default())
}

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
fn at_its_deadline_an_append_that_nobody_took_was_not_executed() {
    let mut world = world();
    world.dead = vec![at(1), at(2), at(3)];
    let ticket = world.append(Keying::New(KEY));
    while world.outcome(ticket).is_none() {
        world.advance();
    }
    match world.outcome(ticket).unwrap() {
        Outcome::NotExecuted { refusal } => {
            assert_eq!(refusal.clause, RefusalClause::Unavailable);
            assert!(
                refusal.message.contains("connection refused"),
                "{}",
                refusal.message
            );
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
        Some(Outcome::Unknown { wal_committed, .. }) => assert_eq!(*wal_committed, LogIndex(9)),
        other => panic!("unknown, got {other:?}"),
    }
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
            assert_eq!(refusal.clause, RefusalClause::TooLarge);
        }
        other => panic!("too large, got {other:?}"),
    }
    assert!(
        matches!(&world.answers[&nowhere], Answer::Read(Err(r)) if r.clause == RefusalClause::NotHere)
    );
    assert!(
        matches!(&world.answers[&no_shard], Answer::Status(Err(r)) if r.clause == RefusalClause::NotHere)
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
