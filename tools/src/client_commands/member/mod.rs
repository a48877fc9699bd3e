//! `clustor member`: who belongs to a partition, and changes of that, each followed until it is over.
//!
//! - `asking`: a change that is asked for and followed, and what is said of one that fails
//! - `everywhere`: `all`: what became of each partition
//! - `replace`: a node whose disk is gone gets its place back
//! - `view`: who belongs to a partition, for people and for programs

mod asking;
mod everywhere;
mod replace;
mod view;

use std::io::Write;
use std::net::SocketAddr;
use std::time::Instant;

use clap::{Args, Subcommand};
use clustor_wire::message::MembersVerb;

use self::asking::{Asking, Failure};
use self::replace::{Former, Replace};
use self::view::shown;
use super::Reach;
use crate::exit::{CommandError, EXIT_HELP};
use crate::json;

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
  clustor member replace --cluster dev --operator ops 1 3    its disk is gone: it gets its place back
  clustor member replace --cluster dev --operator ops all 3  the same in all of its partitions
  clustor member transfer --cluster dev --operator ops 1 2   node 2 leads

A command ends when its change is over, or after --timeout-ms; it may be repeated, and goes on
where the change stands. A change that has begun, or may have, and is not known to be over ends it with exit code 4.
With --json a failure is printed as an object as well.
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
    /// Shows who belongs to a partition, as its leader knows; where nobody leads in time, as the newest of those who answer knows.
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
    /// A node came back with an empty disk, or will: it is removed and added, and is again what it was.
    #[command(
        after_help = "Examples:\n  clustor member replace --cluster dev --operator ops 1 3 --timeout-ms 600000\n  clustor member replace --cluster dev --operator ops all 3 --timeout-ms 600000\n  clustor member replace --cluster dev --operator ops 1 3 --as voter    goes on after one that was interrupted\n\nA voter votes again once it has caught up; a learner and an observer are no more than that again. A node that is no\nmember is refused. A voter that answers stands on the disk that the others know: nothing is done. With \"all\" it is\nremoved and added in one partition after another, and then all have as long as --timeout-ms for it to catch up."
    )]
    Replace(ReplaceArgs),
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

/// A node, in one partition or in each that it is a member of.
#[derive(Debug, Args)]
struct OfNodeArgs {
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
}

impl OfNodeArgs {
    fn whom(&self, shard: Option<u16>, address: Option<SocketAddr>) -> Whom {
        Whom {
            node: Some(self.node),
            shard,
            address,
            is_new: true,
            may_be_new: true,
        }
    }
}

#[derive(Debug, Args)]
struct AddressArgs {
    #[command(flatten)]
    of: OfNodeArgs,
    /// An IP address and a port; left out: where the placement of the others says.
    address: Option<SocketAddr>,
    /// Its shard that holds the replica; left out: what the placement says, or 0.
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
}

#[derive(Debug, Args)]
struct ReplaceArgs {
    #[command(flatten)]
    of: OfNodeArgs,
    /// What it was, where an earlier command has removed it and was interrupted; not with "all".
    #[arg(long = "as", value_enum, value_name = "STANDING")]
    former: Option<Former>,
    /// Where it listens for its peers: an IP address and a port; left out: where the placement of the others says.
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// Its shard that holds the replica; left out: where it is a member, what the placement says, or 0.
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
    /// Whether that could have been said.
    may_be_new: bool,
}

/// Runs `clustor member`.
///
/// # Errors
/// Refused, not over in time, or a file is not acceptable.
pub fn member(args: &MemberArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let Err(failure) = act(&args.action, out) else {
        return Ok(());
    };
    if args.action.reach().json
        && let Some(object) = failure.object()
    {
        json::line(out, &object).map_err(CommandError::failed)?;
    }
    Err(failure.error)
}

impl Action {
    const fn reach(&self) -> &Reach {
        match self {
            Self::Show(show) => &show.reach,
            Self::Rollback(asked) => &asked.reach,
            Self::Add(placed) | Self::Observe(placed) => &placed.change.asked.reach,
            Self::Promote(change) | Self::Remove(change) | Self::Transfer(change) => {
                &change.asked.reach
            }
            Self::Replace(replace) => &replace.of.reach,
            Self::Address(moved) => &moved.of.reach,
        }
    }
}

fn act(action: &Action, out: &mut dyn Write) -> Result<(), Failure> {
    match action {
        Action::Show(show) => shown(&show.reach, &show.reach.client()?, show.partition, out),
        Action::Rollback(asked) => change(asked, Whom::default(), MembersVerb::RollBack, out),
        Action::Add(placed) => place(placed, MembersVerb::Add, out),
        Action::Observe(placed) => place(placed, MembersVerb::Observe, out),
        Action::Promote(of) => change(&of.asked, of.whom(), MembersVerb::Promote, out),
        Action::Remove(of) => change(&of.asked, of.whom(), MembersVerb::Remove, out),
        Action::Transfer(of) => change(&of.asked, of.whom(), MembersVerb::Transfer, out),
        Action::Address(moved) => tell(moved, out),
        Action::Replace(asked) => replace(asked, out),
    }
}

impl ChangeArgs {
    fn whom(&self) -> Whom {
        Whom {
            node: Some(self.node),
            ..Whom::default()
        }
    }
}

fn change(
    asked: &RollBackArgs,
    whom: Whom,
    verb: MembersVerb,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let client = asked.reach.operator(&asked.operator)?;
    Asking::new(&client, &asked.reach, asked.partition, whom)?.take(verb)?;
    shown(&asked.reach, &client, asked.partition, out)
}

fn place(placed: &PlaceArgs, verb: MembersVerb, out: &mut dyn Write) -> Result<(), Failure> {
    let whom = Whom {
        node: Some(placed.change.node),
        shard: placed.shard,
        address: placed.address,
        is_new: placed.address.is_some(),
        may_be_new: true,
    };
    change(&placed.change.asked, whom, verb, out)
}

fn tell(moved: &AddressArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let of = &moved.of;
    let client = of.reach.operator(&of.operator)?;
    let whom = of.whom(moved.shard, moved.address);
    let Which::One(partition) = of.partition else {
        return everywhere::tell(&client, &of.reach, whom, out);
    };
    Asking::new(&client, &of.reach, partition, whom)?.take(MembersVerb::Address)?;
    shown(&of.reach, &client, partition, out)
}

fn replace(asked: &ReplaceArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let of = &asked.of;
    let client = of.reach.operator(&of.operator)?;
    let replace = Replace {
        client: &client,
        reach: &of.reach,
        whom: of.whom(asked.shard, asked.address),
        former: asked.former,
        since: Instant::now(),
    };
    match of.partition {
        Which::One(partition) => {
            replace.one(partition)?;
            shown(&of.reach, &client, partition, out)
        }
        Which::All if asked.former.is_some() => Err(CommandError::usage(
            "--as is for one partition: what the node was may differ in each",
        )
        .into()),
        Which::All => replace.all(out),
    }
}
