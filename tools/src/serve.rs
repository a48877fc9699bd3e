//! `clustor serve`: one node of a cluster, as a process.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use clustor_engine::engine::{Engine, Member};
use clustor_wire::ids::PartitionId;
use clustor_wire::ids::ShardId;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use crate::config::{LOG_LEVELS, NodeConfig};
use crate::exit::{CommandError, EXIT_HELP};
use crate::json;
use crate::kv::KvMachine;
use crate::reload::{Reloader, Stamp};

const EXAMPLES: &str = "\
Examples:
  clustor certs cluster --dir dev        a development cluster: certificates, placement, configs
  clustor serve --config dev/node-1.toml
  clustor serve --config dev/node-1.toml --json      readiness as one JSON line

Prints one line on standard output when the node is ready: its logs are recovered and its port is open. Stops in
order on SIGTERM and ^C: refuses new work, finishes what is in flight, hands leadership over; a second signal
ends it at once. On SIGHUP, within a second of its change, and when an operator asks for it (`clustor profile reload`), its profile file is read again. Every partition holds the built-in key-value machine (`clustor append`, `clustor read`).";

/// Work in flight at a stop is given this long.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Runs one node of a cluster until it is told to stop.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct ServeArgs {
    /// The node's config file.
    #[arg(long)]
    config: PathBuf,
    /// Which log lines are written, instead of what the config says.
    #[arg(long, value_parser = LOG_LEVELS)]
    log_level: Option<String>,
    /// Say that it is ready as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Something the config names is not acceptable, the directory or the port is in use, or the node could not
/// stop in order.
pub fn run(args: &ServeArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let config = NodeConfig::load(&args.config).map_err(CommandError::bad_input)?;
    let level = args.log_level.as_ref().unwrap_or(&config.log_level);
    start_log(level)?;
    let seen = Stamp::of(Path::new(&config.profile));
    let parts = config
        .load_parts(SystemTime::now())
        .map_err(CommandError::bad_input)?;
    for warning in parts.placement.warnings() {
        tracing::warn!(%warning, "placement");
    }
    // Before anything is started: a signal that comes early is not lost.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(CommandError::failed)?;
    let mut builder = Engine::builder(&config.data_dir).profile(parts.profile);
    let mut partitions = 0;
    for shard in 0..parts.shards {
        let at = clustor_shards::turn::PeerId {
            node: config.node,
            shard: ShardId(shard),
        };
        for partition in parts.placement.partitions_on(at) {
            builder = builder.partition(*partition, |_: PartitionId| KvMachine::default());
            partitions += 1;
        }
    }
    let engine = builder
        .node(Member {
            placement: parts.placement,
            identity: parts.identity,
            listen: Some(parts.listen),
        })
        .start()
        .map_err(CommandError::failed)?;
    let node = config.node;
    let reloader = Reloader::new(config, engine.handle());
    let watch = reloader.watch(seen).map_err(CommandError::failed)?;
    let listener = reloader.listen().map_err(CommandError::failed)?;
    let written = if args.json {
        let told = json!({
            "ready": true,
            "node": node,
            "listen": parts.listen.to_string(),
            "shards": parts.shards,
            "partitions": partitions,
        });
        json::line(out, &told)
    } else {
        writeln!(
            out,
            "ready: node {node} listens on {}, {}, {}",
            parts.listen,
            counted(parts.shards.into(), "shard"),
            counted(partitions, "partition")
        )
    };
    written
        .and_then(|()| out.flush())
        .map_err(CommandError::failed)?;
    for signal in signals.forever() {
        if signal == SIGHUP {
            reloader.reload();
            continue;
        }
        tracing::info!(signal, "stopping");
        break;
    }
    drop(watch);
    std::thread::spawn(move || {
        if signals.forever().any(|signal| signal != SIGHUP) {
            tracing::warn!("stopped at once by a second signal; what was acknowledged is durable");
            std::process::exit(130);
        }
    });
    engine.shutdown(STOP_WAIT).map_err(CommandError::failed)?;
    // It panics only where the reload did, and has said so.
    drop(listener.join());
    tracing::info!("stopped");
    Ok(())
}

/// So many of something, in words.
fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Log lines go to standard error.
fn start_log(level: &str) -> Result<(), CommandError> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| CommandError::usage(format!("--log-level {level}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Escapes are for eyes, not for files and journals (NO_COLOR: no-color.org).
        .with_ansi(
            std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        )
        .with_target(false)
        .try_init()
        .map_err(CommandError::failed)
}
