//! Peers' batches taken apart: for the trace, for rules that drop or hold single messages, and for the checks.

use clustor_shards::turn::PeerId;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::{PeerBatch, RaftBody, RaftMessage};

/// The kinds of message, by the names scenarios use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as the messages are")]
pub enum MessageKind {
    Heartbeat,
    HeartbeatAck,
    PreVote,
    PreVoteResponse,
    Vote,
    VoteResponse,
    Append,
    AppendAccepted,
    AppendRejected,
    DurabilityAck,
    TimeoutNow,
    Refetch,
    Refetched,
    Founding,
    Quiesce,
    QuiesceAck,
    NotMember,
    PairBeat,
}

impl MessageKind {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Self); 18] = [
        ("Heartbeat", Self::Heartbeat),
        ("HeartbeatAck", Self::HeartbeatAck),
        ("PreVote", Self::PreVote),
        ("PreVoteResponse", Self::PreVoteResponse),
        ("Vote", Self::Vote),
        ("VoteResponse", Self::VoteResponse),
        ("Append", Self::Append),
        ("AppendAccepted", Self::AppendAccepted),
        ("AppendRejected", Self::AppendRejected),
        ("DurabilityAck", Self::DurabilityAck),
        ("TimeoutNow", Self::TimeoutNow),
        ("Refetch", Self::Refetch),
        ("Refetched", Self::Refetched),
        ("Founding", Self::Founding),
        ("Quiesce", Self::Quiesce),
        ("QuiesceAck", Self::QuiesceAck),
        ("NotMember", Self::NotMember),
        ("PairBeat", Self::PairBeat),
    ];

    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, kind)| *kind)
    }

    /// The kind of a consensus message.
    #[must_use]
    pub const fn of(message: &RaftMessage) -> Self {
        match message.body {
            RaftBody::PreVote { .. } => Self::PreVote,
            RaftBody::PreVoteResponse { .. } => Self::PreVoteResponse,
            RaftBody::Vote { .. } => Self::Vote,
            RaftBody::VoteResponse { .. } => Self::VoteResponse,
            RaftBody::Append { .. } => Self::Append,
            RaftBody::AppendAccepted { .. } => Self::AppendAccepted,
            RaftBody::AppendRejected { .. } => Self::AppendRejected,
            RaftBody::DurabilityAck { .. } => Self::DurabilityAck,
            RaftBody::TimeoutNow => Self::TimeoutNow,
            RaftBody::Refetch { .. } => Self::Refetch,
            RaftBody::Refetched { .. } => Self::Refetched,
            RaftBody::Founding { .. } => Self::Founding,
            RaftBody::Quiesce { .. } => Self::Quiesce,
            RaftBody::QuiesceAck { .. } => Self::QuiesceAck,
            RaftBody::NotMember { .. } => Self::NotMember,
        }
    }
}

/// How many messages of each kind a batch holds, kinds that are not in it left out.
pub(crate) fn count(batch: &PeerBatch) -> impl Iterator<Item = (MessageKind, u64)> {
    let of = |kind| {
        let len = match kind {
            MessageKind::Heartbeat => batch.heartbeats.len(),
            MessageKind::HeartbeatAck => batch.heartbeat_acks.len(),
            MessageKind::PairBeat => usize::from(batch.pair.is_some()),
            kind => batch
                .messages
                .iter()
                .filter(|m| MessageKind::of(m) == kind)
                .count(),
        };
        (kind, len as u64)
    };
    MessageKind::ALL
        .iter()
        .map(move |(_, kind)| of(*kind))
        .filter(|(_, count)| *count > 0)
}

/// Takes the messages of one kind out of a batch; what is taken out is a batch of its own.
pub(crate) fn take_out(batch: &mut PeerBatch, kind: MessageKind) -> Option<PeerBatch> {
    let mut taken = PeerBatch {
        boot: batch.boot,
        retired_chain: batch.retired_chain,
        clock_alarm: batch.clock_alarm,
        slow_device: batch.slow_device,
        bounds: batch.bounds,
        ..PeerBatch::default()
    };
    match kind {
        MessageKind::Heartbeat => taken.heartbeats = std::mem::take(&mut batch.heartbeats),
        MessageKind::HeartbeatAck => {
            taken.heartbeat_acks = std::mem::take(&mut batch.heartbeat_acks);
        }
        MessageKind::PairBeat => taken.pair = batch.pair.take(),
        kind => {
            let all = std::mem::take(&mut batch.messages);
            (taken.messages, batch.messages) =
                all.into_iter().partition(|m| MessageKind::of(m) == kind);
        }
    }
    (!is_empty(&taken)).then_some(taken)
}

