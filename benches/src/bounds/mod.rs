//! `clustor-bench bounds`: every bound that is published of this engine, measured on this machine and judged.
//!
//! Measures nothing itself: each bound is read from the JSON of another subcommand, called as a process of its own as often as
//! there are runs. What is compared was measured within one call.

mod list;

use std::env::current_exe;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::BenchError;
use crate::interrupt::Interrupt;
use crate::measured::median;
use crate::place::Place;
use crate::report::save_json;
use list::{BOUNDS, Bound, Call};

/// What a call that a signal ended exits with.
const INTERRUPTED: i32 = 130;

/// Measures the published bounds, and says which are held here.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  clustor-bench bounds --dir /var/lib/clustor
  clustor-bench bounds --only strict-p50,strict-p99,handle --repeat 9
  clustor-bench bounds --only start,replay,scrub --gib 1 --json bounds.json
  clustor-bench bounds --list

A bound is held where the median of the runs is within its limit. What can't be measured (raft-engine and raft-rs without
`--features peers`, instructions without valgrind, failover without the `clustor` command beside this program) says why, and
counts as not held. Needs about 10 GiB in DIR and a quiet machine; the whole takes about twenty minutes.
Exit codes: 0 all held, 1 one is not held or was not measured, 2 wrong arguments, 130 interrupted.")]
pub struct Options {
    /// Where to measure: a directory on the device in question. A new directory is made in it and removed at the end.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// How long each round takes (0.05 to 3600); five times as long over ends of segments.
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = crate::seconds)]
    seconds: f64,
    /// Runs of each measurement; their medians are judged.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = crate::count)]
    repeat: usize,
    /// Length of the log that is started on, in GiB (1 to 64).
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    gib: u64,
    /// The same in MiB instead (16 to 65536).
    #[arg(long, value_name = "N", conflicts_with = "gib", value_parser = clap::value_parser!(u64).range(16..=65_536))]
    mib: Option<u64>,
    /// Only these bounds, a list of names.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = name)]
    only: Vec<String>,
    /// Only name the bounds and their limits, and measure nothing.
    #[arg(long)]
    list: bool,
    /// Also write the results to this file, as one JSON object with `machine` and `bounds`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    fn log_mib(&self) -> u64 {
        self.mib.unwrap_or(self.gib << 10)
    }

    fn wants(&self, bound: &Bound) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == bound.name)
    }
}

