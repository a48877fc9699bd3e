//! What was read, and what follows from it.

use clustor_wire::ids::{ChainNumber, LogIndex, MacEpoch, PairNumber};

use super::super::audit::{Damaged, Whole, fits, whole_extent};
use super::super::header::PairHeader;
use super::super::options::OnAuthenticationFailure;
use super::super::read::{PASSING_RETRY_MS, READ_TRIES};
use super::super::recovery::files::{SlotState, slot_state};
use super::super::seal::{BlockPrefix, BlockUse, verify};
use super::super::slot::Slot;
use super::super::trailer::{self, Trailer, TrailerState};
use super::super::writer::{Retirement, ShardLog};
use super::{DAMAGED_PLACES_MAX, Look, LostRun, Place, Scrub, ScrubFinding, Step};
use crate::buffer::{Block, Blocks};
use crate::disk::{DiskError, FileId, FileKind};

impl Scrub {
    /// Whether the read of this token is the scrub's.
    pub(in crate::log) fn is_its(&self, token: u64) -> bool {
        self.in_flight.is_some_and(|(own, _)| own == token)
    }

    /// Whether a read of `pair` is in flight.
    pub(in crate::log) fn looks_at(&self, pair: PairNumber) -> bool {
        self.in_flight.is_some_and(|(_, step)| step.pair == pair)
    }
}

impl ShardLog {
    /// Takes the read that the scrub had in flight.
    pub(in crate::log) fn take_look(
        &mut self,
        mut blocks: Blocks,
        outcome: &Result<(), DiskError>,
        retirement: &mut Retirement,
    ) {
        let Some((_, step)) = self.scrub.in_flight.take() else {
            return;
        };
        if outcome.as_ref().is_err_and(DiskError::is_passing) {
            self.scrub.steps.push_front(step);
            self.scrub.pause_until = self.scrub.now.plus_ms(PASSING_RETRY_MS);
            return;
        }
        let was_read = outcome.is_ok();
        // A pair that was given up meanwhile is nobody's concern, nor is a file that a removal cut short has taken:
        // recovery has said what went with it.
        let is_gone =
            step.pair != self.current_pair() && matches!(outcome, Err(DiskError::NoFile(_)));
        if self.last_chain_of(step.pair).is_some() && !is_gone {
            self.count(&step, blocks.byte_len() as u64);
            let blocks = blocks.as_mut_slice();
            match step.look {
                Look::Slots { first, .. } => {
                    self.look_at_slots(&step, first, was_read.then_some(blocks), retirement);
                }
                Look::Header(kind) => {
                    let whole = was_read && self.header_is_whole(&step, kind, &blocks[0]);
                    self.conclude(step, whole, retirement);
                }
                Look::Checkpoint { kind, block, .. } => {
                    let whole = was_read && self.checkpoint_is_whole(&step, kind, block, blocks);
                    self.conclude(step, whole, retirement);
                }
                Look::Trailer { block } => {
                    let whole = was_read && self.trailer_is_whole(&step, block, &blocks[0]);
                    self.conclude(step, whole, retirement);
                }
                Look::Extent(place) => {
                    let cipher = self.ciphers.get(&step.pair).filter(|_| was_read);
                    let whole = cipher.and_then(|cipher| {
                        let digest = place.digest.as_ref();
                        let room = &mut Vec::new();
                        whole_extent(cipher, place.first_block, place.chain, digest, blocks, room)
                    });
                    self.conclude(step, whole.is_some(), retirement);
                    self.recount(&step, place, whole.as_ref(), retirement);
                }
            }
        }
        self.pace();
    }

    fn count(&mut self, step: &Step, bytes: u64) {
        self.scrub.bytes += bytes;
        if let Some(sweep) = self.scrub.sweep.as_mut().filter(|_| !step.sampled) {
            sweep.bytes += bytes;
        }
    }

    fn chain_is_done(&mut self, step: &Step) {
        if let Some(sweep) = self.scrub.sweep.as_mut().filter(|_| !step.sampled) {
            sweep.done = sweep.done.saturating_add(1);
            sweep.is_new_here = false;
        }
    }

    fn header_is_whole(&mut self, step: &Step, kind: FileKind, block: &Block) -> bool {
        let keys = &self.keys;
        let decoded = PairHeader::decode(
            kind,
            step.pair,
            keys.identity(),
            |epoch| keys.integrity(epoch),
            block,
        );
        let whole = decoded.is_ok();
        if let Ok(header) = decoded {
            self.scrub.headers.entry(step.pair).or_insert(header);
        }
        whole
    }

