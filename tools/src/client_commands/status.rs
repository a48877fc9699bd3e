//! `clustor status`.

use std::io::Write;

use clap::Args;
use clustor_engine::outcome::describe;
use clustor_shards::turn::PeerId;
use clustor_wire::ids::{NodeId, PartitionId, ShardId};
use clustor_wire::message::{
    AskedAnswer, AskedNode, DurabilityMode, GuestStatus, PartitionStatus, Role, ScrubStatus,
    ShardStatus,
};
use serde_json::{Value, json};

use super::{Reach, check_partition};
use crate::exit::{CommandError, EXIT_HELP};
use crate::json;

const EXAMPLES: &str = "\
Examples:
  clustor status --cluster dev                          every shard of every node, and all replicas
  clustor status --cluster dev --node 2                 one node
  clustor status --cluster dev --partition 5            its replicas: any of them says who leads
  clustor status --cluster dev --json | jq '.shards[].partitions[] | select(.role == \"leader\")'

Indices of a replica: last entry, durable here, durable on a quorum, applied. Exit code 1 if a shard did not
answer; the others are printed all the same.";

/// Shows how nodes, shards and partitions stand.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct StatusArgs {
    #[command(flatten)]
    reach: Reach,
    /// Only this node.
    #[arg(long)]
    node: Option<u64>,
    /// Only this partition's replicas.
    #[arg(long)]
    partition: Option<u128>,
}

type Told = (PeerId, Result<ShardStatus, String>);

/// Runs `clustor status`.
///
/// # Errors
/// A shard did not answer, or a file is not acceptable.
pub fn status(args: &StatusArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let client = args.reach.client()?;
    if let Some(partition) = args.partition {
        check_partition(&client, partition)?;
    }
    let placement = client.placement();
    let partition = args.partition.map(PartitionId);
    let shards = placement.nodes().iter().flat_map(|(node, placed)| {
        (0..placed.shards).map(|shard| PeerId {
            node: *node,
            shard: ShardId(shard),
        })
    });
    let wanted: Vec<PeerId> = shards
        .filter(|at| args.node.is_none_or(|node| at.node == NodeId(node)))
        .filter(|at| partition.is_none_or(|p| placement.partitions_on(*at).contains(&p)))
        .collect();
    if wanted.is_empty() {
        return Err(CommandError::failed(
            "the placement names no such node, or no replica on it",
        ));
    }
    let timeout = Some(args.reach.timeout());
    // All are asked before the first answer is waited for.
    let asked: Vec<_> = wanted
        .into_iter()
        .map(|at| (at, client.status(at, partition, timeout)))
        .collect();
    let told: Vec<Told> = asked
        .into_iter()
        .map(|(at, pending)| (at, pending.wait().map_err(|error| describe(&error.0))))
        .collect();
    if args.reach.json {
        let shards: Vec<Value> = told.iter().map(shard_json).collect();
        json::line(out, &json!({ "shards": shards })).map_err(CommandError::failed)?;
    } else {
        for shard in &told {
            print_shard(shard, out).map_err(CommandError::failed)?;
        }
    }
    let silent = told.iter().filter(|(_, status)| status.is_err()).count();
    if silent > 0 {
        return Err(CommandError::failed(format!(
            "{silent} of {} shards did not answer",
            told.len()
        )));
    }
    Ok(())
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Quarantined => "quarantined",
    }
}

const fn mode(mode: DurabilityMode) -> &'static str {
    match mode {
        DurabilityMode::Strict => "strict",
        DurabilityMode::Group => "group",
    }
}

/// The mode in force, with what holds group mode back, if anything does.
fn in_force(status: &PartitionStatus) -> String {
    let now = mode(status.mode);
    if status.held_back.is_empty() {
        now.to_owned()
    } else {
        format!("{now}: {}", status.held_back)
    }
}

/// Whether a lease is held, or why the leader holds none.
fn lease(status: &PartitionStatus) -> &str {
    if status.lease_held {
        "held"
    } else {
        or(&status.no_lease, "-")
    }
}

/// What the machine takes over its batches, and how many entries may wait for it where that is too long.
fn pace(status: &PartitionStatus) -> String {
    let Some(p99_us) = status.apply_p99_us else {
        return "-".to_owned();
    };
    let mut text = match p99_us {
        ..1_000 => format!("{p99_us} us"),
        _ => format!("{:.1} ms", p99_us as f64 / 1000.0),
    };
    if let Some(entries) = status.apply_backlog_max {
        text.push_str(&format!(": {entries}"));
    }
    text
}

const fn writer(mode: u8) -> &'static str {
    match mode {
        0 => "fixed-uring",
        1 => "registered-uring",
        2 => "blocking",
        _ => "unknown",
    }
}

fn shard_json((at, status): &Told) -> Value {
    match status {
        Err(why) => json!({ "node": at.node, "shard": at.shard.get(), "unreachable": why }),
        Ok(status) => json!({
            "node": at.node,
            "shard": at.shard.get(),
            "boot": status.boot,
            "io_writer_mode": writer(status.io_writer_mode),
            "trouble": status.trouble,
            "partitions": status.partitions.iter().map(partition_json).collect::<Vec<_>>(),
            "scrub": scrub_json(&status.scrub),
            "guests": guests_json(&status.guests),
        }),
    }
}

