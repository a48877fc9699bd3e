//! `clustor member`: who belongs to a partition, and changes of that, each followed until it is over.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use clustor_engine::client::{CallError, Client};
use clustor_engine::outcome::{RefusalClause, describe};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId, ShardId};
use clustor_wire::message::{
    MemberStanding, MemberStatus, MembersChange, MembersVerb, PartitionMembers,
};
use serde_json::{Value, json};

use super::{Reach, check_partition};
use crate::exit::{CommandError, EXIT_HELP};

/// Between two looks at a change that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  clustor certs client --dir dev --name ops --operator       a certificate that may change members
  clustor member show --cluster dev 1                        who belongs to partition 1
  clustor member remove --cluster dev --operator ops 1 3     node 3 votes no more
  clustor member add --cluster dev --operator ops 1 3        node 3 gets the log, as a learner
  clustor member promote --cluster dev --operator ops 1 3    node 3 votes, once it has caught up
  clustor member replace --cluster dev --operator ops 1 3    all three: its disk is gone
  clustor member transfer --cluster dev --operator ops 1 2   node 2 leads

A command ends when its change is over, or after --timeout-ms; it may be repeated, and goes on
where the change stands.
Only nodes to which the placement gives a replica of the partition can be members. Before a node
whose disk is gone starts with an empty one, remove it: see docs/operations.md.";

/// Shows and changes who belongs to a partition.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct MemberArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Shows who belongs to a partition, as its leader knows.
    Show(ShowArgs),
    /// A node gets the log of a partition and counts for nothing: a learner.
    Add(ChangeArgs),
    /// The same for a node that is never to vote: an observer.
    Observe(ChangeArgs),
    /// A learner votes, once it has caught up.
    Promote(ChangeArgs),
    /// A node belongs to the partition no more.
    Remove(ChangeArgs),
    /// A node is removed, added and promoted: it came back with an empty disk, or will.
    Replace(ChangeArgs),
    /// A voter leads.
    Transfer(ChangeArgs),
    /// Takes back a change of voters that is under way and was not committed yet.
    Rollback(RollBackArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    reach: Reach,
    /// The partition's number.
    partition: u128,
}

#[derive(Debug, Args)]
struct RollBackArgs {
    #[command(flatten)]
    reach: Reach,
    /// Whose operator certificate in that directory: operator-NAME.pem and .key.
    #[arg(long, value_name = "NAME")]
    operator: String,
    /// The partition's number.
    partition: u128,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    #[command(flatten)]
    asked: RollBackArgs,
    /// The node's number.
    node: u64,
}

/// Runs `clustor member`.
///
/// # Errors
/// Refused, not over in time, or a file is not acceptable.
pub fn member(args: &MemberArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let (verbs, change): (&[MembersVerb], _) = match &args.action {
        Action::Show(show) => {
            return shown(&show.reach, &show.reach.client()?, show.partition, out);
        }
        Action::Rollback(asked) => {
            let asking = Asking::new(asked, None)?;
            asking.take(MembersVerb::RollBack)?;
            return shown(&asked.reach, &asking.client, asked.partition, out);
        }
        Action::Add(change) => (&[MembersVerb::Add], change),
        Action::Observe(change) => (&[MembersVerb::Observe], change),
        Action::Promote(change) => (&[MembersVerb::Promote], change),
        Action::Remove(change) => (&[MembersVerb::Remove], change),
        Action::Transfer(change) => (&[MembersVerb::Transfer], change),
        Action::Replace(change) => (
            &[MembersVerb::Remove, MembersVerb::Add, MembersVerb::Promote],
            change,
        ),
    };
    let asked = &change.asked;
    let asking = Asking::new(asked, Some(change.node))?;
    for verb in verbs {
        asking.take(*verb)?;
        if verbs.len() > 1 {
            eprintln!("node {}: {}", change.node, done(*verb));
        }
    }
    shown(&asked.reach, &asking.client, asked.partition, out)
}

const fn done(verb: MembersVerb) -> &'static str {
    match verb {
        MembersVerb::Show => "shown",
        MembersVerb::Add => "gets the log",
        MembersVerb::Observe => "observes",
        MembersVerb::Promote => "votes",
        MembersVerb::Remove => "removed",
        MembersVerb::RollBack => "rolled back",
        MembersVerb::Transfer => "leads",
    }
}

/// A change that is asked for and followed until it is over.
struct Asking {
    client: Client,
    partition: PartitionId,
    peer: PeerId,
    until: Instant,
}

impl Asking {
    fn new(asked: &RollBackArgs, node: Option<u64>) -> Result<Self, CommandError> {
        let client = asked
            .reach
            .connect(&format!("operator-{}", asked.operator))?;
        check_partition(&client, asked.partition)?;
        let partition = PartitionId::from(asked.partition);
        let peer = match node.map(NodeId) {
            None => nobody(),
            Some(node) => {
                let shard = client.placement().shard_of(partition, node);
                let shard = shard.ok_or_else(|| {
                    CommandError::failed(format!(
                        "the placement gives node {node} no replica of partition {partition}"
                    ))
                })?;
                PeerId { node, shard }
            }
        };
        Ok(Self {
            client,
            partition,
            peer,
            until: Instant::now() + asked.reach.timeout(),
        })
    }

