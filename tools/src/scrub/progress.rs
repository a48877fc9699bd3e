//! The line that shows how far a scrub is, on a terminal.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use clustor_shards::host::ScrubProgress;
use clustor_wire::ids::ShardId;

/// How often the line is drawn.
const EVERY: Duration = Duration::from_millis(200);

/// Drawn on stderr if that is a terminal; elsewhere nothing is.
pub(super) struct Progress {
    shard: ShardId,
    /// What is being read, and since when.
    part: Option<(&'static str, Instant)>,
    drawn: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            part: None,
            drawn: None,
            is_terminal: stderr().is_terminal(),
        }
    }

    pub fn draw(&mut self, at: ScrubProgress) {
        let now = Instant::now();
        let begun = match self.part {
            Some((what, begun)) if what == at.what => begun,
            _ => {
                self.part = Some((at.what, now));
                now
            }
        };
        let is_due = self.drawn.is_none_or(|drawn| now - drawn >= EVERY);
        if self.is_terminal && is_due {
            self.drawn = Some(now);
            // Whoever closed the terminal doesn't want the line.
            let _ = write!(
                stderr(),
                "\r\x1b[Kshard {}, {}",
                self.shard,
                line(at, now - begun)
            );
        }
    }

    /// Takes the line away.
    pub fn end(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn line(ScrubProgress { what, done, total }: ScrubProgress, took: Duration) -> String {
    let rate = done as f64 / took.as_secs_f64().max(1e-3);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    format!(
        "{what}: {:3.0}% of {}, {}/s, {left:.0} s left",
        100.0 * done as f64 / total.max(1) as f64,
        bytes(total),
        bytes(rate as u64),
    )
}

/// Bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
