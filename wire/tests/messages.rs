//! The typed messages, to and from FlatBuffers.

mod arbitrary;

use arbitrary::{batches, hellos, requests, responses};
use clustor_wire::error_code::ErrorCode;
use clustor_wire::frame::{
    FRAME_BODY_BYTES_MAX, Frame, FrameDecoder, FrameKind, encode_frame_with,
};
use clustor_wire::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, NodeId, PairNumber, PartitionId, ShardId, Term,
};
use clustor_wire::message::{
    AskedAnswer, AskedNode, BATCH_HEARTBEATS_MAX, BATCH_MESSAGES_MAX, ClientRequest,
    ClientRequestBody, ClientResponse, ClientResponseBody, DurabilityMode, ElectionBounds,
    GuestStatus, Heartbeat, HeartbeatAck, LeaderAt, MessageError, PairBeat, PartitionStatus,
    PeerBatch, PeerHello, QuietLed, RaftBody, RaftMessage, RefetchVerdict, Refusal, RefusalClause,
    Role, STATUS_PARTITIONS_MAX, ScrubStatus, ShardStatus,
};
use proptest::prelude::{any, prop, proptest};
use proptest::{prop_assert, prop_assert_eq};

macro_rules! encoded {
    ($message:expr) => {{
        let mut out = Vec::new();
        $message
            .encode(&mut out)
            .expect("the message is within its limits");
        out
    }};
}

/// Decodes as every message there is; the results don't matter, only that they are results.
fn decode_as_everything(bytes: &[u8]) {
    let _ = PeerHello::decode(bytes);
    let _ = PeerBatch::decode(bytes);
    let _ = ClientRequest::decode(bytes);
    let _ = ClientResponse::decode(bytes);
}

