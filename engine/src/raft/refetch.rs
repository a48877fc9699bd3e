//! Missing content: entries whose place in the log is known here and whose bytes are lost are fetched from others.
//!
//! By log matching (Ongaro, "Consensus", section 3.5) term and index name an entry's content, whoever holds it; the
//! frame's own checksum says whether it is whole. A follower asks its leader, a leader asks everybody, and both
//! answer with what they have at the first index asked for:
//!
//! - *have*: the frames, written here as `Relocated` records; they count once their chain has retired;
//! - *missing*: lost there too; *compacted*: committed, and only in a snapshot: both are waited out;
//! - *never*: not this entry. Where in every configuration in force since so many of one half say so that its others are no
//!   majority, the entry was never committed: whoever held it durably when it was would hold it still. The leader steps down and
//!   drops it as a follower.
//!
//! One question is open at a time. It is asked again after a second, doubling up to a minute; each time the next lost
//! run has its turn, so that one that nobody has keeps no other waiting.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RefetchVerdict};

use super::frames::{self, Expected};
use super::output::{RecordToPersist, WantedEntries, WantedFor};
use super::quorum::{self, Ballot};
use super::replica::{Replica, RoleState, Turn};
use crate::lent::{Bare, Lent};

/// The first wait for an answer, in milliseconds.
const WAIT_MS_MIN: u64 = 1_000;
/// The longest wait, in milliseconds.
const WAIT_MS_MAX: u64 = 60_000;
/// Entries asked for at once, at most.
const ENTRIES_MAX: u64 = 1_024;

/// Entries of one term, asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    term: Term,
    first: LogIndex,
    last: LogIndex,
}

/// Who was asked, and the answer, if there is one yet.
type Said = (PeerId, Option<RefetchVerdict>);

/// The search for lost content.
#[derive(Debug)]
pub(super) struct Refetching {
    asked: Option<Asked>,
    /// When the question is asked again.
    due: Time,
    wait_ms: u64,
    /// The next lost run begins here or behind.
    cursor: LogIndex,
    /// Who was asked, and what was said of the first entry asked for, in this term.
    said: Vec<Said>,
    /// Somebody's question waits for a read of the log.
    pub(super) answering: bool,
}

impl Bare for Refetching {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.asked.is_none() && !self.answering
    }
}

impl Refetching {
    /// Nothing is asked.
    const NONE: Self = Self {
        asked: None,
        due: Time(0),
        wait_ms: WAIT_MS_MIN,
        cursor: LogIndex::ZERO,
        said: Vec::new(),
        answering: false,
    };

    /// The first entry asked for, of whom, and what they answered.
    pub(super) fn open(&self) -> Option<(LogIndex, &[Said])> {
        Some((self.asked?.first, &self.said))
    }
}

impl Replica {
    /// A new term, or a new role in it: nothing that was said counts any more.
    pub(super) fn refetch_anew(&mut self) {
        let cursor = self.refetching.cursor;
        self.refetching = Lent::default();
        if cursor != LogIndex::ZERO {
            self.refetching.cursor = cursor;
        }
    }

    /// When the question for lost content is due; `None` while there is nothing to ask, or nobody.
    pub(super) fn refetch_at(&self) -> Option<Time> {
        let asks = self.hard_state_durable && (self.is_leader() || self.leader.is_some());
        (asks && self.log.missing_count() > 0).then_some(self.refetching.due)
    }

    /// Asks for lost content, if it is time.
    pub(super) fn finish_refetch(&mut self, turn: &mut Turn<'_>) {
        if self.refetch_at().is_none_or(|due| turn.now < due) {
            return;
        }
        if let Some(asked) = self.refetching.asked.take() {
            // No answer helped in time: the next run's turn.
            self.refetching.cursor = asked.last.next();
            self.refetching.wait_ms = (self.refetching.wait_ms * 2).min(WAIT_MS_MAX);
        }
        let Some(asked) = self.lost_run(self.refetching.cursor) else {
            return;
        };
        self.refetching.said.clear();
        self.refetching.asked = Some(asked);
        let wait_ms = self.refetching.wait_ms.max(WAIT_MS_MIN);
        self.refetching.wait_ms = wait_ms;
        self.refetching.due = turn.now.plus_ms(wait_ms);
        let question = RaftBody::Refetch {
            entry_term: asked.term,
            first: asked.first,
            last: asked.last,
        };
        if self.is_leader() {
            let mut peers = self.membership.recipients(self.me, self.committed);
            for configuration in self.membership.in_force_from(asked.first) {
                peers.extend(configuration.others(self.me));
            }
            peers.sort_unstable();
            peers.dedup();
            for peer in peers {
                self.refetching.said.push((peer, None));
                self.send(turn.out, peer, self.term, question.clone());
            }
        } else if let Some(leader) = self.leader {
            self.refetching.said.push((leader, None));
            self.send(turn.out, leader, self.term, question);
        }
    }

