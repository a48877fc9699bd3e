//! The three outcomes of an append, and what leads to each.

mod support;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clustor_engine::engine::{AppendOptions, Engine, PartitionHandle};
use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::outcome::{AppendError, IdempotencyKey, RefusalClause};
use clustor_wire::ids::LogIndex;
use support::{Counter, Held, Lines, PATIENCE, builder, small, text};

type Done = Result<(), Box<dyn Error>>;

fn counter(dir: &std::path::Path) -> Result<(Engine, PartitionHandle<Counter>), Box<dyn Error>> {
    let engine = builder(dir).partition(1, |_| Counter::default()).start()?;
    let counter = engine.partition::<Counter>(1)?;
    Ok((engine, counter))
}

fn clause(error: &AppendError) -> Option<RefusalClause> {
    match error {
        AppendError::NotExecuted { refusal } => Some(refusal.clause),
        AppendError::Unknown { .. } => None,
    }
}

#[test]
fn what_a_machine_thinks_of_a_command_is_its_reply() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let done = counter.append_blocking("many")?;
    assert_eq!(text(&done.reply), "error: expected a number");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_retry_with_the_same_key_executes_once_and_answers_the_first_index() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let known = counter.status_blocking()?.wal_committed;
    let key = IdempotencyKey(77);
    let first = counter.append_keyed(key, Some(known), "5").wait()?;
    let again = counter.append_keyed(key, Some(known), "5").wait()?;
    assert!(!first.duplicate);
    assert!(again.duplicate);
    assert_eq!(first.index, again.index);
    assert_eq!(counter.read_blocking(|c| c.value)?, 5);
    engine.shutdown(PATIENCE)?;
    // The table of keys is rebuilt from the log.
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    let late = counter.append_keyed(key, Some(known), "5").wait()?;
    assert!(late.duplicate);
    assert_eq!(late.index, first.index);
    assert_eq!(counter.read_blocking(|c| c.value)?, 5);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_key_without_an_index_is_refused_and_told_one() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let key = IdempotencyKey(1);
    let error = counter
        .append_keyed(key, None, "5")
        .wait()
        .expect_err("needs an index");
    let AppendError::NotExecuted { refusal } = error else {
        panic!("expected a refusal, got {error}");
    };
    assert_eq!(refusal.clause, RefusalClause::IndexNeeded);
    let known = refusal.wal_committed.expect("IndexNeeded carries one");
    assert!(known > LogIndex::ZERO);
    counter.append_keyed(key, Some(known), "5").wait()?;
    assert_eq!(counter.read_blocking(|c| c.value)?, 5);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn an_append_at_commit_is_answered_without_a_reply_and_is_applied_all_the_same() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let at_commit = AppendOptions::new().at_commit();
    let done = counter.append_with("6", at_commit).wait()?;
    assert_eq!(done.reply, b"");
    assert_eq!(counter.read_blocking(|c| c.value)?, 6);
    let keyed = at_commit.key(IdempotencyKey(3), Some(done.index));
    let error = counter
        .append_with("6", keyed)
        .wait()
        .expect_err("a key is judged at apply");
    assert_eq!(clause(&error), Some(RefusalClause::Unsupported), "{error}");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_payload_over_the_limit_comes_back_with_the_limit() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let limit = small().entry_bytes_max;
    let payload = vec![b'1'; limit as usize + 1];
    let refused = counter
        .try_append(payload.clone(), AppendOptions::new())
        .expect_err("over the limit");
    assert_eq!(refused.payload, payload);
    assert_eq!(refused.refusal.clause, RefusalClause::TooLarge);
    assert!(
        refused.to_string().contains(&limit.to_string()),
        "{refused}"
    );
    // The greatest that is allowed goes through.
    counter.append_blocking(&payload[..limit as usize])?;
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_full_queue_gives_the_payload_back_and_loses_nothing_it_took() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let held = Held::shard_of(&counter);
    let mut under_way = Vec::new();
    let refused = loop {
        match counter.try_append("1", AppendOptions::new()) {
            Ok(future) => under_way.push(future),
            Err(refused) => break refused,
        }
        assert!(
            under_way.len() <= small().queue_requests_max as usize,
            "the queue has no bound"
        );
    };
    assert_eq!(refused.payload, b"1");
    assert_eq!(refused.refusal.clause, RefusalClause::Busy);
    assert!(refused.refusal.retry_after_ms > 0);
    drop(held);
    let taken = under_way.len() as i64;
    for future in under_way {
        future.wait()?;
    }
    assert_eq!(counter.read_blocking(|c| c.value)?, taken);
    // There is room again.
    counter.append_blocking("1")?;
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_timeout_that_runs_out_in_the_queue_is_not_executed() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let held = Held::shard_of(&counter);
    let brief = AppendOptions::new().timeout(Duration::from_millis(1));
    let future = counter.append_with("9", brief);
    std::thread::sleep(Duration::from_millis(20));
    drop(held);
    let error = future.wait().expect_err("its time ran out");
    assert_eq!(clause(&error), Some(RefusalClause::Busy), "{error}");
    assert_eq!(counter.read_blocking(|c| c.value)?, 0);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_blocking_call_with_a_timeout_does_not_wait_for_a_blocked_shard() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    let held = Held::shard_of(&counter);
    let brief = AppendOptions::new().timeout(Duration::from_millis(20));
    let error = counter
        .append_with("9", brief)
        .wait()
        .expect_err("the shard is blocked");
    assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
    counter
        .read_within(Duration::from_millis(20), |c| c.value)
        .wait()
        .expect_err("as well");
    drop(held);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

