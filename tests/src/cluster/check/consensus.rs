//! Consensus: elections, votes, logs, commits and watermarks, of every partition on every replica.

use std::collections::BTreeMap;

use clustor_engine::partition::Partition;
use clustor_engine::raft::{Change, Configuration};
use clustor_engine::shard_core::ShardCore;
use clustor_shards::log::{PartitionLog, TermRun};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use clustor_wire::message::{PartitionStatus, PeerBatch, RaftBody, RaftMessage, Role};

use super::machines::Agreed;
use super::{Violation, must};
use crate::cluster::layout::Layout;
use crate::cluster::machine::History;
use crate::cluster::messages::name;

/// One replica as it was last seen.
#[derive(Debug, Default)]
struct Replica {
    term: Term,
    committed: LogIndex,
    applied: LogIndex,
    /// What its log vouches for.
    durable: LogIndex,
    last: LogIndex,
    runs: Vec<TermRun>,
    /// Commands of its machine that were compared.
    verified: usize,
    /// Expired timers of its machine that were compared.
    verified_expired: usize,
    /// The greatest term it spoke in.
    spoken: Term,
    led: Term,
    /// The newest exit from a joint configuration that it acted on by its own record.
    left: LogIndex,
}

impl Replica {
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == LogIndex::ZERO {
            return Some(Term::ZERO);
        }
        let behind = self.runs.partition_point(|run| run.first <= index);
        (index <= self.last)
            .then(|| self.runs.get(behind.checked_sub(1)?).map(|run| run.term))
            .flatten()
    }

    /// Whether its disk holds that entry.
    fn holds(&self, index: LogIndex, term: Term) -> bool {
        self.durable >= index && self.term_at(index) == Some(term)
    }
}

/// What is known of one partition.
#[derive(Debug, Default)]
struct Known {
    leaders: BTreeMap<Term, PeerId>,
    votes: BTreeMap<(Term, PeerId), NodeId>,
    /// Where each term begins, and the term before it: the same in every log.
    begins: BTreeMap<Term, (LogIndex, Term)>,
    /// The terms of the committed entries, from index 1 on.
    committed: Vec<Term>,
    /// The last entry that a replica of that term was the first to know as committed.
    commits: BTreeMap<Term, LogIndex>,
    replicas: BTreeMap<PeerId, Replica>,
    /// What replicas were before their disks went back: what they vouched for then was counted.
    former: BTreeMap<PeerId, Replica>,
    /// Which halves decided from an index on, ascending.
    quorums: Vec<(LogIndex, Vec<Half>)>,
}

/// The voters of a half.
type Half = Vec<PeerId>;

/// Whether these are a majority of every half.
fn is_quorum(halves: &[Half], holds: impl Fn(&PeerId) -> bool) -> bool {
    halves
        .iter()
        .all(|half| half.iter().filter(|voter| holds(voter)).count() > half.len() / 2)
}

/// The halves that decide in a log of which the entries up to `committed` are known to be committed: an entrance counts
/// from its append, an exit from its commit.
fn halves(who: &str, log: &PartitionLog, committed: LogIndex) -> Result<Vec<Half>, Violation> {
    let mut halves: Vec<Half> = Vec::new();
    let mut left = LogIndex::ZERO;
    for at in &log.configurations {
        let configuration = Configuration::decode(&at.body).map_err(|error| {
            Violation::new(
                "configurations can be read",
                format!("{who}: at {}: {error}", at.index),
            )
        })?;
        must(
            left <= committed,
            "nothing follows an exit that is not committed",
            || {
                format!(
                    "{who}: a configuration at {} behind an exit at {left}, committed is {committed}",
                    at.index
                )
            },
        )?;
        let leaves = configuration.step().leaves();
        if leaves {
            left = at.index;
        }
        if !leaves || at.index <= committed || halves.is_empty() {
            halves = configuration.halves().map(<[PeerId]>::to_vec).collect();
        }
    }
    Ok(halves)
}

impl Known {
    fn held_before(&self, me: PeerId, index: LogIndex, term: Term) -> bool {
        let former = self.former.get(&me);
        former.is_some_and(|former| former.holds(index, term))
    }

    fn committed_term(&self, index: LogIndex) -> Option<Term> {
        let at = usize::try_from(index.get()).ok()?.checked_sub(1)?;
        self.committed.get(at).copied()
    }

