//! The first start of a partition, and why an empty disk is no voter.
//!
//! A disk that was emptied looks like one on which nothing ever was, and a voter on it would have forgotten its votes and
//! entries. So a replica acts as a voter only under a configuration that names its incarnation, drawn when its disk was
//! formatted, and a voter counts only under the incarnation that the configuration names. The configuration that the
//! placement gives is nameless: under it nobody votes. Of its voters the lowest asks all others, and when each has said
//! that it is as new, and of the same first voters, it names all of them: that configuration takes the place of the nameless
//! one, here and then on
//! everybody who asks. Whoever has it tells it, and is new no more; so a voter whose disk was emptied after that never hears
//! from all others that they are new, and never is named: it stays out until its members are changed. That all first
//! voters are needed once is the price: a voter that is missing may be the one who knows better.
//!
//! A replica says what it is only when its creation is durable, and with it the incarnation: else a power loss would draw
//! another, and nobody would ever be who was named.
//!
//! There is one that names, so that there is one set of names. What it says is of its session; a session of its former life
//! ends before its empty disk can ask anybody.
//!
//! Where the disks of all first voters were emptied (of one, where it began alone), nobody that they ask knows better, and
//! they found the partition anew, though others may hold it who joined later. So whoever knows a member that a session shows
//! to be on another disk, or that does not vote, tells it the configuration in force; and one that founded and has seen no
//! change since, and hears that its place is another incarnation's, founded what was there already: it stops for good. What
//! it acknowledged until then is of that second history.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{Incarnation, LogIndex, Term};
use clustor_wire::message::RaftBody;

use super::configuration::{Configuration, Standing, Step};
use super::output::RecordToPersist;
use super::replica::{Replica, RoleState, Turn};
use crate::lent::{Bare, Lent};

/// A voter that is not named asks the others again after this long, in milliseconds; then after twice as long, and so on.
const ASK_MS_MIN: u64 = 100;
/// And after this long at most: thousands of partitions begin at once, and answers to all of them take their time.
const ASK_MS_MAX: u64 = 1_600;
/// The same once it knows that the place is another incarnation's.
const ASK_AGAIN_MS: u64 = 5_000;

/// What a replica that is not named has heard.
#[derive(Debug)]
pub(super) struct Founding {
    due: Time,
    ask_ms: u64,
    /// Who said in its present session that it is new, and as which incarnation.
    new: Vec<(PeerId, Incarnation)>,
    /// A configuration that names this replica's place for another incarnation was seen.
    replaced: Option<Incarnation>,
}

impl Founding {
    /// Nobody was heard, and nobody was asked.
    const NONE: Self = Self {
        due: Time(0),
        ask_ms: ASK_MS_MIN,
        new: Vec::new(),
        replaced: None,
    };
}

impl Bare for Founding {
    const BARE: &'static Self = &Self::NONE;

    fn bare() -> Self {
        Self::NONE
    }

    fn is_bare(&self) -> bool {
        self.new.is_empty() && self.replaced.is_none()
    }
}

/// Why a replica that has a voter's place is no voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Estranged {
    /// The partition starts for the first time, which this replica leads, and these were not heard yet.
    Waits(Vec<PeerId>),
    /// The partition starts for the first time, and this one hears the others.
    Asks(PeerId),
    /// The place is another incarnation's: the disk is a new one.
    Emptied {
        /// Whose the place is.
        named: Incarnation,
    },
    /// It founded the partition, which others hold who know its place as another incarnation's, or as one that does not
    /// vote: its disk is a new one. It does nothing any more.
    Refounded,
}

impl Replica {
    /// Whether the configuration in force has a voter in this replica's place that it is not: it is of another incarnation,
    /// or not named yet.
    pub(super) fn is_estranged(&self) -> bool {
        let named = self.configuration.incarnation_of(self.me);
        self.configuration.contains(self.me) && named != self.incarnation
    }

    /// Whether this replica alone is every majority.
    pub(super) fn decides_alone(&self) -> bool {
        self.configuration.is_sole_voter(self.me) && !self.is_estranged()
    }

    /// Whether a peer on a disk of this incarnation is who the configuration in force means; of those who do not vote
    /// everybody is.
    #[must_use]
    pub fn means(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        let named = self.configuration.incarnation_of(peer);
        named == Incarnation::ZERO || named == incarnation
    }

