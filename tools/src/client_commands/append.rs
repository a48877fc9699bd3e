//! `clustor append`.

use std::io::Write;

use clap::Args;
use clustor_engine::client::{AppendWith, Client, Keying};
use clustor_engine::outcome::{AppendError, Appended, IdempotencyKey, describe, is_past_repeating};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use serde_json::json;

use super::{Reach, check_partition, not_kv, shown, value_json};
use crate::exit::{CommandError, EXIT_HELP};
use crate::json;
use crate::kv::{KEY_BYTES_MAX, KvAnswer, KvCommand};

const EXAMPLES: &str = "\
Examples:
  clustor append --cluster dev 1 colour green       puts colour=green in partition 1
  clustor append --cluster dev 1 colour --delete
  clustor append --cluster dev --json 1 colour red
  clustor append --cluster dev 1 colour red --idempotency-key 8d3c... --index 41
                                                    repeats an append whose outcome is unknown
  clustor append --cluster dev 1 leader me --if-term 7
                                                    in term 7 of the partition or never

Every append gets a random key and is retried under it until the timeout: it executes at most once. Where the
outcome is unknown (exit code 4) the key and the index to repeat it with are printed; where so much was appended since
that the key is forgotten (KeyExpired), that a read has to find out. With --json a failure is printed as an object as
well.
Limits: a key of 4096 bytes, key and value together as the node's profile allows (entry_bytes_max, at most 4 MiB).";

/// Puts or deletes a key of the key-value machine.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct AppendArgs {
    #[command(flatten)]
    reach: Reach,
    /// The partition's number.
    partition: u128,
    /// The key.
    key: String,
    /// Its new value.
    #[arg(required_unless_present = "delete", conflicts_with = "delete")]
    value: Option<String>,
    /// Delete the key.
    #[arg(long)]
    delete: bool,
    /// Repeat the append that had this key: 32 hexadecimal digits.
    #[arg(long, value_parser = parse_key, requires = "index", value_name = "HEX")]
    idempotency_key: Option<IdempotencyKey>,
    /// The index that it had.
    #[arg(long, requires = "idempotency_key")]
    index: Option<u64>,
    /// Append in this term or never: refused (TermChanged, with the present term) where another has begun.
    #[arg(long, value_name = "TERM")]
    if_term: Option<u64>,
}

fn parse_key(text: &str) -> Result<IdempotencyKey, String> {
    let fits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = u128::from_str_radix(text, 16).ok().filter(|_| fits);
    key.map(IdempotencyKey)
        .ok_or_else(|| "expected 32 hexadecimal digits".to_owned())
}

/// Runs `clustor append`.
///
/// # Errors
/// Refused, unknown, or a file is not acceptable.
pub fn append(args: &AppendArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    if args.key.len() > KEY_BYTES_MAX {
        return Err(CommandError::usage(format!(
            "a key of {} bytes, the limit is {KEY_BYTES_MAX}",
            args.key.len()
        )));
    }
    let client = args.reach.client()?;
    check_partition(&client, args.partition)?;
    let key = args.key.as_bytes();
    let command = match &args.value {
        Some(value) => KvCommand::Put {
            key,
            value: value.as_bytes(),
        },
        None => KvCommand::Delete { key },
    };
    let keying = match (args.idempotency_key, args.index) {
        (Some(key), Some(index)) => Keying::Retry(key, LogIndex(index)),
        _ => Keying::New(Client::draw_key()),
    };
    let with = AppendWith {
        keying,
        timeout: Some(args.reach.timeout()),
        only_in: args.if_term.map(Term),
    };
    let result = client
        .append_with(args.partition, command.encode(), with)
        .wait();
    match result {
        Ok(done) => applied(args, &done, out),
        Err(error) => Err(failed(args, error, out)),
    }
}

fn applied(args: &AppendArgs, done: &Appended, out: &mut dyn Write) -> Result<(), CommandError> {
    let Appended {
        term,
        index,
        reply,
        duplicate,
    } = done;
    // A duplicate's answer may be gone.
    let answer = if *duplicate && reply.is_empty() {
        None
    } else {
        Some(KvAnswer::decode(reply).ok_or_else(not_kv)?)
    };
    let written = if args.reach.json {
        let object = json!({
            "outcome": "applied",
            "partition": PartitionId(args.partition),
            "term": term,
            "index": index,
            "duplicate": duplicate,
            "version": answer.map(|answer| answer.version),
            "former": value_json(answer.and_then(|answer| answer.value)),
        });
        json::line(out, &object)
    } else {
        let effect = match answer {
            Some(KvAnswer { version, value }) => {
                format!("version {version}, former value {}", shown(value))
            }
            None => "its answer is no longer at hand".to_owned(),
        };
        let again = if *duplicate { ", executed before" } else { "" };
        writeln!(
            out,
            "applied: partition {}, term {term}, index {index}, {effect}{again}",
            args.partition
        )
    };
    written.map_err(CommandError::failed)
}

fn failed(args: &AppendArgs, error: AppendError, out: &mut dyn Write) -> CommandError {
    let partition = args.partition;
    let (object, error) = match error {
        AppendError::NotExecuted { refusal } => {
            let object = json!({
                "outcome": "not executed",
                "partition": PartitionId(partition),
                "clause": format!("{:?}", refusal.clause),
                "why": describe(&refusal),
                "leader": refusal.leader,
            });
            let why = format!(
                "partition {partition}: not executed: {}",
                describe(&refusal)
            );
            (object, CommandError::failed(why))
        }
        AppendError::Unknown {
            why,
            clause,
            key,
            wal_committed,
        } => {
            let key = key.map_or_else(String::new, |key| format!("{:032x}", key.0));
            let ended = is_past_repeating(clause);
            let what_to_do = if ended {
                "to repeat it leads nowhere: find out by `clustor read` whether it took effect, then append anew, \
                 without --idempotency-key"
                    .to_owned()
            } else {
                format!("repeat it with --idempotency-key {key} --index {wal_committed}")
            };
            let object = json!({
                "outcome": "unknown",
                "partition": PartitionId(partition),
                "clause": clause.map(|clause| format!("{clause:?}")),
                "why": why,
                "what_to_do": what_to_do,
                "idempotency_key": key,
                "index": wal_committed,
            });
            let may = if ended {
                "an earlier attempt may have executed"
            } else {
                "it may still happen"
            };
            let why = format!("partition {partition}: unknown, {may}: {why}; {what_to_do}");
            (object, CommandError::unknown(why))
        }
    };
    if args.reach.json
        && let Err(gone) = json::line(out, &object)
    {
        return CommandError::failed(gone);
    }
    error
}
