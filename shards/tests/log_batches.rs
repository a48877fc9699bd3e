//! When a batch goes: group commit by the clock of the chains in flight, and what waits behind them.

mod support;

use std::collections::VecDeque;

use clustor_shards::disk::{DiskError, DiskEvent, DiskOp, DurableChain, FlushKind};
use clustor_shards::log::{HardState, LogOptions, LogRefusal, Mode, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, NodeId, PartitionId, Term};
use support::{MemoryDisk, TestKey, append, durable, identity, pool};

const P: PartitionId = PartitionId(1);

fn options() -> LogOptions {
    LogOptions {
        group_chains_max: 2,
        ..support::options()
    }
}

/// A log whose chains wait until they are told to end.
struct Held {
    log: ShardLog,
    disk: MemoryDisk,
    now: Time,
    chains: Vec<DurableChain>,
    retirement: Retirement,
}

impl Held {
    fn new(options: LogOptions) -> Self {
        let mut disk = MemoryDisk::default();
        let log = ShardLog::recover(&mut disk, identity(), options, &TestKey(9), pool())
            .expect("recovers")
            .log;
        let mut held = Self {
            log,
            disk,
            now: Time(1_000_000),
            chains: Vec::new(),
            retirement: Retirement::default(),
        };
        held.log.create_partition(P, Incarnation(5), b"voters");
        held.settle();
        held.retirement = Retirement::default();
        held
    }

    /// Submits what may be submitted; how many chains that were.
    fn poll(&mut self) -> usize {
        let mut ops = Vec::new();
        self.log.poll(self.now, &mut ops);
        let before = self.chains.len();
        for op in ops {
            match op {
                DiskOp::Chain(chain) => self.chains.push(chain),
                other => {
                    let event = self.disk.carry(other);
                    self.log.on_event(self.now, event, &mut self.retirement);
                }
            }
        }
        self.chains.len() - before
    }

    /// Ends the oldest chain.
    fn end_one(&mut self) {
        let chain = self.chains.remove(0);
        let event = self.disk.carry(DiskOp::Chain(chain));
        assert!(matches!(event, DiskEvent::Chain { .. }));
        self.log.on_event(self.now, event, &mut self.retirement);
    }

    fn settle(&mut self) {
        while self.poll() > 0 || !self.chains.is_empty() || !self.log.is_settled() {
            if !self.chains.is_empty() {
                self.end_one();
            }
        }
    }

    fn group(&mut self, index: u64) {
        append(&mut self.log, 1, 1, index, b"x", Mode::Group);
    }

    fn strict(&mut self, index: u64) {
        append(&mut self.log, 1, 1, index, b"x", Mode::Strict);
    }
}

#[test]
fn a_group_batch_gathers_while_enough_chains_are_in_flight_and_goes_when_one_retires() {
    let mut held = Held::new(options());
    for index in 1..=2 {
        held.group(index);
        assert_eq!(held.poll(), 1, "the pipeline has room");
    }
    for index in 3..=9 {
        held.group(index);
        assert_eq!(held.poll(), 0, "two flushes are its window");
    }
    held.end_one();
    assert_eq!(held.poll(), 1, "all that gathered goes at once");
    held.settle();
    assert_eq!(durable(&held.log, 1), 9);
}

#[test]
fn a_group_batch_goes_at_its_age_and_says_when_that_is() {
    let mut held = Held::new(options());
    for index in 1..=3 {
        held.group(index);
        held.poll();
    }
    let due = held.now.plus_ms(options().batch_ms_max);
    assert_eq!(held.log.deadline(), Some(due));
    held.now = due;
    assert_eq!(held.poll(), 1);
    let patience_ms = options().stuck_io_ms / 4;
    let next = held.log.deadline().expect("chains are in flight");
    assert!(
        next > due && next <= due.plus_ms(patience_ms),
        "only the disk"
    );
}

/// A device on which each chain takes a time of its own, under appends that come at regular intervals.
struct Load {
    held: Held,
    /// When each chain in flight ends.
    ends: VecDeque<u64>,
    index: u64,
    since_chain: u64,
    /// When the oldest append of the open batch came.
    opened_us: Option<u64>,
    chains_max: usize,
    waited_us_max: u64,
}

impl Load {
    fn new(options: LogOptions) -> Self {
        Self {
            held: Held::new(options),
            ends: VecDeque::new(),
            index: 0,
            since_chain: 0,
            opened_us: None,
            chains_max: 0,
            waited_us_max: 0,
        }
    }

