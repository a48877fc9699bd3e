//! The state of one replica, and how it changes role. Which state belongs to which role is visible here: what only
//! a leader or a candidate has dies with the role.

use std::collections::BTreeMap;
use std::sync::Arc;

use clustor_shards::log::HashSuite;
use clustor_shards::log::proof::{ExitDurable, HardStateDurable, LocalDurable};
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PairNumber, PartitionId, Term};
use clustor_wire::message::{RaftBody, RaftMessage};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::bounds::Apart;
use super::cache::{CacheSlot, EntryCache};
use super::configuration::Configuration;
use super::durability::Modes;
use super::durable::OwnDurable;
use super::founding::Founding;
use super::log_view::LogView;
use super::membership::{ConfigurationAt, Membership};
use super::output::{Applicable, Leadership, LeadershipChange, Output, RecordToPersist};
use super::refetch::Refetching;
use super::replication::Leading;
use super::settings::{Limits, ReplicaConfig, Restored, Timers};
use crate::lent::Lent;

/// Messages held back until the hard state is durable, at most; a later one takes the place of the oldest, as if
/// the network had lost it.
const HELD_MAX: usize = 32;

/// What a replica is lent for one turn.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The time, sampled after the last item of the inbox.
    pub now: Time,
    /// Which node and shard this is.
    pub me: PeerId,
    /// The pair the log writes to at present: travels in acknowledgements.
    pub segment_seq: PairNumber,
    /// How the log writes (0 FixedUring, 1 RegisteredUring, 2 Blocking): travels in acknowledgements.
    pub io_writer_mode: u8,
    /// The shard's cache of entries.
    pub cache: &'a mut EntryCache,
    /// The incarnation that was heard last of each peer.
    pub heard: &'a BTreeMap<PeerId, Incarnation>,
    /// Where decisions go.
    pub out: &'a mut Output,
    /// The clock behind `now` can't be trusted: no lease is earned or relied on.
    pub clock_alarm: bool,
}

/// Votes heard so far.
#[derive(Debug, Default)]
pub(super) struct Votes(pub(super) Vec<(PeerId, bool)>);

impl Votes {
    /// Takes a voter's first answer.
    pub(super) fn take(&mut self, voter: PeerId, yes: bool) {
        if self.of(voter).is_none() {
            self.0.push((voter, yes));
        }
    }

    pub(super) fn of(&self, voter: PeerId) -> Option<bool> {
        self.0
            .iter()
            .find(|(p, _)| *p == voter)
            .map(|(_, yes)| *yes)
    }
}

/// The role, with what only that role has.
#[derive(Debug)]
pub(super) enum RoleState {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Box<Leading>),
    Quarantined,
}

/// What a follower owes its leader at the end of the turn.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Owed {
    /// An append came and fitted.
    pub(super) accepted: bool,
    /// The durable index was asked for again, or may have been lost.
    pub(super) durability: bool,
    /// The latest heartbeat round to answer.
    pub(super) round: Option<u64>,
    /// What was last acknowledged as durable in this term.
    pub(super) acknowledged: LogIndex,
}

/// One replica of one partition.
#[derive(Debug)]
pub struct Replica {
    pub(super) partition: PartitionId,
    pub(super) me: PeerId,
    /// Which formatting of the disk this replica is on.
    pub(super) incarnation: Incarnation,
    /// The one in force, as `membership` has it.
    pub(super) configuration: Arc<Configuration>,
    pub(super) membership: Membership,
    /// A leader's followers may be others than its configuration says.
    pub(super) sync_followers: bool,
    /// Addresses in the configurations may be others than were handed out.
    pub(super) addresses_moved: bool,
    pub(super) timers: Arc<Timers>,
    /// What elections go by besides.
    pub(super) apart: Option<Box<Apart>>,
    pub(super) limits: Arc<Limits>,
    /// Of entries framed here.
    pub(super) leaf: Option<HashSuite>,
    pub(super) slot: CacheSlot,

    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) hard_state_durable: bool,
    /// Its creation is durable.
    pub(super) is_on_disk: bool,
    pub(super) held: Lent<Vec<(PeerId, RaftMessage)>>,

    pub(super) log: LogView,
    pub(super) durable: OwnDurable,
    pub(super) modes: Modes,
    /// Highest index known to match the log of this term's leader; its own last if it leads.
    pub(super) matched: LogIndex,
    /// Durable on a quorum; monotone.
    pub(super) committed: LogIndex,
    pub(super) raft_commit: LogIndex,
    pub(super) applicable: LogIndex,
    /// The greatest stamp this replica has seen since it was made.
    pub(super) stamp_ms: u64,

    pub(super) role: RoleState,
    pub(super) leader: Option<PeerId>,
    /// When the present or a former leader was last heard.
    pub(super) leader_heard: Option<Time>,
    pub(super) late_heartbeats: u8,
    /// When the last heartbeat came whose lateness was judged.
    pub(super) beat_judged: Option<Time>,
    pub(super) owed: Owed,
    pub(super) election_due: Time,
    pub(super) window_ms: u32,
    /// The latest term for which the window was widened because the path to the leader was slow.
    pub(super) widened_for: Term,
    /// It follows without being told anything: its leader's shard is heard in its place.
    pub(super) quiet: bool,
    /// It is quarantined, and nobody else votes: what stands before the damage is applied, for reads that rely on nothing more.
    pub(super) reads_only: bool,
    /// Its machine can't go on: others had better lead.
    pub(super) is_lame: bool,
    /// Until then it gives no vote: it may have forgotten a promise, or mistaken its end.
    pub(super) silent_until: Time,
    /// Until then it has promised a leader to elect nobody else, unless that leader asks for it.
    pub(super) shelter_until: Time,
    pub(super) frames_refused: u32,
    pub(super) refetching: Lent<Refetching>,
    /// Entries fetched since the replica was made.
    pub(super) refetched: u32,
    pub(super) founding: Lent<Founding>,
    random: SplitMix64,
}

