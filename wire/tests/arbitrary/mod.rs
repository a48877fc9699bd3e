//! Any message there can be, for property tests.

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
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop, prop_oneof};

/// Small, large and anything between: 0 is what FlatBuffers leaves out.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1u64..100, any::<u64>()]
}

fn indexes() -> impl Strategy<Value = LogIndex> {
    numbers().prop_map(LogIndex)
}

fn terms() -> impl Strategy<Value = Term> {
    numbers().prop_map(Term)
}

fn partitions() -> impl Strategy<Value = PartitionId> {
    any::<u128>().prop_map(PartitionId)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..60)
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), any::<String>()]
}

pub fn hellos() -> impl Strategy<Value = PeerHello> {
    (
        (numbers(), any::<u16>(), any::<u16>()),
        (numbers(), numbers(), numbers()),
        (any::<[u8; 32]>(), any::<u8>(), any::<u8>()),
        (numbers(), numbers(), numbers()),
    )
        .prop_map(
            |(
                (node, shard, to_shard),
                (boot, last, remembered),
                (digest, version, codec),
                (own, theirs, their_boot),
            )| {
                PeerHello {
                    node: NodeId(node),
                    shard: ShardId(shard),
                    to_shard: ShardId(to_shard),
                    boot: BootNumber(boot),
                    last_chain: ChainNumber(last),
                    remembered_chain: ChainNumber(remembered),
                    placement_digest: digest,
                    record_version: version,
                    record_codec: codec,
                    incarnation: Incarnation(own),
                    remembered_incarnation: Incarnation(theirs),
                    remembered_boot: BootNumber(their_boot),
                }
            },
        )
}

fn raft_bodies() -> BoxedStrategy<RaftBody> {
    let append = (
        (indexes(), terms(), indexes(), indexes()),
        any::<u32>(),
        bytes(),
    )
        .prop_map(
            |((prev_index, prev_term, wal_committed, raft_commit), count, frames)| {
                RaftBody::Append {
                    prev_index,
                    prev_term,
                    wal_committed,
                    raft_commit,
                    count,
                    frames,
                }
            },
        );
    prop_oneof![
        (indexes(), terms()).prop_map(|(last_index, last_term)| RaftBody::PreVote {
            last_index,
            last_term
        }),
        (any::<bool>(), any::<bool>())
            .prop_map(|(granted, high_rtt)| RaftBody::PreVoteResponse { granted, high_rtt }),
        (indexes(), terms(), any::<bool>()).prop_map(|(last_index, last_term, transfer)| {
            RaftBody::Vote {
                last_index,
                last_term,
                transfer,
            }
        }),
        any::<bool>().prop_map(|granted| RaftBody::VoteResponse { granted }),
        append,
        indexes().prop_map(|matched| RaftBody::AppendAccepted { matched }),
        (indexes(), indexes(), terms()).prop_map(|(prev_index, hint_index, hint_term)| {
            RaftBody::AppendRejected {
                prev_index,
                hint_index,
                hint_term,
            }
        }),
        (indexes(), numbers(), 0u8..=2).prop_map(|(last_fsynced_index, segment, mode)| {
            RaftBody::DurabilityAck {
                last_fsynced_index,
                segment_seq: PairNumber(segment),
                io_writer_mode: mode,
            }
        }),
        Just(RaftBody::TimeoutNow),
        bytes().prop_map(|configuration| RaftBody::Founding { configuration }),
        (indexes(), numbers())
            .prop_map(|(last_index, round)| RaftBody::Quiesce { last_index, round }),
        (indexes(), numbers())
            .prop_map(|(last_index, round)| RaftBody::QuiesceAck { last_index, round }),
        (terms(), indexes()).prop_map(|(stated_term, stated_index)| RaftBody::NotMember {
            stated_term,
            stated_index,
        }),
        (terms(), indexes(), indexes()).prop_map(|(entry_term, first, last)| RaftBody::Refetch {
            entry_term,
            first,
            last,
        }),
        (
            terms(),
            indexes(),
            1u8..=4,
            prop::collection::vec(any::<u8>(), 0..200)
        )
            .prop_map(|(entry_term, first, verdict, frames)| RaftBody::Refetched {
                entry_term,
                first,
                verdict: RefetchVerdict::from_u8(verdict).expect("1 to 4 are verdicts"),
                frames,
            }),
    ]
    .boxed()
}

