//! Profiles: everything by which a node is tuned, with its limits.
//!
//! Four are shipped ([`Profile::SHIPPED`]), read from the files in `engine/profiles`. A file of one's own names what
//! differs from its `base` (`"latency"` unless it says otherwise). Each value is checked against its own limits and
//! against the others, and against narrower limits if the file names a base that has some; an error names file, line, key, value and limit, and [`Profile::judge`] gives all of them. Parsing
//! takes text: whoever reads the file hands in its name.
//!
//! - `limits`: the table of knobs; everything else follows from it
//! - `knob`: numbers, words and switches
//! - `read`, `write`: from and to the text of a file
//! - `retune`: what of a new profile a running node obeys

mod knob;
mod limits;
mod read;
mod retune;
mod write;

use clustor_shards::buffer::BLOCK_BYTES;
pub use clustor_shards::disk::FlushKind;
use clustor_shards::log::nonce::NONCE_RANGE_BLOCKS;
use clustor_shards::log::options::{RELOCATE_SHARE, RELOCATE_TURN_BYTES_MAX};
use clustor_shards::log::scrub::ScrubRates;
pub use clustor_shards::log::{Encoding, HashSuite, Mode, OnAuthenticationFailure, Suite};
use clustor_shards::log::{LogFormat, LogOptions};
pub use clustor_shards::uring::WriterChoice;

pub use knob::{Allowed, Knob, Value, When, Word};
pub use limits::Profile;
use read::Reading;
pub use retune::{ProfileNews, Retuned};

const HOUR_MS: u64 = 3_600_000;
/// What the engine puts before a payload in an entry's body, at most.
pub const ENTRY_HEADER_BYTES_MAX: u64 = 64;
/// The longest profile file in bytes: whoever reads one reads no more.
pub const PROFILE_BYTES_MAX: u64 = 64 * 1024;

const LATENCY: &str = include_str!("../../profiles/latency.toml");
const THROUGHPUT: &str = include_str!("../../profiles/throughput.toml");
const WAN: &str = include_str!("../../profiles/wan.toml");
const ZFS: &str = include_str!("../../profiles/zfs.toml");

/// Why a profile was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The text is not TOML.
    #[error("{file}:{line}: not TOML: {reason}")]
    Malformed {
        /// The file's name, as handed in.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The parser's word.
        reason: String,
    },
    /// A key that no knob has.
    #[error("{file}:{line}: unknown key `{key}`; the nearest known one is `{nearest}`")]
    UnknownKey {
        /// The file's name, as handed in.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The nearest known key.
        nearest: &'static str,
    },
    /// A value of another kind, or outside what the knob may stand at.
    #[error("{}: {key} = {value} is not {allowed}{}", at(file, *line), narrowed(*base))]
    Value {
        /// The file's name, as handed in.
        file: String,
        /// Line, from 1; 0 where the value is not from a file.
        line: usize,
        /// The key.
        key: &'static str,
        /// Its value, as the file has it.
        value: Box<str>,
        /// What it may be.
        allowed: Allowed,
        /// The base, named in the file, that allows no more; `None` where nothing would.
        base: Option<&'static str>,
    },
    /// Two values don't go together.
    #[error("{}: {key} = {value} must not exceed {limit} ({why}){}", at(file, *line), elsewhere(*line, set))]
    Relation {
        /// The file's name, as handed in.
        file: String,
        /// Line, from 1; 0 where the value is the base's.
        line: usize,
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The limit that follows from the other values.
        limit: u64,
        /// Why.
        why: &'static str,
        /// The key and those that the limit follows from, as the file has them.
        set: Box<[SetAt]>,
    },
}

/// Where a profile's file sets a knob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAt {
    /// Its key.
    pub key: &'static str,
    /// Line, from 1; 0 where the file does not set it.
    pub line: usize,
    /// A running node obeys it at its next start only: until then counts what is in force.
    pub waits: bool,
}

impl ProfileError {
    /// The same with the lines of `text`, which the profile was read from: a profile itself has none.
    #[must_use]
    pub fn in_text(mut self, text: &str) -> Self {
        if let Self::Relation {
            file, line, set, ..
        } = &mut self
        {
            let reading = Reading::of(text, file);
            for at in set.iter_mut() {
                at.line = reading.line_of(at.key);
            }
            *line = first_line(set);
        }
        self
    }