    /// The first run of lost entries of one term at or behind `from`, else the first of all.
    fn lost_run(&self, from: LogIndex) -> Option<Asked> {
        let range = self
            .log
            .missing_range_from(from)
            .or_else(|| self.log.missing_range_from(LogIndex::ZERO))?;
        let (term, run_last) = self.log.run_at(range.first)?;
        let most = LogIndex(range.first.get() + ENTRIES_MAX - 1);
        Some(Asked {
            term,
            first: range.first,
            last: range.last.min(run_last).min(most),
        })
    }

    /// Somebody lost what may be here. A leader answers whoever asks in its term, a follower its leader.
    pub(super) fn on_refetch(
        &mut self,
        turn: &mut Turn<'_>,
        from: PeerId,
        entry_term: Term,
        first: LogIndex,
        last: LogIndex,
    ) {
        if !self.is_leader() && self.leader != Some(from) || last < first {
            return;
        }
        let verdict = self.verdict_on(entry_term, first);
        if verdict != RefetchVerdict::Have {
            self.send_refetched(turn, from, entry_term, first, verdict, Vec::new());
            return;
        }
        let run_last = self.log.run_at(first).map_or(first, |(_, last)| last);
        let whole = self.log.missing_from(first).map_or(last, LogIndex::prev);
        let last = last.min(run_last).min(whole);
        let bytes_max = self.limits.batch_bytes_max;
        let mut frames = turn.out.take_buffer();
        let count = turn
            .cache
            .copy(self.slot, first, last, bytes_max, &mut frames);
        if count > 0 {
            self.send_refetched(turn, from, entry_term, first, verdict, frames);
            return;
        }
        turn.out.give_back(frames);
        // What lies behind something that is missing here is read like any other: the log gives out nothing before it has retired.
        if !self.refetching.answering {
            self.refetching.answering = true;
            turn.out.wanted.push(WantedEntries {
                partition: self.partition,
                peer: from,
                term: self.term,
                from: first,
                to: last,
                bytes_max,
                purpose: WantedFor::Refetch,
            });
        }
    }

    /// What this replica has of the entry of that term at `index`.
    fn verdict_on(&self, term: Term, index: LogIndex) -> RefetchVerdict {
        if index <= self.log.base() {
            RefetchVerdict::Compacted
        } else if self.log.term_at(index) != Some(term) {
            RefetchVerdict::Never
        } else if self.log.missing_from(index) == Some(index) {
            RefetchVerdict::Missing
        } else {
            RefetchVerdict::Have
        }
    }

    fn send_refetched(
        &mut self,
        turn: &mut Turn<'_>,
        to: PeerId,
        entry_term: Term,
        first: LogIndex,
        verdict: RefetchVerdict,
        frames: Vec<u8>,
    ) {
        let body = RaftBody::Refetched {
            entry_term,
            first,
            verdict,
            frames,
        };
        self.send(turn.out, to, self.term, body);
    }

    /// The log has read what somebody asked for, or could not (`frames` is empty).
    pub(super) fn refetch_read(
        &mut self,
        turn: &mut Turn<'_>,
        wanted: &WantedEntries,
        frames: Vec<u8>,
    ) {
        self.refetching.answering = false;
        if matches!(self.role, RoleState::Quarantined) {
            return;
        }
        let Some((entry_term, _)) = self.log.run_at(wanted.from) else {
            return;
        };
        if !frames.is_empty()
            && self
                .are_lost(turn, entry_term, wanted.from, &frames)
                .is_some()
        {
            let have = RefetchVerdict::Have;
            self.send_refetched(turn, wanted.peer, entry_term, wanted.from, have, frames);
        } else if self.verdict_on(entry_term, wanted.from) == RefetchVerdict::Missing {
            let missing = RefetchVerdict::Missing;
            self.send_refetched(
                turn,
                wanted.peer,
                entry_term,
                wanted.from,
                missing,
                Vec::new(),
            );
        }
    }

