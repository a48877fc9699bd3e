//! Changing who belongs to a partition: what a leader is asked for, and what it does by itself until the change is over.
//!
//! A learner comes first: it gets the log and counts for nothing. Once it has caught up it may be promoted, which enters a
//! joint configuration, if the voters behind it could stand what those before it can; when [`JOINT_COMMITS`] entries behind
//! the entrance are committed by both halves, the leader appends the way out, forward; when the exit is committed and
//! recorded it states the members once more. If nothing is committed for a while, or the new voters are not what they must
//! be (`fitness`), the way out that it appends leads back. A leader that does not vote any more hands over.

use std::sync::Arc;

use clustor_shards::log::record::RecordKind;
use clustor_shards::turn::{PeerId, Time};
use clustor_wire::ids::{Incarnation, LogIndex};

use super::configuration::{Configuration, ConfigurationError, Standing, Step};
use super::entry::EntryKind;
use super::fitness::{CATCH_UP_MS_MAX, Fitness, JOINT_COMMITS, Verdict};
use super::membership::Change;
use super::output::RecordToPersist;
use super::progress::Progress;
use super::propose::Position;
use super::replica::{Replica, RoleState, Turn};

/// Those who left hear for this many milliseconds that the change is over.
const LINGER_MS: u64 = 1_000;

/// What a leader is asked to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// One more replica gets the log, and counts for nothing.
    AddLearner {
        /// Its node and shard.
        peer: PeerId,
        /// Where it listens for its peers; empty if the placement says.
        address: String,
    },
    /// The same for one that is never to vote.
    AddObserver {
        /// Its node and shard.
        peer: PeerId,
        /// Where it listens for its peers; empty if the placement says.
        address: String,
    },
    /// A member listens elsewhere.
    Address {
        /// Its node and shard.
        peer: PeerId,
        /// Where it listens for its peers; empty if the placement says.
        address: String,
    },
    /// A learner or an observer gets the log no more.
    RemoveSilent(PeerId),
    /// Other voters: `add` are learners that have caught up, `remove` are voters.
    Voters {
        /// Learners that are to vote.
        add: Vec<PeerId>,
        /// Voters that are to leave.
        remove: Vec<PeerId>,
    },
    /// Leaves a joint configuration for the voters before it.
    RollBack,
}

/// Why a change was refused. It left no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This replica does not lead.
    #[error("this replica does not lead the partition; ask the leader, if it is known: {leader:?}")]
    NotLeader {
        /// Who does, if known.
        leader: Option<PeerId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being handed over to {to:?}; ask there in a moment")]
    HandingOver {
        /// To whom.
        to: PeerId,
    },
    /// The leader has committed nothing in its term yet, or an earlier change is not over.
    #[error(
        "an earlier change (at entry {index}) is not over, or nothing was committed since the election; ask again in a moment"
    )]
    UnderWay {
        /// The newest configuration in the log.
        index: LogIndex,
    },
    /// A learner that is to vote lags.
    #[error("node {} is {behind} entries behind, or silent; it may vote once it has caught up", peer.node)]
    Lags {
        /// Which.
        peer: PeerId,
        /// Entries it does not hold durably.
        behind: u64,
    },
    /// A learner that is to vote answers, and does not come nearer.
    #[error(
        "node {} is {behind} entries behind and has not caught up in {} s: it takes in less than is appended; append less, or remove it",
        peer.node,
        CATCH_UP_MS_MAX / 1000
    )]
    NeverCatchesUp {
        /// Which.
        peer: PeerId,
        /// Entries it does not hold durably.
        behind: u64,
    },
    /// The voters that would decide could not stand what the present ones can.
    #[error(
        "of the {voters} voters after the change, node {} (and maybe others) is silent or behind: they {}; bring it back, or remove it by the same change or before it",
        unfit.node,
        if *spare < 0 { "would have no quorum" } else { "could not stand one more loss, which the present voters can" }
    )]
    WouldNotSurvive {
        /// How many voters there would be.
        voters: usize,
        /// How many of those who answer and have caught up they could lose; less than 0 if they have no quorum.
        spare: isize,
        /// The first of those who do not.
        unfit: PeerId,
    },
    /// It is not what the change takes it for.
    #[error("node {} is not a {wanted} of the partition", peer.node)]
    NotA {
        /// Which.
        peer: PeerId,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// There is no joint configuration to leave.
    #[error("there is nothing to roll back")]
    NothingToRollBack,
    /// A way out of the joint configuration is in the log already.
    #[error(
        "the change ends already, {} by the exit at entry {index}, and is over when that is committed",
        if *back { "back" } else { "forward" }
    )]
    LeftAlready {
        /// The exit.
        index: LogIndex,
        /// Whether it leads to the voters before the change.
        back: bool,
    },
    /// The configuration that would result can't be.
    #[error("{0}")]
    Configuration(#[from] ConfigurationError),
    /// An entry's content is missing, and nothing behind it can be committed.
    #[error("the content of entry {index} is missing here; nothing behind it can be committed")]
    MissingContent {
        /// The first such entry.
        index: LogIndex,
    },
}

