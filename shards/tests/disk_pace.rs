//! At what pace the next pair is zeroed.

use clustor_shards::buffer::Blocks;
use clustor_shards::disk::pace::{Pace, Step};
use clustor_shards::disk::{DurableChain, FlushKind, PreparePair};
use clustor_wire::ids::{ChainNumber, PairNumber};

const PAIR: PairNumber = PairNumber(1);
const NEXT: PairNumber = PairNumber(2);
/// Blocks of the pair that is made, both files together.
const ALL: u32 = 1_200;

fn order(pair: PairNumber) -> PreparePair {
    PreparePair {
        pair,
        segment_blocks: 1_000,
        ledger_blocks: 200,
    }
}

fn chain(pair: PairNumber, log: (u32, usize), slot: u32) -> DurableChain {
    DurableChain {
        chain: ChainNumber(1),
        pair,
        log_block: log.0,
        log: Blocks::from_heap(log.1),
        ledger_block: slot,
        ledger: Blocks::from_heap(1),
        flush: FlushKind::Fdatasync,
    }
}

/// Pair 1 is filled up to this block.
fn filled_to(block: u32) -> Pace {
    let mut pace = Pace::default();
    pace.made(order(PAIR));
    pace.note(&chain(PAIR, (0, 1), 0));
    pace.note(&chain(PAIR, (block - 1, 1), 1));
    pace
}

#[test]
fn a_pair_that_the_log_waits_for_is_made_in_a_hurry() {
    let mut pace = Pace::default();
    assert_eq!(pace.step(PAIR, (0, ALL), false), Step::Hurry, "a start");
    pace.made(order(PAIR));
    assert_eq!(pace.step(PAIR, (256, ALL), true), Step::Hurry, "in place");
    pace.note(&chain(PAIR, (0, 3), 0));
    assert_eq!(pace.step(PAIR, (256, ALL), true), Step::Hurry, "opened");
    assert_eq!(pace.step(NEXT, (0, ALL), false), Step::Next(8));
    // It ends early.
    pace.failed(PAIR);
    assert_eq!(pace.step(NEXT, (0, ALL), true), Step::Hurry);
}

#[test]
fn the_next_pair_is_whole_when_three_quarters_are_used() {
    for (used, line) in [(100, 160), (500, 800), (749, 1_199)] {
        let pace = filled_to(used);
        let due = |done| match pace.step(NEXT, (done, ALL), true) {
            Step::Next(due) => due,
            Step::Pause => 0,
            Step::Hurry => panic!("{used}: there is time"),
        };
        assert!(due(0).abs_diff(line) <= 1, "{used}: {}", due(0));
        assert_eq!(due(line + 1), 0);
        assert_eq!(due(ALL), 0);
    }
    assert_eq!(filled_to(751).step(NEXT, (0, ALL), true), Step::Hurry);
    // Whichever file is fuller counts.
    let mut pace = filled_to(10);
    pace.note(&chain(PAIR, (10, 1), 99));
    assert_eq!(pace.step(NEXT, (0, ALL), true), Step::Next(800));
}

#[test]
fn nobody_is_spared_where_no_chain_is_in_flight() {
    let pace = filled_to(10);
    assert_eq!(pace.step(NEXT, (500, ALL), true), Step::Pause);
    assert_eq!(pace.step(NEXT, (500, ALL), false), Step::Next(0));
}

#[test]
fn chains_of_other_pairs_say_nothing() {
    let mut pace = filled_to(10);
    pace.note(&chain(PairNumber(9), (900, 4), 190));
    assert_eq!(pace.step(NEXT, (500, ALL), true), Step::Pause);
    // The next is opened: the one behind it has all the time again.
    pace.made(order(NEXT));
    pace.note(&chain(NEXT, (0, 4), 0));
    assert_eq!(pace.step(PairNumber(3), (500, ALL), true), Step::Pause);
}
