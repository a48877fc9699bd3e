//! Batches for peers: everything for one shard of another node leaves together at the end of a turn.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::turn::PeerId;
use clustor_wire::frame::{FRAME_BODY_BYTES_MAX, Frame, FrameKind};
use clustor_wire::message::{
    BATCH_HEARTBEATS_MAX, BATCH_MESSAGES_MAX, PairBeat, PeerBatch, RaftBody, RaftMessage,
};

use crate::raft::Output;

/// What waits for each peer.
#[derive(Default)]
pub(super) struct Links {
    batches: BTreeMap<PeerId, PeerBatch>,
    /// Who is to get a batch even if it is empty.
    greeted: BTreeSet<PeerId>,
}

impl Links {
    /// Takes what replicas want to say.
    pub fn collect(&mut self, output: &mut Output) {
        for (peer, heartbeat) in output.heartbeats.drain(..) {
            self.batch(peer).heartbeats.push(heartbeat);
        }
        for (peer, ack) in output.heartbeat_acks.drain(..) {
            self.batch(peer).heartbeat_acks.push(ack);
        }
        for (peer, message) in output.messages.drain(..) {
            self.batch(peer).messages.push(message);
        }
    }

    fn batch(&mut self, peer: PeerId) -> &mut PeerBatch {
        self.batches.entry(peer).or_default()
    }

    /// This peer gets a batch in this turn, if only to learn how far the shard has come.
    pub fn greet(&mut self, peer: PeerId) {
        self.batch(peer);
        self.greeted.insert(peer);
    }

    /// A beat for a pair.
    pub fn beat(&mut self, peer: PeerId, beat: PairBeat) {
        self.batch(peer).pair = Some(beat);
    }

    /// Gives back the memory of what has left.
    pub fn give_back(&mut self) {
        self.batches.retain(|_, batch| !is_empty(batch));
    }

    /// Drops everything that waits.
    pub fn forget(&mut self) {
        self.batches.clear();
    }

    /// Sends everything: one frame for each peer, more only where one could not hold it. Each says of the sender what
    /// `head` says of it.
    pub fn flush(
        &mut self,
        head: &PeerBatch,
        output: &mut Output,
        frames: &mut Vec<(PeerId, Frame)>,
    ) {
        for (peer, kept) in &mut self.batches {
            let greeted = self.greeted.remove(peer);
            if is_empty(kept) && !greeted {
                continue;
            }
            let batch = PeerBatch {
                pair: kept.pair.take(),
                heartbeats: core::mem::take(&mut kept.heartbeats),
                heartbeat_acks: core::mem::take(&mut kept.heartbeat_acks),
                messages: core::mem::take(&mut kept.messages),
                ..head.clone()
            };
            let mut waiting = vec![batch];
            while let Some(mut batch) = waiting.pop() {
                if !fits(&batch)
                    && let Some(later) = split(&mut batch, head)
                {
                    waiting.extend([later, batch]);
                    continue;
                }
                frames.extend(framed(&batch).map(|frame| (*peer, frame)));
                for message in batch.messages.drain(..) {
                    if let RaftBody::Append { frames, .. } | RaftBody::Refetched { frames, .. } =
                        message.body
                    {
                        output.give_back(frames);
                    }
                }
                // Its memory is for the next one.
                batch.heartbeats.clear();
                batch.heartbeat_acks.clear();
                batch.pair = None;
                *kept = batch;
            }
        }
    }
}

fn is_empty(batch: &PeerBatch) -> bool {
    batch.messages.is_empty()
        && batch.heartbeats.is_empty()
        && batch.heartbeat_acks.is_empty()
        && batch.pair.is_none()
}

/// Whether one frame holds it.
fn fits(batch: &PeerBatch) -> bool {
    batch.encoded_bytes_max() <= FRAME_BODY_BYTES_MAX
        && batch.messages.len() <= BATCH_MESSAGES_MAX
        && batch.heartbeats.len().max(batch.heartbeat_acks.len()) <= BATCH_HEARTBEATS_MAX
}

/// Whether it carries bytes of entries.
fn is_large(message: &RaftMessage) -> bool {
    match &message.body {
        RaftBody::Append { frames, .. } | RaftBody::Refetched { frames, .. } => !frames.is_empty(),
        _ => false,
    }
}

/// Takes what leaves later out of a batch that one frame does not hold: entries, if there is anything else in it, and half of
/// everything otherwise. `None` if it can't be made smaller.
fn split(batch: &mut PeerBatch, head: &PeerBatch) -> Option<PeerBatch> {
    let mut later = head.clone();
    let large = batch.messages.iter().filter(|m| is_large(m)).count();
    let lists = batch.heartbeats.len() + batch.heartbeat_acks.len() + batch.messages.len();
    if large > 0 && (large < lists || batch.pair.is_some()) {
        let all = core::mem::take(&mut batch.messages);
        (later.messages, batch.messages) = all.into_iter().partition(is_large);
    } else {
        later.heartbeats = half(&mut batch.heartbeats);
        later.heartbeat_acks = half(&mut batch.heartbeat_acks);
        later.messages = half(&mut batch.messages);
    }
    (!is_empty(&later)).then_some(later)
}

fn half<T>(list: &mut Vec<T>) -> Vec<T> {
    list.split_off(list.len().div_ceil(2))
}

fn framed(batch: &PeerBatch) -> Option<Frame> {
    let mut body = Vec::new();
    match batch.encode(&mut body) {
        Ok(()) => Some(Frame {
            kind: FrameKind::PeerBatch,
            body,
        }),
        // Lost, as if the network had dropped it.
        Err(error) => {
            tracing::error!(%error, "a batch for a peer can't be encoded");
            None
        }
    }
}
