//! Nonce accounting: which block numbers of a pair may seal anything, stated in the ledger before they do.
//!
//! A nonce is a pair's number and a block number, a key is a pair's own (its salt is fresh), so no nonce is used
//! twice by construction. The accounting is evidence for whoever examines a directory: every sealed block lies in a
//! range that a ledger slot had reserved, and every reserved block was either sealed by a chain whose slot is there, or
//! given up by a later pair's opening, which gives up what any pair before it had left. What is neither lies in a *gap*.
//! Every start judges the gaps ([`judge_accounts`]), and so does a scrub at rest; while the writer runs, it asserts that it
//! seals nothing that it has not reserved.
//!
//! Ranges are contiguous from block 1 on (block 0 is authenticated, not sealed). Those of an opening's own blocks,
//! and the first beyond it, ride in the opening's slot; a later range rides in a slot that is due anyway and may be used
//! once its chain has retired. It is asked for so early that no append waits for it.

use clustor_wire::ids::{BootNumber, ChainNumber, PairNumber};
use serde::{Deserialize, Serialize};

use super::codec::{Reader, Truncated, Writer};
use super::header::PairHeader;
use super::slot::Slot;
use crate::buffer::BLOCK_BYTES;

/// Blocks in a reservation, unless the options say otherwise.
pub const NONCE_RANGE_BLOCKS: u32 = 1024;
/// The greatest reservation, in blocks.
pub const NONCE_RANGE_BLOCKS_MAX: u32 = 8192;
/// The smallest reservation, in blocks: one is left for the empty chain that carries the next.
pub const NONCE_RANGE_BLOCKS_MIN: u32 = 2;
/// Ranges that may ride in the slot of an ordinary chain.
pub(super) const RANGES_PER_SLOT_MAX: usize = 4;
/// Records of nonces that may ride in the slot of an opening, which holds nothing else.
pub(super) const OPENING_RECORDS_MAX: usize = 160;
/// Bytes of one record of nonces.
pub(super) const NONCE_RECORD_BYTES: usize = 24;

/// Bytes in gaps above which a scrub warns: 2 MiB.
pub const GAP_ALARM_BYTES: u64 = 2 << 20;
/// Bytes in gaps above which a scrub reports an incident: 4 MiB.
pub const GAP_INCIDENT_BYTES: u64 = 4 << 20;

const KIND_RANGE: u8 = 1;
const KIND_ABANDON: u8 = 2;

/// `blocks` block numbers of a pair, from `start` on, may seal something from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceReservationRange {
    /// Whose segment.
    pub pair: PairNumber,
    /// The first block number.
    pub start: u32,
    /// How many.
    pub blocks: u32,
}

/// Why the rest of a pair's reservation will never be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum AbandonReason {
    /// The pair was full, and the next was opened.
    Rolled = 1,
    /// The process that filled it ended.
    Ended = 2,
}

/// What is reserved of a pair, or of any before it, and not sealed will never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceReservationAbandon {
    /// Whose segment; with it those of all pairs before it.
    pub pair: PairNumber,
    /// Why the pair's own.
    pub reason: AbandonReason,
}

/// What one ledger slot says of nonces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceRecords {
    /// A reservation; written as several where it is longer than one may be.
    pub reserved: Option<NonceReservationRange>,
    /// The end of one.
    pub abandoned: Option<NonceReservationAbandon>,
}

