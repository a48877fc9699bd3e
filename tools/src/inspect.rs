//! `clustor inspect`: what lies in a shard's files.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clustor_shards::host::OfflineDir;
use clustor_shards::log::inspect::{ChainView, ItemView, PairView, SlotView, inspect};
use clustor_shards::log::recovery::RecoverError;
use clustor_shards::log::{LogIdentity, PartitionLog};
use clustor_wire::ids::{PairNumber, PartitionId, ShardId};
use serde_json::{Value, json};

use crate::exit::{CommandError, EXIT_HELP};

const EXAMPLES: &str = "\
Examples:
  clustor inspect data                      every shard: its pairs and its chains
  clustor inspect data --shard 0 --pair 3   one pair
  clustor inspect data --records            and every record of every extent
  clustor inspect data --json               one JSON object per pair and line

The node may be running: its files are read as they are at the moment, and what is just being written shows
as bad. Commands' bytes are never shown.";

/// Prints a shard's segments, extents and ledger records from disk, read-only.
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
    /// One JSON object per pair and line.
    #[arg(long)]
    json: bool,
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
    let directory = OfflineDir::open(&args.data).map_err(CommandError::bad_input)?;
    let unreadable =
        |error: std::io::Error| CommandError::failed(format!("{}: {error}", args.data.display()));
    let shards = directory.shards().map_err(unreadable)?;
    let wanted = |shard: &ShardId| args.shard.is_none_or(|only| only == shard.get());
    if let Some(only) = args.shard
        && !shards.iter().any(wanted)
    {
        return Err(CommandError::failed(format!(
            "{}: no shard {only} here; there are {}",
            args.data.display(),
            shards.len()
        )));
    }
    for shard in shards.iter().copied().filter(wanted) {
        let (identity, mut disk) = directory.shard(shard).map_err(unreadable)?;
        if !args.json {
            writeln!(out, "{identity}").map_err(CommandError::failed)?;
        }
        let shown = inspect(
            &mut disk,
            identity,
            directory.keys(),
            |pair| -> Result<(), Stop> {
                if args.pair.is_some_and(|only| PairNumber(only) != pair.pair) {
                    return Ok(());
                }
                if args.json {
                    writeln!(out, "{}", pair_json(&identity, &pair, args.records))?;
                } else {
                    print_pair(out, &pair, args.records)?;
                }
                Ok(())
            },
        );
        match shown {
            Ok(()) => {}
            Err(Stop::Log(error)) => return Err(CommandError::bad_input(error)),
            Err(Stop::Output(error)) => return Err(CommandError::failed(error)),
        }
    }
    Ok(())
}

fn print_pair(out: &mut dyn Write, pair: &PairView, records: bool) -> std::io::Result<()> {
    let Some(header) = &pair.header else {
        return writeln!(
            out,
            "\npair {}: no header: a spare, or both headers are bad",
            pair.pair
        );
    };
    writeln!(
        out,
        "\npair {}: boot {}, chains from {}, segment {} blocks, ledger {} blocks, checkpoint {} bytes{}",
        pair.pair,
        header.boot,
        header.first_chain,
        header.segment_blocks,
        header.ledger_blocks,
        header.checkpoint_bytes,
        if pair.both_headers {
            ""
        } else {
            ", one header BAD"
        }
    )?;
    match &pair.checkpoint {
        None => writeln!(out, "  checkpoint BAD in both files")?,
        Some(checkpoint) => {
            let copies = match pair.checkpoint_copies {
                [true, true] => "",
                [true, false] => ", BAD in the ledger",
                _ => ", BAD in the segment",
            };
            writeln!(
                out,
                "  checkpoint: {} partitions, {} older pairs{copies}",
                checkpoint.fold.partitions.len(),
                checkpoint.older.len()
            )?;
            for (id, log) in &checkpoint.fold.partitions {
                print_partition(out, *id, log)?;
            }
        }
    }
    for chain in &pair.chains {
        print_chain(out, chain, records)?;
    }
    Ok(())
}

fn print_partition(
    out: &mut dyn Write,
    id: PartitionId,
    log: &PartitionLog,
) -> std::io::Result<()> {
    let vote = log
        .hard_state
        .vote
        .map_or("nobody".to_owned(), |node| format!("node {node}"));
    writeln!(
        out,
        "    partition {id}: term {}, voted for {vote}, entries {} to {}, {} missing",
        log.hard_state.term,
        log.base.next(),
        log.last,
        log.missing_count()
    )
}

