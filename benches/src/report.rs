//! Results: gathered as histograms, shown as a table, saved as JSON.

use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::BenchError;
use crate::place::Place;

/// The longest latency that is told apart: one minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What was measured, before it is put into words.
#[derive(Debug)]
pub struct Measured {
    latencies_ns: Histogram<u64>,
    elapsed: Duration,
}

impl Measured {
    /// Nothing yet. Three significant digits.
    pub fn new() -> Self {
        Self {
            latencies_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .expect("the bounds are in order"),
            elapsed: Duration::ZERO,
        }
    }

    /// One operation took this long.
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies_ns.saturating_record(ns.max(1));
    }

    /// All operations together took this long.
    pub fn took(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// A quantile in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        tenth(self.latencies_ns.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    /// Operations in a second.
    pub fn per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            tenth(self.latencies_ns.len() as f64 / seconds)
        } else {
            0.0
        }
    }

    /// How many operations.
    pub fn operations(&self) -> u64 {
        self.latencies_ns.len()
    }
}

/// Rounded to one decimal place: what is measured is not more exact.
fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Where the clock stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasuredAt {
    /// In the shard, from submission to the event.
    Shard,
    /// At a handle on another thread, from the call to the answer.
    Handle,
}

/// The work of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Operations in flight at a time.
    pub depth: u32,
    /// Log blocks of 4 KiB in each operation.
    pub blocks: u32,
    /// Bytes of each entry, or of a chain's log write.
    pub payload_bytes: u32,
    /// Seconds it was measured for.
    pub seconds: u64,
}

/// One line of the results.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Which subcommand measured it.
    pub benchmark: &'static str,
    /// What was done.
    pub mode: String,
    /// Its parameters.
    #[serde(flatten)]
    pub workload: Workload,
    /// Where the clock stood.
    pub measured_at: MeasuredAt,
    /// How many operations.
    pub operations: u64,
    /// Half took no longer, in microseconds.
    pub p50_us: f64,
    /// All but one in a hundred took no longer, in microseconds.
    pub p99_us: f64,
    /// Operations in a second.
    pub per_s: f64,
    /// Median latency over that of the device's full chain at the same depth and size in the same run.
    pub ratio_to_device: Option<f64>,
}

impl Run {
    /// A line from what was measured, against the device's median if there is one.
    pub fn new(
        benchmark: &'static str,
        mode: &str,
        workload: Workload,
        measured_at: MeasuredAt,
        measured: &Measured,
        device_p50_us: Option<f64>,
    ) -> Self {
        let p50_us = measured.quantile_us(0.5);
        Self {
            benchmark,
            mode: mode.to_owned(),
            workload,
            measured_at,
            operations: measured.operations(),
            p50_us,
            p99_us: measured.quantile_us(0.99),
            per_s: measured.per_second(),
            ratio_to_device: device_p50_us
                .filter(|device| *device > 0.0)
                .map(|device| (p50_us / device * 100.0).round() / 100.0),
        }
    }
}

/// What was measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processors that the process may use.
    pub processors: usize,
    /// The processor's name, as the kernel gives it.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
    /// The kind of file system.
    pub file_system: String,
    /// How writes reached the files.
    pub writer_mode: String,
    /// Version of the harness.
    pub clustor: &'static str,
}

impl Machine {
    /// This machine, with the place that is measured in.
    pub fn of(place: &Place, writer_mode: &str) -> Self {
        let first_line = |path: &str, key: &str| {
            std::fs::read_to_string(path)
                .ok()
                .and_then(|text| {
                    text.lines().find(|line| line.starts_with(key)).map(|line| {
                        line[key.len()..]
                            .trim_start_matches([' ', '\t', ':'])
                            .to_owned()
                    })
                })
                .unwrap_or_else(|| "unknown".to_owned())
        };
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            processor: first_line("/proc/cpuinfo", "model name"),
            kernel: first_line("/proc/sys/kernel/osrelease", ""),
            file_system: place.file_system().name.to_owned(),
            writer_mode: writer_mode.to_owned(),
            clustor: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// All results of one call.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was measured on.
    pub machine: Machine,
    /// The lines, in the order in which they were measured.
    pub runs: Vec<Run>,
}

impl Report {
    /// Shows the machine and a table on standard output.
    pub fn print(&self) {
        let machine = &self.machine;
        println!(
            "{} x {}, Linux {}, {}, {}",
            machine.processors,
            machine.processor,
            machine.kernel,
            machine.file_system,
            machine.writer_mode
        );
        println!();
        println!(
            "{:<8} {:<22} {:>5} {:>6} {:>8} {:>10} {:>10} {:>11} {:>9}",
            "what", "mode", "depth", "blocks", "at", "p50 us", "p99 us", "per second", "to device"
        );
        for run in &self.runs {
            let at = match run.measured_at {
                MeasuredAt::Shard => "shard",
                MeasuredAt::Handle => "handle",
            };
            let ratio = run
                .ratio_to_device
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            println!(
                "{:<8} {:<22} {:>5} {:>6} {:>8} {:>10.1} {:>10.1} {:>11.0} {:>9}",
                run.benchmark,
                run.mode,
                run.workload.depth,
                run.workload.blocks,
                at,
                run.p50_us,
                run.p99_us,
                run.per_s,
                ratio
            );
        }
    }

    /// Saves the report, if a file was named.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: Option<&Path>) -> Result<(), BenchError> {
        let Some(path) = path else {
            return Ok(());
        };
        let wrong = |source| BenchError::Output {
            path: path.to_owned(),
            source,
        };
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| wrong(std::io::Error::other(error)))?;
        text.push('\n');
        std::fs::write(path, text).map_err(wrong)
    }
}
