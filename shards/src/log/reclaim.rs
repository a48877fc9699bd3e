//! The end of a pair's life: its trailer is written, and when nothing needs it any more, it goes.

use clustor_wire::ids::{MacEpoch, PairNumber};

use super::checkpoint::OlderPair;
use super::writer::ShardLog;
use crate::buffer::Blocks;
use crate::disk::{DiskError, DiskOp, WriteTrailer};
use crate::turn::Time;

/// How long after a trailer found no space the next try comes.
const TRAILER_RETRY_MS: u64 = 1_000;

/// What is under way with closed pairs.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// The pair whose trailer is being written.
    trailer_of: Option<PairNumber>,
    /// A trailer found no space; the next try is due then.
    retry_at: Option<Time>,
}

impl Closing {
    pub fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }
}

impl ShardLog {
    /// The pairs before the one that is being filled, ascending.
    #[must_use]
    pub fn older_pairs(&self) -> &[OlderPair] {
        &self.older
    }

    /// Writes the trailer of the oldest closed pair that has none yet, one at a time.
    pub(super) fn write_trailers(&mut self, now: Time, out: &mut Vec<DiskOp>) {
        let waits = self.closing.retry_at.is_some_and(|at| at > now);
        if self.closing.trailer_of.is_some() || waits {
            return;
        }
        let next = self
            .older
            .iter()
            .filter(|older| !older.trailer_durable)
            .find_map(|older| Some((older.segment_blocks - 1, older.trailer?)));
        let Some((block, trailer)) = next else {
            self.closing.retry_at = None;
            return;
        };
        let mut blocks = self.pool.take(1);
        let integrity = self.keys.integrity(MacEpoch(1));
        trailer.write(&integrity, block, &mut blocks.as_mut_slice()[0]);
        self.closing.trailer_of = Some(trailer.pair);
        self.closing.retry_at = None;
        out.push(DiskOp::Trailer(WriteTrailer {
            pair: trailer.pair,
            block,
            trailer: blocks,
        }));
    }

    pub(super) fn trailer_done(
        &mut self,
        now: Time,
        pair: PairNumber,
        trailer: Blocks,
        outcome: Result<(), DiskError>,
    ) {
        self.pool.put(trailer);
        self.closing.trailer_of = None;
        match outcome {
            Ok(()) => {
                let closed = self.older.iter_mut().find(|older| older.pair == pair);
                if let Some(closed) = closed {
                    closed.trailer_durable = true;
                }
            }
            Err(DiskError::Full) => self.closing.retry_at = Some(now.plus_ms(TRAILER_RETRY_MS)),
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }
}
