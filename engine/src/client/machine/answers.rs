//! What an answer, a refusal or a loss does to a question.

use clustor_shards::turn::PeerId;
use clustor_wire::ids::LogIndex;
use clustor_wire::message::{
    ClientResponseBody, MembersVerb, PartitionMembers, ReadLevel, Refusal, RefusalClause, Role,
};

use super::super::link::InFlight;
use super::super::pending::{MembersError, ReadAnswer};
use super::super::question::{Answer, Keying, Question};
use super::super::timers::Timer;
use super::asked::Place;
use super::{Effect, Machine};
use crate::outcome::Outcome;
use crate::partition::refusal;

/// Leaders' names that a question follows without a pause: two replicas may each name the other.
const HINTS_FOLLOWED_MAX: u32 = 3;
/// Sendings of one question that may be unanswered at once.
const OPEN_MAX: u32 = 4;

/// What an answer means for its question.
enum Meaning {
    Answered(Answer),
    Refused(Refusal),
    Doubtful(String),
    /// Who belongs to the partition, as one knows that knows of no leader.
    View(PartitionMembers),
    /// It answers something else.
    Nonsense,
}

fn meaning(question: &Question, body: ClientResponseBody) -> Meaning {
    match (question, body) {
        (
            Question::Append { partition, .. } | Question::Mode { partition, .. },
            ClientResponseBody::Applied {
                partition: of,
                term,
                index,
                reply,
                duplicate,
            },
        ) if *partition == of => Meaning::Answered(Answer::Append(Outcome::Applied {
            term,
            index,
            reply,
            duplicate,
        })),
        (
            Question::Append { .. } | Question::Mode { .. },
            ClientResponseBody::Unknown { why, .. },
        ) => Meaning::Doubtful(why),
        (
            Question::Read { partition, .. },
            ClientResponseBody::Read {
                partition: of,
                level,
                term,
                index,
                reply,
            },
        ) if *partition == of => Meaning::Answered(Answer::Read(Ok(ReadAnswer {
            level,
            term,
            index,
            reply,
        }))),
        (Question::Status { at, .. }, ClientResponseBody::Status(status))
            if status.node == at.node && status.shard == at.shard =>
        {
            Meaning::Answered(Answer::Status(Ok(status)))
        }
        (Question::Reload { at }, ClientResponseBody::Reload(reload)) if reload.node == at.node => {
            Meaning::Answered(Answer::Reload(Ok(reload)))
        }
        (
            Question::Members {
                partition,
                verb: MembersVerb::Show,
                ..
            },
            ClientResponseBody::Members(members),
        ) if *partition == members.partition && members.role != Role::Leader => {
            Meaning::View(members)
        }
        (Question::Members { partition, .. }, ClientResponseBody::Members(members))
            if *partition == members.partition =>
        {
            Meaning::Answered(Answer::Members(Ok(members)))
        }
        (_, ClientResponseBody::NotExecuted(refused)) => Meaning::Refused(refused),
        _ => Meaning::Nonsense,
    }
}

impl Machine {
    /// An answer to the attempt `id`. Returns whether it made sense.
    pub(super) fn settle(
        &mut self,
        now: u64,
        from: PeerId,
        id: u64,
        request: InFlight,
        body: ClientResponseBody,
    ) -> bool {
        let Some(asked) = self.asked.get_mut(&request.ticket) else {
            return true;
        };
        let ticket = request.ticket;
        let partition = asked.question.partition();
        let meaning = meaning(&asked.question, body);
        asked.open -= u32::from(request.may_execute);
        let current = asked.place == Place::Sent(id);
        match meaning {
            Meaning::Answered(answer) => {
                match (partition, &answer) {
                    // Any replica answers such a read.
                    (Some(partition), Answer::Read(Ok(read))) if read.level == ReadLevel::Local => {
                        self.routes.learn(partition, read.index);
                    }
                    (Some(partition), _) => {
                        self.routes.confirm(partition, from, index_of(&answer));
                    }
                    (None, _) => {}
                }
                self.finish(ticket, answer);
            }
            Meaning::Refused(refused) => self.refused(now, from, ticket, current, refused),
            Meaning::Doubtful(why) => {
                let refused = refusal(RefusalClause::Unavailable, why, 0);
                self.lost(now, from, ticket, current, request.may_execute, refused);
            }
            Meaning::View(view) => {
                let refused = leaderless(&view);
                asked.keep_view(view);
                self.refused(now, from, ticket, current, refused);
            }
            Meaning::Nonsense => {
                let refused = refusal(
                    RefusalClause::Incompatible,
                    format!("node {} answered something else", from.node),
                    0,
                );
                self.lost(now, from, ticket, current, request.may_execute, refused);
                return false;
            }
        }
        true
    }