pub fn batches() -> impl Strategy<Value = PeerBatch> {
    let heartbeat = (partitions(), terms(), indexes(), numbers()).prop_map(
        |(partition, term, wal_committed, round)| Heartbeat {
            partition,
            term,
            wal_committed,
            round,
        },
    );
    let ack =
        (partitions(), terms(), numbers()).prop_map(|(partition, term, round)| HeartbeatAck {
            partition,
            term,
            round,
        });
    let message =
        (partitions(), terms(), raft_bodies()).prop_map(|(partition, term, body)| RaftMessage {
            partition,
            term,
            body,
        });
    (
        (
            numbers(),
            numbers(),
            any::<(bool, bool)>(),
            option::of(pair_beats()),
            option::of(any::<(u32, u32, u32)>()),
        ),
        prop::collection::vec(heartbeat, 0..5),
        prop::collection::vec(ack, 0..5),
        prop::collection::vec(message, 0..8),
    )
        .prop_map(
            |(
                (boot, retired, (clock_alarm, slow_device), pair, bounds),
                heartbeats,
                heartbeat_acks,
                messages,
            )| {
                PeerBatch {
                    boot: BootNumber(boot),
                    retired_chain: ChainNumber(retired),
                    heartbeats,
                    heartbeat_acks,
                    messages,
                    clock_alarm,
                    pair,
                    slow_device,
                    bounds: bounds.map(|(election_ms_min, election_ms_max, heartbeat_ms)| {
                        ElectionBounds {
                            election_ms_min,
                            election_ms_max,
                            heartbeat_ms,
                        }
                    }),
                }
            },
        )
}

fn pair_beats() -> impl Strategy<Value = PairBeat> {
    let led = (partitions(), terms()).prop_map(|(partition, term)| QuietLed { partition, term });
    let led = option::of(prop::collection::vec(led, 0..4));
    (any::<u32>(), numbers(), any::<bool>(), any::<bool>(), led).prop_map(
        |(count, digest, keeps, asks, led)| PairBeat {
            count,
            digest,
            keeps,
            asks,
            led,
        },
    )
}

pub fn requests() -> impl Strategy<Value = ClientRequest> {
    let key = (
        any::<u128>().prop_map(IdempotencyKey),
        option::of(indexes()),
    );
    let body = prop_oneof![
        (partitions(), option::of(key), bytes(), option::of(terms())).prop_map(
            |(partition, key, payload, only_in)| {
                ClientRequestBody::Append {
                    partition,
                    key,
                    payload,
                    only_in,
                }
            }
        ),
        (partitions(), levels(), bytes()).prop_map(|(partition, level, query)| {
            ClientRequestBody::Read {
                partition,
                level,
                query,
            }
        }),
        option::of(partitions()).prop_map(|partition| ClientRequestBody::Status { partition }),
        Just(ClientRequestBody::Placement),
        Just(ClientRequestBody::Reload),
        (partitions(), modes())
            .prop_map(|(partition, mode)| ClientRequestBody::Mode { partition, mode }),
        (
            partitions(),
            verbs(),
            numbers(),
            any::<u16>(),
            "[0-9.:]{0,20}"
        )
            .prop_map(|(partition, verb, node, shard, address)| {
                ClientRequestBody::Members {
                    partition,
                    verb,
                    node: NodeId(node),
                    shard: ShardId(shard),
                    address,
                }
            }),
    ];
    (numbers(), body).prop_map(|(id, body)| ClientRequest { id, body })
}

