//! Where a sweep is, as every chain's ledger slot states it: a start goes on from there.
//!
//! Losing it costs a look too many, never one too few, so nothing else hangs on it. A slot states it because a slot is
//! written anyway; where no record is due, an empty chain does, once in [`STATED_PER_SWEEP`] parts of a sweep's time.

use clustor_wire::ids::PairNumber;
use serde::{Deserialize, Serialize};

use super::super::codec::{Reader, Truncated, Writer};
use super::super::text;
use super::super::writer::ShardLog;
use super::{Look, Scrub, Step, Sweep};
use crate::disk::DiskOp;
use crate::turn::Time;

/// Chains that are made only to state the place, in the time of one sweep, at most.
pub const STATED_PER_SWEEP: u64 = 512;
/// Bytes of a place in a slot.
pub(in crate::log) const PLACE_BYTES: usize = 40;

/// How far a sweep is: everything before it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepPlace {
    /// The pair in work.
    pub pair: PairNumber,
    /// Its first slot that was not looked at, or whose extent was not.
    pub slot: u32,
    /// The last pair of the sweep.
    pub last: PairNumber,
    /// Slots of that pair that the sweep looks at: those that were written when it began.
    pub last_slots: u32,
    /// Chains that were looked at.
    #[serde(with = "text::decimal")]
    pub chains_done: u64,
    /// For how long the sweep has run, in milliseconds; time in which no process did is not counted.
    #[serde(with = "text::decimal")]
    pub spent_ms: u64,
}

impl SweepPlace {
    /// Appends a slot's field; zeros where no sweep is under way.
    pub(in crate::log) fn encode(place: Option<&Self>, w: &mut Writer<'_>) {
        let Some(place) = place else {
            w.bytes(&[0; PLACE_BYTES]);
            return;
        };
        w.u64(place.pair.get());
        w.u32(place.slot);
        w.u32(place.last_slots);
        w.u64(place.last.get());
        w.u64(place.chains_done);
        w.u64(place.spent_ms);
    }

    pub(in crate::log) fn decode(r: &mut Reader<'_>) -> Result<Option<Self>, Truncated> {
        let (pair, slot, last_slots) = (r.pair()?, r.u32()?, r.u32()?);
        let place = Self {
            pair,
            slot,
            last: r.pair()?,
            last_slots,
            chains_done: r.u64()?,
            spent_ms: r.u64()?,
        };
        Ok((pair > PairNumber::ZERO).then_some(place))
    }
}

impl Step {
    /// The slot up to which the sweep is done while this step is not, given the number of the pair's first chain.
    fn first_slot(&self, first_chain: u64) -> u32 {
        match self.look {
            // Each process reads all of them before anything else.
            Look::Header(_) => u32::MAX,
            Look::Checkpoint { .. } | Look::Trailer { .. } => 0,
            Look::Slots { first, .. } => first,
            Look::Extent(place) => (place.chain.get() - first_chain) as u32,
        }
    }
}

impl Scrub {
    /// A scrub that goes on where the slots say that the one before it was.
    pub(in crate::log) fn resume(place: Option<SweepPlace>) -> Self {
        Self {
            place,
            stated: place,
            ..Self::default()
        }
    }

    /// Where the sweep is: what a slot that is written at this moment states.
    pub(in crate::log) const fn place(&self) -> Option<SweepPlace> {
        self.place
    }

    /// The present place goes down with a chain.
    pub(in crate::log) fn note_stated(&mut self, now: Time) {
        self.stated = self.place;
        self.stated_at = now;
    }

    /// Where the sweep is: what it has asked for or has in line is not done.
    pub(super) fn place_of(&self, sweep: &Sweep) -> Option<SweepPlace> {
        let (pair, next) = sweep.current.or_else(|| {
            sweep
                .pairs
                .last()
                .map(|pair| (*pair, sweep.first_slot_of(*pair)))
        })?;
        let first_chain = self
            .headers
            .get(&pair)
            .map_or(0, |header| header.first_chain.get());
        let asked = self.in_flight.as_ref().map(|(_, step)| step);
        let ahead = self.steps.iter().chain(asked);
        let ahead = ahead.filter(|step| !step.sampled && step.pair == pair);
        let slot = ahead.map(|step| step.first_slot(first_chain)).min();
        Some(SweepPlace {
            pair,
            slot: slot.unwrap_or(next).min(next),
            last: sweep.last,
            last_slots: sweep.last_slots,
            chains_done: sweep.done,
            spent_ms: sweep.spent_us(self.now) / 1000,
        })
    }
}

impl ShardLog {
    /// Has an empty chain state the place of the sweep, if none has for too long and nothing else is going on.
    pub(in crate::log) fn state_place(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        if self.place_due().is_some_and(|due| due <= now) {
            self.submit_empty(out);
        }
    }

    /// When that is to be; whatever keeps it from that ends with an event.
    pub(in crate::log) fn place_due(&self) -> Option<Time> {
        let scrub = &self.scrub;
        let pause_us = self.options.scrub.sweep_us() / STATED_PER_SWEEP;
        let is_to_be = scrub.place != scrub.stated
            && self.is_open()
            && self.may_scrub(false)
            && self.has_room_for_empty();
        is_to_be.then(|| scrub.stated_at.plus_us(pause_us))
    }
}
