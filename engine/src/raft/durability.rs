//! How a partition's appends are made durable, as its log says: each change is an entry.
//!
//! A `DurabilityTransition` takes effect where it stands: the entries before it are written under the mode of before,
//! it has a chain of its own, and the entries behind it are written under the new mode, on every replica alike. One
//! that is truncated never was.
//!
//! Its payload, 4 bytes: version (1); the mode from here on; the mode that was asked for; why (1 it was asked for, 2 the
//! guardrails). Modes are 1 strict, 2 group.

use clustor_shards::log::Mode;
use clustor_wire::ids::LogIndex;

use crate::lent::Lent;

const VERSION: u8 = 1;

/// Why a mode changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// Somebody asked for it.
    Asked = 1,
    /// The leader's guardrails forbid the mode that was asked for, or allow it again.
    Guard = 2,
}

/// What a `DurabilityTransition` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The mode from here on.
    pub mode: Mode,
    /// The mode that was asked for last; the guardrails may hold a partition in strict mode all the same.
    pub wanted: Mode,
    /// Why.
    pub cause: Cause,
}

const fn number(mode: Mode) -> u8 {
    match mode {
        Mode::Strict => 1,
        Mode::Group => 2,
    }
}

const fn mode(number: u8) -> Option<Mode> {
    match number {
        1 => Some(Mode::Strict),
        2 => Some(Mode::Group),
        _ => None,
    }
}

impl Transition {
    /// The entry's payload.
    #[must_use]
    pub const fn encode(self) -> [u8; 4] {
        [
            VERSION,
            number(self.mode),
            number(self.wanted),
            self.cause as u8,
        ]
    }

    /// Reads an entry's payload; `None` if it is none that this build knows.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let &[VERSION, in_force, wanted, cause] = payload else {
            return None;
        };
        Some(Self {
            mode: mode(in_force)?,
            wanted: mode(wanted)?,
            cause: match cause {
                1 => Cause::Asked,
                2 => Cause::Guard,
                _ => return None,
            },
        })
    }
}

/// The modes of a partition along its log, as far as this replica has seen it.
#[derive(Debug, Clone)]
pub(super) struct Modes {
    /// In force where no entry says otherwise.
    first: Mode,
    /// The latest among entries that can't be truncated.
    settled: Option<(LogIndex, Transition)>,
    /// Those behind it, ascending.
    open: Lent<Vec<(LogIndex, Transition)>>,
    /// What the log holds was not all seen yet, or not confirmed: strict, whatever it says.
    fallback: bool,
}

impl Modes {
    pub(super) fn new(first: Mode) -> Self {
        Self {
            first,
            settled: None,
            open: Lent::default(),
            fallback: false,
        }
    }

    /// The latest entry that changes the mode.
    pub(super) fn latest_entry(&self) -> Option<(LogIndex, Transition)> {
        self.open.last().copied().or(self.settled)
    }

    /// What the latest of them says, or what holds where there is none.
    pub(super) fn latest(&self) -> Transition {
        self.latest_entry().map_or(
            Transition {
                mode: self.first,
                wanted: self.first,
                cause: Cause::Asked,
            },
            |(_, transition)| transition,
        )
    }

    /// The mode under which the next entry is written.
    pub(super) fn mode(&self) -> Mode {
        if self.fallback {
            Mode::Strict
        } else {
            self.latest().mode
        }
    }

    pub(super) const fn is_fallback(&self) -> bool {
        self.fallback
    }

    pub(super) const fn set_fallback(&mut self, fallback: bool) {
        self.fallback = fallback;
    }

    /// Whether a transition waits to be applied.
    pub(super) fn is_changing(&self) -> bool {
        !self.open.is_empty()
    }

    /// An entry enters the log.
    pub(super) fn note(&mut self, index: LogIndex, transition: Transition) {
        self.open.push((index, transition));
    }

    pub(super) fn truncate(&mut self, from: LogIndex) {
        if !self.open.is_empty() {
            self.open.retain(|(index, _)| *index < from);
            self.open.give_back();
        }
    }

    /// An entry is applied: it was perhaps never seen entering the log, which was recovered with it.
    pub(super) fn learn(&mut self, index: LogIndex, transition: Transition) {
        if !self.open.is_empty() {
            self.open.retain(|(open, _)| *open > index);
            self.open.give_back();
        }
        if self.settled.is_none_or(|(settled, _)| settled < index) {
            self.settled = Some((index, transition));
        }
    }
}
