//! Events and requests, to the partitions they are for.

use clustor_shards::log::record::decode_record;
use clustor_shards::log::scrub::LostRun;
use clustor_shards::log::{LogRefusal, ReadOutcome};
use clustor_shards::turn::{
    ClientEvent, ClientOp, ConnectionId, Inbox, Outbox, PeerEvent, PeerId, Time,
};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{Incarnation, LogIndex, PartitionId, Term};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponseBody, IdempotencyKey, PeerBatch, PeerHello,
    RaftBody, RaftMessage, ReadLevel, Refusal, RefusalClause,
};

use super::outward::respond;
use super::{CoreMesh, ReadFor, ShardCore, Shared};
use crate::outcome::Outcome;
use crate::partition::durability::in_log;
use crate::partition::{Answer, Asked, Origin, ReadWhat, refusal};
use crate::raft::entry::{ENTRY_HEAD_BYTES_MAX, EntryKey};
use crate::raft::{AuthenticatedPeer, NewEntry, WantedEntries};
use crate::request::{Reply, Request, RequestBody, Wait};

/// An append as it was asked for.
struct AskedAppend<'a> {
    payload: &'a [u8],
    key: Option<(IdempotencyKey, Option<LogIndex>)>,
    wait: Wait,
    only_in: Option<Term>,
}

impl ShardCore {
    pub(super) fn take_disk_events(&mut self, now: Time, inbox: &mut Inbox<Request, CoreMesh>) {
        let was_open = self.shared.log.is_open();
        for event in inbox.disk.drain(..) {
            self.shared
                .log
                .on_event(now, event, &mut self.shared.retirement);
        }
        if !was_open && self.shared.log.is_open() {
            self.touched.extend(self.partitions.keys().copied());
        }
        self.take_proofs(now);
        for outcome in core::mem::take(&mut self.shared.retirement.reads) {
            self.take_read(now, outcome);
        }
        for finding in core::mem::take(&mut self.shared.retirement.scrubbed) {
            tracing::error!(shard = %self.me.shard, "scrub: {finding}");
            finding.lost.iter().for_each(|lost| self.take_lost(lost));
        }
        for lost in core::mem::take(&mut self.shared.retirement.lost) {
            tracing::error!(
                partition = %lost.partition, first = %lost.first, last = %lost.last,
                "entries can't be read any more: their content is missing here"
            );
            self.take_lost(&lost);
        }
    }