    /// A sending was not executed. `current`: it is the one that decides what is done next.
    fn refused(&mut self, now: u64, from: PeerId, ticket: u64, current: bool, refused: Refusal) {
        let Some(partition) = self.asked[&ticket].question.partition() else {
            self.refuse_for_good(ticket, refused);
            return;
        };
        let clause = refused.clause;
        let wanted_ms = refused.retry_after_ms;
        let mut at_once =
            clause == RefusalClause::NotLeader && self.redirected(partition, from, &refused);
        let mut again = true;
        let asked = self
            .asked
            .get_mut(&ticket)
            .expect("settled while under way");
        match clause {
            RefusalClause::NotLeader => {
                // There is a leader again: without its answer nothing is certain.
                asked.view = asked.view.take().filter(|_| refused.leader.is_none());
            }
            RefusalClause::NotHere
            | RefusalClause::Stopping
            | RefusalClause::Unavailable
            | RefusalClause::MachineFailed
            | RefusalClause::MissingContent => self.routes.avoid(partition, from),
            RefusalClause::Busy | RefusalClause::ReadGate | RefusalClause::ApplyBudget => {}
            RefusalClause::IndexNeeded => match refused.wal_committed {
                Some(index) if asked.index.is_none() => {
                    self.routes.confirm(partition, from, index);
                    at_once = true;
                }
                // To a sending that had none: it comes late, and says nothing of the one that has.
                Some(_) => {}
                None => again = false,
            },
            RefusalClause::KeyExpired => {
                // Its index was old from the start, and no sending can have executed: a newer one may be fetched.
                again = !asked.may_happen() && !asked.renewed;
                at_once = again;
                if again {
                    asked.renewed = true;
                    asked.index = None;
                    self.routes.forget_committed(partition);
                }
            }
            RefusalClause::TooLarge
            | RefusalClause::DiskFull
            | RefusalClause::Unsupported
            | RefusalClause::ModeConflict
            | RefusalClause::Forbidden
            | RefusalClause::Rejected
            | RefusalClause::TermChanged
            // A node sends none of a client's own.
            | RefusalClause::NotPlaced
            | RefusalClause::TooLong
            | RefusalClause::Unreached
            | RefusalClause::Untrusted
            | RefusalClause::TurnedAway
            | RefusalClause::Unanswered
            | RefusalClause::Incompatible
            | RefusalClause::Closed => again = false,
        }
        if !again {
            self.refuse_for_good(ticket, refused);
            return;
        }
        asked.last = Some(refused);
        if !current {
            self.finish_if_over(ticket);
            return;
        }
        asked.place = Place::Waiting;
        if !asked.may_be_repeated() {
            return;
        }
        if at_once && asked.hints_followed < HINTS_FOLLOWED_MAX {
            asked.hints_followed += 1;
            self.route(now, ticket);
        } else {
            self.pause(now, ticket, wanted_ms);
        }
    }

    /// A sending's answer will not come, or says that nobody knows.
    pub(super) fn lost(
        &mut self,
        now: u64,
        from: PeerId,
        ticket: u64,
        current: bool,
        may_have_executed: bool,
        why: Refusal,
    ) {
        let asked = self
            .asked
            .get_mut(&ticket)
            .expect("settled while under way");
        asked.doubtful |= may_have_executed;
        asked.last = Some(why);
        if let Some(partition) = asked.question.partition() {
            self.routes.avoid(partition, from);
        }
        if !current {
            self.finish_if_over(ticket);
            return;
        }
        asked.place = Place::Waiting;
        if !asked.may_be_repeated() {
            self.finish_if_over(ticket);
            return;
        }
        self.pause(now, ticket, 0);
    }

    /// A sending is unanswered for long on a connection that lives: asks elsewhere as well, if that does no harm.
    pub(super) fn ask_elsewhere(&mut self, now: u64, from: PeerId, ticket: u64, id: u64) {
        let Some(asked) = self.asked.get_mut(&ticket) else {
            return;
        };
        if asked.place != Place::Sent(id) || !asked.may_be_repeated() || asked.open >= OPEN_MAX {
            return;
        }
        asked.place = Place::Waiting;
        if let Some(partition) = asked.question.partition() {
            self.routes.avoid(partition, from);
        }
        self.pause(now, ticket, 0);
    }

    /// It is not sent again. If a sending may still execute, its answer is waited for.
    pub(super) fn refuse_for_good(&mut self, ticket: u64, refused: Refusal) {
        let asked = self
            .asked
            .get_mut(&ticket)
            .expect("refused while under way");
        if let Place::Paused { until } = asked.place {
            self.timers.clear(until, Timer::Again(ticket));
        }
        asked.place = Place::Waiting;
        asked.refused_for_good = true;
        asked.last = Some(refused);
        self.finish_if_over(ticket);
    }

