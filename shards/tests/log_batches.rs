//! When a batch goes: group commit by the clock of the chains in flight, and what waits behind them.

mod support;

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