    /// Goes on for `for_us` with chains of `chain_us`; how many appends each chain took along.
    fn run(&mut self, for_us: u64, every_us: u64, chain_us: u64) -> Vec<u64> {
        let until = self.held.now.0 + for_us;
        let mut next_append = self.held.now.0 + every_us;
        let mut taken = Vec::new();
        (self.chains_max, self.waited_us_max) = (0, 0);
        loop {
            let end = self.ends.front().copied().unwrap_or(u64::MAX);
            let age = self.held.log.deadline().map_or(u64::MAX, |due| due.0);
            let now = next_append.min(end).min(age);
            if now > until {
                return taken;
            }
            self.held.now = Time(now);
            if now == end {
                self.ends.pop_front();
                self.held.end_one();
            }
            if now == next_append {
                next_append += every_us;
                self.index += 1;
                self.held.group(self.index);
                self.since_chain += 1;
                self.opened_us.get_or_insert(now);
            }
            let went = self.held.poll();
            self.ends.extend((0..went).map(|_| now + chain_us));
            self.chains_max = self.chains_max.max(self.ends.len());
            if went > 0 && !self.held.log.has_open_batch() {
                taken.push(core::mem::take(&mut self.since_chain));
                let opened_us = self.opened_us.take().unwrap_or(now);
                self.waited_us_max = self.waited_us_max.max(now - opened_us);
            }
        }
    }
}

fn mean(taken: &[u64]) -> f64 {
    taken.iter().sum::<u64>() as f64 / taken.len() as f64
}

/// A chain that ends is what lets the next go: the time that a batch gathers for is that of the device's chain, divided
/// by how many are in flight, whatever that time is and from the first chain on that takes as long.
#[test]
fn a_batch_gathers_for_as_long_as_the_device_takes_and_follows_it_at_once() {
    for chains in [1, 2, 4] {
        let mut load = Load::new(LogOptions {
            group_chains_max: chains,
            ..LogOptions::for_segment_bytes(16 << 20)
        });
        for chain_us in [100, 4_000, 500, 100] {
            let every_us = 10;
            load.run(2 * chain_us, every_us, chain_us);
            let taken = load.run(20 * chain_us, every_us, chain_us);
            let window_us = chain_us as f64 / chains as f64;
            let expected = window_us / every_us as f64;
            let mean = mean(&taken);
            assert!(
                (mean - expected).abs() <= 0.1 * expected + 1.0,
                "{chains} chains of {chain_us} us: {mean} in each, {expected} come in a window"
            );
            assert_eq!(load.chains_max, chains, "chains of {chain_us} us");
            assert!(
                load.waited_us_max <= chain_us,
                "{} us in chains of {chain_us} us",
                load.waited_us_max
            );
        }
    }
}

/// Where the device takes longer than the profile lets a batch wait, its age lets it go, as long as a chain may be submitted.
#[test]
fn the_profiles_ceilings_bound_the_window_of_a_slow_device() {
    let options = LogOptions {
        group_chains_max: 1,
        ..LogOptions::for_segment_bytes(16 << 20)
    };
    let age_us = options.batch_ms_max * 1000;
    let mut load = Load::new(options);
    let chain_us = 4 * age_us;
    load.run(2 * chain_us, 100, chain_us);
    load.run(10 * chain_us, 100, chain_us);
    assert_eq!(load.waited_us_max, age_us);
    assert!((4..=5).contains(&load.chains_max), "{}", load.chains_max);

    // And the bytes do, where appends come faster than the age.
    let mut load = Load::new(LogOptions {
        batch_bytes_max: 4096,
        ..options
    });
    load.run(chain_us, 10, chain_us / 2);
    let taken = load.run(4 * chain_us, 10, chain_us / 2);
    assert!(taken.iter().all(|entries| *entries < 100), "{taken:?}");
    assert!(load.chains_max > 1);
}

#[test]
fn a_full_group_batch_goes_at_once() {
    let mut held = Held::new(LogOptions {
        batch_bytes_max: 4096,
        ..options()
    });
    held.group(1);
    held.poll();
    held.group(2);
    held.poll();
    let long = [7; 3000];
    append(&mut held.log, 1, 1, 3, &long, Mode::Group);
    assert_eq!(held.poll(), 0);
    append(&mut held.log, 1, 1, 4, &long, Mode::Group);
    assert_eq!(held.poll(), 1, "the first did not fit with the second");
}

#[test]
fn a_vote_waits_for_no_window() {
    let mut held = Held::new(options());
    for index in 1..=3 {
        held.group(index);
        held.poll();
    }
    held.log.hard_state(
        P,
        HardState {
            term: Term(2),
            vote: Some(NodeId(2)),
        },
    );
    assert_eq!(held.poll(), 1);
}

