//! When a start may be silent: not for a slot that was never used, where nothing lies that could be lost.

use clustor_shards::buffer::{Block, Blocks};
use clustor_shards::disk::{BootDisk, FileId};
use clustor_shards::log::RecoverError;
use clustor_shards::log::inspect::{PairView, Selection, SlotView, inspect};
use clustor_wire::ids::PairNumber;

use super::{FixedKey, IDENTITY, Shard};

impl Shard {
    /// Whether all that was ever damaged is a slot to which nothing was written, and behind what the slots before it speak of the segment
    /// is zeros: so that no chain of that slot can have retired.
    pub(super) fn is_nothing_lost(&mut self) -> bool {
        let Some((pair, block)) = self.untouched_slot.filter(|_| self.faults().damage == 1) else {
            return false;
        };
        self.view(pair)
            .is_some_and(|view| self.is_blank_behind(&view, block))
    }

    fn view(&mut self, pair: PairNumber) -> Option<PairView> {
        let mut found = None;
        let selection = Selection {
            pair: Some(pair),
            ..Selection::ALL
        };
        inspect(&mut self.disk, IDENTITY, &FixedKey, &selection, |view| {
            found = Some(view);
            Ok::<_, RecoverError>(())
        })
        .ok()?;
        found
    }

    fn is_blank_behind(&mut self, view: &PairView, slot_block: u32) -> bool {
        let Some(header) = &view.header else {
            return false;
        };
        let Some(number) = slot_block.checked_sub(header.body_block()) else {
            return false;
        };
        let mut end = header.body_block();
        for chain in &view.chains {
            if chain.chain.get() - header.first_chain.get() >= u64::from(number) {
                break;
            }
            let blocks = match (&chain.slot, &chain.extent) {
                (SlotView::Good(slot, _), _) => slot.blocks,
                (_, Some(extent)) => extent.header.blocks,
                _ => return false,
            };
            end = chain.first_block + blocks;
        }
        (end..header.segment_blocks.saturating_sub(1)).all(|block| {
            let mut one = Blocks::from_heap(1);
            let read = self.disk.read(FileId::segment(view.pair), block, &mut one);
            read.is_ok() && one.as_slice()[0].0 == Block::ZERO.0
        })
    }
}
