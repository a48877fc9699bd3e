//! Which configuration is in force: the records of it in the log, and which exits from a joint one are known to hold.
//!
//! A record that states members or enters a joint configuration takes effect when it is appended, and is undone by a
//! truncation. One that leaves a joint configuration, forward or back, takes effect only once it is committed by
//! majorities of both halves: two ways out that were each effective at once would give two disjoint quorums (Ongaro,
//! "Consensus", section 4.3, has one way out only). Per entrance the first exit in the order of the log decides; later
//! ones mean nothing, and a leader with an exit in its log appends none.
//!
//! A replica acts on a committed exit once a record of that is durable here, or a restart would put it back into the
//! joint configuration and in need of voters that may be gone by then. The leader that acted on an exit states the members
//! once more: any such record in a log proves the exit before it, and once it is committed a majority of the
//! configuration has that proof. Until then those who do not vote any more go on to get the log, to vote and to campaign:
//! their logs may be longer than those of the others, who may need their votes and would not get them. They count the
//! votes of the new configuration, and hand over at once.
//!
//! All records behind the log's base are kept, without another bound, since a truncation goes back to the one before, and lost
//! content is asked of those who voted since: three for each change of voters, one for each learner, as operators decide.

use std::sync::Arc;

use clustor_shards::alike::Alike;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{Incarnation, LogIndex, Term};

use super::configuration::{Configuration, Step};

/// Those who left last, and are told so again if they may not know, are so many at most.
pub(super) const DEPARTED_MAX: usize = 8;

/// A configuration and its place in the log; index 0 is the one the partition was created with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationAt {
    /// Its term.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
    /// The configuration.
    pub configuration: Arc<Configuration>,
}

/// How far a change of voters is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// None is under way.
    None,
    /// Two halves decide since `entered`.
    Joint {
        /// The record that entered.
        entered: LogIndex,
        /// The way out, if one is in the log, and whether it leads back.
        exit: Option<(LogIndex, bool)>,
    },
    /// One half decides again; those who left are needed until the record that states so is committed.
    Finishing {
        /// The way out that was taken.
        exit: LogIndex,
        /// The record behind it that states the members, once it is in the log.
        stated: Option<LogIndex>,
    },
}

/// The records and what is known of them.
#[derive(Debug)]
pub(super) struct Membership {
    /// In the order of the log; the first one holds as it stands.
    entries: Vec<ConfigurationAt>,
    /// The newest committed exit whose record is durable here.
    recorded: Option<Box<(Term, LogIndex)>>,
    /// An exit whose record is on its way to the disk.
    asked: Option<LogIndex>,
    /// The newest place of which it was heard that a configuration without this replica is committed there.
    excluded: Option<Box<(Term, LogIndex)>>,
}

impl Membership {
    /// What the log holds.
    ///
    /// # Panics
    /// Without a configuration.
    pub(super) fn new(
        mut entries: Vec<ConfigurationAt>,
        recorded: Option<(Term, LogIndex)>,
    ) -> Self {
        assert!(!entries.is_empty(), "a partition has a configuration");
        // Most partitions have one, and there may be thousands of them.
        entries.shrink_to_fit();
        Self {
            entries,
            recorded: recorded.map(Box::new),
            asked: None,
            excluded: None,
        }
    }

    /// It is quiet: keeps each configuration with those who have the same.
    pub(super) fn rest(&mut self, known: &mut Alike<Configuration>) {
        self.entries.shrink_to_fit();
        for at in &mut self.entries {
            known.share(&mut at.configuration);
        }
    }

    /// A record came to stand at the end of the log.
    pub(super) fn push(&mut self, term: Term, index: LogIndex, configuration: Configuration) {
        self.entries.push(ConfigurationAt {
            term,
            index,
            configuration: Arc::new(configuration),
        });
    }

    /// Everything from `from` on is gone. Returns whether a configuration was among it.
    pub(super) fn truncate(&mut self, from: LogIndex) -> bool {
        let before = self.entries.len();
        self.entries.retain(|at| at.index < from);
        assert!(!self.entries.is_empty(), "the first one is committed");
        self.entries.len() < before
    }

