//! Structures in lines, for people.

use std::io::{self, Write};

use clustor_shards::log::audit::Role;
use clustor_shards::log::header::PairHeader;
use clustor_shards::log::inspect::{
    ChainView, ExtentView, ItemView, Judgement, PairView, RecordView, SlotView,
};
use clustor_shards::log::nonce::NonceAccount;
use clustor_shards::log::slot::Slot;
use clustor_shards::log::trailer::{FoundTrailer, SegmentFigures, Trailer};
use clustor_shards::log::{LogIdentity, PartitionLog};
use clustor_wire::ids::PartitionId;
use serde_json::Value;

use super::{Wanted, asked_for_missing, body, hex};

/// Columns that what a record says may take on a line, unless one word alone is longer.
const SAYS_COLUMNS: usize = 90;

pub(super) fn print_pair(out: &mut dyn Write, pair: &PairView, wanted: &Wanted) -> io::Result<()> {
    let role = match pair.role {
        Role::Chosen => "written last".to_owned(),
        Role::Older { last_certain } => format!("older, counts to chain {last_certain}"),
        Role::Unused => "nothing in it counts".to_owned(),
    };
    let without = match (&pair.header, pair.is_spare) {
        (Some(_), _) => "",
        (None, true) => "; a spare, never opened",
        (None, false) => "; neither file has a header",
    };
    writeln!(out, "\npair {}: {role}{without}", pair.pair)?;
    for fault in &pair.faults {
        writeln!(out, "  BAD: {fault}")?;
    }
    let Some(header) = &pair.header else {
        return Ok(());
    };
    print_header(out, header, pair.header_copies)?;
    print_checkpoint(out, pair)?;
    match &pair.trailer {
        None | Some(FoundTrailer::Untouched) => {}
        Some(FoundTrailer::Whole(trailer)) => {
            writeln!(out, "  trailer: {}", trailer_line(trailer))?;
        }
        Some(FoundTrailer::Bad) => {
            writeln!(out, "  last block: no trailer; BAD if the pair is closed")?;
        }
        Some(FoundTrailer::Unreadable) => writeln!(out, "  trailer UNREADABLE")?,
    }
    if let Some(account) = &pair.nonces {
        writeln!(out, "  nonces: {}", nonces_line(account))?;
    }
    for chain in &pair.chains {
        print_chain(out, chain, wanted)?;
    }
    Ok(())
}

fn print_header(out: &mut dyn Write, header: &PairHeader, copies: [bool; 2]) -> io::Result<()> {
    let format = &header.format;
    writeln!(
        out,
        "  header{}: boot {}, chains from {}",
        bad_copy(copies),
        header.boot,
        header.first_chain
    )?;
    writeln!(
        out,
        "    segment {} blocks{}, ledger {} blocks, checkpoint {} bytes in {} blocks",
        header.segment_blocks,
        if header.recycled { " (recycled)" } else { "" },
        header.ledger_blocks,
        header.checkpoint_bytes,
        header.checkpoint_blocks
    )?;
    writeln!(
        out,
        "    log {}, ledger {}, sealed with {}, hash {}{}",
        format.log_encoding,
        format.ledger_encoding,
        format.sealing,
        format.hash,
        if format.merkle_leaves {
            " in leaves"
        } else {
            ""
        }
    )?;
    writeln!(
        out,
        "    data key epoch {}, MAC epoch {}, salt {}",
        header.dek_epoch,
        header.mac_epoch,
        hex(&header.salt)
    )
}

const fn bad_copy(copies: [bool; 2]) -> &'static str {
    match copies {
        [true, true] => "",
        [true, false] => ", BAD in the ledger",
        [false, true] => ", BAD in the segment",
        [false, false] => ", BAD in both files",
    }
}

/// What a start would miss in a shard, or why that can't be told.
pub(super) fn print_missing(
    out: &mut dyn Write,
    identity: &LogIdentity,
    short: Result<&[(PartitionId, PartitionLog)], &String>,
) -> io::Result<()> {
    let short = match short {
        Ok([]) => return writeln!(out, "\nmissing: nothing"),
        Ok(short) => short,
        Err(why) => return writeln!(out, "\nmissing: can't be told: {why}"),
    };
    for (id, log) in short {
        let ranges = log.missing.iter();
        let ranges: Vec<String> = ranges
            .map(|range| format!("{} to {}", range.first, range.last))
            .collect();
        let asked = asked_for_missing(log, identity);
        let asked: Vec<String> = asked.iter().map(|peer| peer.node.to_string()).collect();
        writeln!(
            out,
            "\nmissing in partition {id}: {} entries, {}; asked of {}",
            log.missing_count(),
            ranges.join(", "),
            if asked.is_empty() {
                "nobody".to_owned()
            } else {
                format!("node {}", asked.join(", "))
            }
        )?;
    }
    Ok(())
}