impl Replica {
    /// A replica as its log left it. It speaks, votes and campaigns only once the log has proved what it says.
    ///
    /// # Panics
    /// If the restored log contradicts itself, or limits and timers make no sense (a zero, a least above its most).
    #[must_use]
    pub fn new(
        config: ReplicaConfig,
        restored: Restored,
        now: Time,
        cache: &mut EntryCache,
    ) -> Self {
        let timers = config.timers;
        check_bounds(&timers, &config.limits);
        // Term 0 was never voted nor heard a leader in: there is nothing it could have forgotten.
        let silence_ms = if restored.term == Term::ZERO {
            0
        } else {
            timers.silence_ms()
        };
        let log = LogView::new(
            restored.base,
            restored.base_term,
            restored.runs,
            restored.last,
            restored.missing,
        );
        let mut configurations = restored.configurations;
        if configurations.is_empty() {
            configurations.push(ConfigurationAt {
                term: Term::ZERO,
                index: LogIndex::ZERO,
                configuration: Arc::new(config.voters),
            });
        }
        let membership = Membership::new(configurations, restored.exit_committed);
        let mut replica = Self {
            partition: config.partition,
            me: config.me,
            incarnation: config.incarnation,
            configuration: Arc::clone(membership.active()),
            membership,
            sync_followers: false,
            addresses_moved: true,
            window_ms: timers.election_ms_max,
            widened_for: Term::ZERO,
            apart: None,
            timers,
            limits: config.limits,
            leaf: config.leaf,
            slot: cache.register(),
            term: restored.term,
            vote: restored.vote,
            hard_state_durable: restored.term == Term::ZERO,
            is_on_disk: false,
            held: Lent::default(),
            durable: OwnDurable::default(),
            modes: Modes::new(config.mode),
            matched: LogIndex::ZERO,
            committed: log.base(),
            raft_commit: log.base(),
            applicable: log.base(),
            stamp_ms: 0,
            log,
            role: if restored.quarantined {
                RoleState::Quarantined
            } else {
                RoleState::Follower
            },
            leader: None,
            leader_heard: None,
            late_heartbeats: 0,
            beat_judged: None,
            owed: Owed::default(),
            election_due: now,
            silent_until: now.plus_ms(silence_ms),
            shelter_until: Time::default(),
            quiet: false,
            reads_only: false,
            is_lame: false,
            frames_refused: 0,
            refetching: Lent::default(),
            refetched: 0,
            founding: Lent::default(),
            random: SplitMix64::seed_from_u64(config.seed),
        };
        if replica
            .membership
            .first()
            .is_some_and(|first| replica.refounds(first))
        {
            replica.role = RoleState::Quarantined;
        } else if let Some(until) = restored.stands_until {
            replica.stand_alone(until);
        }
        if !replica.decides_alone() {
            replica.reset_election_timer(now);
        }
        replica
    }

    /// Quarantined, as everything that a sole voter had acknowledged is in its own log and can't be taken back by anybody, what
    /// stands of that before the damage is committed. Behind it there may be anything, also another voter: so nothing else follows.
    fn stand_alone(&mut self, until: LogIndex) {
        if !matches!(self.role, RoleState::Quarantined) || !self.decides_alone() {
            return;
        }
        self.reads_only = true;
        self.committed = self.committed.max(until);
        self.raft_commit = self.committed;
        self.applicable = self.committed;
    }

