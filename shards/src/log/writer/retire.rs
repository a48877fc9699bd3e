//! What comes up: chains retire in sequence, and only that mints proofs.

use std::collections::btree_map::Entry;

use clustor_wire::ids::{ChainNumber, PartitionId};

use super::super::batch::Vouch;
use super::super::proof::{ExitDurable, HardStateDurable};
use super::{Phase, Retirement, SLOW_CHAINS_MAX, ShardLog};
use crate::disk::DiskEvent;
use crate::turn::Time;

impl ShardLog {
    /// Takes one event. Events of one inbox are given errors first.
    pub fn on_event(&mut self, now: Time, event: DiskEvent, retirement: &mut Retirement) {
        self.patience.answered(&event);
        match event {
            DiskEvent::Chain {
                chain,
                log,
                ledger,
                outcome,
            } => {
                self.pool.put(log);
                self.pool.put(ledger);
                match outcome {
                    Ok(()) => self.chain_done(now, chain, retirement),
                    Err(error) => {
                        self.failure.get_or_insert(error);
                    }
                }
            }
            DiskEvent::Read {
                token,
                blocks,
                outcome,
                ..
            } if self.scrub.is_its(token) => {
                self.take_look(blocks, &outcome, retirement);
            }
            DiskEvent::Read {
                token,
                blocks,
                outcome,
                ..
            } => self.read_done(now, token, blocks, outcome, retirement),
            DiskEvent::Prepared {
                pair,
                salt,
                segment_blocks_ready,
                recycled,
            } => {
                let blocks = (segment_blocks_ready, recycled);
                self.spare.prepared(pair, salt, blocks);
                self.spare_grew();
            }
            DiskEvent::Progress {
                pair,
                segment_blocks_ready,
            } => {
                self.spare.progress(pair, segment_blocks_ready);
                self.spare_grew();
                if let Some(current) = &mut self.current
                    && current.header.pair == pair
                {
                    current.blocks_ready = current.blocks_ready.max(segment_blocks_ready);
                }
            }
            DiskEvent::PrepareFailed { pair, error } => {
                self.spare.failed(pair, now);
                self.spare_failure = Some(error);
                if let Some(current) = &mut self.current
                    && current.header.pair == pair
                {
                    current.end_at_frontier();
                }
            }
            DiskEvent::Trailer {
                pair,
                trailer,
                outcome,
            } => self.trailer_done(now, pair, trailer, outcome),
            // The log's patience has noted it.
            DiskEvent::Advanced { .. } => {}
            DiskEvent::Used { percent } => self.used_percent = percent,
            DiskEvent::Removed { pair, .. } => self.spares_leaving.retain(|left| *left != pair),
        }
    }

    fn chain_done(&mut self, now: Time, chain: ChainNumber, retirement: &mut Retirement) {
        if let Some(done) = self.in_flight.iter_mut().find(|c| c.place.chain == chain) {
            done.done = true;
            let took_us = now.since_us(done.submitted_at);
            self.measure(now, took_us);
        }
        if self.is_silent() {
            return;
        }
        let may_vouch = self.quarantine.is_none();
        while self.in_flight.front().is_some_and(|front| front.done) {
            let Some(retired) = self.in_flight.pop_front() else {
                break;
            };
            let place = retired.place;
            assert!(place.chain == self.retired.next());
            self.retired = place.chain;
            if let Some(pair) = &mut self.current {
                pair.retired(place.chain);
            }
            self.in_flight_blocks -= place.blocks;
            self.note_copies(&retired.batch, place);
            if self.open_since_boot && may_vouch {
                self.mint(&retired.batch.vouch, retirement);
            }
            self.has_last_words &= !retired.batch.is_last;
            self.emptied.put(retired.batch);
        }
        if self.phase == Phase::Marking && self.in_flight.is_empty() {
            self.phase = Phase::Running;
            if !self.open_since_boot && may_vouch {
                self.open_since_boot = true;
                self.mint_recovered(retirement);
            }
        }
    }

    fn measure(&mut self, now: Time, took_us: u64) {
        self.chain_us = match self.chain_us {
            0 => took_us,
            smoothed => smoothed - smoothed / 8 + took_us / 8,
        };
        let bound_us = self.options.slow_chain_ms * 1000;
        self.slowness.measure(now, took_us, bound_us);
        if took_us > bound_us {
            if self.slow.len() == SLOW_CHAINS_MAX {
                self.slow.pop_front();
            }
            self.slow.push_back(now);
        }
    }

    fn mint(&mut self, vouch: &Vouch, retirement: &mut Retirement) {
        for (partition, index) in &vouch.indexes {
            let rises = match self.durable.get(partition) {
                Some(durable) => index > durable,
                // It was created in this chain, unless it is gone since.
                None => self.decided.partitions.contains_key(partition),
            };
            if rises {
                self.durable.insert(*partition, *index);
                retirement.durable.extend(self.durable(*partition));
            }
        }
        for found in &vouch.found {
            if let Entry::Occupied(mut chains) = self.found.entry(*found) {
                *chains.get_mut() -= 1;
                if *chains.get() == 0 {
                    chains.remove();
                    retirement.durable.extend(self.durable(found.0));
                }
            }
        }
        for (partition, state) in &vouch.hard_states {
            retirement
                .hard_states
                .push(HardStateDurable::mint(*partition, state.term, state.vote));
        }
        for (partition, term, index) in &vouch.exits {
            retirement
                .exits
                .push(ExitDurable::mint(*partition, *term, *index));
        }
    }

    /// A next pair that is whole ends the trouble of those before it.
    fn spare_grew(&mut self) {
        if self.spare.is_whole() {
            self.spare_failure = None;
        }
    }

    /// The shard may speak: for everything that the opening states or wrote again.
    fn mint_recovered(&mut self, retirement: &mut Retirement) {
        for (partition, log) in &self.submitted.partitions {
            let decided = self.decided.partitions.get(partition);
            let last = decided.map_or(log.last, |decided| decided.last.min(log.last));
            self.durable.insert(*partition, last);
            let state = log.hard_state;
            retirement
                .hard_states
                .push(HardStateDurable::mint(*partition, state.term, state.vote));
        }
        let partitions: Vec<PartitionId> = self.submitted.partitions.keys().copied().collect();
        for partition in partitions {
            retirement.durable.extend(self.durable(partition));
        }
    }
}