    fn checkpoint_is_whole(
        &self,
        step: &Step,
        kind: FileKind,
        first: u32,
        blocks: &mut [Block],
    ) -> bool {
        let Some(header) = self.scrub.headers.get(&step.pair) else {
            return false;
        };
        let mut numbered = (first..).zip(blocks);
        match kind {
            FileKind::Ledger => {
                let integrity = self.keys.integrity(header.mac_epoch);
                numbered.all(|(number, block)| {
                    verify(&integrity, kind, step.pair, number, block).is_ok()
                })
            }
            FileKind::Segment => {
                let Some(cipher) = self.ciphers.get(&step.pair) else {
                    return false;
                };
                numbered.all(|(number, block)| {
                    let expected = BlockPrefix {
                        chain: header.first_chain,
                        ordinal: number - 1,
                        usage: BlockUse::Checkpoint,
                    };
                    cipher.open(number, block) == Ok(expected)
                })
            }
        }
    }

    fn trailer_is_whole(&self, step: &Step, number: u32, block: &Block) -> bool {
        let closed = self.older.iter().find(|older| older.pair == step.pair);
        closed.is_none_or(|older| {
            let epoch = self
                .scrub
                .headers
                .get(&step.pair)
                .map(|header| header.mac_epoch);
            let integrity = self.keys.integrity(epoch.unwrap_or(MacEpoch(1)));
            let found = Trailer::read(&integrity, step.pair, number, block);
            let state = trailer::judge(&found, older.trailer.as_ref(), older.trailer_durable);
            state == TrailerState::Whole
        })
    }

    /// Every slot that is whole says where its extent lies; the others are looked at again one by one.
    fn look_at_slots(
        &mut self,
        step: &Step,
        first: u32,
        blocks: Option<&mut [Block]>,
        retirement: &mut Retirement,
    ) {
        let Some(header) = self.scrub.headers.get(&step.pair).cloned() else {
            return;
        };
        let Look::Slots { count, .. } = step.look else {
            return;
        };
        let integrity = self.keys.integrity(header.mac_epoch);
        let states: Vec<Option<Slot>> = match &blocks {
            None => vec![None; count as usize],
            Some(blocks) => (first..)
                .zip(blocks.iter())
                .map(|(number, block)| {
                    match slot_state(&header, &integrity, header.body_block() + number, block) {
                        SlotState::Good(slot, _) => Some(slot).filter(|slot| fits(&header, slot)),
                        _ => None,
                    }
                })
                .collect(),
        };
        let mut extents = Vec::with_capacity(states.len());
        for (number, slot) in (first..).zip(states) {
            match slot {
                Some(slot) => extents.push(Place {
                    chain: slot.chain,
                    first_block: slot.first_block,
                    blocks: slot.blocks,
                    digest: Some(slot.digest),
                    figures: Some(slot.figures),
                }),
                None if count > 1 => self.scrub.steps.push_front(Step {
                    look: Look::Slots {
                        first: number,
                        count: 1,
                    },
                    failed: 1,
                    ..*step
                }),
                None => self.conclude(*step, false, retirement),
            }
        }
        for place in extents {
            self.look_at_extent(step, place);
        }
    }

    fn look_at_extent(&mut self, step: &Step, place: Place) {
        let extent = Step {
            look: Look::Extent(place),
            failed: 0,
            ..*step
        };
        if step.sampled {
            self.scrub.steps.push_front(extent);
        } else {
            self.scrub.steps.push_back(extent);
        }
    }

    /// Goes on forming the figures of the pair in work, and compares them with what the slot states. An extent that is
    /// bad or out of turn, because a slot before it was bad, ends that for this sweep.
    fn recount(
        &mut self,
        step: &Step,
        place: Place,
        whole: Option<&Whole>,
        retirement: &mut Retirement,
    ) {
        let sweep = self.scrub.sweep.as_mut().filter(|_| !step.sampled);
        let Some((sweep, mut recount)) =
            sweep.and_then(|sweep| sweep.recount.take().map(|recount| (sweep, recount)))
        else {
            return;
        };
        let Some(whole) = whole.filter(|_| recount.next_chain() == place.chain) else {
            return;
        };
        recount.add(place.first_block, whole);
        let closed = self.older.iter().find(|older| older.pair == step.pair);
        let trailer = closed.and_then(|older| older.trailer);
        let at_end = trailer.filter(|trailer| trailer.last.0 == place.chain);
        let mut stated = place
            .figures
            .into_iter()
            .chain(at_end.map(|trailer| trailer.figures));
        if stated.all(|stated| recount.fits(&stated)) {
            sweep.recount = Some(recount);
            return;
        }
        let Some(header) = self.scrub.headers.get(&step.pair) else {
            return;
        };
        let slot = (place.chain.get() - header.first_chain.get()) as u32;
        let at = (FileId::ledger(step.pair), header.body_block() + slot);
        self.remember_damage(
            at,
            ScrubFinding {
                pair: step.pair,
                chain: place.chain,
                damaged: Damaged::Figures,
                lost: Vec::new(),
            },
            retirement,
        );
    }

