//! A segment that becomes another pair's: what it held never counts, whatever it was sealed with.

mod support;

use clustor_shards::buffer::Block;
use clustor_shards::disk::{DiskError, DiskEvent, DiskOp, FileId, RetirePair, SPARE_ZERO_BLOCKS};
use clustor_shards::log::format::{LogFormat, Suite};
use clustor_shards::log::inspect::{Judgement, PairView};
use clustor_shards::log::{LogOptions, Mode, Recovery, Retirement, ShardLog};
use clustor_shards::turn::Time;
use clustor_wire::ids::{Incarnation, LogIndex, PairNumber, PartitionId};
use support::{MemoryDisk, TestKey, append, durable, identity, options, pool, settle, views};

const P: PartitionId = PartitionId(1);

/// Every suite that this build has.
fn suites() -> impl Iterator<Item = LogOptions> {
    let sealed = |sealing| LogFormat {
        sealing,
        ..LogFormat::default()
    };
    let had = Suite::ALL.into_iter();
    had.filter(|suite| suite.check_available().is_ok())
        .map(move |suite| LogOptions {
            ledger_slots: 48,
            ..options().with_format(sealed(suite))
        })
}

fn recover_with(disk: &mut MemoryDisk, options: LogOptions) -> Recovery {
    ShardLog::recover(disk, identity(), options, &TestKey(9), pool()).expect("recovers")
}

fn started(disk: &mut MemoryDisk, options: LogOptions) -> ShardLog {
    let mut log = recover_with(disk, options).log;
    settle(&mut log, disk);
    assert!(log.is_open());
    log
}

/// Appends up to `last`, in chains of their own.
fn fill(log: &mut ShardLog, disk: &mut MemoryDisk, from: u64, last: u64) {
    for index in from..=last {
        append(log, 1, 1, index, &vec![index as u8; 3000], Mode::Strict);
        settle(log, disk);
    }
}

/// Turns until the log asks for nothing, time going on between them; the pairs that were retired.
fn reclaim(log: &mut ShardLog, disk: &mut MemoryDisk) -> Vec<RetirePair> {
    let mut retired = Vec::new();
    let mut retirement = Retirement::default();
    for ms in 0..2_000 {
        let now = Time(0).plus_ms(ms);
        let mut ops = Vec::new();
        log.poll(now, &mut ops);
        for op in ops {
            if let DiskOp::Retire(order) = &op {
                retired.push(*order);
            }
            let event = disk.carry(op);
            log.on_event(now, event, &mut retirement);
        }
    }
    retired
}

fn newest(disk: &mut MemoryDisk) -> PairView {
    let mut views = views(disk);
    views.retain(|view| view.header.is_some());
    views.pop().expect("a pair")
}

/// Fills pairs and lets them go, until one is opened in a recycled segment; the index up to which was appended.
fn until_recycled(log: &mut ShardLog, disk: &mut MemoryDisk) -> u64 {
    let mut last = 0;
    for _ in 0..200 {
        last += 1;
        fill(log, disk, last, last);
        log.set_floor(P, LogIndex(last.saturating_sub(4)));
        reclaim(log, disk);
        if newest(disk).header.is_some_and(|header| header.recycled) {
            return last;
        }
    }
    panic!("no segment was recycled");
}

#[test]
fn a_recycled_segment_is_not_zero_and_says_so_and_nothing_old_in_it_counts() {
    for options in suites() {
        let mut disk = MemoryDisk::default();
        let mut log = started(&mut disk, options);
        log.create_partition(P, Incarnation(5), b"voters");
        let last = until_recycled(&mut log, &mut disk);
        let view = newest(&mut disk);
        let written = view.chains.last().expect("the opening").first_block as usize + 1;
        let segment = disk.file(FileId::segment(view.pair));
        let old = segment[written..segment.len() - 1].iter();
        assert!(old.filter(|block| block.0 != Block::ZERO.0).count() > 10);
        assert!(
            view.chains
                .iter()
                .all(|chain| chain.judgement == Judgement::Proven),
            "{:?}: {:?}",
            options.format.sealing,
            view.chains
        );
        let recovery = recover_with(&mut disk, options);
        assert_eq!(recovery.report.incidents, vec![]);
        assert_eq!(
            recovery.report.torn, None,
            "old blocks are no unfinished write"
        );
        assert_eq!(recovery.report.missing, 0);
        let mut log = recovery.log;
        settle(&mut log, &mut disk);
        assert_eq!(durable(&log, 1), last);
    }
}

