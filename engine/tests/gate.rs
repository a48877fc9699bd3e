//! What may be served now: the first clause that forbids group mode, and how long a downgrade lasts.

use clustor_engine::gate::guard::{BACKOFF_MS_MAX, BACKOFF_MS_MIN};
use clustor_engine::gate::{
    ControlFacts, ControlView, GroupClause, GroupFacts, Guard, ReadClause, ReadFacts, SelfGoverned,
    group_fsync, linearizable_read,
};
use clustor_shards::turn::Time;
use clustor_wire::ids::{NodeId, PartitionId};

#[test]
fn a_healthy_leader_may_be_in_group_mode() {
    assert_eq!(group_fsync(&GroupFacts::default()), Ok(()));
}

#[test]
fn the_first_clause_that_fails_is_named_in_a_fixed_order() {
    let mut facts = GroupFacts {
        strict_fallback: true,
        control_plane_fresh: false,
        backoff_over: false,
        blocking_voter: Some(NodeId(3)),
        slow_chains: 3,
        quarantined: true,
    };
    let named = |facts: &GroupFacts| group_fsync(facts).map_err(GroupClause::name);
    assert_eq!(named(&facts), Err("strict_fallback"));
    facts.strict_fallback = false;
    assert_eq!(named(&facts), Err("control_plane_stale"));
    facts.control_plane_fresh = true;
    assert_eq!(named(&facts), Err("backoff"));
    facts.backoff_over = true;
    assert_eq!(named(&facts), Err("blocking_voter"));
    facts.blocking_voter = None;
    assert_eq!(named(&facts), Err("device_latency"));
    facts.slow_chains = 2;
    assert_eq!(named(&facts), Err("quarantine"));
    facts.quarantined = false;
    assert_eq!(named(&facts), Ok(()));
}

#[test]
fn each_downgrade_lasts_twice_as_long_up_to_a_quarter_of_an_hour() {
    let mut guard = Guard::default();
    let mut now = Time(1);
    for minutes in [1, 2, 4, 8, 15, 15] {
        assert!(guard.is_over(now));
        guard.downgrade(now);
        let end = now.plus_ms(minutes * BACKOFF_MS_MIN);
        assert_eq!(guard.until(now), Some(end));
        // Another overrun while it lasts changes nothing.
        guard.downgrade(now.plus_ms(1));
        assert_eq!(guard.until(now), Some(end));
        now = end;
    }
}

#[test]
fn a_promise_kept_for_long_wipes_the_slate() {
    let mut guard = Guard::default();
    let mut now = Time(1);
    for _ in 0..3 {
        guard.downgrade(now);
        now = guard.until(now).expect("sat out");
    }
    now = now.plus_ms(BACKOFF_MS_MAX);
    guard.downgrade(now);
    assert_eq!(guard.until(now), Some(now.plus_ms(BACKOFF_MS_MIN)));
    assert_eq!(guard.downgrades(), 1);
}

#[test]
fn a_healthy_leader_may_answer_linearizable_reads() {
    assert_eq!(linearizable_read(&ReadFacts::default()), Ok(()));
    // Nobody beside the node's own configuration has a word in it.
    assert_eq!(
        SelfGoverned.facts(PartitionId(1)),
        ControlFacts {
            is_fresh: true,
            strict_fallback: false,
            proof: None
        }
    );
}

#[test]
fn the_first_clause_that_forbids_a_read_is_named_in_a_fixed_order() {
    let mut facts = ReadFacts {
        strict_fallback: true,
        durable_only: false,
        control_plane_fresh: false,
        proof_matches: false,
    };
    let named = |facts: &ReadFacts| linearizable_read(facts).map_err(ReadClause::name);
    assert_eq!(named(&facts), Err("strict_fallback"));
    facts.strict_fallback = false;
    assert_eq!(named(&facts), Err("visibility"));
    facts.durable_only = true;
    assert_eq!(named(&facts), Err("control_plane_stale"));
    facts.control_plane_fresh = true;
    assert_eq!(named(&facts), Err("proof_differs"));
    facts.proof_matches = true;
    assert_eq!(named(&facts), Ok(()));
}
