//! What this shard remembers of its peers' disks, and what they hold against its own.
//!
//! A disk may come back as an older image of itself: from a snapshot of a virtual machine, a copy, a device that lost what
//! it had flushed. What the shard said since then it has forgotten, votes and acknowledgements among it. Nothing on such a
//! disk tells; peers do. Each says hello at the start of a session with its incarnation, its boot and the last chain it
//! recovered, and every batch names the highest chain that has retired: whoever hears this remembers it, and says so in its
//! own hello. A shard that is told of more than its disk holds is behind its own past, records that, and stays silent for
//! good.
//!
//! The memory becomes durable by [`PeerChains`](clustor_shards::log::record::RecordKind::PeerChains) records in chains that
//! are due anyway: when a peer's incarnation or boot is new, after [`RECORD_CHAINS`] of its chains, and otherwise after
//! [`RECORD_MS`]. Strict entries have their chains for themselves: where there are no others, a chain for the memory goes
//! with them once in [`RECORD_MS`]. What a peer did since then is forgotten if everybody who heard of it restarts. Of guests,
//! whom no configuration names, nothing is remembered: there is no telling how many of them will come.

use std::collections::{BTreeMap, BTreeSet};

use clustor_shards::log::ShardLog;
use clustor_shards::log::checkpoint::PastBoot;
use clustor_shards::log::record::RECORD_VERSION;
use clustor_shards::turn::{PeerId, PeerPast, Time};
use clustor_wire::frame::{Frame, FrameKind};
use clustor_wire::ids::{BootNumber, ChainNumber, Incarnation};
use clustor_wire::message::{PeerBatch, PeerHello};

use super::ShardCore;

/// A peer to whom nothing was said for so many milliseconds, while chains retired here, gets an empty batch that says so.
pub const NEWS_MS: u64 = 1_000;
/// A peer's chains that may retire before a record of it is due.
pub const RECORD_CHAINS: u64 = 64;
/// A record of a peer that made any progress is due after so many milliseconds.
pub const RECORD_MS: u64 = 1_000;

/// A session whose other end said hello.
#[derive(Debug, Clone, Copy)]
struct Session {
    incarnation: Incarnation,
    boot: BootNumber,
    /// When something was said on it last, and up to which chain of this shard's that told.
    said_at: Time,
    said: ChainNumber,
    /// When it said last that its device is not slow, if that is what it said last.
    fast_at: Option<Time>,
}

/// The memory.
pub(super) struct Peers {
    /// This shard's disk, the boot that opened it, and the last chain that it recovered.
    own: PeerPast,
    /// How far earlier boots came, as the disk says.
    boots: Vec<PastBoot>,
    /// How far each peer had come when it was last heard.
    past: BTreeMap<PeerId, PeerPast>,
    /// The same as far as a record says so.
    recorded: BTreeMap<PeerId, PeerPast>,
    recorded_at: Time,
    /// Of the present sessions, whose other end said hello.
    sessions: BTreeMap<PeerId, Session>,
    /// Peers of whom something new was heard since the outbox was told.
    news: BTreeSet<PeerId>,
}

impl Peers {
    /// What the log remembers. `incarnation` is that of this shard's disk.
    pub fn new(me: PeerId, incarnation: Incarnation, log: &ShardLog) -> Self {
        let recorded: BTreeMap<PeerId, PeerPast> =
            log.peers().filter(|(peer, _)| *peer != me).collect();
        Self {
            own: PeerPast {
                incarnation,
                boot: log.boot(),
                chain: log
                    .past_boots()
                    .last()
                    .map_or(ChainNumber::ZERO, |b| b.last),
            },
            boots: log.past_boots().to_vec(),
            past: recorded.clone(),
            news: recorded.keys().copied().collect(),
            recorded,
            recorded_at: Time::default(),
            sessions: BTreeMap::new(),
        }
    }

    /// This disk as it was when it was opened.
    pub const fn own(&self) -> PeerPast {
        self.own
    }

    /// What a peer holds against this disk, if its hello says that it had come further; `retired` is the last chain that
    /// has retired.
    fn judge(&self, hello: &PeerHello, retired: ChainNumber) -> Option<PeerPast> {
        let told = PeerPast {
            incarnation: hello.remembered_incarnation,
            boot: hello.remembered_boot,
            chain: hello.remembered_chain,
        };
        let is_own = told.incarnation == self.own.incarnation;
        (is_own && self.is_behind(told, retired)).then_some(told)
    }

