//! A spare that takes longer to make than the log's patience lasts, beside chains that are always in flight.

use clustor_shards::buffer::{BlockPool, SizeClass};
use clustor_shards::disk::DiskEvent;
use clustor_shards::log::record::{RecordKind, decode_record, encode_record};
use clustor_shards::log::{
    Kek, KeyError, KeyProvider, LogIdentity, LogOptions, Mode, Retirement, ShardLog,
};
use clustor_shards::turn::Time;
use clustor_sim::disk::{SimDisk, SimDiskOptions, Timing};
use clustor_wire::ids::{
    ClusterId, Incarnation, LogIndex, NodeId, PairNumber, PartitionId, ShardId, Term,
};

const P: PartitionId = PartitionId(1);

struct Key;

impl KeyProvider for Key {
    fn kek(&self) -> Result<Kek, KeyError> {
        Ok(Kek::new([7; 32].into()))
    }
}

/// Chains that take long, and a spare that is zeroed a block at a time with pauses between.
fn slow() -> SimDisk {
    let timing = Timing {
        flush_us: (20_000, 20_000),
        pause_us: 100_000,
        ..Timing::default()
    };
    let options = SimDiskOptions {
        timing,
        first_piece_blocks: 8,
        piece_blocks: 1,
    };
    SimDisk::with_options(1, options)
}

#[test]
fn a_device_that_goes_on_is_not_taken_for_one_that_hangs() {
    let mut disk = slow();
    let options = LogOptions {
        stuck_io_ms: 200,
        ..LogOptions::for_segment_bytes(1 << 20)
    };
    let identity = LogIdentity {
        cluster: ClusterId(1),
        node: NodeId(1),
        shard: ShardId(0),
    };
    let pool = BlockPool::new(&[SizeClass {
        blocks: 1,
        runs: 64,
    }]);
    let recovered = ShardLog::recover(&mut disk, identity, options, &Key, pool);
    let mut log = recovered.expect("recovers").log;
    let mut retirement = Retirement::default();
    let (mut now_us, mut index) = (1_000_000, 0);
    let mut spare_at = None;
    while log.current_pair() < PairNumber(3) {
        let mut events = Vec::new();
        disk.take_events(&mut events);
        for event in events {
            if matches!(event, DiskEvent::Prepared { pair, .. } if pair == PairNumber(2)) {
                spare_at = Some(now_us);
            }
            log.on_event(Time(now_us), event, &mut retirement);
        }
        assert_eq!(log.failure(), None, "at {now_us} us");
        if log.is_open() {
            if index == 0 {
                log.create_partition(P, Incarnation(5), b"voters");
            }
            while log.chains_in_flight() < 2 && log.admit(100).is_ok() {
                index += 1;
                let mut frame = Vec::new();
                let entry = (RecordKind::Entry, P, Term(1), LogIndex(index));
                encode_record(&mut frame, entry.0, entry.1, entry.2, entry.3, &[7; 100]);
                let record = decode_record(&frame).expect("a record");
                log.append(&record, Mode::Strict);
                let mut ops = Vec::new();
                log.poll(Time(now_us), &mut ops);
                ops.into_iter().for_each(|op| disk.submit(op));
            }
        }
        let mut ops = Vec::new();
        log.poll(Time(now_us), &mut ops);
        ops.into_iter().for_each(|op| disk.submit(op));
        let due = disk.next_due_us().map(|due| due.max(now_us));
        let deadline = log.deadline().map(|time| time.0.max(now_us + 1));
        now_us = due.into_iter().chain(deadline).min().expect("it goes on");
        disk.advance_to_us(now_us);
    }
    let took_us = spare_at.expect("it was made") - 1_000_000;
    assert!(took_us > 400_000, "longer than patience lasts: {took_us}");
}
