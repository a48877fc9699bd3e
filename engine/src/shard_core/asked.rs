//! What clients and handles ask, and whether it is admitted.

use clustor_shards::log::LogRefusal;
use clustor_shards::turn::{ClientEvent, ClientOp, ConnectionId, Inbox, Outbox, PeerId, Time};
use clustor_wire::ids::{LogIndex, PartitionId, Term};
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponseBody, IdempotencyKey, ReadLevel, Refusal,
    RefusalClause,
};

use super::outward::respond;
use super::{CoreMesh, ShardCore, Shared};
use crate::outcome::Outcome;
use crate::partition::durability::in_log;
use crate::partition::{Answer, Asked, Origin, Partition, ReadWhat, refusal};
use crate::raft::NewEntry;
use crate::raft::entry::{ENTRY_HEAD_BYTES_MAX, EntryKey};
use crate::request::{Reply, Request, RequestBody, Wait};

/// An append as it was asked for.
struct AskedAppend<'a> {
    payload: &'a [u8],
    key: Option<(IdempotencyKey, Option<LogIndex>)>,
    wait: Wait,
    only_in: Option<Term>,
}

impl ShardCore {
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
            match ClientRequest::decode(&frame.body) {
                Ok(request) => self.take_client_request(now, stopping, connection, request, outbox),
                Err(error) => outbox
                    .clients
                    .push(ClientOp::Refuse(connection, error.to_string())),
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
                    self.take_profile(now, news);
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

    /// Whether anything may be asked of a partition of this shard.
    pub(super) fn admit_to(&self, stopping: bool, id: PartitionId) -> Result<(), Refusal> {
        let admitted = self.admit_any(stopping);
        match self.read_only(stopping, id) {
            Some(partition) => Err(partition.read_only_refusal()),
            None => admitted,
        }
    }

    /// The same of a read. What a sole voter has is read whatever became of what its log held behind that.
    fn admit_read(&self, stopping: bool, id: PartitionId, level: ReadLevel) -> Result<(), Refusal> {
        if level == ReadLevel::Local && self.read_only(stopping, id).is_some() {
            return Ok(());
        }
        self.admit_to(stopping, id)
    }

    /// The partition, if it is one that can only be read here.
    fn read_only(&self, stopping: bool, id: PartitionId) -> Option<&Partition> {
        if stopping || self.silent.is_some() || self.behind.is_some() {
            return None;
        }
        let partition = self.partitions.get(&id);
        partition.filter(|partition| partition.replica.is_read_only())
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
        let admitted = self.admit_read(stopping, partition, level);
        let admitted = admitted.and_then(|()| self.admit_query(what.bytes()));
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
                self.count_read_bytes(partition);
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

    /// Whether a query may wait for its answer: those that wait are as many bytes as may be in flight, at most; one always goes.
    fn admit_query(&self, bytes: u64) -> Result<(), Refusal> {
        let (waiting, limit) = (self.read_bytes, self.inflight_bytes_max);
        if waiting == 0 || bytes == 0 || waiting + bytes <= limit {
            return Ok(());
        }
        Err(refusal(
            RefusalClause::Busy,
            format!(
                "queries of {waiting} bytes wait for their answers on this shard, its share of node_inflight_bytes_max is {limit}"
            ),
            250,
        ))
    }

    /// Keeps the sum of the queries that wait.
    pub(super) fn count_read_bytes(&mut self, id: PartitionId) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            let bytes = partition.read_bytes();
            let counted = partition.busy.counted_read_bytes;
            if counted != bytes {
                self.read_bytes = self.read_bytes - counted + bytes;
                partition.busy.counted_read_bytes = bytes;
            }
        }
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
        self.admit_to(stopping, id)?;
        let not_here = || self.not_here(id);
        if !self.partitions.contains(id) {
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
        self.inflight_bytes = self.inflight_bytes - partition.busy.counted_bytes + bytes;
        partition.busy.counted_bytes = bytes;
        partition.await_append(position.index, origin, key, wait);
        self.touched.insert(id);
        Ok(())
    }
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
