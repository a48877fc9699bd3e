//! Measurements for people: histograms in plain characters, a table of chains, and the comments of a profile file.

use std::io::{self, Write};

use clustor_engine::profile::Word as _;
use serde_json::{Value, json};

use super::measure::{Cell, DEPTHS, KINDS, Latencies, Measurements};
use super::propose::Turn;

/// A terminal's width where none is known.
const WIDTH: usize = 80;
/// Lines wider than this are hard to follow.
const WIDTH_MAX: usize = 120;
/// Parts of a character cell.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// How wide a line may be.
pub fn width() -> usize {
    let told =
        rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    match told {
        0 => WIDTH,
        told => told.clamp(40, WIDTH_MAX),
    }
}

/// Draws latencies, one line for each step of a 1-2-5 scale that they touch.
pub fn draw(
    title: &str,
    latencies: &Latencies,
    width: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(
        out,
        "{title}: p50 {} us, p99 {} us, {} measured",
        latencies.us(0.5),
        latencies.us(0.99),
        latencies.count()
    )?;
    let steps = steps_of(latencies);
    let most = steps.iter().map(|(.., count)| *count).max().unwrap_or(0);
    let room = width.saturating_sub(26).max(8);
    for (from, to, count) in steps {
        let label = format!("{:>7} - {:<7}", short(from), short(to));
        writeln!(out, "  {label} {:>5} {}", count, bar(count, most, room))?;
    }
    Ok(())
}

/// The steps of the scale from the first with something in it to the last, in nanoseconds, with their counts.
fn steps_of(latencies: &Latencies) -> Vec<(u64, u64, u64)> {
    let mut scale = vec![0u64];
    let mut decade = 1_000u64;
    while decade <= 10_000_000_000 {
        scale.extend([decade, decade * 2, decade * 5]);
        decade *= 10;
    }
    let (least, most) = latencies.range_ns();
    scale
        .windows(2)
        .filter(|step| step[1] > least && step[0] <= most)
        .map(|step| (step[0], step[1], latencies.between(step[0], step[1])))
        .collect()
}

fn bar(count: u64, most: u64, room: usize) -> String {
    if most == 0 {
        return String::new();
    }
    let eighths = (u128::from(count) * room as u128 * 8 / u128::from(most)) as usize;
    let mut bar = "█".repeat(eighths / 8);
    match eighths % 8 {
        // Something that is there is seen.
        0 if count > 0 && eighths == 0 => bar.push(EIGHTHS[1]),
        0 => {}
        rest => bar.push(EIGHTHS[rest]),
    }
    bar
}

/// Nanoseconds on the scale, in words.
fn short(ns: u64) -> String {
    match ns {
        0 => "0".to_owned(),
        ns if ns < 1_000_000 => format!("{} us", ns / 1_000),
        ns if ns < 1_000_000_000 => format!("{} ms", ns / 1_000_000),
        ns => format!("{} s", ns / 1_000_000_000),
    }
}

fn mib(bytes: f64) -> f64 {
    (bytes / f64::from(1 << 20) * 10.0).round() / 10.0
}

/// Everything that was measured, as lines of text: what is printed, and what stands in a proposed file.
pub fn summary(measured: &Measurements) -> Vec<String> {
    let pair = |latencies: &Latencies| {
        format!(
            "p50 {:>8} us  p99 {:>8} us",
            latencies.us(0.5),
            latencies.us(0.99)
        )
    };
    let mut lines = vec![
        format!(
            "fdatasync alone, 128 times        {}",
            pair(&measured.flush)
        ),
        format!(
            "4 KiB write, then fdatasync       {}",
            pair(&measured.write_flush)
        ),
        format!(
            "4 KiB write with RWF_DSYNC        {}",
            pair(&measured.write_through)
        ),
        format!(
            "the same into blocks never written {}",
            pair(&measured.write_flush_fresh)
        ),
        format!(
            "1 MiB writes, each flushed        {} MiB/s",
            mib(measured.sequential)
        ),
    ];
    for kind in KINDS {
        lines.push(String::new());
        lines.push(format!(
            "the full chain, {} ({}): p50 us, chains/s, MiB/s of log, by chains in flight",
            kind.word(),
            measured.writer
        ));
        let depths: Vec<String> = DEPTHS.iter().map(|depth| format!("{depth:^23}")).collect();
        lines.push(
            format!("{:>8} {}", "size", depths.join(" "))
                .trim_end()
                .to_owned(),
        );
        let of_kind: Vec<&Cell> = measured.chains.iter().filter(|c| c.flush == kind).collect();
        for row in of_kind.chunks(DEPTHS.len()) {
            let cells: Vec<String> = row.iter().copied().map(cell).collect();
            let size = row.first().map_or(0, |cell| cell.blocks * 4);
            lines.push(format!("{:>8} {}", format!("{size} KiB"), cells.join(" ")));
        }
    }
    lines
}

fn cell(cell: &Cell) -> String {
    format!(
        "{:>8.0} {:>7.0} {:>6.1}",
        cell.latencies.us(0.5),
        cell.per_second(),
        mib(cell.bytes_per_second())
    )
}

/// What is turned, as lines of text.
pub fn turns(turns: &[Turn]) -> Vec<String> {
    if turns.is_empty() {
        return vec!["nothing that was measured speaks for turning a knob".to_owned()];
    }
    turns
        .iter()
        .map(|turn| {
            format!(
                "{}: {} -> {}: {}",
                turn.key, turn.before, turn.after, turn.why
            )
        })
        .collect()
}

pub fn measurements_json(measured: &Measurements) -> Value {
    let latencies = |latencies: &Latencies| {
        let steps: Vec<Value> = steps_of(latencies)
            .into_iter()
            .map(|(from, to, count)| json!({ "from_ns": from, "to_ns": to, "count": count }))
            .collect();
        json!({
            "count": latencies.count(),
            "p50_us": latencies.us(0.5),
            "p90_us": latencies.us(0.9),
            "p99_us": latencies.us(0.99),
            "histogram": steps,
        })
    };
    let chains: Vec<Value> = measured
        .chains
        .iter()
        .map(|cell| {
            json!({
                "flush": cell.flush.word(),
                "depth": cell.depth,
                "log_bytes": u64::from(cell.blocks) * 4096,
                "chains_per_s": (cell.per_second() * 10.0).round() / 10.0,
                "latency": latencies(&cell.latencies),
            })
        })
        .collect();
    json!({
        "writer": measured.writer,
        "flush": latencies(&measured.flush),
        "write_fdatasync": latencies(&measured.write_flush),
        "write_dsync": latencies(&measured.write_through),
        "write_fdatasync_fresh_blocks": latencies(&measured.write_flush_fresh),
        "sequential_mib_per_s": mib(measured.sequential),
        "chains": chains,
    })
}
