//! Quiet: a partition in which nothing happens costs nothing.
//!
//! When nothing was asked for a while, or ever, and everybody who gets the log holds all of it, durably, the leader asks them to go
//! quiet: its heartbeats and their election timers stop. It goes quiet itself when every one of them has said that it
//! has when it was asked last, and nothing was sent to it since, which would have woken it. From there on it is their shards that
//! are heard, not their leader, so that:
//!
//! - whoever hears nothing of the other shard any more, or that it was started anew, wakes ([`Replica::wake`]);
//! - shards compare whom they lead quietly with who follows quietly, since a leader may step down without being
//!   started anew: see `shard_core::pairs`;
//! - a quiet leader holds no lease, and asks a majority before it answers a read: that wakes the partition.
//!
//! Whatever else happens wakes it too: a proposal, a change, a message.

use std::sync::Arc;

use clustor_shards::alike::Alike;
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RaftMessage};

use super::configuration::Configuration;
use super::membership::Change;
use super::progress::{Progress, Rest};
use super::replica::{Replica, RoleState, Turn};

/// How quiet a replica is.
#[derive(Debug)]
pub enum Quiet<'a> {
    /// Not at all.
    No,
    /// It leads, and these, who get its log, follow quietly.
    Leads(Followers<'a>),
    /// It follows, and relies on the shard of this leader.
    Follows(PeerId),
}

/// How a shard has filed a replica that is quiet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuietFiled {
    /// It leads this term, and these get its log.
    Led(Term, Arc<[PeerId]>),
    /// It follows this leader in this term.
    Followed(Term, PeerId),
}

/// Those who get a leader's log.
#[derive(Debug)]
pub struct Followers<'a>(&'a [Progress]);

impl Followers<'_> {
    /// Their nodes and shards.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.0.iter().map(Progress::peer)
    }
}