fn print_chain(out: &mut dyn Write, chain: &ChainView, records: bool) -> std::io::Result<()> {
    let extent = match &chain.extent {
        Some(extent) => format!(
            "blocks {}+{}, {} records, {} bytes, digest {}",
            chain.first_block,
            extent.header.blocks,
            extent.header.records,
            extent.header.bytes,
            hex(&extent.digest[..8])
        ),
        None => format!("block {}: extent BAD", chain.first_block),
    };
    let slot = match &chain.slot {
        SlotView::Good(slot, _) => format!("retired {}", slot.retired),
        SlotView::Untouched => "slot untouched".to_owned(),
        SlotView::Bad => "slot BAD".to_owned(),
        SlotView::Torn => "slot TORN".to_owned(),
        SlotView::Unreadable => "slot UNREADABLE".to_owned(),
    };
    writeln!(out, "  chain {}: {extent}; {slot}", chain.chain)?;
    if let SlotView::Good(_, held) = &chain.slot {
        for item in held {
            writeln!(out, "    {}", item_line(item))?;
        }
    }
    if records && let Some(extent) = &chain.extent {
        for record in &extent.records {
            writeln!(
                out,
                "    record {:?} partition {} term {} index {} body {} bytes",
                record.kind, record.partition, record.term, record.index, record.body_len
            )?;
        }
    }
    Ok(())
}

fn item_line(item: &ItemView) -> String {
    let at = &item.at;
    let last = at.index.get() + u64::from(item.count) - 1;
    let range = if item.count > 1 {
        format!("{} to {last}", at.index)
    } else {
        at.index.to_string()
    };
    format!(
        "{:?} partition {} term {} index {range}",
        at.kind, at.partition, at.term
    )
}

fn pair_json(identity: &LogIdentity, pair: &PairView, records: bool) -> Value {
    json!({
        "shard": identity.shard.get(),
        "pair": pair.pair.get().to_string(),
        "boot": pair.header.as_ref().map(|h| h.boot.get().to_string()),
        "first_chain": pair.header.as_ref().map(|h| h.first_chain.get().to_string()),
        "segment_blocks": pair.header.as_ref().map(|h| h.segment_blocks),
        "ledger_blocks": pair.header.as_ref().map(|h| h.ledger_blocks),
        "both_headers_whole": pair.both_headers,
        "checkpoint_whole": { "segment": pair.checkpoint_copies[0], "ledger": pair.checkpoint_copies[1] },
        "partitions": pair.checkpoint.iter().flat_map(|c| &c.fold.partitions).map(|(id, log)| json!({
            "partition": id.get().to_string(),
            "incarnation": log.incarnation.get().to_string(),
            "term": log.hard_state.term.get().to_string(),
            "vote": log.hard_state.vote.map(|node| node.get().to_string()),
            "base": log.base.get().to_string(),
            "last": log.last.get().to_string(),
            "missing": log.missing.iter().map(|range| [range.first.get().to_string(), range.last.get().to_string()]).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "older_pairs": pair.checkpoint.iter().flat_map(|c| &c.older).map(|older| json!({
            "pair": older.pair.get().to_string(),
            "last_certain_chain": older.last_certain.get().to_string(),
        })).collect::<Vec<_>>(),
        "chains": pair.chains.iter().map(|chain| chain_json(chain, records)).collect::<Vec<_>>(),
    })
}

fn chain_json(chain: &ChainView, records: bool) -> Value {
    let (state, slot, held) = match &chain.slot {
        SlotView::Good(slot, held) => ("good", Some(slot), held.as_slice()),
        SlotView::Untouched => ("untouched", None, &[][..]),
        SlotView::Bad => ("bad", None, &[][..]),
        SlotView::Torn => ("torn", None, &[][..]),
        SlotView::Unreadable => ("unreadable", None, &[][..]),
    };
    let mut value = json!({
        "chain": chain.chain.get().to_string(),
        "first_block": chain.first_block,
        "slot": state,
        "retired": slot.map(|slot| slot.retired.get().to_string()),
        "io_writer_mode": slot.map(|slot| slot.io_writer_mode),
        "extent": chain.extent.as_ref().map(|extent| json!({
            "blocks": extent.header.blocks,
            "records": extent.header.records,
            "bytes": extent.header.bytes,
            "digest": hex(&extent.digest),
        })),
        "items": held.iter().map(|item| json!({
            "kind": format!("{:?}", item.at.kind),
            "partition": item.at.partition.get().to_string(),
            "term": item.at.term.get().to_string(),
            "index": item.at.index.get().to_string(),
            "count": item.count,
        })).collect::<Vec<_>>(),
    });
    if records {
        value["records"] = chain
            .extent
            .iter()
            .flat_map(|extent| &extent.records)
            .map(|record| {
                json!({
                    "kind": format!("{:?}", record.kind),
                    "partition": record.partition.get().to_string(),
                    "term": record.term.get().to_string(),
                    "index": record.index.get().to_string(),
                    "body_bytes": record.body_len,
                })
            })
            .collect();
    }
    value
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
