//! What the disk brought back: proofs, reads, and what is lost.

use clustor_shards::log::ReadOutcome;
use clustor_shards::log::record::decode_record;
use clustor_shards::log::scrub::LostRun;
use clustor_shards::turn::{Inbox, Time};
use clustor_wire::ids::{LogIndex, PartitionId};

use super::{CoreMesh, ReadFor, ShardCore};
use crate::raft::WantedEntries;
use crate::request::Request;

impl ShardCore {
    pub(super) fn take_disk_events(&mut self, now: Time, inbox: &mut Inbox<Request, CoreMesh>) {
        let was_open = self.shared.log.is_open();
        for event in inbox.disk.drain(..) {
            self.shared
                .log
                .on_event(now, event, &mut self.shared.retirement);
        }
        if !was_open && self.shared.log.is_open() {
            self.touched.extend(self.partitions.ids());
        }
        self.take_proofs(now);
        for outcome in core::mem::take(&mut self.shared.retirement.reads) {
            self.take_read(now, outcome);
        }
        for finding in core::mem::take(&mut self.shared.retirement.scrubbed) {
            tracing::error!(shard = %self.me.shard, "scrub: {finding}");
            for lost in finding.lost {
                self.take_lost(lost.partition, lost.first, lost.last);
            }
        }
        for lost in core::mem::take(&mut self.shared.retirement.lost) {
            let LostRun {
                partition,
                first,
                last,
                ..
            } = lost;
            if self.take_lost(partition, first, last) {
                tell_lost(partition, first, last);
            }
        }
    }

    /// What the log found lost, by itself or when it was asked to read it, is missing. Returns whether any of it was not known to
    /// be: several may have asked for it.
    fn take_lost(&mut self, id: PartitionId, first: LogIndex, last: LogIndex) -> bool {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return false;
        };
        self.touched.insert(id);
        partition.replica.on_missing(first, last)
    }

    fn take_proofs(&mut self, now: Time) {
        for proof in core::mem::take(&mut self.shared.retirement.hard_states) {
            if let Some(partition) = self.partitions.get_mut(&proof.partition()) {
                partition
                    .replica
                    .on_hard_state_durable(&mut self.shared.lend(now), proof);
                self.touched.insert(proof.partition());
            }
        }
        for proof in core::mem::take(&mut self.shared.retirement.exits) {
            if let Some(partition) = self.partitions.get_mut(&proof.partition()) {
                partition.replica.on_exit_durable(proof);
                self.touched.insert(proof.partition());
            }
        }
        for proof in core::mem::take(&mut self.shared.retirement.durable) {
            if let Some(partition) = self.partitions.get_mut(&proof.partition()) {
                partition.replica.on_local_durable(proof);
                self.touched.insert(proof.partition());
            }
        }
    }

    fn take_read(&mut self, now: Time, outcome: ReadOutcome) {
        let Some(asked) = self.shared.reads.remove(&outcome.token) else {
            return;
        };
        if matches!(asked, ReadFor::Peer(_)) {
            self.lagging.ended();
        }
        let id = outcome.partition;
        if !self.partitions.contains(id) {
            return;
        }
        self.touched.insert(id);
        let lost = self
            .shared
            .log
            .partition(id)
            .is_some_and(|log| log.is_missing(outcome.first));
        if lost && self.take_lost(id, outcome.first, outcome.last) {
            tell_lost(id, outcome.first, outcome.last);
        }
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        match (asked, outcome.frames) {
            (ReadFor::Peer(wanted), Some(frames)) => {
                let frames = cut_to_fit(frames, &wanted);
                partition
                    .replica
                    .entries_read(&mut self.shared.lend(now), &wanted, frames);
            }
            (ReadFor::Peer(wanted), None) => {
                partition
                    .replica
                    .entries_unreadable(&mut self.shared.lend(now), &wanted);
            }
            (ReadFor::Machine, frames) => {
                partition.busy.apply_read = None;
                let limit = partition.replica.applicable();
                match frames {
                    Some(frames) => {
                        let answers = &mut self.scratch_answers;
                        let watch = self.stopwatch.as_ref();
                        partition.apply_frames(now, watch, &frames, limit, answers);
                        let id = partition.id;
                        self.answers
                            .extend(answers.drain(..).map(|answer| (id, answer)));
                    }
                    None if lost => {
                        partition.stop_before_lost(
                            now,
                            "an entry that has to be applied can't be read here, and nothing behind it can be",
                        );
                    }
                    // They were replaced meanwhile; those that stand there are asked for in this turn.
                    None => {}
                }
            }
        }
    }
}

fn tell_lost(partition: PartitionId, first: LogIndex, last: LogIndex) {
    tracing::error!(
        %partition, %first, %last,
        "entries can't be read any more: their content is missing here"
    );
}

/// Whole frames of the wanted entries, up to its bytes, at least one.
fn cut_to_fit(mut frames: Vec<u8>, wanted: &WantedEntries) -> Vec<u8> {
    let mut end = 0;
    while let Some(record) = frames.get(end..).filter(|rest| !rest.is_empty())
        && let Ok(record) = decode_record(record)
    {
        let len = record.frame.len();
        let fits = end == 0 || end + len <= wanted.bytes_max;
        if record.header.index > wanted.to || !fits {
            break;
        }
        end += len;
    }
    frames.truncate(end);
    frames
}
