//! Pre-votes, votes, and who may be disturbed by them.
//!
//! A candidate first asks whether it would win (pre-vote), which changes nobody's term. Then its own term and vote
//! become durable, and only then do its requests leave: [`Replica::send`] holds them. A replica that hears a live
//! leader answers neither (stickiness), nor does one that restarted less than a minimum election timeout ago: it may
//! have forgotten that it heard one. A request with the transfer flag passes stickiness, not the silence.
//!
//! A voter that was removed may not know it: it was down or cut off when it was, or has lost with its memory how far the log
//! was committed. So whoever knows a committed configuration without it says so when it asks, and where that stands. It asks
//! no more until its log has a newer one. Who asks may also be a member of a configuration that is not known here yet: it is the
//! one to tell which is newer, and where its log goes further than the one here, it gets the vote besides.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RaftMessage};

use super::membership::Change;
use super::output::Leadership;
use super::quorum::{self, Ballot};
use super::replica::{Replica, RoleState, Turn, Votes};

/// Late heartbeats in a row that tell of a slow path to the leader.
const LATE_HEARTBEATS: u8 = 3;

/// How a shard has filed a replica that wants to be elected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CampaignFiled {
    /// It wants nothing.
    #[default]
    No,
    /// It waits for its turn.
    Waits,
    /// It is under way.
    UnderWay,
}

impl Replica {
    /// Whether a message is looked at, after its term was: a greater one is taken over (or, by stickiness, not), the
    /// sender of a lesser one is told.
    pub(super) fn admits(
        &mut self,
        turn: &mut Turn<'_>,
        from: PeerId,
        message: &RaftMessage,
    ) -> bool {
        let heeded = match message.body {
            RaftBody::PreVote { .. } | RaftBody::Vote { .. } => self.heeds_questions_of(from),
            // Who alone decides from here on may be handed over to by the leader that is not that far yet.
            RaftBody::TimeoutNow => {
                let leads = self.leader == Some(from) && message.term == self.term;
                self.heeds_questions_of(from) || (leads && self.speaks_with(from))
            }
            RaftBody::Append { .. } | RaftBody::Quiesce { .. } => {
                self.heeds_questions_of(from) && !self.is_impostor(from, message.term)
            }
            RaftBody::Refetch { .. } => self.speaks_with(from),
            // Of no term, and taken before.
            RaftBody::Founding { .. } => false,
            RaftBody::PreVoteResponse { .. }
            | RaftBody::VoteResponse { .. }
            | RaftBody::AppendAccepted { .. }
            | RaftBody::AppendRejected { .. }
            | RaftBody::DurabilityAck { .. }
            | RaftBody::QuiesceAck { .. }
            | RaftBody::NotMember { .. }
            | RaftBody::Refetched { .. } => self.heeds_answers_of(from, message.term),
        };
        if !heeded {
            return false;
        }
        match message.body {
            // Judged by themselves: a pre-vote changes nobody's term.
            RaftBody::PreVote { .. } | RaftBody::NotMember { .. } => return true,
            RaftBody::PreVoteResponse { granted, .. } if granted || message.term <= self.term => {
                return true;
            }
            RaftBody::Vote { transfer, .. }
                if (message.term, self.leader.is_none()) >= (self.term, true)
                    && self.is_sheltered(turn.now, transfer) =>
            {
                return false;
            }
            _ => {}
        }
        if message.term > self.term {
            let leader = matches!(message.body, RaftBody::Append { .. }).then_some(from);
            self.become_follower(turn, message.term, leader);
        }
        if message.term < self.term {
            self.refuse_stale(turn, from, &message.body);
            return false;
        }
        true
    }

    fn speaks_with(&self, from: PeerId) -> bool {
        !matches!(self.role, RoleState::Quarantined) && from != self.me
    }

