//! How far a long call has come, on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Counts steps of about the same length.
#[derive(Debug)]
pub struct Progress {
    total: usize,
    done: usize,
    begun: Instant,
    terminal: bool,
}

impl Progress {
    /// Nothing done of `total` steps.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            done: 0,
            begun: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// The next step begins. On a terminal the line replaces the one before it.
    pub fn step(&mut self, what: &str) {
        let left = match self.done {
            0 => String::new(),
            done => {
                let each = self.begun.elapsed().as_secs_f64() / done as f64;
                let seconds = (each * (self.total - done) as f64).ceil() as u64;
                format!(", {} min {:02} s left", seconds / 60, seconds % 60)
            }
        };
        self.done += 1;
        let line = format!("{}/{}{left}: {what}", self.done, self.total);
        let mut err = std::io::stderr().lock();
        // Nobody may be reading: that is no reason to stop measuring.
        let _ = if self.terminal {
            write!(err, "\r\x1b[K{line}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.done > 0 {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