/// Whether a batch says nothing.
pub(crate) fn is_empty(batch: &PeerBatch) -> bool {
    batch.heartbeats.is_empty()
        && batch.heartbeat_acks.is_empty()
        && batch.messages.is_empty()
        && batch.pair.is_none()
}

/// A batch as a frame.
pub(crate) fn frame(batch: &PeerBatch) -> Frame {
    let mut body = Vec::new();
    batch
        .encode(&mut body)
        .expect("a part of a batch that was encoded can be encoded");
    Frame {
        kind: FrameKind::PeerBatch,
        body,
    }
}

/// A shard in the trace: `node/shard`.
#[must_use]
pub fn name(peer: PeerId) -> String {
    format!("{}/{}", peer.node, peer.shard)
}

fn say(message: &RaftMessage) -> String {
    let what = match &message.body {
        RaftBody::PreVote {
            last_index,
            last_term,
        } => format!("PreVote last {last_index}@{last_term}"),
        RaftBody::PreVoteResponse { granted, .. } => format!("PreVoteResponse {granted}"),
        RaftBody::Vote {
            last_index,
            last_term,
            transfer,
        } => {
            let flag = if *transfer { " transfer" } else { "" };
            format!("Vote last {last_index}@{last_term}{flag}")
        }
        RaftBody::VoteResponse { granted } => format!("VoteResponse {granted}"),
        RaftBody::Append {
            prev_index,
            prev_term,
            wal_committed,
            count,
            ..
        } => format!("Append prev {prev_index}@{prev_term} +{count} committed {wal_committed}"),
        RaftBody::AppendAccepted { matched } => format!("AppendAccepted {matched}"),
        RaftBody::AppendRejected {
            prev_index,
            hint_index,
            hint_term,
        } => format!("AppendRejected {prev_index}, try {hint_index}@{hint_term}"),
        RaftBody::DurabilityAck {
            last_fsynced_index, ..
        } => format!("DurabilityAck {last_fsynced_index}"),
        RaftBody::TimeoutNow => "TimeoutNow".to_owned(),
        RaftBody::Founding { configuration } if configuration.is_empty() => "new here".to_owned(),
        RaftBody::Founding { .. } => "Founding".to_owned(),
        RaftBody::Quiesce { last_index, round } => format!("Quiesce {last_index}, round {round}"),
        RaftBody::QuiesceAck { last_index, round } => {
            format!("QuiesceAck {last_index}, round {round}")
        }
        RaftBody::NotMember {
            stated_term,
            stated_index,
        } => format!("NotMember by {stated_index}@{stated_term}"),
        RaftBody::Refetch {
            entry_term,
            first,
            last,
        } => format!("Refetch {first}..={last}@{entry_term}"),
        RaftBody::Refetched {
            entry_term,
            first,
            verdict,
            frames,
        } => format!(
            "Refetched {first}@{entry_term} {verdict:?} {} bytes",
            frames.len()
        ),
    };
    format!("p{} t{} {what}", short(message.partition), message.term)
}

/// A partition in the trace: its number in decimal.
fn short(partition: PartitionId) -> u128 {
    partition.get()
}

/// A frame in the trace.
pub(crate) fn describe(frame: &Frame) -> String {
    let Ok(batch) = PeerBatch::decode(&frame.body) else {
        return "an undecodable batch".to_owned();
    };
    let beats = batch.heartbeats.iter().map(|beat| {
        format!(
            "p{} t{} Heartbeat round {} committed {}",
            short(beat.partition),
            beat.term,
            beat.round,
            beat.wal_committed
        )
    });
    let acks = batch.heartbeat_acks.iter().map(|ack| {
        format!(
            "p{} t{} HeartbeatAck round {}",
            short(ack.partition),
            ack.term,
            ack.round
        )
    });
    let messages = batch.messages.iter().map(say);
    let pair = batch.pair.iter().map(|pair| {
        let listed = pair.led.as_ref().map(Vec::len);
        format!(
            "PairBeat {} digest {:04x} keeps {} asks {} listed {listed:?}",
            pair.count,
            pair.digest & 0xffff,
            pair.keeps,
            pair.asks
        )
    });
    pair.chain(beats)
        .chain(acks)
        .chain(messages)
        .collect::<Vec<_>>()
        .join("; ")
}
