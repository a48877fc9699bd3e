//! What a start found in a shard's log and decided, left behind for people and their tools.
//!
//! `shard-N/boot_record.json` is replaced whole at each boot, when the logs of all shards have been read and before anything is
//! written to them; docs/specification.md, section 7, lists its fields. Nothing reads it back: a start goes by the log alone, and one
//! that can't leave its record goes on.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::files;
use crate::buffer::BLOCK_BYTES;
use crate::log::nonce::NonceAccount;
use crate::log::{LogIdentity, LogOptions, PartitionLog, RecoveryReport, ShardLog};
use clustor_wire::ids::PartitionId;

const BOOT_RECORD: &str = "boot_record.json";
/// Version of the record's fields.
const VERSION: u32 = 1;
/// Partitions that a record lists, at most, the first by their ids; its readers take 1 MiB.
pub const RECORD_PARTITIONS_MAX: usize = 1_000;
/// Incidents that a record lists, at most, the first by their places.
pub const RECORD_INCIDENTS_MAX: usize = 1_000;

/// Pairs whose nonces a record lists, at most.
const RECORD_PAIRS_MAX: usize = 1_000;

/// What reading the log took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveryWork {
    /// Milliseconds.
    pub duration_ms: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes of all files that there were.
    pub found_bytes: u64,
    /// Pairs that there were.
    pub found_pairs: usize,
}

/// A boot's record.
#[derive(Clone, Copy)]
pub struct BootRecord<'a> {
    /// Whose log it is.
    pub identity: LogIdentity,
    /// What recovery found.
    pub report: &'a RecoveryReport,
    /// The log, not opened yet.
    pub log: &'a ShardLog,
    /// What it took.
    pub work: RecoveryWork,
    /// The wall clock, in milliseconds since 1970.
    pub written_unix_ms: u64,
}

/// A record's text, apart from the log that it is about.
#[derive(Debug, Clone)]
pub struct WrittenRecord(String);

impl WrittenRecord {
    /// Replaces the record of the shard whose directory this is (`DATA/shard-N`).
    ///
    /// # Errors
    /// When it can't be written; the one before it is then still there.
    pub fn put(&self, directory: &Path) -> io::Result<()> {
        files::put(directory, BOOT_RECORD, 0o600, self.0.as_bytes())
    }
}

impl BootRecord<'_> {
    /// The record as it is written.
    #[must_use]
    pub fn written(&self) -> WrittenRecord {
        WrittenRecord(format!("{:#}\n", self.to_json()))
    }

    /// The record as JSON. What may exceed 2^53 is a string.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let partitions = self.log.partitions().take(RECORD_PARTITIONS_MAX);
        json!({
            "version": VERSION,
            "written_unix_ms": self.written_unix_ms,
            "cluster": format!("{:032x}", self.identity.cluster.get()),
            "node": self.identity.node.get().to_string(),
            "shard": self.identity.shard.get(),
            "boot": self.report.boot.get().to_string(),
            "state": self.state(),
            "quarantine": self.log.quarantine().map(ToString::to_string),
            "recovery": self.recovery(),
            "nonces": self.nonces(),
            "self_test": self.report.self_test,
            "scrub": scrub(self.log.options()),
            "geometry": geometry(self.log.options()),
            "io_writer_mode": writer_mode(self.log.options().io_writer_mode),
            "partitions_total": self.log.partitions().count(),
            "partitions": partitions.map(|(id, log)| watermarks(id, log)).collect::<Vec<_>>(),
        })
    }

    /// The worst of what was found.
    fn state(&self) -> &'static str {
        if self.log.quarantine().is_some() {
            "quarantined"
        } else if self.report.missing > 0 {
            "missing"
        } else if !self.report.incidents.is_empty() {
            "repaired"
        } else if self.report.chosen.is_none() {
            "empty"
        } else {
            "healthy"
        }
    }

    fn recovery(&self) -> Value {
        let (report, work) = (self.report, self.work);
        let incidents = report.incidents.iter().take(RECORD_INCIDENTS_MAX);
        json!({
            "duration_ms": work.duration_ms,
            "read_bytes": work.read_bytes.to_string(),
            "found_bytes": work.found_bytes.to_string(),
            "found_pairs": work.found_pairs,
            "chosen_pair": report.chosen.map(|pair| pair.get().to_string()),
            "chains_walked": report.chains,
            "last_certain_chain": report.certain.get().to_string(),
            "torn_at_chain": report.torn.map(|chain| chain.get().to_string()),
            "records_rewritten": report.rewritten,
            "entries_missing": report.missing.to_string(),
            "incidents_total": report.incidents.len(),
            "incidents": incidents.map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    /// The verdict, totals, and the pairs of which something was given up or is not accounted for.
    fn nonces(&self) -> Value {
        let accounts = &self.report.nonces;
        let total = |of: fn(&NonceAccount) -> u64| accounts.iter().map(of).sum::<u64>().to_string();
        let told = |account: &&NonceAccount| account.abandoned_bytes + account.gaps.bytes() > 0;
        let pairs = accounts.iter().filter(told).take(RECORD_PAIRS_MAX);
        json!({
            "verdict": self.report.nonce_verdict.to_string(),
            "judged_bytes": total(NonceAccount::gap_bytes),
            "reserved_bytes": total(|account| account.reserved_bytes),
            "sealed_bytes": total(|account| account.sealed_bytes),
            "abandoned_bytes": total(|account| account.abandoned_bytes),
            "unreserved_bytes": total(|account| account.gaps.unreserved_bytes),
            "unsealed_bytes": total(|account| account.gaps.unsealed_bytes),
            "pairs": pairs.map(|account| json!({
                "pair": account.pair.get().to_string(),
                "abandoned_bytes": account.abandoned_bytes.to_string(),
                "unreserved_bytes": account.gaps.unreserved_bytes.to_string(),
                "unsealed_bytes": account.gaps.unsealed_bytes.to_string(),
                "has_lost_slots": account.has_lost_slots,
            })).collect::<Vec<_>>(),
        })
    }
}

/// How the log will be looked at while it runs.
fn scrub(options: &LogOptions) -> Value {
    let rates = options.scrub;
    json!({
        "round_ms": rates.round_ms,
        "sample_every_ms": rates.sample_every_ms,
        "sample_percent": rates.sample_percent,
    })
}

fn geometry(options: &LogOptions) -> Value {
    json!({
        "block_bytes": BLOCK_BYTES,
        "segment_blocks": options.segment_blocks,
        "ledger_slots": options.ledger_slots,
        "log_encoding": options.format.log_encoding.to_string(),
        "ledger_encoding": options.format.ledger_encoding.to_string(),
        "sealing": options.format.sealing.to_string(),
        "hash": options.format.hash.to_string(),
        "merkle_leaves": options.format.merkle_leaves,
    })
}

/// Its name; the number is the log's.
fn writer_mode(mode: u8) -> &'static str {
    match mode {
        0 => "FixedUring",
        1 => "RegisteredUring",
        _ => "Blocking",
    }
}

fn watermarks(id: PartitionId, log: &PartitionLog) -> Value {
    let ranges = log.missing.iter();
    let missing: u64 = ranges
        .map(|range| range.last.get() - range.first.get() + 1)
        .sum();
    json!({
        "partition": id.get().to_string(),
        "incarnation": log.incarnation.get().to_string(),
        "term": log.hard_state.term.get().to_string(),
        "vote": log.hard_state.vote.map(|node| node.get().to_string()),
        "base": log.base.get().to_string(),
        "last": log.last.get().to_string(),
        "missing": missing.to_string(),
    })
}