    /// The record of the exit at (`term`, `index`) is durable.
    pub(super) fn recorded(&mut self, term: Term, index: LogIndex) {
        if !self.is_recorded(index) {
            self.recorded = Some(Box::new((term, index)));
        }
        if self.asked == Some(index) {
            self.asked = None;
        }
    }

    /// The configuration that the partition was created with, if the log still begins there.
    pub(super) fn first(&self) -> Option<&Configuration> {
        let first = &self.entries[0];
        (first.index == LogIndex::ZERO).then_some(&*first.configuration)
    }

    /// Whether no record has changed the members since the partition was founded.
    pub(super) fn is_as_founded(&self) -> bool {
        self.entries.len() == 1 && self.entries[0].index == LogIndex::ZERO
    }

    /// The first configuration was nameless and is not any more, or it was not the first.
    pub(super) fn name(&mut self, configuration: Configuration) {
        assert!(self.entries[0].index == LogIndex::ZERO);
        self.entries[0].configuration = Arc::new(configuration);
    }

    fn is_recorded(&self, index: LogIndex) -> bool {
        self.recorded.as_ref().is_some_and(|at| at.1 >= index)
    }

    /// Which record is in force, and which way out of it waits to be committed or recorded.
    fn fold(&self) -> (&ConfigurationAt, Option<&ConfigurationAt>) {
        let mut current = &self.entries[0];
        let mut exit: Option<&ConfigurationAt> = None;
        for at in &self.entries[1..] {
            if at.configuration.step().leaves() {
                if current.configuration.is_joint() && exit.is_none() {
                    if self.is_recorded(at.index) {
                        current = at;
                    } else {
                        exit = Some(at);
                    }
                }
            } else if !current.configuration.is_joint() || exit.is_some() {
                // Whoever appended it had seen the exit before it committed.
                current = at;
                exit = None;
            }
        }
        (current, exit)
    }

    /// The configuration in force.
    pub(super) fn active(&self) -> &Arc<Configuration> {
        &self.fold().0.configuration
    }

    /// Whether `peer` is a member in any configuration of the log.
    pub(super) fn knows(&self, peer: PeerId) -> bool {
        let mut all = self.entries.iter();
        all.any(|at| at.configuration.standing(peer).is_some())
    }

    /// The newest configurations, back to the latest entrance into a joint one.
    fn latest(&self) -> &[ConfigurationAt] {
        let enters = |at: &ConfigurationAt| at.configuration.step() == Step::Enters;
        let newest = self.entries.len() - 1;
        let from = self.entries.iter().rposition(enters).unwrap_or(newest);
        &self.entries[from..]
    }

    /// Everybody but `me` who is a member back to the latest entrance into a joint configuration, some of them more than once.
    pub(super) fn named(&self, me: PeerId) -> impl Iterator<Item = PeerId> {
        let configurations = self.latest().iter().map(|at| &at.configuration);
        configurations.flat_map(move |configuration| configuration.members(me))
    }

    /// The newest word on where members listen, back to the latest entrance into a joint configuration.
    pub(super) fn addresses(&self) -> Vec<(PeerId, &str)> {
        let mut known: Vec<(PeerId, &str)> = Vec::new();
        for at in self.latest().iter().rev() {
            for note in at.configuration.notes() {
                if !known.iter().any(|(peer, _)| *peer == note.peer) {
                    known.push((note.peer, &note.address));
                }
            }
        }
        known
    }

    /// The index of the newest record.
    pub(super) fn newest(&self) -> LogIndex {
        self.newest_place().1
    }

    /// The place of the newest record.
    pub(super) fn newest_place(&self) -> (Term, LogIndex) {
        let newest = self.entries.last();
        newest.map_or((Term::ZERO, LogIndex::ZERO), |at| (at.term, at.index))
    }