#[test]
fn while_a_pair_that_is_to_go_is_read_the_log_asks_for_no_turns_and_then_it_goes() {
    let mut disk = MemoryDisk::default();
    let mut log = started(&mut disk, options());
    log.create_partition(P, Incarnation(5), b"voters");
    let mut last = 0;
    while log.older_pairs().is_empty() {
        last += 1;
        fill(&mut log, &mut disk, last, last);
    }
    let oldest = log.older_pairs()[0].pair;
    let mut reads = Vec::new();
    log.read(P, LogIndex(1), &mut reads).expect("it is there");
    log.set_floor(P, LogIndex(last));
    let retired = reclaim(&mut log, &mut disk);
    assert_eq!(retired, vec![], "its read is still in flight");
    let now = Time(0).plus_ms(2_000);
    log.poll(now, &mut Vec::new());
    let due = log.deadline();
    assert!(due.is_none_or(|at| at > now.plus_ms(100)), "{due:?}");

    let mut retirement = Retirement::default();
    for op in reads {
        log.on_event(now, disk.carry(op), &mut retirement);
    }
    let mut ops = Vec::new();
    log.poll(now, &mut ops);
    let goes = |op: &DiskOp| matches!(op, DiskOp::Retire(order) if order.pair == oldest);
    assert!(ops.iter().any(goes), "{ops:?}");
}

#[test]
fn blocks_of_the_same_pair_and_place_under_another_salt_count_for_nothing() {
    for options in suites() {
        let mut disk = MemoryDisk::default();
        let mut log = started(&mut disk, options);
        log.create_partition(P, Incarnation(5), b"voters");
        fill(&mut log, &mut disk, 1, 2);
        drop(log);
        // A boot whose disk comes back as it was before: the next one takes the same number of a pair.
        let image = disk.clone();
        let mut log = started(&mut disk, options);
        fill(&mut log, &mut disk, 3, 5);
        let first = newest(&mut disk);
        let left = disk.file(FileId::segment(first.pair)).clone();
        let mut disk = MemoryDisk {
            salts: 100,
            kept: vec![left],
            ..image
        };
        let mut log = started(&mut disk, options);
        let second = newest(&mut disk);
        let (before, header) = (first.header.expect("whole"), second.header.expect("whole"));
        assert_eq!(second.pair, first.pair);
        assert_ne!(header.salt, before.salt);
        assert!(header.recycled);
        assert_eq!(
            header.first_chain, before.first_chain,
            "and the same chains"
        );
        assert!(second.chains.len() < first.chains.len());
        fill(&mut log, &mut disk, 3, 3);
        let recovery = recover_with(&mut disk, options);
        assert_eq!(recovery.report.incidents, vec![]);
        assert_eq!((recovery.report.torn, recovery.report.missing), (None, 0));
        let mut log = recovery.log;
        settle(&mut log, &mut disk);
        assert_eq!(durable(&log, 1), 3, "{:?}", options.format.sealing);
    }
}