    /// The last entry that was certainly committed before that term.
    fn committed_before(&self, term: Term) -> LogIndex {
        let before = self.commits.range(..term).map(|(_, last)| *last);
        before.max().unwrap_or(LogIndex::ZERO)
    }
}

/// The consensus of all partitions, and what their machines agreed on.
#[derive(Debug)]
pub struct Consensus {
    known: BTreeMap<PartitionId, Known>,
    agreed: BTreeMap<PartitionId, Agreed>,
}

/// A vote that is about to leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VoteSent {
    pub(crate) partition: PartitionId,
    pub(crate) term: Term,
    pub(crate) to: NodeId,
}

impl Consensus {
    pub(crate) fn new(layout: &Layout) -> Self {
        let ids = || layout.partitions.iter().map(|partition| partition.id);
        Self {
            known: ids().map(|id| (id, Known::default())).collect(),
            agreed: ids().map(|id| (id, Agreed::default())).collect(),
        }
    }

    /// What the machines of a partition agreed on.
    ///
    /// # Panics
    /// If there is no such partition.
    #[must_use]
    pub fn agreed(&self, partition: PartitionId) -> &Agreed {
        &self.agreed[&partition]
    }

    pub(crate) fn agreed_mut(&mut self, partition: PartitionId) -> &mut Agreed {
        self.agreed.entry(partition).or_default()
    }

    /// The highest index that any replica knows to be committed.
    #[must_use]
    pub fn committed(&self, partition: PartitionId) -> LogIndex {
        let known = self.known.get(&partition);
        LogIndex(known.map_or(0, |known| known.committed.len() as u64))
    }

    /// Whether these hold a majority of every half that decided when `index` was committed.
    pub(crate) fn is_quorum_at(
        &self,
        partition: PartitionId,
        index: LogIndex,
        holds: impl Fn(&PeerId) -> bool,
    ) -> bool {
        let quorums = self.known.get(&partition).map(|known| &known.quorums);
        let quorums = quorums.map_or(&[][..], Vec::as_slice);
        let behind = quorums.partition_point(|(from, _)| *from <= index);
        behind > 0 && is_quorum(&quorums[behind - 1].1, holds)
    }

    // ---- messages

    /// Looks at a batch that leaves a shard. Returns the votes in it.
    pub(crate) fn on_sent(
        &mut self,
        from: PeerId,
        batch: &PeerBatch,
    ) -> Result<Vec<VoteSent>, Violation> {
        for beat in &batch.heartbeats {
            self.leads(beat.partition, beat.term, from)?;
        }
        for ack in &batch.heartbeat_acks {
            self.spoke(ack.partition, ack.term, from);
        }
        let mut votes = Vec::new();
        for message in &batch.messages {
            self.on_message(from, message, &mut votes)?;
        }
        Ok(votes)
    }

    fn on_message(
        &mut self,
        from: PeerId,
        message: &RaftMessage,
        votes: &mut Vec<VoteSent>,
    ) -> Result<(), Violation> {
        let (partition, term) = (message.partition, message.term);
        let to = match message.body {
            // Of terms nobody is in yet.
            RaftBody::PreVote { .. } | RaftBody::PreVoteResponse { .. } => return Ok(()),
            RaftBody::Append { .. } | RaftBody::TimeoutNow => {
                return self.leads(partition, term, from);
            }
            RaftBody::Vote { .. } => Some(from.node),
            // Whom a granted vote is for is known to the caller, who knows the receiver.
            _ => None,
        };
        self.spoke(partition, term, from);
        if let Some(to) = to {
            self.votes_for(partition, term, from, to)?;
            votes.push(VoteSent {
                partition,
                term,
                to,
            });
        }
        Ok(())
    }

    /// A granted vote leaves `from` for `to`.
    pub(crate) fn votes_for(
        &mut self,
        partition: PartitionId,
        term: Term,
        from: PeerId,
        to: NodeId,
    ) -> Result<(), Violation> {
        let known = self.known.entry(partition).or_default();
        let given = *known.votes.entry((term, from)).or_insert(to);
        must(given == to, "one vote for each term and replica", || {
            format!(
                "p{} t{term}: {} votes for {to}, and voted for {given}",
                partition.get(),
                name(from)
            )
        })
    }

