//! Faults planted into the simulator's disk do what they say, and everything a crash may leave can be listed.

mod disk_support;

use std::collections::BTreeSet;

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::{
    BootDisk, DiskError, DiskEvent, DiskOp, DurableChain, FileId, FileKind, FlushKind,
};
use clustor_sim::disk::{
    Crash, Fate, FlushFault, Name, Settled, SimDisk, SimDiskOptions, StuckKind, WriteFault,
};
use clustor_sim::log_life::settle::{Coverage, Limits, decisions};
use disk_support::{LEDGER, PAIR, SEGMENT, chain, events, prepare, prepared};

fn first_byte(disk: &mut SimDisk, file: FileId, at: u32) -> u8 {
    let mut into = Blocks::from_heap(1);
    disk.read(file, at, &mut into).expect("readable");
    into.as_slice()[0].0[0]
}

#[test]
fn a_lying_flush_is_reported_as_done_and_a_power_loss_tells() {
    let mut disk = prepared(1);
    disk.fault_next_flush(FileKind::Segment, FlushFault::Lie);
    disk.submit(chain(1, 1, 1));
    disk.run_until_idle();
    assert!(matches!(
        events(&mut disk)[..],
        [DiskEvent::Chain {
            outcome: Ok(()),
            ..
        }]
    ));
    assert_eq!(first_byte(&mut disk, SEGMENT, 1), 1, "the cache holds it");
    // A later flush covers it and saves it no more.
    disk.submit(chain(2, 2, 2));
    disk.run_until_idle();
    disk.crash_with(Crash::Power, Fate::Lost);
    assert_eq!(first_byte(&mut disk, SEGMENT, 1), 0);
    assert_eq!(first_byte(&mut disk, SEGMENT, 2), 2);
    assert_eq!(first_byte(&mut disk, LEDGER, 1), 1);
}

fn through(number: u64, log_block: u32, ledger_block: u32) -> DiskOp {
    match chain(number, log_block, ledger_block) {
        DiskOp::Chain(chain) => DiskOp::Chain(DurableChain {
            flush: FlushKind::Dsync,
            ..chain
        }),
        other => other,
    }
}

#[test]
fn a_write_through_makes_itself_durable_and_nothing_else() {
    let mut overtook = 0;
    for seed in 0..100 {
        let mut disk = prepared(seed);
        disk.submit(chain(1, 1, 1));
        assert!(disk.step(), "the first chain's write");
        assert_eq!(first_byte(&mut disk, SEGMENT, 1), 1);
        let before = disk.counters().flushes;
        disk.submit(through(2, 2, 2));
        while first_byte(&mut disk, LEDGER, 2) != 2 {
            assert!(disk.step());
        }
        // Only where nothing flushed the first chain meanwhile.
        if disk.counters().flushes == before + 2 {
            overtook += 1;
            disk.crash_with(Crash::Power, Fate::Lost);
            assert_eq!(first_byte(&mut disk, SEGMENT, 1), 0);
            assert_eq!(first_byte(&mut disk, SEGMENT, 2), 2);
            assert_eq!(first_byte(&mut disk, LEDGER, 2), 2);
        }
    }
    assert!(overtook > 0);
}

#[test]
fn a_write_through_fails_or_lies_like_a_flush() {
    for (fault, fails) in [(FlushFault::Error, true), (FlushFault::Lie, false)] {
        let mut disk = prepared(3);
        disk.fault_next_flush(FileKind::Segment, fault);
        disk.submit(through(1, 1, 1));
        disk.run_until_idle();
        let [DiskEvent::Chain { outcome, .. }] = &events(&mut disk)[..] else {
            panic!("one chain ends");
        };
        assert_eq!(outcome.is_err(), fails);
        let ledger = if fails { 0 } else { 1 };
        assert_eq!(
            first_byte(&mut disk, LEDGER, 1),
            ledger,
            "behind a failure comes nothing"
        );
        disk.submit(through(2, 2, 2));
        disk.run_until_idle();
        disk.crash_with(Crash::Power, Fate::Lost);
        assert_eq!(first_byte(&mut disk, SEGMENT, 1), 0);
        assert_eq!(first_byte(&mut disk, SEGMENT, 2), 2);
    }
}

#[test]
fn a_write_to_another_file_leaves_its_own_place_alone() {
    let mut disk = prepared(2);
    disk.fault_next_write(FileKind::Segment, WriteFault::MisdirectedFile);
    disk.submit(chain(7, 1, 1));
    while first_byte(&mut disk, LEDGER, 1) != 7 {
        assert!(disk.step());
    }
    assert_eq!(first_byte(&mut disk, SEGMENT, 1), 0);
    let ledger: BTreeSet<u32> = (0..8)
        .filter(|at| first_byte(&mut disk, LEDGER, *at) == 7)
        .collect();
    assert!((1..=2).contains(&ledger.len()), "{ledger:?}");
    assert_eq!(disk.counters().silent_faults, 1);
}