    /// Whether it is quarantined for damage in its log and was the only voter as far as that tells: it applies what stands before the
    /// damage, up to [`Self::applicable`], and does nothing else.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.reads_only
    }

    /// Obeys other bounds from here on. What is drawn or in flight under those before stays: a timer that runs is not
    /// drawn again, so that nothing is due earlier than it was promised.
    ///
    /// # Panics
    /// If they make no sense (a zero, a least above its most).
    pub fn retune(&mut self, now: Time, timers: Arc<Timers>, limits: Arc<Limits>) {
        check_bounds(&timers, &limits);
        let before = self.bounds();
        self.timers = timers;
        self.limits = limits;
        self.turn_bounds(now, before);
        self.lose_lease();
    }

    /// Gives back what the replica holds of the shard's cache.
    pub fn retire(self, cache: &mut EntryCache) {
        cache.release(self.slot);
    }

    /// The log has proved that everything up to the proof's index, as the log stands now, is durable here.
    ///
    /// # Panics
    /// If the proof is another partition's, or of an entry that this log does not hold: it was kept across a
    /// truncation, and an acknowledgement built on it would be false.
    pub fn on_local_durable(&mut self, proof: LocalDurable) {
        assert_eq!(proof.partition(), self.partition);
        assert!(
            proof.index() < self.log.base()
                || self.log.term_at(proof.index()) == Some(proof.term()),
            "partition {}: a proof of durability of an entry that the log does not hold",
            self.partition
        );
        self.durable.raise(proof);
        self.is_on_disk = true;
        self.clip_missing();
    }

    /// The content of these entries was found to be damaged here. What is above the applicable index counts as
    /// durable no longer; nothing that was counted before is withdrawn. Returns whether that of any was not known.
    pub fn on_missing(&mut self, first: LogIndex, last: LogIndex) -> bool {
        let before = self.log.missing_count();
        self.log.mark_missing(first, last);
        self.clip_missing();
        self.log.missing_count() > before
    }

    /// Content that is missing is vouched for by nobody.
    fn clip_missing(&mut self) {
        if let Some(missing) = self.log.missing_from(self.applicable.next()) {
            self.durable.truncate(missing);
        }
    }

    /// The log has proved a term and a vote durable. Proofs of former ones are of no use.
    ///
    /// # Panics
    /// If the proof is another partition's.
    pub fn on_hard_state_durable(&mut self, turn: &mut Turn<'_>, proof: HardStateDurable) {
        assert_eq!(proof.partition(), self.partition);
        if proof.term() != self.term || proof.vote() != self.vote || self.hard_state_durable {
            return;
        }
        self.hard_state_durable = true;
        if !self.held.is_empty() {
            turn.out.messages.append(&mut self.held);
        }
        // It is needed at elections only.
        self.held.give_back();
        if self.decides_alone() {
            // Nobody else to be heard: it need not wait for a timeout, only for what it may have promised to a leader while
            // others voted, too.
            self.election_due = if self.membership.is_as_founded() {
                turn.now
            } else {
                turn.now.max(self.silent_until).max(self.shelter_until)
            };
        }
        self.count_own_vote(turn);
    }

    /// The log has proved the record of a committed exit from a joint configuration durable: it is acted on.
    ///
    /// # Panics
    /// If the proof is another partition's.
    pub fn on_exit_durable(&mut self, proof: ExitDurable) {
        assert_eq!(proof.partition(), self.partition);
        self.membership.recorded(proof.term(), proof.index());
        self.obey_membership();
    }

    /// Stops this replica for good: its content or its votes can't be trusted. It answers nothing any more.
    pub fn quarantine(&mut self, turn: &mut Turn<'_>) {
        self.leave_role(turn);
        self.role = RoleState::Quarantined;
        self.leader = None;
        self.held = Lent::default();
        self.owed = Owed::default();
    }

    /// Time has passed.
    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        self.tick_founding(turn);
        match self.role {
            RoleState::Quarantined => {}
            RoleState::Leader(_) => self.tick_leader(turn),
            _ if turn.now >= self.election_due && !self.quiet => self.on_election_timeout(turn),
            _ => {}
        }
    }

    /// When [`Self::tick`] is due; `None` for never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let role = match &self.role {
            RoleState::Quarantined => return None,
            RoleState::Leader(leading) if leading.quiet => None,
            RoleState::Leader(leading) => Some(leading.next_deadline(&self.timers)),
            _ if self.quiet => None,
            _ if self.leader.is_some() || self.may_campaign() => Some(self.election_due),
            _ => None,
        };
        [role, self.refetch_at(), self.founding_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ends the turn for this replica: commits, sends, acknowledges for everything that came together.
    pub fn finish_turn(&mut self, turn: &mut Turn<'_>) {
        if matches!(self.role, RoleState::Quarantined) {
            return;
        }
        if self.is_leader() {
            self.finish_leading(turn);
        } else {
            if self.decides_alone() {
                self.commit_alone();
            }
            self.finish_following(turn);
        }
        self.record_exit(turn);
        self.finish_refetch(turn);
        self.advance_applicable(turn.out);
    }

    fn advance_applicable(&mut self, out: &mut Output) {
        let known = self.committed.min(self.matched_for_apply());
        let index = known.min(self.durable.index());
        if index > self.applicable {
            self.applicable = index;
            out.applicable.push(Applicable {
                partition: self.partition,
                index,
            });
        }
    }

    /// A sole voter's prefix is committed as it stands, with or without a leader's term to match in.
    fn matched_for_apply(&self) -> LogIndex {
        if self.decides_alone() {
            self.log.last()
        } else {
            self.matched
        }
    }

    /// Sends now if term and vote are durable, and when they are otherwise. A message never outlives the term it
    /// was made in.
    pub(super) fn send(&mut self, out: &mut Output, to: PeerId, term: Term, body: RaftBody) {
        let message = RaftMessage {
            partition: self.partition,
            term,
            body,
        };
        if self.hard_state_durable {
            out.messages.push((to, message));
            return;
        }
        if self.held.len() == HELD_MAX {
            self.held.remove(0);
        }
        self.held.push((to, message));
    }

    /// Changes term and vote. What was held back depended on the former ones and is dropped.
    pub(super) fn set_hard_state(&mut self, out: &mut Output, term: Term, vote: Option<NodeId>) {
        assert!(term >= self.term, "terms never go back");
        assert!(
            term > self.term || self.vote.is_none() || self.vote == vote,
            "a vote is never changed"
        );
        if term == self.term && vote == self.vote {
            return;
        }
        self.quiet = false;
        if term > self.term {
            self.held = Lent::default();
            self.owed = Owed::default();
            self.refetch_anew();
            self.matched = LogIndex::ZERO;
        }
        self.term = term;
        self.vote = vote;
        self.hard_state_durable = false;
        out.records.push(RecordToPersist::HardState {
            partition: self.partition,
            term,
            vote,
        });
    }

    /// Follows `leader`, or waits for one, in `term`.
    pub(super) fn become_follower(
        &mut self,
        turn: &mut Turn<'_>,
        term: Term,
        leader: Option<PeerId>,
    ) {
        self.leave_role(turn);
        if term > self.term {
            self.set_hard_state(turn.out, term, None);
        }
        let changed = self.leader != leader;
        self.leader = leader;
        self.role = RoleState::Follower;
        if changed {
            self.announce(turn.out, Leadership::Follower { leader });
        }
    }

    /// Ends what only the present role has.
    pub(super) fn leave_role(&mut self, turn: &mut Turn<'_>) {
        if self.is_leader() {
            self.fail_reads(turn.out);
            self.matched = LogIndex::ZERO;
            self.leader = None;
            self.announce(turn.out, Leadership::Lost);
            self.reset_election_timer(turn.now);
        }
        self.role = RoleState::Follower;
        self.quiet = false;
    }

    pub(super) fn announce(&self, out: &mut Output, change: Leadership) {
        out.leadership.push(LeadershipChange {
            partition: self.partition,
            term: self.term,
            change,
        });
    }

    /// The next election is due after a time drawn from the present window, [min/max x window, window], and not before its
    /// silence ends: its own vote is one too.
    pub(super) fn reset_election_timer(&mut self, now: Time) {
        let window = u64::from(self.window_ms) * 1000;
        let bounds = self.bounds();
        let least = window * u64::from(bounds.election_ms_min) / u64::from(bounds.election_ms_max);
        let span = window - least + 1;
        let drawn = ((u128::from(self.random.next_u64()) * u128::from(span)) >> 64) as u64;
        // A replica that could not serve lets those go first that can.
        let wait = if self.could_serve() { 0 } else { window };
        self.election_due = now.plus_us(wait + least + drawn).max(self.silent_until);
    }
}

fn check_bounds(timers: &Timers, limits: &Limits) {
    assert!(timers.heartbeat_ms > 0);
    assert!(timers.election_ms_min > timers.heartbeat_ms);
    assert!(timers.election_ms_max >= timers.election_ms_min);
    assert!(timers.election_backoff_ms_max >= timers.election_ms_max);
    assert!(timers.rpc_ms_min > 0 && timers.rpc_ms_max >= timers.rpc_ms_min);
    assert!(limits.inflight_batches_max > 0);
    assert!(limits.structural_lag_bytes_max >= limits.catch_up_bytes_max);
}
