//! `clustor-bench`: what this machine can do, shard by shard.
//!
//! Each subcommand fills a [`report::Report`]; all share its table, its JSON and the place to measure in
//! ([`place::Place`]). Every ratio is to the raw device as measured in the same run.

mod cluster;
mod device;
mod interrupt;
mod log;
mod nothing;
mod place;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

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
    /// Three nodes in one process, over loopback TLS.
    Cluster(cluster::Options),
}

/// What every subcommand takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Where to measure: a directory on the device in question. A new directory is made in it and removed at the
    /// end, also after ^C.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// How long each line of the table is measured.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Also write the results to this file, as one JSON object with `machine` and `runs`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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
    /// The results could not be written.
    #[error("{path}: {source}")]
    Output {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// ^C or SIGTERM.
    #[error("interrupted; what was made is removed")]
    Interrupted,
}

fn run(command: Command) -> Result<(), BenchError> {
    match command.what {
        What::Device(options) => {
            let report = device::run(&options)?;
            report.print();
            report.save(options.common.json.as_deref())
        }
        What::Cluster(options) => {
            let report = cluster::run(&options)?;
            report.print();
            report.save(options.common.json.as_deref())
        }
        What::Log(options) => {
            let report = log::run(&options)?;
            report.print();
            report.save(options.common.json.as_deref())
        }
    }
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clustor-bench: {error}");
            match error {
                BenchError::Interrupted => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
