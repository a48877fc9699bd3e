//! The line that shows how far a scrub is: one that is drawn again and again on a terminal, a new one from time to time elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use clustor_shards::host::ScrubProgress;
use clustor_wire::ids::{PairNumber, ShardId};

/// How often the line is drawn on a terminal.
const DRAWN_EVERY: Duration = Duration::from_millis(200);

/// Said on stderr.
pub(super) struct Progress {
    shard: ShardId,
    /// What is being read, and since when.
    part: Option<((PairNumber, &'static str), Instant)>,
    /// When it was last said; at first when it began.
    said: Instant,
    every: Duration,
    is_terminal: bool,
    is_drawn: bool,
}

impl Progress {
    /// `every`: how often it is said where stderr is no terminal.
    pub fn new(shard: ShardId, every: Duration) -> Self {
        let is_terminal = stderr().is_terminal();
        Self {
            shard,
            part: None,
            said: Instant::now(),
            every: if is_terminal { DRAWN_EVERY } else { every },
            is_terminal,
            is_drawn: false,
        }
    }

    pub fn tell(&mut self, at: ScrubProgress) {
        let now = Instant::now();
        let part = (at.pair, at.what);
        let begun = match self.part {
            Some((before, begun)) if before == part => begun,
            _ => {
                self.part = Some((part, now));
                now
            }
        };
        if now - self.said < self.every {
            return;
        }
        self.said = now;
        let line = line(at, now - begun);
        // Whoever closed stderr doesn't want the line.
        let _ = if self.is_terminal {
            self.is_drawn = true;
            write!(stderr(), "\r\x1b[Kshard {}, {line}", self.shard)
        } else {
            writeln!(stderr(), "shard {}, {line}", self.shard)
        };
    }

    /// Takes the line away.
    pub fn end(&mut self) {
        if self.is_drawn {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn line(at: ScrubProgress, took: Duration) -> String {
    let ScrubProgress {
        pair,
        pairs: (before, count),
        what,
        done,
        total,
    } = at;
    let rate = done as f64 / took.as_secs_f64().max(1e-3);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    format!(
        "pair {pair} ({} of {count}), {what}: {:3.0}% of {}, {}/s, {left:.0} s left",
        before + 1,
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