fn print_checkpoint(out: &mut dyn Write, pair: &PairView) -> io::Result<()> {
    let Some(checkpoint) = &pair.checkpoint else {
        return writeln!(out, "  checkpoint BAD in both files");
    };
    writeln!(
        out,
        "  checkpoint: {} partitions, {} older pairs, {} bytes of records written again{}",
        checkpoint.fold.partitions.len(),
        checkpoint.older.len(),
        checkpoint.tail.len(),
        bad_copy(pair.checkpoint_copies)
    )?;
    for (id, log) in &checkpoint.fold.partitions {
        print_partition(out, *id, log)?;
    }
    for item in &pair.rewritten {
        print_item(out, "    written again: ", item)?;
    }
    for older in &checkpoint.older {
        let trailer = match &older.trailer {
            Some(trailer) => trailer_line(trailer),
            None => "no trailer".to_owned(),
        };
        let durable = if older.trailer_durable {
            "durable"
        } else {
            "not yet durable"
        };
        writeln!(
            out,
            "    older pair {}: counts to chain {}, {} blocks, trailer {durable}: {trailer}",
            older.pair, older.last_certain, older.segment_blocks
        )?;
    }
    for past in &checkpoint.boots {
        writeln!(out, "    boot {}: came to chain {}", past.boot, past.last)?;
    }
    for ((node, shard), past) in &checkpoint.fold.peers {
        writeln!(
            out,
            "    peer node {node} shard {shard}: retired chain {}, boot {}, incarnation {}",
            past.chain, past.boot, past.incarnation
        )?;
    }
    Ok(())
}

fn print_partition(out: &mut dyn Write, id: PartitionId, log: &PartitionLog) -> io::Result<()> {
    let vote = log
        .hard_state
        .vote
        .map_or("nobody".to_owned(), |node| format!("node {node}"));
    writeln!(
        out,
        "    partition {id}: term {}, voted for {vote}, entries {} to {}, {} missing, incarnation {}",
        log.hard_state.term,
        log.base.next(),
        log.last,
        log.missing_count(),
        log.incarnation
    )?;
    for range in &log.missing {
        writeln!(out, "      missing {} to {}", range.first, range.last)?;
    }
    for at in &log.configurations {
        writeln!(
            out,
            "      configuration at term {} index {}:",
            at.term, at.index
        )?;
        match body::configuration(&at.body) {
            Some(fields) => print_words(out, &fields)?,
            None => writeln!(out, "      undecodable {}", hex(&at.body))?,
        }
    }
    let places = [
        ("exit committed", log.exit_committed),
        ("snapshot", log.snapshot_mark),
    ];
    for (what, place) in places {
        if let Some((term, index)) = place {
            writeln!(out, "      {what} at term {term} index {index}")?;
        }
    }
    Ok(())
}

fn trailer_line(trailer: &Trailer) -> String {
    format!(
        "chains {} to {}, blocks {} to {},\n      {}",
        trailer.first.0,
        trailer.last.0,
        trailer.first.1,
        trailer.last.1,
        figures_line(&trailer.figures)
    )
}

fn figures_line(figures: &SegmentFigures) -> String {
    let root = figures.merkle_root.map_or(String::new(), |root| {
        format!(",\n      Merkle root {}", hex(&root))
    });
    format!(
        "{} records, entries {}, offsets {}{root}",
        figures.records,
        hex(&figures.entries.to_bytes()),
        hex(&figures.offsets.to_bytes())
    )
}

pub(super) const fn judgement(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Proven => "proven",
        Judgement::Tail => "unproven tail",
        Judgement::SlotLost => "whole, its slot is lost",
        Judgement::Rot => "ROT, what it held is known",
        Judgement::Unnamed => "ROT, and its slot is lost with it",
        Judgement::Torn => "torn tail, cut by a start",
        Judgement::Blank => "never written, its slot is damaged",
        Judgement::Dead => "dead, behind what counts",
        Judgement::Unused => "in a pair that does not count",
    }
}

fn print_chain(out: &mut dyn Write, chain: &ChainView, wanted: &Wanted) -> io::Result<()> {
    if !wanted.takes_chain(chain) {
        return Ok(());
    }
    let items: Vec<&ItemView> = match &chain.slot {
        SlotView::Good(_, held) => held.iter().collect(),
        _ => Vec::new(),
    };
    let items: Vec<_> = items
        .into_iter()
        .filter(|item| wanted.takes(&item.at, item.count))
        .collect();
    let records = chain.extent.iter().flat_map(|extent| &extent.records);
    let records: Vec<_> = records.collect();
    if !wanted.all() && items.is_empty() && records.is_empty() {
        return Ok(());
    }
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
    writeln!(
        out,
        "  chain {}: {extent}; {slot}; {}",
        chain.chain,
        judgement(chain.judgement)
    )?;
    for fault in &chain.faults {
        writeln!(out, "    BAD: {fault}")?;
    }
    if let SlotView::Good(slot, _) = &chain.slot {
        print_nonces(out, slot)?;
        if wanted.records {
            print_details(out, slot, chain.extent.as_ref())?;
        }
    }
    for item in items {
        print_item(out, "    ", item)?;
    }
    records
        .into_iter()
        .try_for_each(|record| print_record(out, record))
}

