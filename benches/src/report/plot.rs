//! Which pictures a report has.
//!
//! Rates and latencies over the number of clients, and over the size of the entries, where there is more than one; and
//! for every size the whole distribution of latencies. The device that was measured beside a line is dashed, in the
//! line's colour.

use std::collections::BTreeMap;
use std::path::Path;

use super::chart::{Chart, Series, Stroke, plain};
use super::{MeasuredAt, Report, Run, wrong};
use crate::BenchError;
use crate::measured::Measured;

/// Points on the percentile axis for each tenfold step towards 100%.
const STEPS_PER_NINE: u32 = 12;

/// A number of the device beside a line, if there is one.
type OfDevice<'a> = &'a dyn Fn(&Run) -> Option<f64>;

/// Draws everything into `directory`, made if absent.
///
/// # Errors
/// When a file can't be written.
pub(super) fn save_all(report: &Report, directory: &Path) -> Result<(), BenchError> {
    std::fs::create_dir_all(directory).map_err(wrong(directory))?;
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, run) in report.runs.iter().enumerate() {
        groups.entry(group_name(run)).or_default().push(at);
    }
    for (name, members) in &groups {
        let runs: Vec<&Run> = members.iter().map(|&at| &report.runs[at]).collect();
        for (kind, chart) in [
            ("rate", over_clients(&runs)),
            ("latency", latency_over_clients(&runs)),
            ("bandwidth", over_sizes(&runs)),
        ] {
            save(chart, directory, &format!("{kind}-{name}"))?;
        }
        let mut sizes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for &at in members {
            let size = report.runs[at].workload.payload_bytes;
            sizes.entry(size).or_default().push(at);
        }
        for (size, members) in sizes {
            let chart = percentiles(report, &title(runs[0]), size, &members);
            save(
                Some(chart),
                directory,
                &format!("percentiles-{name}-{size}"),
            )?;
        }
    }
    Ok(())
}

fn save(chart: Option<Chart<'_>>, directory: &Path, name: &str) -> Result<(), BenchError> {
    let Some(chart) = chart else {
        return Ok(());
    };
    let path = directory.join(format!("{name}.svg"));
    chart.save(&path).map_err(wrong(&path))
}

/// Runs of one picture: peers are drawn together, everything else by mode, suite and clock.
fn group_name(run: &Run) -> String {
    if run.benchmark == "peers" {
        return "peers".to_owned();
    }
    format!(
        "{}-{}-{}-{}-{}",
        run.benchmark,
        run.mode,
        run.suite,
        run.flush,
        at(run)
    )
}

/// A group as a title has it.
fn title(run: &Run) -> String {
    if run.benchmark == "peers" {
        return "group-fsync and its peers".to_owned();
    }
    format!(
        "{}, {}, {}, {}, at the {}",
        run.benchmark,
        run.mode,
        run.suite,
        run.flush,
        at(run)
    )
}

fn at(run: &Run) -> &'static str {
    match run.measured_at {
        MeasuredAt::Shard => "shard",
        MeasuredAt::Handle => "handle",
        MeasuredAt::Caller => "caller",
    }
}

/// What a line of a picture holds fixed.
fn label(run: &Run, by_size: bool) -> String {
    let fixed = if by_size {
        format!("{} B", run.workload.payload_bytes)
    } else {
        match run.workload.depth {
            1 => "1 client".to_owned(),
            depth => format!("{depth} clients"),
        }
    };
    if run.benchmark == "peers" {
        format!("{} {}, {fixed}", run.mode, at(run))
    } else {
        fixed
    }
}

