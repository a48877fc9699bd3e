//! Following: what a leader sends is checked, fitted to the own log, and acknowledged.
//!
//! Acknowledgements are owed, not sent, while a turn lasts: at its end each kind leaves once, and only while term
//! and vote are durable. What was received is told at once, what is durable when the log has proved it.

use clustor_shards::log::Mode;
use clustor_shards::log::record::parse_record;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::{ElectionBounds, Heartbeat, HeartbeatAck, RaftBody, RaftMessage};

use super::configuration::Configuration;
use super::durable::AuthenticatedPeer;
use super::frames::{self, Expected, Framed};
use super::output::{Leadership, RecordToPersist};
use super::replica::{Replica, RoleState, Turn};

impl Replica {
    /// A leader's sign of life. Elections go by the `bounds` that it states, and its leases rely on that.
    pub fn on_heartbeat(
        &mut self,
        turn: &mut Turn<'_>,
        from: AuthenticatedPeer,
        heartbeat: &Heartbeat,
        bounds: Option<ElectionBounds>,
    ) {
        let peer = from.id();
        if heartbeat.partition != self.partition
            || !frames::is_possible_term(heartbeat.term)
            || !self.heeds_questions_of(peer)
            || self.is_impostor(peer, heartbeat.term)
        {
            return;
        }
        if heartbeat.term < self.term {
            if self.hard_state_durable {
                self.answer_round(turn, peer, heartbeat.round);
            }
            return;
        }
        if heartbeat.term > self.term {
            self.become_follower(turn, heartbeat.term, Some(peer));
        }
        let known = self.leader == Some(peer) && self.leader_heard.is_some();
        self.judge_lateness(turn.now);
        self.obey(bounds);
        self.recognise(turn, peer);
        self.owed.round = self.owed.round.max(Some(heartbeat.round));
        self.learn_commit(heartbeat.wal_committed);
        if heartbeat.wal_committed < self.matched.min(self.durable.index()) {
            self.owed.durability = true;
        }
        if known && self.matched == LogIndex::ZERO {
            // The leader takes it for known where the logs agree, and this replica, restarted, does not.
            let (last, term) = (self.log.last(), self.log.last_term());
            self.reject(turn, peer, last.next(), term);
        }
    }

    fn answer_round(&self, turn: &mut Turn<'_>, to: PeerId, round: u64) {
        turn.out.heartbeat_acks.push((
            to,
            HeartbeatAck {
                partition: self.partition,
                term: self.term,
                round,
            },
        ));
    }

    /// The sender leads this term.
    ///
    /// # Panics
    /// If somebody else does: two leaders of one term mean that a vote was given twice.
    fn recognise(&mut self, turn: &mut Turn<'_>, leader: PeerId) {
        assert!(
            self.leader.is_none_or(|known| known == leader),
            "partition {}: two leaders in term {}: {:?} and {leader:?}",
            self.partition,
            self.term,
            self.leader
        );
        self.quiet = false;
        match self.role {
            RoleState::Follower => {
                if self.leader.is_none() {
                    self.leader = Some(leader);
                    let leader = Some(leader);
                    self.announce(turn.out, Leadership::Follower { leader });
                }
            }
            _ => self.become_follower(turn, self.term, Some(leader)),
        }
        self.hear_leader(turn.now);
    }

    pub(super) fn on_append(&mut self, turn: &mut Turn<'_>, from: PeerId, message: &RaftMessage) {
        let RaftBody::Append {
            prev_index,
            prev_term,
            wal_committed,
            raft_commit,
            count,
            frames,
        } = &message.body
        else {
            return;
        };
        self.recognise(turn, from);
        let expected = Expected {
            partition: self.partition,
            prev_index: *prev_index,
            prev_term: *prev_term,
            term_max: self.term,
        };
        let mut entries = core::mem::take(&mut turn.out.checked);
        let good =
            frames::check(expected, frames, &mut entries) && entries.len() == *count as usize;
        if !good {
            self.frames_refused = self.frames_refused.saturating_add(1);
        } else if *prev_index >= self.log.base()
            && self.log.term_at(*prev_index) != Some(*prev_term)
        {
            self.reject(turn, from, *prev_index, *prev_term);
        } else {
            self.fit(turn, *prev_index, &entries, frames, *wal_committed);
            self.raft_commit = (*raft_commit).min(self.matched);
            self.learn_commit(*wal_committed);
        }
        turn.out.checked = entries;
    }