impl Replica {
    /// Changes who belongs to the partition. What a change of voters needs after this, the leader does by itself, whoever
    /// leads then; [`Self::change_under_way`] says how far it is.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing happened.
    pub fn change_members(
        &mut self,
        turn: &mut Turn<'_>,
        change: &MemberChange,
    ) -> Result<Position, ChangeError> {
        // Whom it did not hear while it was quiet is not silent.
        self.wake_leader(turn.now);
        let RoleState::Leader(leading) = &self.role else {
            let leader = self.leader;
            return Err(ChangeError::NotLeader { leader });
        };
        if let Some(transfer) = &leading.transfer {
            return Err(ChangeError::HandingOver { to: transfer.to });
        }
        if let Some(index) = self.log.missing_from(self.applicable.next()) {
            return Err(ChangeError::MissingContent { index });
        }
        let newest = self.membership.newest();
        let state = self.membership.change(self.committed);
        if *change == MemberChange::RollBack {
            return match state {
                Change::Joint { exit: None, .. } => Ok(self.leave_joint(turn, true)?),
                Change::Joint {
                    exit: Some((index, back)),
                    ..
                } => Err(ChangeError::LeftAlready { index, back }),
                _ => Err(ChangeError::NothingToRollBack),
            };
        }
        let settled = state == Change::None && newest.max(leading.term_start) <= self.committed;
        if !settled {
            return Err(ChangeError::UnderWay { index: newest });
        }
        if matches!(change, MemberChange::Voters { .. }) {
            self.look(turn);
        }
        let next = self.changed(turn, change)?;
        Ok(self.append_configuration(turn, next))
    }

