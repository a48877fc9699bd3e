//! Leading: entries go out to the followers and are committed once a quorum's ledgers cover them.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RaftMessage};

use super::durable::{AuthenticatedPeer, PeerDurable, QuorumDurable};
use super::entry::EntryKind;
use super::fitness::Fitness;
use super::frames::{self, Expected};
use super::lease::Lease;
use super::membership::Change;
use super::output::{Leadership, WantedEntries, WantedFor};
use super::progress::Progress;
use super::propose::Uncommitted;
use super::quorum;
use super::read_index::Reads;
use super::replica::{Replica, RoleState, Turn};
use super::settings::Timers;
use super::transfer::{DECLINED_MS, Transfer};
use crate::lent::Lent;

/// A leader is not moved on account of its damage, its machine or its device before it has led this long, in milliseconds: two
/// replicas that hand over to each other do so slowly. Where an operator asks, at a shutdown, and where it votes no more it goes at
/// once.
const SETTLED_MS: u64 = 750;

/// What only a leader has.
#[derive(Debug)]
pub(super) struct Leading {
    /// The empty entry of its term.
    pub(super) term_start: LogIndex,
    pub(super) progress: Vec<Progress>,
    since: Time,
    /// The latest heartbeat round begun.
    pub(super) round: u64,
    pub(super) heartbeat_due: Time,
    pub(super) reads: Lent<Reads>,
    pub(super) lease: Lent<Lease>,
    /// When something was last asked of it in this term.
    pub(super) busy: Option<Time>,
    /// Nothing is said, and everybody has agreed to that.
    pub(super) quiet: bool,
    pub(super) transfer: Option<Box<Transfer>>,
    pub(super) uncommitted: Lent<Uncommitted>,
    /// The change of voters that was last seen under way.
    pub(super) change_seen: Change,
    /// Whether those who are to decide can; looked at only while that may change.
    pub(super) fitness: Option<Box<Fitness>>,
    /// Until then those who left go on to hear that the change is over.
    pub(super) lingers_until: Time,
}

impl Leading {
    /// Whether it leads for long enough to be asked to move.
    pub(super) fn is_settled(&self, now: Time) -> bool {
        now >= self.settled_at()
    }

    /// From when on it may be asked to.
    pub(super) fn settled_at(&self) -> Time {
        self.since.plus_ms(SETTLED_MS)
    }

    /// Whether `peer` declined to lead a moment ago.
    pub(super) fn declined(&self, peer: PeerId, now: Time) -> bool {
        let declined = self.of(peer).and_then(|progress| progress.way.declined);
        declined.is_some_and(|at| now < at.plus_ms(DECLINED_MS))
    }

    pub(super) fn of_mut(&mut self, peer: PeerId) -> Option<&mut Progress> {
        self.progress.iter_mut().find(|p| p.peer() == peer)
    }

    pub(super) fn of(&self, peer: PeerId) -> Option<&Progress> {
        self.progress.iter().find(|p| p.peer() == peer)
    }

    /// Gives back the memory of what is empty while nothing is asked.
    pub(super) fn rest(&mut self) {
        self.reads.give_back();
        self.lease.give_back();
        self.uncommitted.give_back();
        self.progress.shrink_to_fit();
        self.progress.iter_mut().for_each(Progress::rest);
    }

    pub(super) fn next_deadline(&self, timers: &Timers) -> Time {
        let repeat = self
            .progress
            .iter()
            .filter_map(|p| p.repeat_at(timers))
            .min();
        repeat.map_or(self.heartbeat_due, |at| at.min(self.heartbeat_due))
    }
}