#[test]
fn a_recycled_spare_whose_ledger_lost_its_name_was_never_spoken_for() {
    let mut disk = MemoryDisk::default();
    let mut log = started(&mut disk, options());
    log.create_partition(P, Incarnation(5), b"voters");
    until_recycled(&mut log, &mut disk);
    let chosen = newest(&mut disk).pair;
    let spare = PairNumber(chosen.get() + 1);
    let old = disk.file(FileId::segment(chosen)).clone();
    let segment = disk.file(FileId::segment(spare));
    let (front, end) = (SPARE_ZERO_BLOCKS as usize, segment.len() - 1);
    segment[front..end].copy_from_slice(&old[front..end]);
    disk.files.remove(&FileId::ledger(spare));
    let recovery = recover_with(&mut disk, options());
    assert_eq!(recovery.report.chosen, Some(chosen));
    assert_eq!(recovery.log.quarantine(), None);
    // One all of whose front was written to had been opened: its state is lost with its ledger and its header.
    for block in 0..SPARE_ZERO_BLOCKS {
        assert_eq!(recover_with(&mut disk, options()).log.quarantine(), None);
        // A bit that turned over makes no written block.
        disk.flip(FileId::segment(spare), block, 77);
        assert_eq!(recover_with(&mut disk, options()).log.quarantine(), None);
        disk.file(FileId::segment(spare))[block as usize]
            .0
            .fill(0x5a);
    }
    let recovery = recover_with(&mut disk, options());
    assert!(recovery.log.quarantine().is_some());
}

#[test]
fn segments_are_kept_of_the_profiles_size_and_none_while_the_disk_fills() {
    let mut disk = MemoryDisk::default();
    let mut log = started(&mut disk, options());
    log.create_partition(P, Incarnation(5), b"voters");
    let blocks = options().segment_blocks;
    let retired = |log: &mut ShardLog, disk: &mut MemoryDisk, from: u64| {
        fill(log, disk, from, from + 199);
        log.set_floor(P, LogIndex(from + 190));
        let retired = reclaim(log, disk);
        assert!(!retired.is_empty());
        retired
    };
    for order in retired(&mut log, &mut disk, 1) {
        assert_eq!((order.keep_blocks, order.kept_max), (Some(blocks), 2));
    }
    assert_eq!(disk.kept.len(), 2);
    let mut fewer = options();
    fewer.kept_segments_max = 1;
    log.retune(&fewer);
    for order in retired(&mut log, &mut disk, 201) {
        assert_eq!(order.kept_max, 1);
    }
    assert!(disk.kept.len() <= 1);
    let event = clustor_shards::disk::DiskEvent::Used { percent: 85 };
    log.on_event(Time(0), event, &mut Retirement::default());
    for order in retired(&mut log, &mut disk, 401) {
        assert_eq!(order.kept_max, 0);
    }
    assert_eq!(disk.kept.len(), 0, "what was kept is given back");
}

/// A log with two kept segments.
fn with_two_kept(disk: &mut MemoryDisk) -> ShardLog {
    let mut log = started(disk, options());
    log.create_partition(P, Incarnation(5), b"voters");
    fill(&mut log, disk, 1, 200);
    log.set_floor(P, LogIndex(190));
    reclaim(&mut log, disk);
    assert_eq!(disk.kept.len(), 2);
    log
}

fn used(log: &mut ShardLog, percent: u8) {
    let event = DiskEvent::Used { percent };
    log.on_event(Time(0), event, &mut Retirement::default());
}

#[test]
fn what_is_kept_is_given_back_once_when_the_disk_fills_up_though_no_pair_goes() {
    let mut disk = MemoryDisk::default();
    let mut log = with_two_kept(&mut disk);
    used(&mut log, 79);
    assert_eq!(reclaim(&mut log, &mut disk), []);
    let files = disk.files.len();
    used(&mut log, 80);
    assert_eq!(
        reclaim(&mut log, &mut disk),
        [RetirePair::give_back(0)],
        "from disk_soft_percent on"
    );
    assert!(disk.kept.is_empty());
    assert_eq!(disk.files.len(), files, "nothing else goes");
    for percent in [81, 95, 70] {
        used(&mut log, percent);
        assert_eq!(reclaim(&mut log, &mut disk), [], "there is nothing more");
    }
    used(&mut log, 90);
    assert_eq!(reclaim(&mut log, &mut disk), [RetirePair::give_back(0)]);
    assert!(log.failure().is_none());
}

