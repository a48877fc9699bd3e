//! `clustor inspect`: what lies in a shard's files, structure by structure.

mod json;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clustor_engine::raft::Configuration;
use clustor_shards::host::OfflineDir;
use clustor_shards::log::inspect::inspect;
use clustor_shards::log::record::RecordHeader;
use clustor_shards::log::recovery::RecoverError;
use clustor_shards::log::{LogIdentity, PartitionLog};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{LogIndex, PairNumber, PartitionId, ShardId};
use serde_json::{Value, json};

use crate::exit::{CommandError, EXIT_HELP};
use crate::files;

const EXAMPLES: &str = "\
Examples:
  clustor inspect data                      every shard: its pairs and its chains
  clustor inspect data --shard 0 --pair 3   one pair
  clustor inspect data --records            and every record of every extent
  clustor inspect data --records --partition 1 --from 100 --to 120
                                            only what these entries' chains hold of them
  clustor inspect data --json               one JSON object per pair and line
  clustor inspect copy --key backup/kek     a copy of a directory whose key is kept elsewhere

The node may be running: its files are read as they are at the moment, and what is just being written shows
as torn. Commands' bytes are never shown. Whether everything is whole, `clustor scrub` says.";

/// A boot record is at most this long.
const BOOT_RECORD_BYTES_MAX: u64 = 1 << 20;
const BOOT_RECORD: &str = "boot_record.json";

/// Prints a shard's headers, checkpoints, ledger slots, extents, records and trailers from disk, read-only.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct InspectArgs {
    /// The node's data directory.
    data: PathBuf,
    /// Only this shard.
    #[arg(long)]
    shard: Option<u16>,
    /// Only this pair.
    #[arg(long)]
    pair: Option<u64>,
    /// Also every record of every extent.
    #[arg(long)]
    records: bool,
    /// Only chains, items and records of this partition.
    #[arg(long)]
    partition: Option<u128>,
    /// Only what reaches this index or a later one.
    #[arg(long, value_name = "INDEX", requires = "partition")]
    from: Option<u64>,
    /// Only what begins at this index or an earlier one.
    #[arg(long, value_name = "INDEX", requires = "partition")]
    to: Option<u64>,
    /// The key, if it is not in the directory.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// One JSON object per pair and line.
    #[arg(long)]
    json: bool,
}

/// Of whom a replica asks what it is missing: everybody else in the configuration in force who gets the log.
fn asked_for_missing(log: &PartitionLog, identity: &LogIdentity) -> Vec<PeerId> {
    let in_force = log
        .configurations
        .last()
        .filter(|_| !log.missing.is_empty());
    let decoded = in_force.and_then(|at| Configuration::decode(&at.body).ok());
    let me = PeerId {
        node: identity.node,
        shard: identity.shard,
    };
    decoded.map_or_else(Vec::new, |configuration| {
        configuration.members(me).collect()
    })
}

/// Which records are wanted.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    records: bool,
    partition: Option<PartitionId>,
    from: LogIndex,
    to: LogIndex,
}

impl Wanted {
    /// Whether everything is wanted.
    fn all(self) -> bool {
        self.partition.is_none()
    }

    /// Whether `count` entries from this record on, or the record itself, are of those that are wanted.
    fn takes(self, at: &RecordHeader, count: u32) -> bool {
        let last = at.index.get().saturating_add(u64::from(count.max(1)) - 1);
        self.partition.is_none_or(|only| only == at.partition)
            && last >= self.from.get()
            && at.index <= self.to
    }
}

/// A pair can't be shown: the log is another's, or the output is gone.
enum Stop {
    Log(RecoverError),
    Output(std::io::Error),
}

impl From<RecoverError> for Stop {
    fn from(error: RecoverError) -> Self {
        Self::Log(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// Runs the command.
///
/// # Errors
/// The directory is not a node's, can't be read, or was written by another build.
pub fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut directory = OfflineDir::open(&args.data).map_err(CommandError::bad_input)?;
    if let Some(key) = &args.key {
        directory = directory.with_key(key);
    }
    let unreadable =
        |error: std::io::Error| CommandError::failed(format!("{}: {error}", args.data.display()));
    let shards = directory.shards().map_err(unreadable)?;
    let is_wanted = |shard: &ShardId| args.shard.is_none_or(|only| only == shard.get());
    if let Some(only) = args.shard
        && !shards.iter().any(is_wanted)
    {
        return Err(CommandError::failed(format!(
            "{}: no shard {only} here; there are {}",
            args.data.display(),
            shards.len()
        )));
    }
    show_boot_record(&args.data, None, args.json, out)?;
    for shard in shards.iter().copied().filter(is_wanted) {
        show_shard(args, &directory, shard, out)?;
    }
    Ok(())
}

fn show_shard(
    args: &InspectArgs,
    directory: &OfflineDir,
    shard: ShardId,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let wanted = Wanted {
        records: args.records,
        partition: args.partition.map(PartitionId),
        from: LogIndex(args.from.unwrap_or_default()),
        to: LogIndex(args.to.unwrap_or(u64::MAX)),
    };
    let (identity, mut disk) = directory
        .shard(shard)
        .map_err(|error| CommandError::failed(format!("{}: {error}", args.data.display())))?;
    if !args.json {
        writeln!(out, "{identity}").map_err(CommandError::failed)?;
    }
    let home = args.data.join(format!("shard-{shard}"));
    show_boot_record(&home, Some(shard), args.json, out)?;
    let keys = directory.keys();
    let shown = inspect(&mut disk, identity, keys, |pair| -> Result<(), Stop> {
        if args.pair.is_some_and(|only| PairNumber(only) != pair.pair) {
            return Ok(());
        }
        if args.json {
            writeln!(out, "{}", json::pair(&identity, &pair, wanted))?;
        } else {
            text::print_pair(out, &pair, wanted)?;
        }
        Ok(())
    });
    match shown {
        Ok(()) => Ok(()),
        Err(Stop::Log(error)) => Err(CommandError::bad_input(error)),
        Err(Stop::Output(error)) => Err(CommandError::failed(error)),
    }
}

/// What the last start left behind of itself, if it did.
fn show_boot_record(
    home: &Path,
    shard: Option<ShardId>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let path = home.join(BOOT_RECORD);
    if !path.exists() {
        return Ok(());
    }
    let text = files::read_text(&path, BOOT_RECORD_BYTES_MAX);
    let record = text
        .as_deref()
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let shard = shard.map(ShardId::get);
    let written = match (as_json, record) {
        (true, record) => writeln!(out, "{}", json!({ "shard": shard, "boot_record": record })),
        (false, Some(record)) => writeln!(out, "boot record:\n{record:#}"),
        (false, None) => writeln!(out, "boot record BAD: {}", path.display()),
    };
    written.map_err(CommandError::failed)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