fn refusals() -> impl Strategy<Value = Refusal> {
    let clause = prop::sample::select(vec![
        RefusalClause::NotLeader,
        RefusalClause::NotHere,
        RefusalClause::TooLarge,
        RefusalClause::Busy,
        RefusalClause::IndexNeeded,
        RefusalClause::MissingContent,
        RefusalClause::ApplyBudget,
    ]);
    let at = (any::<u16>(), "[0-9.:]{0,48}").prop_map(|(shard, address)| LeaderAt {
        shard: ShardId(shard),
        address,
    });
    let leader = option::of((numbers().prop_map(NodeId), option::of(at)));
    (clause, texts(), any::<u32>(), leader, option::of(indexes())).prop_map(
        |(clause, message, retry_after_ms, leader, wal_committed)| {
            let (leader, leader_at) = leader.unzip();
            Refusal {
                clause,
                message,
                retry_after_ms,
                leader,
                leader_at: leader_at.flatten(),
                wal_committed,
            }
        },
    )
}

fn verbs() -> impl Strategy<Value = MembersVerb> {
    prop::sample::select(vec![
        MembersVerb::Show,
        MembersVerb::Add,
        MembersVerb::Observe,
        MembersVerb::Promote,
        MembersVerb::Remove,
        MembersVerb::RollBack,
        MembersVerb::Transfer,
        MembersVerb::Address,
    ])
}

fn members() -> impl Strategy<Value = PartitionMembers> {
    let standing = prop::sample::select(vec![
        MemberStanding::Voter,
        MemberStanding::Joining,
        MemberStanding::Leaving,
        MemberStanding::Learner,
        MemberStanding::Observer,
    ]);
    let member = (
        (numbers(), any::<u16>(), standing),
        (texts(), option::of(indexes()), any::<bool>()),
    )
        .prop_map(
            |((node, shard, standing), (address, durable, answers))| MemberStatus {
                node: NodeId(node),
                shard: ShardId(shard),
                standing,
                address,
                durable,
                answers,
            },
        );
    let change = prop_oneof![
        Just(MembersChange::None),
        indexes().prop_map(|exit| MembersChange::Finishing { exit }),
        (indexes(), option::of(indexes()), any::<bool>()).prop_map(|(entered, exit, back)| {
            MembersChange::Joint {
                entered,
                exit,
                back,
            }
        }),
    ];
    let role = prop::sample::select(vec![Role::Follower, Role::Leader]);
    (
        (partitions(), numbers(), role, terms()),
        (option::of(numbers().prop_map(NodeId)), indexes(), indexes()),
        change,
        prop::collection::vec(member, 0..5),
    )
        .prop_map(
            |(
                (partition, node, role, term),
                (leader, last_index, wal_committed),
                change,
                members,
            )| PartitionMembers {
                partition,
                node: NodeId(node),
                role,
                term,
                leader,
                last_index,
                wal_committed,
                change,
                members,
            },
        )
}

fn levels() -> impl Strategy<Value = ReadLevel> {
    prop_oneof![
        Just(ReadLevel::Linearizable),
        Just(ReadLevel::Lease),
        Just(ReadLevel::Local)
    ]
}

fn modes() -> impl Strategy<Value = DurabilityMode> {
    prop::sample::select(vec![DurabilityMode::Strict, DurabilityMode::Group])
}

fn asked() -> impl Strategy<Value = AskedNode> {
    let answer = prop::sample::select(vec![
        AskedAnswer::None,
        AskedAnswer::Missing,
        AskedAnswer::Compacted,
        AskedAnswer::Never,
        AskedAnswer::Unreachable,
    ]);
    (numbers(), answer).prop_map(|(node, answer)| AskedNode {
        node: NodeId(node),
        answer,
    })
}

