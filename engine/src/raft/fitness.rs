//! Whether those who are to decide can: who answers and has caught up, who lags, and whether enough of them are left if one
//! more is lost. A leader looks before it enters a joint configuration, while it is in one, and before it leaves it forward.
//! Nothing here is needed for safety: what is committed is decided by quorums of both halves, fit or not.
//!
//! The bounds of every change of voters stand here.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{Incarnation, LogIndex};

use super::change::ChangeError;
use super::configuration::{Note, Standing};
use super::membership::Change;
use super::progress::Progress;
use super::quorum::majority;
use super::replica::{Replica, RoleState, Turn};
use super::replication::Leading;

/// A replica has caught up when it is this many entries behind, at most, or as many as the leader appended within
/// [`LOOK_EVERY_MS`], if those are more.
pub const CATCH_UP_ENTRIES: u64 = 1_024;
/// Or when it is this many bytes of frames behind, at most, unless [`Limits`](super::Limits) say otherwise.
pub const CATCH_UP_BYTES: usize = 4 << 20;
/// Who answers and does not catch up within this many milliseconds is not waited for any longer: a learner is refused its
/// vote by that name, and a joint configuration with it among the new voters is left, back.
pub const CATCH_UP_MS_MAX: u64 = 120_000;
/// A new voter that is more bytes of frames behind than this, unless [`Limits`](super::Limits) say otherwise, lags structurally:
/// the joint configuration is not left forward.
pub const STRUCTURAL_LAG_BYTES: usize = 64 << 20;
/// The same for one that has not caught up for this many milliseconds.
pub const STRUCTURAL_LAG_MS: u64 = 30_000;
/// A joint configuration is left forward once this many entries behind its entrance are committed by both halves. The leader
/// appends empty ones, one after another, where nobody appends others: each is one more round in which majorities of both
/// halves wrote and flushed, while the way back is open yet.
pub const JOINT_COMMITS: u64 = 64;
/// A joint configuration in which nothing is committed, though something waits to be, for this many milliseconds is left,
/// back; so is one whose second half lost its quorum, or could not stand a loss that the first can, for as long.
pub const JOINT_MS_MAX: u64 = 3_000;

/// Who has caught up is looked at this often, in milliseconds.
const LOOK_EVERY_MS: u64 = 50;

/// What a leader saw of those who are to decide.
#[derive(Debug)]
pub(super) struct Fitness {
    due: Time,
    /// The last index when it looked last, and how many entries came between that and the time before.
    last: LogIndex,
    pace: u64,
    /// Since when the second half of a joint configuration is not what it must be.
    unfit_since: Option<Time>,
    /// What was committed when it looked last, and since when.
    committed: LogIndex,
    committed_since: Time,
}

impl Fitness {
    pub(super) const fn new(last: LogIndex, now: Time) -> Self {
        Self {
            due: now,
            last,
            pace: 0,
            unfit_since: None,
            committed: LogIndex::ZERO,
            committed_since: now,
        }
    }

    /// Another change is under way, or none.
    pub(super) const fn begin_anew(&mut self, now: Time) {
        self.due = now;
        self.unfit_since = None;
        self.committed_since = now;
    }
}

/// What is to become of a joint configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays.
    Waits,
    /// It is left forward.
    Forward,
    /// It is left back.
    Back,
}

impl Replica {
    /// Whether a replica has caught up, by what this leader knows, and how many entries it does not hold durably.
    fn behind(&self, turn: &Turn<'_>, leading: &Leading, peer: PeerId) -> (bool, u64) {
        let held = leading.of(peer).map_or(0, |p| p.durable_index().get());
        let behind = self.log.last().get().saturating_sub(held);
        let few = behind <= CATCH_UP_ENTRIES.max(leading.fitness.as_ref().map_or(0, |f| f.pace));
        let small = || self.is_within(turn, LogIndex(held), self.limits.catch_up_bytes_max);
        (few || small(), behind)
    }

