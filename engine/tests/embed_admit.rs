//! Refusals before the log: by the machine, and by the term that an append is for.

mod support;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clustor_engine::engine::{AppendOptions, PartitionHandle};
use clustor_engine::machine::{Admit, Applied, Batch, Effects, StateMachine};
use clustor_engine::outcome::{AppendError, IdempotencyKey, Leadership, RefusalClause};
use clustor_wire::ids::Term;
use support::{PATIENCE, builder, text};

type Done = Result<(), Box<dyn Error>>;

/// Gives out what it has, and lets nothing into the log that asks for more.
struct Stock {
    left: u64,
}

fn amount(command: &[u8]) -> u64 {
    text(command).parse().expect("a number")
}

impl StateMachine for Stock {
    fn admit(&self, command: &[u8]) -> Admit {
        assert!(command != b"panic", "asked to");
        if amount(command) > self.left {
            return Admit::No(format!("only {} left", self.left));
        }
        Admit::Yes
    }

    fn apply(&mut self, batch: Batch<'_>, _: &mut Effects) -> Applied {
        for item in batch {
            self.left = self.left.saturating_sub(amount(item.command));
        }
        Applied::Ack
    }
}

fn clause<T: std::fmt::Debug>(result: Result<T, AppendError>) -> RefusalClause {
    match result {
        Err(AppendError::NotExecuted { refusal }) => refusal.clause,
        other => panic!("it is not refused: {other:?}"),
    }
}

fn ready<M: StateMachine>(partition: &PartitionHandle<M>) -> Term {
    let mut watch = partition.leadership();
    loop {
        if let Leadership::Ready { term } = *watch.latest() {
            return term;
        }
        watch.wait_changed().expect("the engine runs");
    }
}

#[test]
fn what_the_machine_does_not_admit_never_enters_the_log() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Stock { left: 10 })
        .start()?;
    let stock = engine.partition::<Stock>(1)?;
    stock.append_blocking("7")?;
    let last = stock.status_blocking()?.last_index;
    let refused = stock.append_blocking("4").expect_err("only 3 are left");
    assert!(refused.to_string().contains("only 3 left"), "{refused}");
    assert_eq!(clause(Err::<(), _>(refused)), RefusalClause::Rejected);
    assert_eq!(stock.status_blocking()?.last_index, last);
    stock.append_blocking("3")?;
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_retry_of_what_was_executed_is_a_duplicate_whatever_the_machine_admits_by_then() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Stock { left: 10 })
        .start()?;
    let stock = engine.partition::<Stock>(1)?;
    ready(&stock);
    let known = Some(stock.status_blocking()?.wal_committed);
    let (key, other) = (IdempotencyKey(1), IdempotencyKey(2));
    let first = stock.append_keyed(key, known, "8").wait()?;
    let again = stock.append_keyed(key, known, "8").wait()?;
    assert_eq!((again.index, again.duplicate), (first.index, true));
    let refused = stock.append_keyed(other, known, "8").wait();
    assert_eq!(clause(refused), RefusalClause::Rejected);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_panic_in_admit_is_a_failure_of_the_machine() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Stock { left: 10 })
        .start()?;
    let stock = engine.partition::<Stock>(1)?;
    stock.append_blocking("4")?;
    let refused = stock.append_blocking("panic");
    assert_eq!(clause(refused), RefusalClause::MachineFailed);
    let begun = Instant::now();
    while let Err(error) = stock.append_blocking("1") {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(stock.read_blocking(|stock| stock.left)?, 5);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn an_append_for_another_term_is_refused() -> Done {
    let temp = tempfile::tempdir()?;
    let engine = builder(temp.path())
        .partition(1, |_| Stock { left: 10 })
        .start()?;
    let stock = engine.partition::<Stock>(1)?;
    let term = ready(&stock);
    stock.append_if(term, "1").wait()?;
    engine.shutdown(PATIENCE)?;

    let engine = builder(temp.path())
        .partition(1, |_| Stock { left: 10 })
        .start()?;
    let stock = engine.partition::<Stock>(1)?;
    let later = ready(&stock);
    assert!(later > term, "a restart begins a new term");
    let refused = stock.append_if(term, "1").wait();
    assert_eq!(clause(refused), RefusalClause::TermChanged);
    stock
        .append_with("1", AppendOptions::new().if_term(later))
        .wait()?;
    assert_eq!(stock.read_blocking(|stock| stock.left)?, 8);
    engine.shutdown(PATIENCE)?;
    Ok(())
}

/// Pays out of an account once it is open. A life of it after the first applies nothing until `may_go_on`.
struct Account {
    is_open: bool,
    paid: u64,
    is_first_life: bool,
    may_go_on: Arc<AtomicBool>,
}

impl StateMachine for Account {
    fn admit(&self, command: &[u8]) -> Admit {
        match command {
            b"panic" => panic!("asked to"),
            b"pay" if !self.is_open => Admit::No("no such account".to_owned()),
            _ => Admit::Yes,
        }
    }

    fn apply(&mut self, batch: Batch<'_>, _: &mut Effects) -> Applied {
        for item in batch {
            if !self.is_first_life && !self.may_go_on.load(Ordering::SeqCst) {
                return Applied::Retryable {
                    from: item.index,
                    reason: "told to wait".to_owned(),
                };
            }
            match item.command {
                b"open" => self.is_open = true,
                _ => self.paid += 1,
            }
        }
        Applied::Ack
    }
}

#[test]
fn a_machine_made_anew_judges_nothing_before_it_has_everything_again() -> Done {
    let temp = tempfile::tempdir()?;
    let may_go_on = Arc::new(AtomicBool::new(false));
    let lives = AtomicUsize::new(0);
    let gate = Arc::clone(&may_go_on);
    let engine = builder(temp.path())
        .partition(1, move |_| Account {
            is_open: false,
            paid: 0,
            is_first_life: lives.fetch_add(1, Ordering::SeqCst) == 0,
            may_go_on: Arc::clone(&gate),
        })
        .start()?;
    let account = engine.partition::<Account>(1)?;
    let term = ready(&account);
    account.append_blocking("open")?;
    let known = Some(account.status_blocking()?.wal_committed);
    let key = IdempotencyKey(7);
    let first = account.append_keyed(key, known, "pay").wait()?;
    let refused = account.append_blocking("panic");
    assert_eq!(clause(refused), RefusalClause::MachineFailed);

    // Fed again, and held back before the account is open: it knows of neither the account nor the key.
    let begun = Instant::now();
    while account.status_blocking()?.trouble.contains("panicked") {
        assert!(begun.elapsed() < PATIENCE, "it is made anew");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(*account.leadership().latest(), Leadership::Elected { term });
    let refused = account.append_blocking("pay");
    assert_eq!(clause(refused), RefusalClause::Busy);
    let retried = account.append_keyed(key, known, "pay");
    may_go_on.store(true, Ordering::SeqCst);
    let again = retried.wait()?;
    assert_eq!((again.index, again.duplicate), (first.index, true));
    assert_eq!(ready(&account), term);
    assert_eq!(account.read_blocking(|account| account.paid)?, 1);
    engine.shutdown(PATIENCE)?;
    Ok(())
}
