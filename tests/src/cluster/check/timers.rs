//! Timers: each that was set and not cancelled expires once, at the time that it was set for last or behind it, and not long behind it in a partition
//! whose time goes on.
//!
//! The model is a map from names to when they are due, changed by the commands that machines took and by what expired, in index
//! order. All machines agree on both, so one look at the end suffices.

use std::collections::BTreeMap;

use clustor_engine::machine::Stamp;

use super::{Violation, must};
use crate::cluster::machine::{Expiry, Taken, timer_of};

/// How far the time of a partition that has settled lies behind a timer that is still set, at most, in milliseconds.
const LATE_MS_MAX: u64 = 2_000;

/// What operations say of timers: which, and for how many milliseconds it is set, or that it is cancelled.
#[derive(Debug, Default)]
pub(super) struct Orders(BTreeMap<u64, (String, Option<u64>)>);

impl Orders {
    /// An operation is asked for.
    pub fn note(&mut self, op: u64, command: &[u8]) {
        if let Some((name, ms)) = timer_of(command) {
            self.0.insert(op, (name.to_owned(), ms));
        }
    }

    /// Whether timers expired as those operations that were taken say.
    pub fn judge(&self, taken: &[Taken], expired: &[Expiry]) -> Result<(), Violation> {
        let mut set: BTreeMap<Vec<u8>, Stamp> = BTreeMap::new();
        let mut left = expired.iter().peekable();
        for item in taken {
            while let Some(expiry) = left.next_if(|expiry| expiry.index < item.index) {
                expire(&mut set, expiry)?;
            }
            match self.0.get(&item.op) {
                Some((name, Some(ms))) => {
                    set.insert(name.clone().into_bytes(), item.stamp.plus_ms(*ms));
                }
                Some((name, None)) => {
                    set.remove(name.as_bytes());
                }
                None => {}
            }
        }
        left.try_for_each(|expiry| expire(&mut set, expiry))?;
        let last = taken.last().map(|last| last.stamp);
        let last = last.max(expired.last().map(|last| last.stamp));
        let overdue = set
            .iter()
            .find(|(_, due)| Some(due.plus_ms(LATE_MS_MAX)) < last);
        must(overdue.is_none(), "a timer that is due expires", || {
            format!("{overdue:?} is set, the time is {last:?}")
        })
    }
}

fn expire(set: &mut BTreeMap<Vec<u8>, Stamp>, expiry: &Expiry) -> Result<(), Violation> {
    let due = set.remove(&expiry.timer.name);
    must(
        due == Some(expiry.timer.due),
        "a timer expires once, as it was set last, unless it was cancelled",
        || format!("{expiry:?}, it is set for {due:?}"),
    )
}