    /// Whether the frames behind `held` are `bytes_max` together, at most. What the cache does not hold any more is not.
    fn is_within(&self, turn: &Turn<'_>, held: LogIndex, bytes_max: usize) -> bool {
        let last = self.log.last();
        let bytes = turn.cache.bytes(self.slot, held.next(), last, bytes_max);
        bytes.is_some_and(|bytes| bytes <= bytes_max)
    }

    fn answers(&self, turn: &Turn<'_>, leading: &Leading, peer: PeerId) -> bool {
        let patience = u64::from(self.timers.election_ms_max);
        let heard = leading.of(peer).map(|progress| progress.heard);
        heard.is_some_and(|heard| turn.now < heard.plus_ms(patience))
    }

    fn is_fit(&self, turn: &Turn<'_>, leading: &Leading, peer: PeerId, floor: LogIndex) -> bool {
        let holds = |p: &Progress| p.durable_index() >= floor;
        peer == self.me
            || (self.answers(turn, leading, peer)
                && leading
                    .of(peer)
                    .is_some_and(|p| holds(p) && p.way.behind_since.is_none()))
    }

    /// How many losses a half can stand as its voters are, less than 0 if it has no quorum; and the first who is not fit.
    fn spare(
        &self,
        turn: &Turn<'_>,
        leading: &Leading,
        half: &[PeerId],
        floor: LogIndex,
    ) -> (isize, Option<PeerId>) {
        let unfit = |peer: &&PeerId| !self.is_fit(turn, leading, **peer, floor);
        let count = half.iter().filter(unfit).count();
        let spare = half.len() - count;
        let spare = spare as isize - majority(half.len()) as isize;
        (spare, half.iter().find(unfit).copied())
    }

    /// Whether voters can take over from others: those of them who answer, have caught up and hold everything up to `floor`
    /// are a quorum, and one even without any one of them where their number allows for that and the others could stand it
    /// too.
    ///
    /// # Errors
    /// [`ChangeError::WouldNotSurvive`].
    pub(super) fn must_survive(
        &self,
        turn: &Turn<'_>,
        first: &[PeerId],
        second: &[PeerId],
        floor: LogIndex,
    ) -> Result<(), ChangeError> {
        let RoleState::Leader(leading) = &self.role else {
            return Ok(());
        };
        let on_paper = (second.len() - majority(second.len())) as isize;
        let (before, _) = self.spare(turn, leading, first, floor);
        let (after, unfit) = self.spare(turn, leading, second, floor);
        match unfit {
            Some(unfit) if after < on_paper.min(before).clamp(0, 1) => {
                Err(ChangeError::WouldNotSurvive {
                    voters: second.len(),
                    spare: after,
                    unfit,
                })
            }
            _ => Ok(()),
        }
    }

    /// Whether a learner may vote.
    ///
    /// # Errors
    /// [`ChangeError::Lags`], or [`ChangeError::NeverCatchesUp`].
    pub(super) fn must_have_caught_up(
        &self,
        turn: &Turn<'_>,
        peer: PeerId,
    ) -> Result<(), ChangeError> {
        let RoleState::Leader(leading) = &self.role else {
            return Err(ChangeError::NotLeader { leader: None });
        };
        let (caught_up, behind) = self.behind(turn, leading, peer);
        // Who was never heard has no name under which it could vote.
        let unknown = self.incarnation != Incarnation::ZERO && !turn.heard.contains_key(&peer);
        if unknown || !self.answers(turn, leading, peer) {
            return Err(ChangeError::Lags { peer, behind });
        }
        // What a leader knows of a follower begins as heard just now: only who has acknowledged something was.
        let acknowledged = leading
            .of(peer)
            .is_some_and(|p| p.durable_index() > LogIndex::ZERO);
        if caught_up && acknowledged {
            return Ok(());
        }
        let since = leading
            .of(peer)
            .and_then(|progress| progress.way.slow_since);
        let late = |since: Time| turn.now >= since.plus_ms(CATCH_UP_MS_MAX);
        if since.is_some_and(late) {
            return Err(ChangeError::NeverCatchesUp { peer, behind });
        }
        Err(ChangeError::Lags { peer, behind })
    }