fn name(text: &str) -> Result<String, String> {
    if BOUNDS.iter().any(|bound| bound.name == text) {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = BOUNDS.iter().map(|bound| bound.name).collect();
    Err(format!("expected one of {}", names.join(", ")))
}

/// One bound, measured and judged.
#[derive(Debug, Serialize)]
struct Judged {
    name: &'static str,
    what: &'static str,
    relation: &'static str,
    limit: f64,
    /// Of each run.
    measured: Vec<f64>,
    /// Null where nothing was measured.
    median: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    held: bool,
    /// Why it was not measured.
    why: Option<String>,
}

impl Judged {
    fn of(bound: &Bound, measured: Vec<f64>, why: Option<String>) -> Self {
        let (relation, limit) = bound.limit.parts();
        let middle = (!measured.is_empty()).then(|| median(measured.clone()));
        Self {
            name: bound.name,
            what: bound.what,
            relation,
            limit,
            median: middle,
            min: measured.iter().copied().reduce(f64::min),
            max: measured.iter().copied().reduce(f64::max),
            held: why.is_none() && middle.is_some_and(|value| bound.limit.holds(value)),
            measured,
            why,
        }
    }

    fn print(&self) {
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let verdict = match (&self.why, self.held) {
            (Some(_), _) => "NOT MEASURED",
            (None, true) => "held",
            (None, false) => "NOT HELD",
        };
        println!(
            "{:<12} {:>9} {:>9} {:>9} {:>2} {:<8} {verdict}",
            self.name,
            number(self.median),
            number(self.min),
            number(self.max),
            self.relation,
            self.limit,
        );
        println!("    {}", self.what);
        if let Some(why) = &self.why {
            println!("    {why}");
        }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
struct Found {
    /// What was measured on, as the first measurement that tells has it.
    machine: Value,
    repeat: usize,
    seconds: f64,
    log_mib: u64,
    bounds: Vec<Judged>,
}

/// Measures, prints and judges.
///
/// # Errors
/// When the place is no good, a bound is not held or was not measured, or a signal came.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let wanted: Vec<&Bound> = BOUNDS.iter().filter(|bound| options.wants(bound)).collect();
    if options.list {
        for bound in wanted {
            let (relation, limit) = bound.limit.parts();
            println!("{:<12} {relation:>2} {limit:<6} {}", bound.name, bound.what);
        }
        return Ok(());
    }
    let interrupt = Interrupt::listen()?;
    let place = Place::new(&options.dir)?;
    let mut calls: Vec<Call> = wanted.iter().map(|bound| bound.call).collect();
    calls.dedup();
    let mut machine = Value::Null;
    let mut bounds = Vec::with_capacity(wanted.len());
    for (number, call) in (1..).zip(&calls) {
        let mut found = Vec::with_capacity(options.repeat);
        let mut why = None;
        for run in 1..=options.repeat {
            interrupt.check()?;
            let arguments = call.arguments(options);
            eprintln!(
                "measurement {number} of {}, run {run} of {}: {}",
                calls.len(),
                options.repeat,
                arguments.join(" ")
            );
            match measure(*call, &arguments, place.path())? {
                Ok(value) => found.push(value),
                Err(reason) => {
                    why = Some(reason);
                    break;
                }
            }
        }
        if machine.is_null() {
            machine = found
                .first()
                .map_or(Value::Null, |found| found["machine"].clone());
        }
        for bound in wanted.iter().filter(|bound| bound.call == *call) {
            let measured: Vec<f64> = found.iter().filter_map(bound.value).collect();
            let is_partial = measured.len() < found.len() && why.is_none();
            let missing = is_partial.then(|| {
                format!(
                    "{} of {} runs had nothing to say of it; take longer ones",
                    found.len() - measured.len(),
                    found.len()
                )
            });
            bounds.push(Judged::of(bound, measured, why.clone().or(missing)));
        }
    }
    publish(options, machine, bounds)
}

fn publish(options: &Options, machine: Value, bounds: Vec<Judged>) -> Result<(), BenchError> {
    if let Some(fields) = machine.as_object() {
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"')));
        println!("machine: {}\n", fields.collect::<Vec<_>>().join(", "));
    }
    println!(
        "{:<12} {:>9} {:>9} {:>9}    limit",
        "bound", "median", "least", "greatest"
    );
    bounds.iter().for_each(Judged::print);
    let failed: Vec<&str> = bounds
        .iter()
        .filter(|bound| !bound.held)
        .map(|bound| bound.name)
        .collect();
    let failed = failed.join(", ");
    if let Some(path) = &options.json {
        let found = Found {
            machine,
            repeat: options.repeat,
            seconds: options.seconds,
            log_mib: options.log_mib(),
            bounds,
        };
        save_json(path, &found)?;
    }
    if failed.is_empty() {
        println!("\nall held");
        return Ok(());
    }
    Err(BenchError::NotHeld(failed))
}

/// One call; what it found, or why it found nothing.
fn measure(
    call: Call,
    arguments: &[String],
    place: &Path,
) -> Result<Result<Value, String>, BenchError> {
    let program = current_exe().map_err(|error| BenchError::Place(error.to_string()))?;
    let program = match call.is_of_the_command() {
        true => program.with_file_name("clustor"),
        false => program,
    };
    if !program.exists() {
        return Ok(Err(format!(
            "{}: not there; build it, too",
            program.display()
        )));
    }
    let results = place.join("results.json");
    let mut command = Command::new(&program);
    command.args(arguments).arg("--json").arg(&results);
    if call.is_of_the_command() {
        command.arg("--keep").arg(place.join("kept"));
    } else {
        command.arg("--dir").arg(place);
    }
    let ended = command
        .output()
        .map_err(|error| BenchError::Place(format!("{}: {error}", program.display())))?;
    if ended.status.code() == Some(INTERRUPTED) {
        return Err(BenchError::Interrupted);
    }
    let failed = |source| BenchError::Output {
        path: results.clone(),
        source,
    };
    if call.is_of_the_command() && place.join("kept").exists() {
        std::fs::remove_dir_all(place.join("kept")).map_err(failed)?;
    }
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let line = said
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or("it failed")
            .to_owned();
        let is_unknown = ended.status.code() == Some(2) && !cfg!(feature = "peers");
        let why = if is_unknown {
            "build with --features peers".to_owned()
        } else {
            line
        };
        return Ok(Err(why));
    }
    let text = std::fs::read(&results).map_err(failed)?;
    let found = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    std::fs::remove_file(&results).map_err(failed)?;
    Ok(Ok(found))
}
