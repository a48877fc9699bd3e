//! Who belongs to a partition, for people and for programs.

use std::io::Write;

use clustor_engine::client::Client;
use clustor_wire::ids::PartitionId;
use clustor_wire::message::{
    MemberStanding, MemberStatus, MembersChange, MembersVerb, PartitionMembers, Role,
};
use serde_json::{Value, json};

use super::super::{Reach, check_partition};
use super::asking::{Failure, nobody};
use crate::exit::CommandError;
use crate::json;

/// Shows who belongs to a partition, as its leader knows; where nobody leads, as the newest of those who answer knows.
pub(super) fn shown(
    reach: &Reach,
    client: &Client,
    partition: u128,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    check_partition(client, partition)?;
    let timeout = Some(reach.timeout());
    let members = client
        .members(partition, MembersVerb::Show, nobody(), "", timeout)
        .wait()
        .map_err(|error| Failure::not_shown(PartitionId(partition), &error.refusal))?;
    let written = if reach.json {
        json::line(out, &object(&members))
    } else {
        told(&members, out)
    };
    Ok(written.map_err(CommandError::failed)?)
}

fn told(members: &PartitionMembers, out: &mut dyn Write) -> std::io::Result<()> {
    let leads = members.role == Role::Leader;
    let PartitionMembers {
        partition,
        node,
        term,
        last_index,
        ..
    } = members;
    let who = if leads {
        format!("node {node} leads term {term}, log ends at {last_index}")
    } else {
        format!(
            "no leader is known; as node {node} knows in term {term}, whose log ends at {last_index}"
        )
    };
    writeln!(out, "partition {partition}: {who}; {}", under_way(members))?;
    for member in &members.members {
        let durable = match member.durable {
            Some(index) => index.to_string(),
            None if leads => "0".to_owned(),
            None => "unknown".to_owned(),
        };
        let answers = match answers(members, member) {
            Some(true) => "  answers",
            Some(false) => "  silent",
            None => "",
        };
        let at = match member.address.as_str() {
            "" => String::new(),
            address => format!("  at {address}"),
        };
        writeln!(
            out,
            "  node {}/{}  {:<8}  durable {durable}{answers}{at}",
            member.node,
            member.shard,
            standing(member.standing),
        )?;
    }
    Ok(())
}

fn object(members: &PartitionMembers) -> Value {
    let (change, entered, exit) = match members.change {
        MembersChange::None => ("none", None, None),
        MembersChange::Joint {
            entered,
            exit,
            back: false,
        } => ("joint", Some(entered), exit),
        MembersChange::Joint { entered, exit, .. } => ("joint-back", Some(entered), exit),
        MembersChange::Finishing { exit } => ("finishing", None, Some(exit)),
    };
    let list: Vec<Value> = members
        .members
        .iter()
        .map(|member| {
            json!({
                "node": member.node,
                "shard": member.shard.get(),
                "standing": standing(member.standing),
                "durable": member.durable,
                "answers": answers(members, member),
                "address": member.address,
            })
        })
        .collect();
    let leads = members.role == Role::Leader;
    json!({
        "partition": members.partition,
        "node": members.node,
        "leads": leads,
        "leader": leads.then_some(members.node),
        "term": members.term,
        "last_index": members.last_index,
        "wal_committed": members.wal_committed,
        "change": change,
        "entered": entered,
        "exit": exit,
        "members": list,
    })
}

/// Whether a member answers: a leader knows it of all, anybody else of itself alone.
fn answers(members: &PartitionMembers, member: &MemberStatus) -> Option<bool> {
    let knows = members.role == Role::Leader || member.node == members.node;
    knows.then_some(member.answers)
}

/// How far a change of voters is.
pub(super) fn under_way(members: &PartitionMembers) -> String {
    match members.change {
        MembersChange::None => "no change of voters is under way".to_owned(),
        MembersChange::Joint { exit: None, .. } => format!(
            "the voters before and after decide together, and wait for majorities of both{}",
            silent(members)
        ),
        MembersChange::Joint { back, .. } => format!(
            "majorities of the voters before and after must commit the way {}{}",
            if back { "back" } else { "forward" },
            silent(members)
        ),
        MembersChange::Finishing { .. } => "those who left are needed for a moment yet".to_owned(),
    }
}

/// Who does not answer, if anybody, and if that is known.
fn silent(members: &PartitionMembers) -> String {
    let all = members.members.iter();
    let nodes: Vec<String> = all
        .filter(|member| answers(members, member) == Some(false))
        .map(|member| format!("node {}", member.node))
        .collect();
    if nodes.is_empty() {
        return String::new();
    }
    format!(" ({} silent)", nodes.join(", "))
}

pub(super) const fn standing(standing: MemberStanding) -> &'static str {
    match standing {
        MemberStanding::Voter => "voter",
        MemberStanding::Joining => "joining",
        MemberStanding::Leaving => "leaving",
        MemberStanding::Learner => "learner",
        MemberStanding::Observer => "observer",
    }
}