    /// The line, from 1; 0 where what is wrong is not in the file.
    #[must_use]
    pub fn line(&self) -> usize {
        match self {
            Self::Malformed { line, .. }
            | Self::UnknownKey { line, .. }
            | Self::Value { line, .. }
            | Self::Relation { line, .. } => *line,
        }
    }

    /// The key, if it is about one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Malformed { .. } => None,
            Self::UnknownKey { key, .. } => Some(key),
            Self::Value { key, .. } | Self::Relation { key, .. } => Some(key),
        }
    }
}

/// Why no more is allowed.
fn narrowed(base: Option<&str>) -> String {
    base.map_or_else(String::new, |base| {
        format!(", all that base = \"{base}\" allows")
    })
}

/// The line that an error names first: what the file says nothing of comes from its base, and then what limits it is what the
/// file says.
fn first_line(set: &[SetAt]) -> usize {
    let mut lines = set.iter().map(|at| at.line);
    lines.find(|line| *line > 0).unwrap_or(0)
}

/// The other lines that an error is about.
fn elsewhere(line: usize, set: &[SetAt]) -> String {
    let others = set.iter().filter(|at| at.line > 0);
    let others = others.filter(|at| at.line != line || at.waits);
    let told = others.map(|at| {
        let waits = if at.waits {
            ", which waits for the next start"
        } else {
            ""
        };
        format!("; line {}: {}{waits}", at.line, at.key)
    });
    told.collect()
}

/// A place in a file; the file alone where the line is not known.
fn at(file: &str, line: usize) -> String {
    match line {
        0 => file.to_owned(),
        line => format!("{file}:{line}"),
    }
}

impl Profile {
    /// The names of the shipped profiles.
    pub const SHIPPED: [&'static str; 4] = ["latency", "throughput", "wan", "zfs"];

    /// The shipped latency profile: strict.
    #[must_use]
    pub fn latency() -> Self {
        let (mut profile, reading) = (Self::blank("latency"), Reading::of(LATENCY, "latency"));
        assert!(reading.wrong.is_empty(), "shipped: {:?}", reading.wrong);
        assert!(
            reading.values.len() == Self::KNOBS.len(),
            "the latency profile leaves nothing out"
        );
        profile.take(&reading);
        profile
    }

    /// The shipped throughput profile: group-fsync.
    #[must_use]
    pub fn throughput() -> Self {
        Self::from_shipped("throughput", THROUGHPUT)
    }

    /// The shipped profile for nodes far apart: group-fsync, long timeouts, more in flight.
    #[must_use]
    pub fn wan() -> Self {
        Self::from_shipped("wan", WAN)
    }

    /// The shipped profile for copy-on-write file systems (ZFS): strict, large segments.
    #[must_use]
    pub fn zfs() -> Self {
        Self::from_shipped("zfs", ZFS)
    }

    /// The shipped profile of this name.
    #[must_use]
    pub fn shipped(name: &str) -> Option<Self> {
        match name {
            "latency" => Some(Self::latency()),
            "throughput" => Some(Self::throughput()),
            "wan" => Some(Self::wan()),
            "zfs" => Some(Self::zfs()),
            _ => None,
        }
    }

    /// What a shipped profile's file says at its top, without the comment signs; [`Profile::to_toml`] with it gives the
    /// whole file.
    #[must_use]
    pub fn shipped_head(name: &str) -> Option<String> {
        let text = match name {
            "latency" => LATENCY,
            "throughput" => THROUGHPUT,
            "wan" => WAN,
            "zfs" => ZFS,
            _ => return None,
        };
        let lines = text.lines().map_while(|line| line.strip_prefix('#'));
        let lines: Vec<&str> = lines
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        Some(lines.join("\n"))
    }

    fn from_shipped(name: &str, text: &str) -> Self {
        Self::parse(text, name).expect("the shipped profiles are within their limits")
    }

    /// The knob of this key.
    #[must_use]
    pub fn knob(key: &str) -> Option<&'static Knob> {
        Self::KNOBS.iter().find(|knob| knob.key == key)
    }

