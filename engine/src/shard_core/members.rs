//! Questions about the members of a partition, and changes of them.

use core::net::SocketAddr;

use clustor_shards::turn::{ConnectionId, PeerId, Time};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::{MembersVerb, PartitionMembers, Refusal, RefusalClause};

use super::ShardCore;
use super::asked::log_refusal;
use crate::partition::refusal;
use crate::raft::MemberChange;
use crate::raft::configuration::{CONFIGURATION_BYTES_MAX, Standing};
use crate::request::MembersRequest;

impl ShardCore {
    /// Answers a question about the members of a partition, or begins what it asks for.
    pub(super) fn members(
        &mut self,
        now: Time,
        stopping: bool,
        id: PartitionId,
        asked: &MembersRequest,
    ) -> Result<PartitionMembers, Refusal> {
        let not_here = self.not_here(id);
        if *asked != MembersRequest::Show {
            self.admit_to(stopping, id)?;
            self.shared
                .log
                .admit(CONFIGURATION_BYTES_MAX)
                .map_err(|refused| log_refusal(&refused))?;
        }
        let partition = self.partitions.get_mut(&id).ok_or(not_here)?;
        // A leader that was quiet wakes before it judges what it is asked for: it has its turn even if it refuses that.
        self.touched.insert(id);
        partition.members(&mut self.shared.lend(now), asked)?;
        Ok(partition.show_members(now, &|peer| self.peers.has_session(peer)))
    }

    /// The same for a client: what it wants is compared with what is, so that asking twice does no harm; and only a leader
    /// answers. To show, one does that knows of no leader, too: as it knows.
    pub(super) fn members_for_client(
        &mut self,
        now: Time,
        stopping: bool,
        connection: ConnectionId,
        (id, verb, peer): (PartitionId, MembersVerb, PeerId),
        address: String,
    ) -> Result<PartitionMembers, Refusal> {
        if verb != MembersVerb::Show && !self.operators.contains(&connection) {
            return Err(refusal(
                RefusalClause::Forbidden,
                format!("partition {id}: only an operator's certificate may change its members"),
                0,
            ));
        }
        let not_here = self.not_here(id);
        let partition = self.partitions.get(&id).ok_or(not_here)?;
        let replica = &partition.replica;
        if verb == MembersVerb::Show && replica.leader().is_none() {
            return self.members(now, stopping, id, &MembersRequest::Show);
        }
        if !replica.is_leader() {
            return Err(partition.not_leader(replica.leader()));
        }
        if !address.is_empty() && !address.parse::<SocketAddr>().is_ok_and(|at| at.port() > 0) {
            return Err(refusal(
                RefusalClause::Unsupported,
                format!(
                    "partition {id}: {address:?} is no address: an IP address and a port that is not 0 are expected"
                ),
                0,
            ));
        }
        let standing = replica.configuration().standing(peer);
        let noted = replica.configuration().address_of(peer);
        let elsewhere = !address.is_empty() && noted != Some(address.as_str());
        let change = match (verb, standing) {
            (MembersVerb::Observe, Some(Standing::Voter | Standing::Learner)) => {
                return Err(refusal(
                    RefusalClause::Unsupported,
                    format!(
                        "partition {id}: node {} is a {} of it, which does not become an observer: remove it first (`clustor member remove`), then ask again",
                        peer.node,
                        if standing == Some(Standing::Voter) {
                            "voter"
                        } else {
                            "learner"
                        },
                    ),
                    0,
                ));
            }
            (MembersVerb::Add, Some(Standing::Observer)) => {
                return Err(refusal(
                    RefusalClause::Unsupported,
                    format!(
                        "partition {id}: node {} observes it already, and gets the log: to have it vote, remove it first (`clustor member remove`), then add and promote it; where it listens `clustor member address` says",
                        peer.node
                    ),
                    0,
                ));
            }
            (MembersVerb::Show, _)
            | (MembersVerb::Promote, Some(Standing::Voter))
            | (MembersVerb::Observe, Some(Standing::Observer))
            | (MembersVerb::Remove, None) => None,
            (MembersVerb::Add, Some(Standing::Learner | Standing::Voter)) if elsewhere => {
                Some(MemberChange::Address { peer, address })
            }
            (MembersVerb::Add, Some(Standing::Learner | Standing::Voter)) => None,
            (MembersVerb::Address, Some(_)) if noted.unwrap_or_default() == address => None,
            (MembersVerb::Address, _) => Some(MemberChange::Address { peer, address }),
            (MembersVerb::Add, _) => Some(MemberChange::AddLearner { peer, address }),
            (MembersVerb::Observe, _) => Some(MemberChange::AddObserver { peer, address }),
            (MembersVerb::Promote, _) => Some(MemberChange::Voters {
                add: vec![peer],
                remove: Vec::new(),
            }),
            (MembersVerb::Remove, Some(Standing::Voter)) => Some(MemberChange::Voters {
                add: Vec::new(),
                remove: vec![peer],
            }),
            (MembersVerb::Remove, Some(_)) => Some(MemberChange::RemoveSilent(peer)),
            (MembersVerb::RollBack, _) => Some(MemberChange::RollBack),
            (MembersVerb::Transfer, _) => {
                let asked = MembersRequest::Transfer(Some(peer));
                return self.members(now, stopping, id, &asked);
            }
        };
        let asked = change.map_or(MembersRequest::Show, MembersRequest::Change);
        self.members(now, stopping, id, &asked)
    }
}
