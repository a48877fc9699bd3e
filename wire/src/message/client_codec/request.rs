//! What a client asks.

use super::super::codec::{Builder, UnionOffset, id128, malformed, partition_of, u128_of};
use super::super::{ClientRequestBody, IdempotencyKey, MessageError};
use super::values::{durability_mode, members_verb, read_level};
use crate::generated::fb;
use crate::ids::{LogIndex, NodeId, ShardId, Term};

pub(super) fn build_request_body(
    b: &mut Builder,
    body: &ClientRequestBody,
) -> (fb::ClientRequestBody, UnionOffset) {
    match body {
        ClientRequestBody::Append {
            partition,
            key,
            payload,
            only_in,
        } => {
            let key_id = key.map(|(key, _)| id128(key.0));
            let args = fb::AppendRequestArgs {
                partition: Some(&id128(partition.0)),
                key: key_id.as_ref(),
                key_wal_committed: key.and_then(|(_, known)| known).map(LogIndex::get),
                payload: Some(b.create_vector(payload)),
                only_in: only_in.map(Term::get),
            };
            let offset = fb::AppendRequest::create(b, &args).as_union_value();
            (fb::ClientRequestBody::AppendRequest, offset)
        }
        ClientRequestBody::Read {
            partition,
            level,
            query,
        } => {
            let args = fb::ReadRequestArgs {
                partition: Some(&id128(partition.0)),
                query: Some(b.create_vector(query)),
                level: fb::ReadLevel(*level as u8),
            };
            let offset = fb::ReadRequest::create(b, &args).as_union_value();
            (fb::ClientRequestBody::ReadRequest, offset)
        }
        ClientRequestBody::Status { partition } => {
            let partition = partition.map(|partition| id128(partition.0));
            let args = fb::StatusRequestArgs {
                partition: partition.as_ref(),
            };
            let offset = fb::StatusRequest::create(b, &args).as_union_value();
            (fb::ClientRequestBody::StatusRequest, offset)
        }
        ClientRequestBody::Mode { partition, mode } => {
            let args = fb::ModeRequestArgs {
                partition: Some(&id128(partition.0)),
                mode: Some(fb::DurabilityMode(*mode as u8)),
            };
            let offset = fb::ModeRequest::create(b, &args).as_union_value();
            (fb::ClientRequestBody::ModeRequest, offset)
        }
        ClientRequestBody::Members {
            partition,
            verb,
            node,
            shard,
            address,
        } => {
            let address = (!address.is_empty()).then(|| b.create_string(address));
            let args = fb::MembersRequestArgs {
                partition: Some(&id128(partition.0)),
                verb: Some(fb::MembersVerb(*verb as u8)),
                node: node.0,
                shard: shard.0,
                address,
            };
            let offset = fb::MembersRequest::create(b, &args).as_union_value();
            (fb::ClientRequestBody::MembersRequest, offset)
        }
        ClientRequestBody::Reload => {
            let offset = fb::ReloadRequest::create(b, &fb::ReloadRequestArgs {});
            (
                fb::ClientRequestBody::ReloadRequest,
                offset.as_union_value(),
            )
        }
        ClientRequestBody::Placement => {
            let offset = fb::PlacementRequest::create(b, &fb::PlacementRequestArgs {});
            (
                fb::ClientRequestBody::PlacementRequest,
                offset.as_union_value(),
            )
        }
    }
}

pub(super) fn request_body(
    request: fb::ClientRequest<'_>,
) -> Result<ClientRequestBody, MessageError> {
    let mismatch = || malformed("ClientRequest", "body is not what its type says");
    Ok(match request.body_type() {
        fb::ClientRequestBody::AppendRequest => {
            let m = request.body_as_append_request().ok_or_else(mismatch)?;
            let known = m.key_wal_committed().map(LogIndex);
            let key = m.key().map(|key| (IdempotencyKey(u128_of(key)), known));
            if key.is_none() && known.is_some() {
                return Err(malformed(
                    "ClientRequest",
                    "AppendRequest.key_wal_committed is set without a key",
                ));
            }
            ClientRequestBody::Append {
                partition: partition_of(m.partition()),
                key,
                payload: m.payload().bytes().to_vec(),
                only_in: m.only_in().map(Term),
            }
        }
        fb::ClientRequestBody::ReadRequest => {
            let m = request.body_as_read_request().ok_or_else(mismatch)?;
            ClientRequestBody::Read {
                partition: partition_of(m.partition()),
                level: read_level("ReadRequest.level", m.level())?,
                query: m.query().bytes().to_vec(),
            }
        }
        fb::ClientRequestBody::StatusRequest => {
            let m = request.body_as_status_request().ok_or_else(mismatch)?;
            ClientRequestBody::Status {
                partition: m.partition().map(partition_of),
            }
        }
        fb::ClientRequestBody::PlacementRequest => ClientRequestBody::Placement,
        fb::ClientRequestBody::ReloadRequest => ClientRequestBody::Reload,
        fb::ClientRequestBody::ModeRequest => {
            let m = request.body_as_mode_request().ok_or_else(mismatch)?;
            ClientRequestBody::Mode {
                partition: partition_of(m.partition()),
                mode: durability_mode("ModeRequest.mode", m.mode())?,
            }
        }
        fb::ClientRequestBody::MembersRequest => {
            let m = request.body_as_members_request().ok_or_else(mismatch)?;
            ClientRequestBody::Members {
                partition: partition_of(m.partition()),
                verb: members_verb(m.verb())?,
                node: NodeId(m.node()),
                shard: ShardId(m.shard()),
                address: m.address().unwrap_or_default().to_owned(),
            }
        }
        fb::ClientRequestBody(value) => {
            return Err(MessageError::ValueUnknown {
                field: "ClientRequest.body",
                value: value.into(),
            });
        }
    })
}
