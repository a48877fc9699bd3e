//! `clustor read`.

use std::io::Write;

use clap::{Args, ValueEnum};
use clustor_engine::outcome::{ReadLevel, describe};
use clustor_wire::ids::PartitionId;
use serde_json::json;

use super::{Reach, check_partition, not_kv, shown, value_json};
use crate::exit::{CommandError, EXIT_HELP};
use crate::json;
use crate::kv::KvAnswer;

const EXAMPLES: &str = "\
Examples:
  clustor read --cluster dev 1 colour
  clustor read --cluster dev --json 1 colour      value null where there is none
  clustor read --cluster dev --raw 1 colour > f   the value's bytes alone; exit code 1 where there is none

The read is linearizable: it sees every append that was acknowledged before it began. With --level lease it is so as long as
clocks run evenly (docs/operations.md, Leases), and asks no majority where the profile has leases on; with --level local any
replica answers, from whatever it has applied.";

/// What a read relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Sees everything that was acknowledged before it: the leader asks a majority.
    Linearizable,
    /// The same as long as clocks run evenly.
    Lease,
    /// Sees some earlier state of the replica that answers.
    Local,
}

impl Level {
    const fn asked(self) -> ReadLevel {
        match self {
            Self::Linearizable => ReadLevel::Linearizable,
            Self::Lease => ReadLevel::Lease,
            Self::Local => ReadLevel::Local,
        }
    }
}

/// The level's name in answers.
const fn level_name(level: ReadLevel) -> &'static str {
    match level {
        ReadLevel::Linearizable => "linearizable",
        ReadLevel::Lease => "lease",
        ReadLevel::Local => "local",
    }
}

/// Reads a key of the key-value machine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct ReadArgs {
    #[command(flatten)]
    reach: Reach,
    /// The partition's number.
    partition: u128,
    /// The key.
    key: String,
    /// What the read relies on.
    #[arg(long, value_enum, default_value = "linearizable")]
    level: Level,
    /// Print the value's bytes and nothing else.
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

/// Runs `clustor read`.
///
/// # Errors
/// Refused, or a file is not acceptable.
pub fn read(args: &ReadArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let client = args.reach.client()?;
    check_partition(&client, args.partition)?;
    let partition = args.partition;
    let found = client
        .read_at(
            args.level.asked(),
            partition,
            args.key.as_bytes(),
            Some(args.reach.timeout()),
        )
        .wait()
        .map_err(|error| {
            CommandError::failed(format!(
                "partition {partition}: not read: {}",
                describe(&error.0)
            ))
        })?;
    let KvAnswer { version, value } = KvAnswer::decode(&found.reply).ok_or_else(not_kv)?;
    let (term, index) = (found.term, found.index);
    let written = if args.raw {
        let Some(value) = value else {
            return Err(CommandError::failed(format!(
                "partition {partition}: no key \"{}\" at index {index}",
                args.key
            )));
        };
        out.write_all(value)
    } else if args.reach.json {
        let object = json!({
            "partition": PartitionId(partition),
            "level": level_name(found.level),
            "term": term,
            "index": index,
            "key": args.key,
            "value": value_json(value),
            "version": version,
        });
        json::line(out, &object)
    } else {
        let value = shown(value);
        let level = match found.level {
            ReadLevel::Linearizable => "",
            ReadLevel::Lease => ", by lease",
            ReadLevel::Local => ", as one replica has it: not the newest, perhaps",
        };
        writeln!(
            out,
            "{value}: version {version}, partition {partition}, term {term}, index {index}{level}"
        )
    };
    written.map_err(CommandError::failed)
}
