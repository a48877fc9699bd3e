//! `clustor probe`: what the device under a directory can do, and the profile that follows from it.
//!
//! Everything is made in a directory of its own, removed at the end, also after ^C. What is measured: `measure`; what is
//! proposed: `propose`; how it is shown: `show`.

#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod propose;
mod show;

use std::io::{IsTerminal as _, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use clustor_engine::profile::{Profile, Word as _};
use clustor_shards::host::{DataDirError, Judgement, NodesKeptOut, OfflineDir, file_system};
use clustor_shards::sys::free_bytes;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit::{CommandError, EXIT_HELP};
use crate::host;
use crate::json;
use measure::{CHAIN_BLOCKS, DEPTHS, KINDS, Measurements, ProbeError, SPACE_BYTES, TURNS, measure};
use propose::{Turn, propose};

const EXAMPLES: &str = "\
Examples:
  clustor probe /var/lib/clustor                     measure, draw, say what a profile for it would turn
  clustor probe /var/lib/clustor --out my.toml       and write that profile, with the measurements as comments
  clustor probe data --base throughput --out my.toml --force
  clustor probe data --json | jq '.measured.flush.p50_us'
  clustor profile diff latency my.toml

Needs 192 MiB in DIR, on a file system with direct I/O; measure while nothing else uses the device. A knob is turned
only where what was measured says clearly that it pays.";

/// Steps before the chains, and the making of their files.
const STEPS_BEFORE: u32 = 5;

/// Measures the device under a directory and proposes a profile for it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_HELP}"))]
pub struct ProbeArgs {
    /// A directory on the device in question. A new one is made in it, and removed at the end.
    dir: PathBuf,
    /// Write the proposed profile to this file, with the measurements as comments.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace FILE if it exists.
    #[arg(long, requires = "out")]
    force: bool,
    /// The shipped profile whose knobs are turned.
    #[arg(long, default_value = "latency", value_parser = Profile::SHIPPED)]
    base: String,
    /// How long chains of either kind are measured at each depth and size, in milliseconds.
    #[arg(long, default_value_t = 300, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    cell_ms: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Whoever measures asks whether to go on, and says where it is.
#[doc(hidden)]
pub trait Go {
    /// The next thing is measured.
    fn step(&mut self, what: &str) -> Result<(), ProbeError>;
    /// Whether to go on.
    fn check(&self) -> Result<(), ProbeError>;
}

struct Progress {
    interrupted: Arc<AtomicBool>,
    shown: bool,
    done: u32,
    of: u32,
}

impl Go for Progress {
    fn step(&mut self, what: &str) -> Result<(), ProbeError> {
        self.done += 1;
        if self.shown {
            // Nobody is left to see it if stderr is gone.
            let _ = write!(
                stderr(),
                "\r\x1b[K{}/{} {what}",
                self.done.min(self.of),
                self.of
            );
        }
        self.check()
    }

    fn check(&self) -> Result<(), ProbeError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(ProbeError::Interrupted);
        }
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The directory can't be measured in, the file exists, the device failed, or ^C.
pub fn run(args: &ProbeArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let refused = |why: String| CommandError::failed(format!("{}: {why}", args.dir.display()));
    check_out(args)?;
    let kind = file_system(&args.dir).map_err(|error| refused(error.to_string()))?;
    if kind.in_memory {
        return Err(refused(format!(
            "lies on {}, a file system in memory: no flush reaches a device there, and the numbers would mean nothing; name a directory on the device",
            kind.name
        )));
    }
    let free = free_bytes(&args.dir).map_err(|error| refused(error.to_string()))?;
    if free < SPACE_BYTES {
        return Err(refused(format!(
            "{} MiB are free, {} MiB are needed",
            free >> 20,
            SPACE_BYTES >> 20
        )));
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(CommandError::failed)?;
    }
    let judgement = host::judge(&args.dir)?;
    let _nodes_kept_out = keep_nodes_out(&args.dir)?;
    let place = tempfile::Builder::new()
        .prefix("clustor-probe-")
        .tempdir_in(&args.dir)
        .map_err(|error| refused(format!("nothing can be made in it: {error}")))?;
    let mut progress = Progress {
        interrupted,
        shown: stderr().is_terminal(),
        done: 0,
        of: STEPS_BEFORE + TURNS * (CHAIN_BLOCKS.len() * DEPTHS.len() * KINDS.len()) as u32,
    };
    let time = Duration::from_millis(args.cell_ms);
    let measured = measure(place.path(), time, &mut progress);
    drop(progress);
    place
        .close()
        .map_err(|error| refused(format!("what was made is not removed: {error}")))?;
    let measured = measured.map_err(|error| refused(error.to_string()))?;
    let base = Profile::shipped(&args.base).expect("the parser takes shipped names only");
    let (profile, turns) = propose(&base, &measured);
    if let Some(file) = &args.out {
        save(args, file, &judgement, &measured, &profile, &turns)?;
    }
    let shown = if args.json {
        print_json(args, &judgement, &measured, &turns, out)
    } else {
        print(args, &judgement, &measured, &turns, out)
    };
    shown.map_err(CommandError::failed)
}

/// In a node's own directory: it does not run, and is not started meanwhile. What both do at once would be the node's loss, and
/// the numbers would mean nothing.
fn keep_nodes_out(dir: &Path) -> Result<Option<NodesKeptOut>, CommandError> {
    match OfflineDir::open(dir).and_then(|node| node.keep_nodes_out()) {
        Ok(kept_out) => Ok(Some(kept_out)),
        Err(DataDirError::InUse { path }) => Err(CommandError::failed(format!(
            "{}: a node runs here, or was killed a moment ago: it would wait behind the probe as the probe behind it; stop it, or name another \
             directory on the device while it has nothing to do",
            path.display()
        ))),
        // Not a node's, or unfit for one.
        Err(_) => Ok(None),
    }
}

/// Before anything is measured: whether the file may be written.
fn check_out(args: &ProbeArgs) -> Result<(), CommandError> {
    let Some(file) = &args.out else {
        return Ok(());
    };
    if !args.force && file.symlink_metadata().is_ok() {
        return Err(CommandError::failed(format!(
            "{}: exists; name another file, or replace it with --force",
            file.display()
        )));
    }
    let directory = parent(file);
    if !directory.is_dir() {
        return Err(CommandError::failed(format!(
            "{}: no such directory",
            directory.display()
        )));
    }
    Ok(())
}

fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes the proposal: whole, or not at all.
fn save(
    args: &ProbeArgs,
    file: &Path,
    judgement: &Judgement,
    measured: &Measurements,
    profile: &Profile,
    turned: &[Turn],
) -> Result<(), CommandError> {
    let mut head = vec![
        format!(
            "Proposed by `clustor probe {}` over {}.",
            args.dir.display(),
            args.base
        ),
        format!("{}", place_line(judgement)),
        String::new(),
    ];
    head.extend(show::summary(measured));
    head.push(String::new());
    head.extend(show::turns(turned));
    let text = profile.to_toml(&head.join("\n"));
    let name = file.display().to_string();
    let failed = |error: &dyn std::fmt::Display| CommandError::failed(format!("{name}: {error}"));
    Profile::parse(&text, &name).map_err(|error| failed(&error))?;
    let mut temporary =
        tempfile::NamedTempFile::new_in(parent(file)).map_err(|error| failed(&error))?;
    temporary
        .write_all(text.as_bytes())
        .map_err(|error| failed(&error))?;
    let persisted = if args.force {
        temporary.persist(file)
    } else {
        temporary.persist_noclobber(file)
    };
    persisted.map(drop).map_err(|error| failed(&error.error))
}

/// What was measured on, in one line.
fn place_line(judgement: &Judgement) -> String {
    let facts = &judgement.facts;
    let kind = facts.mount.as_ref().map_or("unknown", |mount| &mount.kind);
    match &facts.device {
        None => format!(
            "{kind}, no device of its own; host policy: {}",
            judgement.outcome()
        ),
        Some(device) => format!(
            "{kind} on {}, cache: {}; host policy: {}",
            device.name,
            device.write_cache.as_deref().unwrap_or("not told"),
            judgement.outcome()
        ),
    }
}

fn print(
    args: &ProbeArgs,
    judgement: &Judgement,
    measured: &Measurements,
    turned: &[Turn],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(out, "{}\n", place_line(judgement))?;
    let width = show::width();
    show::draw("fdatasync alone", &measured.flush, width, out)?;
    for (title, latencies) in [
        ("\n4 KiB write, then fdatasync", &measured.write_flush),
        ("\n4 KiB write with RWF_DSYNC", &measured.write_through),
        (
            "\nwrite, then fdatasync, into blocks never written",
            &measured.write_flush_fresh,
        ),
    ] {
        show::draw(title, latencies, width, out)?;
    }
    for lone in measured.chains.iter().take_while(|cell| cell.depth == 1) {
        let title = format!("\nthe full chain, 4 KiB, alone, {}", lone.flush.word());
        show::draw(&title, &lone.latencies, width, out)?;
    }
    writeln!(out)?;
    for line in show::summary(measured) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "\nover {}:", args.base)?;
    for line in show::turns(turned) {
        writeln!(out, "  {line}")?;
    }
    match &args.out {
        Some(file) => writeln!(out, "written to {}", file.display()),
        None => writeln!(out, "with --out FILE it is written as a profile"),
    }
}

fn print_json(
    args: &ProbeArgs,
    judgement: &Judgement,
    measured: &Measurements,
    turned: &[Turn],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let turns: Vec<_> = turned
        .iter()
        .map(|turn| {
            json!({ "key": turn.key, "before": turn.before.to_string(), "after": turn.after.to_string(), "why": turn.why })
        })
        .collect();
    let told = json!({
        "host": host::judgement_json(judgement),
        "measured": show::measurements_json(measured),
        "base": args.base,
        "turned": turns,
        "out": args.out.as_ref().map(|file| file.display().to_string()),
    });
    json::line(out, &told)
}
