//! What waking a thread on another processor costs on this machine: a handle adds it to an append twice, once for the
//! shard and once for the client, where each has a processor of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clustor_shards::sys;

use crate::measured::Measured;

/// How often the sleeper is woken in one round.
const WAKES: u64 = 400;
/// How long the waker lets it sleep before: long enough to be parked, about as long as a flush takes.
const PAUSE: Duration = Duration::from_micros(150);
/// The round is over, or nothing has happened.
const OVER: u64 = u64::MAX;
const ASLEEP: u64 = 0;

/// Measures from the call that wakes a parked thread to that thread's next instruction. Each of the two is bound to a
/// processor of its own where there is more than one: left alone they end up on one, where waking is cheap.
pub fn measure() -> Measured {
    let cpus = sys::allowed_cpus().unwrap_or_default();
    let bind = |cpu: Option<&usize>| {
        if let Some(&cpu) = cpu.filter(|_| cpus.len() > 1) {
            // A processor that was taken away meanwhile: the number is then another machine's.
            drop(sys::pin_current_thread(cpu));
        }
    };
    let start = Instant::now();
    let woken_at = AtomicU64::new(ASLEEP);
    let ns = |start: Instant| u64::try_from(start.elapsed().as_nanos()).unwrap_or(OVER - 1);
    let mut measured = Measured::new();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            bind(cpus.first());
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
        let asleep = sleeper.thread().clone();
        scope.spawn(|| {
            bind(cpus.last());
            let asleep = asleep;
            for _ in 0..WAKES {
                std::thread::sleep(PAUSE);
                woken_at.store(ns(start).max(1), Ordering::Release);
                asleep.unpark();
            }
            std::thread::sleep(PAUSE);
            woken_at.store(OVER, Ordering::Release);
            asleep.unpark();
        });
        measured = sleeper.join().expect("the sleeper does not panic");
    });
    measured.took(start.elapsed());
    measured
}
