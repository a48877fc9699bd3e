//! `clustor inspect`: what lies in a shard's files, structure by structure.

mod body;
mod directory;
mod json;
mod missed;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clustor_engine::raft::Configuration;
use clustor_shards::disk::BootDisk as _;
use clustor_shards::host::DataDirError;
use clustor_shards::host::OfflineDir;
use clustor_shards::log::audit::{Audit, Started};
use clustor_shards::log::inspect::{ChainView, Selection, inspect};
use clustor_shards::log::record::{RecordHeader, RecordKind};
use clustor_shards::log::recovery::RecoverError;
use clustor_shards::log::{LogIdentity, PartitionLog};
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{ChainNumber, LogIndex, PairNumber, PartitionId, ShardId};
use serde_json::{Value, json};

use crate::exit::{CommandError, Exit};
use crate::files;
use crate::json::line;
use directory::Seen;

const EXAMPLES: &str = "\
Examples:
  clustor inspect data                      every file, and every shard's pairs and chains
  clustor inspect data --brief              the same without the chains
  clustor inspect data --damaged            only what is wrong
  clustor inspect data --shard 0 --pair 3 --chains 17..20
                                            four chains of one pair
  clustor inspect data --kind Configuration --kind HardState
                                            who belonged to partitions, and what was voted for
  clustor inspect data --records --partition 1 --from 100 --to 120
                                            these entries: their chains, heads, checksums and leaves
  clustor inspect data --json               one JSON object per structure and line
  clustor inspect copy --key backup/kek     a copy of a directory whose key is kept elsewhere

The node may be running: its files are read as they are at the moment, and what is just being
written shows as torn. Commands' bytes and keys are never shown. What a start would make of damage,
`clustor scrub` says.";

const INSPECT_EXIT_HELP: &str = "\
Exit codes:
  0   shown, and nothing that was read is damaged (an unfinished write is no damage)
  1   no such shard, pair, chain, partition or index (what there is, is said), or the directory can't be read
  2   the command line makes no sense
  3   not a node's directory, or not for this key or build
  13  shown, and something is damaged: marked BAD, in JSON `faults` or `fault`, with what is wrong";

/// A boot record is at most this long.
const BOOT_RECORD_BYTES_MAX: u64 = 1 << 20;
const BOOT_RECORD: &str = "boot_record.json";

/// Prints what lies in a node's directory, structure by structure, and what is wrong with it; read-only.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{INSPECT_EXIT_HELP}"))]
pub struct InspectArgs {
    /// The node's data directory.
    data: PathBuf,
    /// Only this shard.
    #[arg(long)]
    shard: Option<u16>,
    /// Only this pair.
    #[arg(long)]
    pair: Option<u64>,
    /// Also every record of every extent: its head, checksum, Merkle leaf, and what it says.
    #[arg(long)]
    records: bool,
    /// Only records of this kind, and their chains; may be repeated.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Vec<RecordKind>,
    /// Only these chains: one, or first and last.
    #[arg(long, value_name = "FIRST..LAST", value_parser = chains)]
    chains: Option<(ChainNumber, ChainNumber)>,
    /// Only what is damaged.
    #[arg(long)]
    damaged: bool,
    /// No chains.
    #[arg(long, conflicts_with_all = ["records", "kind", "chains", "partition"])]
    brief: bool,
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
    /// One JSON object per structure and line.
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

/// What is wanted.
#[derive(Debug, Clone)]
struct Wanted {
    records: bool,
    kinds: Vec<RecordKind>,
    partition: Option<PartitionId>,
    from: LogIndex,
    to: LogIndex,
    chains: (ChainNumber, ChainNumber),
    damaged: bool,
    brief: bool,
}

impl Wanted {
    fn of(args: &InspectArgs) -> Self {
        Self {
            records: args.records,
            kinds: args.kind.clone(),
            partition: args.partition.map(PartitionId),
            from: LogIndex(args.from.unwrap_or_default()),
            to: LogIndex(args.to.unwrap_or(u64::MAX)),
            chains: args
                .chains
                .unwrap_or((ChainNumber(0), ChainNumber(u64::MAX))),
            damaged: args.damaged,
            brief: args.brief,
        }
    }

    /// Whether a chain is wanted, by its number and by what is wrong with it.
    fn takes_chain(&self, chain: &ChainView) -> bool {
        let (first, last) = self.chains;
        (first..=last).contains(&chain.chain)
            && !self.brief
            && (!self.damaged || !chain.faults.is_empty())
    }

