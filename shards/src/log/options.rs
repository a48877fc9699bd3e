//! What a shard's log may take, as numbers with limits.

use super::extent::extent_blocks;
use super::format::{LogFormat, SuiteUnavailable};
use super::item::SMALL_RECORD_BYTES_MAX;
use super::nonce::{NONCE_RANGE_BLOCKS, NONCE_RANGE_BLOCKS_MAX, NONCE_RANGE_BLOCKS_MIN};
use super::pressure::{DISK_HARD_PERCENT, DISK_SOFT_PERCENT};
use super::record::{RECORD_BODY_BYTES_MAX, RECORD_OVERHEAD_BYTES_MAX};
use super::scrub::ScrubRates;
use crate::buffer::{BLOCK_BYTES, BlockPool, SizeClass};
use crate::disk::FlushKind;

/// The smallest segment, in blocks: 128 KiB, for simulations. Profiles ask for 1 MiB at least.
pub const SEGMENT_BLOCKS_MIN: u32 = 32;
/// The greatest segment, in blocks: 4 GiB.
pub const SEGMENT_BLOCKS_MAX: u32 = 1 << 20;
/// The smallest number of slots in a ledger.
pub const LEDGER_SLOTS_MIN: u32 = 8;
/// Chains in flight at most, and by default.
pub const CHAINS_IN_FLIGHT_MAX: usize = 8;
/// Batches that may wait behind the chains in flight, by default. In strict mode every append is one, and whatever comes
/// after, votes included, stands behind them.
pub const QUEUE_BATCHES_MAX: usize = 256;
/// Group batches in flight, by default, behind which a further one goes on gathering.
pub const GROUP_CHAINS_MAX: usize = CHAINS_IN_FLIGHT_MAX;
/// What an open group batch is clamped to where the best way of writing can't be had.
pub const CLAMPED_BATCH_BYTES_MAX: usize = 32 << 10;
/// How long an open group batch waits at most where the best way of writing can't be had, in milliseconds.
pub const CLAMPED_BATCH_MS_MAX: u64 = 2;

/// How long the disk may take to answer, by default, in milliseconds.
pub const STUCK_IO_MS: u64 = 30_000;

/// Header and checkpoint of a first ledger, at most.
const FIRST_LEDGER_EXTRA_BLOCKS: u64 = 8;
/// What is kept of an eighth of a segment for an extent's header and the padding of its last block.
const EXTENT_SLACK_BYTES: usize = 2 * BLOCK_BYTES - RECORD_OVERHEAD_BYTES_MAX;
/// A closed pair is emptied when its live entries take one of so many parts of what is written in it.
pub const RELOCATE_SHARE: u32 = 8;
/// Bytes written again in one turn to empty a closed pair.
pub const RELOCATE_TURN_BYTES_MAX: usize = 64 << 10;

/// Segments of reclaimed pairs that are kept for later pairs, by default.
pub const KEPT_SEGMENTS: u32 = 2;
/// Segments of reclaimed pairs that may be kept at most.
pub const KEPT_SEGMENTS_MAX: u32 = 8;

/// What becomes of a shard where an extent is rotten whose identity is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnAuthenticationFailure {
    /// The entries are missing, with their identity, and to be fetched from peers.
    #[default]
    Repair,
    /// The shard's replicas are quarantined: for those who must suspect tampering.
    Quarantine,
}

/// How the log of a shard is laid out and how much it takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a segment in blocks of 4 KiB; a pair may be greater where its checkpoint asks for it.
    pub segment_blocks: u32,
    /// Slots in a ledger.
    pub ledger_slots: u32,
    /// Chains in flight at most.
    pub chains_in_flight_max: usize,
    /// A group batch closes at this many bytes of records.
    pub batch_bytes_max: usize,
    /// A group batch closes this long after its first record, in milliseconds, if a chain may still be submitted then.
    pub batch_ms_max: u64,
    /// A group batch that is neither full nor that old goes only while fewer chains than this are in flight: the flush
    /// that is under way is the window in which it gathers.
    pub group_chains_max: usize,
    /// Bytes that may wait behind the chains in flight; more is refused as Busy.
    pub queue_bytes_max: usize,
    /// Closed batches that may wait behind the chains in flight; while more do, appends are refused as Busy.
    pub queue_batches_max: usize,
    /// How the writes of a chain are made durable.
    pub flush: FlushKind,
    /// A chain that takes longer, in milliseconds, is counted as slow.
    pub slow_chain_ms: u64,
    /// What the disk has not answered within this time, in milliseconds, is taken for failed.
    pub stuck_io_ms: u64,
    /// The greatest body of an entry.
    pub entry_body_bytes_max: usize,
    /// A closed pair whose live entries take at most one of so many parts of what is written in it is emptied: they are
    /// written again at the head.
    pub relocate_share: u32,
    /// Bytes written again in one turn, at most, to empty a closed pair; one entry at least.
    pub relocate_turn_bytes_max: usize,
    /// Segments of reclaimed pairs that are kept to become those of later pairs, instead of zeroing new ones.
    pub kept_segments_max: u32,
    /// Percent of the file system used from which on half as much may wait.
    pub disk_soft_percent: u8,
    /// Percent of the file system used from which on appends are refused; 100 for when it is full.
    pub disk_hard_percent: u8,
    /// What its files are made of.
    pub format: LogFormat,
    /// Blocks whose nonces are reserved at once.
    pub nonce_range_blocks: u32,
    /// What becomes of the shard where an extent is not authentic, or can't be read.
    pub on_authentication_failure: OnAuthenticationFailure,
    /// How the bytes are written: 0 FixedUring, 1 RegisteredUring, 2 Blocking. Recorded in every slot.
    pub io_writer_mode: u8,
    /// How fast what is written is read again to see whether it still is what it was.
    pub scrub: ScrubRates,
    /// What this start drew at random: the lower half of its [`BootNumber`](clustor_wire::ids::BootNumber).
    pub drawn: u32,
}