/// What slot and extent say beside the chain's line.
fn print_details(out: &mut dyn Write, slot: &Slot, extent: Option<&ExtentView>) -> io::Result<()> {
    let mode = match slot.io_writer_mode {
        0 => "FixedUring",
        1 => "RegisteredUring",
        2 => "Blocking",
        _ => "an unknown way",
    };
    writeln!(
        out,
        "    slot: written by {mode}, segment so far:\n      {}",
        figures_line(&slot.figures)
    )?;
    if let Some(sweep) = slot.sweep {
        writeln!(
            out,
            "    scrub: at slot {} of pair {} of those up to {}, {} chains and {} ms into its sweep",
            sweep.slot, sweep.pair, sweep.last, sweep.chains_done, sweep.spent_ms
        )?;
    }
    if let Some(extent) = extent {
        writeln!(
            out,
            "    extent: crc {:08x}, digest {}",
            extent.header.crc,
            hex(&extent.digest)
        )?;
        writeln!(
            out,
            "      the one before it {}",
            hex(&extent.header.previous)
        )?;
    }
    Ok(())
}

fn print_record(out: &mut dyn Write, record: &RecordView) -> io::Result<()> {
    let at = &record.header;
    writeln!(
        out,
        "    record {} partition {} term {} index {} body {} bytes, crc {:08x}",
        at.kind.name(),
        at.partition,
        at.term,
        at.index,
        at.body_len,
        record.crc
    )?;
    print_says(out, record)?;
    if let Some((hash, leaf)) = &record.leaf {
        writeln!(out, "      leaf {hash} {}", hex(leaf))?;
    }
    Ok(())
}

/// What a record says, some of it on each line.
fn print_says(out: &mut dyn Write, record: &RecordView) -> io::Result<()> {
    print_words(out, &body::fields(record))
}

fn print_words(out: &mut dyn Write, fields: &body::Fields) -> io::Result<()> {
    let mut line = String::new();
    for word in body::words(fields) {
        if !line.is_empty() && line.len() + word.len() > SAYS_COLUMNS {
            writeln!(out, "      {line}")?;
            line.clear();
        }
        let between = if line.is_empty() { "" } else { ", " };
        line = format!("{line}{between}{word}");
    }
    if line.is_empty() {
        return Ok(());
    }
    writeln!(out, "      {line}")
}

fn print_item(out: &mut dyn Write, before: &str, item: &ItemView) -> io::Result<()> {
    writeln!(out, "{before}{}", item_line(item))?;
    match &item.small {
        Some(record) => print_says(out, record),
        None => Ok(()),
    }
}

/// What a start left behind of itself, a field to a line, and each of a long list.
pub(super) fn print_boot_record(out: &mut dyn Write, record: &Value) -> io::Result<()> {
    writeln!(out, "boot record:")?;
    match record {
        Value::Object(fields) => print_fields(out, "  ", fields),
        other => writeln!(out, "  {other}"),
    }
}

fn print_fields(
    out: &mut dyn Write,
    indent: &str,
    fields: &serde_json::Map<String, Value>,
) -> io::Result<()> {
    for (name, value) in fields {
        let is_long = value.to_string().len() > SAYS_COLUMNS / 2;
        match value {
            Value::Object(inner) if is_long => {
                writeln!(out, "{indent}{name}:")?;
                print_fields(out, &format!("{indent}  "), inner)?;
            }
            Value::Array(list) if is_long => {
                writeln!(out, "{indent}{name}:")?;
                for value in list {
                    writeln!(out, "{indent}  {}", body::plain(value))?;
                }
            }
            value => writeln!(out, "{indent}{name:<20} {}", body::plain(value))?,
        }
    }
    Ok(())
}

fn nonces_line(account: &NonceAccount) -> String {
    let why = if account.has_lost_slots {
        ", beside ledger slots that are lost"
    } else {
        ""
    };
    let gaps = match account.gaps.bytes() {
        0 => String::new(),
        _ => format!(
            "; NOT ACCOUNTED FOR{why}: {} sealed without a reservation, {} reserved and neither sealed nor abandoned",
            account.gaps.unreserved_bytes, account.gaps.unsealed_bytes
        ),
    };
    format!(
        "{} bytes reserved, {} sealed, {} abandoned{gaps}",
        account.reserved_bytes, account.sealed_bytes, account.abandoned_bytes
    )
}

fn print_nonces(out: &mut dyn Write, slot: &Slot) -> io::Result<()> {
    if let Some(range) = slot.nonces.reserved {
        writeln!(
            out,
            "    nonces reserved: pair {} blocks {}+{}",
            range.pair, range.start, range.blocks
        )?;
    }
    if let Some(abandoned) = slot.nonces.abandoned {
        writeln!(
            out,
            "    nonces abandoned: pair {} ({:?})",
            abandoned.pair, abandoned.reason
        )?;
    }
    Ok(())
}

fn item_line(item: &ItemView) -> String {
    let at = &item.at;
    let last = at
        .index
        .get()
        .saturating_add(u64::from(item.count.max(1)) - 1);
    let range = if item.count > 1 {
        format!("{} to {last}", at.index)
    } else {
        at.index.to_string()
    };
    format!(
        "{} partition {} term {} index {range}",
        at.kind.name(),
        at.partition,
        at.term
    )
}
