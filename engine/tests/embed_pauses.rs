//! A machine that can't do its work for a while: it is called again after pauses, and is made again if it never can.

mod support;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clustor_engine::engine::AppendOptions;
use clustor_engine::machine::{Applied, Batch, Effects, Expired, StateMachine};
use clustor_engine::outcome::{AppendError, IdempotencyKey};
use support::{Lines, PATIENCE, builder, text};

type Done = Result<(), Box<dyn Error>>;

/// Takes one item at a time, and not one while it is busy.
#[derive(Default)]
struct OneByOne {
    busy: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    lines: Lines,
}

impl StateMachine for OneByOne {
    fn apply(&mut self, batch: Batch<'_>, out: &mut Effects) -> Applied {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut items = batch.iter();
        let later = |from, reason: &str| Applied::Retryable {
            from,
            reason: reason.to_owned(),
        };
        let first = items.next().expect("never empty");
        if self.busy.load(Ordering::SeqCst) {
            out.reply(first.index, b"never");
            return later(first.index, "busy");
        }
        self.lines.0.push(text(first.command).to_owned());
        out.reply(first.index, first.command);
        if first.command == b"timer" {
            let _ = out.set_timer(first.index, b"t", first.stamp.plus_ms(1));
        }
        match items.next() {
            Some(next) => later(next.index, "one at a time"),
            None => Applied::Ack,
        }
    }

    fn expire(&mut self, expired: Expired<'_>, _: &mut Effects) -> Applied {
        if self.busy.load(Ordering::SeqCst) {
            return Applied::Retryable {
                from: expired.index,
                reason: "busy".to_owned(),
            };
        }
        self.lines.0.push("expired".to_owned());
        Applied::Ack
    }
}

#[test]
fn what_a_machine_did_not_take_comes_again_after_pauses_and_once() -> Done {
    let temp = tempfile::tempdir()?;
    let (busy, calls) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let mut profile = support::small();
    profile.ack_ms_max = 60_000;
    let shared = (Arc::clone(&busy), Arc::clone(&calls));
    let engine = builder(temp.path())
        .profile(profile)
        .partition(1, move |_| OneByOne {
            busy: Arc::clone(&shared.0),
            calls: Arc::clone(&shared.1),
            ..OneByOne::default()
        })
        .start()?;
    let handle = engine.partition::<OneByOne>(1)?;
    let known = handle.status_blocking()?.wal_committed;
    let appends: Vec<_> = ["a", "b", "timer", "c"]
        .into_iter()
        .zip(1..)
        .map(|(line, key)| {
            let options = AppendOptions::new().key(IdempotencyKey(key), Some(known));
            handle.append_with(line, options)
        })
        .collect();
    while !handle.status_blocking()?.trouble.contains("busy") {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(200));
    // Pauses of 1, 2, 4 ms and so on: it is not called at once again.
    let called = calls.load(Ordering::SeqCst);
    assert!((2..30).contains(&called), "called {called} times");
    busy.store(false, Ordering::SeqCst);
    for (append, line) in appends.into_iter().zip(["a", "b", "timer", "c"]) {
        let done = append.wait()?;
        assert!(!done.duplicate, "{line} is judged once");
        assert_eq!(text(&done.reply), line);
    }
    let lines = loop {
        let lines = handle.read_blocking(|machine| machine.lines.0.clone())?;
        if lines.len() == 5 {
            break lines;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(lines.iter().filter(|line| *line == "expired").count(), 1);
    let commands: Vec<_> = lines.iter().filter(|line| *line != "expired").collect();
    assert_eq!(commands, ["a", "b", "timer", "c"]);
    assert_eq!(handle.status_blocking()?.trouble, "");
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_machine_that_makes_no_progress_for_long_is_taken_for_failed() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, move |_| OneByOne {
            busy: Arc::new(AtomicBool::new(true)),
            ..OneByOne::default()
        })
        .start()?;
    let handle = engine.partition::<OneByOne>(1)?;
    let error = handle.append_blocking("a").expect_err("it is never taken");
    assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
    let trouble = loop {
        let trouble = handle.status_blocking()?.trouble;
        if !trouble.is_empty() {
            break trouble;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(trouble.contains("without progress: busy"), "{trouble}");
    engine.shutdown(PATIENCE)?;
    Ok(())
}
