//! What the caller's process says: which seed to run, whether to print it, and how to name it again. Nothing in a run depends
//! on it.

use std::ops::Range;

/// Names the one seed that [`seeds`] gives, whatever it is asked for.
pub const SEED_VARIABLE: &str = "CLUSTOR_SIM_SEED";
/// Set to 1, it prints a run's events, one a line, to standard output.
pub const TRACE_VARIABLE: &str = "CLUSTOR_SIM_TRACE";

/// The seeds to run: those asked for, or the one that the environment variable `CLUSTOR_SIM_SEED` names.
///
/// # Panics
/// If the variable is set to anything but a number.
#[must_use]
pub fn seeds(range: Range<u64>) -> Range<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(value) => {
            let seed: u64 = value
                .parse()
                .unwrap_or_else(|_| panic!("{SEED_VARIABLE}={value}: a seed is a number"));
            seed..seed.saturating_add(1)
        }
        Err(_) => range,
    }
}

pub(super) fn wants_trace() -> bool {
    std::env::var(TRACE_VARIABLE).is_ok_and(|value| value == "1")
}

/// The line that runs a seed again: a test's thread has its name.
pub(super) fn replay(seed: u64) -> String {
    let thread = std::thread::current();
    match thread.name().filter(|name| *name != "main") {
        Some(test) => format!("{SEED_VARIABLE}={seed} cargo test {test}"),
        None => format!("{SEED_VARIABLE}={seed}, and the same program"),
    }
}
