//! The table on standard output.

use super::{MeasuredAt, Report, Run};

/// How many columns there are.
const COLUMNS: usize = 23;
const HEADER: [(&str, usize); COLUMNS] = [
    ("what", 6),
    ("mode", 12),
    ("suite", 17),
    ("flush", 9),
    ("at", 6),
    ("depth", 5),
    ("bytes", 8),
    ("blocks", 6),
    ("p50 us", 9),
    ("p99 us", 9),
    ("p99.9 us", 9),
    ("per second", 10),
    ("MiB/s", 8),
    ("p50:dev", 7),
    ("p99:dev", 7),
    ("bw:dev", 6),
    ("bw:suite", 8),
    ("alloc/op", 8),
    ("instr/op", 9),
    ("rate:peer", 9),
    ("p99:peer", 8),
    ("+chains", 7),
    ("+flushes", 8),
];

/// Shows the machine and a row for each line.
pub(super) fn print(report: &Report) {
    let machine = &report.machine;
    println!(
        "{} x {}, Linux {}, {}, {}",
        machine.processors,
        machine.processor,
        machine.kernel,
        machine.file_system,
        machine.writer_mode
    );
    println!();
    let any = |has: fn(&Run) -> bool| report.runs.iter().any(has);
    let mut columns = [true; COLUMNS];
    columns[19..21].fill(any(|run| run.rate_to_peer.is_some()));
    columns[21] = any(|run| run.rollovers.is_some());
    columns[22] = any(|run| run.reclaims.is_some());
    row(&HEADER.map(|(title, _)| title.to_owned()), columns);
    for run in &report.runs {
        row(&cells(run), columns);
    }
    print_handles(report);
    if let Some(rollovers) = report.runs.iter().filter_map(|run| run.rollovers).max() {
        println!(
            "\nRollovers: up to {rollovers} in a line. +chains: p99.9 above that of quiet, in full chains of the device as long as these."
        );
    }
    if let Some(reclaims) = report.runs.iter().filter_map(|run| run.reclaims).max() {
        println!(
            "Reclaims: up to {reclaims} in a line. +flushes: the same in writes with a flush, half a full chain."
        );
    }
    if !report.complete {
        println!("\nInterrupted: what is missing was not measured.");
    }
}

/// What handles add where one client waits alone: with more, it is the scheduler that is measured.
fn print_handles(report: &Report) {
    let lone = |run: &&Run| run.workload.depth == 1;
    for run in report.runs.iter().filter(lone) {
        let (Some(wakes), Some(wake)) = (run.wakes_over_shard, run.wake_p50_us) else {
            continue;
        };
        println!(
            "\n{}, {} bytes: a handle adds {wakes:.2} wake-ups of a thread ({wake:.1} us each, p50) to the shard's median.",
            run.mode, run.workload.payload_bytes
        );
    }
}

fn cells(run: &Run) -> [String; COLUMNS] {
    let ratio = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let at = match run.measured_at {
        MeasuredAt::Shard => "shard",
        MeasuredAt::Handle => "handle",
        MeasuredAt::Caller => "caller",
    };
    let blocks = if run.chain_blocks > 0.0 {
        format!("{:.1}", run.chain_blocks)
    } else {
        "-".to_owned()
    };
    [
        run.benchmark.to_owned(),
        run.mode.to_owned(),
        run.suite.to_owned(),
        run.flush.to_owned(),
        at.to_owned(),
        run.workload.depth.to_string(),
        run.workload.payload_bytes.to_string(),
        blocks,
        format!("{:.1}", run.p50_us),
        format!("{:.1}", run.p99_us),
        format!("{:.1}", run.p999_us),
        format!("{:.0}", run.per_s),
        format!("{:.1}", run.mib_per_s),
        ratio(run.ratio_to_device),
        ratio(run.ratio_p99_to_device),
        ratio(run.bandwidth_to_device),
        ratio(run.bandwidth_to_suite),
        run.allocations_per_operation
            .map_or_else(|| "-".to_owned(), |count| format!("{count:.3}")),
        run.instructions_per_operation
            .map_or_else(|| "-".to_owned(), |count| format!("{count:.0}")),
        ratio(run.rate_to_peer),
        ratio(run.p99_to_peer),
        ratio(run.p999_over_quiet_chains),
        ratio(run.p999_over_quiet_flushes),
    ]
}

/// Words to the left, numbers to the right.
fn row(cells: &[String; COLUMNS], shown: [bool; COLUMNS]) {
    let mut line = String::new();
    let columns = cells.iter().zip(HEADER).enumerate();
    for (place, (cell, (_, width))) in columns.filter(|(place, _)| shown[*place]) {
        let cell = if place < 5 {
            format!("{cell:<width$} ")
        } else {
            format!("{cell:>width$} ")
        };
        line.push_str(&cell);
    }
    println!("{}", line.trim_end());
}