impl Replica {
    /// Elected: begins its term with an empty entry, by which all earlier ones will be committed.
    pub(super) fn become_leader(&mut self, turn: &mut Turn<'_>) {
        assert!(self.hard_state_durable, "a leader's own vote is durable");
        let next = self.log.last().next();
        let followers = self.membership.recipients(self.me, self.committed);
        let followers = followers.into_iter();
        let progress = followers
            .map(|p| Progress::new(p, next, turn.now))
            .collect();
        let before_ms = self.bounds().heartbeat_ms;
        self.role = RoleState::Leader(Box::new(Leading {
            term_start: next,
            progress,
            since: turn.now,
            round: 0,
            heartbeat_due: turn.now,
            reads: Lent::default(),
            lease: Lent::default(),
            busy: None,
            quiet: false,
            transfer: None,
            uncommitted: Lent::default(),
            change_seen: Change::None,
            fitness: None,
            lingers_until: turn.now,
        }));
        self.leader = Some(self.me);
        self.hurry(before_ms);
        self.window_ms = self.timers.election_ms_max;
        self.refetch_anew();
        self.tell_departed(turn, None);
        self.append_own(turn, EntryKind::Empty, 0, None, &[]);
        self.announce(turn.out, Leadership::Elected { first: next });
    }

    pub(super) fn on_accepted(&mut self, turn: &Turn<'_>, from: PeerId, matched: LogIndex) {
        let last = self.log.last();
        if let Some(progress) = self.follower(turn, from)
            && matched <= last
        {
            progress.accepted(matched, turn.now);
        }
    }

    pub(super) fn on_rejected(
        &mut self,
        turn: &Turn<'_>,
        from: PeerId,
        hint_index: LogIndex,
        hint_term: Term,
    ) {
        let base = self.log.base();
        let at = self.log.common_with(hint_index, hint_term);
        if let Some(progress) = self.follower(turn, from) {
            progress.rejected(at, hint_index < base);
        }
    }

    pub(super) fn on_durability_ack(
        &mut self,
        turn: &Turn<'_>,
        from: AuthenticatedPeer,
        message: &RaftMessage,
    ) {
        let last = self.log.last();
        if let Some(durable) = PeerDurable::of(from, message)
            && let Some(progress) = self.follower(turn, from.id())
            && durable.index() <= last
        {
            progress.acknowledged(message.partition, &durable);
        }
    }

    /// A leader's view of `peer`, from which something of this term was heard just now.
    pub(super) fn follower(&mut self, turn: &Turn<'_>, peer: PeerId) -> Option<&mut Progress> {
        let RoleState::Leader(leading) = &mut self.role else {
            return None;
        };
        let progress = leading.of_mut(peer)?;
        progress.heard = progress.heard.max(turn.now);
        Some(progress)
    }

    /// Steps down if no quorum was heard for an election timeout; gives up a hand-over that takes too long; hands over
    /// if content is missing here, behind which nothing can be committed.
    pub(super) fn tick_leader(&mut self, turn: &mut Turn<'_>) {
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        if leading
            .transfer
            .as_ref()
            .is_some_and(|t| turn.now >= t.until)
        {
            leading.transfer = None;
            if !self.configuration.contains(self.me) {
                self.become_follower(turn, self.term, None);
                return;
            }
        }
        if leading.quiet {
            return;
        }
        let heard = quorum::reached(&self.configuration, |voter| {
            if voter == self.me {
                return turn.now;
            }
            leading.of(voter).map_or(Time::default(), |p| p.heard)
        });
        if turn.now >= heard.plus_ms(u64::from(self.timers.election_ms_max)) {
            self.become_follower(turn, self.term, None);
            return;
        }
        if leading.is_settled(turn.now) && self.log.missing_from(self.applicable.next()).is_some() {
            // If nobody answers there is nobody to lead instead.
            let _ = self.leave_to_who_has_more(turn);
        }
    }

    /// What a sole voter's ledger covers is committed as it stands, in whatever term it was written.
    pub(super) fn commit_alone(&mut self) {
        if let Some(proof) = self.prove() {
            self.committed = self.committed.max(proof.index());
        }
    }