    /// A configuration without this replica is committed at this place.
    pub(super) fn excluded(&mut self, place: (Term, LogIndex)) {
        if self.excluded.as_deref().is_none_or(|known| *known < place) {
            self.excluded = Some(Box::new(place));
        }
    }

    /// Whether such a configuration is as new as any in the log. What stands in the log behind it, of an older term, was never
    /// committed, and never will be.
    pub(super) fn is_excluded(&self) -> bool {
        let excluded = self.excluded.as_deref();
        excluded.is_some_and(|at| at.1 > LogIndex::ZERO && *at >= self.newest_place())
    }

    /// The exit whose record is due, given what is committed. It is asked for once.
    pub(super) fn exit_to_record(&mut self, committed: LogIndex) -> Option<(Term, LogIndex)> {
        let exit = self.fold().1.filter(|at| at.index <= committed)?;
        let place = (exit.term, exit.index);
        if self.asked == Some(place.1) {
            return None;
        }
        self.asked = Some(place.1);
        Some(place)
    }

    /// How far a change of voters is, given what is committed.
    pub(super) fn change(&self, committed: LogIndex) -> Change {
        let (current, exit) = self.fold();
        if current.configuration.is_joint() {
            let back = |at: &ConfigurationAt| at.configuration.step() == Step::LeavesBack;
            return Change::Joint {
                entered: current.index,
                exit: exit.map(|at| (at.index, back(at))),
            };
        }
        match self.last_exit() {
            Some((exit, stated)) if stated.is_none_or(|stated| stated > committed) => {
                Change::Finishing { exit, stated }
            }
            _ => Change::None,
        }
    }

    /// The newest exit that was taken, if voters left by it, and the record behind it.
    fn last_exit(&self) -> Option<(LogIndex, Option<LogIndex>)> {
        let place = self
            .entries
            .iter()
            .rposition(|at| at.configuration.step().leaves())?;
        let stated = self.entries.get(place + 1).map(|at| at.index);
        Some((self.entries[place].index, stated))
    }

    /// The joint configuration that was left and is needed for a moment yet, given what is committed.
    fn left(&self, committed: LogIndex) -> Option<&Configuration> {
        let Change::Finishing { exit, .. } = self.change(committed) else {
            return None;
        };
        let left = self.entries.iter().rfind(|at| at.index < exit)?;
        Some(&left.configuration)
    }

    /// Who is no member in force but was one by the log, and as which incarnation if it voted: those who left last, at most
    /// [`DEPARTED_MAX`].
    pub(super) fn departed(&self, me: PeerId) -> Vec<(PeerId, Incarnation)> {
        let active = self.active();
        let mut departed: Vec<(PeerId, Incarnation)> = Vec::new();
        for at in self.entries.iter().rev() {
            for peer in at.configuration.members(me) {
                let stays = active.standing(peer).is_some();
                if !stays && !departed.iter().any(|(known, _)| *known == peer) {
                    departed.push((peer, at.configuration.incarnation_of(peer)));
                }
            }
        }
        departed.truncate(DEPARTED_MAX);
        departed
    }

    /// Everybody but `me` who is to get the log, each once, given what is committed.
    pub(super) fn recipients(&self, me: PeerId, committed: LogIndex) -> Vec<PeerId> {
        let mut peers: Vec<PeerId> = self.active().members(me).collect();
        let left = self.left(committed).into_iter();
        for peer in left.flat_map(|left| left.others(me)) {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        peers
    }

    /// Whether `me` campaigns when nobody leads: it votes, or did until a moment ago.
    pub(super) fn may_campaign(&self, me: PeerId, committed: LogIndex) -> bool {
        let left = || self.left(committed).is_some_and(|left| left.contains(me));
        self.active().contains(me) || left()
    }

    /// The configurations in force at `index` or behind it, those that were not left yet among them.
    pub(super) fn in_force_from(&self, index: LogIndex) -> impl Iterator<Item = &Configuration> {
        let behind = self.entries.partition_point(|at| at.index <= index);
        self.entries[behind.saturating_sub(1)..]
            .iter()
            .map(|at| &*at.configuration)
    }
}
