//! A disk that does not answer: the log says so after its bound, and does not mistake its own absence for that.

mod support;

use clustor_shards::disk::{DiskError, DiskEvent, DiskOp, RetirePair};
use clustor_shards::log::{HardState, LogOptions, LogRefusal, Mode, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PartitionId, Term};
use support::{MemoryDisk, TestKey, append, durable, identity, options, pool, settle};

const P: PartitionId = PartitionId(1);
const BOUND_MS: u64 = 10_000;

fn with_bound() -> LogOptions {
    LogOptions {
        stuck_io_ms: BOUND_MS,
        ..options()
    }
}

/// An open log with one durable entry.
fn opened() -> (ShardLog, MemoryDisk) {
    let mut disk = MemoryDisk::default();
    let recovered = ShardLog::recover(&mut disk, identity(), with_bound(), &TestKey(9), pool());
    let mut log = recovered.expect("recovers").log;
    settle(&mut log, &mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    append(&mut log, 1, 1, 1, &[1; 100], Mode::Strict);
    settle(&mut log, &mut disk);
    assert!(log.is_open());
    (log, disk)
}

/// What the log asks for at `now`.
fn poll(log: &mut ShardLog, now: Time) -> Vec<DiskOp> {
    let mut ops = Vec::new();
    log.poll(now, &mut ops);
    ops
}

/// Follows the deadlines until the log has failed; when that was.
fn wait_for_failure(log: &mut ShardLog, mut now: Time) -> Option<Time> {
    for _ in 0..100 {
        if log.failure().is_some() {
            return Some(now);
        }
        now = log.deadline()?;
        assert!(poll(log, now).is_empty(), "nothing new is asked for");
    }
    None
}

fn seconds(s: u64) -> Time {
    Time(s * 1_000_000)
}

#[test]
fn a_chain_that_never_ends_fails_the_log_at_its_bound_and_vouches_for_nothing_later() {
    let (mut log, mut disk) = opened();
    append(&mut log, 1, 1, 2, &[2; 100], Mode::Strict);
    let ops = poll(&mut log, seconds(100));
    assert!(matches!(ops[..], [DiskOp::Chain(_)]));
    let failed = wait_for_failure(&mut log, seconds(100)).expect("it fails");
    assert_eq!(failed, Time(100_000_000 + BOUND_MS * 1000));
    let stuck = DiskError::Stuck {
        what: "a chain",
        ms: BOUND_MS,
    };
    assert_eq!(log.failure(), Some(&stuck));
    assert!(matches!(log.admit(8), Err(LogRefusal::Failed(_))));
    assert_eq!(log.deadline(), None, "nothing more is waited for");
    // The device comes back to its senses: too late.
    let mut retirement = Retirement::default();
    for op in ops {
        log.on_event(seconds(200), disk.carry(op), &mut retirement);
    }
    assert!(retirement.durable.is_empty());
    assert_eq!(durable(&log, 1), 1);
    assert_eq!(log.failure(), Some(&stuck));
}

#[test]
fn chains_that_end_in_time_are_waited_for_each_anew() {
    let (mut log, mut disk) = opened();
    let mut now = seconds(100);
    for index in 2..20 {
        append(&mut log, 1, 1, index, &[2; 100], Mode::Strict);
        let ops = poll(&mut log, now);
        for _ in 0..3 {
            now = now.plus_ms(BOUND_MS / 4);
            assert!(poll(&mut log, now).is_empty());
        }
        for op in ops {
            log.on_event(now, disk.carry(op), &mut Retirement::default());
        }
    }
    assert_eq!(log.failure(), None);
    assert_eq!(durable(&log, 1), 19);
}

#[test]
fn who_slept_through_the_bound_looks_for_the_answer_first() {
    let (mut log, mut disk) = opened();
    append(&mut log, 1, 1, 2, &[2; 100], Mode::Strict);
    let ops = poll(&mut log, seconds(100));
    // A day goes by without a turn, and the first turn comes before the answer.
    let scrub = poll(&mut log, seconds(100 + 86_400));
    assert_eq!(log.failure(), None);
    for op in ops.into_iter().chain(scrub) {
        log.on_event(seconds(186_501), disk.carry(op), &mut Retirement::default());
    }
    log.watch_disk(seconds(300_000));
    assert_eq!(log.failure(), None);
    assert_eq!(durable(&log, 1), 2);
}

#[test]
fn a_read_that_never_ends_fails_the_log() {
    let (mut log, _disk) = opened();
    let mut ops = Vec::new();
    log.read(P, LogIndex(1), &mut ops).expect("it is there");
    assert!(poll(&mut log, seconds(10)).is_empty());
    wait_for_failure(&mut log, seconds(10)).expect("it fails");
    let failure = log.failure().expect("failed").to_string();
    assert_eq!(
        failure,
        "a read has not ended within 10000 ms (stuck_io_ms): the device hangs"
    );
}

/// A new log and its first pair's order.
fn beginning() -> (ShardLog, DiskOp) {
    let mut disk = MemoryDisk::default();
    let recovered = ShardLog::recover(&mut disk, identity(), with_bound(), &TestKey(9), pool());
    let mut log = recovered.expect("recovers").log;
    let mut ops = poll(&mut log, seconds(100));
    let order = ops.pop().expect("a pair is asked for");
    assert!(matches!(order, DiskOp::Prepare(_)) && ops.is_empty());
    (log, order)
}

#[test]
fn a_pair_that_is_never_made_fails_the_log() {
    let (mut log, _order) = beginning();
    wait_for_failure(&mut log, seconds(100)).expect("it fails");
    let what = log.failure().expect("failed").to_string();
    assert!(
        what.starts_with("the making of a pair has not ended"),
        "{what}"
    );
}

#[test]
fn a_pair_may_take_as_long_as_it_needs_while_it_grows() {
    let (mut log, order) = beginning();
    let DiskOp::Prepare(order) = order else {
        panic!("a pair is asked for")
    };
    let mut now = seconds(100);
    let mut retirement = Retirement::default();
    let prepared = DiskEvent::Prepared {
        pair: order.pair,
        salt: [7; 32],
        segment_blocks_ready: 1,
        recycled: false,
    };
    log.on_event(now, prepared, &mut retirement);
    for segment_blocks_ready in 1..order.segment_blocks {
        for _ in 0..3 {
            now = now.plus_ms(BOUND_MS / 4);
            log.watch_disk(now);
            assert_eq!(log.failure(), None);
        }
        let progress = DiskEvent::Progress {
            pair: order.pair,
            segment_blocks_ready,
        };
        log.on_event(now, progress, &mut retirement);
    }
    for _ in 0..4 {
        now = now.plus_ms(BOUND_MS / 4);
        log.watch_disk(now);
    }
    assert!(log.failure().is_some(), "one piece is missing for ever");
}

#[test]
fn a_pair_may_take_as_long_as_it_needs_before_it_has_its_name() {
    let (mut log, order) = beginning();
    let DiskOp::Prepare(order) = order else {
        panic!("a pair is asked for")
    };
    let mut now = seconds(100);
    for _ in 0..20 {
        for _ in 0..3 {
            now = now.plus_ms(BOUND_MS / 4);
            log.watch_disk(now);
            assert_eq!(log.failure(), None);
        }
        let advanced = DiskEvent::Advanced { pair: order.pair };
        log.on_event(now, advanced, &mut Retirement::default());
    }
    wait_for_failure(&mut log, now).expect("no step ends any more");
}

/// Fills pairs and puts all of them to rest, with a disk that removes none; the pairs that are to go.
fn with_removals(log: &mut ShardLog, disk: &mut MemoryDisk, now: &mut Time) -> Vec<DiskEvent> {
    let mut removed = Vec::new();
    let mut index = 1;
    for _ in 0..2_000 {
        let is_filled = log.older_pairs().len() + removed.len() > 6;
        if is_filled {
            log.set_floor(P, LogIndex(index));
        } else {
            index += 1;
            append(log, 1, 1, index, &[2; 3_000], Mode::Strict);
        }
        *now = now.plus_ms(1);
        for op in poll(log, *now) {
            let is_removal = matches!(op, DiskOp::Retire(RetirePair { .. }));
            let event = disk.carry(op);
            if is_removal {
                removed.push(event);
            } else {
                log.on_event(*now, event, &mut Retirement::default());
            }
        }
        if is_filled && removed.len() > 3 {
            return removed;
        }
    }
    panic!("{} removals are asked for", removed.len());
}

#[test]
fn removals_are_carried_one_at_a_time_and_wait_for_each_other() {
    let (mut log, mut disk) = opened();
    let mut now = seconds(100);
    let removed = with_removals(&mut log, &mut disk, &mut now);
    for event in removed {
        for _ in 0..3 {
            now = now.plus_ms(BOUND_MS / 4);
            log.watch_disk(now);
            assert_eq!(log.failure(), None);
        }
        log.on_event(now, event, &mut Retirement::default());
    }
}

#[test]
fn a_new_bound_counts_at_once() {
    let (mut log, _disk) = opened();
    let vote = HardState {
        term: Term(1),
        vote: Some(NodeId(2)),
    };
    log.hard_state(P, vote);
    let ops = poll(&mut log, seconds(100));
    assert!(!ops.is_empty());
    log.retune(&LogOptions {
        stuck_io_ms: 1_000,
        ..with_bound()
    });
    let failed = wait_for_failure(&mut log, seconds(100)).expect("it fails");
    assert_eq!(failed, seconds(101));
}

/// Reads the first entry, following the deadlines, while the first `errors` reads are answered with `error`: how that ended, how
/// often it was asked for, and when it ended.
fn read_with_errors(
    (log, disk): (&mut ShardLog, &mut MemoryDisk),
    error: &DiskError,
    mut errors: u32,
) -> (Retirement, u32, Time) {
    let mut now = seconds(1);
    let mut ops = poll(log, now);
    log.read(P, LogIndex(1), &mut ops).expect("is taken");
    let (mut retirement, mut asked) = (Retirement::default(), 0);
    while retirement.reads.is_empty() {
        for op in ops.drain(..) {
            let is_read = matches!(op, DiskOp::Read(_));
            asked += u32::from(is_read);
            let mut event = disk.carry(op);
            if let DiskEvent::Read { outcome, .. } = &mut event
                && errors > 0
            {
                errors -= 1;
                *outcome = Err(error.clone());
            }
            log.on_event(now, event, &mut retirement);
        }
        if retirement.reads.is_empty() {
            now = log.deadline().expect("it is tried again").max(now);
            log.poll(now, &mut ops);
        }
    }
    (retirement, asked, now)
}

#[test]
fn a_read_for_which_memory_was_short_is_tried_again_and_loses_nothing() {
    let (mut log, mut disk) = opened();
    let short = DiskError::Passing("Cannot allocate memory".into());
    let (ended, asked, at) = read_with_errors((&mut log, &mut disk), &short, 3);
    assert!(ended.reads[0].frames.is_some());
    assert_eq!((asked, log.found_rotten(), durable(&log, 1)), (4, 0, 1));
    assert!(at > seconds(1), "there is a pause between");
    assert_eq!(log.failure(), None);
}

#[test]
fn where_memory_stays_short_the_log_fails_at_its_bound_and_takes_nothing_for_lost() {
    let (mut log, mut disk) = opened();
    let short = DiskError::Passing("Cannot allocate memory".into());
    let (ended, _, at) = read_with_errors((&mut log, &mut disk), &short, u32::MAX);
    assert_eq!(ended.reads[0].frames, None);
    assert!(at >= seconds(1).plus_ms(BOUND_MS));
    assert_eq!(log.failure(), Some(&short));
    assert_eq!(log.found_rotten(), 0);
    let partition = log.partition(P).expect("it exists");
    assert!(!partition.is_missing(LogIndex(1)));
}

#[test]
fn a_sector_that_can_not_be_read_three_times_is_lost() {
    let (mut log, mut disk) = opened();
    let media = DiskError::Io("Input/output error".into());
    let (ended, asked, _) = read_with_errors((&mut log, &mut disk), &media, 3);
    assert_eq!(ended.reads[0].frames, None);
    assert_eq!((asked, log.found_rotten(), durable(&log, 1)), (3, 1, 0));
}
