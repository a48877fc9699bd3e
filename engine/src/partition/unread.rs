//! An entry that a newer build wrote, and this one can't read: applying stops before it.
//!
//! What it does to the partition is not known here, so nothing behind it is applied, by this build. The replica goes on
//! storing and acknowledging; it is not read again, appends and reads that rely on what is behind it are refused, and a leader
//! hands leadership over to one that goes on, if there is one, again every [`UNREAD_HAND_OVER_MS`] for as long as it leads.

use clustor_shards::turn::Time;
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{Refusal, RefusalClause};

use super::{Answer, Partition, refusal};
use crate::raft::Transition;
use crate::raft::entry::{EntryBody, EntryKind, KeysMax, SystemKind};
use crate::request::Wait;

/// From one attempt to hand leadership over, because of an entry that can't be read, to the next, in milliseconds.
pub const UNREAD_HAND_OVER_MS: u64 = 5_000;

/// Before which entry applying stops.
pub(super) struct Unread {
    index: LogIndex,
    /// What is wrong, and what to do.
    text: String,
    /// A leader hands over from here on.
    hand_over_at: Option<Time>,
}

/// What an entry of the engine's own changes.
pub(super) enum Order {
    None,
    Mode(Transition),
    KeysMax(KeysMax),
}

/// What an entry says, all of it.
///
/// # Errors
/// What of it this build does not know.
pub(super) fn read(body: &[u8]) -> Result<(EntryBody<'_>, Order), String> {
    let body = EntryBody::decode(body).map_err(|error| error.to_string())?;
    let unknown = |kind: SystemKind| {
        let version = body.payload.first().copied().unwrap_or(0);
        format!("{kind:?} of version {version}, as it stands there, is not known to this build")
    };
    let order = match body.kind {
        EntryKind::System(kind @ SystemKind::DurabilityTransition) => {
            Order::Mode(Transition::decode(body.payload).ok_or_else(|| unknown(kind))?)
        }
        EntryKind::System(kind @ SystemKind::KeysMax) => {
            Order::KeysMax(KeysMax::decode(body.payload).ok_or_else(|| unknown(kind))?)
        }
        // It says all by being there.
        EntryKind::System(kind @ SystemKind::TimersDue) if !body.payload.is_empty() => {
            return Err(unknown(kind));
        }
        _ => Order::None,
    };
    Ok((body, order))
}

impl Partition {
    /// Applying stops before the entry at `index`, and this is why.
    pub(super) fn stop_before(&mut self, now: Time, index: LogIndex, why: &str) {
        let text =
            format!("entry {index} was written by a newer build; start one that reads it: {why}");
        tracing::error!(partition = %self.id, "{text}");
        self.busy.unread = Some(Box::new(Unread {
            index,
            text,
            hand_over_at: Some(now),
        }));
    }

    /// The entry that applying has come to and can't go past, if it is one.
    fn unread(&self) -> Option<&Unread> {
        let unread = self.busy.unread.as_deref();
        unread.filter(|unread| unread.index == self.applied.next())
    }

    /// Why nothing more can be applied, if nothing can.
    pub(super) fn stuck(&self) -> Option<&str> {
        let unread = self.unread().map(|unread| unread.text.as_str());
        unread.or(self.busy.stuck.map(|lost| lost.text))
    }

    /// The refusal while nothing more can be applied.
    pub(super) fn stuck_refusal(&self, stuck: &str) -> Refusal {
        refusal(
            RefusalClause::MissingContent,
            format!("partition {}: {stuck}", self.id),
            1000,
        )
    }

    /// When leadership is to be handed over because of an entry that can't be read.
    pub(super) fn unread_deadline(&self) -> Option<Time> {
        let unread = self.unread().filter(|_| self.replica.is_leader())?;
        unread.hand_over_at
    }

    /// Whether applying has come to an entry that can't be read. Who waits for it, or for what is behind it, learns that
    /// nobody here knows.
    pub(super) fn is_before_unread(&mut self, now: Time, answers: &mut Vec<Answer>) -> bool {
        if self.unread().is_none() {
            return false;
        }
        if self.unread_deadline().is_some_and(|at| at <= now) {
            self.hand_over = true;
            if let Some(unread) = &mut self.busy.unread {
                unread.hand_over_at = Some(now.plus_ms(UNREAD_HAND_OVER_MS));
            }
        }
        let why = "an entry before the append, or the append itself, can't be read by this build";
        self.give_up_those(why, |append| append.wait == Wait::Applied, answers);
        true
    }
}