    /// Why this replica does not vote, though a voter has its place.
    #[must_use]
    pub fn estranged(&self) -> Option<Estranged> {
        if self
            .membership
            .first()
            .is_some_and(|first| self.refounds(first))
        {
            return Some(Estranged::Refounded);
        }
        if !self.is_estranged() {
            return None;
        }
        let named = self.configuration.incarnation_of(self.me);
        let named = (named != Incarnation::ZERO).then_some(named);
        Some(match named.or(self.founding.replaced) {
            Some(named) => Estranged::Emptied { named },
            None => match self.configuration.first().first() {
                Some(lowest) if *lowest != self.me => Estranged::Asks(*lowest),
                _ => self.waits(),
            },
        })
    }

    /// Whether the configuration at index 0 shows that this replica founded what was there already: see [`Self::stop_refounding`].
    pub(super) fn refounds(&self, first: &Configuration) -> bool {
        !first.is_nameless() && first.incarnation_of(self.me) != self.incarnation
    }

    fn waits(&self) -> Estranged {
        let heard = |peer: &PeerId| self.founding.new.iter().any(|(new, _)| new == peer);
        let others = self.configuration.others(self.me);
        Estranged::Waits(others.filter(|peer| !heard(peer)).collect())
    }

    /// Whether this replica may say that it is new.
    fn may_say_new(&self) -> bool {
        self.is_new() && self.is_on_disk
    }

    /// Whether nothing in the log names the voters, of which this replica would be one.
    fn is_new(&self) -> bool {
        self.is_estranged()
            && self.membership.first() == Some(&*self.configuration)
            && self.configuration.is_nameless()
            && !matches!(self.role, RoleState::Quarantined)
    }

    pub(super) fn founding_at(&self) -> Option<Time> {
        self.may_say_new().then_some(self.founding.due)
    }

    /// Asks the others, again and again, until it is named.
    pub(super) fn tick_founding(&mut self, turn: &mut Turn<'_>) {
        if !self.may_say_new() || turn.now < self.founding.due {
            return;
        }
        let replaced = self.founding.replaced.is_some();
        let ask_ms = self.founding.ask_ms;
        self.founding.ask_ms = (ask_ms * 2).min(ASK_MS_MAX);
        let again_ms = if replaced { ASK_AGAIN_MS } else { ask_ms };
        self.founding.due = turn.now.plus_ms(again_ms);
        let first = self.membership.first().into_iter();
        let others: Vec<PeerId> = first.flat_map(|first| first.others(self.me)).collect();
        let listed = self.membership.first().map(Configuration::encode);
        for peer in others {
            self.say_founding(turn, peer, listed.clone().unwrap_or_default());
        }
    }

    fn say_founding(&self, turn: &mut Turn<'_>, to: PeerId, configuration: Vec<u8>) {
        let message = clustor_wire::message::RaftMessage {
            partition: self.partition,
            term: Term::ZERO,
            body: RaftBody::Founding { configuration },
        };
        turn.out.messages.push((to, message));
    }

    /// A peer is new and asks, or tells which configuration the partition began with.
    pub(super) fn on_founding(&mut self, turn: &mut Turn<'_>, from: PeerId, told: &[u8]) {
        if matches!(self.role, RoleState::Quarantined) {
            return;
        }
        let Ok(told) = Configuration::decode(told) else {
            return;
        };
        if !told.is_nameless() {
            if self.is_refounded(&told) {
                self.stop_refounding(turn, &told);
            } else {
                self.take_names(turn, told);
            }
            return;
        }
        if !self.is_new() {
            let named = self.membership.first().filter(|first| !first.is_nameless());
            // A later configuration tells who is not meant; only the first one can be taken over.
            let later = Some(&*self.configuration).filter(|later| {
                let heard = turn.heard.get(&from).copied().unwrap_or_default();
                later.incarnation_of(from) != heard
            });
            if let Some(known) = named.or(later) {
                self.say_founding(turn, from, known.encode());
            }
            return;
        }
        let Some(first) = self.membership.first().filter(|_| self.is_on_disk) else {
            return;
        };
        // Who was told of other first voters may be counted elsewhere, too, and then by two majorities that miss each other.
        let same = told.first() == first.first();
        let asks_here = same && first.first().first() == Some(&self.me) && first.contains(from);
        let Some(incarnation) = turn.heard.get(&from).copied().filter(|_| asks_here) else {
            return;
        };
        self.founding.new.retain(|(peer, _)| *peer != from);
        self.founding.new.push((from, incarnation));
        let all = first.others(self.me).count();
        if self.founding.new.len() == all && self.founding.replaced.is_none() {
            let mut names = self.founding.new.clone();
            names.push((self.me, self.incarnation));
            if let Ok(named) = first.naming(&names) {
                self.found(turn, named);
            }
        }
    }

