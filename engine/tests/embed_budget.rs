//! A machine that takes longer than it may: its leader takes less from those who append, and says so.

mod support;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clustor_engine::machine::{Applied, Batch, Effects, StateMachine};
use clustor_engine::outcome::{AppendError, RefusalClause};
use support::{PATIENCE, builder, small};

/// Sleeps over each batch, as one that writes to a slow disk would.
struct Sleepy(Arc<AtomicU64>);

impl StateMachine for Sleepy {
    fn apply(&mut self, _: Batch<'_>, _: &mut Effects) -> Applied {
        std::thread::sleep(Duration::from_micros(self.0.load(Ordering::SeqCst)));
        Applied::Ack
    }
}

#[test]
fn a_slow_machine_has_appends_refused_until_its_budget_is_another() -> Result<(), Box<dyn Error>> {
    let temp = tempfile::tempdir()?;
    let sleep_us = Arc::new(AtomicU64::new(300));
    let mut profile = small();
    profile.apply_entries_max = 1;
    profile.apply_budget_us = 100;
    profile.apply_backlog_max = 32;
    let sleeps = Arc::clone(&sleep_us);
    let engine = builder(temp.path())
        .profile(profile.clone())
        .partition(1, move |_| Sleepy(Arc::clone(&sleeps)))
        .start()?;
    let handle = engine.partition::<Sleepy>(1)?;
    let before = handle.status_blocking()?;
    assert_eq!(
        (before.apply_p99_us, before.apply_backlog_max),
        (None, None)
    );
    for _ in 0..60 {
        let appends: Vec<_> = (0..10).map(|_| handle.append("x")).collect();
        for append in appends {
            append.wait()?;
        }
    }
    let status = handle.status_blocking()?;
    assert!(status.apply_p99_us >= Some(300), "{status:?}");
    assert!(status.apply_breaches >= 5, "{status:?}");
    assert_eq!(status.apply_backlog_max, Some(16));
    assert!(
        status.trouble.contains("apply_budget_us = 100"),
        "{status:?}"
    );

    // Slow enough that they come faster than they are applied, on whatever machine.
    sleep_us.store(20_000, Ordering::SeqCst);
    let appends: Vec<_> = (0..100).map(|_| handle.append("x")).collect();
    let mut refused = Vec::new();
    for append in appends {
        match append.wait() {
            Ok(_) => {}
            Err(AppendError::NotExecuted { refusal }) => refused.push(refusal),
            Err(error) => return Err(error.into()),
        }
    }
    let first = refused.first().expect("no more than 16 may wait");
    assert_eq!(first.clause, RefusalClause::ApplyBudget, "{first:?}");
    assert!(first.retry_after_ms > 0, "{first:?}");

    // Whoever runs it does not mind.
    sleep_us.store(0, Ordering::SeqCst);
    profile.apply_budget_us = 10_000_000;
    engine.handle().reload_profile(&profile)?;
    let appends: Vec<_> = (0..100).map(|_| handle.append("x")).collect();
    for append in appends {
        append.wait()?;
    }
    let status = handle.status_blocking()?;
    assert_eq!(
        (status.apply_backlog_max, status.trouble),
        (None, String::new())
    );
    engine.shutdown(PATIENCE)?;
    Ok(())
}
