//! How a log comes to rest, and what must hold then.

use clustor_shards::log::ShardLog;
use clustor_wire::ids::LogIndex;

use super::super::history::{Faults, Violation};
use super::Shard;

/// Turns without progress after which a log counts as stuck.
const IDLE_TURNS_MAX: u32 = 64;

/// The longest patience with a stuck disk that a life waits for, in milliseconds: within those turns.
const PATIENCE_MS_MAX: u64 = 20_000;

/// Turns after which a pair that nothing needs must be gone.
const RECLAIM_TURNS_MAX: u32 = 400;

/// Micro-steps after which a log that settles counts as one that never will.
const STEPS_MAX: u32 = 1 << 16;

impl Shard {
    /// Virtual time goes on.
    pub fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// Runs until the log has opened and nothing is in hand, with no crash.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if it never does.
    pub fn settle(&mut self) -> Result<(), Violation> {
        let (mut idle, mut steps) = (0, 0);
        loop {
            if self.step()? {
                steps += 1;
                if steps > STEPS_MAX && self.is_open() {
                    return Ok(()); // It serves, and is busy with writing cold entries again.
                }
                if steps > STEPS_MAX {
                    return Err(Violation::Stuck("the log never comes to rest".into()));
                }
                continue;
            }
            let Some(log) = &self.log else {
                return Ok(());
            };
            if log.failure().is_some() || log.is_open() && log.is_settled() {
                return Ok(());
            }
            if self.disk.is_stuck() && log.options().stuck_io_ms > PATIENCE_MS_MAX {
                return Ok(()); // It waits for longer than is worth while.
            }
            idle += 1;
            if idle > IDLE_TURNS_MAX {
                return Err(Violation::Stuck(format!(
                    "the log does not settle: open {}, {} chains in flight, pair {}",
                    log.is_open(),
                    log.chains_in_flight(),
                    log.current_pair()
                )));
            }
            self.wait_ms(500);
        }
    }

    /// Where an operation hangs, the log says so after its bound.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if it goes on waiting.
    pub fn check_patience(&mut self) -> Result<(), Violation> {
        for _ in 0..2 * IDLE_TURNS_MAX {
            let Some(log) = &self.log else {
                return Ok(());
            };
            let is_over = log.failure().is_some() || log.quarantine().is_some();
            let waits_long = log.options().stuck_io_ms > PATIENCE_MS_MAX;
            if is_over || waits_long || !self.disk.is_stuck() {
                return Ok(());
            }
            self.wait_ms(500);
            self.turn()?;
            for _ in 0..8 {
                self.step()?;
            }
        }
        Err(Violation::Stuck(
            "an operation hangs, and the log goes on waiting".into(),
        ))
    }

    /// Checks that every closed pair has its trailer, once the log has settled.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if one has not.
    pub fn check_closed(&self) -> Result<(), Violation> {
        let Some(log) = self.log.as_ref().filter(|log| log.failure().is_none()) else {
            return Ok(());
        };
        let mut closed = log.older_pairs().iter();
        match closed.find(|pair| pair.trailer.is_some() && !pair.trailer_durable) {
            Some(pair) => Err(Violation::Stuck(format!(
                "the trailer of pair {} was never written",
                pair.pair
            ))),
            None => Ok(()),
        }
    }

    /// A log at rest vouches for all that it holds, as far as nothing of it is missing: what is not removed has retired.
    ///
    /// # Errors
    /// [`Violation::Withheld`] if it vouches for less.
    pub fn check_vouches(&self) -> Result<(), Violation> {
        let at_rest = |log: &&ShardLog| {
            log.is_open()
                && log.is_settled()
                && log.failure().is_none()
                && log.quarantine().is_none()
        };
        let Some(log) = self.log.as_ref().filter(at_rest) else {
            return Ok(());
        };
        for (partition, state) in self.history.state() {
            let missing = log
                .partition(*partition)
                .and_then(|held| held.missing.first());
            let holds = missing.map_or(state.last(), |range| range.first.prev());
            let vouched = log.durable(*partition).map(|proof| proof.index());
            // Copies of what was missing are on their way for as long as the scrub takes.
            if vouched != Some(holds) && log.copies_in_flight(*partition) == 0 {
                return Err(Violation::Withheld {
                    partition: *partition,
                    vouched: vouched.unwrap_or_default(),
                    holds,
                });
            }
        }
        Ok(())
    }

    /// Where there is room and nothing is damaged, appends are taken.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if they are refused.
    pub fn check_admits(&self) -> Result<(), Violation> {
        let log = self.log.as_ref();
        let Some(log) = log.filter(|log| log.failure().is_none() && log.quarantine().is_none())
        else {
            return Ok(());
        };
        log.admit(8).map_err(|refusal| {
            Violation::Stuck(format!(
                "an append is refused for no reason left: {refusal}"
            ))
        })
    }

    /// Every partition's entries are needed no more: all closed pairs must go.
    ///
    /// # Errors
    /// [`Violation::Stuck`] if one stays.
    pub fn check_reclaimed(&mut self) -> Result<(), Violation> {
        for partition in self.partitions() {
            self.set_floor(partition, LogIndex(u64::MAX));
        }
        for _ in 0..RECLAIM_TURNS_MAX {
            let Some(log) = self.log.as_ref().filter(|log| log.failure().is_none()) else {
                return Ok(());
            };
            // What lies above the last index vouched for can't be given up.
            if log.older_pairs().is_empty() || self.faults() != Faults::default() {
                return Ok(());
            }
            self.wait_ms(50);
            self.turn()?;
            while self.step()? {}
        }
        let log = self.log.as_ref();
        let stay = log.map_or(0, |log| log.older_pairs().len());
        Err(Violation::Stuck(format!("{stay} closed pairs stay")))
    }
}