    /// What the log found lost by itself is missing, as when a read that was asked for fails.
    fn take_lost(&mut self, lost: &LostRun) {
        if let Some(partition) = self.partitions.get_mut(&lost.partition) {
            partition.replica.on_missing(lost.first, lost.last);
            self.touched.insert(lost.partition);
        }
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
        let Some(partition) = self.partitions.get_mut(&outcome.partition) else {
            return;
        };
        self.touched.insert(outcome.partition);
        let lost = self
            .shared
            .log
            .partition(outcome.partition)
            .is_some_and(|log| log.is_missing(outcome.first));
        if lost {
            tracing::error!(
                partition = %outcome.partition, first = %outcome.first, last = %outcome.last,
                "entries can't be read any more: their content is missing here"
            );
            partition.replica.on_missing(outcome.first, outcome.last);
        }
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
                partition.apply_read = None;
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
                        partition.stuck = Some(
                            "an entry that has to be applied can't be read here, and nothing behind it can be",
                        );
                    }
                    // They were replaced meanwhile; those that stand there are asked for in this turn.
                    None => {}
                }
            }
        }
    }

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
                    for partition in self.partitions.values_mut() {
                        partition.replica.peer_up(peer);
                        if partition.replica.is_leader() && partition.filed_quiet.is_none() {
                            self.touched.insert(partition.id);
                        }
                    }
                }
                (PeerEvent::Down(peer), _) => self.peers.forget_session(peer),
                (PeerEvent::Frame(peer, frame), _) if frame.kind == FrameKind::PeerHello => {
                    if let Some(hello) = hello_in(&frame) {
                        self.peers.greeted(now, peer, &hello);
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
            for partition in self.partitions.values_mut() {
                partition.replica.peer_renewed(now, peer);
            }
            let woken = self.pairs.renewed(peer);
            self.wake(now, woken);
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
        if !self.peers.admits(from.id(), &batch) || !self.shared.log.is_open() {
            return;
        }
        let Some(incarnation) = self.peers.incarnation(from.id()) else {
            return;
        };
        let woken = self.pairs.heard_boot(from.id(), batch.boot);
        self.wake(now, woken);
        if let Some(beat) = &batch.pair {
            let heard = self.pairs.heard_beat(now, from.id(), beat, &self.timers);
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
                    batch.lease_ms,
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

    pub(super) fn take_client_events(
        &mut self,
        now: Time,
        inbox: &mut Inbox<Request, CoreMesh>,
        outbox: &mut Outbox<Reply, CoreMesh>,
    ) {
        let stopping = inbox.stopping;
        for event in inbox.clients.drain(..) {
            let (connection, frame) = match event {
                ClientEvent::Frame(connection, frame) => (connection, frame),
                ClientEvent::Opened(connection, name) => {
                    self.client_opened(connection, &name);
                    continue;
                }
                ClientEvent::Closed(connection) => {
                    self.client_closed(connection);
                    continue;
                }
            };
            let request = (frame.kind == FrameKind::ClientRequest)
                .then(|| ClientRequest::decode(&frame.body).ok())
                .flatten();
            match request {
                Some(request) => {
                    self.take_client_request(now, stopping, connection, request, outbox)
                }
                None => outbox.clients.push(ClientOp::Close(connection)),
            }
        }
    }

    fn take_client_request(
        &mut self,
        now: Time,
        stopping: bool,
        connection: ConnectionId,
        request: ClientRequest,
        outbox: &mut Outbox<Reply, CoreMesh>,
    ) {
        let origin = Origin::Client(connection, request.id);
        match request.body {
            ClientRequestBody::Append {
                partition,
                key,
                payload,
                only_in,
            } => {
                let asked = AskedAppend {
                    payload: &payload,
                    key,
                    wait: Wait::Applied,
                    only_in,
                };
                self.append(now, stopping, partition, origin, asked);
            }
            ClientRequestBody::Read {
                partition,
                level,
                query,
            } => self.read(
                now,
                stopping,
                partition,
                origin,
                level,
                ReadWhat::Query(query),
            ),
            ClientRequestBody::Mode { partition, mode } => {
                self.ask_mode(now, stopping, partition, origin, in_log(mode));
            }
            ClientRequestBody::Members {
                partition,
                verb,
                node,
                shard,
                address,
            } => {
                let asked = (partition, verb, PeerId { node, shard });
                let members = self.members_for_client(now, stopping, connection, asked, address);
                let body = match members {
                    Ok(members) => ClientResponseBody::Members(members),
                    Err(refused) => ClientResponseBody::NotExecuted(refused),
                };
                respond(connection, request.id, body, outbox);
            }
            ClientRequestBody::Status { partition } => {
                let body = ClientResponseBody::Status(self.status(partition));
                respond(connection, request.id, body, outbox);
            }
            ClientRequestBody::Reload => {
                self.ask_reload(stopping, (connection, request.id), outbox)
            }
            ClientRequestBody::Placement => {
                let body = match &self.placement {
                    Some(bytes) => ClientResponseBody::Placement(bytes.clone()),
                    None => ClientResponseBody::NotExecuted(refusal(
                        RefusalClause::Unsupported,
                        "this node runs without a placement".to_owned(),
                        0,
                    )),
                };
                respond(connection, request.id, body, outbox);
            }
        }
    }

    pub(super) fn take_requests(
        &mut self,
        now: Time,
        inbox: &mut Inbox<Request, CoreMesh>,
        outbox: &mut Outbox<Reply, CoreMesh>,
    ) {
        let stopping = inbox.stopping;
        for request in inbox.requests.drain(..) {
            let origin = Origin::Handle(request.ticket);
            let partition = request.partition;
            match request.body {
                RequestBody::Append {
                    payload,
                    key,
                    wait,
                    only_in,
                } => {
                    let asked = AskedAppend {
                        payload: &payload,
                        key,
                        wait,
                        only_in,
                    };
                    self.append(now, stopping, partition, origin, asked);
                }
                RequestBody::Read { level, read } => self.read(
                    now,
                    stopping,
                    partition,
                    origin,
                    level,
                    ReadWhat::Closure(read),
                ),
                RequestBody::ClockAlarm => {
                    self.raise_clock_alarm(now);
                    outbox.replies.push(Reply::Profile {
                        ticket: request.ticket,
                    });
                }
                RequestBody::Settled(settled) => {
                    if let Some(found) = self.partitions.get_mut(&partition) {
                        found.settle(now, settled, &mut self.scratch_answers);
                        self.touched.insert(partition);
                        let answers = self.scratch_answers.drain(..);
                        self.answers
                            .extend(answers.map(|answer| (partition, answer)));
                    }
                }
                RequestBody::Profile(news) => {
                    self.take_profile(news);
                    outbox.replies.push(Reply::Profile {
                        ticket: request.ticket,
                    });
                }
                RequestBody::AwaitReload => self.await_reload(request.ticket, outbox),
                RequestBody::Reloaded(outcome) => {
                    self.reloaded(&outcome, outbox);
                    outbox.replies.push(Reply::Profile {
                        ticket: request.ticket,
                    });
                }
                RequestBody::Mode(mode) => {
                    self.ask_mode(now, stopping, partition, origin, mode);
                }
                RequestBody::Members(asked) => {
                    let members = self.members(now, stopping, partition, &asked);
                    outbox.replies.push(Reply::Members {
                        ticket: request.ticket,
                        members,
                    });
                }
                RequestBody::Status => {
                    let status = match self.partitions.get(&partition) {
                        Some(partition) => Ok(self.status_of(partition)),
                        None => Err(self.not_here(partition)),
                    };
                    outbox.replies.push(Reply::Status {
                        ticket: request.ticket,
                        status,
                    });
                }
            }
        }
    }

    pub(super) fn not_here(&self, partition: PartitionId) -> Refusal {
        refusal(
            RefusalClause::NotHere,
            format!(
                "node {}, shard {}: no replica of partition {partition} here",
                self.me.node, self.me.shard
            ),
            0,
        )
    }

    /// Whether anything may be asked of this shard.
    pub(super) fn admit_any(&self, stopping: bool) -> Result<(), Refusal> {
        if stopping {
            return Err(refusal(
                RefusalClause::Stopping,
                format!("node {} is stopping", self.me.node),
                1000,
            ));
        }
        if let Some(why) = &self.silent {
            return Err(refusal(
                RefusalClause::Unavailable,
                format!("quarantined by the host policy: {why}"),
                0,
            ));
        }
        if let Some(why) = &self.behind {
            return Err(refusal(RefusalClause::Unavailable, why.clone(), 0));
        }
        if let Some(quarantine) = self.shared.log.quarantine() {
            return Err(refusal(
                RefusalClause::Unavailable,
                quarantine.to_string(),
                0,
            ));
        }
        if !self.shared.log.is_open() {
            return Err(refusal(
                RefusalClause::Unavailable,
                format!(
                    "node {}, shard {} is still opening its log{}",
                    self.me.node,
                    self.me.shard,
                    self.disk_trouble()
                        .map_or_else(String::new, |trouble| format!(": {trouble}"))
                ),
                100,
            ));
        }
        Ok(())
    }

    fn read(
        &mut self,
        now: Time,
        stopping: bool,
        partition: PartitionId,
        origin: Origin,
        level: ReadLevel,
        what: ReadWhat,
    ) {
        let admitted = self.admit_any(stopping);
        let not_here = self.not_here(partition);
        let control = self.control.facts(partition);
        let answer = match (admitted, self.partitions.get_mut(&partition)) {
            (Ok(()), Some(found)) => {
                let asked = Asked {
                    origin,
                    level,
                    what,
                };
                let turn = &self.shared.lend(now);
                found.start_read(turn, control, asked, &mut self.scratch_answers);
                self.touched.insert(partition);
                let answers = self.scratch_answers.drain(..);
                self.answers
                    .extend(answers.map(|answer| (partition, answer)));
                return;
            }
            (Err(refused), _) => Answer::Refused(origin, what, refused),
            (Ok(()), None) => Answer::Refused(origin, what, not_here),
        };
        self.answers.push((partition, answer));
    }

    fn append(
        &mut self,
        now: Time,
        stopping: bool,
        partition: PartitionId,
        origin: Origin,
        asked: AskedAppend<'_>,
    ) {
        if let Err(refused) = self.try_append(now, stopping, partition, origin, asked) {
            let outcome = Outcome::NotExecuted { refusal: refused };
            self.answers
                .push((partition, Answer::Append(origin, outcome)));
        }
    }

    fn try_append(
        &mut self,
        now: Time,
        stopping: bool,
        id: PartitionId,
        origin: Origin,
        asked: AskedAppend<'_>,
    ) -> Result<(), Refusal> {
        let AskedAppend {
            payload,
            key,
            wait,
            only_in,
        } = asked;
        self.admit_any(stopping)?;
        let not_here = || self.not_here(id);
        if !self.partitions.contains_key(&id) {
            return Err(not_here());
        }
        let Some(partition) = self.partitions.get_mut(&id) else {
            return Ok(());
        };
        if !partition.replica.is_leader() {
            return Err(partition.not_leader(partition.replica.leader()));
        }
        partition.fence(only_in)?;
        partition.admit_append()?;
        if self.inflight_bytes > 0
            && self.inflight_bytes + payload.len() as u64 > self.inflight_bytes_max
        {
            let (bytes, limit) = (self.inflight_bytes, self.inflight_bytes_max);
            return Err(refusal(
                RefusalClause::Busy,
                format!(
                    "{bytes} bytes of this shard wait to be committed, its share of the node's limit is {limit}"
                ),
                250,
            ));
        }
        let key = match key {
            None => None,
            Some((key, None)) => return Err(partition.index_needed(key)),
            Some(_) if wait == Wait::Committed => {
                return Err(refusal(
                    RefusalClause::Unsupported,
                    "a keyed append can't be answered at commit: whether it executes is known at apply".to_owned(),
                    0,
                ));
            }
            Some((key, Some(known))) => Some(EntryKey { key, known }),
        };
        self.shared.admit_entry(payload.len())?;
        if let Err(refused) = partition.ask_machine(now, payload, key.as_ref()) {
            self.touched.insert(id);
            return Err(refused);
        }
        let entry = NewEntry {
            payload,
            key,
            stamp_ms: partition.stamp(now),
        };
        let position = partition
            .replica
            .propose(&mut self.shared.lend(now), &entry)
            .map_err(|error| partition.propose_refusal(&error))?;
        let bytes = partition.replica.uncommitted_bytes();
        self.inflight_bytes = self.inflight_bytes - partition.counted_bytes + bytes;
        partition.counted_bytes = bytes;
        partition.await_append(position.index, origin, key, wait);
        self.touched.insert(id);
        Ok(())
    }

    pub(super) fn tick_due(&mut self, now: Time) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            partition.filed_deadline = None;
            self.touched.insert(id);
            let due = partition
                .replica
                .next_deadline()
                .is_some_and(|at| at <= now);
            if due && self.shared.log.is_open() {
                self.tick_or_wait(now, id);
            }
        }
        self.begin_campaigns(now);
    }
}

