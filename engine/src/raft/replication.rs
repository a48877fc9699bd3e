//! Leading: entries go in, out to the followers, and are committed once a quorum's ledgers cover them.

use std::collections::VecDeque;

use clustor_shards::log::record::{RecordKind, encode_record_parts};
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{RaftBody, RaftMessage};

use super::durable::{AuthenticatedPeer, PeerDurable, QuorumDurable};
use super::entry::{EntryBody, EntryKey, EntryKind};
use super::frames::{self, Expected};
use super::output::{Leadership, RecordToPersist, WantedEntries};
use super::progress::Progress;
use super::quorum;
use super::read_index::Reads;
use super::replica::{Replica, RoleState, Turn};
use super::settings::Timers;
use super::transfer::Transfer;

/// A command to append.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// What the machine gets.
    pub payload: &'a [u8],
    /// The client's idempotency key, with the `wal_committed` index it knew.
    pub key: Option<EntryKey>,
    /// The time in milliseconds as the partition counts it. Raised to the last stamp where it lies before.
    pub stamp_ms: u64,
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Its term.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
}

/// Why a command was not appended. It left no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead.
    #[error("this replica does not lead the partition; ask the leader, if it is known: {leader:?}")]
    NotLeader {
        /// Who does, if known.
        leader: Option<PeerId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being handed over to {to:?}; ask there in a moment")]
    HandingOver {
        /// To whom.
        to: PeerId,
    },
    /// The payload is longer than the limit.
    #[error("payload of {bytes} bytes exceeds {bytes_max}; split it")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Too many bytes are proposed and not yet committed.
    #[error("{bytes_max} bytes wait to be committed; retry when some are")]
    Full {
        /// The limit.
        bytes_max: u64,
    },
    /// An entry's content is missing, and nothing behind it can be committed.
    #[error("the content of entry {index} is missing here; nothing behind it can be committed")]
    MissingContent {
        /// The first such entry.
        index: LogIndex,
    },
}

/// What only a leader has.
#[derive(Debug)]
pub(super) struct Leading {
    /// The empty entry of its term.
    pub(super) term_start: LogIndex,
    pub(super) progress: Vec<Progress>,
    /// The latest heartbeat round begun.
    pub(super) round: u64,
    pub(super) heartbeat_due: Time,
    pub(super) reads: Reads,
    pub(super) transfer: Option<Transfer>,
    uncommitted: Uncommitted,
}

impl Leading {
    pub(super) fn of_mut(&mut self, peer: PeerId) -> Option<&mut Progress> {
        self.progress.iter_mut().find(|p| p.peer() == peer)
    }

    pub(super) fn of(&self, peer: PeerId) -> Option<&Progress> {
        self.progress.iter().find(|p| p.peer() == peer)
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

/// Bytes proposed and not yet committed, marked once a turn.
#[derive(Debug, Default)]
struct Uncommitted {
    bytes: u64,
    unmarked: u64,
    marks: VecDeque<(LogIndex, u64)>,
}

impl Uncommitted {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.unmarked += bytes as u64;
    }

    fn mark(&mut self, last: LogIndex) {
        if self.unmarked > 0 {
            self.marks.push_back((last, self.unmarked));
            self.unmarked = 0;
        }
    }

    fn committed(&mut self, index: LogIndex) {
        while let Some((last, bytes)) = self.marks.front()
            && *last <= index
        {
            self.bytes -= bytes;
            self.marks.pop_front();
        }
    }
}

impl Replica {
    /// Appends a command: frames it once, for the own log, the cache, the wire and every other log.
    ///
    /// # Errors
    /// [`ProposeError`]; then nothing happened.
    pub fn propose(
        &mut self,
        turn: &mut Turn<'_>,
        entry: &NewEntry<'_>,
    ) -> Result<Position, ProposeError> {
        let RoleState::Leader(leading) = &self.role else {
            let leader = self.leader;
            return Err(ProposeError::NotLeader { leader });
        };
        if let Some(transfer) = &leading.transfer {
            return Err(ProposeError::HandingOver { to: transfer.to });
        }
        let (bytes, bytes_max) = (entry.payload.len(), self.limits.payload_bytes_max);
        if bytes > bytes_max {
            return Err(ProposeError::TooLarge { bytes, bytes_max });
        }
        let waiting = leading.uncommitted.bytes;
        let bytes_max = self.limits.uncommitted_bytes_max;
        if waiting > 0 && waiting + bytes as u64 > bytes_max {
            return Err(ProposeError::Full { bytes_max });
        }
        if let Some(index) = self.log.missing_from(self.committed.next()) {
            return Err(ProposeError::MissingContent { index });
        }
        Ok(self.append_own(
            turn,
            EntryKind::Command,
            entry.stamp_ms,
            entry.key,
            entry.payload,
        ))
    }