#[test]
fn what_is_stuck_ends_when_it_is_let_go() {
    let mut disk = prepared(3);
    disk.stick_next(StuckKind::Chain);
    disk.submit(chain(1, 1, 1));
    disk.submit(chain(2, 2, 2));
    disk.run_until_idle();
    let done: Vec<_> = events(&mut disk);
    assert_eq!(done.len(), 1);
    assert!(disk.is_stuck());
    assert_eq!(disk.next_due_us(), None);
    disk.unstick();
    disk.run_until_idle();
    assert_eq!(events(&mut disk).len(), 1);
}

#[test]
fn a_disk_fills_up_in_the_middle_of_zeroing() {
    let options = SimDiskOptions {
        first_piece_blocks: 4,
        piece_blocks: 4,
        ..SimDiskOptions::default()
    };
    let mut disk = SimDisk::with_options(4, options);
    disk.set_room_pieces(4); // Creation, the first piece, two more.
    disk.submit(prepare(PAIR, 16));
    disk.run_until_idle();
    let events = events(&mut disk);
    let ready: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            DiskEvent::Prepared {
                segment_blocks_ready,
                ..
            }
            | DiskEvent::Progress {
                segment_blocks_ready,
                ..
            } => Some(*segment_blocks_ready),
            _ => None,
        })
        .collect();
    assert_eq!(ready, [4, 8, 12]);
    assert!(matches!(
        events.first(), // Errors come first.
        Some(DiskEvent::PrepareFailed {
            error: DiskError::Full,
            ..
        })
    ));
}

#[test]
fn a_lost_name_stays_lost() {
    let mut disk = prepared(5);
    disk.crash_with(Crash::Power, Fate::Landed);
    assert!(disk.lose_file(SEGMENT));
    assert!(!disk.lose_file(SEGMENT));
    assert_eq!(disk.file_names(), [LEDGER]);
    disk.crash_with(Crash::Power, Fate::Landed);
    assert_eq!(disk.file_names(), [LEDGER]);
}

#[test]
#[should_panic(expected = "sealed a second time under one salt")]
fn a_disk_that_came_back_as_it_was_must_not_be_sealed_again_under_its_old_salt() {
    let mut disk = prepared(6);
    disk.crash_with(Crash::Power, Fate::Landed);
    let image = disk.image();
    disk.submit(chain(1, 1, 1));
    disk.crash_with(Crash::Power, Fate::Lost);
    disk.restore(image);
    disk.submit(chain(2, 1, 1));
}

const LIMITS: Limits = Limits {
    sectors_max: 1 << 16,
    blocks_max: 1 << 16,
    sample: 4,
};

/// One block in the cache, one on its way: every subset of their sectors is a disk of its own.
#[test]
fn everything_a_power_loss_may_leave_is_listed_once() {
    let mut disk = prepared(7);
    disk.submit(chain(1, 1, 1));
    assert!(disk.step(), "the log write ends");
    let unsettled = disk.unsettled(Crash::Power);
    assert_eq!(unsettled.sectors(), 8);
    let (all, coverage) = decisions(&unsettled, LIMITS, 0);
    assert_eq!((all.len(), coverage), (256, Coverage::Sectors));
    let left: BTreeSet<u64> = all
        .iter()
        .map(|settled| disk.crashed(Crash::Power, settled, 1).fingerprint())
        .collect();
    assert_eq!(left.len(), 256);
    // A kill leaves the cache as it is: nothing is open.
    assert_eq!(disk.unsettled(Crash::Kill).sectors(), 0);
    let (kill, _) = decisions(&disk.unsettled(Crash::Kill), LIMITS, 0);
    let mut killed = disk.crashed(Crash::Kill, &kill[0], 1);
    assert_eq!((kill.len(), first_byte(&mut killed, SEGMENT, 1)), (1, 1));
    killed.crash_with(Crash::Power, Fate::Lost);
    assert_eq!(first_byte(&mut killed, SEGMENT, 1), 0);
}

#[test]
fn names_may_come_back_in_every_state_they_had() {
    let mut disk = SimDisk::new(8);
    disk.submit(prepare(PAIR, 16));
    while disk.file_names().len() < 2 {
        assert!(disk.step());
    }
    let unsettled = disk.unsettled(Crash::Power);
    let names = [(Name::Of(SEGMENT), 2), (Name::Of(LEDGER), 2)];
    assert_eq!(unsettled.names, names);
    let (all, _) = decisions(&unsettled, LIMITS, 0);
    let left: BTreeSet<Vec<FileId>> = all
        .iter()
        .map(|settled| disk.crashed(Crash::Power, settled, 1).file_names())
        .collect();
    assert_eq!(left.len(), 4);
}

#[test]
fn more_than_can_be_counted_is_gone_through_by_blocks_and_then_by_a_sample() {
    let unsettled = |blocks| clustor_sim::disk::Unsettled {
        blocks: vec![0xff; blocks],
        names: Vec::new(),
    };
    let (all, coverage) = decisions(&unsettled(3), LIMITS, 1);
    assert_eq!((all.len(), coverage), (27, Coverage::Blocks));
    let few = Limits {
        sectors_max: 16,
        blocks_max: 16,
        sample: 5,
    };
    let (some, coverage) = decisions(&unsettled(20), few, 1);
    assert_eq!((some.len(), coverage), (7, Coverage::Sample));
    assert!(some.contains(&Settled {
        blocks: vec![0; 20],
        names: Vec::new()
    }));
}
