//! `clustor profile reload`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use clustor_shards::host::DataDir;
use rustix::process::{Pid, Signal, kill_process};

use crate::config::NodeConfig;
use crate::exit::{CommandError, EXIT_HELP};
use crate::reload::{ReloadState, Turned};

const EXAMPLES: &str = "\
Examples:
  clustor profile reload --config node.toml
  clustor profile reload --config node.toml --json | jq '.at_restart[].key'

The node that runs under this config reads its profile file again and obeys it from each shard's next batch on. It also
does so by itself within a second of the file's change, and on SIGHUP. Knobs that can't be turned while it runs are
named, and wait for the next start. A file that is not acceptable is told here, by line, and the node hears nothing.";

/// Has a running node on this machine read its profile file again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub(super) struct ReloadArgs {
    /// The node's config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
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
    let config = NodeConfig::load(&args.config).map_err(CommandError::bad_input)?;
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
    print(&state, args.json, out).map_err(CommandError::failed)?;
    if state.obeyed {
        Ok(())
    } else {
        Err(CommandError::failed(format!(
            "the node keeps the profile it has: {}",
            state.wrong.join("; ")
        )))
    }
}

fn print(state: &ReloadState, json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::to_string(state)?);
    }
    if !state.obeyed {
        return Ok(());
    }
    if state.live.is_empty() && state.at_restart.is_empty() {
        return writeln!(out, "{}: the node already obeys it", state.profile);
    }
    let line = |knob: &Turned| format!("{}: {} -> {}", knob.key, knob.before, knob.after);
    for knob in &state.live {
        writeln!(out, "{}; obeyed", line(knob))?;
    }
    for knob in &state.at_restart {
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
