//! `sim`: runs simulations from seeds, and replays one.

mod cluster;
mod log;
mod many;
mod minimise;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Clustor's simulations from seeds, and replays one
///
/// Without a command: whole clusters on virtual time, with faulty networks, crashes and faulty disks, checked at
/// every step.
///
/// Ends with 0 if every rule held, and as much was done as was asked for; with 1 if not, and says how to replay what failed; with 2
/// if there was nothing to run: options that do not go together, a script that can't be read, a seed to minimise that holds.
///
/// Examples:
///   sim --seed 42                     replay one cluster and print what happened
///   sim --seed 42 --steps 1000        no further than that
///   sim --seed 42 --minimise          it fails: look for a simpler run that fails alike
///   sim --seeds 1000 --seconds 60     fresh seeds, for a minute at most
///   sim --seeds 1000 --from 1         those seeds
///   sim --operations 1000000 --jobs 2 until so many requests were made of clusters, two runs at a time
///   sim --light --seeds 100           long lives with little to do: hundreds of hours an hour
///   sim --light --at-least-speed 1000 the same, and fail if virtual time passes less than 1,000 times as fast as real time
///   sim --scenario tests/scenarios/a_vote_survives_a_restart.txt
#[derive(Parser)]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    cluster: cluster::Seeds,
}

#[derive(Subcommand)]
enum What {
    /// Lives of one shard's log: crashes, power losses, failed flushes, damage.
    ///
    /// Examples:
    ///   sim log --seed 42            replay one life and print what happened
    ///   sim log --seeds 100000       live that many lives, from seed 1 on
    ///   sim log --seconds 60         as many as go into a minute
    ///   sim log --fresh --seconds 60 the same, from a seed that nobody has lived yet
    #[command(verbatim_doc_comment)]
    Log(log::Seeds),
}

fn main() -> ExitCode {
    // A run that panics is reported with its seed; the hook would only print it twice.
    std::panic::set_hook(Box::new(|_| {}));
    let cli = Cli::parse();
    match cli.what {
        Some(What::Log(seeds)) => log::run(&seeds),
        None => cluster::run(&cli.cluster),
    }
}
