//! The log at a start: which pair to believe, what in it counts, and what the boot writes again.
//!
//! Everything is read through [`BootDisk`], three times before a sector counts as unreadable, and nothing
//! unverified influences the state; an answer that says nothing of the disk ends the start. The outcome is a [`ShardLog`] that has not opened its boot's pair yet: the
//! opening and the mark are its first two chains, and only when the mark has retired may the shard speak.
//!
//! - `files`: headers, ledger slots, checkpoints and extents, read and verified
//! - `choose`: the newest pair that has something behind its opening
//! - `judge`: what a chain's extent and slot together amount to
//! - `walk`: the whole of the log, older pairs up to their last certain chain
//! - `chosen`: that pair's chains in order, torn told from rotten
//! - `content`: what a chain holds, taken into the state
//!
//! Torn or rotten (after Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST '18): a chain
//! writes to the ledger only after its extent was flushed. So a bad extent is rot if a later chain says that it had
//! retired, or if its slot is anything but untouched; otherwise it is the torn tail, and the walk ends. Rot is never
//! cut: its slot says which entries it held, and they are kept as missing.

pub(super) mod choose;
pub(super) mod chosen;
mod content;
pub(super) mod files;
pub(super) mod judge;
pub(super) mod walk;

use clustor_wire::ids::{BootNumber, ChainNumber, PairNumber};

use super::format::{LogFormat, SuiteUnavailable};
use super::header::{FORMAT_VERSION, HeaderMismatch};
use super::keys::{KeyError, KeyProvider, LogIdentity, ShardKeys};
use super::known_answers::{self, SelfTestFailed};
use super::nonce::{GapVerdict, NonceAccount};
use super::options::{LogOptions, OnAuthenticationFailure, OptionsError};
use super::writer::{Restored, ShardLog};
use crate::buffer::BlockPool;
use crate::disk::{BootDisk, DiskError, FileId};

/// Damage whose identity is unknown, or a state that is lost in both files: the shard's replicas neither
/// vote nor campaign nor acknowledge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pair {pair}, chain {chain}: {what}; the replicas of this shard stay silent, see docs/operations.md#quarantine"
)]
pub struct Quarantine {
    /// In which pair.
    pub pair: PairNumber,
    /// At which chain; `ZERO` where the damage is in the pair's opening.
    pub chain: ChainNumber,
    /// What is lost.
    pub what: &'static str,
    /// Whether what stands before the place is as it was written, so that who has nobody to ask may read it.
    pub prefix_stands: bool,
}

/// Why rot of known identity quarantines a shard.
pub(super) const ROT_QUARANTINES: &str =
    "an extent can't be read or is not authentic, and on_authentication_failure is \"quarantine\"";

/// Why what an earlier boot found quarantines a shard.
pub(super) const MISSING_QUARANTINES: &str = "entries are missing that were found damaged before, and on_authentication_failure is \"quarantine\"";

/// Why gaps in the accounting of nonces quarantine a shard.
pub(super) const NONCES_QUARANTINE: &str = "more than 4 MiB of nonces are not accounted for, at the start before as well or beside missing content, though their ledgers are whole";

/// Damage that recovery found and dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// One copy of a header is bad; the other is whole.
    Header,
    /// One copy of a checkpoint is bad; the other is whole.
    Checkpoint,
    /// A slot is bad; its extent is whole.
    Slot,
    /// A slot that was never used is bad: where its extent would lie nothing was written, nor behind that.
    UnusedSlot,
    /// An extent is rotten; its slot says what it held, which is missing now.
    Extent,
    /// A segment's trailer had been durable and is bad; it is written again from the checkpoint.
    Trailer,
    /// A listed older pair is gone, or its headers are bad.
    Pair,
    /// Nonces of the pair are not accounted for, and those of all pairs are more than a crash or a bad slot explains.
    Nonces,
}

/// One damaged place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// In which pair.
    pub pair: PairNumber,
    /// At which chain; the pair's first for headers and checkpoints.
    pub chain: ChainNumber,
    /// What.
    pub damage: Damage,
}

