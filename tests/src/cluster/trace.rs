//! The trace: one line for each event, made only where somebody reads it.

use std::fmt;

/// Where lines go.
#[derive(Default)]
pub enum Trace {
    /// Nowhere.
    #[default]
    Off,
    /// Into a list.
    Keep(Vec<String>),
    /// To whoever prints them.
    Print(Box<dyn FnMut(&str)>),
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::Keep(_) => "Keep(..)",
            Self::Print(_) => "Print(..)",
        })
    }
}

impl Trace {
    /// Whether anybody reads.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Notes what happened at a moment; `what` is called only where somebody reads.
    pub fn note(&mut self, now_us: u64, what: impl FnOnce() -> String) {
        if !self.is_on() {
            return;
        }
        let line = format!(
            "{:>4}.{:06} {}",
            now_us / 1_000_000,
            now_us % 1_000_000,
            what()
        );
        match self {
            Self::Off => {}
            Self::Keep(lines) => lines.push(line),
            Self::Print(print) => print(&line),
        }
    }

    /// The lines kept so far; they are kept no longer.
    #[must_use]
    pub fn take(&mut self) -> Vec<String> {
        match self {
            Self::Keep(lines) => std::mem::take(lines),
            Self::Off | Self::Print(_) => Vec::new(),
        }
    }
}
