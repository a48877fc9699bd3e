//! The seeds of the `frames` target that are valid: a fuzzer does not guess a CRC32C, nor a FlatBuffers table.
//!
//! Of each message there is the bare form, in which every byte can be changed without a checksum that fails, and each is
//! in a stream of frames.

use clustor_shards::log::format::HashSuite;
use clustor_shards::log::record::{RecordKind, encode_record_parts};
use clustor_wire::frame::{Frame, FrameKind, encode_frame};
use clustor_wire::ids::{
    BootNumber, ChainNumber, Incarnation, LogIndex, NodeId, PairNumber, PartitionId, ShardId, Term,
};
use clustor_wire::message::{
    AskedAnswer, AskedNode, ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody,
    DurabilityMode, ElectionBounds, GuestStatus, Heartbeat, HeartbeatAck, IdempotencyKey, LeaderAt,
    MemberStanding, MemberStatus, MembersChange, MembersVerb, PairBeat, PartitionMembers,
    PartitionStatus, PeerBatch, PeerHello, ProfileReload, QuietLed, RaftBody, RaftMessage,
    ReadLevel, RefetchVerdict, Refusal, RefusalClause, Role, ScrubStatus, ShardStatus, TurnedKnob,
};

/// The first byte of each: the stream comes in pieces of one more.
const PIECE: u8 = 63;

const P: PartitionId = PartitionId(7);

/// What a seed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One message, without a frame.
    Bare(FrameKind),
    /// As many frames.
    Frames(usize),
    /// As many records.
    Records(usize),
}

/// One seed.
pub struct Seed {
    /// The name of its file.
    pub name: &'static str,
    pub form: Form,
    /// What lies in the file: how the rest is cut, and the rest.
    pub bytes: Vec<u8>,
}

/// Every valid seed, as today's encoders make it.
pub fn valid_seeds() -> Vec<Seed> {
    let peers = [
        ("hello", FrameKind::PeerHello, hello()),
        ("batch_appends", FrameKind::PeerBatch, batch_of(appends())),
        ("batch_votes", FrameKind::PeerBatch, batch_of(votes())),
        (
            "batch_refetches",
            FrameKind::PeerBatch,
            batch_of(refetches()),
        ),
        ("batch_quiet", FrameKind::PeerBatch, quiet_batch()),
    ];
    let requests = requests().map(|(name, body)| (name, FrameKind::ClientRequest, request(body)));
    let responses =
        responses().map(|(name, body)| (name, FrameKind::ClientResponse, response(body)));
    let mut seeds = Vec::new();
    for (name, messages) in [
        ("peer_session", &peers[..]),
        ("client_requests", &requests[..]),
        ("client_responses", &responses[..]),
    ] {
        let mut stream = vec![PIECE];
        for (name, kind, body) in messages {
            let frame = Frame {
                kind: *kind,
                body: body.clone(),
            };
            encode_frame(&frame, &mut stream).expect("it is short");
            seeds.push(Seed {
                name,
                form: Form::Bare(*kind),
                bytes: [&[PIECE], &body[..]].concat(),
            });
        }
        encode_frame(&Frame::goodbye("leaving"), &mut stream).expect("it is short");
        seeds.push(Seed {
            name,
            form: Form::Frames(messages.len() + 1),
            bytes: stream,
        });
    }
    let (count, records) = every_record();
    seeds.push(Seed {
        name: "records",
        form: Form::Records(count),
        bytes: [vec![PIECE], records].concat(),
    });
    seeds
}

fn record(leaf: Option<HashSuite>, kind: RecordKind, index: u64) -> Vec<u8> {
    let mut record = Vec::new();
    let (term, index) = (Term(3), LogIndex(index));
    encode_record_parts(&mut record, leaf, kind, P, term, index, &[b"abc", b"defgh"]);
    record
}

/// One record of each kind without a leaf, and one with each kind of leaf.
fn every_record() -> (usize, Vec<u8>) {
    let kinds: Vec<RecordKind> = (0..=u8::MAX).filter_map(RecordKind::from_u8).collect();
    let mut records: Vec<Vec<u8>> = kinds.iter().map(|kind| record(None, *kind, 5)).collect();
    for hash in [HashSuite::Sha256, HashSuite::Blake3] {
        records.push(record(Some(hash), RecordKind::Entry, 6));
    }
    (records.len(), records.concat())
}

fn hello() -> Vec<u8> {
    let mut body = Vec::new();
    let hello = PeerHello {
        node: NodeId(1),
        shard: ShardId(0),
        to_shard: ShardId(2),
        boot: BootNumber(3),
        last_chain: ChainNumber(40),
        remembered_chain: ChainNumber(39),
        placement_digest: [0xAB; 32],
        record_version: 1,
        record_codec: 1,
        incarnation: Incarnation(8),
        remembered_incarnation: Incarnation(9),
        remembered_boot: BootNumber(2),
    };
    hello.encode(&mut body).expect("it is short");
    body
}