impl NonceRecords {
    /// Number of records it is written as.
    pub(super) fn count(&self) -> usize {
        let ranges = self
            .reserved
            .map_or(0, |range| range.blocks.div_ceil(NONCE_RANGE_BLOCKS_MAX));
        ranges as usize + usize::from(self.abandoned.is_some())
    }

    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        let mut record = |kind, reason, start: u32, pair: PairNumber, blocks: u32| {
            w.bytes(&[kind, reason, 0, 0]);
            w.u32(start);
            w.u64(pair.get());
            w.u32(blocks);
            w.u32(0);
        };
        if let Some(range) = self.reserved {
            let end = range.start + range.blocks;
            for start in (range.start..end).step_by(NONCE_RANGE_BLOCKS_MAX as usize) {
                let blocks = (end - start).min(NONCE_RANGE_BLOCKS_MAX);
                record(KIND_RANGE, 0, start, range.pair, blocks);
            }
        }
        if let Some(abandon) = self.abandoned {
            record(KIND_ABANDON, abandon.reason as u8, 0, abandon.pair, 0);
        }
    }

    /// Decodes `count` records; `None` where they are none, or more than one reservation.
    pub(super) fn decode(r: &mut Reader<'_>, count: u8) -> Result<Option<Self>, Truncated> {
        let mut records = Self::default();
        for _ in 0..count {
            let [kind, reason, ..] = r.array::<4>()?;
            let start = r.u32()?;
            let pair = r.pair()?;
            let blocks = r.u32()?;
            let _reserved = r.u32()?;
            let reason = match reason {
                1 => Some(AbandonReason::Rolled),
                2 => Some(AbandonReason::Ended),
                _ => None,
            };
            match (kind, reason, records.reserved) {
                (KIND_RANGE, None, None) => {
                    let range = NonceReservationRange {
                        pair,
                        start,
                        blocks,
                    };
                    records.reserved = Some(range);
                }
                (KIND_RANGE, None, Some(range))
                    if range.pair == pair
                        && range.start.checked_add(range.blocks) == Some(start) =>
                {
                    let Some(joined) = range.blocks.checked_add(blocks) else {
                        return Ok(None);
                    };
                    records.reserved = Some(NonceReservationRange {
                        blocks: joined,
                        ..range
                    });
                }
                (KIND_ABANDON, Some(reason), _) if records.abandoned.is_none() => {
                    records.abandoned = Some(NonceReservationAbandon { pair, reason });
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(records))
    }
}

/// What the writer has reserved of the pair that it fills.
#[derive(Debug)]
pub(super) struct Reservation {
    pair: PairNumber,
    range_blocks: u32,
    /// Chains that may be in flight at once.
    depth: u32,
    /// Nothing is reserved from here on: the end of what may be sealed.
    end: u32,
    /// Blocks below may be sealed.
    usable: u32,
    /// Blocks below are stated in some slot.
    reserved: u32,
    /// The chain that carries what is stated and not usable.
    rides_in: ChainNumber,
}

impl Reservation {
    /// The reservation of a new pair whose opening ends before block `opening_end`, and the range that the opening's
    /// slot carries.
    pub fn open(
        pair: PairNumber,
        (range_blocks, depth): (u32, usize),
        opening_end: u32,
        end: u32,
    ) -> (Self, Option<NonceReservationRange>) {
        let mut this = Self {
            pair,
            range_blocks,
            depth: depth as u32,
            end,
            usable: 1,
            reserved: 1,
            rides_in: ChainNumber::ZERO,
        };
        let until = opening_end.saturating_add(range_blocks).min(end);
        // An opening fills half of its segment at most.
        let range = this.reserve(until, OPENING_RECORDS_MAX - 1);
        assert!(this.reserved >= opening_end);
        // The opening is alone in the pipeline: what follows it is submitted once it has retired.
        this.usable = this.reserved;
        (this, range)
    }

    /// Reserves up to `until`, in at most `records_max` records.
    fn reserve(&mut self, until: u32, records_max: usize) -> Option<NonceReservationRange> {
        let start = self.reserved;
        let blocks_max = NONCE_RANGE_BLOCKS_MAX * records_max as u32;
        let blocks = until.saturating_sub(start).min(blocks_max);
        self.reserved += blocks;
        (blocks > 0).then_some(NonceReservationRange {
            pair: self.pair,
            start,
            blocks,
        })
    }

    /// Whether blocks up to `end` may be sealed.
    pub fn covers(&self, end: u32) -> bool {
        end <= self.usable
    }

    /// Whether a range is on its way.
    pub fn is_riding(&self) -> bool {
        self.reserved > self.usable
    }

    /// Lets the next range ride in the slot of `chain`, whose extent ends before `extent_end`, if little is left behind
    /// it: less than half a range, or than what twice the pipeline takes of extents of `blocks`.
    pub fn ride(
        &mut self,
        chain: ChainNumber,
        extent_end: u32,
        blocks: u32,
    ) -> Option<NonceReservationRange> {
        let ahead = (self.range_blocks / 2)
            .max(1)
            .max(blocks.saturating_mul(2 * self.depth));
        if self.is_riding() || self.reserved.saturating_sub(extent_end) >= ahead {
            return None;
        }
        let until = extent_end
            .saturating_add(ahead.saturating_mul(2))
            .max(self.reserved.saturating_add(self.range_blocks))
            .min(self.end);
        self.rides_in = chain;
        self.reserve(until, RANGES_PER_SLOT_MAX)
    }

    /// A chain has retired.
    pub fn retired(&mut self, chain: ChainNumber) {
        if chain >= self.rides_in {
            self.usable = self.reserved;
        }
    }

    /// Nothing is reserved from `end` on.
    pub fn end_at(&mut self, end: u32) {
        self.end = self.end.min(end);
    }
}

/// What a pair's ledger says of nonces: its own, and what is left of those of the pairs before it.
#[derive(Debug, Clone)]
pub(super) struct NonceLedger {
    pair: PairNumber,
    boot: BootNumber,
    first_chain: ChainNumber,
    evidence: NonceEvidence,
    /// Of an authentic opening's slot: the pair up to which it gives up what was left, `ZERO` where there is none.
    gives_up: Option<PairNumber>,
    /// Slots that are certain are lost, so that nobody knows what they had reserved.
    has_lost_slots: bool,
}

impl NonceLedger {
    /// `slots`: by their numbers, as far as they were read; `None` where one is not authentic. `last_certain`: the last
    /// chain that is known to have retired. What is behind it may be unwritten or cut short; no block was sealed by a range in it.
    pub fn of(
        header: &PairHeader,
        slots: impl Iterator<Item = Option<Slot>>,
        last_certain: ChainNumber,
    ) -> Self {
        let mut this = Self {
            pair: header.pair,
            boot: header.boot,
            first_chain: header.first_chain,
            evidence: NonceEvidence {
                sealed: vec![(1, header.checkpoint_blocks)],
                ..NonceEvidence::default()
            },
            gives_up: None,
            has_lost_slots: false,
        };
        let mut next = header.first_chain;
        for slot in slots {
            if let Some(slot) = slot {
                extend(&mut this.evidence.sealed, (slot.first_block, slot.blocks));
                let own = (slot.nonces.reserved).filter(|range| range.pair == header.pair);
                let range = own.map(|range| (range.start, range.blocks));
                if let Some(range) = range {
                    extend(&mut this.evidence.reserved, range);
                }
                if next == header.first_chain {
                    let given_up = slot.nonces.abandoned;
                    this.gives_up = Some(given_up.map_or(PairNumber::ZERO, |it| it.pair));
                }
            } else {
                this.has_lost_slots |= next <= last_certain;
            }
            next = next.next();
        }
        this.has_lost_slots |= next <= last_certain;
        this
    }

    /// The pair, and its first chain.
    pub fn place(&self) -> (PairNumber, ChainNumber) {
        (self.pair, self.first_chain)
    }
}

/// Adds a run, to the last one where it follows that.
fn extend(runs: &mut Vec<(u32, u32)>, (first, blocks): (u32, u32)) {
    match runs.last_mut() {
        Some((before, count)) if before.checked_add(*count) == Some(first) => {
            *count = count.saturating_add(blocks);
        }
        _ => runs.push((first, blocks)),
    }
}

/// What became of the nonces of the pairs that count, ascending, each by its own ledger and the openings behind it.
pub(super) fn accounts(ledgers: &[NonceLedger]) -> Vec<NonceAccount> {
    let mut accounts = Vec::with_capacity(ledgers.len());
    let mut given_up = PairNumber::ZERO;
    let mut ended_by = None;
    for ledger in ledgers.iter().rev() {
        let evidence = NonceEvidence {
            is_abandoned: given_up >= ledger.pair,
            is_open: ended_by.is_none(),
            ..ledger.evidence.clone()
        };
        accounts.push(NonceAccount {
            boot: ledger.boot,
            ended_by,
            has_lost_slots: ledger.has_lost_slots,
            ..evidence.account(ledger.pair)
        });
        if let Some(gives_up) = ledger.gives_up {
            given_up = given_up.max(gives_up);
            ended_by = Some(ledger.boot);
        }
    }
    accounts.reverse();
    accounts
}

/// What a pair's ledger, and the openings of later pairs, say of its nonces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NonceEvidence {
    /// Runs of blocks that were reserved, in the order of the slots: first block and blocks.
    pub reserved: Vec<(u32, u32)>,
    /// Runs of blocks that were sealed: the checkpoint's, and those of the extents of authentic slots.
    pub sealed: Vec<(u32, u32)>,
    /// Whether a later pair's opening gave up the rest.
    pub is_abandoned: bool,
    /// Whether no later opening is authentic: it may still be filled, or was left by the end of its process and
    /// waits for the next boot to give up the rest.
    pub is_open: bool,
}

