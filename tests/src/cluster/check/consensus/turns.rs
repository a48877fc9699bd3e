//! What a shard shows after a turn of its own, partition by partition.

use std::borrow::Cow;

use clustor_engine::partition::Partition;
use clustor_engine::raft::{Change, Glance, Timers};
use clustor_engine::shard_core::ShardCore;
use clustor_shards::log::{PartitionLog, TermRun};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, Term};
use clustor_wire::message::Role;

use super::super::machines::Agreed;
use super::super::{Violation, must};
use super::{Consensus, Half, Known, Replica, Who, halves, is_quorum};
use crate::cluster::machine::History;
use crate::cluster::marks::Marks;

impl Consensus {
    /// Looks at a shard after a turn. Content may be missing only where its log may hold damage.
    pub(crate) fn after_turn(
        &mut self,
        me: PeerId,
        core: &ShardCore,
        damaged: bool,
    ) -> Result<(), Violation> {
        let Self {
            known,
            agreed,
            marks,
        } = self;
        for partition in core.partitions() {
            let mut glance = partition.glance();
            let change = partition.change();
            let known = known.entry(glance.partition).or_default();
            if glance.role == Role::Quarantined {
                known.mark(me, (glance.role, change), marks);
                continue;
            }
            let Some(log) = core.log().partition(glance.partition) else {
                continue;
            };
            must(
                damaged || glance.missing == 0,
                "content is missing where a disk lost it or failed",
                || format!("{}: {} entries", Who(glance.partition, me), glance.missing),
            )?;
            // Content that came back is missing until its copy is durable.
            glance.missing += core.log().copies_in_flight(glance.partition);
            // Before the log is open it vouches for nothing, yet its disk holds what it held.
            let durable = core.is_open().then(|| {
                let durable = core.log().durable(glance.partition);
                durable.map_or(LogIndex::ZERO, |durable| durable.index())
            });
            let who = Who(glance.partition, me);
            known.look_at_log(who, &glance, log, durable)?;
            known.mark(me, (glance.role, change), marks);
            known.look_at_commit(who, &glance, log)?;
            // What a boot recovered that never opens its log, a power loss may take back.
            if core.is_open()
                && let Change::Finishing { exit, stated: None } = change
            {
                let replica = known.replicas.entry(me).or_default();
                replica.left = replica.left.max(exit);
            }
            known.look_at_leader(who, &glance)?;
            let replica = known.replicas.entry(me).or_default();
            look_at_window(who, replica, &glance, marks)?;
            let agreed = agreed.entry(glance.partition).or_default();
            look_at_machine(who, replica, agreed, &glance, partition)?;
            agreed.trace_origins(&known.leaders)?;
        }
        Ok(())
    }
}

impl Known {
    /// Marks a role and a step of a change of voters when it is new.
    fn mark(&mut self, me: PeerId, stands: (Role, Change), marks: &mut Marks) {
        let replica = self.replicas.entry(me).or_default();
        let before = replica.stood.replace(stands);
        if before == Some(stands) {
            return;
        }
        if before.map(|(role, _)| role) != Some(stands.0) {
            marks.on_role(stands.0);
        }
        if before.map(|(_, change)| change) != Some(stands.1) {
            marks.on_change(&stands.1);
        }
    }

