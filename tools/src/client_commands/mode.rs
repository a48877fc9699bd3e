//! `clustor mode`.

use std::io::Write;

use clap::{Args, ValueEnum};
use clustor_engine::outcome::{AppendError, describe};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::DurabilityMode;
use serde_json::json;

use super::{Reach, check_partition};
use crate::exit::{CommandError, EXIT_HELP};
use crate::json;

const EXAMPLES: &str = "\
Examples:
  clustor certs cluster --dir dev                    a cluster; operator-ops.pem is a certificate that may
  clustor mode --cluster dev --operator ops 1 group  appends to partition 1 share chains from now on
  clustor mode --cluster dev --operator ops 1 strict each gets its own
  clustor status --cluster dev --partition 1         the mode in force, and what holds group mode back

The change is an entry of the partition's log: what stands before it is written under the old mode. Group mode is
refused, with the clause that forbids it, while the leader can't keep its promise; and a partition in group mode that
can't is strict until it can. See docs/operations.md.";

/// The modes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// Each append has a chain of its own.
    Strict,
    /// Appends that arrive about the same time share a chain.
    Group,
}

/// Changes how a partition's appends are made durable.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct ModeArgs {
    #[command(flatten)]
    reach: Reach,
    /// Whose operator certificate in that directory: operator-NAME.pem and .key.
    #[arg(long, value_name = "NAME")]
    operator: String,
    /// The partition's number.
    partition: u128,
    /// The mode.
    mode: ModeName,
}

/// Runs `clustor mode`.
///
/// # Errors
/// Refused, unknown, or a file is not acceptable.
pub fn mode(args: &ModeArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let certificate = format!("operator-{}", args.operator);
    let client = args.reach.connect(&certificate)?;
    let partition = args.partition;
    check_partition(&client, partition)?;
    let (name, mode) = match args.mode {
        ModeName::Strict => ("strict", DurabilityMode::Strict),
        ModeName::Group => ("group", DurabilityMode::Group),
    };
    let timeout = Some(args.reach.timeout());
    let done = client
        .set_mode(partition, mode, timeout)
        .wait()
        .map_err(|error| match error {
            AppendError::NotExecuted { refusal } => CommandError::failed(format!(
                "partition {partition}: not changed: {}",
                describe(&refusal)
            )),
            AppendError::Unknown { why, .. } => CommandError::unknown(format!(
                "partition {partition}: unknown, it may still change: {why}; ask again"
            )),
        })?;
    let written = if args.reach.json {
        let object = json!({
            "partition": PartitionId(partition),
            "mode": name,
            "term": done.term,
            "index": done.index,
        });
        json::line(out, &object)
    } else {
        let (term, index) = (done.term, done.index);
        writeln!(
            out,
            "{name} from here on: partition {partition}, term {term}, index {index}"
        )
    };
    written.map_err(CommandError::failed)
}
