//! Peer messages to and from FlatBuffers.

use flatbuffers::WIPOffset;

use super::codec::{
    Builder, Scratch, UnionOffset, check_io_writer_mode, check_list, encode, id128, malformed,
    partition_of, verified,
};
use super::{
    BATCH_HEARTBEATS_MAX, BATCH_MESSAGES_MAX, ElectionBounds, Heartbeat, HeartbeatAck,
    MessageError, PairBeat, PeerBatch, PeerHello, QUIET_LISTED_MAX, QuietLed, RaftBody,
    RaftMessage, RefetchVerdict,
};
use crate::generated::fb;
use crate::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, NodeId, PairNumber, ShardId, Term,
};

/// Upper bound of a message's share of a batch's bytes beside its frames.
const MESSAGE_BYTES_MAX: usize = 160;

/// Upper bound of an empty batch's bytes.
const BATCH_BYTES_MAX: usize = 112;

impl PeerHello {
    /// Appends the message's FlatBuffers form to `out`.
    ///
    /// # Errors
    /// None: the message is of fixed size. A `Result` like that of its siblings.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        encode(out, 0, |scratch| {
            fb::PeerHello::create(
                &mut scratch.builder,
                &fb::PeerHelloArgs {
                    node: self.node.0,
                    shard: self.shard.0,
                    to_shard: self.to_shard.0,
                    boot: self.boot.0,
                    last_chain: self.last_chain.0,
                    remembered_chain: self.remembered_chain.0,
                    placement_digest: Some(&fb::Digest::new(&self.placement_digest)),
                    record_version: self.record_version,
                    record_codec: self.record_codec,
                    incarnation: self.incarnation.0,
                    remembered_incarnation: self.remembered_incarnation.0,
                    remembered_boot: self.remembered_boot.0,
                },
            )
        })
    }

    /// Reads the message from the whole of `bytes`.
    ///
    /// # Errors
    /// The bytes are no such message; see [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let hello = verified::<fb::PeerHello<'_>>("PeerHello", bytes, 1)?;
        Ok(Self {
            node: NodeId(hello.node()),
            shard: ShardId(hello.shard()),
            to_shard: ShardId(hello.to_shard()),
            boot: BootNumber(hello.boot()),
            last_chain: ChainNumber(hello.last_chain()),
            remembered_chain: ChainNumber(hello.remembered_chain()),
            placement_digest: hello.placement_digest().bytes().into(),
            record_version: hello.record_version(),
            record_codec: hello.record_codec(),
            incarnation: Incarnation(hello.incarnation()),
            remembered_incarnation: Incarnation(hello.remembered_incarnation()),
            remembered_boot: BootNumber(hello.remembered_boot()),
        })
    }
}

impl PeerBatch {
    /// Upper bound of the encoded length in bytes, for whoever fills a batch up to a frame's limit.
    #[must_use]
    pub fn encoded_bytes_max(&self) -> usize {
        BATCH_BYTES_MAX
            + self.heartbeats.len() * size_of::<fb::Heartbeat>()
            + self.heartbeat_acks.len() * size_of::<fb::HeartbeatAck>()
            + self.pair.as_ref().map_or(0, |pair| {
                let led = pair.led.as_ref().map_or(0, Vec::len);
                BATCH_BYTES_MAX + led * size_of::<fb::QuietLed>()
            })
            + self
                .messages
                .iter()
                .map(RaftMessage::encoded_bytes_max)
                .sum::<usize>()
    }

    /// Appends the message's FlatBuffers form to `out`.
    ///
    /// # Errors
    /// A list is over [`BATCH_HEARTBEATS_MAX`] or [`BATCH_MESSAGES_MAX`], or the whole over what a frame holds; `out` is
    /// then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        check_lists(
            self.heartbeats.len(),
            self.heartbeat_acks.len(),
            self.messages.len(),
        )?;
        if let Some(led) = self.pair.as_ref().and_then(|pair| pair.led.as_ref()) {
            check_list("PairBeat.led", led.len(), QUIET_LISTED_MAX)?;
        }
        let bytes = self.messages.iter().map(RaftMessage::frame_bytes).sum();
        encode(out, bytes, |scratch| build_batch(scratch, self))
    }

    /// Reads the message from the whole of `bytes`.
    ///
    /// # Errors
    /// The bytes are no such message, or a list in it is over its limit; see [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let batch = verified::<fb::PeerBatch<'_>>("PeerBatch", bytes, 2 + 2 * BATCH_MESSAGES_MAX)?;
        let heartbeats = batch.heartbeats().unwrap_or_default();
        let acks = batch.heartbeat_acks().unwrap_or_default();
        let messages = batch.messages().unwrap_or_default();
        check_lists(heartbeats.len(), acks.len(), messages.len())?;
        let pair = batch.pair().map(pair_beat).transpose()?;
        Ok(Self {
            pair,
            boot: BootNumber(batch.boot()),
            retired_chain: ChainNumber(batch.retired_chain()),
            heartbeats: heartbeats.iter().map(heartbeat).collect(),
            heartbeat_acks: acks.iter().map(heartbeat_ack).collect(),
            messages: messages
                .iter()
                .map(raft_message)
                .collect::<Result<_, _>>()?,
            clock_alarm: batch.clock_alarm(),
            slow_device: batch.slow_device(),
            bounds: batch.bounds().map(|bounds| ElectionBounds {
                election_ms_min: bounds.election_ms_min(),
                election_ms_max: bounds.election_ms_max(),
                heartbeat_ms: bounds.heartbeat_ms(),
            }),
        })
    }
}

