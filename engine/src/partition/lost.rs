//! An entry whose content is lost here: applying stops before it.
//!
//! The content is asked for, and mostly comes at once. Where nobody sends it, because those who had it have given it up, a leader
//! serves nobody, although others may: it hands leadership over to one that goes on, if there is one, when the question has had
//! [`LOST_PATIENCE_MS`], and again every [`UNREAD_HAND_OVER_MS`] for as long as it leads.

use clustor_shards::turn::Time;

use super::Partition;
use super::unread::UNREAD_HAND_OVER_MS;

/// How long a leader waits for an entry that it has to apply before it hands over, in milliseconds: as long as its first question
/// waits for an answer.
pub const LOST_PATIENCE_MS: u64 = 1_000;

/// Applying has come to an entry that can't be had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    /// What is wrong.
    pub(super) text: &'static str,
    /// A leader hands over from here on.
    hand_over_at: Time,
}

impl Partition {
    /// Applying stops, and this is why.
    pub(crate) fn stop_before_lost(&mut self, now: Time, text: &'static str) {
        let before = self.busy.stuck.map(|lost| lost.hand_over_at);
        let mut hand_over_at = before.unwrap_or_else(|| now.plus_ms(LOST_PATIENCE_MS));
        if self.replica.is_leader() && hand_over_at <= now {
            self.hand_over = true;
            hand_over_at = now.plus_ms(UNREAD_HAND_OVER_MS);
        }
        self.busy.stuck = Some(Lost { text, hand_over_at });
    }

    /// When leadership is to be handed over because of content that is lost.
    pub(super) fn lost_deadline(&self) -> Option<Time> {
        let lost = self.busy.stuck.filter(|_| self.replica.is_leader())?;
        Some(lost.hand_over_at)
    }
}