    /// Reads a profile from the text of `file`.
    ///
    /// # Errors
    /// [`ProfileError`], naming the first thing that is wrong.
    pub fn parse(text: &str, file: &str) -> Result<Self, ProfileError> {
        Self::judge(text, file).map_err(|mut wrong| wrong.swap_remove(0))
    }

    /// Reads a profile from the text of `file`, and finds everything that is wrong with it.
    ///
    /// # Errors
    /// What is wrong, by line; never empty. How values go together is judged only where each is right for itself.
    pub fn judge(text: &str, file: &str) -> Result<Self, Vec<ProfileError>> {
        let mut reading = Reading::of(text, file);
        let mut wrong = reading.outside_base();
        wrong.append(&mut reading.wrong);
        if !wrong.is_empty() {
            wrong.sort_by_key(ProfileError::line);
            return Err(wrong);
        }
        let base = reading.base.unwrap_or("latency");
        let mut profile = Self::shipped(base).expect("a base is one of the shipped");
        file.clone_into(&mut profile.name);
        profile.take(&reading);
        let wrong = profile.wrong_relations(file, |key| reading.line_of(key));
        if wrong.is_empty() {
            Ok(profile)
        } else {
            Err(wrong)
        }
    }

    fn take(&mut self, reading: &Reading<'_>) {
        for (knob, value, _) in &reading.values {
            self.set(knob.key, *value)
                .expect("reading refuses what is outside");
        }
    }

    /// The keys that stand differently in the other profile, with both values: this one's, then the other's.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<(&'static Knob, Value, Value)> {
        Self::KNOBS
            .iter()
            .filter_map(|knob| {
                let (mine, theirs) = (self.get(knob.key)?, other.get(knob.key)?);
                (mine != theirs).then_some((knob, mine, theirs))
            })
            .collect()
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

    /// The profile with log and ledger in these encodings. What an eighth of a segment can't hold as text is lowered
    /// with them: the greatest entry.
    #[must_use]
    pub fn with_encodings(mut self, log: Encoding, ledger: Encoding) -> Self {
        self.log_encoding = log;
        self.wal_codec = ledger;
        self.entry_bytes_max = self.entry_bytes_max.min(self.entry_bytes_limit());
        self
    }

    /// The greatest entry that segments of this size and records of this encoding allow.
    fn entry_bytes_limit(&self) -> u64 {
        let segment_blocks = self.segment_bytes / BLOCK_BYTES as u64;
        let body_bytes_max = LogOptions::entry_bytes_max_in(segment_blocks, &self.format());
        (body_bytes_max as u64).saturating_sub(ENTRY_HEADER_BYTES_MAX)
    }