impl RaftMessage {
    /// Upper bound of what the message adds to the encoded length of its [`PeerBatch`], in bytes.
    #[must_use]
    pub fn encoded_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX + self.frame_bytes()
    }

    fn frame_bytes(&self) -> usize {
        match &self.body {
            RaftBody::Append { frames, .. } | RaftBody::Refetched { frames, .. } => frames.len(),
            RaftBody::Founding { configuration } => configuration.len(),
            _ => 0,
        }
    }
}

fn check_lists(heartbeats: usize, acks: usize, messages: usize) -> Result<(), MessageError> {
    check_list("PeerBatch.heartbeats", heartbeats, BATCH_HEARTBEATS_MAX)?;
    check_list("PeerBatch.heartbeat_acks", acks, BATCH_HEARTBEATS_MAX)?;
    check_list("PeerBatch.messages", messages, BATCH_MESSAGES_MAX)
}

fn build_batch(scratch: &mut Scratch, batch: &PeerBatch) -> WIPOffset<fb::PeerBatch<'static>> {
    let Scratch { builder, offsets } = scratch;
    for message in &batch.messages {
        let (body_type, body) = build_body(builder, &message.body);
        let message = fb::RaftMessage::create(
            builder,
            &fb::RaftMessageArgs {
                partition: Some(&id128(message.partition.0)),
                term: message.term.0,
                body_type,
                body: Some(body),
            },
        );
        offsets.push(message.value());
    }
    let messages = (!offsets.is_empty()).then(|| {
        let offsets = offsets.iter().map(|at| WIPOffset::new(*at));
        builder.create_vector_from_iter::<WIPOffset<fb::RaftMessage<'static>>>(offsets)
    });
    let heartbeats = (!batch.heartbeats.is_empty()).then(|| {
        builder.create_vector_from_iter(batch.heartbeats.iter().map(|beat| {
            fb::Heartbeat::new(
                &id128(beat.partition.0),
                beat.term.0,
                beat.wal_committed.0,
                beat.round,
            )
        }))
    });
    let heartbeat_acks = (!batch.heartbeat_acks.is_empty()).then(|| {
        builder.create_vector_from_iter(
            batch
                .heartbeat_acks
                .iter()
                .map(|ack| fb::HeartbeatAck::new(&id128(ack.partition.0), ack.term.0, ack.round)),
        )
    });
    let pair = batch.pair.as_ref().map(|pair| build_pair(builder, pair));
    let bounds = batch.bounds.map(|bounds| {
        fb::ElectionBounds::new(
            bounds.election_ms_min,
            bounds.election_ms_max,
            bounds.heartbeat_ms,
        )
    });
    fb::PeerBatch::create(
        builder,
        &fb::PeerBatchArgs {
            boot: batch.boot.0,
            retired_chain: batch.retired_chain.0,
            heartbeats,
            heartbeat_acks,
            messages,
            clock_alarm: batch.clock_alarm,
            pair,
            slow_device: batch.slow_device,
            bounds: bounds.as_ref(),
        },
    )
}

fn build_pair(builder: &mut Builder, pair: &PairBeat) -> WIPOffset<fb::PairBeat<'static>> {
    let led = pair.led.as_ref().map(|led| {
        builder.create_vector_from_iter(
            led.iter()
                .map(|led| fb::QuietLed::new(&id128(led.partition.0), led.term.0)),
        )
    });
    fb::PairBeat::create(
        builder,
        &fb::PairBeatArgs {
            count: pair.count,
            digest: pair.digest,
            keeps: pair.keeps,
            asks: pair.asks,
            led,
        },
    )
}

