//! What peers say: their hellos, batches and sessions.

use clustor_shards::turn::{Inbox, PeerEvent, PeerId, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::Incarnation;
use clustor_wire::message::{PeerBatch, PeerHello, RaftBody, RaftMessage};

use super::{CoreMesh, ShardCore};
use crate::raft::AuthenticatedPeer;
use crate::request::Request;

impl ShardCore {
    /// What peers hold against this disk is judged before anything they ask of it.
    pub(super) fn take_hellos(&mut self, inbox: &Inbox<Request, CoreMesh>) {
        for event in &inbox.peers {
            if let PeerEvent::Frame(from, frame) = event
                && let Some(hello) = hello_in(frame)
            {
                self.judge_hello(*from, &hello);
            }
        }
    }

    pub(super) fn take_peer_events(&mut self, now: Time, inbox: &mut Inbox<Request, CoreMesh>) {
        for event in inbox.peers.drain(..) {
            let from = AuthenticatedPeer::of(&event);
            match (event, from) {
                (PeerEvent::Up(peer), _) => {
                    self.peers.forget_session(peer);
                    for partition in self.partitions.all_mut() {
                        partition.replica.peer_up(peer);
                        if partition.replica.is_leader() && partition.filed_quiet.is_none() {
                            self.touched.insert(partition.id);
                        }
                    }
                }
                (PeerEvent::Down(peer), _) => {
                    self.peers.forget_session(peer);
                    if !self.addresses.is_named(peer) {
                        self.shared.heard.remove(&peer);
                        self.pairs.forget(peer);
                    }
                }
                (PeerEvent::Frame(peer, frame), _) if frame.kind == FrameKind::PeerHello => {
                    if let Some(hello) = hello_in(&frame) {
                        let named = self.addresses.is_named(peer);
                        self.peers.greeted(now, peer, &hello, named);
                        self.meet(now, peer, hello.incarnation);
                    }
                }
                (PeerEvent::Frame(_, frame), Some(from)) => self.take_frame(now, from, &frame),
                (PeerEvent::Frame(..), None) => {}
            }
        }
    }

    /// A peer's session tells which formatting of its disk speaks. Another one than before is somebody else.
    fn meet(&mut self, now: Time, peer: PeerId, incarnation: Incarnation) {
        let before = self.shared.heard.insert(peer, incarnation);
        if before.is_some_and(|before| before != incarnation) {
            for partition in self.partitions.all_mut() {
                partition.replica.peer_renewed(now, peer);
            }
            let woken = self.pairs.renewed(peer);
            self.wake(now, woken);
        }
        for partition in self.partitions.all_mut() {
            let mut turn = self.shared.lend(now);
            if partition.replica.meet(&mut turn, peer, incarnation) {
                self.touched.insert(partition.id);
            }
        }
    }

    fn take_frame(&mut self, now: Time, from: AuthenticatedPeer, frame: &Frame) {
        if frame.kind != FrameKind::PeerBatch {
            return;
        }
        let batch = match PeerBatch::decode(&frame.body) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(peer = ?from.id(), %error, "a peer's batch is dropped");
                return;
            }
        };
        // Messages of older sessions are dropped unjudged.
        let named = self.addresses.is_named(from.id());
        if !self.peers.admits(from.id(), &batch, named) || !self.shared.log.is_open() {
            return;
        }
        self.peers.told_of_device(now, from.id(), batch.slow_device);
        let Some(incarnation) = self.peers.incarnation(from.id()) else {
            return;
        };
        let woken = self.pairs.heard_boot(from.id(), batch.boot);
        self.wake(now, woken);
        if let Some(beat) = &batch.pair {
            let (timers, stated) = (&self.timers, batch.bounds);
            let heard = self.pairs.heard_beat(now, from.id(), beat, stated, timers);
            self.wake(now, heard.woken);
            for id in heard.missed {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition
                        .replica
                        .miss_leader(&mut self.shared.lend(now), from.id());
                }
            }
        }
        for heartbeat in &batch.heartbeats {
            if let Some(partition) = self.partitions.get_mut(&heartbeat.partition)
                && partition.replica.means(from.id(), incarnation)
            {
                partition.replica.on_heartbeat(
                    &mut self.shared.lend(now),
                    from,
                    heartbeat,
                    batch.bounds,
                );
                self.touched.insert(heartbeat.partition);
            }
        }
        for ack in &batch.heartbeat_acks {
            if let Some(partition) = self.partitions.get_mut(&ack.partition)
                && partition.replica.means(from.id(), incarnation)
            {
                partition.replica.on_heartbeat_ack(
                    &mut self.shared.lend(now),
                    from,
                    ack,
                    !batch.clock_alarm,
                );
                self.touched.insert(ack.partition);
            }
        }
        for message in batch.messages {
            self.take_message(now, from, incarnation, message);
        }
    }

    fn take_message(
        &mut self,
        now: Time,
        from: AuthenticatedPeer,
        incarnation: Incarnation,
        message: RaftMessage,
    ) {
        if matches!(message.body, RaftBody::TimeoutNow) {
            self.take_timeout_now(now, from, incarnation, message);
            return;
        }
        let Some(partition) = self.partitions.get_mut(&message.partition) else {
            return;
        };
        let founding = matches!(message.body, RaftBody::Founding { .. });
        if !founding && !partition.replica.means(from.id(), incarnation) {
            // A disk that takes a voter's place, and is not that voter's.
            return;
        }
        if let RaftBody::Append { frames, .. } | RaftBody::Refetched { frames, .. } = &message.body
            && self.shared.log.admit_frames(frames.len()).is_err()
        {
            // What is not answered or not taken comes again: to drop it is backpressure.
            return;
        }
        partition
            .replica
            .step(&mut self.shared.lend(now), from, &message);
        self.touched.insert(message.partition);
        if let RaftBody::Append { frames, .. } | RaftBody::Refetched { frames, .. } = message.body {
            self.shared.output.give_back(frames);
        }
    }
}

/// The hello in a frame; one that can't be read was refused where it arrived.
fn hello_in(frame: &Frame) -> Option<PeerHello> {
    let is_hello = frame.kind == FrameKind::PeerHello;
    is_hello.then(|| PeerHello::decode(&frame.body).ok())?
}