    /// A look that failed is repeated, and the last time it is damage.
    fn conclude(&mut self, step: Step, whole: bool, retirement: &mut Retirement) {
        if !whole && step.failed + 1 < READ_TRIES {
            self.scrub.steps.push_front(Step {
                failed: step.failed + 1,
                ..step
            });
            return;
        }
        if !whole {
            self.take_damage(&step, retirement);
        }
        if matches!(step.look, Look::Extent(_)) {
            self.chain_is_done(&step);
        }
    }

    fn take_damage(&mut self, step: &Step, retirement: &mut Retirement) {
        let header = self.scrub.headers.get(&step.pair);
        let first_chain = header.map_or(ChainNumber::ZERO, |header| header.first_chain);
        let (file, block, _) = step.range(header);
        let mut lost = Vec::new();
        let (chain, damaged) = match step.look {
            Look::Header(kind) => (first_chain, Damaged::Header(kind)),
            Look::Checkpoint { kind, .. } => (first_chain, Damaged::Checkpoint(kind)),
            Look::Trailer { .. } => (first_chain, Damaged::Trailer),
            Look::Slots { first, .. } => {
                let chain = ChainNumber(first_chain.get() + u64::from(first));
                self.look_without_slot(step, chain);
                (chain, Damaged::Slot)
            }
            Look::Extent(place) => {
                lost = self.record_lost(step, place.chain);
                if self.options.on_authentication_failure == OnAuthenticationFailure::Quarantine {
                    self.quarantine_at(step.pair, place.chain);
                }
                let damaged = match place.digest {
                    Some(_) => Damaged::Extent,
                    None => Damaged::ExtentAndSlot,
                };
                (place.chain, damaged)
            }
        };
        let finding = ScrubFinding {
            pair: step.pair,
            chain,
            damaged,
            lost,
        };
        self.remember_damage((file, block), finding, retirement);
    }

    /// Reports damage that was not reported before, or by which something is lost.
    fn remember_damage(
        &mut self,
        at: (FileId, u32),
        finding: ScrubFinding,
        retirement: &mut Retirement,
    ) {
        let remembered = &mut self.scrub.damaged;
        let is_new = !remembered.contains(&at);
        if is_new && remembered.len() < DAMAGED_PLACES_MAX {
            remembered.insert(at);
        }
        if is_new || !finding.lost.is_empty() {
            retirement.scrubbed.push(finding);
        }
    }

    /// The slot of a chain is bad: where the chain holds entries, the index of entries knows its extent.
    fn look_without_slot(&mut self, step: &Step, chain: ChainNumber) {
        let place = self.locations.in_extent(step.pair, chain).next();
        match place.map(|(_, location)| location.place) {
            Some(place) => self.look_at_extent(
                step,
                Place {
                    chain,
                    first_block: place.first_block,
                    blocks: place.blocks,
                    digest: None,
                    figures: None,
                },
            ),
            None => self.chain_is_done(step),
        }
    }

    /// Entries of the log as it stands that lie in a rotten extent are missing from now on.
    fn record_lost(&mut self, step: &Step, chain: ChainNumber) -> Vec<LostRun> {
        let mut lost = Vec::new();
        for (partition, location) in self.locations.in_extent(step.pair, chain) {
            let Some(log) = self.decided.partitions.get(&partition) else {
                continue;
            };
            let stands = |index| log.term_at(index) == Some(location.term);
            if !stands(location.first.max(log.base.next())) || !stands(location.last) {
                continue;
            }
            let mut first = location.first.max(log.base.next());
            let known = log.missing.iter().map(|range| (range.first, range.last));
            let end = (location.last.next(), LogIndex(u64::MAX));
            for (from, to) in known.chain([end]) {
                let last = from.prev().min(location.last);
                if first <= last {
                    lost.push(LostRun {
                        partition,
                        term: location.term,
                        first,
                        last,
                    });
                }
                first = first.max(LogIndex(to.get().saturating_add(1)));
            }
        }
        for run in &lost {
            self.scrub.lost_entries += run.last.get() - run.first.get() + 1;
            self.record_missing(run.partition, run.term, run.first, run.last);
        }
        lost
    }
}
