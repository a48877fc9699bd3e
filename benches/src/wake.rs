//! What waking a thread costs on this machine: the least that a handle on another thread adds to an append, twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::measured::Measured;

/// How often the sleeper is woken in one round.
const WAKES: u64 = 400;
/// How long the waker lets it sleep before: long enough to be parked, about as long as a flush takes.
const PAUSE: Duration = Duration::from_micros(150);
/// The round is over, or nothing has happened.
const OVER: u64 = u64::MAX;
const ASLEEP: u64 = 0;

/// Measures from the call that wakes a parked thread to that thread's next instruction.
pub fn measure() -> Measured {
    let start = Instant::now();
    let woken_at = AtomicU64::new(ASLEEP);
    let ns = |start: Instant| u64::try_from(start.elapsed().as_nanos()).unwrap_or(OVER - 1);
    let mut measured = Measured::new();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let mut measured = Measured::new();
            loop {
                std::thread::park();
                match woken_at.swap(ASLEEP, Ordering::AcqRel) {
                    OVER => return measured,
                    ASLEEP => {}
                    at => measured.record(Duration::from_nanos(ns(start).saturating_sub(at))),
                }
            }
        });
        for _ in 0..WAKES {
            std::thread::sleep(PAUSE);
            woken_at.store(ns(start).max(1), Ordering::Release);
            sleeper.thread().unpark();
        }
        std::thread::sleep(PAUSE);
        woken_at.store(OVER, Ordering::Release);
        sleeper.thread().unpark();
        measured = sleeper.join().expect("the sleeper does not panic");
    });
    measured.took(start.elapsed());
    measured
}