    /// Looks who has caught up, if it is time and a learner or two halves are there to be looked at.
    pub(super) fn look_at_fitness(&mut self, turn: &Turn<'_>) {
        let configuration = &self.configuration;
        let is_learner = |note: &Note| note.standing == Standing::Learner;
        let RoleState::Leader(leading) = &self.role else {
            return;
        };
        let concerned = configuration.is_joint() || configuration.notes().iter().any(is_learner);
        let due = leading.fitness.as_ref().map(|fitness| fitness.due);
        if concerned && due.is_none_or(|due| turn.now >= due) {
            self.look(turn);
        }
    }

    /// Looks who has caught up.
    pub(super) fn look(&mut self, turn: &Turn<'_>) {
        let RoleState::Leader(leading) = &self.role else {
            return;
        };
        let seen: Vec<(bool, bool, bool)> = leading
            .progress
            .iter()
            .map(|progress| {
                let peer = progress.peer();
                let caught_up = self.behind(turn, leading, peer).0;
                let held = progress.durable_index();
                let bytes_max = self.limits.structural_lag_bytes_max;
                let far = !caught_up && !self.is_within(turn, held, bytes_max);
                (self.answers(turn, leading, peer), caught_up, far)
            })
            .collect();
        let (last, committed) = (self.log.last(), self.committed);
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        for (progress, (answers, caught_up, far)) in leading.progress.iter_mut().zip(seen) {
            progress.seen(answers, caught_up, far, turn.now);
        }
        let survives = self.survives(turn);
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let fitness = leading
            .fitness
            .get_or_insert_with(|| Box::new(Fitness::new(last, turn.now)));
        fitness.due = turn.now.plus_ms(LOOK_EVERY_MS);
        fitness.pace = last.get().saturating_sub(fitness.last.get());
        fitness.last = last;
        fitness.unfit_since = match fitness.unfit_since {
            _ if survives => None,
            None => Some(turn.now),
            since => since,
        };
        if committed > fitness.committed || committed == last {
            fitness.committed = committed;
            fitness.committed_since = turn.now;
        }
    }

    /// Whether the second half of a joint configuration could take over. Once enough is committed in it, those who count have
    /// that much: majorities that commit may leave out the one whose loss they should stand.
    fn survives(&self, turn: &Turn<'_>) -> bool {
        let joint = &self.configuration;
        let Change::Joint { entered, .. } = self.membership.change(self.committed) else {
            return true;
        };
        let enough = LogIndex(entered.get() + JOINT_COMMITS);
        let floor = if self.committed < enough {
            LogIndex::ZERO
        } else {
            enough
        };
        self.must_survive(turn, joint.first(), joint.second(), floor)
            .is_ok()
    }

    /// What is to become of the joint configuration in force, in which `enough` was committed or not.
    pub(super) fn judge_joint(&self, turn: &Turn<'_>, enough: bool) -> Verdict {
        let RoleState::Leader(leading) = &self.role else {
            return Verdict::Waits;
        };
        let joint = &self.configuration;
        let since = |since: Option<Time>, ms| since.is_some_and(|at| turn.now >= at.plus_ms(ms));
        let fitness = leading.fitness.as_ref();
        let committed_since = fitness.map(|fitness| fitness.committed_since);
        let unfit_since = fitness.and_then(|fitness| fitness.unfit_since);
        let is_new = |peer: &&PeerId| !joint.first().contains(peer);
        let new = || {
            let new = joint.second().iter().filter(is_new);
            new.filter_map(|peer| leading.of(*peer))
        };
        let stuck = self.committed < self.log.last() && since(committed_since, JOINT_MS_MAX);
        if stuck
            || since(unfit_since, JOINT_MS_MAX)
            || new().any(|p| since(p.way.behind_since, CATCH_UP_MS_MAX))
        {
            return Verdict::Back;
        }
        let lags = |p: &Progress| p.way.is_far || since(p.way.behind_since, STRUCTURAL_LAG_MS);
        if enough && !new().any(lags) && self.survives(turn) {
            return Verdict::Forward;
        }
        Verdict::Waits
    }
}