    /// Takes what is new of checked entries whose predecessor matches; what contradicts them goes first.
    fn fit(
        &mut self,
        turn: &mut Turn<'_>,
        prev_index: LogIndex,
        entries: &[Framed],
        frames: &[u8],
        wal_committed: LogIndex,
    ) {
        // Up to the base everything is committed, hence the leader's too.
        let known = entries.partition_point(|entry| {
            entry.index <= self.log.base() || self.log.term_at(entry.index) == Some(entry.term)
        });
        let new = &entries[known..];
        if let Some(first) = new.first()
            && first.index <= self.log.last()
        {
            self.truncate(turn, first.index);
        }
        for entry in new {
            let frame = &frames[entry.start..entry.end];
            let start = turn.out.frames.len();
            turn.out.frames.extend_from_slice(frame);
            turn.cache.push(self.slot, entry.index, frame);
            let index = self.log.push(entry.term);
            assert_eq!(index, entry.index, "entries continue the log");
            let mode = match entry.transition {
                Some(transition) => {
                    self.modes.note(index, transition);
                    Mode::Strict
                }
                // A quorum has it already: nobody waits for it alone.
                None if index <= wal_committed => Mode::Group,
                None => self.modes.mode(),
            };
            turn.out.records.push(RecordToPersist::Entry {
                partition: self.partition,
                term: entry.term,
                index,
                frame: start..turn.out.frames.len(),
                mode,
            });
            self.stamp_ms = self.stamp_ms.max(entry.stamp_ms);
            if entry.is_configuration {
                self.take_configuration(entry, frame);
            }
        }
        let end = entries.last().map_or(prev_index, |entry| entry.index);
        self.matched = self.matched.max(end).max(self.log.base());
        self.owed.accepted = true;
        // Nothing new: perhaps what was said of it got lost.
        self.owed.durability |= new.is_empty();
    }

    /// A configuration came to stand in the log, in a frame that was checked.
    fn take_configuration(&mut self, entry: &Framed, frame: &[u8]) {
        let Some(configuration) = parse_record(frame)
            .ok()
            .and_then(|record| Configuration::decode(record.body).ok())
        else {
            return;
        };
        self.membership.push(entry.term, entry.index, configuration);
        self.obey_membership();
    }

    /// Takes everything from `from` on away: the leader of this term has other entries there.
    pub(super) fn truncate(&mut self, turn: &mut Turn<'_>, from: LogIndex) {
        assert!(
            from > self.committed,
            "partition {}: a truncation from {from} reaches below {}, which is committed",
            self.partition,
            self.committed
        );
        assert!(from > self.applicable);
        assert!(from > self.matched, "what matches the leader's log stays");
        self.log.truncate(from);
        self.modes.truncate(from);
        self.durable.truncate(from);
        if self.membership.truncate(from) {
            self.obey_membership();
        }
        turn.cache.truncate(self.slot, from);
        turn.out.records.push(RecordToPersist::Truncate {
            partition: self.partition,
            term: self.term,
            from,
        });
    }

    /// The entry at (`prev_term`, `prev_index`) is not here. What the two logs have in common ends, at the latest,
    /// with the last entry here that is not of a greater term: whole terms are skipped at once.
    fn reject(
        &mut self,
        turn: &mut Turn<'_>,
        leader: PeerId,
        prev_index: LogIndex,
        prev_term: Term,
    ) {
        let hint_index = self.log.common_with(prev_index, prev_term);
        let hint_term = self.log.term_at(hint_index).unwrap_or_default();
        self.send(
            turn.out,
            leader,
            self.term,
            RaftBody::AppendRejected {
                prev_index,
                hint_index,
                hint_term,
            },
        );
    }

    fn learn_commit(&mut self, wal_committed: LogIndex) {
        self.committed = self.committed.max(wal_committed.min(self.matched));
    }

    /// Pays what is owed to the leader of this term.
    pub(super) fn finish_following(&mut self, turn: &mut Turn<'_>) {
        let Some(leader) = self.leader else {
            return;
        };
        if !self.hard_state_durable {
            return;
        }
        if self.owed.accepted {
            let matched = self.matched;
            self.send(
                turn.out,
                leader,
                self.term,
                RaftBody::AppendAccepted { matched },
            );
        }
        let durable = self.matched.min(self.durable.index());
        if durable > self.owed.acknowledged || (self.owed.durability && durable > LogIndex::ZERO) {
            let message = self.durable.acknowledge(
                self.partition,
                self.term,
                self.matched,
                turn.segment_seq,
                turn.io_writer_mode,
            );
            turn.out.messages.push((leader, message));
            self.owed.acknowledged = durable;
        }
        if let Some(round) = self.owed.round {
            self.answer_round(turn, leader, round);
        }
        self.owed.accepted = false;
        self.owed.durability = false;
        self.owed.round = None;
    }
}