impl LogOptions {
    /// The options for segments of `segment_bytes`, rounded up to whole blocks and into the limits: as many
    /// slots as an eighth of the blocks, batches of 64 KiB, 8 chains in flight, a queue of a quarter segment.
    #[must_use]
    pub fn for_segment_bytes(segment_bytes: u64) -> Self {
        let blocks = segment_bytes.div_ceil(BLOCK_BYTES as u64);
        let segment_blocks =
            blocks.clamp(u64::from(SEGMENT_BLOCKS_MIN), u64::from(SEGMENT_BLOCKS_MAX)) as u32;
        let segment = segment_blocks as usize * BLOCK_BYTES;
        Self {
            segment_blocks,
            ledger_slots: (segment_blocks / 8).max(LEDGER_SLOTS_MIN),
            chains_in_flight_max: CHAINS_IN_FLIGHT_MAX,
            batch_bytes_max: (64 << 10).min(segment / 16),
            batch_ms_max: 5,
            group_chains_max: GROUP_CHAINS_MAX,
            queue_bytes_max: segment / 4,
            queue_batches_max: QUEUE_BATCHES_MAX,
            flush: FlushKind::Fdatasync,
            slow_chain_ms: 100,
            stuck_io_ms: STUCK_IO_MS,
            entry_body_bytes_max: (segment / 8 - 2 * BLOCK_BYTES).min(1 << 20),
            relocate_share: RELOCATE_SHARE,
            relocate_turn_bytes_max: RELOCATE_TURN_BYTES_MAX,
            kept_segments_max: KEPT_SEGMENTS,
            disk_soft_percent: DISK_SOFT_PERCENT,
            disk_hard_percent: DISK_HARD_PERCENT,
            format: LogFormat::default(),
            nonce_range_blocks: NONCE_RANGE_BLOCKS,
            on_authentication_failure: OnAuthenticationFailure::default(),
            io_writer_mode: 0,
            scrub: ScrubRates::DEFAULT,
            drawn: 0,
        }
    }

    /// Bytes of a new log's first pair, both files.
    #[must_use]
    pub fn first_pair_bytes(&self) -> u64 {
        let blocks = u64::from(self.segment_blocks) + u64::from(self.ledger_slots);
        (blocks + FIRST_LEDGER_EXTRA_BLOCKS) * BLOCK_BYTES as u64
    }

    /// The greatest body an entry may have in segments of this size: an eighth of the segment, with its extent's
    /// overhead, so that at most half a segment lies above the last chain known to have retired.
    #[must_use]
    pub fn segment_entry_bytes_max(&self) -> usize {
        Self::entry_bytes_max_in(u64::from(self.segment_blocks), &self.format)
    }

    /// The same, for segments of `segment_blocks` that are made of `format`.
    #[must_use]
    pub fn entry_bytes_max_in(segment_blocks: u64, format: &LogFormat) -> usize {
        let segment = usize::try_from(segment_blocks.saturating_mul(BLOCK_BYTES as u64));
        let eighth = segment.unwrap_or(usize::MAX) / 8;
        format
            .body_bytes_within(eighth.saturating_sub(EXTENT_SLACK_BYTES))
            .min(RECORD_BODY_BYTES_MAX)
    }

    /// These options with files made of this. What such files can't hold is lowered: the greatest entry.
    #[must_use]
    pub fn with_format(mut self, format: LogFormat) -> Self {
        self.format = format;
        self.entry_body_bytes_max = self
            .entry_body_bytes_max
            .min(self.segment_entry_bytes_max());
        self
    }

