//! What a shard decided, what it spoke for, and what a recovery may make of the two.
//!
//! All partitions share one queue, so the history is one list of decisions, and a recovered log must be the
//! fold of one of its prefixes, across all partitions at once. What was spoken for is a place in that list:
//! a recovery that stops before it has lost something.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::turn::{PeerId, PeerPast};
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};

use super::agreement::{Agreement, check_configurations};

/// What an entry is known by: no two appends of a life have the same.
pub type EntryId = u64;

/// Something decided, in the order of the shard's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The partition was created.
    Create,
    /// An entry (or a configuration) was appended behind the last.
    Append {
        /// Its term.
        term: Term,
        /// What it is.
        id: EntryId,
    },
    /// Term and vote.
    HardState {
        /// The term.
        term: Term,
        /// The vote in it.
        vote: Option<NodeId>,
    },
    /// The exit at this place was committed.
    Exit {
        /// Its term.
        term: Term,
        /// Its index.
        index: LogIndex,
    },
    /// Everything from here on is gone.
    Truncate {
        /// The first index that is gone.
        from: LogIndex,
    },
    /// Everything up to here is needed no more.
    Floor {
        /// The last index that may go.
        index: LogIndex,
    },
    /// A peer was heard, and had come further: of no partition.
    Peer {
        /// Which.
        peer: PeerId,
        /// How far.
        past: PeerPast,
    },
}

/// The partition of what is decided of none.
const NONE: PartitionId = PartitionId(0);

/// How far each peer had come when it was last heard.
pub type Peers = BTreeMap<PeerId, PeerPast>;

/// An entry of a partition's log as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its term.
    pub term: Term,
    /// What it is.
    pub id: EntryId,
    /// Its place in the history: 1 + the index of the decision.
    pub place: usize,
}

/// A partition as the decisions up to some place give it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionState {
    /// Term and vote.
    pub hard_state: (Term, Option<NodeId>),
    /// Place of the decision that set them.
    pub hard_state_place: usize,
    /// The newest committed exit.
    pub exit: Option<(Term, LogIndex)>,
    /// The entries; the first has index 1. Those up to the base are not needed.
    pub entries: Vec<Entry>,
    /// Up to where entries may be gone.
    pub base: LogIndex,
}

impl PartitionState {
    /// The last index.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        LogIndex(self.entries.len() as u64)
    }

    /// The entry at `index`.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let at = usize::try_from(index.get().checked_sub(1)?).ok()?;
        self.entries.get(at)
    }

    fn apply(&mut self, decision: &Decision, place: usize) {
        match *decision {
            Decision::Create => {}
            Decision::Append { term, id } => self.entries.push(Entry { term, id, place }),
            Decision::HardState { term, vote } => {
                self.hard_state = (term, vote);
                self.hard_state_place = place;
            }
            Decision::Exit { term, index } => self.exit = Some((term, index)),
            Decision::Truncate { from } => {
                self.entries.truncate(from.prev().get() as usize);
            }
            Decision::Floor { index } => self.base = index,
            Decision::Peer { .. } => unreachable!("of no partition"),
        }
    }
}

