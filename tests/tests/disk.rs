//! What the simulator's disk may do to a log, and what it must never do.

mod disk_support;

use std::collections::BTreeSet;

use clustor_shards::buffer::{BLOCK_BYTES, Blocks};
use clustor_shards::disk::{BootDisk, DiskEvent, DiskOp, FileId, FileKind, ReadBlocks};
use clustor_sim::disk::{Crash, Fate, SECTOR_BYTES, SimDisk, SimDiskOptions, WriteFault};
use clustor_wire::ids::PairNumber;
use disk_support::{LEDGER, PAIR, SEGMENT, chain, events, prepare, prepared};

fn block(disk: &mut SimDisk, file: FileId, at: u32) -> Vec<u8> {
    let mut into = Blocks::from_heap(1);
    disk.read(file, at, &mut into).expect("readable");
    into.as_slice()[0].0.to_vec()
}

/// Which of the block's sectors hold `byte`; the others must be zero.
fn sectors_with(disk: &mut SimDisk, file: FileId, at: u32, byte: u8) -> usize {
    block(disk, file, at)
        .chunks(SECTOR_BYTES)
        .filter(|sector| {
            let there = sector.iter().all(|b| *b == byte);
            assert!(there || sector.iter().all(|b| *b == 0), "torn in a sector");
            there
        })
        .count()
}

const WHOLE: usize = BLOCK_BYTES / SECTOR_BYTES;

/// Micro-steps of a lone chain: write, flush issued, flush ended, and the same for the ledger.
const STEPS_OF_CHAIN: usize = 6;

#[test]
fn a_chain_reports_success_after_all_its_steps_and_returns_its_buffers() {
    let mut disk = prepared(1);
    disk.submit(chain(1, 0, 0));
    for _ in 0..STEPS_OF_CHAIN {
        assert!(!disk.has_events());
        assert!(disk.step());
    }
    match &events(&mut disk)[..] {
        [
            DiskEvent::Chain {
                chain,
                log,
                ledger,
                outcome: Ok(()),
            },
        ] => {
            assert_eq!((chain.get(), log.len(), ledger.len()), (1, 1, 1));
        }
        other => panic!("{other:?}"),
    }
    disk.crash_with(Crash::Power, Fate::Lost);
    assert_eq!(sectors_with(&mut disk, SEGMENT, 0, 1), WHOLE);
    assert_eq!(sectors_with(&mut disk, LEDGER, 0, 1), WHOLE);
}

#[test]
fn an_unflushed_write_may_be_there_or_not_or_torn_after_a_power_loss() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = prepared(seed);
        disk.submit(chain(1, 0, 0));
        disk.step();
        disk.crash_with(
            Crash::Power,
            if seed < 100 { Fate::Random } else { Fate::Torn },
        );
        seen.insert(sectors_with(&mut disk, SEGMENT, 0, 1));
    }
    assert!(seen.contains(&0));
    assert!(seen.contains(&WHOLE));
    assert!(seen.len() > 4, "torn in many ways: {seen:?}");
}

#[test]
fn a_kill_keeps_what_was_completed_and_a_later_power_loss_may_take_it() {
    let mut disk = prepared(3);
    disk.submit(chain(1, 0, 0));
    disk.step();
    disk.crash_with(Crash::Kill, Fate::Lost);
    assert_eq!(sectors_with(&mut disk, SEGMENT, 0, 1), WHOLE);
    disk.crash_with(Crash::Power, Fate::Lost);
    assert_eq!(sectors_with(&mut disk, SEGMENT, 0, 1), 0);
}

#[test]
fn a_write_in_flight_at_a_kill_may_land_before_recovery_reads() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = prepared(seed);
        disk.submit(chain(1, 0, 0));
        disk.crash(Crash::Kill);
        seen.insert(sectors_with(&mut disk, SEGMENT, 0, 1));
    }
    assert!(seen.contains(&0) && seen.contains(&WHOLE) && seen.len() > 2);
}

#[test]
fn a_flush_covers_only_what_had_completed_when_it_was_issued() {
    let mut disk = prepared(4);
    disk.submit(chain(1, 0, 0));
    disk.submit(chain(2, 1, 1));
    disk.step_nth(0); // chain 1 written
    disk.step_nth(0); // its flush issued
    disk.step_nth(1); // chain 2 written
    disk.step_nth(0); // the flush of chain 1 ended
    disk.crash_with(Crash::Power, Fate::Lost);
    assert_eq!(sectors_with(&mut disk, SEGMENT, 0, 1), WHOLE);
    assert_eq!(sectors_with(&mut disk, SEGMENT, 1, 2), 0);
}