    /// The buffers for all chains that may be in flight: for each a ledger slot and a lone small append, a batch of
    /// middling size, or a full batch; and some for reads. A greater extent, of one long entry, comes from the heap.
    #[must_use]
    pub fn pool_classes(&self) -> [SizeClass; 3] {
        let chains = self.chains_in_flight_max;
        let batch = extent_blocks(self.batch_bytes_max) as usize;
        let class = |blocks, runs| SizeClass { blocks, runs };
        [
            class(1, 3 * chains),
            class(4, 2 * chains),
            class(batch, chains + 2),
        ]
    }

    /// A pool of [`Self::pool_classes`]. The carrier registers it with its ring before the log is opened.
    #[must_use]
    pub fn pool(&self) -> BlockPool {
        BlockPool::new(&self.pool_classes())
    }

    /// The options for a shard that writes in this way (0 FixedUring, 1 RegisteredUring, 2 Blocking). All but the best
    /// clamp the group batch, so that no more than a little stands on a way of writing that is slow.
    #[must_use]
    pub fn written_by(mut self, io_writer_mode: u8) -> Self {
        self.io_writer_mode = io_writer_mode;
        if io_writer_mode > 0 {
            self.batch_bytes_max = self.batch_bytes_max.min(CLAMPED_BATCH_BYTES_MAX);
            self.batch_ms_max = self.batch_ms_max.min(CLAMPED_BATCH_MS_MAX);
        }
        self
    }

    /// Checks every number against its limit.
    ///
    /// # Errors
    /// The first that is outside, with its limit.
    pub fn check(&self) -> Result<(), OptionsError> {
        let within = |name, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(OptionsError::Limit {
                    name,
                    value,
                    min,
                    max,
                })
            }
        };
        self.format.sealing.check_available()?;
        let segment = u64::from(self.segment_blocks) * BLOCK_BYTES as u64;
        let entry_max = self.segment_entry_bytes_max() as u64;
        within(
            "segment_blocks",
            self.segment_blocks.into(),
            SEGMENT_BLOCKS_MIN.into(),
            SEGMENT_BLOCKS_MAX.into(),
        )?;
        within(
            "ledger_slots",
            self.ledger_slots.into(),
            LEDGER_SLOTS_MIN.into(),
            self.segment_blocks.into(),
        )?;
        within(
            "chains_in_flight_max",
            self.chains_in_flight_max as u64,
            1,
            CHAINS_IN_FLIGHT_MAX as u64,
        )?;
        within(
            "batch_bytes_max",
            self.batch_bytes_max as u64,
            self.format.stored_bytes_max(SMALL_RECORD_BYTES_MAX) as u64,
            segment / 16,
        )?;
        within(
            "queue_bytes_max",
            self.queue_bytes_max as u64,
            self.batch_bytes_max as u64,
            segment,
        )?;
        within("batch_ms_max", self.batch_ms_max, 1, 1_000)?;
        within(
            "group_chains_max",
            self.group_chains_max as u64,
            1,
            CHAINS_IN_FLIGHT_MAX as u64,
        )?;
        within(
            "queue_batches_max",
            self.queue_batches_max as u64,
            1,
            65_536,
        )?;
        within("slow_chain_ms", self.slow_chain_ms, 1, 60_000)?;
        within("stuck_io_ms", self.stuck_io_ms, 4, 3_600_000)?;
        within(
            "relocate_share",
            self.relocate_share.into(),
            1,
            SEGMENT_BLOCKS_MAX.into(),
        )?;
        within(
            "kept_segments_max",
            self.kept_segments_max.into(),
            0,
            KEPT_SEGMENTS_MAX.into(),
        )?;
        within("disk_hard_percent", self.disk_hard_percent.into(), 1, 100)?;
        within(
            "disk_soft_percent",
            self.disk_soft_percent.into(),
            1,
            self.disk_hard_percent.into(),
        )?;
        within(
            "nonce_range_blocks",
            self.nonce_range_blocks.into(),
            NONCE_RANGE_BLOCKS_MIN.into(),
            NONCE_RANGE_BLOCKS_MAX.into(),
        )?;
        within(
            "entry_body_bytes_max",
            self.entry_body_bytes_max as u64,
            1,
            entry_max,
        )?;
        self.scrub.check()
    }
}

/// Options that can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A number outside its limits.
    #[error("{name} = {value} is outside {min}..={max}")]
    Limit {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The greatest allowed.
        max: u64,
    },
    /// A suite that this build has no code for.
    #[error(transparent)]
    Suite(#[from] SuiteUnavailable),
}
