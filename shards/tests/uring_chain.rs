//! What a carrier does for a chain: which writes, which flushes, in which order.

mod ring_support;

use clustor_shards::buffer::{BLOCK_BYTES, Blocks};
use clustor_shards::disk::{FileId, FlushKind};
use clustor_shards::uring::{ChainStep, ChainSteps};
use clustor_wire::ids::PairNumber;
use ring_support::chain;

fn steps(steps: ChainSteps, flush: FlushKind) -> Vec<ChainStep> {
    let chain = chain(7, 3, 5, Blocks::from_heap(4), 2, Blocks::from_heap(1));
    steps.of(&chain, flush).collect()
}

fn write(file: FileId, blocks: usize, is_durable: bool) -> ChainStep {
    ChainStep::Write {
        file,
        offset: 0,
        bytes: blocks * BLOCK_BYTES,
        is_durable,
    }
}

#[test]
fn the_segment_is_flushed_before_the_ledger_is_written_and_the_ledger_at_the_end() {
    let pair = PairNumber(3);
    let [segment, ledger] = [FileId::segment(pair), FileId::ledger(pair)];
    assert_eq!(
        steps(ChainSteps::Full, FlushKind::Fdatasync),
        [
            write(segment, 4, false),
            ChainStep::Flush { file: segment },
            write(ledger, 1, false),
            ChainStep::Flush { file: ledger },
        ]
    );
    assert_eq!(
        steps(ChainSteps::Full, FlushKind::Dsync),
        [write(segment, 4, true), write(ledger, 1, true)]
    );
}

#[test]
fn a_trailer_is_flushed_and_has_no_ledger() {
    let segment = FileId::segment(PairNumber(3));
    for part in [ChainSteps::Trailer, ChainSteps::WriteFlush] {
        assert_eq!(
            steps(part, FlushKind::Fdatasync),
            [write(segment, 4, false), ChainStep::Flush { file: segment }]
        );
        assert_eq!(steps(part, FlushKind::Dsync), [write(segment, 4, true)]);
    }
    for flush in [FlushKind::Fdatasync, FlushKind::Dsync] {
        assert_eq!(steps(ChainSteps::Write, flush), [write(segment, 4, false)]);
    }
}
