//! Batches for peers: everything for one shard of another node leaves together at the end of a turn.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::turn::PeerId;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ChainNumber};
use clustor_wire::message::{PairBeat, PeerBatch, RaftBody};

use crate::raft::Output;

/// Entry bytes in one frame; the frame's cap is 4 MiB + 64 KiB.
const FRAME_ENTRY_BYTES_MAX: usize = 3 << 20;
/// Messages in one frame.
const FRAME_MESSAGES_MAX: usize = 4096;

/// What a shard says of itself in each batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    /// Its boot.
    pub boot: BootNumber,
    /// Its highest chain that has retired.
    pub retired_chain: ChainNumber,
    /// What its leases ask of those who hear its heartbeats, in milliseconds.
    pub lease_ms: u32,
    /// Its clock can't be trusted.
    pub clock_alarm: bool,
    /// Its device is slow.
    pub slow_device: bool,
}

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
        self.batches.retain(|_, batch| {
            !batch.messages.is_empty()
                || !batch.heartbeats.is_empty()
                || !batch.heartbeat_acks.is_empty()
                || batch.pair.is_some()
        });
    }

    /// Drops everything that waits.
    pub fn forget(&mut self) {
        self.batches.clear();
    }

    /// Sends everything: one frame for each peer, more only where one could not hold it.
    pub fn flush(
        &mut self,
        sender: Sender,
        output: &mut Output,
        frames: &mut Vec<(PeerId, Frame)>,
    ) {
        for (peer, batch) in &mut self.batches {
            batch.boot = sender.boot;
            batch.retired_chain = sender.retired_chain;
            batch.lease_ms = sender.lease_ms;
            batch.clock_alarm = sender.clock_alarm;
            batch.slow_device = sender.slow_device;
            let mut waiting = core::mem::take(&mut batch.messages).into_iter().peekable();
            loop {
                let mut bytes = 0;
                while let Some(next) = waiting.peek() {
                    let entries = match &next.body {
                        RaftBody::Append { frames, .. } => frames.len(),
                        _ => 0,
                    };
                    let full = batch.messages.len() >= FRAME_MESSAGES_MAX
                        || bytes + entries > FRAME_ENTRY_BYTES_MAX;
                    if full && !batch.messages.is_empty() {
                        break;
                    }
                    bytes += entries;
                    batch.messages.extend(waiting.next());
                }
                let is_empty = batch.messages.is_empty()
                    && batch.heartbeats.is_empty()
                    && batch.heartbeat_acks.is_empty()
                    && batch.pair.is_none();
                if is_empty && !self.greeted.remove(peer) {
                    break;
                }
                self.greeted.remove(peer);
                let mut body = Vec::new();
                match batch.encode(&mut body) {
                    Ok(()) => frames.push((
                        *peer,
                        Frame {
                            kind: FrameKind::PeerBatch,
                            body,
                        },
                    )),
                    // A batch the codec refuses is lost, as if the network had dropped it; the caps here are
                    // below the codec's.
                    Err(error) => tracing::error!(%error, "a batch for a peer can't be encoded"),
                }
                batch.pair = None;
                batch.heartbeats.clear();
                batch.heartbeat_acks.clear();
                for message in batch.messages.drain(..) {
                    if let RaftBody::Append { frames, .. } = message.body {
                        output.give_back(frames);
                    }
                }
            }
        }
    }
}
