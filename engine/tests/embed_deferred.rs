//! Side effects that take longer than a turn: answered when they are safe, made again when nobody knows.

mod support;

use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use clustor_engine::engine::Engine;
use clustor_engine::machine::deferred::{Deferred, Jobs, queue};
use clustor_engine::machine::{Applied, Batch, Effects, MachineError, Opened, StateMachine};
use clustor_engine::outcome::{AppendError, IdempotencyKey};
use clustor_wire::ids::LogIndex;
use futures_lite::future::block_on;
use support::{PATIENCE, builder, small, text};

type Done = Result<(), Box<dyn Error>>;

/// What is in the slow storage, up to which index.
type Storage = Arc<Mutex<(Vec<String>, LogIndex)>>;
type Job = (LogIndex, String);

fn stored(storage: &Storage) -> MutexGuard<'_, (Vec<String>, LogIndex)> {
    storage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps lines in a storage of which only another thread may write.
struct Slow {
    storage: Storage,
    lines: Vec<String>,
    worker: Deferred<Job>,
}

impl StateMachine for Slow {
    fn open(&mut self) -> Result<Opened, MachineError> {
        let stored = stored(&self.storage);
        self.lines.clone_from(&stored.0);
        Ok(Opened::at(stored.1))
    }

    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let line = text(item.command).to_owned();
            self.lines.push(line.clone());
            self.worker.push(item.index, out, (item.index, line));
            out.reply(item.index, b"kept");
        }
        Applied::Ack
    }
}

fn write(storage: &Storage, (index, line): Job) {
    let mut stored = stored(storage);
    // A job that comes a second time is known by its index.
    if index > stored.1 {
        stored.0.push(line);
        stored.1 = index;
    }
}

/// An engine whose effects may take so long, and the jobs that they are.
fn start(
    directory: &Path,
    storage: &Storage,
    ack_ms_max: u64,
) -> Result<(Engine, Jobs<Job>), Box<dyn Error>> {
    let (worker, jobs) = queue();
    let storage = Arc::clone(storage);
    let mut profile = small();
    profile.ack_ms_max = ack_ms_max;
    let engine = builder(directory)
        .profile(profile)
        .partition(1, move |_| Slow {
            storage: Arc::clone(&storage),
            lines: Vec::new(),
            worker: worker.clone(),
        })
        .start()?;
    Ok((engine, jobs))
}

#[test]
fn an_append_is_answered_when_its_effect_is_safe() -> Done {
    let temp = tempfile::tempdir()?;
    let storage = Storage::default();
    let (engine, jobs) = start(temp.path(), &storage, 60_000)?;
    let lines = engine.partition::<Slow>(1)?;
    let (first, second) = (lines.append("one"), lines.append("two"));
    let (one, one_ack) = jobs.next().expect("the machine lives");
    let (two, two_ack) = jobs.next().expect("the machine lives");
    assert_eq!(one_ack.index(), one.0);
    // It goes on meanwhile, and reads see it.
    assert_eq!(
        lines.read_blocking(|slow| slow.lines.clone())?,
        ["one", "two"]
    );
    assert!(stored(&storage).0.is_empty());
    write(&storage, one);
    one_ack.done();
    assert_eq!(first.wait()?.reply, b"kept");
    write(&storage, two);
    two_ack.done();
    second.wait()?;
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_retry_under_the_same_key_waits_for_the_first_effect() -> Done {
    let temp = tempfile::tempdir()?;
    let storage = Storage::default();
    let (engine, jobs) = start(temp.path(), &storage, 60_000)?;
    let lines = engine.partition::<Slow>(1)?;
    let known = Some(LogIndex::ZERO);
    let first = lines.append_keyed(IdempotencyKey(7), known, "one");
    let (one, one_ack) = jobs.next().expect("the machine lives");
    let again = lines.append_keyed(IdempotencyKey(7), known, "one");
    let other = lines.append_keyed(IdempotencyKey(8), known, "two");
    let (_, two_ack) = jobs.next().expect("the machine lives");
    // What stands behind the retry in the log is applied and answered: the retry is as well, but for the effect.
    two_ack.done();
    other.wait()?;
    let mut again = pin!(again);
    let waits = again.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(waits.is_pending(), "{waits:?}");
    write(&storage, one);
    one_ack.done();
    let first = first.wait()?;
    assert!(!first.duplicate);
    let again = block_on(again)?;
    assert_eq!((again.index, again.duplicate), (first.index, true));
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_worker_does_the_jobs_and_a_restart_goes_on_behind_them() -> Done {
    let temp = tempfile::tempdir()?;
    let storage = Storage::default();
    for life in 1..=2_usize {
        let (engine, jobs) = start(temp.path(), &storage, 60_000)?;
        let target = Arc::clone(&storage);
        let worker = std::thread::spawn(move || {
            jobs.run(|job| {
                write(&target, job);
                Ok(())
            });
        });
        let lines = engine.partition::<Slow>(1)?;
        for number in 0..15 {
            lines.append_blocking(number.to_string())?;
        }
        assert_eq!(stored(&storage).0.len(), 15 * life);
        assert_eq!(lines.read_blocking(|slow| slow.lines.len())?, 15 * life);
        engine.shutdown(PATIENCE)?;
        worker.join().expect("the worker ends with the machine");
    }
    Ok(())
}

#[test]
fn an_effect_that_fails_or_is_late_has_the_machine_made_again_from_what_is_safe() -> Done {
    for late in [false, true] {
        let temp = tempfile::tempdir()?;
        let storage = Storage::default();
        let ack_ms_max = if late { 20 } else { 60_000 };
        let (engine, jobs) = start(temp.path(), &storage, ack_ms_max)?;
        let lines = engine.partition::<Slow>(1)?;
        let append = lines.append("one");
        let (job, handle) = jobs.next().expect("the machine lives");
        let kept = if late {
            Some(handle)
        } else {
            handle.failed("the storage said no");
            None
        };
        let error = append.wait().expect_err("nobody knows");
        assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
        // It comes again: the command is in the log.
        let target = Arc::clone(&storage);
        let worker = std::thread::spawn(move || {
            jobs.run(|again| {
                assert_eq!(again, job);
                write(&target, again);
                Ok(())
            });
        });
        let begun = Instant::now();
        while stored(&storage).0.is_empty()
            || lines.read_blocking(|slow| slow.lines.clone()).is_err()
        {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(kept);
        assert_eq!(stored(&storage).0, ["one"]);
        assert_eq!(lines.read_blocking(|slow| slow.lines.clone())?, ["one"]);
        engine.shutdown(PATIENCE)?;
        worker.join().expect("the worker ends with the machine");
    }
    Ok(())
}