fn pair_beat(pair: fb::PairBeat<'_>) -> Result<PairBeat, MessageError> {
    if let Some(led) = pair.led() {
        check_list("PairBeat.led", led.len(), QUIET_LISTED_MAX)?;
    }
    let quiet_led = |led: &fb::QuietLed| QuietLed {
        partition: partition_of(led.partition()),
        term: Term(led.term()),
    };
    Ok(PairBeat {
        count: pair.count(),
        digest: pair.digest(),
        keeps: pair.keeps(),
        asks: pair.asks(),
        led: pair.led().map(|led| led.iter().map(quiet_led).collect()),
    })
}

fn build_body(b: &mut Builder, body: &RaftBody) -> (fb::RaftBody, UnionOffset) {
    macro_rules! member {
        ($table:ident, $args:ident { $($fields:tt)* }) => {{
            let args = fb::$args { $($fields)* };
            (fb::RaftBody::$table, fb::$table::create(b, &args).as_union_value())
        }};
    }
    match body {
        RaftBody::PreVote {
            last_index,
            last_term,
        } => member!(
            PreVote,
            PreVoteArgs {
                last_index: last_index.0,
                last_term: last_term.0,
            }
        ),
        RaftBody::PreVoteResponse { granted, high_rtt } => {
            member!(
                PreVoteResponse,
                PreVoteResponseArgs {
                    granted: *granted,
                    high_rtt: *high_rtt,
                }
            )
        }
        RaftBody::Vote {
            last_index,
            last_term,
            transfer,
        } => member!(
            Vote,
            VoteArgs {
                last_index: last_index.0,
                last_term: last_term.0,
                transfer: *transfer,
            }
        ),
        RaftBody::VoteResponse { granted } => {
            member!(VoteResponse, VoteResponseArgs { granted: *granted })
        }
        RaftBody::Append {
            prev_index,
            prev_term,
            wal_committed,
            raft_commit,
            count,
            frames,
        } => {
            let frames = Some(b.create_vector(frames));
            member!(
                Append,
                AppendArgs {
                    prev_index: prev_index.0,
                    prev_term: prev_term.0,
                    wal_committed: wal_committed.0,
                    raft_commit: raft_commit.0,
                    count: *count,
                    frames,
                }
            )
        }
        RaftBody::AppendAccepted { matched } => {
            member!(AppendAccepted, AppendAcceptedArgs { matched: matched.0 })
        }
        RaftBody::AppendRejected {
            prev_index,
            hint_index,
            hint_term,
        } => member!(
            AppendRejected,
            AppendRejectedArgs {
                prev_index: prev_index.0,
                hint_index: hint_index.0,
                hint_term: hint_term.0,
            }
        ),
        RaftBody::DurabilityAck {
            last_fsynced_index,
            segment_seq,
            io_writer_mode,
        } => member!(
            DurabilityAck,
            DurabilityAckArgs {
                last_fsynced_index: last_fsynced_index.0,
                segment_seq: segment_seq.0,
                io_writer_mode: *io_writer_mode,
            }
        ),
        RaftBody::TimeoutNow => member!(TimeoutNow, TimeoutNowArgs {}),
        RaftBody::Quiesce { last_index, round } => member!(
            Quiesce,
            QuiesceArgs {
                last_index: last_index.0,
                round: *round,
            }
        ),
        RaftBody::QuiesceAck { last_index, round } => member!(
            QuiesceAck,
            QuiesceAckArgs {
                last_index: last_index.0,
                round: *round,
            }
        ),
        RaftBody::NotMember {
            stated_term,
            stated_index,
        } => member!(
            NotMember,
            NotMemberArgs {
                stated_term: stated_term.0,
                stated_index: stated_index.0,
            }
        ),
        RaftBody::Refetch {
            entry_term,
            first,
            last,
        } => member!(
            Refetch,
            RefetchArgs {
                entry_term: entry_term.0,
                first: first.0,
                last: last.0,
            }
        ),
        RaftBody::Founding { configuration } => {
            let configuration = Some(b.create_vector(configuration));
            member!(Founding, FoundingArgs { configuration })
        }
        RaftBody::Refetched {
            entry_term,
            first,
            verdict,
            frames,
        } => {
            let frames = Some(b.create_vector(frames));
            member!(
                Refetched,
                RefetchedArgs {
                    entry_term: entry_term.0,
                    first: first.0,
                    verdict: *verdict as u8,
                    frames,
                }
            )
        }
    }
}

fn heartbeat(beat: &fb::Heartbeat) -> Heartbeat {
    Heartbeat {
        partition: partition_of(beat.partition()),
        term: Term(beat.term()),
        wal_committed: LogIndex(beat.wal_committed()),
        round: beat.round(),
    }
}

