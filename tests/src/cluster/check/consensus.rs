//! Consensus: elections, votes, logs, commits and watermarks, of every partition on every replica.

mod turns;

use std::collections::BTreeMap;
use std::fmt;

use clustor_engine::partition::Partition;
use clustor_engine::raft::{Change, Configuration};
use clustor_engine::shard_core::ShardCore;
use clustor_shards::log::{PartitionLog, TermRun};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, NodeId, PartitionId, Term};
use clustor_wire::message::{PeerBatch, RaftBody, RaftMessage, Role};

use super::machines::Agreed;
use super::{Violation, must};
use crate::cluster::layout::Layout;
use crate::cluster::marks::Marks;
use crate::cluster::messages::name;

/// A replica, put into words only where it broke a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who(pub(crate) PartitionId, pub(crate) PeerId);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{} on {}", self.0.get(), name(self.1))
    }
}

/// One replica as it was last seen.
#[derive(Debug, Default, Clone)]
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
    /// Up to where its election timeouts were drawn, in milliseconds; 0 where it was not seen since it booted.
    window_ms: u32,
    /// The latest term whose election a slow path gave more time.
    widened_for: Term,
    /// Up to where they were drawn before that, until they are again.
    usual_ms: Option<u32>,
    /// How it stood, once it was seen since it booted.
    stood: Option<(Role, Change)>,
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
    /// What replicas were before their disks went back or lost something: what they vouched for then may have been counted, or
    /// may be once somebody gets round to it.
    former: BTreeMap<PeerId, Vec<Replica>>,
    /// Which halves decided from an index on, ascending.
    quorums: Vec<(LogIndex, Vec<Half>)>,
    /// How often a log lost its end to that of a leader.
    cut_back: u64,
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
fn halves(who: Who, log: &PartitionLog, committed: LogIndex) -> Result<Vec<Half>, Violation> {
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
    /// Whether a replica vouched for an entry in `since` or later, and lost it: a leader of that term may have counted it.
    /// A leader of a later term counts what it is told in its own.
    fn held_before(&self, me: PeerId, index: LogIndex, term: Term, since: Term) -> bool {
        let mut former = self.former.get(&me).into_iter().flatten();
        former.any(|former| former.term >= since && former.holds(index, term))
    }

    fn committed_term(&self, index: LogIndex) -> Option<Term> {
        let at = usize::try_from(index.get()).ok()?.checked_sub(1)?;
        self.committed.get(at).copied()
    }

    fn spoke(&mut self, term: Term, from: PeerId) {
        let replica = self.replicas.entry(from).or_default();
        replica.spoken = replica.spoken.max(term);
    }

    fn leads(
        &mut self,
        partition: PartitionId,
        term: Term,
        leader: PeerId,
    ) -> Result<(), Violation> {
        self.spoke(term, leader);
        let known = *self.leaders.entry(term).or_insert(leader);
        must(known == leader, "one leader for each term", || {
            format!(
                "p{} t{term}: {} leads, and {} does",
                partition.get(),
                name(leader),
                name(known)
            )
        })
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
    marks: Marks,
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
            marks: Marks::default(),
        }
    }

    /// The paths that replicas were seen to take.
    pub(crate) fn marks(&self) -> Marks {
        let mut marks = self.marks.clone();
        for known in self.known.values() {
            marks.on_cut_back(known.cut_back);
        }
        marks
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

    /// All attempts of an operation at a shard were refused.
    pub(crate) fn refused_at(
        &mut self,
        partition: PartitionId,
        op: u64,
        at: PeerId,
    ) -> Result<(), Violation> {
        let leaders = &self.known.entry(partition).or_default().leaders;
        let agreed = self.agreed.entry(partition).or_default();
        agreed.refuse_from(op, at, leaders)
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

    /// What is committed, from the first entry on.
    pub(crate) fn committed_entries(
        &self,
        partition: PartitionId,
    ) -> impl Iterator<Item = (LogIndex, Term)> {
        let known = self.known.get(&partition).into_iter();
        known.flat_map(|known| (1..).map(LogIndex).zip(known.committed.iter().copied()))
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
        let known = self.known.entry(partition).or_default();
        known.spoke(term, from);
    }

    fn leads(
        &mut self,
        partition: PartitionId,
        term: Term,
        leader: PeerId,
    ) -> Result<(), Violation> {
        let known = self.known.entry(partition).or_default();
        known.leads(partition, term, leader)
    }

    // ---- lives

    /// A shard's disk is an older one of its own: what it vouched for and said since then it does not know. What others
    /// were told stays: no vote is given twice.
    pub(crate) fn went_back(&mut self, me: PeerId) {
        for known in self.known.values_mut() {
            if let Some(replica) = known.replicas.remove(&me) {
                known.former.entry(me).or_default().push(replica);
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
        known.is_some_and(|known| known.held_before(me, index, term, Term::ZERO))
    }

    /// Whether a shard vouches for an entry, by what it said last.
    pub(crate) fn vouches(
        &self,
        partition: PartitionId,
        me: PeerId,
        index: LogIndex,
        term: Term,
    ) -> bool {
        let replica = self
            .known
            .get(&partition)
            .and_then(|known| known.replicas.get(&me));
        replica.is_some_and(|replica| replica.holds(index, term))
    }

    /// A shard booted: what it vouched for and what it said must have survived. Only a disk that is `lossy` may have lost content,
    /// and only one that `may_silence` may keep it silent; what it does not own up to by silence has its name still, and votes
    /// survive.
    pub(crate) fn on_boot(
        &mut self,
        me: PeerId,
        core: &ShardCore,
        lossy: bool,
        may_silence: bool,
    ) -> Result<(), Violation> {
        for (id, known) in &mut self.known {
            let Some(replica) = known.replicas.get_mut(&me) else {
                continue;
            };
            let who = Who(*id, me);
            let silent = core.log().quarantine().is_some();
            must(
                !silent || may_silence,
                "a disk that lost nothing speaks",
                || format!("{who}: {:?}", core.log().quarantine()),
            )?;
            if !silent {
                let log = core.log().partition(*id);
                survived(who, replica, log, lossy)?;
                if log.is_some_and(|log| log.whole_until() < replica.durable) {
                    let former = known.former.entry(me).or_default();
                    former.push(replica.clone());
                }
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
            replica.stood = None;
            replica.window_ms = 0;
            replica.widened_for = Term::ZERO;
            replica.usual_ms = None;
        }
        Ok(())
    }
}

/// What a replica vouched for, and what it said, is in the log it recovered.
fn survived(
    who: Who,
    replica: &Replica,
    log: Option<&PartitionLog>,
    lossy: bool,
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
        lossy || whole >= durable,
        "content that is vouched for survives a restart",
        || format!("{who}: vouched for {durable}, recovered whole until {whole}"),
    )?;
    let term = log.map_or(Term::ZERO, |log| log.hard_state.term);
    must(term >= replica.spoken, "terms survive a restart", || {
        format!("{who}: spoke in term {}, recovered {term}", replica.spoken)
    })
}