    /// Checks a profile that was put together in code.
    ///
    /// # Errors
    /// [`ProfileError::Value`] or [`ProfileError::Relation`], with the profile's name for a file.
    pub fn check(&self) -> Result<(), ProfileError> {
        for knob in Self::KNOBS {
            let value = self.get(knob.key).expect("every knob has a value");
            if !knob.allowed.admits(value) {
                return Err(ProfileError::Value {
                    file: self.name.clone(),
                    line: 0,
                    key: knob.key,
                    value: value.to_string().into(),
                    allowed: knob.allowed,
                    base: None,
                });
            }
        }
        match self.wrong_relations(&self.name, |_| 0).into_iter().next() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
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
            batch_ms_max: self.batch_ms_max,
            group_chains_max: (self.group_chains_max.min(self.chains_in_flight_max)) as usize,
            queue_bytes_max: (self.segment_bytes / 4) as usize,
            queue_batches_max: self.queue_batches_max as usize,
            flush: self.flush,
            slow_chain_ms: self.slow_chain_ms,
            stuck_io_ms: self.stuck_io_ms,
            entry_body_bytes_max: (self.entry_bytes_max + ENTRY_HEADER_BYTES_MAX) as usize,
            kept_segments_max: self.kept_segments_max as u32,
            disk_soft_percent: self.disk_soft_percent as u8,
            disk_hard_percent: self.disk_hard_percent as u8,
            format: self.format(),
            nonce_range_blocks: NONCE_RANGE_BLOCKS,
            relocate_share: RELOCATE_SHARE,
            relocate_turn_bytes_max: RELOCATE_TURN_BYTES_MAX,
            on_authentication_failure: self.on_authentication_failure,
            io_writer_mode,
            scrub: ScrubRates {
                round_ms: self.scrub_round_hours * HOUR_MS,
                sample_every_ms: self.scrub_sample_hours * HOUR_MS,
                sample_percent: self.scrub_sample_percent as u32,
            },
            drawn: 0,
        }
        .written_by(io_writer_mode)
    }

    /// What the log's files are made of.
    #[must_use]
    pub const fn format(&self) -> LogFormat {
        LogFormat {
            log_encoding: self.log_encoding,
            ledger_encoding: self.wal_codec,
            sealing: self.sealing,
            merkle_leaves: self.merkle_leaves,
            hash: self.hash,
        }
    }

    fn wrong_relations(&self, file: &str, line: impl Fn(&str) -> usize) -> Vec<ProfileError> {
        let around_lease =
            self.lease_rtt_ms + self.lease_skew_ms + self.heartbeat_ms + u64::from(self.leases);
        let lease_limit = if self.leases {
            self.election_ms_min.saturating_sub(around_lease)
        } else {
            u64::MAX
        };
        // What is limited, by what, and by which keys.
        let relations: [(_, u64, u64, _, &[&str]); 9] = [
            (
                "entry_bytes_max",
                self.entry_bytes_max,
                self.entry_bytes_limit(),
                "an eighth of segment_bytes, less headers, and in json a quarter of that: half a segment may lie in chains in flight",
                &["segment_bytes"],
            ),
            (
                "batch_bytes_max",
                self.batch_bytes_max,
                self.segment_bytes / 16,
                "a sixteenth of segment_bytes: half a segment may lie in chains in flight",
                &["segment_bytes"],
            ),
            (
                "slow_chain_ms",
                self.slow_chain_ms,
                self.stuck_io_ms,
                "stuck_io_ms: a chain is slow before it is stuck",
                &["stuck_io_ms"],
            ),
            (
                "disk_soft_percent",
                self.disk_soft_percent,
                self.disk_hard_percent,
                "disk_hard_percent: appends are slowed down before they are refused",
                &["disk_hard_percent"],
            ),
            (
                "election_ms_min",
                self.election_ms_min,
                self.election_ms_max,
                "election_ms_max: the window in which timeouts are drawn",
                &["election_ms_max"],
            ),
            (
                "heartbeat_ms",
                self.heartbeat_ms,
                self.election_ms_min / 2,
                "half of election_ms_min: one lost heartbeat must not start an election",
                &["election_ms_min"],
            ),
            (
                "lease_ms",
                self.lease_ms,
                lease_limit,
                "election_ms_min less lease_rtt_ms, lease_skew_ms, heartbeat_ms and 1: a lease must be over before anybody else can be elected",
                &[
                    "election_ms_min",
                    "lease_rtt_ms",
                    "lease_skew_ms",
                    "heartbeat_ms",
                    "leases",
                ],
            ),
            (
                "entry_bytes_max",
                self.entry_bytes_max,
                self.queue_bytes_max,
                "queue_bytes_max: an entry must fit the queue",
                &["queue_bytes_max"],
            ),
            (
                "entry_bytes_max",
                self.entry_bytes_max,
                self.inflight_bytes_max,
                "inflight_bytes_max: an entry must fit what may be in flight",
                &["inflight_bytes_max"],
            ),
        ];
        relations
            .into_iter()
            .filter(|(_, value, limit, ..)| value > limit)
            .map(|(key, value, limit, why, by)| {
                let set = core::iter::once(key).chain(by.iter().copied());
                let set: Box<[_]> = set
                    .map(|key| SetAt {
                        key,
                        line: line(key),
                        waits: false,
                    })
                    .collect();
                ProfileError::Relation {
                    file: file.to_owned(),
                    line: first_line(&set),
                    key,
                    value,
                    limit,
                    why,
                    set,
                }
            })
            .collect()
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::latency()
    }
}

/// The known key that is nearest to this one (Levenshtein's distance, by characters).
fn nearest(key: &str) -> &'static str {
    let keys = Profile::KNOBS.iter().map(|knob| knob.key);
    keys.chain(["base"])
        .min_by_key(|known| strsim::levenshtein(known, key))
        .expect("there are keys")
}
