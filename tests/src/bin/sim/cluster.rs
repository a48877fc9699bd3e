//! `sim`: whole clusters.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use clustor_sim::cluster::run::{self, Kind, Report, STEPS_MAX};
use clustor_sim::cluster::simpler::Simpler;
use clustor_sim::cluster::trace::Trace;
use clustor_sim::scenario;

use crate::many::{self, Enough, Held, OF_MANY, at_least_one, print};
use crate::minimise;

/// Seeds that are run, unless something is asked.
const SEEDS: u64 = 100;

/// Which clusters.
#[derive(Args)]
pub struct Seeds {
    /// Run this seed alone and print what happens, one line an event
    #[arg(long, conflicts_with_all = ["seeds", "from", "marks"], conflicts_with_all = OF_MANY)]
    seed: Option<u64>,
    /// Draw long lives in which hardly anything happens, instead of short ones full of load and faults
    #[arg(long)]
    light: bool,
    /// Seconds of load, then a restart of all nodes, after which each entry is whole on one of its replicas
    #[arg(long, conflicts_with = "light")]
    helical: bool,
    /// With --seed: print nothing but the end
    #[arg(long, requires = "seed")]
    quiet: bool,
    /// With --seed: make what it draws simpler in these ways first, a list (--minimise says which)
    #[arg(long, requires = "seed", value_name = "LIST", value_delimiter = ',', value_parser = Simpler::from_str)]
    simpler: Vec<Simpler>,
    /// With --seed, of one that fails: look for a simpler run that breaks the same rule, for so long [default: 120]
    #[arg(long, requires = "seed", conflicts_with_all = ["quiet", "simpler"], value_name = "SECONDS",
          num_args = 0..=1, default_missing_value = "120")]
    minimise: Option<u64>,
    /// Steps of a run, at most
    #[arg(long, default_value_t = STEPS_MAX, value_parser = at_least_one())]
    steps: u64,
    /// Run this many seeds [default: 100]
    #[arg(long, value_parser = at_least_one())]
    seeds: Option<u64>,
    /// The first seed [default: from the clock]
    #[arg(long)]
    from: Option<u64>,
    /// Play these scripts; print what happens, if it is one
    #[arg(long, value_name = "FILE", num_args = 1..,
          conflicts_with_all = ["seed", "seeds", "from", "light", "helical", "steps", "marks"], conflicts_with_all = OF_MANY)]
    scenario: Vec<PathBuf>,
    #[command(flatten)]
    enough: Enough,
}

impl Seeds {
    const fn kind(&self) -> Kind {
        match (self.light, self.helical) {
            (true, _) => Kind::Light,
            (_, true) => Kind::Helical,
            _ => Kind::Busy,
        }
    }
}

/// Runs them.
pub fn run(seeds: &Seeds) -> ExitCode {
    match (seeds.scenario.as_slice(), seeds.seed) {
        ([], Some(seed)) => match seeds.minimise {
            Some(seconds) => minimise::search(seeds.kind(), seed, seeds.steps, seconds),
            None => replay(seed, seeds),
        },
        ([], None) => many(seeds),
        (scripts, _) => play_all(scripts),
    }
}

fn play_all(files: &[PathBuf]) -> ExitCode {
    let mut scripts = Vec::new();
    for file in files {
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(script) => scripts.push((name, script)),
            Err(error) => {
                eprintln!("sim: {name}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    let mut failed = false;
    for (name, script) in &scripts {
        let trace = if scripts.len() == 1 {
            Trace::Print(Box::new(print))
        } else {
            Trace::Off
        };
        if let Err(error) = play(name, script, trace) {
            eprintln!("{error}");
            failed = true;
        }
    }
    ExitCode::from(u8::from(failed))
}

fn play(name: &str, script: &str, trace: Trace) -> Result<(), String> {
    // An assertion of the engine is a failure of the script that led to it.
    catch_unwind(AssertUnwindSafe(|| scenario::play(name, script, trace)))
        .map_err(|panic| format!("{name}: panicked: {}", run::said(&*panic)))?
        .map_err(|error| error.to_string())
}

fn describe(report: &Report) -> String {
    format!(
        "seed {} held: steps={} virtual_ms={} operations={} done={} acknowledged={} reads={} boots={}{}",
        report.seed,
        report.steps,
        report.virtual_us / 1000,
        report.operations,
        report.done(),
        report.acknowledged,
        report.reads,
        report.boots,
        if report.finished { "" } else { ", cut short" }
    )
}

fn replay(seed: u64, seeds: &Seeds) -> ExitCode {
    let trace = if seeds.quiet {
        Trace::Off
    } else {
        Trace::Print(Box::new(print))
    };
    match run::run_simpler(seeds.kind(), seed, &seeds.simpler, seeds.steps, trace) {
        Ok(report) => {
            print(&describe(&report));
            ExitCode::from(u8::from(!report.finished))
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// A seed nobody ran before, short enough to be told on the telephone.
fn fresh() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64 % 1_000_000_000 * 1_000
}

fn many(seeds: &Seeds) -> ExitCode {
    let first = seeds.from.unwrap_or_else(fresh);
    let count = match seeds.seeds {
        Some(count) => count,
        None if seeds.enough.is_bounded() => u64::MAX,
        None => SEEDS,
    };
    let held = many::run(&seeds.enough, first, count, |seed| {
        let report = run::run(seeds.kind(), seed, seeds.steps, Trace::Off);
        let report = report.map_err(|failure| failure.to_string())?;
        // What was not looked at to its end has shown nothing.
        if let Some(failure) = report.cut_short(seeds.kind()) {
            return Err(failure.to_string());
        }
        Ok(Held {
            operations: report.operations,
            virtual_us: report.virtual_us,
            totals: vec![
                ("done", report.done()),
                ("steps", report.steps),
                ("acknowledged", report.acknowledged),
                ("reads", report.reads),
                ("boots", report.boots),
                ("rotten", report.rotten),
                ("virtual_ms", report.virtual_us / 1000),
            ],
            marks: Some(report.marks),
        })
    });
    ExitCode::from(u8::from(!held))
}