    /// Whether this disk can't have come as far as was told.
    ///
    /// Of an earlier boot, what it told is held against the last of its chains that counted at the start after it. On the disk that it
    /// wrote to, that is no less: it told only of chains that had retired, of a pair whose mark had, too, so that the pair is
    /// chosen, and each of its chains has an extent and a slot that were flushed. One that can't be read any more counts all the
    /// same as long as either is whole; where both are bad, the shard is quarantined. It may be more: what was in flight, of which
    /// nothing was told. The start states it in the checkpoint of its own pair, so that it holds for all later ones. One that ends
    /// before that pair's mark has retired has told nothing, and the next chooses and walks as it did. A boot that told anything is
    /// thus stated, unless more of them came since than are: one that is missing between those was on another disk, or on this
    /// one before it went back.
    fn is_behind(&self, told: PeerPast, retired: ChainNumber) -> bool {
        if told.boot == BootNumber::ZERO {
            // It was met, and nothing more.
            return false;
        }
        if told.boot >= self.own.boot {
            return told.boot > self.own.boot || told.chain > retired;
        }
        let then = self.boots.iter().find(|past| past.boot == told.boot);
        match (then, self.boots.first()) {
            (Some(then), _) => told.chain > then.last,
            (None, Some(first)) => told.boot > first.boot,
            (None, None) => true,
        }
    }

    fn hear(&mut self, peer: PeerId, news: PeerPast, named: bool) {
        let is_guest = !named && !self.recorded.contains_key(&peer);
        if is_guest {
            return;
        }
        if self.past.entry(peer).or_default().advance(news) {
            self.news.insert(peer);
        }
    }

    /// A session began, or ended: whatever comes before its hello is not judged.
    pub fn forget_session(&mut self, peer: PeerId) {
        self.sessions.remove(&peer);
    }

    /// A hello: from here on the session's frames are that incarnation's and boot's. It may come from a boot that never
    /// opens its log, so it is no news of how far the peer has come: batches are.
    pub fn greeted(&mut self, now: Time, peer: PeerId, hello: &PeerHello, named: bool) {
        self.sessions.insert(
            peer,
            Session {
                incarnation: hello.incarnation,
                boot: hello.boot,
                said_at: now,
                said: self.own.chain,
                fast_at: None,
            },
        );
        let PeerHello { incarnation, .. } = *hello;
        if self.past(peer).incarnation != incarnation {
            // The disk is another one; how far it has come its batches will tell.
            let unheard = PeerPast {
                incarnation,
                ..PeerPast::default()
            };
            self.hear(peer, unheard, named);
        }
    }

    /// Whether a batch belongs to the present session, of which the hello has told; what it says of its sender is
    /// remembered.
    pub fn admits(&mut self, peer: PeerId, batch: &PeerBatch, named: bool) -> bool {
        let Some(session) = self.sessions.get(&peer).copied() else {
            return false;
        };
        if batch.boot != session.boot {
            return false;
        }
        self.hear(
            peer,
            PeerPast {
                incarnation: session.incarnation,
                boot: session.boot,
                chain: batch.retired_chain,
            },
            named,
        );
        true
    }

