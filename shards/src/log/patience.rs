//! How long the disk may leave the log without an answer.
//!
//! A device that hangs reports nothing: neither success nor error. What was handed to it and does not end within
//! `stuck_io_ms` is taken for failed, and that is as final as an error. The making of a pair is many operations one
//! behind the other, each of which is told of when it ends: it may take as long as it needs, and is stuck when none ends.
//! Pairs are made one at a time, and removed so: what waits behind another waits for that, not for the disk.
//!
//! Time counts as far as it was looked at: of what passed between two turns a quarter of the bound at most. A process that was
//! stopped, or a machine that slept, finds its answers before it has lost its patience.

use std::collections::BTreeMap;

use clustor_wire::ids::{ChainNumber, PairNumber};

use crate::disk::{DiskError, DiskEvent, DiskOp, RetirePair};
use crate::turn::Time;

/// Looks that a bound takes at least.
const LOOKS: u64 = 4;

/// What the disk owes an answer for, chains of the log apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owed {
    Headers,
    Read(u64),
    Pair(PairNumber),
    Trailer(PairNumber),
    Removal(PairNumber),
}

impl Owed {
    const fn name(self) -> &'static str {
        match self {
            Self::Headers => "the writing of headers",
            Self::Read(_) => "a read",
            Self::Pair(_) => "the making of a pair",
            Self::Trailer(_) => "the writing of a trailer",
            Self::Removal(_) => "the removal of a pair",
        }
    }
}

/// Since when it is owed, and how often.
#[derive(Debug, Clone, Copy)]
struct Since {
    at_us: u64,
    count: u32,
    /// Of a pair that is made: blocks of its segment.
    blocks: u32,
}

/// The patience with one shard's disk.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Time that was looked at, in microseconds.
    clock_us: u64,
    looked_at: Option<Time>,
    owed: BTreeMap<Owed, Since>,
}

impl Patience {
    /// The clock of what is owed, in microseconds.
    pub const fn clock_us(&self) -> u64 {
        self.clock_us
    }

    /// Lets the clock go on to `now`.
    pub fn look(&mut self, now: Time, bound_us: u64) {
        let passed = self.looked_at.map_or(0, |before| now.since_us(before));
        self.clock_us += passed.min(bound_us / LOOKS);
        self.looked_at = Some(now);
    }

    /// A read was asked for.
    pub fn ask_read(&mut self, token: u64) {
        self.ask(Owed::Read(token), 0);
    }

    /// These go down; chains of the log are counted where they fly.
    pub fn ask_all(&mut self, ops: &[DiskOp]) {
        for op in ops {
            match op {
                DiskOp::Chain(chain) if chain.chain == ChainNumber::ZERO => {
                    self.ask(Owed::Headers, 0);
                }
                DiskOp::Chain(_) => {}
                DiskOp::Read(read) => self.ask_read(read.token),
                DiskOp::Prepare(order) => self.ask(Owed::Pair(order.pair), order.segment_blocks),
                DiskOp::Trailer(trailer) => self.ask(Owed::Trailer(trailer.pair), 0),
                DiskOp::Remove(pair) | DiskOp::Retire(RetirePair { pair, .. }) => {
                    // One that was being made is made no further.
                    self.owed.remove(&Owed::Pair(*pair));
                    self.ask(Owed::Removal(*pair), 0);
                }
            }
        }
    }

    fn ask(&mut self, what: Owed, blocks: u32) {
        let at_us = self.clock_us;
        let since = Since {
            at_us,
            count: 0,
            blocks,
        };
        let asked = self.owed.entry(what).or_insert(since);
        // One token is asked for again only once it was answered.
        asked.count = match what {
            Owed::Read(_) => 1,
            _ => asked.count + 1,
        };
    }

    /// This came up.
    pub fn answered(&mut self, event: &DiskEvent) {
        match event {
            DiskEvent::Chain { chain, .. } if *chain == ChainNumber::ZERO => {
                self.end(Owed::Headers);
            }
            DiskEvent::Chain { .. } | DiskEvent::Used { .. } => {}
            DiskEvent::Read { token, .. } => self.end(Owed::Read(*token)),
            DiskEvent::Prepared {
                pair,
                segment_blocks_ready,
                ..
            }
            | DiskEvent::Progress {
                pair,
                segment_blocks_ready,
            } => self.pair_grew(*pair, *segment_blocks_ready),
            DiskEvent::Advanced { pair } => self.pair_grew(*pair, 0),
            DiskEvent::PrepareFailed { pair, .. } => self.pair_grew(*pair, u32::MAX),
            DiskEvent::Trailer { pair, .. } => self.end(Owed::Trailer(*pair)),
            DiskEvent::Removed { pair, .. } => {
                self.end(Owed::Removal(*pair));
                self.removals_go_on();
            }
        }
    }

    /// Pairs are made one at a time, in the order of their numbers: those behind this one wait for it, not for the disk.
    fn pair_grew(&mut self, pair: PairNumber, ready: u32) {
        let what = Owed::Pair(pair);
        if self
            .owed
            .get(&what)
            .is_some_and(|since| ready >= since.blocks)
        {
            self.owed.remove(&what);
        }
        let clock_us = self.clock_us;
        let behind = self.owed.range_mut(what..=Owed::Pair(PairNumber(u64::MAX)));
        behind.for_each(|(_, since)| since.at_us = clock_us);
    }

    /// Pairs are removed one at a time, in whatever order their files fall idle.
    fn removals_go_on(&mut self) {
        let clock_us = self.clock_us;
        let first = Owed::Removal(PairNumber::ZERO);
        self.owed
            .range_mut(first..)
            .for_each(|(_, since)| since.at_us = clock_us);
    }

    fn end(&mut self, what: Owed) {
        if let Some(since) = self.owed.get_mut(&what) {
            since.count -= 1;
            since.at_us = self.clock_us;
            if since.count == 0 {
                self.owed.remove(&what);
            }
        }
    }

    /// What has been owed longest, since when; `chain`: since when the oldest chain in flight is.
    fn oldest(&self, chain: Option<u64>) -> Option<(u64, &'static str)> {
        let owed = self
            .owed
            .iter()
            .map(|(what, since)| (since.at_us, what.name()));
        let chain = chain.map(|at_us| (at_us, "a chain"));
        owed.chain(chain).min_by_key(|(at_us, _)| *at_us)
    }

    /// The failure, if something has been owed for `bound_us`.
    pub fn lost(&self, chain: Option<u64>, bound_us: u64) -> Option<DiskError> {
        let (since, what) = self.oldest(chain)?;
        (self.clock_us - since >= bound_us).then_some(DiskError::Stuck {
            what,
            ms: bound_us / 1000,
        })
    }

    /// When to look again, if anything is owed.
    pub fn due(&self, chain: Option<u64>, bound_us: u64) -> Option<Time> {
        let (since, _) = self.oldest(chain)?;
        let left = (since + bound_us).saturating_sub(self.clock_us);
        let look = left.clamp(1, (bound_us / LOOKS).max(1));
        Some(self.looked_at.unwrap_or_default().plus_us(look))
    }
}