#[test]
fn no_later_flush_saves_what_a_failed_one_covered() {
    let mut kept_in_view = 0;
    for seed in 0..50 {
        let mut disk = prepared(seed);
        disk.submit(chain(1, 0, 0));
        disk.submit(chain(2, 1, 1));
        disk.step_nth(0);
        disk.step_nth(0);
        disk.fail_next_flush(FileKind::Segment);
        disk.step_nth(0); // chain 1 ends in an error
        disk.run_until_idle(); // chain 2 is flushed, and the same file with it
        match &events(&mut disk)[..] {
            [
                DiskEvent::Chain {
                    outcome: Err(_),
                    chain: first,
                    ..
                },
                DiskEvent::Chain {
                    outcome: Ok(()),
                    chain: second,
                    ..
                },
            ] => assert_eq!((first.get(), second.get()), (1, 2)),
            other => panic!("{other:?}"),
        }
        kept_in_view += usize::from(sectors_with(&mut disk, SEGMENT, 0, 1) == WHOLE);
        disk.crash_with(Crash::Power, Fate::Lost);
        assert_eq!(sectors_with(&mut disk, SEGMENT, 0, 1), 0);
        assert_eq!(sectors_with(&mut disk, SEGMENT, 1, 2), WHOLE);
    }
    assert!(
        kept_in_view > 0 && kept_in_view < 50,
        "sometimes gone at once"
    );
}

