//! `clustor-bench consensus`: what the consensus core costs, from the proposal of an entry to its commit on three
//! replicas in memory.
//!
//! Instructions are counted by callgrind, allocations by this program's allocator, both only while the core is at work:
//! proposals, messages, what the storage has confirmed, and the going through committed entries. What the storage itself
//! does is left out, for the peers keep a vector in memory where this engine has its log. The wire is left out as well:
//! messages pass as values. Of openraft, whose replicas are tasks, the asynchronous runtime is counted that they can't do
//! without: its figure is that of a node in use, the others' that of a core.

#[cfg(feature = "peers")]
mod openraft;
mod ours;
#[cfg(feature = "peers")]
mod raft_rs;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::BenchError;
use crate::allocations::Since;
use crate::instructions::under_callgrind;
use crate::place::Place;
use crate::report::save_json;

/// Replicas.
const NODES: usize = 3;
/// Entries that are counted, and as many before them; more where batches are larger.
const ENTRIES: usize = 4_096;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    #[cfg(feature = "peers")]
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// Whose core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Who {
    /// This engine's.
    Clustor,
    /// The `raft` crate of TiKV.
    #[cfg(feature = "peers")]
    RaftRs,
    /// The `openraft` crate, with the asynchronous runtime that it needs.
    #[cfg(feature = "peers")]
    #[value(name = "openraft")]
    OpenRaft,
}

impl Who {
    const ALL: &[Self] = &[
        Self::Clustor,
        #[cfg(feature = "peers")]
        Self::RaftRs,
        #[cfg(feature = "peers")]
        Self::OpenRaft,
    ];

    /// What is counted beside the core, if anything.
    const fn beside(self) -> &'static str {
        match self {
            #[cfg(feature = "peers")]
            Self::OpenRaft => "its async runtime is counted with it",
            _ => "",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Clustor => "clustor",
            #[cfg(feature = "peers")]
            Self::RaftRs => "raft-rs",
            #[cfg(feature = "peers")]
            Self::OpenRaft => "openraft",
        }
    }
}

/// Counts what three replicas in memory spend on an entry, from its proposal to its commit.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench consensus
  clustor-bench consensus --batches 1,16,256 --size 512 --json consensus.json

Needs valgrind. A build with `--features peers` counts the `raft` crate (raft-rs) and `openraft` on the same work.
Exit codes: 0 counted, 1 failed, 2 wrong arguments.")]
pub struct Options {
    /// Entries proposed at once, a list (1 to 1024).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,16,256",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    batches: Vec<u32>,
    /// Bytes of each entry (1 to 16384).
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    size: u32,
    /// Where callgrind's files go meanwhile.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Also write the table to this file, as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One call of this program under callgrind, or outside.
#[derive(Debug, Clone, Copy, Args)]
pub struct Inner {
    #[arg(long)]
    who: Who,
    #[arg(long)]
    batch: u32,
    #[arg(long)]
    size: u32,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    who: &'static str,
    batch: u32,
    payload_bytes: u32,
    instructions_per_entry: f64,
    allocations_per_entry: f64,
    instructions_to_peer: Option<f64>,
    /// What is counted beside the core.
    #[serde(skip_serializing_if = "str::is_empty")]
    beside: &'static str,
}

/// Three replicas with a leader.
trait Cluster {
    /// Proposes so many entries in one turn of the leader, and goes on until nothing happens any more. How many were
    /// committed meanwhile at the leader.
    fn batch(&mut self, entries: usize, counts: bool) -> u64;
}

/// What callgrind counts. Never inlined: it is found by its name.
#[inline(never)]
fn counted_by_callgrind<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Runs a part of the core's work, counted.
fn counted<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "peers")]
    COUNTS.set(true);
    let since = Since::now();
    let result = counted_by_callgrind(work);
    ALLOCATIONS.set(ALLOCATIONS.get().wrapping_add(since.count()));
    #[cfg(feature = "peers")]
    COUNTS.set(false);
    result
}

