//! `clustor member` with `all`: what became of each partition, and `address all`: every partition that a node is a member of
//! is told where it listens.

use std::io::Write;

use clustor_engine::client::Client;
use clustor_wire::ids::{NodeId, PartitionId};
use clustor_wire::message::{MemberStanding, MembersVerb};
use serde_json::{Value, json};

use super::asking::{Asking, Failure};
use super::{Reach, Whom};
use crate::exit::{CommandError, Exit};
use crate::json;

/// What became of one partition.
pub(super) enum Became {
    /// It was done: in a word for programs, and for people, of the node.
    Done(&'static str, &'static str),
    /// The node is no member of it.
    NoMember,
    /// It was refused, or nobody knows.
    No(Failure),
}

/// What became of all partitions.
pub(super) struct Tally<'a> {
    reach: &'a Reach,
    whom: Whom,
    list: Vec<Value>,
    done: usize,
    failed: usize,
    unknown: usize,
}

impl<'a> Tally<'a> {
    pub const fn new(reach: &'a Reach, whom: Whom) -> Self {
        Self {
            reach,
            whom,
            list: Vec::new(),
            done: 0,
            failed: 0,
            unknown: 0,
        }
    }

    fn node(&self) -> NodeId {
        NodeId(self.whom.node.unwrap_or_default())
    }

    /// Says what became of one, or keeps it for the end.
    pub fn note(
        &mut self,
        partition: PartitionId,
        became: &Became,
        out: &mut dyn Write,
    ) -> Result<(), CommandError> {
        let node = self.node();
        let (word, why, line) = match became {
            Became::Done(word, what) => {
                self.done += 1;
                let line = format!("partition {partition}: node {node} {what}");
                (*word, None, line)
            }
            Became::NoMember => {
                let line = format!("partition {partition}: node {node} is no member");
                ("no-member", None, line)
            }
            Became::No(failure) => {
                let word = match failure.error.exit {
                    Exit::Unknown => "unknown",
                    _ => "failed",
                };
                let count = match word {
                    "unknown" => &mut self.unknown,
                    _ => &mut self.failed,
                };
                *count += 1;
                let line = failure.error.message.clone();
                (word, Some(line.clone()), line)
            }
        };
        if self.reach.json {
            let object = json!({ "partition": partition, "outcome": word, "why": why });
            self.list.push(object);
            return Ok(());
        }
        writeln!(out, "{line}").map_err(CommandError::failed)
    }

    /// The end.
    ///
    /// # Errors
    /// Some were not done, or it is not known; or the node belongs to none.
    pub fn end(self, out: &mut dyn Write) -> Result<(), Failure> {
        let node = self.node();
        let (done, failed, unknown) = (self.done, self.failed, self.unknown);
        if self.reach.json {
            let address = self.whom.address.map(|at| at.to_string());
            let all = json!({ "node": node, "address": address, "partitions": self.list });
            json::line(out, &all).map_err(CommandError::failed)?;
        }
        let not_all = format!(
            "node {node}: {done} partitions are done, {failed} are not, of {unknown} it is not known"
        );
        let error = match (done, failed, unknown) {
            (0, 0, 0) => CommandError::failed(format!("node {node} is a member of no partition")),
            (_, 0, 0) => return Ok(()),
            (_, _, 0) => CommandError::failed(not_all),
            _ => CommandError::unknown(not_all),
        };
        Err(error.into())
    }
}

/// Tells all partitions of the placement where a node listens, whatever becomes of one of them, and says of each what did.
///
/// # Errors
/// Some were not told, or it is not known; or the node belongs to none.
pub(super) fn tell(
    client: &Client,
    reach: &Reach,
    whom: Whom,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut tally = Tally::new(reach, whom);
    for partition in client.placement().partitions().keys() {
        let became = tell_one(client, reach, *partition, whom);
        tally.note(*partition, &became, out)?;
    }
    tally.end(out)
}

fn tell_one(client: &Client, reach: &Reach, partition: PartitionId, whom: Whom) -> Became {
    let told = || {
        let mut asking = Asking::new(client, reach, partition.get(), Whom { node: None, ..whom })?;
        let members = asking.show()?.members;
        let here = members.iter().find(|member| {
            Some(member.node.get()) == whom.node && member.standing != MemberStanding::Leaving
        });
        let Some(member) = here else {
            return Ok(Became::NoMember);
        };
        asking.peer.node = member.node;
        asking.peer.shard = member.shard;
        asking.take(MembersVerb::Address)?;
        let what = match whom.address {
            Some(_) => "listens at the address given",
            None => "listens where the placement says",
        };
        Ok(Became::Done("told", what))
    };
    told().unwrap_or_else(Became::No)
}
