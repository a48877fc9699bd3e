//! Who belongs to a partition: voters in one half, or in two while it is joint; learners and observers, who get the log
//! and count for nothing.
//!
//! The bytes of a configuration are the body of a `Configuration` record, little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | version, 2 |
//! | 1 | 1 | voters in the first half, 1 to 9 |
//! | 2 | 1 | voters in the second half: 1 to 9 in a record that enters joint, else 0 |
//! | 3 | 1 | what the record does ([`Step`]): 0 states, 1 enters joint, 2 leaves it forward, 3 leaves it back |
//! | 4 | 18 each | a voter: node (8), shard (2), incarnation (8; 0 where none is named); the first half, then the second, each ascending by node and shard |
//! | | 12 + n each | a note on a member, up to the end, ascending: what it is (1: 0 a voter, 1 a learner, 2 an observer), node (8), shard (2), n (1), its address (n bytes of UTF-8, 48 at most) |
//!
//! Each learner and each observer has a note; a voter has one where its address is not in the placement. There are at most
//! 9 notes, so that a record stays small, and at most 2 observers.
//!
//! A voter is a replica on one formatting of its disk, its incarnation: on another one it is somebody else. A configuration
//! that names an incarnation means that one; those of tests may name none, which is then every replica's own.

use clustor_shards::turn::PeerId;
use clustor_wire::ids::{Incarnation, NodeId, ShardId};

/// Voters in one half, at most: an even larger quorum costs latency and buys nothing (5 survive two losses).
pub const VOTERS_MAX: usize = 9;
/// Observers, at most.
pub const OBSERVERS_MAX: usize = 2;
/// Members with a note, at most.
pub const NOTES_MAX: usize = 9;
/// Bytes of a member's address, at most.
pub const ADDRESS_BYTES_MAX: usize = clustor_wire::message::ADDRESS_BYTES_MAX;
/// Bytes of a configuration, at most.
pub const CONFIGURATION_BYTES_MAX: usize =
    HEAD_BYTES + 2 * VOTERS_MAX * VOTER_BYTES + NOTES_MAX * (NOTE_HEAD_BYTES + ADDRESS_BYTES_MAX);

const VERSION: u8 = 2;
const HEAD_BYTES: usize = 4;
const VOTER_BYTES: usize = 18;
const NOTE_HEAD_BYTES: usize = 12;
// The log takes a configuration of 900 bytes.
const _: () = assert!(CONFIGURATION_BYTES_MAX <= 900);

/// Why a configuration can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A half has no voter, or too many.
    #[error("a half of {0} voters, 1 to {VOTERS_MAX} are possible")]
    Count(usize),
    /// A node stands twice in one half, or among those who do not vote.
    #[error("node {0} stands twice in one half, or both votes and does not")]
    Twice(NodeId),
    /// Too many members that do not vote, or whose addresses are kept.
    #[error("{0} members that do not vote or whose addresses are kept, {NOTES_MAX} are possible")]
    Notes(usize),
    /// Too many observers.
    #[error("{0} observers, {OBSERVERS_MAX} are possible")]
    Observers(usize),
    /// An address is too long.
    #[error("an address of {0} bytes, {ADDRESS_BYTES_MAX} are possible")]
    Address(usize),
    /// A node is no member.
    #[error("node {0} is no member")]
    Stranger(NodeId),
    /// The bytes are no configuration this build reads.
    #[error("configuration bytes are not of version {VERSION} or have another length")]
    Bytes,
}

/// What a configuration's record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Step {
    /// States the members; the voters are those in force already. Takes effect when appended.
    States = 0,
    /// Enters a joint configuration. Takes effect when appended.
    Enters = 1,
    /// Leaves a joint configuration for its second half. Takes effect once it is committed by both.
    LeavesForward = 2,
    /// Leaves a joint configuration for its first half. Takes effect once it is committed by both.
    LeavesBack = 3,
}

