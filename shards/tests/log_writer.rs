//! The log over an honest disk: what it vouches for, what it reads back, what a restart finds.

mod support;

use clustor_shards::disk::{DiskError, DiskEvent, DiskOp};
use clustor_shards::log::record::records;
use clustor_shards::log::{HardState, LogRefusal, Mode, Retirement};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, NodeId, PartitionId, Term};
use support::{MemoryDisk, append, durable, recover, settle, start};

const P: PartitionId = PartitionId(1);

fn with_partition() -> (MemoryDisk, clustor_shards::log::ShardLog) {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    settle(&mut log, &mut disk);
    (disk, log)
}

fn read_bodies(
    log: &mut clustor_shards::log::ShardLog,
    disk: &mut MemoryDisk,
    from: u64,
) -> Vec<Vec<u8>> {
    let mut ops = Vec::new();
    log.read(P, LogIndex(from), &mut ops).expect("readable");
    let mut retirement = Retirement::default();
    for op in ops {
        let event = disk.carry(op);
        log.on_event(Time(0), event, &mut retirement);
    }
    let outcome = retirement.reads.pop().expect("one read");
    records(&outcome.frames.expect("whole"))
        .map(|record| record.expect("sound").body.to_vec())
        .collect()
}

#[test]
fn nothing_is_vouched_for_before_it_retired() {
    let (mut disk, mut log) = with_partition();
    append(&mut log, 1, 1, 1, b"one", Mode::Group);
    append(&mut log, 1, 1, 2, b"two", Mode::Group);
    assert_eq!(durable(&log, 1), 0);
    let retirement = settle(&mut log, &mut disk);
    assert_eq!(durable(&log, 1), 2);
    assert_eq!(retirement.durable.len(), 1);
    assert_eq!(retirement.durable[0].index(), LogIndex(2));
    assert_eq!(retirement.durable[0].term(), Term(1));
}

#[test]
fn strict_appends_get_a_chain_each_and_group_appends_share_one() {
    let (mut disk, mut log) = with_partition();
    let before = log.retired_chain();
    for index in 1..=3 {
        append(&mut log, 1, 1, index, b"x", Mode::Strict);
    }
    settle(&mut log, &mut disk);
    assert_eq!(log.retired_chain().get(), before.get() + 3);
    for index in 4..=9 {
        append(&mut log, 1, 1, index, b"x", Mode::Group);
    }
    settle(&mut log, &mut disk);
    assert_eq!(log.retired_chain().get(), before.get() + 4);
}

#[test]
fn a_restart_finds_entries_votes_and_partitions() {
    let (mut disk, mut log) = with_partition();
    for index in 1..=200 {
        append(&mut log, 1, 1, index, &[index as u8; 900], Mode::Group);
        if index % 7 == 0 {
            settle(&mut log, &mut disk);
        }
    }
    let vote = HardState {
        term: Term(3),
        vote: Some(NodeId(2)),
    };
    log.hard_state(P, vote);
    settle(&mut log, &mut disk);
    assert!(log.current_pair().get() > 2, "the log rolled");
    for restart in 0..3 {
        let mut again = start(&mut disk);
        let partition = again.partition(P).expect("there");
        assert_eq!(partition.last, LogIndex(200), "restart {restart}");
        assert_eq!(partition.hard_state, vote);
        assert_eq!(partition.incarnation, Incarnation(5));
        assert_eq!(*partition.configurations[0].body, *b"voters");
        assert_eq!(partition.missing_count(), 0);
        assert_eq!(durable(&again, 1), 200);
        let mut next = 1;
        while next <= 200 {
            for body in read_bodies(&mut again, &mut disk, next) {
                assert_eq!(body, vec![next as u8; 900]);
                next += 1;
            }
        }
    }
}

#[test]
fn a_truncation_takes_back_what_had_retired_what_flies_and_what_waits() {
    let (mut disk, mut log) = with_partition();
    for index in 1..=5 {
        append(&mut log, 1, 1, index, b"old", Mode::Group);
    }
    settle(&mut log, &mut disk);
    assert_eq!(durable(&log, 1), 5);
    append(&mut log, 1, 1, 6, b"flies", Mode::Group);
    let mut in_flight = Vec::new();
    log.poll(Time(0), &mut in_flight);
    append(&mut log, 1, 1, 7, b"waits", Mode::Group);
    log.truncate(P, Term(2), LogIndex(4));
    assert_eq!(durable(&log, 1), 3);
    let mut retirement = Retirement::default();
    for op in in_flight {
        let event = disk.carry(op);
        log.on_event(Time(0), event, &mut retirement);
    }
    assert_eq!(
        durable(&log, 1),
        3,
        "a late chain vouches for nothing truncated"
    );
    append(&mut log, 1, 2, 4, b"new", Mode::Group);
    settle(&mut log, &mut disk);
    assert_eq!(durable(&log, 1), 4);
    let mut again = start(&mut disk);
    assert_eq!(again.partition(P).expect("there").last, LogIndex(4));
    assert_eq!(read_bodies(&mut again, &mut disk, 4), vec![b"new".to_vec()]);
}

#[test]
fn after_an_error_nothing_retires_any_more() {
    let (_, mut log) = with_partition();
    append(&mut log, 1, 1, 1, b"a", Mode::Strict);
    append(&mut log, 1, 1, 2, b"b", Mode::Strict);
    let mut ops = Vec::new();
    log.poll(Time(0), &mut ops);
    let mut chains = ops.into_iter().filter_map(|op| match op {
        DiskOp::Chain(chain) => Some(chain),
        _ => None,
    });
    let (first, second) = (chains.next().expect("one"), chains.next().expect("two"));
    let mut retirement = Retirement::default();
    for (chain, outcome) in [
        (second, Err(DiskError::Io("bad sector".into()))),
        (first, Ok(())),
    ] {
        let event = DiskEvent::Chain {
            chain: chain.chain,
            log: chain.log,
            ledger: chain.ledger,
            outcome,
        };
        log.on_event(Time(0), event, &mut retirement);
    }
    assert_eq!(durable(&log, 1), 0);
    assert!(retirement.durable.is_empty());
    assert!(matches!(log.admit(1), Err(LogRefusal::Failed(_))));
}

#[test]
fn an_entry_over_the_limit_is_refused_with_the_limit() {
    let (_, log) = with_partition();
    let limit = log.options().entry_body_bytes_max;
    assert_eq!(log.admit(limit), Ok(()));
    assert_eq!(
        log.admit(limit + 1),
        Err(LogRefusal::TooLarge {
            bytes: limit + 1,
            limit
        })
    );
}

#[test]
fn numbers_never_restart() {
    let mut disk = MemoryDisk::default();
    let mut last = (0, 0, 0);
    for _ in 0..4 {
        let log = start(&mut disk);
        let now = (
            log.boot().get(),
            log.current_pair().get(),
            log.retired_chain().get(),
        );
        assert!(now.0 > last.0 && now.1 > last.1 && now.2 > last.2);
        last = now;
        // A boot that is aborted before its opening leaves numbers that are not used again.
        recover(&mut disk);
    }
}

#[test]
#[should_panic(expected = "before the log is open")]
fn nothing_is_truncated_before_the_log_is_open() {
    let mut disk = MemoryDisk::default();
    let mut log = start(&mut disk);
    log.create_partition(P, Incarnation(5), b"voters");
    append(&mut log, 1, 1, 1, b"one", Mode::Group);
    settle(&mut log, &mut disk);
    let mut log = recover(&mut disk).log;
    log.truncate(P, Term(2), LogIndex(1));
}