/// The hello in a frame; one that can't be read was refused where it arrived.
fn hello_in(frame: &Frame) -> Option<PeerHello> {
    let is_hello = frame.kind == FrameKind::PeerHello;
    is_hello.then(|| PeerHello::decode(&frame.body).ok())?
}

impl Shared {
    /// Whether the log takes one more entry with such a payload.
    pub(super) fn admit_entry(&self, payload_bytes: usize) -> Result<(), Refusal> {
        let admitted = self.log.admit(ENTRY_HEAD_BYTES_MAX + payload_bytes);
        admitted.map_err(|error| log_refusal(&error))
    }
}

pub(super) fn log_refusal(error: &LogRefusal) -> Refusal {
    let (clause, retry_after_ms) = match error {
        LogRefusal::TooLarge { .. } => (RefusalClause::TooLarge, 0),
        LogRefusal::Busy { .. } | LogRefusal::Crowded { .. } => (RefusalClause::Busy, 250),
        LogRefusal::DiskFull => (RefusalClause::DiskFull, 1000),
        LogRefusal::NoSegment(_) | LogRefusal::Failed(_) | LogRefusal::Quarantined(_) => {
            (RefusalClause::Unavailable, 1000)
        }
    };
    refusal(clause, error.to_string(), retry_after_ms)
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
