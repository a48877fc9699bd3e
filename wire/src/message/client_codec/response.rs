//! What a client is answered.

use super::super::codec::{Scratch, UnionOffset, check_list, id128, malformed, partition_of};
use super::super::{ADDRESS_BYTES_MAX, ClientResponseBody, LeaderAt, MessageError, Refusal};
use super::members::{build_members, members};
use super::reload::{build_reload, reload, reload_bytes};
use super::status::{build_status, shard_status};
use super::values::{read_level, refusal_clause};
use crate::generated::fb;
use crate::ids::{LogIndex, NodeId, ShardId, Term};

/// The sum of a response's byte vectors and texts.
pub(super) fn response_bytes(body: &ClientResponseBody) -> usize {
    match body {
        ClientResponseBody::Applied { reply, .. } | ClientResponseBody::Read { reply, .. } => {
            reply.len()
        }
        ClientResponseBody::NotExecuted(refusal) => {
            let at = refusal.leader_at.as_ref();
            refusal.message.len() + at.map_or(0, |at| at.address.len())
        }
        ClientResponseBody::Unknown { why, .. } => why.len(),
        ClientResponseBody::Status(status) => {
            let texts = status
                .partitions
                .iter()
                .map(|p| p.trouble.len() + p.held_back.len() + p.no_lease.len());
            status.trouble.len() + texts.sum::<usize>()
        }
        ClientResponseBody::Members(members) => {
            members.members.iter().map(|m| m.address.len()).sum()
        }
        ClientResponseBody::Placement(file) => file.len(),
        ClientResponseBody::Reload(reload) => reload_bytes(reload),
    }
}

pub(super) fn build_response_body(
    scratch: &mut Scratch,
    body: &ClientResponseBody,
) -> (fb::ClientResponseBody, UnionOffset) {
    let b = &mut scratch.builder;
    match body {
        ClientResponseBody::Applied {
            partition,
            term,
            index,
            reply,
            duplicate,
        } => {
            let args = fb::AppliedArgs {
                partition: Some(&id128(partition.0)),
                term: term.0,
                index: index.0,
                reply: Some(b.create_vector(reply)),
                duplicate: *duplicate,
            };
            let offset = fb::Applied::create(b, &args).as_union_value();
            (fb::ClientResponseBody::Applied, offset)
        }
        ClientResponseBody::NotExecuted(refusal) => {
            let at = refusal.leader_at.as_ref();
            let address = at.filter(|at| !at.address.is_empty());
            let args = fb::RefusalArgs {
                clause: Some(fb::RefusalClause(refusal.clause as u8)),
                message: Some(b.create_string(&refusal.message)),
                retry_after_ms: refusal.retry_after_ms,
                leader: refusal.leader.map(NodeId::get),
                wal_committed: refusal.wal_committed.map(LogIndex::get),
                leader_shard: at.map(|at| at.shard.get()),
                leader_address: address.map(|at| b.create_string(&at.address)),
            };
            let offset = fb::Refusal::create(b, &args).as_union_value();
            (fb::ClientResponseBody::Refusal, offset)
        }
        ClientResponseBody::Unknown { why, wal_committed } => {
            let args = fb::UnknownArgs {
                why: Some(b.create_string(why)),
                wal_committed: wal_committed.0,
            };
            let offset = fb::Unknown::create(b, &args).as_union_value();
            (fb::ClientResponseBody::Unknown, offset)
        }
        ClientResponseBody::Read {
            partition,
            level,
            term,
            index,
            reply,
        } => {
            let args = fb::ReadReplyArgs {
                partition: Some(&id128(partition.0)),
                term: term.0,
                index: index.0,
                reply: Some(b.create_vector(reply)),
                level: fb::ReadLevel(*level as u8),
            };
            let offset = fb::ReadReply::create(b, &args).as_union_value();
            (fb::ClientResponseBody::ReadReply, offset)
        }
        ClientResponseBody::Status(status) => {
            let offset = build_status(scratch, status).as_union_value();
            (fb::ClientResponseBody::ShardStatus, offset)
        }
        ClientResponseBody::Members(members) => {
            let offset = build_members(scratch, members).as_union_value();
            (fb::ClientResponseBody::MembersReply, offset)
        }
        ClientResponseBody::Reload(reload) => {
            let offset = build_reload(scratch, reload).as_union_value();
            (fb::ClientResponseBody::ReloadReply, offset)
        }
        ClientResponseBody::Placement(file) => {
            let args = fb::PlacementReplyArgs {
                file: Some(b.create_vector(file)),
            };
            let offset = fb::PlacementReply::create(b, &args).as_union_value();
            (fb::ClientResponseBody::PlacementReply, offset)
        }
    }
}