#[test]
fn errors_are_handed_out_before_successes_and_a_failed_step_ends_its_chain() {
    let mut disk = prepared(5);
    disk.submit(chain(1, 0, 0));
    disk.submit(chain(2, 1, 1));
    for _ in 0..STEPS_OF_CHAIN {
        disk.step_nth(0);
    }
    disk.fault_next_write(FileKind::Segment, WriteFault::Short);
    disk.step_nth(0);
    let outcomes: Vec<(u64, bool)> = events(&mut disk)
        .iter()
        .map(|event| match event {
            DiskEvent::Chain { chain, outcome, .. } => (chain.get(), outcome.is_ok()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(outcomes, [(2, false), (1, true)]);
    assert_eq!(disk.runnable(), 0, "nothing more of chain 2 is begun");
    assert_eq!(sectors_with(&mut disk, LEDGER, 1, 2), 0);
}

#[test]
fn a_pair_is_there_for_good_once_prepared_and_may_be_half_there_before() {
    let mut halves = 0;
    for seed in 0..300 {
        let mut disk = SimDisk::new(seed);
        disk.submit(prepare(PAIR, 16));
        let steps = seed % 8;
        for _ in 0..steps {
            disk.step();
        }
        let reported = !events(&mut disk).is_empty();
        disk.crash(Crash::Power);
        let pairs = disk.pairs().expect("listed");
        match &pairs[..] {
            [] => assert!(!reported),
            [pair] => {
                let both = pair.segment_bytes.is_some() && pair.ledger_bytes.is_some();
                assert!(both || !reported);
                halves += usize::from(!both);
            }
            more => panic!("{more:?}"),
        }
    }
    assert!(halves > 0);
}

#[test]
fn a_removed_pair_may_come_back_until_the_removal_was_reported() {
    let mut back = 0;
    for seed in 0..100 {
        let mut disk = prepared(seed);
        disk.submit(DiskOp::Remove(PAIR));
        for _ in 0..seed % 5 {
            disk.step();
        }
        let reported = !events(&mut disk).is_empty();
        assert_eq!(reported, seed % 5 == 4);
        disk.crash(Crash::Power);
        let there = !disk.pairs().expect("listed").is_empty();
        assert!(!(there && reported));
        back += usize::from(there && seed % 5 >= 2);
    }
    assert!(back > 0);
}

#[test]
fn a_large_segment_is_ready_in_pieces_that_are_reported() {
    let mut disk = SimDisk::with_options(
        6,
        SimDiskOptions {
            first_piece_blocks: 4,
            piece_blocks: 8,
            ..SimDiskOptions::default()
        },
    );
    disk.submit(prepare(PAIR, 15));
    disk.run_until_idle();
    let ready: Vec<u32> = events(&mut disk)
        .iter()
        .map(|event| match event {
            DiskEvent::Prepared {
                segment_blocks_ready,
                ..
            }
            | DiskEvent::Progress {
                segment_blocks_ready,
                ..
            } => *segment_blocks_ready,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ready, [4, 12, 15]);
}

#[test]
fn a_full_disk_refuses_a_pair_and_keeps_nothing_of_it() {
    let mut disk = prepared(7);
    disk.set_full(true);
    disk.submit(prepare(PairNumber(2), 16));
    disk.run_until_idle();
    assert!(matches!(
        events(&mut disk)[..],
        [DiskEvent::PrepareFailed { .. }]
    ));
    assert_eq!(disk.pairs().expect("listed").len(), 1);
}

#[test]
#[should_panic(expected = "written a second time")]
fn a_block_may_not_be_written_twice() {
    let mut disk = prepared(8);
    disk.submit(chain(1, 0, 0));
    disk.crash(Crash::Kill);
    disk.submit(chain(2, 0, 1));
}

#[test]
#[should_panic(expected = "usable are 0..4 of 16")]
fn a_block_may_not_be_written_before_it_was_reported_ready() {
    let mut disk = SimDisk::with_options(
        9,
        SimDiskOptions {
            first_piece_blocks: 4,
            ..SimDiskOptions::default()
        },
    );
    disk.submit(prepare(PAIR, 16));
    let is_prepared = |event: &DiskEvent| matches!(event, DiskEvent::Prepared { .. });
    while !events(&mut disk).iter().any(is_prepared) {
        disk.step();
    }
    disk.submit(chain(1, 4, 0));
}

#[test]
fn rot_lasts_and_unreadable_sectors_fail_as_often_as_planted() {
    let mut disk = prepared(10);
    disk.submit(chain(1, 0, 0));
    disk.run_until_idle();
    assert_eq!(disk.blocks_at_rest(SEGMENT), [0]);
    assert!(disk.plant_rot(SEGMENT, 0));
    disk.crash(Crash::Power);
    assert_ne!(block(&mut disk, SEGMENT, 0), vec![1; BLOCK_BYTES]);

    assert!(disk.make_unreadable(LEDGER, 0, Some(2)));
    let mut into = Blocks::from_heap(1);
    assert!(disk.read(LEDGER, 0, &mut into).is_err());
    assert!(disk.read(LEDGER, 0, &mut into).is_err());
    assert!(disk.read(LEDGER, 0, &mut into).is_ok());

    assert!(disk.make_unreadable(LEDGER, 1, None));
    disk.submit(DiskOp::Read(ReadBlocks {
        token: 7,
        file: LEDGER,
        block: 0,
        into: Blocks::from_heap(2),
    }));
    disk.run_until_idle();
    match &events(&mut disk)[..] {
        [
            DiskEvent::Chain { .. },
            DiskEvent::Read {
                token: 7,
                outcome: Err(_),
                ..
            },
        ]
        | [
            DiskEvent::Read {
                token: 7,
                outcome: Err(_),
                ..
            },
        ] => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_write_succeeds_and_is_not_there_and_a_misdirected_one_is_elsewhere() {
    let mut disk = prepared(11);
    disk.fault_next_write(FileKind::Ledger, WriteFault::Lost);
    disk.submit(chain(1, 0, 0));
    disk.run_until_idle();
    assert_eq!(sectors_with(&mut disk, SEGMENT, 0, 1), WHOLE);
    assert_eq!(sectors_with(&mut disk, LEDGER, 0, 1), 0);

    disk.fault_next_write(FileKind::Segment, WriteFault::Misdirected);
    disk.submit(chain(2, 1, 1));
    disk.run_until_idle();
    let places: Vec<u32> = (0..16)
        .filter(|at| block(&mut disk, SEGMENT, *at)[0] == 2)
        .collect();
    assert_eq!(places.len(), 1);
    for event in events(&mut disk) {
        assert!(!event.is_error(), "{event:?}");
    }
}

#[test]
fn an_image_brings_back_what_was_durable_when_it_was_taken() {
    let mut disk = prepared(12);
    disk.submit(chain(1, 0, 0));
    disk.run_until_idle();
    disk.submit(chain(2, 1, 1));
    disk.step();
    let image = disk.image();
    disk.run_until_idle();
    disk.crash(Crash::Power);
    disk.restore(image);
    assert_eq!(sectors_with(&mut disk, SEGMENT, 0, 1), WHOLE);
    assert_eq!(sectors_with(&mut disk, SEGMENT, 1, 2), 0);
}

#[test]
fn micro_steps_come_due_in_order_on_the_virtual_clock() {
    let mut disk = prepared(13);
    for number in 1..=4 {
        disk.submit(chain(number, number as u32, number as u32));
    }
    let mut last = 0;
    let mut done = 0;
    while let Some(due) = disk.next_due_us() {
        assert!(due >= last);
        last = due;
        disk.advance_to_us(due);
        done += events(&mut disk).len();
    }
    assert_eq!(done, 4);
    let timing = SimDiskOptions::default().timing;
    assert!(last >= 2 * (timing.write_us.0 + timing.flush_us.0));
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let mut disk = prepared(seed);
        for number in 1..=6 {
            disk.submit(chain(number, number as u32, number as u32));
        }
        for _ in 0..20 {
            disk.step();
        }
        let order: Vec<String> = events(&mut disk).iter().map(|e| format!("{e:?}")).collect();
        disk.crash(Crash::Power);
        let content: Vec<Vec<u8>> = (0..8).map(|at| block(&mut disk, SEGMENT, at)).collect();
        (order, content)
    };
    assert_eq!(run(14), run(14));
    assert_ne!(run(14), run(15));
}