    fn prove(&self) -> Option<QuorumDurable> {
        let leading = match &self.role {
            RoleState::Leader(leading) => Some(leading),
            _ => None,
        };
        QuorumDurable::prove(
            self.partition,
            self.term,
            &self.configuration,
            self.me,
            self.durable,
            |voter| Some(leading?.of(voter)?.durable()),
        )
    }

    fn advance_commit(&mut self) {
        if self.decides_alone() {
            self.commit_alone();
        } else if let Some(proof) = self.prove()
            && proof.index() > self.committed
            && self.log.term_at(proof.index()) == Some(self.term)
        {
            self.committed = proof.index();
        }
        let (last, me) = (self.log.last(), self.me);
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        leading.uncommitted.committed(self.committed);
        self.raft_commit = quorum::reached(&self.configuration, |voter| {
            if voter == me {
                return last;
            }
            leading.of(voter).map_or(LogIndex::ZERO, Progress::matched)
        });
    }

    pub(super) fn finish_leading(&mut self, turn: &mut Turn<'_>) {
        if let RoleState::Leader(leading) = &mut self.role {
            leading.uncommitted.mark(self.log.last());
        }
        self.advance_commit();
        self.drive_change(turn);
        if !self.is_leader() {
            return;
        }
        self.wake_for_work(turn.now);
        let round_before = match &self.role {
            RoleState::Leader(leading) => leading.round,
            _ => 0,
        };
        self.finish_reads(turn);
        self.replicate(turn);
        self.finish_transfer(turn);
        self.finish_quiet(turn, round_before);
    }

    /// Sends each follower what it may get now.
    fn replicate(&mut self, turn: &mut Turn<'_>) {
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let mut all = core::mem::take(&mut leading.progress);
        for progress in &mut all {
            progress.expire(turn.now, &self.timers);
            while progress.may_send(&self.limits) && self.send_batch(turn, progress) {}
            if progress.is_overdue(turn.now, &self.timers) {
                self.ask_durable(turn, progress);
            }
        }
        if let RoleState::Leader(leading) = &mut self.role {
            leading.progress = all;
        }
    }

    /// Sends one batch, maybe an empty one to learn where the logs agree. `false` if there is nothing to send, or
    /// nothing at hand.
    fn send_batch(&self, turn: &mut Turn<'_>, progress: &mut Progress) -> bool {
        // What it is known to have may end below the base because nothing was heard of it: it is asked at the base.
        progress.probe_from(self.log.base().next());
        let (next, last) = (progress.next(), self.log.last());
        let Some(prev_term) = self.log.term_at(next.prev()) else {
            return false;
        };
        let sendable = self.log.missing_from(next).map_or(last, LogIndex::prev);
        let probing = progress.is_probing();
        if next > sendable && !probing {
            return false;
        }
        let mut frames = turn.out.take_buffer();
        // Somebody who does not answer is asked with empty hands.
        let silence = progress
            .heard
            .plus_ms(u64::from(self.timers.election_ms_max));
        let mut count = 0;
        if !probing || turn.now < silence {
            let bytes_max = self.limits.batch_bytes_max;
            count = turn
                .cache
                .copy(self.slot, next, sendable, bytes_max, &mut frames);
        }
        if count == 0 && !probing {
            turn.out.give_back(frames);
            self.want(turn, progress, next, sendable.min(self.durable.index()));
            return false;
        }
        self.send_append(turn, progress, prev_term, count, frames);
        true
    }

    /// What was acknowledged last may be lost: an empty batch behind all that it has received has it said once more.
    fn ask_durable(&self, turn: &mut Turn<'_>, progress: &mut Progress) {
        if let Some(prev_term) = self.log.term_at(progress.next().prev()) {
            let nothing = turn.out.take_buffer();
            self.send_append(turn, progress, prev_term, 0, nothing);
        }
    }

