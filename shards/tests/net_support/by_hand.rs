//! A peer that is played by hand.

use clustor_shards::net::{
    Connection, ConnectionLimits, Expected, Preface, SessionKind, ShardNet, SocketId, TlsIdentity,
};
use clustor_shards::turn::Time;
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ChainNumber, Incarnation, NodeId, ShardId};
use clustor_wire::message::PeerHello;

use super::world::CLUSTER;

/// A connection that is accepted, and brings nothing yet.
pub fn accept(net: &mut ShardNet, now: Time) -> SocketId {
    net.on_accepted(&Preface::peer(CLUSTER, ShardId(0)), now)
        .unwrap()
}

/// Somebody with a certificate who dials by hand and sends one frame; its end of the connection shows what came of it.
pub fn dial_by_hand(
    net: &mut ShardNet,
    identity: &TlsIdentity,
    frame: Frame,
    now: Time,
) -> (SocketId, Connection) {
    let socket = accept(net, now);
    (socket, greet_by_hand(net, socket, identity, frame, now))
}

/// The same on a connection that was accepted before.
pub fn greet_by_hand(
    net: &mut ShardNet,
    socket: SocketId,
    identity: &TlsIdentity,
    frame: Frame,
    now: Time,
) -> Connection {
    let limits = ConnectionLimits::default();
    let mut by_hand =
        Connection::dial(identity, SessionKind::Peer, Expected::Anyone, limits).unwrap();
    by_hand.send(frame).unwrap();
    for _ in 0..6 {
        let mut bytes = Vec::new();
        by_hand.transmit(&mut bytes, usize::MAX).unwrap();
        net.on_bytes(socket, &mut bytes, now);
        bytes.clear();
        net.transmit(socket, &mut bytes, usize::MAX, now);
        // Whether it was refused is what the caller looks at.
        let _ = by_hand.receive(&mut bytes);
    }
    assert_eq!(
        std::iter::from_fn(|| by_hand.next_frame())
            .filter(|frame| frame.kind != FrameKind::PeerHello)
            .count(),
        0
    );
    by_hand
}

/// A hello of node 1, or of whom the change makes it.
pub fn hello(change: impl FnOnce(&mut PeerHello)) -> Frame {
    let mut hello = PeerHello {
        node: NodeId(1),
        shard: ShardId(0),
        to_shard: ShardId(0),
        boot: BootNumber(1),
        last_chain: ChainNumber(1),
        remembered_chain: ChainNumber(0),
        placement_digest: [7; 32],
        record_version: 1,
        record_codec: 1,
        incarnation: Incarnation(1),
        remembered_incarnation: Incarnation(0),
        remembered_boot: BootNumber(0),
    };
    change(&mut hello);
    let mut body = Vec::new();
    hello.encode(&mut body).unwrap();
    Frame {
        kind: FrameKind::PeerHello,
        body,
    }
}