impl NonceEvidence {
    /// What it comes to.
    fn account(&self, pair: PairNumber) -> NonceAccount {
        let (reserved, sealed) = (merged(&self.reserved), merged(&self.sealed));
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        let given_up = if self.is_abandoned {
            difference(&reserved, &sealed)
        } else {
            0
        };
        NonceAccount {
            pair,
            reserved_bytes: bytes(difference(&reserved, &[])),
            sealed_bytes: bytes(difference(&sealed, &[])),
            abandoned_bytes: bytes(given_up),
            gaps: gaps(self),
            ..NonceAccount::default()
        }
    }
}

/// What became of a pair's nonces, in bytes of the blocks they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NonceAccount {
    /// Of which pair.
    pub pair: PairNumber,
    /// The boot that wrote it.
    pub boot: BootNumber,
    /// The boot whose opening came next, as far as that is authentic.
    pub ended_by: Option<BootNumber>,
    /// Slots of its ledger that are certain are lost. What they said is unknown, and damage of its own: gaps beside
    /// them tell nothing, and are not judged.
    pub has_lost_slots: bool,
    /// Reserved.
    pub reserved_bytes: u64,
    /// Sealed, by the checkpoint and by chains whose slots are authentic.
    pub sealed_bytes: u64,
    /// Reserved, not sealed, and given up by a later pair's opening: accounted for.
    pub abandoned_bytes: u64,
    /// Not accounted for.
    pub gaps: NonceGaps,
}