    /// The configuration that a change leads to from the one in force.
    fn changed(
        &self,
        turn: &Turn<'_>,
        change: &MemberChange,
    ) -> Result<Configuration, ChangeError> {
        let current = &self.configuration;
        let must_be = |peer: &PeerId, standing: Standing, wanted: &'static str| {
            let peer = *peer;
            let is = current.standing(peer) == Some(standing);
            is.then_some(()).ok_or(ChangeError::NotA { peer, wanted })
        };
        Ok(match change {
            MemberChange::AddLearner { peer, address } => {
                current.with_member(*peer, Standing::Learner, address)?
            }
            MemberChange::AddObserver { peer, address } => {
                current.with_member(*peer, Standing::Observer, address)?
            }
            MemberChange::Address { peer, address } => current.with_address(*peer, address)?,
            MemberChange::RemoveSilent(peer) => {
                let wanted = "learner or observer";
                if current.standing(*peer) != Some(Standing::Observer) {
                    must_be(peer, Standing::Learner, wanted)?;
                }
                current.without_member(*peer)?
            }
            MemberChange::Voters { add, remove } => {
                for peer in add {
                    must_be(peer, Standing::Learner, "learner")?;
                    self.must_have_caught_up(turn, *peer)?;
                }
                for peer in remove {
                    must_be(peer, Standing::Voter, "voter")?;
                }
                // A voter is a replica on one formatting of its disk: the one that caught up.
                let named = |peer: &PeerId| Some((*peer, *turn.heard.get(peer)?));
                let named: Vec<_> = add.iter().filter_map(named).collect();
                let joint = current.entering(add, remove)?.naming(&named)?;
                self.must_survive(turn, joint.first(), joint.second(), LogIndex::ZERO)?;
                joint
            }
            MemberChange::RollBack => return Err(ChangeError::NothingToRollBack),
        })
    }

    fn append_configuration(
        &mut self,
        turn: &mut Turn<'_>,
        configuration: Configuration,
    ) -> Position {
        let body = configuration.encode();
        let mode = self.modes.mode();
        let position = self.append_record(turn, RecordKind::Configuration, mode, &[&body]);
        self.membership
            .push(position.term, position.index, configuration);
        self.obey_membership();
        position
    }

    fn leave_joint(
        &mut self,
        turn: &mut Turn<'_>,
        back: bool,
    ) -> Result<Position, ConfigurationError> {
        let next = self.configuration.leaving(back)?;
        Ok(self.append_configuration(turn, next))
    }

    /// The configuration in force may be another one from here on.
    pub(super) fn obey_membership(&mut self) {
        if self.configuration != *self.membership.active() {
            self.configuration = Arc::clone(self.membership.active());
        }
        self.sync_followers = true;
        self.addresses_moved = true;
    }

    /// Whether other addresses may be noted than when it was asked last.
    pub fn take_addresses_moved(&mut self) -> bool {
        core::mem::take(&mut self.addresses_moved)
    }

    /// Where members listen, as the configurations of its log say, back to the one that the latest change began with: who
    /// left by it is needed for a moment yet. The newest word on each; empty if the placement says.
    #[must_use]
    pub fn addresses(&self) -> Vec<(PeerId, &str)> {
        self.membership.addresses()
    }

    /// Everybody but `me` who is a member by the configurations of its log, back to the one that the latest change of voters
    /// began with: who left by it is needed for a moment yet. Some of them more than once.
    pub fn named(&self, me: PeerId) -> impl Iterator<Item = PeerId> {
        self.membership.named(me)
    }

    /// A committed exit is recorded before it is acted on.
    pub(super) fn record_exit(&mut self, turn: &mut Turn<'_>) {
        if let Some((term, index)) = self.membership.exit_to_record(self.committed) {
            turn.out.records.push(RecordToPersist::ExitCommitted {
                partition: self.partition,
                term,
                index,
            });
        }
    }

    /// What a leader does by itself for a change that is under way.
    pub(super) fn drive_change(&mut self, turn: &mut Turn<'_>) {
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        let change = self.membership.change(self.committed);
        if leading.change_seen != change {
            leading.change_seen = change;
            leading
                .fitness
                .get_or_insert_with(|| Box::new(Fitness::new(self.log.last(), turn.now)))
                .begin_anew(turn.now);
            leading.lingers_until = turn.now.plus_ms(LINGER_MS);
            self.sync_followers = true;
        }
        let settled = self.committed >= leading.term_start;
        let stays = leading.transfer.is_none();
        self.look_at_fitness(turn);
        match change {
            Change::Joint {
                entered,
                exit: None,
            } if stays => self.drive_joint(turn, entered, settled),
            Change::Finishing { stated: None, .. } if self.configuration.contains(self.me) => {
                let next = self.configuration.restated();
                debug_assert_eq!(next.step(), Step::States);
                self.append_configuration(turn, next);
            }
            _ => {}
        }
        self.sync(turn.now);
        self.step_aside(turn);
    }

    /// Stays in a joint configuration until enough is committed in it, and leaves it.
    fn drive_joint(&mut self, turn: &mut Turn<'_>, entered: LogIndex, settled: bool) {
        let enough = settled && self.committed.get() >= entered.get() + JOINT_COMMITS;
        let back = match self.judge_joint(turn, enough) {
            Verdict::Back => true,
            Verdict::Forward => false,
            Verdict::Waits => {
                // A round of both halves after another, for want of others' entries.
                if settled && !enough && self.committed == self.log.last() {
                    self.append_own(turn, EntryKind::Empty, 0, None, &[]);
                }
                return;
            }
        };
        // A half that is left over from a valid joint configuration is valid.
        let _ = self.leave_joint(turn, back);
    }

    /// Followers come and go with the configuration.
    fn sync(&mut self, now: Time) {
        if !self.sync_followers {
            return;
        }
        let recipients = self.membership.recipients(self.me, self.committed);
        let next = self.log.last().next();
        // Before that is committed, who left can't be told.
        let is_open = self.membership.newest() > self.committed;
        let RoleState::Leader(leading) = &mut self.role else {
            return;
        };
        for progress in &mut leading.progress {
            let leaves = !progress.left || is_open;
            if leaves && !recipients.contains(&progress.peer()) {
                progress.left = true;
                leading.lingers_until = now.plus_ms(LINGER_MS);
            }
        }
        let linger = now < leading.lingers_until;
        self.sync_followers = linger;
        for peer in recipients {
            match leading.of_mut(peer) {
                Some(progress) if progress.left => {
                    *progress = Progress::new(peer, next, now);
                }
                Some(_) => {}
                None => leading.progress.push(Progress::new(peer, next, now)),
            }
        }
        leading.progress.retain(|p| linger || !p.left);
    }

    /// Somebody has a session, or this replica was elected: those who left, and may not have been told by who led then, hear it
    /// for a moment, if they are on the disk that was a member. Whether anybody is told.
    pub(super) fn tell_departed(&mut self, turn: &Turn<'_>, only: Option<PeerId>) -> bool {
        let next = self.log.last().next();
        let recipients = self.membership.recipients(self.me, self.committed);
        let RoleState::Leader(leading) = &mut self.role else {
            return false;
        };
        let mut told = false;
        for (peer, named) in self.membership.departed(self.me) {
            let heard = turn.heard.get(&peer);
            let is_it = heard.is_some_and(|heard| named == Incarnation::ZERO || named == *heard);
            if !is_it || recipients.contains(&peer) || only.is_some_and(|only| only != peer) {
                continue;
            }
            let mut progress = Progress::new(peer, next, turn.now);
            progress.left = true;
            leading.progress.retain(|known| known.peer() != peer);
            leading.progress.push(progress);
            told = true;
        }
        if told {
            leading.lingers_until = turn.now.plus_ms(LINGER_MS);
            self.sync_followers = true;
        }
        told
    }

    /// A leader that votes no more hands over, or gives up if there is nobody to hand over to.
    fn step_aside(&mut self, turn: &mut Turn<'_>) {
        let RoleState::Leader(leading) = &self.role else {
            return;
        };
        if self.configuration.contains(self.me) || leading.transfer.is_some() {
            return;
        }
        if self.transfer_leadership(turn, None).is_err() {
            self.become_follower(turn, self.term, None);
        }
    }

    /// How far a change of voters is, as this replica sees it.
    #[must_use]
    pub fn change_under_way(&self) -> Change {
        self.membership.change(self.committed)
    }

    /// The configuration in force, as this replica sees it.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }
}
