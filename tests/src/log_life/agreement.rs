//! Whether a partition as it was recovered is what a prefix of the history makes of it.

use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};

use super::entry;
use super::history::{Decision, PartitionState, Recovered, Violation};

/// How far one partition's log, replayed, agrees with what was recovered of it.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    created: bool,
    hard_state: (Term, Option<NodeId>),
    exit: Option<(Term, LogIndex)>,
    base: LogIndex,
    len: usize,
    agreeing: usize,
}

impl Agreement {
    pub(super) fn apply(&mut self, decision: &Decision, found: &Recovered) {
        self.created = true;
        match *decision {
            Decision::Create => {}
            Decision::Append { term, id } => {
                let index = LogIndex(self.len as u64 + 1);
                let is_needed = |at: usize| {
                    found.terms.get(at) == Some(&term)
                        && found.content.get(&index).is_none_or(|found| *found == id)
                };
                let at = self.len.checked_sub(found.base.get() as usize);
                let agrees = at.is_none_or(is_needed);
                if agrees && self.agreeing == self.len {
                    self.agreeing += 1;
                }
                self.len += 1;
            }
            Decision::HardState { term, vote } => self.hard_state = (term, vote),
            Decision::Exit { term, index } => self.exit = Some((term, index)),
            Decision::Truncate { from } => {
                self.len = self.len.min(from.prev().get() as usize);
                self.agreeing = self.agreeing.min(self.len);
            }
            Decision::Floor { index } => self.base = index,
            Decision::Peer { .. } => unreachable!("of no partition"),
        }
    }

    pub(super) fn fits(&self, found: &Recovered) -> bool {
        self.created
            && self.hard_state == found.hard_state
            && self.exit == found.exit
            && self.base == found.base
            && self.len == found.base.get() as usize + found.terms.len()
            && self.agreeing == self.len
    }
}

/// Configurations lie in two files, and are known even where their entries are missing: all above the base, and the newest
/// one up to it.
pub(super) fn check_configurations(
    partition: PartitionId,
    state: &PartitionState,
    found: &Recovered,
) -> Result<(), Violation> {
    let mut holds: Vec<(LogIndex, Vec<u8>)> = Vec::new();
    for (index, entry) in (1..).map(LogIndex).zip(&state.entries) {
        if entry::is_configuration(entry.id) {
            if index <= found.base {
                holds.clear();
            }
            holds.push((index, entry::body(entry.id)));
        }
    }
    let is_first = |at: &&(LogIndex, Vec<u8>)| at.0 == LogIndex::ZERO;
    let has_first = holds.first().is_none_or(|(index, _)| *index > found.base);
    let (first, others): (Vec<_>, Vec<_>) = found.configurations.iter().partition(is_first);
    if others.into_iter().eq(&holds) && first.len() == usize::from(has_first) {
        return Ok(());
    }
    let places = |all: &[(LogIndex, Vec<u8>)]| all.iter().map(|(index, _)| *index).collect();
    Err(Violation::WrongConfiguration {
        partition,
        goes_by: places(&found.configurations),
        holds: places(&holds),
    })
}