impl NonceAccount {
    /// Bytes in gaps that no lost slot explains.
    #[must_use]
    pub fn gap_bytes(&self) -> u64 {
        if self.has_lost_slots {
            0
        } else {
            self.gaps.bytes()
        }
    }

    /// Those of them that were there at the start of `boot` as well: what the pair sealed without a range if an earlier boot
    /// wrote it, what it left if an earlier one came behind it.
    fn gap_bytes_before(&self, boot: BootNumber) -> u64 {
        let (unreserved, unsealed) = (self.gaps.unreserved_bytes, self.gaps.unsealed_bytes);
        match (self.boot < boot, self.ended_by.is_some_and(|by| by < boot)) {
            _ if self.has_lost_slots => 0,
            (true, true) => unreserved + unsealed,
            (true, false) => unreserved,
            (false, _) => 0,
        }
    }
}

/// Bytes of a pair whose nonces are not accounted for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NonceGaps {
    /// Sealed, and no range reserved them.
    pub unreserved_bytes: u64,
    /// Reserved, neither sealed nor given up.
    pub unsealed_bytes: u64,
}

impl NonceGaps {
    /// Both together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.unreserved_bytes + self.unsealed_bytes
    }
}

/// What gaps amount to, over all pairs of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GapVerdict {
    /// Nothing to speak of.
    Healthy,
    /// More than [`GAP_ALARM_BYTES`].
    Alarm,
    /// More than [`GAP_INCIDENT_BYTES`].
    Incident,
    /// An incident at the boot before as well, or together with a failed integrity check.
    Quarantine,
}

