//! `clustor read`.

use std::io::Write;

use clap::Args;
use clustor_engine::outcome::describe;
use serde_json::json;

use super::{Reach, check_partition, not_kv, shown, value_json};
use crate::exit::{CommandError, EXIT_HELP};
use crate::kv::KvAnswer;

const EXAMPLES: &str = "\
Examples:
  clustor read --cluster dev 1 colour
  clustor read --cluster dev --json 1 colour      value null where there is none
  clustor read --cluster dev --raw 1 colour > f   the value's bytes alone; exit code 1 where there is none

The read is linearizable: it sees every append that was acknowledged before it began.";

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
        .read(partition, args.key.as_bytes(), Some(args.reach.timeout()))
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
            "partition": partition.to_string(),
            "term": term.get(),
            "index": index.get(),
            "key": args.key,
            "value": value_json(value),
            "version": version,
        });
        writeln!(out, "{object}")
    } else {
        let value = shown(value);
        writeln!(
            out,
            "{value}: version {version}, partition {partition}, term {term}, index {index}"
        )
    };
    written.map_err(CommandError::failed)
}