fn heartbeat_ack(ack: &fb::HeartbeatAck) -> HeartbeatAck {
    HeartbeatAck {
        partition: partition_of(ack.partition()),
        term: Term(ack.term()),
        round: ack.round(),
    }
}

fn raft_message(message: fb::RaftMessage<'_>) -> Result<RaftMessage, MessageError> {
    Ok(RaftMessage {
        partition: partition_of(message.partition()),
        term: Term(message.term()),
        body: raft_body(message)?,
    })
}

fn raft_body(message: fb::RaftMessage<'_>) -> Result<RaftBody, MessageError> {
    macro_rules! member {
        ($accessor:ident) => {
            message.$accessor().ok_or_else(|| {
                malformed("PeerBatch", "RaftMessage.body is not what its type says")
            })?
        };
    }
    Ok(match message.body_type() {
        fb::RaftBody::PreVote => {
            let m = member!(body_as_pre_vote);
            RaftBody::PreVote {
                last_index: LogIndex(m.last_index()),
                last_term: Term(m.last_term()),
            }
        }
        fb::RaftBody::PreVoteResponse => {
            let m = member!(body_as_pre_vote_response);
            RaftBody::PreVoteResponse {
                granted: m.granted(),
                high_rtt: m.high_rtt(),
            }
        }
        fb::RaftBody::Vote => {
            let m = member!(body_as_vote);
            RaftBody::Vote {
                last_index: LogIndex(m.last_index()),
                last_term: Term(m.last_term()),
                transfer: m.transfer(),
            }
        }
        fb::RaftBody::VoteResponse => RaftBody::VoteResponse {
            granted: member!(body_as_vote_response).granted(),
        },
        fb::RaftBody::Append => {
            let m = member!(body_as_append);
            RaftBody::Append {
                prev_index: LogIndex(m.prev_index()),
                prev_term: Term(m.prev_term()),
                wal_committed: LogIndex(m.wal_committed()),
                raft_commit: LogIndex(m.raft_commit()),
                count: m.count(),
                frames: m.frames().bytes().to_vec(),
            }
        }
        fb::RaftBody::AppendAccepted => RaftBody::AppendAccepted {
            matched: LogIndex(member!(body_as_append_accepted).matched()),
        },
        fb::RaftBody::AppendRejected => {
            let m = member!(body_as_append_rejected);
            RaftBody::AppendRejected {
                prev_index: LogIndex(m.prev_index()),
                hint_index: LogIndex(m.hint_index()),
                hint_term: Term(m.hint_term()),
            }
        }
        fb::RaftBody::DurabilityAck => {
            let m = member!(body_as_durability_ack);
            RaftBody::DurabilityAck {
                last_fsynced_index: LogIndex(m.last_fsynced_index()),
                segment_seq: PairNumber(m.segment_seq()),
                io_writer_mode: check_io_writer_mode(
                    "DurabilityAck.io_writer_mode",
                    m.io_writer_mode(),
                )?,
            }
        }
        fb::RaftBody::TimeoutNow => RaftBody::TimeoutNow,
        fb::RaftBody::Quiesce => {
            let m = member!(body_as_quiesce);
            RaftBody::Quiesce {
                last_index: LogIndex(m.last_index()),
                round: m.round(),
            }
        }
        fb::RaftBody::QuiesceAck => {
            let m = member!(body_as_quiesce_ack);
            RaftBody::QuiesceAck {
                last_index: LogIndex(m.last_index()),
                round: m.round(),
            }
        }
        fb::RaftBody::NotMember => {
            let m = member!(body_as_not_member);
            RaftBody::NotMember {
                stated_term: Term(m.stated_term()),
                stated_index: LogIndex(m.stated_index()),
            }
        }
        fb::RaftBody::Refetch => {
            let m = member!(body_as_refetch);
            RaftBody::Refetch {
                entry_term: Term(m.entry_term()),
                first: LogIndex(m.first()),
                last: LogIndex(m.last()),
            }
        }
        fb::RaftBody::Refetched => {
            let m = member!(body_as_refetched);
            RaftBody::Refetched {
                entry_term: Term(m.entry_term()),
                first: LogIndex(m.first()),
                verdict: RefetchVerdict::from_u8(m.verdict()).ok_or(
                    MessageError::ValueUnknown {
                        field: "Refetched.verdict",
                        value: m.verdict().into(),
                    },
                )?,
                frames: m.frames().bytes().to_vec(),
            }
        }
        fb::RaftBody::Founding => RaftBody::Founding {
            configuration: member!(body_as_founding).configuration().bytes().to_vec(),
        },
        fb::RaftBody(value) => {
            return Err(MessageError::ValueUnknown {
                field: "RaftMessage.body",
                value: value.into(),
            });
        }
    })
}
