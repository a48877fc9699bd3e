//! Who belongs to a partition: shown, and changed where this replica leads.

use clustor_shards::turn::{PeerId, Time};
use clustor_wire::message::{
    MemberStanding, MemberStatus, MembersChange, PartitionMembers, Refusal, RefusalClause,
};

use super::{Partition, refusal};
use crate::raft::configuration::{Configuration, Standing};
use crate::raft::{Change, ChangeError, Estranged, FollowerStatus, Quiet, TransferError, Turn};
use crate::request::MembersRequest;

impl Partition {
    /// Begins what is asked; a mere question begins nothing.
    pub(crate) fn members(
        &mut self,
        turn: &mut Turn<'_>,
        asked: &MembersRequest,
    ) -> Result<(), Refusal> {
        match asked {
            MembersRequest::Show => Ok(()),
            MembersRequest::Change(change) => self
                .replica
                .change_members(turn, change)
                .map(|_| ())
                .map_err(|error| self.change_refusal(&error)),
            MembersRequest::Transfer(to) if *to == self.replica.leader() && to.is_some() => Ok(()),
            MembersRequest::Transfer(to) => self
                .replica
                .transfer_leadership(turn, *to)
                .map(|_| ())
                .map_err(|error| match error {
                    TransferError::NotLeader => self.not_leader(self.replica.leader()),
                    TransferError::NoVoter { .. } => refusal(
                        RefusalClause::Unsupported,
                        format!("partition {}: {error}", self.id),
                        0,
                    ),
                    TransferError::NobodyAnswers => refusal(
                        RefusalClause::Busy,
                        format!("partition {}: {error}", self.id),
                        250,
                    ),
                }),
        }
    }

    fn change_refusal(&self, error: &ChangeError) -> Refusal {
        let message = format!("partition {}: {error}", self.id);
        match error {
            ChangeError::NotLeader { leader } => self.not_leader(*leader),
            ChangeError::HandingOver { to } => self.redirect(Some(*to), message, 250),
            ChangeError::UnderWay { .. }
            | ChangeError::Lags { .. }
            | ChangeError::WouldNotSurvive { .. } => refusal(RefusalClause::Busy, message, 250),
            ChangeError::NeverCatchesUp { .. }
            | ChangeError::NotA { .. }
            | ChangeError::NothingToRollBack
            | ChangeError::LeftAlready { .. }
            | ChangeError::Configuration(_) => refusal(RefusalClause::Unsupported, message, 0),
            ChangeError::MissingContent { .. } => {
                refusal(RefusalClause::MissingContent, message, 1000)
            }
        }
    }

    /// Why this replica does not vote, though it has a voter's place.
    #[must_use]
    pub fn estranged(&self) -> Option<Estranged> {
        self.replica.estranged()
    }

    /// The same in words; empty if it votes, or has no such place.
    pub(super) fn why_estranged(&self) -> String {
        let (id, me) = (self.id, self.replica.me().node);
        match self.estranged() {
            None => String::new(),
            Some(Estranged::Emptied { named }) => format!(
                "its disk is a new one, and the voter that node {me} was is on the old one (incarnation {named}): it does not vote and counts for nothing; `clustor member replace` {id} {me} takes it in (docs/operations.md, \"A lost disk\")"
            ),
            Some(Estranged::Refounded) => format!(
                "its disk is a new one, on which node {me} began the partition anew, and others hold the partition already: it does nothing any more (docs/operations.md, \"A partition that began twice\")"
            ),
            Some(Estranged::Asks(lowest)) => format!(
                "it starts for the first time, which takes all its first voters at once; node {} says who is missing",
                lowest.node
            ),
            Some(Estranged::Waits(peers)) => {
                let nodes: Vec<String> = peers.iter().map(|p| p.node.to_string()).collect();
                format!(
                    "it starts for the first time, which takes all its first voters at once, and has not heard from node {}",
                    nodes.join(", node ")
                )
            }
        }
    }

