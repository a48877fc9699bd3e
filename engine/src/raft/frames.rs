//! Checks on frames that came from elsewhere, before any of them is used.

use clustor_shards::log::record::{Record, RecordKind, records};
use clustor_wire::ids::{LogIndex, PartitionId, Term};

use super::configuration::Configuration;
use super::durability::Transition;
use super::entry::{EntryBody, EntryKind, KeysMax, SystemKind};

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
