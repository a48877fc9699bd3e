//! Profiles: every number by which a node is tuned, with its limits.
//!
//! Two are shipped, [`Profile::latency`] and [`Profile::throughput`], read from the files in
//! `engine/profiles`. A file of one's own names what differs from its `base` (`"latency"` unless it says
//! otherwise). Each value is checked against its own limits and against the others; an error names file,
//! line, key, value and limit. Parsing takes text: whoever reads the file hands in its name.

mod limits;

use serde::Deserialize;
use toml::Spanned;

pub use limits::Profile;
use limits::RawProfile;

const LATENCY: &str = include_str!("../../profiles/latency.toml");
const THROUGHPUT: &str = include_str!("../../profiles/throughput.toml");

/// How appends are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each append gets a chain of its own.
    Strict,
    /// Appends share chains.
    Group,
}

/// Why a profile was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The text is not a profile: not TOML, an unknown key, a value of the wrong type.
    #[error("{file}:{line}: {reason}")]
    Malformed {
        /// The file's name, as handed in.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A value is outside its limits.
    #[error("{file}:{line}: {key} = {value} is outside {min} to {max}")]
    Limit {
        /// The file's name, as handed in.
        file: String,
        /// Line, from 1; 0 where the value is not from a file.
        line: usize,
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least it may be.
        min: u64,
        /// The greatest it may be.
        max: u64,
    },
    /// Two values don't go together.
    #[error("{file}: {key} = {value} must not exceed {limit} ({why})")]
    Relation {
        /// The file's name, as handed in.
        file: String,
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The limit that follows from the other values.
        limit: u64,
        /// Why.
        why: &'static str,
    },
}

impl Profile {
    /// The shipped latency profile: strict.
    #[must_use]
    pub fn latency() -> Self {
        Self::shipped(LATENCY, "latency")
    }

    /// The shipped throughput profile: group-fsync.
    #[must_use]
    pub fn throughput() -> Self {
        Self::shipped(THROUGHPUT, "throughput")
    }

    fn shipped(text: &str, name: &str) -> Self {
        let raw: RawProfile = toml::from_str(text).expect("the shipped profiles are well-formed");
        raw.complete(name)
            .expect("the shipped profiles leave nothing out")
    }

    /// Reads a profile from the text of `file`.
    ///
    /// # Errors
    /// [`ProfileError`], naming the first thing that is wrong.
    pub fn parse(text: &str, file: &str) -> Result<Self, ProfileError> {
        let raw: RawProfile = toml::from_str(text).map_err(|error| ProfileError::Malformed {
            file: file.to_owned(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            reason: error.message().to_owned(),
        })?;
        let base = match raw
            .base
            .as_ref()
            .map(|base| (base, base.get_ref().as_str()))
        {
            None | Some((_, "latency")) => Self::latency(),
            Some((_, "throughput")) => Self::throughput(),
            Some((base, other)) => {
                return Err(ProfileError::Malformed {
                    file: file.to_owned(),
                    line: line_of(text, base.span().start),
                    reason: format!("base = \"{other}\": expected \"latency\" or \"throughput\""),
                });
            }
        };
        let profile = raw.over(base, file);
        profile.check_limits(file, |key| {
            raw.span_of(key).map_or(0, |start| line_of(text, start))
        })?;
        profile.check_relations(file)?;
        Ok(profile)
    }

    /// Checks a profile that was put together in code.
    ///
    /// # Errors
    /// [`ProfileError::Limit`] or [`ProfileError::Relation`], with the profile's name for a file.
    pub fn check(&self) -> Result<(), ProfileError> {
        self.check_limits(&self.name, |_| 0)?;
        self.check_relations(&self.name)
    }

    /// Blocks in a segment.
    #[must_use]
    pub const fn segment_blocks(&self) -> u32 {
        (self.segment_bytes / 4096) as u32
    }

    /// Slots in a ledger.
    #[must_use]
    pub const fn ledger_slots(&self) -> u32 {
        self.segment_blocks() / self.ledger_blocks_per_slot as u32
    }

    fn check_relations(&self, file: &str) -> Result<(), ProfileError> {
        let relations: [(&'static str, u64, u64, &'static str); 6] = [
            (
                "entry_bytes_max",
                self.entry_bytes_max,
                self.segment_bytes / 8,
                "an eighth of segment_bytes: at most half a segment may lie in chains in flight",
            ),
            (
                "batch_bytes_max",
                self.batch_bytes_max,
                self.segment_bytes / 8,
                "an eighth of segment_bytes: at most half a segment may lie in chains in flight",
            ),
            (
                "election_ms_min",
                self.election_ms_min,
                self.election_ms_max,
                "election_ms_max: the window in which timeouts are drawn",
            ),
            (
                "heartbeat_ms",
                self.heartbeat_ms,
                self.election_ms_min / 2,
                "half of election_ms_min: one lost heartbeat must not start an election",
            ),
            (
                "entry_bytes_max",
                self.entry_bytes_max,
                self.queue_bytes_max,
                "queue_bytes_max: an entry must fit the queue",
            ),
            (
                "entry_bytes_max",
                self.entry_bytes_max,
                self.inflight_bytes_max,
                "inflight_bytes_max: an entry must fit what may be in flight",
            ),
        ];
        for (key, value, limit, why) in relations {
            if value > limit {
                return Err(ProfileError::Relation {
                    file: file.to_owned(),
                    key,
                    value,
                    limit,
                    why,
                });
            }
        }
        Ok(())
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::latency()
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Start of a value in its file.
fn start<T>(value: &Spanned<T>) -> usize {
    value.span().start
}
