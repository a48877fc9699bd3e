//! Starting and stopping: what is refused, what is settled, what is left behind.

mod support;

use std::error::Error;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use clustor_engine::engine::{AppendOptions, EngineError};
use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::outcome::{AppendError, RefusalClause};
use clustor_shards::host::{Claim, DataDir};
use clustor_wire::ids::{ClusterId, NodeId};
use support::{Counter, Lines, PATIENCE, builder, small};

type Done = Result<(), Box<dyn Error>>;

#[test]
fn shutdown_answers_every_outstanding_future_and_the_answers_are_true() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Lines::default())
        .start()?;
    let lines = engine.partition::<Lines>(1)?;
    let under_way: Vec<_> = (0..200).map(|n| lines.append(n.to_string())).collect();
    engine.shutdown(PATIENCE)?;
    let mut applied = Vec::new();
    let mut refused = Vec::new();
    for (n, future) in under_way.into_iter().enumerate() {
        match future.wait() {
            Ok(_) => applied.push(n.to_string()),
            Err(AppendError::NotExecuted { refusal }) => {
                assert_eq!(refusal.clause, RefusalClause::Stopping);
                refused.push(n.to_string());
            }
            Err(AppendError::Unknown { why, .. }) => assert!(!why.is_empty()),
        }
    }
    let engine = builder(temp.path())
        .partition(1, |_| Lines::default())
        .start()?;
    let there = engine
        .partition::<Lines>(1)?
        .read_blocking(|l| l.0.clone())?;
    engine.shutdown(PATIENCE)?;
    let lost: Vec<_> = applied.iter().filter(|n| !there.contains(n)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let executed: Vec<_> = refused.iter().filter(|n| there.contains(n)).collect();
    assert!(executed.is_empty(), "refused and executed: {executed:?}");
    Ok(())
}

#[test]
fn a_handle_that_outlives_its_engine_refuses_and_gives_the_payload_back() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    engine.shutdown(PATIENCE)?;
    let refused = counter
        .try_append("1", AppendOptions::new())
        .expect_err("the engine is gone");
    assert_eq!(refused.payload, b"1");
    assert_eq!(refused.refusal.clause, RefusalClause::Stopping);
    let error = counter.append_blocking("1").expect_err("as well");
    assert!(matches!(error, AppendError::NotExecuted { .. }), "{error}");
    counter.read_blocking(|c| c.value).expect_err("as well");
    counter.status_blocking().expect_err("as well");
    Ok(())
}

#[test]
fn a_dropped_engine_stops_by_itself_and_blocks_nobody() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    counter.append_blocking("3")?;
    let begun = Instant::now();
    drop(engine);
    assert!(begun.elapsed() < Duration::from_millis(200));
    // The next start waits for the lock.
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let again = engine.partition::<Counter>(1)?;
    assert_eq!(again.read_blocking(|c| c.value)?, 3);
    counter
        .append_blocking("1")
        .expect_err("of the dropped one");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_second_start_on_a_directory_in_use_is_refused() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let error = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()
        .expect_err("in use");
    assert!(error.to_string().contains("in use"), "{error}");
    let counter = engine.partition::<Counter>(1)?;
    counter.append_blocking("1")?;
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn the_directory_of_a_cluster_node_is_refused_to_a_lone_one() -> Done {
    let temp = tempfile::tempdir()?;
    let member = Claim::Member(ClusterId(5), NodeId(1));
    drop(DataDir::open(&temp.path().join("data"), member)?);
    let error = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()
        .expect_err("someone else's");
    assert!(matches!(error, EngineError::Directory(_)), "{error}");
    assert!(error.to_string().contains("node 1 of cluster"), "{error}");
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() -> Done {
    let temp = tempfile::tempdir()?;
    let none = builder(temp.path()).start().expect_err("no partition");
    assert!(matches!(none, EngineError::NoPartitions));
    let twice = builder(temp.path())
        .partition(1, |_| Counter::default())
        .partition(1, |_| Lines::default())
        .start()
        .expect_err("one id, two machines");
    assert!(matches!(twice, EngineError::PartitionTwice(_)));
    let mut profile = small();
    profile.chains_in_flight_max = 9;
    let profile = builder(temp.path())
        .profile(profile)
        .partition(1, |_| Counter::default())
        .start()
        .expect_err("over its limit");
    assert!(
        profile.to_string().contains("chains_in_flight_max"),
        "{profile}"
    );
    assert!(!temp.path().join("data").exists());
    Ok(())
}

#[test]
fn shutdown_says_when_a_machine_does_not_return_and_leaves_nobody_hanging_after_it_does() -> Done {
    struct Slow(Option<std::sync::mpsc::Receiver<()>>);
    impl StateMachine for Slow {
        fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
            if let Some(released) = &self.0 {
                released.recv().ok();
            }
            Applied::Ack
        }
    }
    let temp = tempfile::tempdir()?;
    let (release, released) = channel();
    let released = std::sync::Mutex::new(Some(released));
    let engine = builder(temp.path())
        .partition(1, move |_| {
            Slow(released.lock().expect("not poisoned").take())
        })
        .start()?;
    let slow = engine.partition::<Slow>(1)?;
    let stuck = slow.append("1");
    let behind = slow.append("2");
    std::thread::sleep(Duration::from_millis(100));
    let error = engine
        .shutdown(Duration::from_millis(100))
        .expect_err("the machine has not returned");
    assert!(matches!(error, EngineError::StillRunning { .. }), "{error}");
    drop(release);
    // Answered one way or another, now that the shard goes on.
    drop(stuck.wait());
    drop(behind.wait());
    Ok(())
}
