//! Profiles: every number by which a node is tuned, with its limits.
//!
//! Two are shipped, [`Profile::latency`] and [`Profile::throughput`], read from the files in
//! `engine/profiles`. A file of one's own names what differs from its `base` (`"latency"` unless it says
//! otherwise). Each value is checked against its own limits and against the others; an error names file,
//! line, key, value and limit. Parsing takes text: whoever reads the file hands in its name.

mod format;
mod limits;

use clustor_shards::buffer::BLOCK_BYTES;
use clustor_shards::log::{LogFormat, LogOptions, Mode};
use toml::Spanned;

pub use limits::Profile;
use limits::RawProfile;

/// What the engine puts before a payload in an entry's body, at most.
pub const ENTRY_HEADER_BYTES_MAX: u64 = 64;
/// What an extent needs beside the longest entry: its header, its last block's padding.
const EXTENT_SLACK_BYTES: u64 = 2 * BLOCK_BYTES as u64;

const LATENCY: &str = include_str!("../../profiles/latency.toml");
const THROUGHPUT: &str = include_str!("../../profiles/throughput.toml");

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
        Self::shipped(LATENCY, "latency", Mode::Strict)
    }

    /// The shipped throughput profile: group-fsync.
    #[must_use]
    pub fn throughput() -> Self {
        Self::shipped(THROUGHPUT, "throughput", Mode::Group)
    }

    fn shipped(text: &str, name: &str, mode: Mode) -> Self {
        let raw: RawProfile = toml::from_str(text).expect("the shipped profiles are well-formed");
        let format = format::over(&raw, LogFormat::default())
            .expect("the shipped profiles name what there is");
        raw.complete(name, mode, format)
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
        let malformed = |at: &Spanned<String>, expected: &str| ProfileError::Malformed {
            file: file.to_owned(),
            line: line_of(text, at.span().start),
            reason: format!("\"{}\": expected {expected}", at.get_ref()),
        };
        let mode = match named(raw.mode.as_ref()) {
            None => None,
            Some((_, "strict")) => Some(Mode::Strict),
            Some((_, "group")) => Some(Mode::Group),
            Some((at, _)) => return Err(malformed(at, "mode = \"strict\" or \"group\"")),
        };
        let base = match named(raw.base.as_ref()) {
            None | Some((_, "latency")) => Self::latency(),
            Some((_, "throughput")) => Self::throughput(),
            Some((at, _)) => {
                return Err(malformed(at, "base = \"latency\" or \"throughput\""));
            }
        };
        let format =
            format::over(&raw, base.format).map_err(|(at, expected)| malformed(at, expected))?;
        let profile = raw.over(base, mode, format, file);
        profile.check_limits(file, |key| {
            raw.span_of(key).map_or(0, |start| line_of(text, start))
        })?;
        profile.check_relations(file)?;
        Ok(profile)
    }

    /// The profile with segments of this size. What an eighth of a segment can't hold is lowered with it: the
    /// greatest entry and the greatest batch.
    #[must_use]
    pub fn with_segment_bytes(mut self, segment_bytes: u64) -> Self {
        self.segment_bytes = segment_bytes;
        self.entry_bytes_max = self.entry_bytes_max.min(self.entry_bytes_limit());
        self.batch_bytes_max = self.batch_bytes_max.min(segment_bytes / 16);
        self
    }

    /// The greatest entry that segments of this size allow.
    fn entry_bytes_limit(&self) -> u64 {
        (self.segment_bytes / 8).saturating_sub(EXTENT_SLACK_BYTES + ENTRY_HEADER_BYTES_MAX)
    }

    /// Checks a profile that was put together in code.
    ///
    /// # Errors
    /// [`ProfileError::Limit`] or [`ProfileError::Relation`], with the profile's name for a file.
    pub fn check(&self) -> Result<(), ProfileError> {
        self.check_limits(&self.name, |_| 0)?;
        self.check_relations(&self.name)
    }

    /// What the log of each shard takes, written in the given mode (0 FixedUring, 1 RegisteredUring, 2
    /// Blocking).
    #[must_use]
    pub fn log_options(&self, io_writer_mode: u8) -> LogOptions {
        let segment_blocks = (self.segment_bytes / BLOCK_BYTES as u64) as u32;
        LogOptions {
            segment_blocks,
            ledger_slots: segment_blocks / self.segment_blocks_per_slot as u32,
            chains_in_flight_max: self.chains_in_flight_max as usize,
            batch_bytes_max: self.batch_bytes_max as usize,
            queue_bytes_max: (self.segment_bytes / 4) as usize,
            entry_body_bytes_max: (self.entry_bytes_max + ENTRY_HEADER_BYTES_MAX) as usize,
            format: self.format,
            io_writer_mode,
        }
    }

    fn check_relations(&self, file: &str) -> Result<(), ProfileError> {
        let relations: [(&'static str, u64, u64, &'static str); 6] = [
            (
                "entry_bytes_max",
                self.entry_bytes_max,
                self.entry_bytes_limit(),
                "an eighth of segment_bytes, less headers: half a segment may lie in chains in flight",
            ),
            (
                "batch_bytes_max",
                self.batch_bytes_max,
                self.segment_bytes / 16,
                "a sixteenth of segment_bytes: half a segment may lie in chains in flight",
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

fn named(value: Option<&Spanned<String>>) -> Option<(&Spanned<String>, &str)> {
    value.map(|value| (value, value.get_ref().as_str()))
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Start of a value in its file.
fn start<T>(value: &Spanned<T>) -> usize {
    value.span().start
}
