//! What a scrub found, for people and for programs.

use std::io::{self, Write};
use std::time::Duration;

use clustor_shards::disk::FileKind;
use clustor_shards::log::audit::{
    AuditReport, BadBlock, Damaged, Finding, Held, Outcome, PairReport, Role,
};
use clustor_shards::log::nonce::GapVerdict;
use serde_json::{Value, json};

use super::progress::bytes;
use super::{Scrubbed, refusal_name};
use crate::inspect::hex;

pub(super) fn print(out: &mut dyn Write, scrubbed: &[Scrubbed], took: Duration) -> io::Result<()> {
    for Scrubbed { shard, outcome } in scrubbed {
        let report = match outcome {
            Ok(report) => report,
            Err(refused) => {
                writeln!(out, "shard {shard}: {}: {refused}", refusal_name(refused))?;
                continue;
            }
        };
        writeln!(
            out,
            "{}: {}",
            report.identity,
            outcome_name(report.outcome())
        )?;
        for pair in &report.pairs {
            writeln!(out, "  {}", pair_line(pair))?;
        }
        for finding in &report.findings {
            print_finding(out, finding)?;
        }
        for (partition, range) in &report.missing {
            writeln!(
                out,
                "  missing: partition {partition} index {} to {}",
                range.first, range.last
            )?;
        }
        if let Some(chain) = report.torn {
            writeln!(
                out,
                "  torn tail at chain {chain}: a start cuts it; nothing of it was acknowledged"
            )?;
        }
        if report.nonces != GapVerdict::Healthy {
            let gaps: u64 = report
                .pairs
                .iter()
                .filter(|pair| !pair.has_lost_slots)
                .map(|pair| pair.nonce_gaps.bytes())
                .sum();
            writeln!(
                out,
                "  nonces of {} are not accounted for: {}",
                bytes(gaps),
                report.nonces
            )?;
        }
        if let Some(quarantine) = &report.quarantine {
            writeln!(out, "  {quarantine}")?;
        }
    }
    let verified = bytes_of(scrubbed);
    let rate = verified as f64 / took.as_secs_f64().max(1e-3);
    writeln!(
        out,
        "{} verified in {:.2} s, {}/s",
        bytes(verified),
        took.as_secs_f64(),
        bytes(rate as u64)
    )
}

fn pair_line(pair: &PairReport) -> String {
    let role = match pair.role {
        Role::Chosen => "written last".to_owned(),
        Role::Older { last_certain } => format!("older, to chain {last_certain}"),
        Role::Unused => return format!("pair {}: not part of the log, not read", pair.pair),
    };
    let root = pair.merkle_root.map_or(String::new(), |root| {
        format!(", Merkle root {}", hex(&root))
    });
    format!(
        "pair {} ({role}): {} chains, {} records, {} of extents, {} of ledger{root}",
        pair.pair,
        pair.chains,
        pair.records,
        bytes(pair.extent_bytes),
        bytes(pair.ledger_bytes)
    )
}

fn print_finding(out: &mut dyn Write, finding: &Finding) -> io::Result<()> {
    writeln!(
        out,
        "  pair {}, chain {}: {}: {}",
        finding.pair,
        finding.chain,
        finding.damaged,
        outcome_name(finding.outcome)
    )?;
    for block in &finding.bad_blocks {
        writeln!(
            out,
            "    {} block {}: {}",
            block.file,
            block.block,
            bad_text(block)
        )?;
    }
    let more = finding.bad_block_count - finding.bad_blocks.len() as u64;
    if more > 0 {
        writeln!(out, "    and {more} more blocks")?;
    }
    for held in &finding.held {
        writeln!(
            out,
            "    held {:?} partition {} term {} index {} to {}",
            held.kind, held.partition, held.term, held.first, held.last
        )?;
    }
    Ok(())
}

fn bad_text(block: &BadBlock) -> &'static str {
    if block.unreadable {
        "unreadable"
    } else {
        "not authentic"
    }
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Healthy => "healthy",
        Outcome::Restored => "restorable",
        Outcome::Missing => "missing",
        Outcome::Quarantine => "quarantine",
    }
}

