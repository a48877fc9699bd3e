//! `clustor member`: who belongs to a partition, and changes of that, each followed until it is over.

mod everywhere;

use std::io::Write;
use std::net::SocketAddr;
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
use crate::json;

/// Between two looks at a change that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  clustor certs cluster --dir dev                            a cluster; operator-ops.pem may change members
  clustor member show --cluster dev 1                        who belongs to partition 1
  clustor member remove --cluster dev --operator ops 1 3     node 3 votes no more
  clustor member add --cluster dev --operator ops 1 3        node 3 gets the log, as a learner
  clustor member add --cluster dev --operator ops 1 4 --address 10.0.0.4:7000
                                                             the same for one that is new here
  clustor member address --cluster dev --operator ops 1 3 10.0.0.9:7000
                                                             node 3 moved
  clustor member address --cluster dev --operator ops all 3 10.0.0.9:7000
                                                             the same for all of its partitions
  clustor member promote --cluster dev --operator ops 1 3    node 3 votes, once it has caught up
  clustor member replace --cluster dev --operator ops 1 3    all three: its disk is gone
  clustor member transfer --cluster dev --operator ops 1 2   node 2 leads

A command ends when its change is over, or after --timeout-ms; it may be repeated, and goes on
where the change stands.
A node that the others' placement does not list, or that moved, is added with --address: see
docs/operations.md.";

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
    #[command(
        after_help = "Examples:\n  clustor member show --cluster dev 1\n  clustor member show --cluster dev 1 --json | jq '.members[].node'"
    )]
    Show(ShowArgs),
    /// A node gets the log of a partition and counts for nothing: a learner.
    #[command(
        after_help = "Examples:\n  clustor member add --cluster dev --operator ops 1 4\n  clustor member add --cluster dev --operator ops 1 4 --address 10.0.0.4:7401"
    )]
    Add(PlaceArgs),
    /// The same for a node that is never to vote: an observer.
    #[command(after_help = "Examples:\n  clustor member observe --cluster dev --operator ops 1 4")]
    Observe(PlaceArgs),
    /// A learner votes, once it has caught up.
    #[command(
        after_help = "Examples:\n  clustor member promote --cluster dev --operator ops 1 4 --timeout-ms 600000"
    )]
    Promote(ChangeArgs),
    /// A node belongs to the partition no more.
    #[command(after_help = "Examples:\n  clustor member remove --cluster dev --operator ops 1 3")]
    Remove(ChangeArgs),
    /// A node is removed, added and promoted: it came back with an empty disk, or will.
    #[command(
        after_help = "Examples:\n  clustor member replace --cluster dev --operator ops 1 3 --timeout-ms 600000"
    )]
    Replace(PlaceArgs),
    /// A member listens for its peers elsewhere: its machine moved.
    #[command(
        after_help = "Examples:\n  clustor member address --cluster dev --operator ops 1 3 10.0.0.9:7401\n  clustor member address --cluster dev --operator ops all 3 10.0.0.9:7401"
    )]
    Address(AddressArgs),
    /// A voter leads.
    #[command(after_help = "Examples:\n  clustor member transfer --cluster dev --operator ops 1 2")]
    Transfer(ChangeArgs),
    /// Takes back a change of voters that is under way and was not committed yet.
    #[command(after_help = "Examples:\n  clustor member rollback --cluster dev --operator ops 1")]
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

#[derive(Debug, Args)]
struct PlaceArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Where it listens for its peers: an IP address and a port; left out: where the placement of the others says.
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// Its shard that holds the replica; left out: what the placement says, or 0.
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
}

#[derive(Debug, Args)]
struct AddressArgs {
    #[command(flatten)]
    reach: Reach,
    /// Whose operator certificate in that directory: operator-NAME.pem and .key.
    #[arg(long, value_name = "NAME")]
    operator: String,
    /// The partition's number, or "all": each that the node is a member of, one after another, each for as long as --timeout-ms.
    #[arg(value_parser = which)]
    partition: Which,
    /// The node's number.
    node: u64,
    /// An IP address and a port; left out: where the placement of the others says.
    address: Option<SocketAddr>,
    /// Its shard that holds the replica; left out: what the placement says, or 0.
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
}

/// Of which partitions.
#[derive(Debug, Clone, Copy)]
enum Which {
    All,
    One(u128),
}

fn which(text: &str) -> Result<Which, String> {
    match text {
        "all" => Ok(Which::All),
        text => text
            .parse()
            .map(Which::One)
            .map_err(|_| "a partition's number, or \"all\"".to_owned()),
    }
}

/// Whom a change is about, and where that listens.
#[derive(Debug, Default, Clone, Copy)]
struct Whom {
    node: Option<u64>,
    shard: Option<u16>,
    address: Option<SocketAddr>,
    /// Whether it need not be in the placement.
    is_new: bool,
}