    /// Whether what a leader or a candidate says is looked at. It may be one of a configuration that is not known here
    /// yet, and it counts its own votes; but where this replica alone decides, nobody else leads or is elected.
    pub(super) fn heeds_questions_of(&self, from: PeerId) -> bool {
        self.speaks_with(from) && !self.decides_alone()
    }

    /// Whether `from`, which no configuration here knows, claims to lead a term that somebody else leads.
    pub(super) fn is_impostor(&self, from: PeerId, term: Term) -> bool {
        let led = self.leader.is_some_and(|leader| leader != from);
        term == self.term && led && !self.membership.knows(from)
    }

    /// Whether an answer is looked at: from those who are asked. One who is no member any more disturbs nobody by it, though it is
    /// being told so: whatever term it has come to is its own.
    pub(super) fn heeds_answers_of(&self, from: PeerId, term: Term) -> bool {
        let asked = match &self.role {
            RoleState::Leader(leading) => leading
                .of(from)
                .is_some_and(|progress| !progress.left || term <= self.term),
            _ => self.leader == Some(from),
        };
        self.speaks_with(from) && (asked || self.configuration.contains(from))
    }

    /// Tells the sender of an older term's request that there is a newer term.
    fn refuse_stale(&mut self, turn: &mut Turn<'_>, from: PeerId, body: &RaftBody) {
        let answer = match body {
            RaftBody::Vote { .. } => RaftBody::VoteResponse { granted: false },
            RaftBody::Append { prev_index, .. } => RaftBody::AppendRejected {
                prev_index: *prev_index,
                hint_index: self.log.last(),
                hint_term: self.log.last_term(),
            },
            _ => return,
        };
        self.send(turn.out, from, self.term, answer);
    }

    /// Whether requests for votes are ignored: a live leader is heard, or the replica restarted just now.
    fn is_sheltered(&self, now: Time, transfer: bool) -> bool {
        if now < self.silent_until {
            return true;
        }
        !transfer && (self.is_leader() || self.quiet || now < self.shelter_until)
    }

    /// Whether a candidate's log is at least as recent as this one.
    fn is_up_to_date(&self, last_index: LogIndex, last_term: Term) -> bool {
        (last_term, last_index) >= (self.log.last_term(), self.log.last())
    }

    pub(super) fn on_pre_vote(
        &mut self,
        turn: &mut Turn<'_>,
        from: PeerId,
        term: Term,
        last_index: LogIndex,
        last_term: Term,
    ) {
        let excluded = self.excludes(from);
        if excluded {
            let (stated_term, stated_index) = self.membership.newest_place();
            let told = RaftBody::NotMember {
                stated_term,
                stated_index,
            };
            self.send(turn.out, from, self.term, told);
        }
        if self.is_sheltered(turn.now, false) || self.is_estranged() {
            return;
        }
        // The same log names the same members.
        let knows_more = (last_term, last_index) > (self.log.last_term(), self.log.last());
        let granted = term > self.term
            && self.is_up_to_date(last_index, last_term)
            && (knows_more || !excluded);
        // A yes names the term that was asked about, a no tells the own one.
        let answer_term = if granted { term } else { self.term };
        let high_rtt = self.late_heartbeats >= LATE_HEARTBEATS;
        self.send(
            turn.out,
            from,
            answer_term,
            RaftBody::PreVoteResponse { granted, high_rtt },
        );
    }

    pub(super) fn on_pre_vote_response(
        &mut self,
        turn: &mut Turn<'_>,
        from: PeerId,
        term: Term,
        granted: bool,
        high_rtt: bool,
    ) {
        let asked = self.term.next();
        let RoleState::PreCandidate(votes) = &mut self.role else {
            return;
        };
        if granted && term != asked {
            return;
        }
        votes.take(from, granted);
        if high_rtt {
            self.widen_for_slow_path(asked);
        }
        match self.count_votes() {
            Ballot::Won => self.campaign(turn, false),
            Ballot::Lost => self.lose_election(),
            Ballot::Open => {}
        }
    }

