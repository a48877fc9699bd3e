//! Client messages to and from FlatBuffers.

use flatbuffers::WIPOffset;

use super::codec::{
    Builder, Scratch, UnionOffset, check_io_writer_mode, check_list, encode, id128, malformed,
    partition_of, u128_of, verified,
};
use super::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, DurabilityMode,
    IdempotencyKey, MEMBERS_MAX, MemberStanding, MemberStatus, MembersChange, MembersVerb,
    MessageError, PartitionMembers, PartitionStatus, ReadLevel, Refusal, RefusalClause, Role,
    STATUS_PARTITIONS_MAX, ScrubStatus, ShardStatus,
};
use crate::generated::fb;
use crate::ids::{BootNumber, LogIndex, NodeId, PartitionId, ShardId, Term};

impl ClientRequest {
    /// Appends the message's FlatBuffers form to `out`.
    ///
    /// # Errors
    /// The message is larger than what a frame holds; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        let bytes = match &self.body {
            ClientRequestBody::Append { payload, .. } => payload.len(),
            ClientRequestBody::Read { query, .. } => query.len(),
            ClientRequestBody::Status { .. }
            | ClientRequestBody::Placement
            | ClientRequestBody::Mode { .. }
            | ClientRequestBody::Members { .. } => 0,
        };
        encode(out, bytes, |scratch| {
            let (body_type, body) = build_request_body(&mut scratch.builder, &self.body);
            fb::ClientRequest::create(
                &mut scratch.builder,
                &fb::ClientRequestArgs {
                    id: self.id,
                    body_type,
                    body: Some(body),
                },
            )
        })
    }

    /// Reads the message from the whole of `bytes`.
    ///
    /// # Errors
    /// The bytes are no such message; see [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let request = verified::<fb::ClientRequest<'_>>("ClientRequest", bytes, 2)?;
        Ok(Self {
            id: request.id(),
            body: request_body(request)?,
        })
    }
}

impl ClientResponse {
    /// Appends the message's FlatBuffers form to `out`.
    ///
    /// # Errors
    /// A status lists more than [`STATUS_PARTITIONS_MAX`] partitions, or members are more than [`MEMBERS_MAX`], or the message is larger than what a frame holds;
    /// `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        if let ClientResponseBody::Status(status) = &self.body {
            check_partitions(status.partitions.len())?;
        }
        if let ClientResponseBody::Members(members) = &self.body {
            check_list("MembersReply.members", members.members.len(), MEMBERS_MAX)?;
        }
        encode(out, response_bytes(&self.body), |scratch| {
            let (body_type, body) = build_response_body(scratch, &self.body);
            fb::ClientResponse::create(
                &mut scratch.builder,
                &fb::ClientResponseArgs {
                    id: self.id,
                    body_type,
                    body: Some(body),
                },
            )
        })
    }

    /// Reads the message from the whole of `bytes`.
    ///
    /// # Errors
    /// The bytes are no such message, or a list in it is over its limit; see [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let response =
            verified::<fb::ClientResponse<'_>>("ClientResponse", bytes, 3 + STATUS_PARTITIONS_MAX)?;
        Ok(Self {
            id: response.id(),
            body: response_body(response)?,
        })
    }
}

fn check_partitions(len: usize) -> Result<(), MessageError> {
    check_list("ShardStatus.partitions", len, STATUS_PARTITIONS_MAX)
}

/// The sum of a response's byte vectors and texts.
fn response_bytes(body: &ClientResponseBody) -> usize {
    match body {
        ClientResponseBody::Applied { reply, .. } | ClientResponseBody::Read { reply, .. } => {
            reply.len()
        }
        ClientResponseBody::NotExecuted(refusal) => refusal.message.len(),
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
    }
}

fn build_request_body(
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
        ClientRequestBody::Placement => {
            let offset = fb::PlacementRequest::create(b, &fb::PlacementRequestArgs {});
            (
                fb::ClientRequestBody::PlacementRequest,
                offset.as_union_value(),
            )
        }
    }
}