/// One partition as a recovery gave it back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: (Term, Option<NodeId>),
    /// The newest committed exit from a joint configuration.
    pub exit: Option<(Term, LogIndex)>,
    /// The log begins behind this index.
    pub base: LogIndex,
    /// The terms of the entries behind the base, to the last.
    pub terms: Vec<Term>,
    /// Indexes whose content is lost.
    pub missing: BTreeSet<LogIndex>,
    /// What the entries are, where they were read back.
    pub content: BTreeMap<LogIndex, EntryId>,
    /// The configurations that it goes by, in order; index 0 is the first one.
    pub configurations: Vec<(LogIndex, Vec<u8>)>,
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The recovered log is no prefix of the history, or an older one than was spoken for.
    #[error(
        "the recovered log fits no prefix of the history that holds what was spoken for \
         (places {must} to {end}; it fits {fits:?}); nearest: {nearest}"
    )]
    NotAPrefix {
        /// Place up to which was spoken.
        must: usize,
        /// Length of the history.
        end: usize,
        /// Shorter prefixes that it does fit, the last few.
        fits: Vec<usize>,
        /// How it differs from the whole history.
        nearest: String,
    },
    /// Content is gone without a fault that could have taken it.
    #[error("partition {partition} index {index}: content is missing and {why}")]
    MissingWithoutCause {
        /// Where.
        partition: PartitionId,
        /// Where.
        index: LogIndex,
        /// What is wrong with that.
        why: &'static str,
    },
    /// Durability was claimed for an entry that is not in the log as it stands.
    #[error(
        "partition {partition}: vouched for (term {term}, index {index}), but there is {there}"
    )]
    VouchedWrongly {
        /// Where.
        partition: PartitionId,
        /// The claimed term.
        term: Term,
        /// The claimed index.
        index: LogIndex,
        /// What the history has there.
        there: String,
    },
    /// Durability was claimed for a term and vote that are not the newest, or older.
    #[error(
        "partition {partition}: term {term} and vote {vote:?} were reported durable, never decided"
    )]
    VoteInvented {
        /// Where.
        partition: PartitionId,
        /// The claimed term.
        term: Term,
        /// The claimed vote.
        vote: Option<NodeId>,
    },
    /// A log at rest vouches for less than it holds: nobody would ever count the rest.
    #[error("partition {partition}: at rest it vouches up to {vouched} and holds up to {holds}")]
    Withheld {
        /// Where.
        partition: PartitionId,
        /// Up to where it vouches; 0 if not at all.
        vouched: LogIndex,
        /// Up to where all is there.
        holds: LogIndex,
    },
    /// Entries were given up that nobody said are needed no more.
    #[error("partition {partition}: its log begins behind {base}, up to {asked} may go")]
    GaveUpTooMuch {
        /// Where.
        partition: PartitionId,
        /// The log's base.
        base: LogIndex,
        /// Up to where entries are needed no more.
        asked: LogIndex,
    },
    /// A replica would go by other configurations than those that its log holds.
    #[error(
        "partition {partition}: goes by the configurations at {goes_by:?}, its log holds those at {holds:?}"
    )]
    WrongConfiguration {
        /// Where.
        partition: PartitionId,
        /// Where those stand that were recovered.
        goes_by: Vec<LogIndex>,
        /// Where those stand that were decided.
        holds: Vec<LogIndex>,
    },
    /// An exit was reported durable that nobody decided.
    #[error(
        "partition {partition}: the exit at (term {term}, index {index}) was reported durable, never decided"
    )]
    ExitInvented {
        /// Where.
        partition: PartitionId,
        /// The claimed term.
        term: Term,
        /// The claimed index.
        index: LogIndex,
    },
    /// Replicas were quarantined although nothing was damaged.
    #[error("quarantined without a fault: {0}")]
    QuarantinedWithoutFault(String),
    /// Replicas were quarantined for a slot that was never used, with nothing written where its extent would lie.
    #[error("quarantined though nothing can be lost: {0}")]
    QuarantinedForNothing(String),
    /// Damage was reported although nothing was damaged.
    #[error("reported without a fault: {0}")]
    FalseAlarm(String),
    /// A number went back.
    #[error("{what} {now} after {before}")]
    NumberWentBack {
        /// Which number.
        what: &'static str,
        /// The new one.
        now: u64,
        /// The greatest before.
        before: u64,
    },
    /// The log would not start, or would not come to speak.
    #[error("{0}")]
    Stuck(String),
}

/// Faults that explain missing content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// How often something durable was damaged. One fault a disk must survive with everything spoken for, or
    /// say that it can't; two may meet in one chain and look like a torn tail, which a quorum of disks covers.
    pub damage: u32,
    /// A write or flush failed: what was never spoken for may be found damaged.
    pub failed: bool,
}

impl Faults {
    /// Whether something durable was damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damage > 0
    }
}

/// What decisions come to.
#[derive(Debug, Clone, Default)]
struct Fold {
    partitions: BTreeMap<PartitionId, PartitionState>,
    peers: Peers,
}

impl Fold {
    fn apply(&mut self, partition: PartitionId, decision: &Decision, place: usize) {
        if let Decision::Peer { peer, past } = *decision {
            self.peers.insert(peer, past);
            return;
        }
        let state = self.partitions.entry(partition).or_default();
        state.apply(decision, place);
    }
}

/// The history of one shard's life, across its boots.
#[derive(Debug, Clone, Default)]
pub struct History {
    decisions: Vec<(PartitionId, Decision)>,
    state: Fold,
    must: usize,
    /// Places of entries whose content is known to be lost.
    missing: BTreeSet<usize>,
}

impl History {
    /// Notes a decision.
    pub fn decide(&mut self, partition: PartitionId, decision: Decision) {
        self.decisions.push((partition, decision));
        let place = self.decisions.len();
        self.state.apply(partition, &decision, place);
    }