#[test]
fn strict_appends_fill_the_pipeline_and_then_a_bounded_queue() {
    let mut held = Held::new(LogOptions {
        queue_batches_max: 16,
        ..LogOptions::for_segment_bytes(16 << 20)
    });
    let mut index = 0;
    while held.log.admit(1).is_ok() {
        index += 1;
        held.strict(index);
        held.poll();
    }
    assert_eq!(held.chains.len(), 8);
    assert_eq!(index, 8 + 16);
    let refused = LogRefusal::Crowded {
        waiting: 16,
        limit: 16,
    };
    assert_eq!(held.log.admit(1), Err(refused.clone()));
    assert_eq!(held.log.admit_frames(1), Err(refused));
    // A vote is taken all the same, and stands behind no more than that.
    held.log.hard_state(
        P,
        HardState {
            term: Term(2),
            vote: None,
        },
    );
    for _ in 0..8 + 16 {
        held.end_one();
        held.poll();
    }
    assert!(held.retirement.hard_states.is_empty());
    held.end_one();
    assert_eq!(held.retirement.hard_states.len(), 1);
}

#[test]
fn two_batches_in_a_row_that_waited_too_long_are_reported_once() {
    let mut held = Held::new(LogOptions::for_segment_bytes(16 << 20));
    let too_long_ms = 2 * options().batch_ms_max + 1;
    let mut index = 0;
    let mut wait = |held: &mut Held, ms: u64| {
        for _ in 0..8 {
            index += 1;
            held.strict(index);
            held.poll();
        }
        assert_eq!(held.chains.len(), 8);
        index += 1;
        held.group(index);
        assert_eq!(held.poll(), 0);
        held.now = held.now.plus_ms(ms);
        while !held.chains.is_empty() {
            held.end_one();
        }
        assert_eq!(held.poll(), 1);
        held.end_one();
    };
    wait(&mut held, too_long_ms);
    wait(&mut held, 0);
    wait(&mut held, too_long_ms);
    assert_eq!(held.log.take_overruns().len(), 0, "not in a row");
    wait(&mut held, too_long_ms);
    assert_eq!(held.log.take_overruns().collect::<Vec<_>>(), [P]);
    assert_eq!(held.log.take_overruns().len(), 0);
}

#[test]
fn chains_are_measured_and_the_slow_ones_are_remembered_for_a_while() {
    let mut held = Held::new(options());
    held.now = held.now.plus_ms(60_000);
    held.group(1);
    held.poll();
    held.now = held.now.plus_ms(options().slow_chain_ms + 1);
    held.end_one();
    let window_us = 60_000_000;
    assert_eq!(held.log.slow_chains(held.now, window_us), 1);
    assert!(held.log.chain_us() > 10_000);
    let later = held.now.plus_ms(60_001);
    assert_eq!(held.log.slow_chains(later, window_us), 0);
}

#[test]
fn a_chain_carries_the_flush_that_was_asked_for() {
    for flush in [FlushKind::Fdatasync, FlushKind::Dsync] {
        let mut held = Held::new(LogOptions { flush, ..options() });
        held.strict(1);
        held.poll();
        assert_eq!(held.chains[0].flush, flush);
    }
}

#[test]
fn any_but_the_best_way_of_writing_clamps_the_batch() {
    let wide = LogOptions::for_segment_bytes(16 << 20);
    assert_eq!((wide.batch_bytes_max, wide.batch_ms_max), (64 << 10, 5));
    for mode in [1, 2] {
        let clamped = wide.written_by(mode);
        assert_eq!(clamped.batch_bytes_max, 32 << 10);
        assert_eq!(clamped.batch_ms_max, 2);
        assert_eq!(clamped.io_writer_mode, mode);
    }
    assert_eq!(wide.written_by(0), wide);
}

#[test]
fn a_failed_log_asks_for_no_more_turns() {
    let mut held = Held::new(options());
    for index in 1..=3 {
        held.group(index);
        held.poll();
    }
    assert!(held.log.deadline().is_some());
    let chain = held.chains.remove(0);
    let event = DiskEvent::Chain {
        chain: chain.chain,
        log: chain.log,
        ledger: chain.ledger,
        outcome: Err(DiskError::Io("bad sector".into())),
    };
    held.log.on_event(held.now, event, &mut held.retirement);
    assert_eq!(held.poll(), 0);
    assert_eq!(held.log.deadline(), None);
}