    /// Checks frames of entries of one term from `first` on; their last index.
    fn are_lost(
        &mut self,
        turn: &mut Turn<'_>,
        term: Term,
        first: LogIndex,
        bytes: &[u8],
    ) -> Option<LogIndex> {
        let expected = Expected {
            partition: self.partition,
            prev_index: first.prev(),
            prev_term: term,
            term_max: term,
        };
        let good = frames::check(expected, bytes, &mut turn.out.checked);
        if !good {
            self.frames_refused = self.frames_refused.saturating_add(1);
            return None;
        }
        turn.out.checked.last().map(|entry| entry.index)
    }

    /// An answer. Of those to the open question, content is taken, and the rest noted.
    pub(super) fn on_refetched(
        &mut self,
        turn: &mut Turn<'_>,
        from: PeerId,
        entry_term: Term,
        first: LogIndex,
        verdict: RefetchVerdict,
        frames: &[u8],
    ) {
        let Some(asked) = self.refetching.asked else {
            return;
        };
        let asked_of = self.is_leader() || self.leader == Some(from);
        if !asked_of || (asked.term, asked.first) != (entry_term, first) {
            return;
        }
        if verdict == RefetchVerdict::Have {
            self.take_content(turn, asked, frames);
            return;
        }
        match self.refetching.said.iter_mut().find(|(p, _)| *p == from) {
            Some((_, said)) => *said = Some(verdict),
            None => self.refetching.said.push((from, Some(verdict))),
        }
        if self.is_leader() && self.was_never_committed() {
            self.drop_never_committed(turn, first);
        }
    }

    /// Content came: it goes into the log, and the next question may be asked at once.
    fn take_content(&mut self, turn: &mut Turn<'_>, asked: Asked, frames: &[u8]) {
        if self
            .are_lost(turn, asked.term, asked.first, frames)
            .is_none()
        {
            return;
        }
        let checked = core::mem::take(&mut turn.out.checked);
        for entry in &checked {
            let lost = self.log.missing_from(entry.index) == Some(entry.index)
                && self.log.term_at(entry.index) == Some(entry.term);
            if !lost {
                continue;
            }
            let start = turn.out.frames.len();
            turn.out
                .frames
                .extend_from_slice(&frames[entry.start..entry.end]);
            turn.out.records.push(RecordToPersist::Relocated {
                partition: self.partition,
                term: entry.term,
                index: entry.index,
                frame: start..turn.out.frames.len(),
            });
            self.log.mark_found(entry.index);
            self.refetched = self.refetched.saturating_add(1);
        }
        turn.out.checked = checked;
        self.refetching.asked = None;
        self.refetching.wait_ms = WAIT_MS_MIN;
        self.refetching.due = turn.now;
    }

    /// Whether in every configuration in force since, so many of one half never had the entry asked for that the others are no
    /// majority of it.
    fn was_never_committed(&self) -> bool {
        let had = |voter| {
            let said = self.refetching.said.iter().find(|(p, _)| *p == voter);
            let never = said.is_some_and(|(_, verdict)| *verdict == Some(RefetchVerdict::Never));
            never.then_some(false)
        };
        let Some(asked) = self.refetching.asked else {
            return false;
        };
        // Whoever led since the entry was written committed under one of these.
        let mut in_force = self.membership.in_force_from(asked.first);
        in_force.all(|configuration| quorum::count(configuration, had) == Ballot::Lost)
    }

    /// Gives up leadership, and with it what nobody else ever had. (A leader never truncates its own log.)
    fn drop_never_committed(&mut self, turn: &mut Turn<'_>, from: LogIndex) {
        if from <= self.committed || from <= self.applicable {
            // It was committed, whatever is said: some disks were emptied. Wait for one that was not.
            return;
        }
        assert!(matches!(self.role, RoleState::Leader(_)));
        self.become_follower(turn, self.term, None);
        self.truncate(turn, from);
        self.refetch_anew();
    }
}