impl core::fmt::Display for Incident {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let what = match self.damage {
            Damage::Header => "a header was bad and taken from the other file",
            Damage::Checkpoint => "a checkpoint was bad and taken from the other file",
            Damage::Slot => "a ledger slot was bad, its extent is whole",
            Damage::UnusedSlot => "a ledger slot was bad that was never used, nothing is lost",
            Damage::Extent => "an extent was rotten, what it held is missing",
            Damage::Trailer => "a trailer was bad and is restored from the checkpoint",
            Damage::Pair => "an older pair is gone or unreadable, what it held is missing",
            Damage::Nonces => "nonces are not accounted for, though the ledger is whole",
        };
        write!(f, "pair {}, chain {}: {what}", self.pair, self.chain)
    }
}

/// What a recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryReport {
    /// This boot.
    pub boot: BootNumber,
    /// What the files of this boot are made of; `sealing` says whether blocks lie in clear.
    pub format: LogFormat,
    /// The pair whose state was taken; `None` for an empty start.
    pub chosen: Option<PairNumber>,
    /// Chains walked in it.
    pub chains: u64,
    /// The last chain known to have retired.
    pub certain: ChainNumber,
    /// The chain at which a torn tail was cut, if one was.
    pub torn: Option<ChainNumber>,
    /// Records written again.
    pub rewritten: u32,
    /// Entries whose content is missing, over all partitions.
    pub missing: u64,
    /// Damage that was found, in order of place.
    pub incidents: Vec<Incident>,
    /// What became of the nonces of each pair that counts, ascending. Of an older pair, as far as its certain chains tell.
    pub nonces: Vec<NonceAccount>,
    /// Algorithms that gave their published answers before anything was read.
    pub self_test: Vec<&'static str>,
    /// What the bytes of it that are not accounted for amount to.
    pub nonce_verdict: GapVerdict,
}

/// A recovered log and what was found on the way.
pub struct Recovery {
    /// The log; its opening is still to come.
    pub log: ShardLog,
    /// What was found.
    pub report: RecoveryReport,
}

/// Why a log can't be started. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The directory can't be listed.
    #[error("the shard's directory can't be read: {0}")]
    Disk(DiskError),
    /// What kept the log from being read says nothing of what is on the disk: the system was short of something.
    #[error("the log can't be read: {0}; see to that, and start again")]
    Passing(DiskError),
    /// An algorithm is not what it should be.
    #[error(transparent)]
    SelfTest(#[from] SelfTestFailed),
    /// No key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A number is outside its limits.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The files are another's.
    #[error(
        "pair {pair} belongs to {found}, this is {ours}: start the node with its own data directory"
    )]
    Foreign {
        /// Which pair.
        pair: PairNumber,
        /// Whose it is.
        found: LogIdentity,
        /// Who we are.
        ours: LogIdentity,
    },
    /// A file is named for a pair that no log comes to.
    #[error(
        "there is a file of pair {pair}, and no log comes so far: move it out of the shard's directory, this shard did not write it"
    )]
    Stray {
        /// Which pair.
        pair: PairNumber,
    },
    /// The files were written by a newer build.
    #[error(
        "pair {pair} was written by format {found}, this build reads up to {reads}; use a newer build"
    )]
    Newer {
        /// Which pair.
        pair: PairNumber,
        /// Its version.
        found: u16,
        /// What this build reads.
        reads: u16,
    },
    /// The files were written by a build older than any that was released.
    #[error("pair {pair} was written by format {found}, this build reads format {reads} only")]
    Older {
        /// Which pair.
        pair: PairNumber,
        /// Its version.
        found: u16,
        /// What this build reads.
        reads: u16,
    },
    /// The files were written with settings that this build does not know.
    #[error(
        "pair {pair} was written with {found}; this build reads encodings 1 (binary) and 2 (json), suites 0 (none), 1 (chacha20-poly1305) and 2 (aes-256-gcm), hashes 1 (sha256) and 2 (blake3), flags up to 0x3, blocks of 4096 bytes"
    )]
    Settings {
        /// Which pair.
        pair: PairNumber,
        /// Its settings.
        found: String,
    },
    /// The files were sealed with a suite that this build has no code for.
    #[error("pair {pair} can't be opened: {error}")]
    Suite {
        /// Which pair.
        pair: PairNumber,
        /// Which suite, and what to do.
        error: SuiteUnavailable,
    },
    /// The directory was written with other encodings than this start asks for.
    #[error(
        "pair {pair} was written with log encoding {} and ledger encoding {}, this start asks for {} and {}; set CLUSTOR_LOG_ENCODING and CLUSTOR_WAL_CODEC, or the profile's log_encoding and wal_codec, to what the directory has, or use another directory",
        found.log_encoding, found.ledger_encoding, asked.log_encoding, asked.ledger_encoding
    )]
    Encoding {
        /// Which pair.
        pair: PairNumber,
        /// What it was written with.
        found: LogFormat,
        /// What this start asks for.
        asked: LogFormat,
    },
    /// Both headers of a pair fail their MAC, and no other pair is authentic.
    #[error(
        "pair {pair} is not authentic under this key: this is not the key that the directory was written with, or both headers are damaged"
    )]
    WrongKey {
        /// Which pair.
        pair: PairNumber,
    },
}

