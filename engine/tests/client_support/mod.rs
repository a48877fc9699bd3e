//! A placement, and a server that answers by script, for the suites of the client.

#![allow(dead_code)]

pub mod server;
pub mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use clustor_engine::security::{PlacedNode, Placement, PlacementDraft, PlacementSecret};
use clustor_shards::turn::PeerId;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ClusterId, LogIndex, NodeId, PartitionId, ShardId, Term};
use clustor_wire::message::{
    ClientRequest, ClientResponse, ClientResponseBody, GuestStatus, LeaderAt, Refusal,
    RefusalClause, ScrubStatus, ShardStatus,
};

pub const DOMAIN: &str = "test.clustor";
pub const P: PartitionId = PartitionId(1);

pub fn at(node: u64) -> PeerId {
    PeerId {
        node: NodeId(node),
        shard: ShardId(0),
    }
}

/// Nodes 1.. at these addresses, one shard each, partition 1 on all of them.
pub fn placement(addresses: &[SocketAddr]) -> Placement {
    let nodes: BTreeMap<NodeId, PlacedNode> = addresses
        .iter()
        .zip(1..)
        .map(|(address, id)| {
            let placed = PlacedNode {
                address: *address,
                shards: 1,
            };
            (NodeId(id), placed)
        })
        .collect();
    let replicas = nodes.keys().map(|node| at(node.get())).collect();
    let draft = PlacementDraft {
        cluster: ClusterId(7),
        trust_domain: DOMAIN.to_owned(),
        record_codec: 1,
        nodes,
        partitions: [(P, replicas)].into_iter().collect(),
    };
    let secret = PlacementSecret::from_seed(&[1; 32]);
    let signed = draft.sign(&secret).expect("a placement");
    Placement::load(signed.as_bytes(), &secret.public()).expect("as signed")
}

pub fn request(frame: &Frame) -> ClientRequest {
    assert_eq!(frame.kind, FrameKind::ClientRequest);
    ClientRequest::decode(&frame.body).expect("a request")
}

pub fn response(id: u64, body: ClientResponseBody) -> Frame {
    let mut bytes = Vec::new();
    ClientResponse { id, body }
        .encode(&mut bytes)
        .expect("a response");
    Frame {
        kind: FrameKind::ClientResponse,
        body: bytes,
    }
}

/// A status that knows nothing of any partition.
pub fn bare_status(of: PeerId) -> ClientResponseBody {
    ClientResponseBody::Status(ShardStatus {
        node: of.node,
        shard: of.shard,
        boot: BootNumber(1),
        io_writer_mode: 0,
        trouble: String::new(),
        partitions: Vec::new(),
        scrub: ScrubStatus::default(),
        guests: GuestStatus::default(),
    })
}

pub fn applied(index: u64) -> ClientResponseBody {
    ClientResponseBody::Applied {
        partition: P,
        term: Term(3),
        index: LogIndex(index),
        reply: b"ok".to_vec(),
        duplicate: false,
    }
}

pub fn refused(clause: RefusalClause) -> Refusal {
    Refusal {
        clause,
        message: format!("scripted {clause:?}"),
        retry_after_ms: 0,
        leader: None,
        leader_at: None,
        wal_committed: None,
    }
}

pub fn not_leader(leader: Option<u64>) -> ClientResponseBody {
    ClientResponseBody::NotExecuted(Refusal {
        leader: leader.map(NodeId),
        ..refused(RefusalClause::NotLeader)
    })
}

/// The same, and it says where that listens.
pub fn led_at(leader: PeerId, address: &str) -> ClientResponseBody {
    ClientResponseBody::NotExecuted(Refusal {
        leader: Some(leader.node),
        leader_at: Some(LeaderAt {
            shard: leader.shard,
            address: address.to_owned(),
        }),
        ..refused(RefusalClause::NotLeader)
    })
}

pub fn index_needed(index: u64) -> ClientResponseBody {
    ClientResponseBody::NotExecuted(Refusal {
        wal_committed: Some(LogIndex(index)),
        ..refused(RefusalClause::IndexNeeded)
    })
}
