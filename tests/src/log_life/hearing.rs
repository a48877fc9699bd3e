//! What peers say of how far they have come.

use clustor_shards::turn::{PeerId, PeerPast};
use clustor_wire::ids::{BootNumber, ChainNumber, Incarnation, NodeId, ShardId};
use rand::Rng;

use super::history::Peers;

/// How often a peer is heard, per round of work.
pub(super) const CHANCE: f64 = 0.1;

/// News of one of them: further on than what is `known` of it, or newly formatted.
pub(super) fn draw(rng: &mut impl Rng, known: &Peers) -> (PeerId, PeerPast) {
    let peer = PeerId {
        node: NodeId(rng.random_range(4..=6)),
        shard: ShardId(rng.random_range(0..=1)),
    };
    let known = known.get(&peer);
    let further = known.filter(|_| rng.random_bool(0.9));
    let past = match further {
        Some(past) => PeerPast {
            incarnation: past.incarnation,
            boot: BootNumber(past.boot.get() + u64::from(rng.random_bool(0.2))),
            chain: ChainNumber(past.chain.get() + rng.random_range(1..40)),
        },
        None => PeerPast {
            incarnation: Incarnation(known.map_or(0, |past| past.incarnation.get()) + 1),
            boot: BootNumber(1),
            chain: ChainNumber(rng.random_range(0..3)),
        },
    };
    (peer, past)
}
