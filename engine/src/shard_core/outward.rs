//! What replicas decided: to the log, the machines, and those who asked.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clustor_shards::log::{HardState, ReadRefusal};
use clustor_shards::turn::{ClientOp, ConnectionId, Outbox, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{LogIndex, PartitionId};
use clustor_wire::message::{ClientResponse, ClientResponseBody, RefusalClause};

use super::{APPLY_BATCHES_MAX, CoreMesh, ReadFor, ShardCore, Shared};
use crate::gate::group::{SLOW_CHAINS_MAX, SLOW_CHAINS_WINDOW_MS};
use crate::outcome::Outcome;
use crate::partition::{Answer, ApplyStep, Origin, ReadWhat, refusal};
use crate::raft::{CampaignFiled, Leadership, Output, ReadReady, RecordToPersist};
use crate::request::Reply;

/// A shard on which nothing happens for this long, in milliseconds, keeps no memory for the next burst.
const REST_MS: u64 = 1_000;

impl ShardCore {
    /// Every touched replica ends its turn.
    pub(super) fn finish_replicas(&mut self, now: Time) {
        for id in &self.touched {
            if let Some(partition) = self.partitions.get_mut(id) {
                partition.replica.finish_turn(&mut self.shared.lend(now));
            }
        }
    }

    /// Carries out what the replicas decided.
    pub(super) fn carry_out(&mut self, now: Time) {
        let mut output = core::mem::take(&mut self.shared.output);
        self.persist(&output);
        self.take_leadership(&output);
        for applicable in output.applicable.drain(..) {
            self.touched.insert(applicable.partition);
        }
        for ready in output.reads_ready.drain(..) {
            if let Some(partition) = self.partitions.get_mut(&ready.partition) {
                partition.on_read_ready(ready);
                self.touched.insert(ready.partition);
            }
        }
        for failed in output.reads_failed.drain(..) {
            if let Some(partition) = self.partitions.get_mut(&failed.partition) {
                let leader = failed.leader.or(partition.replica.leader());
                partition.on_read_failed(failed.token, leader, &mut self.scratch_answers);
                self.keep_answers(failed.partition);
            }
        }
        for wanted in output.wanted.drain(..) {
            self.lagging.want(wanted);
        }
        self.links.collect(&mut output);
        output.clear();
        self.shared.output = output;
        let touched = core::mem::take(&mut self.touched);
        for id in &touched {
            let resume_at = self.apply(now, *id);
            self.count_bytes(*id);
            self.file_campaign(now, *id);
            self.note_addresses(*id);
            self.file_deadline(now, *id, resume_at);
            self.file_quiet(now, *id);
        }
        if !touched.is_empty() {
            self.rest_at = Some(now.plus_ms(REST_MS));
        }
        self.touched = touched;
        self.touched.clear();
        self.read_for_peers(now);
    }

    /// Reads what peers want, as far as the log takes reads: where it does not, each read that ends makes a turn.
    fn read_for_peers(&mut self, now: Time) {
        while let Some(wanted) = self.lagging.next() {
            let Shared { log, disk, .. } = &mut self.shared;
            match log.read(wanted.partition, wanted.from, disk) {
                Ok(token) => {
                    self.shared.reads.insert(token, ReadFor::Peer(wanted));
                    self.lagging.took(true);
                }
                Err(ReadRefusal::Busy) => return,
                Err(_) => {
                    self.lagging.took(false);
                    if let Some(partition) = self.partitions.get_mut(&wanted.partition) {
                        partition
                            .replica
                            .entries_unreadable(&mut self.shared.lend(now), &wanted);
                    }
                }
            }
        }
    }

    /// Gives back the memory that a burst grew, some time after it is over.
    pub(super) fn rest_if_idle(&mut self, now: Time) {
        if self.rest_at.is_none_or(|at| now < at) {
            return;
        }
        self.rest_at = None;
        self.shared.output = Output::default();
        self.shared.log.give_back();
        self.shared.cache.give_back();
        self.lagging.give_back();
        self.links.give_back();
        self.scratch_answers = Vec::new();
        self.frames = Vec::new();
    }

    /// Keeps the sums of the bytes in flight, and of the queries that wait.
    fn count_bytes(&mut self, id: PartitionId) {
        self.count_read_bytes(id);
        if let Some(partition) = self.partitions.get_mut(&id) {
            let bytes = partition.replica.uncommitted_bytes();
            let counted = partition.busy.counted_bytes;
            if counted != bytes {
                self.inflight_bytes = self.inflight_bytes - counted + bytes;
                partition.busy.counted_bytes = bytes;
            }
        }
    }

    /// Its configurations may name other members, or addresses.
    fn note_addresses(&mut self, id: PartitionId) {
        if let Some(partition) = self.partitions.get_mut(&id)
            && partition.replica.take_addresses_moved()
        {
            self.addresses.name(partition.replica.named(self.me));
            self.addresses.note(id, &partition.replica.addresses());
        }
    }

    fn keep_answers(&mut self, id: PartitionId) {
        let answers = self.scratch_answers.drain(..);
        self.answers.extend(answers.map(|answer| (id, answer)));
    }

    /// Records enter the log's queue in the order in which they were decided.
    fn persist(&mut self, output: &Output) {
        let log = &mut self.shared.log;
        for record in &output.records {
            match record {
                RecordToPersist::Entry { mode, .. } => {
                    if let Some(entry) = record.entry(&output.frames) {
                        log.append(&entry, *mode);
                    }
                }
                RecordToPersist::HardState {
                    partition,
                    term,
                    vote,
                } => log.hard_state(
                    *partition,
                    HardState {
                        term: *term,
                        vote: *vote,
                    },
                ),
                RecordToPersist::Relocated { .. } => {
                    if let Some(entry) = record.entry(&output.frames) {
                        log.relocate(&entry);
                    }
                }
                RecordToPersist::ExitCommitted {
                    partition,
                    term,
                    index,
                } => log.exit_committed(*partition, *term, *index),
                RecordToPersist::Founding {
                    partition,
                    configuration,
                } => log.name_voters(*partition, configuration),
                RecordToPersist::Truncate {
                    partition,
                    term,
                    from,
                } => log.truncate(*partition, *term, *from),
            }
        }
    }

    fn take_leadership(&mut self, output: &Output) {
        for change in &output.leadership {
            let Some(partition) = self.partitions.get_mut(&change.partition) else {
                continue;
            };
            match change.change {
                Leadership::Elected { first } => {
                    partition.on_elected(change.term, first, &mut self.scratch_answers);
                }
                Leadership::Lost => partition.on_deposed(&mut self.scratch_answers),
                Leadership::Follower { .. } => {}
            }
            self.touched.insert(change.partition);
            self.keep_answers(change.partition);
        }
    }

    /// Applies what may be applied, within the turn's bound. Returns when to go on, if there is more.
    fn apply(&mut self, now: Time, id: PartitionId) -> Option<Time> {
        let partition = self.partitions.get_mut(&id)?;
        let mut resume_at = None;
        partition.tell_starting(now);
        for round in 0..APPLY_BATCHES_MAX {
            let step = partition.apply(
                now,
                self.stopwatch.as_ref(),
                &self.shared.cache,
                &mut self.frames,
                &mut self.scratch_answers,
            );
            match step {
                ApplyStep::Done => break,
                ApplyStep::More if round + 1 == APPLY_BATCHES_MAX => resume_at = Some(now),
                ApplyStep::More => {}
                ApplyStep::Read(from) => {
                    match self.shared.log.read(id, from, &mut self.shared.disk) {
                        Ok(token) => {
                            partition.busy.apply_read = Some(token);
                            self.shared.reads.insert(token, ReadFor::Machine);
                        }
                        Err(ReadRefusal::Busy) => resume_at = Some(now.plus_ms(1)),
                        Err(ReadRefusal::NotYet) => {}
                        Err(ReadRefusal::Missing | ReadRefusal::Outside) => {
                            partition.stop_before_lost(
                                now,
                                "an entry that has to be applied is lost here, and nothing behind it can be",
                            );
                        }
                    }
                    break;
                }
            }
        }
        partition.tell_starting(now);
        partition.tell_lame();
        if partition.hand_over {
            match partition.replica.settled_at() {
                // Elected a moment ago: it is looked at again when it is not.
                Some(settled) if now < settled => {
                    resume_at = Some(resume_at.map_or(settled, |at| at.min(settled)));
                }
                settled => {
                    partition.hand_over = false;
                    let turn = self.shared.lend(now);
                    // Where nobody else answers it stays here.
                    if settled.is_some()
                        && partition.replica.is_lame()
                        && partition.replica.transfer_leadership(&turn, None).is_ok()
                    {
                        resume_at = Some(now);
                    }
                }
            }
        }
        partition.tell_ready(&mut self.scratch_answers);
        partition.release_reads(&mut self.scratch_answers);
        self.keep_answers(id);
        resume_at
    }

    fn file_deadline(&mut self, now: Time, id: PartitionId, resume_at: Option<Time>) {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        let replica = partition
            .replica
            .next_deadline()
            .filter(|_| self.shared.log.is_open())
            .filter(|_| partition.filed_campaign != CampaignFiled::Waits);
        let timer = partition
            .timer_deadline(now)
            .filter(|_| self.shared.log.is_open());
        let ack = partition.ack_deadline();
        let machine = partition.machine_deadline();
        let window_us = SLOW_CHAINS_WINDOW_MS * 1000;
        let log = &self.shared.log;
        let mode =
            partition.mode_deadline(now, log.slow_chains_pass_at(SLOW_CHAINS_MAX, window_us));
        let due = [replica, timer, ack, machine, mode, resume_at]
            .into_iter()
            .flatten()
            .min();
        if due == partition.busy.filed_deadline {
            return;
        }
        if let Some(filed) = partition.busy.filed_deadline {
            self.deadlines.remove(&(filed, id));
        }
        if let Some(due) = due {
            self.deadlines.insert((due, id));
        }
        partition.busy.filed_deadline = due;
    }

    /// Hands the answers to those who asked.
    pub(super) fn deliver(&mut self, outbox: &mut Outbox<Reply, CoreMesh>) {
        for (id, answer) in core::mem::take(&mut self.answers) {
            match answer {
                Answer::Append(Origin::Handle(ticket), outcome) => {
                    outbox.replies.push(Reply::Append { ticket, outcome });
                }
                Answer::Append(Origin::Client(connection, request), outcome) => {
                    respond(connection, request, append_response(id, outcome), outbox);
                }
                Answer::Read(origin, what, ready) => {
                    self.answer_read(id, origin, what, ready, outbox);
                }
                Answer::Refused(Origin::Handle(ticket), _, refused) => {
                    outbox.replies.push(Reply::Read {
                        ticket,
                        found: Err(refused),
                    });
                }
                Answer::Refused(Origin::Client(connection, request), _, refused) => {
                    let body = ClientResponseBody::NotExecuted(refused);
                    respond(connection, request, body, outbox);
                }
                Answer::Leadership(leadership) => outbox.replies.push(Reply::Leadership {
                    partition: id,
                    leadership,
                }),
            }
        }
    }

    fn answer_read(
        &self,
        id: PartitionId,
        origin: Origin,
        what: ReadWhat,
        ready: ReadReady,
        outbox: &mut Outbox<Reply, CoreMesh>,
    ) {
        let partition = self.partitions.get(&id);
        let machine = partition.and_then(|partition| partition.machine());
        let applied = partition.map_or(LogIndex::ZERO, |partition| partition.applied());
        let failed = |why: &str| {
            refusal(
                RefusalClause::MachineFailed,
                format!("partition {id}: {why}"),
                250,
            )
        };
        let not_running = || failed("its machine does not run");
        match (origin, what) {
            (Origin::Handle(ticket), ReadWhat::Closure(closure)) => {
                let found = machine.ok_or_else(not_running).and_then(|machine| {
                    catch_unwind(AssertUnwindSafe(|| closure(machine.as_any())))
                        .map_err(|_| failed("the read's closure panicked"))
                });
                outbox.replies.push(Reply::Read { ticket, found });
            }
            (Origin::Client(connection, request), ReadWhat::Query(query)) => {
                let answered = machine.ok_or_else(not_running).and_then(|machine| {
                    let mut reply = Vec::new();
                    catch_unwind(AssertUnwindSafe(|| machine.query(&query, &mut reply)))
                        .map_err(|_| failed("the machine panicked in a query"))?
                        .map_err(|error| {
                            refusal(
                                RefusalClause::Unsupported,
                                format!("partition {id}: {error}"),
                                0,
                            )
                        })?;
                    Ok(reply)
                });
                let body = match answered {
                    Ok(reply) => ClientResponseBody::Read {
                        partition: id,
                        level: ready.level,
                        term: ready.term,
                        index: applied,
                        reply,
                    },
                    Err(refused) => ClientResponseBody::NotExecuted(refused),
                };
                respond(connection, request, body, outbox);
            }
            (Origin::Handle(_), ReadWhat::Query(_))
            | (Origin::Client(..), ReadWhat::Closure(_)) => {
                unreachable!("handles send closures, clients send queries")
            }
        }
    }
}

fn append_response(partition: PartitionId, outcome: Outcome) -> ClientResponseBody {
    match outcome {
        Outcome::Applied {
            term,
            index,
            reply,
            duplicate,
        } => ClientResponseBody::Applied {
            partition,
            term,
            index,
            reply,
            duplicate,
        },
        Outcome::NotExecuted { refusal } => ClientResponseBody::NotExecuted(refusal),
        Outcome::Unknown {
            why, wal_committed, ..
        } => ClientResponseBody::Unknown { why, wal_committed },
    }
}

/// Sends a response to a client. One the codec refuses (a reply over the frame's limit) becomes a refusal, or where something was
/// executed, word of that.
pub(super) fn respond(
    connection: ConnectionId,
    id: u64,
    body: ClientResponseBody,
    outbox: &mut Outbox<Reply, CoreMesh>,
) {
    let mut bytes = Vec::new();
    let executed = match &body {
        ClientResponseBody::Applied { term, index, .. } => Some((*term, *index)),
        _ => None,
    };
    if let Err(error) = (ClientResponse { id, body }).encode(&mut bytes) {
        bytes.clear();
        let body = match executed {
            // Asked again under its key it is a duplicate, which has no reply.
            Some((term, index)) => ClientResponseBody::Unknown {
                why: format!(
                    "it was executed, at index {index} of term {term}, and the machine's reply can't be sent: {error}"
                ),
                wal_committed: index,
            },
            None => ClientResponseBody::NotExecuted(refusal(
                RefusalClause::Unsupported,
                format!("the answer can't be sent: {error}"),
                0,
            )),
        };
        if (ClientResponse { id, body }).encode(&mut bytes).is_err() {
            outbox.clients.push(ClientOp::Close(connection));
            return;
        }
    }
    outbox.clients.push(ClientOp::Send(
        connection,
        Frame {
            kind: FrameKind::ClientResponse,
            body: bytes,
        },
    ));
}