impl RecoverError {
    fn from_mismatch(pair: PairNumber, ours: &LogIdentity, mismatch: HeaderMismatch) -> Self {
        match mismatch {
            HeaderMismatch::Foreign(found) => Self::Foreign {
                pair,
                found,
                ours: *ours,
            },
            HeaderMismatch::Version(found) if found > FORMAT_VERSION => Self::Newer {
                pair,
                found,
                reads: FORMAT_VERSION,
            },
            HeaderMismatch::Version(found) => Self::Older {
                pair,
                found,
                reads: FORMAT_VERSION,
            },
            HeaderMismatch::Settings(found) => Self::Settings { pair, found },
            HeaderMismatch::Suite(error) => Self::Suite { pair, error },
            HeaderMismatch::Mac => Self::WrongKey { pair },
        }
    }
}

impl ShardLog {
    /// Reads the shard's directory and restores its log. `pool` serves the log's buffers.
    ///
    /// # Errors
    /// [`RecoverError`]: the directory is not this shard's, or can't be used by this build. Damage is no error: it
    /// is in the report, and where its identity is unknown, in [`ShardLog::quarantine`].
    pub fn recover(
        disk: &mut dyn BootDisk,
        identity: LogIdentity,
        options: LogOptions,
        keys: &dyn KeyProvider,
        pool: BlockPool,
    ) -> Result<Recovery, RecoverError> {
        let self_test = known_answers::check(&known_answers::answers())?;
        options.check()?;
        let keys = ShardKeys::new(keys.kek()?, identity);
        let found = disk.pairs().map_err(RecoverError::Disk)?;
        let mut files = files::Files::new(disk, &keys);
        let pairs = files.survey(&found)?;
        check_encodings(&pairs, options.format)?;
        let choice = choose::choose(&mut files, &pairs);
        let numbers = Numbers::after(&found, &pairs, options.drawn);
        let mut walked = walk::walk(&mut files, &pairs, choice);
        if options.on_authentication_failure == OnAuthenticationFailure::Quarantine {
            walked.quarantine_rot();
        }
        let (nonces, nonce_verdict) = walked.judge_nonces();
        let chosen = walked.chosen;
        let keep = |pair: PairNumber| walked.older.iter().any(|older| older.pair == pair);
        let passed_over: Vec<PairNumber> = found
            .iter()
            .map(|found| found.pair)
            .filter(|pair| !keep(*pair))
            .collect();
        let is_evidence = |account: &&NonceAccount| {
            nonce_verdict >= GapVerdict::Incident && account.gap_bytes() > 0
        };
        let evidence = nonces.iter().filter(is_evidence);
        let evidence = evidence.map(|account| account.pair).collect();
        let gap_bytes = nonces.iter().map(NonceAccount::gap_bytes).sum();
        let report = RecoveryReport {
            boot: numbers.boot,
            format: options.format,
            chosen,
            chains: walked.chains,
            certain: walked.certain,
            torn: walked.torn,
            rewritten: walked.rewrite.count,
            missing: walked.missing(),
            nonces,
            nonce_verdict,
            self_test,
            incidents: walked.incidents,
        };
        let spares = match options.kept_segments_max {
            0 => Vec::new(),
            _ => unopened(&mut files, &pairs, chosen, options.segment_blocks),
        };
        files.check()?;
        // What a crash or a failure left of a pair that was still being zeroed is nowhere said.
        let older = walked.older.iter().map(|older| older.pair);
        let unwritten = older
            .filter(|pair| {
                options.kept_segments_max > 0 && !disk.is_written(FileId::segment(*pair))
            })
            .collect();
        disk.keep(options.segment_blocks, options.kept_segments_max)
            .map_err(RecoverError::Disk)?;
        let log = ShardLog::restore(Restored {
            options,
            keys,
            pool,
            boot: numbers.boot,
            next_pair: numbers.pair,
            next_chain: numbers.chain,
            boots: walked.boots,
            older: walked.older,
            ciphers: walked.ciphers,
            passed_over,
            spares,
            certain: walked.fold,
            rewrite: walked.rewrite,
            locations: walked.locations,
            evidence,
            unwritten,
            nonce_gaps: (nonce_verdict, gap_bytes),
            quarantine: walked.quarantine,
            restore_headers: walked.restore_headers,
            sweep: walked.sweep,
        });
        Ok(Recovery { log, report })
    }
}