    /// Ends a question that is neither sent again nor has a sending that may still be answered.
    fn finish_if_over(&mut self, ticket: u64) {
        let asked = &self.asked[&ticket];
        let never_again = asked.refused_for_good || !asked.may_be_repeated();
        if never_again && asked.open == 0 && asked.place == Place::Waiting {
            let answer = self.without_answer(ticket, None);
            self.finish(ticket, answer);
        }
    }

    /// A question's time is over.
    pub(super) fn expire(&mut self, ticket: u64, clause: RefusalClause, why: &str) {
        if self.asked.contains_key(&ticket) {
            let answer = self.without_answer(ticket, Some((clause, why)));
            self.finish(ticket, answer);
        }
    }

    /// What is to be said of a question to which nobody gave an answer.
    fn without_answer(&self, ticket: u64, over: Option<(RefusalClause, &str)>) -> Answer {
        let asked = &self.asked[&ticket];
        let last = asked.last.clone();
        let refused = match (over, last) {
            (None, Some(last)) => last,
            (Some((clause, over)), Some(mut last)) => {
                last.message = format!("client: {over}; last: {}", last.message);
                if clause == RefusalClause::Closed || was_followed(last.clause) {
                    last.clause = clause;
                }
                last
            }
            (over, None) => {
                let (clause, over) = over.unwrap_or((RefusalClause::Unanswered, "no answer"));
                refusal(
                    clause,
                    format!("client: {over}, and no node has answered"),
                    0,
                )
            }
        };
        match &asked.question {
            Question::Append {
                keying, partition, ..
            } => Answer::Append(if asked.may_happen() {
                let known = asked.index.or(self.routes.committed(*partition));
                Outcome::Unknown {
                    why: refused.message,
                    clause: asked.refused_for_good.then_some(refused.clause),
                    key: keying.key(),
                    wal_committed: known.unwrap_or(LogIndex::ZERO),
                }
            } else {
                Outcome::NotExecuted { refusal: refused }
            }),
            Question::Mode { partition, .. } => Answer::Append(if asked.may_happen() {
                Outcome::Unknown {
                    why: refused.message,
                    clause: asked.refused_for_good.then_some(refused.clause),
                    key: None,
                    wal_committed: self.routes.committed(*partition).unwrap_or_default(),
                }
            } else {
                Outcome::NotExecuted { refusal: refused }
            }),
            Question::Read { .. } => Answer::Read(Err(refused)),
            Question::Members { .. } => Answer::Members(match &asked.view {
                Some(view) => Ok(view.clone()),
                None => Err(MembersError {
                    refusal: refused,
                    may_have_begun: asked.may_happen(),
                }),
            }),
            Question::Status { .. } => Answer::Status(Err(refused)),
            Question::Reload { .. } => Answer::Reload(Err(refused)),
        }
    }

    /// Gives a question its one answer.
    fn finish(&mut self, ticket: u64, answer: Answer) {
        let asked = self.asked.remove(&ticket).expect("answered once");
        self.timers.clear(asked.deadline, Timer::Deadline(ticket));
        if let Place::Paused { until } = asked.place {
            self.timers.clear(until, Timer::Again(ticket));
        }
        if let Question::Append {
            keying: Keying::New(_) | Keying::Retry(..),
            ..
        } = asked.question
            && let Answer::Append(Outcome::Unknown { .. }) = answer
        {
            debug_assert!(
                asked.index.is_some(),
                "a key without an index executes nothing"
            );
        }
        self.effects.push_back(Effect::Answer { ticket, answer });
    }
}

/// Whether a client does by itself what this refusal asks for: at its deadline, to say so again is no remedy.
const fn was_followed(clause: RefusalClause) -> bool {
    matches!(
        clause,
        RefusalClause::NotLeader | RefusalClause::NotHere | RefusalClause::IndexNeeded
    )
}

/// Who sent this knows of no leader.
fn leaderless(view: &PartitionMembers) -> Refusal {
    let message = format!(
        "partition {}: node {} knows of no leader",
        view.partition, view.node
    );
    refusal(RefusalClause::NotLeader, message, 0)
}

fn index_of(answer: &Answer) -> LogIndex {
    match answer {
        Answer::Append(Outcome::Applied { index, .. }) => *index,
        Answer::Read(Ok(read)) => read.index,
        Answer::Append(_)
        | Answer::Read(Err(_))
        | Answer::Members(_)
        | Answer::Status(_)
        | Answer::Reload(_) => LogIndex::ZERO,
    }
}
