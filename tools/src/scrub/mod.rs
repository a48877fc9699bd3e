//! `clustor scrub`: every byte of a stopped node's log read, verified and judged.

mod progress;
mod report;

use std::io::Write;
use std::num::NonZero;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

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
Exit codes, of all shards the last of these that any comes to:
  0   healthy (a torn tail is no damage)
  10  damage, and nothing is lost: the other copy is whole, an extent is whole that no slot proves, or what a rotten
      one held was written again since
  11  content is missing whose identity is known: a started node fetches it from peers; under a profile that says
      on_authentication_failure = \"quarantine\" the shard stays silent instead, until a start under \"repair\"
  12  damage that nobody can name: a started shard stays silent; see docs/operations.md#quarantine
  3   not a node's directory, or not for this key or build
  1   the directory is in use, or it or a shard's files can't be opened or listed
Also 2: the command line makes no sense.";

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
    /// How often, in seconds, a line on stderr says how far it is, where that is no terminal; 0 says it of every 4 MiB.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=86_400))]
    progress_every: u64,
}

/// What became of a shard.
struct Scrubbed {
    shard: ShardId,
    /// What was found, or why it can't be judged.
    outcome: Result<AuditReport, CommandError>,
}

/// What a shard that can't be judged is in a report.
const fn refusal_name(refused: &CommandError) -> &'static str {
    match refused.exit {
        Exit::BadInput => "refused",
        _ => "unreadable",
    }
}

impl Scrubbed {
    /// The exit code, and how bad that is: what can't be judged may be worse than anything that can.
    fn exit(&self) -> (u8, Exit) {
        match &self.outcome {
            Ok(report) => match report.outcome() {
                Outcome::Healthy => (0, Exit::Done),
                Outcome::Restored => (1, Exit::Restorable),
                Outcome::Missing => (2, Exit::ContentMissing),
                Outcome::Quarantine => (3, Exit::Quarantine),
            },
            Err(refused) if refused.exit == Exit::BadInput => (4, Exit::BadInput),
            Err(refused) => (5, refused.exit),
        }
    }

    /// What is wrong, in words; `None` if nothing is.
    fn trouble(&self) -> Option<String> {
        let what = match &self.outcome {
            Err(refused) => return Some(format!("shard {}: {refused}", self.shard)),
            Ok(report) => match report.outcome() {
                Outcome::Healthy => return None,
                Outcome::Restored => "damage was found, and nothing is lost",
                Outcome::Missing => {
                    "content is missing: a started node fetches it from peers, or stays silent where its profile says on_authentication_failure = \"quarantine\""
                }
                Outcome::Quarantine => {
                    "damage was found that nobody can name; see docs/operations.md#quarantine"
                }
            },
        };
        Some(what.to_owned())
    }
}

/// Runs the command.
///
/// # Errors
/// The directory is in use, not a node's, or can't be read; and damage, or a shard that can't be judged, with the exit code of
/// the worst outcome.
pub fn run(args: &ScrubArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut directory = OfflineDir::open(&args.data).map_err(CommandError::of_directory)?;
    if let Some(key) = &args.key {
        directory = directory.with_key(key);
    }
    let unreadable =
        |error: std::io::Error| CommandError::failed(format!("{}: {error}", args.data.display()));
    let _kept_out = directory
        .keep_nodes_out()
        .map_err(CommandError::of_directory)?;
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
    let scrubbed: Vec<Scrubbed> = shards
        .into_iter()
        .map(|shard| Scrubbed {
            shard,
            outcome: scrub(args, &directory, shard),
        })
        .collect();
    let took = begun.elapsed();
    let written = if args.json {
        json::line(out, &report::json(&scrubbed, took))
    } else {
        report::print(out, &scrubbed, took)
    };
    written.map_err(CommandError::failed)?;
    let Some(worst) = scrubbed.iter().max_by_key(|of| of.exit().0) else {
        return Ok(());
    };
    let Some(trouble) = worst.trouble() else {
        return Ok(());
    };
    Err(CommandError {
        exit: worst.exit().1,
        message: format!("{}: {trouble}", args.data.display()),
    })
}

/// Scrubs one shard.
fn scrub(
    args: &ScrubArgs,
    directory: &OfflineDir,
    shard: ShardId,
) -> Result<AuditReport, CommandError> {
    let (identity, mut disk) = directory.shard(shard).map_err(CommandError::failed)?;
    let mut progress = Progress::new(shard, Duration::from_secs(args.progress_every));
    let report = scrub_offline(
        &mut disk,
        identity,
        directory.keys(),
        threads(args),
        &mut |now| progress.tell(now),
    );
    progress.end();
    report.map_err(CommandError::of_log)
}

fn threads(args: &ScrubArgs) -> usize {
    let processors = || thread::available_parallelism().map_or(1, NonZero::get);
    args.threads.map_or_else(|| processors() + 1, usize::from)
}