    fn look_at_log(
        &mut self,
        who: Who,
        glance: &Glance,
        log: &PartitionLog,
        durable: Option<LogIndex>,
    ) -> Result<(), Violation> {
        must(
            glance.last_index == log.last,
            "a replica's log is its shard's log",
            || format!("{who}: {} and {}", glance.last_index, log.last),
        )?;
        must(
            glance.durable <= durable.unwrap_or_default() || glance.missing > 0,
            "a replica vouches for what its log does",
            || format!("{who}: {} and {durable:?}", glance.durable),
        )?;
        let replica = self.replicas.entry(who.1).or_default();
        must(glance.term >= replica.term, "terms never go back", || {
            format!("{who}: {} after {}", glance.term, replica.term)
        })?;
        replica.term = glance.term;
        // Content lost at or below what was applied withdraws nothing that was vouched for.
        let vouched = durable.map(|durable| match glance.missing {
            0 => durable,
            _ => durable.max(glance.durable),
        });
        let before = replica.durable;
        replica.durable = vouched.unwrap_or(before);
        // What was lost and found out is withdrawn; it may have been counted, or may be once somebody gets round to it.
        if glance.missing > 0
            && replica.durable < before
            && log.term_at(before) == replica.term_at(before)
        {
            let was = Replica {
                durable: before,
                ..replica.clone()
            };
            self.former.entry(who.1).or_default().push(was);
        }
        let runs = self.runs_of(log);
        let replica = self.replicas.entry(who.1).or_default();
        if replica.last == log.last && replica.runs == *runs {
            return Ok(());
        }
        self.cut_back += u64::from(replica.stood.is_some() && log.last < replica.last);
        replica.last = log.last;
        replica.runs = runs.into_owned();
        let mut before = Term::ZERO;
        for run in &replica.runs {
            let begin = (run.first, before);
            let same = *self.begins.entry(run.term).or_insert(begin);
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

    /// The terms of a log from index 1 on. What it gave up was committed, and so is known.
    fn runs_of<'a>(&self, log: &'a PartitionLog) -> Cow<'a, [TermRun]> {
        if log.base == LogIndex::ZERO {
            return Cow::Borrowed(&log.terms);
        }
        let mut runs: Vec<TermRun> = Vec::new();
        let gone = (1..=log.base.get()).map(LogIndex).zip(&self.committed);
        let gone = gone.map(|(first, term)| TermRun { term: *term, first });
        for run in gone.chain(log.terms.iter().copied()) {
            if runs.last().is_none_or(|last| last.term != run.term) {
                runs.push(run);
            }
        }
        Cow::Owned(runs)
    }

    fn look_at_commit(
        &mut self,
        who: Who,
        glance: &Glance,
        log: &PartitionLog,
    ) -> Result<(), Violation> {
        let Some(replica) = self.replicas.get_mut(&who.1) else {
            return Ok(());
        };
        let (from, to) = (replica.committed, glance.wal_committed);
        must(to >= from, "commit never goes back", || {
            format!("{who}: {to} after {from}")
        })?;
        replica.committed = to;
        // The term of the last entry that nobody knew to be committed before, and who decided on it.
        let mut news = Term::ZERO;
        let mut deciding: Option<Vec<Half>> = None;
        for index in (from.get() + 1..=to.get()).map(LogIndex) {
            let Some(term) = self.replicas[&who.1].term_at(index) else {
                return Err(Violation::new(
                    "what is committed is in the log",
                    format!("{who}: no entry at {index}, committed is {to}"),
                ));
            };
            if let Some(committed) = self.committed_term(index) {
                must(term == committed, "what is committed stays", || {
                    format!("{who}: index {index} has term {term}, committed was term {committed}")
                })?;
                continue;
            }
            // They change only where a configuration has just been committed.
            let before = index.prev();
            if log.configurations.iter().any(|at| at.index == before) {
                deciding = None;
            }
            let halves = match deciding.take() {
                Some(halves) => halves,
                None => halves(who, log, before)?,
            };
            self.is_durable(who, glance.term, index, term, &halves)?;
            self.is_led_with(who, glance.term, index, term)?;
            self.committed.push(term);
            if self.quorums.last().is_none_or(|(_, last)| *last != halves) {
                self.quorums.push((index, halves.clone()));
            }
            deciding = Some(halves);
            news = term;
            self.commits.insert(glance.term, index);
        }
        let alone = deciding.is_some_and(|halves| halves.iter().all(|half| half == &[who.1]));
        let own = news == glance.term || alone;
        must(
            own || news == Term::ZERO || glance.role != Role::Leader,
            "a leader commits by an entry of its own term",
            || {
                format!(
                    "{who}: committed {to} of term {news}, leads term {}",
                    glance.term
                )
            },
        )
    }

    /// Somebody in an earlier term is the first to know of this entry: who leads a later one has had it since it was elected.
    fn is_led_with(
        &self,
        who: Who,
        known_in: Term,
        index: LogIndex,
        term: Term,
    ) -> Result<(), Violation> {
        for (later, leader) in self.leaders.range(known_in.next()..) {
            let replica = self.replicas.get(leader);
            let leads = replica.filter(|replica| replica.led == *later && replica.term == *later);
            must(
                leads.is_none_or(|replica| replica.term_at(index) == Some(term)),
                "a leader has everything committed",
                || {
                    format!(
                        "{who}: committed {index} of term {term} in term {known_in}, {leader:?} leads term {later} without it"
                    )
                },
            )?;
        }
        Ok(())
    }

