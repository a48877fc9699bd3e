//! What a log vouches for after a truncation, whatever batch the record of it falls into.

use clustor_shards::log::options::SEGMENT_BLOCKS_MIN;
use clustor_shards::log::{LogOptions, Mode};
use clustor_sim::disk::SimDisk;
use clustor_sim::log_life::Shard;
use clustor_wire::ids::{LogIndex, PartitionId, Term};

/// An open shard with one empty partition.
fn open_shard() -> (Shard, LogOptions) {
    let options = LogOptions::for_segment_bytes(u64::from(SEGMENT_BLOCKS_MIN) * 4096);
    let mut shard = Shard::new(SimDisk::new(1), options);
    shard.boot().expect("an empty disk boots");
    shard.settle().expect("it opens");
    shard.create(PartitionId(1));
    shard.turn().expect("holds");
    shard.settle().expect("it settles");
    (shard, options)
}

/// The entry that is removed fills its batch, so that the truncation opens the next one; the same entry is
/// appended again behind it. The first chain to retire must not vouch for the second copy.
#[test]
fn a_full_open_batch_vouches_for_nothing_that_a_truncation_removes() {
    let (mut shard, options) = open_shard();
    let partition = PartitionId(1);
    assert!(shard.append(partition, Term(1), options.batch_bytes_max, Mode::Group));
    shard.truncate(partition, Term(1), LogIndex(1));
    let truncated_at = shard.history.len();
    assert!(shard.append(partition, Term(1), 8, Mode::Group));
    shard.turn().expect("holds");
    while shard.history.spoken_until() < truncated_at && shard.disk.runnable() > 0 {
        shard.disk.step_nth(0);
        shard.turn().expect("holds");
        let spoken = shard.history.spoken_until();
        assert!(
            spoken <= truncated_at || shard.disk.runnable() == 0,
            "vouched for decision {spoken} before its chain could retire"
        );
    }
}
