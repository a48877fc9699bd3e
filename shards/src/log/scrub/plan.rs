//! What is read next, and when.

use clustor_wire::ids::{ChainNumber, PairNumber};

use super::super::audit::Recount;
use super::super::header::PairHeader;
use super::super::writer::ShardLog;
use super::{
    BLOCKS_AT_ONCE, Look, SAMPLE_CHAINS_MAX, START_PAUSE_US, Scrub, ScrubRates, ScrubStatus, Step,
    Sweep,
};
use crate::buffer::Blocks;
use crate::disk::{DiskOp, FileKind, ReadBlocks};
use crate::turn::Time;

/// A sweep that is this part of its time late no longer waits until the disk has nothing else to do: one read at a time goes beside
/// what is written, until it is no later than that. So it takes no more of the disk than reading everything once per sweep does.
const LATE_PART: u64 = 16;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..bound`; as good as even for the few chains there are.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl ShardLog {
    /// Scrubs at other rates from here on: the present sweep's next step, and the next sample, come as these ask for.
    pub(in crate::log) fn retune_scrub(&mut self, rates: ScrubRates) {
        if self.options.scrub == rates {
            return;
        }
        self.options.scrub = rates;
        let now = self.scrub.now;
        let sample = now.plus_ms(rates.sample_every_ms);
        self.scrub.sample_due = self.scrub.sample_due.map(|due| due.min(sample));
        if self.scrub.sweep.is_some() {
            self.pace();
        } else if let Some(due) = self.scrub.sweep_due {
            let next = match self.scrub.last_sweep {
                Some((ended, ran_us)) => ended.plus_us(rates.sweep_us().saturating_sub(ran_us)),
                None => due.min(now.plus_us(rates.sweep_us() / 64)),
            };
            self.scrub.sweep_due = Some(next);
        }
    }

    /// Asks for the next look if one is due and the disk has nothing better to do.
    pub(in crate::log) fn poll_scrub(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        self.scrub.now = now;
        if !self.is_open() {
            return;
        }
        let rates = self.options.scrub;
        if self.scrub.sweep_due.is_none() {
            let pause_us = START_PAUSE_US.min(rates.sweep_us() / 64);
            self.scrub.sweep_due = Some(now.plus_us(pause_us));
            self.scrub.sample_due = Some(now.plus_ms(rates.sample_every_ms));
        }
        if !self.may_look(now) {
            return;
        }
        self.draw_sample(now);
        while self.scrub.steps.is_empty() && self.scrub.sweep_due.is_some_and(|due| due <= now) {
            self.go_on_sweeping(now);
        }
        if self.scrub.step_due().is_none_or(|due| due > now) {
            return;
        }
        let Some(step) = self.scrub.steps.pop_front() else {
            return;
        };
        let (file, block, count) = step.range(self.scrub.headers.get(&step.pair));
        let token = self.reads.take_token();
        self.scrub.in_flight = Some((token, step));
        out.push(DiskOp::Read(ReadBlocks {
            token,
            file,
            block,
            into: Blocks::from_heap(count as usize),
        }));
    }

    /// When [`Self::poll_scrub`] has something to do. Whatever keeps it from a look that is due ends with an event.
    pub(in crate::log) fn scrub_deadline(&self) -> Option<Time> {
        let due = self.scrub.due()?.max(self.scrub.pause_until);
        self.may_look_at(due).then_some(due)
    }

    fn may_look(&self, now: Time) -> bool {
        self.scrub.due().is_some_and(|due| due <= now) && self.may_look_at(now)
    }

    fn may_look_at(&self, now: Time) -> bool {
        let late = self.options.scrub.sweep_us() / LATE_PART;
        let is_late = (self.scrub.sweep_due).is_some_and(|due| due.plus_us(late) < now);
        self.scrub.in_flight.is_none() && self.scrub.pause_until <= now && self.may_scrub(is_late)
    }

    /// Pairs that live, ascending, with their last chain that is known to have retired.
    fn living(&self) -> impl Iterator<Item = (PairNumber, ChainNumber)> {
        let current = self
            .current
            .as_ref()
            .map(|pair| (pair.header.pair, self.retired_chain()));
        self.older
            .iter()
            .map(|older| (older.pair, older.last_certain))
            .chain(current)
    }

    pub(super) fn last_chain_of(&self, pair: PairNumber) -> Option<ChainNumber> {
        self.living()
            .find(|(living, _)| *living == pair)
            .map(|(_, last)| last)
    }

    /// Slots of the pair that are to be looked at; 0 where its header is not known.
    pub(super) fn slots_of(&self, pair: PairNumber) -> u32 {
        let header = self.scrub.headers.get(&pair);
        match (header, self.last_chain_of(pair)) {
            (Some(header), Some(last)) => slots_to(header, last),
            _ => 0,
        }
    }

    /// Those of them that the present sweep looks at.
    fn slots_to_sweep(&self, pair: PairNumber) -> u32 {
        let sweep = self.scrub.sweep.as_ref().filter(|sweep| sweep.last == pair);
        let limit = sweep.map_or(u32::MAX, |sweep| sweep.last_slots);
        self.slots_of(pair).min(limit)
    }

    /// Slots of the pair in use whose chains have retired.
    fn current_slots(&self) -> u32 {
        let current = self.current.as_ref();
        current.map_or(0, |pair| slots_to(&pair.header, self.retired_chain()))
    }

    fn draw_sample(&mut self, now: Time) {
        let due = self.scrub.sample_due.is_some_and(|due| due <= now);
        if !due {
            return;
        }
        let rates = self.options.scrub;
        self.scrub.sample_due = Some(now.plus_ms(rates.sample_every_ms));
        self.scrub.samples += 1;
        let seed = self.boot.get() ^ self.scrub.samples.rotate_left(32);
        let mut random = SplitMix(seed);
        let pairs: Vec<PairNumber> = self.living().map(|(pair, _)| pair).collect();
        for pair in pairs {
            let slots = u64::from(self.slots_of(pair));
            let wanted = (slots * u64::from(rates.sample_percent)).div_ceil(100);
            for _ in 0..wanted.min(SAMPLE_CHAINS_MAX) {
                let first = random.below(slots) as u32;
                self.scrub.steps.push_front(Step {
                    pair,
                    look: Look::Slots { first, count: 1 },
                    sampled: true,
                    failed: 0,
                });
            }
        }
    }

    /// Puts the next steps of the sweep in line.
    fn go_on_sweeping(&mut self, now: Time) {
        if self.scrub.sweep.is_none() {
            self.begin_sweep(now);
            return;
        }
        if let Some((pair, next)) = self.sweep_mut().current {
            let end = self.slots_to_sweep(pair);
            if next < end {
                let count = BLOCKS_AT_ONCE.min(end - next);
                self.sweep_mut().current = Some((pair, next + count));
                self.push(pair, Look::Slots { first: next, count });
                return;
            }
            self.sweep_mut().current = None;
        }
        match self.sweep_mut().pairs.pop() {
            Some(pair) => self.begin_pair(pair),
            None => self.end_sweep(now),
        }
    }

    fn sweep_mut(&mut self) -> &mut Sweep {
        self.scrub.sweep.as_mut().expect("a sweep is under way")
    }

    fn push(&mut self, pair: PairNumber, look: Look) {
        self.scrub.steps.push_back(Step {
            pair,
            look,
            sampled: false,
            failed: 0,
        });
    }

    /// First come the headers of all pairs: they say how much there is to do. A sweep that an earlier process was in the
    /// middle of goes on.
    fn begin_sweep(&mut self, now: Time) {
        let mut pairs: Vec<PairNumber> = self.living().map(|(pair, _)| pair).collect();
        let taken_up = self.scrub.place;
        let living = |pair: &PairNumber| pairs.contains(pair);
        self.scrub.headers.retain(|pair, _| living(pair));
        self.scrub.damaged.retain(|(file, _)| living(&file.pair));
        for pair in &pairs {
            self.push(*pair, Look::Header(FileKind::Ledger));
            self.push(*pair, Look::Header(FileKind::Segment));
        }
        if let Some(place) = taken_up {
            pairs.retain(|pair| (place.pair..=place.last).contains(pair));
        }
        let last = pairs.last().copied().unwrap_or_default();
        let last_slots = taken_up.map_or_else(|| self.current_slots(), |place| place.last_slots);
        pairs.reverse();
        self.scrub.sweep = Some(Sweep {
            begun: now,
            carried_us: taken_up.map_or(0, |place| place.spent_ms.saturating_mul(1000)),
            last: taken_up.map_or(last, |place| place.last),
            last_slots,
            pairs,
            is_new_here: true,
            taken_up: taken_up.map(|place| (place.pair, place.slot)),
            current: None,
            recount: None,
            done: taken_up.map_or(0, |place| place.chains_done),
            later: 0,
            ahead: 0,
            bytes: 0,
        });
    }

    fn begin_pair(&mut self, pair: PairNumber) {
        let later = &self.sweep_mut().pairs.clone();
        let later = later
            .iter()
            .map(|pair| u64::from(self.slots_to_sweep(*pair)));
        self.sweep_mut().later = later.sum();
        let first = self.sweep_mut().first_slot_of(pair);
        if first > 0 {
            self.sweep_mut().current = Some((pair, first));
            return;
        }
        let Some(header) = self.scrub.headers.get(&pair) else {
            return;
        };
        let recount = Recount::new(header);
        let end = header.body_block();
        for kind in [FileKind::Segment, FileKind::Ledger] {
            for block in (1..end).step_by(BLOCKS_AT_ONCE as usize) {
                let count = BLOCKS_AT_ONCE.min(end - block);
                self.push(pair, Look::Checkpoint { kind, block, count });
            }
        }
        let closed = self.older.iter().find(|older| older.pair == pair);
        if let Some(older) = closed.filter(|older| older.trailer_durable) {
            let block = older.segment_blocks.saturating_sub(1);
            self.push(pair, Look::Trailer { block });
        }
        self.sweep_mut().current = Some((pair, 0));
        self.sweep_mut().recount = Some(recount);
    }

    fn end_sweep(&mut self, now: Time) {
        let Some(sweep) = self.scrub.sweep.take() else {
            return;
        };
        self.scrub.sweeps += 1;
        let spent_us = sweep.spent_us(now);
        self.scrub.last_sweep = Some((now, spent_us));
        self.scrub.place = None;
        let rest_us = self.options.scrub.sweep_us().saturating_sub(spent_us);
        self.scrub.sweep_due = Some(now.plus_us(rest_us));
    }

    /// A step of the sweep is done: the next one is due when its share of the time is over.
    pub(super) fn pace(&mut self) {
        let current = self.scrub.sweep.as_ref().and_then(|sweep| sweep.current);
        let in_work = current.map_or(0, |(pair, next)| {
            u64::from(self.slots_to_sweep(pair).saturating_sub(next))
        });
        let Some(mut sweep) = self.scrub.sweep.take() else {
            return;
        };
        let in_line: u64 = self.scrub.steps.iter().map(Step::chains).sum();
        sweep.ahead = sweep.later + in_work + in_line;
        let done = u128::from(sweep.done);
        let share = match current {
            Some(_) => {
                u128::from(self.options.scrub.sweep_us()) * done
                    / (done + u128::from(sweep.ahead)).max(1)
            }
            // It does not know yet how much there is to do.
            None => 0,
        };
        if sweep.is_new_here {
            // Nobody knows how long the process before this one had waited for its next step, and the next process may not
            // live long enough to wait for it either.
            sweep.carried_us = sweep.carried_us.max(share as u64);
        }
        let wait_us = (share as u64).saturating_sub(sweep.carried_us);
        self.scrub.sweep_due = Some(sweep.begun.plus_us(wait_us));
        self.scrub.place = self.scrub.place_of(&sweep);
        self.scrub.sweep = Some(sweep);
    }

    /// How far the scrub is.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        let scrub = &self.scrub;
        let (sweep_bytes, done, ahead) = scrub
            .sweep
            .as_ref()
            .map_or((0, 0, 0), |sweep| (sweep.bytes, sweep.done, sweep.ahead));
        let us_since = |at: Time| scrub.now.since_us(at);
        ScrubStatus {
            sweeps: scrub.sweeps,
            sweep_bytes,
            sweep_permille: (u128::from(done) * 1000
                / (u128::from(done) + u128::from(ahead)).max(1)) as u32,
            bytes: scrub.bytes,
            finished_ms_ago: scrub.last_sweep.map(|(ended, _)| us_since(ended) / 1000),
            oldest_unverified_ms: (scrub.last_sweep)
                .map(|(ended, ran_us)| us_since(ended).saturating_add(ran_us) / 1000),
            damaged_places: scrub.damaged.len() as u64,
            lost_entries: scrub.lost_entries,
        }
    }
}

/// Slots of the chains up to `last`.
fn slots_to(header: &PairHeader, last: ChainNumber) -> u32 {
    let chains = (last.get() + 1).saturating_sub(header.first_chain.get());
    u32::try_from(chains).map_or(header.slots(), |chains| chains.min(header.slots()))
}

impl Scrub {
    /// When the step that is next in line is due. Samples, second tries and the headers with which a sweep begins are at
    /// once.
    fn step_due(&self) -> Option<Time> {
        let step = self.steps.front()?;
        let at_once = step.sampled || step.failed > 0 || matches!(step.look, Look::Header(_));
        if at_once {
            Some(Time(0))
        } else {
            self.sweep_due
        }
    }

    fn due(&self) -> Option<Time> {
        let next = self.step_due().or(self.sweep_due);
        next.into_iter().chain(self.sample_due).min()
    }
}