fn batch(batch: &PeerBatch) -> Vec<u8> {
    let mut body = Vec::new();
    batch.encode(&mut body).expect("it is short");
    body
}

fn batch_of(bodies: Vec<RaftBody>) -> Vec<u8> {
    let message = |body| RaftMessage {
        partition: P,
        term: Term(3),
        body,
    };
    batch(&PeerBatch {
        boot: BootNumber(3),
        retired_chain: ChainNumber(40),
        heartbeats: vec![Heartbeat {
            partition: P,
            term: Term(3),
            wal_committed: LogIndex(6),
            round: 11,
        }],
        heartbeat_acks: vec![HeartbeatAck {
            partition: PartitionId(8),
            term: Term(2),
            round: 10,
        }],
        messages: bodies.into_iter().map(message).collect(),
        clock_alarm: true,
        slow_device: false,
        bounds: Some(ElectionBounds {
            election_ms_min: 150,
            election_ms_max: 300,
            heartbeat_ms: 50,
        }),
        pair: None,
    })
}

fn quiet_batch() -> Vec<u8> {
    let led = |partition| QuietLed {
        partition: PartitionId(partition),
        term: Term(3),
    };
    batch(&PeerBatch {
        boot: BootNumber(3),
        retired_chain: ChainNumber(40),
        pair: Some(PairBeat {
            count: 2,
            digest: led(7).mixed() ^ led(8).mixed(),
            keeps: true,
            asks: true,
            led: Some(vec![led(7), led(8)]),
        }),
        ..PeerBatch::default()
    })
}

fn appends() -> Vec<RaftBody> {
    let entry = |index| record(Some(HashSuite::Sha256), RecordKind::Entry, index);
    vec![
        RaftBody::Append {
            prev_index: LogIndex(5),
            prev_term: Term(2),
            wal_committed: LogIndex(5),
            raft_commit: LogIndex(5),
            count: 2,
            frames: [entry(6), entry(7)].concat(),
        },
        RaftBody::AppendAccepted {
            matched: LogIndex(7),
        },
        RaftBody::AppendRejected {
            prev_index: LogIndex(5),
            hint_index: LogIndex(4),
            hint_term: Term(1),
        },
        RaftBody::DurabilityAck {
            last_fsynced_index: LogIndex(7),
            segment_seq: PairNumber(2),
            io_writer_mode: 1,
        },
    ]
}

fn votes() -> Vec<RaftBody> {
    let (last_index, last_term) = (LogIndex(7), Term(2));
    vec![
        RaftBody::PreVote {
            last_index,
            last_term,
        },
        RaftBody::PreVoteResponse {
            granted: true,
            high_rtt: true,
        },
        RaftBody::Vote {
            last_index,
            last_term,
            transfer: true,
        },
        RaftBody::VoteResponse { granted: true },
        RaftBody::TimeoutNow,
        RaftBody::Quiesce {
            last_index,
            round: 3,
        },
        RaftBody::QuiesceAck {
            last_index,
            round: 3,
        },
        RaftBody::NotMember {
            stated_term: last_term,
            stated_index: last_index,
        },
        RaftBody::Founding {
            configuration: b"voters".to_vec(),
        },
    ]
}

fn refetches() -> Vec<RaftBody> {
    let refetched = |verdict, frames| RaftBody::Refetched {
        entry_term: Term(3),
        first: LogIndex(6),
        verdict,
        frames,
    };
    vec![
        RaftBody::Refetch {
            entry_term: Term(3),
            first: LogIndex(6),
            last: LogIndex(7),
        },
        refetched(RefetchVerdict::Have, record(None, RecordKind::Entry, 6)),
        refetched(RefetchVerdict::Missing, Vec::new()),
        refetched(RefetchVerdict::Compacted, Vec::new()),
        refetched(RefetchVerdict::Never, Vec::new()),
    ]
}

fn request(body: ClientRequestBody) -> Vec<u8> {
    let mut out = Vec::new();
    let request = ClientRequest { id: 77, body };
    request.encode(&mut out).expect("it is short");
    out
}