impl Replica {
    /// How quiet it is.
    #[must_use]
    pub fn quiet(&self) -> Quiet<'_> {
        match (&self.role, self.leader) {
            (RoleState::Leader(leading), _) if leading.quiet => {
                Quiet::Leads(Followers(&leading.progress))
            }
            (RoleState::Follower, Some(leader)) if self.quiet => Quiet::Follows(leader),
            _ => Quiet::No,
        }
    }

    /// The other shard is silent, was started anew, or knows nothing of it: a leader beats again, and steps down if no
    /// majority answers; a follower waits for a leader for as long as it draws.
    pub fn wake(&mut self, now: Time) {
        self.wake_leader(now);
        if self.quiet {
            self.quiet = false;
            self.reset_election_timer(now);
            // What it promised before it went quiet holds.
            self.election_due = self.election_due.max(self.shelter_until);
        }
    }

    /// The shard of `leader` says that it leads this partition quietly, and here it is not quiet. Who may campaign wakes the
    /// leader by asking for votes, in its own time; who may not says that something is missing here.
    pub fn miss_leader(&mut self, turn: &mut Turn<'_>, leader: PeerId) {
        let waits = matches!(self.role, RoleState::Follower) && !self.quiet;
        if !waits || self.may_campaign() || self.leader.is_some_and(|known| known != leader) {
            return;
        }
        let answer = RaftBody::AppendRejected {
            prev_index: self.log.last().next(),
            hint_index: self.log.last(),
            hint_term: self.log.last_term(),
        };
        self.send(turn.out, leader, self.term, answer);
    }

    /// Beats again. Nobody was to be heard meanwhile.
    pub(super) fn wake_leader(&mut self, now: Time) {
        if let RoleState::Leader(leading) = &mut self.role
            && leading.quiet
        {
            leading.quiet = false;
            leading.heartbeat_due = now;
            for progress in &mut leading.progress {
                progress.heard = now;
                progress.rest = Rest::Awake;
            }
        }
    }

    /// It is quiet: gives back the memory of what comes anew when it wakes.
    pub fn rest(&mut self, known: &mut Alike<Configuration>) {
        self.membership.rest(known);
        known.share(&mut self.configuration);
        self.log.rest();
        self.refetching.give_back();
        self.founding.give_back();
        self.held.give_back();
        if let RoleState::Leader(leading) = &mut self.role {
            leading.rest();
        }
    }

    /// Whether nothing is under way here or at anybody who gets the log.
    fn is_settled(&self) -> bool {
        let RoleState::Leader(leading) = &self.role else {
            return false;
        };
        let last = self.log.last();
        let here = self.hard_state_durable
            && self.committed == last
            && self.durable.index() == last
            && self.log.missing_count() == 0
            && !self.modes.is_changing()
            && !self.sync_followers
            && self.change_under_way() == Change::None
            && self.configuration.contains(self.me);
        let asked = leading.transfer.is_some() || !leading.reads.is_empty();
        here && !asked && leading.progress.iter().all(|p| p.is_settled(last))
    }

    /// Before a leader does its part of a turn: something to do wakes it.
    pub(super) fn wake_for_work(&mut self, now: Time) {
        let off = self.timers.quiet_after_ms == 0;
        if off || !self.is_settled() {
            self.wake_leader(now);
        }
        let (last, committed) = (self.log.last(), self.committed);
        if let RoleState::Leader(leading) = &mut self.role {
            // The empty entry of a term is nobody's wish: whom nobody asks for anything is quiet as soon as it can.
            let writes = committed < last && last > leading.term_start;
            if writes || !leading.reads.is_empty() || leading.transfer.is_some() {
                leading.busy = Some(now);
            }
        }
    }

    /// After it: asks for quiet with each round of heartbeats when nothing has happened for long enough, and is quiet when
    /// everybody is.
    pub(super) fn finish_quiet(&mut self, turn: &mut Turn<'_>, round_before: u64) {
        let after_ms = u64::from(self.timers.quiet_after_ms);
        let settled = after_ms > 0 && self.is_settled();
        let last = self.log.last();
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let rested = |busy: Time| turn.now >= busy.plus_ms(after_ms);
        if !settled || leading.quiet || !leading.busy.is_none_or(rested) {
            return;
        }
        if leading.round == round_before {
            if leading.progress.iter().all(|p| p.rest == Rest::Quiet) {
                leading.quiet = true;
                leading.heartbeat_due = Time(u64::MAX);
                leading.lease.lose();
            }
            return;
        }
        // While somebody does not answer, nobody is asked: it would
        // have to be said again with every round.
        let silence_ms = u64::from(self.timers.election_ms_max);
        let answers = |p: &Progress| turn.now < p.heard.plus_ms(silence_ms);
        let all_answer = leading.progress.iter().all(answers);
        if !all_answer {
            return;
        }
        for progress in &mut leading.progress {
            progress.rest = Rest::Asked;
            turn.out.messages.push((
                progress.peer(),
                RaftMessage {
                    partition: self.partition,
                    term: self.term,
                    body: RaftBody::Quiesce {
                        last_index: last,
                        round: leading.round,
                    },
                },
            ));
        }
    }

    /// The leader asks to be quiet. Who does not hold all of its log, durably, does not answer.
    pub(super) fn on_quiesce(
        &mut self,
        turn: &mut Turn<'_>,
        from: PeerId,
        last: LogIndex,
        round: u64,
    ) {
        let follows = matches!(self.role, RoleState::Follower) && self.leader == Some(from);
        let whole = self.log.last() == last
            && self.matched == last
            && self.durable.index() >= last
            && self.log.missing_count() == 0;
        if !follows || !whole || !self.hard_state_durable {
            return;
        }
        self.committed = self.committed.max(last);
        self.quiet = true;
        self.send(
            turn.out,
            from,
            self.term,
            RaftBody::QuiesceAck {
                last_index: last,
                round,
            },
        );
    }

    /// A follower is quiet, unless it was sent anything since it was asked: its answer is of the time before that woke it. A round
    /// is sent to everybody, so what was asked in the latest one is what was asked last.
    pub(super) fn on_quiesce_ack(
        &mut self,
        turn: &Turn<'_>,
        from: PeerId,
        last: LogIndex,
        round: u64,
    ) {
        let is_latest = matches!(&self.role, RoleState::Leader(leading) if leading.round == round)
            && last == self.log.last();
        if let Some(progress) = self.follower(turn, from)
            && is_latest
            && progress.rest == Rest::Asked
        {
            progress.rest = Rest::Quiet;
        }
    }
}
