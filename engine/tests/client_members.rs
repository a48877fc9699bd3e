//! The client's machine against scripted nodes: who belongs to a partition, and changes of that.
#![cfg(feature = "net")]

mod client_support;

use client_support::world::{SECOND, World, world};
use client_support::{P, at, not_leader, refused};
use clustor_engine::client::{Answer, MembersError, MembersVerb, PartitionMembers, Question};
use clustor_engine::outcome::RefusalClause;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, Term};
use clustor_wire::message::{ClientResponseBody, MembersChange, Role};

fn ask(world: &mut World, verb: MembersVerb) -> u64 {
    let question = Question::Members {
        partition: P,
        verb,
        peer: at(3),
        address: String::new(),
    };
    world.ask(question, 10 * SECOND)
}

/// What a replica says.
fn view(of: PeerId, role: Role, (term, last): (u64, u64), leader: Option<u64>) -> PartitionMembers {
    PartitionMembers {
        partition: P,
        node: of.node,
        role,
        term: Term(term),
        leader: leader.map(NodeId),
        last_index: LogIndex(last),
        wal_committed: LogIndex(1),
        change: MembersChange::None,
        members: Vec::new(),
    }
}

fn members(world: &World, ticket: u64) -> Result<PartitionMembers, MembersError> {
    match world.answers.get(&ticket) {
        Some(Answer::Members(members)) => members.clone(),
        other => panic!("members, got {other:?}"),
    }
}

/// Lets the question's time run out, with this answer to all that is still sent.
fn run_out(world: &mut World, ticket: u64, body: &ClientResponseBody) {
    while !world.answers.contains_key(&ticket) {
        match world.sent.pop_front() {
            Some((to, frame)) => {
                let id = client_support::request(&frame).id;
                world.reply(to, id, body.clone());
            }
            None => world.advance(),
        }
    }
}

#[test]
fn a_leader_is_asked_as_soon_as_one_is_named_though_others_have_said_what_they_know() {
    let mut world = world();
    let ticket = ask(&mut world, MembersVerb::Show);
    let (to, id, _) = world.next();
    let here = view(to, Role::Follower, (4, 9), None);
    world.reply(to, id, ClientResponseBody::Members(here));
    let (to, id, _) = world.next();
    world.reply(to, id, not_leader(Some(3)));
    let (to, id, _) = world.next();
    assert_eq!(to, at(3));
    let leader = view(to, Role::Leader, (4, 8), Some(3));
    world.reply(to, id, ClientResponseBody::Members(leader.clone()));
    assert_eq!(members(&world, ticket), Ok(leader));
}

#[test]
fn where_nobody_leads_the_newest_of_those_who_answer_is_told_in_the_end() {
    let mut world = world();
    let ticket = ask(&mut world, MembersVerb::Show);
    let mut newest = None;
    for (term, last) in [(4, 9), (5, 7), (5, 6)] {
        let (to, id, _) = world.next();
        let here = view(to, Role::Follower, (term, last), None);
        if last == 7 {
            newest = Some(here.clone());
        }
        world.reply(to, id, ClientResponseBody::Members(here));
        assert!(!world.answers.contains_key(&ticket));
    }
    run_out(&mut world, ticket, &not_leader(None));
    assert_eq!(members(&world, ticket).ok(), newest);
}

#[test]
fn where_somebody_leads_and_does_not_answer_what_others_knew_before_is_not_told() {
    let mut world = world();
    world.dead = vec![at(3)];
    let ticket = ask(&mut world, MembersVerb::Show);
    let (to, id, _) = world.next();
    let here = view(to, Role::Follower, (4, 9), None);
    world.reply(to, id, ClientResponseBody::Members(here));
    run_out(&mut world, ticket, &not_leader(Some(3)));
    let error = members(&world, ticket).expect_err("the leader did not answer");
    assert!(error.to_string().contains("node 3"), "{error}");
}

#[test]
fn a_change_of_which_a_sending_was_lost_may_have_begun_whatever_is_said_after() {
    let mut world = world();
    let ticket = ask(&mut world, MembersVerb::Remove);
    let (to, _, _) = world.next();
    world.lose(to);
    run_out(&mut world, ticket, &not_leader(None));
    let lost = members(&world, ticket).expect_err("nobody led");
    assert!(lost.may_have_begun, "{lost:?}");

    // The change that it began is in its own way.
    let ticket = ask(&mut world, MembersVerb::Remove);
    let (to, _, _) = world.next();
    world.lose(to);
    let busy = ClientResponseBody::NotExecuted(refused(RefusalClause::Busy));
    run_out(&mut world, ticket, &busy);
    let lost = members(&world, ticket).expect_err("nobody took it");
    assert!(lost.may_have_begun, "{lost:?}");
    assert!(lost.to_string().contains("may have begun"), "{lost}");
}

#[test]
fn a_change_that_was_refused_each_time_has_not_begun_and_to_show_begins_nothing() {
    let mut world = world();
    let ticket = ask(&mut world, MembersVerb::Remove);
    run_out(&mut world, ticket, &not_leader(None));
    let refused = members(&world, ticket).expect_err("nobody led");
    assert!(!refused.may_have_begun, "{refused:?}");

    let ticket = ask(&mut world, MembersVerb::Show);
    let (to, _, _) = world.next();
    world.lose(to);
    run_out(&mut world, ticket, &not_leader(None));
    let refused = members(&world, ticket).expect_err("nobody said");
    assert!(!refused.may_have_begun, "{refused:?}");
}
