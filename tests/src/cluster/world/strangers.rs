//! Clients without an operator's certificate who ask for what only an operator may have: a mode, other members, the profile
//! read anew. Each is refused at once, whatever else the shard is about.

use clustor_shards::turn::{ClientEvent, ClientOp, ConnectionId, PeerId};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::PartitionId;
use clustor_wire::message::{
    ClientRequest, ClientRequestBody, ClientResponse, ClientResponseBody, DurabilityMode,
    MembersVerb, RefusalClause,
};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::super::check::{Violation, must};
use super::super::messages::name;
use super::World;

/// The one connection of all strangers to a shard.
const CONNECTION: ConnectionId = ConnectionId(u64::MAX);

/// Whom its certificate names.
const NAME: &str = "spiffe://clustor/stranger";

/// What strangers want done to members.
const VERBS: [MembersVerb; 7] = [
    MembersVerb::Add,
    MembersVerb::Observe,
    MembersVerb::Promote,
    MembersVerb::Remove,
    MembersVerb::RollBack,
    MembersVerb::Transfer,
    MembersVerb::Address,
];

impl World {
    /// A stranger comes to a shard, asks for one of these things, and goes.
    pub fn intrude(&mut self, shard: PeerId, partition: PartitionId, rng: &mut Xoshiro256PlusPlus) {
        let shards = &self.layout.shards;
        let whom = shards[rng.random_range(0..shards.len())];
        let body = match rng.random_range(0..4) {
            0 => ClientRequestBody::Mode {
                partition,
                mode: DurabilityMode::Group,
            },
            1 => ClientRequestBody::Reload,
            _ => ClientRequestBody::Members {
                partition,
                verb: VERBS[rng.random_range(0..VERBS.len())],
                node: whom.node,
                shard: whom.shard,
                address: String::new(),
            },
        };
        self.note(|| format!("a stranger asks {}: {body:?}", name(shard)));
        if !self.host_mut(shard).runs() {
            return;
        }
        let mut bytes = Vec::new();
        let request = ClientRequest { id: 1, body };
        request
            .encode(&mut bytes)
            .expect("a question can be encoded");
        let frame = Frame {
            kind: FrameKind::ClientRequest,
            body: bytes,
        };
        self.host_mut(shard).inbox.clients.extend([
            ClientEvent::Opened(CONNECTION, NAME.to_owned()),
            ClientEvent::Frame(CONNECTION, frame),
            ClientEvent::Closed(CONNECTION),
        ]);
        self.wake_host(shard);
    }

    /// Strangers put so many questions to a shard before its turn: all were refused in it.
    pub(super) fn judge_strangers(
        &mut self,
        shard: PeerId,
        asked: usize,
        answered: &[ClientOp],
    ) -> Result<(), Violation> {
        let forbidden = |op: &&ClientOp| {
            let ClientOp::Send(_, frame) = op else {
                return false;
            };
            let answer = ClientResponse::decode(&frame.body).map(|answer| answer.body);
            matches!(answer, Ok(ClientResponseBody::NotExecuted(why)) if why.clause == RefusalClause::Forbidden)
        };
        let refused = answered.iter().filter(forbidden).count();
        must(
            refused == asked && answered.len() == asked,
            "only an operator gets what is an operator's",
            || {
                format!(
                    "{}: {asked} questions of strangers, {answered:?}",
                    name(shard)
                )
            },
        )?;
        for _ in 0..asked {
            self.marks.on_forbidden();
        }
        Ok(())
    }
}
