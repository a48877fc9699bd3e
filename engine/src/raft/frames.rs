//! Checks on frames that came from elsewhere, before any of them is used.

use clustor_shards::log::record::{Record, RecordKind, records};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use clustor_wire::message::{RaftBody, RaftMessage};

use super::configuration::Configuration;
use super::durability::Transition;
use super::entry::{EntryBody, EntryKind, KeysMax, SystemKind};

/// Terms and indices that messages name stay below this. No partition comes near it by itself, and what is counted on from
/// there never wraps. A member that names a term just below is believed: its partition elects nobody from there on.
const COUNT_MAX: u64 = 1 << 62;

/// Whether a message's term is one that can be counted on from.
pub(super) const fn is_possible_term(term: Term) -> bool {
    term.get() < COUNT_MAX
}

/// The same of everything that a message counts by.
pub(super) fn is_possible(message: &RaftMessage) -> bool {
    let (term, index) = match message.body {
        RaftBody::PreVote {
            last_index,
            last_term,
        }
        | RaftBody::Vote {
            last_index,
            last_term,
            ..
        } => (last_term, last_index),
        RaftBody::Append {
            prev_index,
            prev_term,
            wal_committed,
            raft_commit,
            ..
        } => (prev_term, prev_index.max(wal_committed).max(raft_commit)),
        RaftBody::AppendRejected {
            prev_index,
            hint_index,
            hint_term,
        } => (hint_term, prev_index.max(hint_index)),
        RaftBody::Refetch {
            entry_term,
            first,
            last,
        } => (entry_term, first.max(last)),
        RaftBody::Refetched {
            entry_term, first, ..
        } => (entry_term, first),
        RaftBody::NotMember {
            stated_term,
            stated_index,
        } => (stated_term, stated_index),
        RaftBody::AppendAccepted { matched: index }
        | RaftBody::DurabilityAck {
            last_fsynced_index: index,
            ..
        }
        | RaftBody::Quiesce {
            last_index: index, ..
        }
        | RaftBody::QuiesceAck {
            last_index: index, ..
        } => (Term::ZERO, index),
        RaftBody::PreVoteResponse { .. }
        | RaftBody::VoteResponse { .. }
        | RaftBody::TimeoutNow
        | RaftBody::Founding { .. } => (Term::ZERO, LogIndex::ZERO),
    };
    is_possible_term(message.term.max(term)) && index.get() < COUNT_MAX
}

/// One entry's place in a run of frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framed {
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) stamp_ms: u64,
    /// What it says, if it changes the mode.
    pub(super) transition: Option<Transition>,
    pub(super) is_configuration: bool,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a run of frames must continue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) partition: PartitionId,
    pub(super) prev_index: LogIndex,
    pub(super) prev_term: Term,
    pub(super) term_max: Term,
}

/// Checks every frame: whole, checksum and leaf right, an entry or a configuration of this partition with a body this
/// build reads, index one
/// above the one before, term not below the one before nor above `term_max`. Lays their places into `out`.
/// `false`, and nothing of use in `out`, if any fails.
pub(super) fn check(expected: Expected, bytes: &[u8], out: &mut Vec<Framed>) -> bool {
    out.clear();
    let (mut index, mut term) = (expected.prev_index, expected.prev_term);
    let mut start = 0;
    for record in records(bytes) {
        let Ok(record) = record else {
            return false;
        };
        let header = record.header;
        let Some((stamp_ms, transition)) = content(&record) else {
            return false;
        };
        if record.check_leaf().is_err() {
            return false;
        }
        index = index.next();
        let fits = header.partition == expected.partition
            && header.index == index
            && header.term >= term
            && header.term <= expected.term_max;
        if !fits {
            return false;
        }
        term = header.term;
        let end = start + record.frame.len();
        out.push(Framed {
            index,
            term,
            stamp_ms,
            transition,
            is_configuration: header.kind == RecordKind::Configuration,
            start,
            end,
        });
        start = end;
    }
    true
}

/// An entry's stamp and the mode it changes to, if it does; `None` for a body that this build does not read.
fn content(record: &Record<'_>) -> Option<(u64, Option<Transition>)> {
    match record.header.kind {
        RecordKind::Entry => {
            let body = EntryBody::decode(record.body).ok()?;
            let transition = match body.kind {
                EntryKind::System(SystemKind::DurabilityTransition) => {
                    Some(Transition::decode(body.payload)?)
                }
                // It says all by being there.
                EntryKind::System(SystemKind::TimersDue) if !body.payload.is_empty() => {
                    return None;
                }
                EntryKind::System(SystemKind::KeysMax) => {
                    KeysMax::decode(body.payload)?;
                    None
                }
                _ => None,
            };
            Some((body.stamp_ms, transition))
        }
        RecordKind::Configuration => Configuration::decode(record.body).ok().map(|_| (0, None)),
        _ => None,
    }
}