    /// What others began with, or have come to, since.
    fn take_names(&mut self, turn: &mut Turn<'_>, told: Configuration) {
        if !self.is_new() || told.is_nameless() {
            return;
        }
        let mine = told.incarnation_of(self.me);
        if mine == self.incarnation && self.founding.replaced.is_none() {
            let first = self.membership.first();
            let same = |first: &Configuration| first.first() == told.first();
            if told.step() == Step::States && first.is_some_and(same) {
                self.found(turn, told);
            }
        } else if mine != Incarnation::ZERO && mine != self.incarnation {
            self.founding.replaced = Some(mine);
        }
    }

    /// A session shows which disk `peer` is on. A member that may have founded the partition anew is told what is in force, and
    /// one that left may have to be told that. Whether there is more to be said to it in this turn.
    pub fn meet(&mut self, turn: &mut Turn<'_>, peer: PeerId, incarnation: Incarnation) -> bool {
        let known = &self.configuration;
        let doubtful = match known.standing(peer) {
            Some(Standing::Voter) => known.incarnation_of(peer) != incarnation,
            standing => standing.is_some(),
        };
        if doubtful && !known.is_nameless() && !matches!(self.role, RoleState::Quarantined) {
            self.say_founding(turn, peer, known.encode());
        }
        // For that alone nobody is woken.
        let awake = matches!(&self.role, RoleState::Leader(leading) if !leading.quiet);
        awake && self.configuration.standing(peer).is_none() && self.tell_departed(turn, Some(peer))
    }

    /// Whether `told` is of a history that is not this replica's: it founded, nothing has changed its configuration since,
    /// and `told`, which knows it, names none of those who founded.
    fn is_refounded(&self, told: &Configuration) -> bool {
        let founded = |first: &Configuration| {
            first.incarnation_of(self.me) == self.incarnation
                && first
                    .first()
                    .iter()
                    .all(|peer| told.incarnation_of(*peer) != first.incarnation_of(*peer))
        };
        !self.is_new()
            && told.standing(self.me).is_some()
            && self.membership.is_as_founded()
            && self.membership.first().is_some_and(founded)
    }

    /// Stops for good what should never have begun. What the others have takes the place of what was founded here, so that
    /// a restart knows.
    fn stop_refounding(&mut self, turn: &mut Turn<'_>, told: &Configuration) {
        let theirs = told.founded();
        turn.out.records.push(RecordToPersist::Founding {
            partition: self.partition,
            configuration: theirs.encode(),
        });
        self.quarantine(turn);
        self.membership.name(theirs);
        self.obey_membership();
    }

    /// From here on the voters are named.
    fn found(&mut self, turn: &mut Turn<'_>, named: Configuration) {
        turn.out.records.push(RecordToPersist::Founding {
            partition: self.partition,
            configuration: named.encode(),
        });
        let others: Vec<PeerId> = named.others(self.me).collect();
        let body = named.encode();
        let alone = named.first().first() == Some(&self.me);
        self.membership.name(named);
        self.obey_membership();
        self.founding = Lent::default();
        self.reset_election_timer(turn.now);
        if alone {
            for peer in others {
                self.say_founding(turn, peer, body.clone());
            }
        }
    }

    /// A session with `peer` began, or is another life's: what it said before is of another disk, maybe.
    pub(super) fn forget_founder(&mut self, peer: PeerId) {
        if self.is_new() {
            self.founding.new.retain(|(new, _)| *new != peer);
            self.founding.due = Time::default();
            self.founding.ask_ms = ASK_MS_MIN;
        }
    }

    /// The disk of `peer` is another one: what it acknowledged before is void.
    pub fn peer_renewed(&mut self, now: Time, peer: PeerId) {
        let next: LogIndex = self.log.last().next();
        if let RoleState::Leader(leading) = &mut self.role
            && let Some(progress) = leading.of_mut(peer)
        {
            *progress = super::progress::Progress::new(peer, next, now);
        }
    }
}