impl Step {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::States,
            1 => Self::Enters,
            2 => Self::LeavesForward,
            3 => Self::LeavesBack,
            _ => return None,
        })
    }

    /// Whether it leaves a joint configuration.
    #[must_use]
    pub const fn leaves(self) -> bool {
        matches!(self, Self::LeavesForward | Self::LeavesBack)
    }
}

/// What a member is whose address is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Standing {
    /// It votes in some half.
    Voter = 0,
    /// It gets the log, counts for nothing and may be promoted.
    Learner = 1,
    /// It gets the log, counts for nothing and stays what it is.
    Observer = 2,
}

impl Standing {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Voter,
            1 => Self::Learner,
            2 => Self::Observer,
            _ => return None,
        })
    }
}

/// A member that does not vote, or whose address is not in the placement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Its node and shard.
    pub peer: PeerId,
    /// What it is.
    pub standing: Standing,
    /// Where it listens for its peers; empty if the placement says.
    pub address: String,
}

/// Who belongs to a partition, and what the record of it does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Configuration {
    step: Step,
    first: Vec<PeerId>,
    second: Vec<PeerId>,
    /// Of the voters whose incarnation is named, each once, ascending.
    named: Vec<(PeerId, Incarnation)>,
    notes: Vec<Note>,
}

fn check(mut voters: Vec<PeerId>) -> Result<Vec<PeerId>, ConfigurationError> {
    if voters.is_empty() || voters.len() > VOTERS_MAX {
        return Err(ConfigurationError::Count(voters.len()));
    }
    voters.sort_unstable();
    match voters.windows(2).find(|w| w[0].node == w[1].node) {
        Some(pair) => Err(ConfigurationError::Twice(pair[0].node)),
        None => Ok(voters),
    }
}