fn requests() -> [(&'static str, ClientRequestBody); 7] {
    [
        (
            "request_append",
            ClientRequestBody::Append {
                partition: P,
                key: Some((IdempotencyKey(0xC0FFEE), Some(LogIndex(5)))),
                payload: b"add 3".to_vec(),
                only_in: Some(Term(3)),
            },
        ),
        (
            "request_read",
            ClientRequestBody::Read {
                partition: P,
                level: ReadLevel::Lease,
                query: b"sum".to_vec(),
            },
        ),
        (
            "request_status",
            ClientRequestBody::Status { partition: Some(P) },
        ),
        ("request_placement", ClientRequestBody::Placement),
        (
            "request_mode",
            ClientRequestBody::Mode {
                partition: P,
                mode: DurabilityMode::Strict,
            },
        ),
        ("request_reload", ClientRequestBody::Reload),
        (
            "request_members",
            ClientRequestBody::Members {
                partition: P,
                verb: MembersVerb::Add,
                node: NodeId(4),
                shard: ShardId(0),
                address: "10.0.0.4:7000".into(),
            },
        ),
    ]
}

fn response(body: ClientResponseBody) -> Vec<u8> {
    let mut out = Vec::new();
    let response = ClientResponse { id: 77, body };
    response.encode(&mut out).expect("it is short");
    out
}

fn responses() -> [(&'static str, ClientResponseBody); 8] {
    let (term, index) = (Term(3), LogIndex(7));
    [
        (
            "response_applied",
            ClientResponseBody::Applied {
                partition: P,
                term,
                index,
                reply: b"10".to_vec(),
                duplicate: true,
            },
        ),
        (
            "response_refused",
            ClientResponseBody::NotExecuted(refusal()),
        ),
        (
            "response_unknown",
            ClientResponseBody::Unknown {
                why: "the deadline is over".into(),
                wal_committed: index,
            },
        ),
        (
            "response_read",
            ClientResponseBody::Read {
                partition: P,
                level: ReadLevel::Linearizable,
                term,
                index,
                reply: b"10".to_vec(),
            },
        ),
        ("response_status", ClientResponseBody::Status(status())),
        ("response_members", ClientResponseBody::Members(members())),
        (
            "response_placement",
            ClientResponseBody::Placement(b"signed".to_vec()),
        ),
        ("response_reload", ClientResponseBody::Reload(reload())),
    ]
}

fn refusal() -> Refusal {
    Refusal {
        clause: RefusalClause::NotLeader,
        message: "node 2 leads".into(),
        retry_after_ms: 20,
        leader: Some(NodeId(2)),
        leader_at: Some(LeaderAt {
            shard: ShardId(1),
            address: "10.0.0.2:7000".into(),
        }),
        wal_committed: Some(LogIndex(7)),
    }
}

fn status() -> ShardStatus {
    ShardStatus {
        node: NodeId(1),
        shard: ShardId(0),
        boot: BootNumber(3),
        io_writer_mode: 1,
        trouble: "the disk is nearly full".into(),
        partitions: vec![PartitionStatus {
            partition: P,
            role: Role::Leader,
            term: Term(3),
            leader: Some(NodeId(1)),
            last_index: LogIndex(7),
            durable: LogIndex(7),
            wal_committed: LogIndex(6),
            applied: LogIndex(5),
            missing: 1,
            trouble: String::new(),
            mode: DurabilityMode::Strict,
            wanted_mode: DurabilityMode::Group,
            held_back: "backoff".into(),
            lease_held: false,
            no_lease: "clock_alarm".into(),
            apply_p99_us: Some(150),
            apply_breaches: 2,
            apply_backlog_max: Some(4_096),
            asked_index: Some(LogIndex(6)),
            asked: vec![AskedNode {
                node: NodeId(2),
                answer: AskedAnswer::Missing,
            }],
        }],
        scrub: ScrubStatus {
            sweeps: 1,
            sweep_permille: 500,
            bytes: 1 << 20,
            finished_ms_ago: Some(1_000),
            oldest_unverified_ms: Some(2_000),
            damaged_places: 1,
            lost_entries: 1,
        },
        guests: GuestStatus {
            here: 1,
            unnamed: 2,
            refused: 3,
        },
    }
}

fn members() -> PartitionMembers {
    let member = |node, standing, durable| MemberStatus {
        node: NodeId(node),
        shard: ShardId(0),
        standing,
        address: format!("10.0.0.{node}:7000"),
        durable,
        answers: true,
    };
    PartitionMembers {
        partition: P,
        node: NodeId(1),
        role: Role::Leader,
        term: Term(3),
        leader: Some(NodeId(1)),
        last_index: LogIndex(7),
        wal_committed: LogIndex(6),
        change: MembersChange::Joint {
            entered: LogIndex(6),
            exit: Some(LogIndex(7)),
            back: true,
        },
        members: vec![
            member(1, MemberStanding::Voter, Some(LogIndex(7))),
            member(2, MemberStanding::Leaving, Some(LogIndex(6))),
            member(4, MemberStanding::Joining, None),
        ],
    }
}

fn reload() -> ProfileReload {
    let knob = |key: &str| TurnedKnob {
        key: key.into(),
        before: "5".into(),
        after: "6".into(),
    };
    ProfileReload {
        node: NodeId(1),
        readings: 2,
        profile: "latency".into(),
        obeyed: true,
        live: vec![knob("batch_ms_max")],
        at_restart: vec![knob("segment_bytes")],
        wrong: vec!["line 3: what is colour?".into()],
    }
}