    fn ask(&self, verb: MembersVerb) -> Result<PartitionMembers, CallError> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = left.max(LOOK_EVERY);
        self.client
            .members(self.partition, verb, self.peer, Some(left))
            .wait()
    }

    /// Asks, again where it must wait, and then looks until it is over.
    fn take(&self, verb: MembersVerb) -> Result<(), CommandError> {
        let mut answer = self.ask(verb);
        loop {
            let late = Instant::now() >= self.until;
            match &answer {
                Ok(members) if self.is_over(verb, members) => return Ok(()),
                Ok(members) if late => {
                    return Err(CommandError::unknown(format!(
                        "partition {}: begun, and not over in time: {}; look with `clustor member show`",
                        self.partition,
                        under_way(members)
                    )));
                }
                Err(CallError(refusal)) if late || refusal.clause != RefusalClause::Busy => {
                    return Err(CommandError::failed(format!(
                        "partition {}: not changed: {}",
                        self.partition,
                        describe(refusal)
                    )));
                }
                _ => {}
            }
            std::thread::sleep(LOOK_EVERY);
            // To ask again does no harm: what is done already is not done twice.
            answer = if answer.is_ok() && verb != MembersVerb::Promote {
                self.ask(MembersVerb::Show)
            } else {
                self.ask(verb)
            };
        }
    }

    fn is_over(&self, verb: MembersVerb, members: &PartitionMembers) -> bool {
        let me = members
            .members
            .iter()
            .find(|m| m.node == self.peer.node && m.shard == self.peer.shard)
            .map(|member| member.standing);
        let settled = members.change == MembersChange::None;
        match verb {
            MembersVerb::Show => true,
            MembersVerb::Add => settled && me.is_some(),
            MembersVerb::Observe => settled && me == Some(MemberStanding::Observer),
            MembersVerb::Promote => settled && me == Some(MemberStanding::Voter),
            // One that left is told so for a moment.
            MembersVerb::Remove => settled && matches!(me, None | Some(MemberStanding::Leaving)),
            MembersVerb::RollBack => settled,
            MembersVerb::Transfer => members.leader == Some(self.peer.node),
        }
    }
}

const fn nobody() -> PeerId {
    PeerId {
        node: NodeId(0),
        shard: ShardId(0),
    }
}

fn under_way(members: &PartitionMembers) -> String {
    match members.change {
        MembersChange::None => "no change of voters is under way".to_owned(),
        MembersChange::Joint { exit: None, .. } => {
            "the voters before and after decide together, and wait for majorities of both"
                .to_owned()
        }
        MembersChange::Joint { back, .. } => format!(
            "majorities of the voters before and after must commit the way {}",
            if back { "back" } else { "forward" }
        ),
        MembersChange::Finishing { .. } => "those who left are needed for a moment yet".to_owned(),
    }
}

const fn standing(member: &MemberStatus) -> &'static str {
    match member.standing {
        MemberStanding::Voter => "voter",
        MemberStanding::Joining => "joining",
        MemberStanding::Leaving => "leaving",
        MemberStanding::Learner => "learner",
        MemberStanding::Observer => "observer",
    }
}

fn shown(
    reach: &Reach,
    client: &Client,
    partition: u128,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    check_partition(client, partition)?;
    let timeout = Some(reach.timeout());
    let members = client
        .members(partition, MembersVerb::Show, nobody(), timeout)
        .wait()
        .map_err(|CallError(refusal)| {
            CommandError::failed(format!("partition {partition}: {}", describe(&refusal)))
        })?;
    if reach.json {
        return writeln!(out, "{}", object(&members)).map_err(CommandError::failed);
    }
    let write = |out: &mut dyn Write| -> std::io::Result<()> {
        writeln!(
            out,
            "partition {partition}: node {} leads term {}, log ends at {}; {}",
            members.node,
            members.term,
            members.last_index,
            under_way(&members)
        )?;
        for member in &members.members {
            let durable = member.durable.map_or(0, |index| index.get());
            let answers = if member.answers { "answers" } else { "silent" };
            writeln!(
                out,
                "  node {}/{}  {:<8}  durable {durable}  {answers}",
                member.node,
                member.shard,
                standing(member)
            )?;
        }
        Ok(())
    };
    write(out).map_err(CommandError::failed)
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
                "node": member.node.get(),
                "shard": member.shard.get(),
                "standing": standing(member),
                "durable": member.durable.map(|index| index.get()),
                "answers": member.answers,
            })
        })
        .collect();
    json!({
        "partition": members.partition.to_string(),
        "leader": members.node.get(),
        "term": members.term.get(),
        "last_index": members.last_index.get(),
        "wal_committed": members.wal_committed.get(),
        "change": change,
        "entered": entered.map(|index| index.get()),
        "exit": exit.map(|index| index.get()),
        "members": list,
    })
}
