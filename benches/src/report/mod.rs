//! Results: rounds of each line put into medians, shown as a table, saved as JSON, histograms and plots.

mod chart;
mod histogram;
mod machine;
mod plot;
mod run;
mod table;

use std::path::Path;

use serde::Serialize;

pub use machine::Machine;
pub use run::{Line, MeasuredAt, Round, Run, Workload};

use crate::measured::Measured;
use crate::{BenchError, Outputs};

/// All results of one call.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was measured on.
    pub machine: Machine,
    /// Whether everything that was asked for was measured; false after ^C.
    pub complete: bool,
    /// The lines, in the order in which they were measured.
    pub runs: Vec<Run>,
    /// The latencies of all rounds of each line, and those of the device beside it.
    #[serde(skip)]
    latencies: Vec<(Measured, Option<Measured>)>,
}

impl Report {
    /// Nothing yet.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            complete: true,
            runs: Vec::new(),
            latencies: Vec::new(),
        }
    }

    /// Adds a line from its rounds.
    pub fn add(&mut self, line: Line, rounds: Vec<Round>) {
        if rounds.is_empty() {
            return;
        }
        let mut all = Measured::new();
        let mut device: Option<Measured> = None;
        for round in &rounds {
            all.join(&round.measured, true);
            if let Some((_, beside)) = &round.device {
                device.get_or_insert_with(Measured::new).join(beside, true);
            }
        }
        self.runs.push(Run::new(line, &rounds));
        self.latencies.push((all, device));
    }

    /// The report as far as it goes, if it goes anywhere.
    ///
    /// # Errors
    /// [`BenchError::Interrupted`] when nothing was measured.
    pub fn interrupted(mut self) -> Result<Self, BenchError> {
        if self.runs.is_empty() {
            return Err(BenchError::Interrupted);
        }
        self.complete = false;
        Ok(self)
    }

    /// Shows the table, and writes what was asked for.
    ///
    /// # Errors
    /// When a file can't be written; [`BenchError::Interrupted`], at the end, when a signal cut it short.
    pub fn publish(&self, outputs: &Outputs) -> Result<(), BenchError> {
        table::print(self);
        if let Some(path) = &outputs.json {
            save_json(path, self)?;
        }
        if let Some(directory) = &outputs.hgrm {
            self.save_histograms(directory)?;
        }
        if let Some(directory) = &outputs.svg {
            plot::save_all(self, directory)?;
        }
        if self.complete {
            Ok(())
        } else {
            Err(BenchError::CutShort)
        }
    }

    fn save_histograms(&self, directory: &Path) -> Result<(), BenchError> {
        std::fs::create_dir_all(directory).map_err(wrong(directory))?;
        for (run, (measured, device)) in self.runs.iter().zip(&self.latencies) {
            let path = directory.join(format!("{}.hgrm", run.name()));
            histogram::save(measured.histogram(), &path).map_err(wrong(&path))?;
            if let Some(device) = device.as_ref().filter(|_| run.benchmark != "device") {
                let path = directory.join(format!("{}.device.hgrm", run.name()));
                histogram::save(device.histogram(), &path).map_err(wrong(&path))?;
            }
        }
        Ok(())
    }
}

/// Writes what was found as one JSON value.
pub(crate) fn save_json(path: &Path, found: &impl Serialize) -> Result<(), BenchError> {
    let mut text = serde_json::to_string_pretty(found)
        .map_err(|error| wrong(path)(std::io::Error::other(error)))?;
    text.push('\n');
    std::fs::write(path, text).map_err(wrong(path))
}

fn wrong(path: &Path) -> impl FnOnce(std::io::Error) -> BenchError + use<> {
    let path = path.to_owned();
    move |source| BenchError::Output { path, source }
}