/// Lines of `runs`, one for each label, with `x` and `y` of each run, and the device's `y` dashed if asked for.
fn lines(
    runs: &[&Run],
    by_size: bool,
    x: &dyn Fn(&Run) -> f64,
    y: &dyn Fn(&Run) -> f64,
    device: Option<OfDevice<'_>>,
) -> Vec<Series> {
    let mut order: Vec<String> = Vec::new();
    for run in runs {
        let label = label(run, by_size);
        if !order.contains(&label) {
            order.push(label);
        }
    }
    let mut series = Vec::new();
    for (colour, name) in order.iter().enumerate() {
        let of_label = || runs.iter().filter(|run| label(run, by_size) == *name);
        let sorted = |mut points: Vec<(f64, f64)>| {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let dashed: Vec<(f64, f64)> = device
            .map(|device| {
                of_label()
                    .filter_map(|run| Some((x(run), device(run)?)))
                    .collect()
            })
            .unwrap_or_default();
        series.push(Series {
            label: name.clone(),
            colour,
            stroke: Stroke::Solid,
            points: sorted(of_label().map(|run| (x(run), y(run))).collect()),
        });
        if !dashed.is_empty() {
            series.push(Series {
                label: format!("device beside {name}"),
                colour,
                stroke: Stroke::Dashed,
                points: sorted(dashed),
            });
        }
    }
    series
}

fn has_several(runs: &[&Run], of: impl Fn(&Run) -> u32) -> bool {
    runs.iter().any(|run| of(run) != of(runs[0]))
}

fn clients(run: &Run) -> f64 {
    f64::from(run.workload.depth).log2()
}

fn power_of_two(exponent: f64) -> String {
    match exponent.exp2() {
        value if value >= 1024.0 => format!("{} Ki", plain((value / 1024.0).round())),
        value => plain(value.round()),
    }
}

/// What the device could carry of a run's chains.
fn device_rate(run: &Run) -> Option<f64> {
    let device = run.device.as_ref()?;
    let each = if run.operations_per_chain > 0.0 {
        run.operations_per_chain
    } else if run.benchmark == "device" {
        1.0
    } else {
        return None;
    };
    Some(device.per_s * each)
}

fn over_clients(runs: &[&Run]) -> Option<Chart<'static>> {
    has_several(runs, |run| run.workload.depth).then(|| Chart {
        title: format!("{}: operations in a second", title(runs[0])),
        x_label: "operations under way",
        y_label: "operations in a second",
        x_format: &power_of_two,
        series: lines(runs, true, &clients, &|run| run.per_s, Some(&device_rate)),
    })
}

fn latency_over_clients(runs: &[&Run]) -> Option<Chart<'static>> {
    has_several(runs, |run| run.workload.depth).then(|| Chart {
        title: format!("{}: median latency", title(runs[0])),
        x_label: "operations under way",
        y_label: "p50 in microseconds",
        x_format: &power_of_two,
        series: lines(
            runs,
            true,
            &clients,
            &|run| run.p50_us,
            Some(&|run| run.device.as_ref().map(|device| device.p50_us)),
        ),
    })
}

fn over_sizes(runs: &[&Run]) -> Option<Chart<'static>> {
    has_several(runs, |run| run.workload.payload_bytes).then(|| Chart {
        title: format!("{}: payload in a second", title(runs[0])),
        x_label: "bytes of each entry",
        y_label: "MiB in a second",
        x_format: &power_of_two,
        series: lines(
            runs,
            false,
            &|run| f64::from(run.workload.payload_bytes).log2(),
            &|run| run.mib_per_s,
            Some(&|run| {
                let payload = f64::from(run.workload.payload_bytes) / (1 << 20) as f64;
                Some(device_rate(run)? * payload)
            }),
        ),
    })
}

fn percentiles(report: &Report, of: &str, size: u32, members: &[usize]) -> Chart<'static> {
    let mut series = Vec::new();
    for (colour, &at) in members.iter().enumerate() {
        let run = &report.runs[at];
        let (measured, device) = &report.latencies[at];
        let label = label(run, false);
        let beside = device
            .as_ref()
            .filter(|_| run.benchmark != "device")
            .zip(run.device.as_ref());
        series.push(Series {
            label: label.clone(),
            colour,
            stroke: Stroke::Solid,
            points: distribution(measured),
        });
        if let Some((device, work)) = beside {
            series.push(Series {
                label: format!("device, {} x {} blocks", work.depth, work.blocks),
                colour,
                stroke: Stroke::Dashed,
                points: distribution(device),
            });
        }
    }
    Chart {
        title: format!("{of}, {size} bytes: latency by percentile"),
        x_label: "percentile",
        y_label: "microseconds",
        x_format: &|nines| {
            let percent = 100.0 * (1.0 - 10f64.powf(-nines));
            let text = format!("{percent:.5}");
            format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
        },
        series,
    }
}

/// Latency over the number of nines of the percentile, as far as there is an operation beyond.
fn distribution(measured: &Measured) -> Vec<(f64, f64)> {
    let beyond = (measured.operations() as f64).log10();
    (0..)
        .map(|step: u32| f64::from(step) / f64::from(STEPS_PER_NINE))
        .take_while(|nines| *nines <= beyond)
        .map(|nines| {
            let latency = measured.quantile_us(1.0 - 10f64.powf(-nines));
            (nines, latency.max(0.001))
        })
        .collect()
}
