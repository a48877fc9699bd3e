//! First contact: an engine, a partition, an append, a read, from every kind of caller.

mod support;

use std::error::Error;
use std::time::Duration;

use clustor_engine::engine::{Engine, EngineError, PartitionHandle};
use clustor_engine::machine::StateMachine;
use clustor_engine::outcome::Leadership;
use clustor_wire::ids::PartitionId;
use clustor_wire::message::Role;
use futures_lite::future::block_on;
use support::{Counter, Lines, PATIENCE, builder, text};

#[test]
fn five_lines_make_a_durable_counter() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    block_on(async {
        let engine = Engine::builder(temp.path().join("data"))
            .partition(1, |_| Counter::default())
            .start()?;
        let counter = engine.partition::<Counter>(1)?;
        let done = counter.append(b"+3").await?;
        let now = counter.read(|c| c.value).await?;
        engine.shutdown(Duration::from_secs(5))?;
        assert_eq!(text(&done.reply), "3");
        assert!(!done.duplicate);
        assert_eq!(now, 3);
        Ok(())
    })
}

#[test]
fn futures_run_under_tokio() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let sum = runtime.block_on(async {
        let tasks: Vec<_> = (0..32)
            .map(|_| {
                let counter = counter.clone();
                tokio::spawn(async move { counter.append("1").await })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok::<_, Box<dyn Error>>(counter.read(|c| c.value).await?)
    })?;
    assert_eq!(sum, 32);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn blocking_twins_need_no_executor() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    assert_eq!(text(&counter.append_blocking("4")?.reply), "4");
    assert_eq!(counter.read_blocking(|c| c.value)?, 4);
    let status = counter.status_blocking()?;
    assert_eq!(status.partition, PartitionId(1));
    assert_eq!(status.role, Role::Leader);
    assert_eq!(status.applied, status.last_index);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn handles_are_used_from_many_threads_at_once() -> Result<(), Box<dyn Error>> {
    fn is_shared<T: Send + Sync + Clone>(_: &T) {}
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    is_shared(&counter);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let counter = counter.clone();
            std::thread::spawn(move || {
                (0..25).try_for_each(|_| counter.append_blocking("1").map(drop))
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic")?;
    }
    assert_eq!(counter.read_blocking(|c| c.value)?, 100);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn appends_of_one_handle_enter_the_log_in_the_order_of_the_calls() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Lines::default())
        .start()?;
    let lines = engine.partition::<Lines>(1)?;
    let under_way: Vec<_> = (0..50).map(|n| lines.append(n.to_string())).collect();
    // Awaited backwards: the order of waiting is of no consequence.
    let mut indexes = Vec::new();
    for future in under_way.into_iter().rev() {
        indexes.push(future.wait()?.index);
    }
    assert!(indexes.is_sorted_by(|a, b| a > b), "{indexes:?}");
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(lines.read_blocking(|l| l.0.clone())?, expected);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn one_engine_carries_partitions_of_different_machines() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .partition(2, |_| Lines::default())
        .partition(3, |_| Counter::default())
        .start()?;
    let first: PartitionHandle<Counter> = engine.partition(1)?;
    let lines: PartitionHandle<Lines> = engine.partition(2)?;
    let other: PartitionHandle<Counter> = engine.partition(3)?;
    first.append_blocking("1")?;
    lines.append_blocking("hello")?;
    other.append_blocking("5")?;
    assert_eq!(first.read_blocking(|c| c.value)?, 1);
    assert_eq!(lines.read_blocking(|l| l.0.clone())?, ["hello"]);
    assert_eq!(other.read_blocking(|c| c.value)?, 5);
    assert_eq!(engine.partitions().count(), 3);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_handle_of_the_wrong_type_or_to_no_partition_is_refused_by_name() -> Result<(), Box<dyn Error>>
{
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let wrong = engine.partition::<Lines>(1).expect_err("it is a Counter");
    assert!(matches!(wrong, EngineError::WrongMachine { .. }));
    assert!(wrong.to_string().contains("Counter"), "{wrong}");
    let none = engine.partition::<Counter>(7).expect_err("there is none");
    assert!(matches!(none, EngineError::NoPartition { .. }));
    assert!(none.to_string().contains("its partitions: 1"), "{none}");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_leadership_watch_begins_with_the_latest_value_and_ends_with_lost() -> Result<(), Box<dyn Error>>
{
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    let mut watch = counter.leadership();
    assert!(
        matches!(watch.latest(), Leadership::Ready { .. }),
        "a lone node leads when it has started: {:?}",
        watch.latest()
    );
    engine.shutdown(PATIENCE)?;
    while watch.wait_changed().is_ok() {}
    assert_eq!(*watch.latest(), Leadership::Lost);
    assert_eq!(*counter.leadership().latest(), Leadership::Lost);
    Ok(())
}

#[test]
fn a_panic_in_a_reads_closure_fails_that_read_alone() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Counter::default())
        .start()?;
    let counter = engine.partition::<Counter>(1)?;
    let error = counter
        .read_blocking(|_| -> i64 { panic!("my own fault") })
        .expect_err("it panicked");
    assert!(error.to_string().contains("my own fault"), "{error}");
    assert_eq!(text(&counter.append_blocking("2")?.reply), "2");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_blocking_call_on_a_shard_panics_instead_of_waiting_for_itself() -> Result<(), Box<dyn Error>> {
    struct Inner;
    impl StateMachine for Inner {
        fn apply(
            &mut self,
            _: clustor_engine::machine::Batch<'_>,
            _: &mut clustor_engine::machine::Effects,
        ) -> clustor_engine::machine::Applied {
            clustor_engine::machine::Applied::Ack
        }
    }
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path()).partition(1, |_| Inner).start()?;
    let inner = engine.partition::<Inner>(1)?;
    let again = inner.clone();
    let error = inner
        .read_blocking(move |_| again.status_blocking().is_ok())
        .expect_err("it would wait for itself");
    assert!(error.to_string().contains("wait for itself"), "{error}");
    engine.shutdown(PATIENCE)?;
    Ok(())
}