    fn spoke(&mut self, partition: PartitionId, term: Term, from: PeerId) {
        let replica = self.replica(partition, from);
        replica.spoken = replica.spoken.max(term);
    }

    fn replica(&mut self, partition: PartitionId, me: PeerId) -> &mut Replica {
        let known = self.known.entry(partition).or_default();
        known.replicas.entry(me).or_default()
    }

    fn leads(
        &mut self,
        partition: PartitionId,
        term: Term,
        leader: PeerId,
    ) -> Result<(), Violation> {
        self.spoke(partition, term, leader);
        let known = self.known.entry(partition).or_default();
        let known = *known.leaders.entry(term).or_insert(leader);
        must(known == leader, "one leader for each term", || {
            format!(
                "p{} t{term}: {} leads, and {} does",
                partition.get(),
                name(leader),
                name(known)
            )
        })
    }

    // ---- lives

    /// A shard's disk is an older one of its own: what it vouched for and said since then it does not know. What others
    /// were told stays: no vote is given twice.
    pub(crate) fn went_back(&mut self, me: PeerId) {
        for known in self.known.values_mut() {
            if let Some(replica) = known.replicas.remove(&me) {
                known.former.insert(me, replica);
            }
        }
    }

    /// A shard's disk is a new one: who speaks from it is somebody else.
    pub(crate) fn is_another(&mut self, me: PeerId) {
        self.went_back(me);
        for known in self.known.values_mut() {
            known.votes.retain(|(_, voter), _| *voter != me);
        }
    }

    /// Whether a shard vouched for an entry before its disk went back.
    pub(crate) fn held_before(
        &self,
        partition: PartitionId,
        me: PeerId,
        index: LogIndex,
        term: Term,
    ) -> bool {
        let known = self.known.get(&partition);
        known.is_some_and(|known| known.held_before(me, index, term))
    }

    /// A shard booted: what it vouched for and what it said must have survived. `damaged` disks may have lost
    /// content, never votes.
    pub(crate) fn on_boot(
        &mut self,
        me: PeerId,
        core: &ShardCore,
        damaged: bool,
    ) -> Result<(), Violation> {
        for (id, known) in &mut self.known {
            let Some(replica) = known.replicas.get_mut(&me) else {
                continue;
            };
            let who = format!("p{} on {}", id.get(), name(me));
            let silent = core.log().quarantine().is_some();
            must(!silent || damaged, "an undamaged disk speaks", || {
                format!("{who}: {:?}", core.log().quarantine())
            })?;
            if !silent {
                let log = core.log().partition(*id);
                survived(&who, replica, log, damaged)?;
                let change = core.partition(*id).map(Partition::change);
                if let Some(Change::Joint { entered, .. }) = change {
                    must(
                        entered > replica.left,
                        "a configuration that was left does not come back",
                        || {
                            format!(
                                "{who}: left at {}, back in the one entered at {entered}",
                                replica.left
                            )
                        },
                    )?;
                }
                let state = log.map(|log| log.hard_state).unwrap_or_default();
                let vote = known.votes.get(&(state.term, me));
                must(
                    vote.is_none() || vote.copied() == state.vote,
                    "votes survive a restart",
                    || {
                        format!(
                            "{who}: voted {vote:?} in term {}, recovered {state:?}",
                            state.term
                        )
                    },
                )?;
            }
            // A term that was not durable was spoken of to nobody.
            replica.term = Term::ZERO;
            replica.committed = LogIndex::ZERO;
            replica.applied = LogIndex::ZERO;
            replica.verified = 0;
            replica.led = Term::ZERO;
        }
        Ok(())
    }

    // ---- turns

    /// Looks at a shard after a turn.
    pub(crate) fn after_turn(&mut self, me: PeerId, core: &ShardCore) -> Result<(), Violation> {
        for partition in core.partitions() {
            let mut status = partition.status();
            if status.role == Role::Quarantined {
                continue;
            }
            let Some(log) = core.log().partition(status.partition) else {
                continue;
            };
            // Content that came back is missing until its copy is durable.
            status.missing += core.log().copies_in_flight(status.partition);
            let durable = core
                .log()
                .durable(status.partition)
                .map_or(LogIndex::ZERO, |durable| durable.index());
            let who = format!("p{} on {}", status.partition.get(), name(me));
            // Before the log is open it vouches for nothing, yet its disk holds what it held.
            let durable = core.is_open().then_some(durable);
            self.look_at_log(&who, me, &status, log, durable)?;
            self.look_at_commit(&who, me, &status, log)?;
            if let Change::Finishing { exit, stated: None } = partition.change() {
                let replica = self.replica(status.partition, me);
                replica.left = replica.left.max(exit);
            }
            self.look_at_leader(&who, me, &status)?;
            self.look_at_machine(&who, me, &status, partition)?;
        }
        Ok(())
    }

