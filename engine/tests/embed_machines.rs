//! The machine's side of the contract: where it opens, what it is given again, what its failures reach.

mod support;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clustor_engine::engine::PartitionHandle;
use clustor_engine::machine::{Applied, Batch, Effects, MachineError, Opened, StateMachine};
use clustor_engine::outcome::{AppendError, RefusalClause};
use clustor_wire::ids::LogIndex;
use support::{Counter, Lines, PATIENCE, builder, text};

type Done = Result<(), Box<dyn Error>>;

#[test]
fn a_restart_rebuilds_a_machine_in_memory_from_the_log() -> Done {
    let temp = tempfile::tempdir()?;
    for life in 0..3 {
        let engine = builder(temp.path())
            .partition(1, |_| Counter::default())
            .start()?;
        let counter = engine.partition::<Counter>(1)?;
        let before = counter.read_blocking(|c| (c.value, c.applied))?;
        assert_eq!(before, (life * 10, life as usize * 10));
        for _ in 0..10 {
            counter.append_blocking("1")?;
        }
        engine.shutdown(PATIENCE)?;
    }
    Ok(())
}

/// Stores index and sum in one file, and tells each index it applied to whoever listens.
struct OnDisk {
    file: PathBuf,
    index: u64,
    sum: i64,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl OnDisk {
    fn new(file: &Path, seen: &Arc<Mutex<Vec<u64>>>) -> Self {
        Self {
            file: file.to_owned(),
            index: 0,
            sum: 0,
            seen: Arc::clone(seen),
        }
    }
}

impl StateMachine for OnDisk {
    fn open(&mut self) -> Result<Opened, MachineError> {
        if self.file.exists() {
            let stored = fs::read_to_string(&self.file)?;
            let (index, sum) = stored
                .split_once(' ')
                .ok_or_else(|| MachineError::new("damaged"))?;
            self.index = index.parse().map_err(|_| MachineError::new("damaged"))?;
            self.sum = sum.parse().map_err(|_| MachineError::new("damaged"))?;
        }
        Ok(Opened::at(LogIndex(self.index)))
    }

    fn apply(&mut self, batch: Batch<'_>, _: &mut Effects) -> Applied {
        for item in batch {
            self.seen
                .lock()
                .expect("not poisoned")
                .push(item.index.get());
            self.sum += text(item.command).parse::<i64>().unwrap_or(0);
        }
        self.index = batch.last_index().get();
        let temporary = self.file.with_extension("tmp");
        let stored = fs::write(&temporary, format!("{} {}", self.index, self.sum))
            .and_then(|()| fs::rename(&temporary, &self.file));
        match stored {
            Ok(()) => Applied::Ack,
            Err(error) => Applied::Fatal(error.to_string()),
        }
    }