/// What callgrind does not count within what it counts: its pattern finds this name too, and toggles back.
#[cfg(feature = "peers")]
#[inline(never)]
fn uncounted_by_callgrind<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Runs a part that is not the core's, in the middle of its work.
#[cfg(feature = "peers")]
fn not_counted<T>(work: impl FnOnce() -> T) -> T {
    if !COUNTS.get() {
        return work();
    }
    let since = Since::now();
    let result = uncounted_by_callgrind(work);
    ALLOCATIONS.set(ALLOCATIONS.get().wrapping_sub(since.count()));
    result
}

fn batches(inner: &Inner) -> usize {
    (ENTRIES / inner.batch as usize).max(16)
}

/// The work, which prints the number of allocations.
///
/// # Errors
/// When no leader is elected.
pub fn run_inner(inner: &Inner) -> Result<(), BenchError> {
    let size = inner.size as usize;
    let mut cluster: Box<dyn Cluster> = match inner.who {
        Who::Clustor => Box::new(ours::Ours::begin(size)?),
        #[cfg(feature = "peers")]
        Who::RaftRs => Box::new(raft_rs::RaftRs::begin(size)?),
        #[cfg(feature = "peers")]
        Who::OpenRaft => Box::new(openraft::OpenRaft::begin(size)?),
    };
    let mut pass = |counts| {
        let batch = inner.batch as usize;
        (0..batches(inner))
            .map(|_| cluster.batch(batch, counts))
            .sum::<u64>()
    };
    pass(false);
    let committed = pass(true);
    let wanted = batches(inner) as u64 * u64::from(inner.batch);
    if committed != wanted {
        return Err(BenchError::Refused(format!(
            "{committed} of {wanted} entries were committed"
        )));
    }
    println!("{}", ALLOCATIONS.get());
    Ok(())
}

fn count(inner: Inner, place: &Place) -> Result<(f64, f64), BenchError> {
    let wrong = |what: String| BenchError::Place(format!("counting: {what}"));
    let (batch, size) = (inner.batch.to_string(), inner.size.to_string());
    let arguments = [
        "count-consensus",
        "--who",
        inner.who.name(),
        "--batch",
        &batch,
        "--size",
        &size,
    ];
    let entries = batches(&inner) as f64 * f64::from(inner.batch);
    let program = std::env::current_exe().map_err(|error| wrong(error.to_string()))?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| wrong(error.to_string()))?;
    let allocations: f64 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|_| wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()))?;
    let instructions =
        under_callgrind("*consensus*counted_by_callgrind*", &arguments, place.path())?;
    Ok((instructions / entries, allocations / entries))
}

/// Counts every combination and prints the table.
///
/// # Errors
/// When valgrind is not there, or a cluster does not come to life.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let place = Place::new(&options.dir)?;
    let mut rows: Vec<Row> = Vec::new();
    println!("who        batch    bytes   instr/entry   alloc/entry   instr:clustor");
    for &batch in &options.batches {
        let mut own = None;
        for &who in Who::ALL {
            let size = options.size;
            let (instructions, allocations) = count(Inner { who, batch, size }, &place)?;
            let own = *own.get_or_insert(instructions);
            println!(
                "{:<10} {batch:>5} {size:>8} {instructions:>13.0} {allocations:>13.2} {:>15.2}   {}",
                who.name(),
                instructions / own,
                who.beside(),
            );
            rows.push(Row {
                who: who.name(),
                batch,
                payload_bytes: size,
                instructions_per_entry: instructions,
                allocations_per_entry: allocations,
                instructions_to_peer: (who != Who::Clustor).then_some(own / instructions),
                beside: who.beside(),
            });
        }
    }
    if Who::ALL.len() == 1 {
        println!("\nA build with `--features peers` counts other cores on the same work.");
    }
    match &options.json {
        Some(path) => save_json(path, &rows),
        None => Ok(()),
    }
}