    fn look_at_log(
        &mut self,
        who: &str,
        me: PeerId,
        status: &PartitionStatus,
        log: &PartitionLog,
        durable: Option<LogIndex>,
    ) -> Result<(), Violation> {
        must(
            status.last_index == log.last,
            "a replica's log is its shard's log",
            || format!("{who}: {} and {}", status.last_index, log.last),
        )?;
        must(
            status.durable <= durable.unwrap_or_default() || status.missing > 0,
            "a replica vouches for what its log does",
            || format!("{who}: {} and {durable:?}", status.durable),
        )?;
        let known = self.known.entry(status.partition).or_default();
        let replica = known.replicas.entry(me).or_default();
        must(status.term >= replica.term, "terms never go back", || {
            format!("{who}: {} after {}", status.term, replica.term)
        })?;
        replica.term = status.term;
        // Content lost at or below what was applied withdraws nothing that was vouched for.
        let vouched = durable.map(|durable| match status.missing {
            0 => durable,
            _ => durable.max(status.durable),
        });
        replica.durable = vouched.unwrap_or(replica.durable);
        if replica.last == log.last && replica.runs == log.terms {
            return Ok(());
        }
        replica.last = log.last;
        replica.runs.clone_from(&log.terms);
        let mut before = log.base_term;
        for run in &log.terms {
            let begin = (run.first, before);
            let same = *known.begins.entry(run.term).or_insert(begin);
            must(same == begin, "logs match", || {
                format!(
                    "{who}: term {} begins at {} behind term {before}, elsewhere at {} behind term {}",
                    run.term, run.first, same.0, same.1
                )
            })?;
            before = run.term;
        }
        Ok(())
    }

    fn look_at_commit(
        &mut self,
        who: &str,
        me: PeerId,
        status: &PartitionStatus,
        log: &PartitionLog,
    ) -> Result<(), Violation> {
        let known = self.known.entry(status.partition).or_default();
        let Some(replica) = known.replicas.get_mut(&me) else {
            return Ok(());
        };
        let (from, to) = (replica.committed, status.wal_committed);
        must(to >= from, "commit never goes back", || {
            format!("{who}: {to} after {from}")
        })?;
        replica.committed = to;
        let mut alone = false;
        // The term of the last entry that nobody knew to be committed before.
        let mut news = Term::ZERO;
        for index in (from.get() + 1..=to.get()).map(LogIndex) {
            let Some(term) = known.replicas[&me].term_at(index) else {
                return Err(Violation::new(
                    "what is committed is in the log",
                    format!("{who}: no entry at {index}, committed is {to}"),
                ));
            };
            if let Some(committed) = known.committed_term(index) {
                must(term == committed, "what is committed stays", || {
                    format!("{who}: index {index} has term {term}, committed was term {committed}")
                })?;
                continue;
            }
            let halves = halves(who, log, index.prev())?;
            let holds = |voter: &PeerId| {
                let replica = known.replicas.get(voter);
                replica.is_some_and(|replica| replica.holds(index, term))
                    || known.held_before(*voter, index, term)
            };
            must(
                is_quorum(&halves, holds),
                "what is committed is durable on a quorum",
                || {
                    let holders = halves.iter().flatten().filter(|voter| holds(voter));
                    let holders: Vec<_> = holders.collect();
                    format!("{who}: index {index} of term {term} is on {holders:?} of {halves:?}")
                },
            )?;
            known.committed.push(term);
            alone = halves.iter().all(|half| half == &[me]);
            if known.quorums.last().is_none_or(|(_, last)| *last != halves) {
                known.quorums.push((index, halves));
            }
            news = term;
            known.commits.insert(status.term, index);
        }
        let own = news == status.term || alone;
        must(
            own || news == Term::ZERO || status.role != Role::Leader,
            "a leader commits by an entry of its own term",
            || {
                format!(
                    "{who}: committed {to} of term {news}, leads term {}",
                    status.term
                )
            },
        )
    }