#[test]
fn a_start_on_a_full_disk_gives_back_what_it_kept() {
    let mut disk = MemoryDisk::default();
    drop(with_two_kept(&mut disk));
    let mut log = recover_with(&mut disk, options()).log;
    used(&mut log, 95);
    let retired = reclaim(&mut log, &mut disk);
    assert!(retired.contains(&RetirePair::give_back(0)), "{retired:?}");
    assert!(log.is_open());
    assert!(disk.kept.is_empty());
}

#[test]
fn a_spare_is_made_of_what_is_kept_before_that_is_given_back() {
    let mut disk = MemoryDisk::default();
    let mut log = with_two_kept(&mut disk);
    let mut retirement = Retirement::default();
    // Chains go down until a spare is asked for; it is not answered.
    let mut ask = None;
    let mut last = 200;
    while ask.is_none() {
        last += 1;
        append(&mut log, 1, 1, last, &[last as u8; 3000], Mode::Strict);
        loop {
            let mut ops = Vec::new();
            log.poll(Time(0), &mut ops);
            if ops.is_empty() {
                break;
            }
            for op in ops {
                if let DiskOp::Prepare(_) = &op {
                    ask = Some(op);
                } else {
                    let event = disk.carry(op);
                    log.on_event(Time(0), event, &mut retirement);
                }
            }
        }
    }
    used(&mut log, 95);
    assert_eq!(
        reclaim(&mut log, &mut disk),
        [],
        "the spare may be made of it"
    );
    let event = disk.carry(ask.expect("asked for"));
    let recycled = matches!(event, DiskEvent::Prepared { recycled: true, .. });
    assert!(recycled, "{event:?}");
    log.on_event(Time(0), event, &mut retirement);
    let retired = reclaim(&mut log, &mut disk);
    assert!(retired.contains(&RetirePair::give_back(0)), "{retired:?}");
    assert!(disk.kept.is_empty());
}

#[test]
fn what_is_kept_is_given_back_where_a_spare_finds_no_space() {
    let mut disk = MemoryDisk::default();
    let mut log = with_two_kept(&mut disk);
    // Of another size than what is kept.
    for kept in &mut disk.kept {
        kept.push(Block::ZERO);
    }
    let mut retirement = Retirement::default();
    let mut last = 200;
    let mut failed = false;
    while !failed {
        last += 1;
        append(&mut log, 1, 1, last, &[last as u8; 3000], Mode::Strict);
        let mut ops = Vec::new();
        loop {
            log.poll(Time(0), &mut ops);
            if ops.is_empty() {
                break;
            }
            for op in ops.drain(..) {
                let event = match op {
                    DiskOp::Prepare(order) => {
                        failed = true;
                        DiskEvent::PrepareFailed {
                            pair: order.pair,
                            error: DiskError::Full,
                        }
                    }
                    op => disk.carry(op),
                };
                log.on_event(Time(0), event, &mut retirement);
            }
        }
    }
    assert_eq!(log.spare_failure(), Some(&DiskError::Full));
    used(&mut log, 100);
    let retired = reclaim(&mut log, &mut disk);
    assert!(retired.contains(&RetirePair::give_back(0)), "{retired:?}");
    assert_eq!(log.spare_failure(), None, "it was tried again");
}

/// The first operations of a start, before anything has been answered.
fn first_of(disk: &mut MemoryDisk, options: LogOptions) -> Vec<DiskOp> {
    let mut ops = Vec::new();
    recover_with(disk, options).log.poll(Time(0), &mut ops);
    ops
}