    fn durable_applied(&self) -> LogIndex {
        LogIndex(self.index)
    }
}

#[test]
fn a_machine_on_disk_goes_on_where_it_stood_and_is_given_nothing_twice() -> Done {
    let temp = tempfile::tempdir()?;
    let file = temp.path().join("machine");
    let seen = Arc::new(Mutex::new(Vec::new()));
    for life in 0..3 {
        let (at, to) = (file.clone(), Arc::clone(&seen));
        let engine = builder(temp.path())
            .partition(1, move |_| OnDisk::new(&at, &to))
            .start()?;
        let handle = engine.partition::<OnDisk>(1)?;
        assert_eq!(handle.read_blocking(|m| m.sum)?, life * 5);
        for _ in 0..5 {
            handle.append_blocking("1")?;
        }
        engine.shutdown(PATIENCE)?;
    }
    let seen = seen.lock().expect("not poisoned");
    assert_eq!(seen.len(), 15);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    Ok(())
}

#[test]
fn a_machine_on_disk_that_lost_its_file_is_given_everything_again() -> Done {
    let temp = tempfile::tempdir()?;
    let file = temp.path().join("machine");
    let seen = Arc::new(Mutex::new(Vec::new()));
    for life in 0..2 {
        let (at, to) = (file.clone(), Arc::clone(&seen));
        let engine = builder(temp.path())
            .partition(1, move |_| OnDisk::new(&at, &to))
            .start()?;
        let handle = engine.partition::<OnDisk>(1)?;
        if life == 0 {
            handle.append_blocking("7")?;
        }
        assert_eq!(handle.read_blocking(|m| m.sum)?, 7);
        engine.shutdown(PATIENCE)?;
        fs::remove_file(&file)?;
    }
    assert_eq!(seen.lock().expect("not poisoned").len(), 2);
    Ok(())
}

/// Waits until an append to the partition is refused as the machine's failure.
fn refused_by_machine<M: StateMachine>(handle: &PartitionHandle<M>, command: &str) -> String {
    let begun = Instant::now();
    loop {
        match handle.append_blocking(command) {
            Err(AppendError::NotExecuted { refusal })
                if matches!(
                    refusal.clause,
                    RefusalClause::MachineFailed | RefusalClause::Unavailable
                ) =>
            {
                return refusal.message;
            }
            other => assert!(
                begun.elapsed() < PATIENCE,
                "not refused as the machine's failure: {other:?}"
            ),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_machine_ahead_of_the_log_is_refused_and_others_live() -> Done {
    let temp = tempfile::tempdir()?;
    let file = temp.path().join("machine");
    fs::write(&file, "1000 5")?;
    let seen = Arc::default();
    let engine = builder(temp.path())
        .partition(1, move |_| OnDisk::new(&file, &seen))
        .partition(2, |_| Counter::default())
        .start()?;
    let ahead = engine.partition::<OnDisk>(1)?;
    refused_by_machine(&ahead, "1");
    let trouble = ahead.status_blocking()?.trouble;
    assert!(trouble.contains("1000"), "{trouble}");
    let counter = engine.partition::<Counter>(2)?;
    assert_eq!(text(&counter.append_blocking("1")?.reply), "1");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_machine_that_does_not_open_makes_its_partition_unavailable_and_others_live() -> Done {
    struct Closed;
    impl StateMachine for Closed {
        fn open(&mut self) -> Result<Opened, MachineError> {
            Err(MachineError::new("my store is on another host"))
        }
        fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
            Applied::Ack
        }
    }
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Closed)
        .partition(2, |_| Counter::default())
        .start()?;
    let closed = engine.partition::<Closed>(1)?;
    refused_by_machine(&closed, "1");
    let trouble = closed.status_blocking()?.trouble;
    assert!(trouble.contains("my store is on another host"), "{trouble}");
    let counter = engine.partition::<Counter>(2)?;
    assert_eq!(text(&counter.append_blocking("1")?.reply), "1");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

/// Panics on the command `boom`, as often as it is told to.
struct Fragile {
    booms: Arc<AtomicUsize>,
    lines: Lines,
}

impl StateMachine for Fragile {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        for item in batch {
            let left = &self.booms;
            if item.command == b"boom"
                && left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
            {
                panic!("fragile machine");
            }
        }
        self.lines.apply(batch, out)
    }
}

fn fragile(booms: usize) -> impl Fn(clustor_wire::ids::PartitionId) -> Fragile + Send {
    let booms = Arc::new(AtomicUsize::new(booms));
    move |_| Fragile {
        booms: Arc::clone(&booms),
        lines: Lines::default(),
    }
}

#[test]
fn a_panic_in_apply_is_fatal_for_its_partition_alone() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, fragile(usize::MAX))
        .partition(2, |_| Counter::default())
        .start()?;
    let fragile = engine.partition::<Fragile>(1)?;
    let counter = engine.partition::<Counter>(2)?;
    fragile.append_blocking("calm")?;
    // Committed, and never applied: nobody knows what will become of it.
    let error = fragile.append_blocking("boom").expect_err("it panicked");
    assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
    refused_by_machine(&fragile, "after");
    let trouble = fragile.status_blocking()?.trouble;
    assert!(trouble.contains("fragile machine"), "{trouble}");
    assert_eq!(text(&counter.append_blocking("1")?.reply), "1");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_machine_that_panicked_once_is_made_anew_and_fed_from_the_log() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path()).partition(1, fragile(1)).start()?;
    let fragile = engine.partition::<Fragile>(1)?;
    fragile.append_blocking("one")?;
    let error = fragile.append_blocking("boom").expect_err("it panicked");
    assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
    let begun = Instant::now();
    while let Err(error) = fragile.append_blocking("two") {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        assert!(
            matches!(error, AppendError::NotExecuted { .. }),
            "refused while it is rebuilt, executed afterwards: {error}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let lines = fragile.read_blocking(|f| f.lines.0.clone())?;
    assert_eq!(lines, ["one", "boom", "two"]);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

/// Something that can't be dropped in peace.
struct Sore;

impl Drop for Sore {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Refuses everything with [`Applied::Fatal`], and panics when it is dropped for that.
struct Bitter(Sore);

impl StateMachine for Bitter {
    fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
        Applied::Fatal("bitter".to_owned())
    }
}

#[test]
fn a_panic_in_the_drop_of_a_machine_or_of_what_a_read_holds_or_found_ends_no_shard() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Bitter(Sore))
        .partition(2, |_| Counter::default())
        .start()?;
    let bitter = engine.partition::<Bitter>(1)?;
    let counter = engine.partition::<Counter>(2)?;
    let error = bitter.append_blocking("anything").expect_err("it fails");
    assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
    assert_eq!(text(&counter.append_blocking("1")?.reply), "1");
    // Refused, the closure with what it holds never run.
    let held = Sore;
    let refused = bitter.read_blocking(move |_| {
        let _held = &held;
    });
    refused.expect_err("there is no machine to read");
    assert_eq!(text(&counter.append_blocking("1")?.reply), "2");
    // Nobody takes what it finds.
    std::mem::drop(counter.read(|_| Sore));
    assert_eq!(text(&counter.append_blocking("1")?.reply), "3");
    engine.shutdown(PATIENCE)?;
    Ok(())
}
