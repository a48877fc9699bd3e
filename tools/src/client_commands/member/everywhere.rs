//! `clustor member address all`: every partition that a node is a member of is told where it listens.

use std::io::Write;

use clustor_engine::client::Client;
use clustor_wire::ids::{NodeId, PartitionId};
use clustor_wire::message::{MemberStanding, MembersVerb};
use serde_json::{Value, json};

use super::{Asking, Reach, Whom};
use crate::exit::{CommandError, Exit};
use crate::json;

/// What became of one partition.
enum Told {
    /// Its members know.
    Yes,
    /// The node is none of them.
    NoMember,
    /// It was refused, or nobody knows.
    No(CommandError),
}

/// Tells all partitions of the placement, whatever becomes of one of them, and says of each what did.
///
/// # Errors
/// Some were not told, or it is not known; or the node belongs to none.
pub(super) fn tell(
    client: &Client,
    reach: &Reach,
    whom: Whom,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let node = whom.node.unwrap_or_default();
    let address = whom.address.map_or_else(
        || "where the placement says".to_owned(),
        |address| address.to_string(),
    );
    let mut list = Vec::new();
    let (mut told, mut failed, mut unknown) = (0, 0, 0);
    for partition in client.placement().partitions().keys() {
        let became = tell_one(client, reach, *partition, whom);
        let (word, why) = match &became {
            Told::Yes => ("told", None),
            Told::NoMember => ("no-member", None),
            Told::No(error) if error.exit == Exit::Unknown => ("unknown", Some(&error.message)),
            Told::No(error) => ("failed", Some(&error.message)),
        };
        match word {
            "told" => told += 1,
            "failed" => failed += 1,
            "unknown" => unknown += 1,
            _ => {}
        }
        if reach.json {
            list.push(object(*partition, word, why));
            continue;
        }
        match (&became, why) {
            (_, Some(why)) => writeln!(out, "{why}"),
            (Told::NoMember, _) => writeln!(out, "partition {partition}: node {node} is no member"),
            _ => writeln!(
                out,
                "partition {partition}: node {node} listens at {address}"
            ),
        }
        .map_err(CommandError::failed)?;
    }
    if reach.json {
        let all = json!({ "node": NodeId(node), "address": whom.address.map(|at| at.to_string()), "partitions": list });
        json::line(out, &all).map_err(CommandError::failed)?;
    }
    let not_told = format!(
        "node {node}: {told} partitions were told, {failed} were not, of {unknown} it is not known; repeat the command"
    );
    match (told, failed, unknown) {
        (0, 0, 0) => Err(CommandError::failed(format!(
            "node {node} is a member of no partition"
        ))),
        (_, 0, 0) => Ok(()),
        (_, _, 0) => Err(CommandError::failed(not_told)),
        _ => Err(CommandError::unknown(not_told)),
    }
}

fn tell_one(client: &Client, reach: &Reach, partition: PartitionId, whom: Whom) -> Told {
    let told = || {
        let mut asking = Asking::new(client, reach, partition.get(), Whom { node: None, ..whom })?;
        let members = asking.show()?.members;
        let here = members.iter().find(|member| {
            Some(member.node.get()) == whom.node && member.standing != MemberStanding::Leaving
        });
        let Some(member) = here else {
            return Ok(Told::NoMember);
        };
        asking.peer.node = member.node;
        asking.peer.shard = member.shard;
        asking.take(MembersVerb::Address)?;
        Ok(Told::Yes)
    };
    told().unwrap_or_else(Told::No)
}

fn object(partition: PartitionId, outcome: &str, why: Option<&String>) -> Value {
    json!({ "partition": partition, "outcome": outcome, "why": why })
}