const fn damage_name(damaged: Damaged) -> &'static str {
    match damaged {
        Damaged::Header(FileKind::Segment) => "segment_header",
        Damaged::Header(FileKind::Ledger) => "ledger_header",
        Damaged::Checkpoint(FileKind::Segment) => "segment_checkpoint",
        Damaged::Checkpoint(FileKind::Ledger) => "ledger_checkpoint",
        Damaged::CheckpointsDiffer => "checkpoints_differ",
        Damaged::BothCheckpoints => "both_checkpoints",
        Damaged::Slot => "slot",
        Damaged::UnusedSlot => "unused_slot",
        Damaged::Extent => "extent",
        Damaged::ExtentAndSlot => "extent_and_slot",
        Damaged::Trailer => "trailer",
        Damaged::Pair => "pair",
        Damaged::BothHeaders => "both_headers",
        Damaged::Figures => "figures",
    }
}

/// The whole report. Numbers that may exceed 2^53 are strings, as everywhere in the tools' JSON.
pub(super) fn json(scrubbed: &[Scrubbed], took: Duration) -> Value {
    let worst = scrubbed.iter().max_by_key(|of| of.exit().0);
    json!({
        "outcome": worst.map_or(outcome_name(Outcome::Healthy), name_of),
        "bytes": bytes_of(scrubbed),
        "seconds": took.as_secs_f64(),
        "shards": scrubbed.iter().map(shard_json).collect::<Vec<_>>(),
    })
}

fn name_of(scrubbed: &Scrubbed) -> &'static str {
    match &scrubbed.outcome {
        Ok(report) => outcome_name(report.outcome()),
        Err(refused) => refusal_name(refused),
    }
}

fn bytes_of(scrubbed: &[Scrubbed]) -> u64 {
    let reports = scrubbed.iter().filter_map(|of| of.outcome.as_ref().ok());
    reports.map(AuditReport::bytes).sum()
}

fn shard_json(scrubbed: &Scrubbed) -> Value {
    let report = match &scrubbed.outcome {
        Ok(report) => report,
        Err(refused) => {
            return json!({
                "shard": scrubbed.shard.get(),
                "outcome": refusal_name(refused),
                "why": refused.message,
            });
        }
    };
    json!({
        "shard": report.identity.shard.get(),
        "outcome": outcome_name(report.outcome()),
        "pairs": report.pairs.iter().map(pair_json).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "missing": report.missing.iter().map(|(partition, range)| json!({
            "partition": partition,
            "first": range.first,
            "last": range.last,
        })).collect::<Vec<_>>(),
        "torn": report.torn,
        "quarantine": report.quarantine.as_ref().map(ToString::to_string),
        "nonces": report.nonces.to_string(),
    })
}

fn pair_json(pair: &PairReport) -> Value {
    let (role, last_certain) = match pair.role {
        Role::Chosen => ("newest", None),
        Role::Older { last_certain } => ("older", Some(last_certain)),
        Role::Unused => ("unused", None),
    };
    json!({
        "pair": pair.pair,
        "role": role,
        "last_certain_chain": last_certain,
        "chains": pair.chains,
        "records": pair.records,
        "extent_bytes": pair.extent_bytes,
        "ledger_bytes": pair.ledger_bytes,
        "merkle_root": pair.merkle_root.map(|root| hex(&root)),
        "nonce_unreserved_bytes": pair.nonce_gaps.unreserved_bytes,
        "nonce_unsealed_bytes": pair.nonce_gaps.unsealed_bytes,
        "has_lost_slots": pair.has_lost_slots,
    })
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "pair": finding.pair,
        "chain": finding.chain,
        "damage": damage_name(finding.damaged),
        "outcome": outcome_name(finding.outcome),
        "bad_blocks": finding.bad_blocks.iter().map(|bad| json!({
            "file": bad.file.to_string(),
            "block": bad.block,
            "unreadable": bad.unreadable,
        })).collect::<Vec<_>>(),
        "bad_block_count": finding.bad_block_count,
        "held": finding.held.iter().map(held_json).collect::<Vec<_>>(),
    })
}

fn held_json(held: &Held) -> Value {
    json!({
        "kind": format!("{:?}", held.kind),
        "partition": held.partition,
        "term": held.term,
        "first": held.first,
        "last": held.last,
    })
}