    /// A batch of the present session said whether its sender's device is slow.
    pub fn told_of_device(&mut self, now: Time, peer: PeerId, is_slow: bool) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.fast_at = (!is_slow).then_some(now);
        }
    }

    /// Whether a peer said at that time or later that its device is not slow, and not the contrary since.
    pub fn is_fast_since(&self, peer: PeerId, since: Time) -> bool {
        let session = self.sessions.get(&peer);
        session.is_some_and(|session| session.fast_at.is_some_and(|at| at >= since))
    }

    /// The incarnation that speaks in the present session.
    pub fn incarnation(&self, peer: PeerId) -> Option<Incarnation> {
        self.sessions.get(&peer).map(|session| session.incarnation)
    }

    /// Whether there is a session whose other end said hello.
    pub fn has_session(&self, peer: PeerId) -> bool {
        self.sessions.contains_key(&peer)
    }

    /// Peers that are to hear how far this shard has come, as nothing else is said to them.
    pub fn due(&self, now: Time, retired: ChainNumber) -> impl Iterator<Item = PeerId> {
        let is_due = move |s: &Session| s.said < retired && now >= s.said_at.plus_ms(NEWS_MS);
        let sessions = self.sessions.iter();
        sessions.filter(move |(_, s)| is_due(s)).map(|(p, _)| *p)
    }

    /// A batch leaves for a peer.
    pub fn said(&mut self, now: Time, peer: PeerId, retired: ChainNumber) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            (session.said_at, session.said) = (now, retired);
        }
    }

    /// When somebody is due next.
    pub fn deadline(&self, retired: ChainNumber) -> Option<Time> {
        let behind = self.sessions.values().filter(|s| s.said < retired);
        behind.map(|s| s.said_at.plus_ms(NEWS_MS)).min()
    }

    /// What was heard of a peer last.
    pub fn past(&self, peer: PeerId) -> PeerPast {
        self.past.get(&peer).copied().unwrap_or_default()
    }

    /// Records what is due, in a batch that waits for a chain, or beside chains that wait for nothing more.
    pub fn record(&mut self, now: Time, log: &mut ShardLog) {
        let late = now >= self.recorded_at.plus_ms(RECORD_MS);
        let writes = log.has_open_batch() || late && !log.is_settled();
        if !log.is_open() || !writes {
            return;
        }
        let recorded = &self.recorded;
        let is_due = |peer: &PeerId, past: &PeerPast| {
            let known = recorded.get(peer).copied().unwrap_or_default();
            let anew = (known.incarnation, known.boot) != (past.incarnation, past.boot);
            let far = past.chain.get() >= known.chain.get() + RECORD_CHAINS;
            anew || far || late && known != *past
        };
        let due: Vec<(PeerId, PeerPast)> = self
            .past
            .iter()
            .filter(|(peer, past)| is_due(peer, past))
            .map(|(peer, past)| (*peer, *past))
            .collect();
        if due.is_empty() {
            return;
        }
        self.recorded_at = now;
        log.peer_chains(&due);
        self.recorded.extend(due);
    }

    /// What the next hellos are to say.
    pub fn tell(&mut self, into: &mut Vec<(PeerId, PeerPast)>) {
        while let Some(peer) = self.news.pop_first() {
            into.push((peer, self.past(peer)));
        }
    }
}

impl ShardCore {
    /// Which formatting of the disk this shard runs on.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.peers.own.incarnation
    }

    /// The last chain that this boot recovered.
    #[must_use]
    pub fn recovered_chain(&self) -> ChainNumber {
        self.peers.own.chain
    }

    /// How far a peer had come when it was last heard.
    #[must_use]
    pub fn past_of(&self, peer: PeerId) -> PeerPast {
        self.peers.past(peer)
    }

    /// What this shard says first in a session, without a placement: for those who carry turns without sockets.
    #[doc(hidden)]
    #[must_use]
    pub fn hello(&self, to: PeerId) -> Frame {
        let remembered = self.past_of(to);
        let hello = PeerHello {
            node: self.me.node,
            shard: self.me.shard,
            to_shard: to.shard,
            boot: self.peers.own.boot,
            last_chain: self.peers.own.chain,
            remembered_chain: remembered.chain,
            placement_digest: [0; 32],
            record_version: RECORD_VERSION,
            record_codec: self.shared.log.options().format.log_encoding as u8,
            incarnation: self.peers.own.incarnation,
            remembered_incarnation: remembered.incarnation,
            remembered_boot: remembered.boot,
        };
        let mut body = Vec::new();
        hello.encode(&mut body).expect("a hello is of fixed size");
        Frame {
            kind: FrameKind::PeerHello,
            body,
        }
    }

    /// Why the shard's replicas stay silent, if its disk is an older image of itself.
    #[must_use]
    pub fn behind(&self) -> Option<&str> {
        self.behind.as_deref()
    }

    /// A peer's hello, judged before anything else that came with it.
    pub(super) fn judge_hello(&mut self, from: PeerId, hello: &PeerHello) {
        if self.behind.is_some() {
            return;
        }
        let retired = self.shared.log.retired_chain();
        let Some(told) = self.peers.judge(hello, retired) else {
            return;
        };
        // The shard's own past in its own log: it stays silent after a restart, too.
        self.shared.log.peer_chains(&[(self.me, told)]);
        let why = behind_its_past(self.me, self.peers.own, told);
        tracing::error!(told_by = %from.node, "{why}");
        self.behind = Some(why);
    }
}

/// What is wrong, and what to do.
pub(super) fn behind_its_past(me: PeerId, own: PeerPast, told: PeerPast) -> String {
    format!(
        "node {}, shard {}: its disk is an older image of itself: peers heard of chain {} in boot {}, and chain {} is the last that boot {} found on it; \
         what it said since then it has forgotten, so its replicas stay silent: empty its directory and take it in anew (docs/operations.md, \"A disk that came back\")",
        me.node, me.shard, told.chain, told.boot, own.chain, own.boot,
    )
}