fn request_body(request: fb::ClientRequest<'_>) -> Result<ClientRequestBody, MessageError> {
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

fn build_response_body(
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
            let args = fb::RefusalArgs {
                clause: Some(fb::RefusalClause(refusal.clause as u8)),
                message: Some(b.create_string(&refusal.message)),
                retry_after_ms: refusal.retry_after_ms,
                leader: refusal.leader.map(NodeId::get),
                wal_committed: refusal.wal_committed.map(LogIndex::get),
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
        ClientResponseBody::Placement(file) => {
            let args = fb::PlacementReplyArgs {
                file: Some(b.create_vector(file)),
            };
            let offset = fb::PlacementReply::create(b, &args).as_union_value();
            (fb::ClientResponseBody::PlacementReply, offset)
        }
    }
}

fn build_members(
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

fn members(m: fb::MembersReply<'_>) -> Result<PartitionMembers, MessageError> {
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

fn read_level(field: &'static str, level: fb::ReadLevel) -> Result<ReadLevel, MessageError> {
    Ok(match level {
        fb::ReadLevel::Linearizable => ReadLevel::Linearizable,
        fb::ReadLevel::Lease => ReadLevel::Lease,
        fb::ReadLevel::Local => ReadLevel::Local,
        fb::ReadLevel(value) => {
            return Err(MessageError::ValueUnknown {
                field,
                value: value.into(),
            });
        }
    })
}

/// An absent verb reads as 0, which none has.
fn members_verb(verb: Option<fb::MembersVerb>) -> Result<MembersVerb, MessageError> {
    Ok(match verb.unwrap_or(fb::MembersVerb(0)) {
        fb::MembersVerb::Show => MembersVerb::Show,
        fb::MembersVerb::Add => MembersVerb::Add,
        fb::MembersVerb::Observe => MembersVerb::Observe,
        fb::MembersVerb::Promote => MembersVerb::Promote,
        fb::MembersVerb::Remove => MembersVerb::Remove,
        fb::MembersVerb::RollBack => MembersVerb::RollBack,
        fb::MembersVerb::Transfer => MembersVerb::Transfer,
        fb::MembersVerb::Address => MembersVerb::Address,
        fb::MembersVerb(value) => {
            return Err(MessageError::ValueUnknown {
                field: "MembersRequest.verb",
                value: value.into(),
            });
        }
    })
}

fn build_status(
    scratch: &mut Scratch,
    status: &ShardStatus,
) -> WIPOffset<fb::ShardStatus<'static>> {
    let Scratch { builder, offsets } = scratch;
    for partition in &status.partitions {
        let trouble = Some(builder.create_string(&partition.trouble));
        let held_back = Some(builder.create_string(&partition.held_back));
        let no_lease = Some(builder.create_string(&partition.no_lease));
        let partition = fb::PartitionStatus::create(
            builder,
            &fb::PartitionStatusArgs {
                partition: Some(&id128(partition.partition.0)),
                role: Some(fb::Role(partition.role as u8)),
                term: partition.term.0,
                leader: partition.leader.map(NodeId::get),
                last_index: partition.last_index.0,
                durable: partition.durable.0,
                wal_committed: partition.wal_committed.0,
                applied: partition.applied.0,
                missing: partition.missing,
                trouble,
                mode: Some(fb::DurabilityMode(partition.mode as u8)),
                wanted_mode: Some(fb::DurabilityMode(partition.wanted_mode as u8)),
                held_back,
                lease_held: partition.lease_held,
                no_lease,
            },
        );
        offsets.push(partition.value());
    }
    let offsets = offsets.iter().map(|at| WIPOffset::new(*at));
    let partitions =
        builder.create_vector_from_iter::<WIPOffset<fb::PartitionStatus<'static>>>(offsets);
    let trouble = builder.create_string(&status.trouble);
    let scrub = &status.scrub;
    let scrub = fb::ScrubStatus::create(
        builder,
        &fb::ScrubStatusArgs {
            sweeps: scrub.sweeps,
            sweep_permille: scrub.sweep_permille,
            bytes: scrub.bytes,
            finished_ms_ago: scrub.finished_ms_ago,
            oldest_unverified_ms: scrub.oldest_unverified_ms,
            damaged_places: scrub.damaged_places,
            lost_entries: scrub.lost_entries,
        },
    );
    fb::ShardStatus::create(
        builder,
        &fb::ShardStatusArgs {
            node: status.node.0,
            shard: status.shard.0,
            boot: status.boot.0,
            io_writer_mode: status.io_writer_mode,
            trouble: Some(trouble),
            partitions: Some(partitions),
            scrub: Some(scrub),
        },
    )
}

fn response_body(response: fb::ClientResponse<'_>) -> Result<ClientResponseBody, MessageError> {
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
    Ok(Refusal {
        clause: refusal_clause(m.clause())?,
        message: m.message().to_owned(),
        retry_after_ms: m.retry_after_ms(),
        leader: m.leader().map(NodeId),
        wal_committed: m.wal_committed().map(LogIndex),
    })
}

fn shard_status(m: fb::ShardStatus<'_>) -> Result<ShardStatus, MessageError> {
    check_partitions(m.partitions().len())?;
    Ok(ShardStatus {
        node: NodeId(m.node()),
        shard: ShardId(m.shard()),
        boot: BootNumber(m.boot()),
        io_writer_mode: check_io_writer_mode("ShardStatus.io_writer_mode", m.io_writer_mode())?,
        trouble: m.trouble().to_owned(),
        partitions: m
            .partitions()
            .iter()
            .map(partition_status)
            .collect::<Result<_, _>>()?,
        scrub: m.scrub().map(scrub_status).unwrap_or_default(),
    })
}

fn scrub_status(m: fb::ScrubStatus<'_>) -> ScrubStatus {
    ScrubStatus {
        sweeps: m.sweeps(),
        sweep_permille: m.sweep_permille(),
        bytes: m.bytes(),
        finished_ms_ago: m.finished_ms_ago(),
        oldest_unverified_ms: m.oldest_unverified_ms(),
        damaged_places: m.damaged_places(),
        lost_entries: m.lost_entries(),
    }
}

fn partition_status(m: fb::PartitionStatus<'_>) -> Result<PartitionStatus, MessageError> {
    Ok(PartitionStatus {
        partition: PartitionId(u128_of(m.partition())),
        role: role(m.role())?,
        term: Term(m.term()),
        leader: m.leader().map(NodeId),
        last_index: LogIndex(m.last_index()),
        durable: LogIndex(m.durable()),
        wal_committed: LogIndex(m.wal_committed()),
        applied: LogIndex(m.applied()),
        missing: m.missing(),
        trouble: m.trouble().to_owned(),
        mode: durability_mode("PartitionStatus.mode", m.mode())?,
        wanted_mode: durability_mode("PartitionStatus.wanted_mode", m.wanted_mode())?,
        held_back: m.held_back().unwrap_or_default().to_owned(),
        lease_held: m.lease_held(),
        no_lease: m.no_lease().unwrap_or_default().to_owned(),
    })
}

/// An absent clause reads as 0, which no clause has.
fn refusal_clause(clause: Option<fb::RefusalClause>) -> Result<RefusalClause, MessageError> {
    Ok(match clause.unwrap_or(fb::RefusalClause(0)) {
        fb::RefusalClause::NotLeader => RefusalClause::NotLeader,
        fb::RefusalClause::NotHere => RefusalClause::NotHere,
        fb::RefusalClause::TooLarge => RefusalClause::TooLarge,
        fb::RefusalClause::Busy => RefusalClause::Busy,
        fb::RefusalClause::KeyExpired => RefusalClause::KeyExpired,
        fb::RefusalClause::IndexNeeded => RefusalClause::IndexNeeded,
        fb::RefusalClause::Stopping => RefusalClause::Stopping,
        fb::RefusalClause::Unavailable => RefusalClause::Unavailable,
        fb::RefusalClause::DiskFull => RefusalClause::DiskFull,
        fb::RefusalClause::Unsupported => RefusalClause::Unsupported,
        fb::RefusalClause::MachineFailed => RefusalClause::MachineFailed,
        fb::RefusalClause::MissingContent => RefusalClause::MissingContent,
        fb::RefusalClause::ModeConflict => RefusalClause::ModeConflict,
        fb::RefusalClause::Forbidden => RefusalClause::Forbidden,
        fb::RefusalClause::Rejected => RefusalClause::Rejected,
        fb::RefusalClause::TermChanged => RefusalClause::TermChanged,
        fb::RefusalClause::ReadGate => RefusalClause::ReadGate,
        fb::RefusalClause(value) => {
            return Err(MessageError::ValueUnknown {
                field: "Refusal.clause",
                value: value.into(),
            });
        }
    })
}

/// An absent mode reads as 0, which no mode has.
fn durability_mode(
    field: &'static str,
    mode: Option<fb::DurabilityMode>,
) -> Result<DurabilityMode, MessageError> {
    match mode.unwrap_or(fb::DurabilityMode(0)) {
        fb::DurabilityMode::Strict => Ok(DurabilityMode::Strict),
        fb::DurabilityMode::Group => Ok(DurabilityMode::Group),
        fb::DurabilityMode(value) => Err(MessageError::ValueUnknown {
            field,
            value: value.into(),
        }),
    }
}

/// An absent role reads as 0, which no role has.
fn role(role: Option<fb::Role>) -> Result<Role, MessageError> {
    Ok(match role.unwrap_or(fb::Role(0)) {
        fb::Role::Follower => Role::Follower,
        fb::Role::PreCandidate => Role::PreCandidate,
        fb::Role::Candidate => Role::Candidate,
        fb::Role::Leader => Role::Leader,
        fb::Role::Quarantined => Role::Quarantined,
        fb::Role(value) => {
            return Err(MessageError::ValueUnknown {
                field: "PartitionStatus.role",
                value: value.into(),
            });
        }
    })
}
