//! Enums of client messages. A value that none has is an error, never a default.

use super::super::{
    AskedAnswer, DurabilityMode, MembersVerb, MessageError, ReadLevel, RefusalClause, Role,
};
use crate::generated::fb;

pub(super) fn read_level(
    field: &'static str,
    level: fb::ReadLevel,
) -> Result<ReadLevel, MessageError> {
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

pub(super) fn asked_answer(answer: fb::AskedAnswer) -> Result<AskedAnswer, MessageError> {
    Ok(match answer {
        fb::AskedAnswer::None => AskedAnswer::None,
        fb::AskedAnswer::Missing => AskedAnswer::Missing,
        fb::AskedAnswer::Compacted => AskedAnswer::Compacted,
        fb::AskedAnswer::Never => AskedAnswer::Never,
        fb::AskedAnswer::Unreachable => AskedAnswer::Unreachable,
        fb::AskedAnswer(value) => {
            return Err(MessageError::ValueUnknown {
                field: "AskedNode.answer",
                value: value.into(),
            });
        }
    })
}

/// An absent verb reads as 0, which none has.
pub(super) fn members_verb(verb: Option<fb::MembersVerb>) -> Result<MembersVerb, MessageError> {
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

/// An absent clause reads as 0, which no clause has.
pub(super) fn refusal_clause(
    clause: Option<fb::RefusalClause>,
) -> Result<RefusalClause, MessageError> {
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
        fb::RefusalClause::ApplyBudget => RefusalClause::ApplyBudget,
        fb::RefusalClause(value) => {
            return Err(MessageError::ValueUnknown {
                field: "Refusal.clause",
                value: value.into(),
            });
        }
    })
}

/// An absent mode reads as 0, which no mode has.
pub(super) fn durability_mode(
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
pub(super) fn role(role: Option<fb::Role>) -> Result<Role, MessageError> {
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