impl core::fmt::Display for GapVerdict {
    /// One lower-case word, as in the tools' output.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Alarm => "alarm",
            Self::Incident => "incident",
            Self::Quarantine => "quarantine",
        })
    }
}

/// The blocks of `runs` as ascending runs that do not touch: first block, and the one behind the last.
fn merged(runs: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut sorted: Vec<(u32, u32)> = runs
        .iter()
        .map(|&(first, blocks)| (first, first.saturating_add(blocks)))
        .filter(|(first, end)| first < end)
        .collect();
    sorted.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::with_capacity(sorted.len());
    for (first, end) in sorted {
        match out.last_mut() {
            Some((_, last_end)) if first <= *last_end => *last_end = end.max(*last_end),
            _ => out.push((first, end)),
        }
    }
    out
}

/// Blocks of `of` that are not in `without`; both as [`merged`] gives them.
fn difference(of: &[(u32, u32)], without: &[(u32, u32)]) -> u64 {
    let mut blocks = 0;
    let mut rest = without.iter().peekable();
    for &(first, end) in of {
        let mut at = first;
        while at < end {
            while rest.next_if(|(_, gone)| *gone <= at).is_some() {}
            match rest.peek() {
                Some((from, gone)) if *from <= at => at = (*gone).min(end),
                Some((from, _)) => {
                    let until = (*from).min(end);
                    blocks += u64::from(until - at);
                    at = until;
                }
                None => {
                    blocks += u64::from(end - at);
                    at = end;
                }
            }
        }
    }
    blocks
}

/// The gaps of one pair.
#[must_use]
pub fn gaps(evidence: &NonceEvidence) -> NonceGaps {
    let (reserved, sealed) = (merged(&evidence.reserved), merged(&evidence.sealed));
    let closed = evidence.is_abandoned || evidence.is_open;
    let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
    NonceGaps {
        unreserved_bytes: bytes(difference(&sealed, &reserved)),
        unsealed_bytes: bytes(if closed {
            0
        } else {
            difference(&reserved, &sealed)
        }),
    }
}

/// Judges what the nonces of a shard came to, as [`judge`]. `integrity_failed`: content that counts is missing, or worse.
///
/// What the boot before found needs no note of it: what it has read it can't have changed, so it is what lies in the pairs of the boots
/// before it. That boot is the one that wrote the newest pair.
#[must_use]
pub fn judge_accounts(accounts: &[NonceAccount], integrity_failed: bool) -> GapVerdict {
    let before = accounts
        .last()
        .map_or(BootNumber::ZERO, |newest| newest.boot);
    let known = accounts
        .iter()
        .map(|account| account.gap_bytes_before(before));
    let bytes = accounts.iter().map(NonceAccount::gap_bytes);
    judge(bytes.sum(), known.sum(), integrity_failed)
}

/// Judges the bytes in gaps of a shard, given those that the boot before found, and whether an integrity check failed.
#[must_use]
pub fn judge(bytes: u64, bytes_at_previous_boot: u64, integrity_failed: bool) -> GapVerdict {
    if bytes <= GAP_ALARM_BYTES {
        GapVerdict::Healthy
    } else if bytes <= GAP_INCIDENT_BYTES {
        GapVerdict::Alarm
    } else if integrity_failed || bytes_at_previous_boot > GAP_INCIDENT_BYTES {
        GapVerdict::Quarantine
    } else {
        GapVerdict::Incident
    }
}
