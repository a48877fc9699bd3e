//! One peer shard: who it must be, when to dial it, which session is the present one. No connection in here.

use std::net::SocketAddr;

use clustor_wire::ids::{BootNumber, ChainNumber, ClusterId, Incarnation, NodeId, ShardId};
use clustor_wire::message::PeerHello;

use super::error::NetError;
use super::shard_net::SocketId;
use crate::turn::{PeerId, PeerPast, Time};

/// What this shard says of itself in every hello, and expects of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalShard {
    /// The cluster, as the placement names it.
    pub cluster: ClusterId,
    /// This node; the certificate must say the same.
    pub node: NodeId,
    /// This shard.
    pub shard: ShardId,
    /// Which formatting of this shard's disk.
    pub incarnation: Incarnation,
    /// This boot.
    pub boot: BootNumber,
    /// The last chain that this shard recovered.
    pub last_chain: ChainNumber,
    /// SHA-256 of the placement's bytes.
    pub placement_digest: [u8; 32],
    /// Version of the record frame in this shard's log.
    pub record_version: u8,
    /// Encoding of this shard's log, which bounds what entries it can take: `log::Encoding`'s number.
    pub record_codec: u8,
}

impl LocalShard {
    pub(super) fn hello(&self, to: ShardId, remembered: PeerPast) -> PeerHello {
        PeerHello {
            node: self.node,
            shard: self.shard,
            to_shard: to,
            boot: self.boot,
            last_chain: self.last_chain,
            remembered_chain: remembered.chain,
            placement_digest: self.placement_digest,
            record_version: self.record_version,
            record_codec: self.record_codec,
            incarnation: self.incarnation,
            remembered_incarnation: remembered.incarnation,
            remembered_boot: remembered.boot,
        }
    }

    /// Judges a hello from a node whose certificate says `certified`. Cluster and trust domain are judged before.
    pub(super) fn judge(&self, hello: &PeerHello, certified: NodeId) -> Result<(), NetError> {
        if hello.node != certified {
            return Err(NetError::WrongNode {
                claimed: hello.node,
                certified,
            });
        }
        if hello.to_shard != self.shard {
            return Err(NetError::WrongShard {
                what: "hello",
                found: hello.to_shard,
                expected: self.shard,
            });
        }
        if hello.placement_digest != self.placement_digest {
            return Err(NetError::PlacementDiffers {
                theirs: digest_head(&hello.placement_digest),
                ours: digest_head(&self.placement_digest),
            });
        }
        let theirs = (hello.record_version, hello.record_codec);
        if theirs != (self.record_version, self.record_codec) {
            return Err(NetError::RecordsDiffer {
                version: hello.record_version,
                codec: hello.record_codec,
                our_version: self.record_version,
                our_codec: self.record_codec,
            });
        }
        Ok(())
    }
}

fn digest_head(digest: &[u8; 32]) -> String {
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Backoff between dials: doubles from the least to the greatest wait, and each wait is drawn from its upper half,
/// so that shards that lost the same node do not dial it in step.
#[derive(Debug)]
pub(super) struct Backoff {
    state: u64,
    ms_min: u64,
    ms_max: u64,
}

impl Backoff {
    pub(super) const fn new(seed: u64, ms_min: u64, ms_max: u64) -> Self {
        assert!(ms_min > 0 && ms_min <= ms_max);
        Self {
            state: seed,
            ms_min,
            ms_max,
        }
    }

    /// The wait before the dial that follows `failures` failed ones, in microseconds.
    pub(super) fn wait_us(&mut self, failures: u32) -> u64 {
        let shift = failures.saturating_sub(1).min(20);
        self.upper_half_us((self.ms_min << shift).min(self.ms_max))
    }

    /// At least half of so many milliseconds, and all of them at most; in microseconds.
    pub(super) const fn upper_half_us(&mut self, whole_ms: u64) -> u64 {
        let whole_us = whole_ms * 1000;
        let half = whole_us / 2;
        half + self.next() % (whole_us - half + 1)
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A peer shard as this shard sees it.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where it listens by the placement.
    placed: Option<SocketAddr>,
    /// And by what was said since, which is tried first.
    noted: Vec<SocketAddr>,
    /// Of two nodes the lower dials at once, the higher after a while.
    pub(super) dials_first: bool,
    /// The dial under way, from connecting to the session.
    pub(super) dial: Option<SocketId>,
    /// When to dial next, if none is under way and no session is up.
    pub(super) next_dial: Option<Time>,
    /// Dials in a row that brought no settled session.
    pub(super) failures: u32,
    /// The present session.
    pub(super) session: Option<Session>,
    /// Until when it may stay, if it is a guest, whom neither the placement nor a configuration names: it is a peer as long as
    /// its session lasts.
    pub(super) guest_until: Option<Time>,
    /// Why the last dial or session ended, so that the same reason is not told again and again.
    pub(super) last_trouble: Option<NetError>,
}

impl Peer {
    pub(super) const fn new(placed: Option<SocketAddr>, dials_first: bool) -> Self {
        Self {
            placed,
            noted: Vec::new(),
            dials_first,
            dial: None,
            next_dial: None,
            failures: 0,
            session: None,
            guest_until: None,
            last_trouble: None,
        }
    }

    /// Somebody who is let in for a while.
    pub(super) const fn guest(until: Time) -> Self {
        let mut guest = Self::new(None, false);
        guest.guest_until = Some(until);
        guest
    }

    /// Where to dial next: one known address after another, as dials fail.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let placed = self.placed.filter(|placed| !self.noted.contains(placed));
        let known = self.noted.len() + usize::from(placed.is_some());
        let turn = (self.failures as usize).checked_rem(known)?;
        self.noted.get(turn).copied().or(placed)
    }

    /// Takes the newest word on where it listens; whether that is news.
    pub(super) fn note(&mut self, noted: &[SocketAddr]) -> bool {
        let news = self.noted != noted;
        if news {
            self.noted = noted.to_vec();
            self.failures = 0;
        }
        news
    }
}

/// The present session with a peer.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) socket: SocketId,
    pub(super) since: Time,
    /// Whether the peer dialled it.
    pub(super) accepted: bool,
    /// The last socket there was when it was up.
    pub(super) last_before: SocketId,
    /// The hello last handed on.
    pub(super) hello: PeerHello,
}

/// A dial that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// The number under which everything about it is reported.
    pub socket: SocketId,
    /// Whom.
    pub peer: PeerId,
    /// Where.
    pub address: SocketAddr,
}