    fn append_own(
        &mut self,
        turn: &mut Turn<'_>,
        kind: EntryKind,
        stamp_ms: u64,
        key: Option<EntryKey>,
        payload: &[u8],
    ) -> Position {
        self.stamp_ms = self.stamp_ms.max(stamp_ms);
        let body = EntryBody {
            kind,
            stamp_ms: self.stamp_ms,
            key,
            payload,
        };
        let index = self.log.push(self.term);
        let start = turn.out.frames.len();
        let bytes = encode_record_parts(
            &mut turn.out.frames,
            RecordKind::Entry,
            self.partition,
            self.term,
            index,
            &[body.head().as_slice(), payload],
        );
        let frame = start..start + bytes;
        turn.cache
            .push(self.slot, index, &turn.out.frames[frame.clone()]);
        turn.out.records.push(RecordToPersist::Entry {
            partition: self.partition,
            term: self.term,
            index,
            frame,
        });
        self.matched = index;
        if let RoleState::Leader(leading) = &mut self.role {
            leading.uncommitted.add(bytes);
        }
        Position {
            term: self.term,
            index,
        }
    }

    /// Elected: begins its term with an empty entry, by which all earlier ones will be committed.
    pub(super) fn become_leader(&mut self, turn: &mut Turn<'_>) {
        assert!(self.hard_state_durable, "a leader's own vote is durable");
        let next = self.log.last().next();
        let others = self.configuration.others(self.me);
        let progress = others.map(|p| Progress::new(p, next, turn.now)).collect();
        self.role = RoleState::Leader(Box::new(Leading {
            term_start: next,
            progress,
            round: 0,
            heartbeat_due: turn.now,
            reads: Reads::default(),
            transfer: None,
            uncommitted: Uncommitted::default(),
        }));
        self.leader = Some(self.me);
        self.window_ms = self.timers.election_ms_max;
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
            progress.acknowledged(durable);
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

    /// Steps down if no quorum was heard for an election timeout; gives up a hand-over that takes too long.
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
        }
        let heard = quorum::reached(&self.configuration, |voter| {
            if voter == self.me {
                return turn.now;
            }
            leading.of(voter).map_or(Time::default(), |p| p.heard)
        });
        if turn.now >= heard.plus_ms(u64::from(self.timers.election_ms_max)) {
            self.become_follower(turn, self.term, None);
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
            |voter| leading?.of(voter)?.durable(),
        )
    }

    fn advance_commit(&mut self) {
        if self.configuration.is_sole_voter(self.me) {
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
        self.finish_reads(turn);
        self.replicate(turn);
        self.finish_transfer(turn);
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
        }
        if let RoleState::Leader(leading) = &mut self.role {
            leading.progress = all;
        }
    }

    /// Sends one batch, maybe an empty one to learn where the logs agree. `false` if there is nothing to send, or
    /// nothing at hand.
    fn send_batch(&self, turn: &mut Turn<'_>, progress: &mut Progress) -> bool {
        let (next, last) = (progress.next(), self.log.last());
        let Some(prev_term) = self.log.term_at(next.prev()) else {
            progress.set_needs_snapshot();
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
        });
    }

    /// The log has read what was wanted: whole frames from `wanted.from` on, as many as it gave. They are checked
    /// again and sent as they are.
    pub fn entries_read(&mut self, turn: &mut Turn<'_>, wanted: &WantedEntries, frames: Vec<u8>) {
        if wanted.term != self.term || wanted.partition != self.partition {
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
            self.frames_refused += 1;
            progress.read_failed(turn.now, &self.timers);
        } else if progress.may_send(&self.limits) {
            self.send_append(turn, progress, prev_term, count, frames);
        }
    }

    /// The log could not read what was wanted. It is asked for again after the greatest RPC timeout.
    pub fn entries_unreadable(&mut self, turn: &Turn<'_>, wanted: &WantedEntries) {
        if wanted.term != self.term || wanted.partition != self.partition {
            return;
        }
        let timers = self.timers;
        if let RoleState::Leader(leading) = &mut self.role
            && let Some(progress) = leading.of_mut(wanted.peer)
            && progress.stop_reading(wanted.from)
        {
            progress.read_failed(turn.now, &timers);
        }
    }

    /// A new session with `peer` began: what was under way to it may be lost. Its log is probed anew.
    pub fn peer_up(&mut self, peer: PeerId) {
        if let RoleState::Leader(leading) = &mut self.role
            && let Some(progress) = leading.of_mut(peer)
        {
            progress.probe_again();
        }
    }
}