    /// What a change of voters waits for while nobody leads, in words; else empty.
    pub(super) fn why_undecided(&self) -> String {
        let Change::Joint { entered, exit } = self.change() else {
            return String::new();
        };
        if self.replica.leader().is_some() {
            return String::new();
        }
        let nodes = |half: &[PeerId]| {
            let nodes: Vec<String> = half.iter().map(|peer| peer.node.to_string()).collect();
            nodes.join(", ")
        };
        let joint = self.configuration();
        let way = match exit {
            Some((_, true)) => ", for the way back, too",
            _ => "",
        };
        format!(
            "its voters change since entry {entered}, and nobody leads: of the nodes before ({}) and of those after ({}) majorities must be reachable{way}",
            nodes(joint.first()),
            nodes(joint.second()),
        )
    }

    /// The configuration in force here.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.replica.configuration()
    }

    /// How far a change of voters is, as this replica sees it.
    #[must_use]
    pub fn change(&self) -> Change {
        self.replica.change_under_way()
    }

    /// Who belongs to it, as this replica knows. Of a quiet partition nothing is heard: who has a session answers.
    pub(crate) fn show_members(
        &self,
        now: Time,
        is_connected: &dyn Fn(PeerId) -> bool,
    ) -> PartitionMembers {
        let is_quiet = matches!(self.replica.quiet(), Quiet::Leads(..));
        let answers = |follower: &FollowerStatus| {
            self.heard_lately(follower, now) || is_quiet && is_connected(follower.peer)
        };
        let status = self.replica.status();
        let configuration = &status.configuration;
        let me = self.replica.me();
        let mut members: Vec<MemberStatus> = configuration
            .members(me)
            .chain(configuration.standing(me).map(|_| me))
            .chain(status.followers.iter().map(|f| f.peer))
            .map(|peer| {
                let follower = status.followers.iter().find(|f| f.peer == peer);
                let own = (peer == me).then_some(status.durable);
                MemberStatus {
                    node: peer.node,
                    shard: peer.shard,
                    standing: standing(configuration, peer),
                    address: address(configuration, peer),
                    durable: follower.map(|f| f.durable).or(own),
                    answers: own.is_some() || follower.is_some_and(answers),
                }
            })
            .collect();
        members.sort_by_key(|member| (member.node, member.shard));
        members.dedup_by_key(|member| (member.node, member.shard));
        PartitionMembers {
            partition: self.id,
            node: me.node,
            role: status.role,
            term: status.term,
            leader: status.leader.map(|leader| leader.node),
            last_index: status.last_index,
            wal_committed: status.wal_committed,
            change: match status.change {
                Change::None => MembersChange::None,
                Change::Joint { entered, exit } => MembersChange::Joint {
                    entered,
                    exit: exit.map(|(index, _)| index),
                    back: exit.is_some_and(|(_, back)| back),
                },
                Change::Finishing { exit, .. } => MembersChange::Finishing { exit },
            },
            members,
        }
    }

    fn heard_lately(&self, follower: &FollowerStatus, now: Time) -> bool {
        let patience = u64::from(self.replica.timers().election_ms_max);
        now < follower.heard.plus_ms(patience)
    }
}

fn standing(configuration: &Configuration, peer: PeerId) -> MemberStanding {
    let first = configuration.first().contains(&peer);
    let second = configuration.second().contains(&peer);
    match (configuration.standing(peer), first, second) {
        (Some(Standing::Learner), ..) => MemberStanding::Learner,
        (Some(Standing::Observer), ..) => MemberStanding::Observer,
        (Some(Standing::Voter), false, true) => MemberStanding::Joining,
        (Some(Standing::Voter), true, false) if configuration.is_joint() => MemberStanding::Leaving,
        (Some(Standing::Voter), ..) => MemberStanding::Voter,
        (None, ..) => MemberStanding::Leaving,
    }
}

fn address(configuration: &Configuration, peer: PeerId) -> String {
    let note = configuration.notes().iter().find(|note| note.peer == peer);
    note.map(|note| note.address.clone()).unwrap_or_default()
}
