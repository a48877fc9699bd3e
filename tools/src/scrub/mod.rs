//! `clustor scrub`: every byte of a stopped node's log read, verified and judged.

mod progress;
mod report;

use std::io::Write;
use std::num::NonZero;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use clap::Args;
use clustor_shards::host::{OfflineDir, scrub_offline};
use clustor_shards::log::audit::{AuditReport, Outcome};
use clustor_wire::ids::ShardId;

use crate::exit::{CommandError, Exit};
use crate::json;
use progress::Progress;

const EXAMPLES: &str = "\
Examples:
  clustor scrub data                       every shard
  clustor scrub data --shard 0 --json      one shard, as one JSON object
  clustor scrub copy --key backup/kek      a copy of a directory whose key is kept elsewhere

Reads everything that counts past the page cache, changes nothing, and keeps a node from starting on the
directory meanwhile. A running node's directory is refused: it scrubs itself.";

const SCRUB_EXIT_HELP: &str = "\
Exit codes:
  0   healthy (a torn tail is no damage)
  1   the directory is in use, or can't be read
  2   the command line makes no sense
  3   not a node's directory, or not for this key or build
  10  damage, and nothing is lost: the other copy is whole, or an extent is whole that no slot proves
  11  content is missing whose identity is known: a started node fetches it from peers
  12  damage that nobody can name: a started shard stays silent; see docs/operations.md#quarantine";

/// Verifies a stopped node's log, byte by byte, and says what a start would make of any damage.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{SCRUB_EXIT_HELP}"))]
pub struct ScrubArgs {
    /// The node's data directory.
    data: PathBuf,
    /// Only this shard.
    #[arg(long)]
    shard: Option<u16>,
    /// The key, if it is not in the directory.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Threads that verify; by default one more than there are processors, so that one reads while others verify.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// The report as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The directory is in use, not a node's, or can't be read; and damage, with the exit code of the worst outcome.
pub fn run(args: &ScrubArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut directory = OfflineDir::open(&args.data).map_err(CommandError::bad_input)?;
    if let Some(key) = &args.key {
        directory = directory.with_key(key);
    }
    let unreadable =
        |error: std::io::Error| CommandError::failed(format!("{}: {error}", args.data.display()));
    let _kept_out = directory.keep_nodes_out().map_err(CommandError::failed)?;
    let mut shards = directory.shards().map_err(unreadable)?;
    if let Some(only) = args.shard.map(ShardId) {
        if !shards.contains(&only) {
            return Err(CommandError::failed(format!(
                "{}: no shard {only} here; there are {}",
                args.data.display(),
                shards.len()
            )));
        }
        shards = vec![only];
    }
    let begun = Instant::now();
    let mut reports = Vec::with_capacity(shards.len());
    for shard in shards {
        let (identity, mut disk) = directory.shard(shard).map_err(unreadable)?;
        let mut progress = Progress::new(shard);
        let report = scrub_offline(
            &mut disk,
            identity,
            directory.keys(),
            threads(args),
            &mut |now| progress.draw(now),
        );
        progress.end();
        reports.push(report.map_err(CommandError::bad_input)?);
    }
    let took = begun.elapsed();
    let written = if args.json {
        json::line(out, &report::json(&reports, took))
    } else {
        report::print(out, &reports, took)
    };
    written.map_err(CommandError::failed)?;
    let worst = reports.iter().map(AuditReport::outcome).max();
    let (exit, message) = match worst.unwrap_or_default() {
        Outcome::Healthy => return Ok(()),
        Outcome::Restored => (Exit::Restorable, "damage was found, and nothing is lost"),
        Outcome::Missing => (Exit::ContentMissing, "content is missing"),
        Outcome::Quarantine => (
            Exit::Quarantine,
            "damage was found that nobody can name; see docs/operations.md#quarantine",
        ),
    };
    Err(CommandError {
        exit,
        message: format!("{}: {message}", args.data.display()),
    })
}

fn threads(args: &ScrubArgs) -> usize {
    let processors = || thread::available_parallelism().map_or(1, NonZero::get);
    args.threads.map_or_else(|| processors() + 1, usize::from)
}
