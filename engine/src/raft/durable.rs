//! Evidence of durability, as types: what this replica may acknowledge, what a peer did, what a quorum has.
//!
//! [`OwnDurable`] rises only by a [`LocalDurable`], which only the log mints, when a chain has retired; a
//! `DurabilityAck` is built only from it. [`PeerDurable`] comes only out of such an acknowledgement that arrived
//! on an authenticated session. [`QuorumDurable`] is made from the two, and commit advances by nothing else.

use clustor_shards::log::proof::LocalDurable;
use clustor_shards::turn::{PeerEvent, PeerId};
use clustor_wire::ids::{LogIndex, PairNumber, PartitionId, Term};
use clustor_wire::message::{RaftBody, RaftMessage};

use super::configuration::Configuration;
use super::quorum;

/// A peer whose frame arrived on its authenticated session: the carrier of turns hands over no other frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticatedPeer(PeerId);

impl AuthenticatedPeer {
    /// Who sent the frame of this event; `None` for events that carry none.
    #[must_use]
    pub const fn of(event: &PeerEvent) -> Option<Self> {
        match event {
            PeerEvent::Frame(peer, _) => Some(Self(*peer)),
            PeerEvent::Up(_) | PeerEvent::Down(_) => None,
        }
    }

    /// The peer.
    #[must_use]
    pub const fn id(self) -> PeerId {
        self.0
    }
}

/// Up to where this replica's log, as it stands, is durable here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnDurable(LogIndex);

impl OwnDurable {
    /// The index.
    #[must_use]
    pub const fn index(self) -> LogIndex {
        self.0
    }

    pub(super) fn raise(&mut self, proof: LocalDurable) {
        self.0 = self.0.max(proof.index());
    }

    /// Everything from `from` on was replaced: no chain that wrote it vouches for it any more.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        self.0 = self.0.min(from.prev());
    }

    /// The acknowledgement to the leader of `term`: min(known to match in that term, durable).
    pub(super) fn acknowledge(
        self,
        partition: PartitionId,
        term: Term,
        matched: LogIndex,
        segment_seq: PairNumber,
        io_writer_mode: u8,
    ) -> RaftMessage {
        RaftMessage {
            partition,
            term,
            body: RaftBody::DurabilityAck {
                last_fsynced_index: matched.min(self.0),
                segment_seq,
                io_writer_mode,
            },
        }
    }
}

/// A peer's ledger covers the log of the leader of `term` up to `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerDurable {
    peer: PeerId,
    partition: PartitionId,
    term: Term,
    index: LogIndex,
    io_writer_mode: u8,
}

impl PeerDurable {
    /// Takes a peer's `DurabilityAck`; `None` for any other message.
    #[must_use]
    pub fn of(from: AuthenticatedPeer, message: &RaftMessage) -> Option<Self> {
        match message.body {
            RaftBody::DurabilityAck {
                last_fsynced_index,
                io_writer_mode,
                ..
            } => Some(Self {
                peer: from.id(),
                partition: message.partition,
                term: message.term,
                index: last_fsynced_index,
                io_writer_mode,
            }),
            _ => None,
        }
    }

    /// Whose ledger.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// How its log writes: 0 FixedUring, 1 RegisteredUring, 2 Blocking.
    #[must_use]
    pub const fn io_writer_mode(&self) -> u8 {
        self.io_writer_mode
    }

    /// In which leader's term it was said.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Durable up to and with this index.
    #[must_use]
    pub const fn index(&self) -> LogIndex {
        self.index
    }
}

/// What the acknowledgements of one peer, for one partition, have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Acknowledged {
    term: Term,
    index: LogIndex,
}

impl Acknowledged {
    /// Takes one more; it never goes back. One of another peer or partition counts for nothing.
    pub(super) fn raise(&mut self, peer: PeerId, partition: PartitionId, durable: &PeerDurable) {
        let fits = durable.peer == peer && durable.partition == partition;
        if fits && durable.index > self.index {
            *self = Self {
                term: durable.term,
                index: durable.index,
            };
        }
    }

    /// The highest index; 0 for none.
    pub(super) const fn index(self) -> LogIndex {
        self.index
    }
}

/// The leader's log is durable up to `index` on the leader and on a majority of every half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuorumDurable {
    partition: PartitionId,
    index: LogIndex,
}

impl QuorumDurable {
    /// What the leader `me` of `term` and the acknowledgements it holds prove; `None` if not even one entry.
    /// Acknowledgements of another term count for nothing.
    pub(super) fn prove(
        partition: PartitionId,
        term: Term,
        configuration: &Configuration,
        me: PeerId,
        own: OwnDurable,
        peers: impl Fn(PeerId) -> Option<Acknowledged>,
    ) -> Option<Self> {
        let majority = quorum::reached(configuration, |voter| {
            if voter == me {
                return own.index();
            }
            match peers(voter) {
                Some(p) if p.term == term => p.index,
                _ => LogIndex::ZERO,
            }
        });
        let index = majority.min(own.index());
        (index > LogIndex::ZERO).then_some(Self { partition, index })
    }

    /// Whose log.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Durable on a quorum up to and with this index.
    #[must_use]
    pub const fn index(&self) -> LogIndex {
        self.index
    }
}