/// Applies nothing until it is allowed to.
struct Stubborn {
    willing: Arc<AtomicBool>,
    lines: Lines,
}

impl StateMachine for Stubborn {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        if self.willing.load(Ordering::SeqCst) {
            return self.lines.apply(batch, out);
        }
        Applied::Retryable {
            from: batch.iter().next().expect("never empty").index,
            reason: "not willing".to_owned(),
        }
    }
}

#[test]
fn a_timeout_after_the_queue_is_unknown_and_the_append_may_still_happen() -> Done {
    let temp = tempfile::tempdir()?;
    let willing = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&willing);
    let engine = builder(temp.path())
        .partition(1, move |_| Stubborn {
            willing: Arc::clone(&shared),
            lines: Lines::default(),
        })
        .start()?;
    let stubborn = engine.partition::<Stubborn>(1)?;
    let known = stubborn.status_blocking()?.wal_committed;
    let options = AppendOptions::new()
        .key(IdempotencyKey(8), Some(known))
        .timeout(Duration::from_millis(200));
    let error = stubborn
        .append_with("late", options)
        .wait()
        .expect_err("the machine does not apply it in time");
    let AppendError::Unknown {
        key, wal_committed, ..
    } = error
    else {
        panic!("expected Unknown, got {error}");
    };
    assert_eq!((key, wal_committed), (Some(IdempotencyKey(8)), known));
    willing.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    // A machine that asked for three retries without progress is refused for a while.
    let retried = loop {
        let retry = stubborn.append_keyed(IdempotencyKey(8), Some(known), "late");
        match retry.wait() {
            Ok(done) => break done,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(retried.duplicate, "the first try was executed after all");
    assert_eq!(stubborn.read_blocking(|s| s.lines.0.clone())?, ["late"]);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn dropping_a_future_does_not_take_its_append_back() -> Done {
    let temp = tempfile::tempdir()?;
    let (engine, counter) = counter(temp.path())?;
    for _ in 0..10 {
        drop(counter.append("1"));
    }
    // Behind them in the same queue.
    counter.append_blocking("1")?;
    assert_eq!(counter.read_blocking(|c| c.value)?, 11);
    engine.shutdown(PATIENCE)?;
    Ok(())
}
