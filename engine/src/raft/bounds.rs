//! The bounds that elections of a partition go by: its leader's, for all of its replicas.
//!
//! Each node has its own, from its profile, and a reload turns them on one node after another. If every replica went by its
//! own, a leader that beats more slowly than a follower waits would be deposed again and again. So a leader states its bounds
//! with its heartbeats, and who hears them obeys them, until another leader states others: how long it waits for the leader,
//! how long it heeds no candidate, what it takes for late. A replica that has heard no leader since it was made goes by its own,
//! and so does one that is reloaded while it knows none.
//!
//! A follower that has not heard of new bounds may wait for less time than they leave between heartbeats. So a leader whose
//! heartbeats are further apart than those before - it was elected, or reloaded - keeps to the former distance until a majority
//! has answered a round under the new bounds: those elect nobody else, for as long as they ask for.
//!
//! Leases rely on it that whoever answered a round of heartbeats elects nobody else for the least election timeout that was
//! stated with it (`lease`). A leader that is reloaded loses its lease, and earns the next by a round under its new bounds.

use clustor_shards::turn::Time;
use clustor_wire::message::ElectionBounds;

use super::replica::{Replica, RoleState};
use super::settings::Timers;

/// The longest election timeout that a leader may state, in milliseconds: the most that a profile may set.
pub const ELECTION_MS_MAX: u32 = 20_000;

/// What differs from the own timers; most replicas have nothing of it.
#[derive(Debug)]
pub(super) enum Apart {
    /// The leader states these.
    Stated(ElectionBounds),
    /// It leads, and beats as often as others may wait for, up to this round, the first under its own bounds.
    Hurried { round: u64, heartbeat_ms: u32 },
}

/// Whether a leader may state them: all others are heeded as if it had stated none.
pub(super) const fn is_possible(bounds: &ElectionBounds) -> bool {
    0 < bounds.heartbeat_ms
        && bounds.heartbeat_ms < bounds.election_ms_min
        && bounds.election_ms_min <= bounds.election_ms_max
        && bounds.election_ms_max <= ELECTION_MS_MAX
}

impl Timers {
    /// What a leader under these timers states.
    #[must_use]
    pub const fn bounds(&self) -> ElectionBounds {
        ElectionBounds {
            election_ms_min: self.election_ms_min,
            election_ms_max: self.election_ms_max,
            heartbeat_ms: self.heartbeat_ms,
        }
    }
}

impl Replica {
    /// The bounds that it goes by.
    #[must_use]
    pub fn bounds(&self) -> ElectionBounds {
        match self.apart.as_deref() {
            Some(Apart::Stated(bounds)) => *bounds,
            _ => self.timers.bounds(),
        }
    }

    fn go_by(&mut self, bounds: ElectionBounds) {
        let differs = bounds != self.timers.bounds();
        self.apart = differs.then(|| Box::new(Apart::Stated(bounds)));
    }

    /// The leader states its bounds.
    pub(super) fn obey(&mut self, stated: Option<ElectionBounds>) {
        if let Some(bounds) = stated.filter(is_possible)
            && bounds != self.bounds()
        {
            self.go_by(bounds);
        }
    }

    /// It leads, by its own bounds: heartbeats that were `before_ms` apart until now, in milliseconds, stay so until a majority
    /// has answered the next round.
    pub(super) fn hurry(&mut self, before_ms: u32) {
        let RoleState::Leader(leading) = &self.role else {
            return;
        };
        let heartbeat_ms = match self.apart.as_deref() {
            Some(Apart::Hurried { heartbeat_ms, .. }) => before_ms.min(*heartbeat_ms),
            _ => before_ms,
        };
        let round = leading.round + 1;
        self.apart = (heartbeat_ms < self.timers.heartbeat_ms).then(|| {
            Box::new(Apart::Hurried {
                round,
                heartbeat_ms,
            })
        });
    }

    /// The own bounds are others than those by which it went before. Who follows a leader goes on with that leader's. A leader
    /// beats at once; who answered in time by its former bounds did by these.
    pub(super) fn turn_bounds(&mut self, now: Time, before: ElectionBounds) {
        if let RoleState::Leader(leading) = &mut self.role {
            if self.timers.election_ms_max < before.election_ms_max {
                for progress in &mut leading.progress {
                    if now < progress.heard.plus_ms(u64::from(before.election_ms_max)) {
                        progress.heard = now;
                    }
                }
            }
            if !leading.quiet {
                leading.heartbeat_due = now;
            }
            self.hurry(before.heartbeat_ms);
        } else if self.leader.is_some() {
            self.go_by(before);
        } else {
            self.apart = None;
        }
        let least_ms = self.bounds().election_ms_max;
        self.window_ms = self.window_ms.clamp(least_ms, self.window_ms_max());
    }

    /// No election waits longer than drawn from a window of this, in milliseconds.
    pub(super) fn window_ms_max(&self) -> u32 {
        let backoff_ms = self.timers.election_backoff_ms_max;
        backoff_ms.max(self.bounds().election_ms_max)
    }

    /// How far a leader's heartbeats are apart at this moment, in milliseconds.
    pub(super) fn beat_ms(&mut self) -> u32 {
        if let Some(Apart::Hurried {
            round,
            heartbeat_ms,
        }) = self.apart.as_deref()
        {
            if self.confirmed_round() < *round {
                return *heartbeat_ms;
            }
            self.apart = None;
        }
        self.timers.heartbeat_ms
    }
}