fn guests_json(guests: &GuestStatus) -> Value {
    json!({ "here": guests.here, "unnamed": guests.unnamed, "refused": guests.refused })
}

fn scrub_json(scrub: &ScrubStatus) -> Value {
    json!({
        "sweeps": scrub.sweeps,
        "sweep_permille": scrub.sweep_permille,
        "bytes": scrub.bytes,
        "finished_ms_ago": scrub.finished_ms_ago,
        "oldest_unverified_ms": scrub.oldest_unverified_ms,
        "damaged_places": scrub.damaged_places,
        "lost_entries": scrub.lost_entries,
    })
}

/// In words: how long ago the last sweep ended, how far the present one is, what was found.
fn scrub_line(scrub: &ScrubStatus) -> String {
    let hours = |ms: u64| ms as f64 / 3_600_000.0;
    let verified = match (scrub.oldest_unverified_ms, scrub.finished_ms_ago) {
        (Some(oldest), Some(ended)) => format!(
            "all verified within {:.1} h of running, last sweep ended {:.1} h ago",
            hours(oldest),
            hours(ended)
        ),
        _ => "first sweep since the start".to_owned(),
    };
    let found = if scrub.damaged_places == 0 {
        "no damage found".to_owned()
    } else {
        format!(
            "{} damaged places FOUND, {} entries missing by it",
            scrub.damaged_places, scrub.lost_entries
        )
    };
    format!(
        "{verified}; {:.1}% of the present one; {found}",
        f64::from(scrub.sweep_permille) / 10.0
    )
}

fn partition_json(status: &PartitionStatus) -> Value {
    json!({
        "partition": status.partition,
        "role": role(status.role),
        "term": status.term,
        "leader": status.leader,
        "last_index": status.last_index,
        "durable": status.durable,
        "wal_committed": status.wal_committed,
        "applied": status.applied,
        "missing": status.missing,
        "trouble": status.trouble,
        "mode": mode(status.mode),
        "wanted_mode": mode(status.wanted_mode),
        "held_back": status.held_back,
        "lease_held": status.lease_held,
        "no_lease": status.no_lease,
        "apply_p99_us": status.apply_p99_us,
        "apply_breaches": status.apply_breaches,
        "apply_backlog_max": status.apply_backlog_max,
        "missing_asked": status.asked_index.map(|index| json!({
            "index": index,
            "nodes": status.asked.iter().map(asked_json).collect::<Vec<_>>(),
        })),
    })
}

/// Whom missing content is asked of.
fn asked_json(asked: &AskedNode) -> Value {
    let answer = match asked.answer {
        AskedAnswer::None => None,
        AskedAnswer::Missing => Some("missing"),
        AskedAnswer::Compacted => Some("compacted"),
        AskedAnswer::Never => Some("never"),
        AskedAnswer::Unreachable => Some("unreachable"),
    };
    json!({ "node": asked.node, "answer": answer })
}

fn print_shard((at, status): &Told, out: &mut dyn Write) -> std::io::Result<()> {
    let (node, shard) = (at.node, at.shard);
    let status = match status {
        Err(why) => return writeln!(out, "node {node} shard {shard}: no answer: {why}"),
        Ok(status) => status,
    };
    let trouble = or(&status.trouble, "no trouble");
    // The half of its number that counts; the other is drawn.
    let boot = status.boot.get() >> 32;
    writeln!(
        out,
        "node {node} shard {shard}: boot {boot}, {}, {trouble}",
        writer(status.io_writer_mode)
    )?;
    writeln!(out, "  scrub: {}", scrub_line(&status.scrub))?;
    if status.guests != GuestStatus::default() {
        let GuestStatus {
            here,
            unnamed,
            refused,
        } = status.guests;
        writeln!(
            out,
            "  guests: {here} here, {unnamed} that nothing named in time, {refused} refused for want of a place"
        )?;
    }
    if status.partitions.is_empty() {
        return writeln!(out, "  no partitions");
    }
    writeln!(
        out,
        "  {:>9}  {:<13} {:>6} {:>6} {:>10} {:>10} {:>10} {:>10} {:>7}  {:<8} {:<12} {:<12} trouble",
        "partition",
        "role",
        "term",
        "leader",
        "last",
        "durable",
        "committed",
        "applied",
        "missing",
        "mode",
        "lease",
        "apply p99"
    )?;
    for p in &status.partitions {
        let leader = p.leader.map_or("-".to_owned(), |node| node.to_string());
        writeln!(
            out,
            "  {:>9}  {:<13} {:>6} {leader:>6} {:>10} {:>10} {:>10} {:>10} {:>7}  {:<8} {:<12} {:<12} {}",
            p.partition.to_string(),
            role(p.role),
            p.term.get(),
            p.last_index.get(),
            p.durable.get(),
            p.wal_committed.get(),
            p.applied.get(),
            p.missing,
            in_force(p),
            lease(p),
            pace(p),
            or(&p.trouble, "-")
        )?;
    }
    Ok(())
}

const fn or<'a>(text: &'a str, empty: &'a str) -> &'a str {
    if text.is_empty() { empty } else { text }
}
