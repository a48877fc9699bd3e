//! A machine that could not do its work and asks to try again later: what it did not take is kept, and a pause made.

use clustor_shards::turn::Time;
use clustor_wire::ids::{LogIndex, Term};

use super::apply::{ApplyStep, Judged};
use super::busy::Busy;
use super::{Answer, Partition};
use crate::machine::{Item, Stamp, Stopwatch};

/// First pause before a machine that asked to retry is called again, in milliseconds; the next is twice as long, as long
/// as it makes no progress.
pub const APPLY_PAUSE_MS: u64 = 1;
/// Pauses are no longer than the first, doubled so often.
const DOUBLINGS_MAX: u32 = 7;
/// `Retryable` answers without progress in a row that are always allowed, however long they take.
pub const RETRIES_MAX: u32 = 3;

/// An item that comes again, with its bytes.
struct KeptItem {
    index: LogIndex,
    term: Term,
    stamp: Stamp,
    command: Vec<u8>,
}

/// What is left of a batch: judged by the table of keys already, which must not judge it twice.
struct Rest {
    items: Vec<KeptItem>,
    judged: Vec<Judged>,
    reached: LogIndex,
}

/// A machine is left alone for a while.
pub(super) struct Pause {
    /// Since when it makes no progress.
    since: Time,
    /// Not called before this moment; `None` once that has come.
    until: Option<Time>,
    retries: u32,
    reason: String,
    /// What it is called with; nothing for timers, which are due again where they were.
    rest: Option<Rest>,
}

impl Pause {
    pub const fn until(&self) -> Option<Time> {
        self.until
    }
}

impl core::fmt::Display for Pause {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            retries, reason, ..
        } = self;
        write!(
            f,
            "asked to retry {retries} times without progress: {reason}"
        )
    }
}

impl Partition {
    /// The machine asked to retry, and took something before (`progressed`) or nothing.
    ///
    /// # Errors
    /// Why it is taken for failed: it has made no progress for `ack_ms_max`.
    pub(super) fn begin_pause(
        &mut self,
        now: Time,
        progressed: bool,
        reason: String,
    ) -> Result<(), String> {
        let before = self.busy.pause.take().filter(|_| !progressed);
        let (since, retries) = before.map_or((now, 0), |pause| (pause.since, pause.retries));
        let pause_ms = APPLY_PAUSE_MS << retries.min(DOUBLINGS_MAX);
        let pause = Pause {
            since,
            until: Some(now.plus_ms(pause_ms)),
            retries: retries + 1,
            reason,
            rest: None,
        };
        if retries >= RETRIES_MAX && since.plus_ms(self.patience_ms) <= now {
            return Err(pause.to_string());
        }
        tracing::warn!(partition = %self.id, pause_ms, reason = pause.reason, "the machine asks to retry");
        self.busy.pause = Some(pause);
        Ok(())
    }

    /// Keeps what a paused machine is called with next.
    pub(super) fn keep_rest(&mut self, items: &[Item<'_>], judged: Vec<Judged>, reached: LogIndex) {
        let items = items.iter().map(|item| KeptItem {
            index: item.index,
            term: item.term,
            stamp: item.stamp,
            command: item.command.to_vec(),
        });
        let rest = Rest {
            items: items.collect(),
            judged,
            reached,
        };
        if let Some(pause) = &mut self.busy.pause {
            pause.rest = Some(rest);
        }
    }

    /// Where the machine is paused, or has to be called with what is left of a batch: what becomes of that.
    pub(super) fn resume(
        &mut self,
        now: Time,
        watch: &dyn Stopwatch,
        answers: &mut Vec<Answer>,
    ) -> Option<ApplyStep> {
        self.busy.pause.as_ref()?;
        let Busy {
            pause, deferrals, ..
        } = &mut *self.busy;
        let pause = pause.as_mut()?;
        if pause.until.is_some_and(|until| now < until) {
            return Some(ApplyStep::Done);
        }
        pause.until = None;
        if deferrals.is_full() {
            return Some(ApplyStep::Done);
        }
        let rest = pause.rest.take()?;
        let items = rest.items.iter().map(|item| Item {
            index: item.index,
            term: item.term,
            stamp: item.stamp,
            command: &item.command,
        });
        let items: Vec<_> = items.collect();
        self.run(now, watch, &items, rest.judged, rest.reached, answers);
        Some(ApplyStep::More)
    }
}