proptest! {
    #[test]
    fn hellos_round_trip(hello in hellos()) {
        prop_assert_eq!(PeerHello::decode(&encoded!(hello)), Ok(hello));
    }

    #[test]
    fn batches_round_trip_and_stay_below_their_announced_size(batch in batches()) {
        let bytes = encoded!(batch);
        prop_assert!(bytes.len() <= batch.encoded_bytes_max());
        prop_assert_eq!(PeerBatch::decode(&bytes), Ok(batch));
    }

    #[test]
    fn requests_round_trip(request in requests()) {
        prop_assert_eq!(ClientRequest::decode(&encoded!(request)), Ok(request));
    }

    #[test]
    fn responses_round_trip(response in responses()) {
        prop_assert_eq!(ClientResponse::decode(&encoded!(response)), Ok(response));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        batch in batches(),
        response in responses(),
        request in requests(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut bytes in [encoded!(batch), encoded!(response), encoded!(request)] {
            for (at, xor) in &damage {
                let at = at.index(bytes.len());
                bytes[at] ^= xor;
            }
            decode_as_everything(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            decode_as_everything(&bytes);
        }
    }

    #[test]
    fn encoding_appends_and_does_not_remember_the_message_before(
        first in batches(),
        second in batches(),
    ) {
        let alone = encoded!(second);
        let mut out = encoded!(first);
        let before = out.clone();
        second.encode(&mut out)?;
        prop_assert_eq!(&out[..before.len()], &before);
        prop_assert_eq!(&out[before.len()..], &alone);
    }
}

/// Which fields of a message's root table are there, by the numbers that the format gives them in the order of the schema.
fn numbers_of_fields(bytes: &[u8]) -> Vec<usize> {
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let table = u32_at(0) as usize;
    let fields = table.wrapping_sub(u32_at(table) as i32 as usize);
    let count = (usize::from(u16_at(fields)) - 4) / 2;
    (0..count)
        .filter(|number| u16_at(fields + 4 + 2 * number) != 0)
        .collect()
}

/// Number 5 was another field's once: a number is never used again.
#[test]
fn the_fields_of_a_batch_keep_their_numbers() {
    let numbers = |change: &dyn Fn(&mut PeerBatch)| {
        let mut batch = PeerBatch::default();
        let without = numbers_of_fields(&encoded!(batch));
        change(&mut batch);
        let with = numbers_of_fields(&encoded!(batch));
        let new = with.into_iter().filter(|number| !without.contains(number));
        new.collect::<Vec<_>>()
    };
    assert_eq!(numbers(&|batch| batch.boot = BootNumber(1)), [0]);
    assert_eq!(numbers(&|batch| batch.retired_chain = ChainNumber(1)), [1]);
    assert_eq!(numbers(&|batch| batch.clock_alarm = true), [6]);
    assert_eq!(
        numbers(&|batch| batch.pair = Some(PairBeat::default())),
        [7]
    );
    assert_eq!(numbers(&|batch| batch.slow_device = true), [8]);
    let bounds = ElectionBounds {
        election_ms_min: 2,
        election_ms_max: 3,
        heartbeat_ms: 1,
    };
    assert_eq!(numbers(&|batch| batch.bounds = Some(bounds)), [9]);
}

fn hello() -> PeerHello {
    PeerHello {
        node: NodeId(u64::MAX),
        shard: ShardId(3),
        to_shard: ShardId(4),
        boot: BootNumber(5),
        last_chain: ChainNumber(6),
        remembered_chain: ChainNumber(7),
        placement_digest: [0xAB; 32],
        record_version: 1,
        record_codec: 2,
        incarnation: Incarnation(8),
        remembered_incarnation: Incarnation(9),
        remembered_boot: BootNumber(10),
    }
}

fn one_of_each_raft_body() -> Vec<RaftBody> {
    let (index, term) = (LogIndex(1 << 40), Term(1 << 41));
    vec![
        RaftBody::PreVote {
            last_index: index,
            last_term: term,
        },
        RaftBody::PreVoteResponse {
            granted: true,
            high_rtt: true,
        },
        RaftBody::Vote {
            last_index: index,
            last_term: term,
            transfer: true,
        },
        RaftBody::VoteResponse { granted: true },
        RaftBody::Append {
            prev_index: index,
            prev_term: term,
            wal_committed: index,
            raft_commit: index,
            count: 7,
            frames: vec![1, 2, 3, 4, 5, 6, 7],
        },
        RaftBody::AppendAccepted { matched: index },
        RaftBody::AppendRejected {
            prev_index: index,
            hint_index: index,
            hint_term: term,
        },
        RaftBody::DurabilityAck {
            last_fsynced_index: index,
            segment_seq: PairNumber(9),
            io_writer_mode: 2,
        },
        RaftBody::TimeoutNow,
        RaftBody::Quiesce {
            last_index: LogIndex(u64::MAX),
            round: 1,
        },
        RaftBody::QuiesceAck {
            last_index: LogIndex(1),
            round: u64::MAX,
        },
        RaftBody::NotMember {
            stated_term: term,
            stated_index: index,
        },
        RaftBody::Refetch {
            entry_term: term,
            first: index,
            last: index,
        },
        RaftBody::Refetched {
            entry_term: term,
            first: index,
            verdict: RefetchVerdict::Never,
            frames: vec![3; 70],
        },
        RaftBody::Founding {
            configuration: vec![4; 40],
        },
    ]
}

fn message(body: RaftBody) -> RaftMessage {
    RaftMessage {
        partition: PartitionId(u128::MAX - 5),
        term: Term(u64::MAX),
        body,
    }
}

fn batch_of_everything() -> PeerBatch {
    PeerBatch {
        boot: BootNumber(1),
        retired_chain: ChainNumber(2),
        heartbeats: vec![heartbeat(3)],
        heartbeat_acks: vec![heartbeat_ack(4)],
        messages: one_of_each_raft_body().into_iter().map(message).collect(),
        clock_alarm: true,
        slow_device: true,
        bounds: Some(ElectionBounds {
            election_ms_min: 6,
            election_ms_max: u32::MAX,
            heartbeat_ms: 7,
        }),
        pair: Some(PairBeat {
            count: 2,
            digest: u64::MAX,
            keeps: true,
            asks: true,
            led: Some(vec![
                QuietLed {
                    partition: PartitionId(u128::MAX),
                    term: Term(9),
                };
                2
            ]),
        }),
    }
}

fn heartbeat(n: u64) -> Heartbeat {
    Heartbeat {
        partition: PartitionId(u128::from(n) << 60),
        term: Term(n),
        wal_committed: LogIndex(n),
        round: n,
    }
}

fn heartbeat_ack(n: u64) -> HeartbeatAck {
    HeartbeatAck {
        partition: PartitionId(u128::from(n) << 60),
        term: Term(n),
        round: n,
    }
}

fn partition_status(n: u128) -> PartitionStatus {
    PartitionStatus {
        partition: PartitionId(n),
        role: Role::Leader,
        term: Term(u64::MAX),
        leader: Some(NodeId(u64::MAX)),
        last_index: LogIndex(u64::MAX),
        durable: LogIndex(u64::MAX),
        wal_committed: LogIndex(u64::MAX),
        applied: LogIndex(u64::MAX),
        missing: u64::MAX,
        trouble: "none".to_owned(),
        mode: DurabilityMode::Strict,
        wanted_mode: DurabilityMode::Group,
        held_back: "backoff".to_owned(),
        lease_held: false,
        no_lease: "clock_alarm".to_owned(),
        apply_p99_us: Some(u64::MAX),
        apply_breaches: u64::MAX,
        apply_backlog_max: Some(u64::MAX),
        asked_index: Some(LogIndex(u64::MAX)),
        asked: vec![
            AskedNode {
                node: NodeId(u64::MAX),
                answer: AskedAnswer::Unreachable,
            };
            3
        ],
    }
}

fn status(partitions: usize) -> ClientResponse {
    ClientResponse {
        id: 1,
        body: ClientResponseBody::Status(ShardStatus {
            node: NodeId(1),
            shard: ShardId(1),
            boot: BootNumber(1),
            io_writer_mode: 1,
            trouble: String::new(),
            partitions: (0..partitions as u128).map(partition_status).collect(),
            scrub: ScrubStatus::default(),
            guests: GuestStatus::default(),
        }),
    }
}

#[test]
fn every_kind_of_raft_message_round_trips() {
    let batch = batch_of_everything();
    assert_eq!(PeerBatch::decode(&encoded!(batch)), Ok(batch));
}

#[test]
fn every_clause_and_every_role_round_trips() {
    for clause in [
        RefusalClause::NotLeader,
        RefusalClause::NotHere,
        RefusalClause::TooLarge,
        RefusalClause::Busy,
        RefusalClause::KeyExpired,
        RefusalClause::IndexNeeded,
        RefusalClause::Stopping,
        RefusalClause::Unavailable,
        RefusalClause::DiskFull,
        RefusalClause::Unsupported,
        RefusalClause::MachineFailed,
        RefusalClause::MissingContent,
        RefusalClause::ModeConflict,
        RefusalClause::Forbidden,
        RefusalClause::Rejected,
        RefusalClause::TermChanged,
        RefusalClause::ReadGate,
        RefusalClause::ApplyBudget,
    ] {
        let refused = refusal(clause);
        assert_eq!(ClientResponse::decode(&encoded!(refused)), Ok(refused));
    }
    for role in [
        Role::Follower,
        Role::PreCandidate,
        Role::Candidate,
        Role::Leader,
        Role::Quarantined,
    ] {
        let mut answer = status(1);
        let ClientResponseBody::Status(shard) = &mut answer.body else {
            unreachable!("status() makes a status");
        };
        shard.partitions[0].role = role;
        assert_eq!(ClientResponse::decode(&encoded!(answer)), Ok(answer));
    }
}

fn refusal(clause: RefusalClause) -> ClientResponse {
    ClientResponse {
        id: 9,
        body: ClientResponseBody::NotExecuted(Refusal {
            clause,
            message: "partition 7 is led by node 2: ask it".to_owned(),
            retry_after_ms: 250,
            leader: Some(NodeId(2)),
            leader_at: Some(LeaderAt {
                shard: ShardId(3),
                address: "10.0.0.2:7400".to_owned(),
            }),
            wal_committed: Some(LogIndex(0)),
        }),
    }
}

#[test]
fn every_single_flipped_bit_of_every_message_decodes_or_is_refused_without_a_panic() {
    for bytes in [
        encoded!(hello()),
        encoded!(batch_of_everything()),
        encoded!(status(2)),
        encoded!(refusal(RefusalClause::IndexNeeded)),
    ] {
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            decode_as_everything(&damaged);
        }
        for len in 0..bytes.len() {
            decode_as_everything(&bytes[..len]);
        }
    }
}

/// Replaces the only occurrence of `from` in `bytes` by `to`.
fn patched(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..=bytes.len() - from.len())
        .filter(|at| &bytes[*at..][..from.len()] == from)
        .collect();
    assert_eq!(places.len(), 1, "the patch does not fit once");
    bytes[places[0]..][..to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn a_value_that_no_enum_has_is_refused_by_name() {
    let mut acknowledged = batch_of_everything();
    acknowledged.messages = vec![message(RaftBody::DurabilityAck {
        last_fsynced_index: LogIndex(1),
        segment_seq: PairNumber(1),
        io_writer_mode: 3,
    })];
    let error = PeerBatch::decode(&encoded!(acknowledged)).expect_err("mode 3 was accepted");
    assert_eq!(error.code(), ErrorCode::ValueUnknown);
    assert!(
        error
            .to_string()
            .contains("DurabilityAck.io_writer_mode is 3")
    );

    // Unions and enums lie in the bytes as single numbers. A number that none has, put at every place in turn, meets
    // each of them once.
    let mut refused = Vec::new();
    for bytes in [
        encoded!(refusal(RefusalClause::NotLeader)),
        encoded!(status(1)),
    ] {
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] = 0xEE;
            if let Err(MessageError::ValueUnknown { field, .. }) = ClientResponse::decode(&other) {
                refused.push(field);
            }
        }
    }
    for field in [
        "ClientResponse.body",
        "Refusal.clause",
        "PartitionStatus.role",
        "PartitionStatus.mode",
        "PartitionStatus.wanted_mode",
        "ShardStatus.io_writer_mode",
    ] {
        assert!(
            refused.contains(&field),
            "{field} was never refused: {refused:?}"
        );
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let bytes = patched(
        encoded!(refusal(RefusalClause::NotLeader)),
        b"ask it",
        b"ask\xFFit",
    );
    let error = ClientResponse::decode(&bytes).expect_err("broken text was accepted");
    assert_eq!(error.code(), ErrorCode::Malformed);
}

#[test]
fn bytes_too_few_for_any_message_are_too_short() {
    let error = PeerBatch::decode(&[4, 0, 0, 0]).expect_err("4 bytes were accepted");
    assert_eq!(error.code(), ErrorCode::BodyTooShort);
}

#[test]
fn full_lists_round_trip_and_longer_ones_are_refused_before_anything_is_written() {
    let beats = |len: usize| (0..len as u64).map(heartbeat).collect::<Vec<_>>();
    let acks = |len: usize| (0..len as u64).map(heartbeat_ack).collect::<Vec<_>>();
    // Small messages by the thousand, and the verifier's limits hold them all.
    let messages = |len: usize| vec![message(RaftBody::VoteResponse { granted: true }); len];
    let empty = PeerBatch::default;
    let largest = [
        PeerBatch {
            heartbeats: beats(BATCH_HEARTBEATS_MAX),
            ..empty()
        },
        PeerBatch {
            heartbeat_acks: acks(BATCH_HEARTBEATS_MAX),
            ..empty()
        },
        PeerBatch {
            messages: messages(BATCH_MESSAGES_MAX),
            ..empty()
        },
    ];
    for batch in largest {
        let got = PeerBatch::decode(&encoded!(batch)).expect("a full list was refused");
        assert!(got == batch, "a full list came back otherwise");
    }
    let over = [
        PeerBatch {
            heartbeats: beats(BATCH_HEARTBEATS_MAX + 1),
            ..empty()
        },
        PeerBatch {
            heartbeat_acks: acks(BATCH_HEARTBEATS_MAX + 1),
            ..empty()
        },
        PeerBatch {
            messages: messages(BATCH_MESSAGES_MAX + 1),
            ..empty()
        },
    ];
    let mut out = Vec::new();
    for batch in over {
        let error = batch
            .encode(&mut out)
            .expect_err("a list over its limit was sent");
        assert_eq!(error.code(), ErrorCode::ListTooLong, "{error}");
    }
    let all = status(STATUS_PARTITIONS_MAX);
    let got = ClientResponse::decode(&encoded!(all)).expect("a full list was refused");
    assert!(got == all, "a full list came back otherwise");
    let error = status(STATUS_PARTITIONS_MAX + 1)
        .encode(&mut out)
        .expect_err("a list over its limit was sent");
    assert_eq!(error.code(), ErrorCode::ListTooLong, "{error}");
    assert!(out.is_empty(), "a refused message left bytes behind");
}

#[test]
fn a_received_list_over_its_limit_is_refused() {
    // What an encoder without limits would send: the count of a full list, one higher, over the bytes that follow.
    let batch = PeerBatch {
        heartbeat_acks: (0..BATCH_HEARTBEATS_MAX as u64)
            .map(heartbeat_ack)
            .collect(),
        heartbeats: vec![heartbeat(1), heartbeat(2)],
        ..PeerBatch::default()
    };
    let count = (BATCH_HEARTBEATS_MAX as u32).to_le_bytes();
    let one_more = (BATCH_HEARTBEATS_MAX as u32 + 1).to_le_bytes();
    let bytes = encoded!(batch);
    let at = (0..bytes.len() - 4)
        .step_by(4)
        .find(|at| bytes[*at..][..4] == count)
        .expect("the count lies in the bytes");
    let mut longer = bytes;
    longer[at..][..4].copy_from_slice(&one_more);
    let error = PeerBatch::decode(&longer).expect_err("a list over its limit was accepted");
    assert_eq!(error.code(), ErrorCode::ListTooLong, "{error}");
}

#[test]
fn many_offsets_to_one_vector_do_not_multiply_it() {
    // The last of 1,000 messages carries 1 MiB; every offset in the list is bent to lead to it.
    let mut messages = vec![message(RaftBody::TimeoutNow); 1000];
    messages[999] = message(RaftBody::Append {
        prev_index: LogIndex(1),
        prev_term: Term(1),
        wal_committed: LogIndex(1),
        raft_commit: LogIndex(1),
        count: 1,
        frames: vec![0xCC; 1024 * 1024],
    });
    let mut bytes = encoded!(PeerBatch {
        messages,
        ..PeerBatch::default()
    });
    let list = (0..bytes.len() - 4)
        .step_by(4)
        .find(|at| bytes[*at..][..4] == 1000u32.to_le_bytes())
        .expect("the list's length lies in the bytes");
    let slot = |n: usize| list + 4 + 4 * n;
    let last: [u8; 4] = bytes[slot(999)..][..4].try_into().expect("4 bytes");
    let target = slot(999) + u32::from_le_bytes(last) as usize;
    for n in 0..1000 {
        let offset = (target - slot(n)) as u32;
        bytes[slot(n)..][..4].copy_from_slice(&offset.to_le_bytes());
    }
    let error = PeerBatch::decode(&bytes).expect_err("1 MiB was multiplied by 1,000");
    assert_eq!(error.code(), ErrorCode::Malformed, "{error}");
}

#[test]
fn a_message_that_no_frame_holds_is_refused_and_the_largest_entry_is_not() {
    let append = |len: usize| ClientRequest {
        id: 1,
        body: ClientRequestBody::Append {
            partition: PartitionId(1),
            key: None,
            payload: vec![5; len],
            only_in: None,
        },
    };
    let largest = append(4 * 1024 * 1024);
    let mut out = Vec::new();
    encode_frame_with(FrameKind::ClientRequest, &mut out, |out| {
        largest.encode(out)
    })
    .expect("an entry of 4 MiB fits a frame");
    let mut decoder = FrameDecoder::new();
    let frame = decoder
        .decode(&mut out.as_slice())
        .expect("the frame is sound");
    let Some(Frame {
        kind: FrameKind::ClientRequest,
        body,
    }) = frame
    else {
        panic!("another frame came out: {frame:?}");
    };
    let got = ClientRequest::decode(&body).expect("the largest entry was refused");
    assert!(got == largest, "the largest entry came back otherwise");

    // Both where the payload alone is too large and where only the message around it makes it so.
    for len in [FRAME_BODY_BYTES_MAX + 1, FRAME_BODY_BYTES_MAX] {
        let before = out.len();
        let error = encode_frame_with(FrameKind::ClientRequest, &mut out, |out| {
            append(len).encode(out)
        })
        .expect_err("a message over the limit was sent");
        assert_eq!(error.code(), ErrorCode::BodyTooLarge, "{error}");
        assert_eq!(out.len(), before);
    }
    let error = ClientRequest::decode(&vec![0; FRAME_BODY_BYTES_MAX + 1])
        .expect_err("a message over the limit was taken");
    assert_eq!(error.code(), ErrorCode::BodyTooLarge, "{error}");
}

/// An append as clients send it that know of no term to append in.
const APPEND_WITHOUT_A_TERM: &str = concat!(
    "140000000000000000000a0014000c00070008000a000000000000011800000007000000000000000c001c00",
    "04000000000018000c000000010000000000000000000000000000000000000004000000020000002b330000"
);

#[test]
fn an_append_that_names_no_term_is_what_it_was_before_there_were_any() {
    let request = ClientRequest {
        id: 7,
        body: ClientRequestBody::Append {
            partition: PartitionId(1),
            key: None,
            payload: b"+3".to_vec(),
            only_in: None,
        },
    };
    let mut out = Vec::new();
    request.encode(&mut out).expect("it is small");
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, APPEND_WITHOUT_A_TERM);
    assert_eq!(ClientRequest::decode(&out).as_ref(), Ok(&request));
}
