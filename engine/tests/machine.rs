//! The values between machine and engine: replies belong to their items, batches hold what they promise.

use clustor_engine::machine::{
    Batch, Effects, Item, Stamp, TIMER_NAME_BYTES_MAX, TIMERS_MAX, TimerError,
};
use clustor_engine::outcome::{AppendError, IdempotencyKey, Outcome, Refusal, RefusalClause};
use clustor_wire::ids::{LogIndex, NodeId, Term};

fn item(index: u64, command: &[u8]) -> Item<'_> {
    Item {
        index: LogIndex(index),
        term: Term(1),
        stamp: Stamp(index),
        command,
    }
}

#[test]
fn a_reply_is_found_under_its_item_and_an_unanswered_item_has_an_empty_one() {
    let mut out = Effects::default();
    out.reply(LogIndex(3), b"three");
    out.reply(LogIndex(7), b"");
    out.reply_with(LogIndex(9), |buf| buf.extend_from_slice(b"nine"));
    assert_eq!(out.reply_of(LogIndex(3)), b"three");
    assert_eq!(out.reply_of(LogIndex(4)), b"");
    assert_eq!(out.reply_of(LogIndex(7)), b"");
    assert_eq!(out.reply_of(LogIndex(9)), b"nine");
    out.clear();
    assert_eq!(out.reply_of(LogIndex(3)), b"");
}

#[test]
#[should_panic(expected = "once, in index order")]
fn an_item_is_answered_once() {
    let mut out = Effects::default();
    out.reply(LogIndex(3), b"a");
    out.reply(LogIndex(3), b"b");
}

#[test]
#[should_panic(expected = "indexes ascend")]
fn a_batch_with_indexes_out_of_order_can_not_be_made() {
    let _ = Batch::new(&[item(2, b"x"), item(1, b"y")]);
}

#[test]
fn a_batch_knows_its_last_index() {
    let items = [item(2, b"x"), item(5, b"y")];
    let batch = Batch::new(&items);
    assert_eq!(batch.last_index(), LogIndex(5));
    assert_eq!(batch.iter().count(), batch.len());
}

#[test]
fn a_refusal_says_what_to_do_and_where_the_leader_is() {
    let refusal = Refusal {
        clause: RefusalClause::NotLeader,
        message: "partition 7 is not led here".into(),
        retry_after_ms: 50,
        leader: Some(NodeId(2)),
        leader_at: None,
        wal_committed: None,
    };
    let error = Outcome::NotExecuted { refusal }
        .into_result()
        .expect_err("a refusal is an error");
    assert_eq!(
        error.to_string(),
        "not executed: partition 7 is not led here (send it to the leader); leader: node 2; retry in 50 ms"
    );
}

#[test]
fn an_unknown_outcome_carries_what_a_retry_needs() {
    let unknown = Outcome::Unknown {
        why: "timed out".into(),
        clause: None,
        key: Some(IdempotencyKey(9)),
        wal_committed: LogIndex(4),
    };
    match unknown.into_result() {
        Err(AppendError::Unknown {
            key, wal_committed, ..
        }) => {
            assert_eq!(key, Some(IdempotencyKey(9)));
            assert_eq!(wal_committed, LogIndex(4));
        }
        other => panic!("expected Unknown, got {other:?}"),
    }
}

#[test]
fn an_unknown_outcome_says_to_repeat_it_unless_no_repetition_can_succeed() {
    let said = |clause| {
        let error = AppendError::Unknown {
            why: "refused".into(),
            clause,
            key: Some(IdempotencyKey(9)),
            wal_committed: LogIndex(4),
        };
        error.to_string()
    };
    for clause in [None, Some(RefusalClause::DiskFull)] {
        assert!(said(clause).ends_with("retry with the same key and index"));
    }
    for clause in [RefusalClause::KeyExpired, RefusalClause::TermChanged] {
        let said = said(Some(clause));
        assert!(
            said.contains("by a read") && said.contains("a new key"),
            "{said}"
        );
        assert!(!said.contains("the same key"), "{said}");
    }
}

#[test]
fn timers_are_set_moved_and_cancelled_by_name() {
    let mut out = Effects::default();
    out.set_timer(LogIndex(1), b"a", Stamp(30)).unwrap();
    out.set_timer(LogIndex(1), b"b", Stamp(20)).unwrap();
    out.set_timer(LogIndex(2), b"a", Stamp(10)).unwrap();
    assert!(out.cancel_timer(LogIndex(3), b"b"));
    assert!(!out.cancel_timer(LogIndex(3), b"b"), "it is gone");
    out.clear();
    assert_eq!(
        out.timers().get(b"a"),
        Some(Stamp(10)),
        "they outlive a batch"
    );
    assert_eq!(out.timers().get(b"b"), None);
    assert_eq!(out.timers().next_due(), Some(Stamp(10)));
    assert_eq!(out.timers().len(), 1);
}

#[test]
fn a_timer_that_can_not_be_is_refused_and_changes_nothing() {
    let mut out = Effects::default();
    let long = [b'x'; TIMER_NAME_BYTES_MAX + 1];
    assert_eq!(
        out.set_timer(LogIndex(1), b"", Stamp(1)),
        Err(TimerError::Name(0))
    );
    assert_eq!(
        out.set_timer(LogIndex(1), &long, Stamp(1)),
        Err(TimerError::Name(long.len()))
    );
    for name in 0..TIMERS_MAX as u32 {
        out.set_timer(LogIndex(1), &name.to_le_bytes(), Stamp(1))
            .unwrap();
    }
    assert_eq!(
        out.set_timer(LogIndex(1), b"more", Stamp(1)),
        Err(TimerError::Full)
    );
    let moved = out.set_timer(LogIndex(1), &0_u32.to_le_bytes(), Stamp(2));
    assert_eq!(moved, Ok(()), "one that is set can be moved");
    assert_eq!(out.timers().len(), TIMERS_MAX);
}

#[test]
#[should_panic(expected = "timers are set in index order")]
fn timers_are_set_in_index_order() {
    let mut out = Effects::default();
    out.set_timer(LogIndex(5), b"a", Stamp(1)).unwrap();
    out.cancel_timer(LogIndex(4), b"a");
}