    fn is_durable(
        &self,
        who: Who,
        known_in: Term,
        index: LogIndex,
        term: Term,
        halves: &[Half],
    ) -> Result<(), Violation> {
        // One that led until this turn may have decided on it as a leader.
        let led = self.replicas.get(&who.1).map(|replica| replica.led);
        let decided = led.filter(|led| *led > Term::ZERO).unwrap_or(known_in);
        let decided = decided.min(known_in);
        let holds = |voter: &PeerId| {
            let replica = self.replicas.get(voter);
            replica.is_some_and(|replica| replica.holds(index, term))
                || self.held_before(*voter, index, term, decided)
        };
        must(
            is_quorum(halves, holds),
            "what is committed is durable on a quorum",
            || {
                let holders = halves.iter().flatten().filter(|voter| holds(voter));
                let holders: Vec<_> = holders.collect();
                format!("{who}: index {index} of term {term} is on {holders:?} of {halves:?}")
            },
        )
    }

    fn look_at_leader(&mut self, who: Who, glance: &Glance) -> Result<(), Violation> {
        if glance.role != Role::Leader {
            return Ok(());
        }
        self.leads(glance.partition, glance.term, who.1)?;
        let Some(replica) = self.replicas.get_mut(&who.1) else {
            return Ok(());
        };
        if replica.led == glance.term {
            return Ok(());
        }
        replica.led = glance.term;
        let replica = &self.replicas[&who.1];
        // Votes that come late may make a leader of a term that is over: it need not have what later leaders committed.
        let bound = self.committed_before(glance.term);
        let committed = (1..=bound.get()).map(LogIndex).zip(&self.committed);
        for (index, term) in committed {
            must(
                replica.term_at(index) == Some(*term),
                "a leader has everything committed",
                || {
                    format!(
                        "{who}: leads term {}, has {:?} at {index}, committed is term {term}",
                        glance.term,
                        replica.term_at(index)
                    )
                },
            )?;
        }
        Ok(())
    }
}

/// An election is given more time for a slow path, while it lasts.
fn look_at_window(
    who: Who,
    replica: &mut Replica,
    glance: &Glance,
    marks: &mut Marks,
) -> Result<(), Violation> {
    let window_ms = glance.election_window_ms;
    let before = std::mem::replace(&mut replica.window_ms, window_ms);
    let widened = std::mem::replace(&mut replica.widened_for, glance.widened_for);
    if replica.usual_ms.is_some_and(|usual| window_ms <= usual) {
        replica.usual_ms = None;
        marks.on_window(false);
    }
    if before == 0 || widened == glance.widened_for {
        return Ok(());
    }
    let campaigns = matches!(glance.role, Role::PreCandidate | Role::Candidate);
    let most = before >= Timers::LOCAL.election_backoff_ms_max;
    must(
        !campaigns || most || window_ms > before,
        "a slow path gives an election more time",
        || format!("{who}: {window_ms} ms, {before} before"),
    )?;
    if window_ms > before {
        replica.usual_ms = Some(before);
        marks.on_window(true);
    }
    Ok(())
}

fn look_at_machine(
    who: Who,
    replica: &mut Replica,
    agreed: &mut Agreed,
    glance: &Glance,
    partition: &Partition,
) -> Result<(), Violation> {
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
    let applied = partition.applied();
    must(
        applied >= replica.applied,
        "applied never goes back",
        || format!("{who}: {applied} after {}", replica.applied),
    )?;
    replica.applied = applied;
    must(
        applied <= glance.wal_committed.min(replica.durable),
        "what is applied is committed and durable here",
        || {
            format!(
                "{who}: applied {applied}, committed {}, durable {}",
                glance.wal_committed, replica.durable
            )
        },
    )?;
    // One on disk has more than went through the table again.
    let had = history.map_or(LogIndex::ZERO, History::opened);
    let last = taken.last().map_or(LogIndex::ZERO, |last| last.index);
    must(
        last <= applied.max(had),
        "machines take what is applied",
        || format!("{who}: took {last}, applied is {applied}"),
    )?;
    let verified = std::mem::replace(&mut replica.verified, taken.len());
    let compared = std::mem::replace(&mut replica.verified_expired, expired.len());
    agreed.compare(who, verified, taken)?;
    agreed.compare_expired(who, compared, expired)
}