#[test]
fn a_start_takes_the_spare_of_an_earlier_one_for_its_own_pair() {
    for options in suites() {
        let mut disk = MemoryDisk::default();
        let mut log = started(&mut disk, options);
        log.create_partition(P, Incarnation(5), b"voters");
        fill(&mut log, &mut disk, 1, 5);
        drop(log);
        let chosen = newest(&mut disk).pair;
        let spare = PairNumber(chosen.get() + 1);
        assert!(disk.files.contains_key(&FileId::segment(spare)));
        // What lies in a segment, whoever left it there, is not taken for anything.
        let end = disk.file(FileId::segment(spare)).len() - 1;
        let old = disk.file(FileId::segment(chosen)).clone();
        disk.file(FileId::segment(spare))[SPARE_ZERO_BLOCKS as usize..end]
            .copy_from_slice(&old[SPARE_ZERO_BLOCKS as usize..end]);
        let ops = first_of(&mut disk, options);
        let [DiskOp::Retire(order)] = &ops[..] else {
            panic!("the spare is kept before a pair is asked for: {ops:?}");
        };
        assert_eq!(order.pair, spare);
        assert_eq!(order.keep_blocks, Some(options.segment_blocks));
        let mut log = started(&mut disk, options);
        let own = newest(&mut disk);
        assert!(own.pair > spare);
        assert!(own.header.expect("whole").recycled);
        assert!(!disk.files.contains_key(&FileId::ledger(spare)));
        fill(&mut log, &mut disk, 6, 8);
        drop(log);
        let recovery = recover_with(&mut disk, options);
        assert_eq!(recovery.report.incidents, vec![]);
        assert_eq!((recovery.report.torn, recovery.report.missing), (None, 0));
        let mut log = recovery.log;
        settle(&mut log, &mut disk);
        assert_eq!(durable(&log, 1), 8);
    }
}

#[test]
fn a_start_that_may_keep_nothing_or_finds_another_size_leaves_the_spare_until_it_has_opened() {
    let mut disk = MemoryDisk::default();
    drop(started(&mut disk, options()));
    let none = LogOptions {
        kept_segments_max: 0,
        ..options()
    };
    let larger = LogOptions {
        segment_blocks: options().segment_blocks * 2,
        ..options()
    };
    for options in [none, larger] {
        let ops = first_of(&mut disk.clone(), options);
        assert!(matches!(&ops[..], [DiskOp::Prepare(_)]), "{ops:?}");
    }
}

#[test]
fn an_opening_that_nobody_spoke_for_stays_until_the_boot_has_opened_its_own() {
    let mut disk = MemoryDisk::default();
    let mut log = started(&mut disk, options());
    log.create_partition(P, Incarnation(5), b"voters");
    fill(&mut log, &mut disk, 1, 5);
    drop(log);
    let chosen = newest(&mut disk).pair;
    // A boot that ends between its opening and its mark.
    let mut log = recover_with(&mut disk, options()).log;
    let mut opened = None;
    while opened.is_none() {
        let mut ops = Vec::new();
        log.poll(Time(0), &mut ops);
        for op in ops {
            if let DiskOp::Chain(chain) = &op {
                opened = Some(chain.pair);
            }
            let event = disk.carry(op);
            log.on_event(Time(0), event, &mut Retirement::default());
        }
    }
    drop(log);
    let opened = opened.expect("an opening");
    // And one whose opening was torn: it has no header, and its ledger was not begun.
    let mut torn = disk.clone();
    for block in torn.files.get_mut(&FileId::ledger(opened)).expect("there") {
        *block = Block::ZERO;
    }
    torn.files.get_mut(&FileId::segment(opened)).expect("there")[0].0[512..].fill(0);
    for mut disk in [disk, torn] {
        let recovery = recover_with(&mut disk, options());
        assert_eq!(recovery.report.chosen, Some(chosen));
        drop(recovery);
        for op in first_of(&mut disk, options()) {
            assert!(
                !matches!(&op, DiskOp::Retire(order) if order.pair == opened),
                "half removed, it would look like one that spoke: {op:?}"
            );
        }
        let log = started(&mut disk, options());
        assert_eq!(durable(&log, 1), 5);
        assert!(!disk.files.contains_key(&FileId::segment(opened)));
    }
}

