//! `clustor profile reload`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use clustor_shards::host::DataDir;
use clustor_wire::ids::NodeId;
use clustor_wire::message::{ProfileReload, TurnedKnob};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::client_commands::Reach;
use crate::config::NodeConfig;
use crate::exit::{CommandError, EXIT_HELP};
use crate::json;
use crate::reload::ReloadState;

const EXAMPLES: &str = "\
Examples:
  clustor profile reload --cluster dev --operator ops 1      node 1, wherever it runs
  clustor profile reload --config node.toml                  the node that runs here under this config
  clustor profile reload --config node.toml --json | jq '.at_restart[].key'

The node reads its profile file again and obeys it from each shard's next batch on. It also does so by itself within a
second of the file's change, and on SIGHUP. Knobs that can't be turned while it runs are named, and wait for the next
start. A file that is not acceptable changes nothing and is told by line; with --config the node does not even hear of it.
Over the network it takes an operator's certificate (`clustor certs client --operator`).";

/// Has a running node read its profile file again, and says what that has changed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub(super) struct ReloadArgs {
    /// The config file of a node on this machine, which is told by a signal.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cluster", "operator", "node"])]
    config: Option<PathBuf>,
    /// Directory that `clustor certs` has filled: the node is asked over the network.
    #[arg(long, value_name = "DIR", requires_all = ["operator", "node"])]
    cluster: Option<PathBuf>,
    /// Whose operator certificate in that directory: operator-NAME.pem and .key.
    #[arg(long, value_name = "NAME", requires = "cluster")]
    operator: Option<String>,
    /// The node's number.
    #[arg(requires = "cluster")]
    node: Option<u64>,
    /// How long to wait for the node, in milliseconds.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How often the node's answer is looked for.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn run(args: &ReloadArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    match (&args.config, &args.cluster, &args.operator, args.node) {
        (Some(config), ..) => here(args, config, out),
        (None, Some(cluster), Some(operator), Some(node)) => {
            ask(args, cluster, (operator, NodeId(node)), out)
        }
        _ => Err(CommandError::usage(
            "--config FILE, or --cluster DIR --operator NAME and the node's number",
        )),
    }
}

/// Over the network.
fn ask(
    args: &ReloadArgs,
    cluster: &Path,
    (operator, node): (&str, NodeId),
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let reach = Reach::of(cluster, args.timeout_ms);
    let client = reach.connect(&format!("operator-{operator}"))?;
    let told = client
        .reload_profile(node, Some(reach.timeout()))
        .wait()
        .map_err(|error| CommandError::failed(format!("node {node}: {error}")))?;
    let knob =
        |knob: &TurnedKnob| json!({ "key": knob.key, "before": knob.before, "after": knob.after });
    let object = json!({
        "node": told.node,
        "readings": told.readings,
        "profile": told.profile,
        "obeyed": told.obeyed,
        "live": told.live.iter().map(knob).collect::<Vec<_>>(),
        "at_restart": told.at_restart.iter().map(knob).collect::<Vec<_>>(),
        "wrong": told.wrong,
    });
    finish(&told, args.json.then_some(object), out)
}

/// On this machine.
fn here(args: &ReloadArgs, config: &Path, out: &mut dyn Write) -> Result<(), CommandError> {
    let config = NodeConfig::load(config).map_err(CommandError::bad_input)?;
    config
        .judge_profile()
        .map_err(|wrong| CommandError::bad_input(wrong.join("\n")))?;
    let (pid, before) = running(&config.data_dir)?;
    kill_process(pid, Signal::HUP)
        .map_err(|error| CommandError::failed(format!("telling process {pid:?}: {error}")))?;
    let until = Instant::now() + Duration::from_millis(args.timeout_ms);
    let state = loop {
        let state = ReloadState::read(&config.data_dir).map_err(CommandError::failed)?;
        if state.pid != before.pid || state.readings > before.readings {
            break state;
        }
        if Instant::now() >= until {
            return Err(CommandError::failed(format!(
                "process {} was told and has not answered within {} ms; `clustor status` shows whether it obeys",
                before.pid, args.timeout_ms
            )));
        }
        std::thread::sleep(LOOK);
    };
    let object = match args.json {
        true => Some(serde_json::to_value(&state).map_err(CommandError::failed)?),
        false => None,
    };
    finish(&state.told(config.node), object, out)
}

/// Says how it went, in words or as `object`.
fn finish(
    told: &ProfileReload,
    object: Option<serde_json::Value>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    match object {
        Some(object) => json::line(out, &object),
        None => print(told, out),
    }
    .map_err(CommandError::failed)?;
    if told.obeyed {
        return Ok(());
    }
    Err(CommandError::failed(format!(
        "node {} keeps the profile it has: {}",
        told.node,
        told.wrong.join("; ")
    )))
}

fn print(told: &ProfileReload, out: &mut dyn Write) -> std::io::Result<()> {
    if !told.obeyed {
        return Ok(());
    }
    if told.live.is_empty() && told.at_restart.is_empty() {
        return writeln!(out, "{}: node {} already obeys it", told.profile, told.node);
    }
    let line = |knob: &TurnedKnob| format!("{}: {} -> {}", knob.key, knob.before, knob.after);
    for knob in &told.live {
        writeln!(out, "{}; obeyed", line(knob))?;
    }
    for knob in &told.at_restart {
        writeln!(out, "{}; takes effect at the next start", line(knob))?;
    }
    Ok(())
}

/// The process that serves the node whose directory this is, and how its profile stands.
fn running(data: &Path) -> Result<(Pid, ReloadState), CommandError> {
    let nobody = || {
        CommandError::failed(format!(
            "{}: no node runs here; its profile is read when it starts",
            data.display()
        ))
    };
    let state = ReloadState::read(data).map_err(|_| nobody())?;
    let pid = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
    match pid {
        // A number outlives its process: only the one that holds the directory's lock is the node.
        Some(pid) if holds(state.pid, &DataDir::lock_file(data)) => Ok((pid, state)),
        _ => Err(nobody()),
    }
}

/// Whether the process has the file open.
fn holds(pid: u32, file: &Path) -> bool {
    let (Ok(file), Ok(open)) = (file.canonicalize(), fs::read_dir(format!("/proc/{pid}/fd")))
    else {
        return false;
    };
    open.filter_map(Result::ok)
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| link == file)
}