fn statuses() -> impl Strategy<Value = ShardStatus> {
    let role = prop::sample::select(vec![Role::Follower, Role::Candidate, Role::Quarantined]);
    let partition = (
        (partitions(), role, terms()),
        option::of(numbers().prop_map(NodeId)),
        (indexes(), indexes(), indexes(), indexes()),
        (numbers(), texts()),
        (modes(), modes(), texts()),
        (any::<bool>(), texts()),
        (option::of(numbers()), numbers(), option::of(numbers())),
        (option::of(indexes()), prop::collection::vec(asked(), 0..4)),
    )
        .prop_map(
            |(
                (partition, role, term),
                leader,
                (last_index, durable, wal_committed, applied),
                (missing, trouble),
                (mode, wanted_mode, held_back),
                (lease_held, no_lease),
                (apply_p99_us, apply_breaches, apply_backlog_max),
                (asked_index, asked),
            )| PartitionStatus {
                partition,
                role,
                term,
                leader,
                last_index,
                durable,
                wal_committed,
                applied,
                missing,
                trouble,
                mode,
                wanted_mode,
                held_back,
                lease_held,
                no_lease,
                apply_p99_us,
                apply_breaches,
                apply_backlog_max,
                asked_index,
                asked,
            },
        );
    (
        (numbers(), any::<u16>(), numbers()),
        0u8..=2,
        texts(),
        prop::collection::vec(partition, 0..4),
        (scrubs(), guests()),
    )
        .prop_map(
            |((node, shard, boot), io_writer_mode, trouble, partitions, (scrub, guests))| {
                ShardStatus {
                    node: NodeId(node),
                    shard: ShardId(shard),
                    boot: BootNumber(boot),
                    io_writer_mode,
                    trouble,
                    partitions,
                    scrub,
                    guests,
                }
            },
        )
}

fn guests() -> impl Strategy<Value = GuestStatus> {
    (any::<u32>(), any::<[u64; 2]>()).prop_map(|(here, [unnamed, refused])| GuestStatus {
        here,
        unnamed,
        refused,
    })
}

fn scrubs() -> impl Strategy<Value = ScrubStatus> {
    let ages = (any::<Option<u64>>(), any::<Option<u64>>());
    (any::<[u64; 4]>(), any::<u32>(), ages).prop_map(
        |(
            [sweeps, bytes, damaged_places, lost_entries],
            sweep_permille,
            (finished_ms_ago, oldest_unverified_ms),
        )| ScrubStatus {
            sweeps,
            sweep_permille,
            bytes,
            finished_ms_ago,
            oldest_unverified_ms,
            damaged_places,
            lost_entries,
        },
    )
}

fn knobs() -> impl Strategy<Value = Vec<TurnedKnob>> {
    let knob = (texts(), texts(), texts()).prop_map(|(key, before, after)| TurnedKnob {
        key,
        before,
        after,
    });
    prop::collection::vec(knob, 0..4)
}

fn reloads() -> impl Strategy<Value = ProfileReload> {
    let wrong = prop::collection::vec(texts(), 0..4);
    let read = (numbers(), numbers(), texts(), any::<bool>());
    (read, knobs(), knobs(), wrong).prop_map(
        |((node, readings, profile, obeyed), live, at_restart, wrong)| ProfileReload {
            node: NodeId(node),
            readings,
            profile,
            obeyed,
            live,
            at_restart,
            wrong,
        },
    )
}

pub fn responses() -> impl Strategy<Value = ClientResponse> {
    let body = prop_oneof![
        (partitions(), terms(), indexes(), bytes(), any::<bool>()).prop_map(
            |(partition, term, index, reply, duplicate)| ClientResponseBody::Applied {
                partition,
                term,
                index,
                reply,
                duplicate,
            }
        ),
        refusals().prop_map(ClientResponseBody::NotExecuted),
        (texts(), indexes())
            .prop_map(|(why, wal_committed)| ClientResponseBody::Unknown { why, wal_committed }),
        (partitions(), levels(), terms(), indexes(), bytes()).prop_map(
            |(partition, level, term, index, reply)| ClientResponseBody::Read {
                partition,
                level,
                term,
                index,
                reply,
            }
        ),
        statuses().prop_map(ClientResponseBody::Status),
        members().prop_map(ClientResponseBody::Members),
        bytes().prop_map(ClientResponseBody::Placement),
        reloads().prop_map(ClientResponseBody::Reload),
    ];
    (numbers(), body).prop_map(|(id, body)| ClientResponse { id, body })
}
