//! A partition's members, as a client is told them.

use flatbuffers::WIPOffset;

use super::super::codec::{Scratch, check_list, id128, partition_of};
use super::super::{
    MEMBERS_MAX, MemberStanding, MemberStatus, MembersChange, MessageError, PartitionMembers,
};
use super::values::role;
use crate::generated::fb;
use crate::ids::{LogIndex, NodeId, ShardId, Term};

pub(super) fn build_members(
    scratch: &mut Scratch,
    members: &PartitionMembers,
) -> WIPOffset<fb::MembersReply<'static>> {
    let Scratch { builder, offsets } = scratch;
    for member in &members.members {
        let address = Some(builder.create_string(&member.address));
        let member = fb::MemberStatus::create(
            builder,
            &fb::MemberStatusArgs {
                node: member.node.0,
                shard: member.shard.0,
                standing: Some(fb::MemberStanding(member.standing as u8)),
                address,
                durable: member.durable.map(LogIndex::get),
                answers: member.answers,
            },
        );
        offsets.push(member.value());
    }
    let offsets = offsets.iter().map(|at| WIPOffset::new(*at));
    let list = builder.create_vector_from_iter::<WIPOffset<fb::MemberStatus<'static>>>(offsets);
    let (entered, exit, back) = match members.change {
        MembersChange::None => (None, None, false),
        MembersChange::Joint {
            entered,
            exit,
            back,
        } => (Some(entered.0), exit.map(LogIndex::get), back),
        MembersChange::Finishing { exit } => (None, Some(exit.0), false),
    };
    fb::MembersReply::create(
        builder,
        &fb::MembersReplyArgs {
            partition: Some(&id128(members.partition.0)),
            node: members.node.0,
            role: Some(fb::Role(members.role as u8)),
            term: members.term.0,
            leader: members.leader.map(NodeId::get),
            last_index: members.last_index.0,
            wal_committed: members.wal_committed.0,
            entered,
            exit,
            back,
            members: Some(list),
        },
    )
}

pub(super) fn members(m: fb::MembersReply<'_>) -> Result<PartitionMembers, MessageError> {
    check_list("MembersReply.members", m.members().len(), MEMBERS_MAX)?;
    let exit = m.exit().map(LogIndex);
    Ok(PartitionMembers {
        partition: partition_of(m.partition()),
        node: NodeId(m.node()),
        role: role(m.role())?,
        term: Term(m.term()),
        leader: m.leader().map(NodeId),
        last_index: LogIndex(m.last_index()),
        wal_committed: LogIndex(m.wal_committed()),
        change: match (m.entered().map(LogIndex), exit) {
            (Some(entered), exit) => MembersChange::Joint {
                entered,
                exit,
                back: m.back(),
            },
            (None, Some(exit)) => MembersChange::Finishing { exit },
            (None, None) => MembersChange::None,
        },
        members: m
            .members()
            .iter()
            .map(member)
            .collect::<Result<_, MessageError>>()?,
    })
}

fn member(m: fb::MemberStatus<'_>) -> Result<MemberStatus, MessageError> {
    Ok(MemberStatus {
        node: NodeId(m.node()),
        shard: ShardId(m.shard()),
        standing: match m.standing().unwrap_or(fb::MemberStanding(0)) {
            fb::MemberStanding::Voter => MemberStanding::Voter,
            fb::MemberStanding::Joining => MemberStanding::Joining,
            fb::MemberStanding::Leaving => MemberStanding::Leaving,
            fb::MemberStanding::Learner => MemberStanding::Learner,
            fb::MemberStanding::Observer => MemberStanding::Observer,
            fb::MemberStanding(value) => {
                return Err(MessageError::ValueUnknown {
                    field: "MemberStatus.standing",
                    value: value.into(),
                });
            }
        },
        address: m.address().to_owned(),
        durable: m.durable().map(LogIndex),
        answers: m.answers(),
    })
}