pub(super) fn response_body(
    response: fb::ClientResponse<'_>,
) -> Result<ClientResponseBody, MessageError> {
    let mismatch = || malformed("ClientResponse", "body is not what its type says");
    Ok(match response.body_type() {
        fb::ClientResponseBody::Applied => {
            let m = response.body_as_applied().ok_or_else(mismatch)?;
            ClientResponseBody::Applied {
                partition: partition_of(m.partition()),
                term: Term(m.term()),
                index: LogIndex(m.index()),
                reply: m.reply().bytes().to_vec(),
                duplicate: m.duplicate(),
            }
        }
        fb::ClientResponseBody::Refusal => {
            let m = response.body_as_refusal().ok_or_else(mismatch)?;
            ClientResponseBody::NotExecuted(refusal(m)?)
        }
        fb::ClientResponseBody::Unknown => {
            let m = response.body_as_unknown().ok_or_else(mismatch)?;
            ClientResponseBody::Unknown {
                why: m.why().to_owned(),
                wal_committed: LogIndex(m.wal_committed()),
            }
        }
        fb::ClientResponseBody::ReadReply => {
            let m = response.body_as_read_reply().ok_or_else(mismatch)?;
            ClientResponseBody::Read {
                partition: partition_of(m.partition()),
                level: read_level("ReadReply.level", m.level())?,
                term: Term(m.term()),
                index: LogIndex(m.index()),
                reply: m.reply().bytes().to_vec(),
            }
        }
        fb::ClientResponseBody::ShardStatus => {
            let m = response.body_as_shard_status().ok_or_else(mismatch)?;
            ClientResponseBody::Status(shard_status(m)?)
        }
        fb::ClientResponseBody::PlacementReply => {
            let m = response.body_as_placement_reply().ok_or_else(mismatch)?;
            ClientResponseBody::Placement(m.file().bytes().to_vec())
        }
        fb::ClientResponseBody::ReloadReply => {
            let m = response.body_as_reload_reply().ok_or_else(mismatch)?;
            ClientResponseBody::Reload(reload(m)?)
        }
        fb::ClientResponseBody::MembersReply => {
            let m = response.body_as_members_reply().ok_or_else(mismatch)?;
            ClientResponseBody::Members(members(m)?)
        }
        fb::ClientResponseBody(value) => {
            return Err(MessageError::ValueUnknown {
                field: "ClientResponse.body",
                value: value.into(),
            });
        }
    })
}

fn refusal(m: fb::Refusal<'_>) -> Result<Refusal, MessageError> {
    let address = m.leader_address().unwrap_or_default();
    check_list("Refusal.leader_address", address.len(), ADDRESS_BYTES_MAX)?;
    let shard = m.leader().and(m.leader_shard());
    Ok(Refusal {
        clause: refusal_clause(m.clause())?,
        message: m.message().to_owned(),
        retry_after_ms: m.retry_after_ms(),
        leader: m.leader().map(NodeId),
        leader_at: shard.map(|shard| LeaderAt {
            shard: ShardId(shard),
            address: address.to_owned(),
        }),
        wal_committed: m.wal_committed().map(LogIndex),
    })
}