    pub(super) fn on_vote(
        &mut self,
        turn: &mut Turn<'_>,
        from: PeerId,
        last_index: LogIndex,
        last_term: Term,
    ) {
        if turn.now < self.silent_until || self.is_estranged() {
            return;
        }
        let free = self.vote.is_none() || self.vote == Some(from.node);
        let granted = free && self.leader.is_none() && self.is_up_to_date(last_index, last_term);
        if granted {
            self.role = RoleState::Follower;
            self.set_hard_state(turn.out, self.term, Some(from.node));
            self.reset_election_timer(turn.now);
        }
        self.send(
            turn.out,
            from,
            self.term,
            RaftBody::VoteResponse { granted },
        );
    }

    pub(super) fn on_vote_response(&mut self, turn: &mut Turn<'_>, from: PeerId, granted: bool) {
        if !granted {
            self.on_declined(turn, from);
        }
        let RoleState::Candidate(votes) = &mut self.role else {
            return;
        };
        votes.take(from, granted);
        self.decide_candidacy(turn);
    }

    /// The own vote counts once it is durable.
    pub(super) fn count_own_vote(&mut self, turn: &mut Turn<'_>) {
        let me = self.me;
        let RoleState::Candidate(votes) = &mut self.role else {
            return;
        };
        votes.take(me, true);
        self.decide_candidacy(turn);
    }

    fn decide_candidacy(&mut self, turn: &mut Turn<'_>) {
        match self.count_votes() {
            Ballot::Won => self.become_leader(turn),
            Ballot::Lost => self.lose_election(),
            Ballot::Open => {}
        }
    }

    /// Waits for the next timeout, a longer one.
    fn lose_election(&mut self) {
        self.role = RoleState::Follower;
        self.widen_window();
    }

    fn count_votes(&self) -> Ballot {
        match &self.role {
            RoleState::PreCandidate(votes) | RoleState::Candidate(votes) => {
                quorum::count(&self.configuration, |voter| votes.of(voter))
            }
            _ => Ballot::Open,
        }
    }

    /// Whether `peer` is no member by what is committed here, and nothing about members stands behind that.
    pub(super) fn excludes(&self, peer: PeerId) -> bool {
        let (_, index) = self.membership.newest_place();
        let stated = LogIndex::ZERO < index && index <= self.committed;
        stated
            && self.change_under_way() == Change::None
            && self.configuration.standing(peer).is_none()
    }

    /// A configuration without this replica is committed.
    pub(super) fn on_not_member(&mut self, turn: &mut Turn<'_>, stated: (Term, LogIndex)) {
        self.membership.excluded(stated);
        if self.is_campaigning() && !self.may_campaign() {
            self.become_follower(turn, self.term, None);
        }
    }

    pub(super) fn may_campaign(&self) -> bool {
        !self.is_estranged()
            && !self.membership.is_excluded()
            && (self.configuration.contains(self.me)
                || self.membership.may_campaign(self.me, self.committed))
    }

    /// Whether it is after votes.
    #[must_use]
    pub fn is_campaigning(&self) -> bool {
        matches!(
            self.role,
            RoleState::PreCandidate(_) | RoleState::Candidate(_)
        )
    }

    /// Whether its next [`Self::tick`] asks others for votes.
    #[must_use]
    pub fn would_campaign(&self, now: Time) -> bool {
        let follows = matches!(self.role, RoleState::Follower) || self.is_campaigning();
        let asks = follows && !self.quiet && self.hard_state_durable;
        asks && now >= self.election_due && self.may_campaign() && !self.decides_alone()
    }

