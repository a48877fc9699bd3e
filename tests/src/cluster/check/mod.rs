//! What must hold, looked at after every turn, every message and every answer.
//!
//! - [`consensus`]: one leader for each term, one vote for each term and replica, log matching, leader
//!   completeness, commits durable on a quorum, watermarks that never go back, nothing vouched for that a
//!   restart forgets
//! - [`machines`]: every machine takes the same commands in the same order, each operation once
//! - `timers`: each expires once, as it was set, or not at all, as it was cancelled
//! - [`clients`]: what is acknowledged stays, what is refused never happens, reads are linearizable
//! - [`modes`]: the mode of a partition is what its log says, on every replica, and a change of it stands alone
//! - [`provable`]: the same, seen on copies of the disks alone
//!
//! Linearizability is decided exactly, without a search: the object is a list to which commands are appended, every
//! acknowledgement tells its place in the list and every read how much of the list it saw, and that all
//! replicas agree on the list is checked by itself. Then a history is linearizable if and only if no operation
//! is placed before one that had ended when it began (the real-time order of Herlihy and Wing, 1990).

pub mod clients;
pub mod consensus;
pub mod machines;
pub mod modes;
pub mod provable;
mod timers;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broken: {rule}: {what}")]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// How it was broken, and where.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, what: impl Into<String>) -> Self {
        Self {
            rule,
            what: what.into(),
        }
    }
}

/// Checks a rule.
pub(crate) fn must(
    holds: bool,
    rule: &'static str,
    what: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds {
        Ok(())
    } else {
        Err(Violation::new(rule, what()))
    }
}