/// Runs `clustor member`.
///
/// # Errors
/// Refused, not over in time, or a file is not acceptable.
pub fn member(args: &MemberArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let of = |change: &'_ ChangeArgs| Whom {
        node: Some(change.node),
        ..Whom::default()
    };
    let placed = |placed: &'_ PlaceArgs| Whom {
        node: Some(placed.change.node),
        shard: placed.shard,
        address: placed.address,
        is_new: placed.address.is_some(),
    };
    let (verbs, change, whom): (&[MembersVerb], _, _) = match &args.action {
        Action::Show(show) => {
            return shown(&show.reach, &show.reach.client()?, show.partition, out);
        }
        Action::Rollback(asked) => {
            let client = asked.reach.operator(&asked.operator)?;
            let asking = Asking::new(&client, &asked.reach, asked.partition, Whom::default())?;
            asking.take(MembersVerb::RollBack)?;
            return shown(&asked.reach, &client, asked.partition, out);
        }
        Action::Add(add) => (&[MembersVerb::Add], &add.change, placed(add)),
        Action::Observe(add) => (&[MembersVerb::Observe], &add.change, placed(add)),
        Action::Promote(change) => (&[MembersVerb::Promote], change, of(change)),
        Action::Remove(change) => (&[MembersVerb::Remove], change, of(change)),
        Action::Transfer(change) => (&[MembersVerb::Transfer], change, of(change)),
        Action::Address(moved) => {
            let client = moved.reach.operator(&moved.operator)?;
            let whom = Whom {
                node: Some(moved.node),
                shard: moved.shard,
                address: moved.address,
                is_new: true,
            };
            let Which::One(partition) = moved.partition else {
                return everywhere::tell(&client, &moved.reach, whom, out);
            };
            Asking::new(&client, &moved.reach, partition, whom)?.take(MembersVerb::Address)?;
            return shown(&moved.reach, &client, partition, out);
        }
        Action::Replace(add) => (
            &[MembersVerb::Remove, MembersVerb::Add, MembersVerb::Promote],
            &add.change,
            placed(add),
        ),
    };
    let asked = &change.asked;
    let client = asked.reach.operator(&asked.operator)?;
    let asking = Asking::new(&client, &asked.reach, asked.partition, whom)?;
    for verb in verbs {
        asking.take(*verb)?;
        if verbs.len() > 1 {
            eprintln!("node {}: {}", change.node, done(*verb));
        }
    }
    shown(&asked.reach, &client, asked.partition, out)
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
        MembersVerb::Address => "listens elsewhere",
    }
}

/// A change that is asked for and followed until it is over.
struct Asking<'a> {
    client: &'a Client,
    partition: PartitionId,
    peer: PeerId,
    address: String,
    until: Instant,
}

impl<'a> Asking<'a> {
    fn new(
        client: &'a Client,
        reach: &Reach,
        partition: u128,
        whom: Whom,
    ) -> Result<Self, CommandError> {
        check_partition(client, partition)?;
        let mut asking = Self {
            client,
            partition: PartitionId::from(partition),
            peer: nobody(),
            address: whom.address.map(|at| at.to_string()).unwrap_or_default(),
            until: Instant::now() + reach.timeout(),
        };
        if let Some(node) = whom.node.map(NodeId) {
            asking.peer = asking.find(node, &whom)?;
        }
        Ok(asking)
    }

    /// Which replica is meant: as asked, as the placement has it, as the members are, or of a node that is new here.
    fn find(&self, node: NodeId, whom: &Whom) -> Result<PeerId, CommandError> {
        let placed = self.client.placement().shard_of(self.partition, node);
        if let Some(shard) = whom.shard.map(ShardId).or(placed) {
            return Ok(PeerId { node, shard });
        }
        let known = self.show()?;
        match known.members.iter().find(|member| member.node == node) {
            Some(member) => Ok(PeerId {
                node,
                shard: member.shard,
            }),
            None if whom.is_new => Ok(PeerId {
                node,
                shard: ShardId(0),
            }),
            None => Err(CommandError::failed(format!(
                "the placement gives node {node} no replica of partition {}, and it is no member: say where it listens with --address",
                self.partition
            ))),
        }
    }

    /// Who belongs to the partition.
    fn show(&self) -> Result<PartitionMembers, CommandError> {
        self.ask(MembersVerb::Show).map_err(|CallError(refusal)| {
            CommandError::failed(format!(
                "partition {}: {}",
                self.partition,
                describe(&refusal)
            ))
        })
    }

    fn ask(&self, verb: MembersVerb) -> Result<PartitionMembers, CallError> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = left.max(LOOK_EVERY);
        self.client
            .members(self.partition, verb, self.peer, &self.address, Some(left))
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
            .find(|m| m.node == self.peer.node && m.shard == self.peer.shard);
        let moved = self.address.is_empty() || me.is_some_and(|me| me.address == self.address);
        let me = me.map(|member| member.standing);
        let settled = members.change == MembersChange::None;
        match verb {
            MembersVerb::Show => true,
            MembersVerb::Add => settled && me.is_some() && moved,
            MembersVerb::Address => settled && moved,
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

/// Who does not answer, if anybody.
fn silent(members: &PartitionMembers) -> String {
    let silent = members.members.iter().filter(|member| !member.answers);
    let nodes: Vec<String> = silent
        .map(|member| format!("node {}", member.node))
        .collect();
    if nodes.is_empty() {
        return String::new();
    }
    format!(" ({} silent)", nodes.join(", "))
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
        .members(partition, MembersVerb::Show, nobody(), "", timeout)
        .wait()
        .map_err(|CallError(refusal)| {
            CommandError::failed(format!("partition {partition}: {}", describe(&refusal)))
        })?;
    if reach.json {
        return json::line(out, &object(&members)).map_err(CommandError::failed);
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
                "  node {}/{}  {:<8}  durable {durable}  {answers}{}",
                member.node,
                member.shard,
                standing(member),
                if member.address.is_empty() {
                    String::new()
                } else {
                    format!("  at {}", member.address)
                }
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
                "node": member.node,
                "shard": member.shard.get(),
                "standing": standing(member),
                "durable": member.durable,
                "answers": member.answers,
                "address": member.address,
            })
        })
        .collect();
    json!({
        "partition": members.partition,
        "leader": members.node,
        "term": members.term,
        "last_index": members.last_index,
        "wal_committed": members.wal_committed,
        "change": change,
        "entered": entered,
        "exit": exit,
        "members": list,
    })
}