    fn send_append(
        &self,
        turn: &mut Turn<'_>,
        progress: &mut Progress,
        prev_term: Term,
        count: u32,
        frames: Vec<u8>,
    ) {
        let prev_index = progress.next().prev();
        let last = LogIndex(prev_index.get() + u64::from(count));
        progress.sent(last, frames.len(), turn.now);
        turn.out.messages.push((
            progress.peer(),
            RaftMessage {
                partition: self.partition,
                term: self.term,
                body: RaftBody::Append {
                    prev_index,
                    prev_term,
                    wal_committed: self.committed,
                    raft_commit: self.raft_commit,
                    count,
                    frames,
                },
            },
        ));
    }

    /// Asks for entries that only the log still holds. What is not durable yet can't be read: it waits.
    fn want(&self, turn: &mut Turn<'_>, progress: &mut Progress, from: LogIndex, to: LogIndex) {
        if from > to || !progress.may_read(turn.now) {
            return;
        }
        progress.reading();
        turn.out.wanted.push(WantedEntries {
            partition: self.partition,
            peer: progress.peer(),
            term: self.term,
            from,
            to,
            bytes_max: self.limits.batch_bytes_max,
            purpose: WantedFor::Append,
        });
    }

    /// The log has read what was wanted: whole frames from `wanted.from` on, as many as it gave. They are checked
    /// again and sent as they are.
    pub fn entries_read(&mut self, turn: &mut Turn<'_>, wanted: &WantedEntries, frames: Vec<u8>) {
        if wanted.term != self.term || wanted.partition != self.partition {
            return;
        }
        if wanted.purpose == WantedFor::Refetch {
            self.refetch_read(turn, wanted, frames);
            return;
        }
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let mut all = core::mem::take(&mut leading.progress);
        if let Some(progress) = all.iter_mut().find(|p| p.peer() == wanted.peer)
            && progress.stop_reading(wanted.from)
        {
            self.send_read(turn, progress, wanted, frames);
        }
        if let RoleState::Leader(leading) = &mut self.role {
            leading.progress = all;
        }
    }

    fn send_read(
        &mut self,
        turn: &mut Turn<'_>,
        progress: &mut Progress,
        wanted: &WantedEntries,
        frames: Vec<u8>,
    ) {
        let Some(prev_term) = self.log.term_at(wanted.from.prev()) else {
            return;
        };
        let expected = Expected {
            partition: self.partition,
            prev_index: wanted.from.prev(),
            prev_term,
            term_max: self.term,
        };
        let mut entries = core::mem::take(&mut turn.out.checked);
        let good = frames::check(expected, &frames, &mut entries)
            && !entries.is_empty()
            && entries
                .iter()
                .all(|e| self.log.term_at(e.index) == Some(e.term));
        let count = entries.len() as u32;
        turn.out.checked = entries;
        if !good {
            self.frames_refused = self.frames_refused.saturating_add(1);
            progress.read_failed(turn.now, &self.timers);
        } else if progress.may_send(&self.limits) {
            self.send_append(turn, progress, prev_term, count, frames);
        }
    }

    /// The log could not read what was wanted. It is asked for again after the greatest RPC timeout.
    pub fn entries_unreadable(&mut self, turn: &mut Turn<'_>, wanted: &WantedEntries) {
        if wanted.term != self.term || wanted.partition != self.partition {
            return;
        }
        if wanted.purpose == WantedFor::Refetch {
            self.refetch_read(turn, wanted, Vec::new());
            return;
        }
        let timers = *self.timers;
        if let RoleState::Leader(leading) = &mut self.role
            && let Some(progress) = leading.of_mut(wanted.peer)
            && progress.stop_reading(wanted.from)
        {
            progress.read_failed(turn.now, &timers);
        }
    }

    /// A new session with `peer` began: what was under way to it may be lost. Its log is probed anew.
    pub fn peer_up(&mut self, peer: PeerId) {
        self.forget_founder(peer);
        if let RoleState::Leader(leading) = &mut self.role
            && !leading.quiet
            && let Some(progress) = leading.of_mut(peer)
        {
            progress.probe_again();
        }
    }
}
