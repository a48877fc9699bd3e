//! The log: how bytes become durable. Sans-I/O planners over the `Disk` seam; deterministic.
//!
//! A shard has one segment log, shared by all its partitions so that one flush serves them all, and one
//! durability ledger that says, after the fact, what is known to be durable. Both come in files that are
//! made, filled and removed together, a *pair*. For every batch: write the log blocks, flush, write the chain's ledger
//! slot, flush; then, in sequence, the chain retires and proofs are minted.
//!
//! From the ground up:
//!
//! - [`mod@format`]: what files are made of: encodings, suites, hashes
//! - [`merkle`], [`record`]: leaves and roots; the frame of one record
//! - [`known_answers`]: known answers of every algorithm below
//! - [`aead`], [`keys`], `seal`: ciphers; keys; one sealed or authenticated block
//! - [`header`], [`extent`], [`slot`], [`item`], [`checkpoint`], [`trailer`], `text`: the formats
//! - [`nonce`]: which blocks may seal something, and the evidence of it
//! - [`fold`]: what records say about partitions
//! - `batch`, `location`, `pair`: what the writer keeps; `size`: how large the next pair must be
//! - `pressure`: what it does on a file system that fills up
//! - [`proof`]: what only the log can make
//! - [`writer`], [`read`], `reclaim`: the log while it runs
//! - [`recovery`]: the log at a start
//! - [`scrub`]: the log read again while it runs
//! - [`audit`]: every byte of its files verified and judged, offline
//! - [`inspect`]: its files laid open, for offline tools

pub mod aead;
pub mod audit;
mod batch;
pub mod checkpoint;
mod codec;
pub mod extent;
pub mod fold;
pub mod format;
pub mod header;
pub mod inspect;
pub mod item;
pub mod keys;
pub mod known_answers;
mod location;
pub mod merkle;
pub mod nonce;
pub mod options;
mod pair;
mod patience;
mod pressure;
pub mod proof;
pub mod read;
mod reclaim;
pub mod record;
pub mod recovery;
pub mod scrub;
mod seal;
pub mod size;
pub mod slot;
mod text;
pub mod trailer;
pub mod writer;

pub use fold::{ConfigurationAt, HardState, IndexRange, PartitionLog, TermRun};
pub use format::{Encoding, HashSuite, LogFormat, Suite, SuiteUnavailable};
pub use keys::{Kek, KeyError, KeyProvider, LogIdentity};
pub use options::{LogOptions, OnAuthenticationFailure, OptionsError};
pub use pressure::{DISK_HARD_PERCENT, DISK_SOFT_PERCENT, Pressure};
pub use proof::{ExitDurable, HardStateDurable, LocalDurable};
pub use read::{READS_IN_FLIGHT_MAX, ReadOutcome, ReadRefusal};
pub use recovery::{Damage, Quarantine, RecoverError, Recovery, RecoveryReport};
pub use writer::{LogRefusal, Mode, Retirement, ShardLog};