/// Fills pairs until four are closed, then puts all of them to rest; how the oldest was retired, and how another was.
fn retired_of(log: &mut ShardLog, disk: &mut MemoryDisk, mut last: u64) -> [RetirePair; 2] {
    while log.older_pairs().len() < 4 {
        last += 1;
        fill(log, disk, last, last);
    }
    let oldest = log.older_pairs()[0].pair;
    log.set_floor(P, LogIndex(last));
    let retired = reclaim(log, disk);
    let is_oldest = |order: &&RetirePair| order.pair == oldest;
    let order = retired.iter().find(is_oldest).expect("it goes");
    let other = retired.iter().find(|order| !is_oldest(order));
    [*order, *other.expect("so does the next")]
}

#[test]
fn a_segment_whose_zeroing_failed_is_not_kept() {
    let mut disk = MemoryDisk::default();
    let options = options();
    let mut log = recover_with(&mut disk, options).log;
    let mut retirement = Retirement::default();
    let mut ops = Vec::new();
    log.poll(Time(0), &mut ops);
    let order = ops.pop().expect("a pair is asked for");
    let mut event = disk.carry(order);
    let DiskEvent::Prepared {
        pair: cut,
        segment_blocks_ready,
        ..
    } = &mut event
    else {
        panic!("{event:?}");
    };
    let cut = *cut;
    *segment_blocks_ready /= 2;
    log.on_event(Time(0), event, &mut retirement);
    settle(&mut log, &mut disk);
    assert!(log.is_open() && log.current_pair() == cut);
    let bad = DiskEvent::PrepareFailed {
        pair: cut,
        error: DiskError::Io("a sector is bad".to_owned()),
    };
    log.on_event(Time(0), bad, &mut retirement);
    log.create_partition(P, Incarnation(5), b"voters");
    let [order, other] = retired_of(&mut log, &mut disk, 0);
    assert_eq!((order.pair, order.keep_blocks), (cut, None));
    assert_eq!(other.keep_blocks, Some(options.segment_blocks));
}

#[test]
fn a_segment_that_a_crash_left_half_zeroed_is_not_kept() {
    let mut disk = MemoryDisk::default();
    let options = options();
    let mut log = started(&mut disk, options);
    log.create_partition(P, Incarnation(5), b"voters");
    fill(&mut log, &mut disk, 1, 3);
    let left = log.current_pair();
    drop(log);
    disk.unwritten = vec![FileId::segment(left)];
    let mut log = started(&mut disk, options);
    let [order, other] = retired_of(&mut log, &mut disk, 3);
    assert_eq!((order.pair, order.keep_blocks), (left, None));
    assert_eq!(other.keep_blocks, Some(options.segment_blocks));
}

#[test]
fn a_spare_that_an_error_left_too_small_is_made_anew_after_a_while() {
    let mut disk = MemoryDisk::default();
    let mut log = recover_with(&mut disk, options()).log;
    let mut retirement = Retirement::default();
    let mut ops = Vec::new();
    log.poll(Time(0), &mut ops);
    let mut event = disk.carry(ops.pop().expect("a pair is asked for"));
    let DiskEvent::Prepared {
        pair,
        segment_blocks_ready,
        ..
    } = &mut event
    else {
        panic!("{event:?}");
    };
    let pair = *pair;
    *segment_blocks_ready = 1;
    log.on_event(Time(0), event, &mut retirement);
    let bad = DiskEvent::PrepareFailed {
        pair,
        error: DiskError::Io("a sector is bad".to_owned()),
    };
    log.on_event(Time(0), bad, &mut retirement);
    log.poll(Time(0), &mut ops);
    assert!(
        matches!(&ops[..], [DiskOp::Remove(removed)] if *removed == pair),
        "{ops:?}"
    );
    log.on_event(Time(0), disk.carry(ops.remove(0)), &mut retirement);
    let retry = log.deadline().expect("it is tried again");
    log.poll(retry, &mut ops);
    assert!(retry > Time(0));
    assert!(matches!(&ops[..], [DiskOp::Prepare(_)]), "{ops:?}");
}