    /// Nobody was heard in time.
    pub(super) fn on_election_timeout(&mut self, turn: &mut Turn<'_>) {
        if !self.may_campaign() {
            // Who votes no more may never be told who leads: it says that it does not know.
            if self.leader.take().is_some() {
                self.announce(turn.out, Leadership::Follower { leader: None });
            }
            return;
        }
        if !self.hard_state_durable {
            // Whatever would be said now would be held back: the disk is what is waited for, not the peers.
            self.reset_election_timer(turn.now);
            return;
        }
        if self.leader.take().is_some() {
            self.announce(turn.out, Leadership::Follower { leader: None });
        }
        if self.is_campaigning() {
            self.widen_window();
        }
        self.reset_election_timer(turn.now);
        if self.decides_alone() {
            self.campaign(turn, false);
            return;
        }
        let mut votes = Votes::default();
        votes.take(self.me, true);
        self.role = RoleState::PreCandidate(votes);
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        self.ask_all(
            turn,
            self.term.next(),
            &RaftBody::PreVote {
                last_index,
                last_term,
            },
        );
    }

    /// The leader hands over: no pre-vote, and the flag that passes stickiness. Who could not serve declines: two of them would
    /// hand over to each other for ever.
    pub(super) fn on_timeout_now(&mut self, turn: &mut Turn<'_>, from: PeerId) {
        let follows = matches!(self.role, RoleState::Follower) && self.leader == Some(from);
        if !follows || !self.configuration.contains(self.me) || self.is_estranged() {
            return;
        }
        if self.could_serve() {
            self.campaign(turn, true);
        } else {
            let declined = RaftBody::VoteResponse { granted: false };
            self.send(turn.out, from, self.term, declined);
        }
    }

    /// A new term, the own vote in it, and, once both are durable, the question to everybody.
    fn campaign(&mut self, turn: &mut Turn<'_>, transfer: bool) {
        self.leader = None;
        self.role = RoleState::Candidate(Votes::default());
        let vote = Some(self.me.node);
        self.set_hard_state(turn.out, self.term.next(), vote);
        self.reset_election_timer(turn.now);
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        self.ask_all(
            turn,
            self.term,
            &RaftBody::Vote {
                last_index,
                last_term,
                transfer,
            },
        );
    }

    fn ask_all(&mut self, turn: &mut Turn<'_>, term: Term, question: &RaftBody) {
        let others: Vec<PeerId> = self.configuration.others(self.me).collect();
        for peer in others {
            self.send(turn.out, peer, term, question.clone());
        }
    }

    /// A failed election: the next one waits 1.5 times as long.
    fn widen_window(&mut self) {
        let wider = self.window_ms + self.window_ms / 2;
        self.window_ms = wider.min(self.window_ms_max());
    }

    /// Somebody's path to the leader was slow: the election for `term` is given more time, once, however many say so and
    /// however often they are asked. It ends with the next leader that is heard.
    fn widen_for_slow_path(&mut self, term: Term) {
        if self.widened_for < term {
            self.widened_for = term;
            self.widen_window();
        }
    }

    /// A leader of this term was heard: no election for a while.
    pub(super) fn hear_leader(&mut self, now: Time) {
        self.leader_heard = Some(now);
        self.window_ms = self.bounds().election_ms_max;
        self.reset_election_timer(now);
        // A promise to elect nobody else for a while: it holds whatever becomes of the term and the bounds meanwhile.
        let promise_ms = u64::from(self.bounds().election_ms_min);
        self.shelter_until = self.shelter_until.max(now.plus_ms(promise_ms));
        self.election_due = self.election_due.max(self.shelter_until);
    }

    /// Judges by a heartbeat's lateness how slow the path to the leader is. One that comes on the heels of another tells
    /// nothing: a slow path brings several at once, and reads ask for more than time does.
    pub(super) fn judge_lateness(&mut self, now: Time) {
        let heels = u64::from(self.bounds().heartbeat_ms / 2);
        if self.beat_judged.is_some_and(|at| now < at.plus_ms(heels)) {
            return;
        }
        let due = u64::from(self.bounds().heartbeat_ms + self.timers.high_rtt_ms);
        let last = self.beat_judged.replace(now);
        self.late_heartbeats = if last.is_some_and(|at| now > at.plus_ms(due)) {
            self.late_heartbeats.saturating_add(1)
        } else {
            0
        };
    }
}