    /// Notes that a peer was heard, at a place further than any before.
    pub fn hear(&mut self, peer: PeerId, past: PeerPast) {
        self.decide(NONE, Decision::Peer { peer, past });
    }

    /// The partitions as they stand.
    #[must_use]
    pub fn state(&self) -> &BTreeMap<PartitionId, PartitionState> {
        &self.state.partitions
    }

    /// The peers as they were last heard.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.state.peers
    }

    /// Decisions so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.decisions.len()
    }

    /// Whether nothing was decided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// Place up to which every decision was spoken for.
    #[must_use]
    pub fn spoken_until(&self) -> usize {
        self.must
    }

    /// The log vouched for a partition up to (term, index). Index 0 says nothing.
    ///
    /// # Errors
    /// If the partition's log has no such entry, or content before it is missing.
    pub fn spoke(
        &mut self,
        partition: PartitionId,
        term: Term,
        index: LogIndex,
    ) -> Result<(), Violation> {
        if index == LogIndex::ZERO {
            return Ok(());
        }
        let wrong = |there: String| Violation::VouchedWrongly {
            partition,
            term,
            index,
            there,
        };
        let state = self
            .state
            .partitions
            .get(&partition)
            .ok_or_else(|| wrong("no such partition".into()))?;
        match state.entry(index) {
            None => return Err(wrong(format!("nothing behind {}", state.last()))),
            Some(entry) if entry.term != term => {
                return Err(wrong(format!("an entry of term {}", entry.term)));
            }
            Some(entry) => self.must = self.must.max(entry.place),
        }
        let base = (state.base.get() as usize).min(index.get() as usize);
        let reach = &state.entries[base..index.get() as usize];
        match reach.iter().position(|e| self.missing.contains(&e.place)) {
            Some(at) => Err(wrong(format!("no content at {}", base + at + 1))),
            None => Ok(()),
        }
    }

    /// The log reported a term and vote durable.
    ///
    /// # Errors
    /// If they were never decided.
    pub fn spoke_hard_state(
        &mut self,
        partition: PartitionId,
        term: Term,
        vote: Option<NodeId>,
    ) -> Result<(), Violation> {
        let decided = Decision::HardState { term, vote };
        self.spoke_of(partition, decided)
            .ok_or(Violation::VoteInvented {
                partition,
                term,
                vote,
            })
    }

    /// The log reported the record of a committed exit durable.
    ///
    /// # Errors
    /// If it was never decided.
    pub fn spoke_exit(
        &mut self,
        partition: PartitionId,
        term: Term,
        index: LogIndex,
    ) -> Result<(), Violation> {
        self.spoke_of(partition, Decision::Exit { term, index })
            .ok_or(Violation::ExitInvented {
                partition,
                term,
                index,
            })
    }

    /// The last decision that is like this one was spoken of; `None` if there is none.
    fn spoke_of(&mut self, partition: PartitionId, decided: Decision) -> Option<()> {
        let found = self
            .decisions
            .iter()
            .rposition(|(of, decision)| *of == partition && *decision == decided)?;
        self.must = self.must.max(found + 1);
        Some(())
    }

    /// Checks a recovery against the history and returns the longest prefix that it is the fold of.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn check(
        &self,
        recovered: &BTreeMap<PartitionId, Recovered>,
        peers: &Peers,
        faults: Faults,
    ) -> Result<usize, Violation> {
        let fits = self.prefixes_that_fit(recovered, peers);
        // Of a disk damaged twice nothing is asked but that it invents nothing.
        let must = if faults.damage > 1 { 0 } else { self.must };
        let Some(place) = fits.iter().copied().rfind(|place| *place >= must) else {
            return Err(Violation::NotAPrefix {
                must: self.must,
                end: self.len(),
                fits: fits[fits.len().saturating_sub(3)..].to_vec(),
                nearest: self.describe_difference(recovered, peers),
            });
        };
        let state = self.fold(place).partitions;
        for (partition, found) in recovered {
            check_configurations(*partition, &state[partition], found)?;
            for index in &found.missing {
                let entry = state[partition]
                    .entry(*index)
                    .expect("a missing entry has a place in the log");
                let known = self.missing.contains(&entry.place);
                let why = if known || faults.is_damaged() {
                    continue;
                } else if !faults.failed {
                    "nothing was damaged"
                } else if entry.place <= self.must {
                    "it was spoken for and nothing durable was damaged"
                } else {
                    continue;
                };
                return Err(Violation::MissingWithoutCause {
                    partition: *partition,
                    index: *index,
                    why,
                });
            }
        }
        Ok(place)
    }

    /// Content was found to be lost while the log ran.
    pub fn found_missing(&mut self, partition: PartitionId, first: LogIndex, last: LogIndex) {
        let known = self.state.partitions.get(&partition);
        let entries = known.map(|s| &s.entries);
        for (index, entry) in (1..).zip(entries.into_iter().flatten()) {
            if (first.get()..=last.get()).contains(&index) {
                self.missing.insert(entry.place);
            }
        }
    }

    /// Entries of the log as it stands whose content is known to be lost.
    #[must_use]
    pub fn missing_count(&self) -> usize {
        let needed = |state: &PartitionState| state.entries[state.base.get() as usize..].to_vec();
        let entries = self.state().values().flat_map(needed);
        entries.filter(|e| self.missing.contains(&e.place)).count()
    }

    /// The life goes on from the prefix of `place` decisions, with what `recovered` lacks.
    pub fn adopt(&mut self, place: usize, recovered: &BTreeMap<PartitionId, Recovered>) {
        self.decisions.truncate(place);
        self.must = self.must.min(place);
        self.state = self.fold(place);
        self.missing.clear();
        for (partition, found) in recovered {
            for index in &found.missing {
                self.found_missing(*partition, *index, *index);
            }
        }
    }

    fn fold(&self, place: usize) -> Fold {
        let mut state = Fold::default();
        for (at, (partition, decision)) in self.decisions[..place].iter().enumerate() {
            state.apply(*partition, decision, at + 1);
        }
        state
    }

    /// Every prefix whose fold is `recovered` and `peers`, ascending. Linear in the history: each partition carries
    /// the length of the part in which it agrees.
    fn prefixes_that_fit(
        &self,
        recovered: &BTreeMap<PartitionId, Recovered>,
        peers: &Peers,
    ) -> Vec<usize> {
        let mut seen: BTreeMap<PartitionId, Agreement> = BTreeMap::new();
        let mut heard = Peers::new();
        let mut agreeing = 0usize;
        let mut fits = Vec::new();
        if recovered.is_empty() && peers.is_empty() {
            fits.push(0);
        }
        for (at, (partition, decision)) in self.decisions.iter().enumerate() {
            if let Decision::Peer { peer, past } = *decision {
                heard.insert(peer, past);
                if agreeing == recovered.len() && heard == *peers {
                    fits.push(at + 1);
                }
                continue;
            }
            let Some(found) = recovered.get(partition) else {
                break; // From here on the partition is there, and it was not recovered.
            };
            let agreement = seen.entry(*partition).or_default();
            let before = agreement.fits(found);
            agreement.apply(decision, found);
            let after = agreement.fits(found);
            agreeing = agreeing + usize::from(after) - usize::from(before);
            if agreeing == recovered.len() && heard == *peers {
                fits.push(at + 1);
            }
        }
        fits
    }

    fn describe_difference(
        &self,
        recovered: &BTreeMap<PartitionId, Recovered>,
        peers: &Peers,
    ) -> String {
        let mut out = String::new();
        if self.peers() != peers {
            out += &format!("[peers: decided {:?}, recovered {peers:?}] ", self.peers());
        }
        let all = self.state();
        let partitions: BTreeSet<_> = all.keys().chain(recovered.keys()).collect();
        for partition in partitions {
            let (Some(state), Some(found)) = (all.get(partition), recovered.get(partition)) else {
                out += &format!("[{partition}: only on one side] ");
                continue;
            };
            let needed = state.entries.iter().skip(state.base.get() as usize);
            let terms: Vec<u64> = needed.map(|e| e.term.get()).collect();
            let found_terms: Vec<u64> = found.terms.iter().map(|t| t.get()).collect();
            if terms != found_terms
                || (state.hard_state, state.exit) != (found.hard_state, found.exit)
                || state.base != found.base
            {
                out += &format!(
                    "[{partition}: decided {:?} {:?} {}+{terms:?}, recovered {:?} {:?} {}+{found_terms:?}, missing {:?}] ",
                    state.hard_state,
                    state.exit,
                    state.base,
                    found.hard_state,
                    found.exit,
                    found.base,
                    found.missing
                );
            } else if let Some((index, id)) = found
                .content
                .iter()
                .find(|(index, id)| state.entry(**index).is_none_or(|entry| entry.id != **id))
            {
                out += &format!("[{partition}: index {index} holds entry {id:x}] ");
            }
        }
        out
    }
}