    fn look_at_leader(
        &mut self,
        who: &str,
        me: PeerId,
        status: &PartitionStatus,
    ) -> Result<(), Violation> {
        if status.role != Role::Leader {
            return Ok(());
        }
        self.leads(status.partition, status.term, me)?;
        let known = self.known.entry(status.partition).or_default();
        let Some(replica) = known.replicas.get_mut(&me) else {
            return Ok(());
        };
        if replica.led == status.term {
            return Ok(());
        }
        replica.led = status.term;
        let replica = &known.replicas[&me];
        // Votes that come late may make a leader of a term that is over: it need not have what later leaders committed.
        let bound = known.committed_before(status.term);
        let committed = (1..=bound.get()).map(LogIndex).zip(&known.committed);
        for (index, term) in committed {
            must(
                replica.term_at(index) == Some(*term),
                "a leader has everything committed",
                || {
                    format!(
                        "{who}: leads term {}, has {:?} at {index}, committed is term {term}",
                        status.term,
                        replica.term_at(index)
                    )
                },
            )?;
        }
        Ok(())
    }

    fn look_at_machine(
        &mut self,
        who: &str,
        me: PeerId,
        status: &PartitionStatus,
        partition: &Partition,
    ) -> Result<(), Violation> {
        let replica = self.replica(status.partition, me);
        let history = partition
            .machine()
            .and_then(|machine| machine.as_any().downcast_ref::<History>());
        let taken = history.map_or(&[][..], History::taken);
        let expired = history.map_or(&[][..], History::expired);
        let fewer = taken.len() < replica.verified || expired.len() < replica.verified_expired;
        if fewer || history.is_none() {
            // Made anew after it failed: it starts over.
            replica.verified = 0;
            replica.verified_expired = 0;
            replica.applied = LogIndex::ZERO;
        }
        must(
            status.applied >= replica.applied,
            "applied never goes back",
            || format!("{who}: {} after {}", status.applied, replica.applied),
        )?;
        replica.applied = status.applied;
        let ahead = status.applied > status.wal_committed || status.applied > replica.durable;
        must(
            !ahead || status.missing > 0,
            "what is applied is committed and durable here",
            || {
                format!(
                    "{who}: applied {}, committed {}, durable {}",
                    status.applied, status.wal_committed, replica.durable
                )
            },
        )?;
        // One on disk has more than went through the table again.
        let had = history.map_or(LogIndex::ZERO, History::opened);
        let last = taken.last().map_or(LogIndex::ZERO, |last| last.index);
        must(
            last <= status.applied.max(had),
            "machines take what is applied",
            || format!("{who}: took {last}, applied is {}", status.applied),
        )?;
        let verified = std::mem::replace(&mut replica.verified, taken.len());
        let compared = std::mem::replace(&mut replica.verified_expired, expired.len());
        let agreed = self.agreed_mut(status.partition);
        agreed.compare(who, verified, taken)?;
        agreed.compare_expired(who, compared, expired)
    }
}

/// What a replica vouched for, and what it said, is in the log it recovered.
fn survived(
    who: &str,
    replica: &Replica,
    log: Option<&PartitionLog>,
    damaged: bool,
) -> Result<(), Violation> {
    let durable = replica.durable;
    let recovered = log.and_then(|log| log.term_at(durable));
    must(
        durable == LogIndex::ZERO || recovered == replica.term_at(durable),
        "what is vouched for survives a restart",
        || {
            format!(
                "{who}: vouched for {durable} of term {:?}, recovered is term {recovered:?}",
                replica.term_at(durable)
            )
        },
    )?;
    let whole = log.map_or(LogIndex::ZERO, PartitionLog::whole_until);
    must(
        damaged || whole >= durable,
        "content that is vouched for survives a restart",
        || format!("{who}: vouched for {durable}, recovered whole until {whole}"),
    )?;
    let term = log.map_or(Term::ZERO, |log| log.hard_state.term);
    must(term >= replica.spoken, "terms survive a restart", || {
        format!("{who}: spoke in term {}, recovered {term}", replica.spoken)
    })
}