impl Configuration {
    fn new(
        step: Step,
        first: Vec<PeerId>,
        second: Vec<PeerId>,
        mut named: Vec<(PeerId, Incarnation)>,
        mut notes: Vec<Note>,
    ) -> Result<Self, ConfigurationError> {
        let first = check(first)?;
        let second = if step == Step::Enters {
            check(second)?
        } else {
            second
        };
        if (step == Step::Enters) == second.is_empty() {
            return Err(ConfigurationError::Bytes);
        }
        notes.sort_unstable();
        if notes.len() > NOTES_MAX {
            return Err(ConfigurationError::Notes(notes.len()));
        }
        let observers = notes.iter().filter(|n| n.standing == Standing::Observer);
        let observers = observers.count();
        if observers > OBSERVERS_MAX {
            return Err(ConfigurationError::Observers(observers));
        }
        if let Some(note) = notes.iter().find(|n| n.address.len() > ADDRESS_BYTES_MAX) {
            return Err(ConfigurationError::Address(note.address.len()));
        }
        let voters = || first.iter().chain(&second);
        for (place, note) in notes.iter().enumerate() {
            let node = note.peer.node;
            let twice = notes[..place].iter().any(|n| n.peer.node == node);
            let votes = voters().any(|voter| *voter == note.peer);
            if twice || votes != (note.standing == Standing::Voter) {
                return Err(ConfigurationError::Twice(node));
            }
        }
        // A replica moves between shards of a node only by being another one meanwhile.
        let moved = |peer: &PeerId| voters().any(|v| v.node == peer.node && v != peer);
        let noted = notes.iter().map(|note| &note.peer);
        if let Some(peer) = voters().chain(noted).find(|peer| moved(peer)) {
            return Err(ConfigurationError::Twice(peer.node));
        }
        named.retain(|(peer, named)| named.get() != 0 && voters().any(|voter| voter == peer));
        named.sort_unstable();
        named.dedup();
        named.shrink_to_fit();
        if let Some(pair) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(ConfigurationError::Twice(pair[0].0.node));
        }
        Ok(Self {
            step,
            first,
            second,
            named,
            notes,
        })
    }

    /// One half.
    ///
    /// # Errors
    /// No voter, more than [`VOTERS_MAX`], or a node twice.
    pub fn simple(voters: Vec<PeerId>) -> Result<Self, ConfigurationError> {
        Self::new(Step::States, voters, Vec::new(), Vec::new(), Vec::new())
    }

    /// Two halves: what is decided needs a majority of each.
    ///
    /// # Errors
    /// As [`Self::simple`], for either half.
    pub fn joint(first: Vec<PeerId>, second: Vec<PeerId>) -> Result<Self, ConfigurationError> {
        Self::new(Step::Enters, first, second, Vec::new(), Vec::new())
    }

    /// The notes that say something: that of a voter whose address is empty says nothing.
    fn telling_notes(&self) -> Vec<Note> {
        let tells = |n: &&Note| n.standing != Standing::Voter || !n.address.is_empty();
        self.notes.iter().filter(tells).cloned().collect()
    }

    /// The same with one more member that does not vote.
    ///
    /// # Errors
    /// It is a member already, or one too many, or its address is too long.
    pub fn with_member(
        &self,
        peer: PeerId,
        standing: Standing,
        address: &str,
    ) -> Result<Self, ConfigurationError> {
        let mut notes = self.telling_notes();
        notes.push(Note {
            peer,
            standing,
            address: address.to_owned(),
        });
        Self::new(
            Step::States,
            self.first.clone(),
            Vec::new(),
            self.named.clone(),
            notes,
        )
    }

    /// The same with a member that listens elsewhere; empty for where the placement says.
    ///
    /// # Errors
    /// It is no member, or one note too many, or its address is too long.
    pub fn with_address(&self, peer: PeerId, address: &str) -> Result<Self, ConfigurationError> {
        let standing = self
            .standing(peer)
            .ok_or(ConfigurationError::Stranger(peer.node))?;
        let mut notes = self.telling_notes();
        notes.retain(|note| note.peer != peer);
        if standing != Standing::Voter || !address.is_empty() {
            notes.push(Note {
                peer,
                standing,
                address: address.to_owned(),
            });
        }
        let (first, named) = (self.first.clone(), self.named.clone());
        Self::new(Step::States, first, Vec::new(), named, notes)
    }

    /// The same without a member that does not vote.
    ///
    /// # Errors
    /// None in truth: what is left was valid before.
    pub fn without_member(&self, peer: PeerId) -> Result<Self, ConfigurationError> {
        let mut notes = self.telling_notes();
        notes.retain(|n| n.peer != peer || n.standing == Standing::Voter);
        Self::new(
            Step::States,
            self.first.clone(),
            Vec::new(),
            self.named.clone(),
            notes,
        )
    }

    /// The same voters, under these incarnations.
    ///
    /// # Errors
    /// Two for one voter.
    pub fn naming(&self, more: &[(PeerId, Incarnation)]) -> Result<Self, ConfigurationError> {
        let mut named = self.named.clone();
        named.extend_from_slice(more);
        Self::new(
            self.step,
            self.first.clone(),
            self.second.clone(),
            named,
            self.notes.clone(),
        )
    }

    /// The incarnation under which a voter is named; 0 for none.
    #[must_use]
    pub fn incarnation_of(&self, voter: PeerId) -> Incarnation {
        let found = self.named.binary_search_by_key(&voter, |(peer, _)| *peer);
        found.map_or(Incarnation::ZERO, |at| self.named[at].1)
    }

    /// Whether some voter's incarnation is not named.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        let mut voters = self.halves().flatten();
        voters.any(|voter| self.incarnation_of(*voter) == Incarnation::ZERO)
    }

    /// The joint configuration on the way from these voters to others.
    ///
    /// # Errors
    /// No voter would be left, or too many, or a node twice.
    pub fn entering(&self, add: &[PeerId], remove: &[PeerId]) -> Result<Self, ConfigurationError> {
        let kept = self.first.iter().filter(|p| !remove.contains(p));
        let second = kept.chain(add).copied().collect();
        let mut notes = self.telling_notes();
        for note in &mut notes {
            if add.contains(&note.peer) {
                note.standing = Standing::Voter;
            }
        }
        Self::new(
            Step::Enters,
            self.first.clone(),
            second,
            self.named.clone(),
            notes,
        )
    }

    /// The configuration behind a joint one: its second half, or the first if it goes back; then those who were to
    /// vote are learners again, as their notes still say who they are. Going forward an empty one has nothing more to say.
    ///
    /// # Errors
    /// None for a joint configuration.
    pub fn leaving(&self, back: bool) -> Result<Self, ConfigurationError> {
        let (step, voters) = if back {
            (Step::LeavesBack, &self.first)
        } else {
            (Step::LeavesForward, &self.second)
        };
        let mut notes = self.notes.clone();
        for note in &mut notes {
            if note.standing == Standing::Voter && !voters.contains(&note.peer) {
                note.standing = Standing::Learner;
            }
        }
        // Who votes no more, going forward, is no member any more.
        notes.retain(|n| back || n.standing != Standing::Learner || !self.first.contains(&n.peer));
        notes.retain(|n| n.standing != Standing::Voter || !n.address.is_empty());
        Self::new(step, voters.clone(), Vec::new(), self.named.clone(), notes)
    }

    /// The same members, stated once more behind the exit that led to them.
    #[must_use]
    pub fn restated(&self) -> Self {
        Self {
            step: Step::States,
            ..self.clone()
        }
    }

    /// The voters as a founding would name them: without who does not vote, and of a joint configuration those before.
    pub(super) fn founded(&self) -> Self {
        let mut named = self.named.clone();
        named.retain(|(peer, _)| self.first.contains(peer));
        Self {
            step: Step::States,
            first: self.first.clone(),
            second: Vec::new(),
            named,
            notes: Vec::new(),
        }
    }

    /// What the record does.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Whether it has two halves.
    #[must_use]
    pub const fn is_joint(&self) -> bool {
        !self.second.is_empty()
    }

    /// The halves: one, or two while it is joint. Each is ascending and not empty.
    pub fn halves(&self) -> impl Iterator<Item = &[PeerId]> {
        [self.first.as_slice(), self.second.as_slice()]
            .into_iter()
            .filter(|half| !half.is_empty())
    }

    /// The first half: those who vote, or, while it is joint, who voted before.
    #[must_use]
    pub fn first(&self) -> &[PeerId] {
        &self.first
    }

    /// The second half: those who will vote; empty where it is not joint.
    #[must_use]
    pub fn second(&self) -> &[PeerId] {
        &self.second
    }

    /// Members that do not vote, or whose addresses are kept here.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Whether this replica votes in some half.
    #[must_use]
    pub fn contains(&self, peer: PeerId) -> bool {
        self.halves().any(|half| half.contains(&peer))
    }

    /// What this replica is here; `None` if it is no member.
    #[must_use]
    pub fn standing(&self, peer: PeerId) -> Option<Standing> {
        if self.contains(peer) {
            return Some(Standing::Voter);
        }
        let note = self.notes.iter().find(|note| note.peer == peer)?;
        Some(note.standing)
    }

    /// Where this replica listens, if that is noted; empty if the placement says.
    #[must_use]
    pub fn address_of(&self, peer: PeerId) -> Option<&str> {
        let note = self.notes.iter().find(|note| note.peer == peer)?;
        Some(&note.address)
    }

    /// Every voter but `me`, each once.
    pub fn others(&self, me: PeerId) -> impl Iterator<Item = PeerId> {
        let second = self.second.iter().filter(|p| !self.first.contains(p));
        self.first
            .iter()
            .chain(second)
            .copied()
            .filter(move |p| *p != me)
    }

    /// Everybody but `me` who gets the log, each once.
    pub fn members(&self, me: PeerId) -> impl Iterator<Item = PeerId> {
        let silent = self.notes.iter().filter(|n| n.standing != Standing::Voter);
        let silent = silent.map(|n| n.peer).filter(move |p| *p != me);
        self.others(me).chain(silent)
    }

    /// Whether `me` alone is every majority.
    #[must_use]
    pub fn is_sole_voter(&self, me: PeerId) -> bool {
        self.halves().all(|half| half == [me])
    }

    /// The record body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let voters = self.first.len() + self.second.len();
        let mut out = Vec::with_capacity(HEAD_BYTES + voters * VOTER_BYTES);
        let (first, second) = (self.first.len() as u8, self.second.len() as u8);
        out.extend_from_slice(&[VERSION, first, second, self.step as u8]);
        let put = |out: &mut Vec<u8>, peer: &PeerId| {
            out.extend_from_slice(&peer.node.get().to_le_bytes());
            out.extend_from_slice(&peer.shard.get().to_le_bytes());
        };
        for voter in self.first.iter().chain(&self.second) {
            put(&mut out, voter);
            let named = self.incarnation_of(*voter);
            out.extend_from_slice(&named.get().to_le_bytes());
        }
        for note in &self.notes {
            out.push(note.standing as u8);
            put(&mut out, &note.peer);
            out.push(note.address.len() as u8);
            out.extend_from_slice(note.address.as_bytes());
        }
        out
    }

    /// Reads a record body.
    ///
    /// # Errors
    /// [`ConfigurationError`].
    pub fn decode(body: &[u8]) -> Result<Self, ConfigurationError> {
        let [VERSION, first, second, step, rest @ ..] = body else {
            return Err(ConfigurationError::Bytes);
        };
        let step = Step::from_u8(*step).ok_or(ConfigurationError::Bytes)?;
        let (first, second) = (usize::from(*first), usize::from(*second));
        let voters = rest
            .get(..(first + second) * VOTER_BYTES)
            .ok_or(ConfigurationError::Bytes)?;
        let mut rest = &rest[voters.len()..];
        let voters = voters.chunks_exact(VOTER_BYTES).map(voter_of);
        let named: Vec<(PeerId, Incarnation)> = voters.collect();
        // One in both halves is named the same way in both, or it would be somebody else.
        let differs = |a: &&(PeerId, Incarnation)| named.iter().any(|b| a.0 == b.0 && a.1 != b.1);
        if named.iter().any(|a| differs(&a)) {
            return Err(ConfigurationError::Bytes);
        }
        let (first, second) = named.split_at(first);
        let peers = |half: &[(PeerId, Incarnation)]| half.iter().map(|(peer, _)| *peer).collect();
        let (first, second): (Vec<PeerId>, Vec<PeerId>) = (peers(first), peers(second));
        let mut notes = Vec::new();
        while !rest.is_empty() {
            if rest.len() < NOTE_HEAD_BYTES || notes.len() == NOTES_MAX {
                return Err(ConfigurationError::Bytes);
            }
            let (head, behind) = rest.split_at(NOTE_HEAD_BYTES);
            let address = behind
                .get(..usize::from(head[NOTE_HEAD_BYTES - 1]))
                .ok_or(ConfigurationError::Bytes)?;
            rest = &behind[address.len()..];
            notes.push(Note {
                peer: peer_of(&head[1..NOTE_HEAD_BYTES - 1]),
                standing: Standing::from_u8(head[0]).ok_or(ConfigurationError::Bytes)?,
                address: core::str::from_utf8(address)
                    .map_err(|_| ConfigurationError::Bytes)?
                    .to_owned(),
            });
        }
        Self::new(step, first, second, named, notes)
    }
}

/// Node (8), shard (2) and incarnation (8).
fn voter_of(bytes: &[u8]) -> (PeerId, Incarnation) {
    let (peer, incarnation) = bytes.split_at(10);
    let incarnation = u64::from_le_bytes(incarnation.try_into().unwrap_or_default());
    (peer_of(peer), Incarnation(incarnation))
}

/// Node (8) and shard (2).
fn peer_of(bytes: &[u8]) -> PeerId {
    let (node, shard) = bytes.split_at(8);
    PeerId {
        node: NodeId(u64::from_le_bytes(node.try_into().unwrap_or_default())),
        shard: ShardId(u16::from_le_bytes(shard.try_into().unwrap_or_default())),
    }
}