    /// Whether every record of a chain is wanted.
    fn all(&self) -> bool {
        self.partition.is_none() && self.kinds.is_empty()
    }

    /// Whether `count` entries from this record on, or the record itself, are of those that are wanted.
    fn takes(&self, at: &RecordHeader, count: u32) -> bool {
        let last = at.index.get().saturating_add(u64::from(count.max(1)) - 1);
        let is_kind = |kind: &RecordKind| *kind == at.kind;
        self.partition.is_none_or(|only| only == at.partition)
            && (self.kinds.is_empty() || self.kinds.iter().any(is_kind))
            && last >= self.from.get()
            && at.index <= self.to
    }
}

fn kind(name: &str) -> Result<RecordKind, String> {
    RecordKind::from_name(name).ok_or_else(|| {
        let kinds = (1..=u8::MAX).map_while(RecordKind::from_u8);
        let names: Vec<&str> = kinds.map(RecordKind::name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn chains(text: &str) -> Result<(ChainNumber, ChainNumber), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str, open: u64| match text {
        "" => Ok(ChainNumber(open)),
        text => text.parse().map(ChainNumber).map_err(|_| {
            "expected a chain like 17, or first and last like 17..20, 17.. or ..20".to_owned()
        }),
    };
    let (first, last) = (number(first, 0)?, number(last, u64::MAX)?);
    if first > last {
        return Err(format!("the first, {first}, is above the last, {last}"));
    }
    Ok((first, last))
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
/// The directory is not a node's, can't be read, or was written by another build; and, once all is shown, that something
/// is damaged.
pub fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let unreadable =
        |error: std::io::Error| CommandError::failed(format!("{}: {error}", args.data.display()));
    missed::check_range(args)?;
    let mut damaged = 0;
    let opened = match OfflineDir::open(&args.data) {
        Err(error) if !matches!(error, DataDirError::Identity { .. }) => {
            return Err(CommandError::of_directory(error));
        }
        opened => opened,
    };
    let identity = match &opened {
        Ok(directory) => Ok(directory.identity()),
        Err(error) => Err(error.to_string()),
    };
    if identity.is_err() || !args.is_narrow() {
        let seen = directory::of_node(&args.data, identity).map_err(unreadable)?;
        damaged += show_files(args, None, &seen, out)?;
    }
    let Ok(mut directory) = opened else {
        // Without whose it is, no key can be derived: nothing of the logs can be told.
        return verdict(args, damaged);
    };
    if let Some(key) = &args.key {
        directory = directory.with_key(key);
    }
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
    let mut seen = missed::Seen::default();
    for shard in shards.iter().copied().filter(is_wanted) {
        damaged += show_shard(args, &directory, shard, &mut seen, out)?;
    }
    seen.verdict(args)?;
    verdict(args, damaged)
}

impl InspectArgs {
    /// Whether it is about certain pairs, chains or records, and not about the files.
    fn is_narrow(&self) -> bool {
        let of_log = self.pair.is_some() || self.chains.is_some();
        of_log || self.partition.is_some() || !self.kind.is_empty()
    }
}

fn verdict(args: &InspectArgs, damaged: usize) -> Result<(), CommandError> {
    if damaged == 0 {
        return Ok(());
    }
    Err(CommandError {
        exit: Exit::Damaged,
        message: format!(
            "{}: {damaged} damaged, see above; what a start makes of it, `clustor scrub` says",
            args.data.display()
        ),
    })
}

/// Shows the files of a directory. Returns how many are damaged.
fn show_files(
    args: &InspectArgs,
    shard: Option<ShardId>,
    seen: &[Seen],
    out: &mut dyn Write,
) -> Result<usize, CommandError> {
    let is_shown = |seen: &&Seen| !args.damaged || seen.is_damaged();
    let shown = seen.iter().filter(is_shown);
    let written = if args.json {
        let files: Vec<Value> = shown.map(Seen::json).collect();
        let shard = shard.map(ShardId::get);
        let told = json!({ "structure": "files", "shard": shard, "files": files });
        line(out, &told)
    } else {
        let lines: String = shown.map(|seen| format!("{}\n", seen.line())).collect();
        let name = match shard {
            None => args.data.display().to_string(),
            Some(shard) => format!("shard-{shard}"),
        };
        write!(out, "{name}: bytes, mode, what it is\n{lines}")
    };
    written.map_err(CommandError::failed)?;
    Ok(seen.iter().filter(|seen| seen.is_damaged()).count())
}

/// Shows a shard's files and what lies in them. Returns how much of it is damaged.
fn show_shard(
    args: &InspectArgs,
    directory: &OfflineDir,
    shard: ShardId,
    numbers: &mut missed::Seen,
    out: &mut dyn Write,
) -> Result<usize, CommandError> {
    let wanted = Wanted::of(args);
    let unreadable =
        |error: std::io::Error| CommandError::failed(format!("{}: {error}", args.data.display()));
    let (identity, mut disk) = directory.shard(shard).map_err(unreadable)?;
    if !args.json {
        writeln!(out, "\n{identity}").map_err(CommandError::failed)?;
    }
    let mut damaged = 0;
    if !args.is_narrow() {
        let seen = directory::of_shard(&args.data, shard).map_err(unreadable)?;
        damaged += show_files(args, Some(shard), &seen, out)?;
        let home = args.data.join(format!("shard-{shard}"));
        damaged += usize::from(!show_boot_record(args, &home, shard, out)?);
    }
    let there = disk.pairs().map_err(CommandError::failed)?;
    there
        .iter()
        .for_each(|found| numbers.note_pair(found.pair.get()));
    let keys = directory.keys();
    let selection = Selection {
        pair: args.pair.map(PairNumber),
        records: &|at| wanted.records && wanted.takes(at, 1),
    };
    let shown = inspect(
        &mut disk,
        identity,
        keys,
        &selection,
        |pair| -> Result<(), Stop> {
            let bad = pair.chains.iter().filter(|chain| !chain.faults.is_empty());
            let bad = pair.faults.len() + bad.count();
            damaged += bad;
            numbers.note(&pair);
            if wanted.damaged && bad == 0 {
                return Ok(());
            }
            if args.json {
                line(out, &json::pair(&identity, &pair, &wanted))?;
            } else {
                text::print_pair(out, &pair, &wanted)?;
            }
            Ok(())
        },
    );
    match shown {
        Ok(()) => {
            if !args.is_narrow() {
                show_missing(args, directory, shard, out)?;
            }
            Ok(damaged)
        }
        Err(Stop::Log(error)) => Err(CommandError::of_log(error)),
        Err(Stop::Output(error)) => Err(CommandError::failed(error)),
    }
}

/// What a start would miss: what the newest checkpoint says of that, and all that was written behind it.
fn show_missing(
    args: &InspectArgs,
    directory: &OfflineDir,
    shard: ShardId,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let (identity, mut disk) = directory.shard(shard).map_err(CommandError::failed)?;
    let started = Audit::begin(&mut disk, identity, directory.keys())
        .and_then(|audit| audit.start().try_on(&mut disk))
        .map_err(|error| error.to_string());
    let short = started.as_ref().map(Started::short);
    let written = if args.json {
        line(out, &json::missing(&identity, short))
    } else {
        text::print_missing(out, &identity, short)
    };
    written.map_err(CommandError::failed)
}

/// What the last start left behind of itself, if it did. Returns whether it can be read.
fn show_boot_record(
    args: &InspectArgs,
    home: &Path,
    shard: ShardId,
    out: &mut dyn Write,
) -> Result<bool, CommandError> {
    let path = home.join(BOOT_RECORD);
    if !path.exists() {
        return Ok(true);
    }
    let text = files::read_text(&path, BOOT_RECORD_BYTES_MAX).map_err(|error| error.to_string());
    let record = text.and_then(|text| {
        serde_json::from_str::<Value>(&text)
            .map_err(|error| format!("{}: not JSON: {error}", path.display()))
    });
    let is_whole = record.is_ok();
    if args.damaged && is_whole {
        return Ok(true);
    }
    let written = match (args.json, record) {
        (true, record) => line(
            out,
            &json!({
                "structure": "boot_record",
                "shard": shard.get(),
                "boot_record": record.as_ref().ok(),
                "fault": record.as_ref().err(),
            }),
        ),
        (false, Ok(record)) => text::print_boot_record(out, &record),
        (false, Err(why)) => writeln!(out, "boot record BAD: {why}"),
    };
    written.map_err(CommandError::failed)?;
    Ok(is_whole)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