/// Spares that an earlier boot left, whole and never opened: newer than the pair that was chosen, without a header in either
/// file, and with nothing at the front of the segment, where an opening that a power loss tore leaves something. So nothing refers
/// to them and no number but the pair's is in them, and their segments may go to the boot's own pair before that has been
/// opened. An opening that nobody had spoken for stays until the boot's mark has retired: the numbers in it are never to be
/// used again, and half removed, without its ledger, it looks like a pair that spoke.
fn unopened(
    files: &mut files::Files<'_>,
    pairs: &[files::PairFiles],
    chosen: Option<PairNumber>,
    segment_blocks: u32,
) -> Vec<PairNumber> {
    let newer = pairs.iter().filter(|found| Some(found.pair) > chosen);
    newer
        .filter(|found| found.header.is_none() && found.segment_blocks == segment_blocks)
        .map(|found| found.pair)
        .filter(|pair| files.is_blank(FileId::segment(*pair)))
        .collect()
}

/// Refuses a directory of other encodings.
fn check_encodings(pairs: &[files::PairFiles], asked: LogFormat) -> Result<(), RecoverError> {
    let mut headers = pairs.iter().filter_map(|pair| pair.header.as_ref());
    match headers.find(|header| !header.format.has_encodings_of(&asked)) {
        Some(header) => Err(RecoverError::Encoding {
            pair: header.pair,
            found: header.format,
            asked,
        }),
        None => Ok(()),
    }
}

/// The next numbers: one above the greatest in any file, those of aborted boots included; half of the boot's is drawn.
struct Numbers {
    boot: BootNumber,
    pair: PairNumber,
    chain: ChainNumber,
}

impl Numbers {
    /// A pair's chains are at most as many as its slots, so its last possible chain needs no search.
    fn after(found: &[crate::disk::FoundPair], pairs: &[files::PairFiles], drawn: u32) -> Self {
        let headers = || pairs.iter().filter_map(|pair| pair.header.as_ref());
        let boot = headers().map(|h| h.boot).max().unwrap_or_default();
        let chain = headers()
            .map(|h| ChainNumber(h.first_chain.get() + u64::from(h.slots())))
            .max()
            .unwrap_or_default();
        let pair = found.iter().map(|f| f.pair).max().unwrap_or_default();
        Self {
            boot: boot.after(drawn),
            pair: pair.next(),
            chain: chain.next(),
        }
    }
}
