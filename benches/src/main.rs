//! `clustor-bench`: what this machine can do, shard by shard.
//!
//! Each subcommand fills a [`report::Report`]; all share its table, its JSON and the place to measure in
//! ([`place::Place`]). Every ratio is to the raw device as measured in the same run.

mod allocations;
mod bounds;
mod closed_loop;
mod cluster;
mod consensus;
mod device;
mod idle;
mod instructions;
mod interrupt;
mod log;
mod measured;
mod nothing;
#[cfg(feature = "peers")]
mod peers;
mod place;
mod progress;
mod report;
mod sealing;
mod setup;
mod shard;
mod start;
mod wake;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::uring::RigError;

/// Measures what this machine can do, shard by shard.
#[derive(Debug, Parser)]
#[command(name = "clustor-bench", version, max_term_width = 110)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The raw limit of the device: durable chains through a shard's own ring, and nothing above it.
    Device(device::Options),
    /// One shard's log, strict and group: in the shard, and through a handle.
    Log(log::Options),
    /// A start on a long log: until the shard speaks, and how fast its entries come back.
    Start(start::Options),
    /// Three nodes in one process, over loopback TLS.
    Cluster(cluster::Options),
    /// Instructions of the consensus core for an entry, from proposal to commit, on three replicas in memory.
    Consensus(consensus::Options),
    /// The work that `consensus` has callgrind watch.
    #[command(hide = true)]
    CountConsensus(consensus::Inner),
    /// Partitions in which nothing happens, and one among them.
    Idle(idle::Options),
    /// The work that `log --instructions` has callgrind watch.
    #[command(hide = true)]
    CountInstructions(instructions::Options),
    /// Every published bound, measured by the others and judged.
    Bounds(bounds::Options),
    /// The same work through other logs, in turns.
    #[cfg(feature = "peers")]
    #[command(subcommand)]
    Peers(peers::Peers),
}

/// What every subcommand takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Where to measure: a directory on the device in question. A new directory is made in it and removed at the
    /// end, also after ^C.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// How long each round takes (0.05 to 3600).
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Rounds of each line; the table shows their medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count)]
    repeat: usize,
    #[command(flatten)]
    outputs: Outputs,
}

/// Where results go besides the table.
#[derive(Debug, Args)]
pub struct Outputs {
    /// Also write the results to this file, as one JSON object with `machine`, `complete` and `runs`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write each line's latencies to this directory, as HdrHistogram percentile files.
    #[arg(long, value_name = "DIR")]
    hgrm: Option<PathBuf>,
    /// Also draw plots into this directory.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        Ok(_) => Err("is outside 0.05 to 3600".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if (1..=1_000).contains(&count) => Ok(count),
        Ok(_) => Err("is outside 1 to 1000".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Why nothing was measured, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The place to measure in is no good.
    #[error("{0}")]
    Place(String),
    /// A shard's ring failed or could not be opened.
    #[error(transparent)]
    Ring(#[from] clustor_shards::uring::RingError),
    /// A disk operation failed.
    #[error("the device: {0}")]
    Disk(#[from] clustor_shards::disk::DiskError),
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] clustor_shards::log::RecoverError),
    /// The engine did not start or stop.
    #[error(transparent)]
    Engine(#[from] clustor_engine::engine::EngineError),
    /// An append was not executed.
    #[error("an append failed: {0}")]
    Refused(String),
    /// The device could not be measured.
    #[error(transparent)]
    Rig(RigError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Output {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The profile is no good.
    #[error(transparent)]
    Profile(#[from] clustor_engine::profile::ProfileError),
    /// Bounds that are not held here, or could not be measured.
    #[error("not held, or not measured: {0}")]
    NotHeld(String),
    /// ^C or SIGTERM, before anything was measured.
    #[error("interrupted; what was made is removed")]
    Interrupted,
    /// ^C or SIGTERM; what was measured before is shown.
    #[error("interrupted; what was measured before is shown, what was made is removed")]
    CutShort,
}

impl From<RigError> for BenchError {
    fn from(error: RigError) -> Self {
        match error {
            RigError::Interrupted => Self::Interrupted,
            other => Self::Rig(other),
        }
    }
}

fn run(command: Command) -> Result<(), BenchError> {
    let (report, outputs) = match &command.what {
        What::Device(options) => (device::run(options)?, &options.common.outputs),
        What::Start(options) => return start::run(options),
        What::Idle(options) => return idle::run(options),
        What::Bounds(options) => return bounds::run(options),
        What::Cluster(options) => (cluster::run(options)?, &options.common.outputs),
        What::Log(options) => (log::run(options)?, &options.common.outputs),
        What::Consensus(options) => return consensus::run(options),
        What::CountConsensus(inner) => return consensus::run_inner(inner),
        What::CountInstructions(options) => return instructions::run_inner(options),
        #[cfg(feature = "peers")]
        What::Peers(peers::Peers::Log(options)) => (peers::run(options)?, &options.common.outputs),
    };
    report.publish(outputs)
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clustor-bench: {error}");
            match error {
                BenchError::Interrupted | BenchError::CutShort => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
